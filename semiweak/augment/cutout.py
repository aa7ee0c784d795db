"""Random views with squares cut out of them, and the random numbers of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from semiweak.augment.seeds import image_seeds

Fill = Literal["black", "mean"]


@dataclass(frozen=True)
class CutOut:
    """Sets random squares of an image to one value (DeVries & Taylor, arXiv 1708.04552).

    The defaults are those of the DSP supplement (Reiss et al., CVPR 2023, Section 4 and Table 1):
    squares of 32 x 32 pixels are set to black, up to nine times, each with probability 0.5, which
    was the best of none to ten times.

    A square's centre is uniform over the image's pixels, so that it may stick out of the image and
    border pixels are not spared. In 3D it is a cube. Squares may overlap.

    An image's view depends on that image and its own random numbers alone. The first images of a
    larger batch get the same squares as those of a smaller one, on each kind of device.

    Attributes:
        size: Length of a square's sides, in pixels.
        times: How often a square is tried.
        p: Probability of each of them.
        fill: ``"black"`` is the smallest value of that image and channel, as a normalised image
            has no black of its own; ``"mean"`` the mean of that image and channel, which can be
            seen where most of an image is black anyway.

    Raises:
        ValueError: A size, number or probability is none, or the fill is unknown.
    """

    size: int = 32
    times: int = 9
    p: float = 0.5
    fill: Fill = "black"

    def __post_init__(self) -> None:
        for name, smallest in (("size", 1), ("times", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < smallest:
                raise ValueError(
                    f"{name} is {value}; it must be a whole number, {smallest} or more"
                )
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is {self.p}; it must be between 0 and 1")
        if self.fill not in get_args(Fill):
            raise ValueError(f"fill is {self.fill!r}; it must be 'black' or 'mean'")

    @torch.no_grad()
    def __call__(
        self, image: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns a view of each image and where it was cut.

        Args:
            image: ``(B, C, *S)``, normalised, of a floating type.
            generator: Where the random numbers come from, on any device; by default torch's own.

        Returns:
            The views, a new tensor of the same shape, type and memory format, and bool ``(B, *S)``,
            True where a square lies.

        Raises:
            ValueError: The images have other axes, or are of an integer type.
        """
        seeds = image_seeds(image, generator)
        views = image.clone()
        mask = torch.zeros((len(image), *image.shape[2:]), dtype=torch.bool, device=image.device)
        for one, view, cut, seed in zip(image, views, mask, seeds, strict=True):
            pixels = one.flatten(1)
            value = pixels.amin(1) if self.fill == "black" else pixels.mean(1)
            value = value.reshape(-1, *[1] * cut.ndim)
            for square in self._squares(cut.shape, seed):
                view[(slice(None), *square)] = value
                cut[square] = True
        return views, mask

    def _squares(self, shape: torch.Size, seed: int) -> list[tuple[slice, ...]]:
        """The squares of one image of that shape."""
        generator = torch.Generator().manual_seed(seed)
        # All are drawn whatever the probability: more of them do not move the first.
        draws = torch.rand((self.times, 1 + len(shape)), generator=generator).tolist()
        return [
            tuple(self._side(share, length) for share, length in zip(place, shape, strict=True))
            for happens, *place in draws
            if happens < self.p
        ]

    def _side(self, share: float, length: int) -> slice:
        start = int(share * length) - self.size // 2
        return slice(max(start, 0), start + self.size)
