"""Points that teach more than a pixel each: a second head tells how far away the nearest one is."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.data.distance_cache import DistanceMaps
from semiweak.data.distances import Distance, check_distance, distance_maps
from semiweak.data.source import Maps
from semiweak.losses.distance_regression import distance_regression
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.arguments import check_weights
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network
from semiweak.networks.unet import CONV


class PointDistanceModule(SemanticModule):
    """A U-Net with a second head that regresses the distance to the nearest point of each class.

    The "Euclidean branch" and the "Geodesic branch" of Reiss et al. (CVPR 2023, supplement,
    section 4). A point pins the class of one pixel; how far every other pixel is from it says more
    about the shape of the image, and is learned by the layers that both heads share.

        cross_entropy = mean over known pixels of  -log p[y]
        distance      = mean over pixels and classes with points of  h(o - exp(-d / scale))

    with d the distance, o what the second head, a 1x1 convolution, makes of the same features, and
    h the smooth L1 distance. Distances are those of the whole image, made once and kept
    (`DistanceMaps`); only images with points have any.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        ce_weight: Weight of the cross-entropy; positive, as distances alone teach no class.
        distance_weight: Weight of the regression; 0 switches it off, and its head with it.
        distance: ``"euclidean"``: straight. ``"geodesic"``: along the way in the image that changes
            the least in intensity; see `distance_maps`.
        mixing: Of a geodesic distance, the share of intensity in it, 0 to 1 (lambda).
        spacing: The size of a pixel along each axis, such as ``[10, 1, 1]`` for sections ten pixels
            thick; by default all are alike.
        scale: At this distance a target has fallen from 1 to 1/e; in pixels, or in the unit of
            ``spacing``.
        cache: The folder where distances are kept from one training to the next; ``"auto"`` for
            ``semiweak/distances`` in the user's cache folder (``$XDG_CACHE_HOME``, or
            ``~/.cache``); null for memory alone, where each worker of the data computes its own.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation Dice stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "cross-entropy on every painted pixel",
        "scribbles": "cross-entropy on every painted pixel",
        "points": "cross-entropy on the clicked pixels, distances on every pixel",
    }
    annotation_terms: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "distance"})
    sample_means: ClassVar[frozenset[str]] = frozenset({"cross_entropy", "distance"})
    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {"distance": frozenset({"points"})}

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
        distance_weight: float = 1.0,  # this and the next five: not in the paper
        distance: Distance = "geodesic",
        mixing: float = 0.9,
        spacing: list[float] | None = None,
        scale: float = 32.0,
        cache: str | None = "auto",
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
        check_weights({"ce_weight": ce_weight, "distance_weight": distance_weight})
        if not ce_weight:
            raise ValueError(
                "ce_weight is 0, but distances alone teach no class; it must be positive"
            )
        check_distance(distance, mixing, spacing, spatial_dims)
        if not scale > 0:
            raise ValueError(f"scale is {scale}; it is a distance in pixels, and must be positive")
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
        self.ce_weight, self.distance_weight = ce_weight, distance_weight
        self.distance: Distance = distance
        self.mixing, self.spacing = mixing, spacing
        self.scale, self.cache = scale, cache
        self.distance_head: torch.nn.Module | None = None
        if distance_weight:
            conv = CONV[spatial_dims]
            self.distance_head = conv(self.network.feature_channels, num_classes, kernel_size=1)

    def setup(self, stage: str) -> None:
        """Asks the data module for distance maps of the training images."""
        super().setup(stage)
        module = self._data_module()
        if stage == "fit" and self.distance_weight and hasattr(module, "add_maps"):
            make = DistanceMaps(
                self.num_classes,
                distance=self.distance,
                mixing=self.mixing,
                spacing=self.spacing,
                cache=self.cache,
            )
            module.add_maps(Maps("distances", make))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """Cross-entropy on the known pixels, and the regression of the images with points."""
        if self.distance_head is None:
            logits = self(batch["image"])
        else:
            features, logits = self.network.features_and_output(batch["image"])
        values, known = cross_entropy(logits, batch["labels"])
        terms = {"cross_entropy": self.mean_over_samples(values, known)}
        if self.distance_head is not None:
            values, known = distance_regression(
                self.distance_head(features),
                batch["distances"] if "distances" in batch else self.distances(batch),
                scale=self.scale,
                valid=batch["valid"],
            )
            terms["distance"] = self.mean_over_samples(values, known)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor."""
        return {"cross_entropy": self.ce_weight, "distance": self.distance_weight}

    def distances(self, batch: SemanticBatch) -> Tensor:
        """The distance maps ``float32 (B, K, *S)`` of a batch that brings none.

        They know the points and the intensities of the patch alone, and are computed on the CPU in
        every step.
        """
        maps = [
            distance_maps(
                image.float().cpu().numpy(),
                points.float().cpu().numpy(),
                labels.cpu().numpy(),
                self.num_classes,
                distance=self.distance,
                mixing=self.mixing,
                spacing=self.spacing,
            )
            for image, points, labels in zip(
                batch["image"].detach(), batch["points"], batch["point_labels"], strict=True
            )
        ]
        return torch.stack([torch.from_numpy(m) for m in maps]).to(batch["image"].device)
