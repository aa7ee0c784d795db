"""What is drawn and how strong it is; the operations themselves are tested with RandAugment."""

import copy
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from semiweak.augment.rand_augment import apply_operations
from semiweak.augment.random_view import GRADED, OPERATIONS, RandomView, random_view
from semiweak.augment.rotation import Rotation

PHOTOMETRIC = tuple(name for name in OPERATIONS if name != "rotate")
SHAPES = [
    (3, 1, 20, 30),
    (2, 2, 20, 30),
    (2, 3, 20, 30),
    (2, 5, 9, 8),
    (2, 1, 5, 12, 10),
    (2, 3, 4, 8, 9),
]
ALL = RandomView(number=4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def only(name, **settings):
    return RandomView(**{"number": 1, "operations": (name,), **settings})


# How strong


@pytest.mark.parametrize("shape", [(60, 3, 20, 24), (60, 3, 2, 20, 24)])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (300.0, -70.0)])
@pytest.mark.parametrize("name", GRADED)
def test_a_view_is_the_farther_from_its_image_the_larger_the_magnitude(name, scale, shape):
    x = images(*shape).clamp(-2, 2) * scale[0] + scale[1]
    away = []
    for magnitude in range(0, 31, 3):
        view, rotation = only(name, magnitude=magnitude)(x, generator=seeded())
        away.append((view - x).abs().flatten(1).mean(1))
        assert (rotation.angles == 0).all()
    away = torch.stack(away)
    assert (away[0] == 0).all()
    assert (away.diff(dim=0) >= -1e-5 * scale[0]).all()
    mean = away.mean(1)
    assert (mean.diff() > 0).all()
    assert mean[-1] > 0.05 * scale[0]


@pytest.mark.parametrize("name", GRADED)
def test_magnitude_0_is_the_image_to_the_last_bit(name):
    x = images(4, 3, 9, 9)
    view = only(name, magnitude=0, number=5)(x, generator=seeded()).image
    assert torch.equal(view, x)
    assert view.data_ptr() != x.data_ptr()


def test_solarize_runs_the_right_way():
    # ildoonet/pytorch-randaugment has the threshold at 256 M / 30, by which 0 inverts all and 30
    # nothing, and its posterize leaves 4 M / 30 bits, the more the stronger; both upside down.
    x = torch.linspace(0, 1, 301).reshape(1, 1, 1, -1)
    for magnitude in (3, 9, 15, 27, 30):
        view = only("solarize", magnitude=magnitude)(x).image
        changed = (view - x).abs() > 1e-6
        bright = (x >= 1 - magnitude / 30 - 1e-6) & (x != 0.5)
        assert torch.equal(changed, bright)
    assert "posterize" not in OPERATIONS


@pytest.mark.parametrize("magnitude", [3, 9, 30])
@pytest.mark.parametrize("name", ["contrast", "color", "brightness", "sharpness"])
def test_factors_are_one_more_or_less_with_even_odds(name, magnitude):
    x = images(1, 3, 6, 6)
    views = only(name, magnitude=magnitude)(x.expand(400, -1, -1, -1), generator=seeded()).image
    # RandAugment's factor is 0.1 + 0.18 of its level.
    factors = (1 - 0.9 * magnitude / 30, 1 + 0.9 * magnitude / 30)
    less, more = (apply_operations(x[0], [(name, (f - 0.1) / 0.18)]) for f in factors)
    assert (less - more).abs().max() > 0.01
    as_less = ((views - less).abs().amax((1, 2, 3)) < 1e-5).float()
    as_more = ((views - more).abs().amax((1, 2, 3)) < 1e-5).float()
    assert (as_less + as_more == 1).all()
    assert as_more.mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["autocontrast", "invert", "equalize"])
def test_the_others_know_no_magnitude(name):
    x = images(3, 3, 12, 12)
    expected = torch.stack([apply_operations(one, [(name, 0)]) for one in x])
    for magnitude in (0, 9, 30, None):
        assert torch.equal(only(name, magnitude=magnitude)(x).image, expected)


def test_without_a_magnitude_each_operation_has_its_own_from_0_to_30():
    x = torch.tensor([0.0, 0.25, 1.0]).expand(3000, 1, 1, 3)
    views = only("brightness")(x, generator=seeded()).image
    factors = (4 * views[:, 0, 0, 1]).numpy()
    assert factors.min() > 0.1
    assert factors.max() < 1.9
    counts = np.histogram(factors, 9, (0.1, 1.9))[0] / 3000
    assert np.abs(counts - 1 / 9).max() < 0.025
    two = [RandomView(operations=("solarize",))._drawn(seed)[0] for seed in range(500)]
    levels = np.array([[level for _, level in drawn] for drawn in two])
    assert abs(np.corrcoef(levels.T)[0, 1]) < 0.15


# Turns


