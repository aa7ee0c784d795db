"""The results of `annotation_types` as a CSV file, a table and two plots."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.report import machine, table

mpl.use("Agg")
import matplotlib.pyplot as plt

Result = dict[str, Any]
Line = tuple[str, str]
"""What the other images have, and the method."""

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#888888")
CHANCE = ("random", "class prior")


def report(
    results: list[Result], out: Path, *, order: Sequence[Line], seconds: dict[str, float]
) -> None:
    """Writes the CSV file and the plots, and prints the table.

    Args:
        results: Of each run its method, others, acr, seed, scores and annotation.
        out: The folder for the files.
        order: The lines of the table.
        seconds: How long annotators take for one of each kind.
    """
    for found in results:
        found["hours"] = hours(found["annotation"], seconds)
    results.sort(key=lambda r: (order.index((r["others"], r["method"])), r["acr"], r["seed"]))
    write_csv(results, out / "results.csv")
    print(f"\nTest Dice, mean and deviation over seeds (number of runs); {machine()}\n")
    ratios = sorted({r["acr"] for r in results})
    rows = []
    for others, method in order:
        cells = [
            _cell([r["scores"]["dice"] for r in of])
            for of in _by_ratio(results, others, method, ratios)
        ]
        if any(cells):
            rows.append([others, method, *cells])
    print(table(["others have", "method", *(f"ACR {acr:g}" for acr in ratios)], rows))
    draw(results, out / "accuracy.png", order, "acr", "annotation compression ratio (ACR)")
    draw(results, out / "cost.png", order, "hours", "hours of annotation")
    print(f"\nAll runs: {out / 'results.csv'}; plots: {out / 'accuracy.png'}, {out / 'cost.png'}")


def hours(annotation: dict[str, int], seconds: dict[str, float]) -> float:
    """How long annotators work."""
    return sum(number * seconds[kind] for kind, number in annotation.items()) / 3600


def write_csv(results: Iterable[Result], path: Path) -> None:
    """One line a run; classes that have no score in a run leave an empty field."""
    rows = [
        {key: r[key] for key in ("method", "others", "acr", "seed", "hours", "seconds")}
        | r["annotation"]
        | r["scores"]
        for r in results
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def draw(
    results: Sequence[Result], path: Path, order: Sequence[Line], axis: str, label: str
) -> None:
    """Test Dice over ``axis``, a panel for each annotation of the others, with deviations.

    What does not look at the other images is drawn in all panels, dashed; chance is a dotted line.
    """
    panels = [o for o in dict.fromkeys(others for others, _ in order) if o != "masks"]
    panels = [o for o in panels if any(r["others"] == o for r in results)]
    if not panels:
        return
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 3.2 * len(panels), 4.2), sharey=True, squeeze=False
    )
    for panel, others in zip(axes[0], panels, strict=True):
        colors = cycle(COLORS)
        for method in dict.fromkeys(method for _, method in order):
            own = [r for r in results if r["method"] == method and r["others"] == others]
            common = [r for r in results if r["method"] == method and r["others"] == "masks"]
            if not own and method not in (*CHANCE, "U-Net"):
                continue
            beside = not own
            own = own or [r for r in results if r["method"] == method and r["others"] == "none"]
            points = _points([*common, *own], axis)
            if not points:
                continue
            x, mean, spread = zip(*points, strict=True)
            style = ":" if method in CHANCE else "--" if beside else "-"
            (line,) = panel.plot(
                x, mean, style, marker="." if style == "-" else "", label=method, color=next(colors)
            )
            low, high = ([m + s * d for m, d in zip(mean, spread, strict=True)] for s in (-1, 1))
            panel.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        panel.set_title(f"others have {others}")
        panel.set_xlabel(label)
        panel.set_xscale("log")
        ticks = sorted({r["acr"] for r in results})
        if axis == "acr":
            panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
            panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    axes[0][0].set_ylabel("test Dice")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _points(results: Sequence[Result], axis: str) -> list[tuple[float, float, float]]:
    """Place, mean and deviation of the Dice at each ACR."""
    points = []
    for acr in {r["acr"] for r in results}:
        of = [r for r in results if r["acr"] == acr]
        dice = [r["scores"]["dice"] for r in of]
        spread = statistics.stdev(dice) if len(dice) > 1 else 0.0
        points.append((statistics.mean(r[axis] for r in of), statistics.mean(dice), spread))
    return sorted(points)


def _by_ratio(
    results: Sequence[Result], others: str, method: str, ratios: Sequence[float]
) -> list[list[Result]]:
    mine = [r for r in results if (r["others"], r["method"]) == (others, method)]
    return [[r for r in mine if r["acr"] == acr] for acr in ratios]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread} ({len(values)})"
