"""Sums over pixels of functions of embedding distances, in little memory.

Every term of the SPOCO paper is, for each centre c (a mean or an anchor embedding), a sum over the
pixels i of some function of ||e_i - c||^2. The matrix of all distances has as many entries as there
are pixels times centres, and autograd would keep several of its size. Here it is made a few
thousand pixels at a time, summed, forgotten, and made again for the gradient, which each term
writes down by hand. So the memory is that of the gradient alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semiweak.losses import fused, kernels
from semiweak.losses.objects import Objects, object_means
from semiweak.losses.pixels import in_full_precision, pick

_CHUNK = {"cpu": 2**20, "other": 2**24}
"""Entries of a matrix of distances: what stays in the cache of a CPU, what keeps a GPU busy."""


class Term(ABC):
    """One term: what is summed over the pixels, and the derivative.

    ``centres`` says for each matrix of squared distances that the term looks at of which embedding
    (by its position among the embeddings) it is, and to which centres: their embeddings
    ``(B, K, D)``, or, for centres that are pixels, which pixels, ``int64 (B, K)``.
    """

    centres: Sequence[tuple[int, Tensor]]

    def part(self) -> fused.Part | None:
        """What the compiled pass on a CPU must know; None if it cannot do this term."""
        return None

    @abstractmethod
    def sums(self, d2: list[Tensor], pixels: slice) -> Tensor:
        """The sums over some pixels.

        Args:
            d2: Squared distances ``(B, K, n)``, one for each of ``centres``; may be overwritten.
            pixels: Which pixels these are.

        Returns:
            ``(B, K, M)``, as many sums as the term needs.
        """

    @abstractmethod
    def slopes(self, d2: list[Tensor], pixels: slice, grad: Tensor) -> None:
        """Overwrites the squared distances by the derivative of the loss by them.

        Args:
            d2: As in `sums`.
            pixels: As in `sums`.
            grad: The derivative by the sums, ``(B, K, M)``.
        """


def sum_over_pixels(
    embeddings: Sequence[Tensor], terms: Sequence[Term], outside: Tensor | None = None
) -> list[Tensor]:
    """The sums of each term over all pixels, in one pass through the embeddings.

    Differentiable once, by the embeddings and by the centres.

    Args:
        embeddings: Each ``(B, D, N)``; half precision is computed in float32.
        terms: What to sum.
        outside: True in padding, ``bool (B, N)``: what stands there is not looked at, and the terms
            see some finite distance, which they leave out.

    Returns:
        For each term ``(B, K, M)``.
    """
    centres = [c for term in terms for _, c in term.centres]
    parts = [term.part() for term in terms]
    if kernels.can_look_at(*embeddings) and fused.can_sum(parts):
        return fused.sum_over_pixels(parts, embeddings, centres)
    sums: tuple[Tensor, ...] = _Sums.apply(terms, outside, len(embeddings), *embeddings, *centres)
    return list(sums)


def means_and_sums(
    embeddings: Sequence[Tensor], objects: Objects, terms_of: Callable[[Tensor], Sequence[Term]]
) -> tuple[Tensor, Sequence[Term], list[Tensor]]:
    """The mean embeddings of objects, and the sums of terms that look at them.

    Args:
        embeddings: Each ``(B, D, N)``; the means are those of the first.
        objects: The objects.
        terms_of: The terms, by the means ``(B, C, D)``. Their centres are those or pixels.

    Returns:
        The means, the terms and their sums.
    """
    means = object_means(embeddings[0], objects)
    terms = terms_of(means)
    parts = [term.part() for term in terms]
    if kernels.can_look_at(*embeddings) and fused.can_sum(parts):
        centres = [c for term in terms for _, c in term.centres]
        means, *sums = fused.means_and_sums(parts, embeddings, centres, means.detach(), objects)
        return means, terms, sums
    return means, terms, sum_over_pixels(embeddings, terms, objects.outside)


@in_full_precision
def squared_distances(embeddings: Tensor, centres: Tensor) -> Tensor:
    """||e_i - c_k||^2 for every pixel and centre, never below 0, kept for autograd.

    Args:
        embeddings: ``(B, D, N)``; half precision is computed in float32.
        centres: ``(B, K, D)``.

    Returns:
        ``(B, K, N)``.
    """
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    e, c = embeddings.to(dtype), centres.to(dtype)
    # Near 0, differences of squares lose the fewest digits.
    origin = c.detach().sum(1) / max(1, c.shape[1])
    e, c = e - origin[:, :, None], c - origin[:, None]
    squares = e.square().sum(1)[:, None] + c.square().sum(2)[:, :, None]
    return torch.baddbmm(squares, c, e, alpha=-2).clamp_min(0)


class _Sums(torch.autograd.Function):
    @staticmethod
    @in_full_precision
    def forward(
        ctx: Any, terms: Sequence[Term], outside: Tensor | None, number: int, *tensors: Tensor
    ) -> Any:
        ctx.terms, ctx.outside, ctx.number = terms, outside, number
        ctx.save_for_backward(*tensors)
        run = _Run(terms, tensors[:number], tensors[number:], outside)
        sums: list[Tensor] = []
        for pixels in run.parts():
            _, _, of_terms = run.distances(pixels)
            found = [term.sums(d2, pixels) for term, d2 in zip(terms, of_terms, strict=True)]
            sums = [a.add_(b) for a, b in zip(sums, found, strict=True)] if sums else found
        return tuple(sums)

    @staticmethod
    @once_differentiable
    @in_full_precision
    def backward(ctx: Any, *grads: Tensor) -> Any:
        tensors, number = ctx.saved_tensors, ctx.number
        needs = ctx.needs_input_grad[3:]
        run = _Run(ctx.terms, tensors[:number], tensors[number:], ctx.outside)
        to_embeddings = [
            torch.empty_like(e) if need else None
            for e, need in zip(tensors[:number], needs, strict=False)
        ]
        to_centres = [torch.zeros_like(c) for c in run.centres]
        for pixels in run.parts():
            x, d2, of_terms = run.distances(pixels)
            for term, mine, grad in zip(ctx.terms, of_terms, grads, strict=True):
                term.slopes(mine, pixels, grad)
            for e, into in enumerate(to_embeddings):
                to_centres[e].add_(torch.bmm(d2[e], x[e].mT))
                if into is not None:
                    dx = run.back(e, d2[e])
                    # Rows are (e, |e|^2, 1): the second passes on to the first what reaches it.
                    torch.addcmul(
                        dx[:, :-2], x[e][:, :-2], dx[:, -2:-1], value=2, out=into[:, :, pixels]
                    )
        # A centre's row is (-2 c, 1, |c|^2), so that its first part holds the factor 2 c, too.
        back = [-2 * d[..., :-2] - c[..., :-2] * d[..., -1:]
                for d, c in zip(to_centres, run.centres, strict=True)]  # fmt: skip
        grads_of_centres: list[Tensor | None] = []
        for (e, rows), given, need in zip(run.slots, tensors[number:], needs[number:], strict=True):
            grad, into = back[e][:, rows], to_embeddings[e]
            if not given.is_floating_point() and into is not None:
                at = given[:, None].expand(-1, into.shape[1], -1)
                into.scatter_add_(2, at, grad.mT.to(into.dtype))
            grads_of_centres.append(grad.to(given.dtype) if need else None)
        return None, None, None, *to_embeddings, *grads_of_centres


class _Run:
    """What forward and backward pass have in common: the pixels in parts, and their distances.

    The centres that belong to one embedding stand in one matrix, so that all of its distances are
    one product.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        embeddings: Sequence[Tensor],
        centres: Sequence[Tensor],
        outside: Tensor | None,
    ) -> None:
        dtype = torch.promote_types(embeddings[0].dtype, torch.float32)
        self.length = embeddings[0].shape[-1]
        # Distances do not change when everything moves; near 0 they lose the fewest digits.
        step = max(1, self.length // 256)
        hidden = None if outside is None else outside[:, ::step]
        origins = [_hide(e[:, :, ::step].to(dtype), hidden).mean(-1) for e in embeddings]
        parts: list[list[Tensor]] = [[] for _ in embeddings]
        filled = [0] * len(embeddings)
        self.slots: list[tuple[int, slice]] = []
        for e, c in zip([e for t in terms for e, _ in t.centres], centres, strict=True):
            if not c.is_floating_point():
                hidden = None if outside is None else outside.gather(1, c)
                c = _hide(pick(embeddings[e], c).mT, hidden).mT
            parts[e].append(c.to(dtype) - origins[e][:, None])
            self.slots.append((e, slice(filled[e], filled[e] + c.shape[1])))
            filled[e] += c.shape[1]
        self.centres = [
            _augment(torch.cat(c, 1) if c else o.new_zeros(len(o), 0, o.shape[1]))
            for c, o in zip(parts, origins, strict=True)
        ]
        slots = iter(self.slots)
        self.of_terms = [[next(slots) for _ in term.centres] for term in terms]

        rows = max(1, sum(filled), *(e.shape[1] for e in embeddings)) * max(1, len(embeddings[0]))
        room = _CHUNK["cpu" if embeddings[0].device.type == "cpu" else "other"]
        self.chunk = min(self.length, max(256, room // rows))
        self._pixels = [
            _Pixels(e, o, self.chunk, outside) for e, o in zip(embeddings, origins, strict=True)
        ]

    def parts(self) -> list[slice]:
        return [
            slice(i, min(i + self.chunk, self.length)) for i in range(0, self.length, self.chunk)
        ]

    def distances(self, part: slice) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
        """Rows and squared distances of each embedding, and the distances for each term."""
        x = [pixels.part(part) for pixels in self._pixels]
        d2 = [torch.bmm(c, p).clamp_min_(0) for c, p in zip(self.centres, x, strict=True)]
        return x, d2, [[d2[e][:, rows] for e, rows in slots] for slots in self.of_terms]

    def back(self, e: int, slopes: Tensor) -> Tensor:
        """The gradient of the rows of an embedding, laid out as they are."""
        if self._pixels[e].by_pixel:
            return torch.bmm(slopes.mT, self.centres[e]).mT
        return torch.bmm(self.centres[e].mT, slopes)


class _Pixels:
    """The rows (e, |e|^2, 1) of pixels, with which distances are one matrix product."""

    def __init__(
        self, embeddings: Tensor, origin: Tensor, chunk: int, outside: Tensor | None
    ) -> None:
        self.embeddings, self.origin, self.outside = embeddings, origin[:, :, None], outside
        b, d, _ = embeddings.shape
        # In memory as the network laid it out: pixel by pixel, or channel by channel.
        self.by_pixel = embeddings.stride(1) == 1
        shape = (b, chunk, d + 2) if self.by_pixel else (b, d + 2, chunk)
        self._room = origin.new_ones(shape)

    def part(self, pixels: slice) -> Tensor:
        """``(B, D + 2, n)``; overwritten by the next part."""
        e = self.embeddings[:, :, pixels]
        _, d, n = e.shape
        x = self._room.mT if self.by_pixel else self._room
        x = x[:, :, :n]
        torch.sub(e.to(x.dtype), self.origin, out=x[:, :d])
        if self.outside is not None:
            x[:, :d].masked_fill_(self.outside[:, None, pixels], 0)
        torch.linalg.vecdot(x[:, :d], x[:, :d], dim=1, out=x[:, d])
        return x


def _hide(embeddings: Tensor, outside: Tensor | None) -> Tensor:
    """The embeddings ``(B, D, n)``, 0 in padding ``(B, n)``."""
    return embeddings if outside is None else embeddings.masked_fill(outside[:, None], 0)


def _augment(centres: Tensor) -> Tensor:
    """The rows (-2 c, 1, |c|^2) of centres ``(B, K, D)``."""
    one = torch.ones_like(centres[..., :1])
    return torch.cat((-2 * centres, one, centres.square().sum(-1, keepdim=True)), -1)
