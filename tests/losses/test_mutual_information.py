"""Joint matrices and mutual information against loops over the formulas in float64."""

import math
from itertools import product

import pytest
import torch

from semiweak.losses import displacements as module
from semiweak.losses.mutual_information import joint_matrices, mutual_information_loss

ROUTES = ["products", "fft"]
# Batch, K, K', size, T: odd, not square, one image, T beyond the image, one line, 3D, many tiles.
CASES = [
    (2, 3, 4, (5, 4), 0),
    (2, 3, 4, (5, 4), 1),
    (1, 2, 3, (4, 7), 2),
    (2, 2, 2, (3, 2), 4),
    (1, 2, 2, (1, 5), 1),
    (2, 2, 3, (2, 3, 4), 1),
    (1, 2, 2, (2, 1, 3), 2),
]


def naive_joint_matrices(first, second, valid=None, radius=0):
    """P_t(i, j), pixel by pixel."""
    size, dims = first.shape[2:], first.ndim - 2
    found = []
    for t in product(range(-radius, radius + 1), repeat=dims):
        joint = first.new_zeros(first.shape[1], second.shape[1])
        for n in range(len(first)):
            for u in product(*map(range, size)):
                moved = tuple(a + b for a, b in zip(u, t, strict=True))
                if any(not 0 <= a < s for a, s in zip(moved, size, strict=True)):
                    continue
                if valid is not None and not (valid[(n, *u)] and valid[(n, *moved)]):
                    continue
                p, q = first[(n, slice(None), *moved)], second[(n, slice(None), *u)]
                joint = joint + torch.outer(p, q)
        found.append(joint)
    return torch.stack(found)


def naive_mutual_information_loss(joints, lamb=1.0, collapsed=False):
    """The mean of L_t, class by class."""
    if collapsed:
        joints = sum(joints)[None]
    losses = []
    for joint in joints:
        if joint.sum() == 0:
            continue
        p = joint / joint.sum()
        p = (p + p.T) / 2
        loss = 0
        for i in range(len(p)):
            for j in range(len(p)):
                logs = [x.clamp_min(2.0**-52).log() for x in (p[i, j], p[i].sum(), p[:, j].sum())]
                loss = loss - p[i, j] * (logs[0] - lamb * logs[1] - lamb * logs[2])
        losses.append(loss)
    return sum(losses) / len(losses)


def maps(batch=2, classes=3, size=(5, 4), seed=0, sharpness=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    return (sharpness * logits).softmax(1).to(dtype).requires_grad_()


def pair(batch=2, classes=3, others=3, size=(5, 4)):
    return maps(batch, classes, size, 0), maps(batch, others, size, 1)


def mask(batch, size, seed=2, share=0.7):
    return torch.rand(batch, *size, generator=torch.Generator().manual_seed(seed)) < share


def one_hot(labels, classes):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).double()


def relative(ours, expected):
    ours, expected = ours.detach().double(), expected.detach()
    return ((ours - expected).norm() / expected.norm()).item()


def assert_same(ours, expected, leaves, tolerance=1e-12):
    """Value, and gradient under random weights, relative to the largest."""
    assert ours.shape == expected.shape
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5)).to(ours)
    got = torch.autograd.grad((ours * weights).sum(), leaves)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves, retain_graph=True)
    for a, b in zip((ours, *got), (expected, *wanted), strict=True):
        limit = tolerance * max(b.abs().max().item(), 1.0)
        torch.testing.assert_close(a, b, rtol=0, atol=limit)


# The joint matrices


@pytest.mark.parametrize("route", [*ROUTES, None])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "classes", "others", "size", "radius"), CASES)
def test_joints_are_those_of_the_loop(batch, classes, others, size, radius, masked, route):
    first, second = pair(batch, classes, others, size)
    valid = mask(batch, size) if masked else None
    ours = joint_matrices(first, second, valid=valid, radius=radius, route=route)
    expected = naive_joint_matrices(first, second, valid, radius)
    assert ours.dtype == torch.float64
    assert_same(ours, expected, (first, second))


@pytest.mark.parametrize("size", [(9, 6), (8, 5), (4, 3, 5)])
@pytest.mark.parametrize("radius", [1, 3])
def test_many_tiles_and_runs_are_those_of_the_loop(monkeypatch, size, radius):
    monkeypatch.setattr(module, "_TILE", {2: 4, 3: 3})
    monkeypatch.setattr(module, "_TILES", 4)
    monkeypatch.setattr(module, "_RUN", 7)
    first, second = pair(2, 2, 3, size)
    if len(size) == 3:
        first, second = (x.detach()[:1].requires_grad_() for x in (first, second))
        radius = 1
    expected = naive_joint_matrices(first, second, radius=radius)
    for route in ROUTES:
        ours = joint_matrices(first, second, radius=radius, route=route)
        assert_same(ours, expected, (first, second))


