"""What all data modules share: split, survey, normalisation, weakening, loaders."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader

from semiweak.data.annotations import Annotation, Kind
from semiweak.data.batch import collate, to_contract
from semiweak.data.normalize import Method, Normalization
from semiweak.data.patches import Geometry
from semiweak.data.sampler import EvaluationSampler, StratifiedSampler
from semiweak.data.source import Source, TrainingPatches, WholeImages
from semiweak.data.splits import Part, Split, SplitError, folds, split
from semiweak.data.survey import Memory, Survey, survey
from semiweak.data.weaken import Weakening

Loader = DataLoader[dict[str, Any]]


class DataDescription(TypedDict):
    """What a checkpoint must know about the data so that prediction treats new images alike."""

    class_names: list[str]
    in_channels: int
    spatial_dims: int
    offset: list[float]
    scale: list[float]


class SegmentationDataModule(pl.LightningDataModule, ABC):
    """Images of which some are annotated, by any kind of annotation.

    A subclass says which images there are (`sources`); everything else happens here.

    Args:
        class_names: The classes, in the order of their ids; the first is class 0.
        task: ``"semantic"``: batches are `SemanticBatch`; ``"instances"``: `InstanceBatch`.
        spatial_dims: 2 for images, 3 for volumes.
        patch_size: Height and width (and depth) of a training patch in pixels, or one number for
            all axes. Smaller images are padded.
        batch_size: Patches per step and device.
        samples_per_epoch: Patches per epoch over all devices; by default every image of the most
            frequent kind of annotation once. Large images deserve more.
        val: Validation images: a share of the completely painted images (below 1), a number of
            them, or a list of names.
        test: Test images, said in the same way.
        fold: With ``num_folds``: this fold is the test set and the next one the validation set, in
            place of ``val`` and ``test``. Folds keep groups together.
        num_folds: The number of folds of a cross-validation.
        weaken: Simulates weak annotation of the training images; see `Weakening`.
        kinds: Train on the images that have one of these kinds of annotation and leave out the
            others, such as ``[mask, scribbles]`` for a method that learns from nothing else. All
            images by default.
        stratify: Give every kind of annotation an equal share of each batch.
        geometry: The random geometry of training patches.
        normalize: How images are normalised by the statistics of the training images:
            ``"standard"`` (zero mean, unit deviation), ``"minmax"``, ``"percentile"`` (1st to 99th)
            or ``"none"``.
        num_workers: Processes that read and cut patches.
        cache_mb: Keep up to this many megabytes of decoded training and validation images in
            memory.
        seed: Of split, weakening, order and patches.
    """

    def __init__(
        self,
        *,
        class_names: list[str] | None = None,
        task: Literal["semantic", "instances"] = "semantic",
        spatial_dims: Literal[2, 3] = 2,
        patch_size: int | list[int] = 256,
        batch_size: int = 4,
        samples_per_epoch: int | None = None,
        val: float | int | list[str] = 0.2,
        test: float | int | list[str] = 0.0,
        fold: int | None = None,
        num_folds: int = 5,
        weaken: Weakening | None = None,
        kinds: list[Kind] | None = None,
        stratify: bool = True,
        geometry: Geometry = Geometry(),  # noqa: B008 frozen, so that sharing it is harmless
        normalize: Method = "standard",
        num_workers: int = 2,
        cache_mb: int = 2000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        size = [patch_size] * spatial_dims if isinstance(patch_size, int) else list(patch_size)
        if len(size) != spatial_dims or min(size) < 1:
            raise ValueError(
                f"patch_size is {patch_size}; give one positive number or {spatial_dims} of them"
            )
        if class_names is not None and len(set(class_names)) < len(class_names):
            raise ValueError(f"class_names is {class_names}; each class needs a name of its own")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if samples_per_epoch is not None and samples_per_epoch < 1:
            raise ValueError(f"samples_per_epoch is {samples_per_epoch}; it must be at least 1")
        if fold is not None and not 0 <= fold < num_folds:
            raise ValueError(
                f"fold is {fold}; with {num_folds} folds it must be 0 to {num_folds - 1}"
            )
        self.class_names = class_names
        self.task = task
        self.spatial_dims: int = spatial_dims
        self.patch_size = size
        self.batch_size = batch_size
        self.samples_per_epoch = samples_per_epoch
        self.val: Part = val
        self.test: Part = test
        self.fold = fold
        self.num_folds = num_folds
        self.weaken = weaken
        self.use_kinds = kinds
        self.stratify = stratify
        self.geometry = geometry
        self.normalize = normalize
        self.num_workers = num_workers
        self.cache_mb = cache_mb
        self.seed = seed
        self.normalization: Normalization | None = None
        self.kinds: dict[str, tuple[Kind, ...]] = {}
        self.contradictions: list[str] = []
        self.weakening_summary = ""
        self._parts: dict[str, list[Source]] = {}

    # What a subclass says

    @abstractmethod
    def sources(self) -> list[Source]:
        """All images to train, validate and test with."""

    def fixed_split(self, sources: Sequence[Source]) -> Split | None:
        """A split that the data themselves prescribe; None to split by the arguments."""
        return None

    def predict_sources(self) -> list[Source]:
        """The images to predict; all of them unless a subclass says otherwise."""
        return self.sources()

    # What follows from it

    @property
    def validates(self) -> bool:
        """Whether training will have validation images."""
        return bool(self.val) or self.fold is not None

    @property
    def num_classes(self) -> int:
        """K."""
        if not self.class_names:
            raise ValueError(
                f"{type(self).__name__} needs class_names, a list with the name of each class in "
                "the order of their ids, such as [background, cell]"
            )
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """The number of channels of the training images, after `setup`."""
        return self.describe()["in_channels"]

    @property
    def item_classes(self) -> int | None:
        """K for semantic items, None for items with object ids."""
        return self.num_classes if self.task == "semantic" else None

    def setup(self, stage: str) -> None:
        """Splits, reads the training images once, and fits the normalisation."""
        if stage == "predict":
            self._parts["predict"] = self.predict_sources()
            return
        part_of: dict[str, Literal["train", "val", "test"]] = {
            "fit": "train",
            "validate": "val",
            "test": "test",
        }
        if part_of[stage] in self._parts:
            return
        sources = self.sources()
        by_name = {source.name: source for source in sources}
        parts = self._split(by_name)
        self._parts["test"] = [by_name[name] for name in parts.test]
        self._parts["val"] = [by_name[name] for name in parts.val]
        if stage != "fit":
            return
        memory = Memory(self.cache_mb * 1_000_000)
        found = survey(
            [by_name[name] for name in parts.train],
            num_classes=self.num_classes if self.weaken or self.task == "semantic" else None,
            semantic=self.task == "semantic",
            patch_size=self.patch_size,
            weaken=self.weaken,
            normalize=self.normalize,
            memory=memory,
        )
        self._parts["train"] = found.sources
        self._parts["val"] = [memory.keep(s, s.read()) for s in self._parts["val"]]
        self.normalization = found.normalization
        self.kinds, self.contradictions = found.kinds, found.contradictions
        self.weakening_summary = found.weakening
        self._tell(found)

    def _tell(self, found: Survey) -> None:
        if found.weakening:
            rank_zero_info(found.weakening)
        if found.small:
            rank_zero_info(
                f"{len(found.small)} of {len(found.sources)} training images are smaller than the "
                f"patch_size of {' x '.join(map(str, self.patch_size))} and are padded, such as "
                f"{found.small[0]}; nothing is learned from the padding"
            )
        for line in self.contradictions[:5]:
            warnings.warn(f"contradictory annotations, counted as unknown: {line}", stacklevel=2)
        if len(self.contradictions) > 5:
            warnings.warn(
                f"... and {len(self.contradictions) - 5} more contradictions; "
                "`semiweak inspect` lists all",
                stacklevel=2,
            )

    def part(self, name: Literal["train", "val", "test", "predict"]) -> list[Source]:
        """The images of one part of the split, after `setup`."""
        return self._parts.get(name, [])

    def _split(self, sources: dict[str, Source]) -> Split:
        names = list(sources)
        fixed = self.fixed_split(list(sources.values()))
        if fixed is not None:
            return fixed
        groups = {s.name: s.name if s.group is None else s.group for s in sources.values()}
        random = self.fold is not None or any(
            isinstance(part, (int, float)) and part for part in (self.val, self.test)
        )
        painted = [n for n in names if random and self._is_truth(sources[n].read().annotation)]
        if self.fold is None:
            return split(names, painted, self.val, self.test, groups=groups, seed=self.seed)
        dealt = folds(list(groups.values()), self.num_folds, self.seed)
        test, val = set(dealt[self.fold]), set(dealt[(self.fold + 1) % self.num_folds])
        parts = Split(
            train=[n for n in names if groups[n] not in test | val],
            val=[n for n in painted if groups[n] in val],
            test=[n for n in painted if groups[n] in test],
        )
        for what, members in parts._asdict().items():
            if not members:
                raise SplitError(
                    f"fold {self.fold} of {self.num_folds} has no image for {what}: one fold "
                    "tests and one validates with completely painted images, the others train"
                )
        return parts

    def _is_truth(self, annotation: Annotation) -> bool:
        if self.task == "instances":
            return annotation.instances is not None
        return annotation.is_dense()

    # The checkpoint

    def describe(self) -> DataDescription:
        """What a checkpoint keeps of the training data; see `adopt`."""
        if self.normalization is None:
            raise ValueError("the data module is not set up for training; call setup('fit') first")
        return {
            "class_names": list(self.class_names or []),
            "in_channels": len(self.normalization.offset),
            "spatial_dims": self.spatial_dims,
            "offset": list(self.normalization.offset),
            "scale": list(self.normalization.scale),
        }

    def adopt(self, description: DataDescription) -> None:
        """Treats images as those that a model was trained on: its classes and normalisation."""
        names = list(description["class_names"])
        if self.class_names is not None and self.class_names != names:
            raise ValueError(
                f"the model was trained on the classes {names}, the data have {self.class_names}; "
                "set data.class_names to the model's"
            )
        if self.spatial_dims != description["spatial_dims"]:
            raise ValueError(
                f"the model was trained on {description['spatial_dims']}D images; set the data's "
                f"spatial_dims, now {self.spatial_dims}, to it"
            )
        self.class_names = names
        self.normalization = Normalization(
            tuple(description["offset"]), tuple(description["scale"])
        )

    # Loaders

    def train_dataloader(self) -> Loader:
        """Stratified random patches."""
        sources = self.part("train")
        if self.use_kinds is not None:
            sources = [s for s in sources if set(self.use_kinds) & set(self.kinds[s.name])]
            if not sources:
                raise ValueError(
                    f"no training image has an annotation of the kinds {self.use_kinds}; "
                    "`semiweak inspect` lists the kinds there are"
                )
        kinds = [self.kinds[source.name][0] if self.stratify else "all" for source in sources]
        world, rank = self._world()
        sampler = StratifiedSampler(
            kinds,
            batch_size=self.batch_size,
            num_samples=self.samples_per_epoch,
            num_replicas=world,
            rank=rank,
            seed=self.seed,
        )
        patches = TrainingPatches(sources, self.geometry, self.patch_size, self.item_classes)
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
        bare = [s.name for s in sources if not self._is_truth(s.read().annotation)]
        if bare:
            raise ValueError(
                f"the {name} split needs completely painted images; without a complete mask are: "
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
