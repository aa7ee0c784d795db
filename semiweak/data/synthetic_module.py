"""The built-in synthetic images as a data module."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

from semiweak.data.annotations import Sample, Task
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.source import Source
from semiweak.data.splits import Split
from semiweak.data.synthetic import CELL_CLASSES, CLASS_NAMES, cell_sample, synthetic_sample


class SyntheticDataModule(SegmentationDataModule):
    """Images that are drawn on demand: for a first look, tests and examples.

    Args:
        scene: ``"organelles"``: cells with organelles of many classes, in the style of electron
            microscopy; ``"cells"``: crowded cells that touch.
        task: ``"semantic"``: the class of each pixel; ``"instances"``: all objects, without their
            class.
        num_train: Training images.
        num_val: Validation images.
        num_test: Test images.
        num_predict: Images to predict.
        size: Height and width (and depth) of the images, or one number for all axes.
        num_classes: The first so many of the organelles' classes; by default 4. Cells have 2.
        channels: Channels of the images; all show the same scene.
        loading: The arguments of `SegmentationDataModule`, without class names and split.
    """

    def __init__(
        self,
        *,
        scene: Literal["organelles", "cells"] = "organelles",
        task: Task = "semantic",
        num_train: int = 32,
        num_val: int = 4,
        num_test: int = 8,
        num_predict: int = 8,
        size: int | list[int] = 256,
        num_classes: int | None = None,
        channels: int = 1,
        **loading: Any,
    ) -> None:
        if scene not in ("organelles", "cells"):
            raise ValueError(f"scene is {scene!r}; it must be organelles or cells")
        names = CLASS_NAMES if scene == "organelles" else CELL_CLASSES
        if num_classes is None:
            num_classes = min(4, len(names))
        if not 2 <= num_classes <= len(names):
            most = f"2 to {len(names)}" if len(names) > 2 else f"2 in the scene {scene}"
            raise ValueError(f"num_classes is {num_classes}; it must be {most}")
        known = list(names[:num_classes]) if task == "semantic" else None
        super().__init__(class_names=known, task=task, **loading)
        self.scene = scene
        self.classes_drawn = num_classes
        self.counts = {"train": num_train, "val": num_val, "test": num_test}
        self.num_predict = num_predict
        self.shape = tuple([size] * self.spatial_dims if isinstance(size, int) else size)
        if len(self.shape) != self.spatial_dims:
            raise ValueError(f"size is {size}; give one number or {self.spatial_dims} of them")
        self.channels = channels

    def sources(self) -> list[Source]:
        """Training, validation and test images."""
        return [self._source(i) for i in range(sum(self.counts.values()))]

    @property
    def validates(self) -> bool:
        """Whether training will have validation images."""
        return self.counts["val"] > 0

    def fixed_split(self, sources: Any) -> Split:
        """The first images train, the next validate, the last test."""
        names = [source.name for source in sources]
        a, b = self.counts["train"], self.counts["train"] + self.counts["val"]
        return Split(names[:a], names[a:b], names[b:])

    def predict_sources(self) -> list[Source]:
        """Images that no other part has seen."""
        seen = sum(self.counts.values())
        return [self._source(seen + i) for i in range(self.num_predict)]

    def _source(self, index: int) -> Source:
        return Source(f"synthetic_{index:04d}", partial(self._draw, index))

    def _draw(self, index: int) -> Sample:
        if self.scene == "cells":
            sample = cell_sample(index, seed=self.seed, shape=self.shape, channels=self.channels)
        else:
            sample = synthetic_sample(
                index,
                seed=self.seed,
                shape=self.shape,
                num_classes=self.classes_drawn,
                channels=self.channels,
            )
        if self.task == "semantic":
            return sample
        return replace(sample, annotation=replace(sample.annotation, mask=None))
