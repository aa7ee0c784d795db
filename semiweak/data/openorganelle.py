"""Annotated sub-volumes of OpenOrganelle (COSEM, CellMap)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from semiweak.data.crops import Crop, lay, read_crop, table_of
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.readers.containers import Container, Place, place_of
from semiweak.data.source import Source

# The published numbers of COSEM's classes, 1 to 37, by their short names.
CLASS_NAMES = [
    "ecs", "pm", "mito_mem", "mito_lum", "mito_ribo", "golgi_mem", "golgi_lum", "ves_mem",
    "ves_lum", "endo_mem", "endo_lum", "lyso_mem", "lyso_lum", "ld_mem", "ld_lum", "er_mem",
    "er_lum", "eres_mem", "eres_lum", "ne_mem", "ne_lum", "np_out", "np_in", "hchrom", "nhchrom",
    "echrom", "nechrom", "nucpl", "nucleo", "mt_out", "cent", "cent_dapp", "cent_sdapp", "ribo",
    "cyto", "mt_in", "nuc",
]  # fmt: skip

_COSEM, _OME = "volumes/groundtruth", "labels/groundtruth"


class OpenOrganelleDataModule(SegmentationDataModule):
    """A FIB-SEM volume of OpenOrganelle with its annotated sub-volumes (crops), in N5 or Zarr.

    - ``jrc_hela-2.n5``, published with Heinrich et al. 2021: ``volumes/raw`` and
      ``volumes/groundtruth/0003/crop1/labels/all``
    - ``jrc_hela-2.zarr``, of OpenOrganelle and the CellMap challenge:
      ``recon-1/em/fibsem-uint8/s0`` and ``recon-1/labels/groundtruth/crop1/all/s0``

    Each crop is a group. Its slices along z are the images, ``crop1_z0000`` and so on; with
    ``spatial_dims: 3`` it is one volume. Of the big volume nothing else is read, nor predicted.
    Where labels are finer than the image, by a whole number, a voxel has the class of most of its
    labels; of classes that are equally frequent, the one with the lower id. Where a crop begins
    follows from the attributes, to half a label.

    Tested on small copies of these layouts, not on the published files. Data of OpenOrganelle are
    CC BY 4.0; to be cited as the data set asks for, and doi 10.1038/s41586-021-03977-3. Needs
    ``pip install semiweak[openorganelle]``.

    Args:
        root: The container, or the folder that holds it alone. It must be on a disk.
        class_ids: The number, or numbers, of each class in the labels, such as
            ``{mito: [3, 4, 5], er: 16}``; by default COSEM's 37 classes. It fixes the order of
            classes, and stands in place of ``class_names``.
        ignore_ids: Numbers whose voxels are unknown; by default 0, which stands for "not
            annotated", unless it is a class.
        crops: Use these sub-volumes alone, such as ``[crop1, crop13]``.
        image: The image in the container, an array or a group of levels, where there is more than
            one, such as ``recon-1/em/fibsem-uint8``.
        level: The level of such a group.
        labels: The group of the crops in the container, where it is none of the two above.
        label_name: The array (or group of levels) of a crop.
        label_level: The level of such a group.
        voxel_size: The size of a voxel of the image in the units of the labels: z, y, x. By
            default as its attributes say. The labels of 2021 count all axes in voxels of 4 nm:
            ``[4, 4, 4]`` for images that are not isotropic.
        loading: The other arguments of `SegmentationDataModule`, without class names.
    """

    def __init__(
        self,
        root: str,
        *,
        class_ids: dict[str, int | list[int]] | None = None,
        ignore_ids: list[int] | None = None,
        crops: list[str] | None = None,
        image: str | None = None,
        level: str = "s0",
        labels: str | None = None,
        label_name: str = "all",
        label_level: str = "s0",
        voxel_size: list[float] | None = None,
        **loading: Any,
    ) -> None:
        ids = class_ids or {name: i for i, name in enumerate(CLASS_NAMES, start=1)}
        super().__init__(class_names=list(ids), task="semantic", **loading)
        if voxel_size is not None and (len(voxel_size) != 3 or min(voxel_size) <= 0):
            raise ValueError(f"voxel_size is {voxel_size}; give three positive numbers, z, y, x")
        self.root = Path(root)
        self.class_of = table_of(ids, ignore_ids)
        self.crops = crops
        self.image = image
        self.level = level
        self.labels = labels
        self.label_name = label_name
        self.label_level = label_level
        self.voxel_size = voxel_size

    def sources(self) -> list[Source]:
        """The slices of all crops, or the crops."""
        return self._sources(annotated=True)

    def predict_sources(self) -> list[Source]:
        """The same without labels."""
        return self._sources(annotated=False)

    def _sources(self, *, annotated: bool) -> list[Source]:
        found = []
        for crop in self._find():
            read = partial(read_crop, crop, self.class_of, annotated)
            if self.spatial_dims == 3:
                found.append(Source(crop.name, partial(read, None), crop.name))
                continue
            for z in range(crop.shape[0]):
                found.append(Source(f"{crop.name}_z{z:04d}", partial(read, z), crop.name))
        return found

    def _find(self) -> list[Crop]:
        """The crops in the order of their numbers."""
        container = _container(self.root)
        folder = self._labels(container)
        there = [name for name in container.names(folder) if self._array(container, folder, name)]
        if not there:
            raise ValueError(
                f"{container.path / folder} holds no crop with labels called {self.label_name}; "
                "say what they are called in data.label_name"
            )
        missing = sorted(set(self.crops or []) - set(there))
        if missing:
            raise ValueError(
                f"crops: {container.path / folder} has no {', '.join(missing)}; it has "
                f"{', '.join(there)}"
            )
        chosen = there if self.crops is None else [name for name in there if name in self.crops]
        image = self._image(container, folder)
        place = place_of(container, image)
        if self.voxel_size is not None:
            place = Place(tuple(self.voxel_size), place.corner)
        shape = container.open(image).shape
        return [
            lay(container, name, image, place, shape, self._array(container, folder, name) or "")
            for name in sorted(chosen, key=_by_number)
        ]

    def _labels(self, container: Container) -> str:
        """The group of the crops."""
        if self.labels is not None:
            return self.labels.strip("/")
        versions = [f"{_COSEM}/{name}" for name in container.names(_COSEM)]
        recons = [f"{name}/{_OME}" for name in container.names("") if f"{name}/{_OME}" in container]
        found = versions + recons
        if len(found) != 1:
            neither = f"has neither {_COSEM}/0003 nor recon-1/{_OME}"
            what = f"holds {', '.join(found)}" if found else neither
            raise ValueError(
                f"{container.path} {what}; say in data.labels which group holds the crops"
            )
        return found[0]

    def _array(self, container: Container, folder: str, crop: str) -> str | None:
        """The array of a crop's labels; None where it has none."""
        for name in (f"{folder}/{crop}/labels", f"{folder}/{crop}"):
            found = f"{name}/{self.label_name}"
            for array in (found, f"{found}/{self.label_level}"):
                if container.is_array(array):
                    return array
        return None

    def _image(self, container: Container, folder: str) -> str:
        """The array of the image."""
        if self.image is not None:
            found = [self.image.strip("/")]
        elif folder.startswith("volumes/"):
            found = ["volumes/raw"]
        else:
            above = folder.removesuffix(f"/{_OME}") + "/em"
            found = [f"{above}/{name}" for name in container.names(above)]
        if len(found) != 1:
            raise ValueError(
                f"{container.path} holds {len(found)} images ({', '.join(found) or 'none'}); say "
                "in data.image which one to read"
            )
        for name in (found[0], f"{found[0]}/{self.level}"):
            if container.is_array(name):
                return name
        raise ValueError(
            f"{container.path / found[0]} is no array and has no level {self.level}; it holds "
            f"{', '.join(container.names(found[0])) or 'nothing'}"
        )


def _container(root: Path) -> Container:
    if not root.is_dir():
        raise ValueError(f"root: there is no folder {root}")
    if root.suffix in (".n5", ".zarr"):
        return Container(root)
    inside = sorted(p for p in root.iterdir() if p.suffix in (".n5", ".zarr"))
    if len(inside) != 1:
        raise ValueError(
            f"{root} holds {len(inside)} containers ({', '.join(p.name for p in inside) or 'none'}"
            "); root must be one, such as jrc_hela-2.n5 or jrc_hela-2.zarr"
        )
    return Container(inside[0])


def _by_number(name: str) -> tuple[int, str]:
    match = re.search("[0-9]+", name)
    return (int(match[0]) if match else 0, name)
