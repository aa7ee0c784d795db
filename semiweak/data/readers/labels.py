"""Label images as integers ``(*S)``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import UNKNOWN
from semiweak.data.readers.images import check_finite, read_stored

ValueTable = Mapping[int, int] | Mapping[str, int] | Mapping[int | str, int]
"""Stored value (a number, ``"#rrggbb"`` or ``"transparent"``) -> class, or 255 for unknown."""

_TRANSPARENT = -1  # beside the codes of colours, which are 0 to 0xFFFFFF
_SHOWN = 10  # so many values, an error lists at most


def read_labels(
    source: str | Path,
    *,
    spatial_dims: int = 2,
    values: ValueTable | None = None,
    axes: str | None = None,
) -> NDArray[Any]:
    """Reads a label image: classes or object ids, as stored.

    Args:
        source: The file, or ``file.h5:/key``.
        spatial_dims: 2 for images, 3 for volumes.
        values: The class (or 255 for unknown) of each stored value. Keys are numbers, or else
            colours as ``"#rrggbb"`` for RGB and palette files, with ``"transparent"`` for pixels
            that are fully transparent. It must list every value that occurs.
        axes: As in `read_image`.

    Returns:
        Integers ``(*S)``: the type of the file; uint8 for booleans (0 and 1) and with ``values``;
        int64 where a file holds whole numbers as floats.

    Raises:
        ValueError: As `read_image`; or the file holds fractions, colours without ``values``,
            several channels, a value not listed in ``values``, or is a JPEG.
    """
    table, coloured = (None, False) if values is None else _parse_values(values)
    array = read_stored(source, "colours" if coloured else "labels", spatial_dims, axes)
    if coloured:
        stored = colour_codes(array, source)
    elif len(array) != 1:
        raise ValueError(
            f"{source}: a label image has one number a pixel, but this has {len(array)} channels. "
            "If it is painted in colours, tell the class of each in mask_values, in quotes, such "
            "as {'#000000': 0, '#ff0000': 1}"
        )
    else:
        stored = whole_numbers(array[0], source)
    return stored if table is None else _map_values(stored, table, coloured, source)


def check_mask(
    labels: NDArray[Any], num_classes: int, source: str | Path, *, declared: bool = False
) -> NDArray[np.uint8]:
    """Makes sure that a mask holds nothing but classes and "unknown".

    -1, which other tools write for "ignore", is unknown as well. Other negative values are errors:
    they are likelier an overflow than a wish.

    Args:
        labels: Integers ``(*S)``, as `read_labels` gives.
        num_classes: K; classes are 0 to K - 1.
        source: The file, for messages.
        declared: Somebody said what the values mean (``mask_values``), so that 0 and 255 alone are
            believed to be "class 0" and "unknown".

    Returns:
        ``uint8 (*S)``, 255 where unknown.

    Raises:
        ValueError: A value is no class; or a mask of two classes holds 0 and 255 only, which looks
            like a black and white painting, whose white would silently be unknown.
    """
    unknown = (labels == UNKNOWN) | (labels == -1)
    known = labels[~unknown]
    if len(known) and (known.min() < 0 or known.max() >= num_classes):
        raise ValueError(_foreign_values(labels, num_classes, source))
    only_zeros = len(known) > 0 and not known.any()
    if num_classes == 2 and not declared and only_zeros and bool((labels == UNKNOWN).any()):
        raise ValueError(
            f"{source}: holds only 0 and 255, and 255 means unknown. If it is a black and white "
            "painting, set mask_values: {0: 0, 255: 1}. If 255 is unknown indeed, say so with "
            "mask_values: {0: 0, 1: 1, 255: 255}"
        )
    mask = labels.astype(np.uint8)
    mask[unknown] = UNKNOWN
    return mask


def whole_numbers(array: NDArray[Any], source: object) -> NDArray[Any]:
    """Integers of the file's own type, or int64; refuses fractions."""
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8)
    if kind == "f":
        check_finite(array[None], source)
        fractions = array != np.rint(array)
        if fractions.any():
            at = np.unravel_index(int(fractions.argmax()), array.shape)
            raise ValueError(
                f"{source}: {int(fractions.sum())} pixels are no whole numbers, such as "
                f"{array[at]:g} at {tuple(int(i) for i in at)}. A label image holds class or "
                "object numbers; threshold probabilities, and resize without interpolation"
            )
    elif kind not in "iu":
        raise ValueError(f"{source}: holds {array.dtype}, not labels")
    if kind == "f" or array.dtype == np.uint64:
        if float(abs(array).max()) >= 2.0**63:
            raise ValueError(f"{source}: holds {array.max():g}, too large for a label")
        return array.astype(np.int64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# Stored values to classes ------------------------------------------------------------------------


def _parse_values(values: ValueTable) -> tuple[dict[int, int], bool]:
    """Stored number, or colour code, -> class; and whether the keys are colours."""
    table: dict[int, int] = {}
    kinds: set[str] = set()
    for key, c in values.items():
        text = str(key).strip().lower()
        if text == "transparent":
            code, kind = _TRANSPARENT, "colour"
        elif re.fullmatch(r"#[0-9a-f]{6}", text):
            code, kind = int(text[1:], 16), "colour"
        elif re.fullmatch(r"-?[0-9]+", text):
            code, kind = int(text), "number"
        else:
            raise ValueError(
                f"mask_values has the key {key!r}; keys are numbers, colours in quotes such as "
                "'#ff0000', or 'transparent'"
            )
        if not isinstance(c, int) or not 0 <= c <= UNKNOWN:
            raise ValueError(
                f"mask_values maps {key!r} to {c!r}; classes are 0 to 254, and 255 is unknown"
            )
        kinds.add(kind)
        table[code] = c
    if not kinds:
        raise ValueError("mask_values is empty; leave it out, or list every stored value")
    if len(kinds) > 1:
        raise ValueError(f"mask_values has the keys {list(values)}; give numbers or colours alone")
    return table, kinds == {"colour"}


def colour_codes(array: NDArray[Any], source: object) -> NDArray[np.int32]:
    """0xRRGGBB of every pixel of ``(3 or 4, *S)``; fully transparent pixels get their own code."""
    if array.dtype != np.uint8 or len(array) not in (3, 4):
        raise ValueError(
            f"{source}: mask_values lists colours, but the file holds {len(array)} channel(s) of "
            f"{array.dtype}, not 8-bit RGB; list numbers instead"
        )
    red, green, blue = array[:3].astype(np.int32)
    codes: NDArray[np.int32] = (red << 16) | (green << 8) | blue
    if len(array) == 4:
        codes[array[3] == 0] = _TRANSPARENT
    return codes


def _map_values(
    stored: NDArray[Any], table: dict[int, int], coloured: bool, source: object
) -> NDArray[np.uint8]:
    """The class of each stored value; refuses values that nobody listed."""
    classes = np.zeros(stored.shape, np.uint8)
    listed = np.zeros(stored.shape, bool)
    for code, c in table.items():
        here = stored == code
        classes[here] = c
        listed |= here
    if not listed.all():
        found, counts = np.unique(stored[~listed], return_counts=True)
        names = [_name_of(int(code), coloured) for code in found]
        raise ValueError(
            f"{source}: holds values that mask_values does not list: "
            + _shortened([f"{name} ({n} pixels)" for name, n in zip(names, counts, strict=True)])
            + f"; it lists {_shortened([_name_of(code, coloured) for code in table])}"
        )
    return classes


def _name_of(code: int, coloured: bool) -> str:
    if not coloured:
        return str(code)
    return "transparent" if code == _TRANSPARENT else f"#{code:06x}"


def _shortened(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _foreign_values(labels: NDArray[Any], num_classes: int, source: object) -> str:
    """What to say of a mask with values that are no classes."""
    found = [int(value) for value in np.unique(labels)]
    allowed = f"allowed are 0 to {num_classes - 1}, and 255 for unknown"
    text = f"{source}: holds the values {_shortened([str(v) for v in found])}; {allowed}. "
    if len(found) <= num_classes:
        guess = ", ".join(f"{value}: {c}" for c, value in enumerate(found))
        return text + f"If they stand for classes, say which: mask_values: {{{guess}}}"
    if len(found) > 2 * num_classes + 1:
        return text + (
            "So many values look like object numbers, which belong in instances, not in masks; or "
            "like smoothed edges, which have to be thresholded"
        )
    return text + "Name all classes in class_names, or set mask_values"
