"""What is said of a whole image: nothing, or which classes are in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semiweak.data.annotations import ABSENT, NOT_LOOKED_AT, PRESENT, UNKNOWN, Annotation
from semiweak.data.weaken.painting import blank, painting_of, shape_of


def to_nothing(annotation: Annotation) -> Annotation:
    """The image as nobody has annotated it."""
    return blank(shape_of(annotation))


def to_tags(annotation: Annotation, num_classes: int) -> Annotation:
    """Image-level labels: which classes are in the image.

    A class that is not seen is tagged absent only if the mask is complete: it may be where the
    mask is unknown, and is then tagged "not looked at".

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
    """
    painting = painting_of(annotation, num_classes)
    found = np.bincount(painting.mask.ravel(), minlength=UNKNOWN + 1) > 0
    unseen = ABSENT if painting.known.all() or annotation.is_dense() else NOT_LOOKED_AT
    tags = np.full(num_classes, NOT_LOOKED_AT, np.int8)
    for c in painting.classes:
        tags[c] = PRESENT if found[c] else unseen
    return replace(blank(painting.mask.shape, painting.valid()), tags=tags)
