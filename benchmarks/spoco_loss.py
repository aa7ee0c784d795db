"""The SPOCO loss beside a plain loop over images, objects and anchors, and beside the U-Net.

python -m benchmarks.spoco_loss

Both take the paper's settings, draw anchors until the unlabelled region is covered (20 at most) and
give the same value and gradient for the same anchors, which is checked first. Memory is the peak of
a fresh process above what it held before, after a small image.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import in_turn, machine, peak, table
from semiweak.losses.consistency import draw_anchors
from semiweak.losses.objects import find_objects, random_pixels
from semiweak.losses.spoco import spoco_losses
from semiweak.networks.build import build_network

DELTA_V, DELTA_D, THRESHOLD, MAX_ANCHORS = 0.5, 2.0, 0.9, 20
EVERYTHING = "all, and the background"
PAINTED = {EVERYTHING: 16, "all, but not the background": 15, "10 %": 2}  # objects an image
WIDTH = -(DELTA_V**2) / math.log(THRESHOLD)


def dice(a: Tensor, b: Tensor) -> Tensor:
    return 1 - 2 * (a * b).sum() / ((a * a).sum() + (b * b).sum())


def soft_mask(embeddings: Tensor, anchor: Tensor) -> Tensor:
    return torch.exp(-(embeddings - anchor[:, None]).square().sum(0) / WIDTH)


def plain_loop(
    f: Tensor, g: Tensor, instances: Tensor, anchors: tuple[list[Any], list[Any]] | None = None
) -> Tensor:
    """L_SSO (Eq 8), image by image, object by object, anchor by anchor."""
    total = f.new_zeros(())
    for b in range(len(f)):
        e, e_g, ids = f[b].flatten(1), g[b].flatten(1), instances[b].flatten()
        objects = [ids == k for k in ids.unique() if k > 0]
        means, count = [e[:, o].mean(1) for o in objects], len(objects)
        for k, (o, mean) in enumerate(zip(objects, means, strict=True)):
            pull = ((e[:, o] - mean[:, None]).norm(dim=0) - DELTA_V).clamp_min(0).square().mean()
            pixels = o.nonzero()[:, 0]
            at = pixels[torch.randint(len(pixels), ())] if anchors is None else anchors[0][b][k]
            single = dice(soft_mask(e, e[:, at]), o.to(e.dtype))
            total = total + (pull + single + 0.001 * mean.norm()) / count
            for other in means:
                if other is not mean:
                    gap = (2 * DELTA_D - (mean - other).norm()).clamp_min(0).square()
                    total = total + gap / count**2
        free = ids == 0
        if not free.any():
            continue
        for mean in means:
            near = (DELTA_D - (e[:, free] - mean[:, None]).norm(dim=0)).clamp_min(0).square()
            total = total + near.mean() / count
        masks, open_places = [], free.clone()
        while len(masks) < MAX_ANCHORS and (
            open_places.any() if anchors is None else len(masks) < len(anchors[1][b])
        ):
            if anchors is None:
                left = open_places.nonzero()[:, 0]
                at = left[torch.randint(len(left), ())]
            else:
                at = anchors[1][b][len(masks)]
            ours, theirs = soft_mask(e, e[:, at]), soft_mask(e_g, e_g[:, at])
            masks.append(dice(ours, theirs))
            open_places &= (ours < THRESHOLD) & (theirs < THRESHOLD)
        total = total + torch.stack(masks).mean()
    return total / len(f)


def vectorised(
    f: Tensor, g: Tensor, instances: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """L_SSO (Eq 8) by the package."""
    terms = spoco_losses(f, g, instances, generator=generator, max_anchors=MAX_ANCHORS)
    return sum((1e-3 if k == "norm" else 1) * v.mean() for k, (v, _) in terms.items())


def data(painted: str, size: int, batch: int = 4, objects: int = 15, dim: int = 16) -> Any:
    """Embeddings of a half-trained network: 15 objects and a background, with blurred borders."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ids = torch.zeros(batch, size, size, dtype=torch.long)
    place = torch.rand(batch, objects, 2, generator=generator) * size
    radius = size * (0.06 + 0.06 * torch.rand(batch, objects, generator=generator))
    for k in range(objects):
        inside = (y - place[:, k, 0, None, None]) ** 2 + (x - place[:, k, 1, None, None]) ** 2
        ids[inside < radius[:, k, None, None] ** 2] = k + 1
    centres = torch.randn(batch, objects + 1, dim, generator=generator)
    f = centres.gather(1, ids.flatten(1)[..., None].expand(-1, -1, dim)).mT
    f = torch.nn.functional.avg_pool2d(f.reshape(batch, dim, size, size), 5, 1, 2)
    f = f + 0.1 * torch.randn(f.shape, generator=generator)
    g = f + 0.05 * torch.randn(f.shape, generator=generator)
    if painted == EVERYTHING:
        ids[ids == 0] = objects + 1
    ids[ids > PAINTED[painted]] = 0
    # As the U-Net hands them over: its convolutions keep the channels last in memory.
    last = torch.channels_last
    return f.contiguous(memory_format=last).requires_grad_(), g.contiguous(memory_format=last), ids


