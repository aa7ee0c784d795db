"""TIFF, read with tifffile; what tifffile would read only in part is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semiweak.data.readers.common import Purpose, UnusableFileError

if TYPE_CHECKING:
    import tifffile


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffPageSeries]:
    """The one image (or stack) of a TIFF.

    Raises:
        UnusableFileError: Planes are missing, or there are several images of one shape.
    """
    import tifffile  # here, since it takes a tenth of a second to import

    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]  # smaller ones behind it are thumbnails
        if series.is_multifile:
            raise UnusableFileError(
                "is one of several files that make up an OME-TIFF; open them in Fiji and save each "
                "image as a TIFF of its own"
            )
        _check_complete(tif, series)
        same = sum(other.shape == series.shape for other in tif.series)
        if same > 1:
            raise UnusableFileError(
                f"holds {same} images of shape {series.shape} (positions or scenes); save each as "
                "a file of its own"
            )
        yield series


def tiff_pixels(series: tifffile.TiffPageSeries, purpose: Purpose) -> NDArray[Any]:
    """The stored array."""
    array = series.asarray()
    extra = series.keyframe.extrasamples
    if purpose == "image" and extra and extra[-1] in (1, 2) and "S" in series.axes:
        # An opaque alpha says nothing. Any other stays: writers call every fourth channel alpha.
        samples = series.axes.index("S")
        opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
        if bool((array.take(-1, samples) == opaque).all()):
            array = np.delete(array, -1, samples)
    return array


def _check_complete(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Refuses a TIFF that was cut short between planes.

    tifffile logs such damage and goes on with the planes that are left, or with zeros.
    """
    pages = len(tif.pages)  # follows the chain of pages to its end
    end = tif.pages.next_page_offset
    if end is not None:
        tif.filehandle.seek(end)
        pointer = tif.filehandle.read(tif.tiff.offsetsize)
        if any(pointer) or len(pointer) < tif.tiff.offsetsize:
            raise UnusableFileError(f"is cut short behind plane {pages}")
    named = (tif.imagej_metadata or {}).get("images", 1)
    if named > pages and series.kind != "imagej":  # ImageJ may store one page for all planes
        raise UnusableFileError(f"is cut short: its header names {named} planes")
    if tif.is_ome and any(page is None for page in series):
        raise UnusableFileError(
            "lacks planes that its header names: it is cut short, or belongs to a set of several "
            "files; open the set in Fiji and save each image as a TIFF of its own"
        )
