"""Boxes from JSON files in COCO form, with LVIS's fields for what was looked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semiweak.data.formats.checks import box_problem, check_size
from semiweak.data.readers.names import stem_of


class BoxAnnotations(NamedTuple):
    """The boxes of one image; the fields of `Annotation` of the same meaning."""

    boxes: NDArray[np.float32]
    """``(N, 4)``: y0, x0, y1, x1 in pixels; pixel i covers [i, i + 1)."""
    labels: NDArray[np.int64]
    """``(N,)``"""
    crowd: NDArray[np.bool_]
    """``(N,)``: objects of this class somewhere in here, not one object."""
    boxed_classes: tuple[int, ...]
    """The classes of which every object in the image has a box."""
    where: str
    """The file, and the image in it, for messages."""
    drawn_on: tuple[int, int] | None
    """Height and width that the file states of the image; None where it does not."""


def read_coco_boxes(
    path: str | Path,
    class_names: Sequence[str],
    *,
    exhaustive: bool = True,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, BoxAnnotations]:
    """Reads ``bbox`` = [x, y, width, height], measured from the top-left pixel's outer corner.

    A class is boxed completely in an image if it has a box there (with ``exhaustive``) and is not
    in the image's ``not_exhaustive_category_ids``; or if it is in ``neg_category_ids``: looked for
    and absent. Nothing is known of any other class, nor of an image without annotations.
    ``iscrowd`` marks a region with objects. Boxes that reach beyond the image are cut off.

    Args:
        path: The JSON file.
        class_names: The classes in the order of their ids; categories are matched by name. A
            category that no annotation uses may have any name.
        exhaustive: Whether annotators boxed all objects of each class that they boxed at all.
        shapes: Height and width of images by stem, where known. They must be those that the file
            states, if it states any; without either, boxes are not checked against the image.

    Returns:
        By the stem of ``file_name``, the images of which anything is said.

    Raises:
        ValueError: The file is no COCO file; an annotation is of an unknown image or class; a box
            is missing, reversed, empty, rotated or outside. The message names the annotation.
    """
    data = _load(path)
    categories = {
        _field(category, "id", f"{path}: a category"): _field(
            category, "name", f"{path}: a category"
        )
        for category in _records(data, "categories", path)
    }
    images: dict[Any, dict[str, Any]] = {}
    stems: dict[Any, str] = {}
    taken: set[str] = set()
    for image in _records(data, "images", path):
        key = _field(image, "id", f"{path}: an image")
        where = f"{path}: image {key!r}"
        stem = stem_of(str(_field(image, "file_name", where)))
        if key in images:
            raise ValueError(f"{path}: two images have the id {key!r}")
        if stem in taken:
            raise ValueError(f"{where}: two images have the file name {stem} (without suffix)")
        images[key], stems[key] = image, stem
        taken.add(stem)

    boxes: dict[Any, list[tuple[NDArray[np.float32], int, bool]]] = {key: [] for key in images}
    for number, annotation in enumerate(_records(data, "annotations", path)):
        where = f"{path}: annotation {annotation.get('id', f'number {number}')!r}"
        key = _field(annotation, "image_id", where)
        if key not in images:
            raise ValueError(f"{where}: is of image {key!r}, which is not among the images")
        where += f" of image {images[key]['file_name']}"
        name = _category(categories, _field(annotation, "category_id", where), where)
        if name not in class_names:
            raise ValueError(
                f"{where}: has the category {name!r}, which is not among the class names "
                f"{list(class_names)}"
            )
        shape = _shape(images[key], None if shapes is None else shapes.get(stems[key]), where)
        box = _box(annotation, shape, where)
        crowd = bool(annotation.get("iscrowd", 0))
        boxes[key].append((box, class_names.index(name), crowd))

    found: dict[str, BoxAnnotations] = {}
    for key, image in images.items():
        labels = [label for _, label, _ in boxes[key]]
        where = f"{path}: image {image['file_name']}"
        absent = _classes(image, "neg_category_ids", categories, class_names, where)
        partly = _classes(image, "not_exhaustive_category_ids", categories, class_names, where)
        both = sorted(absent & set(labels))
        if both:
            raise ValueError(
                f"{where}: has boxes of {class_names[both[0]]!r}, which its neg_category_ids say "
                "is absent"
            )
        boxed = (set(labels) - partly if exhaustive else set()) | absent
        if labels or boxed:
            found[stems[key]] = BoxAnnotations(
                np.array([box for box, _, _ in boxes[key]], np.float32).reshape(-1, 4),
                np.array(labels, np.int64),
                np.array([crowd for _, _, crowd in boxes[key]], bool),
                tuple(sorted(boxed)),
                f"{path}: image {stems[key]}",
                _shape(image, None, where),
            )
    return found


def _box(
    annotation: dict[str, Any], shape: tuple[int, int] | None, where: str
) -> NDArray[np.float32]:
    """The annotation's box as y0, x0, y1, x1, cut off at the edges of the image."""
    bbox = annotation.get("bbox")
    if not bbox:
        painted = "a segmentation but " if annotation.get("segmentation") else ""
        raise ValueError(
            f"{where}: has {painted}no bbox; export boxes as well (bbox = [x, y, width, height])"
        )
    numbers = isinstance(bbox, list) and all(isinstance(value, int | float) for value in bbox)
    if not numbers or len(bbox) != 4:
        raise ValueError(
            f"{where}: has the bbox {bbox!r}; it must be four numbers: x, y, width, height"
        )
    x, y, width, height = bbox
    attributes = annotation.get("attributes")
    rotation = attributes.get("rotation", 0) if isinstance(attributes, dict) else 0
    if (
        isinstance(rotation, int | float) and rotation % 360
    ):  # CVAT writes the box as it was before it was turned
        raise ValueError(
            f"{where}: is rotated by {rotation} degrees; draw upright boxes around such objects"
        )
    box = np.array([y, x, y + height, x + width], np.float32)
    problem = box_problem(box, shape)
    if problem is not None:
        raise ValueError(f"{where}: the bbox {bbox} (x, y, width, height) {problem}")
    return box if shape is None else np.clip(box, 0, np.array([*shape, *shape], np.float32))


