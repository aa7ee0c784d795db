"""Which training images get which weaker annotation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semiweak.data.annotations import KINDS_OF, Annotation, Kind
from semiweak.data.weaken.boxes import to_boxes
from semiweak.data.weaken.objects import to_objects
from semiweak.data.weaken.points import to_points
from semiweak.data.weaken.scribbles import to_scribbles
from semiweak.data.weaken.tags import to_nothing, to_tags


@dataclass(frozen=True)
class Weakening:
    """How much of the training images stays annotated, and in what way.

    Of all images some keep their mask: ``max(1, round(n / acr))`` of n (halves are rounded to the
    even number), or ``masks`` of them. The shares ``boxes``, ``points``, ``tags``, ``scribbles``
    and ``nothing`` divide the remaining images; they are scaled to add up to 1, and whole images
    are dealt by largest remainder. If all shares are 0, the remaining images get nothing.

    The order of the draw depends on the seed and the names only. So with one seed the images that
    keep their mask at a higher compression ratio are among those that keep it at a lower one.

    Attributes:
        acr: Annotation compression ratio: images / images that keep their mask; at least 1, where
            every image keeps it.
        masks: The number of images that keep their mask, in place of ``acr``.
        boxes: Share of the remaining images with a box around each component.
        points: Share of the remaining images with a click on each component.
        tags: Share of the remaining images with image-level labels.
        scribbles: Share of the remaining images with scribbles on each component.
        nothing: Share of the remaining images without annotation.
        objects: Images that keep their mask keep this many painted objects of it.
        objects_exclude: Classes whose objects are not kept, such as a background.
        scribble_share: The share of a component's pixels that a scribble covers.
        min_size: Components with fewer pixels are not clicked and not scribbled on, and their boxes
            are crowd boxes.
        seed: Repeats the draw.
    """

    acr: float = 1.0
    masks: int | None = None
    boxes: float = 0.0
    points: float = 0.0
    tags: float = 0.0
    scribbles: float = 0.0
    nothing: float = 0.0
    objects: int | None = None
    objects_exclude: tuple[int, ...] = ()
    scribble_share: float = 0.03
    min_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.acr) and self.acr >= 1):
            raise ValueError(
                f"acr is {self.acr}; it is the number of images per image that keeps its mask, so "
                "it must be 1 or more"
            )
        if self.masks is not None and self.acr != 1:
            raise ValueError(
                f"acr is {self.acr} and masks is {self.masks}; both say how many images keep their "
                "mask: give one of them"
            )
        if self.masks is not None and self.masks < 0:
            raise ValueError(f"masks is {self.masks}; it must be a number of images, 0 or more")
        for kind, share in self._shares().items():
            if not (math.isfinite(share) and share >= 0):
                name = "nothing" if kind == "none" else kind
                raise ValueError(f"{name} is {share}; a share must be 0 or more")
        if self.objects is not None and self.objects < 1:
            raise ValueError(f"objects is {self.objects}; it must be 1 or more")
        if not 0 < self.scribble_share <= 1:
            raise ValueError(
                f"scribble_share is {self.scribble_share}; it must be above 0 and at most 1"
            )
        if self.min_size < 1:
            raise ValueError(f"min_size is {self.min_size}; it must be 1 pixel or more")

    def _shares(self) -> dict[Kind, float]:
        return {
            "boxes": self.boxes,
            "points": self.points,
            "tags": self.tags,
            "scribbles": self.scribbles,
            "none": self.nothing,
        }

    def assign(self, names: Sequence[str]) -> dict[str, Kind]:
        """The kind of annotation that each training image gets, in the order of ``names``.

        Args:
            names: The names of the training images, each once.

        Raises:
            ValueError: A name comes twice, or there are fewer images than ``masks``.
        """
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"images of the same name: {', '.join(twice[:5])}")
        if self.masks is not None and self.masks > len(names):
            raise ValueError(
                f"masks is {self.masks}, but there are only {len(names)} training images"
            )
        painted = self.masks
        if painted is None:
            painted = max(1, round(len(names) / self.acr))
        order = sorted(names, key=lambda name: _hash("assign", self.seed, name))
        kinds: dict[str, Kind] = dict.fromkeys(order[:painted], "mask")
        rest = iter(order[painted:])
        for kind, count in _deal(max(0, len(order) - painted), self._shares()).items():
            kinds |= {next(rest): kind for _ in range(count)}
        return {name: kinds[name] for name in names}

    def apply(self, annotation: Annotation, kind: Kind, num_classes: int, name: str) -> Annotation:
        """The image's annotation as the given kind; always the same for a seed and a name.

        Args:
            annotation: The complete annotation of a training image.
            kind: What `assign` says of the image.
            num_classes: K.
            name: The image's name.

        Raises:
            ValueError: The image has no mask, or one with classes beyond ``num_classes``.
        """
        rng = np.random.default_rng(_hash("apply", self.seed, name))
        try:
            return self._weaker(annotation, kind, num_classes, rng)
        except ValueError as error:
            raise ValueError(f"image {name!r}: {error}") from error

    def _weaker(
        self, annotation: Annotation, kind: Kind, num_classes: int, rng: np.random.Generator
    ) -> Annotation:
        if kind == "boxes":
            return to_boxes(annotation, num_classes, min_size=self.min_size)
        if kind == "points":
            return to_points(annotation, num_classes, min_size=self.min_size)
        if kind == "tags":
            return to_tags(annotation, num_classes)
        if kind == "scribbles":
            share, min_size = self.scribble_share, self.min_size
            return to_scribbles(annotation, num_classes, rng, share=share, min_size=min_size)
        if kind == "none":
            return to_nothing(annotation)
        if kind != "mask":
            raise ValueError(
                f"there is no kind {kind!r}; it must be one of {', '.join(KINDS_OF['semantic'])}"
            )
        if annotation.mask is None and annotation.instances is None:
            raise ValueError("it should keep its mask, but has none; weaken painted images only")
        if self.objects is None:
            return annotation
        if not all(0 <= c < num_classes for c in self.objects_exclude):
            raise ValueError(
                f"objects_exclude is {list(self.objects_exclude)}; the classes are 0 to "
                f"{num_classes - 1}"
            )
        return to_objects(annotation, self.objects, rng, exclude=self.objects_exclude)


def _hash(purpose: str, seed: int, name: str) -> int:
    # Python's own hash of a string changes from run to run.
    key = f"{purpose}/{seed}/{name}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "big")


def _deal(count: int, shares: dict[Kind, float]) -> dict[Kind, int]:
    """Divides ``count`` images by shares; the largest remainders get the images left over."""
    total = math.fsum(shares.values())
    if total == 0:
        return {"none": count}
    exact = {kind: count * share / total for kind, share in shares.items()}
    dealt = {kind: math.floor(images) for kind, images in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: dealt[kind] - exact[kind])
    for kind in by_remainder[: count - sum(dealt.values())]:
        dealt[kind] += 1
    return dealt
