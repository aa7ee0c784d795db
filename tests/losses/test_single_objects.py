"""The kernel, the soft masks and the loss of single objects, against loops over the formulas."""

import math

import pytest
import torch
from naive_spoco import (
    assert_same,
    example,
    gradients,
    naive_kernel_width,
    naive_object_loss,
    naive_soft_masks,
)

from semiweak.losses import distances
from semiweak.losses.objects import find_objects, object_means
from semiweak.losses.reduction import mean_over_known
from semiweak.losses.single_objects import kernel_width, object_loss, soft_masks

KINDS = ["dice", "bce"]
LAYOUTS = ["contiguous", "channels_last"]
SHAPES = [(5, 6), (2, 4, 3)]


def case(shape=(5, 6), layout="contiguous", batch=2, dtype=torch.float64):
    """Embeddings, objects, labels, anchor pixels and anchors that are an input of their own."""
    f, _, instances = example(shape, batch, dtype, layout)
    objects = find_objects(instances)
    numbers = objects.number.tolist()
    count = objects.sizes.shape[1]
    pixels = [[n.index(k + 1) if k + 1 in n else 0 for k in range(count)] for n in numbers]
    anchors = object_means(f.flatten(2), objects).detach() + 0.05
    return f, objects, instances.flatten(1), torch.tensor(pixels), anchors.requires_grad_()


def listed(anchors, objects):
    return [a[e].unbind() for a, e in zip(anchors, objects.exists, strict=True)]


