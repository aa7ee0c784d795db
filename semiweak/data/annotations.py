"""What annotators say of one image, and what follows from it for each pixel.

Unknown is the default. A pixel that nobody spoke about may be of any class; nothing that nobody
said is ever background. Everything an annotator can say is a set of classes that a pixel may have,
and several annotations of one image combine by intersection (the DSP paper's A_j).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 255
"""The value of a label pixel whose class nobody told."""

Kind = Literal["mask", "scribbles", "boxes", "points", "tags", "none"]
KINDS: tuple[Kind, ...] = ("mask", "scribbles", "boxes", "points", "tags", "none")
"""The kinds of annotation, the most telling first."""

PRESENT, ABSENT, NOT_LOOKED_AT = 1, 0, -1


def _no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def _no_points() -> NDArray[np.float32]:
    return np.zeros((0, 2), np.float32)


def _no_labels() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Annotation:
    """All that is known about one image with spatial shape ``S`` = (H, W) or (D, H, W).

    Attributes:
        mask: Class per pixel, ``uint8 (*S)``, 255 where unknown.
        scribbles: A partial mask drawn with a brush, ``uint8 (*S)``, 255 where nothing is drawn.
        instances: Object ids, integer ``(*S)``; 0 is unlabelled.
        boxes: ``float32 (N, 2 * len(S))``: the starts of all axes, then the (exclusive) ends, in
            pixels, in the image's axis order: (y0, x0, y1, x1) or (z0, y0, x0, z1, y1, x1).
        box_labels: Class of each box, ``int64 (N,)``.
        box_is_crowd: ``bool (N,)``. A crowd box says "objects of this class somewhere in here": it
            allows the class, but is no box of a single object.
        boxed_classes: The classes of which *every* object has a box, so that a pixel outside all
            their boxes cannot have them. Classes not listed stay possible everywhere.
        points: ``float32 (N, len(S))``; the centre of the first pixel is the origin.
        point_labels: Class of each point, ``int64 (N,)``.
        tags: Per class ``int8 (K,)``: 1 present, 0 absent, -1 not looked at.
        valid: The region that the annotators looked at, ``bool (*S)``; all of it when None.
        annotated_classes: Only these classes were looked for when the mask was painted: any other
            value in the mask then means "none of these". All classes when None.
    """

    mask: NDArray[np.uint8] | None = None
    scribbles: NDArray[np.uint8] | None = None
    instances: NDArray[np.integer] | None = None
    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    box_labels: NDArray[np.int64] = field(default_factory=_no_labels)
    box_is_crowd: NDArray[np.bool_] | None = None
    boxed_classes: tuple[int, ...] = ()
    points: NDArray[np.float32] = field(default_factory=_no_points)
    point_labels: NDArray[np.int64] = field(default_factory=_no_labels)
    tags: NDArray[np.int8] | None = None
    valid: NDArray[np.bool_] | None = None
    annotated_classes: tuple[int, ...] | None = None

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """Which boxes are crowd regions, ``bool (N,)``."""
        if self.box_is_crowd is None:
            return np.zeros(len(self.boxes), bool)
        return self.box_is_crowd

    def kinds(self) -> tuple[Kind, ...]:
        """Every kind of annotation that this image carries, the most telling first.

        A mask with unknown pixels (or of some classes only) is a partial mask and counts as
        ``"scribbles"``: only a complete painting is a ``"mask"``.
        """
        found: set[Kind] = set()
        if self.mask is not None:
            found.add("mask" if self.is_dense() else "scribbles")
        if self.scribbles is not None and bool((self.scribbles != UNKNOWN).any()):
            found.add("scribbles")
        if len(self.boxes) or self.boxed_classes:
            found.add("boxes")
        if len(self.points):
            found.add("points")
        if self.tags is not None and bool((self.tags != NOT_LOOKED_AT).any()):
            found.add("tags")
        return tuple(kind for kind in KINDS if kind in found) or ("none",)

    def kind(self) -> Kind:
        """The most telling kind of annotation; the sampler's stratum."""
        return self.kinds()[0]

    def is_dense(self, content: NDArray[np.bool_] | None = None) -> bool:
        """Whether the mask says the class of every pixel (of ``content``, where that is given)."""
        if self.mask is None or self.annotated_classes is not None:
            return False
        known = self.mask != UNKNOWN
        if self.valid is not None:
            known = known & self.valid
        if content is not None:
            known = known | ~content
        return bool(known.all())

    def without_instances(self) -> Annotation:
        """The same annotation for a method that knows no objects."""
        return replace(self, instances=None)


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    Attributes:
        image: ``(C, *S)`` in the type of the file (uint8, uint16, float32).
        annotation: What is known about it.
        name: The file's stem; unique in a data set.
        content: ``bool (*S)``, False where a crop was padded beyond the image's edge; None when the
            image fills the frame.
    """

    image: NDArray[np.generic]
    annotation: Annotation
    name: str
    content: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        # An annotation without boxes or points cannot know how many axes the image has.
        d, said = len(self.shape), self.annotation
        if not len(said.boxes) or not len(said.points):
            boxes = said.boxes if len(said.boxes) else np.zeros((0, 2 * d), np.float32)
            points = said.points if len(said.points) else np.zeros((0, d), np.float32)
            object.__setattr__(self, "annotation", replace(said, boxes=boxes, points=points))

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape ``S``."""
        return self.image.shape[1:]


class Contradiction(NamedTuple):
    """Annotations of one image that cannot all be right; the pixels count as unknown."""

    message: str
    position: tuple[int, ...] | None = None
    """The first pixel concerned; None when the whole image is."""
    pixels: int = 0


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


def pixel_of(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """The pixel that holds each point, ``int64 (N, d)``; centres are integers, ties go up."""
    return np.asarray(np.floor(points + 0.5), np.int64)


def pixels_of_box(box: NDArray[np.float32], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Every pixel that the box touches, as one slice an axis.

    Pixel ``i`` covers [i, i + 1) of the box's coordinates. Rounding goes outwards, so that a box
    never excludes a pixel of its object.
    """
    d = len(shape)
    start = np.clip(np.floor(box[:d]), 0, shape).astype(int)
    stop = np.clip(np.ceil(box[d:]), 0, shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


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
    - boxes: a class in ``boxed_classes`` only inside its boxes
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
    return Knowledge(labels, allowed, annotation.is_dense(content), tuple(contradictions))


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
