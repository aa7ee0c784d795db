"""What all methods share: optimiser, logging, metrics, tiled prediction and the checkpoint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

import semiweak
from semiweak.data.annotations import Kind
from semiweak.data.batch import SemanticBatch
from semiweak.inference.tiling import Tiling, predict_tiled
from semiweak.losses.reduction import mean_over_known
from semiweak.losses.supervised import cross_entropy
from semiweak.metrics.overlap import OverlapScores

CHECKPOINT_FORMAT = 1
"""Raised when a checkpoint of an older release can no longer be read."""


class SegmentationModule(pl.LightningModule, ABC):
    """The base of every method.

    A method says which networks it has (`configure_networks`) and which losses (`losses`); the base
    sums the losses by their weights, logs each as ``train/<term>``, and does the rest. Its
    constructor takes plain values only and begins with ``super().__init__(...)``, then
    ``self.save_hyperparameters()``, so that a checkpoint reloads by itself.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when ``monitor`` stops improving.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    uses: ClassVar[dict[Kind, str]]
    """What the method learns from each kind of annotation; a kind that is missing is ignored."""

    annotation_terms: ClassVar[frozenset[str]]
    """The terms that learn from annotations alone: exactly 0 for a batch that has none."""

    sample_means: ClassVar[frozenset[str]]
    """The terms that are a mean over samples: the loss of a batch is the mean of the losses of its
    annotated samples, and R ranks with B / R samples take the step of one rank with B."""

    monitor: ClassVar[str]
    """The score that the best checkpoint and the learning rate go by; larger is better."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        spatial_dims: int,
        lr: float,
        weight_decay: float,
        lr_factor: float,
        lr_patience: int,
        min_lr: float,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims}; it must be 2 or 3")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.spatial_dims = spatial_dims
        self.lr, self.weight_decay = lr, weight_decay
        self.lr_factor, self.lr_patience, self.min_lr = lr_factor, lr_patience, min_lr
        self.tiling = Tiling()
        self.data_description: dict[str, Any] | None = None

    # What a method says

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The paper's terms by name, each a scalar; see `loss_weights`."""

    def loss_weights(self) -> dict[str, float]:
        """The weight of each term in the sum; 1 where nothing is said."""
        return {}

    # Training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The weighted sum of the method's terms."""
        terms = self.losses(batch)
        weights = self.loss_weights()
        total = torch.stack([weights.get(k, 1.0) * v for k, v in terms.items()]).sum()
        size = len(batch["image"])
        self.log_dict({f"train/{name}": v.detach() for name, v in terms.items()}, batch_size=size)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        return total

    def mean_over_samples(self, values: Tensor, known: Tensor) -> Tensor:
        """The mean of a per-sample loss over the samples that it speaks about, on all ranks.

        DDP averages gradients over ranks, which hold unequal numbers of annotated samples; dividing
        by the global number over the number of ranks makes that average the mean over all samples.

        Args:
            values: ``(B,)``.
            known: ``bool (B,)``.
        """
        total = known.sum()
        # Without a Trainer there is one process. Asking for `self.trainer` would raise.
        world = self._trainer.world_size if self._trainer is not None else 1
        if world > 1:
            total = self.trainer.strategy.reduce(total.float(), reduce_op="mean")
        return mean_over_known(values, known, total)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam, and a learning rate that falls when the validation score stops improving."""
        optimizer = torch.optim.Adam(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.lr,
            weight_decay=self.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode="max",
            factor=self.lr_factor,
            patience=self.lr_patience,
            min_lr=self.min_lr,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "monitor": self.monitor,
                "interval": "epoch",
                "frequency": self._validation_interval(),
                "strict": False,  # a run without a validation split keeps its learning rate
            },
        }

    def _validation_interval(self) -> int:
        if self._trainer is None:
            return 1
        return self.trainer.check_val_every_n_epoch or 1

    # The data that the model is for

    def setup(self, stage: str) -> None:
        """Checks that data and model fit, and hands the model's normalisation to the data."""
        module = self._data_module()
        if stage == "fit" and hasattr(module, "describe"):
            self._check(module.describe())
        elif stage != "fit" and self.data_description and hasattr(module, "adopt"):
            module.adopt(self.data_description)
        names = getattr(module, "class_names", None) or (self.data_description or {}).get(
            "class_names"
        )
        self.class_names = list(names or map(str, range(self.num_classes)))

    def on_fit_start(self) -> None:
        """Remembers what the data are like."""
        # After a checkpoint was restored: a model that goes on with new data belongs to those.
        module = self._data_module()
        if hasattr(module, "describe"):
            self.data_description = dict(module.describe())

    def _check(self, data: dict[str, Any]) -> None:
        names = data["class_names"]
        for what, mine, theirs in (
            ("num_classes", self.num_classes, len(names)),
            ("in_channels", self.in_channels, data["in_channels"]),
            ("spatial_dims", self.spatial_dims, data["spatial_dims"]),
        ):
            if mine != theirs:
                raise ValueError(
                    f"the model has {what} {mine}, the data have {theirs}"
                    + (f" (classes {names})" if what == "num_classes" else "")
                    + f"; set model.{what} to {theirs}"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds all that prediction needs beside weights and arguments."""
        # The command line writes this too; a run from Python should reload in the same way.
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        arguments = checkpoint.setdefault("hyper_parameters", dict(self.hparams))
        arguments["_class_path"] = name
        # Arguments are plain values: no code named in a file is needed to build the model again.
        arguments.pop("_instantiator", None)
        checkpoint["semiweak"] = {
            "format": CHECKPOINT_FORMAT,
            "version": semiweak.__version__,
            "data": self.data_description,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes back what `on_save_checkpoint` added."""
        own = check_checkpoint(checkpoint)
        self.data_description = own["data"]
        module = self._data_module()
        if self.data_description and not self._is_fitting() and hasattr(module, "adopt"):
            module.adopt(self.data_description)

    def _data_module(self) -> Any:
        return getattr(self._trainer, "datamodule", None)

    def _is_fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == "fit"


def check_checkpoint(checkpoint: dict[str, Any], path: str = "the checkpoint") -> dict[str, Any]:
    """The part of a checkpoint that this package wrote.

    Args:
        checkpoint: The content of a checkpoint file.
        path: Names the file in errors.

    Raises:
        ValueError: Another program wrote it, or a release with another format.
    """
    own = checkpoint.get("semiweak")
    if not isinstance(own, dict) or "format" not in own:
        raise ValueError(f"{path} was not written by semiweak")
    if own["format"] != CHECKPOINT_FORMAT:
        raise ValueError(
            f"{path} has format {own['format']}, written by semiweak {own.get('version')}; this is "
            f"semiweak {semiweak.__version__}, which reads format {CHECKPOINT_FORMAT}: predict "
            "with that release, or train again"
        )
    return own


class SemanticModule(SegmentationModule):
    """The base of the methods that give every pixel a class.

    ``forward`` maps images ``(B, C, *S)`` to logits ``(B, K, *S)``. Validation and test score whole
    images by Dice and IoU, accumulated over the data set (``val/dice``) and per image
    (``val/dice_per_image``), and per class by name (``val/dice/<class>``).
    """

    monitor: ClassVar[str] = "val/dice"

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.val_scores = OverlapScores(self.num_classes)
        self.test_scores = OverlapScores(self.num_classes)
        self.val_loss = MeanMetric()

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities ``float32 (B, K, *S)`` of normalised images of any size, by tiles."""

        def probabilities(tile: Tensor) -> Tensor:
            logits: Tensor = self(tile)
            return logits.float().softmax(dim=1)

        return predict_tiled(probabilities, image, self.tiling)

    def validation_step(self, batch: SemanticBatch, batch_idx: int) -> None:
        """Scores whole images."""
        probabilities = self.predict_probabilities(batch["image"])
        loss, known = cross_entropy(probabilities.clamp_min(1e-12).log(), batch["labels"])
        self.val_loss.update(loss[known])
        self.val_scores.update(probabilities, batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the validation images."""
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()
        self._log_scores("val", self.val_scores)

    def test_step(self, batch: SemanticBatch, batch_idx: int) -> None:
        """Scores whole images."""
        probabilities = self.predict_probabilities(batch["image"])
        self.test_scores.update(probabilities, batch["labels"])

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test images."""
        self._log_scores("test", self.test_scores)

    def _log_scores(self, stage: str, scores: OverlapScores) -> None:
        values = scores.compute()
        scores.reset()
        for name, per_class in values.items():
            self.log(f"{stage}/{name}", per_class.nanmean(), prog_bar=name == "dice")
            for c, value in enumerate(per_class):
                if not math.isnan(value):  # the class occurs in neither truth nor prediction
                    self.log(f"{stage}/{name}/{self.class_names[c]}", value)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Labels ``int64 (B, *S)`` and probabilities of whole images."""
        probabilities = self.predict_probabilities(batch["image"])
        return {
            "labels": probabilities.max(dim=1).indices,  # argmax is far slower on a CPU
            "probabilities": probabilities,
            "image": batch["image"],
            "name": batch["name"],
        }
