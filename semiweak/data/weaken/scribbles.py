"""Strokes along the components of a mask."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiweak.data.annotations import UNKNOWN, Annotation
from semiweak.data.weaken.painting import blank, components, painting_of


def to_scribbles(
    annotation: Annotation,
    num_classes: int,
    rng: np.random.Generator,
    *,
    share: float = 0.03,
    min_size: int = 1,
) -> Annotation:
    """Strokes, one pixel thin, along the inside of every component.

    A stroke begins at a random pixel, more likely one deep inside, and runs on in both directions,
    drawn to the component's middle line and loath to turn. New strokes begin until the wanted
    number of pixels is drawn.

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
        rng: Draws the strokes.
        share: The share of each component's pixels that is drawn, above 0 and up to 1; never
            less than one pixel.
        min_size: The size of the smallest component that is scribbled on, in pixels.
    """
    painting = painting_of(annotation, num_classes)
    scribbles = np.full(painting.mask.shape, UNKNOWN, np.uint8)
    for label, window, region, size in components(painting):
        if size >= min_size:
            scribbles[window][_strokes(region, max(1, round(share * size)), rng)] = label
    return replace(blank(scribbles.shape, painting.valid()), scribbles=scribbles)


def _strokes(region: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draws ``count`` pixels of the region as strokes."""
    d = region.ndim
    # The frame of zeros spares every check of bounds, and keeps strokes off the image's edge.
    depth = ndimage.distance_transform_edt(np.pad(region, 1))
    steps = np.argwhere(np.ones((3,) * d)) - 1
    steps = steps[np.any(steps != 0, axis=1)]
    strides = np.asarray(depth.strides) // depth.itemsize
    jumps, directions = steps @ strides, steps / np.linalg.norm(steps, axis=1, keepdims=True)
    inner = (slice(1, -1),) * d
    drawn = np.zeros(depth.shape, bool)
    flat_depth, flat_drawn = depth.ravel(), drawn.ravel()
    deepest = depth.max()

    inside = np.flatnonzero(flat_depth)
    # Sorting by exponential variates over weights draws all pixels in a weighted random order.
    starts = inside[np.argsort(rng.exponential(size=len(inside)) / flat_depth[inside])]
    longest = math.ceil(2 * len(inside) ** (1 / d))  # about two diameters of a compact component
    for start in starts:
        if count == 0:
            break
        if flat_drawn[start]:
            continue
        flat_drawn[start] = True
        count -= 1
        towards = directions[rng.integers(len(directions))]
        for heading in (towards, -towards):
            at, lag = start, np.zeros(d)
            for tremor in 0.15 * rng.standard_normal((min(count, longest // 2), d)):
                around = at + jumps
                depths = flat_depth[around]
                ahead = directions @ heading
                open_ = (depths > 0) & ~flat_drawn[around] & (ahead > 0)
                if not open_.any():
                    break
                # Near the rim the pen is pulled inwards. `lag` is how far the pixels are behind the
                # pen, so that it can hold any slope.
                pull = 1 - flat_depth[at] / deepest
                score = ahead + directions @ lag + pull * (depths - flat_depth[at])
                step = int(np.argmax(np.where(open_, score, -np.inf)))
                at = around[step]
                flat_drawn[at] = True
                count -= 1
                lag = 0.5 * (lag + heading - directions[step])
                heading = heading + (0.1 + 0.5 * pull) * directions[step] + tremor
                heading /= np.linalg.norm(heading)
    result: NDArray[np.bool_] = drawn[inner]
    return result
