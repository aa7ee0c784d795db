"""The critic of SPOCO's adversarial training (Wolny et al., CVPR 2022, appendix, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from semiweak.networks.base import check_channels
from semiweak.networks.unet import POOL, ConvBlock, check_arguments


class Critic(nn.Module):
    """Judges masks: larger is more like a true one, as in WGAN-GP (Gulrajani et al., NeurIPS 2017).

    As in Table 4: ConvBlocks of 64, 128, 256 and 512 channels with max pooling by 2 between them,
    without normalisation (the gradient penalty is of each sample by itself), with leaky ReLU of
    slope 0.01, then a dense layer to one value. Two things are otherwise:

    - The table has "Upsample" behind the last ConvBlock, a slip of the table of the U-Net: nothing
      comes there.
    - The dense layer is behind the mean over all pixels, so that masks of any size fit, and fewer
      weights do than one for each of the 5 x 8 x 8 voxels and 512 channels that are left of the
      paper's patches.

    Args:
        in_channels: C, the channels of a mask.
        spatial_dims: 2 or 3.
        widths: The channels of each level, the full resolution first.

    Raises:
        ValueError: An argument is out of its range, or masks do not fit the critic.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        spatial_dims: int = 2,
        widths: Sequence[int] = (64, 128, 256, 512),  # Table 4
    ) -> None:
        super().__init__()
        check_channels(in_channels, 1)
        check_arguments(spatial_dims, widths, "none", 0.0)
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.blocks = nn.ModuleList(
            _leaky(ConvBlock(above, here, spatial_dims, "none"))
            for above, here in pairwise((in_channels, *widths))
        )
        # Rounding up, no pixel goes unseen, and even a single one can be halved.
        self.pool = POOL[spatial_dims](2, ceil_mode=True)
        self.dense = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns one value a mask, ``(B,)``, of the masks ``(B, C, *S)``."""
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            axes = "(B, C, H, W)" if self.spatial_dims == 2 else "(B, C, D, H, W)"
            raise ValueError(
                f"the critic takes masks {axes} with C={self.in_channels}, but the input has the "
                f"shape {tuple(x.shape)}"
            )
        for i, block in enumerate(self.blocks):
            x = block(self.pool(x) if i else x)
        value: Tensor = self.dense(x.flatten(2).mean(dim=2))
        return value.squeeze(1)


def _leaky(block: ConvBlock) -> nn.Sequential:
    """The block with leaky ReLU for ReLU."""
    return nn.Sequential(
        *(nn.LeakyReLU(0.01) if isinstance(layer, nn.ReLU) else layer for layer in block)
    )
