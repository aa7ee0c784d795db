"""A folder of images of which some are annotated, each in any way."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.formats import (
    BoxAnnotations,
    ManifestRow,
    check_boxes,
    check_points,
    check_size,
    check_stems,
    read_coco_boxes,
    read_manifest,
    read_points,
    read_tags,
    read_voc_boxes,
)
from semiweak.data.readers import check_mask, list_images, read_image, read_labels
from semiweak.data.source import Source
from semiweak.data.splits import Split, group_in

LABEL_FOLDERS = {
    "mask": "masks",
    "scribbles": "scribbles",
    "instances": "instances",
    "valid": "valid",
}
"""The kinds of label image, and the folder of each."""

IMAGE_FOLDERS = ("images", "JPEGImages")
"""Ours, and that of PASCAL VOC."""

BOX_FILES = ("boxes.json", "boxes", "Annotations")
"""Boxes in COCO form, and the folders of those in PASCAL VOC form: ours, and its own."""


class MixedAnnotationDataModule(SegmentationDataModule):
    """A folder of images; everything but the images is optional.

    - ``images/``: the images; without this folder, ``root`` itself
    - ``masks/``: class per pixel, 255 unknown, in a file of the same stem
    - ``scribbles/``: the same, for a few strokes
    - ``instances/``: object ids, 0 unlabelled (or background: ``instances_complete``)
    - ``valid/``: not 0 where the annotators looked
    - ``boxes.json``: boxes in COCO form
    - ``boxes/``: or in PASCAL VOC form, in an XML file of the same stem
    - ``points.csv``: ``image,y,x,class``
    - ``tags.csv``: ``image,class,value`` with present or absent

    A folder in PASCAL VOC form, ``JPEGImages/`` and ``Annotations/``, is read as it is.
    Or one ``manifest.csv`` that names the files, see the docs. An image without any of these is
    unlabelled; nothing that nobody said is background.

    Args:
        root: The folder; by default that of the manifest.
        class_names: The classes in the order of their ids, as the files use them. Not needed to
            predict.
        manifest: A CSV file that lists images and label images, in place of the folders.
        mask_values: Class of each pixel value in masks and scribbles, such as ``{0: 0, 255: 1}``
            or ``{"#ff0000": 1}``, where files do not hold class ids.
        boxes_exhaustive: A class with a box in an image has all its objects in boxes there, so that
            it is ruled out elsewhere. Set it to false where annotators stopped half-way.
        boxes_filled: In a box only boxed classes are possible: those of the boxes around the pixel.
            For round or square objects, of a class for which nothing but boxes is drawn; a box
            turned by augmentation is looser.
        instances_complete: In the images of ``instances/`` every object is painted, so that 0 is
            background there. Validating objects needs this.
        group_pattern: A regular expression that finds the group (patient, sub-volume) in a stem,
            by its first parenthesis, such as ``"(patient[0-9]+)_"``; groups stay on one side of a
            split.
        axes: The axes of image files, such as ``"YXC"`` or ``"ZYX"``, where they are not obvious.
        loading: The other arguments of `SegmentationDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        class_names: list[str] | None = None,
        manifest: str | None = None,
        mask_values: dict[int | str, int] | None = None,
        boxes_exhaustive: bool = True,
        boxes_filled: bool = False,
        instances_complete: bool = False,
        group_pattern: str | None = None,
        axes: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(class_names=class_names, **loading)
        if root is None and manifest is None:
            raise ValueError("give root, the folder that holds the images, or manifest, a CSV file")
        self.root = Path(manifest or "").parent if root is None else Path(root)
        self.manifest = manifest
        self.mask_values = mask_values
        self.boxes_exhaustive = boxes_exhaustive
        self.boxes_filled = boxes_filled
        self.instances_complete = instances_complete
        self.group_pattern = group_pattern
        self.axes = axes

    def sources(self) -> list[Source]:
        """All images, with the annotations that are found for each."""
        rows = self._rows()
        stems = [row.stem for row in rows]
        boxes: dict[str, BoxAnnotations] = {}
        points: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
        tags: dict[str, NDArray[np.int8]] = {}
        names = list(self.file_class_names or []) if self.task == "semantic" else []
        if names:
            if (where := self._box_file()) is not None:
                read_boxes = read_voc_boxes if where.is_dir() else read_coco_boxes
                boxes = read_boxes(where, names, exhaustive=self.boxes_exhaustive)
                check_stems(boxes, stems, where)
            found = self.root / "points.csv"
            if found.exists():
                points = read_points(found, names, spatial_dims=self.spatial_dims)
                check_stems(points, stems, found)
            found = self.root / "tags.csv"
            if found.exists():
                tags = read_tags(found, names)
                check_stems(tags, stems, found)
        elif self.task == "semantic":
            self.num_classes  # noqa: B018 says that class_names are missing
        return [
            Source(
                row.stem,
                partial(
                    self._read,
                    row,
                    boxes.get(row.stem),
                    points.get(row.stem),
                    tags.get(row.stem),
                ),
                row.group or group_in(row.stem, self.group_pattern),
            )
            for row in rows
        ]

    @property
    def validates(self) -> bool:
        """Whether training will have validation images."""
        fixed = self.fixed_split(())
        return super().validates if fixed is None else bool(fixed.val)

    def fixed_split(self, sources: Any) -> Split | None:
        """The ``split`` column of the manifest, where it has one."""
        if self.manifest is None or self.fold is not None:
            return None
        rows = self._rows()
        if not any(row.split for row in rows):
            return None
        return Split(
            train=[row.stem for row in rows if row.split in ("", "train")],
            val=[row.stem for row in rows if row.split == "val"],
            test=[row.stem for row in rows if row.split == "test"],
        )

    def predict_sources(self) -> list[Source]:
        """All images, whatever is known about them."""
        return [Source(row.stem, partial(self._read_bare, row)) for row in self._rows()]

    def _rows(self) -> list[ManifestRow]:
        if self.manifest is not None:
            return read_manifest(self.manifest, list(self.file_class_names or []))
        if not self.root.is_dir():
            raise ValueError(f"there is no folder {self.root}")
        folder = _only([self.root / name for name in IMAGE_FOLDERS if (self.root / name).is_dir()])
        images = list_images(folder or self.root)
        beside: dict[str, dict[str, Path]] = {}
        for kind, name in LABEL_FOLDERS.items():
            folder = self.root / name
            if _in_use(folder):
                beside[kind] = list_images(folder)
                check_stems(beside[kind], images, folder)
        rows = []
        for stem, path in images.items():
            files: dict[str, Any] = {k: str(at[stem]) for k, at in beside.items() if stem in at}
            rows.append(ManifestRow(stem, str(path), **files))
        return rows

    def _box_file(self) -> Path | None:
        """The file or folder of boxes, if there is one."""
        paths = [self.root / name for name in BOX_FILES]
        return _only([path for path in paths if path.is_file() or _in_use(path)])

    def _read_bare(self, row: ManifestRow) -> Sample:
        image = read_image(row.image, spatial_dims=self.spatial_dims, axes=self.axes)
        return Sample(image, Annotation(), row.stem)

    def _read(
        self,
        row: ManifestRow,
        boxes: BoxAnnotations | None,
        points: tuple[NDArray[np.float32], NDArray[np.int64]] | None,
        tags: NDArray[np.int8] | None,
    ) -> Sample:
        sample = self._read_bare(row)
        names = self.file_class_names or []
        d = self.spatial_dims
        known: dict[str, Any] = {
            "boxes": np.zeros((0, 2 * d), np.float32),
            "points": np.zeros((0, d), np.float32),
            "tags": tags,
            "annotated_classes": row.annotated_classes,
        }
        for kind in ("mask", "scribbles"):
            path = getattr(row, kind)
            if path and self.task == "semantic":
                labels = self._labels(path, sample, self.mask_values)
                # Said what its values mean, or a few strokes: {0, 255} is no black and white mask.
                declared = self.mask_values is not None or kind == "scribbles"
                known[kind] = check_mask(labels, len(names), path, declared=declared)
        if row.instances and self.task == "instances":
            known["instances"] = self._labels(row.instances, sample)
            known["instances_complete"] = self.instances_complete
        if row.valid:
            known["valid"] = self._labels(row.valid, sample) != 0
        if boxes is not None:
            if boxes.drawn_on is not None and d == 2:
                check_size(boxes.drawn_on, sample.shape, boxes.where)
            known["boxes"] = check_boxes(boxes.boxes, sample.shape, boxes.where)
            known["box_labels"] = boxes.labels
            known["box_is_crowd"] = boxes.crowd
            known["boxed_classes"] = boxes.boxed_classes
            known["boxes_filled"] = self.boxes_filled
        if points is not None:
            known["points"], known["point_labels"] = points
            source = f"{self.root / 'points.csv'}: image {row.stem}"
            check_points(known["points"], sample.shape, source)
        return Sample(sample.image, Annotation(**known), row.stem)

    def _labels(
        self, path: str, sample: Sample, values: dict[int | str, int] | None = None
    ) -> NDArray[Any]:
        labels = read_labels(path, spatial_dims=self.spatial_dims, values=values)
        if labels.shape != sample.shape:
            raise ValueError(
                f"{path} has {' x '.join(map(str, labels.shape))} pixels, its image {sample.name} "
                f"has {' x '.join(map(str, sample.shape))}; they must be equal"
            )
        return labels


def _in_use(folder: Path) -> bool:
    """Whether it holds files. An empty one was made for later; one with others is a mistake."""
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())


def _only(paths: list[Path]) -> Path | None:
    """The one that is there, if any; of two, nobody can know which holds."""
    if len(paths) > 1:
        raise ValueError(
            f"{' and '.join(map(str, paths))} are both there; keep one, or move the other elsewhere"
        )
    return paths[0] if paths else None
