"""Test Dice of trained models on the VNC slices, beside what chance reaches.

semiweak fit --config examples/supervised_vnc.yaml --data.root PATH/vnc_sstem
python -m benchmarks.vnc PATH/vnc_sstem full=runs/version_0/checkpoints/best.ckpt weak=...
"""

from __future__ import annotations

import argparse

import pytorch_lightning as pl

from benchmarks.report import machine, table
from semiweak import ClassPriorModule, RandomModule, SupervisedModule, VNCDataModule
from semiweak.data.vnc import CLASS_NAMES
from semiweak.methods.semantic import SemanticModule


def dice(model: SemanticModule, root: str, train: bool = False) -> list[float]:
    """Dice of each class on the test slices, and their mean."""
    data = VNCDataModule(root)
    trainer = pl.Trainer(
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if train:
        trainer.fit(model, datamodule=data)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    names = [f"test/dice/{name}" for name in CLASS_NAMES]
    return [scores.get(name, float("nan")) for name in (*names, "test/dice")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="the folder that holds stack1")
    parser.add_argument("models", nargs="*", help="name=checkpoint")
    arguments = parser.parse_args()
    rows = {
        "random": dice(RandomModule(num_classes=len(CLASS_NAMES)), arguments.root, train=True),
        "class prior": dice(
            ClassPriorModule(num_classes=len(CLASS_NAMES)), arguments.root, train=True
        ),
    }
    for named in arguments.models:
        name, _, path = named.partition("=")
        model = SupervisedModule.load_from_checkpoint(path, weights_only=True, map_location="cpu")
        rows[name] = dice(model, arguments.root)
    print(f"Dice on the test slices; {machine()}\n")
    print(
        table(
            ["", *CLASS_NAMES, "mean"],
            [[name, *(f"{v:.3f}" for v in values)] for name, values in rows.items()],
        )
    )


if __name__ == "__main__":
    main()
