"""Pull, push, regulariser and unlabelled push against loops over the paper's formulas."""

import math

import pytest
import torch
from naive_spoco import (
    assert_same,
    example,
    gradients,
    naive_means,
    naive_norm_loss,
    naive_pull_loss,
    naive_push_loss,
    naive_unlabeled_push_loss,
)

from semiweak.losses import distances
from semiweak.losses.discriminative import norm_loss, pull_loss, push_loss, unlabeled_push_loss
from semiweak.losses.objects import find_objects, object_means
from semiweak.losses.reduction import mean_over_known

SHAPES = [(5, 6), (2, 4, 3)]
LAYOUTS = ["contiguous", "channels_last"]
MARGINS = [(0.5, 2.0), (0.2, 1.0)]


def case(shape=(5, 6), layout="contiguous", batch=2, dtype=torch.float64):
    """Embeddings, objects, labels, and means that are an input of their own."""
    f, _, instances = example(shape, batch, dtype, layout)
    objects = find_objects(instances)
    means = object_means(f.flatten(2), objects).detach()
    means = (means + 0.05).requires_grad_()  # off the true means, where gradients would cancel
    return f, objects, instances.flatten(1), means


def listed(means, objects):
    """The means of the objects that exist, as the loops want them."""
    return [m[e].unbind() for m, e in zip(means, objects.exists, strict=True)]


def all_losses(f, objects, means):
    return {
        "pull": pull_loss(f.flatten(2), objects, means),
        "push": push_loss(means, objects),
        "norm": norm_loss(means, objects),
        "unlabeled_push": unlabeled_push_loss(f.flatten(2), objects, means),
    }


