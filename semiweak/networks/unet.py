"""The U-Net of the SPOCO paper (Wolny et al., CVPR 2022, appendix, Tables 1 to 3), 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from semiweak.networks.base import SegmentationNetwork, check_channels, crop_to, pad_to_multiple

Norm = Literal["batch", "group", "none"]

CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
# Spatial dropout: it drops whole channels. Neighbouring pixels are too alike for dropping single
# ones to take any information away.
_DROPOUT: dict[int, type[nn.Dropout2d] | type[nn.Dropout3d]] = {2: nn.Dropout2d, 3: nn.Dropout3d}


class UNet(SegmentationNetwork):
    """The papers' U-Net.

    Down: a ConvBlock a level, with max pooling by 2 between them. Up: nearest-neighbour upsampling
    by 2, concatenation with the encoder's output of that level, ConvBlock. At last a 1x1
    convolution, the head: ``forward(x)`` is exactly ``head(features(x))``. A ConvBlock is twice
    convolution 3x3, normalisation, ReLU, with as many channels after the first convolution as after
    the second. Table 1 (CVPPP, Cityscapes) has the widths 16 to 512 and batch norm, Table 2 (3D) 64
    to 512 and group norm, the electron microscopy experiments 16 to 1024 and group norm.

    Args:
        in_channels: C, the channels of an image.
        out_channels: K, the channels of the output: classes, or the dimension of an embedding.
        spatial_dims: 2 or 3.
        widths: The channels of each level, the full resolution first. With L levels an image is
            padded to multiples of 2 ** (L - 1) pixels inside.
        norm: ``"batch"``; ``"group"``, with as many groups as divide the width, at most 8, and at
            least two channels in each; or ``"none"``, where the convolutions get a bias instead.
        dropout: Probability of dropping a channel of the deepest level (spatial dropout, Tompson et
            al., CVPR 2015, as in the ablation of the SPOCO appendix, Table 7); 0 is off.

    Raises:
        ValueError: An argument is out of its range, or images do not fit the network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 2,
        widths: Sequence[int] = (16, 32, 64, 128, 256, 512),  # Table 1
        norm: Norm = "batch",  # Table 1
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_channels(in_channels, out_channels)
        check_arguments(spatial_dims, widths, norm, dropout)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.spatial_dims = spatial_dims
        self.feature_channels = widths[0]
        self.multiple = 2 ** (len(widths) - 1)
        self.norm = norm

        self.encoder = nn.ModuleList(
            ConvBlock(above, here, spatial_dims, norm)
            for above, here in pairwise((in_channels, *widths))
        )
        self.decoder = nn.ModuleList(
            ConvBlock(here + below, here, spatial_dims, norm)
            for below, here in pairwise(reversed(widths))
        )
        self.pool = POOL[spatial_dims](2)
        self.dropout = _DROPOUT[spatial_dims](dropout)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = CONV[spatial_dims](widths[0], out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits ``(B, K, *S)`` of the images ``(B, C, *S)``."""
        return self.features_and_output(x)[1]

    def features_and_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `features` and what `forward` returns."""
        features = self.features(x)
        return features, self.head(features)

    def features(self, x: Tensor) -> Tensor:
        """Returns the output of the last ConvBlock, ``(B, widths[0], *S)``."""
        self.check_images(x)
        size = x.shape[2:]
        x = pad_to_multiple(x, self.multiple)
        self._check_batch_norm(x)

        skipped = []
        for i, block in enumerate(self.encoder):
            x = block(self.pool(x) if i else x)
            skipped.append(x)
        x = self.dropout(skipped.pop())
        for block in self.decoder:
            x = block(torch.cat((skipped.pop(), self.upsample(x)), dim=1))
        return crop_to(x, size)

    def _check_batch_norm(self, x: Tensor) -> None:
        deepest = [n // self.multiple for n in x.shape[2:]]
        if self.training and self.norm == "batch" and x.shape[0] * prod(deepest) == 1:
            raise ValueError(
                "batch norm cannot be trained on one image of which a single pixel is left at the "
                f"deepest level (one pixel there stands for {self.multiple} along each axis): "
                "take larger patches, a larger batch, fewer widths or norm='group'"
            )


class ConvBlock(nn.Sequential):
    """Twice convolution 3x3 (padded, so the size stays), normalisation, ReLU.

    Args:
        in_channels: Channels before.
        width: Channels after each of the two convolutions.
        spatial_dims: 2 or 3.
        norm: See `UNet`.
    """

    def __init__(self, in_channels: int, width: int, spatial_dims: int, norm: Norm) -> None:
        layers: list[nn.Module] = []
        for before in (in_channels, width):
            # A normalisation takes the mean away and adds a shift of its own: a bias would be idle.
            layers.append(
                CONV[spatial_dims](before, width, kernel_size=3, padding=1, bias=norm == "none")
            )
            if norm == "batch":
                layers.append(BATCH_NORM[spatial_dims](width))
            elif norm == "group":
                layers.append(nn.GroupNorm(number_of_groups(width), width))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


def number_of_groups(width: int) -> int:
    """The largest divisor of ``width``, at most 8, that leaves two channels or more in a group.

    Normalising a single channel by itself would wipe out how strong it is beside the others, and at
    a single pixel everything.
    """
    return max(n for n in range(1, 9) if n == 1 or (width % n == 0 and width // n >= 2))


def check_arguments(spatial_dims: int, widths: Sequence[int], norm: str, dropout: float) -> None:
    """Refuses what no network of ConvBlocks can have.

    Raises:
        ValueError: Says which argument, and what is allowed.
    """
    if spatial_dims not in CONV:
        raise ValueError(
            f"spatial_dims={spatial_dims}, but it is 2 for images (H, W) or 3 for volumes (D, H, W)"
        )
    if not widths or min(widths) < 1:
        raise ValueError(
            f"widths={list(widths)}, but it is a list of one positive number of channels a level, "
            "such as [16, 32, 64, 128]"
        )
    if norm not in get_args(Norm):
        raise ValueError(f"norm={norm!r}, but it is one of {', '.join(map(repr, get_args(Norm)))}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}, but it is a probability: at least 0 and below 1")
