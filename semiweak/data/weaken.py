"""Weaker annotations derived from complete masks, to find out how much painting a method needs.

Every function takes an `Annotation` with a mask and returns a new one that an annotator with less
time could have given of the same image. What it says is always true of the mask: `understand` never
rules out the class that was painted, and pixels that are unknown in the mask stay unknown.

An *object* or *component* of a class is a set of its pixels that hang together by their faces,
edges or corners.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.distance import cdist

from semiweak.data.annotations import (
    ABSENT,
    KINDS,
    NOT_LOOKED_AT,
    PRESENT,
    UNKNOWN,
    Annotation,
    Kind,
    understand,
)

LARGEST_GRID = 2**24
"""Grid points of the largest Fourier transform of `medoid`: 2048 x 2048 or 128 x 128 x 128 pixels
of a component's bounding box, in less than 1 GB of memory."""


class _Painting(NamedTuple):
    """What a mask tells."""

    mask: NDArray[np.uint8]
    known: NDArray[np.bool_]
    classes: tuple[int, ...]
    """The classes that were looked for: where `known`, a pixel has one of them if, and only if,
    it is painted so."""

    def valid(self) -> NDArray[np.bool_] | None:
        return None if self.known.all() else self.known


def _painting(annotation: Annotation, num_classes: int) -> _Painting:
    mask = annotation.mask
    if mask is None:
        raise ValueError("an image without a mask cannot be given weaker annotations")
    known = mask != UNKNOWN
    if annotation.valid is not None:
        known = known & annotation.valid
        mask = np.where(known, mask, np.uint8(UNKNOWN))
    classes, highest = annotation.annotated_classes, int(mask.max(where=known, initial=0))
    if classes is not None:
        highest = max(classes, default=0)
    if highest >= num_classes:
        raise ValueError(
            f"class {highest} is painted, but with {num_classes} classes the highest is "
            f"{num_classes - 1}; only {UNKNOWN} may stand for unknown"
        )
    return _Painting(mask, known, tuple(range(num_classes)) if classes is None else classes)


def _blank(shape: Sequence[int], valid: NDArray[np.bool_] | None = None) -> Annotation:
    """An annotation that says nothing, of an image with this spatial shape."""
    d = len(shape)
    return Annotation(
        boxes=np.zeros((0, 2 * d), np.float32), points=np.zeros((0, d), np.float32), valid=valid
    )


def _shape(annotation: Annotation) -> tuple[int, ...]:
    """The spatial shape of the image; of size 0 if no array tells it."""
    for array in (annotation.mask, annotation.scribbles, annotation.instances, annotation.valid):
        if array is not None:
            return array.shape
    return (0,) * int(annotation.points.shape[1])


def _label(region: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    labels, count = ndimage.label(region, np.ones((3,) * region.ndim, bool))
    return labels, int(count)


class _Component(NamedTuple):
    label: int
    window: tuple[slice, ...]
    """Its bounding box."""
    region: NDArray[np.bool_]
    """Its pixels in the bounding box."""
    size: int


def _components(painting: _Painting) -> Iterator[_Component]:
    """Every component of the classes that were looked for."""
    for label in painting.classes:
        labels, _ = _label(painting.mask == label)
        for index, window in enumerate(ndimage.find_objects(labels), start=1):
            region = labels[window] == index
            yield _Component(label, window, region, int(region.sum()))


def to_nothing(annotation: Annotation) -> Annotation:
    """The image as nobody has annotated it."""
    return _blank(_shape(annotation))


def to_tags(annotation: Annotation, num_classes: int) -> Annotation:
    """Image-level labels: which classes are in the image.

    A class that is not seen is tagged absent only if the mask is complete: it may be where the
    mask is unknown, and is then tagged "not looked at".

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
    """
    painting = _painting(annotation, num_classes)
    found = np.bincount(painting.mask.ravel(), minlength=UNKNOWN + 1) > 0
    unseen = ABSENT if painting.known.all() else NOT_LOOKED_AT
    tags = np.full(num_classes, NOT_LOOKED_AT, np.int8)
    for c in painting.classes:
        tags[c] = PRESENT if found[c] else unseen
    return replace(_blank(painting.mask.shape, painting.valid()), tags=tags)


def to_boxes(annotation: Annotation, num_classes: int, *, min_size: int = 1) -> Annotation:
    """The bounding box of every component.

    All classes are boxed, absent ones too: outside its boxes a class cannot be. This stays true

    - of unknown pixels, because the result's ``valid`` region leaves them out, where every class
      remains possible. The box of a component that touches them may not hold the whole object, and
      is a crowd box.
    - of components below ``min_size``, which an annotator would overlook, because each has a crowd
      box, which allows the class but is no box of an object.

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
        min_size: The size of the smallest component with a box of its own, in pixels.
    """
    painting = _painting(annotation, num_classes)
    shape = painting.mask.shape
    if not painting.known.any():
        return _blank(shape)
    beside_unknown = None
    if not painting.known.all():
        everywhere = np.ones((3,) * len(shape), bool)
        beside_unknown = ndimage.binary_dilation(~painting.known, everywhere)
    boxes, labels, crowd = [], [], []
    for label, window, region, size in _components(painting):
        boxes.append([s.start for s in window] + [s.stop for s in window])
        labels.append(label)
        cut_off = beside_unknown is not None and bool((region & beside_unknown[window]).any())
        crowd.append(size < min_size or cut_off)
    return replace(
        _blank(shape, painting.valid()),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 2 * len(shape)),
        box_labels=np.asarray(labels, np.int64),
        box_is_crowd=np.asarray(crowd, bool) if any(crowd) else None,
        boxed_classes=painting.classes,
    )


