"""Annotated sub-volumes of a big image, whose labels have voxels of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import UNKNOWN, Annotation, Sample
from semiweak.data.readers.containers import Container, Place, place_of

Table = tuple[tuple[int, int], ...]
"""Numbers in the labels and their classes, 255 where unknown."""

Voxels = tuple[NDArray[Any], NDArray[np.uint8]]


@dataclass(frozen=True)
class Crop:
    """A sub-volume: which part of the image it is, and how its labels lie on it.

    Attributes:
        name: Its name, which is that of its group as well.
        image: The array of the image.
        labels: The array of its labels.
        start: Its first voxel in the image.
        shape: Its size in voxels of the image.
        skip: The labels before the first of those voxels: z, y, x.
        ratio: Labels to a voxel: z, y, x.
    """

    container: Container
    name: str
    image: str
    labels: str
    start: tuple[int, ...]
    shape: tuple[int, ...]
    skip: tuple[int, ...]
    ratio: tuple[int, ...]


def table_of(ids: dict[str, int | list[int]], ignored: list[int] | None) -> Table:
    """Understands the numbers of classes, and those that are unknown.

    Raises:
        ValueError: A number has two meanings.
    """
    table: dict[int, int] = {}
    for c, (name, numbers) in enumerate(ids.items()):
        for number in [numbers] if isinstance(numbers, int) else numbers:
            if number in table:
                other = list(ids)[table[number]]
                raise ValueError(f"class_ids: {number} is {other} and {name}; keep one of them")
            table[number] = c
    for number in (*table, *(ignored or ())):
        if not 0 <= number < 2**16:
            raise ValueError(f"the number {number} of a class must be 0 to {2**16 - 1}")
    for number in ignored or ():
        if number in table:
            raise ValueError(f"ignore_ids: {number} is {list(ids)[table[number]]} in class_ids")
        table[number] = UNKNOWN
    if ignored is None:
        table.setdefault(0, UNKNOWN)
    return tuple(sorted(table.items()))


def lay(
    container: Container,
    name: str,
    image: str,
    place: Place,
    shape: tuple[int, ...],
    labels: str,
) -> Crop:
    """Lays the labels of a crop on the voxels of the image."""
    where = container.path / labels
    said = place_of(container, labels)
    size = container.open(labels).shape
    ratios, skips, starts, counts = [], [], [], []
    for axis in range(3):
        ratio = round(place.voxel[axis] / said.voxel[axis])
        if ratio < 1 or abs(place.voxel[axis] / said.voxel[axis] - ratio) > 0.01:
            raise ValueError(
                f"{where}: its voxels of {_by(said.voxel)} do not divide those of the image, "
                f"{_by(place.voxel)}, by whole numbers; choose another level of the image "
                "(data.level) or of the labels (data.label_level), or say the image's voxel size "
                "in the units of the labels in data.voxel_size"
            )
        origin = 0.0 if said.of_image else place.corner[axis]
        first = int(np.floor((said.corner[axis] - origin) / said.voxel[axis] + 0.5))
        skip = -first % ratio  # labels of a voxel that is not in the crop as a whole
        count = (size[axis] - skip) // ratio
        start = (first + skip) // ratio
        if count < 1 or start < 0 or start + count > shape[axis]:
            raise ValueError(
                f"{where}: reaches from voxel {start} to {start + count} along "
                f"{'zyx'[axis]}, but {container.path / image} has {shape[axis]}; their attributes "
                "do not fit together"
            )
        ratios.append(ratio)
        skips.append(skip)
        starts.append(start)
        counts.append(count)
    return Crop(
        container, name, image, labels, tuple(starts), tuple(counts), tuple(skips), tuple(ratios)
    )


def _by(voxel: tuple[float, ...]) -> str:
    return " x ".join(f"{side:g}" for side in voxel)


def read_crop(crop: Crop, table: Table, annotated: bool, z: int | None) -> Sample:
    """A slice, or all of a crop."""
    image, mask = _voxels(crop, table if annotated else None)
    name = crop.name if z is None else f"{crop.name}_z{z:04d}"
    if z is not None:  # copied, so that a slice in memory does not keep all others there
        image, mask = image[z].copy(), mask[z].copy()
    return Sample(image[None], Annotation(mask=mask) if annotated else Annotation(), name)


@lru_cache(maxsize=2)
def _voxels(crop: Crop, table: Table | None) -> Voxels:
    """All of a crop. Slices are asked for in turn, but lie in one block of the file."""
    window = tuple(slice(a, a + n) for a, n in zip(crop.start, crop.shape, strict=True))
    image = np.asarray(crop.container.open(crop.image)[window])
    mask = np.full(crop.shape, UNKNOWN, np.uint8)
    if table is None:
        return image, mask
    labels = crop.container.open(crop.labels)
    step = max(1, 32 // crop.ratio[0])
    for z in range(0, crop.shape[0], step):
        planes = slice(z, min(z + step, crop.shape[0]))
        box = [
            slice(skip + a * ratio, skip + b * ratio)
            for skip, ratio, (a, b) in zip(
                crop.skip,
                crop.ratio,
                ((planes.start, planes.stop), (0, crop.shape[1]), (0, crop.shape[2])),
                strict=True,
            )
        ]
        ids = np.asarray(labels[tuple(box)])
        mask[planes] = most_frequent(_classes(ids, table, crop), crop.ratio)
    return image, mask


def _classes(ids: NDArray[Any], table: Table, crop: Crop) -> NDArray[np.uint8]:
    """The class of each number."""
    beyond = max(number for number, _ in table) + 1
    class_of = np.full(beyond, -1, np.int16)
    for number, c in table:
        class_of[number] = c
    odd = ids[(ids < 0) | (ids >= beyond)]
    classes = class_of[ids] if not len(odd) else np.empty(0, np.int16)
    foreign = np.unique(odd if len(odd) else ids[classes < 0])
    if len(foreign):
        raise ValueError(
            f"{crop.container.path / crop.labels}: holds {', '.join(map(str, foreign[:5]))}, which "
            "no class has; name it in data.class_ids, or leave it unknown by data.ignore_ids"
        )
    return classes.astype(np.uint8)


def most_frequent(labels: NDArray[np.uint8], ratio: tuple[int, ...]) -> NDArray[np.uint8]:
    """The most frequent label of each block of ``ratio`` labels; the lowest, if there are several.

    Args:
        labels: ``uint8 (*S)``, S a multiple of the ratio along each axis.
        ratio: The size of a block.

    Returns:
        ``uint8 (*S / ratio)``.
    """
    if max(ratio) == 1:
        return labels
    sides = [part for n, r in zip(labels.shape, ratio, strict=True) for part in (n // r, r)]
    d = len(ratio)
    blocks = labels.reshape(sides).transpose(*range(0, 2 * d, 2), *range(1, 2 * d, 2))
    flat = blocks.reshape(-1, int(np.prod(ratio)))
    found = flat[:, 0].copy()
    mixed = (flat != found[:, None]).any(axis=1)  # few, at the borders of objects
    ordered = np.sort(flat[mixed], axis=1)
    counts = np.zeros(ordered.shape, np.int32)
    for column in range(ordered.shape[1]):
        counts += ordered == ordered[:, column, None]
    found[mixed] = ordered[np.arange(len(ordered)), counts.argmax(axis=1)]
    return found.reshape(blocks.shape[:d])
