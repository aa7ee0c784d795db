"""The mutual information of two views (IIC) beside two plain ways to it.

python -m benchmarks.mutual_information

Value and gradient of four pairs of maps of 128 x 128 pixels and 24 classes: the package, one matrix
product of shifted maps a displacement, and one convolution of the first maps with the second ones
as filters, as the authors do. The table says how far value and gradient are off. Memory is the
peak of a fresh process above what it held before, after a small image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import in_turn, machine, peak, table
from semiweak.losses.mutual_information import joint_matrices, mutual_information_loss

BATCH, CLASSES, SIZE, RADII = 4, 24, 128, (0, 1, 5, 10)


def by_package(first: Tensor, second: Tensor, radius: int) -> Tensor:
    return joint_matrices(first, second, radius=radius)


def by_loop(first: Tensor, second: Tensor, radius: int) -> Tensor:
    height, width = first.shape[2:]
    found = []
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            p = first[:, :, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
            q = second[:, :, max(-y, 0) : height + min(-y, 0), max(-x, 0) : width + min(-x, 0)]
            found.append(p.transpose(0, 1).flatten(1) @ q.transpose(0, 1).flatten(1).T)
    return torch.stack(found)


def by_convolution(first: Tensor, second: Tensor, radius: int) -> Tensor:
    joints = F.conv2d(first.transpose(0, 1), second.transpose(0, 1), padding=radius)
    return joints.flatten(2).permute(2, 0, 1)


WAYS = {"semiweak": by_package, "product in a loop": by_loop, "one convolution": by_convolution}


def data(size: int) -> tuple[Tensor, Tensor]:
    """Two views of the same blobs."""
    generator = torch.Generator().manual_seed(0)
    logits = 20 * F.avg_pool2d(
        torch.randn(BATCH, CLASSES, size, size, generator=generator), 9, 1, 4
    )
    views = (logits + torch.randn(logits.shape, generator=generator) for _ in range(2))
    first, second = (v.softmax(1).requires_grad_() for v in views)
    return first, second


def step(way: str, first: Tensor, second: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    loss = mutual_information_loss(WAYS[way](first, second, radius))
    return loss.detach(), torch.cat(torch.autograd.grad(loss, (first, second)))


def make(way: str, size: int, radius: int) -> Callable[[], object]:
    first, second = data(size)
    return lambda: step(way, first, second, radius)


Result = tuple[Tensor, Tensor]


def keep(results: dict[str, Result], way: str, size: int, radius: int) -> Callable[[], None]:
    """A task that leaves its value and gradient behind."""
    first, second = data(size)

    def run() -> None:
        results[way] = step(way, first, second, radius)

    return run


def differences(results: dict[str, Result], radius: int, size: int) -> dict[str, list[float]]:
    """Of value and gradient, relative, from the loop in float64; from ours where that is long."""
    exact = [x.detach().double().requires_grad_() for x in data(size)]
    wanted = step("product in a loop" if radius <= 5 else "semiweak", *exact, radius)
    return {
        way: [((a - b).norm() / b.norm()).item() for a, b in zip(found, wanted, strict=True)]
        for way, found in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--rounds", type=int, default=3, help="a single one beyond T = 5")
    parser.add_argument("--radii", type=int, nargs="*", default=RADII)
    options = parser.parse_args()
    rows: list[list[str]] = []
    for radius in options.radii:
        results: dict[str, Result] = {}
        tasks = {way: keep(results, way, options.size, radius) for way in WAYS}
        seconds = in_turn(tasks, options.rounds if radius <= 5 else 1)
        gaps = differences(results, radius, options.size)
        for way in WAYS:
            memory = peak(make, (way, options.size, radius), (way, 16, radius))
            value, slope = gaps[way]
            ratio = seconds[way] / seconds["semiweak"]
            rows.append([str(radius), way, f"{1e3 * seconds[way]:.0f} ms", f"{ratio:.1f}"])
            rows[-1] += [f"{memory:.0f} MB", f"{value:.0e}", f"{slope:.0e}"]
    head = ["T", "way", "time", "times semiweak's", "memory", "value off by", "gradient off by"]
    print(table(head, rows))
    print(f"\n{BATCH} x {CLASSES} x {options.size} x {options.size}, {machine()}")


if __name__ == "__main__":
    main()
