"""Views against their formulas, scipy and the promise that no pixel moves."""

import copy
import math
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from semiweak.augment.photometric import Photometric, gaussian_blur, jitter_color

NOTHING = Photometric(jitter_p=0, gray_p=0, blur_p=0, noise_p=0)
ALL = Photometric(jitter_p=1, gray_p=1, blur_p=1, noise_p=1)
ONLY = {name: replace(NOTHING, **{name: 1}) for name in ("jitter_p", "gray_p", "blur_p", "noise_p")}
SHAPES = [(3, 1, 20, 30), (2, 2, 20, 30), (2, 3, 20, 30), (2, 5, 9, 8), (2, 1, 5, 12, 10)]
ZERO = torch.tensor(0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


# All steps


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 6, 12, 10), (1, 1, 1, 1), (0, 1, 8, 8)])
@pytest.mark.parametrize("photometric", [NOTHING, ALL, Photometric()])
def test_a_view_has_the_shape_of_its_image_and_leaves_it_alone(shape, photometric):
    x = images(*shape)
    before = x.clone()
    view = photometric(x, generator=seeded())
    assert view.shape == x.shape
    assert view.dtype == x.dtype
    assert view.isfinite().all()
    assert view.numel() == 0 or view.data_ptr() != x.data_ptr()
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_stays_and_half_precision_is_computed_in_single(dtype):
    x = images(2, 3, 16, 16).to(dtype)
    # In double precision the noise is drawn in double precision, so that it is another.
    photometric = replace(ALL, noise_p=0) if dtype == torch.float64 else ALL
    view = photometric(x, generator=seeded())
    assert view.dtype == dtype
    expected = photometric(x.float(), generator=seeded())
    torch.testing.assert_close(view.float(), expected.to(dtype).float(), atol=2e-6, rtol=2e-6)


