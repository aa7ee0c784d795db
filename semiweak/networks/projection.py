"""From the features of a network to embeddings (DSP)."""

from __future__ import annotations

from torch import nn

from semiweak.networks.unet import BATCH_NORM, CONV, Norm, number_of_groups


class Projection(nn.Sequential):
    """Normalisation, 1x1 convolution, leaky ReLU, 1x1 convolution.

    Maps ``(B, F, *S)`` to ``(B, D, *S)``.

    Args:
        in_channels: F, the channels of the features.
        embedding_dim: D, the dimension of the embeddings.
        spatial_dims: 2 or 3.
        norm: ``"batch"``, ``"group"`` or ``"none"``.
    """

    def __init__(self, in_channels: int, embedding_dim: int, spatial_dims: int, norm: Norm) -> None:
        conv = CONV[spatial_dims]
        layers: list[nn.Module] = []
        if norm == "batch":
            layers.append(BATCH_NORM[spatial_dims](in_channels))
        elif norm == "group":
            layers.append(nn.GroupNorm(number_of_groups(in_channels), in_channels))
        layers.append(conv(in_channels, embedding_dim, kernel_size=1))
        layers.append(nn.LeakyReLU(0.1))
        layers.append(conv(embedding_dim, embedding_dim, kernel_size=1))
        super().__init__(*layers)
