"""Embeddings as colours, by their principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiweak.visualize.color import Rgb
from semiweak.visualize.picture import middle_slice

_ENOUGH = 100_000  # pixels for three components and their percentiles
# A component that varies less than this share of the strongest is noise more than structure:
# stretched to the full range it would drown what is there.
_WEAKEST = 0.25


@dataclass(frozen=True, eq=False)
class EmbeddingColors:
    """A projection of embeddings to colours, the same for each image that it is given.

    The first three principal components are red, green and blue. Each fills its channel from the
    1st to the 99th percentile, and no component is stretched more than four times as much as the
    strongest. Embeddings of one dimension are shown grey; two dimensions leave blue as it is.
    Pixels of one object are alike in their colours, but so may be other objects far from each other
    in a dimension that is not shown.

    Example:
        >>> embeddings = np.random.default_rng(0).normal(size=(16, 64, 64))
        >>> EmbeddingColors.fit(embeddings)(embeddings).shape
        (64, 64, 3)

    Attributes:
        center: What becomes a middle grey, ``(D,)``.
        axes: What a channel is made of, ``(3, D)``: 0.5 a unit is half of its range.
    """

    center: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def fit(cls, embeddings: NDArray[Any] | Tensor, *, seed: int = 0) -> Self:
        """Takes the projection from the embeddings of one image.

        Args:
            embeddings: ``(D, *S)``; pixels with values that are not finite do not count.
            seed: Of the choice among more than 100,000 pixels.

        Raises:
            ValueError: The embeddings have other axes.
        """
        pixels = _array(embeddings)
        dim = len(pixels)
        pixels = pixels.reshape(dim, -1)
        if pixels.shape[1] > _ENOUGH:
            pixels = pixels[:, np.random.default_rng(seed).integers(0, pixels.shape[1], _ENOUGH)]
        pixels = pixels[:, np.isfinite(pixels).all(axis=0)].astype(np.float64)
        if pixels.shape[1] == 0:
            return cls(np.zeros(dim), np.zeros((3, dim)))
        center = pixels.mean(axis=1)
        pixels -= center[:, None]
        _, vectors = np.linalg.eigh(pixels @ pixels.T)
        axes = vectors.T[::-1][:3]  # the strongest comes last
        # The sign of an eigenvector is nobody's choice: here its largest entry is positive.
        largest = np.abs(axes).argmax(axis=1)
        axes *= np.sign(axes[np.arange(len(axes)), largest])[:, None]
        low, high = _range(axes @ pixels)
        center += axes.T @ ((low + high) / 2)
        scale = high - low
        # What single precision does not resolve is rounding, not structure.
        if scale.max() <= np.finfo(np.float32).eps * np.abs(center).max():
            return cls(center, np.zeros((3, dim)))
        axes /= np.maximum(scale, _WEAKEST * scale.max())[:, None]
        missing = ((0, 3 - len(axes)), (0, 0))
        return cls(center, np.pad(axes, missing, mode="edge" if dim == 1 else "constant"))

    def __call__(self, embeddings: NDArray[Any] | Tensor) -> Rgb:
        """The picture of an image's embeddings.

        Args:
            embeddings: ``(D, H, W)``, or ``(D, Z, H, W)``, of which the middle slice is shown;
                values that are not finite are shown black.

        Raises:
            ValueError: The embeddings have other axes, or another D than those of `fit`.
        """
        pixels = _array(embeddings)
        if len(pixels) != len(self.center):
            raise ValueError(
                f"the projection was fitted to embeddings of {len(self.center)} dimensions, these "
                f"have {len(pixels)}"
            )
        if pixels.ndim == 4:
            pixels = middle_slice(pixels)
        height, width = pixels.shape[1:]
        pixels = pixels.reshape(len(pixels), -1).astype(np.float32)
        finite = np.isfinite(pixels).all(axis=0)
        if not finite.all():
            pixels = np.where(finite, pixels, 0)
        # In double precision, what is subtracted may be large beside what is left.
        shift = 0.5 - self.axes @ self.center
        color = self.axes.astype(np.float32) @ pixels + shift.astype(np.float32)[:, None]
        picture = np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8)
        picture[:, ~finite] = 0
        return np.ascontiguousarray(picture.T).reshape(height, width, 3)

    def state_dict(self) -> dict[str, Any]:
        """The projection as plain lists: ``EmbeddingColors.from_state(colors.state_dict())``."""
        return {"center": self.center.tolist(), "axes": self.axes.tolist()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The projection that `state_dict` was taken from."""
        return cls(np.asarray(state["center"]), np.asarray(state["axes"]))


def _range(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = np.percentile(values, (1, 99), axis=1)
    if (low == high).all():  # a few small objects on a plain background
        low, high = values.min(axis=1), values.max(axis=1)
    return low, high


def _array(embeddings: NDArray[Any] | Tensor) -> NDArray[Any]:
    if isinstance(embeddings, Tensor):
        embeddings = embeddings.detach().float().cpu().numpy()
    if embeddings.ndim not in (3, 4) or len(embeddings) == 0:
        raise ValueError(
            "embeddings have axes (D, H, W) or (D, Z, H, W), the dimension first, not the shape "
            f"{tuple(embeddings.shape)}"
        )
    return embeddings
