"""The projection loss of boxes against loops in float64, and by hand."""

import pytest
import torch
from naive_boxes import FLAT, SOLID, example, naive_dice, naive_projection_loss

from semiweak.losses.box_projection import projection_loss

READINGS = ["box", "class"]
every_reading = pytest.mark.parametrize("reading", READINGS)


def one_class(probability, boxes, *, exhaustive=True, classes=None):
    """Two classes, of which the second has this probability, boxes, and, outside, is ruled out."""
    p = torch.as_tensor(probability, dtype=torch.float64)
    logits = torch.stack((torch.zeros_like(p), torch.logit(p, eps=1e-12)))[None].requires_grad_()
    boxes = torch.tensor([[0, *box] for box in boxes])
    candidates = torch.ones(logits.shape, dtype=torch.bool)
    if exhaustive:
        candidates[0, 1] = False
        d = p.ndim
        for _, *box in boxes.tolist():
            candidates[(0, 1, *map(slice, box[:d], box[d:]))] = True
    valid = torch.ones(1, *p.shape, dtype=torch.bool)
    return logits, boxes, torch.ones(len(boxes), dtype=torch.long), candidates, valid


@pytest.mark.parametrize("cut_boxes", ["skip", "keep"])
@every_reading
@pytest.mark.parametrize("size", [FLAT, SOLID])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_it_is_the_loop(layout, size, reading, cut_boxes):
    logits, *said = example(size)
    given = logits
    if layout == "channels_last":
        last = torch.channels_last if len(size) == 2 else torch.channels_last_3d
        given = logits.contiguous(memory_format=last)
    values, known = projection_loss(given, *said, reading=reading, cut_boxes=cut_boxes)
    wanted, speaks = naive_projection_loss(logits, *said, reading=reading, cut_boxes=cut_boxes)
    assert known.tolist() == speaks.tolist() == [True, True, False]
    torch.testing.assert_close(values, wanted)
    weights = torch.tensor([1.0, -2.0, 3.0])
    (grad,) = torch.autograd.grad((weights * values).sum(), logits)
    (naive,) = torch.autograd.grad((weights * wanted).sum(), logits)
    torch.testing.assert_close(grad, naive)
    assert grad[0].any()
    assert grad[1].any()
    assert not grad[2].any()


@every_reading
def test_the_gradient_is_the_numerical_one(reading):
    logits, *said = example(FLAT, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: projection_loss(x, *said, reading=reading)[0], (logits,), fast_mode=True
    )


@every_reading
def test_a_box_that_is_filled_and_empty_outside_costs_nothing(reading):
    p = torch.zeros(6, 8)
    p[1:4, 2:7] = 1
    values, _ = projection_loss(*one_class(p, [[1, 2, 4, 7]]), reading=reading)
    assert values.item() == pytest.approx(0, abs=1e-5)
    # So is a cross, which has a pixel in each row and each column.
    p[1:4, 2:7] = 0
    p[2, 2:7] = p[1:4, 4] = 1
    values, _ = projection_loss(*one_class(p, [[1, 2, 4, 7]]), reading=reading)
    assert values.item() == pytest.approx(0, abs=1e-5)


@every_reading
def test_by_hand(reading):
    p = torch.full((6, 8), 0.5)
    values, _ = projection_loss(*one_class(p, [[1, 2, 4, 7]], exhaustive=False), reading=reading)
    rows, columns = naive_dice([0.5] * 3, [1.0] * 3), naive_dice([0.5] * 5, [1.0] * 5)
    assert values.item() == pytest.approx(rows + columns)
    assert rows == pytest.approx(1 - 2 * 1.5 / (0.75 + 3), abs=1e-5)


@every_reading
def test_an_end_is_the_first_pixel_outside(reading):
    """The authors' boxes have inclusive ends: the row behind the end would count as one inside."""
    p = torch.zeros(6, 8)
    p[1:4, 2:7] = 1
    good = projection_loss(*one_class(p, [[1, 2, 4, 7]]), reading=reading)[0].item()
    p[4, 2:7] = 1
    p[1:5, 7] = 1
    bad = projection_loss(*one_class(p, [[1, 2, 4, 7]]), reading=reading)[0].item()
    assert good < 1e-4
    assert bad > 0.1


def test_each_box_needs_its_own_object_unless_they_are_read_as_one_mask():
    """Boxes side by side in all rows and columns: one row and one column between them would do."""
    boxes = [[1, 1, 3, 3], [1, 3, 3, 5], [3, 1, 5, 3], [3, 3, 5, 5]]
    p = torch.zeros(6, 6)
    p[1, 1:5] = p[1:5, 1] = 1
    values = {r: projection_loss(*one_class(p, boxes), reading=r)[0].item() for r in READINGS}
    assert values["class"] < 1e-4
    assert values["box"] > 0.5


