"""SPOCO: instance segmentation from a few painted objects, by pixel embeddings."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from semiweak.data.batch import InstanceBatch
from semiweak.methods.embedding import EmbeddingModule


class SpocoModule(EmbeddingModule):
    """Sparse object-level supervision with pixel embeddings (Wolny et al., CVPR 2022).

    The network f maps each pixel to an embedding. On painted objects it learns that pixels of one
    object are near each other and objects far from each other (pull, push), and that the soft mask
    which a random pixel of an object selects is the object. On what nobody painted it learns to
    stay away from the painted objects, and that the soft masks of random pixels are the same in the
    embeddings of a second network g, which sees another view of the image.

        L_SO  = pull + push + object                          (Eq 5, images painted completely)
        L_SSO = L_SO + unlabeled_push + consistency           (Eq 8, images painted in part)

    Which of the two it is follows from the batch: pixels with ``instances`` 0 are unlabelled; where
    there are none, the last two terms are 0. The discriminative loss of De Brabandere et al., the
    papers' baseline, is ``object_weight=0, unlabeled_push_weight=0, consistency_weight=0``.

    Args:
        in_channels: Channels of the images.
        embedding_dim: D, the dimension of the embeddings.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each. The paper takes as many levels as it takes
            for the receptive field to reach the size of a patch.
        norm: Normalisation of the U-Net; the paper has ``"group"`` for electron microscopy and 3D.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        delta_v: Within this distance of its object's mean, a pixel is not pulled; the radius of an
            object in the space of embeddings.
        delta_d: Objects are pushed until their means are twice this from each other.
        threshold: t, the value of the soft mask at distance ``delta_v`` from its anchor; the paper
            found training unstable above 0.95.
        object_loss: Compares soft mask and object by ``"dice"`` or ``"bce"``.
        anchor: Anchor of an object: a random ``"pixel"`` of it, or its ``"mean"``, as the authors'
            code has it.
        max_anchors: At most so many anchors an image are drawn to cover the unlabelled region.
        consistency_region: Where they are drawn: in the ``"unlabelled"`` region, or in ``"all"`` of
            the image, which regularises images that are painted completely, too (Table 2).
        consistency_only: Learn from the consistency alone, in all of the image: self-supervised
            pre-training, which needs no annotation.
        pull_weight: Weight of the pull (alpha).
        push_weight: Weight of the push (beta).
        norm_weight: Weight of the regulariser.
        object_weight: Weight of the object loss (lambda).
        unlabeled_push_weight: Weight of the unlabelled push (gamma).
        consistency_weight: Weight of the consistency (delta). A term of weight 0 is left out.
        g_network: The second network: ``"momentum"``: a moving average of f; ``"shared"``: f
            itself; ``"dropout"``: f with spatial dropout in the bottleneck; ``"trained"``: one with
            weights of its own.
        momentum: m of the moving average.
        momentum_warmup: See `Teacher`.
        dropout: Probability of dropping a channel, for ``"dropout"``.
        photometric: Strengths and probabilities of the views, as the arguments of `Photometric`;
            the others have its defaults.
        augment_f: Whether f sees a view, too; else it sees the image as it is.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when the validation SBD stops improving;
            1 keeps it as it is.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        embedding_dim: int = 16,  # A.1; 8 for Cityscapes
        spatial_dims: Literal[2, 3] = 2,
        network: str = "unet",
        widths: list[int] = [16, 32, 64, 128, 256, 512],  # noqa: B006 never changed; A.1 Table 1
        norm: Literal["batch", "group", "none"] = "batch",
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
        delta_v: float = 0.5,  # section 3.1
        delta_d: float = 2.0,
        threshold: float = 0.9,  # section 3.1, A.7
        object_loss: Literal["dice", "bce"] = "dice",
        anchor: Literal["pixel", "mean"] = "pixel",
        max_anchors: int = 20,
        consistency_region: Literal["unlabelled", "all"] = "unlabelled",
        consistency_only: bool = False,
        pull_weight: float = 1.0,  # Eq 5: alpha = beta = lambda = 1
        push_weight: float = 1.0,
        norm_weight: float = 0.001,  # footnote 1
        object_weight: float = 1.0,
        unlabeled_push_weight: float = 1.0,  # Eq 8: gamma = delta = 1
        consistency_weight: float = 1.0,
        g_network: Literal["momentum", "shared", "dropout", "trained"] = "momentum",  # A.3
        momentum: float = 0.999,  # A.6
        momentum_warmup: bool = True,
        dropout: float = 0.5,
        photometric: dict[str, Any] | None = None,
        augment_f: bool = True,
        lr: float = 2e-4,  # this and the next four: A.1
        weight_decay: float = 1e-5,
        lr_factor: float = 0.2,
        lr_patience: int = 10,
        min_lr: float = 1e-6,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            embedding_dim=embedding_dim,
            spatial_dims=spatial_dims,
            network=network,
            widths=widths,
            norm=norm,
            encoder=encoder,
            encoder_weights=encoder_weights,
            delta_v=delta_v,
            delta_d=delta_d,
            threshold=threshold,
            object_loss=object_loss,
            anchor=anchor,
            max_anchors=max_anchors,
            consistency_region=consistency_region,
            consistency_only=consistency_only,
            weights={
                "pull": pull_weight,
                "push": push_weight,
                "norm": norm_weight,
                "object": object_weight,
                "unlabeled_push": unlabeled_push_weight,
                "consistency": consistency_weight,
            },
            g_network=g_network,
            momentum=momentum,
            momentum_warmup=momentum_warmup,
            dropout=dropout,
            photometric=photometric,
            augment_f=augment_f,
            lr=lr,
            weight_decay=weight_decay,
            lr_factor=lr_factor,
            lr_patience=lr_patience,
            min_lr=min_lr,
        )
        self.save_hyperparameters()

    def losses(self, batch: InstanceBatch) -> dict[str, Tensor]:
        """The terms of L_SO and L_SSO of two views of the images."""
        f, g = self.embed_views(batch["image"])
        self.see_background(f, batch)
        instances = batch["instances"]
        if self.consistency_only:
            instances = torch.zeros_like(instances)
        return self.embedding_losses(f, g, instances, batch["valid"])
