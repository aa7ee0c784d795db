"""Volumes in N5 and Zarr containers, and where in space they lie; read with zarr."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Container:
    """A folder in the form N5 or Zarr (2 or 3)."""

    path: Path

    @property
    def is_n5(self) -> bool:
        """Whether it is in the form N5, whose attributes are in the order x, y, z."""
        root = self.path / "attributes.json"
        return self.path.suffix == ".n5" or (root.is_file() and "n5" in _load(root))

    def __contains__(self, name: str) -> bool:
        """Whether there is an array or group of this name."""
        return (self.path / name).is_dir()

    def names(self, group: str) -> list[str]:
        """What a group holds, in order; nothing where there is no such group."""
        folder = self.path / group
        inside = folder.iterdir() if folder.is_dir() else ()
        return sorted(f.name for f in inside if f.is_dir() and not f.name.startswith("."))

    def is_array(self, name: str) -> bool:
        """Whether there is an array of this name."""
        folder = self.path / name
        if self.is_n5:
            found = folder / "attributes.json"
            return found.is_file() and "dimensions" in _load(found)
        if (folder / ".zarray").is_file():
            return True
        found = folder / "zarr.json"
        return found.is_file() and _load(found).get("node_type") == "array"

    def attributes(self, name: str) -> dict[str, Any]:
        """The attributes of an array or group."""
        folder = self.path / name
        if self.is_n5:
            return _load(folder / "attributes.json")
        if (folder / "zarr.json").is_file():
            found: dict[str, Any] = _load(folder / "zarr.json").get("attributes", {})
            return found
        return _load(folder / ".zattrs")

    def open(self, name: str) -> Any:
        """An array, whose slices are read when they are asked for; axes are z, y, x.

        Raises:
            ValueError: There is none, zarr is missing, or cannot read it.
        """
        zarr = _zarr()
        where = self.path / name
        if not self.is_array(name):
            raise ValueError(f"{where}: there is no array")
        try:
            if not self.is_n5:
                return zarr.open_array(str(where), mode="r")
            if not hasattr(zarr, "n5"):
                raise ValueError(
                    f"zarr {zarr.__version__} reads no N5; pip install 'zarr>=2.18.7,<3'"
                )
            with warnings.catch_warnings():
                # That zarr 3 has it no more.
                warnings.filterwarnings("ignore", message="The N5Store is deprecated")
                return zarr.open_array(zarr.n5.N5Store(str(self.path)), path=name, mode="r")
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{where}: cannot be read: {error}") from error


@dataclass(frozen=True)
class Place:
    """Where a volume lies.

    Attributes:
        voxel: The size of a voxel, in nanometres or whatever the container says: z, y, x.
        corner: The corner of its first voxel.
        of_image: ``corner`` counts from the corner of the image, not from the origin.
    """

    voxel: tuple[float, ...]
    corner: tuple[float, ...]
    of_image: bool = False


def place_of(container: Container, name: str) -> Place:
    """Reads where an array lies from the attributes that OpenOrganelle gives arrays.

    - OME-Zarr: ``multiscales`` of the group above; its translation is the centre of a voxel
    - COSEM: ``transform`` with axes, scale and translate, the centre of a voxel
    - COSEM's annotations: ``resolution`` and ``offset``, from the corner of the image
    - N5: ``pixelResolution``

    Raises:
        ValueError: None of them is there, or one is not understood; names the array.
    """
    where = container.path / name
    own = container.attributes(name)
    group, _, level = name.rpartition("/")
    above = container.attributes(group) if group else {}
    try:
        for entry in above.get("ome", above).get("multiscales", []):
            for found in entry.get("datasets", []):
                if found["path"].strip("/") == level and "coordinateTransformations" in found:
                    return _of_ome(entry, found)
        turned = -1 if container.is_n5 else 1  # N5 counts axes from the fastest
        if "offset" in own and "resolution" in own:
            voxel, corner = own["resolution"][::turned], own["offset"][::turned]
            return Place(_three(voxel), _three(corner), of_image=True)
        if "transform" in own:
            said = own["transform"]
            return _centred(said["axes"], said["scale"], said["translate"])
        if "pixelResolution" in own:
            voxel = own["pixelResolution"]
            voxel = voxel["dimensions"] if isinstance(voxel, dict) else voxel
            return _centred(AXES, voxel[::turned], (0.0, 0.0, 0.0))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where}: its attributes do not say its voxel size in a way that is known ({error!r})"
        ) from error
    raise ValueError(
        f"{where}: no attribute says its voxel size; known are multiscales (OME-Zarr), transform, "
        "resolution with offset, and pixelResolution"
    )


def _of_ome(entry: dict[str, Any], dataset: dict[str, Any]) -> Place:
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in entry["axes"]]
    scale, shift = [1.0] * len(axes), [0.0] * len(axes)
    # Those of the level, then those of all levels together.
    for step in (
        *dataset["coordinateTransformations"],
        *entry.get("coordinateTransformations", ()),
    ):
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, step["scale"], strict=True)]
            shift = [a * b for a, b in zip(shift, step["scale"], strict=True)]
        elif step["type"] == "translation":
            shift = [a + b for a, b in zip(shift, step["translation"], strict=True)]
        elif step["type"] != "identity":
            raise ValueError(f"a transformation is of the type {step['type']}")
    return _centred(axes, scale, shift)


def _centred(axes: Any, scale: Any, centre: Any) -> Place:
    """The place of a volume of which the centre of the first voxel is known."""
    order = [str(axis).lower() for axis in axes]
    if sorted(order) != sorted(AXES):
        raise ValueError(f"its axes are {', '.join(order)}; they must be z, y and x")
    by_axis = dict(zip(order, zip(scale, centre, strict=True), strict=True))
    voxel = _three([by_axis[axis][0] for axis in AXES])
    middle = _three([by_axis[axis][1] for axis in AXES])
    return Place(voxel, tuple(m - v / 2 for m, v in zip(middle, voxel, strict=True)))


def _three(values: Any) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if len(found) != 3:
        raise ValueError(f"{len(found)} numbers where 3 should be")
    return found


def _load(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as JSON; it seems damaged ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds no attributes")
    return found


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ValueError(
            "N5 and Zarr are read by zarr, which is not installed; "
            "pip install 'semiweak[openorganelle]'"
        ) from error
    return zarr
