"""The positives Omega_c that each type of annotation gives to the prototypes' loss (DSP, S.7).

All return `semiweak.losses.prototypes.Positives`: sums of the scores s_c, and how many there are. A
positive lies where the annotations of its image, taken together, allow its class: what is ruled out
by one annotation is no positive by another.

Boxes and tags have two readings. Taken as S.7 is written, every score counts for itself: of a box
the largest of each row and of each column, of a tag those of all pixels of the image. ``"pooled"``,
as in the authors' code, takes what one box or one tag selects as one positive, whose score is the
logarithm of the mean of exp s_c: led by the pixels that look most like the class.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from semiweak.losses.pixels import highest_in_boxes
from semiweak.losses.prototypes import Positives

UNKNOWN = 255


def mask_positives(scores: Tensor, labels: Tensor) -> Positives:
    """All painted pixels.

    Args:
        scores: ``(B, C, *S)``.
        labels: ``int64 (B, *S)``: the painted class, 255 elsewhere.
    """
    labels = labels.flatten(1)
    painted = labels != UNKNOWN
    classes = labels.masked_fill(~painted, 0)
    own = scores.flatten(2).gather(1, classes[:, None])[:, 0]
    own = torch.where(painted, own, 0.0)
    zeros = scores.new_zeros(scores.shape[1])
    sums = zeros.scatter_add(0, classes.flatten(), own.flatten())
    return Positives(sums, zeros.scatter_add(0, classes.flatten(), painted.flatten().to(own.dtype)))


def point_positives(scores: Tensor, pixels: Tensor, classes: Tensor) -> Positives:
    """The clicked pixels.

    Args:
        scores: ``(B, C, *S)``.
        pixels: Image and position in it of each point, ``int64 (P, 1 + d)``.
        classes: Their classes, ``int64 (P,)``.
    """
    at = _flat(scores, pixels, classes)
    return _add_up(scores.flatten()[at], classes, scores.shape[1])


def box_positives(
    scores: Tensor,
    boxes: Tensor,
    classes: Tensor,
    candidates: Tensor,
    reading: Literal["maxima", "pooled"] = "maxima",
) -> Positives:
    """The highest scores of the rows and of the columns of each box, of which each must have one.

    In 3D those of the planes along each of the three axes. Rows in which no pixel may have the
    class are left out.

    Args:
        scores: ``(B, C, *S)``.
        boxes: Image, starts and ends (half-open) of each box in pixels, ``int64 (N, 1 + 2d)``.
        classes: Their classes, ``int64 (N,)``.
        candidates: The classes that a pixel may have, none in padding, ``bool (B, C, *S)``.
        reading: ``"maxima"``: each is a positive; ``"pooled"``: each box is one.
    """
    at, box, _ = highest_in_boxes(scores.detach(), boxes, classes, candidates)
    values = scores.flatten()[at]
    if reading == "maxima":
        return _add_up(values, classes[box], scores.shape[1])
    number = len(boxes)
    top = values.new_full((number,), -math.inf).scatter_reduce(0, box, values.detach(), "amax")
    total = values.new_zeros(number).scatter_add(0, box, (values - top[box]).exp())
    count = torch.bincount(box, minlength=number)
    some = count > 0
    pooled = total[some].log() + top[some] - count[some].to(values.dtype).log()
    return _add_up(pooled, classes[some], scores.shape[1])


def tag_positives(
    scores: Tensor,
    tags: Tensor,
    candidates: Tensor,
    valid: Tensor,
    reading: Literal["pooled", "all"] = "pooled",
) -> Positives:
    """The pixels of the images in which a class is tagged as present.

    Args:
        scores: ``(B, C, *S)``.
        tags: 1 present, anything else says nothing here, ``(B, C)``.
        candidates: The classes that a pixel may have, ``bool (B, C, *S)``.
        valid: False in padding, ``bool (B, *S)``.
        reading: ``"pooled"``: each tag is one positive; ``"all"``: each pixel is one.
    """
    image, classes = torch.nonzero(tags == 1, as_tuple=True)
    values = scores.flatten(2)[image, classes]  # (tags, N)
    may = candidates.flatten(2)[image, classes] & valid.flatten(1)[image]
    number = may.sum(1)
    image_has = number > 0
    values, may, number, classes = (x[image_has] for x in (values, may, number, classes))
    if reading == "pooled":
        pooled = values.masked_fill(~may, -math.inf).logsumexp(1) - number.to(values.dtype).log()
        return _add_up(pooled, classes, scores.shape[1])
    zeros = scores.new_zeros(scores.shape[1])
    sums = zeros.scatter_add(0, classes, torch.where(may, values, 0.0).sum(1))
    return Positives(sums, zeros.scatter_add(0, classes, number.to(zeros.dtype)))


def _flat(scores: Tensor, pixels: Tensor, classes: Tensor) -> Tensor:
    """Positions in the flat scores of pixels ``(P, 1 + d)`` and classes."""
    at = pixels[:, 0] * scores.shape[1] + classes
    for axis, size in enumerate(scores.shape[2:], start=1):
        at = at * size + pixels[:, axis]
    return at


def _add_up(values: Tensor, classes: Tensor, number: int) -> Positives:
    zeros = values.new_zeros(number)
    return Positives(
        zeros.scatter_add(0, classes, values),
        zeros.scatter_add(0, classes, torch.ones_like(values)),
    )