@every_reading
def test_the_class_is_pushed_down_only_where_it_is_ruled_out(reading):
    """Not in a crowd, and nowhere when not every object has a box."""
    p = torch.full((8, 8), 0.3)
    logits, boxes, classes, candidates, valid = one_class(p, [[2, 2, 5, 5]])
    candidates[0, 1, :, 6:] = True  # a crowd
    values, _ = projection_loss(logits, boxes, classes, candidates, valid, reading=reading)
    (grad,) = torch.autograd.grad(values.sum(), logits)
    assert not grad[..., 6:].any()
    assert grad[0, 1, :2, :2].sum() > 0
    assert grad[0, 1, 2:5, 2:5].sum() < 0
    values, _ = projection_loss(
        logits, boxes, classes, torch.ones_like(candidates), valid, reading=reading
    )
    (grad,) = torch.autograd.grad(values.sum(), logits)
    grad[0, :, 2:5, 2:5] = 0
    assert not grad.any()


def test_a_class_without_a_box_is_pushed_down_where_it_is_ruled_out():
    logits, *said = example(FLAT)
    boxes, classes, candidates, valid = said
    first = boxes[:, 0] == 0
    candidates[0, 0] = False  # has no box in the first image
    values, _ = projection_loss(logits, boxes[first], classes[first], candidates, valid)
    (grad,) = torch.autograd.grad(values[0], logits)
    assert grad[0, 0].sum() > 0


# Boxes that the border cuts


@every_reading
def test_a_cut_box_speaks_along_the_border_only_of_lines_that_are_whole(reading):
    """Cut at the right: its columns are whole, of its rows the object may be beyond the border."""
    p = torch.zeros(6, 8)
    p[2, 5:] = 1  # a tail in one row; the body, in the box's other rows, is not in the patch
    cut = one_class(p, [[1, 5, 5, 8]])
    assert projection_loss(*cut, reading=reading)[0].item() == pytest.approx(0, abs=1e-5)
    assert projection_loss(*cut, reading=reading, cut_boxes="keep")[0].item() > 0.3
    p[2, 6] = 0  # but that column must have something in it
    cut = one_class(p, [[1, 5, 5, 8]])
    assert projection_loss(*cut, reading=reading)[0].item() > 0.05


@every_reading
@pytest.mark.parametrize("corners", [[0, 1, 3, 4], [3, 1, 6, 4], [1, 0, 4, 3], [1, 5, 4, 8]])
def test_every_side_can_be_cut(reading, corners):
    logits, boxes, *said = one_class(torch.full((6, 8), 0.5), [corners], exhaustive=False)
    value = projection_loss(logits, boxes, *said, reading=reading)[0].item()
    assert value == pytest.approx(naive_dice([0.5] * 3, [1.0] * 3))  # of two axes one


@every_reading
def test_a_box_in_a_corner_has_only_its_outside(reading):
    p = torch.zeros(6, 8)
    p[4, 4] = 0.9
    logits, *said = one_class(p, [[0, 0, 3, 3]])
    values, known = projection_loss(logits, *said, reading=reading)
    assert known.all()
    (grad,) = torch.autograd.grad(values.sum(), logits)
    assert not grad[..., :3, :3].any()
    assert bool(grad[0, 1, 4, 4] > 0) == (reading == "box")
    # A box that says nothing does not dilute one that does.
    p[:] = 0.5
    whole = projection_loss(*one_class(p, [[1, 3, 4, 6]], exhaustive=False), reading="box")[0]
    both = projection_loss(
        *one_class(p, [[1, 3, 4, 6], [0, 0, 3, 3]], exhaustive=False), reading="box"
    )[0]
    assert both.item() == pytest.approx(whole.item())


def test_a_solid_box_cut_on_one_side_speaks_along_that_axis():
    logits, *said = one_class(torch.full((5, 6, 7), 0.5), [[0, 1, 1, 2, 4, 5]], exhaustive=False)
    value = projection_loss(logits, *said)[0].item()
    assert value == pytest.approx(naive_dice([0.5] * 2, [1.0] * 2))


# What must not matter


@every_reading
@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_padding_is_without_effect(reading, what):
    logits, *said = example(FLAT)
    valid = said[-1]
    values, _ = projection_loss(logits, *said, reading=reading)
    (wanted,) = torch.autograd.grad(values.sum(), logits)
    other = logits.detach().masked_fill(~valid[:, None], what).requires_grad_()
    found, _ = projection_loss(other, *said, reading=reading)
    torch.testing.assert_close(found, values, rtol=0, atol=0)
    assert torch.equal(torch.autograd.grad(found.sum(), other)[0], wanted)


@every_reading
def test_without_boxes_it_is_zero_with_a_gradient(reading):
    logits, boxes, classes, candidates, valid = example(FLAT)
    values, known = projection_loss(
        logits, boxes[:0], classes[:0], candidates, valid, reading=reading
    )
    assert not known.any()
    assert values.tolist() == [0, 0, 0]
    (grad,) = torch.autograd.grad(values.sum(), logits)
    assert not grad.any()


@every_reading
def test_half_precision_is_computed_in_float32(reading):
    logits, *said = example(FLAT)
    single = logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        values, _ = projection_loss(single, *said, reading=reading)
    assert values.dtype == torch.float32
    wanted, _ = projection_loss(single.double(), *said, reading=reading)
    torch.testing.assert_close(values.double(), wanted, rtol=1e-5, atol=1e-6)


def test_wrong_readings_are_told():
    with pytest.raises(ValueError, match="reading is 'object'"):
        projection_loss(*example(FLAT), reading="object")
    with pytest.raises(ValueError, match="cut_boxes is 'drop'"):
        projection_loss(*example(FLAT), cut_boxes="drop")
