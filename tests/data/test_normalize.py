import weakref

import numpy as np
import pytest
import torch

from semiweak.data.normalize import Normalization


def images(dtype=np.uint16, top=60000):
    rng = np.random.default_rng(0)
    shapes = [(2, 30, 40), (2, 10, 5), (2, 33, 21)]
    factors = np.array([1, 0.1])[:, None, None]
    return [(top * factors * rng.random(shape)).astype(dtype) for shape in shapes]


def pixels(images):
    return np.concatenate([image.reshape(len(image), -1) for image in images], 1).astype(float)


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint8, 255), (np.uint16, 60000), (np.float32, 1e-3)]
)
def test_standard(dtype, top):
    fitted = Normalization.fit(images(dtype, top))
    np.testing.assert_allclose(fitted.offset, pixels(images(dtype, top)).mean(1), rtol=1e-9)
    np.testing.assert_allclose(fitted.scale, pixels(images(dtype, top)).std(1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_minmax(dtype):
    fitted = Normalization.fit(images(dtype, 200), "minmax")
    low, high = pixels(images(dtype, 200)).min(1), pixels(images(dtype, 200)).max(1)
    np.testing.assert_allclose(fitted.offset, low, rtol=1e-6)
    np.testing.assert_allclose(fitted.scale, high - low, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_percentile(dtype):
    fitted = Normalization.fit(images(dtype, 200), "percentile", (5, 90))
    low, high = np.percentile(pixels(images(dtype, 200)), (5, 90), axis=1)
    np.testing.assert_allclose(fitted.offset, low, rtol=1e-6)
    np.testing.assert_allclose(fitted.scale, high - low, rtol=1e-6)


def test_percentile_of_a_large_image():
    image = np.random.default_rng(0).random((1, 500, 700)).astype(np.float32)
    fitted = Normalization.fit([image], "percentile")
    assert fitted.offset[0] == pytest.approx(0.01, abs=0.002)
    assert fitted.scale[0] == pytest.approx(0.98, abs=0.002)


@pytest.mark.parametrize("method", ["standard", "minmax", "percentile"])
def test_only_one_image_is_in_memory_at_a_time(method):
    read = []

    def images():
        for seed in range(4):
            image = np.random.default_rng(seed).random((1, 20, 30))
            read.append(weakref.ref(image))
            yield image
            del image
            # `fit` still holds the last image, until it gets the next.
            assert [ref() is not None for ref in read[:-1]] == [False] * seed

    Normalization.fit(images(), method)
    assert len(read) == 4


def test_none():
    assert Normalization.fit(images(), "none") == Normalization((0.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize("method", ["standard", "minmax", "percentile"])
@pytest.mark.parametrize("value", [0, 0.1, 7, -3.3, 1 / 3, 1e-4, 65535])
def test_a_constant_channel_keeps_its_scale(method, value):
    """Sums of numbers like 0.1 are rounded: that must not pass for contrast."""
    ramp = np.arange(1003, dtype=np.float32).reshape(17, 59)
    image = np.stack([np.full((17, 59), value, np.float32), ramp])
    fitted = Normalization.fit([image] * 7, method)
    assert fitted.scale[0] == 1
    assert fitted.scale[1] > 1
    assert fitted(torch.from_numpy(image)[None])[0, 0].abs().max() < 1e-3


def test_little_contrast_on_a_bright_ground_is_contrast():
    image = 50000 + np.arange(10, dtype=np.uint16).reshape(1, 2, 5)
    fitted = Normalization.fit([image])
    assert fitted.scale[0] == pytest.approx(image.std(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 2, 2, 4, 5)])
def test_call(shape, dtype):
    image = torch.arange(int(np.prod(shape))).reshape(shape).to(dtype)
    done = Normalization((10.0, -20.0), (2.0, 4.0))(image)
    assert done.dtype == torch.float32
    assert done.shape == shape
    assert torch.allclose(done[:, 0], (image[:, 0].float() - 10) / 2)
    assert torch.allclose(done[:, 1], (image[:, 1].float() + 20) / 4)


def test_standard_gives_zero_mean_and_unit_deviation():
    batch = torch.from_numpy(images(np.float32, 5.0)[0])[None]
    done = Normalization.fit([batch[0].numpy()])(batch)
    assert done.mean((0, 2, 3)) == pytest.approx([0, 0], abs=1e-5)
    assert done.std((0, 2, 3), correction=0) == pytest.approx([1, 1], abs=1e-5)


def test_values_are_plain_floats():
    for method in ("standard", "minmax", "percentile", "none"):
        fitted = Normalization.fit(images(), method)
        assert {type(v) for v in (*fitted.offset, *fitted.scale)} == {float}


@pytest.mark.parametrize(
    ("given", "method", "message"),
    [
        ([np.zeros((1, 2, 2)), np.zeros((3, 2, 2))], "standard", "have 1 and 3 channels"),
        ([], "minmax", "no training image"),
        (
            [np.zeros((1, 2, 2))],
            "z-score",
            "normalize is 'z-score'; allowed are standard, minmax, percentile, none",
        ),
    ],
)
def test_errors(given, method, message):
    with pytest.raises(ValueError, match=message):
        Normalization.fit(given, method)
