"""The loaders of all data modules, and how a batch reaches the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from semiweak.data.annotations import Kind, Task
from semiweak.data.batch import collate, to_contract
from semiweak.data.normalize import Normalization
from semiweak.data.patches import Geometry
from semiweak.data.sampler import EvaluationSampler, StratifiedSampler, strata
from semiweak.data.source import Maps, Source, TrainingPatches, WholeImages

Loader = DataLoader[dict[str, Any]]
PartName = Literal["train", "val", "test", "predict"]


class LoadingDataModule(pl.LightningDataModule, ABC):
    """Random patches of the training images, and the other images whole.

    The attributes are the arguments of `SegmentationDataModule`, which sets them.
    """

    task: Task
    patch_size: list[int]
    batch_size: int
    samples_per_epoch: int | None
    use_kinds: list[Kind] | None
    stratify: bool
    geometry: Geometry
    num_workers: int
    seed: int
    normalization: Normalization | None
    kinds: dict[str, tuple[Kind, ...]]
    maps: Maps | None = None

    @property
    @abstractmethod
    def item_classes(self) -> int | None:
        """K for semantic items, None for items with object ids."""

    @abstractmethod
    def part(self, name: PartName) -> list[Source]:
        """The images of one part of the split, after `setup`."""

    def can_validate(self, source: Source) -> bool:
        """Whether an image is completely painted; reads it, unless that is known."""
        if source.complete is not None:
            return source.complete
        annotation = source.read().annotation
        if self.task == "instances":
            return annotation.paints_all_objects()
        return annotation.is_dense()

    def add_maps(self, maps: Maps | None) -> None:
        """Has training patches carry maps of their image, cut out and turned as the image is.

        A method that learns from more than the batch has otherwise asks for it in its ``setup``.
        """
        self.maps = maps

    def training_sources(self) -> list[Source]:
        """The images that are trained on: those of the kinds that ``kinds`` asks for."""
        sources = self.part("train")
        if self.use_kinds is None:
            return sources
        sources = [s for s in sources if set(self.use_kinds) & set(self.kinds[s.name])]
        if not sources:
            raise ValueError(
                f"no training image has an annotation of the kinds {self.use_kinds}; "
                "`semiweak inspect` lists the kinds there are"
            )
        return sources

    def train_dataloader(self) -> Loader:
        """Stratified random patches."""
        sources = self.training_sources()
        kinds = [self.kinds[source.name][0] for source in sources]
        bare = "none" in (self.use_kinds or ())  # asked for by name
        if self.task == "instances" and not bare and not set(kinds) - {"none"}:
            raise ValueError(
                "no training image has a painted object; `semiweak inspect` lists what is "
                "annotated. To learn from bare images, by consistency alone, say kinds: [none]"
            )
        world, rank = self._world()
        sampler = StratifiedSampler(
            strata(kinds) if self.stratify else ["all"] * len(kinds),
            batch_size=self.batch_size,
            num_samples=self.samples_per_epoch,
            num_replicas=world,
            rank=rank,
            seed=self.seed,
        )
        patches = TrainingPatches(
            sources, self.geometry, self.patch_size, self.item_classes, self.maps
        )
        return self._loader(patches, sampler=sampler, batch_size=self.batch_size)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Whole validation images; no loader when ``val`` is 0."""
        return self._evaluation("val")

    def test_dataloader(self) -> Loader | list[Loader]:
        """Whole test images."""
        if not self.part("test"):
            raise ValueError("there is no test image; set data.test to a share, a number or names")
        return self._evaluation("test")

    def predict_dataloader(self) -> Loader:
        """Whole images, annotated or not."""
        sources = self.part("predict")
        world, rank = self._world()
        sampler = EvaluationSampler(len(sources), num_replicas=world, rank=rank)
        images = WholeImages(sources, None, annotated=False)
        return self._loader(images, sampler=sampler, batch_size=1)

    def predict_names(self) -> list[str]:
        """The stems of all images to predict."""
        return [source.name for source in self.part("predict")]

    def _evaluation(self, name: Literal["val", "test"]) -> Loader | list[Loader]:
        sources = self.part(name)
        if not sources:
            return []
        bare = [s.name for s in sources if not self.can_validate(s)]
        if bare:
            missing = "a complete mask" if self.task == "semantic" else "all objects painted"
            raise ValueError(
                f"the {name} split needs completely painted images; without {missing} are: "
                f"{', '.join(bare[:5])}{' ...' if len(bare) > 5 else ''}. Paint them, or choose "
                f"others for data.{name} (0: go without)"
            )
        world, rank = self._world()
        sampler = EvaluationSampler(len(sources), num_replicas=world, rank=rank)
        return self._loader(WholeImages(sources, self.item_classes), sampler=sampler, batch_size=1)

    def _loader(self, dataset: Any, **options: Any) -> Loader:
        return DataLoader(
            dataset=dataset,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
            **options,
        )

    def _world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Normalises on the device; images travel there as they are in the file."""
        if self.normalization is None:
            raise ValueError(
                "no normalisation is known; a checkpoint has it: give --ckpt_path, or train first"
            )
        channels = len(self.normalization.offset)
        if batch["image"].shape[1] != channels:
            raise ValueError(
                f"the image {batch['name'][0]} has {batch['image'].shape[1]} channels; "
                f"the training images had {channels}; convert it, or leave it out"
            )
        batch["image"] = self.normalization(batch["image"])
        return to_contract(batch)
