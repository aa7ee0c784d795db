"""Serial-section electron microscopy of the Drosophila ventral nerve cord."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.readers import read_image, read_labels
from semiweak.data.source import Source
from semiweak.data.splits import Split

CLASS_NAMES = ["membrane", "glia", "mitochondria", "synapse", "intracellular"]

# Grey value of the label images -> class. The first five tell membranes apart by orientation.
_CLASS_OF = {0: 0, 32: 0, 64: 0, 96: 0, 128: 0, 159: 1, 191: 2, 223: 3, 255: 4}


class VNCDataModule(SegmentationDataModule):
    """The ``stack1`` of the VNC data set: 20 slices of 1024 x 1024 pixels of 4.6 x 4.6 x 45-50 nm.

    Licence CC BY-NC-SA 3.0; to be cited as figshare 856713. The classes are membrane (all
    orientations and junctions merged), glia and extracellular space, mitochondria, synapse, and
    intracellular space. Slices are named by their number, ``"00"`` and so on.

    Args:
        root: The folder that holds ``stack1``.
        task: ``"semantic"``: the five classes; ``"instances"``: each connected mitochondrion of a
            slice is an object.
        val: Validation slices as a share, a number or names; by default, with ``test`` left out
            too, slices 10 to 12.
        test: Test slices; by default slice 13 and all after it. The slices before 10 then train.
        loading: The other arguments of `SegmentationDataModule`, without class names.
    """

    def __init__(
        self,
        root: str,
        *,
        task: Literal["semantic", "instances"] = "semantic",
        val: float | int | list[str] | None = None,
        test: float | int | list[str] | None = None,
        **loading: Any,
    ) -> None:
        self.by_number = val is None and test is None
        super().__init__(
            class_names=list(CLASS_NAMES) if task == "semantic" else None,
            task=task,
            val=val or 0,
            test=test or 0,
            **loading,
        )
        self.root = Path(root)

    def sources(self) -> list[Source]:
        """The slices in order."""
        folder = self.root / "stack1"
        paths = sorted((folder / "raw").glob("*.tif"))
        if not paths:
            raise ValueError(f"no slice in {folder / 'raw'}: root must hold stack1/raw/NN.tif")
        for path in paths:
            if not path.stem.isdecimal():
                raise ValueError(f"{path}: slices are named by their number, such as 00.tif")
        return [Source(path.stem, partial(self._read, folder, path)) for path in paths]

    @property
    def validates(self) -> bool:
        """Whether training will have validation images."""
        return self.by_number or super().validates

    def fixed_split(self, sources: Sequence[Source]) -> Split | None:
        """Neighbouring slices look alike: the parts are runs of slices, not a random choice."""
        if not self.by_number or self.fold is not None:
            return None
        names = [source.name for source in sources]
        return Split(
            train=[name for name in names if int(name) < 10],
            val=[name for name in names if 10 <= int(name) <= 12],
            test=[name for name in names if int(name) >= 13],
        )

    def _read(self, folder: Path, path: Path) -> Sample:
        image = read_image(path)
        if self.task == "semantic":
            labels = folder / "labels" / f"labels{int(path.stem):08d}.png"
            mask = read_labels(labels, values=dict(_CLASS_OF)).astype(np.uint8)
            return Sample(image, Annotation(mask=mask), path.stem)
        # Some of these files are anti-aliased, some have one bit.
        painted = read_labels(folder / "mitochondria" / f"{path.stem}.png")
        inside = painted >= (128 if painted.max() > 1 else 1)
        objects, _ = ndimage.label(inside, structure=np.ones((3, 3)))
        return Sample(
            image,
            Annotation(instances=objects.astype(np.int32), instances_complete=True),
            path.stem,
        )