@pytest.mark.parametrize("size", [(70, 45), (13, 14, 25)])
def test_both_routes_are_the_same_on_larger_images(size):
    first, second = pair(2, 3, 2, size)
    valid = mask(2, size)
    radius = 5 if len(size) == 2 else 2
    options = {"valid": valid, "radius": radius}
    expected = joint_matrices(first, second, **options, route="products")
    ours = joint_matrices(first, second, **options, route="fft")
    assert_same(ours, expected, (first, second))


@pytest.mark.parametrize("route", ROUTES)
def test_the_gradient_is_the_numerical_one(route):
    first, second = pair(1, 2, 2, (3, 4))
    valid = mask(1, (3, 4))

    def joints(a, b):
        return joint_matrices(a, b, valid=valid, radius=1, route=route)

    assert torch.autograd.gradcheck(joints, (first, second))
    for leaf in (first, second):  # each by itself
        leaf.requires_grad_(False)
        assert torch.autograd.gradcheck(joints, (first, second))
        leaf.requires_grad_()


def test_the_first_map_is_the_one_that_is_displaced():
    first, second = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    first[0, 1, 2, 1] = 1  # y = 2, x = 1
    second[0, 0, 1, 1] = 1
    for route in ROUTES:
        joints = joint_matrices(first, second, radius=1, route=route).view(3, 3, 2, 2)
        expected = torch.zeros(3, 3, 2, 2)
        expected[2, 1, 1, 0] = 1  # t = (1, 0)
        torch.testing.assert_close(joints, expected)


@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("route", ROUTES)
def test_what_stands_at_other_pixels_changes_nothing(what, route):
    first, second = pair()
    valid = mask(2, (5, 4))
    expected = joint_matrices(first, second, valid=valid, radius=2, route=route)
    wanted = torch.autograd.grad(mutual_information_loss(expected), (first, second))
    leaves = [
        x.detach().masked_fill(~valid[:, None], what).requires_grad_() for x in (first, second)
    ]
    ours = joint_matrices(*leaves, valid=valid, radius=2, route=route)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    for got, w in zip(
        torch.autograd.grad(mutual_information_loss(ours), leaves), wanted, strict=True
    ):
        torch.testing.assert_close(got, w, rtol=0, atol=0)
        assert not got[~valid[:, None].expand_as(got)].any()


@pytest.mark.parametrize("route", ROUTES)
def test_joints_of_parts_of_a_batch_add_up(route):
    first, second = pair(3)
    together = joint_matrices(first, second, radius=1, route=route)
    parts = [
        joint_matrices(first[b], second[b], radius=1, route=route) for b in (slice(1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), together)
    nothing = joint_matrices(first[:0], second[:0], radius=1, route=route)
    assert nothing.shape == together.shape
    assert not nothing.any()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype, route):
    first, second = (x.detach().to(dtype).requires_grad_() for x in pair(2, 3, 3, (20, 30)))
    exact = [x.detach().double().requires_grad_() for x in (first, second)]
    expected = joint_matrices(*exact, radius=1)
    with torch.autocast("cpu", torch.bfloat16):
        ours = joint_matrices(first, second, radius=1, route=route)
        loss = 1e4 * mutual_information_loss(ours)  # or the gradient is too small for float16
        got = torch.autograd.grad(loss, (first, second))
    assert ours.dtype == loss.dtype == torch.float32
    assert relative(ours, expected) < 1e-6
    wanted = torch.autograd.grad(1e4 * mutual_information_loss(expected), exact)
    for g, w in zip(got, wanted, strict=True):
        assert g.dtype == dtype
        assert relative(g, w) < max(2 * torch.finfo(dtype).eps, 1e-4)


def bands(sharpness, size=(48, 64), classes=5):
    """Two noisy views of upright bands: the sharper, the fewer pairs of classes far apart."""
    generator = torch.Generator().manual_seed(3)
    labels = (torch.arange(size[1]) * classes // size[1]).expand(2, *size)
    noise = torch.randn(2, 2, classes, *size, generator=generator, dtype=torch.float64)
    logits = sharpness * (one_hot(labels, classes) + 0.1 * noise)
    return [x.softmax(1).float().requires_grad_() for x in logits]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0, 20.0, 60.0])
