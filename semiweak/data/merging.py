"""What annotations say of merged classes, and leaving out classes that too few groups have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_info

from semiweak.data.annotations import (
    ABSENT,
    NOT_LOOKED_AT,
    PRESENT,
    UNKNOWN,
    Annotation,
    Sample,
)
from semiweak.data.source import Source


@dataclass(frozen=True)
class Merging:
    """Which class of the model each class of the files becomes.

    Attributes:
        names: The model's classes.
        becomes: For each class of the files its class of the model, 255 where it is left out.
    """

    names: tuple[str, ...]
    becomes: tuple[int, ...]

    def only(self, names: Sequence[str]) -> Merging:
        """The same, with only these classes of the model; the others are left out."""
        target = {self.names.index(name): i for i, name in enumerate(names)}
        return Merging(tuple(names), tuple(target.get(c, UNKNOWN) for c in self.becomes))

    def has(self, names: Sequence[str]) -> bool:
        """Whether these are some of the model's classes, in their order."""
        return [name for name in self.names if name in names] == [*names]

    def parts(self, c: int) -> list[int]:
        """The classes of the files that become class ``c``."""
        return [old for old, new in enumerate(self.becomes) if new == c]

    def sources(self, sources: Sequence[Source]) -> list[Source]:
        """The images as the model sees them."""
        return [replace(source, read=_Merged(source.read, self)) for source in sources]

    def merge(self, said: Annotation) -> Annotation:
        """What an annotation says of the model's classes.

        - masks, scribbles, points, boxes: the new class; of a class that is left out a pixel is
          unknown, and a point or box is gone
        - tags: present if one part is present, absent if all parts are
        - boxed classes: exhaustively boxed if all parts are
        - annotated classes: looked for if all parts were. Of a class of which only some parts were
          looked for, the painted pixels are known, and nothing else.

        Raises:
            ValueError: The annotation speaks of a class that the files cannot have.
        """
        target = np.asarray(self.becomes, np.int64)
        boxes, points = self._of(said.box_labels), self._of(said.point_labels)
        kept, clicked = boxes != UNKNOWN, points != UNKNOWN
        tags = said.tags
        if tags is not None:
            self._check(len(tags) == len(target), f"there are {len(tags)} tags")
            tags = np.asarray([_tag(tags[self.parts(c)]) for c in range(len(self.names))], np.int8)
        merged = replace(
            said,
            scribbles=self._map(said.scribbles),
            boxes=said.boxes[kept],
            box_labels=boxes[kept],
            box_is_crowd=None if said.box_is_crowd is None else said.box_is_crowd[kept],
            boxed_classes=self._whole(said.boxed_classes),
            # In the box of a class that is left out, any class may be.
            boxes_filled=said.boxes_filled and bool(kept.all()),
            points=said.points[clicked],
            point_labels=points[clicked],
            tags=tags,
        )
        if said.annotated_classes is not None and said.mask is not None:
            return self._of_some_classes(merged, said.mask, said.annotated_classes)
        mask = self._map(said.mask)
        unknown = mask is not None and bool((mask == UNKNOWN).any())
        return replace(merged, mask=mask, left_out=unknown and said.is_dense())

    def _of_some_classes(
        self, merged: Annotation, mask: NDArray[np.uint8], looked_for: tuple[int, ...]
    ) -> Annotation:
        """Of a mask in which any class but those that were looked for means "none of these"."""
        listed = np.isin(mask, looked_for)
        found = np.full(mask.shape, UNKNOWN, np.uint8)
        found[listed] = self._of(mask[listed])
        whole = self._whole(looked_for)
        rest = next((c for c in range(len(self.names)) if c not in whole), UNKNOWN)
        fresh = np.where(np.isin(found, whole), found, np.uint8(rest))
        fresh[(mask == UNKNOWN) | (listed & (found == UNKNOWN))] = UNKNOWN
        # Painted pixels of the other classes: known where they are, and unknown where they are not.
        strokes = np.where(np.isin(found, whole), np.uint8(UNKNOWN), found)
        if merged.scribbles is not None:
            strokes = np.where(merged.scribbles == UNKNOWN, strokes, merged.scribbles)
        return replace(
            merged,
            mask=fresh if whole else None,
            annotated_classes=whole if whole else None,
            scribbles=strokes if (strokes != UNKNOWN).any() else merged.scribbles,
        )

    def _whole(self, classes: tuple[int, ...]) -> tuple[int, ...]:
        """The new classes all of whose parts are among the classes."""
        self._of(np.asarray(classes, np.int64))
        return tuple(c for c in range(len(self.names)) if set(self.parts(c)) <= set(classes))

    def _of(self, classes: NDArray[Any]) -> NDArray[np.int64]:
        """The new classes of old ones, 255 where left out."""
        highest = int(classes.max(initial=0))
        self._check(highest < len(self.becomes), f"class {highest} is annotated")
        found: NDArray[np.int64] = np.asarray(self.becomes, np.int64)[classes]
        return found

    def _map(self, labels: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        if labels is None:
            return None
        known = labels != UNKNOWN
        highest = int(labels.max(initial=0, where=known))
        self._check(highest < len(self.becomes), f"class {highest} is painted")
        table = np.full(UNKNOWN + 1, UNKNOWN, np.uint8)
        table[: len(self.becomes)] = self.becomes
        return table[labels]

    def _check(self, fits: bool, what: str) -> None:
        if not fits:
            raise ValueError(f"{what}, but class_names names {len(self.becomes)} classes")


def _tag(parts: NDArray[np.int8]) -> int:
    if (parts == PRESENT).any():
        return PRESENT
    return ABSENT if (parts == ABSENT).all() else NOT_LOOKED_AT


@dataclass(frozen=True)
class _Merged:
    """Reads an image and merges its classes."""

    read: Callable[[], Sample]
    merging: Merging

    def __call__(self) -> Sample:
        sample = self.read()
        try:
            return replace(sample, annotation=self.merging.merge(sample.annotation))
        except ValueError as error:
            raise ValueError(f"{sample.name}: {error}") from error


def leave_out_rare(
    merging: Merging, sources: Sequence[Source], min_groups: int, *, tell: bool = True
) -> Merging:
    """Leaves out the classes that occur in too few groups, and says which.

    Args:
        merging: The classes so far.
        sources: All images, as they are in the files; they are read.
        min_groups: Classes that occur in at least so many groups stay.
        tell: Say what is left out.

    Raises:
        ValueError: No class is left.
    """
    groups: list[set[str]] = [set() for _ in merging.names]
    for source in merging.sources(sources):
        for c in _occurring(source.read().annotation):
            groups[c].add(source.name if source.group is None else source.group)
    counts = dict(zip(merging.names, map(len, groups), strict=True))
    kept = [name for name, count in counts.items() if count >= min_groups]
    if not kept:
        raise ValueError(
            f"min_groups is {min_groups}, but the classes occur in fewer groups: "
            + ", ".join(f"{name} in {count}" for name, count in counts.items())
        )
    rare = [f"{name} ({count})" for name, count in counts.items() if name not in kept]
    if rare and tell:
        rank_zero_info(
            f"left out, since they occur in fewer than {min_groups} groups: {', '.join(rare)}; "
            f"their pixels are unknown. {len(kept)} classes stay: {', '.join(kept)}"
        )
    return merging.only(kept)


def _occurring(said: Annotation) -> set[int]:
    """The classes of which an annotation says that they are somewhere in the image."""
    found = {*said.box_labels.tolist(), *said.point_labels.tolist()}
    if said.tags is not None:
        found |= set(np.flatnonzero(said.tags == PRESENT).tolist())
    for painted, only in ((said.mask, said.annotated_classes), (said.scribbles, None)):
        if painted is not None:
            seen = painted if said.valid is None else painted[said.valid]
            classes = set(np.unique(seen).tolist()) - {UNKNOWN}
            found |= classes if only is None else classes & set(only)
    return found
