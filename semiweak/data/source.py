"""Images that are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from semiweak.data.annotations import Sample, Task
from semiweak.data.batch import image_item, instance_item, maps_item, semantic_item
from semiweak.data.knowledge import understand
from semiweak.data.patches import Geometry
from semiweak.data.sampler import Draw


@dataclass(frozen=True)
class Source:
    """One image of a data set, not yet read.

    Attributes:
        name: The stem of its file; unique in a data set.
        read: Reads it, with all its annotations.
        group: The sub-volume, patient or plate that it belongs to.
        complete: Whether it is completely painted, where that is known without reading it.
    """

    name: str
    read: Callable[[], Sample]
    group: str | None = None
    complete: bool | None = None


@dataclass(frozen=True)
class Maps:
    """Numbers for each pixel that training patches carry beside their image.

    Attributes:
        key: Under which key of the batch, ``float32 (B, M, *S)``.
        make: Makes those of a whole image, ``float32 (M, *S)``, NaN where there are none, such as
            beyond the image. It is called for each patch.
    """

    key: str
    make: Callable[[Sample], NDArray[np.float32]]


class TrainingPatches(Dataset[dict[str, Any]]):
    """Random patches; asked for by `Draw`, so that a seed repeats a patch wherever it is made."""

    def __init__(
        self,
        sources: Sequence[Source],
        geometry: Geometry,
        patch_size: Sequence[int],
        num_classes: int | None,
        maps: Maps | None = None,
    ) -> None:
        self.sources = sources
        self.geometry = geometry
        self.patch_size = patch_size
        self.num_classes = num_classes
        self.maps = maps

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        sample = self.sources[draw.index].read()
        if self.maps is not None:
            sample = replace(sample, maps=self.maps.make(sample))
        rng = np.random.default_rng(draw.seed)
        task: Task = "instances" if self.num_classes is None else "semantic"
        patch = self.geometry.patch(sample, self.patch_size, rng, task)
        item = (
            instance_item(patch)
            if self.num_classes is None
            else semantic_item(patch, self.num_classes)
        )
        return item if self.maps is None else item | maps_item(self.maps.key, patch)


class WholeImages(Dataset[dict[str, Any]]):
    """Whole images, as they are, with what is known about them (or nothing, to predict)."""

    def __init__(
        self, sources: Sequence[Source], num_classes: int | None, *, annotated: bool = True
    ) -> None:
        self.sources = sources
        self.num_classes = num_classes
        self.annotated = annotated

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.sources[index].read()
        if not self.annotated:
            return image_item(sample)
        if self.num_classes is None:
            return instance_item(sample, training=False)
        return semantic_item(sample, self.num_classes)


def contradictions(samples: Iterable[Sample], num_classes: int | None) -> list[str]:
    """One line for each contradiction: the image, the place, and what cannot be true at once.

    Args:
        samples: The images.
        num_classes: K; None for objects, which have no classes that could clash.

    Raises:
        ValueError: An annotation cannot be understood; names the image.
    """
    lines = []
    for sample in samples:
        clashes = sample.annotation.contradictions
        try:
            if num_classes is not None:
                known = understand(sample.annotation, sample.shape, num_classes, sample.content)
                clashes += known.contradictions
        except ValueError as error:
            raise ValueError(f"{sample.name}: {error}") from error
        for found in clashes:
            place = "" if found.position is None else f" at {found.position}"
            size = f" ({found.pixels} pixels)" if found.pixels else ""
            lines.append(f"{sample.name}{place}: {found.message}{size}")
    return lines
