"""The averaged network: a slow copy of the one that is trained."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Teacher(AveragedModel):
    """A network whose weights are a moving average of another's, for mean teachers and SPOCO's g.

        theta_g <- m theta_g + (1 - m) theta_f

    It shares no storage with the other network, takes no gradient, and moves only when
    `update_parameters` is called, which is to be done after a step of the optimiser. Its buffers
    (the running statistics of batch normalisation) are then set to those of the other network.

    Args:
        network: The network to follow.
        momentum: m in [0, 1).
        warmup: In the n-th step take m no larger than 1 - 1/n, the average of all weights so far.
            A short training would otherwise end before the average has left the random weights that
            it began with; after 1 / (1 - m) steps it makes no difference.

    Raises:
        ValueError: The momentum is out of its range.
    """

    def __init__(self, network: nn.Module, *, momentum: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it must be at least 0 and below 1")
        super().__init__(network, multi_avg_fn=partial(_average, momentum, warmup))
        self.requires_grad_(False)
        # At 0 the first step would copy the network; with warm-up that is meant.
        self.n_averaged.fill_(0 if warmup else 1)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Any:
        """The averaged network's output, without gradient."""
        return self.module(image)


def _average(
    momentum: float, warmup: bool, averaged: Any, current: Any, steps: Tensor | int
) -> None:
    m = min(momentum, 1 - 1 / (int(steps) + 1)) if warmup else momentum
    if averaged[0].is_floating_point():
        torch._foreach_lerp_(averaged, current, 1 - m)
