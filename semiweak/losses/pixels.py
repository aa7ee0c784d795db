"""What losses share: the embeddings of some pixels, probabilities, and full precision."""

from __future__ import annotations

from collections.abc import Callable
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


def in_full_precision(function: F) -> F:
    """Keeps autocast, which would round distances to 8 bits, out of a function."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)

    return cast(F, run)
