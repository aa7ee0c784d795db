"""What every benchmark prints beside its numbers."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def machine() -> str:
    """One line on the machine, the versions and the date."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}, "
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    )


def in_turn(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each task; the tasks alternate, so that a drifting machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak(make: Callable[..., Callable[[], object]], large: tuple[Any, ...], small: Any) -> float:
    """Megabytes that a task takes above what a fresh process held before it.

    Args:
        make: Makes the task, with its data, by the arguments that follow.
        large: The task that is measured.
        small: One that runs before, so that what is loaded only once does not count.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (make, large, small, torch.get_num_threads()))


def _peak(make: Callable[..., Callable[[], object]], large: Any, small: Any, threads: int) -> float:
    torch.set_num_threads(threads)
    make(*small)()
    task = make(*large)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    # The high-water mark would remember how the data were made.
    Path("/proc/self/clear_refs").write_text("5")
    task()
    lines = Path("/proc/self/status").read_text().splitlines()
    high = next(line for line in lines if line.startswith("VmHWM"))
    return (int(high.split()[1]) * 1024 - before) / 1e6


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
