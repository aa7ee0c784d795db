"""From files to arrays as stored; every failure is a `ValueError` that names the file.

What a file is, its first bytes decide, not its suffix: people rename files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semiweak.data.readers.common import Purpose, UnusableFileError
from semiweak.data.readers.hdf5 import open_hdf5
from semiweak.data.readers.names import HDF5_SUFFIXES, SUFFIXES, split_source
from semiweak.data.readers.pictures import picture_pixels, picture_shape
from semiweak.data.readers.tiff import open_tiff, tiff_pixels

Format = Literal["PNG", "JPEG", "BMP", "TIFF", "HDF5"]

_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
)


class Layout(NamedTuple):
    """What a file says of its array."""

    shape: tuple[int, ...]
    axes: str | None
    """One letter an axis, ``Q`` or ``I`` where the file does not know; None: the file has none."""
    fixed: bool
    """The format leaves no doubt about the axes (PNG, JPEG, BMP)."""


def decode(source: str | Path, purpose: Purpose) -> tuple[NDArray[Any], Layout]:
    """Reads the pixels of a file, as stored.

    Args:
        source: PNG, JPEG, BMP or TIFF; or ``file.h5:/key``.
        purpose: What the pixels are for.

    Raises:
        UnusableFileError: The file is missing, empty, damaged or of another kind.
    """
    path, key = split_source(source)
    kind = _format_of(path)
    with _named(source, kind):
        if kind == "TIFF":
            with open_tiff(path) as series:
                array = tiff_pixels(series, purpose)
                return array, Layout(array.shape, series.axes, False)
        if kind == "HDF5":
            with open_hdf5(path, key) as dataset:
                array = np.asarray(dataset[()])
            return array, Layout(array.shape, None, False)
        if kind == "JPEG" and purpose != "image":
            raise UnusableFileError(
                "is a JPEG, whose compression changes the numbers of classes; save label images "
                "as PNG or TIFF"
            )
        array = picture_pixels(path, kind, purpose)
        return array, Layout(array.shape, "YX" if array.ndim == 2 else "YXS", True)


def layout(source: str | Path) -> Layout:
    """What `decode` would find, by the file's header; PNG, JPEG and BMP come without channels.

    Raises:
        UnusableFileError: As `decode`; damage behind the header is not seen.
    """
    path, key = split_source(source)
    kind = _format_of(path)
    with _named(source, kind):
        if kind == "TIFF":
            with open_tiff(path) as series:
                return Layout(series.shape, series.axes, False)
        if kind == "HDF5":
            with open_hdf5(path, key) as dataset:
                return Layout(dataset.shape, None, False)
        return Layout(picture_shape(path, kind), "YX", True)


@contextmanager
def _named(source: str | Path, kind: Format) -> Iterator[None]:
    """Turns whatever a library raises into an error that names the file."""
    try:
        yield
    except UnusableFileError as error:
        raise UnusableFileError(f"{source}: {error}") from error.__cause__
    except Exception as error:
        if "imagecodecs" in str(error):
            raise UnusableFileError(
                f"{source}: is compressed in a way that needs one more package ({error}); "
                "run `pip install imagecodecs`, or save it without compression"
            ) from error
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UnusableFileError(
            f"{source}: cannot be read as {kind}; it seems damaged or cut short ({text})"
        ) from error


def _format_of(path: Path) -> Format:
    try:
        if path.is_dir():
            raise UnusableFileError(f"{path}: is a folder, not an image")
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise UnusableFileError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UnusableFileError(f"{path}: cannot be opened ({error.strerror})") from error
    if not head:
        raise UnusableFileError(f"{path}: is empty (0 bytes)")
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if path.suffix.lower() in HDF5_SUFFIXES:
        return "HDF5"  # its signature may stand further in, behind a user's block
    raise UnusableFileError(
        f"{path}: is no image that can be read (it begins with {head[:8]!r}); "
        f"files of these kinds are: {' '.join(SUFFIXES)}"
    )
