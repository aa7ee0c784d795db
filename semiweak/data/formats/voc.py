"""Boxes from a folder of XML files in PASCAL VOC form, one of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from semiweak.data.formats.checks import box_problem
from semiweak.data.formats.coco import BoxAnnotations
from semiweak.data.readers.names import stem_of


def read_voc_boxes(
    folder: str | Path, class_names: Sequence[str], *, exhaustive: bool = True
) -> dict[str, BoxAnnotations]:
    """Reads ``bndbox``, whose ``xmin`` to ``xmax`` are pixels counted from 1, both in the box.

    A file belongs to the image of its own stem, whatever its ``filename`` says: that one is often
    of before a renaming. A class is boxed completely in an image if it has a box there (with
    ``exhaustive``); nothing is known of any other class, nor of an image whose file has no object.
    ``difficult``, ``truncated`` and ``pose`` make no difference. Boxes that reach beyond the image
    are cut off.

    Args:
        folder: Holds the XML files; hidden files and files of other kinds are passed over.
        class_names: The classes in the order of their ids; an object's ``name`` is one of them.
        exhaustive: Whether annotators boxed all objects of each class that they boxed at all.

    Returns:
        By the stem of the XML file, the images of which anything is said.

    Raises:
        ValueError: The folder has no XML file, or two of one stem; a file is no VOC file, is
            damaged, or defines entities; an object is of an unknown class; a box is missing,
            reversed or outside. The message names the file and the object, counted from 1.
    """
    found: dict[str, BoxAnnotations] = {}
    for stem, path in _files(Path(folder)).items():
        root = _load(path)
        shape = _shape(root)
        boxes, labels = [], []
        for number, element in enumerate(root.iterfind("object"), start=1):
            where = f"{path}: object {number}"
            name = (element.findtext("name") or "").strip()
            if name not in class_names:
                raise ValueError(
                    f"{where}: has the name {name!r}, which is not among the class names "
                    f"{list(class_names)}"
                )
            boxes.append(_box(element, shape, f"{where} ({name})"))
            labels.append(class_names.index(name))
        if boxes:
            found[stem] = BoxAnnotations(
                np.array(boxes, np.float32),
                np.array(labels, np.int64),
                np.zeros(len(boxes), bool),
                tuple(sorted(set(labels))) if exhaustive else (),
                str(path),
                shape,
            )
    return found


def _files(folder: Path) -> dict[str, Path]:
    """The XML files by the stem of their image: ``a.xml`` and ``a.jpg.xml`` are both of ``a``."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".xml" and not path.name.startswith(".") and path.is_file():
            other = files.setdefault(stem_of(path.stem), path)
            if other is not path:
                raise ValueError(f"{other} and {path} are of one image; keep one")
    if not files:
        raise ValueError(
            f"{folder}: has no XML files; boxes in PASCAL VOC form are one such file an image, "
            "those in COCO form one file boxes.json beside the folder of images"
        )
    return files


def _load(path: Path) -> ElementTree.Element:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    # Entities, which can grow without bound, are defined in a DOCTYPE alone. All encodings that the
    # parser knows have ASCII's bytes for it, but for UTF-16, which has zeros between them.
    if b"<!DOCTYPE" in content.replace(b"\0", b""):
        raise ValueError(
            f"{path}: has a DOCTYPE, which can define entities and is refused; PASCAL VOC files "
            "have none: remove it"
        )
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter of an encoding
        raise ValueError(f"{path}: cannot be read as XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(
            f"{path}: is no PASCAL VOC file: it must hold an <annotation>, not a <{root.tag}>"
        )
    return root


def _shape(root: ElementTree.Element) -> tuple[int, int] | None:
    """Height and width; None where the file does not say, or says 0 as some programs do."""
    try:
        height, width = (
            int(float(root.findtext(f"size/{side}", ""))) for side in ("height", "width")
        )
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _box(
    element: ElementTree.Element, shape: tuple[int, int] | None, where: str
) -> NDArray[np.float32]:
    """The object's box as half-open y0, x0, y1, x1, cut off at the edges of the image."""
    bndbox = element.find("bndbox")
    if bndbox is None:
        raise ValueError(f"{where}: has no bndbox; draw an upright box around it")
    corners = [_number(bndbox, side, where) for side in ("ymin", "xmin", "ymax", "xmax")]
    y0, x0, y1, x1 = corners
    if y1 < y0 or x1 < x0:  # before a pixel is added, which would hide that they are exchanged
        problem: str | None = "is reversed: it ends before it starts"
    else:
        box = np.array([y0 - 1, x0 - 1, y1, x1], np.float32)
        problem = box_problem(box, shape)
    if problem is not None:
        raise ValueError(
            f"{where}: the bndbox {x0:g}, {y0:g}, {x1:g}, {y1:g} (xmin, ymin, xmax, ymax) {problem}"
        )
    return box if shape is None else np.clip(box, 0, np.array([*shape, *shape], np.float32))


def _number(bndbox: ElementTree.Element, side: str, where: str) -> float:
    text = bndbox.findtext(side)
    if text is None:
        raise ValueError(f"{where}: its bndbox has no {side}")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: its {side} is {text.strip()!r}, not a number") from None
