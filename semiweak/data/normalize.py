"""Normalisation of images by statistics of the training images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Method = Literal["standard", "minmax", "percentile", "none"]


@dataclass(frozen=True)
class Normalization:
    """``(image - offset) / scale`` per channel, fitted once on the training images.

    Attributes:
        offset: One value a channel, in the units of the file.
        scale: One positive value a channel.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Normalises ``(B, C, *S)`` of any type to float32."""
        shape = (1, -1) + (1,) * (image.ndim - 2)
        offset = torch.tensor(self.offset, device=image.device).reshape(shape)
        scale = torch.tensor(self.scale, device=image.device).reshape(shape)
        return (image.float() - offset) / scale

    @classmethod
    def fit(
        cls,
        images: Iterable[NDArray[Any]],
        method: Method = "standard",
        percentiles: tuple[float, float] = (1.0, 99.0),
    ) -> Self:
        """Reads the statistics off the training images.

        A channel without any contrast keeps its scale, so that a constant image is no error.

        Args:
            images: Arrays ``(C, *S)``; all with the same number of channels.
            method: ``"standard"``: zero mean and unit deviation; ``"minmax"``: the training
                minimum and maximum go to 0 and 1; ``"percentile"``: two percentiles go to 0 and 1
                (robust against a few hot pixels); ``"none"``: as in the file.
            percentiles: For ``"percentile"``, between 0 and 100. Read off at most 100,000 pixels
                an image, evenly spaced.
        """
        if method not in get_args(Method):
            raise ValueError(f"normalize is {method!r}; allowed are {', '.join(get_args(Method))}")
        count, total, squares = 0, 0.0, 0.0
        low, high = np.inf, -np.inf
        picked = []
        channels = 0
        for image in images:
            flat = image.reshape(len(image), -1)
            if channels and len(flat) != channels:
                raise ValueError(
                    f"the training images have {channels} and {len(flat)} channels; "
                    "all must have the same number"
                )
            channels = len(flat)
            count += flat.shape[1]
            if method == "standard":
                wide = flat.astype(np.float64)
                total, squares = total + wide.sum(1), squares + (wide**2).sum(1)
            elif method == "minmax":
                low, high = np.minimum(low, flat.min(1)), np.maximum(high, flat.max(1))
            elif method == "percentile":
                # A copy: a view would keep every image in memory.
                picked.append(flat[:, :: math.ceil(flat.shape[1] / 100_000)].copy())
        if not channels:
            raise ValueError("there is no training image to take the normalisation from")
        offset: NDArray[np.float64] = np.zeros(channels)
        scale: NDArray[np.float64] = np.ones(channels)
        if method == "standard":
            offset = np.divide(total, count)
            scale = np.sqrt(np.maximum(squares / count - offset**2, 0))
        elif method == "minmax":
            offset, scale = np.asarray(low), np.subtract(high, low)
        elif method == "percentile":
            offset, top = np.percentile(np.concatenate(picked, 1), percentiles, axis=1)
            scale = top - offset
        # What a float32 does not resolve is rounding, not contrast.
        scale[scale <= np.finfo(np.float32).eps * np.abs(offset)] = 1.0
        return cls(tuple(offset.tolist()), tuple(scale.tolist()))
