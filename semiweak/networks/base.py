"""What every segmentation network offers, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationNetwork(nn.Module, ABC):
    """A network from images to one score a class (or one embedding) per pixel.

    It takes images of any height and width, also smaller than its deepest level wants: the image is
    padded by repeating its border, and what comes out is cropped to the image again.

    Attributes:
        in_channels: C, the channels of an image.
        out_channels: K, the channels of the output.
        spatial_dims: 2 for images (B, C, H, W), 3 for volumes (B, C, D, H, W).
        feature_channels: F, the channels of `features`.
        head: The last layers, from the decoder's feature map to the output.
    """

    in_channels: int
    out_channels: int
    spatial_dims: int
    feature_channels: int
    head: nn.Module

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits ``(B, K, *S)`` of the images ``(B, C, *S)``."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Returns the last feature map before the head, ``(B, F, *S)``, at the images' size."""

    @abstractmethod
    def features_and_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `features` and what `forward` returns, of one pass through the decoder."""

    def check_images(self, x: Tensor) -> None:
        """Refuses a tensor that is no batch of images for this network.

        Raises:
            ValueError: The number of axes or of channels is another.
        """
        axes = "(B, C, H, W)" if self.spatial_dims == 2 else "(B, C, D, H, W)"
        if x.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"the network takes images of {self.spatial_dims} spatial axes as {axes}, "
                f"but the input has the shape {tuple(x.shape)}"
            )
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"the network was built for in_channels={self.in_channels}, but the images have "
                f"{x.shape[1]} (the input {axes} has the shape {tuple(x.shape)})"
            )


def check_channels(in_channels: int, out_channels: int) -> None:
    """Raises a ValueError unless both numbers of channels are positive."""
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value < 1:
            raise ValueError(f"{name}={value}, but a network needs at least one channel")


def pad_to_multiple(x: Tensor, multiple: int, smallest: int = 1) -> Tensor:
    """Pads images at the far end of every axis by repeating their last pixels.

    The near end stays where it is, so that the cells of the pooling grid do too, whatever the size.

    Args:
        x: ``(B, C, *S)``.
        multiple: Every spatial size of the result is a multiple of this, in pixels.
        smallest: And at least this, itself a multiple.
    """
    size = x.shape[2:]
    missing = [n - m for n, m in zip(padded_size(size, multiple, smallest), size, strict=True)]
    if not any(missing):
        return x
    # F.pad wants (before, after) an axis, the last axis first.
    return F.pad(x, [n for extra in reversed(missing) for n in (0, extra)], mode="replicate")


def padded_size(size: Sequence[int], multiple: int, smallest: int = 1) -> list[int]:
    """The spatial size of what `pad_to_multiple` makes of images of a spatial ``size``."""
    return [max(-(-n // multiple) * multiple, smallest) for n in size]


def crop_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cuts ``(B, C, *S)`` back to the spatial ``size`` that `pad_to_multiple` was given."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return x[(slice(None), slice(None), *(slice(n) for n in size))]
