"""Each operation against Pillow's, on which those of the papers' code rest, and what is drawn."""

import copy
import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from semiweak.augment.rand_augment import OPERATIONS, RandAugment, apply_operations

ALL = RandAugment(number=4, p=1, operations=tuple(OPERATIONS))
SHAPES = [(3, 1, 20, 30), (2, 2, 20, 30), (2, 3, 20, 30), (2, 5, 9, 8), (2, 1, 5, 12, 10)]
TINY = [(4, 1, 1, 1), (4, 3, 1, 1), (4, 2, 3, 3), (4, 3, 2, 5), (4, 1, 1, 3, 3), (4, 3, 2, 1, 1)]
FACTORS = ("color", "contrast", "brightness", "sharpness")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def only(name, **settings):
    return RandAugment(**{"number": 1, "p": 1, "operations": (name,), **settings})


# Each operation


def pillow(name, level, picture):
    """An operation of the papers' code, on 8-bit values (H, W) or (H, W, 3)."""
    image = Image.fromarray(picture)
    factor = level * 1.8 / 10 + 0.1
    enhance = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        found = enhance[name](image).enhance(factor)
    else:
        found = {
            "identity": lambda: image,
            "autocontrast": lambda: ImageOps.autocontrast(image),
            "equalize": lambda: ImageOps.equalize(image),
            "invert": lambda: ImageOps.invert(image),
            "posterize": lambda: ImageOps.posterize(image, 4 - int(level * 4 / 10)),
            "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
        }[name]()
    return np.asarray(found)


def pictures(*shape, seed=0):
    """8-bit values (C, *S) that are smooth, so that neighbours count, and use the whole range."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=shape).cumsum(-1).cumsum(-2)
    field += 20 * rng.normal(size=(shape[0], *[1] * (len(shape) - 1)))
    low, high = field.min(), field.max()
    return (255.999 * ((field - low) / (high - low)) ** 1.5).astype(np.uint8)


def close(found, expected, name):
    """Whether 8-bit values agree but for Pillow's rounding."""
    difference = np.abs(found - expected.astype(float))
    if name == "solarize":  # A value at the threshold may fall on either side.
        return (difference > 1).mean() < 0.02
    # Contrast rounds the mean, sharpness and colour their second image.
    return difference.max() <= {"contrast": 2.0, "sharpness": 2.0, "color": 2.0}.get(name, 1.001)


@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.013, -1.7), (300.0, 5000.0)])
@pytest.mark.parametrize("level", [1, 2, 4, 5, 7, 9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_on_colours_and_grey_an_operation_is_pillows_whatever_the_normalisation(name, level, scale):
    factor, offset = scale
    for picture in (pictures(3, 40, 50), pictures(1, 40, 50)):
        x = torch.from_numpy(picture).double() * factor + offset
        view = (apply_operations(x, [(name, level)]).numpy() - offset) / factor
        shown = picture.transpose(1, 2, 0) if len(picture) == 3 else picture[0]
        expected = pillow(name, level, shown)
        expected = expected.transpose(2, 0, 1) if len(picture) == 3 else expected[None]
        assert close(view, expected, name)
        changes = name not in ("identity", "autocontrast") and (name, len(picture)) != ("color", 1)
        changes = changes and not (name in FACTORS and level == 5)
        if changes or (name == "autocontrast" and len(picture) == 3):
            assert np.abs(view - picture).max() > 2  # else it would be close without doing anything


@pytest.mark.parametrize("level", [1, 4, 7, 9])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("contrast", "color")])
def test_of_any_number_of_channels_each_is_a_grey_image(name, level):
    for channels in (2, 3, 5):
        picture = pictures(channels, 24, 30)
        view = apply_operations(torch.from_numpy(picture).double(), [(name, level)]).numpy()
        for channel, found in zip(picture, view, strict=True):
            assert close(found, pillow(name, level, channel), name)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_mean_of_contrast_is_of_all_channels(channels):
    picture = pictures(channels, 24, 30)
    view = apply_operations(torch.from_numpy(picture).double(), [("contrast", 7)]).numpy()
    expected = pillow("contrast", 7, picture.reshape(channels * 24, 30))
    assert close(view, expected.reshape(picture.shape), "contrast")


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_colour_is_for_three_channels_only(channels):
    x = images(channels, 8, 9)
    torch.testing.assert_close(apply_operations(x, [("color", 1)]), x)


