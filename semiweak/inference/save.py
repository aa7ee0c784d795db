"""Label images and probabilities as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from semiweak.inference.files import replacing

LARGEST_IN_PNG = 65535


def save_labels(
    path: str | Path,
    labels: NDArray[Any],
    *,
    largest: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a label image, as a whole or not at all, in the smallest type that fits.

    Args:
        path: Ends in ``.png`` (2D, up to 65535), ``.tif`` or ``.tiff``; folders are made as needed.
        labels: Classes or object ids from 0 up, integers ``(H, W)`` or ``(D, H, W)``.
        largest: The largest label that any file of the series may have, so that all get one type;
            by default that of this one.
        overwrite: Replace the file if it exists.

    Raises:
        ValueError: The file exists, its format cannot hold the labels, or they are no labels.
    """
    path = _new(path, overwrite)
    if labels.dtype.kind not in "biu" or labels.ndim not in (2, 3):
        raise ValueError(
            f"a label image has integers on 2 or 3 axes, not {labels.dtype} {labels.shape}, as for "
            f"{path}"
        )
    if labels.min(initial=0) < 0:
        raise ValueError(f"a label image has no negative values, got {labels.min()} for {path}")
    labels = labels.astype(np.min_scalar_type(max(largest or 0, int(labels.max(initial=0)))))
    if path.suffix.lower() == ".png":
        if labels.ndim == 3:
            raise ValueError(f"a PNG cannot hold a stack, as for {path}; write a TIFF (.tif)")
        if labels.dtype.itemsize > 2:
            raise ValueError(
                f"a PNG holds labels up to {LARGEST_IN_PNG}, got {labels.max()} for {path}; write "
                "a TIFF (.tif)"
            )
        with replacing(path) as temporary:
            Image.fromarray(labels).save(temporary, format="PNG")
    else:
        axes = "YX" if labels.ndim == 2 else "ZYX"
        _save_tiff(path, labels, metadata={"axes": axes}, compression="zlib")


def save_probabilities(
    path: str | Path,
    probabilities: NDArray[Any],
    *,
    class_names: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Writes class probabilities as an OME-TIFF, one channel a class, ``float32``.

    Args:
        path: Ends in ``.tif``; folders are made as needed.
        probabilities: ``(K, H, W)`` or ``(K, D, H, W)``.
        class_names: K names for the channels, or none.
        overwrite: Replace the file if it exists.

    Raises:
        ValueError: The file exists, or there are other axes.
    """
    path = _new(path, overwrite)
    if probabilities.ndim not in (3, 4):
        raise ValueError(
            f"probabilities have axes (K, H, W) or (K, D, H, W), not {probabilities.shape}, as for "
            f"{path}"
        )
    metadata: dict[str, Any] = {
        "axes": "CYX" if probabilities.ndim == 3 else "CZYX",
        # By default it is made of the time and of this machine's network address.
        "UUID": str(uuid5(NAMESPACE_URL, path.name)),
    }
    if class_names:
        metadata["Channel"] = {"Name": list(class_names)}
    _save_tiff(path, probabilities.astype(np.float32), metadata=metadata, ome=True)


def _save_tiff(path: Path, array: NDArray[Any], **options: Any) -> None:
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(
            f"cannot write {path}: its name must end in .tif, or .png for a label image"
        )
    bigtiff = array.nbytes > 2**32 - 2**25  # what 32-bit offsets reach, less some metadata
    with replacing(path) as temporary:
        tifffile.imwrite(temporary, array, bigtiff=bigtiff, photometric="minisblack", **options)


def _new(path: str | Path, overwrite: bool) -> Path:
    if not overwrite and Path(path).exists():
        raise ValueError(f"{path} exists; replace it with overwrite=True")
    return Path(path)
