"""The input of a clustering: one embedding a pixel, checked and laid out for fast reading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[np.floating]
Mask = Tensor | NDArray[np.bool_]


@dataclass(frozen=True)
class Pixels:
    """The embeddings of N = prod(S) pixels of one image.

    Attributes:
        values: ``(N, D)`` float32, one row a pixel in raster order; 0 outside the mask.
        shape: S, the image's shape.
        inside: ``(N,)`` bool, which pixels are to be clustered.
        other: The g-network's embeddings, like ``values``, or None.
        background: The mean embedding of background ``(D,)``, or None.
    """

    values: NDArray[np.float32]
    shape: tuple[int, ...]
    inside: NDArray[np.bool_]
    other: NDArray[np.float32] | None = None
    background: NDArray[np.float32] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The image's shape as an array."""
        return np.array(self.shape, np.int64)

    @property
    def strides(self) -> NDArray[np.int64]:
        """How far apart neighbours along each axis lie in raster order."""
        return np.array([np.prod(self.shape[a + 1 :]) for a in range(len(self.shape))], np.int64)

    @property
    def chosen(self) -> NDArray[np.float32]:
        """The embeddings inside the mask, ``(M, D)``."""
        return self.values if self.inside.all() else self.values[self.inside]

    def spread(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Labels of the pixels inside the mask ``(M,)`` as labels of all pixels ``(N,)``."""
        if len(labels) == len(self.inside):
            return labels
        result = np.zeros(len(self.inside), np.int32)
        result[self.inside] = labels
        return result


def read_pixels(
    embeddings: Array,
    other: Array | None = None,
    mask: Mask | None = None,
    background: Array | None = None,
) -> Pixels:
    """Checks the embeddings of one image ``(D, *S)`` and lays them out pixel by pixel.

    Raises:
        ValueError: A shape or type does not fit, or a value inside the mask is not finite.
    """
    first = torch.as_tensor(embeddings)
    if first.ndim not in (3, 4):
        raise ValueError(
            f"the embeddings have the shape {tuple(first.shape)}, but one image's are (D, H, W) or "
            "(D, depth, H, W); cluster the images of a batch one by one"
        )
    shape = tuple(first.shape[1:])
    if mask is None:
        inside = torch.ones(shape, dtype=torch.bool)
    else:
        inside = torch.as_tensor(mask).detach().cpu()
        if inside.dtype != torch.bool or tuple(inside.shape) != shape:
            raise ValueError(
                f"the mask is {inside.dtype} {tuple(inside.shape)}, but for these embeddings it is "
                f"bool {shape}"
            )
    inside = inside.flatten()
    values = _rows("embeddings", first, inside)
    mean: NDArray[np.float32] | None = None
    if background is not None:
        mean = torch.as_tensor(background).detach().cpu().float().numpy()
        if mean.shape != values.shape[1:] or not np.isfinite(mean).all():
            raise ValueError(
                f"the mean embedding of the background has the shape {mean.shape}; it must hold "
                f"{values.shape[1]} finite numbers, as the embeddings do"
            )
    if other is None:
        return Pixels(values, shape, inside.numpy(), background=mean)
    second = torch.as_tensor(other)
    if second.ndim != first.ndim or tuple(second.shape[1:]) != shape:
        raise ValueError(
            f"the other embeddings have the shape {tuple(second.shape)}, but the first "
            f"{tuple(first.shape)}: both belong to the same image"
        )
    rows = _rows("other embeddings", second, inside)
    return Pixels(values, shape, inside.numpy(), rows, mean)


def _rows(name: str, embeddings: Tensor, inside: Tensor) -> NDArray[np.float32]:
    if not embeddings.is_floating_point():
        raise ValueError(f"the {name} hold {embeddings.dtype}, but they are floating-point numbers")
    if embeddings.shape[0] == 0:
        raise ValueError(f"the {name} have no dimension: their shape is {tuple(embeddings.shape)}")
    flat = embeddings.detach().flatten(1).cpu().float()
    rows = flat.t().contiguous()
    if rows.data_ptr() == embeddings.data_ptr():  # D == 1: still the caller's memory
        rows = rows.clone()
    if not inside.all():
        rows[~inside] = 0
    # Two numbers tell, without a temporary of the image's size: NaN wins both.
    if rows.numel() and not torch.stack(rows.aminmax()).isfinite().all():
        raise ValueError(
            f"the {name} contain NaN or infinite values (float32); the network has diverged, or "
            "its output overflowed in half precision"
        )
    result: NDArray[np.float32] = rows.numpy()
    return result
