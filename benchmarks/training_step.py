"""A training step of the default U-Net: float32, channels-last and bfloat16 autocast.

python -m benchmarks.training_step
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.report import in_turn, machine, table
from semiweak import SupervisedModule


def step(channels_last: bool, bfloat16: bool, size: int, norm: str) -> Callable[[], None]:
    torch.manual_seed(0)
    module = SupervisedModule(num_classes=5, norm=norm)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module.to(memory_format=layout)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    batch = {"image": torch.randn(4, 1, size, size), "labels": torch.randint(5, (4, size, size))}

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = sum(module.losses(batch).values())
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for norm in ("batch", "group"):
        tasks = {
            f"{precision}{', channels-last' if last else ''}": step(
                last, precision == "bfloat16", arguments.size, norm
            )
            for precision in ("float32", "bfloat16")
            for last in (False, True)
        }
        times = in_turn(tasks, arguments.rounds)
        for name, seconds in times.items():
            rows.append([norm, name, f"{seconds:.2f}", f"{times['float32'] / seconds:.2f}"])
    print(f"widths 16..512, 4 x {arguments.size} x {arguments.size}; {machine()}\n")
    print(table(["norm", "setting", "seconds a step", "times float32"], rows))


if __name__ == "__main__":
    main()
