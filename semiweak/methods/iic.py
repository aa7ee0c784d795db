"""IIC: clusters of pixels that two views of an image tell most about each other."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from semiweak.augment.random_view import random_view
from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.inference.tiling import predict_tiled
from semiweak.losses.mutual_information import joint_matrices, mutual_information_loss
from semiweak.losses.pixels import probabilities
from semiweak.methods.arguments import check_at_least, check_choices, check_weights
from semiweak.methods.semantic import SemanticModule
from semiweak.metrics.clusters import ClusterMappedIoU
from semiweak.networks.build import build_network
from semiweak.networks.cluster_heads import ClusterHeads
from semiweak.networks.statistics import statistics_kept

Head = Literal["main", "auxiliary"]
OnCollapse = Literal["warn", "stop", "ignore"]


class IICModule(SemanticModule):
    """Invariant information clustering for segmentation (Ji et al., ICCV 2019).

    No label is learned from. Each pixel of an image and of its turned view gets a probability for
    each of a few clusters, and the mutual information of the two is made as large as possible: so
    the clusters are told by what stays the same, and all of them are used.

        P_t(i, j)  = sum over pixels u of p_i(u + t) p'_j(u), made symmetric and normalised
        main       = - mean over displacements t of the mutual information of P_t
        auxiliary  = the same for a second head with more clusters, which takes up what disturbs

    What a cluster means is found out in validation: each is mapped to a class by the painted
    validation images (`ClusterMappedIoU`), the main head's one to one, the other's many to one. The
    mapping is in the checkpoint, so that prediction writes classes. Without validation images the
    main head's clusters themselves are written.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, and clusters of the main head.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        auxiliary_clusters: Clusters of the auxiliary head; five times the classes by default.
        sub_heads: So many heads of each kind learn apart from each other, and the one with the
            lowest loss in the last epoch predicts.
        heads: Both learn in every step (``"joint"``), or in turn (``"alternate"``).
        main_weight: Weight of the main head's loss; 0 switches it off.
        auxiliary_weight: Weight of the other's.
        radius: T: also pixels up to so many pixels apart tell of each other.
        mi_lambda: Weight of the marginal entropies; above 1 the clusters become more alike in size.
        collapsed: One joint distribution for all displacements in place of one each.
        view: Arguments of `RandomView`, the second view; by default rotations by any angle.
        output: The head that predicts.
        collapse_threshold: The clusters count as collapsed when the entropy of their mean
            probabilities is below this share of the largest one, log K.
        on_collapse: What then happens at the end of the epoch: ``"warn"``, ``"stop"`` (warn, and
            end the training) or ``"ignore"``.
        lr: Learning rate of RMSProp.
        weight_decay: Weight decay of RMSProp.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "the image alone; in validation it tells what clusters mean",
        "scribbles": "the image alone",
        "boxes": "the image alone",
        "points": "the image alone",
        "tags": "the image alone",
        "none": "the image",
    }
    annotation_terms: ClassVar[frozenset[str]] = frozenset()
    sample_means: ClassVar[frozenset[str]] = frozenset()
    global_terms: ClassVar[frozenset[str]] = frozenset({"main", "auxiliary"})

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        spatial_dims: Literal[2, 3] = 2,
        network: str = "unet",
        widths: list[int] = [64, 128, 256, 512, 1024],  # noqa: B006 never changed; [2.4]: U-Net
        norm: Literal["batch", "group", "none"] = "group",  # 2.4: none, which learns far slower
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
        auxiliary_clusters: int | None = None,  # IIC, COCO-Stuff-3: 15 for 3 classes
        sub_heads: int = 1,  # IIC, for segmentation
        heads: Literal["joint", "alternate"] = "joint",
        main_weight: float = 1.0,
        auxiliary_weight: float = 1.0,
        radius: int = 0,
        mi_lambda: float = 1.0,
        collapsed: bool = False,  # IIC, all published settings
        view: dict[str, Any] | None = None,
        output: Head = "main",
        collapse_threshold: float = 0.1,
        on_collapse: OnCollapse = "warn",
        lr: float = 0.01,  # Table 2 of the comparative study
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            spatial_dims=spatial_dims,
            lr=lr,
            weight_decay=weight_decay,
            lr_factor=1.0,
            lr_patience=0,
            min_lr=0.0,
        )
        self.save_hyperparameters()
        check_weights({"main_weight": main_weight, "auxiliary_weight": auxiliary_weight})
        check_choices(
            {
                "heads": (heads, ("joint", "alternate")),
                "output": (output, get_args(Head)),
                "on_collapse": (on_collapse, get_args(OnCollapse)),
            }
        )
        check_at_least(1, {"sub_heads": sub_heads})
        check_at_least(0, {"radius": radius})
        if not 0 <= collapse_threshold < 1:
            raise ValueError(
                f"collapse_threshold is {collapse_threshold}; it is a share: 0 to below 1"
            )
        clusters = 5 * num_classes if auxiliary_clusters is None else auxiliary_clusters
        if clusters < num_classes:
            raise ValueError(
                f"auxiliary_clusters is {clusters}; there must be as many as classes, "
                f"{num_classes}, or more"
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
        weights = {"main": main_weight, "auxiliary": auxiliary_weight}
        if not weights[output]:
            raise ValueError(f"output is {output!r}, but {output}_weight is 0: it learns nothing")
        self.network.head = nn.Identity()  # these are in its place
        self.heads = nn.ModuleDict(
            {
                name: ClusterHeads(
                    self.network.feature_channels,
                    number,
                    number=sub_heads,
                    spatial_dims=spatial_dims,
                )
                for name, number in (("main", num_classes), ("auxiliary", clusters))
                if weights[name]
            }
        )
        self.weights = {name: weights[name] for name in self.heads}
        self.alternate = heads == "alternate"
        self.radius, self.mi_lambda, self.collapsed = radius, mi_lambda, collapsed
        self.view = random_view({"operations": ["rotate"], "number": 1} | (view or {}))
        self.output: Head = output
        self.collapse_threshold = collapse_threshold
        self.on_collapse: OnCollapse = on_collapse
        self.val_clusters, self.test_clusters = (
            nn.ModuleDict(
                {
                    name: ClusterMappedIoU(
                        heads.clusters,
                        num_classes,
                        assignment="one_to_one" if name == "main" else "many_to_one",
                    )
                    for name, heads in self._heads()
                }
            )
            for _ in range(2)
        )

    def _heads(self) -> list[tuple[Head, ClusterHeads]]:
        return [(cast(Head, name), cast(ClusterHeads, h)) for name, h in self.heads.items()]

    # Training

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """The negative mutual information between the views' clusters, of each kind of head."""
        image = batch["image"]
        seen = self.view(image)
        valid = batch["valid"] & seen.rotation.valid(batch["valid"])
        first = self.network.features(image)
        with statistics_kept(self.network):
            second = self.network.features(seen.image)
        turn = [name for name, _ in self._heads()]
        if self.alternate:
            turn = turn[self.global_step % len(turn) :][:1]
        terms: dict[str, Tensor] = {}
        idle = first.new_zeros(())
        for name, heads in self._heads():
            if name not in turn:  # distributed training wants every weight used
                idle = idle + 0 * torch.stack([p.sum() for p in heads.parameters()]).sum()
                continue
            pairs = [
                (probabilities(here), seen.rotation.turn_back(probabilities(there)))
                for here, there in zip(heads(first), heads(second), strict=True)
            ]
            apart = [self._loss(*pair, valid) for pair in pairs]
            terms[name] = torch.stack(apart).mean()
            heads.observe([loss.detach() for loss in apart], pairs[int(heads.best)][0])
        return {name: term + idle for name, term in terms.items()}

    def _loss(self, first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
        joints = joint_matrices(first, second, valid=valid, radius=self.radius)
        return mutual_information_loss(
            self.gather_from_ranks(joints).sum(0), lamb=self.mi_lambda, collapsed=self.collapsed
        )

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor."""
        return self.weights

    def on_validation_epoch_start(self) -> None:
        """Chooses the best heads before validation finds out what their clusters mean."""
        self._conclude()

    def on_train_epoch_end(self) -> None:
        """Chooses the best heads where there is no validation."""
        self._conclude()

    def _conclude(self) -> None:
        """Ends an epoch of training: chooses heads, and looks whether clusters have collapsed."""
        for name, heads in self._heads():
            if heads.seen is None:  # on all ranks alike: there was no step
                continue
            entropy = heads.conclude(self.mean_over_ranks(heads.seen))
            self.log(f"train/entropy/{name}", entropy)
            if entropy < self.collapse_threshold and self.on_collapse != "ignore":
                self._alarm(name, entropy)

    def _alarm(self, name: Head, entropy: float) -> None:
        ends = self.on_collapse == "stop"
        self.trainer.should_stop |= ends
        if self.trainer.is_global_zero:
            warnings.warn(
                f"the clusters of the {name} head have collapsed in epoch {self.current_epoch}: "
                f"the entropy of their mean probabilities is {entropy:.3f} of the largest, so that "
                "nearly all pixels are in one"
                + ("; the training ends" if ends else "")
                + ". Lower model.lr, raise model.mi_lambda, or take another seed",
                stacklevel=2,
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """RMSProp."""
        return torch.optim.RMSprop(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    # What the clusters mean

    def forward(self, image: Tensor) -> Tensor:
        """Log-probabilities of the classes, ``(B, K, *S)``, of images ``(B, C, *S)``."""
        features = self.network.features(image)
        heads = cast(ClusterHeads, self.heads[self.output])
        return self._classes(probabilities(heads.logits(features))).clamp_min(1e-12).log()

    def _classes(self, of_clusters: Tensor) -> Tensor:
        heads = cast(ClusterHeads, self.heads[self.output])
        if self.output == "main" and bool((heads.mapping < 0).any()):
            return of_clusters  # as many as classes
        assert self.num_classes is not None
        return heads.classes(of_clusters, self.num_classes)

    def cluster_probabilities(self, image: Tensor) -> dict[str, Tensor]:
        """Of each head, ``float32 (B, M, *S)``, of normalised images of any size, by tiles."""
        kinds = self._heads()

        def of_tile(tile: Tensor) -> Tensor:
            features = self.network.features(tile)
            return torch.cat([probabilities(heads.logits(features)) for _, heads in kinds], 1)

        found = predict_tiled(of_tile, image, self.tiling)
        parts = torch.split(found, [heads.clusters for _, heads in kinds], 1)
        return {name: part for (name, _), part in zip(kinds, parts, strict=True)}

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities ``float32 (B, K, *S)`` of normalised images of any size, by tiles."""
        return self._classes(self.cluster_probabilities(image)[self.output])

    def validation_step(self, batch: SemanticBatch, batch_idx: int) -> None:
        """Counts the clusters against the classes."""
        found = self.cluster_probabilities(batch["image"])
        _count(self.val_clusters, found, batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Maps the clusters to classes, and logs the scores of the validation images by that."""
        for name, heads in self._heads():
            metric = cast(ClusterMappedIoU, self.val_clusters[name])
            scores, mapping = metric.scores_and_mapping()
            metric.reset()
            if scores["iou"].isnan().all():
                continue  # nothing was painted
            heads.mapping.copy_(mapping)
            self.log(f"val/mapped_iou/{name}", scores["iou"].nanmean())
            if name == self.output:
                self.log_classes("val", scores)

    def test_step(self, batch: SemanticBatch, batch_idx: int) -> None:
        """Scores the classes of the mapping kept, and counts the clusters against the classes."""
        found = self.cluster_probabilities(batch["image"])
        self.test_scores.update(self._classes(found[self.output]), batch["labels"])
        _count(self.test_clusters, found, batch["labels"])

    def on_test_epoch_end(self) -> None:
        """Logs the scores by the mapping kept, and by that of the test images themselves."""
        super().on_test_epoch_end()
        for name, _ in self._heads():
            metric = cast(ClusterMappedIoU, self.test_clusters[name])
            self.log(f"test/mapped_iou/{name}", metric.compute())
            metric.reset()


def _count(metrics: nn.ModuleDict, found: dict[str, Tensor], labels: Tensor) -> None:
    """Counts the clusters of each head against the classes."""
    for name, of_clusters in found.items():
        cast(ClusterMappedIoU, metrics[name]).update(of_clusters, labels)
