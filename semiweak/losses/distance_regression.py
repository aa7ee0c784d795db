"""Regression of distances to points, such as clicks on objects."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semiweak.losses.pixels import in_full_precision

BETA = 0.1
"""Where the loss turns from a square into a straight line, as a share of the largest target."""


@in_full_precision
def distance_regression(
    predicted: Tensor, distances: Tensor, *, scale: float, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Smooth L1 distance between a prediction and how near each pixel is to a point of each class.

        t_ic = exp(-d_ic / scale)
        loss = mean over i, c of  h(o_ic - t_ic),   h(x) = x^2 / (2 beta)  for |x| < beta = 0.1
                                                           |x| - beta / 2  beyond

    with o the prediction and d the distance from pixel i to the nearest point of class c. A target
    is 1 at a point, 1/e at a distance of ``scale``, and nearly 0 far away, where it matters little
    whether the nearest point is at 300 or at 400 pixels. The mean is over the pixels and classes of
    a sample whose distance is known; so a class without points is left out.

    Args:
        predicted: o, ``(B, K, *S)``. Half precision is computed in float32.
        distances: d, ``float32 (B, K, *S)``; what is not finite is unknown.
        scale: In the unit of the distances, pixels as a rule.
        valid: ``bool (B, *S)``; False where a pixel does not count.

    Returns:
        The loss of each sample ``(B,)`` and which samples have a known distance ``bool (B,)``.
    """
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    known = distances.isfinite()
    if valid is not None:
        known = known & valid[:, None]
    # Chosen before the exponential, so that no NaN is near a gradient.
    targets = torch.exp(-torch.where(known, distances, 0.0).to(predicted) / scale)
    losses = F.smooth_l1_loss(predicted, targets, beta=BETA, reduction="none")
    total = known.flatten(1).sum(1)
    summed = torch.where(known, losses, 0.0).flatten(1).sum(1)
    return summed / total.clamp_min(1), total > 0
