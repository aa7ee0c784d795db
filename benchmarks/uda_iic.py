"""UDA at 10, 25 and 50 % of the labels, and IIC without any, on two sets of cells: test mean IoU.

python -m benchmarks.uda_iic --phc PATH/usiigaci_phc --dsb PATH/dsb2018/stage1_train

Cell against background. Of the images in order, every fifth tests and every tenth validates; the
others train. UDA by KL and by mutual information (IID), beside the same supervised loss alone,
with as many painted images in each step; and beside all labels. Of each run the states of the
lowest supervised and the lowest total validation loss are tested (the study's P1 to P4). Clusters
of IIC are mapped to classes on the test images, as in the study.

Scores are kept in OUT, one file a run: a benchmark that was stopped goes on, and parts can be run
side by side (``--seeds``, ``--methods``, ``--ratios``).
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

import semiweak
from benchmarks.report import machine, table
from benchmarks.resolution import halved
from semiweak import SparseInstanceDataModule, Weakening
from semiweak.data.annotations import Sample
from semiweak.data.patches import Geometry

SUPERVISED, KL, IID, ALL, IIC = "supervised alone", "UDA, KL", "UDA, IID", "all labels", "IIC"
# Invert, solarise, equalise, auto-contrast and colour are left out: see docs/methods/uda.md.
MILD = {"view": {"operations": ["rotate", "contrast", "brightness", "sharpness"]}}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    SUPERVISED: ("UDAModule", {"consistency_weight": 0.0}),
    KL: ("UDAModule", MILD | {"consistency": "kl"}),
    IID: ("UDAModule", MILD | {"consistency": "mutual_information", "consistency_weight": 0.1}),
    "UDA, KL, nine operations": ("UDAModule", {"consistency": "kl"}),
    "UDA, IID, weight 1": ("UDAModule", MILD | {"consistency": "mutual_information"}),
    ALL: ("UDAModule", {"consistency_weight": 0.0}),
    IIC: ("IICModule", {"auxiliary_clusters": 10}),
}
AS_IN_THE_STUDY = ("UDA, KL, nine operations", "UDA, IID, weight 1")
"""Beside the others at the smallest ratio and with the first seed only."""
# Tables S1 and S2 of the study: PhC-C2DH-U373, and BBBC039 (Hoechst) beside the DSB.
STUDY: dict[str, dict[tuple[str, str], dict[float, float]]] = {
    "phc": {
        (KL, "best"): {0.1: 0.941, 0.25: 0.930, 0.5: 0.936},
        (KL, "best_total"): {0.1: 0.938, 0.25: 0.942, 0.5: 0.919},
        (IID, "best"): {0.1: 0.884, 0.25: 0.930, 0.5: 0.944},
        (IID, "best_total"): {0.1: 0.925, 0.25: 0.864, 0.5: 0.942},
        (IIC, "main"): {1.0: 0.241},
        (IIC, "auxiliary"): {1.0: 0.348},
    },
    "dsb": {
        (KL, "best"): {0.1: 0.927, 0.25: 0.943, 0.5: 0.938},
        (KL, "best_total"): {0.1: 0.927, 0.25: 0.904, 0.5: 0.893},
        (IID, "best"): {0.1: 0.952, 0.25: 0.934, 0.5: 0.934},
        (IID, "best_total"): {0.1: 0.935, 0.25: 0.934, 0.5: 0.811},
        (IIC, "main"): {1.0: 0.463},
        (IIC, "auxiliary"): {1.0: 0.711},
    },
}


class HalfSize(SparseInstanceDataModule):
    """Images at half their resolution."""

    def _read(self, entry: Any, name: str, block: Any) -> Sample:
        return halved(super()._read(entry, name, block))


def images(dataset: str, options: argparse.Namespace, **settings: Any) -> SparseInstanceDataModule:
    """The data module of one set, split in the order of names."""
    cls, root = (
        (HalfSize, options.phc) if dataset == "phc" else (SparseInstanceDataModule, options.dsb)
    )
    common = {"task": "semantic", "channels": "gray", "normalize": "minmax", "num_workers": 0}
    names = sorted(source.name for source in cls(root, task="semantic", channels="gray").sources())
    return cls(
        root,
        **common,
        val=names[3::10],
        test=names[4::5],
        patch_size=options.patch,
        geometry=Geometry(rotate=15, scale=(0.95, 1.05)),
        **settings,
    )


def train_and_test(
    dataset: str, method: str, ratio: float, seed: int, options: argparse.Namespace
) -> dict[str, float]:
    """Test scores of the states that validation chose, by the names of their files."""
    name, arguments = METHODS[method]
    alone = method in (SUPERVISED, ALL)
    half = options.batch // 2
    weaken = Weakening(acr=1 / ratio, nothing=1, seed=seed)
    if method == IIC:
        weaken = Weakening(masks=0, nothing=1)
    data = images(
        dataset,
        options,
        batch_size=half if alone else options.batch,
        samples_per_epoch=options.epoch_steps * (half if alone else options.batch),
        weaken=weaken,
        kinds=["mask"] if alone else None,
        seed=seed,
    )
    pl.seed_everything(seed)
    if name == "UDAModule":
        arguments = arguments | {
            "lr": options.lr,
            "lr_step": options.epochs * 2 // 3,
            "consistency_rampup": options.rampup,
        }
    else:
        arguments = arguments | {"lr": options.iic_lr, "radius": options.radius}
    model = getattr(semiweak, name)(
        in_channels=1, num_classes=2, widths=options.widths, **arguments
    )
    with TemporaryDirectory() as folder:
        kept = [
            ModelCheckpoint(folder, filename=file, monitor=monitor, mode=mode)
            for file, (monitor, mode) in model.checkpoints.items()
        ]
        trainer = pl.Trainer(
            max_epochs=options.epochs,
            callbacks=kept,
            logger=False,
            accelerator=options.accelerator,
            devices=1,
            num_sanity_val_steps=0,
            enable_checkpointing=bool(kept),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=data)
        scores = {}
        if not kept:
            (found,) = trainer.test(model, datamodule=data, verbose=False)
            return {head: found[f"test/mapped_iou/{head}"] for head in ("main", "auxiliary")}
        for checkpoint in kept:
            state = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
            model.load_state_dict(state)
            (found,) = trainer.test(model, datamodule=data, verbose=False)
            scores[str(checkpoint.filename)] = found["test/iou"]
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phc", help="the folder of usiigaci_phc")
    parser.add_argument("--dsb", help="the folder stage1_train of the Data Science Bowl 2018")
    parser.add_argument("--out", type=Path, default=Path("runs/uda_iic"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--ratios", nargs="*", type=float, default=[0.1, 0.25, 0.5])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--epoch-steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=4, help="half of them painted")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--widths", nargs="*", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--rampup", type=int, default=100)
    parser.add_argument("--iic-lr", type=float, default=1e-3)
    parser.add_argument("--radius", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    sets = [name for name in ("phc", "dsb") if getattr(options, name)]
    for seed, ratio, method, dataset in product(
        options.seeds, (*options.ratios, 1.0), options.methods, sets
    ):
        if (ratio == 1) != (method in (ALL, IIC)):
            continue
        first = (seed, ratio) == (options.seeds[0], min(options.ratios))
        if method in AS_IN_THE_STUDY and not first:
            continue
        stem = f"{dataset}-{method.replace(', ', '_').replace(' ', '_')}-{ratio:g}-{seed}"
        file = options.out / f"{stem}.json"
        if not file.exists():
            scores = train_and_test(dataset, method, ratio, seed, options)
            about = {"dataset": dataset, "method": method, "ratio": ratio, "seed": seed}
            file.write_text(json.dumps(about | {"scores": scores}))
            print(stem, scores, flush=True)
    report([json.loads(file.read_text()) for file in sorted(options.out.glob("*.json"))])


def report(results: list[dict[str, Any]]) -> None:
    """Mean and deviation of the test mean IoU over the seeds, beside the study's numbers."""
    print(f"\nTest mean IoU, mean and deviation over seeds (number of runs); {machine()}\n")
    ratios = sorted({r["ratio"] for r in results})
    rows = []
    for dataset, method in product(("phc", "dsb"), METHODS):
        found = [r for r in results if (r["dataset"], r["method"]) == (dataset, method)]
        for state in found[0]["scores"] if found else ():
            cells = []
            for ratio in ratios:
                of = [r["scores"][state] for r in found if r["ratio"] == ratio]
                spread = f" ± {statistics.stdev(of):.3f}" if len(of) > 1 else ""
                study = STUDY[dataset].get((method, state), {}).get(ratio)
                beside = f" [{study:.3f}]" if study else ""
                cells.append(f"{statistics.mean(of):.3f}{spread} ({len(of)}){beside}" if of else "")
            rows.append([dataset, method, state, *cells])
    heads = [f"{ratio:.0%}" for ratio in ratios]
    print(table(["data", "method", "state or head", *heads], rows))


if __name__ == "__main__":
    main()
