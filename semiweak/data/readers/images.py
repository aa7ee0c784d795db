"""Images as ``(C, *S)``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiweak.data.readers.axes import channels_first, resolve_axes, spatial_shape
from semiweak.data.readers.common import Purpose
from semiweak.data.readers.decode import Layout, decode, layout


def read_image(
    source: str | Path, *, spatial_dims: int = 2, axes: str | None = None
) -> NDArray[Any]:
    """Reads an image.

    Args:
        source: The file, or ``file.h5:/key``.
        spatial_dims: 2 for images, 3 for volumes.
        axes: What the axes of the array in a TIFF or HDF5 file are, such as ``"YXC"`` or
            ``"ZCYX"``; by default what the file says, or else what the shape suggests
            (`resolve_axes`). PNG, JPEG and BMP leave no choice.

    Returns:
        ``(C, *S)``, in the file's type if that is uint8, uint16 or float32. Booleans become uint8
        (0 and 255); every other integer and float type becomes float32, which holds integers up to
        2^24 exactly. The type never depends on the pixels.

    Raises:
        ValueError: The file is missing, empty, damaged or no image; its axes do not fit
            ``spatial_dims``; a pixel is NaN or infinite.
    """
    array = read_stored(source, "image", spatial_dims, axes)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size <= 2:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind not in "iuf":
        raise ValueError(f"{source}: holds {array.dtype}, not pixels")
    with np.errstate(over="ignore"):  # what is too large for float32 is found below
        array = array.astype(np.float32, copy=False)
    if kind == "f":
        check_finite(array, source)
    return array


def image_shape(
    source: str | Path, *, spatial_dims: int = 2, axes: str | None = None
) -> tuple[int, ...]:
    """The spatial shape of an image, from its file's header alone; arguments as in `read_image`.

    Raises:
        ValueError: As `read_image`, but for damage behind the header and the pixels' values.
    """
    found = layout(source)
    letters = _letters(source, found, spatial_dims, axes)
    return spatial_shape(found.shape, letters, spatial_dims)


def read_stored(
    source: str | Path, purpose: Purpose, spatial_dims: int, axes: str | None
) -> NDArray[Any]:
    """The array in the type it is stored in, as ``(C, *S)``."""
    array, found = decode(source, purpose)
    letters = _letters(source, found, spatial_dims, axes)
    return channels_first(array, letters, spatial_dims)


def check_finite(array: NDArray[Any], source: object) -> None:
    """Refuses NaN and infinity in ``(C, *S)``, saying where and how many."""
    wrong = ~np.isfinite(array)
    if wrong.any():
        channel, *place = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        order = ", ".join("zyx"[-len(place) :])
        raise ValueError(
            f"{source}: {int(wrong.sum())} values are NaN, infinite or too large for float32, the "
            f"first at ({order}) = {tuple(place)}, channel {channel}; replace them"
        )


def _letters(source: object, found: Layout, spatial_dims: int, axes: str | None) -> str:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims is {spatial_dims}; it can be 2 or 3")
    if 0 in found.shape:
        raise ValueError(f"{source}: holds no pixels (shape {found.shape})")
    return resolve_axes(
        found.shape,
        found.axes,
        spatial_dims=spatial_dims,
        axes=None if found.fixed else axes,
        source=source,
    )
