"""Which of the painted objects are trained on: SPOCO's sparse annotations, made from complete ones.

A choice is a dictionary: of each image, the ids of the objects that are kept, and 0 among them
where its background is kept as well. It is drawn from the seed, the images' names and the ids
alone, so that the order of files plays no part.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.source import Source

Choice = dict[str, list[int]]
"""Image -> ids of objects; 0 stands for the background."""

BACKGROUND = 0


@dataclass(frozen=True)
class ObjectSampling:
    """How many of the painted objects are kept, and which.

    Attributes:
        ratio: This share of the objects and no background: SPOCO@ratio.
        ratio_per: Of all objects of the data set, or of the objects of each image.
        budget: This many objects, in place of ``ratio`` (SPOCO, appendix A.5).
        budget_mode: ``"sparse"``: of as many images as possible, and no background; ``"dense"``:
            all objects of a few images, and their background.
        choice: A file that says which objects, in place of both.
        seed: Repeats the draw.
    """

    ratio: float | None = None
    ratio_per: Literal["dataset", "image"] = "dataset"
    budget: int | None = None
    budget_mode: Literal["sparse", "dense"] = "sparse"
    choice: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = {
            "instance_ratio": self.ratio,
            "object_budget": self.budget,
            "objects_from": self.choice,
        }
        said = [f"{name} is {value}" for name, value in given.items() if value is not None]
        if len(said) > 1:
            raise ValueError(
                f"{' and '.join(said)}; each says which objects to train on: give one of them"
            )
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(
                f"instance_ratio is {self.ratio}; it must be a share above 0 and up to 1, or null "
                "for everything that is painted, background included"
            )
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"object_budget is {self.budget}; it must be 1 object or more")

    def __bool__(self) -> bool:
        return not (self.ratio is None and self.budget is None and self.choice is None)

    def choose(self, painted: Mapping[str, Sequence[int]]) -> Choice:
        """The objects that are kept of each image, ascending; an image may keep none.

        With one seed, the objects of a smaller ratio are among those of a larger one, and so are
        those of a smaller sparse budget.

        Args:
            painted: Of each image, the ids of its painted objects, and 0 where its background is
                known.

        Raises:
            ValueError: No object is painted; there are fewer than ``budget``; the file names images
                or objects that there are not.
        """
        if self.choice is not None:
            return _checked(read_choice(self.choice), painted, self.choice)
        drawn = {
            name: sorted((i for i in ids if i != BACKGROUND), key=lambda i: self._lot(name, i))
            for name, ids in painted.items()
        }
        total = sum(map(len, drawn.values()))
        if total == 0:
            raise ValueError(
                "no training image has a painted object to choose from; `semiweak inspect` shows "
                "what is annotated"
            )
        kept: Choice
        if self.budget is not None:
            if self.budget > total:
                raise ValueError(
                    f"object_budget is {self.budget}, but the training images have {total} painted "
                    "objects"
                )
            whole = self.budget_mode == "dense"
            kept = self._dense(drawn, painted) if whole else self._sparse(drawn)
        elif self.ratio_per == "image":
            kept = self._share_of_each(drawn)
        else:
            kept = self._share_of_all(drawn, total)
        return {name: sorted(kept.get(name, [])) for name in painted}

    def _lot(self, *what: str | int) -> bytes:
        # Python's own hash of a string changes from run to run.
        key = "/".join(map(str, (self.seed, *what))).encode()
        return hashlib.blake2b(key, digest_size=16).digest()

    def _share_of_all(self, drawn: Choice, total: int) -> Choice:
        lots = [(self._lot(name, i), name, i) for name, ids in drawn.items() for i in ids]
        kept: Choice = {}
        for _, name, i in sorted(lots)[: max(1, _share(self.ratio, total))]:
            kept.setdefault(name, []).append(i)
        return kept

    def _share_of_each(self, drawn: Choice) -> Choice:
        kept = {name: ids[: _share(self.ratio, len(ids))] for name, ids in drawn.items()}
        if not any(kept.values()):
            # The first image that a larger ratio would give one to.
            most = max(map(len, drawn.values()))
            fullest = [name for name, ids in drawn.items() if len(ids) == most]
            first = min(fullest, key=lambda name: self._lot(name, drawn[name][0]))
            kept[first] = drawn[first][:1]
        return kept

    def _sparse(self, drawn: Choice) -> Choice:
        # Every image gives its first object before any gives its second.
        lots = [
            (turn, self._lot(name, i), name, i)
            for name, ids in drawn.items()
            for turn, i in enumerate(ids)
        ]
        kept: Choice = {}
        for _, _, name, i in sorted(lots)[: self.budget]:
            kept.setdefault(name, []).append(i)
        return kept

    def _dense(self, drawn: Choice, painted: Mapping[str, Sequence[int]]) -> Choice:
        order = sorted((name for name, ids in drawn.items() if ids), key=self._lot)
        kept: Choice = {}
        left = self.budget or 0
        for name in order:
            if len(drawn[name]) <= left:
                kept[name] = list(painted[name])
                left -= len(drawn[name])
        for name in order:
            if left and name not in kept:  # it has more objects than are left, and is cut
                kept[name] = drawn[name][:left]
                break
        return kept


def _share(ratio: float | None, count: int) -> int:
    """A share of a number of objects, halves rounded up."""
    # 0.145 * 100 is a little less than 14.5.
    return math.floor((ratio or 0) * count + 0.5 + 1e-9)


def choosable(annotation: Annotation) -> list[int]:
    """The ids of the painted objects, with 0 first where the background is known."""
    background = [BACKGROUND] if annotation.instances_complete else []
    return background + [int(i) for i in annotation.object_ids()]


def keep_objects(annotation: Annotation, ids: Sequence[int]) -> Annotation:
    """The annotation with these objects alone; everything else is unknown.

    Args:
        annotation: With painted objects.
        ids: The objects; with 0 among them, all of the painting is kept.
    """
    if BACKGROUND in ids:
        objects, complete, valid = annotation.instances, True, annotation.valid
    else:
        objects, complete, valid = annotation.object_map(), False, None
    if objects is not None and not complete:
        nothing = objects.dtype.type(BACKGROUND)
        objects = np.where(np.isin(objects, ids), objects, nothing) if ids else None
    return Annotation(
        instances=objects,
        instances_complete=complete,
        valid=valid,
        contradictions=annotation.contradictions,
    )


def choose_objects(
    sources: Sequence[Source],
    sampling: ObjectSampling,
    keep: Callable[[Source, Sample], Source],
) -> list[Source]:
    """The same images with the chosen objects alone; each image is read once to know its objects.

    Args:
        sources: The training images.
        sampling: Chooses.
        keep: Keeps an image in memory for the next reading, as `Memory.keep` does.
    """
    painted: Choice = {}
    kept: list[Source] = []
    for source in sources:
        sample = source.read()
        painted[source.name] = choosable(sample.annotation)
        kept.append(keep(source, sample))
    chosen = sampling.choose(painted)
    return [
        replace(source, read=_Chosen(source.read, tuple(chosen[source.name])), complete=None)
        for source in kept
    ]


@dataclass(frozen=True)
class _Chosen:
    """Reads an image and forgets all objects but the chosen ones."""

    read: Callable[[], Sample]
    ids: tuple[int, ...]

    def __call__(self) -> Sample:
        sample = self.read()
        return replace(sample, annotation=keep_objects(sample.annotation, self.ids))


def in_words(choice: Choice) -> str:
    """How many objects of how many images a choice holds."""
    having = [ids for ids in choice.values() if ids]
    number = sum(len(set(ids) - {BACKGROUND}) for ids in having)
    dense = sum(BACKGROUND in ids for ids in having)
    background = f"in {dense} of these" if dense else "nowhere"
    return (
        f"{number:,} painted objects in {len(having)} of {len(choice)} training images; the "
        f"background is painted {background}"
    )


def write_choice(path: Path, choice: Choice) -> None:
    """Writes a choice as JSON, one image a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(choice[name])}" for name in sorted(choice)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_choice(path: str | Path) -> Choice:
    """Reads what `write_choice` wrote.

    Raises:
        ValueError: The file is missing or holds something else.
    """
    try:
        choice = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"objects_from: there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"objects_from: {path} cannot be read as JSON ({error})") from error
    if not isinstance(choice, dict) or not all(
        isinstance(ids, list) and all(type(i) is int for i in ids) for ids in choice.values()
    ):
        raise ValueError(
            f"{path}: must hold the object ids of each image, such as "
            '{"image1": [3, 7], "image2": []}'
        )
    return choice


def _checked(choice: Choice, painted: Mapping[str, Sequence[int]], path: str) -> Choice:
    """The choice for the training images; refuses what they do not have."""
    strange = sorted(set(choice) - set(painted))
    if strange:
        raise ValueError(
            f"{path}: names {len(strange)} image(s) that are not trained on here, such as "
            f"{strange[0]}; use the data and the split (data.val, data.test, data.seed) of the run "
            "that wrote it"
        )
    for name, ids in choice.items():
        missing = sorted(set(ids) - set(painted[name]))
        if BACKGROUND in missing:
            raise ValueError(
                f"{path}: lists 0, the background, of the image {name}, but the painting of that "
                "image does not say what is background"
            )
        if missing:
            raise ValueError(f"{path}: the image {name} has no painted object {missing[0]}")
        if BACKGROUND in ids and set(ids) != set(painted[name]):
            raise ValueError(
                f"{path}: lists 0, the background, of the image {name}, but not all its objects; "
                "what is no background and no listed object would be mistaken for background"
            )
    if not any(choice.values()):
        raise ValueError(f"{path}: lists no object at all")
    return {name: sorted(set(choice.get(name, []))) for name in painted}
