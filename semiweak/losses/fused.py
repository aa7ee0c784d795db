"""The sums of `semiweak.losses.distances` for float32 on a CPU, by the compiled loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semiweak.losses import kernels
from semiweak.losses.objects import Objects
from semiweak.losses.pixels import pick


@dataclass(frozen=True)
class Part:
    """What the compiled loops must know of a term.

    Attributes:
        kind: Which of their terms it is, see `semiweak.losses.kernels.Terms`.
        number: The object of each pixel, 0 for unlabelled, -1 for padding, ``int64 (B, N)``.
        exists: Which of the centres exist, ``bool (B, K)``.
        delta_v: Margin of the pull; infinite to leave it out.
        delta_d: Margin of the unlabelled push; 0 to leave it out.
        width: 2 sigma^2 of the kernel.
    """

    kind: Literal["means", "singles", "anchors"]
    number: Tensor
    exists: Tensor
    delta_v: float = float("inf")
    delta_d: float = 0.0
    width: float | None = None


def can_sum(parts: Sequence[Part | None]) -> TypeGuard[Sequence[Part]]:
    """Whether the compiled loops do these terms."""
    known = [part for part in parts if part is not None]
    objects = [part.exists for part in known if part.kind != "anchors"]
    return (
        0 < len(known) == len(parts) == len({part.kind for part in known})
        and len({part.width for part in known} - {None}) <= 1
        and all(torch.equal(exists, objects[0]) for exists in objects)
    )


def sum_over_pixels(
    parts: Sequence[Part], embeddings: Sequence[Tensor], centres: Sequence[Tensor]
) -> list[Tensor]:
    """As `semiweak.losses.distances.sum_over_pixels`, for what `can_sum` and `can_look_at` accept.

    Args:
        parts: The terms.
        embeddings: One or, with anchors, two, ``(B, D, N)``.
        centres: Those of all parts, one after the other: ``(B, K, D)``, or which pixels they are.
    """
    sums: tuple[Tensor, ...] = _Sums.apply(parts, len(embeddings), *embeddings, *centres)
    return list(sums)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Sequence[Part], number: int, *tensors: Tensor) -> Any:
        ctx.parts, ctx.number = parts, number
        ctx.save_for_backward(*tensors)
        return _sums(parts, tensors[:number], tensors[number:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        tensors, number = ctx.saved_tensors, ctx.number
        needs = ctx.needs_input_grad[2 : 2 + number]
        back = _gradients(ctx.parts, tensors[:number], tensors[number:], needs, grads)
        return None, None, *back[0], *back[1]


def means_and_sums(
    parts: Sequence[Part],
    embeddings: Sequence[Tensor],
    centres: Sequence[Tensor],
    means: Tensor,
    objects: Objects,
) -> list[Tensor]:
    """As `sum_over_pixels`, with the mean embeddings of objects as first result.

    Their gradient goes to the pixels along with that of the sums, and not by a matrix of its own.

    Args:
        parts: The terms.
        embeddings: As in `sum_over_pixels`; the means are those of the first.
        centres: As in `sum_over_pixels`; but for pixels, all of them are the ``means``.
        means: ``(B, C, D)``, without a gradient.
        objects: The objects.
    """
    pixels = [None if c.is_floating_point() else c for c in centres]
    found: tuple[Tensor, ...] = _MeansAndSums.apply(parts, objects, pixels, means, *embeddings)
    return list(found)


class _MeansAndSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        parts: Sequence[Part],
        objects: Objects,
        pixels: Sequence[Tensor | None],
        means: Tensor,
        *embeddings: Tensor,
    ) -> Any:
        ctx.parts, ctx.objects, ctx.pixels = parts, objects, pixels
        ctx.save_for_backward(means, *embeddings)
        centres = [means if p is None else p for p in pixels]
        return means.clone(), *_sums(parts, embeddings, centres)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_means: Tensor, *grads: Tensor) -> Any:
        means, *embeddings = ctx.saved_tensors
        centres = [means if p is None else p for p in ctx.pixels]
        needs = ctx.needs_input_grad[4:]
        to_embeddings, to_centres = _gradients(ctx.parts, embeddings, centres, needs, grads)
        if to_embeddings[0] is not None:
            for grad in to_centres:
                to_means = to_means if grad is None else to_means + grad
            share = to_means / ctx.objects.sizes.clamp_min(1)[..., None]
            kernels.add_to_objects(_array(ctx.objects.number), _array(share), to_embeddings[0])
        return None, None, None, None, *to_embeddings


def _sums(
    parts: Sequence[Part], embeddings: Sequence[Tensor], centres: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    found = kernels.sums(_terms(parts, embeddings, centres), embeddings[0], embeddings[-1])
    return tuple(torch.from_numpy(getattr(found, part.kind)).float() for part in parts)


def _gradients(
    parts: Sequence[Part],
    embeddings: Sequence[Tensor],
    centres: Sequence[Tensor],
    needs: Sequence[bool],
    grads: Sequence[Tensor],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The gradients by the embeddings that need one, and by the centres that are no pixels."""
    into = [
        torch.empty_like(e) if need else None for e, need in zip(embeddings, needs, strict=True)
    ]
    nothing = {kind: np.zeros((0, 0, 2), np.float32) for kind in kernels.Sums._fields}
    given = {part.kind: _array(g) for part, g in zip(parts, grads, strict=True)}
    back = kernels.gradients(
        _terms(parts, embeddings, centres), embeddings[0], embeddings[-1],
        kernels.Sums(**(nothing | given)), into[0], into[1] if len(into) > 1 else None,
    )  # fmt: skip
    to_centres: list[Tensor | None] = []
    for (e, field), centre in zip(_fields(parts), centres, strict=True):
        grad, to_pixels = torch.from_numpy(getattr(back, field)).float(), into[e]
        is_pixel = not centre.is_floating_point()
        to_centres.append(None if is_pixel else grad.to(centre.dtype))
        if is_pixel and to_pixels is not None:
            at = centre[:, None].expand(-1, to_pixels.shape[1], -1)
            to_pixels.scatter_add_(2, at, grad.mT)
    return into, to_centres


