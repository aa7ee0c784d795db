"""The discriminative loss: pull, push and regulariser (SPOCO paper, Eq 1, 2 and footnote 1).

All return one value an image and which images they speak about, for
`semiweak.losses.reduction.mean_over_known`. Objects are those of `semiweak.losses.objects`; when an
image is painted completely its background is one of them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from semiweak.losses.distances import Term, sum_over_pixels
from semiweak.losses.fused import Part
from semiweak.losses.objects import UNLABELLED, Objects, mean_over_objects

_TINY = 1e-12  # below this a squared distance is rounding, and has no direction


def pull_loss(
    embeddings: Tensor, objects: Objects, means: Tensor, *, delta_v: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Draws the pixels of an object to within ``delta_v`` of its mean (Eq 1).

        1/C sum_k 1/N_k sum_{i in k} [ ||mu_k - e_i|| - delta_v ]+^2

    Args:
        embeddings: ``(B, D, N)``.
        objects: The objects of the N pixels.
        means: Their mean embeddings, ``(B, C, D)``.
        delta_v: Distance from the mean within which a pixel is left alone.

    Returns:
        The loss of each image ``(B,)`` and which images have an object ``bool (B,)``.
    """
    term = MeansTerm(objects, means, delta_v=delta_v)
    return term.pull(*sum_over_pixels([embeddings], [term], objects.outside))


def push_loss(means: Tensor, objects: Objects, *, delta_d: float = 2.0) -> tuple[Tensor, Tensor]:
    """Drives the means of two objects apart until they are 2 ``delta_d`` from each other (Eq 2).

        1/C^2 sum_k sum_{l != k} [ 2 delta_d - ||mu_k - mu_l|| ]+^2

    An object is not driven away from itself: for k = l the hinge would be a constant. Two means
    that coincide have no direction to part in, and no gradient.

    Args:
        means: ``(B, C, D)``.
        objects: The objects that they belong to.
        delta_d: Half of the distance at which means are left alone.

    Returns:
        The loss of each image ``(B,)`` and which images have an object ``bool (B,)``.
    """
    d2 = (means[:, :, None] - means[:, None]).square().sum(-1)
    hinge = (2 * delta_d - _root(d2)).clamp_min(0).square()
    exists = objects.exists
    pairs = exists[:, :, None] & exists[:, None]
    pairs = pairs & ~torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device)
    number = exists.sum(1)
    known = number > 0
    # Selected, not multiplied: what stands where no object is must not leak.
    return torch.where(pairs, hinge, 0.0).sum((1, 2)) / number.clamp_min(1).square(), known


def norm_loss(means: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
    """Keeps the means from wandering off (footnote 1); the paper gives it the weight 0.001.

        1/C sum_k ||mu_k||

    Args:
        means: ``(B, C, D)``.
        objects: The objects that they belong to.

    Returns:
        The loss of each image ``(B,)`` and which images have an object ``bool (B,)``.
    """
    return mean_over_objects(_root(means.square().sum(-1)), objects)


def unlabeled_push_loss(
    embeddings: Tensor, objects: Objects, means: Tensor, *, delta_d: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Drives unlabelled pixels from the means of the painted objects (SPOCO paper, Eq 6).

        1/C sum_k 1/N_U sum_{i in U} [ delta_d - ||mu_k - e_i|| ]+^2

    Args:
        embeddings: ``(B, D, N)``.
        objects: The objects of the N pixels.
        means: Their mean embeddings, ``(B, C, D)``.
        delta_d: Distance from a mean beyond which a pixel is left alone.

    Returns:
        The loss of each image ``(B,)`` and which images have both an object and an unlabelled pixel
        ``bool (B,)``.
    """
    term = MeansTerm(objects, means, delta_d=delta_d)
    return term.unlabeled_push(*sum_over_pixels([embeddings], [term], objects.outside))


class MeansTerm(Term):
    """The sums of the pull and of the unlabelled push, which look at the same distances.

    Args:
        objects: The objects.
        means: ``(B, C, D)``.
        delta_v: Margin of the pull; None to leave it out (its sum is 0).
        delta_d: Margin of the unlabelled push; None to leave it out.
    """

    def __init__(
        self,
        objects: Objects,
        means: Tensor,
        *,
        delta_v: float | None = None,
        delta_d: float | None = None,
    ) -> None:
        self.centres = [(0, means)]
        self.objects, self.number = objects, objects.number
        self.delta_v, self.delta_d = delta_v, delta_d

    def part(self) -> Part:
        """What the compiled pass must know."""
        part = Part("means", self.number, self.objects.exists)
        if self.delta_v is not None:
            part = replace(part, delta_v=self.delta_v)
        return part if self.delta_d is None else replace(part, delta_d=self.delta_d)

    def sums(self, d2: list[Tensor], pixels: slice) -> Tensor:
        """``(B, C, 2)``: the pull's hinges over the object, the push's over the unlabelled."""
        (d2_means,) = d2
        number = self.number[:, pixels]
        sums = d2_means.new_zeros((*d2_means.shape[:2], 2))
        if d2_means.shape[1] == 0:
            return sums
        if self.delta_v is not None:
            own = (number - 1).clamp_min(0)
            hinge = (d2_means.gather(1, own[:, None])[:, 0].sqrt() - self.delta_v).clamp_min_(0)
            hinge = torch.where(number > 0, hinge.square_(), 0.0)
            sums[..., 0].scatter_add_(1, own, hinge)
        if self.delta_d is not None:
            hinge = d2_means.sqrt_().neg_().add_(self.delta_d).clamp_min_(0)
            hinge.mul_((number == UNLABELLED)[:, None])
            sums[..., 1] = torch.linalg.vecdot(hinge, hinge)
        return sums

    def slopes(self, d2: list[Tensor], pixels: slice, grad: Tensor) -> None:
        """By the squared distance x: d/dx [sqrt(x) - v]+^2 = [sqrt(x) - v]+ / sqrt(x)."""
        (x,) = d2
        if x.shape[1] == 0:
            return
        number = self.number[:, pixels]
        own = (number - 1).clamp_min(0)
        pull = torch.zeros_like(own, dtype=x.dtype)
        if self.delta_v is not None:
            to_own = x.gather(1, own[:, None])[:, 0]
            root = to_own.sqrt().clamp_min_(_TINY)
            ratio = (1 - self.delta_v / root).clamp_min_(0)
            ratio.masked_fill_((number <= 0) | (to_own <= _TINY), 0)
            pull = grad[..., 0].gather(1, own) * ratio
        if self.delta_d is None:
            x.zero_()
        else:
            # -[d - sqrt(x)]+ / sqrt(x), which has no direction at distance 0.
            near = x <= _TINY
            x.rsqrt_().mul_(-self.delta_d).add_(1).clamp_max_(0).masked_fill_(near, 0)
            x.mul_(grad[..., 1:]).mul_((number == UNLABELLED)[:, None])
        x.scatter_add_(1, own[:, None], pull[:, None])

    def pull(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Eq 1 from the sums."""
        return mean_over_objects(sums[..., 0] / self.objects.sizes.clamp_min(1), self.objects)

    def unlabeled_push(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Eq 6 from the sums."""
        pixels = self.objects.unlabelled
        values, known = mean_over_objects(sums[..., 1] / pixels.clamp_min(1)[:, None], self.objects)
        return values, known & (pixels > 0)


def _root(squares: Tensor) -> Tensor:
    """The square root, with the gradient 0 at 0, where it has none."""
    positive = squares > _TINY
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
