"""The colours of classes, objects and channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]

PAPER, INK = (255, 255, 255), (20, 20, 20)

# The colours of Okabe and Ito ("Color universal design", 2008), which people with any colour vision
# tell apart, their black made a grey. Class 0, most often the background, takes the grey.
_OKABE_ITO = (
    (128, 128, 128),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


_NUM_HUES = 50


def palette(num: int) -> Rgb:
    """Colours that are easy to tell apart, ``uint8 (num, 3)``.

    The first colours are the same whatever ``num`` is: grey for class 0, then the seven of Okabe
    and Ito, then fifty from a walk around the hues in five lightnesses, which come again and again.
    """
    # Chosen by trial: the first 24 colours are at least 20 apart in CIE-Lab, and those from the
    # ninth on at least 15, but for those that are the same. More would be too alike to tell apart.
    extra = np.arange(_NUM_HUES)
    saturation = np.array([0.4, 1.0, 1.0, 0.6, 1.0])[extra % 5]
    value = np.array([1.0, 0.4, 1.0, 0.6, 0.72])[extra % 5]
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - hue_to_rgb((0.16 + 0.06 * extra) % 1)))
    colors = np.concatenate([np.array(_OKABE_ITO), np.rint(rgb * 255)]).astype(np.uint8)
    return colors[color_numbers(np.arange(num))]


def color_numbers(ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The smallest ids whose colours in an endless `palette` are those of these ids."""
    ids = ids.astype(np.int64)  # in 8 bits a difference would wrap
    first = len(_OKABE_ITO)
    return np.where(ids < first, np.maximum(ids, 0), first + (ids - first) % _NUM_HUES)


def hue_to_rgb(hue: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The pure colours of hues in [0, 1), ``(N, 3)``: each channel is a clipped triangle wave."""
    distance = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3)
    return np.asarray(np.clip(distance - 1, 0, 1), np.float64)
