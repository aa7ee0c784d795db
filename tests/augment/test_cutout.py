"""Squares cut out against those that a plain loop finds in the mask, and how many there are."""

import copy
import itertools
import math
import pickle

import pytest
import torch

from semiweak.augment.cutout import CutOut
from semiweak.augment.seeds import draw_seeds, image_seeds

SHAPES = [(3, 1, 40, 50), (2, 3, 40, 50), (2, 5, 9, 8), (2, 2, 12, 20, 24)]
SURE = CutOut(size=5, times=1, p=1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 1, 1), (1, 2, 3, 3), (0, 1, 8, 8)])
@pytest.mark.parametrize("fill", ["black", "mean"])
@pytest.mark.parametrize("cutout", [CutOut(), CutOut(size=3, p=1), CutOut(p=0), CutOut(times=0)])
def test_only_what_the_mask_says_is_set_to_one_value_per_channel(shape, fill, cutout):
    x = images(*shape)
    before = x.clone()
    cutout = CutOut(size=cutout.size, times=cutout.times, p=cutout.p, fill=fill)
    views, mask = cutout(x, generator=seeded())
    assert torch.equal(x, before)
    assert views.shape == x.shape
    assert mask.shape == (shape[0], *shape[2:])
    assert mask.dtype == torch.bool
    assert views.numel() == 0 or views.data_ptr() != x.data_ptr()
    for image, view, cut in zip(x, views, mask, strict=True):
        for channel, filled in zip(image, view, strict=True):
            value = channel.min() if fill == "black" else channel.mean()
            expected = channel.clone()
            expected[cut] = value
            torch.testing.assert_close(filled, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("fill", ["black", "mean"])
def test_the_type_stays(dtype, fill):
    # The sum of so many pixels is beyond half precision.
    x = (images(2, 3, 64, 64) + 30).to(dtype)
    cutout = CutOut(size=9, fill=fill)
    views, mask = cutout(x, generator=seeded())
    assert views.dtype == dtype
    expected, same = cutout(x.float(), generator=seeded())
    assert torch.equal(mask, same)
    torch.testing.assert_close(views.float(), expected.to(dtype).float(), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_memory_format_stays_and_changes_nothing(shape):
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = images(*shape)
    views, mask = SURE(x.contiguous(memory_format=layout), generator=seeded())
    assert views.is_contiguous(memory_format=layout)
    expected, same = SURE(x, generator=seeded())
    assert torch.equal(views, expected)
    assert torch.equal(mask, same)


def test_images_that_share_their_memory_get_views_of_their_own():
    x = images(1, 1, 30, 30).expand(4, -1, -1, -1)
    views, mask = SURE(x, generator=seeded())
    assert len({tuple(cut.flatten().tolist()) for cut in mask}) == 4
    assert torch.equal(views != x, mask[:, None] & (x != x.amin()))


def test_a_seed_repeats_the_views():
    x = images(3, 1, 40, 40)
    views, mask = CutOut()(x, generator=seeded(1))
    assert torch.equal(views, CutOut()(x, generator=seeded(1))[0])
    assert not torch.equal(mask, CutOut()(x, generator=seeded(2))[1])
    generator = seeded(1)
    assert torch.equal(mask, CutOut()(x, generator=generator)[1])
    assert not torch.equal(mask, CutOut()(x, generator=generator)[1])
    torch.manual_seed(3)
    mask = CutOut()(x)[1]
    torch.manual_seed(3)
    assert torch.equal(mask, CutOut()(x)[1])


def test_a_view_depends_on_no_other_image_of_the_batch():
    x = images(6, 3, 40, 40)
    views = CutOut()(x, generator=seeded())[0]
    assert torch.equal(CutOut()(x[:2], generator=seeded())[0], views[:2])
    others = x.clone()
    others[[0, 1, 2, 4, 5]] = 100 * images(5, 3, 40, 40, seed=1)
    assert torch.equal(CutOut()(others, generator=seeded())[0][3], views[3])


def test_more_squares_leave_the_first_where_they_are():
    x = images(20, 1, 60, 60)
    few = CutOut(times=3)(x, generator=seeded())[1]
    many = CutOut(times=9)(x, generator=seeded())[1]
    assert (few <= many).all()
    assert (few < many).any()
    rare = CutOut(p=0.2)(x, generator=seeded())[1]
    often = CutOut(p=0.8)(x, generator=seeded())[1]
    assert (rare <= often).all()


def extent(mask, axis):
    """First and last pixel of a mask along an axis, and that it is a full square."""
    there = mask.any(tuple(i for i in range(mask.ndim) if i != axis)) if mask.ndim > 1 else mask
    return there.nonzero().min().item(), there.nonzero().max().item()


@pytest.mark.parametrize("size", [1, 4, 5, 32, 100])
@pytest.mark.parametrize("space", [(40, 50), (9, 30, 40)])
def test_one_cut_is_one_square_whose_centre_lies_in_the_image(size, space):
    _, masks = CutOut(size=size, times=1, p=1)(torch.zeros(30, 1, *space), generator=seeded())
    for mask in masks:
        sides = [extent(mask, axis) for axis in range(len(space))]
        assert mask.sum() == math.prod(last - first + 1 for first, last in sides)
        for (first, last), length in zip(sides, space, strict=True):
            # Cut short at the border only, and by half of it at most.
            if first > 0 and last < length - 1:
                assert last - first + 1 == size
            elif first > 0 or last < length - 1:
                assert size // 2 <= last - first + 1 <= size
            else:
                assert length <= size


@pytest.mark.parametrize("space", [(7, 11), (3, 4, 5)])
def test_centres_are_uniform_over_all_pixels(space):
    number = 200 * math.prod(space)
    _, masks = CutOut(size=1, times=1, p=1)(torch.zeros(number, 1, *space), generator=seeded())
    assert (masks.flatten(1).sum(1) == 1).all()
    counts = masks.sum(0)
    assert counts.min() > 200 - 5 * 200**0.5
    assert counts.max() < 200 + 5 * 200**0.5


@pytest.mark.parametrize(("times", "p"), [(9, 0.5), (4, 0.25), (3, 1.0), (5, 0.0)])
def test_squares_are_binomial_in_number(times, p):
    # So many pixels that hardly two squares of one pixel meet.
    _, masks = CutOut(size=1, times=times, p=p)(torch.zeros(1500, 1, 90, 90), generator=seeded())
    counts = masks.flatten(1).sum(1)
    for count in range(times + 1):
        expected = math.comb(times, count) * p**count * (1 - p) ** (times - count)
        assert (counts == count).float().mean().item() == pytest.approx(expected, abs=0.04)
    assert counts.max() <= times


def test_the_sides_do_not_follow_each_other():
    _, masks = CutOut(size=1, times=2, p=1)(torch.zeros(2000, 1, 30, 30), generator=seeded())
    masks = masks[masks.flatten(1).sum(1) == 2]
    places = masks.nonzero()[:, 1:].reshape(-1, 4).double()
    # By their order in the mask, rows of the two squares correlate; columns must not.
    assert abs(torch.corrcoef(places[:, [1, 3]].T)[0, 1]) < 0.08
    for first, second in itertools.product((0, 2), (1, 3)):
        assert abs(torch.corrcoef(places[:, [first, second]].T)[0, 1]) < 0.08


def test_a_constant_image_stays_constant():
    x = torch.full((2, 3, 20, 20), -3.7)
    assert torch.equal(CutOut()(x, generator=seeded())[0], x)
    torch.testing.assert_close(CutOut(fill="mean")(x, generator=seeded())[0], x)


def test_no_gradient_is_kept():
    assert not SURE(images(1, 1, 8, 8).requires_grad_(), generator=seeded())[0].requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_views_are_the_same():
    x = images(4, 3, 40, 40)
    views, mask = CutOut()(x.cuda(), generator=seeded())
    assert views.is_cuda
    assert mask.is_cuda
    expected, same = CutOut()(x, generator=seeded())
    assert torch.equal(views.cpu(), expected)
    assert torch.equal(mask.cpu(), same)
    first, second = (CutOut()(x.cuda(), generator=torch.Generator("cuda")) for _ in range(2))
    assert torch.equal(first[1], second[1])


def test_the_defaults_are_those_of_the_dsp_supplement():
    assert CutOut() == CutOut(size=32, times=9, p=0.5, fill="black")


def test_it_is_a_plain_value():
    cutout = CutOut(size=7)
    assert pickle.loads(pickle.dumps(cutout)) == copy.deepcopy(cutout) == cutout
    assert hash(cutout) != hash(CutOut())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("size", 0, "size is 0; it must be a whole number, 1 or more"),
        ("size", 2.5, "size is 2.5; it must be a whole number"),
        ("times", -1, "times is -1; it must be a whole number, 0 or more"),
        ("times", 1.0, "times is 1.0"),
        ("p", 1.1, "p is 1.1; it must be between 0 and 1"),
        ("p", -0.1, "p is -0.1"),
        ("p", math.nan, "p is nan"),
        ("fill", "grey", "fill is 'grey'; it must be 'black' or 'mean'"),
    ],
)
def test_values_out_of_range_are_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        CutOut(**{name: value})


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 8, 8), torch.zeros(1, 1, 2, 3, 4, 5), torch.zeros(1, 1, 4, 4).int()]
)
def test_what_is_no_batch_of_normalised_images_is_refused(x):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        CutOut()(x)


def test_the_first_seeds_do_not_depend_on_how_many_there_are():
    many = draw_seeds(50, seeded())
    assert draw_seeds(3, seeded()) == many[:3]
    assert image_seeds(torch.zeros(3, 1, 2, 2), seeded()) == many[:3]
    assert len(set(many)) == 50
    torch.manual_seed(0)
    assert draw_seeds(50, None) == many
