"""DSP: decoupled semantic prototypes, from masks, boxes, points, tags and nothing in one run."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from semiweak import visualize
from semiweak.augment.strong import strong_view
from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.data.batch_annotations import BatchAnnotations, annotations_of
from semiweak.losses.positives import (
    box_positives,
    mask_positives,
    point_positives,
    tag_positives,
)
from semiweak.losses.prototypes import (
    Negatives,
    Positives,
    log_sum_exp,
    negatives,
    prototype_loss,
    prototype_scores,
)
from semiweak.losses.pseudo_labels import pseudo_label_loss, pseudo_labels
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.arguments import check_pseudo_label_arguments, check_weights, ramp_up
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network
from semiweak.networks.projection import Projection
from semiweak.networks.statistics import statistics_kept

_TSNE_PIXELS = 500  # crosses on a map of prototypes


class DSPModule(SemanticModule):
    """Decoupled Semantic Prototypes (Reiss et al., CVPR 2023).

    The score of a class at a pixel is the mean cosine of the pixel's embedding with the prototypes
    of the class, over a temperature (Eq 1). All kinds of annotation speak through one loss: they
    say which pixels are positive for a class, and which associations of pixels and classes they
    rule out (S.7, S.8). On a strong view of every image, the network follows its own prediction
    on the weak view, as far as the annotations allow it.

        L = cross_entropy (painted pixels, weak view)
          + sum over the kinds of annotation of lambda_l L_DSP (weak view) + L_DSP (strong view)
          + pseudo_label (strong view)

    The paper's supplement gives neither the weights nor optimiser, rate and epochs; what stands
    here is said on the method's page, with its reasons.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        network: The network whose features are projected; see `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net and of the projection.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        embedding_dim: D; None for as many as the network has features.
        prototypes: |P_c|, the prototypes of a class.
        temperature: tau.
        ce_weight: Weight of the cross-entropy.
        mask_weight: lambda of masks and scribbles. A term of weight 0 is left out.
        box_weight: lambda of boxes.
        point_weight: lambda of points.
        tag_weight: lambda of image-level tags.
        pseudo_label_weight: Weight of the pseudo-labels.
        box_positives: ``"maxima"``: the highest score of each row and column of a box is a
            positive; ``"pooled"``: their mean is one, as in the authors' code.
        tag_positives: ``"pooled"``: the mean over the image is one positive; ``"all"``: each pixel
            is.
        threshold: Pseudo-labels less probable than this are left out.
        global_batch: With several devices, whether negatives and counts are those of all of them,
            so that two devices with four images are one with eight; False for each its own.
        strong: Arguments of `StrongView`, the strong view.
        tsne_epochs: After these epochs, counted from 1, a map of prototypes and some pixels is
            logged (t-SNE; the paper has it after 10, 50 and 100).
        pseudo_label_rampup: In so many steps the weight of the pseudo-labels grows from 0; 0 for
            its full value from the start, as in the paper.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy and prototypes on every painted pixel",
        "scribbles": "cross-entropy and prototypes on every painted pixel",
        "boxes": "prototypes: a pixel of each row and column is positive, none outside is",
        "points": "prototypes on the clicked pixels",
        "tags": "prototypes: some pixels are positive, none is of an absent class",
        "none": "pseudo-labels, and negatives of the other classes' prototypes",
    }

    annotation_terms: ClassVar[frozenset[str]] = frozenset(
        {"cross_entropy", "mask_prototypes", "box_prototypes", "point_prototypes", "tag_prototypes"}
    )
    sample_means: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "pseudo_label"})
    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {
        "cross_entropy": frozenset({"mask", "scribbles"}),
        "mask_prototypes": frozenset({"mask", "scribbles"}),
        "box_prototypes": frozenset({"boxes"}),
        "point_prototypes": frozenset({"points"}),
        "tag_prototypes": frozenset({"tags"}),
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
        embedding_dim: int | None = None,
        prototypes: int = 5,  # the authors' example
        temperature: float = 0.05,  # the authors' example
        ce_weight: float = 1.0,
        mask_weight: float = 1.0,  # this and the next three: not published
        box_weight: float = 1.0,
        point_weight: float = 1.0,
        tag_weight: float = 1.0,
        pseudo_label_weight: float = 1.0,
        box_positives: Literal["maxima", "pooled"] = "maxima",
        tag_positives: Literal["pooled", "all"] = "pooled",
        threshold: float = 0.0,  # DSP, supplement, Table 1
        global_batch: bool = True,
        strong: dict[str, Any] | None = None,
        tsne_epochs: list[int] = [],  # noqa: B006 never changed
        pseudo_label_rampup: int = 0,
        lr: float = 2e-4,  # this and the next four: SPOCO, appendix A; DSP's are not published
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
        self.weights = {
            "cross_entropy": ce_weight,
            "mask_prototypes": mask_weight,
            "box_prototypes": box_weight,
            "point_prototypes": point_weight,
            "tag_prototypes": tag_weight,
            "pseudo_label": pseudo_label_weight,
        }
        check_weights(
            {
                "ce_weight": ce_weight,
                "mask_weight": mask_weight,
                "box_weight": box_weight,
                "point_weight": point_weight,
                "tag_weight": tag_weight,
                "pseudo_label_weight": pseudo_label_weight,
            }
        )
        check_pseudo_label_arguments(threshold, 1.0, pseudo_label_rampup)
        _check_numbers(prototypes, embedding_dim, temperature)
        if box_positives not in ("maxima", "pooled") or tag_positives not in ("pooled", "all"):
            raise ValueError(
                f"box_positives is {box_positives!r} and tag_positives is {tag_positives!r}; the "
                "first must be 'maxima' or 'pooled', the second 'pooled' or 'all'"
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
        self.network.head = nn.Identity()  # the prototypes are the head
        dim = embedding_dim or self.network.feature_channels
        self.projection = Projection(self.network.feature_channels, dim, spatial_dims, norm)
        directions = torch.randn(num_classes, prototypes, dim)
        self.prototypes = nn.Parameter(nn.functional.normalize(directions, dim=2))
        self.temperature = temperature
        self.of_boxes, self.of_tags = box_positives, tag_positives
        self.threshold = threshold
        self.pseudo_label_rampup = pseudo_label_rampup
        self.global_batch = global_batch
        self.strong = strong_view(strong)
        self.tsne_epochs = tuple(tsne_epochs)
        self._some: Tensor | None = None

    def embed(self, image: Tensor) -> Tensor:
        """Embeddings ``(B, D, *S)`` of images ``(B, C, *S)`` of any size; of any length."""
        embeddings: Tensor = self.projection(self.network.features(image))
        return embeddings

    def forward(self, image: Tensor) -> Tensor:
        """Scores over the temperature, ``float32 (B, K, *S)``, of images ``(B, C, *S)``."""
        return prototype_scores(self.embed(image), self.prototypes, self.temperature)

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy, the prototypes' loss by kinds of annotation, and pseudo-labels."""
        weights = self.weights
        said = annotations_of(batch)
        kinds = [name for name in weights if name in self.term_kinds and weights[name]]
        kinds = [name for name in kinds if name != "cross_entropy"]
        embeddings = self.embed(batch["image"])
        self._remember(embeddings)
        weak = prototype_scores(embeddings, self.prototypes, self.temperature)
        terms: dict[str, Tensor] = {}
        if weights["cross_entropy"]:
            values, known = cross_entropy(weak, said.painted)
            terms["cross_entropy"] = self.mean_over_samples(values, known)
        if not kinds and not weights["pseudo_label"]:
            return terms

        with statistics_kept(self):
            strong = self(self.strong(batch["image"]))
        for name in kinds:
            terms[name] = weak.new_zeros(())
        for scores in (weak, strong) if kinds else ():
            ruled_out = negatives(scores, batch["candidates"], batch["valid"])
            positives = [self._positives(name, scores, said, batch) for name in kinds]
            if self.global_batch:
                ruled_out, positives = self._of_all_ranks(ruled_out, positives)
            for name, of_kind in zip(kinds, positives, strict=True):
                terms[name] = terms[name] + prototype_loss(ruled_out, of_kind)
        if weights["pseudo_label"]:
            labels = pseudo_labels(
                weak, batch["candidates"], valid=batch["valid"], threshold=self.threshold
            )
            values, known = pseudo_label_loss(strong, labels)
            terms["pseudo_label"] = self.mean_over_samples(values, known)
        return terms

    def _positives(
        self, name: str, scores: Tensor, said: BatchAnnotations, batch: SemanticBatch
    ) -> Positives:
        if name == "mask_prototypes":
            return mask_positives(scores, said.painted)
        if name == "point_prototypes":
            return point_positives(scores, said.points, said.point_classes)
        # A box may reach into padding, where every class is a candidate.
        candidates = batch["candidates"] & batch["valid"][:, None]
        if name == "box_prototypes":
            return box_positives(scores, said.boxes, said.box_classes, candidates, self.of_boxes)
        return tag_positives(scores, batch["tags"], candidates, batch["valid"], self.of_tags)

    def _of_all_ranks(
        self, ruled_out: Negatives, positives: list[Positives]
    ) -> tuple[Negatives, list[Positives]]:
        """Adds up what the ranks have found, which then all have the loss of the global batch."""
        mine = torch.stack([*ruled_out, *(x for of_kind in positives for x in of_kind)])
        every = self.gather_from_ranks(mine)
        if len(every) == 1:
            return ruled_out, positives
        logs, sums = every[:, :2], every[:, 2:]
        pairs = sums.sum(0).view(len(positives), 2, -1)
        return Negatives(*log_sum_exp(logs, 0)), [Positives(*pair) for pair in pairs]

    # Pictures

    def _remember(self, embeddings: Tensor) -> None:
        """Keeps a few embeddings of the last batch of an epoch that is to be drawn."""
        if self.training and self.current_epoch + 1 in self.tsne_epochs:
            pixels = embeddings.detach().movedim(1, -1).flatten(0, -2)
            self._some = pixels[torch.randint(len(pixels), (_TSNE_PIXELS,))].float().cpu()

    def on_train_epoch_end(self) -> None:
        """Logs how the prototypes lie, and at chosen epochs draws a map of them."""
        lie = angles(self.prototypes.detach())
        self.log_dict({f"prototypes/{k}": v for k, v in lie.items() if not v.isnan()})
        if self._some is not None and self.trainer.is_global_zero:
            picture = visualize.prototype_map(
                self.prototypes.detach().float().cpu(), self._some, self.class_names
            )
            file = f"prototypes_{self.current_epoch + 1:04d}.png"
            self.log_picture("prototypes", file, picture)
        self._some = None

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor; that of the pseudo-labels grows at first."""
        ramp = ramp_up(self.global_step, self.pseudo_label_rampup)
        return self.weights | {"pseudo_label": ramp * self.weights["pseudo_label"]}


def angles(prototypes: Tensor) -> dict[str, Tensor]:
    """How prototypes ``(C, P, D)`` lie: mean length, and mean angles in degrees.

    ``angle_within`` is between those of one class, ``angle_between`` between those of two; NaN
    where there are none such.
    """
    c, p, _ = prototypes.shape
    unit = nn.functional.normalize(prototypes.float(), dim=2).flatten(0, 1)
    angle = torch.rad2deg((unit @ unit.T).clamp(-1, 1).acos())
    number = torch.arange(c * p, device=unit.device)
    same = number[:, None] // p == number // p
    others = number[:, None] != number
    return {
        "norm": prototypes.float().norm(dim=2).mean(),
        "angle_within": angle[same & others].mean(),
        "angle_between": angle[~same].mean(),
    }


def _check_numbers(prototypes: int, embedding_dim: int | None, temperature: float) -> None:
    """Refuses numbers that mean nothing.

    Raises:
        ValueError: Says which, and what is allowed.
    """
    for name, value in (("prototypes", prototypes), ("embedding_dim", embedding_dim)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
