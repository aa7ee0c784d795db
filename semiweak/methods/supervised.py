"""Supervised segmentation: the U-Net row of the papers' tables."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.losses.supervised import cross_entropy, dice_loss
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network


class SupervisedModule(SemanticModule):
    """Cross-entropy and soft Dice on the pixels whose class is known.

    The floor that every other method has to beat on the same annotations. It learns from painted
    pixels and clicked points and ignores boxes, tags and unlabelled images.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        network: ``"unet"`` for the papers' U-Net, or an architecture of
            segmentation_models_pytorch; see `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        ce_weight: Weight of the cross-entropy; 0 switches it off.
        dice_weight: Weight of the Dice loss; 0 switches it off.
        class_weights: Weight of each class in the cross-entropy.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy and Dice on every painted pixel",
        "scribbles": "cross-entropy and Dice on every painted pixel",
        "points": "cross-entropy and Dice on the clicked pixels",
    }

    annotation_terms: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "dice"})
    sample_means: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "dice"})

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        spatial_dims: Literal[2, 3] = 2,
        network: str = "unet",
        widths: list[int] = [16, 32, 64, 128, 256, 512],  # noqa: B006 never changed; [SPOCO Tab. 1]
        norm: Literal["batch", "group", "none"] = "batch",
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
        ce_weight: float = 1.0,
        dice_weight: float = 0.0,
        class_weights: list[float] | None = None,
        lr: float = 2e-4,  # this and the next four: SPOCO, appendix A
        weight_decay: float = 1e-5,
        lr_factor: float = 0.2,
        lr_patience: int = 10,
        min_lr: float = 1e-6,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            spatial_dims=spatial_dims,
            lr=lr,
            weight_decay=weight_decay,
            lr_factor=lr_factor,
            lr_patience=lr_patience,
            min_lr=min_lr,
        )
        self.save_hyperparameters()
        if ce_weight < 0 or dice_weight < 0 or ce_weight + dice_weight == 0:
            raise ValueError(
                f"ce_weight is {ce_weight} and dice_weight is {dice_weight}; neither may be "
                "negative and one must be positive"
            )
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(
                f"class_weights has {len(class_weights)} values for {num_classes} classes"
            )
        self.network = build_network(
            network,
            in_channels=in_channels,
            out_channels=num_classes,
            spatial_dims=spatial_dims,
            widths=tuple(widths),
            norm=norm,
            encoder=encoder,
            encoder_weights=encoder_weights,
        )
        self.ce_weight, self.dice_weight = ce_weight, dice_weight
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy and Dice, each a mean over the images with known pixels."""
        logits = self(batch["image"])
        terms = {}
        if self.ce_weight:
            values, known = cross_entropy(logits, batch["labels"], class_weights=self.class_weights)
            terms["cross_entropy"] = self.mean_over_samples(values, known)
        if self.dice_weight:
            values, known = dice_loss(logits, batch["labels"])
            terms["dice"] = self.mean_over_samples(values, known)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor."""
        return {"cross_entropy": self.ce_weight, "dice": self.dice_weight}
