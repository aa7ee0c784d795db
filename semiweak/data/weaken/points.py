"""Clicks on the components of a mask, and the pixel of a component that is clicked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial.distance import cdist

from semiweak.data.annotations import Annotation
from semiweak.data.weaken.painting import blank, components, painting_of

LARGEST_GRID = 2**24
"""Grid points of the largest Fourier transform of `medoid`: 2048 x 2048 or 128 x 128 x 128 pixels
of a component's bounding box, in less than 1 GB of memory."""


def to_points(annotation: Annotation, num_classes: int, *, min_size: int = 1) -> Annotation:
    """One click on every component, at its `medoid`.

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
        min_size: The size of the smallest component that is clicked, in pixels.
    """
    painting = painting_of(annotation, num_classes)
    points, labels = [], []
    for label, window, region, size in components(painting):
        if size >= min_size:
            points.append([s.start + i for s, i in zip(window, medoid(region), strict=True)])
            labels.append(label)
    return replace(
        blank(painting.mask.shape, painting.valid()),
        points=np.asarray(points, np.float32).reshape(-1, painting.mask.ndim),
        point_labels=np.asarray(labels, np.int64),
    )


def medoid(region: NDArray[np.bool_]) -> tuple[int, ...]:
    """The pixel of a region that has the smallest sum of Euclidean distances to all its pixels.

    The sums are the convolution of the region with ``|x|``, which a Fourier transform gives for all
    pixels at once. Sums that agree to a relative 1e-9 count as equal, and the first of the pixels
    is taken. That is exact but for ties; only where the bounding box is beyond `LARGEST_GRID` are
    the pixels first gathered in blocks of the smallest side ``b`` that fits, and the mean distance
    may then exceed the smallest one by up to ``2 b sqrt(d)`` pixels.

    Args:
        region: ``bool (*S)``, not empty. Fast if it is cut to its bounding box.
    """
    pixels = np.argwhere(region)
    side = 1
    while math.prod(2 * -(-n // side) - 1 for n in region.shape) > LARGEST_GRID:
        side += 1
    shape = tuple(-(-n // side) for n in region.shape)
    block = np.ravel_multi_index(tuple((pixels // side).T), shape)
    weights = np.bincount(block, minlength=math.prod(shape)).reshape(shape)
    occupied = np.flatnonzero(weights)
    sums = _distance_sums(weights, occupied)
    best = occupied[np.flatnonzero(sums <= sums.min() * (1 + 1e-9))[0]]
    return tuple(int(i) for i in pixels[np.flatnonzero(block == best)[0]])


def _distance_sums(weights: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """The weighted sum of distances from each grid point in ``at`` (flat indices) to all others."""
    size = [fft.next_fast_len(2 * n - 1, real=True) for n in weights.shape]
    if len(at) ** 2 <= min(2 * math.prod(size), LARGEST_GRID):
        coordinates = np.stack(np.unravel_index(at, weights.shape), axis=1).astype(np.float64)
        sums: NDArray[np.float64] = cdist(coordinates, coordinates) @ weights.ravel()[at]
        return sums
    # On a grid of at least 2 n - 1 points a circular convolution does not wrap onto the region.
    offsets = [np.minimum(np.arange(n), n - np.arange(n)) for n in size]
    distance = np.sqrt(sum(o.astype(np.float64) ** 2 for o in np.ix_(*offsets)))
    spectrum = fft.rfftn(weights.astype(np.float64), size)
    spectrum *= fft.rfftn(distance)
    result = fft.irfftn(spectrum, size)[tuple(slice(n) for n in weights.shape)]
    chosen: NDArray[np.float64] = result.ravel()[at]
    return chosen
