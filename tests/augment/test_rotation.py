"""Turns against a plain loop over the pixels, and what comes back of them."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiweak.augment.rotation import TOLERANCE, Rotation, _gathered, _positions

SHAPES = [(3, 1, 20, 30), (2, 2, 31, 20), (2, 3, 16, 16), (2, 5, 9, 8), (2, 2, 3, 12, 10)]
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
sizes = st.integers(1, 40)
degrees = st.one_of(st.floats(-720, 720), st.sampled_from([0, 30, 45, 90, 180, 270, 360, -90]))


def images(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rotation(*angles):
    return Rotation(torch.tensor(angles))


def angles(number, seed=0):
    return Rotation(360 * torch.rand(number, generator=torch.Generator().manual_seed(seed)))


# Against a loop


def places(height, width, angle):
    """Where each pixel of an image turned counter-clockwise came from, in pixels: (y, x)."""
    radians = math.radians(angle)
    up, right = (height - 1) / 2, (width - 1) / 2
    for row in range(height):
        for column in range(width):
            # Axes to the right and upwards, so that the turn is the textbook's.
            a, b = column - right, up - row
            x = math.cos(radians) * a + math.sin(radians) * b
            y = -math.sin(radians) * a + math.cos(radians) * b
            yield row, column, up - y, right + x


def outside_by(place, size):
    return max(-place, place - (size - 1))


def interpolated(plane, y, x):
    """Between the four nearest pixels; reflected about the outer border if it lies beyond."""
    height, width = plane.shape
    y, x = (
        min(max(abs((place + 0.5) % (2 * size)), 0.0), 2 * size) - 0.5
        for place, size in ((y, height), (x, width))
    )
    y, x = (
        2 * size - 1 - place if place > size - 0.5 else place
        for place, size in ((y, height), (x, width))
    )
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top, left] * (1 - (x - left)) + plane[top, right] * (x - left)
    lower = plane[bottom, left] * (1 - (x - left)) + plane[bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def looped(plane, angle, outside=None):
    """A plane turned, with a value outside or reflected, and which pixels were inside.

    A pixel so near to the border that rounding may decide is inside as ours is: None.
    """
    height, width = plane.shape
    result, inside = torch.empty_like(plane), []
    for row, column, y, x in places(height, width, angle):
        beyond = max(outside_by(y, height), outside_by(x, width))
        inside.append(None if abs(beyond - TOLERANCE) < 1e-5 else beyond <= TOLERANCE)
        if beyond > TOLERANCE and outside is not None:
            result[row, column] = outside
        else:
            result[row, column] = interpolated(plane, y, x)
    return result, inside


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [17.3, 90, 133, 180, -45, 359])
def test_a_turn_is_that_of_a_loop_over_the_pixels(shape, angle):
    x = images(*shape).double()
    turn = rotation(*[angle] * len(x))
    reflected, black = turn.turn(x), turn.turn(x, fill="black")
    back, valid = turn.turn_back(x), turn.valid(x[:, 0])
    assert valid.shape == (len(x), *shape[2:])
    for b in range(len(x)):
        for channel in range(shape[1]):
            darkest = x[b, channel].min()
            planes = (t[b, channel].reshape(-1, *shape[-2:]) for t in (x, reflected, black, back))
            for plane, mirrored, dark, returned in zip(*planes, strict=True):
                near = {"atol": 2e-5, "rtol": 0}
                torch.testing.assert_close(mirrored, looped(plane, angle)[0], **near)
                torch.testing.assert_close(dark, looped(plane, angle, darkest)[0], **near)
                expected, inside = looped(plane, -angle, 0.0)
                torch.testing.assert_close(returned, expected, **near)
        for one in valid[b].reshape(-1, *shape[-2:]):
            found = one.flatten().tolist()
            assert all(i in (None, v) for i, v in zip(inside, found, strict=True))


def test_content_turns_counter_clockwise_in_its_frame():
    x = torch.zeros(1, 1, 9, 15)
    x[..., 4, 10] = 1  # three to the right of the centre
    turned = rotation(90.0).turn(x)
    assert turned[0, 0, 1, 7].item() == pytest.approx(1)  # three above it
    assert turned.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 1, 9, 9), (4, 3, 50, 50), (4, 2, 3, 10, 10)])
@pytest.mark.parametrize("circles", [0, 1, -2])
def test_quarter_turns_of_squares_move_pixels_only(shape, circles):
    x = images(*shape)
    quarters = Rotation(torch.tensor([0.0, 90.0, 180.0, 270.0]) + 360 * circles)
    expected = torch.stack([one.rot90(k, (-2, -1)) for k, one in enumerate(x)])
    for fill in ("reflection", "black"):
        assert torch.equal(quarters.turn(x, fill), expected)
    assert torch.equal(quarters.turn_back(expected), x)
    assert quarters.valid(x[:, 0]).all()


def test_half_turns_of_others_move_pixels_only():
    x = images(2, 1, 8, 13)
    assert torch.equal(rotation(180.0, 0.0).turn(x)[0], x[0].rot90(2, (-2, -1)))
    assert rotation(180.0, 0.0).valid(x[:, 0]).all()


@pytest.mark.parametrize("size", [9, 50, 64, 101])
def test_next_to_a_quarter_turn_there_is_no_leap(size):
    x = images(1, 2, size, size)
    turn = rotation(90 + 1e-7)
    torch.testing.assert_close(turn.turn(x), x.rot90(1, (-2, -1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turn.turn_back(turn.turn(x)), x, atol=1e-4, rtol=0)
    assert turn.valid(x[:, 0]).all()


def test_a_quarter_turn_of_an_oblong_shows_its_middle():
    valid = rotation(90.0).valid(torch.zeros(1, 10, 20))
    assert valid[0, :, 5:15].all()
    assert valid.sum() == 100
    deep = rotation(90.0).valid(torch.zeros(1, 3, 10, 20))
    assert torch.equal(deep, valid[:, None].expand(1, 3, 10, 20))


# There and back


def coordinates(height, width):
    """What is linear, bilinear interpolation repeats exactly: (1, 2, H, W)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((y, x))[None].float()


