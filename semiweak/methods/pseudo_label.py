"""Online pseudo-labels: what the network takes a pixel for is its target."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.losses.pseudo_labels import pseudo_label_loss, pseudo_labels
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.arguments import check_pseudo_label_arguments, check_weights, ramp_up
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network


class PseudoLabelModule(SemanticModule):
    """Pseudo-labels that the network makes of each batch while it learns from it.

    The class that the network predicts for a pixel is the target of that same prediction (Lee, ICML
    workshop 2013; a baseline of Reiss et al., CVPR 2023): on pixels that nobody annotated it makes
    the network surer of what it believes. Boxes, points, tags and masks say which classes a pixel
    may have, and the pseudo-label is chosen among these; where the network believes in another
    class, it learns that it is wrong.

        cross_entropy = mean over known pixels of      -log p[y]
        pseudo_label  = mean over all pixels of  [max p >= threshold] * -log p[argmax p]

    The maxima are over the classes that the annotations leave the pixel.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        ce_weight: Weight of the cross-entropy; 0 switches it off.
        pseudo_label_weight: Weight of the pseudo-label loss; 0 switches it off.
        filter_candidates: Choose pseudo-labels among the classes that the annotations leave a pixel
            (a painted pixel has one). Otherwise this loss looks at no annotation, and all images
            are unlabelled images, too.
        threshold: Pixels whose highest probability is lower have no pseudo-label.
        soft: Learn from the probabilities rather than the class. Without filter, and at temperature
            1, they are what the network predicts already, and there is nothing to learn.
        temperature: Sharpens the soft targets when below 1.
        pseudo_label_rampup: In so many steps the weight of the pseudo-labels grows from 0; 0 for
            its full value from the start, as in the paper.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy on every pixel",
        "scribbles": "cross-entropy there, pseudo-labels elsewhere",
        "points": "cross-entropy there, pseudo-labels elsewhere",
        "boxes": "pseudo-labels, of a boxed class inside only",
        "tags": "pseudo-labels, of no absent class",
        "none": "pseudo-labels",
    }
    annotation_terms: ClassVar[frozenset[str]] = frozenset({"cross_entropy"})
    sample_means: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "pseudo_label"})
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
        ce_weight: float = 1.0,
        pseudo_label_weight: float = 1.0,  # DSP's toy script; Lee raises it from 0 to 3
        filter_candidates: bool = True,  # DSP, supplement 5.2
        threshold: float = 0.0,  # Lee has none
        soft: bool = False,  # Lee has hard ones
        temperature: float = 1.0,
        pseudo_label_rampup: int = 0,
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
        check_weights({"ce_weight": ce_weight, "pseudo_label_weight": pseudo_label_weight})
        check_pseudo_label_arguments(threshold, temperature, pseudo_label_rampup)
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
        self.ce_weight, self.pseudo_label_weight = ce_weight, pseudo_label_weight
        self.pseudo_label_rampup = pseudo_label_rampup
        self.filter_candidates = filter_candidates
        self.threshold, self.soft, self.temperature = threshold, soft, temperature

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy against what annotators said, and against what the network says."""
        logits = self(batch["image"])
        terms = {}
        if self.ce_weight:
            values, known = cross_entropy(logits, batch["labels"])
            terms["cross_entropy"] = self.mean_over_samples(values, known)
        if self.pseudo_label_weight:
            labels = pseudo_labels(
                logits,
                batch["candidates"] if self.filter_candidates else None,
                valid=batch["valid"],
                threshold=self.threshold,
                soft=self.soft,
                temperature=self.temperature,
            )
            values, known = pseudo_label_loss(logits, labels)
            terms["pseudo_label"] = self.mean_over_samples(values, known)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor; that of the pseudo-labels grows at first."""
        ramp = ramp_up(self.global_step, self.pseudo_label_rampup)
        return {"cross_entropy": self.ce_weight, "pseudo_label": ramp * self.pseudo_label_weight}
