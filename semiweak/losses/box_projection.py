"""The projection loss of BoxInst, for boxes of classes: what a box says of its rows and columns.

[BoxInst] Tian et al., "BoxInst: High-Performance Instance Segmentation with Box Annotations", CVPR
2021, and the numbers of the authors' code.

A box is tight: each of its rows and of its columns holds a pixel of the object (in 3D, each plane
along each of the three axes), and none outside does. With the projection onto an axis as the
maximum over the others,

    D(u, v) = 1 - 2 sum u v / (sum u^2 + sum v^2 + 1e-5)
    loss    = sum over axes of D(projection of p, projection of the box)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from semiweak.losses.pixels import (
    highest_in_boxes,
    in_full_precision,
    inside_boxes,
    probabilities,
)

_EPS = 1e-5  # BoxInst's code


@in_full_precision
def projection_loss(
    logits: Tensor,
    boxes: Tensor,
    classes: Tensor,
    candidates: Tensor,
    valid: Tensor,
    *,
    reading: Literal["box", "class"] = "box",
    cut_boxes: Literal["skip", "keep"] = "skip",
) -> tuple[Tensor, Tensor]:
    """The projection loss of each image.

    ``"box"`` looks into each box by itself, and outside at the pixels that cannot have a class:

        mean over boxes  sum_a D(proj_a of p_c in the box, 1)
        + sum over classes  sum_a D(1 - proj_a of p_c where c is ruled out, 1)

    The second sum is over all classes that the annotations rule out somewhere, as their
    probabilities add up to 1, and over the rows in which they do.

    ``"class"`` takes all boxes of a class for one mask b_c, as BoxInst does with the box of an
    object: the mean over the classes with boxes of sum_a D(proj_a p_c, proj_a b_c), over the pixels
    that are in b_c or that cannot have the class. What is neither, such as a region of a crowd, or
    all that is outside where not every object has a box, is left out of the maxima.

    Where the border of the image cuts a box, its rows may hold no pixel of the object on this side
    of the border, though each column still does. ``cut_boxes="skip"`` therefore leaves the
    projection onto an axis out, unless the box ends before the border along all other axes.

    Args:
        logits: ``(B, C, *S)``. Half precision is computed in float32.
        boxes: Image, starts and ends (half-open) of each box in pixels, ``int64 (N, 1 + 2d)``; none
            is empty.
        classes: Their classes, ``int64 (N,)``.
        candidates: The classes that a pixel may have, ``bool (B, C, *S)``.
        valid: False in padding, ``bool (B, *S)``.
        reading: ``"box"`` or ``"class"``.
        cut_boxes: ``"skip"``, or ``"keep"`` for each box as if it were whole.

    Returns:
        The loss of each image ``(B,)``, and which have a box ``bool (B,)``. It is 0 for the others.

    Raises:
        ValueError: There is no such reading, or nothing like this to do with cut boxes.
    """
    if reading not in ("box", "class") or cut_boxes not in ("skip", "keep"):
        raise ValueError(
            f"reading is {reading!r} and cut_boxes is {cut_boxes!r}; the first must be 'box' or "
            "'class', the second 'skip' or 'keep'"
        )
    # Selected before the softmax, whose gradient would spread a NaN.
    p = probabilities(logits.masked_fill(~valid[:, None], 0))
    known = torch.bincount(boxes[:, 0], minlength=len(p)) > 0
    tells = _tells(boxes, p.shape[2:]) | (cut_boxes == "keep")
    may, ruled_out = candidates & valid[:, None], ~candidates & valid[:, None]
    if reading == "box":
        values = _in_boxes(p, boxes, classes, may, tells) + _outside(p, ruled_out)
    else:
        values = _of_classes(p, boxes, classes, may, ruled_out, tells)
    return torch.where(known, values, 0.0), known


def _tells(boxes: Tensor, size: torch.Size) -> Tensor:
    """Whether each line of a box along each axis holds its object, ``bool (N, d)``."""
    d = len(size)
    cut = (boxes[:, 1 : 1 + d] <= 0) | (boxes[:, 1 + d :] >= boxes.new_tensor(size))
    return cut.sum(1, keepdim=True) - cut.long() == 0


def _in_boxes(p: Tensor, boxes: Tensor, classes: Tensor, may: Tensor, tells: Tensor) -> Tensor:
    """The mean over the boxes of an image, where they tell something."""
    at, box, axis = highest_in_boxes(p.detach(), boxes, classes, may)
    told = tells[box, axis]
    at, line = at[told], (box * tells.shape[1] + axis)[told]
    values = p.flatten()[at]
    zeros = p.new_zeros(tells.numel())
    overlap = zeros.scatter_add(0, line, values)
    squares = zeros.scatter_add(0, line, values * values)
    length = zeros.scatter_add(0, line, torch.ones_like(values))
    dice = torch.where(length > 0, 1 - 2 * overlap / (squares + length + _EPS), 0.0)
    speaks = (length > 0).view(tells.shape).any(1).to(p.dtype)
    number = p.new_zeros(len(p)).scatter_add(0, boxes[:, 0], speaks)
    summed = p.new_zeros(len(p)).scatter_add(0, boxes[:, 0], dice.view(tells.shape).sum(1))
    return summed / number.clamp_min(1)


def _outside(p: Tensor, ruled_out: Tensor) -> Tensor:
    """The sum over classes of how much of them is where they cannot be."""
    p = p.masked_fill(~ruled_out, 0)
    total = p.new_zeros(len(p))
    for others in _all_but_one(p):
        rows = ruled_out.any(others)
        dice = _dice(torch.where(rows, 1 - p.amax(others), 0.0), rows.to(p.dtype))
        total = total + torch.where(rows.any(2), dice, 0.0).sum(1)
    return total


def _of_classes(
    p: Tensor, boxes: Tensor, classes: Tensor, may: Tensor, ruled_out: Tensor, tells: Tensor
) -> Tensor:
    """The mean over the classes with boxes, where these tell something."""
    inside = inside_boxes(boxes, classes, p.shape) & may
    p = p.masked_fill(~(inside | ruled_out), 0)
    total = p.new_zeros(p.shape[:2])
    speaks = torch.zeros_like(total, dtype=torch.bool)
    for axis, others in enumerate(_all_but_one(p)):
        whole = tells[:, axis]
        told = (inside_boxes(boxes[whole], classes[whole], p.shape) & may).any(others)
        open_question = inside.any(others) & ~told
        projection = p.amax(others).masked_fill(open_question, 0)
        dice = _dice(projection, told.to(p.dtype))
        total = total + torch.where(told.any(2), dice, 0.0)
        speaks = speaks | told.any(2)
    return total.sum(1) / speaks.sum(1).clamp_min(1)


def _all_but_one(p: Tensor) -> list[tuple[int, ...]]:
    """For each spatial axis of ``(B, C, *S)`` the other ones."""
    axes = range(2, p.ndim)
    return [tuple(other for other in axes if other != axis) for axis in axes]


def _dice(u: Tensor, v: Tensor) -> Tensor:
    """D of the last axis."""
    return 1 - 2 * (u * v).sum(-1) / ((u * u).sum(-1) + (v * v).sum(-1) + _EPS)
