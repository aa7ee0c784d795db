"""The positives of masks, points, boxes and tags against loops in float64."""

import math

import pytest
import torch
from naive_dsp import (
    assert_same,
    example,
    gradients,
    naive_box_positives,
    naive_mask_positives,
    naive_point_positives,
    naive_prototype_loss,
    naive_tag_positives,
    sums_and_counts,
)

from semiweak.losses.positives import (
    box_positives,
    mask_positives,
    point_positives,
    tag_positives,
)
from semiweak.losses.prototypes import negatives, prototype_loss

FLAT, SOLID = (5, 4), (3, 4, 2)
SIZES = [FLAT, SOLID]
BOXES = {
    # Image, starts, ends: one of a single pixel, one of a single row, one that is the whole image.
    FLAT: [[0, 1, 0, 4, 3], [1, 0, 0, 5, 4], [1, 2, 1, 3, 2], [0, 0, 0, 1, 4], [0, 1, 0, 4, 3]],
    SOLID: [[0, 1, 0, 0, 3, 3, 2], [1, 0, 0, 0, 3, 4, 2], [1, 1, 1, 1, 2, 2, 2]],
}
TAGS = torch.tensor([[1, 0, 1], [-1, 1, 1]], dtype=torch.int8)


def channels_last(x):
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=last)


def boxes_of(size):
    boxes = torch.tensor(BOXES[size])
    return boxes, torch.arange(len(boxes)) % 3


def compare(found, naive, scores, **tolerance):
    sums, counts = sums_and_counts(naive)
    assert_same(found.sums, sums, (scores,), **tolerance)
    assert found.counts.tolist() == counts.tolist()
    assert not found.counts.requires_grad
    assert found.sums.shape == found.counts.shape == (scores.shape[1],)


def by_name(name, scores, candidates, valid, **reading):
    """The positives of one type of annotation, those of the loop, for the example."""
    size = tuple(scores.shape[2:])
    generator = torch.Generator().manual_seed(3)
    if name == "mask":
        labels = torch.randint(3, (2, *size), generator=generator)
        labels[torch.rand(labels.shape, generator=generator) < 0.4] = 255
        return mask_positives(scores, labels), naive_mask_positives(scores, labels)
    if name == "points":
        pixels = torch.stack([torch.randint(n, (6,), generator=generator) for n in (2, *size)], 1)
        pixels[1] = pixels[0]  # two clicks on one pixel
        classes = torch.tensor([0, 0, 1, 0, 1, 0])
        found = point_positives(scores, pixels, classes)
        return found, naive_point_positives(scores, pixels, classes)
    if name == "boxes":
        given = (*boxes_of(size), candidates)
        found = box_positives(scores, *given, **reading)
        return found, naive_box_positives(scores, *given, **reading)
    given = (TAGS, candidates, valid)
    return (
        tag_positives(scores, *given, **reading),
        naive_tag_positives(scores, *given, **reading),
    )


READINGS = [
    ("mask", {}),
    ("points", {}),
    ("boxes", {}),
    ("boxes", {"reading": "maxima"}),
    ("boxes", {"reading": "pooled"}),
    ("tags", {}),
    ("tags", {"reading": "pooled"}),
    ("tags", {"reading": "all"}),
]
all_types = pytest.mark.parametrize(("name", "reading"), READINGS)


@all_types
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_positives_are_those_of_the_loop(layout, size, name, reading):
    leaf, candidates, valid = example(size)
    scores = channels_last(leaf) if layout == "channels_last" else leaf
    found, naive = by_name(name, scores, candidates, valid, **reading)
    compare(found, naive, leaf)
    ours = prototype_loss(negatives(scores, candidates, valid), found)
    assert_same(ours, naive_prototype_loss(scores, candidates, valid, naive), (leaf,))


@all_types
def test_the_gradient_of_the_sums_is_the_numerical_one(name, reading):
    scores, candidates, valid = example(FLAT)
    assert torch.autograd.gradcheck(
        lambda x: by_name(name, x, candidates, valid, **reading)[0].sums, (scores,)
    )


@all_types
def test_scores_of_a_tiny_temperature_overflow_nothing(name, reading):
    scores, candidates, valid = example(FLAT)
    scores = (200 * scores.detach().sign() + scores.detach()).float().requires_grad_()
    exact = scores.detach().double().requires_grad_()
    found, _ = by_name(name, scores, candidates, valid, **reading)
    _, naive = by_name(name, exact, candidates, valid, **reading)
    torch.testing.assert_close(found.sums.double(), sums_and_counts(naive)[0], rtol=1e-5, atol=1e-3)
    (grad,) = gradients(found.sums.sum(), scores)
    (wanted,) = gradients(sums_and_counts(naive)[0].sum(), exact)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-5)


