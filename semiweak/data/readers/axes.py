"""Which axis of a stored array is what, and the way from there to ``(C, *S)``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CHANNELS = 4
"""An axis of unknown meaning that is no longer than this is taken for the channels."""


def resolve_axes(
    shape: tuple[int, ...],
    stored: str | None,
    *,
    spatial_dims: int,
    axes: str | None,
    source: object,
) -> str:
    """Says what each axis of a stored array is: one letter an axis.

    ``axes`` decides where it is given. Else the letters that the file itself stores decide, where
    they mean something (TIFF). Else the shape does: as many axes as ``spatial_dims`` are (z,) y, x;
    with one more, the last axis is the channels if it has at most four entries, else the first,
    else (in a volume) the second; what is longer than that is a stack of slices, and an error.

    Args:
        shape: The array's shape.
        stored: The letters that the file stores, ``Q`` and ``I`` where it does not know; or None.
        spatial_dims: 2 or 3.
        axes: The user's letters: Y and X, Z in volumes, C or S for channels.
        source: The file, for messages.

    Returns:
        One letter an axis, of Z, Y, X, C (channel) and S (colour sample), and ``_`` for an axis of
        length 1 that can be dropped.

    Raises:
        ValueError: The axes do not make an image of ``spatial_dims`` dimensions.
    """
    spatial = "ZYX"[-spatial_dims:]
    if axes is not None:
        letters = axes.upper()
        if len(letters) != len(shape) or len(set(letters)) != len(letters):
            raise ValueError(
                f"{source}: axes is {axes!r}, but the file holds an array of shape {shape}; "
                f"give one different letter for each of its {len(shape)} axes"
            )
    elif stored is not None and not set(stored) & set("QI"):
        letters = stored
    else:
        letters = _guess(shape, stored, spatial, source)

    # An axis of length 1 needs no place in the image, whatever it is.
    letters = "".join(
        "_" if n == 1 and letter not in spatial + "CS" else letter
        for letter, n in zip(letters, shape, strict=True)
    )
    length = dict(zip(letters, shape, strict=True))
    if "Z" in letters and "Z" not in spatial:
        raise ValueError(_is_a_stack(shape, length["Z"], source))
    if "Z" in spatial and "Z" not in letters:
        planes = [f"{n} along {letter}" for letter, n in length.items() if letter not in "YXS_"]
        raise ValueError(
            f"{source}: has axes {letters} and shape {shape}, which is no volume, but spatial_dims "
            "is 3; "
            + (
                f"if its planes ({', '.join(planes)}) are slices, say so with axes: "
                + "".join("Z" if letter not in "YXS_" else letter for letter in letters)
                if len(planes) == 1
                else "set spatial_dims: 2, or join the planes to stacks"
            )
        )
    unknown = sorted(set(letters) - set(spatial + "CS_"))
    missing = sorted(set(spatial) - set(letters))
    if unknown or missing:
        what = [f"{letter} ({length[letter]})" for letter in unknown]
        raise ValueError(
            f"{source}: has axes {letters} and shape {shape}; "
            + (f"cannot use {', '.join(what)}; " if unknown else "")
            + (f"{' and '.join(missing)} is missing; " if missing else "")
            + f"an image has the axes {', '.join(spatial)} and, for channels, C or S. "
            "Set axes if the letters are wrong, or save each image as a file of its own"
        )
    return letters


def _guess(shape: tuple[int, ...], stored: str | None, spatial: str, source: object) -> str:
    """The meaning of the axes by their lengths."""
    if stored is not None and "S" in stored:  # TIFF knows the colour samples of a pixel
        at = stored.index("S")
        rest = _guess_spatial(shape[:at] + shape[at + 1 :], spatial)
        if rest is None:
            raise ValueError(_is_a_stack(shape, shape[0], source))
        return rest[:at] + "S" + rest[at:]
    only_spatial = _guess_spatial(shape, spatial)
    if only_spatial is not None:
        return only_spatial
    d = len(spatial)
    long = [n for n in shape if n != 1] if len(shape) > d + 1 else list(shape)
    if len(long) == d + 1:
        if long[-1] <= MAX_CHANNELS:
            letters = spatial + "C"
        elif d == 3 and max(long[:2]) <= MAX_CHANNELS:
            raise ValueError(
                f"{source}: holds an array of shape {shape}, of which either of the first two axes "
                "may be the channels; say which with axes: CZYX or ZCYX"
            )
        elif long[0] <= MAX_CHANNELS:
            letters = "C" + spatial
        elif d == 3 and long[1] <= MAX_CHANNELS:
            letters = "ZCYX"
        else:
            raise ValueError(_is_a_stack(shape, long[0], source))
        return _with_dropped(shape, letters)
    raise ValueError(
        f"{source}: holds an array of shape {shape}, which is no image of {d} dimensions"
        + (
            "; set axes to say what each axis is"
            if len(shape) > d
            else " (spatial_dims is 3, and this is a single plane)"
            if len(shape) == 2
            else ""
        )
    )


def _guess_spatial(shape: tuple[int, ...], spatial: str) -> str | None:
    """Letters for an array without channels; None if the axes left are too many or too few."""
    d = len(spatial)
    if len(shape) == d:
        return spatial
    if len(shape) > d + 1 and sum(n != 1 for n in shape) == d:
        return _with_dropped(shape, spatial)
    return None


def _with_dropped(shape: tuple[int, ...], letters: str) -> str:
    """Spreads the letters over the axes, leaving out axes of length 1 where they are too many."""
    if len(letters) == len(shape):
        return letters
    rest = iter(letters)
    return "".join("_" if n == 1 else next(rest) for n in shape)


def _is_a_stack(shape: tuple[int, ...], slices: int, source: object) -> str:
    example = "CYX or YXC" if len(shape) == 3 else "ZCYX or ZYXC"
    return (
        f"{source}: looks like a stack of {slices} slices (shape {shape}). To learn from volumes "
        "set spatial_dims: 3; to learn from single images save each slice as a file; if an axis "
        f"holds channels, say which with axes (such as {example})"
    )


def channels_first(array: NDArray[Any], letters: str, spatial_dims: int) -> NDArray[Any]:
    """Brings an array into the order ``(C, *S)``; colour samples and channels become one axis.

    Args:
        array: The array as stored.
        letters: What `resolve_axes` says of it.
        spatial_dims: 2 or 3.
    """
    order = "CS" + "ZYX"[-spatial_dims:]
    array = array[tuple(0 if letter == "_" else slice(None) for letter in letters)]
    letters = letters.replace("_", "")
    array = array.transpose([letters.index(letter) for letter in order if letter in letters])
    return np.ascontiguousarray(array.reshape(-1, *array.shape[array.ndim - spatial_dims :]))


def spatial_shape(shape: tuple[int, ...], letters: str, spatial_dims: int) -> tuple[int, ...]:
    """The lengths of (z,) y, x."""
    length = dict(zip(letters, shape, strict=True))
    return tuple(length[letter] for letter in "ZYX"[-spatial_dims:])
