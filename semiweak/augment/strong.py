"""The strong views of FixMatch and DSP, which leave every pixel where it is."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from semiweak.augment.cutout import CutOut, Fill
from semiweak.augment.photometric import Photometric
from semiweak.augment.rand_augment import RandAugment
from semiweak.augment.seeds import draw_seeds

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Operations = Literal["photometric", "rand_augment", "none"]
View = TypeVar("View", bound="DataclassInstance")


@dataclass(frozen=True)
class StrongView:
    """Strong views of normalised images: other colours, then squares cut out.

    FixMatch cuts out after the operations of RandAugment (Sohn et al., NeurIPS 2020, Section 2.3).
    The squares' defaults are those of the DSP supplement (Reiss et al., CVPR 2023, Section 4 and
    Table 1), which has the same strong views for FixMatch, DSP and Con2R and names nothing else of
    them.

    An image's view depends on that image and its own random numbers alone. The first images of a
    larger batch get the same views as those of a smaller one, and the squares are the same
    whatever the operations.

    Attributes:
        operations: ``"photometric"`` for the views of `Photometric`, ``"rand_augment"`` for those
            of `RandAugment`, ``"none"`` for squares alone.
        photometric: Settings of `Photometric` that are not its defaults, for these operations.
        rand_augment: Settings of `RandAugment` that are not its defaults, for these operations.
        cutout_size: Length of a square's sides, in pixels.
        cutout_times: How often a square is tried; 0 for none.
        cutout_p: Probability of each of them.
        cutout_fill: ``"black"``, the smallest value of the image, or ``"mean"``.

    Raises:
        ValueError: The operations are unknown, or a setting is unknown or out of its range.
    """

    operations: Operations = "photometric"
    photometric: dict[str, Any] = field(default_factory=dict, hash=False)
    rand_augment: dict[str, Any] = field(default_factory=dict, hash=False)
    cutout_size: int = 32
    cutout_times: int = 9
    cutout_p: float = 0.5
    cutout_fill: Fill = "black"

    def __post_init__(self) -> None:
        if self.operations not in get_args(Operations):
            raise ValueError(
                f"operations is {self.operations!r}; it must be one of "
                f"{', '.join(map(repr, get_args(Operations)))}"
            )
        # Now rather than in the first step, also those not in use.
        self._photometric()
        self._rand_augment()
        self._cutout()

    def __call__(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns a view of each image, a new tensor of the same shape, type and memory format.

        Args:
            image: ``(B, C, *S)``, normalised, of a floating type; half precision is computed in
                single.
            generator: Where the random numbers come from, on any device; by default torch's own.

        Raises:
            ValueError: The images have other axes, or are of an integer type.
        """
        # One number for each step, not for each image: how many images the first step sees must
        # not move the squares of the second.
        seeds = draw_seeds(2, generator)
        color, squares = (torch.Generator().manual_seed(seed) for seed in seeds)
        if self.operations == "photometric":
            image = self._photometric()(image, generator=color)
        elif self.operations == "rand_augment":
            image = self._rand_augment()(image, generator=color)
        return self._cutout()(image, generator=squares)[0]

    def _photometric(self) -> Photometric:
        return build_view(Photometric, self.photometric, "photometric: ")

    def _rand_augment(self) -> RandAugment:
        return build_view(RandAugment, self.rand_augment, "rand_augment: ")

    def _cutout(self) -> CutOut:
        settings: dict[str, Any] = {
            "size": self.cutout_size,
            "times": self.cutout_times,
            "p": self.cutout_p,
            "fill": self.cutout_fill,
        }
        return build_view(CutOut, settings, "cutout_")


def strong_view(settings: dict[str, Any] | None) -> StrongView:
    """A strong view by the settings that are not its defaults.

    Raises:
        ValueError: A setting is unknown or out of its range.
    """
    return build_view(StrongView, settings or {}, "strong: ")


def build_view(kind: type[View], settings: dict[str, Any], prefix: str) -> View:
    """A view of that kind; errors begin with the prefix, so that they name our own argument."""
    known = [setting.name for setting in fields(kind)]
    for name in settings:
        if name not in known:
            raise ValueError(f"{prefix}there is no {name!r}; there are {', '.join(known)}")
    try:
        return kind(**settings)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None
