"""A few of the painted objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from semiweak.data.annotations import UNKNOWN, Annotation
from semiweak.data.weaken.painting import blank, connected, painting_of


def to_objects(
    annotation: Annotation, k: int, rng: np.random.Generator, *, exclude: Sequence[int] = ()
) -> Annotation:
    """A few completely painted objects; everything else is unknown (the SPOCO paper's setting).

    An object is an instance where the annotation has them, and a component of a class elsewhere.
    So the background, too, is an object (or several) unless its class is excluded.

    Args:
        annotation: An annotation with a mask, instances or both.
        k: The number of objects to keep. All are kept where there are fewer. With one seed the
            objects kept for a smaller ``k`` are among those kept for a larger one.
        rng: Draws the objects.
        exclude: Classes whose objects are not kept: their components, and the instances most of
            whose painted pixels have one of these classes.

    Returns:
        ``scribbles`` with the kept pixels' classes (if there was a mask), and ``instances`` with
        the kept objects: the ids that they had, or new ones above these.
    """
    instances = annotation.instances
    classes: Sequence[int] = ()
    if annotation.mask is not None:
        mask, _, classes = painting_of(annotation, UNKNOWN)
    elif instances is not None:
        mask = np.full(instances.shape, UNKNOWN, np.uint8)
    else:
        raise ValueError("an image without mask and instances has no objects to keep")
    is_class, is_excluded = np.zeros((2, UNKNOWN + 1), bool)
    is_class[list(classes)] = True
    is_excluded[list(exclude)] = True
    painted = is_class[mask]

    # Objects are numbered as they come; ids[number] is the id that they have in the result.
    ids, numbers = np.zeros(1, np.int64), np.zeros(mask.shape, np.int64)
    if instances is not None:
        looked_at = True if annotation.valid is None else annotation.valid
        seen = np.where(looked_at, instances, 0).astype(np.int64)
        ids = np.union1d(0, seen)
        numbers = np.searchsorted(ids, seen)
    unnumbered = numbers == 0
    for c in np.unique(mask[painted & unnumbered & ~is_excluded[mask]]):
        labels, found = connected((mask == c) & unnumbered)
        np.add(labels, len(ids) - 1, out=numbers, where=labels > 0)
        ids = np.append(ids, ids[-1] + 1 + np.arange(found))

    pixels = np.bincount(numbers[painted], minlength=len(ids))
    excluded = np.bincount(numbers[painted & is_excluded[mask]], minlength=len(ids))
    eligible = np.flatnonzero(2 * excluded <= pixels)
    kept = np.zeros(len(ids), bool)
    kept[rng.permutation(eligible[eligible > 0])[:k]] = True
    in_kept = kept[numbers]
    scribbles = np.where(painted & in_kept, mask, np.uint8(UNKNOWN))
    return replace(
        blank(mask.shape),
        scribbles=None if annotation.mask is None else scribbles,
        instances=np.where(in_kept, ids[numbers], 0).astype(np.int32),
    )
