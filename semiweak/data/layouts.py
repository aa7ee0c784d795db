"""How public data sets of instances lie in their folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from semiweak.data.annotations import Annotation, Contradiction
from semiweak.data.formats import check_stems
from semiweak.data.readers import SUFFIXES, list_images, read_labels, read_objects
from semiweak.data.readers.names import HDF5_SUFFIXES, stem_of

Layout = Literal["images", "dsb", "hdf5", "cvppp"]

_LOOKS_LIKE: dict[Layout, str] = {
    "images": "images/NAME.tif with labels/NAME.tif (all objects) or instances/NAME.tif (some)",
    "dsb": "ID/images/ID.png with ID/masks/*.png, one object each",
    "hdf5": "NAME.h5 with the data sets raw and label",
    "cvppp": "NAME_rgb.png with NAME_label.png",
}


@dataclass(frozen=True)
class Entry:
    """The files of one image.

    Attributes:
        name: The image's name.
        image: Its file, or ``file.h5:/key``.
        labels: The label image of its objects.
        masks: Or the masks of its objects, one file each; an image can have none.
        complete: All its objects are painted.
    """

    name: str
    image: str
    labels: str | None = None
    masks: tuple[str, ...] | None = None
    complete: bool = False


@dataclass(frozen=True)
class Naming:
    """What the files, folders and data sets of a layout are called.

    Attributes:
        label_folder: The folder of label images in the layout ``"images"``.
        raw_key: The data set of the image in an HDF5 file.
        label_key: The data set of the objects there.
    """

    label_folder: str = "labels"
    raw_key: str = "raw"
    label_key: str = "label"


def find_entries(root: Path, layout: Layout | Literal["auto"], naming: Naming) -> list[Entry]:
    """The images below ``root``, in the order of their names.

    Raises:
        ValueError: There are none, or the layout is not clear.
    """
    if not root.exists():
        raise ValueError(f"root: there is no folder {root}")
    if layout == "auto":
        layout = _recognise(root)
    if layout not in get_args(Layout):
        raise ValueError(f"layout is {layout!r}; it must be auto, {', '.join(_LOOKS_LIKE)}")
    readers: dict[Layout, Callable[[Path, Naming], list[Entry]]] = {
        "images": _images,
        "dsb": _dsb,
        "hdf5": _hdf5,
        "cvppp": _cvppp,
    }
    entries = readers[layout](root, naming)
    if not entries:
        raise ValueError(
            f"{root} has no image in the layout {layout}: {_LOOKS_LIKE[layout]}. {_found_in(root)}"
        )
    return entries


def _recognise(root: Path) -> Layout:
    signs: dict[Layout, bool] = {
        "hdf5": bool(_hdf5_files(root)),
        "cvppp": bool(_cvppp_files(root)),
        "dsb": bool(_dsb_folders(root)),
        "images": (root / "images").is_dir(),
    }
    found = [name for name, there in signs.items() if there]
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{name}: {what}" for name, what in _LOOKS_LIKE.items())
    if found:
        raise ValueError(
            f"{root} looks like more than one layout ({', '.join(found)}); say which one in "
            f"data.layout ({known})"
        )
    raise ValueError(f"{root} has none of the known layouts ({known}). {_found_in(root)}")


def _found_in(root: Path) -> str:
    if not root.is_dir():
        return f"It is a file, and no HDF5 file ({' '.join(HDF5_SUFFIXES)})"
    inside = sorted(p.name + "/" * p.is_dir() for p in root.iterdir() if p.name[0] != ".")
    more = f" and {len(inside) - 5} more" if len(inside) > 5 else ""
    return f"It holds {', '.join(inside[:5]) or 'nothing'}{more}"


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


# images/ and labels/


def _images(root: Path, naming: Naming) -> list[Entry]:
    folder = root / "images"
    images = list_images(folder if folder.is_dir() else root)
    labels: dict[str, tuple[Path, bool]] = {}
    for name, complete in ((naming.label_folder, True), ("instances", False)):
        folder = root / name
        # An empty one was made for later; one with other files is a mistake.
        if folder.is_dir() and any(not f.name.startswith(".") for f in folder.iterdir()):
            files = list_images(folder)
            check_stems(files, images, folder)
            for stem, path in files.items():
                if stem in labels:
                    raise ValueError(
                        f"{labels[stem][0]} and {path} are two paintings of one image; keep one: "
                        f"in {naming.label_folder}/ every object of an image is painted, in "
                        "instances/ only some are"
                    )
                labels[stem] = path, complete
    if naming.label_folder != Naming.label_folder and not (root / naming.label_folder).is_dir():
        raise ValueError(f"label_folder: there is no folder {root / naming.label_folder}")
    entries = []
    for stem, image in images.items():
        painting, complete = labels.get(stem, (None, False))
        file = None if painting is None else str(painting)
        entries.append(Entry(stem, str(image), file, complete=complete))
    return entries


# ID/images/ID.png and ID/masks/*.png


def _dsb_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [folder for folder in _folders(root) if (folder / "images").is_dir()]


def _dsb(root: Path, naming: Naming) -> list[Entry]:
    entries = []
    for folder in _dsb_folders(root):
        images = list_images(folder / "images")
        if len(images) > 1:
            raise ValueError(
                f"{folder / 'images'} holds {len(images)} images; it must hold one, whose objects "
                "are in masks/ beside it"
            )
        (image,) = images.values()
        masks = None
        if (folder / "masks").is_dir():
            files = (f for f in (folder / "masks").iterdir() if f.suffix.lower() in SUFFIXES)
            masks = tuple(sorted(str(f) for f in files if not f.name.startswith(".")))
        entries.append(Entry(folder.name, str(image), masks=masks, complete=masks is not None))
    return entries


# NAME_rgb.png and NAME_label.png


def _cvppp_files(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(root.glob("*_rgb.png")) or sorted(root.glob("*/*_rgb.png"))


def _cvppp(root: Path, naming: Naming) -> list[Entry]:
    entries = []
    for image in _cvppp_files(root):
        plant = image.name.removesuffix("_rgb.png")
        # The folders A1 to A4 use the same names.
        name = plant if image.parent == root else f"{image.parent.name}_{plant}"
        label = image.with_name(f"{plant}_label.png")
        there = label.exists()
        entries.append(Entry(name, str(image), str(label) if there else None, complete=there))
    return entries


# NAME.h5


def _hdf5_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() in HDF5_SUFFIXES else []
    return sorted(p for p in root.iterdir() if p.suffix.lower() in HDF5_SUFFIXES)


def _hdf5(root: Path, naming: Naming) -> list[Entry]:
    import h5py

    entries = []
    for path in _hdf5_files(root):
        try:
            with h5py.File(path, "r") as file:
                there = naming.label_key in file
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be read as HDF5; it seems damaged ({error})"
            ) from error
        label = f"{path}:/{naming.label_key.strip('/')}" if there else None
        image = f"{path}:/{naming.raw_key.strip('/')}"
        entries.append(Entry(stem_of(path), image, label, complete=there))
    return entries


# Reading the objects


def read_annotation(
    entry: Entry,
    shape: tuple[int, ...],
    *,
    background_label: int = 0,
    axes: str | None = None,
) -> Annotation:
    """The objects of an image.

    Args:
        entry: Its files.
        shape: The spatial shape of the image.
        background_label: This value of label images is background, as is 0; where only some
            objects are painted it says where background was painted, and 0 is unlabelled.
        axes: The axes of label images in TIFF and HDF5 files.

    Raises:
        ValueError: A file cannot be read or has another shape.
    """
    if entry.masks is not None:
        return _from_masks(entry.masks, shape, entry.complete)
    if entry.labels is None:
        return Annotation()
    ids = read_objects(entry.labels, spatial_dims=len(shape), axes=axes)
    check_shape(entry.labels, ids.shape, shape)
    painted = ids > 0
    background = ids == background_label
    ids[background] = 0
    if background_label != 0 and not entry.complete and background.any():
        # In what was painted, everything is known.
        return Annotation(instances=ids, instances_complete=True, valid=painted)
    unknown = ids < 0
    ids[unknown] = 0
    valid = ~unknown if unknown.any() else None
    return Annotation(instances=ids, instances_complete=entry.complete, valid=valid)


def _from_masks(files: tuple[str, ...], shape: tuple[int, ...], complete: bool) -> Annotation:
    """Objects in the order of their files; where two overlap, the first one stays."""
    ids = np.zeros(shape, np.int32)
    clashes = []
    for number, file in enumerate(files, start=1):
        inside = read_labels(file) != 0
        check_shape(file, inside.shape, shape)
        taken = inside & (ids != 0)
        name = Path(file).name
        if taken.any():
            first = tuple(int(i) for i in np.argwhere(taken)[0])
            message = f"the mask {name} overlaps another; these pixels stay with the first of them"
            clashes.append(Contradiction(message, first, int(taken.sum())))
        if not inside.any():
            clashes.append(Contradiction(f"the mask {name} is empty"))
        ids[inside & ~taken] = number
    return Annotation(instances=ids, instances_complete=complete, contradictions=tuple(clashes))


def check_shape(file: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Refuses a label image of another size than its image."""
    if found != shape:
        raise ValueError(
            f"{file} has {' x '.join(map(str, found))} pixels, its image has "
            f"{' x '.join(map(str, shape))}; they must be equal"
        )
