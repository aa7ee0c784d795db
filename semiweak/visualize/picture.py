"""From images of any kind to pictures, and pictures to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semiweak.inference.files import replacing
from semiweak.visualize.color import Rgb, hue_to_rgb


def middle_slice(array: NDArray[Any]) -> NDArray[Any]:
    """The middle (y, x) plane of a stack, ``(..., D, H, W)`` to ``(..., H, W)``."""
    return array[..., array.shape[-3] // 2, :, :]


def to_rgb(image: NDArray[Any]) -> Rgb:
    """An image of any type and number of channels as a picture with good contrast.

    Between its 0.5th and 99.5th percentiles the image is stretched to the whole range. One channel
    is shown grey; two in magenta and green, which white marks as overlapping; three as red, green
    and blue; more as the sum of hues spread around the circle. An 8-bit image of three channels is
    taken for a photograph, of which one common stretch keeps the colours; otherwise each channel
    is stretched by itself.

    Args:
        image: ``(C, H, W)``; values that are not finite are shown black.

    Raises:
        ValueError: The image has other axes, or no pixels.
    """
    if image.ndim != 3 or image.size == 0:
        raise ValueError(
            f"a picture is made of an image with axes (C, H, W), not of shape {image.shape}"
        )
    channels = len(image)
    if channels == 3 and image.dtype == np.uint8:
        return _to_uint8(np.moveaxis(_stretch(image), 0, -1))
    stretched = np.stack([_stretch(channel) for channel in image], axis=-1)
    if channels == 1:
        return _to_uint8(np.repeat(stretched, 3, axis=-1))
    if channels == 3:
        return _to_uint8(stretched)
    if channels == 2:
        return _to_uint8(stretched[..., [0, 1, 0]])
    hues = hue_to_rgb(np.arange(channels) / channels)
    hues /= hues.sum(axis=0)  # what is equal in all channels is grey
    return _to_uint8(_stretch(stretched @ hues.astype(np.float32)))


def _stretch(values: NDArray[Any]) -> NDArray[np.float32]:
    """Values between 0 and 1, by percentiles; a constant image becomes a middle grey."""
    values = np.asarray(values, np.float32)
    finite = np.isfinite(values)
    known = values[finite]
    low, high = 0.0, 0.0
    if known.size:
        known = known[:: max(1, known.size // 1_000_000)]  # enough for percentiles
        low, high = np.percentile(known, (0.5, 99.5)).tolist()
        if low == high:  # a few bright spots on black
            low, high = float(known.min()), float(known.max())
    if low == high:
        return np.where(finite, np.float32(0.5), np.float32(0))
    return np.where(finite, np.clip((values - low) / (high - low), 0, 1), np.float32(0))


def _to_uint8(picture: NDArray[np.float32]) -> Rgb:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def enlarge(array: NDArray[Any], zoom: int) -> NDArray[Any]:
    """Repeats each pixel ``zoom`` times along both axes."""
    return array.repeat(zoom, axis=0).repeat(zoom, axis=1)


def save_png(path: str | Path, rgb: Rgb) -> None:
    """Writes a picture, as a whole or not at all; folders are made as needed."""
    with replacing(path) as temporary:
        Image.fromarray(rgb).save(temporary, format="PNG")
