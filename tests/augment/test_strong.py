"""Strong views against their parts, and what each image's depend on."""

import copy
import math
import pickle

import pytest
import torch

from semiweak.augment.cutout import CutOut
from semiweak.augment.photometric import Photometric
from semiweak.augment.rand_augment import OPERATIONS, RandAugment
from semiweak.augment.strong import StrongView

SHAPES = [
    (3, 1, 40, 50),
    (2, 3, 40, 50),
    (2, 5, 9, 8),
    (2, 1, 8, 24, 20),
    (1, 1, 1, 1),
    (0, 1, 8, 8),
]
ALL = {
    "photometric": StrongView(
        photometric={"jitter_p": 1, "blur_p": 1, "noise_p": 1, "gray_p": 1}, cutout_size=9
    ),
    "rand_augment": StrongView(
        operations="rand_augment",
        rand_augment={"number": 3, "p": 1, "operations": [*OPERATIONS][1:]},
        cutout_size=9,
    ),
    "none": StrongView(operations="none", cutout_size=9),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


@pytest.fixture(params=ALL)
def strong(request):
    return ALL[request.param]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_has_the_shape_of_its_image_and_leaves_it_alone(shape, strong):
    x = images(*shape)
    before = x.clone()
    for view_of in (strong, StrongView(operations=strong.operations)):
        view = view_of(x, generator=seeded())
        assert view.shape == x.shape
        assert view.dtype == x.dtype
        assert view.isfinite().all()
        assert view.numel() == 0 or view.data_ptr() != x.data_ptr()
        assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_stays(dtype, strong):
    x = images(2, 3, 16, 16).to(dtype)
    assert strong(x, generator=seeded()).dtype == dtype


def test_autocast_changes_nothing(strong):
    x = images(2, 3, 16, 16)
    expected = strong(x, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(strong(x, generator=seeded()), expected)


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_the_memory_format_stays_and_changes_nothing(shape, strong):
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = images(*shape)
    view = strong(x.contiguous(memory_format=layout), generator=seeded())
    assert view.is_contiguous(memory_format=layout)
    torch.testing.assert_close(view, strong(x, generator=seeded()))


def test_a_seed_repeats_the_views(strong):
    x = images(3, 3, 40, 40)
    view = strong(x, generator=seeded(1))
    assert torch.equal(view, strong(x, generator=seeded(1)))
    assert not torch.equal(view, strong(x, generator=seeded(2)))
    generator = seeded(1)
    assert torch.equal(view, strong(x, generator=generator))
    assert not torch.equal(view, strong(x, generator=generator))
    torch.manual_seed(3)
    view = strong(x)
    torch.manual_seed(3)
    assert torch.equal(view, strong(x))


def test_a_view_depends_on_no_other_image_of_the_batch(strong):
    x = images(6, 3, 40, 40)
    views = strong(x, generator=seeded())
    assert torch.equal(strong(x[:2], generator=seeded()), views[:2])
    others = x.clone()
    others[[0, 1, 2, 4, 5]] = 100 * images(5, 3, 40, 40, seed=1)
    assert torch.equal(strong(others, generator=seeded())[3], views[3])


def test_the_next_views_do_not_depend_on_how_many_there_were(strong):
    generators = seeded(), seeded()
    strong(images(2, 1, 20, 20), generator=generators[0])
    strong(images(5, 1, 20, 20), generator=generators[1])
    x = images(3, 1, 20, 20, seed=1)
    first, second = (strong(x, generator=generator) for generator in generators)
    assert torch.equal(first, second)


def test_squares_are_cut_out_of_the_view_and_are_the_same_whatever_the_operations():
    x = images(8, 3, 60, 60)
    x[:, :, ::2] = x[:, :, ::2].abs() + 5  # no two neighbours alike, so that only squares are flat
    cuts = []
    for operations in ALL:
        # Without blur, which would make neighbours alike.
        settings = {"photometric": {"blur_p": 0}, "operations": operations}
        settings["rand_augment"] = {"operations": ["contrast", "invert", "brightness"]}
        views = StrongView(**settings)(x, generator=seeded())
        whole = StrongView(cutout_times=0, **settings)(x, generator=seeded())
        black = whole.flatten(2).amin(2)[:, :, None, None]
        cut = (views != whole).any(1)
        assert torch.equal(views, torch.where(cut[:, None], black, whole))
        cuts.append(((views == black).all(1), cut))
    for flat, cut in cuts:
        assert (cut <= flat).all()
        agree = (cut == cuts[-1][1]).float().mean()
        assert agree > 0.99  # what is black already cannot be seen to be cut out
    assert cuts[0][1].flatten(1).any(1).any()


def test_the_settings_reach_the_parts():
    x = images(6, 3, 50, 50)
    strong = StrongView(cutout_size=7, cutout_times=3, cutout_p=0.8, cutout_fill="mean")
    generator = seeded()
    seeds = torch.randint(2**63 - 1, (2,), generator=generator).tolist()
    expected = Photometric()(x, generator=seeded(seeds[0]))
    expected = CutOut(size=7, times=3, p=0.8, fill="mean")(expected, generator=seeded(seeds[1]))[0]
    assert torch.equal(strong(x, generator=seeded()), expected)
    settings = {"number": 4, "p": 0.9, "operations": ["invert", "equalize"]}
    strong = StrongView(operations="rand_augment", rand_augment=settings, cutout_times=0)
    expected = RandAugment(**settings)(x, generator=seeded(seeds[0]))
    assert torch.equal(strong(x, generator=seeded()), expected)
    strong = StrongView(photometric={"noise_std": [0.5, 0.6], "noise_p": 1}, cutout_times=0)
    expected = Photometric(noise_std=(0.5, 0.6), noise_p=1)(x, generator=seeded(seeds[0]))
    assert torch.equal(strong(x, generator=seeded()), expected)


def test_without_operations_and_squares_the_view_is_the_image():
    x = images(2, 2, 9, 9)
    view = StrongView(operations="none", cutout_times=0)(x, generator=seeded())
    assert torch.equal(view, x)
    assert view.data_ptr() != x.data_ptr()


def test_a_constant_image_stays_constant(strong):
    x = torch.full((3, 3, 20, 20), 2.5)
    torch.testing.assert_close(strong(x, generator=seeded()), x)


def test_no_gradient_is_kept(strong):
    assert not strong(images(1, 1, 8, 8).requires_grad_(), generator=seeded()).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_squares_are_the_same():
    x = images(4, 3, 40, 40)
    view = ALL["none"](x.cuda(), generator=seeded())
    assert view.is_cuda
    assert torch.equal(view.cpu(), ALL["none"](x, generator=seeded()))
    on_device = [torch.Generator("cuda").manual_seed(0) for _ in range(2)]
    first, second = (ALL["photometric"](x.cuda(), generator=g) for g in on_device)
    assert torch.equal(first, second)


def test_the_defaults_are_those_of_the_dsp_supplement():
    strong = StrongView()
    assert (strong.cutout_size, strong.cutout_times, strong.cutout_p) == (32, 9, 0.5)
    assert (strong.operations, strong.photometric, strong.rand_augment) == ("photometric", {}, {})


def test_it_is_a_plain_value():
    strong = StrongView(photometric={"blur_sigma": [0.5, 1.0]})
    assert pickle.loads(pickle.dumps(strong)) == copy.deepcopy(strong) == strong
    assert strong != StrongView()
    assert hash(strong) == hash(copy.deepcopy(strong))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("operations", "colour", "operations is 'colour'; it must be one of 'photometric', 'rand_"),
        ("photometric", {"blur": 1}, "^photometric: there is no 'blur'; there are brightness, "),
        ("photometric", {"blur_p": 2}, "^photometric: blur_p is 2; it must be between 0 and 1"),
        ("rand_augment", {"m": 1}, "^rand_augment: there is no 'm'; there are number, p, "),
        ("rand_augment", {"p": 2}, "^rand_augment: p is 2; it must be between 0 and 1"),
        ("cutout_size", 0, "^cutout_size is 0; it must be a whole number, 1 or more"),
        ("cutout_times", -1, "^cutout_times is -1; it must be"),
        ("cutout_p", math.nan, "^cutout_p is nan; it must be between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        StrongView(**{name: value})


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 8, 8), torch.zeros(1, 1, 2, 3, 4, 5), torch.zeros(1, 1, 4, 4).int()]
)
def test_what_is_no_batch_of_normalised_images_is_refused(x, strong):
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        strong(x)