def _shape(
    image: dict[str, Any], actual: tuple[int, ...] | None, where: str
) -> tuple[int, int] | None:
    """Height and width, from the file or from elsewhere."""
    height, width = image.get("height"), image.get("width")
    if not (isinstance(height, int | float) and isinstance(width, int | float)) or not (
        height > 0 and width > 0
    ):
        return None if actual is None else (actual[0], actual[1])
    stated = (int(height), int(width))
    if actual is not None:
        check_size(stated, actual, where)
    return stated


def _classes(
    image: dict[str, Any],
    field: str,
    categories: dict[Any, Any],
    class_names: Sequence[str],
    where: str,
) -> set[int]:
    """The classes that a list of category ids stands for; categories that are no class fall out."""
    keys = image.get(field) or []
    if not isinstance(keys, list):
        raise ValueError(f"{where}: {field} is {keys!r}; it must be a list of category ids")
    names = [_category(categories, key, f"{where}: {field}") for key in keys]
    return {class_names.index(name) for name in names if name in class_names}


def _category(categories: dict[Any, Any], key: Any, where: str) -> str:
    if not isinstance(key, str | int | float) or key not in categories:
        raise ValueError(f"{where}: has the category id {key!r}, which is not among the categories")
    return str(categories[key])


def _load(path: str | Path) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path}: is no COCO file: it must hold an object with images, annotations and "
            f"categories, not a {type(data).__name__}"
        )
    return data


def _records(data: dict[str, Any], field: str, path: str | Path) -> list[dict[str, Any]]:
    records = data.get(field)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        state = "is not a list of objects" if field in data else "is missing"
        raise ValueError(f"{path}: is no COCO file: {field!r} {state}")
    return records


def _field(record: dict[str, Any], field: str, where: str) -> Any:
    """A field that must be there; ids and names are numbers or texts."""
    if field not in record:
        raise ValueError(f"{where}: has no {field!r}")
    if not isinstance(record[field], str | int | float):
        raise ValueError(f"{where}: its {field!r} is {record[field]!r}, not a number or text")
    return record[field]
