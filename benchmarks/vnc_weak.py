"""Masks for a few VNC slices, weak annotations or none for the others: test Dice of each method.

python -m benchmarks.vnc_weak PATH/vnc_sstem --out runs/vnc_weak

Slices 00-09 train, 13-15 test, at half their resolution. At an annotation compression ratio (ACR)
of r, one slice in r keeps its mask; the others get boxes, points, tags, a mix of these, or
nothing. Every run has the same backbone, number of steps, batch and rate, which falls to 0, and
is scored by its last weights, so that the validation slices are not used. Scores are kept in OUT,
one file a run: a benchmark that was stopped goes on, and parts can be run side by side
(``--seeds``, ``--acr``, ``--methods``).

Batches hold each kind of annotation equally often (DSP, supplement, section 4), for all methods: so
they see the same masks equally often. A U-Net could have batches of masks only, which is one more
row.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import semiweak
from benchmarks.report import machine, table
from benchmarks.resolution import halved
from semiweak import VNCDataModule
from semiweak.data.annotations import Sample
from semiweak.data.weaken import Weakening

WEAK: dict[str, dict[str, float]] = {
    "none": {"nothing": 1},
    "boxes": {"boxes": 1},
    "points": {"points": 1},
    "tags": {"tags": 1},
    "mixed": {"boxes": 1, "points": 1, "tags": 1, "nothing": 1},
}
# Name: the method, its arguments, and for which weak annotations it makes a difference.
# 32 pixels are a small part of the papers' images and a quarter of these patches.
STRONG: dict[str, Any] = {"strong": {"cutout_size": 8}}
UNFILTERED = {"filter_candidates": False}
ONLY_MASKS = "U-Net, batches of masks only"
METHODS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "U-Net": ("SupervisedModule", {}, ["none", "points", "mixed"]),
    ONLY_MASKS: ("SupervisedModule", {}, ["none"]),
    "pseudo-label": ("PseudoLabelModule", UNFILTERED, ["none"]),
    "FixMatch": ("FixMatchModule", STRONG | UNFILTERED, ["none"]),
    "FixMatch, filtered": ("FixMatchModule", STRONG, ["boxes", "points", "tags", "mixed"]),
    "DSP": ("DSPModule", STRONG | {"embedding_dim": 32}, list(WEAK)),
}
ALL_MASKS = "masks"  # at ACR 1 there is nothing weak


class BinnedVNC(VNCDataModule):
    """The slices at half the resolution, 9.2 nm."""

    def _read(self, folder: Path, path: Path) -> Sample:
        return halved(super()._read(folder, path))


class Falling(pl.Callback):
    """A learning rate that falls to 0, the same for all methods."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int
    ) -> None:
        """Sets the rate of the step that comes."""
        share = 1 - trainer.global_step / trainer.max_steps
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share


def runs(arguments: argparse.Namespace) -> list[tuple[int, str, float, str]]:
    """Seed, method, ACR and weak annotation of each run."""
    found = []
    for seed, acr, weak in product(arguments.seeds, arguments.acr, WEAK):
        for method in arguments.methods:
            if acr == 1 and method == ONLY_MASKS:
                continue  # all batches are
            said = ALL_MASKS if acr == 1 else weak
            if weak in METHODS[method][2] and (seed, method, acr, said) not in found:
                found.append((seed, method, acr, said))
    return found


def train_and_test(
    root: str, seed: int, method: str, acr: float, weak: str, options: argparse.Namespace
) -> dict[str, float]:
    name, arguments, _ = METHODS[method]
    pl.seed_everything(seed)
    cls = getattr(semiweak, name)
    shares = WEAK.get(weak, {})
    data = BinnedVNC(
        root,
        patch_size=options.patch,
        batch_size=options.batch,
        samples_per_epoch=options.batch * options.steps,
        weaken=Weakening(acr=acr, seed=seed, **shares),
        kinds=["mask"] if method == ONLY_MASKS else None,
        num_workers=0,
        seed=seed,
    )
    if name != "SupervisedModule":
        arguments = arguments | {"pseudo_label_rampup": options.steps // 2}
    model = cls(
        in_channels=1, num_classes=5, widths=options.widths, lr=options.lr, lr_factor=1.0,
        **arguments,
    )  # fmt: skip
    trainer = pl.Trainer(
        max_steps=options.steps,
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[Falling()],
        logger=False,
        accelerator=options.accelerator,
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    return {key: float(value) for key, value in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="the folder that holds stack1")
    parser.add_argument("--out", type=Path, default=Path("runs/vnc_weak"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--acr", nargs="*", type=float, default=[1, 2, 5, 10])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--widths", nargs="*", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed, method, acr, weak in runs(arguments):
        stem = f"{method.replace(', ', '_')}-{acr:g}-{weak}-{seed}"
        file = arguments.out / f"{stem}.json"
        if not file.exists():
            scores = train_and_test(arguments.root, seed, method, acr, weak, arguments)
            about = {"seed": seed, "method": method, "acr": acr, "weak": weak}
            file.write_text(json.dumps(about | {"scores": scores}))
            print(stem, f"{scores['test/dice']:.3f}", flush=True)
    report([json.loads(file.read_text()) for file in sorted(arguments.out.glob("*.json"))])


def report(results: list[dict[str, Any]]) -> None:
    """Mean and deviation of the test Dice over the seeds."""
    print(f"\nTest Dice, mean and deviation over seeds (number of runs); {machine()}\n")
    ratios = sorted({r["acr"] for r in results})
    rows = []
    for weak, method in product((ALL_MASKS, *WEAK), METHODS):
        cells = []
        for acr in ratios:
            of = [
                r["scores"]["test/dice"]
                for r in results
                if (r["weak"], r["method"], r["acr"]) == (weak, method, acr)
            ]
            spread = f" ± {statistics.stdev(of):.3f}" if len(of) > 1 else ""
            cells.append(f"{statistics.mean(of):.3f}{spread} ({len(of)})" if of else "")
        if any(cells):
            rows.append([weak, method, *cells])
    print(table(["others have", "method", *(f"ACR {acr:g}" for acr in ratios)], rows))


if __name__ == "__main__":
    main()