def test_a_view_is_the_operations_in_their_order_then_one_turn():
    x = images(12, 3, 20, 20)
    for magnitude in (None, 12):
        augment = RandomView(number=5, magnitude=magnitude)
        view, rotation = augment(x, generator=seeded())
        seeds = torch.randint(2**63 - 1, (12,), generator=seeded()).tolist()
        drawn = [augment._drawn(seed) for seed in seeds]
        assert rotation.angles.tolist() == [angle for _, angle in drawn]
        expected = torch.stack(
            [
                apply_operations(one, operations)
                for one, (operations, _) in zip(x, drawn, strict=True)
            ]
        )
        assert torch.equal(view, rotation.turn(expected))


def test_turns_add_up():
    x = images(40, 1, 16, 16)
    augment = RandomView(number=3, operations=("rotate", "invert"))
    for seed in range(40):
        three = augment._drawn(seed)
        draws = torch.rand((3, 4), generator=seeded(seed), dtype=torch.float64)
        turns = draws[:, 0] < 0.5
        total = (360 * draws[turns, 3]).sum() % 360
        assert three[1] == pytest.approx(total.item(), abs=1e-9)
        assert len(three[0]) == 3 - turns.sum()
    angles = augment(x, generator=seeded()).rotation.angles
    assert ((angles == 0).float().mean() - 1 / 8).abs() < 0.15


def test_turns_are_by_any_angle_alike():
    x = torch.zeros(4000, 1, 2, 2)
    for magnitude in (None, 5):
        angles = only("rotate", magnitude=magnitude)(x, generator=seeded()).rotation.angles
        assert angles.min() >= 0
        assert angles.max() < 360
        counts = torch.histc(angles, 8, 0, 360) / 4000
        assert (counts - 1 / 8).abs().max() < 0.02


def test_for_iic_there_are_turns_alone():
    x = images(5, 2, 24, 24)
    view, rotation = only("rotate", fill="black")(x, generator=seeded())
    assert isinstance(rotation, Rotation)
    assert torch.equal(view, rotation.turn(x, "black"))
    assert not torch.equal(view, rotation.turn(x))
    assert (rotation.angles != 0).all()


def test_a_prediction_comes_back_to_its_image():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    smooth = torch.stack(((y / 9).sin() * (x / 7).cos(), (x / 11).sin()))[None].repeat(8, 1, 1, 1)
    view, rotation = only("rotate")(smooth, generator=seeded())
    back, valid = rotation.turn_back(view), rotation.valid(smooth[:, 0])
    away = (back - smooth).abs().amax(1)
    assert away[valid].median() < 0.005
    assert away[valid].quantile(0.9) < 0.02
    assert 0.5 < valid.float().mean() < 1
    assert (view - smooth).abs().mean() > 0.2


# What is drawn


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_an_operation_happens_as_often_as_its_probability_says(p):
    x = torch.tensor([0.0, 0.5, 1.0]).expand(3000, 1, 1, 3)
    views = only("invert", p=p)(x, generator=seeded()).image
    happened = (views[:, 0, 0, 0] == 1).float().mean()
    assert happened.item() == pytest.approx(p, abs=0.04 if 0 < p < 1 else 0)


def test_each_operation_is_drawn_as_often_as_the_others_in_any_order():
    drawn, orders = Counter(), Counter()
    for seed in range(2500):
        operations, angle = RandomView()._drawn(seed)
        names = [name for name, _ in operations]
        turns = 2 - len(names)
        assert (angle == 0) == (turns == 0)
        drawn.update(names + ["rotate"] * turns)
        if len(set(names)) == 2:
            orders.update([PHOTOMETRIC.index(names[0]) < PHOTOMETRIC.index(names[1])])
    assert set(drawn) == set(OPERATIONS)
    assert all(abs(count / 5000 - 1 / 9) < 0.02 for count in drawn.values())
    assert orders[True] / orders.total() == pytest.approx(0.5, abs=0.04)


def test_more_operations_leave_the_first_as_they_are():
    for seed in range(30):
        many = RandomView(number=20)._drawn(seed)[0]
        few = RandomView()._drawn(seed)[0]
        assert many[: len(few)] == few
        some = RandomView(number=20, p=0.5)._drawn(seed)[0]
        left = iter(many)
        assert all(operation in left for operation in some)


# All views


@pytest.mark.parametrize("shape", [*SHAPES, (0, 1, 8, 8), (4, 3, 1, 1), (4, 2, 3, 3)])
@pytest.mark.parametrize("augment", [ALL, RandomView(fill="black"), *map(only, OPERATIONS)])
def test_a_view_has_the_shape_and_range_of_its_image_and_leaves_it_alone(shape, augment):
    x = 5 * images(*shape) - 3
    before = x.clone()
    view, rotation = augment(x, generator=seeded())
    assert view.shape == x.shape
    assert view.dtype == x.dtype
    assert rotation.angles.shape == shape[:1]
    assert view.isfinite().all()
    assert view.numel() == 0 or view.data_ptr() != x.data_ptr()
    assert torch.equal(x, before)
    for image, one in zip(x, view, strict=True):
        assert one.min() >= image.min() - 1e-4
        assert one.max() <= image.max() + 1e-4