def difference(painted: str, size: int) -> tuple[float, float]:
    """Relative difference of value and gradient, with the same anchors."""
    f, g, ids = data(painted, size)
    ours = vectorised(f, g, ids, torch.Generator().manual_seed(1))
    (ours_grad,) = torch.autograd.grad(ours, f)
    again = torch.Generator().manual_seed(1)
    objects = find_objects(ids)
    singles = random_pixels(objects, again)
    drawn = draw_anchors(
        f.flatten(2), g.flatten(2), objects, max_anchors=MAX_ANCHORS, generator=again
    )
    pairs = [p[u].tolist() for p, u in zip(drawn.positions, drawn.used, strict=True)]
    f64 = f.detach().double().requires_grad_()
    plain = plain_loop(f64, g.double(), ids, (singles.tolist(), pairs))
    (plain_grad,) = torch.autograd.grad(plain, f64)
    value = abs(ours.item() - plain.item()) / abs(plain.item())
    return value, ((ours_grad - plain_grad).norm() / plain_grad.norm()).item()


def one_pass(name: str, painted: str, size: int) -> Callable[[], object]:
    """Forward and backward pass on data of its own."""
    f, g, ids = data(painted, size)
    run = plain_loop if name == "loop" else vectorised
    return lambda: run(f, g, ids).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.size
    network = build_network("unet", in_channels=1, out_channels=16, spatial_dims=2)
    image = torch.randn(4, 1, size, size)
    rows = []
    for painted in PAINTED:
        f, g, ids = data(painted, size)
        torch.manual_seed(0)
        times = in_turn(
            {
                "loop": lambda f=f, g=g, ids=ids: plain_loop(f, g, ids).backward(),
                "vectorised": lambda f=f, g=g, ids=ids: vectorised(f, g, ids).backward(),
                "U-Net": lambda: network(image).sum().backward(),
            },
            arguments.rounds,
        )
        value, gradient = difference(painted, size)
        memory = {
            n: peak(one_pass, (n, painted, size), (n, painted, 32)) for n in ("loop", "vectorised")
        }
        ours = times["vectorised"]
        rows.append(
            [
                painted,
                *(f"{times[name]:.3f} s" for name in ("loop", "vectorised")),
                f"{times['loop'] / ours:.1f}",
                *(f"{memory[name]:.0f} MB" for name in ("loop", "vectorised")),
                f"{memory['loop'] / memory['vectorised']:.1f}",
                f"{value:.0e}, {gradient:.0e}",
                f"{ours / times['U-Net']:.1%} of {times['U-Net']:.2f} s",
            ]
        )
    print(f"4 x 16 x {size} x {size}, 15 objects an image; seed 0; {machine()}\n")
    header = ["painted", "loop", "vectorised", "ratio", "loop's memory", "vectorised", "ratio"]
    header += ["difference: value, gradient", "share of the U-Net (float32)"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
