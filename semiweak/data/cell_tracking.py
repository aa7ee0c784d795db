"""Sequences of the Cell Tracking Challenge."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from semiweak.data.annotations import Annotation, Sample, Task
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.foreground import class_names_of, in_two_classes
from semiweak.data.geometry import crop
from semiweak.data.layouts import Entry, check_shape, read_annotation
from semiweak.data.readers import read_image, read_objects
from semiweak.data.source import Source

Truth = Literal["gold", "silver", "both", "none"]

_FOLDER = {"gold": "GT", "silver": "ST"}


@dataclass(frozen=True)
class _Frame:
    """The files of one frame; ``paintings`` in the order in which they are asked for."""

    name: str
    sequence: str
    number: int
    image: Path
    paintings: tuple[tuple[Literal["gold", "silver"], Path], ...] = ()
    markers: Path | None = None


class CellTrackingDataModule(SegmentationDataModule):
    """A 2D data set of the Cell Tracking Challenge, such as PhC-C2DH-U373 or Fluo-N2DL-HeLa.

    - ``01/t000.tif``: the frames of sequence 01, with three or four digits
    - ``01_GT/SEG/man_seg000.tif``: gold truth, painted by experts, of some frames; in some data
      sets, and some frames, only of some cells
    - ``01_ST/SEG/man_seg000.tif``: silver truth, the majority of several algorithms
    - ``01_GT/TRA/man_track000.tif``: markers of all cells, which tell whether gold truth is
      complete; they are never learned from

    Frames are named ``01_t000``; one without truth is unlabelled. Stacks (the 3D data sets) and the
    painted slices of stacks, ``man_seg_TTT_ZZZ.tif``, are refused. Tested on small copies of this
    layout, not on the published files. To be cited as the challenge asks for:
    doi 10.1038/s41592-023-01879-y and 10.1038/nmeth.4473. Uses outside the challenge need the
    permission of those who provide the data.

    Args:
        root: The folder that holds ``01`` and so on.
        task: ``"semantic"``: cells and background; ``"instances"``: each cell is an object.
        truth: ``"gold"``, ``"silver"``, or ``"both"``: gold where it paints all cells of a frame,
            then silver, then what gold there is. ``"none"`` reads frames alone.
        complete: Which paintings show all cells, so that the rest of the frame is background:
            ``"all"``, ``"some"`` (none is relied on, and nothing is background), or ``"auto"``:
            gold truth if each marker of the frame touches a painted cell, and silver truth always,
            although some of its cells may be missing.
        sequences: Read these alone, such as ``["01"]``.
        run_length: Frames that stay on one side of a split; by default all of a sequence. With a
            number, runs of so many consecutive frames.
        border: Cut so many pixels off each side, except to predict. Cells at the border are not
            always painted: the challenge scores a field of interest.
        loading: The other arguments of `SegmentationDataModule`, without class names.
    """

    def __init__(
        self,
        root: str,
        *,
        task: Task = "semantic",
        truth: Truth = "gold",
        complete: Literal["auto", "all", "some"] = "auto",
        sequences: list[str] | None = None,
        run_length: int | None = None,
        border: int = 0,
        **loading: Any,
    ) -> None:
        super().__init__(class_names=class_names_of(task), task=task, **loading)
        if self.spatial_dims != 2:
            raise ValueError(
                f"spatial_dims is {self.spatial_dims}; of the Cell Tracking Challenge, the 2D data "
                "sets are read"
            )
        if truth not in ("gold", "silver", "both", "none"):
            raise ValueError(f"truth is {truth!r}; it must be gold, silver, both or none")
        if complete not in ("auto", "all", "some"):
            raise ValueError(f"complete is {complete!r}; it must be auto, all or some")
        if run_length is not None and run_length < 1:
            raise ValueError(f"run_length is {run_length}; it must be at least 1")
        if border < 0:
            raise ValueError(f"border is {border}; it must be at least 0")
        self.root = Path(root)
        self.truth = truth
        self.complete = complete
        self.sequences = sequences
        self.run_length = run_length
        self.border = border

    def sources(self) -> list[Source]:
        """All frames, in the order of sequences and time."""
        kinds: list[Literal["gold", "silver"]] = ["gold", "silver"]
        kinds = [kind for kind in kinds if self.truth in (kind, "both")]
        frames = [frame for s in self._sequences() for frame in _with_truth(self.root, s, kinds)]
        if kinds and not any(frame.paintings for frame in frames):
            where = " or ".join(f"01_{_FOLDER[kind]}/SEG/man_seg000.tif" for kind in kinds)
            raise ValueError(
                f"{self.root} holds no truth in {where}; choose another in data.truth (none: learn "
                "from frames alone)"
            )
        sources = []
        for frame in frames:
            group = frame.sequence
            if self.run_length is not None:
                group += f"_{frame.number // self.run_length}"
            complete = None if frame.paintings else False
            sources.append(Source(frame.name, partial(self._read, frame), group, complete))
        return sources

    def predict_sources(self) -> list[Source]:
        """All frames, whole and without truth."""
        return [
            Source(frame.name, partial(_read_bare, frame))
            for sequence in self._sequences()
            for frame in _frames(self.root, sequence)
        ]

    def _sequences(self) -> list[str]:
        """The sequences to read, such as 01."""
        if not self.root.is_dir():
            raise ValueError(f"root: there is no folder {self.root}")
        there = sorted(
            folder.name
            for folder in self.root.iterdir()
            if folder.is_dir() and re.fullmatch("[0-9]{2}", folder.name)
        )
        if not there:
            raise ValueError(f"{self.root} holds no sequence, a folder such as 01 with t000.tif")
        missing = sorted(set(self.sequences or []) - set(there))
        if missing:
            raise ValueError(
                f"sequences: {self.root} has no {', '.join(missing)}; it has {', '.join(there)}"
            )
        return there if self.sequences is None else sorted(set(self.sequences))

    def _read(self, frame: _Frame) -> Sample:
        sample = _read_bare(frame)
        sample = replace(sample, annotation=self._annotation(frame, sample.shape))
        if self.border:
            size = [n - 2 * self.border for n in sample.shape]
            if min(size) < 1:
                raise ValueError(
                    f"{frame.image} has {' x '.join(map(str, sample.shape))} pixels; a border of "
                    f"{self.border} leaves nothing of it: lower data.border"
                )
            sample = crop(sample, [self.border] * 2, size)
        return sample if self.task == "instances" else in_two_classes(sample)

    def _annotation(self, frame: _Frame, shape: tuple[int, ...]) -> Annotation:
        """The first painting that shows all cells, or else the first one."""
        found = []
        for kind, path in frame.paintings:
            entry = Entry(frame.name, str(frame.image), str(path), complete=self.complete == "all")
            said = read_annotation(entry, shape)
            if self.complete == "auto":
                whole = kind == "silver" or _has_all_cells(said, frame.markers, shape)
                said = replace(said, instances_complete=whole)
            if said.instances_complete:
                return said
            found.append(said)
        return found[0] if found else Annotation()


def _has_all_cells(said: Annotation, markers: Path | None, shape: tuple[int, ...]) -> bool:
    """Whether each marker of a frame touches a painted cell."""
    if markers is None or said.instances is None:
        return False
    marked = read_objects(str(markers))
    check_shape(str(markers), marked.shape, shape)
    return set(np.unique(marked[marked > 0])) == set(np.unique(marked[said.instances > 0])) - {0}


def _read_bare(frame: _Frame) -> Sample:
    return Sample(read_image(frame.image), Annotation(), frame.name)


def _frames(root: Path, sequence: str) -> list[_Frame]:
    """The frames of a sequence, in order."""
    frames = [
        _Frame(f"{sequence}_{path.stem}", sequence, number, path)
        for number, path in _numbered(root / sequence, "t").items()
    ]
    if not frames:
        raise ValueError(f"{root / sequence} holds no frame, such as t000.tif")
    return frames


def _with_truth(root: Path, sequence: str, kinds: list[Literal["gold", "silver"]]) -> list[_Frame]:
    """The frames of a sequence with the paintings that there are of them."""
    frames = _frames(root, sequence)
    numbers = {frame.number for frame in frames}
    truth = {kind: _numbered(root / f"{sequence}_{_FOLDER[kind]}/SEG", "man_seg") for kind in kinds}
    for paths in truth.values():
        for number, path in paths.items():
            if number not in numbers:
                raise ValueError(f"{path}: there is no frame {number} in {root / sequence}")
    markers = _numbered(root / f"{sequence}_GT/TRA", "man_track") if "gold" in kinds else {}
    return [
        replace(
            frame,
            paintings=tuple((k, truth[k][frame.number]) for k in kinds if frame.number in truth[k]),
            markers=markers.get(frame.number),
        )
        for frame in frames
    ]


def _numbered(folder: Path, prefix: str) -> dict[int, Path]:
    """The TIFF files of a folder by the number behind the prefix; none where there is no folder."""
    found: dict[int, Path] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in files:
        if path.suffix.lower() not in (".tif", ".tiff") or path.name.startswith("."):
            continue
        if re.fullmatch(f"{prefix}_[0-9]+_[0-9]+", path.stem):
            raise ValueError(
                f"{path}: is a painted slice of a stack; of the Cell Tracking Challenge, the 2D "
                "data sets are read"
            )
        match = re.fullmatch(f"{prefix}([0-9]+)", path.stem)
        if match is None:
            raise ValueError(f"{path}: files in this folder are called {prefix}000.tif and so on")
        other = found.setdefault(int(match[1]), path)
        if other is not path:
            raise ValueError(f"{other} and {path} have the same number; keep one of them")
    return dict(sorted(found.items()))
