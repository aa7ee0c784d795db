"""HDF5, read with h5py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from semiweak.data.readers.common import UnusableFileError

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_hdf5(path: Path, key: str | None) -> Iterator[h5py.Dataset]:
    """One data set; opened anew by each call, so that worker processes share no handle."""
    import h5py

    with h5py.File(path, "r") as file:
        if key is None:
            found = _data_sets(file)
            if len(found) != 1:
                raise UnusableFileError(
                    f"say which data set to read, as {path.name}:/key; {_listed(found)}"
                )
            (key,) = found
        dataset = file.get(key)
        if not isinstance(dataset, h5py.Dataset):
            raise UnusableFileError(f"there is no data set {key}; {_listed(_data_sets(file))}")
        if dataset.dtype.kind not in "biuf" or dataset.shape is None:
            raise UnusableFileError(f"{key} holds {dataset.dtype}, not pixels")
        yield dataset


def _data_sets(file: h5py.File) -> dict[str, tuple[int, ...] | None]:
    """The shape of every data set in the file."""
    import h5py

    found: dict[str, tuple[int, ...] | None] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[f"/{name}"] = item.shape

    file.visititems(visit)
    return found


def _listed(found: dict[str, tuple[int, ...] | None]) -> str:
    names = [f"{name} {shape}" for name, shape in found.items()]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"the file holds {', '.join(names[:20]) or 'none'}{more}"
