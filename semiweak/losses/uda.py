"""Unsupervised data augmentation (UDA): consistency of two views, and training signal annealing.

[UDA] Xie et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020, and the
authors' code, which the arithmetic of masks and means follows.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from semiweak.losses.pixels import in_full_precision

_LARGEST = 1e30  # a logit, over T and summed over an image, is still finite


@in_full_precision
def kl_consistency(
    weak: Tensor,
    strong: Tensor,
    *,
    valid: Tensor | None = None,
    temperature: float = 1.0,
    threshold: float = 0.0,
    stop_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """How far the prediction of a strong view is from that of a weak one, of each sample.

        1/|V| * sum_{j in V} [ max_c p_j[c] > beta ] * KL( softmax(w_j / T) || softmax(s_j) )

    with w and s the logits of the two views, p = softmax(w), which the temperature T does not
    sharpen, and V the valid pixels. Like UDA's it is a mean over all of them: those that the
    threshold beta leaves out count as 0. The entropy of the weak view is part of it, so equal views
    give 0 at T = 1.

    Args:
        weak: ``(B, K, *S)``. Half precision is computed in float32; infinite logits, which float16
            has beyond 65504, count as very large ones.
        strong: ``(B, K, *S)``.
        valid: The pixels that both views show, ``bool (B, *S)``; None for all. What the logits are
            elsewhere, also NaN, changes nothing.
        temperature: T; below 1 it sharpens the weak prediction.
        threshold: beta; 0 leaves no pixel out.
        stop_gradient: The weak view is a target only, and gets no gradient.

    Returns:
        The loss of each sample ``(B,)`` and which samples have a valid pixel ``bool (B,)``.

    Raises:
        ValueError: The shapes do not fit, or the temperature is not above 0.
    """
    expected = (len(weak), *weak.shape[2:])
    if weak.shape != strong.shape or weak.ndim < 3:
        raise ValueError(
            "kl_consistency wants the logits (B, K, *S) of two views, but got "
            f"{tuple(weak.shape)} and {tuple(strong.shape)}"
        )
    if valid is None:
        valid = torch.ones(expected, dtype=torch.bool, device=weak.device)
    elif valid.shape != expected or valid.dtype != torch.bool:
        raise ValueError(
            f"valid has to be bool {expected} for logits {tuple(weak.shape)}, but is "
            f"{valid.dtype} {tuple(valid.shape)}"
        )
    if temperature <= 0:
        raise ValueError(f"temperature has to be above 0, but is {temperature}")
    if stop_gradient:
        weak = weak.detach()
    weak, strong = _scores(weak, valid), _scores(strong, valid)
    keep = valid
    if threshold > 0:
        keep = valid & (weak.detach().softmax(1).amax(1) > threshold)
    target = (weak if temperature == 1 else weak / temperature).log_softmax(1)
    divergence = (target.exp() * (target - strong.log_softmax(1))).sum(1)
    summed = torch.where(keep, divergence, 0).flatten(1).sum(1)
    number = valid.flatten(1).sum(1)
    known = number > 0
    return summed / torch.where(known, number, 1), known


def _scores(logits: Tensor, valid: Tensor) -> Tensor:
    # Selected: an infinite logit elsewhere would make the gradient NaN.
    logits = logits.masked_fill(~valid[:, None], 0)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.clamp(-_LARGEST, _LARGEST)


def annealing_threshold(
    step: int,
    steps: int,
    num_classes: int,
    schedule: Literal["linear", "log", "exp"] = "linear",
) -> float:
    """The probability up to which labelled pixels still teach (training signal annealing, TSA).

        a * (1 - 1/K) + 1/K    with r = step / steps and
        a = r                  "linear"
        a = 1 - exp(-5 r)      "log", fast at first: for many labels
        a = exp(5 (r - 1))     "exp", slow at first: for few labels, which are soon learnt by heart

    It goes from 1/K to 1; "log" and "exp" keep a distance of 0.7 % of the way to one of the two,
    as the authors' do. Afterwards it stays.

    Args:
        step: From 0.
        steps: The number of steps of the whole training, above 0.
        num_classes: K.
        schedule: One of the three.

    Raises:
        ValueError: There is no such schedule, or no steps.
    """
    if steps <= 0:
        raise ValueError(f"steps has to be above 0, but is {steps}")
    ratio = min(max(step / steps, 0.0), 1.0)
    if schedule == "linear":
        share = ratio
    elif schedule == "log":
        share = 1 - math.exp(-5 * ratio)
    elif schedule == "exp":
        share = math.exp(5 * (ratio - 1))
    else:
        raise ValueError(f'schedule has to be "linear", "log" or "exp", but is {schedule!r}')
    return share * (1 - 1 / num_classes) + 1 / num_classes


@torch.no_grad()
def annealed_labels(
    logits: Tensor, labels: Tensor, threshold: float, ignore_index: int = 255
) -> Tensor:
    """The labels of the pixels that are not yet predicted well enough.

    A pixel is left out if the probability of its class is above the threshold. A supervised loss
    that is a mean over the pixels with a label then divides by the number of those that are left,
    as the authors' does.

    Args:
        logits: ``(B, K, *S)``. Half precision is computed in float32.
        labels: ``int64 (B, *S)``, ``ignore_index`` where unknown.
        threshold: Of `annealing_threshold`; from 1 on nothing is left out.
        ignore_index: The label of an unknown pixel.

    Returns:
        ``int64 (B, *S)``: the labels, ``ignore_index`` at the pixels that are left out.
    """
    known = labels != ignore_index
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = labels.masked_fill(~known, 0)[:, None]
    probability = scores.softmax(1).gather(1, own)[:, 0]
    return labels.masked_fill(known & (probability > threshold), ignore_index)
