"""Synthetic micrographs of cells with organelles, as embedded data for tests, examples and demos.

The scene: cells that meet at membranes, in each a nucleus, mitochondria with inner stripes,
vesicles, lysosomes and other bodies, in the style of electron microscopy. The grey levels of the
classes overlap and vary from image to image, so that only shape and texture tell them apart. What
an image shows does not depend on the number of classes: structures beyond it are background, and
look enough like the others to mislead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiweak.data.annotations import Annotation, Sample

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

# Mean grey level of each class and, last, of the space between cells; from 0 (black) to 1 (white).
_GREY = np.array([0.55, 0.47, 0.52, 0.56, 0.32, 0.41, 0.40, 0.60, 0.66])
_OUTSIDE = len(CLASS_NAMES)

Field = NDArray[np.float32]
Array = NDArray[np.float64]
Window = tuple[slice, ...]


def synthetic_sample(
    index: int,
    *,
    seed: int = 0,
    shape: Sequence[int] = (128, 128),
    num_classes: int = 4,
    channels: int = 1,
    noise: float = 0.04,
) -> Sample:
    """Draws one image with its complete mask and all objects.

    Args:
        index: Which image of the series; each index gives another scene.
        seed: Which series.
        shape: The spatial shape, (H, W) or (D, H, W). Structures have their full size in images
            with sides of 128 pixels and more, and shrink with smaller ones.
        num_classes: The first so many of `CLASS_NAMES` are painted, from 2 to 8.
        channels: Channels of the image. Each further one shows the same scene in other contrast,
            like another stain.
        noise: Standard deviation of the camera's noise at medium grey, as a share of the range
            from black to white.

    Returns:
        The image as ``uint8 (C, *S)``. The mask is painted everywhere; the instances are
        ``int32 (*S)`` with ids from 1 without gaps, each a connected object of one class, and 0 at
        background pixels and only there.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"shape is {shape}; give two or three positive sizes, (y, x) or (z, y, x)")
    if not 2 <= num_classes <= len(CLASS_NAMES):
        raise ValueError(f"num_classes is {num_classes}; it must be 2 to {len(CLASS_NAMES)}")
    for what, value, least in (("index", index, 0), ("seed", seed, 0), ("channels", channels, 1)):
        if value < least:
            raise ValueError(f"{what} is {value}; it must be {least} or more")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}; it must be 0 or more")
    scene = _Scene(shape, np.random.default_rng([seed, index]))
    scene.draw()
    camera = np.random.default_rng([seed, index, 1])
    image = np.stack([_photograph(scene, channel, noise, camera) for channel in range(channels)])
    mask, instances = _paint(scene, num_classes)
    d = len(shape)
    annotation = Annotation(
        mask=mask,
        instances=instances,
        boxes=np.zeros((0, 2 * d), np.float32),
        points=np.zeros((0, d), np.float32),
    )
    return Sample(image, annotation, f"synthetic_{index:04d}")


class _Body(NamedTuple):
    """The surroundings of one body, in the window of the image that holds it."""

    window: Window
    depth: Field
    """Distance from the surface in pixels, positive inside."""
    along: Field
    """Position along the axis of an elongated body, in pixels."""


class _Scene:
    """Classes, objects and texture of every pixel, before they are photographed."""

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        self.shape, self.rng = shape, rng
        side = math.prod(shape) ** (1 / len(shape))
        self.whole = tuple(slice(0, n) for n in shape)
        self.unit = math.sqrt(min(1.0, side / 128))
        self.classes = np.zeros(shape, np.uint8)
        self.objects = np.zeros(shape, np.int32)
        self.count = 0
        self.fine = _grain(rng, shape, 0.7)
        self.coarse = _grain(rng, shape, 1.8 * self.unit)
        self.bumps = _smooth(rng, shape, 7 * self.unit)
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
        warp = [6 * u * _smooth(rng, self.shape, 22 * u) for _ in range(d)]
        place = [x + w for x, w in zip(_grid(self.whole), warp, strict=True)]
        lattice = np.meshgrid(*[np.arange(-0.5, n / spacing + 1) for n in self.shape])
        centres = np.stack(lattice, -1).reshape(-1, d)
        centres = spacing * (centres + rng.uniform(-0.4, 0.4, centres.shape))
        nearest, second = np.full((2, *self.shape), np.inf, np.float32)
        cell = np.zeros(self.shape, np.int32)
        # Around every pixel there are at least two centres in this reach.
        reach = 1.9 * spacing + max(float(np.abs(w).max()) for w in warp)
        for i, centre in enumerate(centres, start=1):
            near = self._window(centre - reach, centre + reach)
            distance = _squares(
                [x[near] - np.float32(c) for x, c in zip(place, centre, strict=True)]
            )
            cell[near][distance < nearest[near]] = i
            second[near] = np.minimum(second[near], np.maximum(distance, nearest[near]))
            nearest[near] = np.minimum(nearest[near], distance)
        # Zero where two cells meet; the slope turns it into pixels there.
        inwards = np.sqrt(second) - np.sqrt(nearest)
        slope = np.sqrt(_squares([_slope(inwards, axis) for axis in range(d)]))
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
        axis = _unit(self.rng.standard_normal(len(self.shape)))
        length = self.rng.uniform(1, stretch)
        tip = 0.8 * radius * length * axis
        if any(self._taken(point) for point in (centre, centre - tip, centre + tip)):
            return None
        reach = radius * length + 2
        window = self._window(centre - reach, centre + reach)
        offset = [x - np.float32(c) for x, c in zip(_grid(window), centre, strict=True)]
        along = _project(offset, axis)
        distance = _squares(offset) - np.float32(1 - length**-2) * along**2
        depth = radius - np.sqrt(np.maximum(distance, 0)) + 0.06 * radius * self.bumps[window]
        return _Body(window, depth, along)

    def _tube(self) -> _Body | None:
        """A bent tube with round ends, of three straight pieces; None where no room is."""
        rng, u, d = self.rng, self.unit, len(self.shape)
        radius, length = rng.uniform(3.6, 5.8) * u, rng.uniform(3, 13) * u
        heading, bend = rng.standard_normal((2, d))
        points = [rng.uniform(0, self.shape)]
        for _ in range(3):
            heading = _unit(_unit(heading) + 0.45 * bend)
            points.append(points[-1] + length * heading)
        if any(self._taken(point) for point in points):
            return None
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        window = self._window(low - radius - 2, high + radius + 2)
        grid = _grid(window)
        nearest = np.full([s.stop - s.start for s in window], np.inf, np.float32)
        along = np.zeros_like(nearest)
        for i, (start, stop) in enumerate(pairwise(points)):
            offset = [x - np.float32(c) for x, c in zip(grid, start, strict=True)]
            projected = _project(offset, (stop - start) / length)
            t = np.clip(projected, 0, np.float32(length))
            distance = _squares(offset) + t * (t - 2 * projected)
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
        waves = _smooth(self.rng, self.shape, 9 * u)
        where = _smooth(self.rng, self.shape, 40 * u) > 0.2
        free = ndimage.binary_erosion(self.classes == BACKGROUND, iterations=2)
        self._add_pieces(RETICULUM, self.whole, free & where & (abs(waves) < 0.13))


