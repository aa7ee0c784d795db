"""The one time that all training images are read before training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_info

from semiweak.data.annotations import Annotation, Kind, Sample, Task
from semiweak.data.normalize import Method, Normalization
from semiweak.data.objects import Choice, choosable, in_words
from semiweak.data.source import Source, contradictions
from semiweak.data.weaken import Weakening, summarise


@dataclass
class Survey:
    """What reading the training images once has shown.

    Attributes:
        sources: The images in order; weakened, and reading from memory as far as that may go.
        normalization: Fitted on them.
        kinds: Every kind of annotation of each image.
        objects: The painted objects of each image, and 0 where its background is known; for the
            task of objects.
        contradictions: One line for each contradiction.
        small: The images that are smaller than the patch, with their size.
        weakening: What is left annotated, in words; empty without weakening.
    """

    sources: list[Source] = field(default_factory=list)
    normalization: Normalization | None = None
    kinds: dict[str, tuple[Kind, ...]] = field(default_factory=dict)
    objects: Choice = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    weakening: str = ""


def survey(
    sources: Sequence[Source],
    *,
    num_classes: int | None,
    task: Task,
    patch_size: Sequence[int],
    weaken: Weakening | None,
    normalize: Method,
    memory: Memory,
) -> Survey:
    """Reads every training image once: weakens it, checks it, takes the statistics.

    Args:
        sources: The training images.
        num_classes: K; None where there are no classes, and nothing is weakened.
        task: What is learned.
        patch_size: Height and width (and depth) of a patch.
        weaken: Simulated weak annotation, or None.
        normalize: The way of normalising.
        memory: Where images are kept.

    Raises:
        ValueError: The images differ in their number of channels, or one cannot be read.
    """
    found = Survey()
    lots = weaken.assign([s.name for s in sources]) if weaken else {}
    before: list[Annotation] = []
    after: list[Annotation] = []
    channels: dict[int, str] = {}

    def images() -> Iterator[NDArray[Any]]:
        for source in sources:
            sample = source.read()
            if weaken is not None and num_classes is not None:
                before.append(sample.annotation)
                weak = _Weakened(source.read, weaken, lots[source.name], num_classes)
                source, sample = Source(source.name, weak, source.group), weak.of(sample)
                after.append(sample.annotation)
            channels.setdefault(len(sample.image), source.name)
            if len(channels) > 1:
                (a, first), (b, other) = channels.items()
                raise ValueError(
                    f"the image {first} has {a} channel(s), {other} has {b}; all images must have "
                    "the same number: convert some, or leave them out"
                )
            if any(n < patch for n, patch in zip(sample.shape, patch_size, strict=True)):
                found.small.append(f"{source.name} ({' x '.join(map(str, sample.shape))} pixels)")
            found.contradictions += contradictions(
                [sample], num_classes if task == "semantic" else None
            )
            found.kinds[source.name] = sample.annotation.kinds(task)
            if task == "instances":
                found.objects[source.name] = choosable(sample.annotation)
            found.sources.append(memory.keep(source, sample))
            yield sample.image

    found.normalization = Normalization.fit(images(), normalize)
    if weaken is not None and num_classes is not None:
        found.weakening = str(summarise(before, after, num_classes))
    return found


def tell(found: Survey, patch_size: Sequence[int], task: Task) -> None:
    """Says what a user should know before training, and warns of contradictions."""
    if found.weakening:
        rank_zero_info(found.weakening)
    if task == "instances":
        rank_zero_info(in_words(found.objects))
    if found.small:
        rank_zero_info(
            f"{len(found.small)} of {len(found.sources)} training images are smaller than the "
            f"patch_size of {' x '.join(map(str, patch_size))} and are padded, such as "
            f"{found.small[0]}; nothing is learned from the padding"
        )
    counted = ", counted as unknown" if task == "semantic" else ""
    for line in found.contradictions[:5]:
        warnings.warn(f"contradictory annotations{counted}: {line}", stacklevel=3)
    if len(found.contradictions) > 5:
        warnings.warn(
            f"... and {len(found.contradictions) - 5} more contradictions; "
            "`semiweak inspect` lists all",
            stacklevel=3,
        )


class Memory:
    """Keeps decoded images, as long as a budget lasts.

    Args:
        budget: In bytes.
    """

    def __init__(self, budget: int) -> None:
        self.left = budget

    def keep(self, source: Source, sample: Sample) -> Source:
        """The source reading from memory, or as it was when the budget is spent."""
        arrays = [sample.image, *vars(sample.annotation).values()]
        size = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
        if size > self.left:
            return source
        self.left -= size
        return replace(source, read=_Remember(sample))


@dataclass(frozen=True)
class _Remember:
    """Reads from memory."""

    sample: Sample

    def __call__(self) -> Sample:
        return self.sample


@dataclass(frozen=True)
class _Weakened:
    """Reads an image and forgets part of its annotation."""

    read: Callable[[], Sample]
    weaken: Weakening
    kind: Kind
    num_classes: int

    def __call__(self) -> Sample:
        return self.of(self.read())

    def of(self, sample: Sample) -> Sample:
        weak = self.weaken.apply(sample.annotation, self.kind, self.num_classes, sample.name)
        return Sample(sample.image, weak, sample.name, sample.content)
