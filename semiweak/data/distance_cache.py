"""The distance maps of training images: made when first asked for, and kept."""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import Annotation, Sample, pixel_of
from semiweak.data.distances import Distance, check_distance, distance_maps

FORMAT = 1
"""Part of a file's name; another number makes all files anew."""


def cache_folder() -> Path:
    """Where maps are kept by default: ``semiweak/distances`` in the user's cache folder.

    That is ``$XDG_CACHE_HOME``, or ``~/.cache`` where it is not set.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "semiweak" / "distances"


class DistanceMaps:
    """Makes the `distance_maps` of an image from its points, once.

    A file is named by all that its maps depend on, so that none is ever out of date and several
    processes, trainings and data sets may share a folder. It has 4 bytes for each pixel and class.
    Where a folder cannot be written to, and without one, maps stay in the memory of each process.
    Images are told apart by their names, so that one `DistanceMaps` serves one data set.

    Args:
        num_classes: K.
        distance: See `distance_maps`; this and the next two.
        mixing: The same.
        spacing: The same.
        cache: A folder; ``"auto"`` for that of `cache_folder`; None for memory alone.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        distance: Distance,
        mixing: float,
        spacing: Sequence[float] | None = None,
        cache: str | None = "auto",
    ) -> None:
        check_distance(distance, mixing, spacing, 2 if spacing is None else len(spacing))
        self.num_classes = num_classes
        self.distance: Distance = distance
        self.mixing, self.spacing = mixing, spacing
        self.folder = cache_folder() if cache == "auto" else cache and Path(cache).expanduser()
        self._in_memory: dict[str, NDArray[np.float32]] = {}
        self._files: dict[str, Path] = {}

    def __call__(self, sample: Sample) -> NDArray[np.float32]:
        """The maps ``float32 (K, *S)`` of a whole image, not to be written to.

        NaN for a class without points, for an image without any, and outside the region that the
        annotators looked at, where they may have missed a point.
        """
        if not len(sample.annotation.points):
            return np.broadcast_to(np.float32(np.nan), (self.num_classes, *sample.shape))
        if sample.name in self._in_memory:
            return self._in_memory[sample.name]
        file = self._file(sample)
        maps = None if file is None else self._read(file, sample)
        if maps is None:
            maps = self._make(sample)
            if file is None or not _write(file, maps):
                self._in_memory[sample.name] = maps
        return maps

    def _make(self, sample: Sample) -> NDArray[np.float32]:
        said = sample.annotation
        maps = distance_maps(
            sample.image,
            said.points,
            said.point_labels,
            self.num_classes,
            distance=self.distance,
            mixing=self.mixing,
            spacing=self.spacing,
        )
        if said.valid is not None:
            maps[:, ~said.valid] = np.nan
        return maps

    def _file(self, sample: Sample) -> Path | None:
        """The file of an image. Names are unique in a data set: each is read for it only once."""
        if not self.folder:
            return None
        if sample.name not in self._files:
            self._files[sample.name] = Path(self.folder) / f"{self.key(sample)}.npy"
        return self._files[sample.name]

    def key(self, sample: Sample) -> str:
        """A name for the maps that is the same wherever all they depend on is the same."""
        said: Annotation = sample.annotation
        settings: list[Any] = [FORMAT, self.distance, self.num_classes, sample.shape]
        settings.append([float(s) for s in self.spacing or [1] * len(sample.shape)])
        arrays: list[NDArray[Any] | None] = [pixel_of(said.points), said.point_labels, said.valid]
        if self.distance == "geodesic":
            settings.append(float(self.mixing))
            arrays.append(sample.image)
        content = hashlib.blake2b(repr(settings).encode(), digest_size=20)
        for array in arrays:
            if array is not None:
                content.update(f"{array.dtype.str} {array.shape}".encode())
                content.update(np.ascontiguousarray(array).data)
            content.update(b"|")
        return content.hexdigest()

    def _read(self, file: Path, sample: Sample) -> NDArray[np.float32] | None:
        """The maps in a file, of which only what is used is read; None where there are none."""
        try:
            maps = np.load(file, mmap_mode="r")
            if maps.dtype == np.float32 and maps.shape == (self.num_classes, *sample.shape):
                return np.asarray(maps)
            problem = f"it has {maps.dtype} {maps.shape}"
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, EOFError) as error:
            problem = str(error)
        warnings.warn(
            f"{file} is no file of the distances of {sample.name} ({problem}); they are computed "
            "again",
            stacklevel=4,
        )
        return None


def _write(file: Path, maps: NDArray[np.float32]) -> bool:
    """Writes a file in one go, whoever else does so at the same time; whether that was possible."""
    part = file.with_name(f"{file.stem}.{uuid.uuid4().hex}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as handle:
                np.save(handle, maps)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"the distances of training images cannot be kept in {file.parent} ({error}); they "
            "stay in memory, and each process computes its own: say another folder as cache",
            stacklevel=4,
        )
        return False
    return True
