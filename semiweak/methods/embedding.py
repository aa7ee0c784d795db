"""What the methods share that learn pixel embeddings by SPOCO's losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from semiweak.augment.photometric import Photometric
from semiweak.data.annotations import Kind
from semiweak.data.batch import InstanceBatch
from semiweak.inference.tiling import predict_tiled
from semiweak.losses.pixels import in_full_precision
from semiweak.losses.spoco import spoco_losses
from semiweak.methods.instances import InstanceModule
from semiweak.networks.build import build_network
from semiweak.networks.teacher import Teacher

BACKGROUND_MOMENTUM = 0.95
"""Of the mean embedding of background: it is that of the last few dozen batches."""

CHOICES = {
    "object_loss": ("dice", "bce"),
    "anchor": ("pixel", "mean"),
    "consistency_region": ("unlabelled", "all"),
    "g_network": ("momentum", "shared", "dropout", "trained"),
}
"""What the arguments may be that are a word."""


class EmbeddingModule(InstanceModule):
    """The base of the methods with SPOCO's two networks, its views and the terms of its loss.

    The network f (``network``) is trained; g (``second``, None where it has no weights of its own)
    sees another view of the image. The arguments are those of `SpocoModule`.

    Args:
        weights: The weight of each term of the loss.
        common: The arguments of `SegmentationModule`.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "instances": "every object, and the background as one more",
        "objects": "the painted objects; consistency elsewhere",
        "none": "consistency",
    }
    annotation_terms: ClassVar[frozenset[str]] = frozenset(
        {"pull", "push", "norm", "object", "unlabeled_push"}
    )
    sample_means: ClassVar[frozenset[str]] = annotation_terms | {"consistency"}
    consistency_terms: ClassVar[frozenset[str]] = frozenset({"consistency"})
    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {
        **dict.fromkeys(("pull", "push", "norm", "object"), frozenset({"instances", "objects"})),
        "unlabeled_push": frozenset({"objects"}),
        "consistency": frozenset({"objects", "none"}),
    }

    def __init__(
        self,
        *,
        in_channels: int,
        embedding_dim: int,
        spatial_dims: Literal[2, 3],
        network: str,
        widths: list[int],
        norm: Literal["batch", "group", "none"],
        encoder: str,
        encoder_weights: str | None,
        delta_v: float,
        delta_d: float,
        threshold: float,
        object_loss: Literal["dice", "bce"],
        anchor: Literal["pixel", "mean"],
        max_anchors: int,
        consistency_region: Literal["unlabelled", "all"],
        weights: dict[str, float],
        g_network: Literal["momentum", "shared", "dropout", "trained"],
        momentum: float,
        momentum_warmup: bool,
        dropout: float,
        photometric: dict[str, Any] | None,
        augment_f: bool,
        consistency_only: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, spatial_dims=spatial_dims, **common)
        check_spoco_arguments(delta_v, delta_d, threshold, max_anchors, weights)
        given = (object_loss, anchor, consistency_region, g_network)
        for (name, allowed), value in zip(CHOICES.items(), given, strict=True):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if not 0 < dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be between 0 and 1")
        if consistency_only:
            if weights["consistency"] == 0:
                raise ValueError("consistency_only with consistency_weight 0 leaves no loss at all")
            weights = dict.fromkeys(weights, 0.0) | {"consistency": weights["consistency"]}
        self.weights = weights
        self.consistency_only = consistency_only
        self.settings: dict[str, Any] = {
            "delta_v": delta_v,
            "delta_d": delta_d,
            "threshold": threshold,
            "kind": object_loss,
            "anchor": anchor,
            "region": "all" if consistency_only else consistency_region,
            "max_anchors": max_anchors,
        }
        self.g_network = g_network
        self.dropout = dropout
        self.photometric = Photometric(**(photometric or {}))
        self.augment_f = augment_f
        same: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": embedding_dim,
            "spatial_dims": spatial_dims,
            "widths": tuple(widths),
            "norm": norm,
            "encoder": encoder,
            "encoder_weights": encoder_weights,
        }
        self.network = build_network(network, **same)
        if g_network == "dropout" and not hasattr(self.network, "dropout"):
            raise ValueError(f"g_network 'dropout' needs the network 'unet', not {network!r}")
        self.second: torch.nn.Module | None = None
        if self.uses_consistency and g_network == "momentum":
            self.second = Teacher(self.network, momentum=momentum, warmup=momentum_warmup)
        elif self.uses_consistency and g_network == "trained":
            self.second = build_network(network, **same)
        self.background_mean: Tensor
        self.register_buffer("background_mean", torch.zeros(embedding_dim))
        self.backgrounds_seen: Tensor  # batches that had one
        self.register_buffer("backgrounds_seen", torch.zeros(()))

    @property
    def uses_consistency(self) -> bool:
        """Whether there is a second view at all."""
        return self.weights["consistency"] > 0

    # The networks

    def forward(self, image: Tensor) -> Tensor:
        """Embeddings of the network f, ``(B, D, *S)``, of images ``(B, C, *S)`` of any size."""
        embeddings: Tensor = self.network(image)
        return embeddings

    def embed_g(self, image: Tensor) -> Tensor:
        """Embeddings of the network g (Appendix A.3), ``(B, D, *S)``."""
        if self.second is not None:
            embeddings: Tensor = self.second(image)
            return embeddings
        with self._dropping():
            return self.forward(image)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Switches on the dropout of the weights that g shares with f."""
        if self.g_network != "dropout":
            yield
            return
        layer: Any = self.network.dropout
        layer.p = self.dropout
        try:
            yield
        finally:
            layer.p = 0.0

    def second_embeddings(self, image: Tensor) -> Tensor | None:
        """Embeddings of g, where it is a network of its own."""
        if self.second is None:
            return None
        return predict_tiled(lambda tile: self.embed_g(tile).float(), image, self.tiling)

    # The loss

    def embed_views(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """f(t(x)) and g(t'(x)), with t and t' drawn anew for each image."""
        f = self(self.photometric(image) if self.augment_f else image)
        return f, self.embed_g(self.photometric(image)) if self.uses_consistency else None

    @torch.no_grad()
    @in_full_precision
    def see_background(self, f: Tensor, batch: InstanceBatch) -> None:
        """Remembers the mean embedding of painted background, which tells it in new images."""
        if not self.training or self.consistency_only:
            return
        which = batch["background"][:, None]
        inside = (batch["instances"].flatten(1) == which) & (which > 0)
        sums = torch.einsum("bdn,bn->d", f.flatten(2).float(), inside.float())
        total = self.mean_over_ranks(torch.cat((sums, inside.sum()[None])))
        if total[-1] > 0:
            self.backgrounds_seen += 1
            share = max(1 / float(self.backgrounds_seen), 1 - BACKGROUND_MOMENTUM)
            self.background_mean.lerp_(total[:-1] / total[-1], share)

    def background_embedding(self) -> Tensor | None:
        """The mean embedding ``(D,)`` of painted background; None where none was seen."""
        return self.background_mean if self.backgrounds_seen > 0 else None

    def embedding_losses(
        self, f: Tensor, g: Tensor | None, instances: Tensor, valid: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The paper's terms, each a mean over the images that it speaks about; see `spoco_losses`.

        Args:
            f: Embeddings ``(B, D, *S)``.
            g: Those of the second network; None to leave the consistency out.
            instances: Object ids ``int64 (B, *S)``, 0 where unlabelled.
            valid: False in padding, ``bool (B, *S)``.

        Returns:
            Scalars by the names that ``loss_weights`` has.
        """
        weights = self.weights
        terms = spoco_losses(
            f,
            g,
            instances,
            valid=valid,
            object_terms=not self.consistency_only,
            single_objects=weights["object"] > 0,
            unlabeled_push=weights["unlabeled_push"] > 0,
            **self.settings,
        )
        return {name: self.mean_over_samples(*terms[name]) for name in terms if weights[name] > 0}

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor."""
        return self.weights

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Moves g after f, as both are after a step of the optimiser."""
        super().optimizer_step(*args, **kwargs)
        self.update_second()

    def update_second(self) -> None:
        """Moves g where it is a moving average of f; after a step of the optimiser."""
        if isinstance(self.second, Teacher):
            self.second.update_parameters(self.network)


def check_spoco_arguments(
    delta_v: float, delta_d: float, threshold: float, max_anchors: int, weights: dict[str, float]
) -> None:
    """Refuses margins, kernels and weights that mean nothing.

    Raises:
        ValueError: Says which, and what is allowed.
    """
    if not 0 < delta_v < delta_d:
        raise ValueError(
            f"delta_v is {delta_v} and delta_d is {delta_d}; both are distances, and delta_v the "
            "smaller"
        )
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it must be between 0 and 1")
    if max_anchors < 1:
        raise ValueError(f"max_anchors is {max_anchors}; it must be at least 1")
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{name}_weight is {weight}; it must not be negative")
    if not any(weights.values()):
        raise ValueError("all weights are 0, which leaves no loss at all")