def at_pixels(f, pixels, objects):
    """The embeddings of the anchor pixels, through which gradients flow."""
    return [
        [e[:, p] for p, exists in zip(of_image, there, strict=True) if exists]
        for e, of_image, there in zip(
            f.flatten(2), pixels.tolist(), objects.exists.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize(("threshold", "width"), [(0.9, 2.373), (0.5, 0.361)])
def test_kernel_width_of_the_paper(threshold, width):
    assert kernel_width(0.5, threshold) == pytest.approx(width, abs=5e-4)
    assert kernel_width(0.5, threshold) == pytest.approx(naive_kernel_width(0.5, threshold))
    assert kernel_width(0.7, threshold) == pytest.approx(naive_kernel_width(0.7, threshold))


@pytest.mark.parametrize("threshold", [0.5, 0.9])
@pytest.mark.parametrize("delta_v", [0.5, 0.75])
def test_above_the_threshold_means_within_the_margin(delta_v, threshold):
    far = torch.tensor([0.0, 0.9, 0.999999, 1.0, 1.000001, 1.1, 30.0], dtype=torch.float64)
    embeddings = torch.stack((far * delta_v * 0.6, far * delta_v * 0.8))[None]
    anchor = torch.zeros(1, 1, 2, dtype=torch.float64)
    mask = soft_masks(embeddings, anchor, delta_v=delta_v, threshold=threshold)[0, 0]
    assert mask[0] == 1
    assert mask[3].item() == pytest.approx(threshold)
    assert (mask[:3] > threshold).all()
    assert (mask[4:] < threshold).all()
    assert (mask >= 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_soft_masks_are_the_formula(shape, layout):
    f, _, _, _, anchors = case(shape, layout)
    found = soft_masks(f.flatten(2), anchors, delta_v=0.4, threshold=0.8)
    expected = naive_soft_masks(f.flatten(2), anchors, 0.4, 0.8)
    weights = torch.randn(found.shape, dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    assert_same((found * weights).sum((1, 2)), (expected * weights).sum((1, 2)), (f, anchors))
    assert torch.autograd.gradcheck(soft_masks, (f[..., :2].flatten(2), anchors))


def test_soft_masks_of_half_precision_and_under_autocast():
    f, _, _, _, anchors = case(dtype=torch.float32)
    plain = soft_masks(f.flatten(2), anchors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(soft_masks(f.flatten(2), anchors), plain)
    half = soft_masks(f.flatten(2).bfloat16(), anchors.bfloat16())
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("threshold", [0.9, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_object_loss_is_the_formula(shape, layout, kind, threshold):
    f, objects, labels, pixels, anchors = case(shape, layout)
    e = f.flatten(2)
    options = {"delta_v": 0.6, "threshold": threshold, "kind": kind}
    values, known = object_loss(e, objects, anchors, **options)
    expected = naive_object_loss(e, labels, listed(anchors, objects), **options)
    assert values.dtype == torch.float64
    assert known.tolist() == [True, True]
    assert_same(values, expected, (f, anchors))
    values, known = object_loss(e, objects, pixels, **options)
    expected = naive_object_loss(e, labels, at_pixels(f, pixels, objects), **options)
    assert known.tolist() == [True, True]
    assert_same(values, expected, (f,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32_is_as_good_as_float32_can_be(layout, kind):
    exact, objects, labels, pixels, exact_anchors = case(layout=layout)
    f, anchors = (t.detach().float().requires_grad_() for t in (exact, exact_anchors))
    values, _ = object_loss(f.flatten(2), objects, anchors, kind=kind)
    expected = naive_object_loss(
        exact.flatten(2), labels, listed(exact_anchors, objects), kind=kind
    )
    both = ((f, anchors), (exact, exact_anchors))
    assert_same(values, expected, *both, rtol=1e-5, atol=1e-6)
    values, _ = object_loss(f.flatten(2), objects, pixels, kind=kind)
    expected = naive_object_loss(
        exact.flatten(2), labels, at_pixels(exact, pixels, objects), kind=kind
    )
    # That cross-entropy takes a logarithm near 0 at the anchor itself must not show.
    assert_same(values, expected, (f,), (exact,), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_full(kind):
    f, objects, _, pixels, _ = case(dtype=torch.bfloat16)
    values, _ = object_loss(f.flatten(2), objects, pixels, kind=kind)
    exact, _ = object_loss(f.detach().double().flatten(2), objects, pixels, kind=kind)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), exact, rtol=1e-5, atol=1e-6)
    (gradient,) = gradients(values, f)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing(kind):
    f, objects, _, pixels, _ = case(dtype=torch.float32)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values, _ = object_loss(f.flatten(2), objects, pixels, kind=kind)
            found.append((values, *gradients(values, f)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[1][0].dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_parts_and_at_once_are_the_same(layout, kind, monkeypatch):
    found = []
    for room in (2**20, 1):  # parts have at least 256 pixels
        monkeypatch.setitem(distances._CHUNK, "cpu", room)
        f, objects, _, pixels, _ = case((25, 31), layout)
        values, _ = object_loss(f.flatten(2), objects, pixels, kind=kind)
        found.append((values, *gradients(values, f)))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_by_finite_differences(kind):
    f, objects, _, pixels, anchors = case((2, 4))
    e = f.flatten(2)
    by_anchor = lambda e, a: object_loss(e, objects, a, kind=kind)[0]  # noqa: E731
    assert torch.autograd.gradcheck(by_anchor, (e, anchors))
    if kind == "dice":  # cross-entropy has a kink where the mask of an anchor is exactly 1
        assert torch.autograd.gradcheck(lambda e: object_loss(e, objects, pixels)[0], (e,))


def test_the_mean_of_the_dice_losses_not_one_dice_of_all():
    # A large object that is found, and a small one that is not: its anchor is far away.
    f = torch.zeros(1, 1, 10, dtype=torch.float64)
    objects = find_objects(torch.tensor([[1] * 9 + [2]]))
    f[..., 9] = 1000
    anchors = torch.tensor([[[0.0], [500.0]]], dtype=torch.float64)
    value = object_loss(f, objects, anchors)[0].item()
    assert value == pytest.approx((0 + 1) / 2)
    pooled = 1 - 2 * 9 / (9 + 10)
    assert abs(value - pooled) > 0.4


def test_values_worked_out_by_hand():
    # 2 sigma^2 = 1 / ln 2: at distance 1 the kernel is 1/2.
    f = torch.tensor([[[0.0, 1.0, 1.0]]], dtype=torch.float64)
    objects = find_objects(torch.tensor([[3, 3, 0]]))
    at = torch.tensor([[0]])
    options = {"delta_v": 1.0, "threshold": 0.5}
    # Mask 1, 1/2, 1/2 of object 1, 1, 0: 1 - 2 (3/2) / (3/2 + 2).
    value = object_loss(f, objects, at, **options)[0].item()
    assert value == pytest.approx(1 - 3 / 3.5)
    value = object_loss(f, objects, at, kind="bce", **options)[0].item()
    assert value == pytest.approx((math.log(1) + math.log(2) + math.log(2)) / 3)


def test_cross_entropy_is_torchs_also_where_the_mask_is_exactly_1():
    torch.manual_seed(0)
    f = torch.randn(1, 3, 12, dtype=torch.float64)
    labels = torch.tensor([[1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 1, 0]])
    f[..., 10] = f[..., 0]  # another pixel of the object,
    f[..., 11] = f[..., 0]  # and one outside of it, have the anchor's embedding
    f.requires_grad_()
    pixels = torch.tensor([[0, 3]])
    values, _ = object_loss(f, find_objects(labels), pixels, kind="bce")
    squares = (f[0, :, None] - f[0][:, pixels[0]][..., None]).square().sum(0)
    masks = torch.exp(-squares / kernel_width(0.5, 0.9))
    assert masks[0, 11] == 1
    truth = torch.stack([(labels[0] == k).double() for k in (1, 2)])
    expected = torch.nn.functional.binary_cross_entropy(masks, truth)
    assert expected > 100 / 24
    torch.testing.assert_close(values[0], expected)
    found, theirs = gradients(values, f)[0], torch.autograd.grad(expected, f)[0]
    torch.testing.assert_close(found, theirs)


def test_cross_entropy_of_a_mask_that_is_almost_1():
    # 1 - S would be 0 in float32, of which the logarithm is not known; the derivative is.
    f = torch.tensor([[[0.0, 1e-5]]], requires_grad=True)
    objects = find_objects(torch.tensor([[1, 0]]))
    values, _ = object_loss(f, objects, torch.zeros(1, 1, 1), kind="bce")
    x = 1e-10 / kernel_width(0.5, 0.9)
    assert values.item() == pytest.approx(-math.log(x) / 2, rel=1e-3)
    assert gradients(values, f)[0].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_distant_pixels_vanishes_without_nan(kind):
    f = torch.tensor([[[0.0, 1e4, -1e4, 1.0]]], requires_grad=True)
    objects = find_objects(torch.tensor([[1, 0, 0, 1]]))
    values, _ = object_loss(f, objects, torch.tensor([[0]]), kind=kind)
    assert values.isfinite().all()
    assert gradients(values, f)[0].isfinite().all()
    assert not gradients(values, f)[0][..., 1:3].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objects_in_the_other", [False, True])
def test_no_object(objects_in_the_other, kind):
    f, _, instances = example()
    instances[0] = 0
    if not objects_in_the_other:
        instances[1] = 0
    objects = find_objects(instances)
    count = objects.sizes.shape[1]
    at = torch.zeros(2, count, dtype=torch.int64)
    values, known = object_loss(f.flatten(2), objects, at, kind=kind)
    assert known.tolist() == [False, objects_in_the_other]
    assert values[0].item() == 0
    (gradient,) = gradients(values, f)
    assert not gradient[0].any()
    assert gradient.isfinite().all()
    assert gradient[1].any() == objects_in_the_other
    assert mean_over_known(values, known).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_is_the_mean_of_its_images(kind):
    f, objects, labels, pixels, _ = case(batch=4)
    values, known = object_loss(f.flatten(2), objects, pixels, kind=kind)
    assert known.all()
    for i in range(4):
        one = find_objects(labels[i : i + 1])
        at = pixels[i : i + 1, : one.sizes.shape[1]]
        single, _ = object_loss(f[i : i + 1].flatten(2), one, at, kind=kind)
        torch.testing.assert_close(values[i : i + 1], single)


def test_refuses_another_kind():
    f, objects, _, pixels, _ = case()
    with pytest.raises(ValueError, match="'focal'; it must be 'dice' or 'bce'"):
        object_loss(f.flatten(2), objects, pixels, kind="focal")
