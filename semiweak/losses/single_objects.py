"""The loss of single objects, by the soft masks that anchors select (SPOCO paper, Eq 3 and 4)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from semiweak.losses.distances import Term, squared_distances, sum_over_pixels
from semiweak.losses.fused import Part
from semiweak.losses.objects import Objects, mean_over_objects

_LARGEST_LOG = 100.0
"""-ln(1 - S) is not followed beyond this, as in `torch.nn.functional.binary_cross_entropy`."""


def kernel_width(delta_v: float, threshold: float) -> float:
    """2 sigma^2 of the kernel (Eq 3), by which a pixel at distance ``delta_v`` has the value t.

    2 sigma^2 = -delta_v^2 / ln t
    """
    return -(delta_v**2) / math.log(threshold)


def soft_masks(
    embeddings: Tensor, anchors: Tensor, *, delta_v: float = 0.5, threshold: float = 0.9
) -> Tensor:
    """The soft mask that each anchor selects (Eq 3), kept for autograd.

        S_k(i) = exp( -||e_i - a_k||^2 / (2 sigma^2) )

    Args:
        embeddings: ``(B, D, N)``.
        anchors: Embeddings of the anchors, ``(B, K, D)``.
        delta_v: Distance at which a pixel has the value ``threshold``.
        threshold: t in (0, 1).

    Returns:
        ``(B, K, N)``, between 0 and 1.
    """
    return squared_distances(embeddings, anchors).mul(-1 / kernel_width(delta_v, threshold)).exp()


def object_loss(
    embeddings: Tensor,
    objects: Objects,
    anchors: Tensor,
    *,
    delta_v: float = 0.5,
    threshold: float = 0.9,
    kind: Literal["dice", "bce"] = "dice",
) -> tuple[Tensor, Tensor]:
    """Compares the soft mask of an anchor in each object with the object (Eq 4).

        1/C sum_k D(S_k, I_k)

    with the Dice loss that the paper refers to, D(S, I) = 1 - 2 sum S I / (sum S^2 + sum I^2), or
    with binary cross-entropy, the mean over the pixels of -I ln S - (1 - I) ln(1 - S).

    Args:
        embeddings: ``(B, D, N)``.
        objects: The objects of the N pixels.
        anchors: A pixel of each object, ``int64 (B, C)``, or the embedding of its anchor,
            ``(B, C, D)``.
        delta_v: See `soft_masks`.
        threshold: See `soft_masks`.
        kind: ``"dice"`` or ``"bce"``.

    Returns:
        The loss of each image ``(B,)`` and which images have an object ``bool (B,)``.
    """
    term = ObjectTerm(objects, anchors, kernel_width(delta_v, threshold), kind)
    return term.loss(*sum_over_pixels([embeddings], [term], objects.outside))


class ObjectTerm(Term):
    """The sums of the object loss."""

    def __init__(self, objects: Objects, anchors: Tensor, width: float, kind: str) -> None:
        if kind not in ("dice", "bce"):
            raise ValueError(f"the object loss is {kind!r}; it must be 'dice' or 'bce'")
        self.centres = [(0, anchors)]
        self.objects, self.number, self.padded = objects, objects.number, objects.padded
        self.width, self.kind = width, kind

    def part(self) -> Part | None:
        """What the compiled pass must know, which does Dice."""
        if self.kind != "dice":
            return None
        return Part("singles", self.number, self.objects.exists, width=self.width)

    def sums(self, d2: list[Tensor], pixels: slice) -> Tensor:
        """``(B, C, 2)``: of the object's pixels, and of all pixels.

        For Dice sum S and sum S^2, for cross-entropy sum (-ln S + ln(1 - S)) and sum -ln(1 - S).
        """
        x = d2[0].mul_(1 / self.width)
        sums = x.new_zeros((*x.shape[:2], 2))
        if x.shape[1] == 0:
            return sums
        own, here = self._own(pixels)
        if self.kind == "dice":
            mask = self._inside(x.neg_().exp_(), pixels)
            inside = mask.gather(1, own[:, None])[:, 0]
            sums[..., 1] = torch.linalg.vecdot(mask, mask)
        else:
            outside = self._inside(_minus_log_of_rest(x), pixels)
            inside = (x - outside).gather(1, own[:, None])[:, 0]
            sums[..., 1] = outside.sum(2)
        sums[..., 0].scatter_add_(1, own, torch.where(here, inside, 0.0))
        return sums

    def slopes(self, d2: list[Tensor], pixels: slice, grad: Tensor) -> None:
        """By the squared distance: dS = -S / (2 sigma^2), and d(-ln(1 - S)) = -S / (1 - S) too."""
        x = d2[0].mul_(1 / self.width)
        if x.shape[1] == 0:
            return
        own, here = self._own(pixels)
        of_own, of_all = (grad / self.width).unbind(2)
        own_grad = torch.where(here, of_own.gather(1, own), 0.0)[:, None]
        if self.kind == "dice":
            mask = self._inside(x.neg_().exp_(), pixels)
            inside = -own_grad * mask.gather(1, own[:, None])
            mask.square_().mul_(-2 * of_all[..., None])
        else:
            rest = self._inside(_slope_of_rest(x), pixels)
            inside = own_grad * (1 - rest.gather(1, own[:, None]))
            torch.mul(rest, of_all[..., None], out=x)
        x.scatter_add_(1, own[:, None], inside)

    def loss(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Eq 4 from the sums."""
        own, everywhere = sums.unbind(2)
        sizes = self.objects.sizes
        if self.kind == "dice":
            # An object has at least one pixel, so that the sum is never 0.
            losses = 1 - 2 * own / (everywhere + sizes.clamp_min(1))
        else:
            pixels = sizes.sum(1) + self.objects.unlabelled
            losses = (own + everywhere) / pixels.clamp_min(1)[:, None]
        return mean_over_objects(losses, self.objects)

    def _own(self, pixels: slice) -> tuple[Tensor, Tensor]:
        number = self.number[:, pixels]
        return (number - 1).clamp_min(0), number > 0

    def _inside(self, values: Tensor, pixels: slice) -> Tensor:
        return values.mul_((self.number[:, pixels] >= 0)[:, None]) if self.padded else values


def _minus_log_of_rest(x: Tensor) -> Tensor:
    """-ln(1 - exp(-x)), exact near 0."""
    return (-torch.expm1(-x)).log_().neg_().clamp_max_(_LARGEST_LOG)


def _slope_of_rest(x: Tensor) -> Tensor:
    """The derivative of `_minus_log_of_rest`: -1 / (exp(x) - 1); 0 where it is cut off."""
    rest = torch.expm1(x)
    return torch.where(x > math.exp(-_LARGEST_LOG), rest.reciprocal_().neg_(), 0.0)
