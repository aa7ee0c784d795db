"""What all methods share: optimiser, logging, metrics, tiled prediction and the checkpoint."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

import semiweak
from semiweak import visualize
from semiweak.data.annotations import Kind
from semiweak.inference.tiling import Tiling
from semiweak.losses.reduction import mean_over_known
from semiweak.methods.checkpoint import CHECKPOINT_FORMAT, check_checkpoint


class SegmentationModule(pl.LightningModule, ABC):
    """The base of every method.

    A method builds its networks in the constructor and says which losses it has (`losses`); the
    base sums them by their weights, logs each as ``train/<term>``, and does the rest. A constructor
    takes plain values only and begins with ``super().__init__(...)``, then
    ``self.save_hyperparameters()``, so that a checkpoint reloads by itself.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them; None for a method that knows none.
        spatial_dims: 2 or 3.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        lr_factor: The learning rate is multiplied by this when ``monitor`` stops improving; 1 keeps
            it as it is.
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

    global_terms: ClassVar[frozenset[str]] = frozenset()
    """The terms that are no mean over samples but are of the global batch: here, too, R ranks take
    the step of one."""

    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {}
    """The kinds of annotation that a term speaks about, where these are not all in ``uses``."""

    consistency_terms: ClassVar[frozenset[str]] = frozenset()
    """The terms that compare two views of an image: 0 when the views and networks are the same."""

    learns: ClassVar[bool] = True
    """False for the baselines of chance, which have no loss."""

    monitor: ClassVar[str]
    """The score that the best checkpoint and the learning rate go by; larger is better."""

    checkpoints: ClassVar[dict[str, tuple[str, Literal["min", "max"]]]] = {}
    """What the command line keeps the best state of: file names, and what each goes by. Where there
    are none, ``best`` by ``monitor``."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int | None,
        spatial_dims: int,
        lr: float,
        weight_decay: float,
        lr_factor: float,
        lr_patience: int,
        min_lr: float,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims}; it must be 2 or 3")
        if not 0 < lr_factor <= 1:
            raise ValueError(f"lr_factor is {lr_factor}; it must be above 0 and at most 1")
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
        return self.weighted_sum(self.losses(batch), len(batch["image"]))

    def weighted_sum(self, terms: dict[str, Tensor], size: int) -> Tensor:
        """The sum of the terms by their weights; logs it and each term, of ``size`` samples."""
        weights = self.loss_weights()
        total = torch.stack([weights.get(k, 1.0) * v for k, v in terms.items()]).sum()
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
        return mean_over_known(values, known, self.mean_over_ranks(known.sum().float()))

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all ranks; every rank has to ask for it."""
        # Without a Trainer there is one process. Asking for `self.trainer` would raise.
        if self._trainer is None or self._trainer.world_size == 1:
            return value
        mean: Tensor = self.trainer.strategy.reduce(value.clone(), reduce_op="mean")
        return mean

    def gather_from_ranks(self, value: Tensor) -> Tensor:
        """A tensor of every rank, ``(R, ...)``, differentiable; every rank has to ask for it."""
        if self._trainer is None or self.trainer.world_size == 1:
            return value[None]
        # DDP takes the mean of the ranks' gradients; gathering hands each the sum of all.
        return cast(Tensor, self.all_gather(value, sync_grads=True))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, and a learning rate that falls when the validation score stops improving."""
        optimizer = torch.optim.Adam(
            self.parameter_groups(), lr=self.lr, weight_decay=self.weight_decay
        )
        scheduler = self.plateau(optimizer)
        if scheduler is None:
            return {"optimizer": optimizer}
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "monitor": self.monitor,
                "interval": "epoch",
                "frequency": self._validation_interval(),
                "strict": False,  # with other data modules there may be no validation either
            },
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, in groups that may have a rate of their own (``"lr"``)."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def plateau(
        self, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
        """Lowers the learning rate when ``monitor`` stops improving; None where nothing can."""
        if self.lr_factor == 1 or not getattr(self._data_module(), "validates", True):
            return None
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode="max",
            factor=self.lr_factor,
            patience=self.lr_patience,
            min_lr=self.min_lr,
        )

    def _validation_interval(self) -> int:
        if self._trainer is None:
            return 1
        return self.trainer.check_val_every_n_epoch or 1

    def log_picture(self, name: str, file: str, picture: visualize.Rgb) -> None:
        """Writes a picture to ``pictures/`` in the log folder, and to loggers that take pictures.

        Args:
            name: What TensorBoard shows it as.
            file: Name of the PNG file.
            picture: ``uint8 (H, W, 3)``.
        """
        for logger in self.loggers:
            if logger.log_dir is not None:
                path = Path(logger.log_dir) / "pictures" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                visualize.save_png(path, picture)
            add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
            if add_image is not None:  # TensorBoard
                add_image(name, picture, self.global_step, dataformats="HWC")

    # The data that the model is for

    def setup(self, stage: str) -> None:
        """Checks that data and model fit, and hands the model's normalisation to the data."""
        # Scores are logged after one synchronisation of their own; Lightning cannot know that.
        warnings.filterwarnings("ignore", message=".*`self.log\\(.*sync_dist=True")
        module = self._data_module()
        if stage == "fit" and hasattr(module, "describe"):
            self._check(module.describe())
        elif stage != "fit" and self.data_description and hasattr(module, "adopt"):
            module.adopt(self.data_description)
        names = getattr(module, "class_names", None) or (self.data_description or {}).get(
            "class_names"
        )
        self.class_names = list(names or map(str, range(self.num_classes or 0)))

    def on_fit_start(self) -> None:
        """Remembers what the data are like."""
        # After a checkpoint was restored: a model that goes on with new data belongs to those.
        module = self._data_module()
        if hasattr(module, "describe"):
            self.data_description = dict(module.describe())

    def _check(self, data: dict[str, Any]) -> None:
        names = data["class_names"]
        for what, mine, theirs in (
            ("num_classes", self.num_classes, len(names) if self.num_classes else None),
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
