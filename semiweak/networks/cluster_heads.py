"""Heads that give every pixel a cluster, and what their clusters mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from semiweak.networks.unet import CONV


class ClusterHeads(nn.Module):
    """Heads side by side on one feature map, of which the one with the lowest loss predicts.

    Args:
        features: F, the channels of the feature map.
        clusters: M.
        number: How many heads.
        spatial_dims: 2 or 3.

    Attributes:
        best: The number of the head that predicts.
        mapping: The class of each of its clusters, ``int64 (M,)``; -1 where nobody knows.
    """

    best: Tensor
    mapping: Tensor
    losses: Tensor
    shares: Tensor

    def __init__(self, features: int, clusters: int, *, number: int, spatial_dims: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.heads = nn.ModuleList(
            CONV[spatial_dims](features, clusters, kernel_size=1) for _ in range(number)
        )
        self.register_buffer("best", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mapping", torch.full((clusters,), -1))
        # Sums over the steps of an epoch, the last value of each being the number of steps.
        self.register_buffer("losses", torch.zeros(number + 1), persistent=False)
        self.register_buffer("shares", torch.zeros(clusters + 1), persistent=False)

    def forward(self, features: Tensor) -> list[Tensor]:
        """The logits of each head, ``(B, M, *S)``."""
        return [head(features) for head in self.heads]

    def logits(self, features: Tensor) -> Tensor:
        """The logits of the best head, ``(B, M, *S)``."""
        found: Tensor = self.heads[int(self.best)](features)
        return found

    def classes(self, probabilities: Tensor, num_classes: int) -> Tensor:
        """Sums the probabilities of the clusters ``(B, M, *S)`` by class, ``(B, K, *S)``.

        Raises:
            ValueError: Nobody knows what the clusters mean.
        """
        if bool((self.mapping < 0).any()):
            raise ValueError(
                f"what the {self.clusters} clusters mean is not known: painted validation images "
                "tell, during training or by validating the checkpoint"
            )
        size = (len(probabilities), num_classes, *probabilities.shape[2:])
        return probabilities.new_zeros(size).index_add_(1, self.mapping, probabilities)

    # What an epoch has shown

    @torch.no_grad()
    def observe(self, losses: list[Tensor], probabilities: Tensor) -> None:
        """Remembers the loss of each head, and how often each cluster is predicted.

        Args:
            losses: A scalar a head.
            probabilities: Of the best head, ``(B, M, *S)``.
        """
        one = self.losses.new_ones(1)
        self.losses += torch.cat((torch.stack(losses).to(one.dtype), one))
        mean = probabilities.to(one.dtype).mean((0, *range(2, probabilities.ndim)))
        self.shares += torch.cat((mean, one))

    def conclude(self, losses: Tensor, shares: Tensor) -> float | None:
        """Ends an epoch: chooses the best head, and forgets.

        A head that becomes the best has other clusters, whose meaning is not known.

        Args:
            losses: What the attribute has summed up, over all processes.
            shares: Likewise.

        Returns:
            The entropy of the clusters' mean probabilities as a share of the largest one, log M: 0
            when all pixels are in one cluster. None if there was no step.
        """
        self.losses.zero_()
        self.shares.zero_()
        if not losses[-1]:
            return None
        best = losses[:-1].argmin()
        if best != self.best:
            self.best.copy_(best)
            self.mapping.fill_(-1)
        mean = shares[:-1] / shares[-1]
        return float(torch.special.entr(mean).sum() / math.log(self.clusters))
