"""``semiweak inspect``: what is annotated, what each method makes of it, and a picture."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from semiweak import visualize
from semiweak.data.annotations import (
    ABSENT,
    KINDS_OF,
    PRESENT,
    UNKNOWN,
    Annotation,
    Kind,
    Sample,
)
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.knowledge import understand
from semiweak.data.source import contradictions
from semiweak.data.splits import SplitError
from semiweak.methods.base import SegmentationModule
from semiweak.methods.catalogue import exported_methods

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
        *("model", "trainer", "tiling", "clustering", "writer", "optimizer", "lr_scheduler"),
        *("seed_everything", "init_from", "ckpt_path", "weights_only"),
    ):
        parser.add_argument(f"--{other}", type=Any, default=None, help="Not used here.")
    config = parser.parse_args(args)
    sheet = Path(config.sheet)
    if sheet.exists() and not config.overwrite:
        raise ValueError(f"{sheet} exists; pass --overwrite true to replace it")
    data: SegmentationDataModule = parser.instantiate_classes(config).data

    set_up(data)
    samples = {
        part: [source.read() for source in data.part(part)] for part in ("train", "val", "test")
    }
    print("\n".join(report(data, samples, exported_methods())))
    picture = contact_sheet(data, samples["train"])
    sheet.parent.mkdir(parents=True, exist_ok=True)
    visualize.save_png(sheet, picture)
    print(f"\ncontact sheet of the training images: {sheet}")


def set_up(data: SegmentationDataModule) -> None:
    """Sets up for training; says why, where the data cannot be split for it, and goes on."""
    with warnings.catch_warnings():
        # The report lists all of them.
        warnings.filterwarnings("ignore", message="contradictory|.* more contradictions")
        try:
            data.setup("fit")
        except SplitError as error:
            print(f"cannot be split for training: {error}\n")
            data.val, data.test, data.fold = 0, 0, None
            data.setup("fit")


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
    objects = data.task == "instances"
    complete: Kind = "instances" if objects else "mask"
    lines = []
    for part, members in samples.items():
        if members:
            rows = _object_rows(members) if objects else _rows(members, names)
            lines += [f"{part}: {len(members)} images", *_table(rows), ""]
        bare = [s.name for s in members if s.annotation.kind(data.task) != complete]
        if part != "train" and bare:
            what = "all objects painted" if objects else "a complete mask"
            lines += [f"without {what}, so that {part} will stop: {', '.join(bare)}", ""]
    if data.weakening_summary:
        lines += [data.weakening_summary, ""]

    kinds = KINDS_OF[data.task]
    present = [
        k for k in kinds if any(k in s.annotation.kinds(data.task) for s in samples["train"])
    ]
    lines.append("what each method learns from the training images")
    rows = [["method", *present]]
    for method in methods:
        # A method of the other task learns nothing here, whatever there is.
        if set(method.uses) & set(kinds[:-1]):
            rows.append([method.__name__, *(method.uses.get(k, "ignored") for k in present)])
    lines += _table(rows)

    everything = [s for members in samples.values() for s in members]
    clashes = contradictions(everything, None if objects else len(names))
    lines += ["", f"contradictions: {len(clashes)}", *(f"  {line}" for line in clashes)]
    classes = "" if objects else f", num_classes: {len(names)}"
    lines += [
        "",
        f"for the model: in_channels: {data.in_channels}{classes}, "
        f"spatial_dims: {data.spatial_dims}",
    ]
    return lines


def _rows(samples: list[Sample], names: list[str]) -> list[list[str]]:
    """Per kind of annotation: images, known pixels, and objects or pixels of each class."""
    rows = [["kind", "images", "known pixels", *names]]
    pixels = sum(int(np.prod(s.shape)) for s in samples)
    objects = [s.annotation.instances for s in samples if s.annotation.instances is not None]
    if objects:
        known = sum(int(np.count_nonzero(ids)) for ids in objects)
        number = sum(len(np.unique(ids[ids != 0])) for ids in objects)
        share = f"{_percent(known, pixels)} in {number:,} objects"
        rows.append(["instances", str(len(objects)), share, *["-"] * len(names)])
    for kind in KINDS_OF["semantic"]:
        having = [s for s in samples if kind in s.annotation.kinds()]
        if kind == "none":
            having = [s for s in having if s.annotation.instances is None]
        if having:
            known, cells = _counts(having, kind, len(names))
            rows.append([kind, str(len(having)), _percent(known, pixels), *cells])
    return rows


def _object_rows(samples: list[Sample]) -> list[list[str]]:
    """Per kind of annotation: images, painted pixels, and objects, altogether and in an image."""
    rows = [["kind", "images", "known pixels", "objects", "in an image"]]
    pixels = sum(int(np.prod(s.shape)) for s in samples)
    for kind in KINDS_OF["instances"]:
        having = [s for s in samples if s.annotation.kind("instances") == kind]
        if not having:
            continue
        known = [int(np.prod(s.shape)) for s in having]
        if kind != "instances":
            maps = [s.annotation.object_map() for s in having]
            known = [0 if ids is None else int(np.count_nonzero(ids)) for ids in maps]
        number = sorted(len(s.annotation.object_ids()) for s in having)
        some = [f"{sum(number):,}", f"{number[0]:,} to {number[-1]:,}"]
        cells = ["-", "-"] if kind == "none" else some
        rows.append([kind, str(len(having)), _percent(sum(known), pixels), *cells])
    return rows


def _counts(samples: list[Sample], kind: Kind, num_classes: int) -> tuple[int, list[str]]:
    """How many pixels one kind of annotation tells the class of, and a cell for each class."""
    known = 0
    per_class: Counter[int] = Counter()
    absent: Counter[int] = Counter()
    for sample in samples:
        said = sample.annotation
        if kind in ("mask", "scribbles"):
            labels = understand(_painting(said, kind), sample.shape, num_classes).labels
            values, counts = np.unique(labels[labels != UNKNOWN], return_counts=True)
            known += int(counts.sum())
            per_class.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        elif kind == "boxes":
            per_class.update(said.box_labels.tolist())
        elif kind == "points":
            known += len(said.points)
            per_class.update(said.point_labels.tolist())
        elif kind == "tags" and said.tags is not None:
            per_class.update(np.flatnonzero(said.tags == PRESENT).tolist())
            absent.update(np.flatnonzero(said.tags == ABSENT).tolist())
    unit = {"boxes": "boxes", "points": "points", "tags": "present"}.get(kind, "px")
    cells = []
    for c in range(num_classes):
        counted = [(per_class[c], unit), (absent[c], "absent")]
        cells.append(", ".join(f"{number:,} {what}" for number, what in counted if number) or "-")
    return known, cells


def _painting(annotation: Annotation, kind: Kind) -> Annotation:
    """Complete masks, or else partial masks and scribbles, without anything else that is known."""
    dense = annotation.is_dense()
    if kind == "mask":
        return Annotation(mask=annotation.mask, valid=annotation.valid)
    return Annotation(
        mask=None if dense else annotation.mask,
        scribbles=annotation.scribbles,
        valid=annotation.valid,
        annotated_classes=annotation.annotated_classes,
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if part else "-"


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
        by_kind.setdefault(sample.annotation.kind(data.task), []).append(sample)
    chosen: list[Sample] = []
    while len(chosen) < min(SHEET_IMAGES, len(samples)):
        for kind in KINDS_OF[data.task]:
            if by_kind.get(kind):
                chosen.append(by_kind[kind].pop(0))
    chosen = chosen[:SHEET_IMAGES]
    names = list(data.class_names or [])
    tiles = [visualize.draw_annotation(s, len(names), names) for s in chosen]
    captions = [f"{s.name}: {', '.join(s.annotation.kinds(data.task))}" for s in chosen]
    return visualize.contact_sheet(tiles, captions, class_names=names)
