"""The loss of DSP beside one logsumexp a class, beside the plain loop, and a step beside FixMatch.

python -m benchmarks.dsp_loss

From embeddings and prototypes to gradients: scores, Z_c of all classes, the term of masks. Half of
the images are painted, of the others some classes are ruled out in places. Memory is the peak of a
fresh process above what it held before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import in_turn, machine, peak, table
from semiweak import DSPModule, FixMatchModule
from semiweak.losses.positives import mask_positives
from semiweak.losses.prototypes import negatives, prototype_loss, prototype_scores

TAU = 0.05


def by_class(embeddings: Tensor, prototypes: Tensor, labels: Tensor, candidates: Tensor) -> Tensor:
    """S.8 for masks, class by class, by PyTorch's operations."""
    unit = F.normalize(embeddings.flatten(2), dim=1)
    cosines = torch.einsum("cpd,bdn->bcpn", F.normalize(prototypes, dim=2), unit)
    scores, labels = cosines.mean(2) / TAU, labels.flatten(1)
    total = scores.new_zeros(())
    for c in range(scores.shape[1]):
        ruled_out = torch.ones_like(scores, dtype=torch.bool)
        ruled_out[:, c] = ~candidates.flatten(2)[:, c]
        log_z = scores.masked_fill(~ruled_out, -torch.inf).flatten().logsumexp(0)
        own = labels == c
        if own.any():
            total = total + log_z - scores[:, c][own].mean()
    return total


def by_positive(
    embeddings: Tensor, prototypes: Tensor, labels: Tensor, candidates: Tensor
) -> Tensor:
    """The same from S.1 to S.3: for each positive pixel the sum over all that is ruled out."""
    scores = prototype_scores(embeddings, prototypes, TAU).flatten(2)
    number = torch.arange(scores.shape[1])
    total = scores.new_zeros(())
    for c in number.tolist():
        where = torch.nonzero(labels.flatten(1) == c).tolist()
        for b, i in where:
            counts = (number[:, None] != c) | ~candidates.flatten(2)[:, c][:, None]
            z = torch.where(counts, scores, -torch.inf).flatten().logsumexp(0)
            total = total + (z - scores[b, c, i]) / len(where)
    return total


def ours(embeddings: Tensor, prototypes: Tensor, labels: Tensor, candidates: Tensor) -> Tensor:
    scores = prototype_scores(embeddings, prototypes, TAU)
    return prototype_loss(negatives(scores, candidates), mask_positives(scores, labels))


WAYS = {"plain loop": by_positive, "by class": by_class, "semiweak": ours}


def data(size: int, batch: int = 4, dim: int = 64, classes: int = 11, each: int = 5) -> Any:
    generator = torch.Generator().manual_seed(0)
    # As the U-Net hands them over: its convolutions keep the channels last in memory.
    embeddings = torch.randn(batch, dim, size, size, generator=generator)
    embeddings = embeddings.contiguous(memory_format=torch.channels_last).requires_grad_()
    prototypes = torch.randn(classes, each, dim, generator=generator).requires_grad_()
    block = max(1, size // 8)
    labels = torch.randint(classes, (batch, 8, 8), generator=generator)
    labels = labels.repeat_interleave(block, 1).repeat_interleave(block, 2)
    candidates = F.one_hot(labels, classes).movedim(-1, 1).bool()
    candidates[batch // 2 :] = True
    candidates[batch // 2 :, : classes // 3, : size // 2] = False
    labels[batch // 2 :] = 255
    return embeddings, prototypes, labels, candidates


def one_pass(way: str, size: int) -> Callable[[], object]:
    """Forward and backward pass on data of its own."""
    given = data(size)
    return lambda: WAYS[way](*given).backward()


def step(cls: type[DSPModule] | type[FixMatchModule], size: int) -> Callable[[], object]:
    """A training step on a batch with all kinds of annotation."""
    torch.manual_seed(0)
    model = cls(num_classes=5).train()
    optimizer = torch.optim.Adam(model.parameters())
    _, _, labels, _ = data(size, dim=1, classes=5)
    candidates = F.one_hot(labels.clamp_max(4), 5).movedim(-1, 1).bool()
    candidates[2:] = True
    box = torch.tensor([[8.0, 8.0, size / 2, size / 2]])
    none, no_box = torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)
    point = torch.tensor([[size / 2, size / 4]])
    batch: Any = {
        "image": torch.randn(4, 1, size, size),
        "labels": labels,
        "candidates": candidates,
        "valid": torch.ones_like(labels, dtype=torch.bool),
        "has_mask": torch.tensor([True, True, False, False]),
        "boxes": [no_box, no_box, box, no_box],
        "box_labels": [none, none, torch.tensor([1]), none],
        "points": [no_box[:, :2], no_box[:, :2], no_box[:, :2], point],
        "point_labels": [none, none, none, torch.tensor([2])],
        "tags": torch.tensor([[-1] * 5] * 3 + [[1, 1, 0, -1, -1]], dtype=torch.int8),
        "name": list("abcd"),
    }

    def run() -> None:
        optimizer.zero_grad()
        weights = model.loss_weights()
        terms = model.losses(batch)
        torch.stack([weights[k] * v for k, v in terms.items()]).sum().backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--small", type=int, default=48, help="where the plain loop ends")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"B 4, D 64, 11 classes, 5 prototypes; seed 0; {machine()}\n")
    rows = []
    for size, base in ((arguments.size, "by class"), (arguments.small, "plain loop")):
        given = data(size)
        losses = [WAYS[way](*given) for way in (base, "semiweak")]
        grads = [torch.autograd.grad(loss, given[:2]) for loss in losses]
        apart = [((a - b).norm() / a.norm()).item() for a, b in zip(*grads, strict=True)]
        value = abs((losses[0] - losses[1]) / losses[0]).item()
        tasks = {way: one_pass(way, size) for way in (base, "semiweak")}
        times = in_turn(tasks, arguments.rounds if base == "by class" else 1)
        memory = {way: peak(one_pass, (way, size), (way, 16)) for way in tasks}
        rows.append(
            [
                f"{size} x {size}", base,
                f"{times[base] * 1000:.0f} ms", f"{times['semiweak'] * 1000:.1f} ms",
                f"{times[base] / times['semiweak']:.1f}",
                f"{memory[base]:.0f} MB", f"{memory['semiweak']:.0f} MB",
                f"{memory[base] / max(memory['semiweak'], 1e-3):.1f}",
                f"{value:.0e}, {max(apart):.0e}",
            ]
        )  # fmt: skip
    header = ["image", "beside", "its time", "semiweak", "ratio", "its memory", "semiweak", "ratio"]
    print(table([*header, "difference: value, gradient"], rows))
    steps = in_turn(
        {cls.__name__: step(cls, arguments.size) for cls in (FixMatchModule, DSPModule)},
        arguments.rounds,
    )
    ratio = steps["DSPModule"] / steps["FixMatchModule"]
    spent = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in steps.items())
    print(f"\nA training step, default U-Net, 4 x {arguments.size}^2: {spent}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
