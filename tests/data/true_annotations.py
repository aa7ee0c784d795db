"""Random dense truth, and annotations of every kind that are true of it."""

import numpy as np
from scipy import ndimage

from semiweak.data.annotations import ABSENT, NOT_LOOKED_AT, PRESENT, UNKNOWN, Annotation

KINDS = ("mask", "annotated classes", "scribbles", "boxes", "points", "tags", "valid")


def random_truth(rng, shape, num_classes):
    """A class for every pixel: blobs of about 4 pixels, and some single pixels."""
    coarse = rng.integers(num_classes, size=[-(-n // 4) for n in shape])
    for axis, n in enumerate(shape):
        coarse = coarse.repeat(4, axis).take(range(n), axis)
    noise = rng.random(shape) < 0.05
    return np.where(noise, rng.integers(num_classes, size=shape), coarse).astype(np.uint8)


def components(truth, c):
    """The pixels of each object of a class, as (N, d) arrays."""
    labels, count = ndimage.label(truth == c)
    return [np.argwhere(labels == i) for i in range(1, count + 1)]


def true_annotation(truth, num_classes, rng, kinds):
    """What an annotator who makes no mistakes could say of an image with this truth."""
    shape, d = truth.shape, truth.ndim
    said = {}
    looked_at = np.ones(shape, bool)
    if "valid" in kinds:
        looked_at = said["valid"] = rng.random(shape) < 0.7

    def partly(share):
        drawn = np.where(rng.random(shape) < share, truth, np.uint8(UNKNOWN))
        # Nobody looked outside `valid`: what is painted there means nothing.
        return np.where(looked_at, drawn, rng.integers(num_classes, size=shape).astype(np.uint8))

    some = tuple(int(c) for c in rng.permutation(num_classes)[: rng.integers(1, num_classes + 1)])
    if "mask" in kinds:
        said["mask"] = partly(rng.choice([0.5, 1.0]))
    if "annotated classes" in kinds:
        said["annotated_classes"] = some
        other = np.uint8(rng.choice([200, *(set(range(num_classes)) - set(some))]))
        painted = np.where(np.isin(truth, some), truth, other)
        said["mask"] = np.where(rng.random(shape) < 0.2, np.uint8(UNKNOWN), painted)
    if "scribbles" in kinds:
        said["scribbles"] = partly(0.1)
    if "boxes" in kinds:
        said["boxed_classes"] = some
        boxes = []
        for c in range(num_classes):
            for pixels in components(truth, c):
                missed = not looked_at[tuple(pixels.T)].any()
                if missed or (c not in some and rng.random() < 0.5):
                    continue
                loose = rng.random(2 * d) * rng.integers(2)
                start = np.maximum(pixels.min(0) - loose[:d], 0)
                box = [*start, *np.minimum(pixels.max(0) + 1 + loose[d:], shape)]
                boxes.append((box, c, rng.random() < 0.2))
        said["boxes"] = np.array([b for b, _, _ in boxes], np.float32).reshape(-1, 2 * d)
        said["box_labels"] = np.array([c for _, c, _ in boxes], np.int64)
        said["box_is_crowd"] = np.array([crowd for *_, crowd in boxes], bool)
    if "points" in kinds:
        pixels = rng.integers(np.zeros(d, int), shape, size=(rng.integers(1, 8), d))
        # A point counts for the pixel in which it lies, from its first edge on.
        within = rng.integers(-4, 4, pixels.shape) / 8
        said["points"] = (pixels + within).astype(np.float32)
        said["point_labels"] = truth[tuple(pixels.T)].astype(np.int64)
    if "tags" in kinds:
        tags = [PRESENT if (truth[looked_at] == c).any() else ABSENT for c in range(num_classes)]
        asked = rng.random(num_classes) < 0.7
        said["tags"] = np.where(asked, tags, NOT_LOOKED_AT).astype(np.int8)
    return Annotation(**said)


def allows(candidates, truth):
    """Where the candidates hold the true class, ``bool (*S)``."""
    return np.take_along_axis(candidates, truth[None].astype(np.int64), axis=0)[0]
