"""Distances to points against plain loops, and the traps of geodesic ones."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Any

import numpy as np
import pytest

from semiweak.data.distances import distance_maps

ONE = np.zeros(1, np.int64)


def naive_geodesic(image: Any, seeds: Any, mixing: float, spacing: Any) -> Any:
    """Dijkstra with a heap, pixel by pixel."""
    shape = image.shape[1:]
    values = image.astype(float)

    def change(a: Any, b: Any) -> float:
        return math.dist(values[(slice(None), *a)], values[(slice(None), *b)])

    inside = set(np.ndindex(shape))
    faces = [
        change(a, b)
        for a in inside
        for axis in range(len(shape))
        if (b := (*a[:axis], a[axis] + 1, *a[axis + 1 :])) in inside
    ]
    mean = sum(faces) / len(faces)
    steps = [s for s in itertools.product((-1, 0, 1), repeat=len(shape)) if any(s)]
    found = np.full(shape, np.inf)
    heap = [(0.0, tuple(seed)) for seed in seeds]
    while heap:
        so_far, a = heapq.heappop(heap)
        if so_far >= found[a]:
            continue
        found[a] = so_far
        for step in steps:
            b = tuple(i + s for i, s in zip(a, step, strict=True))
            if b in inside:
                length = math.hypot(*(s * m for s, m in zip(step, spacing, strict=True)))
                brightness = min(spacing) * change(a, b) / mean if mean else 0.0
                cost = (1 - mixing) * length + mixing * brightness
                heapq.heappush(heap, (so_far + cost, b))
    return found


def naive_euclidean(shape: Any, seeds: Any, spacing: Any) -> Any:
    found = np.empty(shape)
    for at in np.ndindex(shape):
        ways = [[(i - j) * m for i, j, m in zip(at, s, spacing, strict=True)] for s in seeds]
        found[at] = min(math.hypot(*way) for way in ways)
    return found


def scene(shape: Any, channels: int = 1, dtype: Any = np.uint8) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (channels, *shape)).astype(dtype)
    points = np.stack([rng.integers(0, n, 5) for n in shape], 1).astype(np.float32)
    return image, points, np.array([0, 2, 0, 2, 2])


@pytest.mark.parametrize("mixing", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize(
    ("shape", "channels", "spacing"),
    [
        ((13, 9), 1, None),
        ((9, 13), 3, None),
        ((12, 11), 1, [2.5, 1.0]),
        ((4, 6, 5), 1, None),
        ((4, 6, 5), 2, [4.0, 0.5, 0.6]),
        ((1, 9), 1, None),
    ],
)
def test_geodesic_distances_are_those_of_a_plain_dijkstra(
    shape: Any, channels: int, spacing: Any, mixing: float
) -> None:
    image, points, labels = scene(shape, channels)
    maps = distance_maps(image, points, labels, 3, mixing=mixing, spacing=spacing)
    assert maps.dtype == np.float32
    assert maps.shape == (3, *shape)
    for c in (0, 2):
        seeds = points[labels == c].astype(int)
        expected = naive_geodesic(image, seeds, mixing, spacing or [1.0] * len(shape))
        np.testing.assert_allclose(maps[c], expected, rtol=1e-6, atol=1e-6)
        assert (maps[c][tuple(seeds.T)] == 0).all()  # zero at the points, not elsewhere
    assert np.isnan(maps[1]).all()  # a class without points has no map


@pytest.mark.parametrize(
    ("shape", "spacing"), [((13, 9), None), ((12, 11), [2.5, 1.0]), ((4, 6, 5), [4.0, 0.5, 0.6])]
)
def test_euclidean_distances_are_exact(shape: Any, spacing: Any) -> None:
    image, points, labels = scene(shape)
    maps = distance_maps(image, points, labels, 3, distance="euclidean", spacing=spacing)
    for c in (0, 2):
        expected = naive_euclidean(shape, points[labels == c], spacing or [1.0] * len(shape))
        np.testing.assert_allclose(maps[c], expected, rtol=1e-6)
    assert np.isnan(maps[1]).all()


def test_the_corner_of_a_square_is_32_diagonal_steps_away() -> None:
    image = np.random.default_rng(0).random((1, 33, 33), np.float32)
    corner = np.zeros((1, 2), np.float32)
    far = 45.254833995939045  # 32 * sqrt(2)
    for distance in ("euclidean", "geodesic"):
        maps = distance_maps(image, corner, ONE, 1, distance=distance, mixing=0.0)
        assert maps[0, 32, 32] == pytest.approx(far, rel=1e-6)
        assert maps[0, 0, 32] == 32
    # Off the axes and diagonals a way over neighbours is longer than the straight one.
    assert maps[0, 16, 32] == pytest.approx(16 + 16 * math.sqrt(2), rel=1e-6)


def test_a_way_follows_what_is_of_one_intensity() -> None:
    """A bright U on black: from one tip to the other it is free along the U."""
    image = np.zeros((1, 20, 15), np.uint8)
    image[0, :15, 3] = image[0, :15, 11] = image[0, 14, 3:12] = 200
    tip = np.array([[0, 3]], np.float32)
    maps = distance_maps(image, tip, ONE, 1, mixing=1.0)[0]
    assert (maps[image[0] == 200] == 0).all()  # steps without cost are steps
    assert (maps[image[0] == 0] > 0).all()
    length = distance_maps(image, tip, ONE, 1, mixing=0.9)[0]
    assert length[0, 11] == pytest.approx(0.1 * (13 + 7 + 13 + math.sqrt(2)), rel=0.05)


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_an_even_image_has_lengths_alone(mixing: float) -> None:
    even = np.full((2, 6, 7), 80, np.uint8)
    point = np.array([[2, 3]], np.float32)
    maps = distance_maps(even, point, ONE, 1, mixing=mixing)
    lengths = distance_maps(even, point, ONE, 1, mixing=0.0)
    np.testing.assert_allclose(maps, (1 - mixing) * lengths, rtol=1e-6)


def test_intensities_have_no_unit() -> None:
    image, points, labels = scene((12, 15))
    maps = distance_maps(image, points, labels, 3)
    for other in (
        257 * image.astype(np.uint16),  # the same in 16 bits
        (255 - image).astype(np.uint8),  # negated; differences of uint8 must not wrap around
        image / np.float32(255) - 7,
        image.repeat(3, axis=0),  # grey as RGB
    ):
        again = distance_maps(other, points, labels, 3)
        np.testing.assert_allclose(again, maps, rtol=1e-4)
    halves = distance_maps(image, points, labels, 3, spacing=[0.5, 0.5])
    np.testing.assert_allclose(halves, maps / 2, rtol=1e-5)


def test_intensity_costs_about_as_much_as_length() -> None:
    image = np.random.default_rng(0).integers(0, 60000, (1, 1, 400)).astype(np.uint16)
    end = np.zeros((1, 2), np.float32)
    for mixing in (0.0, 0.5, 1.0):
        maps = distance_maps(image, end, ONE, 1, mixing=mixing)
        assert maps[0, 0, -1] == pytest.approx(399, rel=1e-5)


def test_a_point_counts_for_the_pixel_that_holds_it() -> None:
    image, _, _ = scene((6, 6))
    maps = distance_maps(image, np.array([[1.4, 2.5]], np.float32), ONE, 1, distance="euclidean")
    assert maps[0, 1, 3] == 0


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_without_points_there_are_no_distances(distance: Any) -> None:
    image, _, _ = scene((6, 6))
    none = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    assert np.isnan(distance_maps(image, *none, 2, distance=distance)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": np.array([[6, 0]], np.float32)}, "outside the image, whose size is .6, 7."),
        ({"point_labels": np.array([2])}, r"the classes \[2\]; with 2 classes these are 0 to 1"),
        ({"distance": "manhattan"}, "distance is 'manhattan'; it must be 'euclidean' or"),
        ({"mixing": 1.5}, "mixing is 1.5"),
        ({"spacing": [1.0]}, "spacing is .1.0.; it must be 2 positive"),
        ({"spacing": [1.0, 0.0]}, "spacing is"),
        ({"image": np.full((1, 6, 7), np.nan)}, "not finite"),
        ({"image": np.broadcast_to(np.uint8(0), (1, 2**14, 2**15))}, "too large for geodesic"),
    ],
)
def test_wrong_arguments_are_told(changes: Any, message: str) -> None:
    given = {
        "image": np.zeros((1, 6, 7), np.uint8),
        "points": np.zeros((1, 2), np.float32),
        "point_labels": ONE,
        "num_classes": 2,
    }
    with pytest.raises(ValueError, match=message):
        distance_maps(**(given | changes))
