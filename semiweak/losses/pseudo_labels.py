"""Pseudo-labels: what a network takes each pixel for, as a target to learn from.

Used with the classes that the annotations leave a pixel, as in the pseudo-label filtering of DSP
(Reiss et al., CVPR 2023), and without, as in FixMatch (Sohn et al., NeurIPS 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PseudoLabels:
    """Targets made of predictions; none carries a gradient.

    Attributes:
        targets: Hard: classes ``int64 (B, *S)``, ``ignore_index`` where nothing is kept. Soft:
            probabilities ``(B, K, *S)``, all 0 where nothing is kept.
        keep: The pixels to learn from, ``bool (B, *S)``.
        possible: The pixels that a lower threshold could have kept, ``bool (B, *S)``: those of the
            image that a class is left for.
    """

    targets: Tensor
    keep: Tensor
    possible: Tensor


@torch.no_grad()
def pseudo_labels(
    logits: Tensor,
    candidates: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    threshold: float = 0.0,
    soft: bool = False,
    temperature: float = 1.0,
    ignore_index: int = 255,
) -> PseudoLabels:
    """The class of each pixel according to a network, among the classes that it may have.

        p_j[c]   = exp(s_j[c]) / sum_{k in A_j} exp(s_j[k])   for c in A_j, otherwise 0
        hard     : argmax_c p_j[c]
        soft     : p_j[c]^(1/T) / sum_k p_j[k]^(1/T)
        kept     : max_c p_j[c] >= threshold

    with s the logits and A_j the candidates of pixel j. The threshold looks at the probabilities
    before they are sharpened by T, as in UDA's code, and after the candidates were filtered: a
    pixel with one candidate is certain, and is kept at any threshold.

    Padding, pixels without any candidate (contradictory annotations) and pixels at which a logit is
    NaN are not kept. No pixel changes what another one gets.

    Args:
        logits: ``(B, K, *S)``. Half precision is computed in float32; infinite logits, which
            float16 has beyond 65504, count as very large ones.
        candidates: A_j, ``bool (B, K, *S)``; None for all classes everywhere.
        valid: False in padding, ``bool (B, *S)``; None for no padding.
        threshold: In [0, 1]; 0 keeps all.
        soft: Probabilities instead of classes.
        temperature: T of soft targets; below 1 it sharpens them.
        ignore_index: Stands for "no class" in hard targets.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    limits = torch.finfo(scores.dtype)
    scores = scores.clamp(limits.min, limits.max)
    possible = torch.ones_like(logits[:, 0], dtype=torch.bool) if valid is None else valid
    if candidates is not None:
        scores = scores.masked_fill(~candidates, -math.inf)
        possible = possible & candidates.any(dim=1)
    probabilities = scores.softmax(dim=1)
    confidence, classes = probabilities.max(dim=1)  # argmax is far slower on a CPU
    keep = possible & (confidence >= threshold)
    if not soft:
        return PseudoLabels(classes.masked_fill(~keep, ignore_index), keep, possible)
    if temperature != 1:
        # The largest one is taken away first, as it may be too large to be divided by T < 1.
        scores = scores - scores.amax(dim=1, keepdim=True)
        probabilities = (scores / temperature).softmax(dim=1)
    return PseudoLabels(probabilities.masked_fill(~keep[:, None], 0.0), keep, possible)


def pseudo_label_loss(
    logits: Tensor, labels: PseudoLabels, *, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Cross-entropy against pseudo-labels, of each sample.

        1/|P| * sum_{j kept} sum_c  -t_j[c] log q_j[c]

    with q the softmax of the logits, t the targets (one-hot where they are hard) and P the pixels
    that could have been kept. Like FixMatch's, it is a mean over all pixels and not over the kept
    ones: a sample of which few are kept weighs little (Sohn et al., Eq 4).

    Args:
        logits: Of the view that learns, ``(B, K, *S)``. Half precision is computed in float32; what
            they are at a pixel that is not kept changes nothing.
        labels: Of `pseudo_labels`.
        ignore_index: As given to `pseudo_labels`.

    Returns:
        The loss of each sample ``(B,)`` and which samples have a pixel in P ``bool (B,)``. A sample
        of which nothing is kept has 0.
    """
    # Selected: an infinite logit in padding would make the gradient NaN.
    logits = logits.masked_fill(~labels.keep[:, None], 0.0)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.targets.is_floating_point():
        losses = F.cross_entropy(logits, labels.targets.to(logits.dtype), reduction="none")
    else:
        losses = F.cross_entropy(
            logits, labels.targets, ignore_index=ignore_index, reduction="none"
        )
    number = labels.possible.flatten(1).sum(1)
    known = number > 0
    return losses.flatten(1).sum(1) / torch.where(known, number, 1), known