def test_float32_keeps_the_loss_to_1e_5_and_the_gradient_to_1e_4(sharpness, route):
    leaves = bands(sharpness)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    joints = joint_matrices(*exact, radius=4, route="products")
    # The smallest joints matter by their logarithm.
    if sharpness == 20:
        assert 0 < (joints / joints.sum((1, 2), keepdim=True)).min() < 1e-7
    loss = mutual_information_loss(joint_matrices(*leaves, radius=4, route=route))
    expected = mutual_information_loss(joints)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=0)
    got = torch.autograd.grad(loss, leaves)
    wanted = torch.autograd.grad(expected, exact)
    for g, w in zip(got, wanted, strict=True):
        assert relative(g, w) < 1e-4


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded"])
@pytest.mark.parametrize("route", ROUTES)
def test_the_layout_in_memory_changes_nothing(layout, route):
    first, second = pair(2, 3, 3, (6, 6))
    if layout == "channels_last":
        others = [x.contiguous(memory_format=torch.channels_last) for x in (first, second)]
    elif layout == "transposed":
        others = [x.mT.contiguous().mT for x in (first, second)]
    else:
        first = first[:1].expand(2, -1, -1, -1)
        others = [first, second]
    ours = joint_matrices(*others, radius=2, route=route)
    expected = joint_matrices(first.contiguous(), second.contiguous(), radius=2)
    torch.testing.assert_close(ours, expected)
    torch.autograd.grad(ours.sum(), others)  # a gradient that is expanded, too


def test_the_route_that_is_chosen_grows_with_the_displacements(monkeypatch):
    taken = []
    for name in ("_Products", "_Spectra"):
        function = getattr(module, name).apply

        def record(*args, name=name, function=function):
            taken.append(name)
            return function(*args)

        monkeypatch.setattr(getattr(module, name), "apply", record)
    for size, radius in [((20, 20), 0), ((20, 20), 3), ((20, 20), 4), ((9, 9, 9), 2), ((2, 2), 9)]:
        joint_matrices(*pair(1, 2, 2, size), radius=radius)
    # Without displacements neither: a plain product.
    assert taken == ["_Products", "_Spectra", "_Spectra", "_Products"]


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ((1, 2, 3), (1, 2, 3), {}, "2D or 3D"),
        ((1, 2, 3, 3), (1, 2, 3, 4), {}, "same"),
        ((1, 2, 3, 3), (2, 2, 3, 3), {}, "same"),
        ((1, 2, 3, 3), (1, 2, 3, 3), {"radius": -1}, "radius"),
        ((1, 2, 3, 3), (1, 2, 3, 3), {"route": "conv"}, "route"),
        ((1, 2, 3, 3), (1, 2, 3, 3), {"valid": torch.ones(1, 3, 3)}, "valid"),
        ((1, 2, 3, 3), (1, 2, 3, 3), {"valid": torch.ones(3, 3).bool()}, "valid"),
    ],
)
def test_what_does_not_fit_is_refused(first, second, options, message):
    with pytest.raises(ValueError, match=message):
        joint_matrices(torch.ones(first), torch.ones(second), **options)


# The loss


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("lamb", [1.0, 1.5, 0.0])
def test_the_loss_is_that_of_the_loop(lamb, collapsed):
    first, second = pair(2, 4, 4)
    valid = mask(2, (5, 4))
    options = {"lamb": lamb, "collapsed": collapsed}
    ours = mutual_information_loss(joint_matrices(first, second, valid=valid, radius=1), **options)
    joints = naive_joint_matrices(first, second, valid, 1)
    expected = naive_mutual_information_loss(joints, **options)
    assert_same(ours, expected, (first, second))


def test_independent_maps_share_no_information():
    p, q = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.2, 0.5, 0.3])
    joints = 100 * torch.outer(p, q).double()[None]
    assert mutual_information_loss(joints).item() == pytest.approx(0, abs=1e-7)
    labels = torch.arange(4).repeat(4, 1)[None]  # columns against lines
    joints = joint_matrices(one_hot(labels, 4), one_hot(labels.mT, 4))
    assert mutual_information_loss(joints).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equal_certain_maps_with_equal_shares_have_minus_log_k(classes):
    same = one_hot(torch.arange(2 * classes).view(1, 2, classes) % classes, classes)
    joints = joint_matrices(same, same)
    assert mutual_information_loss(joints).item() == pytest.approx(-math.log(classes), rel=1e-14)
    # H(P) - 2 lamb H(p), with both entropies log K.
    for lamb in (1.5, 0.0):
        expected = (1 - 2 * lamb) * math.log(classes)
        assert mutual_information_loss(joints, lamb=lamb).item() == pytest.approx(expected)


def test_a_collapse_to_one_class_has_0():
    one = one_hot(torch.zeros(1, 4, 4, dtype=torch.long), 3)
    joints = joint_matrices(one, one, radius=1)
    assert mutual_information_loss(joints).item() == pytest.approx(0, abs=1e-12)
    constant = torch.tensor([0.5, 0.2, 0.3]).double()[None, :, None, None].expand(1, 3, 4, 4)
    joints = joint_matrices(constant, constant, radius=1)
    assert mutual_information_loss(joints).item() == pytest.approx(0, abs=1e-12)