def _fields(parts: Sequence[Part]) -> list[tuple[int, str]]:
    """Of each matrix of centres, of which embedding it is and what the compiled loops call it."""
    found: list[tuple[int, str]] = []
    for part in parts:
        found += [(0, "of_f"), (1, "of_g")] if part.kind == "anchors" else [(0, part.kind)]
    return found


def _terms(
    parts: Sequence[Part], embeddings: Sequence[Tensor], centres: Sequence[Tensor]
) -> kernels.Terms:
    b, dim, _ = embeddings[0].shape
    objects = [part.exists for part in parts if part.kind != "anchors"]
    anchors = [part.exists for part in parts if part.kind == "anchors"]
    none = embeddings[0].new_zeros(b, 0, dim)
    given = {"means": none, "singles": none, "of_f": none, "of_g": none}
    for (e, field), centre in zip(_fields(parts), centres, strict=True):
        given[field] = centre.float() if centre.is_floating_point() else pick(embeddings[e], centre)
    nobody = none[:, :, 0].bool()
    return kernels.Terms(
        number=_array(parts[0].number),
        exists=_array(objects[0] if objects else nobody),
        used=_array(anchors[0] if anchors else nobody),
        **{field: _array(c) for field, c in given.items()},
        delta_v=np.float32(min(part.delta_v for part in parts)),
        delta_d=np.float32(max(part.delta_d for part in parts)),
        width=np.float32(next((part.width for part in parts if part.width is not None), 1.0)),
    )


def _array(tensor: Tensor) -> kernels.Array:
    found: kernels.Array = tensor.detach().contiguous().numpy()
    return found
