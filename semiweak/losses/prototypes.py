"""Decoupled semantic prototypes: scores, negatives and the loss (DSP, Eq 1, 6 to 9, S.1 to S.8).

[DSP] Reiss et al., "Decoupled Semantic Prototypes enable learning from diverse annotation types for
semi-weakly segmentation in expert-driven domains", CVPR 2023, and its supplement.

Every class c has a few prototypes; its score at a pixel is their mean cosine with the pixel's
embedding, over a temperature. The loss of a class draws the scores of its positive pixels up, and
the scores Z_c of all associations that the annotations rule out down:

    L(c) = log Z_c - 1/|Omega_c| sum_{i in Omega_c} s_c(i)                            (S.7)
    Z_c  = sum_j sum_{k : k != c or c not in A_j} exp s_k(j)                          (S.3)

where j runs over the pixels of a batch and A_j are the classes that pixel j may have. Z_c has no
positive in it, and is the same for all of them ("decoupled"). Half precision is computed in
float32: by the usual temperature scores reach 20, and exp(20) is beyond float16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from semiweak.losses.pixels import in_full_precision

_SHORTEST = 1e-6  # the length by which shorter embeddings are divided, so that 0 scores 0


@in_full_precision
def prototype_scores(embeddings: Tensor, prototypes: Tensor, temperature: float = 0.05) -> Tensor:
    """The score of each class at each pixel (Eq 1), over the temperature.

        s_c(i) = 1/|P_c| sum_{p in P_c} <f_i, p> / (|f_i| |p|) / temperature

    The mean over prototypes is the product with the mean of the unit prototypes, which is taken
    first: the same values and gradients by a |P_c|-th of the work.

    Args:
        embeddings: ``(B, D, *S)``, of any length.
        prototypes: ``(C, P, D)``, of any length.
        temperature: tau.

    Returns:
        ``(B, C, *S)``, between -1 / temperature and 1 / temperature.
    """
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    rows = F.normalize(prototypes.to(dtype), dim=2, eps=_SHORTEST).mean(1) / temperature
    scores: Tensor = _Scores.apply(embeddings.to(dtype).flatten(2), rows)
    return scores.view(*scores.shape[:2], *embeddings.shape[2:])


class Negatives(NamedTuple):
    """The two parts of all Z_c, as logarithms; that of an empty sum is -infinity.

    Attributes:
        everywhere: log sum_j exp s_k(j) over all pixels, ``(C,)``.
        impossible: log sum exp s_c(j) over the pixels that cannot be c, ``(C,)``.
    """

    everywhere: Tensor
    impossible: Tensor

    def log_z(self) -> Tensor:
        """Log Z_c (S.3), ``(C,)``: all scores of the other classes, and the impossible ones."""
        own = torch.eye(len(self.everywhere), dtype=torch.bool, device=self.everywhere.device)
        # Row c: the totals of the others, and in the place of its own what is impossible. A sum,
        # never a difference: nothing cancels.
        return log_sum_exp(torch.where(own, self.impossible[:, None], self.everywhere[None]), 1)


@in_full_precision
def negatives(scores: Tensor, candidates: Tensor, valid: Tensor | None = None) -> Negatives:
    """All associations of pixels and classes that the annotations rule out (S.3), in one pass.

    Args:
        scores: ``(B, C, *S)``.
        candidates: A_j, the classes that a pixel may have, ``bool (B, C, *S)``.
        valid: False where a pixel counts nowhere, ``bool (B, *S)``.
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    outside = None if valid is None or bool(valid.all()) else ~valid.flatten(1)
    everywhere, impossible = _Totals.apply(
        scores.to(dtype).flatten(2), candidates.flatten(2), outside
    )
    return Negatives(everywhere, impossible)


class Positives(NamedTuple):
    """What one type of annotation says is positive.

    Attributes:
        sums: Of each class, the sum of the scores of its positives, ``(C,)``.
        counts: Their number |Omega_c|, ``(C,)``.
    """

    sums: Tensor
    counts: Tensor


