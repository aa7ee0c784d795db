"""The command line: Lightning's, with our defaults and a predict that needs no model."""

from __future__ import annotations

import os

# jsonargparse tells users about calls that Lightning makes.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from semiweak.clustering.base import Clustering
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.inference.tiling import Tiling
from semiweak.inference.writer import LabelWriter
from semiweak.methods.base import SegmentationModule
from semiweak.methods.catalogue import exported_methods
from semiweak.methods.checkpoint import check_checkpoint
from semiweak.methods.instances import InstanceModule

# Imported, every exported class goes by its bare name on the command line.
METHODS = exported_methods()

NOT_FOR_USERS = (
    "Be aware that when using `ckpt_path`",  # the callbacks of training are not needed to predict
    "Precision bf16-mixed is not supported by the model summary",
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning 2.6 with torch 2.11 or later
    "Be aware that when using `ckpt_path`, callbacks",  # predict needs no callback of the training
    "The dirpath has changed",  # a run that goes on has a folder of its own
    ".* will be overridden by `SemiweakCLI.configure_optimizers`",  # as `--optimizer` asks for
    "Total length of `list` across ranks is zero",  # training without validation
    "ReduceLROnPlateau conditioned on metric .* not available",  # the same
)
"""What Lightning warns of and a user cannot change, or has asked for."""


class SaveTrainingConfig(SaveConfigCallback):
    """Saves the configuration of a training run beside its logs; other commands leave no trace."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves when fitting starts."""
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)


