"""A small AdversarialSpocoModule, and what it trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from semiweak import AdversarialSpocoModule, SyntheticDataModule
from semiweak.data.batch import InstanceBatch

SIZE = 24


def build(**arguments: Any) -> AdversarialSpocoModule:
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "widths": [4, 8], "norm": "group", "embedding_dim": 4, "critic_widths": [4, 8],
        "max_masks": 6, "critic_steps": 2, "adversarial_warmup": 0, "lr": 1e-3, "critic_lr": 1e-3,
    }  # fmt: skip
    return AdversarialSpocoModule(**(small | arguments))


def cells(**arguments: Any) -> SyntheticDataModule:
    few: dict[str, Any] = {
        "num_train": 4, "num_val": 1, "num_test": 1, "size": SIZE, "patch_size": SIZE,
        "batch_size": 2, "num_workers": 0,
    }  # fmt: skip
    return SyntheticDataModule(scene="cells", task="instances", **(few | arguments))


def trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(**(quiet | arguments))


def batch(*, empty: bool = False) -> InstanceBatch:
    generator = torch.Generator().manual_seed(0)
    instances = torch.zeros(2, SIZE, SIZE, dtype=torch.long)
    if not empty:
        instances[0, :10, :10], instances[0, 12:20, 4:20], instances[1, 5:15, 5:15] = 1, 2, 1
    return {
        "image": torch.randn(2, 1, SIZE, SIZE, generator=generator),
        "instances": instances,
        "background": torch.zeros(2, dtype=torch.long),
        "valid": torch.ones(2, SIZE, SIZE, dtype=torch.bool),
        "name": ["a", "b"],
    }


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)