def test_autocast_changes_nothing():
    x = images(2, 3, 16, 16)
    expected = ALL(x, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ALL(x, generator=seeded()), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_memory_format_stays_and_changes_nothing(shape):
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = images(*shape)
    view = ALL(x.contiguous(memory_format=layout), generator=seeded())
    assert view.is_contiguous(memory_format=layout)
    torch.testing.assert_close(view, ALL(x, generator=seeded()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_repeats_the_views(shape):
    x = images(*shape)
    view = ALL(x, generator=seeded(1))
    assert torch.equal(view, ALL(x, generator=seeded(1)))
    assert not torch.equal(view, ALL(x, generator=seeded(2)))
    generator = seeded(1)
    assert torch.equal(view, ALL(x, generator=generator))
    assert not torch.equal(view, ALL(x, generator=generator))  # the second view is another
    torch.manual_seed(3)
    view = ALL(x)
    torch.manual_seed(3)
    assert torch.equal(view, ALL(x))


def test_each_image_gets_a_view_of_its_own():
    x = images(1, 1, 16, 16).expand(6, -1, -1, -1)
    for photometric in (ALL, ONLY["jitter_p"], ONLY["blur_p"], ONLY["noise_p"]):
        views = photometric(x, generator=seeded())
        assert len({tuple(v.flatten().tolist()) for v in views}) == 6


def test_a_view_depends_on_no_other_image_of_the_batch():
    x = images(6, 3, 16, 16)
    views = Photometric()(x, generator=seeded())
    assert torch.equal(Photometric()(x[:2], generator=seeded()), views[:2])
    others = x.clone()
    others[[0, 1, 2, 4, 5]] = 100 * images(5, 3, 16, 16, seed=1)
    assert torch.equal(Photometric()(others, generator=seeded())[3], views[3])


def test_the_probability_of_one_step_does_not_move_the_others():
    x = images(4, 1, 16, 16)
    views = ONLY["jitter_p"](x, generator=seeded())
    assert torch.equal(views, replace(ONLY["jitter_p"], gray_p=0.9)(x, generator=seeded()))
    noise = ONLY["noise_p"](x, generator=seeded()) - x
    both = replace(ONLY["jitter_p"], noise_p=1)(x, generator=seeded())
    torch.testing.assert_close(both - views, noise, atol=1e-5, rtol=0)


def test_steps_happen_independently_of_each_other():
    x = images(2000, 3, 2, 2)
    steps = {"jitter_p": 0.5, "gray_p": 0.5, "blur_p": 0.5, "noise_p": 0.5}
    happened = []
    for name, p in steps.items():
        one = replace(NOTHING, blur_sigma=(1, 1), noise_std=(1, 1), **{name: p})
        happened.append((one(x, generator=seeded()) != x).flatten(1).any(dim=1).float())
    correlation = torch.corrcoef(torch.stack(happened))
    assert (correlation - torch.eye(4)).abs().max() < 0.1


def test_without_any_step_a_view_is_a_copy():
    x = images(4, 3, 16, 16)
    assert torch.equal(NOTHING(x, generator=seeded()), x)


@pytest.mark.parametrize("name", ["jitter_p", "gray_p", "blur_p", "noise_p"])
def test_a_step_happens_as_often_as_its_probability_says(name):
    x = images(400, 3, 4, 4)
    views = replace(NOTHING, blur_sigma=(1, 1), **{name: 0.3})(x, generator=seeded())
    changed = (views != x).flatten(1).any(dim=1).float().mean()
    assert changed.item() == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("shape", [(8, 1, 21, 21), (8, 3, 21, 21), (8, 1, 15, 15, 15)])
def test_no_pixel_moves(shape):
    x = torch.zeros(shape)
    middle = tuple(n // 2 for n in shape[2:])
    x[(..., *middle)] = 1.0
    views = replace(ALL, noise_p=0)(x, generator=seeded())
    spot = (views - views.flatten(2).amin(2).reshape(*shape[:2], *[1] * len(middle))).double()
    for axis, centre in enumerate(middle, start=2):
        position = torch.arange(shape[axis], dtype=torch.float64)
        profile = spot.sum([d for d in range(2, x.ndim) if d != axis])
        centroid = (profile * position).sum(-1) / profile.sum(-1)
        torch.testing.assert_close(centroid, torch.full_like(centroid, centre), atol=1e-4, rtol=0)
    assert (spot.flatten(2).argmax(2) == x.flatten(2).argmax(2)).all()


@pytest.mark.parametrize("value", [0.0, -3.7, 1e4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_constant_image_stays_constant(shape, value):
    x = torch.full(shape, value)
    views = ALL(x, generator=seeded())
    torch.testing.assert_close(views, x, atol=1e-6, rtol=1e-5)


def test_views_do_not_depend_on_how_the_images_were_normalised():
    x = images(4, 3, 16, 16, seed=5)
    views = ALL(x, generator=seeded())
    other = ALL(x * 0.1 + 0.4, generator=seeded())
    torch.testing.assert_close(other, views * 0.1 + 0.4, atol=1e-5, rtol=1e-4)


def test_no_gradient_is_kept():
    assert not ALL(images(1, 1, 8, 8).requires_grad_(), generator=seeded()).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_all_but_the_noise_is_the_same():
    x = images(4, 3, 16, 16)
    photometric = replace(ALL, noise_p=0)
    views = photometric(x.cuda(), generator=seeded())
    assert views.is_cuda
    torch.testing.assert_close(views.cpu(), photometric(x, generator=seeded()))
    on_device = [torch.Generator("cuda").manual_seed(0) for _ in range(2)]
    first, second = (ALL(x.cuda(), generator=generator) for generator in on_device)
    assert torch.equal(first, second)


# Each step


def test_brightness_is_an_offset_in_deviations():
    x = images(300, 2, 8, 8) * 7 + 3
    photometric = replace(ONLY["jitter_p"], contrast=0)
    offset = photometric(x, generator=seeded()) - x
    in_deviations = offset.flatten(1) / x.flatten(1).std(dim=1, correction=0, keepdim=True)
    assert (in_deviations.amax(1) - in_deviations.amin(1)).max() < 1e-4
    drawn = in_deviations[:, 0]
    assert -0.4 <= drawn.min() < -0.37
    assert 0.37 < drawn.max() <= 0.4
    assert abs(drawn.mean()) < 0.04


def test_contrast_scales_about_the_mean():
    x = images(300, 2, 8, 8) * 7 + 3
    views = replace(ONLY["jitter_p"], brightness=0)(x, generator=seeded())
    torch.testing.assert_close(views.flatten(1).mean(1), x.flatten(1).mean(1))
    factor = views.flatten(1).std(1) / x.flatten(1).std(1)
    assert 0.6 <= factor.min() < 0.63
    assert 1.37 < factor.max() <= 1.4


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_saturation_and_hue_are_for_three_channels_only(channels):
    x = images(3, channels, 8, 8)
    expected = replace(ONLY["jitter_p"], saturation=0, hue=0)(x, generator=seeded())
    assert torch.equal(ONLY["jitter_p"](x, generator=seeded()), expected)
    colours = images(3, 3, 8, 8)
    plain = replace(ONLY["jitter_p"], saturation=0, hue=0)(colours, generator=seeded())
    for without in ("saturation", "hue"):
        one = replace(ONLY["jitter_p"], **{without: 0})(colours, generator=seeded())
        assert not torch.allclose(one, plain, atol=1e-3)


def test_jitter_is_its_formula():
    x = images(3, 6, 7).double()
    center, offset = torch.tensor(0.3).double(), torch.tensor(-0.8).double()
    angle, axis = 2 * math.pi * 0.07, np.ones(3) / math.sqrt(3)
    cross = np.cross(np.eye(3), axis)
    turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    expected = np.empty(x.shape)
    for place in np.ndindex(6, 7):
        value = x[(slice(None), *place)].numpy()
        gray = value.mean()
        colour = gray + 1.3 * turn @ (value - gray)
        expected[(slice(None), *place)] = 0.8 * (colour - 0.3) + 0.3 - 0.8
    found = jitter_color(x, center=center, offset=offset, contrast=0.8, saturation=1.3, hue=0.07)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)


def test_a_third_of_the_circle_swaps_the_colours():
    x = images(3, 4, 4)
    found = jitter_color(x, center=ZERO, offset=ZERO, hue=1 / 3)
    torch.testing.assert_close(found, x.roll(1, dims=0), atol=1e-6, rtol=0)


def test_hue_and_saturation_leave_grey_alone():
    x = images(1, 5, 5).expand(3, -1, -1)
    found = jitter_color(x, center=ZERO, offset=ZERO, saturation=0.2, hue=0.3)
    torch.testing.assert_close(found, x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_grey_is_the_mean_of_three_channels_or_more(channels):
    x = images(2, channels, 6, 7)
    views = ONLY["gray_p"](x, generator=seeded())
    expected = x.mean(1, keepdim=True).expand_as(x) if channels >= 3 else x
    torch.testing.assert_close(views, expected)


@pytest.mark.parametrize("sigma", [0.1, 0.124, 0.126, 0.5, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("shape", [(1, 30, 20), (3, 5, 40), (2, 1, 1), (2, 2, 3), (1, 6, 9, 11)])
def test_blur_is_scipys(shape, sigma):
    x = images(*shape).double()
    expected = ndimage.gaussian_filter(
        x.numpy(), sigma, mode="mirror", truncate=4, axes=tuple(range(1, len(shape)))
    )
    np.testing.assert_allclose(gaussian_blur(x, sigma).numpy(), expected, atol=1e-12)


def test_no_blur_is_no_blur():
    x = images(1, 8, 8)
    assert torch.equal(gaussian_blur(x, 0.0), x)


def test_the_blur_is_as_wide_as_the_range_says():
    x = torch.zeros(200, 1, 41, 41)
    x[:, :, 20, 20] = 1
    views = replace(ONLY["blur_p"], blur_sigma=(1.0, 3.0))(x, generator=seeded())
    distance = (torch.arange(41) - 20.0) ** 2
    sigma = (views.sum(2).squeeze(1) @ distance).sqrt()
    assert 0.98 < sigma.min() < 1.05
    assert 2.9 < sigma.max() < 3.0  # cut off at 4 sigma, a little of it is lost
    torch.testing.assert_close(views.sum((1, 2, 3)), torch.ones(200))


@pytest.mark.parametrize("shape", [(1, 1, 200, 200), (1, 3, 120, 120), (1, 1, 30, 40, 40)])
def test_noise_is_gaussian_white_and_independent(shape):
    x = images(*shape) * 5 - 2
    noise = replace(ONLY["noise_p"], noise_std=(0.3, 0.3))(x, generator=seeded(1)) - x
    expected = 0.3 * x.std(correction=0)
    assert noise.std().item() == pytest.approx(expected.item(), rel=0.02)
    assert abs(noise.mean()) < 0.03 * expected
    scaled = noise / expected
    assert (scaled**4).mean().item() == pytest.approx(3, abs=0.15)
    for axis in range(1, len(shape)):
        if shape[axis] > 1:
            neighbours = (scaled * scaled.roll(1, dims=axis)).mean()
            assert abs(neighbours) < 0.03
    assert abs((scaled * x).mean() / x.std()) < 0.03


def test_no_two_images_share_their_noise():
    x = images(1, 1, 16, 16).expand(5, -1, -1, -1)
    noise = replace(ONLY["noise_p"], noise_std=(1, 1))(x, generator=seeded()) - x
    correlation = torch.corrcoef(noise.flatten(1))
    assert (correlation - torch.eye(5)).abs().max() < 0.3


def test_the_noise_is_as_strong_as_the_range_says():
    x = images(300, 1, 24, 24)
    noise = replace(ONLY["noise_p"], noise_std=(0.1, 0.5))(x, generator=seeded()) - x
    strength = noise.flatten(1).std(1) / x.flatten(1).std(1)
    assert strength.min().item() == pytest.approx(0.1, abs=0.02)
    assert strength.max().item() == pytest.approx(0.5, abs=0.05)
    assert strength.mean().item() == pytest.approx(0.3, abs=0.03)


# Values


def test_the_defaults_are_those_of_the_authors_code():
    photometric = Photometric()
    assert (photometric.brightness, photometric.contrast, photometric.saturation) == (0.4,) * 3
    assert (photometric.hue, photometric.jitter_p, photometric.gray_p) == (0.1, 0.5, 0.2)
    assert (photometric.blur_p, photometric.blur_sigma) == (0.5, (0.1, 2.0))


def test_it_is_a_plain_value():
    photometric = Photometric(blur_sigma=[0.5, 1.0])  # type: ignore[arg-type]
    assert photometric.blur_sigma == (0.5, 1.0)
    assert pickle.loads(pickle.dumps(photometric)) == copy.deepcopy(photometric) == photometric
    assert hash(photometric) != hash(Photometric())


@pytest.mark.parametrize("name", [f.name for f in fields(Photometric) if f.type == "float"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_is_no_probability_or_strength_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        Photometric(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("blur_p", 1.1, "between 0 and 1"),
        ("contrast", 2, "between 0 and 1"),
        ("hue", 0.6, "between 0 and 0.5"),
        ("blur_sigma", (2, 1), "smallest and a largest"),
        ("blur_sigma", (-1, 1), "smallest and a largest"),
        ("noise_std", (0.1,), "smallest and a largest"),
        ("noise_std", (0, math.inf), "smallest and a largest"),
        ("noise_std", (0, math.nan), "smallest and a largest"),
    ],
)
def test_values_out_of_range_are_refused(name, value, words):
    with pytest.raises(ValueError, match=words) as error:
        Photometric(**{name: value})
    assert str(error.value).startswith(name)


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 8, 8), torch.zeros(1, 1, 2, 3, 4, 5), torch.zeros(1, 1, 4, 4).int()]
)
def test_what_is_no_batch_of_normalised_images_is_refused(x):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        Photometric()(x)
