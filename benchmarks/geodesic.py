"""Geodesic distances beside a plain Dijkstra, and beside scikit-image's minimal paths.

python -m benchmarks.geodesic --images 00.tif nuclei.png --volumes sample_ovule.h5:/raw

The error is that of the map of one class on a crop from the middle of the image, against Dijkstra's
algorithm with a heap, pixel by pixel in float64. Times are for the whole image: the first class of
an image needs its graph, the others share it; those of the plain loop are scaled up from the crop.

`skimage.graph.MCP_Geometric` has a cost a pixel: a step costs its length times the mean of its two
pixels. It is given (1 - mixing) + mixing * |gradient| / m, the nearest it can express: the same
distance with mixing 0; with intensity another one, as a difference belongs to two pixels.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.graph import MCP_Geometric

from benchmarks.report import in_turn, machine, table
from semiweak.data.distances import distance_maps
from semiweak.data.readers import read_image, split_source

Image = NDArray[Any]
MIXINGS = (0.0, 0.9, 1.0)
POINTS = 10


def mean_change(image: Image) -> float:
    """m: the mean change between pixels that share a face."""
    changes = [
        np.linalg.norm(np.diff(image.astype(float), axis=axis), axis=0).ravel()
        for axis in range(1, image.ndim)
    ]
    return float(np.concatenate(changes).mean())


def dijkstra(image: Image, points: Image, mixing: float) -> NDArray[np.float64]:
    values = np.moveaxis(image.astype(float), 0, -1).tolist()
    if len(image.shape) == 3:
        values = [values]  # a single section
    depth, height, width = (1, *image.shape[1:])[-3:]
    mean = mean_change(image)
    steps = [
        (s, math.hypot(*s))
        for s in itertools.product(*((-1, 0, 1) if n > 1 else (0,) for n in (depth, height, width)))
        if any(s)
    ]
    found = np.full((depth, height, width), np.inf).tolist()
    heap = [(0.0, (0, *point)[-3:]) for point in points.astype(int).tolist()]
    while heap:
        far, (z, y, x) = heapq.heappop(heap)
        if far >= found[z][y][x]:
            continue
        found[z][y][x] = far
        for (dz, dy, dx), length in steps:
            k, j, i = z + dz, y + dy, x + dx
            if 0 <= k < depth and 0 <= j < height and 0 <= i < width and far < found[k][j][i]:
                change = math.dist(values[z][y][x], values[k][j][i]) / mean
                cost = (1 - mixing) * length + mixing * change
                heapq.heappush(heap, (far + cost, (k, j, i)))
    return np.array(found).reshape(image.shape[1:])


def minimal_paths(image: Image, points: Image, mixing: float) -> NDArray[np.float64]:
    gradients = np.stack([np.stack(np.gradient(c.astype(float))) for c in image])
    size = np.sqrt((gradients**2).sum((0, 1))) / mean_change(image)
    costs = (1 - mixing) + mixing * size
    return MCP_Geometric(costs, fully_connected=True).find_costs(points.astype(int).tolist())[0]


def ours(image: Image, points: Image, mixing: float, classes: int = 1) -> NDArray[np.float32]:
    every = np.tile(points, (classes, 1))
    labels = np.repeat(np.arange(classes), len(points))
    return distance_maps(image, every, labels, classes, mixing=mixing)[0]


def middle(image: Image, pixels: int) -> Image:
    size = [min(n, round(pixels ** (1 / (image.ndim - 1)))) for n in image.shape[1:]]
    starts = [(n - s) // 2 for n, s in zip(image.shape[1:], size, strict=True)]
    return image[(slice(None), *(slice(a, a + s) for a, s in zip(starts, size, strict=True)))]


def draw(image: Image) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, n, POINTS) for n in image.shape[1:]], 1).astype(np.float32)


def off(found: Image, exact: Image) -> tuple[float, float, float]:
    """The largest error, and the median and largest relative one of pixels that are not points."""
    apart, away = np.abs(found - exact), exact > 0
    relative = apart[away] / exact[away]
    return float(apart.max()), float(np.median(relative)), float(relative.max())


def rows_of(name: str, image: Image, rounds: int, crop: int) -> list[list[str]]:
    small, points = middle(image, crop), draw(image)
    near = draw(small)
    size = " x ".join(map(str, image.shape[1:])) + (f", {len(image)} channels" * (len(image) > 1))
    rows = []
    for mixing in MIXINGS:
        start = time.perf_counter()
        exact = dijkstra(small, near, mixing)
        slow = (time.perf_counter() - start) * image[0].size / small[0].size
        seconds = in_turn(
            {
                "first": lambda m=mixing: ours(image, points, m),
                "two": lambda m=mixing: ours(image, points, m, 2),
                "paths": lambda m=mixing: minimal_paths(image, points, m),
            },
            rounds,
        )
        largest, _, relative = off(ours(small, near, mixing), exact)
        _, usual, worst = off(minimal_paths(small, near, mixing), exact)
        more = seconds["two"] - seconds["first"]
        rows.append([f"{name}, {size}", f"{mixing:g}", f"{largest:.0e}", f"{relative:.0e}"])
        rows[-1] += [f"{seconds['first']:.2f} s", f"{more:.2f} s", f"{slow:.0f} s"]
        rows[-1] += [f"{seconds['paths']:.2f} s", f"{usual:.0%}", f"{worst:.0%}"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="*", default=[])
    parser.add_argument("--volumes", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crop", type=int, default=96**2, help="pixels of the crop")
    options = parser.parse_args()
    rows = []
    for spatial_dims, paths in ((2, options.images), (3, options.volumes)):
        for path in paths:
            image = read_image(path, spatial_dims=spatial_dims)
            rows += rows_of(split_source(path)[0].name, image, options.rounds, options.crop)
    head = ["image", "mixing", "off by at most", "relative", "first class", "each more"]
    head += ["plain Dijkstra", "MCP_Geometric", "differs by, median", "at most"]
    print(table(head, rows))
    print(f"\n{POINTS} points a class; plain Dijkstra timed on the crop; {machine()}")


if __name__ == "__main__":
    main()
