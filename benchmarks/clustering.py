"""Clusterings side by side: seconds, symmetric best Dice (SBD) and objects; time over image size.

python -m benchmarks.clustering [--embeddings FILE.npz] [--plot FILE.png]

The embeddings are made up: Voronoi cells that touch, means at least 2 delta_d apart, borders mixed
by a Gaussian, and noise. A file has the arrays embeddings (D, *S), truth (*S) and, for
the consistency clustering, other (E, *S).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from benchmarks.report import in_turn, machine, table
from semiweak.clustering import (
    HDBSCAN,
    Clustering,
    ConsistencyClustering,
    MeanShift,
    MutexWatershed,
)
from semiweak.clustering.consistency import anchor_iou, draw_anchors

Scene = tuple[NDArray[np.float32], NDArray[np.int32]]

METHODS: dict[str, Callable[[int], Clustering]] = {
    "MutexWatershed": lambda seed: MutexWatershed(seed=seed),
    "MutexWatershed, not connected": lambda seed: MutexWatershed(connected=False, seed=seed),
    "MutexWatershed, edges split": lambda seed: MutexWatershed(edges="split", seed=seed),
    "MutexWatershed, all long edges": lambda seed: MutexWatershed(share=1, seed=seed),
    "MeanShift": lambda seed: MeanShift(seed=seed),
    "HDBSCAN": lambda seed: HDBSCAN(seed=seed),
    "HDBSCAN, noise filled": lambda seed: HDBSCAN(fill=True, seed=seed),
    "ConsistencyClustering": lambda seed: ConsistencyClustering(seed=seed),
}


def scene(
    shape: tuple[int, ...], objects: int, border: float = 1.0, spread: float = 0.1, seed: int = 0
) -> Scene:
    """Embeddings (16, *S) and objects (*S) that cover the image.

    Args:
        shape: S.
        objects: How many.
        border: Standard deviation in pixels of the Gaussian that mixes embeddings at borders.
        spread: Standard deviation of the noise in each of the 16 dimensions.
        seed: Of the positions, the means and the noise.
    """
    generator = np.random.default_rng(seed)
    grid = np.indices(shape).reshape(len(shape), -1).T
    centres = generator.uniform(size=(objects, len(shape))) * shape
    for _ in range(3):  # towards cells of one size
        cell = cKDTree(centres).query(grid)[1]
        sizes = np.bincount(cell, minlength=objects).clip(1)
        centres = np.stack([np.bincount(cell, x, objects) / sizes for x in grid.T], 1)
    cell = np.unique(cKDTree(centres).query(grid)[1], return_inverse=True)[1].reshape(shape)
    means: list[NDArray[np.float64]] = []
    while len(means) <= cell.max():
        mean = generator.normal(size=16)
        # In 16 dimensions room for hundreds: neighbours 4 apart is what training asks for.
        if all(np.linalg.norm(mean - other) >= 4 for other in means[-100:]):
            means.append(mean)
    embeddings = np.empty((16, *shape), np.float32)
    for d, values in enumerate(np.stack(means, 1)):
        embeddings[d] = gaussian_filter(values[cell].astype(np.float32), border)
        embeddings[d] += spread * generator.standard_normal(shape, np.float32)
    return embeddings, (cell + 1).astype(np.int32)


def symmetric_best_dice(labels: NDArray[np.int32], truth: NDArray[np.int32]) -> float:
    ids, pairs = int(truth.max()) + 1, labels.ravel().astype(np.int64)
    counts = np.bincount(pairs * ids + truth.ravel(), minlength=ids * (labels.max() + 1))
    common = counts.reshape(-1, ids)
    both = common.sum(1, keepdims=True) + common.sum(0, keepdims=True)
    dice = (2 * common / both.clip(1))[1:, 1:]
    return float(min(dice.max(1).mean(), dice.max(0).mean())) if dice.size else 0.0


def compare(scenes: list[Scene], others: list[NDArray[np.float32]], rounds: int) -> str:
    """One row a method: seconds on the first scene; SBD and objects over all, one seed each."""
    first = scenes[0][0]
    seconds = in_turn(
        {name: lambda make=make: make(0)(first, other=others[0]) for name, make in METHODS.items()},
        rounds,
    )
    rows = []
    for name, make in METHODS.items():
        results = [
            make(seed)(embeddings, other=other)
            for seed, ((embeddings, _), other) in enumerate(zip(scenes, others, strict=True))
        ]
        dice = [symmetric_best_dice(r, t) for r, (_, t) in zip(results, scenes, strict=True)]
        number = [int(r.max()) for r in results]
        rows.append([
            name, f"{seconds[name]:.2f}", f"{min(dice):.4f} to {max(dice):.4f}",
            f"{min(number)} to {max(number)}",
        ])  # fmt: skip
    return table(["", "seconds", "SBD", "objects"], rows)


def naive_iou(
    labels: NDArray[np.int32], values: NDArray[np.float32], anchors: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Algorithm 1 of the paper as it stands."""
    result = np.zeros(anchors.shape, np.float32)
    for k in range(len(anchors)):
        own = labels == k + 1
        for m, anchor in enumerate(anchors[k]):
            near = np.linalg.norm(values - values[anchor], axis=1) < 0.5
            result[k, m] = (near & own).sum() / (near | own).sum()
    return result