def to_points(annotation: Annotation, num_classes: int, *, min_size: int = 1) -> Annotation:
    """One click on every component, at its `medoid`.

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
        min_size: The size of the smallest component that is clicked, in pixels.
    """
    painting = _painting(annotation, num_classes)
    points, labels = [], []
    for label, window, region, size in _components(painting):
        if size >= min_size:
            points.append([s.start + i for s, i in zip(window, medoid(region), strict=True)])
            labels.append(label)
    return replace(
        _blank(painting.mask.shape, painting.valid()),
        points=np.asarray(points, np.float32).reshape(-1, painting.mask.ndim),
        point_labels=np.asarray(labels, np.int64),
    )


def medoid(region: NDArray[np.bool_]) -> tuple[int, ...]:
    """The pixel of a region that has the smallest sum of Euclidean distances to all its pixels.

    The sums are the convolution of the region with ``|x|``, which a Fourier transform gives for all
    pixels at once. Sums that agree to a relative 1e-9 count as equal, and the first of the pixels
    is taken. That is exact but for ties; only where the bounding box is beyond `LARGEST_GRID` are
    the pixels first gathered in blocks of the smallest side ``b`` that fits, and the mean distance
    may then exceed the smallest one by up to ``2 b sqrt(d)`` pixels.

    Args:
        region: ``bool (*S)``, not empty. Fast if it is cut to its bounding box.
    """
    pixels = np.argwhere(region)
    side = 1
    while math.prod(2 * -(-n // side) - 1 for n in region.shape) > LARGEST_GRID:
        side += 1
    shape = tuple(-(-n // side) for n in region.shape)
    block = np.ravel_multi_index(tuple((pixels // side).T), shape)
    weights = np.bincount(block, minlength=math.prod(shape)).reshape(shape)
    occupied = np.flatnonzero(weights)
    sums = _distance_sums(weights, occupied)
    best = occupied[np.flatnonzero(sums <= sums.min() * (1 + 1e-9))[0]]
    return tuple(int(i) for i in pixels[np.flatnonzero(block == best)[0]])


def _distance_sums(weights: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """The weighted sum of distances from each grid point in ``at`` (flat indices) to all others."""
    size = [fft.next_fast_len(2 * n - 1, real=True) for n in weights.shape]
    if len(at) ** 2 <= min(2 * math.prod(size), LARGEST_GRID):
        coordinates = np.stack(np.unravel_index(at, weights.shape), axis=1).astype(np.float64)
        sums: NDArray[np.float64] = cdist(coordinates, coordinates) @ weights.ravel()[at]
        return sums
    # On a grid of at least 2 n - 1 points a circular convolution does not wrap onto the region.
    offsets = [np.minimum(np.arange(n), n - np.arange(n)) for n in size]
    distance = np.sqrt(sum(o.astype(np.float64) ** 2 for o in np.ix_(*offsets)))
    spectrum = fft.rfftn(weights.astype(np.float64), size)
    spectrum *= fft.rfftn(distance)
    result = fft.irfftn(spectrum, size)[tuple(slice(n) for n in weights.shape)]
    chosen: NDArray[np.float64] = result.ravel()[at]
    return chosen


def to_scribbles(
    annotation: Annotation,
    num_classes: int,
    rng: np.random.Generator,
    *,
    share: float = 0.03,
    min_size: int = 1,
) -> Annotation:
    """Strokes, one pixel thin, along the inside of every component.

    A stroke begins at a random pixel, more likely one deep inside, and runs on in both directions,
    drawn to the component's middle line and loath to turn. New strokes begin until the wanted
    number of pixels is drawn.

    Args:
        annotation: An annotation with a mask.
        num_classes: K.
        rng: Draws the strokes.
        share: The share of each component's pixels that is drawn, above 0 and up to 1; never
            less than one pixel.
        min_size: The size of the smallest component that is scribbled on, in pixels.
    """
    painting = _painting(annotation, num_classes)
    scribbles = np.full(painting.mask.shape, UNKNOWN, np.uint8)
    for label, window, region, size in _components(painting):
        if size >= min_size:
            scribbles[window][_strokes(region, max(1, round(share * size)), rng)] = label
    return replace(_blank(scribbles.shape, painting.valid()), scribbles=scribbles)


def _strokes(region: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draws ``count`` pixels of the region as strokes."""
    d = region.ndim
    # The frame of zeros spares every check of bounds, and keeps strokes off the image's edge.
    depth = ndimage.distance_transform_edt(np.pad(region, 1))
    steps = np.argwhere(np.ones((3,) * d)) - 1
    steps = steps[np.any(steps != 0, axis=1)]
    strides = np.asarray(depth.strides) // depth.itemsize
    jumps, directions = steps @ strides, steps / np.linalg.norm(steps, axis=1, keepdims=True)
    inner = (slice(1, -1),) * d
    drawn = np.zeros(depth.shape, bool)
    flat_depth, flat_drawn = depth.ravel(), drawn.ravel()
    deepest = depth.max()

    inside = np.flatnonzero(flat_depth)
    # Sorting by exponential variates over weights draws all pixels in a weighted random order.
    starts = inside[np.argsort(rng.exponential(size=len(inside)) / flat_depth[inside])]
    longest = math.ceil(2 * len(inside) ** (1 / d))  # about two diameters of a compact component
    for start in starts:
        if count == 0:
            break
        if flat_drawn[start]:
            continue
        flat_drawn[start] = True
        count -= 1
        towards = directions[rng.integers(len(directions))]
        for heading in (towards, -towards):
            at, lag = start, np.zeros(d)
            for tremor in 0.15 * rng.standard_normal((min(count, longest // 2), d)):
                around = at + jumps
                depths = flat_depth[around]
                ahead = directions @ heading
                open_ = (depths > 0) & ~flat_drawn[around] & (ahead > 0)
                if not open_.any():
                    break
                # Near the rim the pen is pulled inwards. `lag` is how far the pixels are behind the
                # pen, so that it can hold any slope.
                pull = 1 - flat_depth[at] / deepest
                score = ahead + directions @ lag + pull * (depths - flat_depth[at])
                step = int(np.argmax(np.where(open_, score, -np.inf)))
                at = around[step]
                flat_drawn[at] = True
                count -= 1
                lag = 0.5 * (lag + heading - directions[step])
                heading = heading + (0.1 + 0.5 * pull) * directions[step] + tremor
                heading /= np.linalg.norm(heading)
    result: NDArray[np.bool_] = drawn[inner]
    return result


def to_objects(
    annotation: Annotation, k: int, rng: np.random.Generator, *, exclude: Sequence[int] = ()
) -> Annotation:
    """A few completely painted objects; everything else is unknown (the SPOCO paper's setting).

    An object is an instance where the annotation has them, and a component of a class elsewhere.
    So the background, too, is an object (or several) unless its class is excluded.

    Args:
        annotation: An annotation with a mask, instances or both.
        k: The number of objects to keep. All are kept where there are fewer. With one seed the
            objects kept for a smaller ``k`` are among those kept for a larger one.
        rng: Draws the objects.
        exclude: Classes whose objects are not kept: their components, and the instances most of
            whose painted pixels have one of these classes.

    Returns:
        ``scribbles`` with the kept pixels' classes (if there was a mask), and ``instances`` with
        the kept objects: the ids that they had, or new ones above these.
    """
    instances = annotation.instances
    classes: Sequence[int] = ()
    if annotation.mask is not None:
        mask, _, classes = _painting(annotation, UNKNOWN)
    elif instances is not None:
        mask = np.full(instances.shape, UNKNOWN, np.uint8)
    else:
        raise ValueError("an image without mask and instances has no objects to keep")
    is_class, is_excluded = np.zeros((2, UNKNOWN + 1), bool)
    is_class[list(classes)] = True
    is_excluded[list(exclude)] = True
    painted = is_class[mask]

    # Objects are numbered as they come; ids[number] is the id that they have in the result.
    ids, numbers = np.zeros(1, np.int64), np.zeros(mask.shape, np.int64)
    if instances is not None:
        looked_at = True if annotation.valid is None else annotation.valid
        seen = np.where(looked_at, instances, 0).astype(np.int64)
        ids = np.union1d(0, seen)
        numbers = np.searchsorted(ids, seen)
    unnumbered = numbers == 0
    for c in np.unique(mask[painted & unnumbered & ~is_excluded[mask]]):
        labels, found = _label((mask == c) & unnumbered)
        np.add(labels, len(ids) - 1, out=numbers, where=labels > 0)
        ids = np.append(ids, ids[-1] + 1 + np.arange(found))

    pixels = np.bincount(numbers[painted], minlength=len(ids))
    excluded = np.bincount(numbers[painted & is_excluded[mask]], minlength=len(ids))
    eligible = np.flatnonzero(2 * excluded <= pixels)
    kept = np.zeros(len(ids), bool)
    kept[rng.permutation(eligible[eligible > 0])[:k]] = True
    in_kept = kept[numbers]
    scribbles = np.where(painted & in_kept, mask, np.uint8(UNKNOWN))
    return replace(
        _blank(mask.shape),
        scribbles=None if annotation.mask is None else scribbles,
        instances=np.where(in_kept, ids[numbers], 0).astype(np.int32),
    )


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
            raise ValueError(f"there is no kind {kind!r}; it must be one of {', '.join(KINDS)}")
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


@dataclass(frozen=True)
class Summary:
    """How much is annotated before and after weakening; prints as a few lines.

    Attributes:
        images: Images per kind of annotation (the most telling that each has), after.
        pixels: Pixels of all images.
        pinned: Pixels whose class (or object) is told, before and after.
        narrowed: Pixels of which at least one class is ruled out, before and after, the pinned ones
            among them.
    """

    images: dict[Kind, int]
    pixels: int
    pinned: tuple[int, int]
    narrowed: tuple[int, int]

    def __str__(self) -> str:
        count = sum(self.images.values())
        names = {"mask": "complete mask", "none": "nothing"}
        kinds = (
            f"{names.get(kind, kind)} {number} ({_percent(number, count)})"
            for kind, number in self.images.items()
            if number
        )
        before, after = (_percent(n, self.pixels) for n in self.pinned)
        less, now = (_percent(n, self.pixels) for n in self.narrowed)
        return (
            f"Annotation of {count} training images: {', '.join(kinds) or 'none'}\n"
            f"Pixels with a told class: {after} (before weakening {before}); "
            f"with at least one class ruled out: {now} (before {less})"
        )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole if whole else 0:.3g} %"


def summarise(
    before: Iterable[Annotation], after: Iterable[Annotation], num_classes: int
) -> Summary:
    """Counts in one pass what is annotated before and after weakening.

    Args:
        before: The annotations of the images, with masks or instances.
        after: The weaker annotations of the same images in the same order.
        num_classes: K.
    """
    images: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    pixels, pinned, narrowed = 0, np.zeros(2, int), np.zeros(2, int)
    for strong, weak in zip(before, after, strict=True):
        images[weak.kind()] += 1
        shape = _shape(strong)
        pixels += math.prod(shape)
        told = [_told(annotation, shape, num_classes) for annotation in (strong, weak)]
        pinned += [p for p, _ in told]
        narrowed += [n for _, n in told]
    return Summary(
        images,
        pixels,
        (int(pinned[0]), int(pinned[1])),
        (int(narrowed[0]), int(narrowed[1])),
    )


def _told(annotation: Annotation, shape: tuple[int, ...], num_classes: int) -> tuple[int, int]:
    """How many pixels are pinned, and how many narrowed."""
    if annotation.is_dense():
        return math.prod(shape), math.prod(shape)
    pinned = narrowed = np.zeros(shape, bool)
    if annotation.instances is not None:
        pinned = narrowed = annotation.instances != 0
    if annotation.kind() != "none":
        knowledge = understand(annotation, shape, num_classes)
        pinned = pinned | (knowledge.labels != UNKNOWN)
        narrowed = pinned | ~knowledge.candidates.all(axis=0)
    return int(pinned.sum()), int(narrowed.sum())
