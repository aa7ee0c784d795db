"""How much is annotated before and after weakening."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from semiweak.data.annotations import KINDS_OF, UNKNOWN, Annotation, Kind
from semiweak.data.knowledge import understand
from semiweak.data.weaken.painting import shape_of


@dataclass(frozen=True)
class Summary:
    """How much is annotated before and after weakening; prints as a few lines.

    Attributes:
        images: Images per kind of annotation (the most telling that each has), after.
        pixels: Pixels of all images.
        pinned: Pixels whose class (or object) is told, before and after.
        narrowed: Pixels of which at least one class is ruled out, before and after, the pinned ones
            among them.
    """

    images: dict[Kind, int]
    pixels: int
    pinned: tuple[int, int]
    narrowed: tuple[int, int]

    def __str__(self) -> str:
        count = sum(self.images.values())
        names = {"mask": "complete mask", "none": "nothing"}
        kinds = (
            f"{names.get(kind, kind)} {number} ({_percent(number, count)})"
            for kind, number in self.images.items()
            if number
        )
        before, after = (_percent(n, self.pixels) for n in self.pinned)
        less, now = (_percent(n, self.pixels) for n in self.narrowed)
        return (
            f"Annotation of {count} training images: {', '.join(kinds) or 'none'}\n"
            f"Pixels with a told class: {after} (before weakening {before}); "
            f"with at least one class ruled out: {now} (before {less})"
        )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole if whole else 0:.3g} %"


def summarise(
    before: Iterable[Annotation], after: Iterable[Annotation], num_classes: int
) -> Summary:
    """Counts in one pass what is annotated before and after weakening.

    Args:
        before: The annotations of the images, with masks or instances.
        after: The weaker annotations of the same images in the same order.
        num_classes: K.
    """
    images: dict[Kind, int] = dict.fromkeys(KINDS_OF["semantic"], 0)
    pixels, pinned, narrowed = 0, np.zeros(2, int), np.zeros(2, int)
    for strong, weak in zip(before, after, strict=True):
        images[weak.kind()] += 1
        shape = shape_of(strong)
        pixels += math.prod(shape)
        told = [_told(annotation, shape, num_classes) for annotation in (strong, weak)]
        pinned += [p for p, _ in told]
        narrowed += [n for _, n in told]
    return Summary(
        images,
        pixels,
        (int(pinned[0]), int(pinned[1])),
        (int(narrowed[0]), int(narrowed[1])),
    )


def _told(annotation: Annotation, shape: tuple[int, ...], num_classes: int) -> tuple[int, int]:
    """How many pixels are pinned, and how many narrowed."""
    if annotation.is_dense() and not annotation.left_out:
        return math.prod(shape), math.prod(shape)
    pinned = narrowed = np.zeros(shape, bool)
    if annotation.instances is not None:
        pinned = narrowed = annotation.instances != 0
    if annotation.kind() != "none":
        knowledge = understand(annotation, shape, num_classes)
        pinned = pinned | (knowledge.labels != UNKNOWN)
        narrowed = pinned | ~knowledge.candidates.all(axis=0)
    return int(pinned.sum()), int(narrowed.sum())