def second_stage(rounds: int) -> str:
    embeddings, truth = scene((448, 448), 18)
    labels, values = truth.ravel(), np.ascontiguousarray(embeddings.reshape(16, -1).T)
    anchors = draw_anchors(labels, 100, np.random.default_rng(0))
    tasks = {
        "loop over the anchors": lambda: naive_iou(labels, values, anchors),
        "anchor_iou": lambda: anchor_iou(labels, values, anchors, 0.5),
    }
    difference = abs(naive_iou(labels, values, anchors) - tasks["anchor_iou"]()).max()
    seconds = in_turn(tasks, rounds)
    rows = [[name, f"{value:.2f}"] for name, value in seconds.items()]
    return table(["second stage, 18 clusters x 100 anchors", "seconds"], rows) + (
        f"\n\nLargest difference of an IoU: {difference:.1e}"
    )


def memory(task: Callable[[], object]) -> float:
    """MB that the process needs at most beyond what it has before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here

    def status(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    before = status("VmRSS")
    task()
    return status("VmHWM") - before


def sweep(sizes: list[int], plot: Path | None) -> str:
    names = ["MutexWatershed", "MeanShift", "HDBSCAN"]
    curves: dict[str, list[float]] = {name: [] for name in names}
    rows = []
    for size in sizes:
        objects = max(17 * size**2 // 448**2, 4)
        embeddings, truth = scene((size, size), objects)
        for name in names:
            method, times = METHODS[name](0), []
            peak = memory(lambda method=method, x=embeddings: method(x))
            for _ in range(3):
                start = time.perf_counter()
                labels = method(embeddings)
                times.append(time.perf_counter() - start)
            seconds = statistics.median(times)
            curves[name].append(seconds)
            rows.append([
                f"{size} x {size}, {truth.max()} objects", name, f"{seconds:.3f}", f"{peak:.0f}",
                f"{symmetric_best_dice(labels, truth):.4f}",
            ])  # fmt: skip
    if plot:
        draw(sizes, curves, plot)
    return table(["", "", "seconds", "peak MB beyond the input", "SBD"], rows)


def draw(sizes: list[int], curves: dict[str, list[float]], path: Path) -> None:
    """Seconds over pixels, both logarithmic."""
    width, height, left, bottom = 640, 420, 60, 370
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    values = [value for curve in curves.values() for value in curve]
    low, high = np.floor(np.log10(min(values))), np.ceil(np.log10(max(values)))

    def place(size: float, seconds: float) -> tuple[float, float]:
        x = np.log(size / sizes[0]) / np.log(sizes[-1] / sizes[0])
        y = (np.log10(seconds) - low) / (high - low)
        return left + 540 * x, bottom - 330 * y

    for power in np.arange(low, high + 1):
        y = place(sizes[0], 10.0**power)[1]
        pen.line((left, y, left + 540, y), fill="lightgray")
        pen.text((8, y - 6), f"{10.0**power:g} s", fill="black")
    for size in sizes:
        pen.text((place(size, 10**low)[0] - 12, bottom + 8), f"{size} px", fill="black")
    colors = ("#0072b2", "#d55e00", "#009e73")
    for row, ((name, curve), color) in enumerate(zip(curves.items(), colors, strict=True)):
        pen.line([place(*point) for point in zip(sizes, curve, strict=True)], fill=color, width=3)
        pen.text((left + 400, 310 + 16 * row), name, fill=color)
    pen.text((left, 14), "Clustering: seconds over image size, 16 dimensions", fill="black")
    image.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", type=Path, help="an .npz file instead of made-up scenes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--sweep_only", action="store_true", help="time over image size alone")
    parser.add_argument("--plot", type=Path, help="where to draw seconds over image size")
    arguments = parser.parse_args()
    print(f"Seeds 0 to {arguments.seeds - 1}; {machine()}")
    if arguments.embeddings:
        with np.load(arguments.embeddings) as file:
            given = file["embeddings"], file["truth"].astype(np.int32)
            other = file["other"] if "other" in file else given[0]
        print(f"\n{arguments.embeddings.name}, {given[0].shape}\n")
        print(compare([given] * arguments.seeds, [other] * arguments.seeds, arguments.rounds))
        return
    if arguments.sweep_only:
        print(sweep(arguments.sizes, arguments.plot))
        return
    for shape, objects in (((448, 448), 17), ((40, 64, 64), 30)):
        for border, spread in ((1.0, 0.06), (1.0, 0.1), (1.5, 0.1), (1.0, 0.2)):
            scenes = [scene(shape, objects, border, spread, s) for s in range(arguments.seeds)]
            print(f"\n{shape}, {objects} objects, border {border} px, noise {spread}\n")
            noise = torch.Generator().manual_seed(0)
            others = [x + 0.02 * torch.randn(x.shape, generator=noise).numpy() for x, _ in scenes]
            print(compare(scenes, others, arguments.rounds), flush=True)
    print(f"\n{second_stage(arguments.rounds)}\n", flush=True)
    print(sweep(arguments.sizes, arguments.plot))


if __name__ == "__main__":
    main()
