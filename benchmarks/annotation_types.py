"""Methods by kind of annotation and compression ratio: the DSP paper's comparison, on any data.

python -m benchmarks.annotation_types benchmarks/vnc_halved.yaml --root PATH/vnc_sstem

The file says which data module, as the section ``data`` of `semiweak fit` does; its training
images need complete masks. At an annotation compression ratio (ACR) of r one training image in r
keeps its mask; the others get boxes, points, tags, a mix of these, or nothing. Every run has the
same backbone, number of steps, batch and rate, which falls to 0, and is scored on the test images
by its last weights, so that the validation images are not used.

Batches hold each kind of annotation equally often (DSP, supplement, section 4), for all methods: so
they see the same masks equally often. A U-Net could have batches of masks only, which is one more
row.

A file a run in OUT: a comparison that was stopped goes on, and parts can be run side by side
(``--seeds``, ``--acr``, ``--methods``, ``--others``). OUT/results.csv has them all, a line a run;
OUT/accuracy.png draws accuracy over ACR, OUT/cost.png over the hours that the annotation takes.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser

import semiweak
from benchmarks.annotation_report import report
from semiweak.data.annotations import NOT_LOOKED_AT
from semiweak.data.datamodule import SegmentationDataModule

OTHERS: dict[str, dict[str, float]] = {
    "none": {"nothing": 1},
    "tags": {"tags": 1},
    "boxes": {"boxes": 1},
    "points": {"points": 1},
    "mixed": {"boxes": 1, "points": 1, "tags": 1, "nothing": 1},
}
ALL_MASKS = "masks"
"""What the others have at ACR 1, where there are none."""


class Method(NamedTuple):
    """A line of the comparison.

    Attributes:
        cls: The method.
        others: The annotations of the other images that make a difference to it.
        arguments: Its arguments beside backbone and rate.
        ramp: Its arguments that count steps of a weight that grows, over half of the training.
        kinds: Kinds of annotation in a batch; all of them by default.
    """

    cls: str
    others: tuple[str, ...]
    arguments: dict[str, Any] = {}  # noqa: RUF012 never changed
    ramp: tuple[str, ...] = ()
    kinds: list[str] | None = None


# 32 pixels are a small part of the papers' images and a quarter of patches of 128.
STRONG: dict[str, Any] = {"strong": {"cutout_size": 8}}
# With both weights at 1 the method is worse than without boxes: docs/results.md.
WEAK_BOXES = {"projection_weight": 0.1, "pairwise_weight": 0.1}
RAMP = ("pseudo_label_rampup",)
METHODS: dict[str, Method] = {
    "random": Method("RandomModule", ("none",)),
    "class prior": Method("ClassPriorModule", ("none",)),
    "U-Net": Method("SupervisedModule", ("none", "points", "mixed")),
    "U-Net, batches of masks only": Method("SupervisedModule", ("none",), kinds=["mask"]),
    "classification branch": Method("ClassificationBranchModule", ("tags",)),
    "box projection": Method("BoxProjectionModule", ("boxes",), WEAK_BOXES, ("pairwise_warmup",)),
    "Euclidean branch": Method("PointDistanceModule", ("points",), {"distance": "euclidean"}),
    "geodesic branch": Method("PointDistanceModule", ("points",), {"distance": "geodesic"}),
    "Con2R": Method("Con2RModule", ("tags", "boxes", "points"), STRONG),
    "pseudo-label": Method("PseudoLabelModule", ("none",), {"filter_candidates": False}, RAMP),
    "pseudo-label, filtered": Method("PseudoLabelModule", ("tags", "boxes", "points"), ramp=RAMP),
    "FixMatch": Method("FixMatchModule", ("none",), STRONG | {"filter_candidates": False}, RAMP),
    "FixMatch, filtered": Method(
        "FixMatchModule", ("tags", "boxes", "points", "mixed"), STRONG, RAMP
    ),
    "DSP": Method("DSPModule", tuple(OTHERS), STRONG | {"embedding_dim": 32}, RAMP),
}


class Falling(pl.Callback):
    """A learning rate that falls to 0 over so many steps, the same for all methods."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int
    ) -> None:
        """Sets the rate of the step that comes."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                rate = group.setdefault("initial_lr", group["lr"])
                group["lr"] = rate * (1 - trainer.global_step / self.steps)


def runs(options: argparse.Namespace) -> list[tuple[int, float, str, str]]:
    """Seed, ACR, method, and what the other images have, of each run."""
    found = []
    for seed, acr, others, name in product(
        options.seeds, options.acr, options.others, options.methods
    ):
        if others not in METHODS[name].others or (acr == 1 and METHODS[name].kinds):
            continue  # it ignores them, or its batches would be those of the others
        run = (seed, acr, name, ALL_MASKS if acr == 1 else others)
        if run not in found:
            found.append(run)
    return found


def data_module(config: Path, **changes: Any) -> SegmentationDataModule:
    """The data module of a file, with some of its arguments changed."""
    said = yaml.safe_load(config.read_text())
    said["init_args"] = said.get("init_args", {}) | changes
    parser = ArgumentParser()
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    return parser.instantiate(parser.parse_object({"data": said})).data  # type: ignore[no-any-return]


def count(data: SegmentationDataModule) -> dict[str, int]:
    """How much the annotators have done: masks, boxes, points and tags of the training images."""
    found = dict.fromkeys(("masks", "boxes", "points", "tags"), 0)
    for source in data.part("train"):
        said = source.read().annotation
        found["masks"] += said.mask is not None
        found["boxes"] += len(said.boxes)
        found["points"] += len(said.points)
        if said.tags is not None:
            found["tags"] += int((said.tags != NOT_LOOKED_AT).sum())
    return found


def train_and_test(
    seed: int, acr: float, name: str, others: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The test scores of one run, what was annotated, and how long it took."""
    start = time.perf_counter()
    method = METHODS[name]
    pl.seed_everything(seed)
    data = data_module(
        options.data,
        batch_size=options.batch,
        samples_per_epoch=options.batch * options.steps,
        weaken={"acr": acr, "seed": seed} | OTHERS.get(others, {}),
        kinds=method.kinds,
        seed=seed,
        **({"root": options.root} if options.root else {}),
    )
    data.setup("fit")
    arguments = method.arguments | dict.fromkeys(method.ramp, options.steps // 2)
    arguments |= options.arguments
    cls = getattr(semiweak, method.cls)
    if cls.learns:
        arguments |= {"network": options.network, "lr": options.lr, "lr_factor": 1.0}
        if options.network == "unet":
            arguments["widths"] = options.widths
        else:
            arguments["encoder"] = options.encoder
    model = cls(
        in_channels=data.in_channels,
        num_classes=data.num_classes,
        spatial_dims=data.spatial_dims,
        **arguments,
    )
    trainer = pl.Trainer(
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[Falling(options.steps)],
        logger=False,
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    return {
        "scores": {key.removeprefix("test/"): float(value) for key, value in scores.items()},
        "annotation": count(data),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a YAML file with the data module")
    parser.add_argument("--root", help="its argument root")
    parser.add_argument("--out", type=Path, default=Path("runs/annotation_types"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--others", nargs="*", default=list(OTHERS), choices=list(OTHERS))
    parser.add_argument("--acr", nargs="*", type=float, default=[1, 2, 5, 10])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--widths", nargs="*", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--network", default="unet", help="see build_network; another --out for it")
    parser.add_argument("--encoder", default="resnet34", help="of another network than the U-Net")
    parser.add_argument(
        "--arguments", type=json.loads, default={},
        help="JSON: other arguments of the methods, such as '{\"alpha\": 0}'; another --out for it",
    )  # fmt: skip
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    # What's the Point (Bearman et al., ECCV 2016): a second a class and image, 2.4 a point. Extreme
    # Clicking (Papadopoulos et al., ICCV 2017): 7 a box. A mask of microscopy: say yours.
    for kind, seconds in (("mask", 3600), ("box", 7), ("point", 2.4), ("tag", 1)):
        parser.add_argument(
            f"--seconds-per-{kind}", type=float, default=seconds, help=f"default {seconds}"
        )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed, acr, name, others in runs(options):
        stem = f"{name.replace(', ', '_')}-{acr:g}-{others}-{seed}"
        file = options.out / f"{stem}.json"
        if not file.exists():
            found = train_and_test(seed, acr, name, others, options)
            about = {"method": name, "others": others, "acr": acr, "seed": seed}
            file.write_text(json.dumps(about | found))
            print(stem, f"{found['scores']['dice']:.3f}", flush=True)
    report(
        [json.loads(file.read_text()) for file in sorted(options.out.glob("*.json"))],
        options.out,
        order=[(others, name) for others in (ALL_MASKS, *OTHERS) for name in METHODS],
        seconds={
            "masks": options.seconds_per_mask,
            "boxes": options.seconds_per_box,
            "points": options.seconds_per_point,
            "tags": options.seconds_per_tag,
        },
    )


if __name__ == "__main__":
    main()
