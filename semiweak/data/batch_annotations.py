"""What annotators said of a whole batch, in tensors that have no list in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from semiweak.data.annotations import UNKNOWN
from semiweak.data.batch import SemanticBatch


class BatchAnnotations(NamedTuple):
    """What annotators said of a batch, other than tags and candidates.

    Attributes:
        painted: The class of each painted pixel, 255 elsewhere, ``int64 (B, *S)``.
        points: Image and position of each point, ``int64 (P, 1 + d)``.
        point_classes: ``int64 (P,)``.
        boxes: Image, starts and ends of each box, in pixels, ``int64 (N, 1 + 2d)``.
        box_classes: ``int64 (N,)``.
    """

    painted: Tensor
    points: Tensor
    point_classes: Tensor
    boxes: Tensor
    box_classes: Tensor


def annotations_of(batch: SemanticBatch) -> BatchAnnotations:
    """Puts the painted pixels, points and boxes of all images together.

    A clicked pixel is pinned like a painted one, but speaks as a point. A point that another
    annotation contradicts says nothing.
    """
    labels, size = batch["labels"], batch["labels"].shape[1:]
    points = _with_image(batch["points"], len(size))
    classes = torch.cat(batch["point_labels"]).long()
    pixels = torch.floor(points + 0.5).long()  # centres are integers
    sides = pixels.new_tensor([len(labels), *size])
    inside = ((pixels >= 0) & (pixels < sides)).all(1)
    pixels, classes = pixels[inside], classes[inside]
    holds = labels[tuple(pixels.T)] == classes
    pixels, classes = pixels[holds], classes[holds]
    clicked = torch.zeros_like(labels, dtype=torch.bool)
    clicked[tuple(pixels.T)] = True
    dense = batch["has_mask"].view(-1, *[1] * len(size))
    painted = labels.masked_fill(clicked & ~dense, UNKNOWN)

    corners = _with_image(batch["boxes"], 2 * len(size))
    ends = pixels.new_tensor(size)
    # A pixel is in a box that touches it.
    starts = corners[:, 1 : 1 + len(size)].floor().long()
    stops = corners[:, 1 + len(size) :].ceil().long()
    limits = starts.clamp_min(0).minimum(ends), stops.clamp_min(0).minimum(ends)
    boxes = torch.cat((corners[:, :1].long(), *limits), 1)
    return BatchAnnotations(painted, pixels, classes, boxes, torch.cat(batch["box_labels"]).long())


def box_pixels(batch: SemanticBatch) -> tuple[Tensor, Tensor]:
    """The pixels of each box: those whose centres lie in it. Boxes without any are left out.

    Pixel i covers [i, i + 1) of a box's coordinates. A box rules its class out at pixels that it
    does not even touch; that a row of it holds an object is said of no row that it merely touches.

    Returns:
        Image, starts and ends (half-open) of each box ``int64 (N, 1 + 2d)``, and their classes
        ``int64 (N,)``.
    """
    size = batch["labels"].shape[1:]
    corners = _with_image(batch["boxes"], 2 * len(size))
    classes = torch.cat(batch["box_labels"]).long()
    pixels = torch.ceil(corners[:, 1:] - 0.5).long().clamp_min(0)
    pixels = pixels.minimum(pixels.new_tensor([*size, *size]))
    some = (pixels[:, : len(size)] < pixels[:, len(size) :]).all(1)
    return torch.cat((corners[:, :1].long(), pixels), 1)[some], classes[some]


def _with_image(rows: list[Tensor], width: int) -> Tensor:
    """The rows of all images, each behind the number of its image, ``(N, 1 + width)``."""
    numbers = [row.new_full((len(row), 1), i) for i, row in enumerate(rows)]
    pairs = [torch.cat((n, row.view(-1, width)), 1) for n, row in zip(numbers, rows, strict=True)]
    return torch.cat(pairs)
