"""A CSV file that lists images and the files of their annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from semiweak.data.formats.tables import Row, class_id, read_table
from semiweak.data.readers.names import split_source, stem_of

_FILES = ("mask", "scribbles", "instances", "valid")
_SPLITS = ("", "train", "val", "test")


class ManifestRow(NamedTuple):
    """One image. Files are paths that can be opened, or ``file.h5:/key``."""

    stem: str
    """The image's name, unique in the data set."""
    image: str
    mask: str | None = None
    scribbles: str | None = None
    instances: str | None = None
    valid: str | None = None
    split: str = ""
    """``"train"``, ``"val"``, ``"test"``, or empty: not said."""
    group: str | None = None
    annotated_classes: tuple[int, ...] | None = None


def read_manifest(path: str | Path, class_names: Sequence[str]) -> list[ManifestRow]:
    """Reads one image a line; all columns but ``image`` are optional, and cells may be empty.

    - image: file, relative to the manifest's folder
    - name: its name; by default the file's stem
    - mask, scribbles, instances, valid: files of its label images
    - split: train, val or test
    - group: sub-volume, patient, plate: stays on one side of a split
    - annotated_classes: the only classes the mask was painted for: names or indices with ``;``
      between them

    Args:
        path: The CSV file.
        class_names: The classes in the order of their ids; without any (to predict),
            ``annotated_classes`` is passed over.

    Raises:
        ValueError: A file does not exist, a value is wrong, or two images have one name; with the
            line.
    """
    folder = Path(path).parent
    _, rows = read_table(path, ["image"], aliases={"masks": "mask"})
    if not rows:
        raise ValueError(f"{path}: lists no image")
    lines: dict[str, int] = {}
    found = []
    for row in rows:
        image = _file(row, "image", folder)
        if image is None:
            raise ValueError(f"{row.where}: the image is empty; give a file")
        stem = row.cells.get("name") or stem_of(image)
        if stem in lines:
            raise ValueError(
                f"{row.where}: the image has the name {stem!r}, and so has line {lines[stem]}; "
                "names must differ (set them in a column 'name', or rename a file)"
            )
        lines[stem] = row.line
        split = row.cells.get("split", "").lower()
        if split not in _SPLITS:
            raise ValueError(
                f"{row.where}: split is {row.cells['split']!r}; it can be train, val, test or empty"
            )
        files = {kind: _file(row, kind, folder) for kind in _FILES}
        annotated = _annotated_classes(row, class_names) if class_names else None
        if annotated is not None and files["mask"] is None:
            raise ValueError(f"{row.where}: has annotated_classes, which speak of a mask, but none")
        found.append(
            ManifestRow(
                stem=stem,
                image=image,
                **files,
                split=split,
                group=row.cells.get("group") or None,
                annotated_classes=annotated,
            )
        )
    return found


def _file(row: Row, column: str, folder: Path) -> str | None:
    """The path of the file in a cell, which must exist; None where the cell is empty."""
    cell = row.cells.get(column)
    if not cell:
        return None
    file, key = split_source(folder / cell.replace("\\", "/"))  # written on Windows
    if not file.is_file():
        raise ValueError(f"{row.where}: the {column} {file} does not exist")
    return str(file) if key is None else f"{file}:{key}"


def _annotated_classes(row: Row, class_names: Sequence[str]) -> tuple[int, ...] | None:
    names = [name.strip() for name in row.cells.get("annotated_classes", "").split(";")]
    classes = {class_id(name, class_names, row.where) for name in names if name}
    return tuple(sorted(classes)) or None
