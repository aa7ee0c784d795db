"""FixMatch: what a weak view is taken for is the target of a strong view of the same image."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from semiweak.augment.strong import strong_view
from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.losses.pseudo_labels import pseudo_label_loss, pseudo_labels
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.arguments import check_pseudo_label_arguments, check_weights, ramp_up
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network
from semiweak.networks.statistics import statistics_kept
from semiweak.networks.teacher import Teacher


class FixMatchModule(SemanticModule):
    """FixMatch for segmentation, with pseudo-labels that no annotation contradicts.

    The weak view is the image as the data module hands it over, turned and mirrored; the strong
    view has other grey levels and holes cut into it, and every pixel where it was. The class that
    the network predicts for a pixel of the weak view is the target of the strong one (Sohn et al.,
    NeurIPS 2020). Boxes, points, tags and masks say which classes a pixel may have, and the
    prediction is chosen among these (the "FixMatch + filtering" of Reiss et al., CVPR 2023).

        cross_entropy = mean over known pixels of      -log p(weak view)[y]               (Eq 3)
        pseudo_label  = mean over all pixels of  [max p(weak view) >= threshold] *
                                                 -log p(strong view)[argmax p(weak view)] (Eq 4)

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
        pseudo_label_weight: Weight of the pseudo-label loss (lambda_u); 0 switches it off.
        filter_candidates: Choose pseudo-labels among the classes that the annotations leave a pixel
            (a painted pixel has one). Otherwise this loss looks at no annotation: as in the
            original, all images are unlabelled images, too.
        threshold: Pixels whose highest probability is lower have no pseudo-label.
        soft: Learn from the probabilities rather than the class.
        temperature: Sharpens the soft targets when below 1.
        teacher: The weak view is predicted by the network ``"self"``, or by a moving average of it
            (``"averaged"``).
        momentum: m of the moving average.
        momentum_warmup: See `Teacher`.
        strong: Arguments of `StrongView`, the strong view; the others have its defaults.
        pseudo_label_rampup: In so many steps the weight of the pseudo-labels grows from 0; 0 for
            its full value from the start, as in the paper.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy on every pixel, of both views",
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
        pseudo_label_weight: float = 1.0,  # FixMatch: lambda_u
        filter_candidates: bool = True,  # DSP, supplement 5.2
        threshold: float = 0.0,  # DSP, supplement 4: the best of 0 to 0.95; FixMatch has 0.95
        soft: bool = False,  # FixMatch, section 2.2
        temperature: float = 1.0,
        teacher: Literal["self", "averaged"] = "self",  # FixMatch, section 2.2
        momentum: float = 0.999,  # FixMatch's average for evaluation
        momentum_warmup: bool = True,
        strong: dict[str, Any] | None = None,
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
        if teacher not in ("self", "averaged"):
            raise ValueError(f"teacher is {teacher!r}; it must be 'self' or 'averaged'")
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
        self.strong = strong_view(strong)
        self.averaged: Teacher | None = None
        if teacher == "averaged" and pseudo_label_weight:
            self.averaged = Teacher(self.network, momentum=momentum, warmup=momentum_warmup)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy of the weak view, and of the strong one against pseudo-labels."""
        image = batch["image"]
        weak = self(image)
        terms = {}
        if self.ce_weight:
            values, known = cross_entropy(weak, batch["labels"])
            terms["cross_entropy"] = self.mean_over_samples(values, known)
        if self.pseudo_label_weight:
            labels = pseudo_labels(
                weak if self.averaged is None else self.averaged(image),
                batch["candidates"] if self.filter_candidates else None,
                valid=batch["valid"],
                threshold=self.threshold,
                soft=self.soft,
                temperature=self.temperature,
            )
            with statistics_kept(self.network):
                strong = self(self.strong(image))
            values, known = pseudo_label_loss(strong, labels)
            terms["pseudo_label"] = self.mean_over_samples(values, known)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor; that of the pseudo-labels grows at first."""
        ramp = ramp_up(self.global_step, self.pseudo_label_rampup)
        return {"cross_entropy": self.ce_weight, "pseudo_label": ramp * self.pseudo_label_weight}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Moves the averaged network after each step of the optimiser."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
