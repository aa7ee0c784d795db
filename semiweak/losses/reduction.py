"""From one value a sample to one value a batch, when not every sample has one."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_known(values: Tensor, known: Tensor, total: Tensor | None = None) -> Tensor:
    """The mean over the samples that are known; the others neither add nor dilute.

    With no sample known the result is 0, still connected to ``values``, so that ``backward`` works
    and distributed training finds every parameter used. Whatever stands at an unknown sample, also
    NaN, leaks neither into the result nor into a gradient.

    Args:
        values: One loss a sample, ``(B,)``.
        known: Which samples count, ``bool (B,)``.
        total: What to divide by instead of this batch's own number of known samples. In distributed
            training gradients are averaged over R ranks, each with another number of known samples:
            with ``total`` = (known samples of all ranks) / R on every rank, the averaged gradient
            is that of the mean over all known samples.

    Returns:
        A scalar.

    Raises:
        ValueError: The shapes differ or ``known`` is not boolean.
    """
    if values.shape != known.shape or values.ndim != 1 or known.dtype != torch.bool:
        raise ValueError(
            "mean_over_known wants values (B,) and known bool (B,), but got "
            f"values {tuple(values.shape)} and known {known.dtype} {tuple(known.shape)}"
        )
    # Selected, not multiplied: 0 * NaN is NaN.
    summed = torch.where(known, values, 0.0).sum()
    count = known.sum() if total is None else total
    # Not clamp(min=1): total may be a fraction, such as 1 known sample on 2 ranks.
    return summed / torch.where(count > 0, count, 1)
