"""Coordinates and random fields on the pixels of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
Array = NDArray[np.float64]
Window = tuple[slice, ...]


def coordinates(window: Window) -> list[Field]:
    """The coordinates of the window's pixels, one array an axis, to be broadcast."""
    d = len(window)
    return [
        np.arange(s.start, s.stop, dtype=np.float32).reshape((-1,) + (1,) * (d - 1 - axis))
        for axis, s in enumerate(window)
    ]


def unit_vector(vector: Array) -> Array:
    """The vector at length 1."""
    return vector / math.sqrt(vector @ vector)


def squares(parts: Sequence[Field]) -> Field:
    """The sum of the squares: the squared length of vectors given by their components."""
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total = total + part * part
    return total


def project(offset: Sequence[Field], axis: Array) -> Field:
    """The length of vectors, given by their components, along a unit vector."""
    total = offset[0] * np.float32(axis[0])
    for x, v in zip(offset[1:], axis[1:], strict=True):
        total = total + x * np.float32(v)
    return total


def slope_along(field: Field, axis: int) -> Field:
    """The absolute difference of neighbours along an axis; 0 where there is one pixel only."""
    step = np.abs(np.diff(field, axis=axis))
    if step.size == 0:
        return np.zeros_like(field)
    return np.concatenate([step, step.take([-1], axis)], axis)


def smooth(rng: np.random.Generator, shape: Sequence[int], scale: float) -> Field:
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


def grain(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> Field:
    """Random grain of mean 0 and deviation 1, ``sigma`` pixels coarse."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, truncate=2.5)
    result: Field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return result
