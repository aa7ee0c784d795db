"""A branch that tells which classes are in an image (Mlynarski et al., JMI 2019)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from semiweak.networks.unet import CONV

GRID = 11
"""The size of the feature map that the linear layers see (Reiss et al., supplement, section 4)."""

_CONVOLUTIONS = 5  # the same: "single convolution", and "four more convolutions"
_LINEAR = 7  # Mlynarski et al.


class ClassificationBranch(nn.Module):
    """From a feature map of any size to one logit a class.

    Mean pooling to 21 x 21 cells, five convolutions with ReLU to 11 x 11, seven linear layers with
    ReLU and a residual connection around the five in the middle. Inferred, as it is not published:
    that the cells are laid over the image, whatever its size, and the convolutions are 3x3 without
    padding, each of which takes a cell away at both ends (21 - 5 * 2 = 11); the numbers of channels
    and units; and where the residual connection starts and ends.

    Args:
        in_channels: F, the channels of the feature map.
        num_classes: K.
        spatial_dims: 2 or 3.
        separate: A branch of its own for each class, which "worked better", in place of one with K
            outputs.
        channels: Channels of the convolutions.
        units: Units of the linear layers.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        spatial_dims: int,
        separate: bool = True,
        channels: int = 32,
        units: int = 100,
    ) -> None:
        super().__init__()
        self.cells = GRID + 2 * _CONVOLUTIONS
        outputs = [1] * num_classes if separate else [num_classes]
        self.branches = nn.ModuleList(
            _Branch(in_channels, number, spatial_dims, channels, units) for number in outputs
        )

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits ``(B, K)`` of feature maps ``(B, F, *S)``."""
        pooled = mean_pool(features, self.cells)
        return torch.cat([branch(pooled) for branch in self.branches], dim=1)


class _Branch(nn.Module):
    """What comes after the pooling."""

    def __init__(
        self, in_channels: int, outputs: int, spatial_dims: int, channels: int, units: int
    ) -> None:
        super().__init__()
        widths = (in_channels, *[channels] * _CONVOLUTIONS)
        layers = [CONV[spatial_dims](a, b, kernel_size=3) for a, b in pairwise(widths)]
        self.convolutions = nn.Sequential(*(m for conv in layers for m in (conv, nn.ReLU())))
        self.first = nn.Linear(channels * GRID**spatial_dims, units)
        inner = [nn.Linear(units, units) for _ in range(_LINEAR - 2)]
        # Without the last ReLU, which comes after the sum.
        self.residual = nn.Sequential(*[m for linear in inner for m in (linear, nn.ReLU())][:-1])
        self.last = nn.Linear(units, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.convolutions(x).flatten(1)).relu()
        logits: Tensor = self.last((x + self.residual(x)).relu())
        return logits


def mean_pool(x: Tensor, cells: int) -> Tensor:
    """Means over ``cells`` equal parts of each axis: every pixel counts the same.

    A pixel on the border of two cells counts for each by the part that lies in it; so images of any
    size fit, also smaller than the cells are many.

    Args:
        x: ``(B, C, *S)``.
        cells: How many along each axis.

    Returns:
        ``(B, C, *[cells])``.
    """
    for axis, size in enumerate(x.shape[2:], start=2):
        x = (x.movedim(axis, -1) @ _shares(size, cells).to(x)).movedim(-1, axis)
    return x


def _shares(size: int, cells: int) -> Tensor:
    """The weight of each pixel of an axis in each cell, ``float64 (size, cells)``."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * size / cells
    pixel = torch.arange(size, dtype=torch.float64)[:, None]
    common = torch.minimum(edges[1:], pixel + 1) - torch.maximum(edges[:-1], pixel)
    return common.clamp_min(0) * cells / size