def _grid(window: Window) -> list[Field]:
    """The coordinates of the window's pixels, one array an axis, to be broadcast."""
    d = len(window)
    return [
        np.arange(s.start, s.stop, dtype=np.float32).reshape((-1,) + (1,) * (d - 1 - axis))
        for axis, s in enumerate(window)
    ]


def _unit(vector: Array) -> Array:
    return vector / math.sqrt(vector @ vector)


def _squares(parts: Sequence[Field]) -> Field:
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total = total + part * part
    return total


def _project(offset: Sequence[Field], axis: Array) -> Field:
    total = offset[0] * np.float32(axis[0])
    for x, v in zip(offset[1:], axis[1:], strict=True):
        total = total + x * np.float32(v)
    return total


def _slope(field: Field, axis: int) -> Field:
    """The absolute difference of neighbours along an axis; 0 where there is one pixel only."""
    step = np.abs(np.diff(field, axis=axis))
    if step.size == 0:
        return np.zeros_like(field)
    return np.concatenate([step, step.take([-1], axis)], axis)


def _smooth(rng: np.random.Generator, shape: Sequence[int], scale: float) -> Field:
    """A random field of mean 0 and deviation 1 that varies over about ``scale`` pixels.

    A cubic B-spline through random coefficients, evaluated axis by axis.
    """
    field = rng.standard_normal([math.floor((n - 1) / scale) + 4 for n in shape], np.float32)
    for axis, n in enumerate(shape):
        knot, t = np.divmod(np.arange(n) / scale, 1)
        weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3
        along = (-1,) + (1,) * (len(shape) - 1 - axis)
        total: Field = np.zeros(1, np.float32)
        for i, weight in enumerate(weights):
            coefficients = field.take(knot.astype(np.int64) + i, axis)
            total = total + coefficients * (weight / 6).astype(np.float32).reshape(along)
        field = total
    # 0.69 is the root of the mean sum of the squared weights.
    result: Field = field / np.float32(0.69 ** len(shape))
    return result


def _grain(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> Field:
    """Random grain of mean 0 and deviation 1, ``sigma`` pixels coarse."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, truncate=2.5)
    result: Field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return result


def _photograph(
    scene: _Scene, channel: int, noise: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One channel of the image of a scene."""
    levels, gain = _GREY, 1.0
    if channel:
        stain = np.random.default_rng(channel)  # the same for all images
        levels, gain = stain.uniform(0.38, 0.62, len(_GREY)), stain.uniform(0.5, 1.0)
    levels = levels + rng.normal(0, 0.035, len(_GREY))
    light = levels.astype(np.float32)[scene.classes] + np.float32(gain) * scene.texture
    light = ndimage.gaussian_filter(light, rng.uniform(0.7, 1.0) * scene.unit, truncate=3)
    side = max(scene.shape)
    shade, haze = (_smooth(rng, scene.shape, 0.7 * side) for _ in range(2))
    contrast, brightness = rng.uniform(1.0, 1.7), rng.uniform(-0.06, 0.06)
    light = 0.5 + contrast * (light * (1 + 0.08 * shade) - 0.5) + brightness + 0.04 * haze
    # Photons: the variance of the noise grows with the light.
    shot = rng.standard_normal(scene.shape, np.float32)
    light = light + noise * np.sqrt(np.maximum(light, 0.02) / 0.5) * shot
    image: NDArray[np.uint8] = np.rint(255 * np.clip(light, 0, 1)).astype(np.uint8)
    return image


def _paint(scene: _Scene, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Mask and instances of the first classes; all others are background."""
    painted = scene.classes < num_classes
    mask = np.where(painted, scene.classes, np.uint8(BACKGROUND))
    kept = np.unique(scene.objects[painted & (scene.objects > 0)])
    new_ids = np.zeros(scene.count + 1, np.int32)
    new_ids[kept] = np.arange(1, len(kept) + 1)
    return mask, np.where(painted, new_ids[scene.objects], 0).astype(np.int32)
