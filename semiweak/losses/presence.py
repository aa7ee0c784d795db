"""Which classes are in an image at all: targets made of annotations, and their loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def presence_targets(
    labels: Tensor,
    candidates: Tensor,
    valid: Tensor,
    tags: Tensor,
    *,
    boxes: Sequence[Tensor] | None = None,
    box_labels: Sequence[Tensor] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Which classes the annotations of an image, or of a patch of one, say to be there or not.

    The first of these that applies:

    - present, where a pixel was painted or clicked as the class
    - absent, where the class is ruled out at every valid pixel: by a complete mask, by boxes around
      all objects of the class, or as tagged absent
    - present, where a box of the class lies inside the patch, its edge untouched; of one that
      touches the edge only the part without the object may be left
    - present, where the class is tagged present
    - unknown

    So what is known of the patch itself beats the tags, which for a patch are an upper bound: the
    class is in the image that it was cut from.

    Args:
        labels: ``int64 (B, *S)``: class ids, ``ignore_index`` where unknown.
        candidates: The classes that a pixel may have, ``bool (B, K, *S)``.
        valid: False in padding, ``bool (B, *S)``. Of an image without a valid pixel nothing is
            known.
        tags: ``(B, K)``: 1 present; anything else says nothing here, as an absent class is no
            candidate.
        boxes: Per image ``(N, 2d)``, pixels, starts of all axes, then (exclusive) ends; None where
            boxes are not to be looked at.
        box_labels: Per image their classes, ``int64 (N,)``.
        ignore_index: The label of an unknown pixel.

    Returns:
        ``int8 (B, K)``: 1 present, 0 absent, -1 unknown.
    """
    painted = labels.flatten(1) != ignore_index
    classes = labels.flatten(1).masked_fill(~painted, 0)
    there = torch.zeros_like(tags, dtype=torch.int64).scatter_add(1, classes, painted.long()) > 0
    possible = (candidates & valid[:, None]).flatten(2).any(2)
    said = tags == 1
    if boxes is not None and box_labels is not None:
        size = torch.tensor(labels.shape[1:], device=labels.device)
        for row, some, of_class in zip(said, boxes, box_labels, strict=True):
            inside = (some[:, : len(size)] > 0) & (some[:, len(size) :] < size)
            row[of_class[inside.all(1)]] = True
    targets = torch.where(said, 1, -1).masked_fill(~possible, 0).masked_fill(there, 1)
    nothing_seen = ~valid.flatten(1).any(1)
    return targets.masked_fill(nothing_seen[:, None], -1).to(torch.int8)


def presence_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of each sample, the mean over the classes whose presence is known.

        1/|C| * sum_{c in C}  -t_c log s(z_c) - (1 - t_c) log(1 - s(z_c))

    with z the logits, s the logistic function and C the classes that are known to be in the image
    (t = 1) or not to be (t = 0).

    Args:
        logits: ``(B, K)``. Half precision is computed in float32; what is said of a class of which
            nothing is known changes nothing.
        targets: ``(B, K)``: 1 present, 0 absent, -1 unknown.

    Returns:
        The loss of each sample ``(B,)`` and which samples have a class that is known ``bool (B,)``.
        The others have 0.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    known = targets >= 0
    # Selected: an infinite logit of an unknown class would make the gradient NaN.
    losses = F.binary_cross_entropy_with_logits(
        torch.where(known, logits, 0.0),
        targets.clamp_min(0).to(logits.dtype),
        reduction="none",
    )
    number = known.sum(1)
    return torch.where(known, losses, 0.0).sum(1) / number.clamp_min(1), number > 0
