"""PNG, JPEG and BMP, read with Pillow, and with OpenCV where Pillow would lose bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin

from semiweak.data.readers.common import Purpose, UnusableFileError

PictureFormat = Literal["PNG", "JPEG", "BMP"]

_GREY, _GREY_ALPHA = 0, 4  # colour types in a PNG's header
_ORIENTATION = 0x0112  # the EXIF tag; values from 5 on swap width and height


def picture_pixels(path: Path, kind: PictureFormat, purpose: Purpose) -> NDArray[Any]:
    """The pixels as ``(H, W)`` or, with channels, ``(H, W, C)``; RGBA for ``"colours"``."""
    depth, colour_type = _png_header(path) if kind == "PNG" else (8, None)
    if depth == 16 and colour_type != _GREY:
        return _read_16bit_colour(path, grey=colour_type == _GREY_ALPHA, purpose=purpose)
    with _open(path, kind) as picture:
        picture.load()
        if purpose == "image":
            return _brightness_or_colour(picture)
        if purpose == "colours":
            return np.asarray(picture.convert("RGBA"))
        array = _numbers(picture)
    if depth in (2, 4) and colour_type == _GREY:
        array = array // (255 // (2**depth - 1))  # Pillow spreads these greys over 0 to 255
    return array


def picture_shape(path: Path, kind: PictureFormat) -> tuple[int, int]:
    """Height and width, by the header alone."""
    with _open(path, kind) as picture:
        width, height = picture.size
        if kind == "JPEG" and picture.getexif().get(_ORIENTATION, 1) >= 5:
            return width, height
        return height, width


def _open(path: Path, kind: PictureFormat) -> Image.Image:
    # The plugins are called directly: Image.open takes an image of more than 179 megapixels for an
    # attack, but a whole slide is larger, and these are the user's own files.
    if kind == "PNG":
        return PngImagePlugin.PngImageFile(path)
    if kind == "JPEG":
        return JpegImagePlugin.JpegImageFile(path)
    return BmpImagePlugin.BmpImageFile(path)


def _brightness_or_colour(picture: Image.Image) -> NDArray[Any]:
    picture.info.pop("transparency", None)  # dropped anyway; Pillow would warn of some palettes
    if picture.format == "JPEG":
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "P":
        picture = picture.convert("L" if _palette_is_grey(picture) else "RGB")
    elif picture.mode in ("1", "LA"):
        picture = picture.convert("L")
    elif picture.mode != "L" and not picture.mode.startswith("I"):  # I;16: 16-bit grey
        picture = picture.convert("RGB")
    return np.asarray(picture)


def _numbers(picture: Image.Image) -> NDArray[Any]:
    """Palette indices, not colours; 0 and 1 of one bit."""
    if picture.mode == "LA" and picture.getchannel("A").getextrema() == (255, 255):
        picture = picture.getchannel("L")
    return np.asarray(picture)


def _palette_is_grey(picture: Image.Image) -> bool:
    """ImageJ and others save grey images with a palette of greys."""
    palette = np.asarray(picture.getpalette("RGB")).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _png_header(path: Path) -> tuple[int, int]:
    """The bits of a sample, and the colour type."""
    with path.open("rb") as file:
        header = file.read(26)
    if len(header) < 26:
        raise EOFError("its header is incomplete")
    return header[24], header[25]


def _read_16bit_colour(path: Path, *, grey: bool, purpose: Purpose) -> NDArray[Any]:
    # Pillow reduces these to 8 bits without a word. OpenCV gives blue first, grey three times.
    import cv2

    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise UnusableFileError("cannot be read as PNG; it seems damaged or cut short")
    if purpose == "colours":
        return np.asarray(array[..., [2, 1, 0, *range(3, array.shape[2])]])
    return np.asarray(array[..., 0] if grey else array[..., [2, 1, 0]])