@pytest.mark.parametrize("level", [1, 7])
@pytest.mark.parametrize(
    "name", [name for name in OPERATIONS if name not in ("sharpness", "color")]
)
def test_the_statistics_of_a_volume_are_those_of_all_slices(name, level):
    picture = pictures(1, 6, 20, 24)
    view = apply_operations(torch.from_numpy(picture).double(), [(name, level)]).numpy()
    expected = pillow(name, level, picture.reshape(6 * 20, 24)).reshape(picture.shape)
    assert close(view, expected, name)


@pytest.mark.parametrize("name", ["contrast", "color"])
def test_the_colours_of_a_volume_are_those_of_its_pixels(name):
    picture = pictures(3, 4, 10, 12)
    view = apply_operations(torch.from_numpy(picture).double(), [(name, 8)]).numpy()
    expected = pillow(name, 8, picture.reshape(3, 40, 12).transpose(1, 2, 0))
    assert close(view, expected.transpose(2, 0, 1).reshape(picture.shape), name)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sharpness_is_within_slices(channels):
    picture = pictures(channels, 5, 16, 20)
    view = apply_operations(torch.from_numpy(picture).double(), [("sharpness", 9)]).numpy()
    for channel, found in zip(picture, view, strict=True):
        for z in range(5):
            assert close(found[z], pillow("sharpness", 9, channel[z]), "sharpness")
    assert np.abs(view - picture).max() > 2


def test_autocontrast_stretches_a_channel_to_the_range_of_the_image():
    x = torch.stack((images(10, 10), 0.1 * images(10, 10, seed=1)))
    view = apply_operations(x, [("autocontrast", 5)])
    torch.testing.assert_close(view.flatten(1).amin(1), x.amin().expand(2))
    torch.testing.assert_close(view.flatten(1).amax(1), x.amax().expand(2))


def test_posterize_leaves_as_many_values_as_bits_say():
    x = torch.linspace(-1, 1, 1000).reshape(1, 1, -1)
    bits = {
        level: apply_operations(x, [("posterize", level)]).unique().numel()
        for level in (1, 2, 2.4, 2.5, 3, 4, 5, 6, 7, 8, 9, 10)
    }
    four, three, two, one = (1, 2, 2.4), (2.5, 3, 4), (5, 6, 7), (8, 9, 10)
    for levels, number in ((four, 16), (three, 8), (two, 4), (one, 2)):
        assert {bits[level] for level in levels} == {number}


def test_operations_follow_each_other_on_one_range():
    picture = pictures(1, 30, 40)
    x = torch.from_numpy(picture).double()
    # Darker, then by its own range as before: the range is the image's, not the darker one's.
    dark = apply_operations(x, [("brightness", 2)])
    assert dark.max().item() == pytest.approx(0.46 * 255)
    assert dark.min() == 0
    again = apply_operations(x, [("brightness", 2), ("autocontrast", 1)])
    torch.testing.assert_close(again, x)
    white = apply_operations(x, [("brightness", 2), ("invert", 1)])
    torch.testing.assert_close(white, 255 - dark)
    assert not torch.allclose(apply_operations(x, [("invert", 1), ("brightness", 2)]), white)


# What is drawn


def factors(views):
    """By which factor the middle one of the values 0, 0.5, 1 was made brighter."""
    return [round(2 * value, 4) for value in views[:, 0, 0, 1].tolist()]


GREYS = torch.tensor([0.0, 0.5, 1.0]).expand(3000, 1, 1, 3)


def test_levels_are_1_to_9_alike():
    counts = Counter(factors(only("brightness")(GREYS, generator=seeded())))
    assert set(counts) == {round(0.1 + 0.18 * level, 4) for level in range(1, 10)}
    assert all(abs(count / 3000 - 1 / 9) < 0.03 for count in counts.values())


def test_a_magnitude_is_the_level_of_all():
    augment = only("brightness", magnitude=3.5)
    assert set(factors(augment(GREYS, generator=seeded()))) == {round(0.1 + 0.18 * 3.5, 4)}


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_an_operation_happens_as_often_as_its_probability_says(p):
    views = only("invert", p=p)(GREYS, generator=seeded())
    happened = (views[:, 0, 0, 0] == 1).float().mean()
    assert happened.item() == pytest.approx(p, abs=0.04 if 0 < p < 1 else 0)