@all_types
def test_nothing_said_is_nothing_positive(name, reading):
    scores, candidates, valid = example(FLAT)
    nothing = torch.zeros(0, dtype=torch.long)
    found = {
        "mask": lambda: mask_positives(scores, torch.full((2, *FLAT), 255)),
        "points": lambda: point_positives(scores, torch.zeros(0, 3, dtype=torch.long), nothing),
        "boxes": lambda: box_positives(
            scores, torch.zeros(0, 5, dtype=torch.long), nothing, candidates, **reading
        ),
        "tags": lambda: tag_positives(scores, TAGS.clamp_max(0), candidates, valid, **reading),
    }[name]()
    assert found.sums.tolist() == found.counts.tolist() == [0, 0, 0]
    assert found.sums.requires_grad  # distributed training wants every parameter used
    assert not gradients(found.sums.sum(), scores)[0].any()


# Masks


def test_every_painted_pixel_counts_once_however_large_its_region():
    scores = torch.arange(12.0).view(1, 2, 2, 3)
    labels = torch.tensor([[[0, 0, 255], [1, 255, 255]]])
    found = mask_positives(scores, labels)
    assert found.sums.tolist() == [0 + 1, 9]
    assert found.counts.tolist() == [2, 1]


@pytest.mark.parametrize("what", [math.nan, math.inf])
def test_what_stands_at_an_unpainted_pixel_counts_nowhere(what):
    scores, _, valid = example()
    labels = torch.zeros(valid.shape, dtype=torch.long).masked_fill(~valid, 255)
    expected = mask_positives(scores, labels)
    (wanted,) = gradients(expected.sums.sum(), scores)
    other = scores.detach().masked_fill(~valid[:, None], what).requires_grad_()
    found = mask_positives(other, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(gradients(found.sums.sum(), other)[0], wanted)


# Points


def test_a_point_is_a_row_and_a_column():
    # The authors' code has them the other way round for points, but not for boxes.
    scores = torch.arange(24.0).view(1, 2, 3, 4)
    found = point_positives(scores, torch.tensor([[0, 2, 1], [0, 0, 3]]), torch.tensor([1, 0]))
    assert found.sums.tolist() == [scores[0, 0, 0, 3], scores[0, 1, 2, 1]]


# Boxes


def test_a_box_is_rows_and_columns_of_an_image_that_is_no_square():
    scores = torch.arange(24.0).view(1, 1, 3, 8)
    boxes, classes = torch.tensor([[0, 1, 2, 3, 6]]), torch.tensor([0])
    found = box_positives(scores, boxes, classes, torch.ones_like(scores, dtype=torch.bool))
    rows, columns = [8 + 5, 16 + 5], [16 + 2, 16 + 3, 16 + 4, 16 + 5]
    assert found.counts.tolist() == [6]  # its height and its width
    assert found.sums.tolist() == [sum(rows + columns)]


def test_a_row_without_a_candidate_is_left_out_and_others_look_at_candidates_only():
    scores = torch.arange(9.0).view(1, 1, 3, 3)
    boxes, classes = torch.tensor([[0, 0, 0, 3, 3]]), torch.tensor([0])
    may = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])
    found = box_positives(scores, boxes, classes, may[None, None])
    assert found.counts.tolist() == [2 + 2]
    assert found.sums.tolist() == [0 + 7 + 6 + 7]
    nowhere = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    for reading in ("maxima", "pooled"):
        leaf = scores.clone().requires_grad_()
        found = box_positives(leaf, boxes, classes, nowhere, reading)
        assert found.sums.tolist() == found.counts.tolist() == [0]
        assert not gradients(found.sums.sum(), leaf)[0].any()


@pytest.mark.parametrize("reading", ["maxima", "pooled"])
def test_a_box_without_candidates_does_not_move_the_others(reading):
    scores, candidates, _ = example(FLAT)
    boxes, classes = boxes_of(FLAT)[0], torch.tensor([0, 1, 2, 1, 0])
    candidates[:] = True
    candidates[0, 0, 1:4, :3] = False  # of the first box and its twin, the last one
    found = box_positives(scores, boxes, classes, candidates, reading)
    rest = box_positives(scores, boxes[1:4], classes[1:4], candidates, reading)
    torch.testing.assert_close(found, rest)
    assert (found.counts > 0).tolist() == [False, True, True]


@pytest.mark.parametrize("reading", ["maxima", "pooled"])
def test_boxes_of_no_size_are_skipped(reading):
    scores, candidates, _ = example(FLAT)
    candidates[:] = True
    boxes = torch.tensor([[0, 2, 1, 2, 3], [0, 1, 1, 1, 1], [1, 0, 0, 5, 0], [1, 1, 1, 3, 3]])
    classes = torch.tensor([0, 0, 1, 0])
    found = box_positives(scores, boxes, classes, candidates, reading)
    alone = box_positives(scores, boxes[3:], classes[3:], candidates, reading)
    torch.testing.assert_close(found, alone, rtol=0, atol=0)
    only = box_positives(scores, boxes[:3], classes[:3], candidates, reading)
    assert only.counts.tolist() == [0, 0, 0]


