"""Crowded cells that touch: the scene for learning to tell objects of one class apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.synthetic.fields import (
    Array,
    Field,
    coordinates,
    grain,
    project,
    smooth,
    squares,
    unit_vector,
)

CELL_CLASSES = ("background", "cell")

_SPACING = 40.0  # between neighbouring cells, in pixels: about ten of them in 128 x 128
_SPACING_3D = 30.0
_MIN_SHARE = 0.03  # of a full cell: what is smaller at the edge of the image is left out


def cell_sample(
    index: int,
    *,
    seed: int = 0,
    shape: Sequence[int] = (128, 128),
    channels: int = 1,
    noise: float = 0.035,
) -> Sample:
    """Draws one image of touching cells, all of which are painted.

    Cells lie in clusters with gaps between them. They differ in brightness, the darkest being
    hardly brighter than the background; each has a grain, a shading and a nucleus of its own, and a
    dark membrane that fades out along some of the borders, so that no threshold tells neighbours
    apart.

    Args:
        index: Which image of the series; each index gives another scene.
        seed: Which series.
        shape: The spatial shape, (H, W) or (D, H, W).
        channels: Channels of the image. Each further one shows the same cells in other contrast.
        noise: Standard deviation of the camera's noise, as a share of the range from black to
            white.

    Returns:
        The image as ``uint8 (C, *S)``. The mask has the classes of `CELL_CLASSES`; the instances
        are ``int32 (*S)`` with ids from 1 without gaps, each a connected cell.
    """
    rng = np.random.default_rng([seed, index, 2])
    shape = tuple(shape)
    cells, depth = _place(shape, rng)
    stack = [_photograph(cells, depth, channel, noise, rng) for channel in range(channels)]
    annotation = Annotation(
        mask=(cells > 0).astype(np.uint8), instances=cells, instances_complete=True
    )
    return Sample(np.stack(stack), annotation, f"synthetic_{index:04d}")


def _place(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[NDArray[np.int32], Field]:
    """The cells, and for each pixel the distance to the border with the nearest other cell."""
    d = len(shape)
    spacing = _SPACING if d == 2 else _SPACING_3D
    spacing *= min(1.0, (math.prod(shape) ** (1 / d) / (2.5 * spacing)) ** 0.5)
    window = tuple(slice(0, n) for n in shape)
    # Cells are the regions nearest to their centres, in a space that is bent a little.
    place = [
        np.broadcast_to(x, shape) + 0.10 * spacing * smooth(rng, shape, 0.5 * spacing)
        for x in coordinates(window)
    ]
    lattice = np.meshgrid(*[np.arange(-2.0, n / spacing + 2) for n in shape], indexing="ij")
    centres = np.stack(lattice, -1).reshape(-1, d)
    centres[:, -1] += 0.5 * (centres[:, :-1].sum(axis=1) % 2)  # rows in the gaps of others
    centres = spacing * (centres + rng.random(d) + rng.uniform(-0.28, 0.28, centres.shape))
    distance, nearest = KDTree(centres).query(np.stack(place, -1), k=2)
    inwards = ((distance[..., 1] - distance[..., 0]) / 2).astype(np.float32)
    # A cell is round where it has room; where many are missing, there is a gap.
    radius = spacing * (rng.uniform(0.46, 0.68, len(centres)) + 0.06 * (d - 2))
    crowd = smooth(rng, tuple(max(2, math.ceil(n / 8)) for n in shape), 0.3 * spacing)
    at = np.clip(centres / 8, 0, np.array(crowd.shape) - 1).astype(int)
    there = crowd[tuple(at.T)] > rng.normal(-1.4, 0.4, len(centres))
    own = nearest[..., 0]
    to_rim = radius[own] - distance[..., 0]
    inside = there[own] & (to_rim > 0)
    labels = np.where(inside, own + 1, 0).astype(np.int32)
    depth = np.where(there[nearest[..., 1]], np.minimum(inwards, to_rim), to_rim)
    return _largest_pieces(labels, spacing), depth.astype(np.float32)


def _largest_pieces(labels: NDArray[np.int32], spacing: float) -> NDArray[np.int32]:
    """The largest connected piece of each cell, if it is no sliver, numbered without gaps."""
    least = _MIN_SHARE * spacing**labels.ndim
    cells = np.zeros_like(labels)
    count = 0
    windows: list[tuple[slice, ...] | None] = ndimage.find_objects(labels)
    for number, window in enumerate(windows, start=1):
        if window is None:
            continue
        pieces, _ = ndimage.label(labels[window] == number)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        if sizes.max() >= least:
            count += 1
            cells[window][pieces == sizes.argmax()] = count
    return cells


def _photograph(
    cells: NDArray[np.int32], depth: Field, channel: int, noise: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One channel of the image."""
    shape, count = cells.shape, int(cells.max(initial=0))
    look = np.random.default_rng(channel) if channel else rng
    dark = look.uniform(0.18, 0.26)
    gain = rng.uniform(0.8, 1.2)
    fine, coarse = grain(rng, shape, 0.8), grain(rng, shape, 2.2)
    mottle = smooth(rng, shape, 9)
    # The background is mottled, and hardly darker than the darkest cells.
    light = np.full(shape, rng.uniform(0.32, 0.38), np.float32) + 0.03 * mottle + 0.02 * coarse
    level = rng.uniform(0.44, 0.72, count + 1)
    texture = rng.uniform(0.01, 0.07, (count + 1, 2))
    inside = cells > 0
    body = (
        level[cells] + texture[cells, 0] * fine + texture[cells, 1] * coarse + _shading(cells, rng)
    )
    # Each cell's rim is dark, more in some places than in others.
    strength = np.clip(0.65 + 0.4 * smooth(rng, shape, 12), 0.2, 1.0)
    rim = strength * np.exp(-((np.maximum(depth, 0) / 1.3) ** 2))
    body = body * (1 - rim) + dark * rim
    light[inside] = body[inside]
    light = ndimage.gaussian_filter(light, rng.uniform(0.6, 0.9), truncate=3)
    haze = smooth(rng, shape, 0.7 * max(shape))
    light = 0.5 + gain * (light * (1 + 0.06 * haze) - 0.47) + rng.uniform(-0.04, 0.04)
    light = light + noise * rng.standard_normal(shape, np.float32)
    image: NDArray[np.uint8] = np.rint(255 * np.clip(light, 0, 1)).astype(np.uint8)
    return image


