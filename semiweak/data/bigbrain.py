"""Sections of the BigBrain with their tissue classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.formats import check_stems
from semiweak.data.layouts import check_shape
from semiweak.data.readers import list_images, read_image, read_labels
from semiweak.data.source import Source
from semiweak.data.splits import group_in

TISSUES = (
    "background",
    "cerebrospinal fluid",
    "cortical grey matter",
    "white matter",
    "cerebellum",
    "cortical layer 1",
    "subcortical grey matter",
    "pineal gland",
    "grey matter of cerebellum and brainstem",
    "white matter of cerebellum and brainstem",
)
"""What the values 0 to 9 of the classified volumes stand for."""

_VOLUMES = (".mnc", ".nii", ".nii.gz")


class BigBrainDataModule(SegmentationDataModule):
    """2D sections that were cut from the BigBrain volumes, with their tissue classes.

    - ``images/NAME.png`` (or any other kind of image file): the section
    - ``masks/NAME.png``: the same section of the classified volume, with its values 0 to 9

    The published volumes (MINC or NIfTI) are not read: cut both at the same places, the classes
    without interpolation; the docs show how. Tested on small files of this layout, not on the
    published data. A section without mask is unlabelled. Licence CC BY-NC-SA 4.0; to be cited as
    Amunts et al., Science 340 (2013).

    Args:
        root: The folder that holds ``images`` and ``masks``.
        keep: The values that are classes, in their order, behind the background; the others are
            background. By default cortical grey matter, white matter and cortical layer 1, as in
            the comparison of UDA and IIC on microscopy images.
        group_pattern: A regular expression that finds the group in a name by its first parenthesis;
            groups stay on one side of a split. All sections are of one brain, and neighbours look
            alike: ``"([0-9]+)[0-9]{2}$"`` keeps each hundred of numbered sections together.
        loading: The other arguments of `SegmentationDataModule`, without class names and task.
    """

    def __init__(
        self,
        root: str,
        *,
        keep: list[int] = [2, 3, 5],  # noqa: B006 never changed
        group_pattern: str | None = None,
        **loading: Any,
    ) -> None:
        if not keep or len(set(keep)) < len(keep) or not set(keep) <= set(range(1, len(TISSUES))):
            raise ValueError(f"keep is {keep}; list different values of 1 to {len(TISSUES) - 1}")
        names = [TISSUES[value] for value in (0, *keep)]
        super().__init__(class_names=names, task="semantic", **loading)
        if self.spatial_dims != 2:
            raise ValueError(f"spatial_dims is {self.spatial_dims}; sections have 2")
        self.root = Path(root)
        self.class_of = np.zeros(len(TISSUES), np.uint8)
        self.class_of[keep] = np.arange(1, len(names))
        self.group_pattern = group_pattern

    def sources(self) -> list[Source]:
        """All sections, in the order of their names."""
        images = self._list("images")
        masks = self._list("masks")
        check_stems(masks, images, self.root / "masks")
        return [
            Source(
                name,
                partial(self._read, name, path, masks.get(name)),
                group_in(name, self.group_pattern),
                complete=name in masks,
            )
            for name, path in images.items()
        ]

    def predict_sources(self) -> list[Source]:
        """All sections, without their classes."""
        return [
            Source(name, partial(_read_bare, name, path))
            for name, path in self._list("images").items()
        ]

    def _list(self, name: str) -> dict[str, Path]:
        try:
            return list_images(self.root / name)
        except ValueError:
            folders = (folder for folder in (self.root / name, self.root) if folder.is_dir())
            files = sorted(file for folder in folders for file in folder.iterdir())
            volumes = [file for file in files if file.name.endswith(_VOLUMES)]
            if not volumes:
                raise
            raise ValueError(
                f"{volumes[0]}: volumes are not read; cut them into sections, images of their own "
                f"in {self.root / 'images'} and {self.root / 'masks'}"
            ) from None

    def _read(self, name: str, path: Path, mask: Path | None) -> Sample:
        sample = _read_bare(name, path)
        if mask is None:
            return sample
        values = read_labels(mask)
        check_shape(str(mask), values.shape, sample.shape)
        foreign = np.unique(values[(values < 0) | (values >= len(TISSUES))])
        if len(foreign):
            raise ValueError(
                f"{mask}: holds {', '.join(map(str, foreign[:5]))}; the tissue classes are 0 to "
                f"{len(TISSUES) - 1}. Cut the classified volume without interpolation or scaling"
            )
        return Sample(sample.image, Annotation(mask=self.class_of[values]), name)


def _read_bare(name: str, path: Path) -> Sample:
    return Sample(read_image(path), Annotation(), name)