@pytest.mark.parametrize("reading", ["maxima", "pooled"])
def test_of_equal_scores_one_is_positive(reading):
    scores = torch.zeros(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    boxes, classes = torch.tensor([[0, 1, 0, 4, 2]]), torch.tensor([0])
    found = box_positives(
        scores, boxes, classes, torch.ones_like(scores, dtype=torch.bool), reading
    )
    number = 3 + 2 if reading == "maxima" else 1
    assert found.counts.tolist() == [number]
    assert found.sums.item() == pytest.approx(0, abs=1e-6)
    (grad,) = gradients(found.sums.sum(), scores)
    assert grad.sum().item() == pytest.approx(number)
    assert (grad >= 0).all()
    assert not grad[..., 0, :].any()
    assert not grad[..., 2].any()
    assert (grad[0, 0, 1:, :2].sum(1) > 0).all()  # every row has one
    assert (grad[0, 0, 1:, :2].sum(0) > 0).all()  # and every column


def test_a_pooled_box_by_hand():
    scores = torch.log(torch.tensor([[1.0, 2.0], [4.0, 8.0]])).view(1, 1, 2, 2)
    boxes, classes = torch.tensor([[0, 0, 0, 2, 2]]), torch.tensor([0])
    everything = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    found = box_positives(scores, boxes, classes, everything, "pooled")
    # Rows 2 and 8, columns 4 and 8.
    assert found.sums.exp().item() == pytest.approx((2 + 8 + 4 + 8) / 4)
    assert found.counts.tolist() == [1]


def test_a_solid_box_has_the_highest_of_the_planes_of_three_axes():
    scores = torch.randn(1, 1, 3, 4, 5)
    boxes, classes = torch.tensor([[0, 0, 1, 2, 2, 4, 5]]), torch.tensor([0])
    everything = torch.ones_like(scores, dtype=torch.bool)
    found = box_positives(scores, boxes, classes, everything)
    inside = scores[0, 0, 0:2, 1:4, 2:5]
    planes = (inside.amax((1, 2)), inside.amax((0, 2)), inside.amax((0, 1)))
    assert found.counts.tolist() == [2 + 3 + 3]
    torch.testing.assert_close(found.sums[0], sum(p.sum() for p in planes))


# Tags


def test_a_tag_by_hand():
    scores = torch.log(torch.tensor([1.0, 2.0, 4.0, 8.0])).view(1, 1, 2, 2)
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    may = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    tags = torch.ones(1, 1, dtype=torch.int8)
    found = tag_positives(scores, tags, may, valid)
    assert found.sums.exp().item() == pytest.approx(15 / 4)
    assert found.counts.tolist() == [1]
    found = tag_positives(scores, tags, may, valid, "all")
    assert found.sums.exp().item() == pytest.approx(64)
    assert found.counts.tolist() == [4]
    may[..., 0, 0] = valid[:, 1, 0] = False
    found = tag_positives(scores, tags, may, valid)
    assert found.sums.exp().item() == pytest.approx((2 + 8) / 2)


@pytest.mark.parametrize("reading", ["pooled", "all"])
def test_only_present_says_something_and_only_where_the_class_may_be(reading):
    scores, candidates, valid = example(FLAT)
    candidates[:] = True
    candidates[0, 0] = False  # present, they say, but nowhere
    for tags in (torch.tensor([[1, 0, -1], [0, -1, 0]]), torch.full((2, 3), -1)):
        found = tag_positives(scores, tags.to(torch.int8), candidates, valid, reading)
        assert found.sums.tolist() == found.counts.tolist() == [0, 0, 0]
    tags = torch.tensor([[1, 0, 1], [0, -1, 0]], dtype=torch.int8)
    found = tag_positives(scores, tags, candidates, valid, reading)
    assert (found.counts > 0).tolist() == [False, False, True]
    (grad,) = gradients(found.sums.sum(), scores)
    assert grad[0, 2].all()
    grad[0, 2] = 0
    assert not grad.any()


@pytest.mark.parametrize("reading", ["pooled", "all"])
@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
def test_padding_is_positive_by_no_tag(what, reading):
    scores, candidates, valid = example(FLAT)
    candidates = candidates | ~valid[:, None]
    expected = tag_positives(scores, TAGS, candidates, valid, reading)
    (wanted,) = gradients(expected.sums.sum(), scores)
    other = scores.detach().masked_fill(~valid[:, None], what).requires_grad_()
    found = tag_positives(other, TAGS, candidates, valid, reading)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(gradients(found.sums.sum(), other)[0], wanted)
