"""What the annotations of one image add up to: the classes that each pixel may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    Annotation,
    Contradiction,
    pixel_of,
    pixels_of_box,
)


@dataclass(frozen=True)
class Knowledge:
    """What the annotations of one image add up to; the single-image part of a batch.

    Attributes:
        labels: ``uint8 (*S)``: the class where somebody pinned the pixel, 255 elsewhere.
        candidates: ``bool (K, *S)``: A_j, the classes a pixel may have.
        has_mask: The image is densely painted.
        contradictions: What could not be true at once.
    """

    labels: NDArray[np.uint8]
    candidates: NDArray[np.bool_]
    has_mask: bool
    contradictions: tuple[Contradiction, ...]


def understand(
    annotation: Annotation,
    shape: tuple[int, ...],
    num_classes: int,
    content: NDArray[np.bool_] | None = None,
) -> Knowledge:
    """Reduces all annotations of an image to the classes that each pixel may have.

    Each annotation allows a set of classes per pixel; the result is their intersection:

    - mask, scribbles: the painted class; all classes where unknown; with ``annotated_classes``, an
      unpainted pixel has none of them
    - points: the class, at the point's pixel
    - boxes: a class in ``boxed_classes`` only inside its boxes; with ``boxes_filled``, in a box
      only the classes of the boxes around the pixel, where nobody says otherwise
    - tags: not the absent classes
    - outside ``valid``: all classes: nobody looked there

    A pixel that no class is left for counts as unknown and is reported.

    Args:
        annotation: What is known about the image.
        shape: The image's spatial shape.
        num_classes: K.
        content: ``bool (*S)``, False in padding, of which nothing is known.

    Raises:
        ValueError: An annotation speaks of a class that there is not, or of a place beyond the
            image.
    """
    _check(annotation, shape, num_classes)
    labels = np.full(shape, UNKNOWN, np.uint8)
    allowed = np.ones((num_classes, *shape), bool)
    clash = np.zeros(shape, bool)
    contradictions: list[Contradiction] = []

    if annotation.tags is not None:
        allowed[annotation.tags == ABSENT] = False
    for c in annotation.boxed_classes:
        inside = np.zeros(shape, bool)
        for box in annotation.boxes[annotation.box_labels == c]:
            inside[pixels_of_box(box, shape)] = True
        allowed[c] &= inside

    for painted, only in (
        (annotation.mask, annotation.annotated_classes),
        (annotation.scribbles, None),
    ):
        if painted is None:
            continue
        pinned = painted != UNKNOWN
        if only is not None:
            looked_for = np.isin(painted, only)
            allowed[list(only)] &= ~(pinned & ~looked_for)
            pinned = pinned & looked_for
        clash |= pinned & np.not_equal(labels, UNKNOWN) & np.not_equal(labels, painted)
        labels[pinned] = painted[pinned]
    if annotation.valid is not None:
        labels[~annotation.valid] = UNKNOWN
        allowed[:, ~annotation.valid] = True
        clash &= annotation.valid

    for point, c in zip(pixel_of(annotation.points), annotation.point_labels, strict=True):
        at = tuple(int(i) for i in point)
        clash[at] |= labels[at] not in (UNKNOWN, c)
        labels[at] = c
    if content is not None:
        labels[~content] = UNKNOWN
        allowed[:, ~content] = True
        clash &= content
    _report(clash, "painted or clicked as two different classes", contradictions)

    pinned = labels != UNKNOWN
    if pinned.any():
        here = labels[pinned].astype(np.int64)
        _check_classes("mask and scribbles", here, num_classes)
        excluded = np.zeros(shape, bool)
        excluded[pinned] = ~allowed[:, pinned][here, np.arange(len(here))]
        _report(
            excluded & ~clash,
            "pinned to a class that a tag, the boxes or the annotated classes rule out here",
            contradictions,
        )
        clash |= excluded
        allowed[:, pinned] = np.arange(num_classes)[:, None] == here
    nothing_left = np.logical_not(allowed.any(axis=0))
    _report(nothing_left, "no class is left: tags and boxes rule out all of them", contradictions)
    clash |= nothing_left
    labels[clash] = UNKNOWN
    allowed[:, clash] = True

    if annotation.tags is not None:
        boxed = set(annotation.box_labels.tolist())
        for c in np.flatnonzero(annotation.tags == ABSENT).tolist():
            if c in boxed:
                contradictions.append(Contradiction(f"class {c} is tagged absent but has a box"))
        for c in np.flatnonzero(annotation.tags == PRESENT).tolist():
            if not allowed[c].any():
                contradictions.append(
                    Contradiction(f"class {c} is tagged present but no pixel may have it")
                )
    if annotation.boxes_filled:
        spoken_for = clash | (labels != UNKNOWN)
        for where in (annotation.valid, content):
            if where is not None:
                spoken_for |= ~where
        _fill_boxes(annotation, allowed, ~spoken_for)
    return Knowledge(labels, allowed, annotation.is_dense(content), tuple(contradictions))


def _fill_boxes(
    annotation: Annotation, allowed: NDArray[np.bool_], where: NDArray[np.bool_]
) -> None:
    """Leaves pixels in boxes the classes of these boxes, unless all of those are ruled out.

    A crowd box holds its class somewhere: it allows the class, but leaves the others.
    """
    covering = np.zeros_like(allowed)
    filled = np.zeros_like(where)
    for box, c, crowd in zip(
        annotation.boxes, annotation.box_labels, annotation.crowd, strict=True
    ):
        window = pixels_of_box(box, where.shape)
        covering[(c, *window)] = True
        filled[window] |= not crowd
    covering &= allowed
    narrowed = where & filled & covering.any(axis=0)
    allowed[:, narrowed] = covering[:, narrowed]


def _check(annotation: Annotation, shape: tuple[int, ...], num_classes: int) -> None:
    if annotation.tags is not None and len(annotation.tags) != num_classes:
        raise ValueError(f"there are {len(annotation.tags)} tags for {num_classes} classes")
    _check_classes("the boxes", annotation.box_labels, num_classes)
    _check_classes("the boxed classes", annotation.boxed_classes, num_classes)
    _check_classes("the points", annotation.point_labels, num_classes)
    _check_classes("the annotated classes", annotation.annotated_classes or (), num_classes)
    if len(annotation.points):
        pixels = pixel_of(annotation.points)
        outside = ((pixels < 0) | (pixels >= np.asarray(shape))).any(axis=1)
        if outside.any():
            point = annotation.points[outside.argmax()].tolist()
            raise ValueError(f"the point {point} is outside the image, whose size is {list(shape)}")


def _check_classes(
    what: str, classes: NDArray[np.integer] | Sequence[int], num_classes: int
) -> None:
    present = np.asarray(classes, np.int64)
    for c in (present.min(initial=0), present.max(initial=0)):
        if not 0 <= c < num_classes:
            raise ValueError(
                f"{what} say class {c}; with {num_classes} classes it must be 0 to "
                f"{num_classes - 1}, or {UNKNOWN} where a pixel is unknown"
            )


def _report(where: NDArray[np.bool_], message: str, into: list[Contradiction]) -> None:
    pixels = int(where.sum())
    if pixels:
        first = np.unravel_index(int(where.argmax()), where.shape)
        into.append(Contradiction(message, tuple(int(i) for i in first), pixels))
