"""Crops, flips, transposes and affine maps that move an image and all its annotations together.

Every function returns a new `Sample` whose annotations are still true: a box is clipped or dropped,
a point is inside or gone, what comes from beyond the image is unknown and no `content`. Maps that
move with the image keep their values: a distance stays one in pixels of the image as it was. A tag
speaks of the whole annotated image, so that after a crop "present" is an upper bound ("present
somewhere in the image that this crop was taken from") while "absent" stays exact.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import UNKNOWN, Annotation, Sample, pixel_of

if TYPE_CHECKING:
    import albumentations

Array = NDArray[Any]


def _map_label_images(annotation: Annotation, change: Callable[[Array, int], Array]) -> Annotation:
    """Applies ``change(array, fill)`` to every label image; ``fill`` says "unknown" in it."""

    def apply(array: Array | None, fill: int) -> Array | None:
        return None if array is None else change(array, fill)

    return replace(
        annotation,
        mask=apply(annotation.mask, UNKNOWN),
        scribbles=apply(annotation.scribbles, UNKNOWN),
        instances=apply(annotation.instances, 0),
        valid=apply(annotation.valid, 0),
    )


def _map_maps(sample: Sample, change: Callable[[Array, float], Array]) -> Array | None:
    """Applies ``change(array, fill)`` to each of the maps that move with the image."""
    return None if sample.maps is None else np.stack([change(m, np.nan) for m in sample.maps])


def _with_boxes_and_points(
    annotation: Annotation, boxes: Array, points: Array, shape: Sequence[int]
) -> Annotation:
    """Replaces boxes and points by moved ones; clips the boxes, drops what left the frame."""
    d = len(shape)
    clipped = np.concatenate([np.clip(boxes[:, :d], 0, shape), np.clip(boxes[:, d:], 0, shape)], 1)
    keep = (clipped[:, d:] > clipped[:, :d]).all(axis=1)
    pixels = pixel_of(points)
    inside = ((pixels >= 0) & (pixels < np.asarray(shape))).all(axis=1)
    return replace(
        annotation,
        boxes=clipped[keep].astype(np.float32),
        box_labels=annotation.box_labels[keep],
        box_is_crowd=None if annotation.box_is_crowd is None else annotation.box_is_crowd[keep],
        points=points[inside].astype(np.float32),
        point_labels=annotation.point_labels[inside],
    )


def crop(sample: Sample, start: Sequence[int], size: Sequence[int]) -> Sample:
    """Cuts the window that begins at ``start`` and is ``size`` pixels large.

    The window may reach beyond the image: there the image is continued by reflection, every
    annotation is unknown and ``content`` is False.
    """
    shape = sample.shape
    spans = list(zip(start, size, shape, strict=True))
    window = tuple(slice(min(max(a, 0), n), min(max(a + m, 0), n)) for a, m, n in spans)
    before = [min(max(-a, 0), m) for a, m, _ in spans]
    pad = [(b, m - b - (w.stop - w.start)) for b, m, w in zip(before, size, window, strict=True)]
    padded = any(first or last for first, last in pad)

    def cut(array: Array, fill: float) -> Array:
        array = array[window]
        return np.pad(array, pad, constant_values=fill) if padded else array

    image = sample.image[(slice(None), *window)]
    content = sample.content
    if padded:
        image = sample.image
        for axis, (a, m, n) in enumerate(spans, start=1):
            place = np.arange(a, a + m) % (2 * n)
            image = image.take(np.minimum(place, 2 * n - 1 - place), axis)
        content = np.ones(shape, bool) if content is None else content
    offset = np.asarray([*start], np.float32)
    annotation = _map_label_images(sample.annotation, cut)
    annotation = _with_boxes_and_points(
        annotation,
        annotation.boxes - np.tile(offset, 2),
        annotation.points - offset,
        size,
    )
    content = None if content is None else cut(content, 0)
    return Sample(image, annotation, sample.name, content, _map_maps(sample, cut))


def flip(sample: Sample, axes: Sequence[int]) -> Sample:
    """Mirrors the spatial axes named in ``axes`` (0 is the first spatial axis)."""
    axes = tuple(axes)
    d = len(sample.shape)
    boxes, points = sample.annotation.boxes.copy(), sample.annotation.points.copy()
    pixels = pixel_of(points)
    for axis in axes:
        n = sample.shape[axis]
        boxes[:, [axis, d + axis]] = n - boxes[:, [d + axis, axis]]
        # A point between two pixels counts for the second, and has to stay with it.
        beside = points[:, axis] - pixels[:, axis]
        points[:, axis] = n - 1 - pixels[:, axis] - np.where(beside == -0.5, 0.5, beside)
    annotation = _map_label_images(sample.annotation, lambda array, _: np.flip(array, axes))
    return Sample(
        np.flip(sample.image, tuple(1 + axis for axis in axes)),
        replace(annotation, boxes=boxes, points=points),
        sample.name,
        None if sample.content is None else np.flip(sample.content, axes),
        _map_maps(sample, lambda array, _: np.flip(array, axes)),
    )


def transpose(sample: Sample, order: Sequence[int]) -> Sample:
    """Reorders the spatial axes: axis ``i`` of the result is axis ``order[i]`` of the sample."""
    order = tuple(order)
    d = len(order)
    annotation = _map_label_images(sample.annotation, lambda array, _: array.transpose(order))
    return Sample(
        sample.image.transpose(0, *(1 + axis for axis in order)),
        replace(
            annotation,
            boxes=annotation.boxes[:, [*order, *(d + axis for axis in order)]],
            points=annotation.points[:, list(order)],
        ),
        sample.name,
        None if sample.content is None else sample.content.transpose(order),
        _map_maps(sample, lambda array, _: array.transpose(order)),
    )


@lru_cache(maxsize=8)
def _affine(rotate: float, scale: tuple[float, float]) -> albumentations.Compose:
    # albumentations asks the package index for a newer release at import unless told not to.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A
    import cv2

    return A.Compose(
        [
            # A reflecting border would bring in mirrored copies of boxes and points as well.
            A.Affine(
                scale=scale,
                keep_ratio=True,
                rotate=(-rotate, rotate),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_CONSTANT,
                p=1.0,
            )
        ],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["box_index"], clip=True),
        # All are kept: to albumentations the image begins at 0, but the first pixel at -0.5.
        keypoint_params=A.KeypointParams("xy", remove_invisible=False),
    )


def affine(
    sample: Sample, rng: np.random.Generator, *, rotate: float, scale: tuple[float, float]
) -> Sample:
    """Rotates and scales a 2D sample about its centre by random amounts.

    A box becomes the envelope of its rotated self: it may be loose, but still holds its object.

    Args:
        sample: A 2D sample.
        rng: Draws the angle and the factor.
        rotate: The largest angle, in degrees.
        scale: The smallest and the largest factor.
    """
    annotation, shape = sample.annotation, sample.shape
    image = np.moveaxis(sample.image, 0, -1)
    if image.dtype not in (np.uint8, np.float32):
        image = image.astype(np.float32)
    compose = _affine(rotate, tuple(scale))
    compose.set_random_seed(int(rng.integers(2**31)))
    moved = compose(
        image=np.ascontiguousarray(image),
        # The number of each pixel, from 1, travels; 0 is what the map brings in from beyond.
        mask=np.arange(1, 1 + math.prod(shape), dtype=np.int32).reshape(shape),
        bboxes=annotation.boxes[:, [1, 0, 3, 2]],
        box_index=np.arange(len(annotation.boxes)),
        keypoints=annotation.points[:, ::-1],
    )
    origin = moved["mask"]
    inside = origin > 0

    def move(array: Array, fill: float) -> Array:
        return np.where(inside, array.ravel()[origin - 1], fill).astype(array.dtype)

    image = np.moveaxis(moved["image"].reshape(image.shape), -1, 0)
    if not inside.all():
        grey = sample.image.reshape(len(image), -1).mean(axis=1)
        image = np.where(inside, image, grey.astype(image.dtype)[:, None, None])
    content = inside if sample.content is None else move(sample.content, 0)
    kept_boxes = np.asarray(moved["box_index"], np.int64)
    crowd = annotation.box_is_crowd
    annotation = replace(
        _map_label_images(annotation, move),
        box_labels=annotation.box_labels[kept_boxes],
        box_is_crowd=None if crowd is None else crowd[kept_boxes],
    )
    annotation = _with_boxes_and_points(
        annotation,
        np.asarray(moved["bboxes"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]],
        np.asarray(moved["keypoints"], np.float32).reshape(-1, 2)[:, ::-1],
        shape,
    )
    content = None if content.all() else content
    return Sample(image, annotation, sample.name, content, _map_maps(sample, move))
