"""What all weaker annotations start from: a mask, its components, and a blank annotation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiweak.data.annotations import UNKNOWN, Annotation


class Painting(NamedTuple):
    """What a mask tells."""

    mask: NDArray[np.uint8]
    known: NDArray[np.bool_]
    classes: tuple[int, ...]
    """The classes that were looked for: where `known`, a pixel has one of them if, and only if,
    it is painted so."""

    def valid(self) -> NDArray[np.bool_] | None:
        """The known pixels; None if all are known."""
        return None if self.known.all() else self.known


def painting_of(annotation: Annotation, num_classes: int) -> Painting:
    """What the mask of an annotation tells where it is valid.

    Raises:
        ValueError: There is no mask, or one with classes beyond ``num_classes``.
    """
    mask = annotation.mask
    if mask is None:
        raise ValueError("an image without a mask cannot be given weaker annotations")
    known = mask != UNKNOWN
    if annotation.valid is not None:
        known = known & annotation.valid
        mask = np.where(known, mask, np.uint8(UNKNOWN))
    classes, highest = annotation.annotated_classes, int(mask.max(where=known, initial=0))
    if classes is not None:
        highest = max(classes, default=0)
    if highest >= num_classes:
        raise ValueError(
            f"class {highest} is painted, but with {num_classes} classes the highest is "
            f"{num_classes - 1}; only {UNKNOWN} may stand for unknown"
        )
    return Painting(mask, known, tuple(range(num_classes)) if classes is None else classes)


class Component(NamedTuple):
    """A set of pixels of one class that hang together."""

    label: int
    window: tuple[slice, ...]
    """Its bounding box."""
    region: NDArray[np.bool_]
    """Its pixels in the bounding box."""
    size: int


def components(painting: Painting) -> Iterator[Component]:
    """Every component of the classes that were looked for."""
    for label in painting.classes:
        labels, _ = connected(painting.mask == label)
        for index, window in enumerate(ndimage.find_objects(labels), start=1):
            region = labels[window] == index
            yield Component(label, window, region, int(region.sum()))


def connected(region: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Numbers the connected parts of a region from 1; 0 is outside. Returns their count, too."""
    labels, count = ndimage.label(region, np.ones((3,) * region.ndim, bool))
    return labels, int(count)


def blank(shape: Sequence[int], valid: NDArray[np.bool_] | None = None) -> Annotation:
    """An annotation that says nothing, of an image with this spatial shape."""
    d = len(shape)
    return Annotation(
        boxes=np.zeros((0, 2 * d), np.float32), points=np.zeros((0, d), np.float32), valid=valid
    )


def shape_of(annotation: Annotation) -> tuple[int, ...]:
    """The spatial shape of the image; of size 0 if no array tells it."""
    for array in (annotation.mask, annotation.scribbles, annotation.instances, annotation.valid):
        if array is not None:
            return array.shape
    return (0,) * int(annotation.points.shape[1])
