"""Random training patches: where they are cut, and how they are moved about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semiweak.data.annotations import UNKNOWN, Annotation, Sample, Task, pixel_of
from semiweak.data.geometry import affine, crop, flip, transpose


@dataclass(frozen=True)
class Geometry:
    """The random geometry of a training patch.

    Attributes:
        flip: Mirror every axis with probability one half, and swap the last two in half of the
            cases where the patch is square (all eight symmetries of the square in 2D).
        rotate: Rotate by up to this many degrees (2D).
        scale: Scale by a factor between these two (2D).
        focus: The share of patches of a sparsely annotated image (one without a complete mask) that
            are placed so that they hold an annotated pixel. Of objects: the share of patches of any
            image with painted objects that hold a pixel of one of them, each as likely as others.
    """

    flip: bool = True
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    focus: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate is {self.rotate}; it must be 0 to 180 degrees")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"scale is {list(self.scale)}; it must be two positive factors, the smaller first"
            )
        if not 0 <= self.focus <= 1:
            raise ValueError(f"focus is {self.focus}; it must be a share between 0 and 1")

    def patch(
        self,
        sample: Sample,
        size: Sequence[int],
        rng: np.random.Generator,
        task: Task = "semantic",
    ) -> Sample:
        """Cuts a random patch of ``size`` and moves it about."""
        warp = self.rotate > 0 or tuple(self.scale) != (1.0, 1.0)
        if warp and len(size) != 2:
            raise ValueError("rotate and scale work on 2D images; set them to 0 and [1, 1] in 3D")
        cut, core = self._before_warp(size) if warp else (tuple(size), tuple(size))
        sample = crop(sample, self._start(sample, cut, core, rng, task), cut)
        if warp:
            sample = affine(sample, rng, rotate=self.rotate, scale=self.scale)
            sample = crop(sample, [(a - b) // 2 for a, b in zip(cut, size, strict=True)], size)
        if self.flip:
            sample = flip(sample, [axis for axis in range(len(size)) if rng.random() < 0.5])
            if size[-1] == size[-2] and rng.random() < 0.5:
                order = list(range(len(size)))
                order[-2:] = order[-1], order[-2]
                sample = transpose(sample, order)
        return sample

    def _before_warp(self, size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The size to cut out, and the size of its core.

        It is enough that a rotated, shrunken patch is filled with real pixels; the core is in the
        patch by any angle and factor.
        """
        reach = []
        for side, other in (size, reversed(size)):
            # Turning makes a side reach farther until the diagonal lies along it.
            angle = min(math.radians(self.rotate), math.atan2(other, side))
            reach.append(side * math.cos(angle) + other * math.sin(angle))
        fill = min(n / r for n, r in zip(size, reach, strict=True)) / self.scale[1]
        cut = [math.ceil(r / self.scale[0]) + 2 for r in reach]
        core = [math.floor(n * min(fill, 1.0)) - 2 for n in size]
        return tuple(map(max, size, cut)), tuple(max(1, n) for n in core)

    def _start(
        self,
        sample: Sample,
        size: Sequence[int],
        core: Sequence[int],
        rng: np.random.Generator,
        task: Task,
    ) -> tuple[int, ...]:
        """Where a window of ``size`` begins; with luck (`focus`) so that its core is annotated."""
        target = None
        if rng.random() < self.focus:
            found = _object_pixel if task == "instances" else _annotated_pixel
            target = found(sample.annotation, rng)
        start = []
        for axis, (n, m, middle) in enumerate(zip(sample.shape, size, core, strict=True)):
            if n <= m:  # smaller than the patch: centred, and padded by the crop
                start.append((n - m) // 2)
                continue
            low, high = 0, n - m
            if target is not None:
                last = target[axis] - (m - middle) // 2
                low, high = (min(max(a, low), high) for a in (last - middle + 1, last))
            start.append(int(rng.integers(low, high + 1)))
        return tuple(start)


def _annotated_pixel(annotation: Annotation, rng: np.random.Generator) -> tuple[int, ...] | None:
    """A random pixel that an annotation speaks about; None where that is every pixel, or none."""
    kind = annotation.kind()
    if kind == "points":
        at = pixel_of(annotation.points)[rng.integers(len(annotation.points))]
        return tuple(int(i) for i in at)
    if kind == "boxes" and len(annotation.boxes):
        box = annotation.boxes[rng.integers(len(annotation.boxes))]
        d = len(box) // 2
        return tuple(int(i) for i in rng.uniform(box[:d], box[d:]))
    if kind == "scribbles":
        drawn = [a != UNKNOWN for a in (annotation.mask, annotation.scribbles) if a is not None]
        known = np.flatnonzero(np.logical_or.reduce(drawn))
        if len(known):
            at = np.unravel_index(known[rng.integers(len(known))], drawn[0].shape)
            return tuple(int(i) for i in at)
    return None


def _object_pixel(annotation: Annotation, rng: np.random.Generator) -> tuple[int, ...] | None:
    """A random pixel of a random painted object, large or small; None where there is no object."""
    objects, ids = annotation.object_map(), annotation.object_ids()
    if objects is None or not len(ids):
        return None
    pixels = np.flatnonzero(objects == ids[rng.integers(len(ids))])
    at = np.unravel_index(pixels[rng.integers(len(pixels))], objects.shape)
    return tuple(int(i) for i in at)