def test_operations_are_drawn_with_replacement_alike_and_in_order():
    x = torch.tensor([0.0, 0.3, 1.0]).expand(3000, 1, 1, 3)
    names = ("invert", "posterize")
    augment = RandAugment(p=1, magnitude=9, operations=names)
    assert augment.number == 2
    found = Counter(
        tuple(round(value, 4) for value in view.flatten().tolist())
        for view in augment(x, generator=seeded())
    )
    expected = {
        tuple(
            round(value, 4)
            for value in apply_operations(x[0], [(first, 9), (second, 9)]).flatten().tolist()
        )
        for first, second in itertools.product(names, names)
    }
    assert len(expected) == 4
    assert set(found) == expected
    assert all(abs(count / 3000 - 1 / 4) < 0.04 for count in found.values())


def test_each_operation_is_drawn_as_often_as_the_others():
    drawn = Counter()
    augment = RandAugment(p=1)
    for seed in range(2000):
        drawn.update(name for name, _ in augment._drawn(seed))
    assert set(drawn) == set(augment.operations)
    assert all(abs(count / 4000 - 1 / 9) < 0.025 for count in drawn.values())


def test_the_draws_are_independent_of_each_other():
    augment = RandAugment(p=0.5, operations=("invert", "posterize"))
    levels, names, numbers = [], [], []
    for seed in range(3000):
        drawn = augment._drawn(seed)
        numbers.append(len(drawn))
        if len(drawn) == 2:
            names.append([name == "invert" for name, _ in drawn])
            levels.append([level for _, level in drawn])
    shares = [numbers.count(n) / 3000 for n in range(3)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    table = np.concatenate((np.array(levels, float), np.array(names, float)), 1)
    assert np.abs(np.corrcoef(table.T) - np.eye(4)).max() < 0.13


def test_more_operations_leave_the_first_as_they_are():
    for seed in range(30):
        many = RandAugment(number=20, p=1)._drawn(seed)
        assert many[:2] == RandAugment(p=1)._drawn(seed)
        some = RandAugment(number=20, p=0.5)._drawn(seed)
        left = iter(many)
        assert all(drawn in left for drawn in some)  # in the order of the many


# All views


@pytest.mark.parametrize("shape", [*SHAPES, *TINY, (2, 3, 4, 8, 9), (0, 1, 8, 8)])
@pytest.mark.parametrize("augment", [ALL, RandAugment(), *map(only, OPERATIONS)])
def test_a_view_has_the_shape_and_range_of_its_image_and_leaves_it_alone(shape, augment):
    x = 5 * images(*shape) - 3
    before = x.clone()
    view = augment(x, generator=seeded())
    assert view.shape == x.shape
    assert view.dtype == x.dtype
    assert view.isfinite().all()
    assert view.numel() == 0 or view.data_ptr() != x.data_ptr()
    assert torch.equal(x, before)
    for image, one in zip(x, view, strict=True):
        assert one.min() >= image.min() - 1e-5
        assert one.max() <= image.max() + 1e-5


@pytest.mark.parametrize("value", [0.0, -3.7, 1e4])
@pytest.mark.parametrize("shape", [*SHAPES, *TINY])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_constant_image_stays_as_it_is(name, shape, value):
    x = torch.full(shape, value)
    assert torch.equal(only(name)(x, generator=seeded()), x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_image_with_a_constant_channel_stays_finite(name):
    x = images(4, 3, 9, 9)
    x[:, 1] = 0.2
    assert only(name)(x, generator=seeded()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_half_precision_is_computed_in_single(name, dtype):
    x = (300 * images(2, 3, 16, 16)).to(dtype)
    view = only(name)(x, generator=seeded())
    assert view.dtype == dtype
    assert torch.equal(view, only(name)(x.float(), generator=seeded()).to(dtype))


def test_double_precision_stays_double():
    x = images(2, 3, 16, 16).double()
    view = only("contrast", magnitude=6)(x, generator=seeded())
    assert view.dtype == torch.float64
    assert not torch.equal(view, view.float().double())


@pytest.mark.parametrize("name", OPERATIONS)
def test_autocast_changes_nothing(name):
    x = images(2, 3, 16, 16)
    expected = only(name)(x, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(only(name)(x, generator=seeded()), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_memory_format_stays_and_changes_nothing(name, shape):
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = images(*shape)
    view = only(name)(x.contiguous(memory_format=layout), generator=seeded())
    assert view.is_contiguous(memory_format=layout)
    assert torch.equal(view, only(name)(x, generator=seeded()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_repeats_the_views(shape):
    x = images(*shape)
    view = ALL(x, generator=seeded(1))
    assert torch.equal(view, ALL(x, generator=seeded(1)))
    assert not torch.equal(view, ALL(x, generator=seeded(2)))
    generator = seeded(1)
    assert torch.equal(view, ALL(x, generator=generator))
    assert not torch.equal(view, ALL(x, generator=generator))
    torch.manual_seed(3)
    view = ALL(x)
    torch.manual_seed(3)
    assert torch.equal(view, ALL(x))


def test_a_view_depends_on_no_other_image_of_the_batch():
    x = images(6, 3, 16, 16)
    views = ALL(x, generator=seeded())
    assert torch.equal(ALL(x[:2], generator=seeded()), views[:2])
    others = x.clone()
    others[[0, 1, 2, 4, 5]] = 100 * images(5, 3, 16, 16, seed=1)
    assert torch.equal(ALL(others, generator=seeded())[3], views[3])


def test_no_pixel_moves():
    for shape in ((1, 21, 21), (3, 21, 21), (2, 9, 11, 13)):
        x = torch.zeros(shape)
        middle = tuple(n // 2 for n in shape[1:])
        x[(slice(None), *middle)] = 1.0
        for name in OPERATIONS:
            view = apply_operations(x, [(name, 2)])
            away = (view - view[(0, *[0] * len(middle))]).abs().sum(0)
            if away.max() > 0:
                assert away.argmax() == x[0].argmax()
                flipped = away.flip(tuple(range(away.ndim)))
                torch.testing.assert_close(away, flipped)


def test_nothing_drawn_gives_the_image_itself_to_the_last_bit():
    x = images(3, 2, 8, 8)
    x[..., 0] = -1e5  # to the range of values and back would round the others
    for augment in (RandAugment(number=0), RandAugment(p=0), only("identity")):
        view = augment(x, generator=seeded())
        assert torch.equal(view, x)
        assert view.data_ptr() != x.data_ptr()


def test_no_gradient_is_kept():
    assert not ALL(images(1, 1, 8, 8).requires_grad_(), generator=seeded()).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OPERATIONS)
def test_on_a_gpu_the_views_are_the_same_and_deterministic(name):
    x = images(4, 3, 16, 16)
    torch.use_deterministic_algorithms(True)
    try:
        views = only(name)(x.cuda(), generator=seeded())
    finally:
        torch.use_deterministic_algorithms(False)
    assert views.is_cuda
    torch.testing.assert_close(views.cpu(), only(name)(x, generator=seeded()), atol=1e-2, rtol=0)


# Values


def test_the_defaults_are_those_of_fixmatch():
    augment = RandAugment()
    assert (augment.number, augment.p, augment.magnitude) == (2, 0.5, None)
    assert set(augment.operations) == set(OPERATIONS) - {"invert"}
    assert len(augment.operations) == 9


def test_it_is_a_plain_value():
    augment = RandAugment(operations=["invert", "color"])  # type: ignore[arg-type]
    assert augment.operations == ("invert", "color")
    assert pickle.loads(pickle.dumps(augment)) == copy.deepcopy(augment) == augment
    assert hash(augment) != hash(RandAugment())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("number", -1, "number is -1; it must be a whole number"),
        ("number", 1.5, "number is 1.5"),
        ("p", 1.1, "p is 1.1; it must be between 0 and 1"),
        ("p", math.nan, "p is nan"),
        ("magnitude", 0, "magnitude is 0; it must be above 0 and at most 10"),
        ("magnitude", 10.5, "magnitude is 10.5"),
        ("magnitude", math.nan, "magnitude is nan"),
        ("operations", ("rotate", "invert"), r"operations are \['rotate', 'invert'\]; .* solarize"),
        ("operations", (), r"operations are \[\]"),
    ],
)
def test_values_out_of_range_are_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        RandAugment(**{name: value})


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 8, 8), torch.zeros(1, 1, 2, 3, 4, 5), torch.zeros(1, 1, 4, 4).int()]
)
def test_what_is_no_batch_of_normalised_images_is_refused(x):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        RandAugment()(x)