@pytest.mark.parametrize(("delta_v", "delta_d"), MARGINS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_against_means_are_the_formulas(shape, layout, delta_v, delta_d):
    f, objects, labels, means = case(shape, layout)
    e = f.flatten(2)
    values, known = pull_loss(e, objects, means, delta_v=delta_v)
    expected = naive_pull_loss(e, labels, listed(means, objects), delta_v)
    assert values.dtype == torch.float64
    assert known.tolist() == [True, True]
    assert (values > 0).all()
    assert_same(values, expected, (f, means))
    values, known = unlabeled_push_loss(e, objects, means, delta_d=delta_d)
    expected = naive_unlabeled_push_loss(e, labels, listed(means, objects), delta_d)
    assert known.tolist() == [True, True]
    assert (values > 0).all()
    assert_same(values, expected, (f, means))


@pytest.mark.parametrize("delta_d", [0.5, 2.0])
def test_means_against_means_are_the_formulas(delta_d):
    _, objects, _, means = case()
    values, known = push_loss(means, objects, delta_d=delta_d)
    assert known.tolist() == [True, True]
    assert_same(values, naive_push_loss(listed(means, objects), delta_d), (means,))
    values, known = norm_loss(means, objects)
    assert known.tolist() == [True, True]
    assert_same(values, naive_norm_loss(listed(means, objects)), (means,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_through_the_means_to_the_embeddings(layout):
    f, objects, labels, _ = case(layout=layout)
    mine = all_losses(f, objects, object_means(f.flatten(2), objects))
    e = f.flatten(2)
    means = naive_means(e, labels)
    theirs = {
        "pull": naive_pull_loss(e, labels, means),
        "push": naive_push_loss(means),
        "norm": naive_norm_loss(means),
        "unlabeled_push": naive_unlabeled_push_loss(e, labels, means),
    }
    for name, (values, _) in mine.items():
        assert_same(values, theirs[name], (f,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32_is_as_good_as_float32_can_be(layout):
    exact, objects, labels, exact_means = case(layout=layout)
    f, means = (t.detach().float().requires_grad_() for t in (exact, exact_means))
    values, _ = pull_loss(f.flatten(2), objects, means)
    expected = naive_pull_loss(exact.flatten(2), labels, listed(exact_means, objects))
    assert values.dtype == torch.float32
    both = ((f, means), (exact, exact_means))
    assert_same(values, expected, *both, rtol=1e-5, atol=1e-6)
    values, _ = unlabeled_push_loss(f.flatten(2), objects, means)
    expected = naive_unlabeled_push_loss(exact.flatten(2), labels, listed(exact_means, objects))
    assert_same(values, expected, *both, rtol=1e-5, atol=1e-6)


def test_half_precision_is_computed_in_full():
    f, objects, _, _ = case(dtype=torch.bfloat16)
    exact = f.detach().double()
    found = all_losses(f, objects, object_means(f.flatten(2), objects))
    expected = all_losses(exact, objects, object_means(exact.flatten(2), objects))
    for name, (values, _) in found.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), expected[name][0], rtol=1e-5, atol=1e-6)
        (gradient,) = gradients(values, f)
        assert gradient.dtype == torch.bfloat16
        assert gradient.isfinite().all()
        assert gradient.any()


def test_autocast_changes_nothing():
    f, objects, _, _ = case(dtype=torch.float32)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = all_losses(f, objects, object_means(f.flatten(2), objects))
            values = [v for v, _ in terms.values()]
            found.append([(v, *gradients(v, f)) for v in values])
    for name, plain, cast in zip(terms, *found, strict=True):
        assert cast[0].dtype == torch.float32, name
        assert torch.equal(plain[0], cast[0]), name
        assert torch.equal(plain[1], cast[1]), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_parts_and_at_once_are_the_same(layout, monkeypatch):
    found = []
    for room in (2**20, 1):  # parts have at least 256 pixels
        monkeypatch.setitem(distances._CHUNK, "cpu", room)
        f, objects, _, means = case((25, 31), layout)
        values = [v for v, _ in all_losses(f, objects, means).values()]
        found.append([values, *(gradients(v, f, means) for v in values)])
    torch.testing.assert_close(found[0][0], found[1][0])
    for whole, parts in zip(found[0][1:], found[1][1:], strict=True):
        for a, b in zip(whole, parts, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("loss", [pull_loss, unlabeled_push_loss])
def test_derivatives_of_pixels_by_finite_differences(loss):
    f, objects, _, means = case((2, 4))
    assert torch.autograd.gradcheck(lambda e, m: loss(e, objects, m)[0], (f.flatten(2), means))


@pytest.mark.parametrize("loss", [push_loss, norm_loss])
def test_derivatives_of_means_by_finite_differences(loss):
    _, objects, _, means = case((2, 4))
    assert torch.autograd.gradcheck(lambda m: loss(m, objects)[0], (means,))


def test_values_worked_out_by_hand():
    # Two objects of two pixels on a line, means 0 and 3, and one unlabelled pixel at 1.
    f = torch.tensor([[[-1.0, 1.0, 2.8, 3.2, 1.0]]], dtype=torch.float64)
    objects = find_objects(torch.tensor([[4, 4, 9, 9, 0]]))
    means = object_means(f, objects)
    assert means.flatten().tolist() == pytest.approx([0, 3])
    # The first object's pixels are 1/2 beyond the margin; the mean over 2 objects: 1/8.
    assert pull_loss(f, objects, means)[0].item() == pytest.approx(0.125)
    # (4 - 3)^2 for both orders of the one pair, over C^2 = 4.
    assert push_loss(means, objects)[0].item() == pytest.approx(0.5)
    assert norm_loss(means, objects)[0].item() == pytest.approx(1.5)
    # ((2 - 1)^2 + [2 - 2]^2) / 2.
    assert unlabeled_push_loss(f, objects, means)[0].item() == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_embeddings_that_all_coincide(dtype, value):
    f = torch.full((1, 3, 2, 4), value, dtype=dtype, requires_grad=True)
    objects = find_objects(torch.tensor([[[1, 1, 2, 2], [3, 3, 0, 0]]]))
    terms = all_losses(f, objects, object_means(f.flatten(2), objects))
    expected = {"pull": 0.0, "push": 16 * 6 / 9, "norm": math.sqrt(3) * value, "unlabeled_push": 4}
    for name, (values, _) in terms.items():
        # In float32 a distance of 0 between coinciding points is known to some 1e-4.
        assert values.item() == pytest.approx(expected[name], abs=5e-3), name
        (gradient,) = gradients(values, f)
        assert gradient.isfinite().all(), name
        if name in ("pull", "push") or (name, value) == ("norm", 0.0):
            assert not gradient.any(), name


def test_a_pixel_that_is_the_mean_has_no_direction():
    means = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    f = torch.tensor([[[1.0, 1.0], [2.0, 2.5]]], dtype=torch.float64, requires_grad=True)
    values, _ = pull_loss(f, find_objects(torch.tensor([[1, 1]])), means, delta_v=0.0)
    assert values.item() == pytest.approx(0.5**2 / 2)
    to_f, to_means = gradients(values, f, means)
    assert to_f.flatten().tolist() == pytest.approx([0, 0, 0, 0.5])
    assert to_means.flatten().tolist() == pytest.approx([0, -0.5])
    # Both pixels unlabelled; an object elsewhere has the mean.
    e = torch.cat((f, torch.ones_like(f[:, :, :1])), 2)
    values, _ = unlabeled_push_loss(e, find_objects(torch.tensor([[0, 0, 1]])), means)
    assert values.item() == pytest.approx((2**2 + 1.5**2) / 2)
    to_f, to_means = gradients(values, f, means)
    assert to_f.flatten().tolist() == pytest.approx([0, 0, 0, -1.5])
    assert to_means.flatten().tolist() == pytest.approx([0, 1.5])


def test_one_object_is_pushed_from_nothing():
    f, _, _ = example()
    objects = find_objects((torch.arange(60).view(2, 5, 6) % 2) * 5)
    means = object_means(f.flatten(2), objects)
    values, known = push_loss(means, objects)
    assert values.tolist() == [0, 0]
    assert known.tolist() == [True, True]
    assert not gradients(values, f)[0].any()


def test_the_regulariser_has_no_unlabelled_cluster():
    f, objects, labels, _ = case()
    before = norm_loss(object_means(f.flatten(2), objects), objects)[0]
    moved = torch.where((labels == 0)[:, None], 50.0, f.flatten(2))
    assert torch.equal(norm_loss(object_means(moved, objects), objects)[0], before)
    (gradient,) = gradients(before, f)
    assert not gradient.flatten(2).mT[labels == 0].any()
    assert gradient.flatten(2).mT[labels > 0].all()


def test_no_unlabelled_pixel():
    f, _, instances = example()
    objects = find_objects(instances.clamp_min(1))
    means = object_means(f.flatten(2), objects)
    values, known = unlabeled_push_loss(f.flatten(2), objects, means)
    assert values.tolist() == [0, 0]
    assert known.tolist() == [False, False]
    assert torch.equal(gradients(values, f)[0], torch.zeros_like(f))


@pytest.mark.parametrize("objects_in_the_other", [False, True])
def test_no_object(objects_in_the_other):
    f, _, instances = example()
    instances[0] = 0
    if not objects_in_the_other:
        instances[1] = 0
    objects = find_objects(instances)
    for name, (values, known) in all_losses(
        f, objects, object_means(f.flatten(2), objects)
    ).items():
        assert known.tolist() == [False, objects_in_the_other], name
        assert values[0].item() == 0, name
        (gradient,) = gradients(values, f)
        assert not gradient[0].any(), name
        assert gradient[1].any() == objects_in_the_other, name
        mean = mean_over_known(values, known)
        assert mean.requires_grad
        assert (mean.item() == 0) == (not objects_in_the_other)


def test_the_batch_is_the_mean_of_its_images():
    f, _, instances = example(batch=3)
    instances[2] = 0
    batch = all_losses(f, (o := find_objects(instances)), object_means(f.flatten(2), o))
    for i in range(3):
        one, o = f[i : i + 1], find_objects(instances[i : i + 1])
        single = all_losses(one, o, object_means(one.flatten(2), o))
        for name, (values, known) in single.items():
            torch.testing.assert_close(batch[name][0][i : i + 1], values)
            assert batch[name][1][i] == known[0], name
