"""What there is to be seen: cells with organelles, their classes, objects and texture."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiweak.data.synthetic.fields import (
    Array,
    Field,
    Window,
    coordinates,
    grain,
    project,
    slope_along,
    smooth,
    squares,
    unit_vector,
)

CLASS_NAMES = (
    "background",
    "mitochondrion",
    "nucleus",
    "vesicle",
    "membrane",
    "lysosome",
    "reticulum",
    "droplet",
)
"""The classes, in the order of their ids. With ``num_classes=K`` the first K are painted."""

BACKGROUND, MITOCHONDRION, NUCLEUS, VESICLE, MEMBRANE, LYSOSOME, RETICULUM, DROPLET = range(8)
# The space between cells, which is painted as background.
_OUTSIDE = len(CLASS_NAMES)


class _Body(NamedTuple):
    """The surroundings of one body, in the window of the image that holds it."""

    window: Window
    depth: Field
    """Distance from the surface in pixels, positive inside."""
    along: Field
    """Position along the axis of an elongated body, in pixels."""


class Scene:
    """Classes, objects and texture of every pixel, before they are photographed."""

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        self.shape, self.rng = shape, rng
        side = math.prod(shape) ** (1 / len(shape))
        self.whole = tuple(slice(0, n) for n in shape)
        self.unit = math.sqrt(min(1.0, side / 128))
        self.classes = np.zeros(shape, np.uint8)
        self.objects = np.zeros(shape, np.int32)
        self.count = 0
        self.fine = grain(rng, shape, 0.7)
        self.coarse = grain(rng, shape, 1.8 * self.unit)
        self.bumps = smooth(rng, shape, 7 * self.unit)
        # Cytosol: fine grain, strewn with dark dots (ribosomes).
        self.texture = 0.045 * self.fine - 0.16 * (self.coarse * self.fine > 1.6)

    def draw(self) -> None:
        """Fills the scene; what is drawn first is never drawn over."""
        self._cells()
        u, uniform = self.unit, self.rng.uniform
        plenty = uniform(0.5, 1.5, 4)  # images differ in what abounds
        self._strew(MITOCHONDRION, 0.10 * plenty[0], self._tube)
        self._strew(LYSOSOME, 0.025 * plenty[1], lambda: self._ball(uniform(4, 7) * u, 1.4))
        self._strew(DROPLET, 0.02 * plenty[2], lambda: self._ball(uniform(3, 6) * u, 1.1))
        self._strew(VESICLE, 0.035 * plenty[3], lambda: self._ball(uniform(3.0, 5.0) * u, 1.2))
        self._reticulum()

    def _cells(self) -> None:
        """Divides the image into cells with membranes, and gives most of them a nucleus."""
        rng, u, d = self.rng, self.unit, len(self.shape)
        spacing = 80 * u
        warp = [6 * u * smooth(rng, self.shape, 22 * u) for _ in range(d)]
        place = [x + w for x, w in zip(coordinates(self.whole), warp, strict=True)]
        lattice = np.meshgrid(*[np.arange(-0.5, n / spacing + 1) for n in self.shape])
        centres = np.stack(lattice, -1).reshape(-1, d)
        centres = spacing * (centres + rng.uniform(-0.4, 0.4, centres.shape))
        nearest, second = np.full((2, *self.shape), np.inf, np.float32)
        cell = np.zeros(self.shape, np.int32)
        # Around every pixel there are at least two centres in this reach.
        reach = 1.9 * spacing + max(float(np.abs(w).max()) for w in warp)
        for i, centre in enumerate(centres, start=1):
            near = self._window(centre - reach, centre + reach)
            distance = squares(
                [x[near] - np.float32(c) for x, c in zip(place, centre, strict=True)]
            )
            cell[near][distance < nearest[near]] = i
            second[near] = np.minimum(second[near], np.maximum(distance, nearest[near]))
            nearest[near] = np.minimum(nearest[near], distance)
        # Zero where two cells meet; the slope turns it into pixels there.
        inwards = np.sqrt(second) - np.sqrt(nearest)
        slope = np.sqrt(squares([slope_along(inwards, axis) for axis in range(d)]))
        to_border = inwards / np.maximum(slope, 0.3)
        gap = u * np.maximum(0.4, 0.9 + 0.8 * self.bumps)
        membrane = (to_border >= gap) & (to_border < gap + max(1.4, 2.4 * u))
        self.classes[to_border < gap] = _OUTSIDE
        self.texture[membrane] = 0.04 * self.fine[membrane]
        windows: list[Window | None] = ndimage.find_objects(cell)
        for i, window in enumerate(windows, start=1):
            if window is None:
                continue
            own = cell[window] == i
            self._add_pieces(MEMBRANE, window, membrane[window] & own)
            deep = np.where(own, inwards[window], 0)
            middle = np.unravel_index(deep.argmax(), deep.shape)
            radius = min(rng.uniform(12, 19) * u, 0.4 * float(deep.max()))
            if radius > 6 * u and rng.random() < 0.8:
                at = [s.start + float(m) for s, m in zip(window, middle, strict=True)]
                self._add(NUCLEUS, self._ball(radius, 1.3, np.asarray(at)))

    def _strew(self, label: int, share: float, body: Callable[[], _Body | None]) -> None:
        """Adds bodies in random places until they fill a share of the image."""
        wanted, misses = share * math.prod(self.shape), 0
        while wanted > 0 and misses < 50:  # so many misses in a row: the cells are full
            placed = body()
            size = 0 if placed is None else np.count_nonzero(placed.depth > 0)
            if size > wanted and self.rng.random() > wanted / size:
                break  # so that the share is right on average, if too small for one more body
            added = self._add(label, placed)
            wanted -= added
            misses = 0 if added else misses + 1

    def _taken(self, point: Array) -> bool:
        """Whether a point is in the image, but not in free cytosol."""
        pixel = tuple(math.floor(x) for x in point)
        inside = all(0 <= x < n for x, n in zip(pixel, self.shape, strict=True))
        return inside and bool(self.classes[pixel] != BACKGROUND)

    def _window(self, low: Array, high: Array) -> Window:
        return tuple(
            slice(max(0, math.floor(a)), max(0, min(n, math.ceil(b) + 1)))
            for a, b, n in zip(low, high, self.shape, strict=True)
        )

    def _ball(self, radius: float, stretch: float, centre: Array | None = None) -> _Body | None:
        """An irregular ball, up to ``stretch`` times as long as wide; None where no room is."""
        if centre is None:
            centre = self.rng.uniform(0, self.shape)
        axis = unit_vector(self.rng.standard_normal(len(self.shape)))
        length = self.rng.uniform(1, stretch)
        tip = 0.8 * radius * length * axis
        if any(self._taken(point) for point in (centre, centre - tip, centre + tip)):
            return None
        reach = radius * length + 2
        window = self._window(centre - reach, centre + reach)
        offset = [x - np.float32(c) for x, c in zip(coordinates(window), centre, strict=True)]
        along = project(offset, axis)
        distance = squares(offset) - np.float32(1 - length**-2) * along**2
        depth = radius - np.sqrt(np.maximum(distance, 0)) + 0.06 * radius * self.bumps[window]
        return _Body(window, depth, along)

    def _tube(self) -> _Body | None:
        """A bent tube with round ends, of three straight pieces; None where no room is."""
        rng, u, d = self.rng, self.unit, len(self.shape)
        radius, length = rng.uniform(3.6, 5.8) * u, rng.uniform(3, 13) * u
        heading, bend = rng.standard_normal((2, d))
        points = [rng.uniform(0, self.shape)]
        for _ in range(3):
            heading = unit_vector(unit_vector(heading) + 0.45 * bend)
            points.append(points[-1] + length * heading)
        if any(self._taken(point) for point in points):
            return None
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        window = self._window(low - radius - 2, high + radius + 2)
        grid = coordinates(window)
        nearest = np.full([s.stop - s.start for s in window], np.inf, np.float32)
        along = np.zeros_like(nearest)
        for i, (start, stop) in enumerate(pairwise(points)):
            offset = [x - np.float32(c) for x, c in zip(grid, start, strict=True)]
            projected = project(offset, (stop - start) / length)
            t = np.clip(projected, 0, np.float32(length))
            distance = squares(offset) + t * (t - 2 * projected)
            along = np.where(distance < nearest, np.float32(i * length) + projected, along)
            nearest = np.minimum(nearest, distance)
        depth = radius - np.sqrt(np.maximum(nearest, 0)) + 0.12 * radius * self.bumps[window]
        return _Body(window, depth, along)

    def _add(self, label: int, body: _Body | None) -> int:
        """Draws a body if its place is nearly free; returns the number of pixels that it got."""
        if body is None:
            return 0
        inside = body.depth > 0
        size = np.count_nonzero(inside)
        inside &= self.classes[body.window] == BACKGROUND
        if size == 0 or np.count_nonzero(inside) < 0.8 * size:
            return 0
        pieces, count = ndimage.label(inside)
        if count > 1:  # what lies in the way may cut off a corner
            inside = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
        self._mark(label, body.window, inside)
        self.texture[body.window][inside] = self._texture(label, body)[inside]
        return int(np.count_nonzero(inside))

    def _add_pieces(self, label: int, window: Window, region: NDArray[np.bool_]) -> None:
        """Makes each connected piece of the region an object, specks excepted."""
        pieces, _ = ndimage.label(region, np.ones((3,) * region.ndim))
        for i, part in enumerate(ndimage.find_objects(pieces), start=1):
            piece = pieces[part] == i
            if np.count_nonzero(piece) >= 5:
                within = zip(window, part, strict=True)
                where = tuple(slice(w.start + p.start, w.start + p.stop) for w, p in within)
                self._mark(label, where, piece)

    def _mark(self, label: int, window: Window, region: NDArray[np.bool_]) -> None:
        self.count += 1
        self.classes[window][region] = label
        self.objects[window][region] = self.count

    def _texture(self, label: int, body: _Body) -> Field:
        """What each pixel adds to the grey level of its class."""
        window, depth, along = body
        u, uniform = self.unit, self.rng.uniform
        fine, coarse, bumps = self.fine[window], self.coarse[window], self.bumps[window]
        rim = np.exp(-(((depth - 0.9 * u) / (0.9 * u)) ** 2))
        if label == MITOCHONDRION:  # cristae: uneven dark lines across, more or less dense
            phase = along * (2 * np.pi / (uniform(4.6, 6.6) * u)) + 1.6 * bumps
            cristae = np.sin(phase) * np.clip(0.7 + 0.5 * coarse, 0, 1.2) * (depth > 1.3 * u)
            texture = 0.03 * fine + uniform(0.07, 0.13) * cristae - 0.15 * rim
        elif label == NUCLEUS:  # chromatin: grain at two scales, and an envelope
            clumps = 0.065 * coarse + 0.03 * bumps - 0.09 * (bumps > 1.2)
            texture = clumps + 0.03 * fine - 0.18 * rim
        elif label == VESICLE:  # a membrane around a content that is dark or bright
            core = np.exp(-(((depth - depth.max()) / (1.6 * u)) ** 2))
            texture = 0.02 * fine - 0.2 * rim + self.rng.choice([-0.08, 0.08]) * core
        elif label == LYSOSOME:  # mottled
            texture = 0.11 * coarse + 0.03 * fine - 0.03 * rim
        else:  # a droplet is smooth
            texture = 0.01 * fine + uniform(-0.06, 0.06)
        result: Field = texture.astype(np.float32)
        return result

    def _reticulum(self) -> None:
        """Fills patches of the cytosol that are left with wavy sheets."""
        u = self.unit
        waves = smooth(self.rng, self.shape, 9 * u)
        where = smooth(self.rng, self.shape, 40 * u) > 0.2
        free = ndimage.binary_erosion(self.classes == BACKGROUND, iterations=2)
        self._add_pieces(RETICULUM, self.whole, free & where & (abs(waves) < 0.13))
