"""Strong views on the training device beside albumentations on workers, images a second.

python -m benchmarks.rand_augment
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

# Set before albumentations is imported: it would ask the package index for news.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks.report import machine, table
from semiweak.augment.rand_augment import RandAugment
from semiweak.augment.random_view import RandomView

WORKERS = "albumentations, 2 workers"
READY = 4  # batches that two workers have at hand, of which none is timed


def nearest() -> A.Compose:
    """The nine operations of `RandomView`, two of each image; blends with factors 0.1 to 1.9."""
    none, blend = (1.0, 1.0), (0.1, 1.9)
    return A.Compose(
        [
            A.SomeOf(
                [
                    A.Rotate((0, 360), border_mode=cv2.BORDER_REFLECT, p=1),
                    A.AutoContrast(p=1),
                    A.InvertImg(p=1),
                    A.Equalize(p=1),
                    A.Solarize((0.0, 1.0), p=1),
                    A.ColorJitter(none, blend, none, (0, 0), p=1),
                    A.ColorJitter(none, none, blend, (0, 0), p=1),
                    A.ColorJitter(blend, none, none, (0, 0), p=1),
                    A.Sharpen((0.0, 0.9), (1.0, 1.0), kernel_size=3, p=1),
                ],
                n=2,
                replace=True,
                p=1,
            )
        ]
    )


class Views(Dataset[torch.Tensor]):
    """Views of 8-bit images in memory, as float images (C, H, W) of mean 0 and deviation 1."""

    def __init__(self, images: NDArray[np.uint8], length: int) -> None:
        self.images, self.length, self.transform = images, length, nearest()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        view = self.transform(image=self.images[index % len(self.images)])["image"]
        return (torch.from_numpy(view).permute(2, 0, 1).float() - 128) / 74


def pictures(channels: int, size: int) -> NDArray[np.uint8]:
    """64 smooth images (H, W, C)."""
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 255, (64, size // 16, size // 16, channels)).astype(np.float32)
    large = [cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in small]
    return np.stack(large).clip(0, 255).astype(np.uint8).reshape(64, size, size, channels)


def on_workers(images: NDArray[np.uint8], batch: int, batches: int) -> Callable[[], float]:
    """Times a stretch of one long epoch, so that starting workers does not count."""
    loader = DataLoader(Views(images, 10**7), batch, num_workers=2, prefetch_factor=READY // 2)
    stream: Iterator[torch.Tensor] = iter(loader)

    def seconds() -> float:
        for _ in range(READY):
            next(stream)
        start = time.perf_counter()
        for _ in range(batches):
            next(stream)
        return time.perf_counter() - start

    return seconds


def on_device(
    images: NDArray[np.uint8], batch: int, batches: int, view: RandomView | RandAugment
) -> Callable[[], float]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = (torch.from_numpy(images).permute(0, 3, 1, 2).to(device).float() - 128) / 74
    parts = [part.contiguous() for part in image.split(batch)]

    def seconds() -> float:
        start = time.perf_counter()
        for i in range(batches):
            view(parts[i % len(parts)])
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of ours on a CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stretch = (arguments.batch, arguments.batches)
    kinds = {"grey": pictures(1, arguments.size), "RGB": pictures(3, arguments.size)}
    # All workers before anything of ours: a fork after torch has begun to compute can hang.
    loaders = {name: on_workers(images, *stretch) for name, images in kinds.items()}
    rows = []
    for name, images in kinds.items():
        tasks = {
            WORKERS: loaders[name],
            "RandomView": on_device(images, *stretch, RandomView()),
            "RandAugment": on_device(images, *stretch, RandAugment()),
        }
        times: dict[str, list[float]] = {task: [] for task in tasks}
        for task in tasks.values():
            task()
        for _ in range(arguments.rounds):
            for task, seconds in tasks.items():
                times[task].append(seconds())
        middle = {task: statistics.median(values) for task, values in times.items()}
        for task, taken in middle.items():
            rate = arguments.batch * arguments.batches / taken
            rows.append([name, task, f"{rate:.0f}", f"{middle[WORKERS] / taken:.2f}"])
    print(f"{arguments.batch} x {arguments.size} x {arguments.size} images; {machine()}\n")
    print(table(["images", "views", "images a second", "times albumentations"], rows))


if __name__ == "__main__":
    main()
