"""Nuclei in fluorescence, image set BBBC039 of the Broad Bioimage Benchmark Collection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiweak.data.annotations import Annotation, Sample, Task
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.foreground import class_names_of, in_two_classes
from semiweak.data.formats import check_stems
from semiweak.data.layouts import check_shape
from semiweak.data.readers import list_images, read_image, stem_of
from semiweak.data.source import Source
from semiweak.data.splits import Split

_LISTS = {"train": "training.txt", "val": "validation.txt", "test": "test.txt"}


class BBBC039DataModule(SegmentationDataModule):
    """200 images of U2OS nuclei (Hoechst), 520 x 696 pixels of 16 bits, all nuclei painted.

    - ``images/NAME.tif``
    - ``masks/NAME.png``: the first channel holds small numbers: nuclei that touch have different
      ones, others may share one, and 0 is background. The nuclei are the connected regions of one
      number (corners touch), as the data's authors take them
    - ``metadata/training.txt``, ``validation.txt`` and ``test.txt``: the published split, a file
      name a line, with any suffix

    An image without mask is unlabelled. Tested on small copies of this layout, not on the published
    files. Licence CC0; to be cited as image set BBBC039v1 (Caicedo et al. 2018), Broad Bioimage
    Benchmark Collection (Ljosa et al., Nature Methods, 2012).

    Args:
        root: The folder that holds ``images``, ``masks`` and ``metadata``.
        task: ``"semantic"``: nuclei and background; ``"instances"``: each nucleus is an object.
        val: Validation images as a share, a number or names; by default, with ``test`` left out
            too, those of the published split.
        test: Test images; by default those of the published split.
        loading: The other arguments of `SegmentationDataModule`, without class names.
    """

    def __init__(
        self,
        root: str,
        *,
        task: Task = "semantic",
        val: float | int | list[str] | None = None,
        test: float | int | list[str] | None = None,
        **loading: Any,
    ) -> None:
        self.as_published = val is None and test is None
        super().__init__(
            class_names=class_names_of(task, foreground="nucleus"),
            task=task,
            val=val or 0,
            test=test or 0,
            **loading,
        )
        if self.spatial_dims != 2:
            raise ValueError(f"spatial_dims is {self.spatial_dims}; these images have 2")
        self.root = Path(root)

    def sources(self) -> list[Source]:
        """All images, in the order of their names."""
        images = list_images(self.root / "images")
        folder = self.root / "masks"
        masks = list_images(folder)
        check_stems(masks, images, folder)
        return [
            Source(name, partial(self._read, name, path, masks.get(name)), complete=name in masks)
            for name, path in images.items()
        ]

    def predict_sources(self) -> list[Source]:
        """All images, without their nuclei."""
        return [
            Source(name, partial(_read_bare, name, path))
            for name, path in list_images(self.root / "images").items()
        ]

    @property
    def validates(self) -> bool:
        """Whether training will have validation images."""
        return self.as_published or super().validates

    def fixed_split(self, sources: Sequence[Source]) -> Split | None:
        """The published one."""
        if not self.as_published or self.fold is not None:
            return None
        names = [source.name for source in sources]
        listed = {part: _listed(self.root / "metadata" / file) for part, file in _LISTS.items()}
        part_of: dict[str, str] = {}
        for part, members in listed.items():
            path = self.root / "metadata" / _LISTS[part]
            missing = sorted(set(members) - set(names))
            if missing:
                raise ValueError(f"{path}: there is no image {', '.join(missing[:5])}")
            for name in members:
                if name in part_of:
                    raise ValueError(f"{path}: {name} is listed a second time")
                part_of[name] = part
        left = [name for name in names if name not in part_of]
        if left:
            raise ValueError(
                f"{self.root / 'metadata'}: {len(left)} images are in none of the lists "
                f"{', '.join(_LISTS.values())}, such as {left[0]}; add them, or set data.val and "
                "data.test to split at random"
            )
        return Split(**listed)

    def _read(self, name: str, path: Path, mask: Path | None) -> Sample:
        sample = _read_bare(name, path)
        if mask is None:
            return sample
        nuclei = _read_nuclei(mask)
        check_shape(str(mask), nuclei.shape, sample.shape)
        said = Annotation(instances=nuclei, instances_complete=True)
        sample = Sample(sample.image, said, name)
        return sample if self.task == "instances" else in_two_classes(sample)


def _read_bare(name: str, path: Path) -> Sample:
    return Sample(read_image(path), Annotation(), name)


def _read_nuclei(path: Path) -> NDArray[np.int32]:
    """Ids ``(H, W)`` of the connected regions of one number."""
    first, *others = read_image(path)
    if any(((first == 0) & (channel != 0)).any() for channel in others):
        raise ValueError(
            f"{path}: holds colours without red; in these masks the first channel numbers the "
            "nuclei. Masks of other colours can be read by SparseInstanceDataModule"
        )
    nuclei = np.zeros(first.shape, np.int32)
    for value in np.unique(first[first != 0]):
        regions, _ = ndimage.label(first == value, structure=np.ones((3, 3)))
        inside = regions > 0
        nuclei[inside] = regions[inside] + nuclei.max()
    return nuclei


def _listed(path: Path) -> list[str]:
    """The stems of the file names in a list."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); it lists the images of the published "
            "split. Without it, set data.val and data.test"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text file") from error
    return [stem_of(line.strip()) for line in lines if line.strip()]
