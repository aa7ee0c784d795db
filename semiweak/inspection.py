"""``semiweak inspect``: what is annotated, what each method makes of it, and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from semiweak import visualize
from semiweak.cli import METHODS
from semiweak.data.annotations import KINDS, PRESENT, UNKNOWN, Sample, understand
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.methods.base import SegmentationModule

SHEET_IMAGES = 12
"""So many images go into the picture: a sample of every kind of annotation."""


def inspect(args: list[str]) -> None:
    """Prints the tables for a data config and writes the contact sheet.

    Args:
        args: ``--config FILE`` of a training run, or ``--data ...`` alone; ``--sheet FILE.png``.
    """
    parser = ArgumentParser(
        prog="semiweak inspect",
        description="Says what is annotated in a data set, and what each method would use of it.",
    )
    parser.add_argument("-c", "--config", action="config", help="The configuration of a run.")
    parser.add_subclass_arguments(SegmentationDataModule, "data", required=True)
    parser.add_argument(
        "--sheet", type=str, default="inspect.png", help="Where the contact sheet goes."
    )
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace the contact sheet.")
    # A training configuration says more than `inspect` needs.
    for other in (
        *("model", "trainer", "tiling", "writer", "optimizer", "lr_scheduler"),
        *("seed_everything", "ckpt_path", "weights_only"),
    ):
        parser.add_argument(f"--{other}", type=Any, default=None, help="Not used here.")
    config = parser.parse_args(args)
    sheet = Path(config.sheet)
    if sheet.exists() and not config.overwrite:
        raise ValueError(f"{sheet} exists; pass --overwrite true to replace it")
    data: SegmentationDataModule = parser.instantiate_classes(config).data

    data.setup("fit")
    samples = {
        part: [source.read() for source in data.part(part)] for part in ("train", "val", "test")
    }
    print("\n".join(report(data, samples, METHODS)))
    picture = contact_sheet(data, samples["train"])
    sheet.parent.mkdir(parents=True, exist_ok=True)
    visualize.save_png(sheet, picture)
    print(f"\ncontact sheet of the training images: {sheet}")


def report(
    data: SegmentationDataModule,
    samples: dict[str, list[Sample]],
    methods: Sequence[type[SegmentationModule]],
) -> list[str]:
    """The lines that ``inspect`` prints.

    Args:
        data: A data module that is set up.
        samples: The images of each part.
        methods: The methods to say what they would use.
    """
    names = list(data.class_names or [])
    lines = []
    for part, members in samples.items():
        if members:
            lines += [f"{part}: {len(members)} images", *_table(_rows(members, names)), ""]
    if data.weakening_summary:
        lines += [data.weakening_summary, ""]

    present = [k for k in KINDS if any(k in s.annotation.kinds() for s in samples["train"])]
    lines.append("what each method learns from the training images")
    rows = [["method", *present]]
    rows += [[m.__name__, *(m.uses.get(k, "ignored") for k in present)] for m in methods]
    lines += _table(rows)

    lines += ["", f"contradictions: {len(data.contradictions)}"]
    lines += [f"  {line}" for line in data.contradictions]
    lines += [
        "",
        f"for the model: in_channels: {data.in_channels}, num_classes: {len(names)}"
        f", spatial_dims: {data.spatial_dims}",
    ]
    return lines


def _rows(samples: list[Sample], names: list[str]) -> list[list[str]]:
    """Per kind of annotation: images, known pixels, and objects or pixels of each class."""
    rows = [["kind", "images", "known pixels", *names]]
    pixels = sum(int(np.prod(s.shape)) for s in samples)
    for kind in KINDS:
        having = [s for s in samples if kind in s.annotation.kinds()]
        if not having:
            continue
        known = 0
        per_class: Counter[int] = Counter()
        for sample in having:
            annotation = sample.annotation
            if kind in ("mask", "scribbles"):
                labels = understand(annotation, sample.shape, len(names)).labels
                values, counts = np.unique(labels[labels != UNKNOWN], return_counts=True)
                known += int(counts.sum())
                per_class.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            elif kind == "boxes":
                per_class.update(annotation.box_labels.tolist())
            elif kind == "points":
                known += len(annotation.points)
                per_class.update(annotation.point_labels.tolist())
            elif kind == "tags" and annotation.tags is not None:
                per_class.update(np.flatnonzero(annotation.tags == PRESENT).tolist())
        unit = {"boxes": "boxes", "points": "points", "tags": "images"}.get(kind, "px")
        counted = [f"{per_class[c]:,} {unit}" if per_class[c] else "-" for c in range(len(names))]
        share = f"{100 * known / pixels:.3g} %" if known else "-"
        rows.append(
            [
                kind,
                str(len(having)),
                share,
                *(counted if kind != "none" else names and ["-"] * len(names)),
            ]
        )
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip()
        for r in rows
    ]
    lines.insert(1, "  " + "  ".join("-" * w for w in widths))
    return lines


def contact_sheet(data: SegmentationDataModule, samples: list[Sample]) -> np.ndarray[Any, Any]:
    """A picture of training images with what annotators said of them, every kind among them."""
    by_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.annotation.kind(), []).append(sample)
    chosen: list[Sample] = []
    while len(chosen) < min(SHEET_IMAGES, len(samples)):
        for kind in KINDS:
            if by_kind.get(kind):
                chosen.append(by_kind[kind].pop(0))
    chosen = chosen[:SHEET_IMAGES]
    names = list(data.class_names or [])
    tiles = [visualize.draw_annotation(s, len(names), names) for s in chosen]
    captions = [f"{s.name}: {', '.join(s.annotation.kinds())}" for s in chosen]
    return visualize.contact_sheet(tiles, captions, class_names=names)
