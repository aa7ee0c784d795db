"""Symmetric best Dice, AP at ten thresholds and adapted Rand error of one image, beside loops.

python -m benchmarks.instance_metrics
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from benchmarks.report import in_turn, machine, table
from semiweak.metrics.instance_table import THRESHOLDS
from semiweak.metrics.instances import InstanceScores

SCORES = ("sbd", "map", "arand")


def cells(size: int, number: int, seed: int = 0) -> torch.Tensor:
    """Cells that touch: each pixel belongs to the nearest seed, unless that is far."""
    seeds = np.zeros((size, size), dtype=np.int64)
    places = np.random.default_rng(seed).choice(size * size, number, replace=False)
    seeds.flat[places] = np.arange(1, number + 1)
    distance, (y, x) = distance_transform_edt(seeds == 0, return_indices=True)
    labels = seeds[y, x]
    labels[distance > 0.6 * size / number**0.5] = 0
    return torch.from_numpy(labels)


def predicted(target: torch.Tensor) -> torch.Tensor:
    """Shifted by three pixels; every tenth cell is missed, every seventh in two."""
    labels = torch.roll(target, (3, 3), (0, 1))
    halves = (labels % 7 == 0) & (torch.arange(len(labels))[:, None] % 64 < 32)
    labels = torch.where(halves & (labels > 0), labels + int(target.max()), labels)
    return torch.where(labels % 10 == 0, 0, labels)


def scores(preds: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    metric = InstanceScores()
    metric.update(preds[None], target[None])
    return {name: float(value) for name, value in metric.compute().items() if name in SCORES}


def loops(p: NDArray[np.int64], a: NDArray[np.int64]) -> dict[str, float]:
    """The definitions, a mask an object."""
    ps, ts = ([i for i in np.unique(labels) if i] for labels in (p, a))
    dice = np.array(
        [[2 * ((p == i) & (a == j)).sum() / ((p == i).sum() + (a == j).sum()) for j in ts]
         for i in ps]
    )  # fmt: skip
    iou = np.array(
        [[((p == i) & (a == j)).sum() / ((p == i) | (a == j)).sum() for j in ts] for i in ps]
    )
    precision = []
    for threshold in THRESHOLDS:
        free = set(range(len(ts)))
        for row in iou:
            partner = next((j for j in free if row[j] >= threshold), None)
            free -= {partner}
        matched = len(ts) - len(free)
        precision.append(matched / (len(ps) + len(ts) - matched))
    missed = int(((p == 0) & (a > 0)).sum())
    both = missed + sum(int(((p == i) & (a == j)).sum()) ** 2 for i in ps for j in ts)
    of_p = missed + sum(int(((p == i) & (a > 0)).sum()) ** 2 for i in ps)
    of_a = sum(int((a == j).sum()) ** 2 for j in ts)
    return {
        "sbd": float(min(dice.max(0).mean(), dice.max(1).mean())),
        "map": float(np.mean(precision)),
        "arand": 1 - 2 * both / (of_p + of_a),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--loops", choices=("small", "all", "none"), default="small",
                        help="which to time by loops; the largest takes ten minutes")  # fmt: skip
    arguments = parser.parse_args()
    print(f"One image, all instance scores; {machine()}\n")
    rows = []
    for size, number in ((256, 20), (448, 20), (512, 75), (1024, 300)):
        target = cells(size, number)
        preds = predicted(target)
        wide = preds * 10**9  # ids far apart and above 2^31
        tasks = {"ours": lambda p=preds, a=target: scores(p, a),
                 "wide": lambda p=wide, a=target: scores(p, a)}  # fmt: skip
        seconds = in_turn(tasks, arguments.rounds)
        by_loops = "not timed"
        if arguments.loops == "all" or (arguments.loops == "small" and size < 1024):
            start = time.perf_counter()
            expected = loops(preds.numpy(), target.numpy())
            by_loops = f"{1e3 * (time.perf_counter() - start):.0f} ms"
            for name, value in scores(preds, target).items():
                if abs(value - expected[name]) > 1e-5:
                    raise AssertionError(f"{name} is {value}, by loops {expected[name]}")
        rows.append(
            [f"{size} x {size}, {number} objects", f"{1e3 * seconds['ours']:.1f} ms",
             f"{1e3 * seconds['wide']:.1f} ms", by_loops]
        )  # fmt: skip
    print(table(["", "one update and compute", "ids above 2^31", "loops over objects"], rows))


if __name__ == "__main__":
    main()