@pytest.mark.parametrize("value", [0.0, -3.7, 1e4])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_constant_image_stays_as_it_is(name, value):
    x = torch.full((2, 3, 9, 9), value)
    torch.testing.assert_close(only(name)(x).image, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_half_precision_is_computed_in_single(name, dtype):
    x = (300 * images(2, 3, 16, 16)).to(dtype)
    view = only(name)(x, generator=seeded()).image
    assert view.dtype == dtype
    assert torch.equal(view, only(name)(x.float(), generator=seeded()).image.to(dtype))


def test_autocast_changes_nothing():
    x = images(4, 3, 16, 16)
    expected = ALL(x, generator=seeded()).image
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ALL(x, generator=seeded()).image, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_memory_format_stays_and_changes_nothing(shape):
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = images(*shape)
    view = ALL(x.contiguous(memory_format=layout), generator=seeded()).image
    assert view.is_contiguous(memory_format=layout)
    assert torch.equal(view, ALL(x, generator=seeded()).image)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_repeats_the_views_and_leaves_the_other_random_numbers_alone(shape):
    x = images(*shape)
    state = torch.get_rng_state()
    view = ALL(x, generator=seeded(1)).image
    assert torch.equal(view, ALL(x, generator=seeded(1)).image)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(view, ALL(x, generator=seeded(2)).image)
    torch.manual_seed(3)
    view = ALL(x).image
    torch.manual_seed(3)
    assert torch.equal(view, ALL(x).image)


def test_a_view_depends_on_no_other_image_of_the_batch():
    x = images(6, 3, 16, 16)
    views, rotation = ALL(x, generator=seeded())
    first = ALL(x[:2], generator=seeded())
    torch.testing.assert_close(first.image, views[:2], atol=1e-6, rtol=0)
    assert torch.equal(first.rotation.angles, rotation.angles[:2])
    others = x.clone()
    others[[0, 1, 2, 4, 5]] = 100 * images(5, 3, 16, 16, seed=1)
    assert torch.equal(ALL(others, generator=seeded()).image[3], views[3])


def test_nothing_drawn_gives_the_image_itself_to_the_last_bit():
    x = images(3, 2, 8, 8)
    x[..., 0] = -1e5
    for augment in (RandomView(number=0), RandomView(p=0)):
        view, rotation = augment(x, generator=seeded())
        assert torch.equal(view, x)
        assert view.data_ptr() != x.data_ptr()
        assert (rotation.angles == 0).all()


def test_no_gradient_is_kept_of_the_images():
    view, rotation = ALL(images(2, 1, 8, 8).requires_grad_(), generator=seeded())
    assert not view.requires_grad
    assert rotation.turn_back(view.clone().requires_grad_()).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OPERATIONS)
def test_on_a_gpu_the_views_are_the_same_and_deterministic(name):
    x = images(4, 3, 16, 16)
    torch.use_deterministic_algorithms(True)
    try:
        views = only(name)(x.cuda(), generator=seeded()).image
    finally:
        torch.use_deterministic_algorithms(False)
    assert views.is_cuda
    expected = only(name)(x, generator=seeded()).image
    torch.testing.assert_close(views.cpu(), expected, atol=1e-2, rtol=0)


# Values


def test_the_operations_are_the_nine_of_the_paper():
    view = RandomView()
    assert (view.number, view.magnitude, view.p) == (2, None, 1.0)
    assert view.operations == OPERATIONS
    assert len(set(OPERATIONS)) == 9


def test_it_is_a_plain_value():
    view = RandomView(operations=["rotate", "color"])  # type: ignore[arg-type]
    assert view.operations == ("rotate", "color")
    assert pickle.loads(pickle.dumps(view)) == copy.deepcopy(view) == view
    assert hash(view) != hash(RandomView())


def test_it_is_built_from_settings():
    assert random_view(None) == RandomView()
    assert random_view({"magnitude": 9}) == RandomView(magnitude=9)
    assert random_view({}, operations=("rotate",)) == RandomView(operations=("rotate",))
    given = random_view({"number": 1}, number=3, p=0.5)
    assert given == RandomView(number=1, p=0.5)
    with pytest.raises(ValueError, match="view: there is no 'level'; there are number"):
        random_view({"level": 3})
    with pytest.raises(ValueError, match="view: p is 3; it must be between 0 and 1"):
        random_view({"p": 3})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("number", -1, "number is -1; it must be a whole number"),
        ("number", 1.5, "number is 1.5"),
        ("p", 1.1, "p is 1.1; it must be between 0 and 1"),
        ("magnitude", -1, "magnitude is -1; it must be between 0 and 30, or none"),
        ("magnitude", 31, "magnitude is 31"),
        ("magnitude", math.nan, "magnitude is nan"),
        ("operations", ("posterize",), r"operations are \['posterize'\]; .* rotate, autocontrast"),
        ("operations", (), r"operations are \[\]"),
        ("fill", "white", "fill is 'white'; it must be 'reflection' or 'black'"),
    ],
)
def test_values_out_of_range_are_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        RandomView(**{name: value})


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 8, 8), torch.zeros(1, 1, 2, 3, 4, 5), torch.zeros(1, 1, 4, 4).int()]
)
def test_what_is_no_batch_of_normalised_images_is_refused(x):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        RandomView()(x)
