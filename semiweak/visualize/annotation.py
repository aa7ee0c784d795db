"""An image with everything that annotators said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semiweak.data.annotations import ABSENT, PRESENT, UNKNOWN, Sample, pixel_of
from semiweak.visualize.color import PAPER, Rgb, palette
from semiweak.visualize.layers import borders, draw_box, draw_cross, draw_strokes, hatch, tint
from semiweak.visualize.picture import enlarge, to_rgb
from semiweak.visualize.text import Entry, entries_of, flow

_READABLE = 512  # pixels that a drawing is about long


def draw_annotation(sample: Sample, num_classes: int, class_names: Sequence[str] = ()) -> Rgb:
    """An image with everything that annotators said about it.

    Painted pixels carry their class's colour, objects are outlined in white, boxes are rectangles,
    points are crosses, and tags are written underneath, with a note on whatever needs one: hatched
    is what a partial mask leaves unknown, dark what nobody looked at, dashed the box of a crowd. Of
    a stack, the slice with the most annotation is shown. Small images are enlarged by a whole
    number, and thin strokes thickened, so that all is readable on a contact sheet.

    Args:
        sample: The image and its annotation.
        num_classes: K.
        class_names: K names for the tags; by default the classes' numbers.

    Raises:
        ValueError: There are not as many names as classes.
    """
    names = _names(class_names, num_classes)
    sample, slice_number = _plane(sample)
    annotation = sample.annotation
    zoom = max(1, round(_READABLE / max(sample.shape)))
    line = max(2, round(max(sample.shape) * zoom / 160))
    picture = enlarge(to_rgb(sample.image), zoom)
    colors = palette(num_classes)
    notes: list[list[Entry]] = []
    if slice_number is not None:
        notes.append([Entry(f"slice {slice_number}, counted from 0")])

    if annotation.mask is not None:
        mask = annotation.mask
        unknown = mask == UNKNOWN
        if annotation.annotated_classes is not None:
            notes.append([Entry("looked for:"), *entries_of(annotation.annotated_classes, names)])
            mask = np.where(np.isin(mask, annotation.annotated_classes), mask, np.uint8(UNKNOWN))
        picture = tint(picture, enlarge(mask, zoom), alpha=0.45)
        if unknown.any():
            hatch(picture, enlarge(unknown, zoom), line)
            notes.append([Entry("hatched: unknown")])
    if annotation.scribbles is not None:
        draw_strokes(picture, enlarge(annotation.scribbles, zoom), colors, line)
    if annotation.instances is not None:
        objects = enlarge(annotation.instances, zoom)
        if annotation.mask is None:
            picture = tint(picture, objects, alpha=0.45, unknown=0)
        picture[borders(objects) & (objects != 0)] = PAPER
    for region, note in (
        (annotation.valid, "dark: not looked at"),
        (sample.content, "dark: beyond the image"),
    ):
        if region is not None and not region.all():
            inside = enlarge(region, zoom)
            picture[~inside] //= 4
            picture[borders(inside) & inside] = PAPER
            notes.append([Entry(note)])

    for box, label, crowd in zip(
        annotation.boxes * zoom, annotation.box_labels, annotation.crowd, strict=True
    ):
        draw_box(picture, box, colors[label], line, dashed=bool(crowd))
    if annotation.crowd.any():
        notes.append([Entry("dashed: crowd")])
    canvas = Image.fromarray(picture)
    for point, label in zip(annotation.points, annotation.point_labels, strict=True):
        draw_cross(canvas, (point + 0.5) * zoom, colors[label], line)
    if annotation.tags is not None:
        for value, word in ((PRESENT, "present:"), (ABSENT, "absent:")):
            tagged = np.flatnonzero(annotation.tags == value).tolist()
            if tagged:
                notes.append([Entry(word), *entries_of(tagged, names)])
    font_size = max(12, canvas.width // 24)
    return np.concatenate([np.array(canvas), *(flow(n, canvas.width, font_size) for n in notes)])


def _names(class_names: Sequence[str], num_classes: int) -> list[str]:
    if class_names and len(class_names) != num_classes:
        raise ValueError(
            f"got {len(class_names)} names for {num_classes} classes: {list(class_names)}"
        )
    return list(class_names) or [f"class {c}" for c in range(num_classes)]


def _plane(sample: Sample) -> tuple[Sample, int | None]:
    """A 2D sample as it is; of a stack, the slice with the most annotation, and its number."""
    if len(sample.shape) == 2:
        return sample, None
    annotation = sample.annotation
    boxes, points = annotation.boxes.reshape(-1, 6), annotation.points.reshape(-1, 3)
    z = np.arange(sample.shape[0])[:, None]
    # Every slice that a box touches, as `pixels_of_box` has it.
    boxed = (np.floor(boxes[:, 0]) <= z) & (z < np.ceil(boxes[:, 3]))
    clicked = pixel_of(points)[:, 0] == z
    said = boxed.sum(axis=1) + clicked.sum(axis=1)
    for labels, nothing in (
        (annotation.mask, UNKNOWN),
        (annotation.scribbles, UNKNOWN),
        (annotation.instances, 0),
    ):
        if labels is not None:
            said = said + (labels != nothing).sum(axis=(1, 2))
    from_middle = np.abs(z[:, 0] - len(z) // 2)
    best = int(np.lexsort((from_middle, -said))[0])

    def cut(array: NDArray[Any] | None) -> Any:
        return None if array is None else array[best]

    flat = replace(
        annotation,
        mask=cut(annotation.mask),
        scribbles=cut(annotation.scribbles),
        instances=cut(annotation.instances),
        valid=cut(annotation.valid),
        boxes=boxes[boxed[best]][:, [1, 2, 4, 5]],
        box_labels=annotation.box_labels[boxed[best]],
        box_is_crowd=annotation.crowd[boxed[best]],
        points=points[clicked[best]][:, 1:],
        point_labels=annotation.point_labels[clicked[best]],
    )
    return Sample(sample.image[:, best], flat, sample.name, cut(sample.content)), best
