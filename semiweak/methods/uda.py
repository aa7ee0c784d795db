"""UDA: an image and its randomly changed, turned view have to be segmented alike."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args
from zlib import crc32

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from semiweak.augment.random_view import random_view
from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.losses.mutual_information import joint_matrices, mutual_information_loss
from semiweak.losses.pixels import probabilities
from semiweak.losses.supervised import cross_entropy, dice_loss
from semiweak.losses.uda import annealed_labels, annealing_threshold, kl_consistency
from semiweak.methods.arguments import check_at_least, check_choices, check_weights, ramp_up
from semiweak.methods.semantic import SemanticModule
from semiweak.networks.build import build_network
from semiweak.networks.statistics import statistics_kept

Supervised = Literal["dice", "cross_entropy"]
Unsupervised = Literal["kl", "mutual_information"]
Annealing = Literal["none", "linear", "log", "exp"]


class UDAModule(SemanticModule):
    """Unsupervised data augmentation for segmentation (Horlava et al., 2020; Xie et al., 2020).

    The weak view is the image as the data module hands it over; the strong view is that under
    operations of RandAugment, a rotation by any angle among them. The strong view's prediction is
    turned back, and has to be that of the weak view.

        supervised  = Dice loss of the weak view of painted images
        consistency = over unlabelled images, over pixels that the turned frame holds, the mean of
                      KL(p(weak view) || p(strong view)), or the IID loss between the two
        loss        = supervised + consistency

    Validation computes both losses as well; the command line keeps the state of the lowest
    supervised loss (``best.ckpt``) and that of the lowest sum (``best_total.ckpt``), the paper's
    pipelines P1 and P2 with KL, P3 and P4 with IID.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        supervised: The loss on what is painted or clicked.
        consistency: The loss between the two views: ``"kl"``, or ``"mutual_information"`` (IID).
        supervised_weight: Weight of the first; 0 switches it off.
        consistency_weight: Weight of the second (lambda); 0 switches it off.
        consistency_rampup: In so many steps the weight of the consistency grows from 0; 0 for its
            full value from the start, as in the papers.
        all_images: Compare the views of painted images, too. Otherwise those that are completely
            painted are left out.
        stop_gradient: The weak view's prediction is a target, which takes no gradient (UDA). In
            the mutual information both views learn in any case.
        temperature: Sharpens the weak view's prediction when below 1 (UDA).
        threshold: Leaves out pixels whose highest probability in the weak view is not above this;
            they count as 0 in the mean (UDA: beta).
        annealing: Training signal annealing (UDA): leaves out painted pixels whose class is
            predicted with a higher probability than a threshold that grows from 1/K to 1.
        radius: Of the mutual information: also between pixels up to so many pixels apart (IIC: T).
        mi_lambda: Of the mutual information: weight of the marginal entropies (IIC: lambda).
        collapsed: Of the mutual information: one joint distribution for all displacements.
        view: Arguments of `RandomView`, the strong view; the others have its defaults.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_step: The learning rate falls after every so many epochs; 0 keeps it as it is.
        lr_factor: It is multiplied by this.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "Dice loss on every pixel",
        "scribbles": "Dice loss there; two views compared",
        "points": "Dice loss there; two views compared",
        "boxes": "two views compared, the boxes ignored",
        "tags": "two views compared, the tags ignored",
        "none": "two views compared",
    }
    annotation_terms: ClassVar[frozenset[str]] = frozenset({"supervised"})
    # By KL: a mutual information is of the batch as a whole.
    sample_means: ClassVar[frozenset[str]] = frozenset({"supervised", "consistency"})
    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {
        "supervised": frozenset({"mask", "scribbles", "points"}),
        "consistency": frozenset({"scribbles", "points", "boxes", "tags", "none"}),
    }
    consistency_terms: ClassVar[frozenset[str]] = frozenset({"consistency"})
    checkpoints: ClassVar[dict[str, tuple[str, Literal["min", "max"]]]] = {
        "best": ("val/supervised_loss", "min"),
        "best_total": ("val/total_loss", "min"),
    }

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
        supervised: Supervised = "dice",  # 2.3.1
        consistency: Unsupervised = "kl",  # 2.3.1
        supervised_weight: float = 1.0,  # 2.3.1: the plain sum
        consistency_weight: float = 1.0,
        consistency_rampup: int = 0,
        all_images: bool = False,  # 2.3.1
        stop_gradient: bool = True,  # UDA, section 2.2
        temperature: float = 1.0,  # this and the next two: off in the paper
        threshold: float = 0.0,
        annealing: Annealing = "none",
        radius: int = 0,
        mi_lambda: float = 1.0,
        collapsed: bool = False,
        view: dict[str, Any] | None = None,
        lr: float = 1e-3,  # Table 2
        weight_decay: float = 0.0,
        lr_step: int = 30,  # Table 2: "step-based learning rate schedule"
        lr_factor: float = 0.1,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            spatial_dims=spatial_dims,
            lr=lr,
            weight_decay=weight_decay,
            lr_factor=lr_factor,
            lr_patience=0,
            min_lr=0.0,
        )
        self.save_hyperparameters()
        check_weights(
            {"supervised_weight": supervised_weight, "consistency_weight": consistency_weight}
        )
        check_choices(
            {
                "supervised": (supervised, get_args(Supervised)),
                "consistency": (consistency, get_args(Unsupervised)),
                "annealing": (annealing, get_args(Annealing)),
            }
        )
        check_at_least(
            0, {"consistency_rampup": consistency_rampup, "radius": radius, "lr_step": lr_step}
        )
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold}; it is a probability: 0 to below 1")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
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
        self.supervised: Supervised = supervised
        self.consistency: Unsupervised = consistency
        self.weights = {"supervised": supervised_weight, "consistency": consistency_weight}
        self.consistency_rampup = consistency_rampup
        self.all_images, self.stop_gradient = all_images, stop_gradient
        self.temperature, self.threshold = temperature, threshold
        self.annealing: Annealing = annealing
        self.radius, self.mi_lambda, self.collapsed = radius, mi_lambda, collapsed
        self.lr_step = lr_step
        self.view = random_view(view)
        self.val_supervised, self.val_consistency = MeanMetric(), MeanMetric()

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of images ``(B, C, *S)`` of any size."""
        logits: Tensor = self.network(image)
        return logits

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """The supervised loss of the weak view, and the consistency of both views."""
        image = batch["image"]
        weak = self(image)
        terms = {}
        if self.weights["supervised"]:
            values, known = self._supervised(weak, self._annealed(weak, batch["labels"]))
            terms["supervised"] = self.mean_over_samples(values, known)
        if self.weights["consistency"]:
            compared = ~batch["has_mask"] | self.all_images
            terms["consistency"] = self._consistency(
                weak[compared], image[compared], batch["valid"][compared]
            )
        return terms

    def _supervised(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss = dice_loss if self.supervised == "dice" else cross_entropy
        return loss(logits, labels)

    def _annealed(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.annealing == "none" or self._trainer is None:
            return labels
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                f"annealing is {self.annealing!r}, which needs to know how long the training is; "
                "set trainer.max_epochs or trainer.max_steps"
            )
        threshold = annealing_threshold(
            self.global_step, int(steps), logits.shape[1], self.annealing
        )
        return annealed_labels(logits, labels, threshold)

    def _consistency(self, weak: Tensor, image: Tensor, valid: Tensor) -> Tensor:
        """The loss between the predictions of some images' two views; 0 where there are none."""
        strong = probabilities(weak)
        if len(image):
            seen = self.view(image)
            with statistics_kept(self.network):
                strong = seen.rotation.turn_back(probabilities(self(seen.image)))
            valid = valid & seen.rotation.valid(valid)
        if self.consistency == "mutual_information":
            joints = joint_matrices(probabilities(weak), strong, valid=valid, radius=self.radius)
            return self._information(self.gather_from_ranks(joints).sum(0))
        return self.mean_over_samples(*self._divergence(weak, strong, valid))

    def _information(self, joints: Tensor) -> Tensor:
        return mutual_information_loss(joints, lamb=self.mi_lambda, collapsed=self.collapsed)

    def _divergence(self, weak: Tensor, strong: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """KL of logits of the weak view and probabilities of the strong one, turned back."""
        return kl_consistency(
            weak,
            _log(strong),
            valid=valid,
            temperature=self.temperature,
            threshold=self.threshold,
            stop_gradient=self.stop_gradient,
        )

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor; that of the consistency grows at first."""
        ramp = ramp_up(self.global_step, self.consistency_rampup)
        return self.weights | {"consistency": ramp * self.weights["consistency"]}

    def validation_step(self, batch: SemanticBatch, batch_idx: int) -> None:
        """Scores whole images, and computes both losses on them."""
        image, labels, valid = batch["image"], batch["labels"], batch["valid"]
        weak = self.predict_probabilities(image)
        logits = _log(weak)
        loss, known = cross_entropy(logits, labels)
        self.val_loss.update(loss[known])
        self.val_scores.update(weak, labels)
        loss, known = self._supervised(logits, labels)
        self.val_supervised.update(loss[known])
        # One view an image, the same in every epoch and on any number of ranks.
        for i, name in enumerate(batch["name"]):
            seed = torch.Generator().manual_seed(crc32(name.encode()))
            seen = self.view(image[i : i + 1], generator=seed)
            back = seen.rotation.turn_back(self.predict_probabilities(seen.image))
            here = valid[i : i + 1] & seen.rotation.valid(valid[i : i + 1])
            if self.consistency == "mutual_information":
                joints = joint_matrices(weak[i : i + 1], back, valid=here, radius=self.radius)
                self.val_consistency.update(self._information(joints))
            else:
                loss, known = self._divergence(logits[i : i + 1], back, here)
                self.val_consistency.update(loss[known])

    def on_validation_epoch_end(self) -> None:
        """Logs the scores and losses of the validation images."""
        super().on_validation_epoch_end()
        supervised, consistency = self.val_supervised.compute(), self.val_consistency.compute()
        self.val_supervised.reset()
        self.val_consistency.reset()
        self.log("val/supervised_loss", supervised)
        self.log("val/consistency_loss", consistency)
        total = self.weights["supervised"] * supervised + self.weights["consistency"] * consistency
        self.log("val/total_loss", total)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, and a learning rate that falls by steps."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if not self.lr_step or self.lr_factor == 1:
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.lr_step, self.lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "epoch"},
        }


def _log(probabilities: Tensor) -> Tensor:
    """Logarithms, finite where a probability is 0."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
