from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from semiweak.data.knowledge import understand
from semiweak.data.synthetic import CLASS_NAMES, synthetic_sample

SHAPES = [(16, 16), (128, 128), (40, 90), (32, 64, 64), (6, 30, 50)]


@cache
def series(shape):
    samples = [synthetic_sample(i, shape=shape, num_classes=8) for i in range(8)]
    return [(sample.image[0], sample.annotation) for sample in samples]


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (5, 3), (1, 64, 64), (2, 2, 2)])
def test_types_and_shapes(shape):
    sample = synthetic_sample(3, shape=shape, channels=2)
    assert sample.image.shape == (2, *shape)
    assert sample.image.dtype == np.uint8
    assert sample.shape == shape
    assert sample.annotation.mask.shape == sample.annotation.instances.shape == shape
    assert sample.annotation.mask.dtype == np.uint8
    assert sample.annotation.instances.dtype == np.int32
    assert sample.annotation.boxes.shape == (0, 2 * len(shape))
    assert sample.annotation.kinds() == ("mask",)
    knowledge = understand(sample.annotation, shape, 4)
    assert knowledge.has_mask
    assert not knowledge.contradictions


@pytest.mark.parametrize("shape", [(96, 96), (16, 48, 48)])
def test_a_seed_and_an_index_repeat_an_image(shape):
    def drawn(index, seed):
        sample = synthetic_sample(index, seed=seed, shape=shape)
        return sample.image, sample.annotation.mask, sample.annotation.instances

    first, again = drawn(5, 1), drawn(5, 1)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for other in (drawn(6, 1), drawn(5, 2), drawn(1, 5)):
        assert all((a != b).any() for a, b in zip(first, other, strict=True))


def test_names_differ():
    assert synthetic_sample(7, shape=(16, 16)).name == "synthetic_0007"
    assert len({synthetic_sample(i, shape=(16, 16)).name for i in range(12)}) == 12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_classes", [2, 4, 8])
def test_instances_and_mask_agree(shape, num_classes):
    for index in range(2):
        annotation = synthetic_sample(index, shape=shape, num_classes=num_classes).annotation
        mask, instances = annotation.mask, annotation.instances
        assert mask.max() < num_classes
        assert ((instances > 0) == (mask > 0)).all()
        for i, window in enumerate(ndimage.find_objects(instances), start=1):
            assert window is not None, f"no object has the id {i}"
            region = instances[window] == i
            assert len(np.unique(mask[window][region])) == 1
            _, pieces = ndimage.label(region, np.ones((3,) * len(shape)))
            assert pieces == 1


def test_fewer_classes_show_the_same_scene():
    few, many = (synthetic_sample(0, num_classes=k) for k in (3, 8))
    assert (few.image == many.image).all()
    expected = np.where(many.annotation.mask < 3, many.annotation.mask, 0)
    assert (few.annotation.mask == expected).all()


def test_channels_show_the_same_scene_in_other_contrast():
    one, three = synthetic_sample(0), synthetic_sample(0, channels=3)
    assert (one.image[0] == three.image[0]).all()
    assert (one.annotation.mask == three.annotation.mask).all()
    assert (three.image[0] != three.image[1]).mean() > 0.5
    assert (three.image[1] != three.image[2]).mean() > 0.5


def test_noise_is_as_strong_as_asked_for():
    clean, noisy = (synthetic_sample(0, noise=noise).image.astype(float) for noise in (0, 0.05))
    bright = clean > 0.45 * 255
    assert (noisy - clean)[bright].std() / 255 == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("shape", [(128, 128), (24, 48, 48)])
def test_every_class_occurs_and_none_is_as_frequent_as_the_background(shape):
    masks = [annotation.mask for _, annotation in series(shape)]
    shares = np.bincount(np.ravel(masks), minlength=8) / np.size(masks)
    assert len(CLASS_NAMES) == 8
    assert shares.min() > 0.002
    assert shares.argmax() == 0
    assert 0.3 < shares[0] < 0.8
    assert 0.05 < shares[1] < 0.2, "mitochondria"


def test_larger_images_hold_more_objects_not_larger_ones():
    def areas(size):
        images = [synthetic_sample(i, shape=(size, size)).annotation.instances for i in range(3)]
        return np.concatenate([np.bincount(image.ravel())[1:] for image in images])

    small, large = areas(128), areas(384)
    assert 6 * len(small) < len(large) < 12 * len(small)
    assert np.median(large) == pytest.approx(np.median(small), rel=0.3)


def dice_of_thresholds(shape, num_classes, weight):
    """Mean Dice of the best classifier that sees the grey level of one pixel only."""
    counts = np.zeros((num_classes, 256))
    for image, annotation in series(shape):
        mask = np.where(annotation.mask < num_classes, annotation.mask, 0)
        for c in range(num_classes):
            counts[c] += np.bincount(image[mask == c], minlength=256)
    chosen = (counts / weight(counts.sum(axis=1, keepdims=True))).argmax(axis=0)
    dice = []
    for c in range(num_classes):
        predicted = counts[:, chosen == c]
        dice.append(2 * predicted[c].sum() / (predicted.sum() + counts[c].sum()))
    return np.mean(dice)


@pytest.mark.parametrize("shape", [(128, 128), (24, 48, 48)])
@pytest.mark.parametrize(("num_classes", "limit"), [(2, 0.65), (4, 0.4), (8, 0.3)])
def test_grey_levels_alone_do_not_tell_the_classes(shape, num_classes, limit):
    # The most frequent class of each grey level; the same, if all classes were equally frequent;
    # and half way. (Of two classes, the background alone already gives nearly 0.5.)
    for weight in (np.ones_like, np.asarray, np.sqrt):
        assert dice_of_thresholds(shape, num_classes, weight) < limit


@pytest.mark.parametrize("label", [1, 2, 3])
def test_organelles_have_outlines_to_see(label):
    darker = []
    for image, annotation in series((128, 128)):
        blurred = ndimage.gaussian_filter(image.astype(float), 0.7)
        for i in np.unique(annotation.instances[annotation.mask == label]):
            region = annotation.instances == i
            rim = region & ~ndimage.binary_erosion(region, iterations=2, border_value=1)
            around = ndimage.binary_dilation(region, iterations=5) & (annotation.mask == 0)
            if around.sum() > 20:
                darker.append(blurred[rim].mean() < blurred[around].mean())
    assert len(darker) > 10
    assert np.mean(darker) > 0.8


@pytest.mark.parametrize(
    ("shape", "seconds"), [((128, 128), 0.02), ((256, 256), 0.08), ((32, 64, 64), 0.15)]
)
def test_images_are_drawn_quickly(shape, seconds):
    synthetic_sample(0, shape=shape)
    times = []
    for index in range(5):
        start = time.process_time()
        synthetic_sample(index, shape=shape)
        times.append(time.process_time() - start)
    assert min(times) < 3 * seconds  # three times: the machine may be slow, or busy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (64,)}, r"shape is \(64,\)"),
        ({"shape": (64, 0)}, r"shape is \(64, 0\)"),
        ({"num_classes": 1}, "num_classes is 1; it must be 2 to 8"),
        ({"num_classes": 9}, "num_classes is 9"),
        ({"channels": 0}, "channels is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_sample(0, **arguments)


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="index is -1"):
        synthetic_sample(-1)