def test_two_classes_by_hand():
    # p = (1/2, 1/2); 3/8 log(3/2) * 2 + 1/8 log(1/2) * 2
    joints = torch.tensor([[[3.0, 2.0], [0.0, 3.0]]])
    expected = -(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert mutual_information_loss(joints).item() == pytest.approx(expected)


@pytest.mark.parametrize("collapsed", [False, True])
def test_neither_order_nor_names_of_the_classes_nor_counts_matter(collapsed):
    first, second = pair()
    options = {"lamb": 1.5, "collapsed": collapsed}
    expected = mutual_information_loss(joint_matrices(first, second, radius=2), **options)
    others = {
        "exchanged": joint_matrices(second, first, radius=2),
        "permuted": joint_matrices(first[:, [2, 0, 1]], second[:, [2, 0, 1]], radius=2),
        "twice": 2 * joint_matrices(first, second, radius=2),
    }
    for name, joints in others.items():
        ours = mutual_information_loss(joints, **options)
        assert ours.item() == pytest.approx(expected.item(), rel=1e-12), name


def test_collapsed_differs_from_the_mean_and_is_the_loss_of_the_sum():
    joints = joint_matrices(*pair(), radius=1)
    together = mutual_information_loss(joints.sum(0, keepdim=True))
    assert mutual_information_loss(joints, collapsed=True).item() == together.item()
    assert mutual_information_loss(joints).item() != pytest.approx(together.item(), rel=1e-3)
    each = [mutual_information_loss(j[None]).item() for j in joints]
    assert mutual_information_loss(joints).item() == pytest.approx(sum(each) / len(each))


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_no_pair_at_all_has_0_with_a_graph(route, collapsed):
    first, second = pair()
    valid = torch.zeros(2, 5, 4, dtype=torch.bool)
    joints = joint_matrices(first, second, valid=valid, radius=1, route=route)
    loss = mutual_information_loss(joints, collapsed=collapsed)
    assert loss.item() == 0
    for grad in torch.autograd.grad(loss, (first, second)):
        assert not grad.any()


@pytest.mark.parametrize("route", ROUTES)
def test_a_displacement_without_a_pair_neither_adds_nor_dilutes(route):
    first, second = pair(1, 3, 3, (9, 40))
    valid = torch.zeros(1, 9, 40, dtype=torch.bool)
    valid[:, 4] = True  # one line: no pair at another height
    joints = joint_matrices(first, second, valid=valid, radius=3, route=route)
    expected = naive_joint_matrices(first, second, valid, 3)
    assert (expected.sum((1, 2)) > 0).sum() == 7
    ours = mutual_information_loss(joints)
    assert_same(ours, naive_mutual_information_loss(expected), (first, second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_at_an_impossible_pair_is_finite_and_draws_it_up(dtype):
    joints = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(mutual_information_loss(joints, lamb=0.0), joints)
    assert grad.isfinite().all()
    # L = -sum P log P with P = J / 2, at 0 with the logarithm of 2^-52; of J the two entries of the
    # symmetric matrix share it, and as P sums to 1 the mean slope log 2 - 1 goes off.
    assert grad[0, 0, 1].item() == pytest.approx((52 * math.log(2) - (math.log(2) - 1)) / 2)
    one = torch.zeros(1, 3, 3, dtype=dtype)
    one[0, 0, 0] = 5
    one.requires_grad_()
    (grad,) = torch.autograd.grad(mutual_information_loss(one), one)
    assert grad.isfinite().all()
    # What a class that is nowhere shares with itself.
    assert grad[0, 1, 1] < 0


def test_tiny_negative_joints_of_rounding_do_no_harm():
    joints = torch.tensor([[[1.0, -1e-17], [-1e-17, 1.0]]], dtype=torch.float64)
    assert mutual_information_loss(joints).item() == pytest.approx(-math.log(2), rel=1e-12)


def test_descending_finds_the_classes_in_two_noisy_views():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (1, 12, 12), generator=generator)
    signal = one_hot(truth, 3).float()
    weights = torch.randn(3, 3, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([weights], 0.2)
    for _ in range(60):
        views = [
            torch.einsum("kc,bchw->bkhw", weights, signal + noise)
            for noise in 0.1 * torch.randn(2, *signal.shape, generator=generator)
        ]
        loss = mutual_information_loss(joint_matrices(*(v.softmax(1) for v in views)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < -0.95 * math.log(3)


def test_matrices_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="same classes"):
        mutual_information_loss(torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="N, K, K"):
        mutual_information_loss(torch.ones(3, 3))
