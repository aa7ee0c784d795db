"""Segmentation beside a branch that tells which classes are in the image: learns from tags."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.inference.tiling import predict_tiled
from semiweak.losses.pixels import probabilities
from semiweak.losses.presence import presence_loss, presence_targets
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network
from semiweak.networks.classification_branch import ClassificationBranch


class ClassificationBranchModule(SemanticModule):
    """A classification branch on the last features of the network (Mlynarski et al., JMI 2019).

    The branch says of an image which classes it has. Tags say so, and so do masks; what the branch
    learns, the features learn that the classes of pixels are told from. It is a baseline of Reiss
    et al., CVPR 2023 (supplement, section 4), whose form of it this is.

        cross_entropy  = mean over known pixels of                     -log p[y]
        classification = mean over classes whose presence is known of  binary cross-entropy
        loss           = cross_entropy + classification_weight * classification

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net; the branch has none.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        classification_weight: Weight of the classification; 0 leaves the branch out.
        separate: A branch of its own for each class; otherwise one with an output a class.
        branch_lr_factor: The learning rate of the branch is this times that of the network. Its
            linear layers have thousands of inputs, so that a step at the rate of the network may
            turn their outputs over; then the features follow the branch instead of the pixels.
        gate: In prediction, take away the classes that the branch does not see (Bae et al., 2022),
            tile by tile; see `gated`.
        gate_threshold: A class is taken away when its probability to be there is below this.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy on every pixel; which classes are there",
        "scribbles": "cross-entropy there; these classes are there",
        "points": "cross-entropy there; these classes are there",
        "boxes": "which classes are there",
        "tags": "which classes are there",
    }
    annotation_terms: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "classification"})
    sample_means: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "classification"})
    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {
        "cross_entropy": frozenset({"mask", "scribbles", "points"}),
    }

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
        classification_weight: float = 0.5,  # not published but for "below that of segmentation"
        separate: bool = True,  # Mlynarski et al.
        branch_lr_factor: float = 0.1,  # not in the paper
        gate: bool = False,  # DSP, supplement 4: no better with it
        gate_threshold: float = 0.5,  # not in the paper
        lr: float = 2e-4,  # this and the next four: as SupervisedModule, to be compared with it
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
        if not classification_weight >= 0:
            raise ValueError(
                f"classification_weight is {classification_weight}; it must not be negative"
            )
        if not branch_lr_factor > 0:
            raise ValueError(f"branch_lr_factor is {branch_lr_factor}; it must be positive")
        if not 0 <= gate_threshold <= 1:
            raise ValueError(f"gate_threshold is {gate_threshold}; it is a probability: 0 to 1")
        if gate and not classification_weight:
            raise ValueError("gate asks the branch, which classification_weight 0 leaves out")
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
        self.branch: ClassificationBranch | None = None
        if classification_weight:
            self.branch = ClassificationBranch(
                self.network.feature_channels,
                num_classes,
                spatial_dims=spatial_dims,
                separate=separate,
            )
        self.classification_weight = classification_weight
        self.branch_lr_factor = branch_lr_factor
        self.gate, self.gate_threshold = gate, gate_threshold

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network, and the branch at a rate of its own."""
        groups = [{"params": [p for p in self.network.parameters() if p.requires_grad]}]
        if self.branch is None:
            return groups
        rate = self.lr * self.branch_lr_factor
        return [*groups, {"params": list(self.branch.parameters()), "lr": rate}]

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    @torch.no_grad()
    def presence(self, image: Tensor) -> Tensor:
        """The probability of each class to be in images ``(B, C, *S)``, ``(B, K)``.

        Raises:
            ValueError: There is no branch.
        """
        return self._both(image)[1].float().sigmoid()

    def _both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the pixels ``(B, K, *S)`` and of the image ``(B, K)``."""
        if self.branch is None:
            raise ValueError("classification_weight is 0, so that there is no branch to ask")
        features, logits = self.network.features_and_output(image)
        return logits, self.branch(features)

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy of the pixels, and of which classes are there."""
        if self.branch is None:
            return {"cross_entropy": self._segmentation(self(batch["image"]), batch)}
        logits, of_image = self._both(batch["image"])
        targets = presence_targets(
            batch["labels"],
            batch["candidates"],
            batch["valid"],
            batch["tags"],
            boxes=batch["boxes"],
            box_labels=batch["box_labels"],
        )
        values, known = presence_loss(of_image, targets)
        return {
            "cross_entropy": self._segmentation(logits, batch),
            "classification": self.mean_over_samples(values, known),
        }

    def _segmentation(self, logits: Tensor, batch: SemanticBatch) -> Tensor:
        return self.mean_over_samples(*cross_entropy(logits, batch["labels"]))

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor."""
        return {"classification": self.classification_weight}

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities ``float32 (B, K, *S)`` of normalised images of any size, by tiles."""
        if not self.gate:
            return super().predict_probabilities(image)

        def of_tile(tile: Tensor) -> Tensor:
            logits, of_image = self._both(tile)
            present = of_image.float().sigmoid() >= self.gate_threshold
            return gated(probabilities(logits), present)

        return predict_tiled(of_tile, image, self.tiling)


def gated(probabilities: Tensor, present: Tensor) -> Tensor:
    """Probabilities among the classes that are in the image; the others get 0 (Bae et al., 2022).

    A pixel that has no probability left keeps its own.

    Args:
        probabilities: ``(B, K, *S)``, adding up to 1.
        present: ``bool (B, K)``.
    """
    axes = (1,) * (probabilities.ndim - 2)
    kept = probabilities * present.view(*present.shape, *axes)
    total = kept.sum(1, keepdim=True)
    return (kept / total).where(total > 0, probabilities)
