"""Images whose objects are painted, all or some of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import Annotation, Sample, Task
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.foreground import class_names_of, in_two_classes
from semiweak.data.layouts import Entry, Layout, Naming, find_entries, read_annotation
from semiweak.data.readers import read_image
from semiweak.data.source import Source
from semiweak.data.splits import group_in

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class SparseInstanceDataModule(SegmentationDataModule):
    """Images with painted objects; ``instance_ratio`` and ``object_budget`` train on some of them.

    It reads these layouts:

    - ``images``: ``images/NAME.tif`` with ``labels/NAME.tif``, a label image in which every object
      is painted, or ``instances/NAME.tif``, in which only some are
    - ``dsb`` (Data Science Bowl 2018): ``ID/images/ID.png`` with a mask an object in ``ID/masks/``
    - ``hdf5``: ``NAME.h5`` with the data sets ``raw`` and ``label``; ``root`` may be one such file
    - ``cvppp``: ``NAME_rgb.png`` with ``NAME_label.png``, also in folders A1 to A4; the foreground
      masks ``NAME_fg.png`` are not needed

    A label image holds an id a pixel, or a colour an object; 0 (black) is background and negative
    numbers are pixels of which nothing is known. An image without label file is unlabelled. Where
    two masks of the layout ``dsb`` overlap, the first one (by file name) stays, which is reported.

    For two classes, cells and background, say ``task="semantic"``: the painted objects are class 1.
    All else is class 0 where every object is painted, and unknown where only some are.

    Args:
        root: The folder.
        task: ``"instances"``: the objects; ``"semantic"``: foreground and background.
        class_names: Names for background and foreground, for ``task="semantic"`` only; by default
            background and cell.
        layout: One of the above; ``"auto"`` finds out.
        channels: ``"auto"`` reads a colour image whose channels are all equal as grey, as most of
            the DSB are; where images differ in it, ``"gray"`` reads all as grey (by brightness) and
            ``"rgb"`` all as colour.
        complete: In label images (``labels``, ``dsb``, ``hdf5``, ``cvppp``), every object is
            painted. With false, 0 is unlabelled there, as it is in ``instances``.
        background_label: This value, too, is background in label images; in PlantSeg's often 1. In
            those of ``instances`` it says where background was painted, which then is one object
            more: paint all background of an image or none.
        label_folder: The folder in place of ``labels`` in the layout ``images``.
        raw_key: The data set of the image in HDF5 files.
        label_key: The data set of the objects in HDF5 files.
        blocks: Cut every image into a grid of so many blocks along each axis, such as ``[1, 2, 2]``
            to train, validate and test on parts of one volume. Blocks are images of their own,
            named ``NAME_z_y_x``; an object that is cut counts as one in each. Whole images are
            predicted.
        group_pattern: A regular expression that finds the group (patient, volume) in a name, by its
            first parenthesis, such as ``"(.+)_[0-9]_[0-9]_[0-9]"`` for all blocks of a volume;
            groups stay on one side of a split.
        axes: The axes of image files, such as ``"YXC"`` or ``"CZYX"``, where they are not obvious.
        loading: The other arguments of `SegmentationDataModule`.
    """

    def __init__(
        self,
        root: str,
        *,
        task: Task = "instances",
        class_names: list[str] | None = None,
        layout: Literal["auto", "images", "dsb", "hdf5", "cvppp"] = "auto",
        channels: Literal["auto", "gray", "rgb"] = "auto",
        complete: bool = True,
        background_label: int = 0,
        label_folder: str = "labels",
        raw_key: str = "raw",
        label_key: str = "label",
        blocks: list[int] | None = None,
        group_pattern: str | None = None,
        axes: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(class_names=class_names_of(task, class_names), task=task, **loading)
        if channels not in ("auto", "gray", "rgb"):
            raise ValueError(f"channels is {channels!r}; it must be auto, gray or rgb")
        if blocks is not None and (len(blocks) != self.spatial_dims or min(blocks) < 1):
            raise ValueError(
                f"blocks is {blocks}; give {self.spatial_dims} numbers of 1 or more, one an axis"
            )
        self.root = Path(root)
        self.layout: Layout | Literal["auto"] = layout
        self.channels = channels
        self.complete = complete
        self.background_label = background_label
        self.naming = Naming(label_folder, raw_key, label_key)
        self.blocks = blocks
        self.group_pattern = group_pattern
        self.axes = axes

    def sources(self) -> list[Source]:
        """All images, or the blocks that they are cut into."""
        found = []
        for entry in self._entries():
            entry = replace(entry, complete=entry.complete and self.complete)
            # Unlike masks, a label image can hold pixels of which nothing is known.
            complete = None if entry.complete and entry.masks is None else entry.complete
            for block in product(*map(range, self.blocks)) if self.blocks else [None]:
                name = "_".join(map(str, (entry.name, *(block or ()))))
                read = partial(self._read, entry, name, block)
                found.append(Source(name, read, group_in(name, self.group_pattern), complete))
        return found

    def predict_sources(self) -> list[Source]:
        """All images, whole and without their objects."""
        return [Source(e.name, partial(self._read_bare, e)) for e in self._entries()]

    def _entries(self) -> list[Entry]:
        return find_entries(self.root, self.layout, self.naming)

    def _read_bare(self, entry: Entry) -> Sample:
        image = read_image(entry.image, spatial_dims=self.spatial_dims, axes=self.axes)
        return Sample(_in_channels(image, self.channels), Annotation(), entry.name)

    def _read(self, entry: Entry, name: str, block: tuple[int, ...] | None) -> Sample:
        sample = self._read_bare(entry)
        axes = None if self.axes is None else self.axes.replace("C", "").replace("S", "")
        annotation = read_annotation(
            entry, sample.shape, background_label=self.background_label, axes=axes
        )
        sample = replace(sample, annotation=annotation, name=name)
        if block is not None and self.blocks is not None:
            sample = _cut(sample, block, self.blocks)
        return sample if self.task == "instances" else in_two_classes(sample)


def _in_channels(image: NDArray[Any], channels: str) -> NDArray[Any]:
    """The image ``(C, *S)`` as grey or colour; other numbers of channels than 1 and 3 stay."""
    if channels == "rgb" and len(image) == 1:
        return np.repeat(image, 3, axis=0)
    if channels == "rgb" or len(image) != 3:
        return image
    if np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]):
        return image[:1].copy()
    if channels == "auto":
        return image
    grey = np.tensordot(_GREY, image, 1)[None]
    return grey.astype(np.float32) if image.dtype.kind == "f" else np.rint(grey).astype(image.dtype)


def _cut(sample: Sample, block: tuple[int, ...], grid: list[int]) -> Sample:
    """One block of a grid; its arrays are copies, so that the whole image need not stay."""
    window = tuple(
        slice(i * size // parts, (i + 1) * size // parts)
        for i, parts, size in zip(block, grid, sample.shape, strict=True)
    )
    if any(w.stop <= w.start for w in window):
        raise ValueError(
            f"{sample.name}: an image of {' x '.join(map(str, sample.shape))} pixels cannot be cut "
            f"into {' x '.join(map(str, grid))} blocks; lower data.blocks"
        )
    said = sample.annotation
    annotation = replace(
        said,
        instances=None if said.instances is None else said.instances[window].copy(),
        valid=None if said.valid is None else said.valid[window].copy(),
    )
    return Sample(sample.image[(slice(None), *window)].copy(), annotation, sample.name)
