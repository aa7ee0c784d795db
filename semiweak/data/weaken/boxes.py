"""Bounding boxes of the components of a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from semiweak.data.annotations import Annotation
from semiweak.data.weaken.painting import blank, components, painting_of


def to_boxes(annotation: Annotation, num_classes: int, *, min_size: int = 1) -> Annotation:
    """The bounding box of every component.

    All classes are boxed, absent ones too: outside its boxes a class cannot be. This stays true

    - of unknown pixels, because the result's ``valid`` region leaves them out, where every class
      remains possible. The box of a component that touches them may not hold the whole object, and
      is a crowd box.
    - of components below ``min_size``, which an annotator would overlook, because each has a crowd
      box, which allows the class but is no box of an object.

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
        min_size: The size of the smallest component with a box of its own, in pixels.
    """
    painting = painting_of(annotation, num_classes)
    shape = painting.mask.shape
    if not painting.known.any():
        return blank(shape)
    beside_unknown = None
    if not painting.known.all() and not annotation.is_dense():
        everywhere = np.ones((3,) * len(shape), bool)
        beside_unknown = ndimage.binary_dilation(~painting.known, everywhere)
    boxes, labels, crowd = [], [], []
    for label, window, region, size in components(painting):
        boxes.append([s.start for s in window] + [s.stop for s in window])
        labels.append(label)
        cut_off = beside_unknown is not None and bool((region & beside_unknown[window]).any())
        crowd.append(size < min_size or cut_off)
    return replace(
        blank(shape, painting.valid()),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 2 * len(shape)),
        box_labels=np.asarray(labels, np.int64),
        box_is_crowd=np.asarray(crowd, bool) if any(crowd) else None,
        boxed_classes=painting.classes,
    )
