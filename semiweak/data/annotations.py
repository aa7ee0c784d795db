"""What annotators say of one image, and what follows from it for each pixel.

Unknown is the default. A pixel that nobody spoke about may be of any class; nothing that nobody
said is ever background. Everything an annotator can say is a set of classes that a pixel may have,
and several annotations of one image combine by intersection (the DSP paper's A_j).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 255
"""The value of a label pixel whose class nobody told."""

Task = Literal["semantic", "instances"]
"""What is learned: the class of every pixel, or which pixels belong to one object."""

Kind = Literal["mask", "scribbles", "boxes", "points", "tags", "instances", "objects", "none"]
KINDS: tuple[Kind, ...] = (
    "mask", "scribbles", "boxes", "points", "tags", "instances", "objects", "none",
)  # fmt: skip
"""The kinds of annotation, the most telling first: five of classes, then two of objects (all of an
image's objects are painted, or some), and none."""

KINDS_OF: dict[Task, tuple[Kind, ...]] = {
    "semantic": ("mask", "scribbles", "boxes", "points", "tags", "none"),
    "instances": ("instances", "objects", "none"),
}
"""The kinds that a task knows."""

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
        instances: Object ids, integer ``(*S)``; 0 is unlabelled, or background where the painting
            is complete.
        boxes: ``float32 (N, 2 * len(S))``: the starts of all axes, then the (exclusive) ends, in
            pixels, in the image's axis order: (y0, x0, y1, x1) or (z0, y0, x0, z1, y1, x1).
        box_labels: Class of each box, ``int64 (N,)``.
        box_is_crowd: ``bool (N,)``. A crowd box says "objects of this class somewhere in here": it
            allows the class, but is no box of a single object.
        boxed_classes: The classes of which *every* object has a box, so that a pixel outside all
            their boxes cannot have them. Classes not listed stay possible everywhere.
        boxes_filled: Objects fill their boxes, by and large: a pixel in a box has the class of one
            of the boxes around it, so that a class that nobody boxes, such as the background, is
            not in there. An assumption, which never contradicts what somebody said of the pixel.
        points: ``float32 (N, len(S))``; the centre of the first pixel is the origin.
        point_labels: Class of each point, ``int64 (N,)``.
        tags: Per class ``int8 (K,)``: 1 present, 0 absent, -1 not looked at.
        valid: The region that the annotators looked at, ``bool (*S)``; all of it when None.
        annotated_classes: Only these classes were looked for when the mask was painted: any other
            value in the mask then means "none of these". All classes when None.
        instances_complete: Every object of the image (of its ``valid`` region) is painted in
            ``instances``, so that a 0 there is background and no object that nobody painted.
        contradictions: What could not be true at once and was settled when the files were read.
        left_out: The mask is painted completely, and unknown where it shows a class that was left
            out: a pixel there has none of the classes.
    """

    mask: NDArray[np.uint8] | None = None
    scribbles: NDArray[np.uint8] | None = None
    instances: NDArray[np.integer] | None = None
    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    box_labels: NDArray[np.int64] = field(default_factory=_no_labels)
    box_is_crowd: NDArray[np.bool_] | None = None
    boxed_classes: tuple[int, ...] = ()
    boxes_filled: bool = False
    points: NDArray[np.float32] = field(default_factory=_no_points)
    point_labels: NDArray[np.int64] = field(default_factory=_no_labels)
    tags: NDArray[np.int8] | None = None
    valid: NDArray[np.bool_] | None = None
    annotated_classes: tuple[int, ...] | None = None
    instances_complete: bool = False
    contradictions: tuple[Contradiction, ...] = ()
    left_out: bool = False

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """Which boxes are crowd regions, ``bool (N,)``."""
        if self.box_is_crowd is None:
            return np.zeros(len(self.boxes), bool)
        return self.box_is_crowd

    def kinds(self, task: Task = "semantic") -> tuple[Kind, ...]:
        """Every kind of annotation that this image carries for a task, the most telling first.

        A mask with unknown pixels (or of some classes only) is a partial mask and counts as
        ``"scribbles"``: only a complete painting is a ``"mask"``. Likewise of objects: all of them
        are ``"instances"``, some are ``"objects"``. Classes say nothing about objects, nor objects
        about classes.
        """
        found: set[Kind] = set()
        if task == "instances":
            if self.paints_all_objects():
                found.add("instances")
            elif self.instances_complete or len(self.object_ids()):
                found.add("objects")
            return tuple(found) or ("none",)
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
        return tuple(kind for kind in KINDS_OF[task] if kind in found) or ("none",)

    def kind(self, task: Task = "semantic") -> Kind:
        """The most telling kind of annotation; the sampler's stratum."""
        return self.kinds(task)[0]

    def paints_all_objects(self) -> bool:
        """Whether it is known of every pixel which object it belongs to, or that it has none."""
        looked_at = self.valid is None or bool(self.valid.all())
        return self.instances is not None and self.instances_complete and looked_at

    def object_map(self) -> NDArray[np.integer] | None:
        """The painted objects where the annotators looked, integer ``(*S)``; 0 elsewhere."""
        if self.instances is None or self.valid is None:
            return self.instances
        return np.where(self.valid, self.instances, self.instances.dtype.type(0))

    def object_ids(self) -> NDArray[np.integer]:
        """The ids of the painted objects, ascending; background is none of them."""
        objects = self.object_map()
        if objects is None:
            return np.zeros(0, np.int64)
        return np.unique(objects[objects != 0])

    def is_dense(self, content: NDArray[np.bool_] | None = None) -> bool:
        """Whether the mask is painted completely (in ``content``, where that is given).

        It then says the class of every pixel, unless that class was left out.
        """
        if self.mask is None or self.annotated_classes is not None:
            return False
        known = (self.mask != UNKNOWN) | self.left_out
        if self.valid is not None:
            known = known & self.valid
        if content is not None:
            known = known | ~content
        return bool(known.all())

    def without_instances(self) -> Annotation:
        """The same annotation for a method that knows no objects."""
        return replace(self, instances=None, instances_complete=False)


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    Attributes:
        image: ``(C, *S)`` in the type of the file (uint8, uint16, float32).
        annotation: What is known about it.
        name: The file's stem; unique in a data set.
        content: ``bool (*S)``, False where a crop was padded beyond the image's edge; None when the
            image fills the frame.
        maps: Numbers ``float32 (M, *S)`` for each pixel that move with the image, NaN where there
            are none; None without such.
    """

    image: NDArray[np.generic]
    annotation: Annotation
    name: str
    content: NDArray[np.bool_] | None = None
    maps: NDArray[np.float32] | None = None

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