class SemiweakCLI(LightningCLI):
    """Lightning's command line over this package's models and data modules."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what may change after training and is therefore no argument of a model."""
        parser.add_class_arguments(Tiling, "tiling")
        parser.add_subclass_arguments(
            Clustering,
            "clustering",
            required=False,
            instantiate=True,
            help="How embeddings become objects; by default as when the model was trained.",
        )
        parser.add_lightning_class_args(LabelWriter, "writer")
        parser.add_argument(
            "--init_from",
            type=str,
            default=None,
            help="A checkpoint whose weights the training begins with (fine-tuning).",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the default callbacks that the configuration does not bring itself."""
        self.model.tiling = self._get(self.config_init, "tiling")
        clustering = self._get(self.config_init, "clustering")
        if clustering is not None:
            if not isinstance(self.model, InstanceModule):
                raise ValueError(f"{type(self.model).__name__} finds no objects to be clustered")
            self.model.clustering = clustering
        source = self._get(self.config_init, "init_from")
        if source is not None:
            begin_with(self.model, source)
        given = self._get(self.config_init, "trainer")["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        defaults: list[Any] = []
        if self.subcommand == "fit":
            defaults = self._training_callbacks(given)
        return super().instantiate_trainer(callbacks=[*given, *defaults], **kwargs)

    def _training_callbacks(self, given: list[Any]) -> list[Any]:
        trainer = self._get(self.config_init, "trainer")
        callbacks: list[Any] = []
        saves = trainer["enable_checkpointing"] is not False and not trainer["fast_dev_run"]
        if saves and not any(isinstance(callback, ModelCheckpoint) for callback in given):
            best = self.model.checkpoints or {"best": (self.model.monitor, "max")}
            if not self.datamodule.validates:
                best = {"best": (None, "max")}
            # The last one writes last.ckpt, when the others have said what they know.
            callbacks += [
                ModelCheckpoint(
                    filename=name, monitor=monitor, mode=mode, save_last=name == [*best][-1]
                )
                for name, (monitor, mode) in best.items()
            ]
        watched = any(isinstance(callback, LearningRateMonitor) for callback in given)
        if trainer["logger"] and not watched:
            callbacks.append(LearningRateMonitor(logging_interval="epoch"))
        return callbacks

    def after_fit(self) -> None:
        """Says where the model is."""
        checkpoint = self.trainer.checkpoint_callback
        path = getattr(checkpoint, "best_model_path", "") or getattr(
            checkpoint, "last_model_path", ""
        )
        if path and self.trainer.is_global_zero:
            print(f"best model: {os.path.relpath(path)}")


def run(args: list[str]) -> None:
    """Runs one command.

    Args:
        args: What stands behind ``semiweak`` on the command line.

    Raises:
        SystemExit: Bad input, with the reason on standard error.
    """
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    # Lightning advertises its services at every start.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "try installing [lit" not in record.getMessage()
    )
    command_line = sys.argv
    try:
        if args[0] == "inspect":
            from semiweak.inspection import inspect

            inspect(args[1:])
        else:
            # Lightning wants what it parses to be what stands on the command line.
            sys.argv = [sys.argv[0], *complete(args)]
            SemiweakCLI(
                SegmentationModule,
                SegmentationDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=SaveTrainingConfig,
                # A second run in the same folder is no error; each has its own version folder.
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,
                trainer_defaults={
                    "logger": {
                        "class_path": "pytorch_lightning.loggers.CSVLogger",
                        "init_args": {"save_dir": "runs", "name": ""},
                    },
                    "max_epochs": 100,
                    "log_every_n_steps": 10,  # small data sets have few steps
                },
            )
    except (ValueError, MisconfigurationException) as error:
        # These speak of the user's input and name the remedy; the way there would hide it.
        if os.environ.get("SEMIWEAK_TRACEBACK"):
            raise
        sys.exit(f"error: {_reason(error)}\n(SEMIWEAK_TRACEBACK=1 shows where it was raised)")
    finally:
        sys.argv = command_line


def _reason(error: BaseException) -> str:
    """An error's own words, without what stands around them."""
    # jsonargparse tells all that it tried with the arguments of a class that refused them.
    while "Union subtypes" in str(error) and isinstance(error.__cause__, ValueError):
        error = error.__cause__
    # A data loader's worker sends the traceback along as text, the error behind it.
    return re.split(r"^[\w.]+Error: ", str(error).strip(), flags=re.MULTILINE)[-1]


def complete(args: list[str]) -> list[str]:
    """Adds to a command what follows from its checkpoint and need not be said.

    ``predict --ckpt_path best.ckpt --data.root new/ --out labels/`` gets the model's class from the
    checkpoint, and the data module that reads a folder. Only a class that this package exports is
    taken from a checkpoint, never another import path that a file names.
    """
    command, rest = args[0], args[1:]
    if command not in ("fit", "validate", "test", "predict"):
        raise ValueError(
            f"unknown command {command!r}; there are fit, validate, test, predict and inspect"
        )
    rest = ["--writer.out" + a[len("--out") :] if _is(a, "--out") else a for a in rest]
    rest = _configs_first(rest)
    extra = []
    path = _value(rest, "--ckpt_path")
    complete_without = ("--config", "-c", "--model", "--help", "-h", "--print_config")
    if path is None and command != "fit" and not any(a.startswith(complete_without) for a in rest):
        raise ValueError(
            f"{command} needs a trained model: --ckpt_path runs/version_0/checkpoints/best.ckpt"
        )
    if path not in (None, "best", "last", "hpc", "null"):
        checkpoint = read_checkpoint(path)
        cls = class_of(checkpoint, path)
        if not _given(rest, "--config", "-c", "--model"):
            extra.append(f"--model={cls.__name__}")
            if command == "predict" and not _given(rest, "--data"):
                extra.append("--data=MixedAnnotationDataModule")
                dims = (checkpoint["semiweak"]["data"] or {}).get("spatial_dims", 2)
                extra.append(f"--data.spatial_dims={dims}")
        if not _given(rest, "--weights_only"):
            extra.append("--weights_only=true")
    if command == "predict":
        if not _given(rest, "--return_predictions"):
            extra.append(
                "--return_predictions=false"
            )  # the writer has them; they would fill memory
        if not _given(rest, "--trainer.logger"):
            extra.append("--trainer.logger=false")  # there is nothing to log
    return [command, *extra, *rest]


def read_checkpoint(path: str) -> dict[str, Any]:
    """Reads a checkpoint without executing anything that it holds.

    Raises:
        ValueError: There is no such file, it is no checkpoint, or of another program or release.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint of semiweak, or is damaged") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is no checkpoint of semiweak: it holds no dictionary")
    check_checkpoint(checkpoint, path)
    return checkpoint


def begin_with(model: SegmentationModule, path: str) -> None:
    """Gives a model the weights of a checkpoint, of the same method and networks.

    Raises:
        ValueError: The checkpoint has other weights.
    """
    try:
        model.load_state_dict(read_checkpoint(path)["state_dict"])
    except RuntimeError as error:
        raise ValueError(
            f"the weights of {path} do not fit the model: it must be the same method with the same "
            f"networks, channels and dimensions ({' '.join(str(error).split())[:300]})"
        ) from error


def class_of(checkpoint: dict[str, Any], path: str) -> type[SegmentationModule]:
    """The method that a checkpoint belongs to, one of those that this package exports."""
    name = checkpoint.get("hyper_parameters", {}).get("_class_path")
    for cls in METHODS:
        if name == f"{cls.__module__}.{cls.__qualname__}":
            return cls
    raise ValueError(
        f"{path} is of the class {name}, which semiweak does not export; load it from Python, by "
        "the class that wrote it"
    )


def _is(arg: str, option: str) -> bool:
    return arg == option or arg.startswith(f"{option}=")


def _given(args: list[str], *options: str) -> bool:
    return any(_is(arg, option) for arg in args for option in options)


def _configs_first(args: list[str]) -> list[str]:
    """Moves configuration files to the front, so that an option beats them wherever it stands.

    The configuration that a run saves has all keys: behind an option, it would take it back.
    """
    configs: list[str] = []
    others: list[str] = []
    for i, arg in enumerate(args):
        config = _given([arg], "--config", "-c") or args[i - 1 : i] in (["--config"], ["-c"])
        (configs if config else others).append(arg)
    return configs + others


def _value(args: list[str], option: str) -> str | None:
    for arg, following in zip(args, [*args, ""][1:], strict=True):
        if _is(arg, option):
            return arg.partition("=")[2] if "=" in arg else following
    return None
