"""Supervised losses on the pixels whose class is known: cross-entropy and soft Dice.

Both return one value a sample and which samples have a known pixel at all, for
`semiweak.losses.reduction.mean_over_known`. A sample without any has the value 0 and no gradient;
what a network predicts at an unknown pixel changes nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each sample, the mean over its known pixels.

        sum_i w[y_i] * (-log p_i[y_i]) / sum_i w[y_i]

    with p the softmax of the logits, y the labels, i over the sample's known pixels, and all w = 1
    when no weights are given.

    Args:
        logits: ``(B, K, *S)``. Half precision is computed in float32.
        labels: ``int64 (B, *S)``: class ids, ``ignore_index`` where unknown.
        ignore_index: The label of an unknown pixel.
        class_weights: ``(K,)``, none negative. A sample of which every known pixel has weight 0
            counts as unknown.

    Returns:
        The loss of each sample ``(B,)`` and which samples are known ``bool (B,)``.
    """
    logits = _float32_or_more(logits)
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    losses = F.cross_entropy(
        logits, labels, weight=class_weights, ignore_index=ignore_index, reduction="none"
    )
    known = labels != ignore_index
    if class_weights is None:
        total = known.flatten(1).sum(1)
    else:
        weights = class_weights[labels.masked_fill(~known, 0)]
        total = torch.where(known, weights, 0.0).flatten(1).sum(1)
    has_known = total > 0
    return losses.flatten(1).sum(1) / torch.where(has_known, total, 1), has_known


def dice_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Soft Dice loss of each sample, over its known pixels and the classes that occur on them.

        1 - 1/|C| * sum_{c in C}  2 * sum_i p_i[c] * y_i[c] / (sum_i p_i[c] + sum_i y_i[c])

    with p the softmax of the logits, y the one-hot labels, i over the sample's known pixels and C
    the classes that occur among them. The denominator is the linear one, not V-Net's sum of
    squares. As a class of C has at least one pixel it is never 0 and needs no smoothing.

    A class that does not occur is left out: its quotient is 0 whatever the network predicts, a
    constant without a gradient that would only dilute the others, the more so the fewer pixels of
    an image are annotated. (What is wrongly predicted as that class is still punished: it is
    missing from the class that is there.)

    Args:
        logits: ``(B, K, *S)``. Half precision is computed in float32.
        labels: ``int64 (B, *S)``: class ids, ``ignore_index`` where unknown.
        ignore_index: The label of an unknown pixel.

    Returns:
        The loss of each sample ``(B,)``, in [0, 1], and which samples are known ``bool (B,)``.
    """
    # Autocast would take the matrix product below back to half precision.
    with torch.autocast(logits.device.type, enabled=False):
        probabilities = _float32_or_more(logits).softmax(1).flatten(2)  # (B, K, N)
        labels = labels.flatten(1)  # (B, N)
        known = labels != ignore_index
        weights = known.to(probabilities.dtype)
        classes = labels.masked_fill(~known, 0)

        # Sums over the known pixels of each class, (B, K). The labels are gathered from and
        # scattered to, so that no one-hot copy of them is made.
        predicted = torch.bmm(probabilities, weights[:, :, None])[:, :, 0]
        at_label = probabilities.gather(1, classes[:, None])[:, 0] * weights
        overlap = torch.zeros_like(predicted).scatter_add(1, classes, at_label)
        labelled = torch.zeros_like(predicted).scatter_add(1, classes, weights)

        occurs = labelled > 0
        dice = 2 * overlap / torch.where(occurs, predicted + labelled, 1.0)
        number = occurs.sum(1)
        has_known = number > 0
        mean = torch.where(occurs, dice, 0.0).sum(1) / torch.where(has_known, number, 1)
        return has_known.to(mean.dtype) - mean, has_known


def _float32_or_more(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