@settings(deadline=None, max_examples=150)
@given(sizes, sizes, degrees)
def test_pixels_come_back_to_where_they_were(height, width, angle):
    grid = coordinates(height, width)
    turn, back = rotation(angle), rotation(-angle)
    returned = turn.turn_back(turn.turn(grid))
    # Where the turned frame shows the image itself rather than what its corners are filled with.
    shown = back.valid(grid[:, 0])[:, None].float()
    valid = turn.valid(grid[:, 0]) & (turn.turn_back(shown)[:, 0] > 1 - 1e-4)
    away = (returned - grid).abs().amax(1)[valid]
    assert (away < 1e-3).all()
    if min(height, width) >= 8:
        assert valid[:, height // 2, width // 2].all()


@settings(deadline=None, max_examples=100)
@given(sizes, sizes, degrees)
def test_valid_is_where_all_that_is_interpolated_lies_in_the_frame(height, width, angle):
    valid = rotation(angle).valid(torch.zeros(1, height, width))
    for row, column, y, x in places(height, width, -angle):
        beyond = max(outside_by(y, height), outside_by(x, width))
        if abs(beyond - TOLERANCE) > 1e-5:
            assert valid[0, row, column].item() == (beyond < TOLERANCE)


def test_the_frame_of_a_square_turned_by_an_eighth_shows_an_octagon():
    share = rotation(45.0).valid(torch.zeros(1, 600, 600)).float().mean().item()
    assert share == pytest.approx(2 * (math.sqrt(2) - 1), abs=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_not_valid_is_zero_whatever_stands_outside(shape):
    turn = rotation(*(40.0, 77.0, 250.0)[: shape[0]])
    maps = images(*shape) + 10
    valid = turn.valid(maps[:, 0])[:, None].expand(shape)
    assert 0 < valid.float().mean() < 1
    back = turn.turn_back(maps)
    assert (back[~valid] == 0).all()
    assert (back[valid] > 5).all()
    # What no valid pixel looks at may be anything.
    seen = torch.zeros(shape)
    for b, angle in enumerate(turn.angles.tolist()):
        for row, column, y, x in places(*shape[-2:], -angle):
            if valid[(b, 0, *[0] * (len(shape) - 4), row, column)]:
                top, left = (max(math.floor(place), 0) for place in (y, x))
                seen[b, ..., top : top + 2, left : left + 2] = 1
    assert seen.min() == 0
    nowhere = torch.where(seen == 1, maps, math.nan)
    assert torch.equal(turn.turn_back(nowhere), back)


# Gradients


@pytest.mark.parametrize("shape", [(2, 2, 6, 5), (2, 1, 2, 5, 5)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_gradient_is_that_of_differences(shape, deterministic):
    x = images(*shape).double().requires_grad_()
    torch.use_deterministic_algorithms(deterministic)
    try:
        for turn in (rotation(33.0, 90.0), rotation(0.0, -100.0)):
            assert torch.autograd.gradcheck(turn.turn_back, (x,))
            assert torch.autograd.gradcheck(turn.turn, (x,))
    finally:
        torch.use_deterministic_algorithms(False)


def test_no_gradient_comes_from_outside():
    maps = images(3, 2, 20, 26).requires_grad_()
    turn = rotation(30.0, 45.0, 90.0)
    outside = ~turn.valid(maps[:, 0])[:, None]
    back = turn.turn_back(maps)
    (back * outside).square().sum().backward()
    assert (maps.grad == 0).all()
    maps.grad = None
    # Nor does a corner of the turned frame that the image does not reach get any.
    turn.turn_back(maps).sum().backward()
    reached = rotation(-30.0, -45.0, -90.0).valid(maps[:, 0])
    assert (maps.grad[:2, :, 0, 0] == 0).all()
    assert (maps.grad.sum(1)[reached] != 0).float().mean() > 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_the_deterministic_way_is_the_same(shape):
    turn = angles(shape[0], seed=3)
    x = images(*shape).double().flatten(1, -3)
    positions = 1.2 * _positions(turn.angles, x).double()
    expected = torch.nn.functional.grid_sample(
        x, positions, padding_mode="border", align_corners=False
    )
    torch.testing.assert_close(_gathered(x, positions), expected, atol=1e-12, rtol=0)


def test_the_deterministic_way_is_taken_when_asked_for(monkeypatch):
    maps = images(2, 1, 8, 8).requires_grad_()
    expected = angles(2).turn_back(maps)
    monkeypatch.setattr("semiweak.augment.rotation.F.grid_sample", None)
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(angles(2).turn_back(maps), expected)
    finally:
        torch.use_deterministic_algorithms(False)


# Types, formats, and what stays


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    x = images(2, 3, 40, 40).to(dtype)
    turn = angles(2)
    for method in (turn.turn, turn.turn_back):
        assert method(x).dtype == dtype
        assert torch.equal(method(x), method(x.float()).to(dtype))
    assert torch.equal(turn.turn(x, "black"), turn.turn(x.float(), "black").to(dtype))


def test_double_precision_stays_double():
    x = images(2, 3, 16, 16).double()
    view = angles(2).turn(x)
    assert view.dtype == torch.float64
    assert not torch.equal(view, view.float().double())


def test_autocast_changes_nothing():
    x = images(2, 3, 40, 40)
    turn = angles(2)
    expected = turn.turn(x), turn.turn_back(x), turn.valid(x[:, 0])
    with torch.autocast("cpu", torch.bfloat16):
        found = turn.turn(x), turn.turn_back(x), turn.valid(x[:, 0])
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turned", [(33.0, 33.0, 33.0), (0.0, 33.0, 90.0), (180.0, 180.0, 180.0)])
def test_the_memory_format_stays_and_changes_nothing(shape, turned):
    turn = rotation(*turned[: shape[0]])
    x = images(*shape)
    other = x.contiguous(memory_format=LAYOUTS[x.ndim])
    for method in (turn.turn, turn.turn_back):
        assert method(x).is_contiguous()
        assert method(other).is_contiguous(memory_format=LAYOUTS[x.ndim])
        assert torch.equal(method(x), method(other))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_not_turned_comes_back_to_the_last_bit(shape):
    x = images(*shape)
    still = Rotation(torch.zeros(len(x)))
    assert torch.equal(still.turn(x), x)
    assert torch.equal(still.turn_back(x), x)
    assert still.valid(x[:, 0]).all()
    before = x.clone()
    one = Rotation(torch.tensor([0.0, 20.0, 0.0])[: len(x)])
    for found in (one.turn(x), one.turn(x, "black"), one.turn_back(x)):
        assert torch.equal(found[0], x[0])
        assert not torch.equal(found[1], x[1])
    assert torch.equal(x, before)


def test_each_image_is_turned_by_its_own_angle():
    x = images(5, 2, 12, 12)
    each = (10.0, 0.0, 90.0, 200.0, 10.0)
    together = rotation(*each)
    for i, angle in enumerate(each):
        alone = rotation(angle)
        for fill in ("reflection", "black"):
            expected = alone.turn(x[i : i + 1], fill)
            torch.testing.assert_close(together.turn(x, fill)[i : i + 1], expected)
        expected = alone.turn_back(x[i : i + 1])
        torch.testing.assert_close(together.turn_back(x)[i : i + 1], expected)
        assert torch.equal(together.valid(x[:, 0])[i], alone.valid(x[:1, 0])[0])


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 1, 1, 1), (2, 3, 1, 9), (2, 1, 1, 7, 1)])
def test_tiny_images_and_none(shape):
    x = images(*shape)
    turn = angles(shape[0])
    for found in (turn.turn(x), turn.turn(x, "black"), turn.turn_back(x)):
        assert found.shape == x.shape
        assert found.isfinite().all()
    assert turn.valid(x[:, 0]).shape == (shape[0], *shape[2:])


def test_a_reflection_has_no_value_of_its_own():
    x = images(2, 1, 6, 60).exp()
    view = rotation(90.0, 37.0).turn(x)
    assert view.min() >= x.min()
    assert view.max() <= x.max() + 1e-5
    dark = rotation(90.0, 37.0).turn(x, "black")
    assert torch.equal(dark[0, 0, 0, [0, -1]], x[0].min().expand(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_gpu_turns_are_the_same_also_deterministically(shape):
    x = images(*shape)
    turn = angles(shape[0])
    torch.testing.assert_close(turn.turn(x.cuda()).cpu(), turn.turn(x), atol=1e-4, rtol=0)
    there, here = x.cuda().requires_grad_(), x.clone().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        turn.turn_back(there).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    turn.turn_back(here).square().sum().backward()
    torch.testing.assert_close(there.grad.cpu(), here.grad, atol=1e-3, rtol=0)
    assert torch.equal(turn.valid(x[:, 0].cuda()).cpu(), turn.valid(x[:, 0]))


# Values


def test_it_can_be_copied():
    turn = angles(3)
    for other in (copy.deepcopy(turn), pickle.loads(pickle.dumps(turn))):
        assert torch.equal(other.angles, turn.angles)


@pytest.mark.parametrize("given", [torch.zeros(()), torch.zeros(2, 1), torch.tensor([math.nan])])
def test_angles_are_one_finite_number_an_image(given):
    with pytest.raises(ValueError, match="angles must be one finite number an image"):
        Rotation(given)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(3, 8, 8), "what is turned must be"),
        (torch.zeros(3, 1, 8, 8).int(), "of a floating type, not torch.int32"),
        (torch.zeros(2, 1, 8, 8), "there are 3 angles for a batch of 2"),
    ],
)
def test_what_cannot_be_turned_is_refused(x, words):
    for method in (angles(3).turn, angles(3).turn_back):
        with pytest.raises(ValueError, match=words):
            method(x)


def test_what_has_no_pixels_is_refused():
    with pytest.raises(ValueError, match=r"pixels must be \(B, H, W\)"):
        angles(3).valid(torch.zeros(3, 8))
    with pytest.raises(ValueError, match="there are 3 angles for a batch of 2"):
        angles(3).valid(torch.zeros(2, 8, 8))


def test_an_unknown_fill_is_refused():
    with pytest.raises(ValueError, match="fill is 'grey'; it must be 'reflection' or 'black'"):
        angles(1).turn(torch.zeros(1, 1, 4, 4), "grey")
