"""Label images of objects as ids ``(*S)``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiweak.data.readers.images import read_stored
from semiweak.data.readers.labels import colour_codes, whole_numbers


def read_objects(
    source: str | Path, *, spatial_dims: int = 2, axes: str | None = None
) -> NDArray[np.int32]:
    """Reads a label image whose values, or colours, each stand for one object.

    Args:
        source: The file, or ``file.h5:/key``.
        spatial_dims: 2 for images, 3 for volumes.
        axes: As in `read_image`.

    Returns:
        ``int32 (*S)``, the numbers as stored; 0 is no object. Numbers beyond int32 are replaced by
        1, 2 ... in their order. So are colours in the order of red, green, blue, where black and
        transparent are 0.

    Raises:
        ValueError: As `read_image`; or the file holds fractions or several channels that are no
            8-bit colours.
    """
    array = read_stored(source, "labels", spatial_dims, axes)
    if len(array) == 1:
        ids = whole_numbers(array[0], source)
    elif array.dtype == np.uint8 and len(array) in (3, 4):
        ids = np.maximum(colour_codes(array, source), 0)
        return _renumbered(ids)
    else:
        raise ValueError(
            f"{source}: a label image has one number or one 8-bit RGB colour a pixel, but this has "
            f"{len(array)} channels of {array.dtype}"
        )
    if ids.size and int(ids.max()) > np.iinfo(np.int32).max:
        return _renumbered(ids)
    return ids.astype(np.int32)


def _renumbered(ids: NDArray[np.integer]) -> NDArray[np.int32]:
    """Positive numbers become 1, 2 ... in their order; what is negative stays so."""
    found, place = np.unique(ids, return_inverse=True)
    number = np.sign(found).astype(np.int32)
    number[found > 0] = np.arange(1, 1 + int((found > 0).sum()))
    renumbered: NDArray[np.int32] = number[place.reshape(ids.shape)]
    return renumbered
