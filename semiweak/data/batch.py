"""The batch: what a data module hands to a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from semiweak.data.annotations import NOT_LOOKED_AT, Sample
from semiweak.data.knowledge import understand


class SemanticBatch(TypedDict):
    """The batch of the semantic methods; S = (H, W) or (D, H, W), K classes.

    Attributes:
        image: ``float32 (B, C, *S)``, normalised as the data module says.
        labels: ``int64 (B, *S)``: the class where somebody pinned the pixel, 255 elsewhere.
        candidates: ``bool (B, K, *S)``: A_j, the classes a pixel may have; all True where nothing
            is known.
        valid: ``bool (B, *S)``: False where the frame reaches beyond the image.
        has_mask: ``bool (B,)``: the image is densely painted.
        boxes: Per image ``float32 (N, 2d)``, half-open, pixels, starts of all axes, then ends.
        box_labels: Per image ``int64 (N,)``.
        points: Per image ``float32 (N, d)``; pixel centres are integers.
        point_labels: Per image ``int64 (N,)``.
        tags: ``int8 (B, K)``: 1 present, 0 absent, -1 unknown. Of a crop, 1 is an upper bound:
            present in the image that the crop was taken from.
        name: Per image, the stem of its file.
        distances: ``float32 (B, K, *S)``, in training with a method that asks for it: how far each
            pixel is from the nearest point of each class, NaN where that is not known. Points of
            the whole image count, and pixels are those of the image before a patch is scaled.
    """

    image: Tensor
    labels: Tensor
    candidates: Tensor
    valid: Tensor
    has_mask: Tensor
    boxes: list[Tensor]
    box_labels: list[Tensor]
    points: list[Tensor]
    point_labels: list[Tensor]
    tags: Tensor
    name: list[str]
    distances: NotRequired[Tensor]


class InstanceBatch(TypedDict):
    """The batch of the instance methods.

    Attributes:
        image: ``float32 (B, C, *S)``, normalised.
        instances: ``int64 (B, *S)``: object ids from 1, not necessarily without gaps. When
            training, 0 is unlabelled, and the background of a completely painted image is one more
            object, with an id of its own. In validation and test, 0 is background.
        background: ``int64 (B,)``: which id is that background; 0 where there is none.
        valid: ``bool (B, *S)``: False where the frame reaches beyond the image.
        name: Per image, the stem of its file.
    """

    image: Tensor
    instances: Tensor
    background: Tensor
    valid: Tensor
    name: list[str]


LISTS = ("boxes", "box_labels", "points", "point_labels", "name")
"""The parts of a batch that are a list with one entry an image."""


def image_item(sample: Sample) -> dict[str, Any]:
    """The part of an item that every batch has. The image keeps its type: uint8 travels light."""
    image = sample.image
    if image.dtype not in (np.uint8, np.float32):
        image = image.astype(np.float32)
    valid = np.ones(sample.shape, bool) if sample.content is None else sample.content
    return {"image": _tensor(image), "valid": _tensor(valid), "name": sample.name}


def semantic_item(sample: Sample, num_classes: int) -> dict[str, Any]:
    """One image of a `SemanticBatch`, with small integer types for the way to the device."""
    annotation = sample.annotation
    known = understand(annotation, sample.shape, num_classes, sample.content)
    tags = annotation.tags
    single = ~annotation.crowd
    return image_item(sample) | {
        "labels": _tensor(known.labels),
        "candidates": _tensor(known.candidates),
        "has_mask": known.has_mask,
        "boxes": _tensor(annotation.boxes[single]),
        "box_labels": _tensor(annotation.box_labels[single]),
        "points": _tensor(annotation.points.copy()),
        "point_labels": _tensor(annotation.point_labels.copy()),
        "tags": _tensor(np.full(num_classes, NOT_LOOKED_AT, np.int8) if tags is None else tags),
    }


def instance_item(sample: Sample, *, training: bool = True) -> dict[str, Any]:
    """One image of an `InstanceBatch`.

    Args:
        sample: An image or a patch of one.
        training: 0 stands for "unlabelled", so that a background that is known to be one gets the
            highest id in the patch plus 1. Otherwise 0 stays background.
    """
    said = sample.annotation
    objects = said.object_map()
    ids = np.zeros(sample.shape, np.int64) if objects is None else objects.astype(np.int64)
    id_of_background = 0
    if training and said.instances_complete:
        background = ids == 0
        for region in (said.valid, sample.content):
            if region is not None:
                background &= region
        if background.any():
            id_of_background = int(ids.max(initial=0)) + 1
            ids[background] = id_of_background
    return image_item(sample) | {"instances": _tensor(ids), "background": id_of_background}


def maps_item(key: str, sample: Sample) -> dict[str, Any]:
    """The maps that moved with an image, as one more part of its item."""
    assert sample.maps is not None
    return {key: _tensor(sample.maps)}


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks what has one shape for all images and keeps the rest as lists."""
    batch: dict[str, Any] = {}
    for key in items[0]:
        values = [item[key] for item in items]
        batch[key] = values if key in LISTS else default_collate(values)
    return batch


def to_contract(batch: dict[str, Any]) -> dict[str, Any]:
    """Widens, on the device, the small integers that travelled there."""
    for key in ("labels", "instances"):
        if key in batch:
            batch[key] = batch[key].long()
    return batch


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    # Some readers return arrays that must not be written to, which a tensor cannot promise.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
