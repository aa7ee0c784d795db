"""Test Dice of a trained model on the VNC slices, beside what chance reaches.

semiweak fit --config examples/supervised_vnc.yaml --data.root PATH/vnc_sstem
python -m benchmarks.vnc PATH/vnc_sstem full=runs/version_0/checkpoints/best.ckpt weak=...
"""

from __future__ import annotations

import argparse

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.report import machine, table
from semiweak import DiceScore, SupervisedModule, VNCDataModule


def chance(data: VNCDataModule, prior: bool, seed: int = 0) -> np.ndarray:
    """Dice of each class for labels drawn at random: uniformly, or as often as in training."""
    rng = np.random.default_rng(seed)
    k = data.num_classes
    weights = np.ones(k)
    if prior:
        masks = [source.read().annotation.mask for source in data.part("train")]
        weights = np.bincount(np.concatenate([m.ravel() for m in masks]), minlength=k)
    score = DiceScore(k, average="none")
    for source in data.part("test"):
        truth = source.read().annotation.mask
        guess = rng.choice(k, truth.shape, p=weights / weights.sum())
        score.update(torch.from_numpy(guess)[None], torch.from_numpy(truth).long()[None])
    return score.compute().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="the folder that holds stack1")
    parser.add_argument("models", nargs="*", help="name=checkpoint")
    arguments = parser.parse_args()
    data = VNCDataModule(arguments.root)
    data.setup("fit")
    rows = {"random": chance(data, prior=False), "class prior": chance(data, prior=True)}
    for named in arguments.models:
        name, _, path = named.partition("=")
        model = SupervisedModule.load_from_checkpoint(path, weights_only=True, map_location="cpu")
        trainer = pl.Trainer(logger=False, enable_progress_bar=False)
        (scores,) = trainer.test(model, datamodule=VNCDataModule(arguments.root), verbose=False)
        rows[name] = np.array([scores.get(f"test/dice/{c}", np.nan) for c in data.class_names])
    print(f"Dice on the test slices {[s.name for s in data.part('test')]}; {machine()}\n")
    print(
        table(
            ["", *data.class_names, "mean"],
            [
                [name, *(f"{v:.3f}" for v in values), f"{np.nanmean(values):.3f}"]
                for name, values in rows.items()
            ],
        )
    )


if __name__ == "__main__":
    main()
