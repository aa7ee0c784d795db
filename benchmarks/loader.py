"""Does the loader keep up? Patches a second beside a training step of the default U-Net.

python -m benchmarks.loader
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch

from benchmarks.report import machine, table
from semiweak import SupervisedModule, SyntheticDataModule, Weakening
from semiweak.data.patches import Geometry

SETTINGS = {
    "crop": Geometry(flip=False),
    "crop, mirror, swap": Geometry(),
    "crop, mirror, swap, rotate, scale": Geometry(rotate=15, scale=(0.9, 1.1)),
}


def data(geometry: Geometry, workers: int) -> SyntheticDataModule:
    module = SyntheticDataModule(
        num_train=16, num_val=0, size=1024, patch_size=256, batch_size=4, num_workers=workers,
        samples_per_epoch=4000, geometry=geometry,
        weaken=Weakening(acr=4, boxes=0.25, points=0.25, tags=0.25, nothing=0.25),
    )  # fmt: skip
    module.setup("fit")
    return module


def patches_per_second(module: SyntheticDataModule, batches: int) -> float:
    stream = iter(module.train_dataloader())
    for _ in range(8):  # what the workers had ready
        next(stream)
    start = time.perf_counter()
    for batch in itertools.islice(stream, batches):
        module.on_after_batch_transfer(batch, 0)
    return batches * module.batch_size / (time.perf_counter() - start)


def step_seconds(rounds: int, bfloat16: bool) -> float:
    torch.manual_seed(0)
    model = SupervisedModule(num_classes=4)
    optimizer = model.configure_optimizers()["optimizer"]
    batch = {"image": torch.randn(4, 1, 256, 256), "labels": torch.randint(4, (4, 256, 256))}
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = sum(model.losses(batch).values())
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"4 x 256 x 256 patches of 1024 x 1024 images, 5 kinds of annotation; {machine()}\n")
    rows = []
    for name, geometry in SETTINGS.items():
        rate = patches_per_second(data(geometry, arguments.workers), arguments.batches)
        rows.append([f"loader alone, {arguments.workers} workers: {name}", f"{rate:.0f}"])
    for precision in (False, True):
        seconds = step_seconds(arguments.rounds, precision)
        label = "bfloat16" if precision else "float32"
        rows.append([f"training step of the default U-Net, {label}", f"{4 / seconds:.1f}"])
    print(table(["", "patches a second"], rows))


if __name__ == "__main__":
    main()
