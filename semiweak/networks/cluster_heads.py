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
        seen: The sums of `observe` since `conclude`; None where there was no step.
    """

    best: Tensor
    mapping: Tensor

    def __init__(self, features: int, clusters: int, *, number: int, spatial_dims: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.heads = nn.ModuleList(
            CONV[spatial_dims](features, clusters, kernel_size=1) for _ in range(number)
        )
        self.register_buffer("best", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mapping", torch.full((clusters,), -1))
        # What an epoch has shown. No buffer, which distributed training would overwrite by that of
        # the first process.
        self.seen: Tensor | None = None

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
        """Adds up the loss of each head, how often each cluster is predicted, and the steps.

        Args:
            losses: A scalar a head.
            probabilities: Of the best head, ``(B, M, *S)``.
        """
        mean = probabilities.float().mean((0, *range(2, probabilities.ndim)))
        seen = torch.cat((torch.stack(losses).to(mean.dtype), mean, mean.new_ones(1)))
        self.seen = seen if self.seen is None else self.seen + seen

    def conclude(self, seen: Tensor) -> float:
        """Ends an epoch: chooses the best head, and forgets.

        A head that becomes the best has other clusters, whose meaning is not known.

        Args:
            seen: What the attribute has summed up, over all processes.

        Returns:
            The entropy of the clusters' mean probabilities as a share of the largest one, log M: 0
            when all pixels are in one cluster.
        """
        self.seen = None
        best = seen[: len(self.heads)].argmin()
        if best != self.best:
            self.best.copy_(best)
            self.mapping.fill_(-1)
        mean = seen[len(self.heads) : -1] / seen[-1]
        return float(torch.special.entr(mean).sum() / math.log(self.clusters))