def prototype_loss(negatives: Negatives, positives: Positives) -> Tensor:
    """L_DSP* (S.8) of one type of annotation, without its weight: the sum of L(c) (S.7).

        sum_c [ |Omega_c| > 0 ] ( log Z_c - 1/|Omega_c| sum_{i in Omega_c} s_c(i) )

    A class without a positive adds nothing, nor does one of which no negative is known.
    """
    log_z = negatives.log_z()
    speaks = (positives.counts > 0) & (log_z > -torch.inf)
    mean = positives.sums / positives.counts.clamp_min(1)
    return torch.where(speaks, torch.where(speaks, log_z, 0.0) - mean, 0.0).sum()


class _Scores(torch.autograd.Function):
    """rows @ f / |f|, of which autograd would keep several matrices of the size of f."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, rows: Tensor) -> Tensor:
        inverse = torch.linalg.vector_norm(embeddings, dim=1)  # (B, N)
        inverse.clamp_min_(_SHORTEST).reciprocal_()
        scores = torch.matmul(rows, embeddings).mul_(inverse[:, None])
        ctx.save_for_backward(embeddings, rows, inverse, scores)
        return scores

    @staticmethod
    @once_differentiable
    @in_full_precision
    def backward(ctx: Any, grad: Tensor) -> Any:
        embeddings, rows, inverse, scores = ctx.saved_tensors
        to_embeddings = torch.empty_like(embeddings) if ctx.needs_input_grad[0] else None
        to_rows = torch.zeros_like(rows)
        for b, f in enumerate(embeddings):  # image by image, so that little lies between
            along = torch.linalg.vecdot(grad[b], scores[b], dim=0).mul_(inverse[b].square())
            # The length of f changes its score, unless it is too short to be divided by.
            along.masked_fill_(inverse[b] >= 1 / _SHORTEST, 0)
            slopes = grad[b] * inverse[b]
            to_rows.addmm_(slopes, f.T)
            if to_embeddings is not None:
                into = to_embeddings[b]
                if into.stride(0) == 1:
                    torch.mm(slopes.T, rows, out=into.T)
                else:
                    torch.mm(rows.T, slopes, out=into)
                into.addcmul_(f, along, value=-1)
        return to_embeddings, to_rows if ctx.needs_input_grad[1] else None


class _Totals(torch.autograd.Function):
    """Logarithms of sums of exp by class: of all pixels, and of those that cannot have the class.

    Image by image, so that what lies between takes little memory.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, candidates: Tensor, outside: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        found = [scores.new_full((2, scores.shape[1]), -torch.inf)]
        for b, of_image in enumerate(scores):
            if outside is not None:
                of_image = of_image.masked_fill(outside[b], -torch.inf)
            low = of_image.masked_fill(candidates[b], -torch.inf)
            found.append(torch.stack((of_image.logsumexp(1), low.logsumexp(1))))
        everywhere, impossible = torch.stack(found).logsumexp(0)
        ctx.save_for_backward(scores, candidates, outside, everywhere, impossible)
        return everywhere, impossible

    @staticmethod
    @once_differentiable
    @in_full_precision
    def backward(ctx: Any, to_every: Tensor, to_impossible: Tensor) -> Any:
        scores, candidates, outside, everywhere, impossible = ctx.saved_tensors
        grad = torch.empty_like(scores)
        for b, of_image in enumerate(scores):
            # Where a sum is empty nothing of this is kept.
            torch.sub(of_image, impossible[:, None], out=grad[b]).exp_().mul_(
                to_impossible[:, None]
            )
            grad[b].masked_fill_(candidates[b], 0)
            share = (of_image - everywhere[:, None]).exp_().mul_(to_every[:, None])
            grad[b].add_(share)
            if outside is not None:
                grad[b].masked_fill_(outside[b], 0)
        return grad, None, None


def log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """As `torch.logsumexp`, with the gradient 0 where all are -infinity."""
    empty = (x == -torch.inf).all(dim, keepdim=True)
    total = torch.where(empty, 0.0, x).logsumexp(dim)
    return torch.where(empty.squeeze(dim), -torch.inf, total)
