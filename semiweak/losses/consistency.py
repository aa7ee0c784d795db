"""Consistency of two embeddings where nobody painted (SPOCO paper, section 3.2 and Eq 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiweak.losses.distances import Term, sum_over_pixels
from semiweak.losses.fused import Part
from semiweak.losses.objects import Objects, random_unlabelled
from semiweak.losses.pixels import pick
from semiweak.losses.single_objects import kernel_width


@dataclass(frozen=True)
class Anchors:
    """Anchor pixels of the consistency loss.

    Attributes:
        positions: Which of the N pixels, ``int64 (B, K)``.
        used: Which of them are anchors, ``bool (B, K)``; images need different numbers.
    """

    positions: Tensor
    used: Tensor


@torch.no_grad()
def draw_anchors(
    f: Tensor,
    g: Tensor,
    objects: Objects,
    *,
    delta_v: float = 0.5,
    max_anchors: int = 20,
    samples: int = 1024,
    generator: torch.Generator | None = None,
) -> Anchors:
    """Draws anchors from the unlabelled region until their masks cover it (SPOCO, section 3.2).

    One after the other, a random pixel that no mask covers yet becomes an anchor; a mask covers the
    pixels that are within ``delta_v`` of its anchor in either embedding (where the soft mask is
    above t). To take the uncovered pixels in random order is to go once through all pixels in
    random order and to pass over the covered ones. So a random sample of pixels tells both which
    pixels become anchors and when the region is covered, up to a share of 3 / ``samples``.

    Args:
        f: Embeddings of the first network, ``(B, D, N)``.
        g: Embeddings of the second one.
        objects: Says which pixels are unlabelled.
        delta_v: Radius of a mask.
        max_anchors: At most so many anchors an image: embeddings that are not yet trained would
            need one for every few pixels.
        samples: Unlabelled pixels that are gone through.
        generator: Repeats the draw.
    """
    candidates = random_unlabelled(objects, samples, generator)
    of_f, of_g = (pick(e, candidates).float() for e in (f, g))
    covered = (objects.unlabelled == 0)[:, None].expand(-1, samples).clone()
    rows = torch.arange(len(candidates), device=candidates.device)
    positions, used = [], []
    for _ in range(max_anchors):
        open_places = ~covered
        used.append(open_places.any(1))
        if not used[-1].any():
            break
        first = open_places.int().argmax(1)
        positions.append(candidates[rows, first])
        covered |= _within(of_f, rows, first, delta_v) | _within(of_g, rows, first, delta_v)
    if not positions:
        return Anchors(candidates[:, :0], covered[:, :0])
    return Anchors(torch.stack(positions, 1), torch.stack(used[: len(positions)], 1))


def consistency_loss(
    f: Tensor,
    g: Tensor,
    anchors: Anchors,
    objects: Objects,
    *,
    delta_v: float = 0.5,
    threshold: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Compares the soft masks of one anchor in the embeddings of two networks (Eq 7).

        1/K sum_k D(S_k^f, S_k^g),    D(S, T) = 1 - 2 sum S T / (sum S^2 + sum T^2)

    Args:
        f: Embeddings of the first network, ``(B, D, N)``.
        g: Embeddings of the second one.
        anchors: See `draw_anchors`.
        objects: Of which padding is left out.
        delta_v: See `soft_masks`.
        threshold: See `soft_masks`.

    Returns:
        The loss of each image ``(B,)`` and which images have an anchor ``bool (B,)``.
    """
    term = ConsistencyTerm(anchors, objects, kernel_width(delta_v, threshold))
    return term.loss(*sum_over_pixels([f, g], [term], objects.outside))


class ConsistencyTerm(Term):
    """The sums of the consistency loss."""

    def __init__(self, anchors: Anchors, objects: Objects, width: float) -> None:
        self.centres = [(0, anchors.positions), (1, anchors.positions)]
        self.anchors = anchors
        self.number, self.padded = objects.number, objects.padded
        self.width = width

    def part(self) -> Part:
        """What the compiled pass must know."""
        return Part("anchors", self.number, self.anchors.used, width=self.width)

    def sums(self, d2: list[Tensor], pixels: slice) -> Tensor:
        """``(B, K, 2)``: sum S^f S^g, and sum (S^f)^2 + sum (S^g)^2."""
        of_f, of_g = self._masks(d2, pixels)
        dot = torch.linalg.vecdot
        return torch.stack((dot(of_f, of_g), dot(of_f, of_f) + dot(of_g, of_g)), 2)

    def slopes(self, d2: list[Tensor], pixels: slice, grad: Tensor) -> None:
        """By the squared distances: dS = -S / (2 sigma^2)."""
        of_f, of_g = self._masks(d2, pixels)
        both, each = (-grad / self.width)[..., None].unbind(2)
        product = (of_f * of_g).mul_(both)
        for mask in (of_f, of_g):
            mask.square_().mul_(2 * each).add_(product)

    def loss(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Eq 7 from the sums."""
        both, each = sums.unbind(2)
        used = self.anchors.used
        # An anchor itself has the value 1 in both masks, so that the sum is at least 2.
        losses = torch.where(used, 1 - 2 * both / each.clamp_min(1), 0.0)
        number = used.sum(1)
        return losses.sum(1) / number.clamp_min(1), number > 0

    def _masks(self, d2: list[Tensor], pixels: slice) -> list[Tensor]:
        masks = [x.mul_(-1 / self.width).exp_() for x in d2]
        if self.padded:
            inside = (self.number[:, pixels] >= 0)[:, None]
            masks = [mask.mul_(inside) for mask in masks]
        return masks


def _within(points: Tensor, rows: Tensor, which: Tensor, radius: float) -> Tensor:
    """Which of ``(B, M, D)`` are within a radius of one of them, ``bool (B, M)``."""
    return (points - points[rows, which][:, None]).square().sum(-1) <= radius**2
