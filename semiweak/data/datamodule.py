"""What all data modules share: split, choice of objects, survey, normalisation, weakening."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from semiweak.data.annotations import Kind, Task
from semiweak.data.hierarchy import Hierarchy, merging_for
from semiweak.data.loading import LoadingDataModule, PartName
from semiweak.data.merging import Merging, leave_out_rare
from semiweak.data.normalize import Method, Normalization
from semiweak.data.objects import Choice, ObjectSampling, choose_objects, write_choice
from semiweak.data.patches import Geometry
from semiweak.data.source import Source
from semiweak.data.splits import Part, Split, cross_validation, split
from semiweak.data.survey import Memory, survey, tell
from semiweak.data.weaken import Weakening

OBJECTS_FILE = "painted_objects.json"
"""What a run on some of the painted objects writes into the folder of its logger."""


class DataDescription(TypedDict):
    """What a checkpoint must know about the data so that prediction treats new images alike."""

    class_names: list[str]
    in_channels: int
    spatial_dims: int
    offset: list[float]
    scale: list[float]


class SegmentationDataModule(LoadingDataModule):
    """Images of which some are annotated, by any kind of annotation.

    A subclass says which images there are (`sources`); everything else happens here.

    Args:
        class_names: The classes, in the order of their ids; the first is class 0.
        merge_classes: Merges classes: ``{new class: [old class, ...]}``, or a YAML or JSON file of
            that form. ``class_names`` are then those of the files, and the model sees the new ones,
            in the order of their first old class. A class that is not named stays as it is, and one
            that is ``null`` is left out: its pixels are unknown. An entry can name other entries.
        min_groups: Leave out, likewise, the classes that occur in fewer groups (sub-volumes,
            patients), which cannot be split into training, validation and test; 3 in the DSP
            supplement. All images are read to count them.
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
        stratify: Give every kind of annotation an equal share of each batch. Of objects: where
            fewer than half of the images have painted objects, give these half of each batch.
        instance_ratio: Train on this share of the painted objects and on no background, as
            SPOCO@0.1 does with 0.1. By default on everything that is painted: of a completely
            painted image the background is one more object.
        ratio_per: Take the share of all objects of the data set, at least 1, or of the objects of
            each image; halves are rounded up.
        object_budget: Train on this many objects, in place of ``instance_ratio``.
        budget_mode: ``"sparse"``: of as many images as possible, and no background; ``"dense"``:
            all objects of a few images and their background. Those images are drawn among the ones
            that fit into what is left of the budget; the rest of it goes to some objects of one
            more image, without background.
        objects_from: The file ``painted_objects.json`` of an earlier run, to train on the same
            objects, in place of a ratio or budget. A run with any of the three writes it into the
            folder of its logger.
        geometry: The random geometry of training patches.
        normalize: How images are normalised by the statistics of the training images:
            ``"standard"`` (zero mean, unit deviation), ``"minmax"``, ``"percentile"`` (1st to 99th)
            or ``"none"``.
        num_workers: Processes that read and cut patches.
        cache_mb: Keep up to this many megabytes of decoded training and validation images in
            memory.
        seed: Of split, weakening, choice of objects, order and patches.

    Attributes:
        painted_objects: Of each training image, after ``setup("fit")``, the ids of the objects that
            it is trained on, with 0 first where the background is one of them.
    """

    def __init__(
        self,
        *,
        class_names: list[str] | None = None,
        merge_classes: Hierarchy | str | None = None,
        min_groups: int = 0,
        task: Task = "semantic",
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
        instance_ratio: float | None = None,
        ratio_per: Literal["dataset", "image"] = "dataset",
        object_budget: int | None = None,
        budget_mode: Literal["sparse", "dense"] = "sparse",
        objects_from: str | None = None,
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
        self.sampling = ObjectSampling(
            instance_ratio, ratio_per, object_budget, budget_mode, objects_from, seed
        )
        if self.sampling and task != "instances":
            raise ValueError(
                "instance_ratio, object_budget and objects_from choose among painted objects, but "
                f"task is {task}; set data.task to instances, or use data.weaken"
            )
        if self.sampling and weaken is not None:
            raise ValueError(
                "weaken and one of instance_ratio, object_budget and objects_from are given; each "
                "takes away annotation: give one of them"
            )
        self.file_class_names = class_names
        self.min_groups = min_groups
        self._merging: Merging | None = None
        if merge_classes is not None or min_groups:
            self._merging = merging_for(task, class_names, merge_classes, min_groups)
            class_names = list(self._merging.names)
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
        self.painted_objects: Choice = {}
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
        if part_of[stage] not in self._parts:
            self._prepare(training=stage == "fit")
        if stage == "fit" and self.sampling:
            self._write_objects()

    def _prepare(self, *, training: bool) -> None:
        sources = self.sources()
        by_name = {source.name: source for source in sources}
        parts = self._split(by_name)
        if self._merging is not None and self.min_groups:
            kept = leave_out_rare(self._merging, sources, self.min_groups, tell=training)
            self.class_names = list(kept.names)
        self._parts["test"] = [by_name[name] for name in parts.test]
        self._parts["val"] = [by_name[name] for name in parts.val]
        if not training:
            return
        train = self._merged([by_name[name] for name in parts.train])
        if self.sampling:
            train = choose_objects(train, self.sampling, Memory(self.cache_mb * 1_000_000).keep)
        memory = Memory(self.cache_mb * 1_000_000)
        found = survey(
            train,
            num_classes=self._survey_classes(),
            task=self.task,
            patch_size=self.patch_size,
            weaken=self.weaken,
            normalize=self.normalize,
            memory=memory,
        )
        self._parts["train"] = found.sources
        self._parts["val"] = [memory.keep(s, s.read()) for s in self._parts["val"]]
        self.normalization = found.normalization
        self.kinds, self.contradictions = found.kinds, found.contradictions
        self.painted_objects = found.objects
        self.weakening_summary = found.weakening
        tell(found, self.patch_size, self.task)

    def _survey_classes(self) -> int | None:
        if self.task == "semantic":
            return self.num_classes
        return max(1, len(self.class_names or [])) if self.weaken else None

    def _write_objects(self) -> None:
        """Writes what was trained on into the logger's folder; a run without logger has none."""
        if self.trainer is None or self.trainer.logger is None:
            return
        folder = self.trainer.log_dir  # asks all ranks
        if folder is not None and self.trainer.is_global_zero:
            write_choice(Path(folder) / OBJECTS_FILE, self.painted_objects)

    def part(self, name: PartName) -> list[Source]:
        """The images of one part of the split, after `setup`."""
        sources = self._parts.get(name, [])
        # Which classes are left out is known when a checkpoint is, and that is after `setup`.
        return sources if name == "train" else self._merged(sources)

    def _merged(self, sources: list[Source]) -> list[Source]:
        if self._merging is None:
            return sources
        return self._merging.only(self.class_names or []).sources(sources)

    def _split(self, sources: dict[str, Source]) -> Split:
        names = list(sources)
        fixed = self.fixed_split(list(sources.values()))
        if fixed is not None:
            return fixed
        groups = {s.name: s.name if s.group is None else s.group for s in sources.values()}
        random = self.fold is not None or any(
            isinstance(part, (int, float)) and part for part in (self.val, self.test)
        )
        painted = [n for n in names if random and self.can_validate(sources[n])]
        if self.fold is None:
            return split(names, painted, self.val, self.test, groups=groups, seed=self.seed)
        return cross_validation(
            names, painted, self.fold, self.num_folds, groups=groups, seed=self.seed
        )

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
        if self._merging is not None and self.min_groups and self._merging.has(names):
            self.class_names = names  # those that the training data had in enough groups
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
        self.file_class_names = self.file_class_names or names
        self.normalization = Normalization(
            tuple(description["offset"]), tuple(description["scale"])
        )
