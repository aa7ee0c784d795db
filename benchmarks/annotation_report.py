"""The results of `annotation_types` as a CSV file, a table and two plots."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.report import machine, table

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

Result = dict[str, Any]
Line = tuple[str, str]
"""What the other images have, and the method."""

COLORS = (
    *("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#e69f00", "#56b4e9", "#8c564b", "#6a3d9a"),
)
MARKERS = "osD^v<>pX"
CHANCE = ("random", "class prior")
PLAIN = "U-Net"
TITLES = {"none": "nothing", "mixed": "boxes, points, tags or nothing"}


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

    In all panels: chance (dotted), and the plain network whose other images have nothing (dashed).
    """
    panels = [o for o in dict.fromkeys(others for others, _ in order) if o != "masks"]
    panels = [o for o in panels if any(r["others"] == o for r in results)]
    if not panels:
        return
    methods = list(dict.fromkeys(method for _, method in order))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.3 * rows + 1), sharey=True, squeeze=False
    )
    for panel, others in zip(axes.flat, panels, strict=False):
        for method in methods:
            common = [r for r in results if (r["method"], r["others"]) == (method, "masks")]
            for given in dict.fromkeys((others, "none")):
                own = [r for r in results if (r["method"], r["others"]) == (method, given)]
                if own and (given == others or method in (*CHANCE, PLAIN)):
                    _line(panel, method, _points([*common, *own], axis), methods, given != others)
        panel.set_title(f"others have {TITLES.get(others, others)}", fontsize=10)
        panel.set_xlabel(label)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        ticks = {r["acr"] for r in results} if axis == "acr" else _ticks(r[axis] for r in results)
        panel.set_xticks(sorted(ticks))
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(panels) :]:
        panel.set_axis_off()
    for row in axes:
        row[0].set_ylabel("test Dice")
    lines = {line.get_label(): line for panel in axes.flat for line in panel.get_lines()}
    figure.tight_layout(rect=(0, 0.7 / (3.3 * rows + 1), 1, 1))
    figure.legend(lines.values(), lines.keys(), loc="lower center", ncols=5, fontsize=7.5)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(
    panel: Axes,
    method: str,
    points: Sequence[tuple[float, float, float]],
    methods: Sequence[str],
    beside: bool,
) -> None:
    """One method; those of one name up to the comma, such as "FixMatch, filtered", look alike."""
    x, mean, spread = zip(*points, strict=True)
    families = list(dict.fromkeys(m.split(", ")[0] for m in methods if m not in CHANCE))
    if method in CHANCE:
        look = {"color": ("0.75", "0.5")[CHANCE.index(method)], "linestyle": ":"}
        panel.plot(x, mean, label=method, **look)
        return
    family = families.index(method.split(", ")[0])
    color, marker = COLORS[family % len(COLORS)], MARKERS[family % len(MARKERS)]
    part = method != method.split(", ")[0] and method.split(", ")[0] == PLAIN
    style = "--" if beside else "-." if part else "-"
    name = f"{method}, others have nothing" if beside else method
    panel.plot(x, mean, style, marker=marker, markersize=4, label=name, color=color)
    low, high = ([m + s * d for m, d in zip(mean, spread, strict=True)] for s in (-1, 1))
    panel.fill_between(x, low, high, color=color, alpha=0.07, linewidth=0)


def _ticks(values: Iterable[float]) -> list[float]:
    """Round numbers from the smallest to the largest of some positive values."""
    found = [v for v in values if v > 0]
    steps = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    return [t for t in steps if found and 0.99 * min(found) <= t <= 1.01 * max(found)]


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
