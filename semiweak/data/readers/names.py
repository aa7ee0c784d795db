"""What a source of pixels is called: suffixes, stems, keys inside a file, and their order."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".h5", ".hdf5")
"""The files that are read as images; upper case is as good as lower."""

HDF5_SUFFIXES = (".h5", ".hdf5")

_KEYED = re.compile(r"(?P<path>.+\.(?:h5|hdf5))(?::(?P<key>.+))?", re.IGNORECASE | re.DOTALL)


def split_source(source: str | Path) -> tuple[Path, str | None]:
    """Splits ``file.h5:/key`` into the file and the key; the key is None for every other source."""
    found = _KEYED.fullmatch(str(source))
    if found is None:
        return Path(source), None
    return Path(found["path"]), found["key"]


def stem_of(source: str | Path) -> str:
    """The name that an image and its annotations share.

    It is the file's name without folder, key and suffix: ``cells/a.ome.tif``, ``a.png`` and ``a``
    are all ``a``. Only suffixes of images are taken off, so that ``plate.7`` stays as it is. Both
    slashes separate folders: annotation files come from other computers.
    """
    path, _ = split_source(source)
    name = re.split(r"[/\\]", str(path))[-1]
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            stem = name[: -len(suffix)]
            return stem[:-4] if stem.lower().endswith(".ome") and len(stem) > 4 else stem
    return name


def list_images(folder: str | Path, *, recursive: bool = False) -> dict[str, Path]:
    """The image files of a folder by their stem, counted as people do: img2 before img10.

    Hidden files and files of other kinds are passed over.

    Args:
        folder: Where to look.
        recursive: Whether to look in its folders as well.

    Raises:
        ValueError: The folder is missing or has no images, or two files have one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise ValueError(f"{folder}: {what}")
    files = [
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not files:
        raise ValueError(
            f"{folder}: has no images; files of these kinds are read: {' '.join(SUFFIXES)}"
        )
    images: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: (_natural_order(stem_of(path)), path)):
        other = images.setdefault(stem_of(path), path)
        if other is not path:
            raise ValueError(
                f"{other} and {path} have the same name but for the suffix or folder; "
                "rename one, since annotations are found by that name"
            )
    return images


def _natural_order(name: str) -> list[tuple[str, int]]:
    """A sorting key that counts."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(text.casefold(), int(digits or 0)) for text, digits in parts]
