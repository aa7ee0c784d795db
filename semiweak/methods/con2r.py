"""Con2R: pixels that are close, or taken for the same class, have similar embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from semiweak.augment.strong import strong_view
from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.losses.graph_contrast import (
    class_similarity,
    graph_contrast_loss,
    graph_targets,
    receptive_overlap,
)
from semiweak.losses.objects import random_among
from semiweak.losses.pixels import pick
from semiweak.losses.pseudo_labels import pseudo_labels
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.arguments import check_at_least, check_weights
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network
from semiweak.networks.statistics import statistics_kept


class Con2RModule(SemanticModule):
    """Graph-constrained contrastive regularisation (Con2R; Reiss et al., ECCV 2022), 2D and 3D.

    N query and N neighbour pixels are drawn from each image. A graph joins those that lie close
    together and those that the network takes for the same class, among the classes that the
    annotations leave them; their embeddings, of a strong view of the image, have to be similar in
    that measure.

        cross_entropy = mean over known pixels of -log p(weak view)[y]
        contrast      = 1/2 mean over queries    of -sum_n T_row(q, n) log softmax_n <f_q, f_n>
                      + 1/2 mean over neighbours of -sum_q T_col(q, n) log softmax_q <f_q, f_n>

    with T the graph (`graph_targets`), and f the embeddings. The paper's text was not at hand: the
    contrast is that of the authors' code, its place in a training is inferred.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        ce_weight: Weight of the cross-entropy, above 0.
        contrast_weight: Weight of the contrast; 0 switches it off, which leaves
            `SupervisedModule`.
        queries: N, how many queries and as many neighbours are drawn from each image. Time and
            memory of the graph grow with its square.
        reach: r, in pixels: two pixels are close when they are less than this apart along every
            axis. A number, or a list of one for each axis, in the images' order.
        alpha: The share of closeness in the graph; the rest is the share of the classes.
        embedding_dim: D, the channels of a linear layer on the features; 0 takes the features
            themselves for embeddings.
        filter_candidates: Join by the prediction among the classes that the annotations leave a
            pixel (a painted pixel has one). Otherwise the contrast looks at no annotation.
        normalize: Let embeddings have the length 1. The authors' code takes them as they are given.
        temperature: Divides the embeddings' inner products; 1 is that of the code.
        strong: Arguments of `StrongView`, the strong view; the others have its defaults.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy on every pixel; the contrast joins by the true classes",
        "scribbles": "the same there, the contrast by predicted classes elsewhere",
        "points": "the same there, the contrast by predicted classes elsewhere",
        "boxes": "contrast, by predictions of a boxed class inside only",
        "tags": "contrast, by predictions of no absent class",
        "none": "contrast, by predicted classes",
    }
    annotation_terms: ClassVar[frozenset[str]] = frozenset({"cross_entropy"})
    sample_means: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "contrast"})
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
        contrast_weight: float = 0.1,  # this and the next four: not in what is published
        queries: int = 512,
        reach: float | list[float] = 32.0,
        alpha: float = 0.5,
        embedding_dim: int = 64,
        filter_candidates: bool = True,  # DSP, supplement, Table 2: with tags, boxes or points
        normalize: bool = True,  # this and the next: the authors' code leaves it to its caller
        temperature: float = 0.1,
        strong: dict[str, Any] | None = None,  # DSP, supplement 4: as FixMatch
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
        check_weights({"ce_weight": ce_weight, "contrast_weight": contrast_weight})
        if not ce_weight:
            raise ValueError("ce_weight is 0; nothing else teaches the classes")
        check_at_least(2, {"queries": queries})
        check_at_least(0, {"embedding_dim": embedding_dim})
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it is a share: 0 to 1")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        self.reach = _one_an_axis(reach, spatial_dims)
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
        self.ce_weight, self.contrast_weight = ce_weight, contrast_weight
        self.queries, self.alpha = queries, alpha
        self.filter_candidates = filter_candidates
        self.normalize, self.temperature = normalize, temperature
        self.strong = strong_view(strong)
        # After the network, so that its first weights are those of SupervisedModule.
        self.projection: nn.Module = nn.Identity()
        if contrast_weight and embedding_dim:
            # A 1x1 convolution, for the pixels that are drawn alone.
            self.projection = nn.Linear(self.network.feature_channels, embedding_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy of the weak view, and the contrast of pixels of the strong one."""
        weak = self(batch["image"])
        values, known = cross_entropy(weak, batch["labels"])
        terms = {"cross_entropy": self.mean_over_samples(values, known)}
        if self.contrast_weight:
            values, known = self._contrast(weak, batch)
            terms["contrast"] = self.mean_over_samples(values, known)
        return terms

    def _contrast(self, logits: Tensor, batch: SemanticBatch) -> tuple[Tensor, Tensor]:
        """The contrast of each image, and which have a pixel; logits of the weak view."""
        valid = batch["valid"].flatten(1)
        pixels = random_among(valid, 2 * self.queries)  # the queries, then the neighbours
        rows, columns = self._graph(logits, pixels, batch["candidates"])
        query, neighbours = self._embed(batch["image"], pixels).chunk(2, dim=1)
        values = graph_contrast_loss(
            query,
            neighbours,
            rows,
            columns,
            normalize=self.normalize,
            temperature=self.temperature,
        )
        return values, valid.any(1)

    def _graph(self, logits: Tensor, pixels: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The graph of some pixels ``(B, 2N)``; carries no gradient."""
        places = torch.stack(torch.unravel_index(pixels, logits.shape[2:]), dim=2)
        query, neighbours = places.chunk(2, dim=1)
        overlap = receptive_overlap(query, neighbours, self.reach)
        taken_for = pseudo_labels(
            pick(logits.flatten(2), pixels).mT,
            pick(candidates.flatten(2), pixels).mT if self.filter_candidates else None,
            soft=True,
        )
        query, neighbours = taken_for.targets.mT.chunk(2, dim=1)
        similarity = class_similarity(query, neighbours)
        return graph_targets(overlap, similarity, alpha=self.alpha)

    def _embed(self, image: Tensor, pixels: Tensor) -> Tensor:
        """Embeddings ``(B, 2N, D)`` of those pixels of a strong view."""
        with statistics_kept(self.network):
            features = self.network.features(self.strong(image))
        embeddings: Tensor = self.projection(pick(features.flatten(2), pixels))
        return embeddings

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor."""
        return {"cross_entropy": self.ce_weight, "contrast": self.contrast_weight}


def _one_an_axis(reach: float | Sequence[float], spatial_dims: int) -> list[float]:
    """The reach along each axis.

    Raises:
        ValueError: One is not positive, or there is another number of them than of axes.
    """
    each = list(reach) if isinstance(reach, Sequence) else [reach] * spatial_dims
    if len(each) != spatial_dims or not all(r > 0 for r in each):
        raise ValueError(
            f"reach is {reach}; it must be a positive number of pixels, or a list of "
            f"{spatial_dims}, one for each axis"
        )
    return each
