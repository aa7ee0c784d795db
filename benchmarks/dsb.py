"""SPOCO on the nuclei of DSB 2018: how much of the objects is painted, and what consistency adds.

python -m benchmarks.dsb PATH/dsb2018/stage1_train --out runs/dsb

Trains every setting for the same number of steps on the same 50 images (10 are kept for validation
and not used, 20 for the test; by seed) and tests the last weights. It keeps weights and scores of
each setting in OUT: a run that was stopped goes on, settings can be run side by side
(``--settings``), and after scores were deleted, the weights are scored anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.report import machine, table
from semiweak import InstanceScores, SparseInstanceDataModule, SpocoModule
from semiweak.clustering import (
    HDBSCAN,
    Clustering,
    ConsistencyClustering,
    MeanShift,
    MutexWatershed,
)

DISCRIMINATIVE = {"object_weight": 0.0, "unlabeled_push_weight": 0.0, "consistency_weight": 0.0}
ALONE = {"consistency_weight": 0.0}
# Of what share of the objects (None: all, and the background), and how.
SETTINGS: dict[str, tuple[float | None, dict[str, Any]]] = {
    "0.1": (0.1, {}),
    "0.1, no consistency": (0.1, ALONE),
    "0.4": (0.4, {}),
    "0.4, no consistency": (0.4, ALONE),
    "1.0": (1.0, {}),
    "1.0, no consistency": (1.0, ALONE),
    "full": (None, {"consistency_region": "all"}),
    "full, no consistency": (None, ALONE),
    "full, discriminative loss": (None, DISCRIMINATIVE),
}
NUCLEI: dict[str, Any] = {"min_size": 20, "min_core": 3}
FOUND: dict[str, Any] = NUCLEI | {"background": "largest"}
# With "true foreground", clusters are looked for among the pixels of nuclei, as the paper does with
# the foreground masks of CVPPP; without, the largest cluster is background.
CLUSTERINGS: dict[str, Clustering] = {
    "mutex watershed": MutexWatershed(**FOUND),
    "mutex watershed, not connected": MutexWatershed(**FOUND, connected=False),
    "mean-shift": MeanShift(**FOUND),
    "HDBSCAN": HDBSCAN(**FOUND, fill=True),
    "consistency": ConsistencyClustering(**FOUND),
    "mutex watershed, true foreground": MutexWatershed(**NUCLEI),
    "HDBSCAN, true foreground": HDBSCAN(**NUCLEI, fill=True),
}
SCORES = ("sbd", "ap50", "map", "abs_dic", "foreground_dice")


def data(root: str, ratio: float | None, batches: int, seed: int) -> SparseInstanceDataModule:
    return SparseInstanceDataModule(
        root,
        val=10,
        test=20,
        patch_size=128,
        batch_size=4,
        samples_per_epoch=4 * batches,
        instance_ratio=ratio,
        num_workers=0,
        seed=seed,
    )


def train(name: str, root: str, steps: int, seed: int, file: Path) -> None:
    """Trains a setting and keeps the last weights."""
    ratio, options = SETTINGS[name]
    pl.seed_everything(seed)
    model = SpocoModule(widths=[16, 32, 64, 128, 256], lr=1e-3, lr_factor=1.0, **options)
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data(root, ratio, 100, seed))
    trainer.save_checkpoint(file)


@torch.no_grad()
def score(file: Path, root: str, seed: int) -> dict[str, dict[str, float]]:
    """The scores of the test images, by the way that embeddings are clustered."""
    model = SpocoModule.load_from_checkpoint(file, map_location="cpu", weights_only=True).eval()
    images = data(root, None, 100, seed)
    images.setup("test")
    if model.data_description:
        images.adopt(model.data_description)
    scores = {way: InstanceScores() for way in CLUSTERINGS}
    for batch in images.test_dataloader():
        batch = images.on_after_batch_transfer(batch, 0)
        truth, valid = batch["instances"], batch["valid"]
        for way, clustering in CLUSTERINGS.items():
            if way == "consistency" and model.second is None:
                continue
            model.clustering = clustering
            inside = valid & (truth > 0) if way.endswith("true foreground") else valid
            scores[way].update(model.segment(batch["image"], inside)[0], truth, valid)
    found = {way: s.compute() for way, s in scores.items() if s.update_called}
    return {way: {key: float(values[key]) for key in SCORES} for way, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="the folder stage1_train")
    parser.add_argument("--out", type=Path, default=Path("runs/dsb"))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.settings:
        stem = f"{name.replace(', ', '_').replace(' ', '_')}-{arguments.seed}"
        weights, file = (arguments.out / f"{stem}{end}" for end in (".ckpt", ".json"))
        if not weights.exists():
            train(name, arguments.root, arguments.steps, arguments.seed, weights)
        if not file.exists():
            scores = score(weights, arguments.root, arguments.seed)
            about = {"setting": name, "seed": arguments.seed, "steps": arguments.steps}
            file.write_text(json.dumps(about | {"scores": scores}))
            print(name, arguments.seed, scores, flush=True)
    results = [json.loads(file.read_text()) for file in sorted(arguments.out.glob("*.json"))]
    print(f"\n{machine()}\n")
    rows = []
    for way in CLUSTERINGS:
        for name in SETTINGS:
            for result in results:
                scores = result["scores"].get(way) if result["setting"] == name else None
                if scores:
                    seed, steps = str(result["seed"]), str(result["steps"])
                    rows.append([way, name, seed, steps, *(f"{scores[k]:.3f}" for k in SCORES)])
    header = ["clustering", "painted", "seed", "steps", "SBD", "AP50", "mAP", "DiC", "Dice"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
