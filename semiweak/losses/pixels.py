"""What losses share: the embeddings of some pixels, probabilities, boxes, and full precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def pick(embeddings: Tensor, positions: Tensor) -> Tensor:
    """The embeddings ``(B, K, D)`` of pixels ``(B, K)`` out of ``(B, D, N)``."""
    index = positions[:, None].expand(-1, embeddings.shape[1], -1)
    return embeddings.gather(2, index).mT


def probabilities(logits: Tensor) -> Tensor:
    """The softmax over the classes of logits ``(B, K, *S)``, in float32 at least.

    Autocast leaves half precision as it is on a CPU, which has three digits.
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def inside_boxes(boxes: Tensor, classes: Tensor, shape: Sequence[int]) -> Tensor:
    """Which pixels lie in a box of which class, ``bool (B, C, *S)``.

    Args:
        boxes: Image, starts and ends (half-open) of each box in pixels, ``int64 (N, 1 + 2d)``.
        classes: Their classes, ``int64 (N,)``.
        shape: (B, C, *S).
    """
    inside = torch.zeros(*shape, dtype=torch.bool, device=boxes.device)
    for window in _windows(boxes, classes, len(shape) - 2):
        inside[window] = True
    return inside


def highest_in_boxes(
    scores: Tensor, boxes: Tensor, classes: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The highest score of each row and of each column of each box; in 3D, of each plane.

    Slicing every box out of the scores would cost a gradient of the size of the batch a box; what
    is found is gathered at once.

    Args:
        scores: Without a gradient, ``(B, C, *S)``.
        boxes: Image, starts and ends (half-open) of each box in pixels, ``int64 (N, 1 + 2d)``.
        classes: Their classes, ``int64 (N,)``.
        candidates: Where to look, ``bool (B, C, *S)``; rows without any are left out.

    Returns:
        Where the highest are in the flat scores, the box of each, and the axis (from 0) along which
        its row is counted, each ``int64 (M,)``.
    """
    size = scores.shape[2:]
    plane = torch.arange(math.prod(size), device=scores.device).view(size)
    at: list[Tensor] = [classes[:0]]
    box: list[Tensor] = [classes[:0]]
    along: list[Tensor] = [classes[:0]]
    for n, inside in enumerate(_windows(boxes, classes, len(size))):
        image, c, *window = inside
        region = scores[inside].masked_fill(~candidates[inside], -math.inf)
        where = plane[tuple(window)] + (image * scores.shape[1] + c) * plane.numel()
        for axis in range(len(size)):
            rows = region.movedim(axis, 0).flatten(1)
            if rows.numel() == 0:
                continue
            highest, place = rows.max(1)
            found = where.movedim(axis, 0).flatten(1).gather(1, place[:, None])[:, 0]
            at.append(found[highest > -math.inf])
            box.append(torch.full_like(at[-1], n))
            along.append(torch.full_like(at[-1], axis))
    return torch.cat(at), torch.cat(box), torch.cat(along)


def _windows(boxes: Tensor, classes: Tensor, d: int) -> Iterator[tuple[Any, ...]]:
    """Image, class and one slice an axis of each box."""
    for c, (image, *corners) in zip(classes.tolist(), boxes.tolist(), strict=True):
        yield image, c, *map(slice, corners[:d], corners[d:])


def in_full_precision(function: F) -> F:
    """Keeps autocast, which would round distances to 8 bits, out of a function."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)

    return cast(F, run)
