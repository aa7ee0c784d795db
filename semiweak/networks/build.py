"""Networks by name, as the command line and the methods ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from semiweak.networks.base import SegmentationNetwork
from semiweak.networks.unet import Norm, UNet

__all__ = ["SegmentationNetwork", "build_network"]

_WIDTHS = (16, 32, 64, 128, 256, 512)
_ENCODER = "resnet34"
# What the methods have by default, when nobody asked for anything: of SPOCO, Table 1, and of the
# comparative study of UDA and IIC, 2.4.
_DEFAULTS = ((_WIDTHS, "batch"), ((64, 128, 256, 512, 1024), "group"))


def build_network(
    network: str = "unet",
    *,
    in_channels: int,
    out_channels: int,
    spatial_dims: int = 2,
    widths: Sequence[int] = _WIDTHS,
    norm: Norm = "batch",
    dropout: float = 0.0,
    encoder: str = _ENCODER,
    encoder_weights: str | None = None,
) -> SegmentationNetwork:
    """Builds a network by its name.

    ``"unet"`` is the U-Net of the papers (`UNet`). ``"smp.<Architecture>"`` is an architecture of
    segmentation_models_pytorch, which has a U-Net of its own: ``"smp.Unet"``, ``"smp.FPN"``,
    ``"smp.DeepLabV3Plus"``, ``"smp.Segformer"`` ... Upper and lower case do not matter.

    Args:
        network: The name.
        in_channels: C, the channels of an image; any number.
        out_channels: K, the channels of the output.
        spatial_dims: 2, or 3 (``"unet"`` only).
        widths: ``"unet"``: channels of each level.
        norm: ``"unet"``: ``"batch"``, ``"group"`` or ``"none"``.
        dropout: ``"unet"``: probability of dropping a channel of the deepest level.
        encoder: ``"smp.*"``: the encoder's name, such as ``"resnet34"``, ``"mit_b0"`` or, from
            timm, ``"tu-convnext_tiny"``. ``"smp.DPT"`` wants a vision transformer such as
            ``"tu-vit_small_patch16_224"``.
        encoder_weights: ``"smp.*"``: None starts from random weights. A name, such as
            ``"imagenet"``, **downloads** those weights on first use. With a "tu-" encoder any name
            downloads the weights that the encoder's name stands for.

    The weights of 2D networks lie channels-last in memory, which is faster on CPUs and, in mixed
    precision, on GPUs (`benchmarks/training_step.py`), and changes nothing else.

    Raises:
        ValueError: The name is not known, or an argument does not belong to that network.
    """
    built = _build(
        network,
        in_channels=in_channels,
        out_channels=out_channels,
        spatial_dims=spatial_dims,
        widths=widths,
        norm=norm,
        dropout=dropout,
        encoder=encoder,
        encoder_weights=encoder_weights,
    )
    return built.to(memory_format=torch.channels_last) if spatial_dims == 2 else built


def _build(
    network: str,
    *,
    in_channels: int,
    out_channels: int,
    spatial_dims: int,
    widths: Sequence[int],
    norm: Norm,
    dropout: float,
    encoder: str,
    encoder_weights: str | None,
) -> SegmentationNetwork:
    name = network.lower()
    if name == "unet":
        if encoder != _ENCODER or encoder_weights is not None:
            raise ValueError(
                f"network='unet' is the papers' U-Net, which has no encoder to choose, but "
                f"encoder={encoder!r} and encoder_weights={encoder_weights!r} are given: did you "
                "mean network='smp.Unet'?"
            )
        return UNet(
            in_channels,
            out_channels,
            spatial_dims=spatial_dims,
            widths=widths,
            norm=norm,
            dropout=dropout,
        )

    # Here, because it takes seconds and most runs do not need it.
    from semiweak.networks.smp import ARCHITECTURES, SMPNetwork

    architecture = name.removeprefix("smp.")
    if not name.startswith("smp.") or architecture not in ARCHITECTURES:
        names = ", ".join(f"'smp.{a.__name__}'" for a in ARCHITECTURES.values())
        raise ValueError(
            f"network={network!r} is not known; it is 'unet' (the papers' U-Net) or an "
            f"architecture of segmentation_models_pytorch: {names}"
        )
    if spatial_dims != 2:
        raise ValueError(
            f"network={network!r} works on 2D images only, but spatial_dims={spatial_dims}: "
            "for volumes take network='unet'"
        )
    if (tuple(widths), norm) not in _DEFAULTS or dropout != 0:
        raise ValueError(
            f"widths, norm and dropout belong to network='unet'; network={network!r} is chosen by "
            f"its encoder, but widths={list(widths)}, norm={norm!r} and dropout={dropout} are given"
        )
    return SMPNetwork(
        architecture,
        in_channels,
        out_channels,
        encoder=encoder,
        encoder_weights=encoder_weights,
    )
