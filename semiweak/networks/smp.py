"""Any architecture of segmentation_models_pytorch as a `SegmentationNetwork`.

Importing this file imports segmentation_models_pytorch, which takes seconds: `build_network` does
so only when one of its architectures is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from math import lcm
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiweak.networks.base import (
    SegmentationNetwork,
    check_channels,
    crop_to,
    pad_to_multiple,
    padded_size,
)

ARCHITECTURES: dict[str, Any] = {
    name.lower(): architecture for name, architecture in smp.MODEL_ARCHITECTURES_MAPPING.items()
}
"""The architectures by their lower-case name."""

# The smallest input in pixels, where the stride alone does not say it: PAN pools the encoder's last
# map (stride 16) three more times.
_SMALLEST = {"pan": 128}

_A_VIT = "'tu-vit_small_patch16_224'"


class SMPNetwork(SegmentationNetwork):
    """An architecture of segmentation_models_pytorch (smp), for images of any size, 2D only.

    ``forward`` keeps smp's own order, in which some heads upsample the logits. `features` is the
    decoder's output, upsampled bilinearly in the same way where the head would upsample.

    Args:
        architecture: A key of `ARCHITECTURES`.
        in_channels: C, any number.
        out_channels: K.
        encoder: An encoder's name as smp or, with "tu-" in front, timm knows it.
        encoder_weights: Name of the pretrained weights to download, or None.

    Raises:
        ValueError: Unknown encoder or weights, or an encoder that does not fit: the architecture
            refuses it, or it takes images of one fixed size only.
    """

    def __init__(
        self,
        architecture: str,
        in_channels: int,
        out_channels: int,
        *,
        encoder: str,
        encoder_weights: str | None,
    ) -> None:
        super().__init__()
        check_channels(in_channels, out_channels)
        model = _build(architecture, in_channels, out_channels, encoder, encoder_weights)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.spatial_dims = 2
        self.head: nn.Module = model.segmentation_head
        # Without its head the model returns the decoder's output, whatever the architecture.
        model.segmentation_head = nn.Identity()
        self.model: nn.Module = model
        first = next(m for m in self.head.modules() if isinstance(m, nn.Conv2d))
        self.feature_channels = first.in_channels
        # 32 is what the deepest decoders need; some say less themselves (DPT's 16 is too little).
        self.multiple = lcm(32, model.encoder.output_stride)
        self.smallest = max(self.multiple, _SMALLEST.get(architecture, 0))
        self._try_out(ARCHITECTURES[architecture].__name__, encoder)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits ``(B, K, H, W)`` of the images ``(B, C, H, W)``."""
        return crop_to(self.head(self._decoded(x)), x.shape[2:])

    def features(self, x: Tensor) -> Tensor:
        """Returns the decoder's output at the images' size, ``(B, F, H, W)``."""
        return self._upsampled(self._decoded(x), x.shape[2:])

    def features_and_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `features` and what `forward` returns."""
        decoded = self._decoded(x)
        return self._upsampled(decoded, x.shape[2:]), crop_to(self.head(decoded), x.shape[2:])

    def _decoded(self, x: Tensor) -> Tensor:
        self.check_images(x)
        decoded: Tensor = self.model(pad_to_multiple(x, self.multiple, self.smallest))
        return decoded

    def _upsampled(self, decoded: Tensor, size: Sequence[int]) -> Tensor:
        padded = padded_size(size, self.multiple, self.smallest)
        if list(decoded.shape[2:]) != padded:
            # smp's heads upsample with aligned corners too.
            decoded = F.interpolate(decoded, size=padded, mode="bilinear", align_corners=True)
        return crop_to(decoded, size)

    @torch.enable_grad()
    def _try_out(self, architecture: str, encoder: str) -> None:
        """Runs one small image: some of timm's hundreds of encoders take images of one size only.

        Layers that have no part in the output (PSPNet's encoder ends early, for one) are frozen:
        distributed training would wait for their gradients.
        """
        self.eval()  # so that no running statistics and no random numbers are touched
        size = (self.smallest, self.smallest + self.multiple)
        try:
            output = self(torch.zeros(1, self.in_channels, *size))
            problem = None if output.shape[2:] == size else "its output has another size"
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            problem = str(error)
        if problem is not None:
            suggestion = _A_VIT if architecture == "DPT" else "'resnet34' or 'tu-convnext_tiny'"
            raise ValueError(
                f"encoder={encoder!r} does not work with smp.{architecture} on images of any size "
                f"({problem}): take another one, such as {suggestion}"
            )
        self.train()
        output.sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None


def _build(
    architecture: str,
    in_channels: int,
    out_channels: int,
    encoder: str,
    encoder_weights: str | None,
) -> Any:
    _check_encoder(encoder)
    arguments: dict[str, Any] = {
        "encoder_name": encoder,
        # timm's weights are named in the encoder's name, behind a dot: smp wants to hear True.
        "encoder_weights": bool(encoder_weights) or None
        if encoder.startswith("tu-")
        else encoder_weights,
        "in_channels": in_channels,
        "classes": out_channels,
    }
    try:
        if encoder.startswith("tu-"):
            try:
                # Lets vision transformers take images of any size.
                return ARCHITECTURES[architecture](**arguments, dynamic_img_size=True)
            except TypeError as error:
                # Convolutional encoders do not know the argument, and do not need it.
                if "dynamic_img_size" not in str(error):
                    raise
        return ARCHITECTURES[architecture](**arguments)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        hint = f" (DPT wants a vision transformer of timm, such as {_A_VIT})"
        raise ValueError(
            f"network='smp.{ARCHITECTURES[architecture].__name__}' cannot be built with "
            f"encoder={encoder!r} and encoder_weights={encoder_weights!r}: "
            f"{error.args[0] if error.args else error}" + (hint if architecture == "dpt" else "")
        ) from error


def _check_encoder(encoder: str) -> None:
    if encoder in smp.encoders.encoders or (
        encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-"))
    ):
        return
    known = [*smp.encoders.encoders, *(f"tu-{name}" for name in timm.list_models())]
    near = get_close_matches(encoder.lower(), known, n=5, cutoff=0.5)
    raise ValueError(
        f"encoder={encoder!r} is not known to segmentation_models_pytorch"
        + (f"; near to it are {', '.join(map(repr, near))}" if near else "")
        + ". Its documentation lists them all; timm's have 'tu-' in front"
    )