def _shading(cells: NDArray[np.int32], rng: np.random.Generator) -> Field:
    """Light from one side of each cell, and a nucleus in it, brighter or darker than the rest."""
    shading = np.zeros(cells.shape, np.float32)
    windows: list[tuple[slice, ...]] = ndimage.find_objects(cells)
    for number, window in enumerate(windows, start=1):
        own = cells[window] == number
        size = float(own.sum()) ** (1 / cells.ndim)
        middle: Array = np.array(ndimage.center_of_mass(own)) + [s.start for s in window]
        offset = [x - np.float32(m) for x, m in zip(coordinates(window), middle, strict=True)]
        tilt = project(offset, unit_vector(rng.standard_normal(cells.ndim)))
        nucleus_at = rng.normal(0, 0.08 * size, cells.ndim)
        away = squares([x - np.float32(m) for x, m in zip(offset, nucleus_at, strict=True)])
        reach = rng.uniform(0.16, 0.24) * size
        nucleus = 1 / (1 + np.exp(np.clip((np.sqrt(away) - reach) / 0.8, -30, 30)))
        contrast = rng.choice([-1, 1]) * rng.uniform(0.03, 0.12)
        part = rng.uniform(0, 0.12) * tilt / size + contrast * nucleus
        shading[window][own] = part[own]
    return shading
