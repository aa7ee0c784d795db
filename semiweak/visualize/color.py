"""The colours of classes, objects and channels."""

from __future__ import annotations

import math
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


def palette(num: int) -> Rgb:
    """Colours that are easy to tell apart, ``uint8 (num, 3)``.

    The first colours are the same whatever ``num`` is: grey for class 0, then the seven of Okabe
    and Ito, then a walk around the hues in steps of the golden ratio.
    """
    extra = np.arange(max(num - len(_OKABE_ITO), 0))
    # Chosen by trial: the first 24 colours are at least 23 apart in CIE-Lab.
    hue = (0.66 + extra * (math.sqrt(5) - 1) / 2) % 1
    saturation = np.array([0.75, 1.0, 0.75])[extra % 3]
    value = np.array([0.75, 0.45, 1.0])[extra % 3]
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - hue_to_rgb(hue)))
    return np.concatenate([np.array(_OKABE_ITO), np.rint(rgb * 255)])[:num].astype(np.uint8)


def hue_to_rgb(hue: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The pure colours of hues in [0, 1), ``(N, 3)``: each channel is a clipped triangle wave."""
    distance = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3)
    return np.asarray(np.clip(distance - 1, 0, 1), np.float64)
