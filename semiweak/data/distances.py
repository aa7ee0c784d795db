"""Maps of the distance from each pixel to the nearest point of a class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from semiweak.data.annotations import pixel_of

Distance = Literal["euclidean", "geodesic"]
"""Straight through the image, or along the cheapest way in it."""

Step = tuple[int, ...]
Window = tuple[slice, ...]


def distance_maps(
    image: NDArray[Any],
    points: NDArray[np.float32],
    point_labels: NDArray[np.int64],
    num_classes: int,
    *,
    distance: Distance = "geodesic",
    mixing: float = 0.9,
    spacing: Sequence[float] | None = None,
) -> NDArray[np.float32]:
    """The distance from each pixel to the nearest point of each class.

    ``"euclidean"`` is the exact distance between pixel centres. ``"geodesic"`` is the length of the
    shortest way over neighbouring pixels (8 in 2D, 26 in 3D), where a step from pixel a to b costs

        (1 - mixing) * |a - b|  +  mixing * |I(a) - I(b)| / m

    with |I(a) - I(b)| the Euclidean norm over the channels, and m its mean over all pairs of pixels
    of the image that share a face. So intensities have no unit: a map does not change when all
    grey levels are multiplied or shifted, images of 8 and of 16 bits are treated alike, both parts
    cost about 1 a pixel, and a distance is one in pixels. With ``mixing`` 0 it is still a way over
    neighbouring pixels, up to 8 % longer than the straight one in 2D, and 1 is a change of
    intensity alone. Shortest ways are exact (Dijkstra, in float64).

    Args:
        image: ``(C, *S)``, of any type of number.
        points: ``float32 (N, d)``; the centre of the first pixel is the origin.
        point_labels: Class of each point, ``int64 (N,)``.
        num_classes: K.
        distance: ``"euclidean"``, for which only the size of the image counts, or ``"geodesic"``.
        mixing: The share of the intensities in a step, 0 to 1 (lambda).
        spacing: The size of a pixel along each axis, in any unit, which is then that of the
            distances; m is divided by the smallest. 1 along all axes by default.

    Returns:
        ``float32 (K, *S)``: 0 at the points; NaN for a class without points, and only there.

    Raises:
        ValueError: A point is outside the image or of no class, an argument is out of its range, or
            an image for ``"geodesic"`` has pixels that are not finite.
    """
    shape = image.shape[1:]
    check_distance(distance, mixing, spacing, len(shape))
    size = np.asarray([1.0] * len(shape) if spacing is None else spacing, np.float64)
    pixels = pixel_of(points.reshape(-1, len(shape)))
    outside = ((pixels < 0) | (pixels >= np.asarray(shape))).any(1)
    if outside.any():
        point = points[outside.argmax()].tolist()
        raise ValueError(f"the point {point} is outside the image, whose size is {list(shape)}")
    classes = np.unique(point_labels)
    if len(classes) and not 0 <= classes[0] <= classes[-1] < num_classes:
        raise ValueError(
            f"the points have the classes {classes.tolist()}; with {num_classes} classes these are "
            f"0 to {num_classes - 1}"
        )
    graph = _graph(image, mixing, size) if distance == "geodesic" and len(classes) else None
    maps = np.full((num_classes, *shape), np.nan, np.float32)
    for c in classes:
        seeds = np.ravel_multi_index(tuple(pixels[point_labels == c].T), shape)
        if graph is None:
            elsewhere = np.ones(shape, bool)
            elsewhere.flat[seeds] = False
            maps[c] = distance_transform_edt(elsewhere, sampling=size)
        else:
            maps[c] = dijkstra(graph, indices=np.unique(seeds), min_only=True).reshape(shape)
    return maps


def check_distance(
    distance: str, mixing: float, spacing: Sequence[float] | None, spatial_dims: int
) -> None:
    """Refuses what `distance_maps` can do nothing with.

    Raises:
        ValueError: Says which argument, and what is allowed.
    """
    if distance not in get_args(Distance):
        allowed = " or ".join(map(repr, get_args(Distance)))
        raise ValueError(f"distance is {distance!r}; it must be {allowed}")
    if not 0 <= mixing <= 1:
        raise ValueError(f"mixing is {mixing}; it must be 0 (place alone) to 1 (intensity alone)")
    if spacing is not None and (
        len(spacing) != spatial_dims or not all(0 < s < math.inf for s in spacing)
    ):
        raise ValueError(
            f"spacing is {list(spacing)}; it must be {spatial_dims} positive numbers, one an axis"
        )


def _graph(image: NDArray[Any], mixing: float, size: NDArray[np.float64]) -> csr_array:
    """The pixels and what a step to each neighbour costs, as a sparse matrix.

    Its rows are filled neighbour by neighbour: sorting a list of edges would take several times the
    memory.
    """
    shape = image.shape[1:]
    if math.prod(shape) * (3 ** len(shape) - 1) >= 2**31:  # what SciPy's graphs can number
        raise ValueError(
            f"the image of {' x '.join(map(str, shape))} pixels is too large for geodesic "
            "distances; cut it into blocks, or take distance='euclidean'"
        )
    values = image.astype(np.float64)  # differences of unsigned numbers would wrap around
    if not np.isfinite(values).all():
        raise ValueError("the image has pixels that are not finite; no way leads through them")
    faces = [(s, t) for step, s, t in _steps(shape) if np.abs(step).sum() == 1]
    changes = [_change(values, *windows) for windows in faces]
    pairs = sum(change.size for change in changes)
    mean = sum(float(change.sum()) for change in changes) / max(pairs, 1)
    weight = mixing * float(size.min()) / mean if mean else 0.0

    count = np.zeros(shape, np.int32)
    for _, start, _ in _steps(shape):
        count[start] += 1
    ends = np.concatenate([[0], count.ravel().cumsum(dtype=np.int64)]).astype(np.int32)
    free = ends[:-1].reshape(shape).copy()  # where the next neighbour of a pixel is written
    number = np.arange(count.size, dtype=np.int32).reshape(shape)
    costs, neighbours = np.empty(ends[-1]), np.empty(ends[-1], np.int32)
    for step, start, end in _steps(shape):
        length = float(np.linalg.norm(size * step))
        costs[free[start]] = (1 - mixing) * length + weight * _change(values, start, end)
        neighbours[free[start]] = number[end]
        free[start] += 1
    return csr_array((costs, neighbours, ends), shape=(count.size, count.size))


def _steps(shape: tuple[int, ...]) -> Iterator[tuple[Step, Window, Window]]:
    """Every step to a neighbour, with the pixels where it starts and those where it ends."""
    for step in itertools.product((-1, 0, 1), repeat=len(shape)):
        if any(step):
            ways = list(zip(step, shape, strict=True))
            start = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in ways)
            end = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in ways)
            yield step, start, end


def _change(values: NDArray[np.float64], start: Window, end: Window) -> NDArray[np.float64]:
    """How much the intensity changes in each step: the norm over the channels."""
    difference = values[(slice(None), *start)] - values[(slice(None), *end)]
    return np.asarray(np.linalg.norm(difference, axis=0))
