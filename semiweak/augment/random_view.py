"""Random views as UDA has them for segmentation: RandAugment with turns that can be taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from semiweak.augment.rand_augment import apply_to_each, check_draws
from semiweak.augment.rotation import Corners, Rotation
from semiweak.augment.seeds import image_seeds
from semiweak.augment.strong import build_view

OPERATIONS = (
    "rotate",
    "autocontrast",
    "invert",
    "equalize",
    "solarize",
    "contrast",
    "color",
    "brightness",
    "sharpness",
)
GRADED = ("solarize", "contrast", "color", "brightness", "sharpness")


class View(NamedTuple):
    """Views of a batch of images.

    Attributes:
        image: ``(B, C, *S)``, the views.
        rotation: How they are turned against the images; takes predictions of them back.
    """

    image: Tensor
    rotation: Rotation


@dataclass(frozen=True)
class RandomView:
    """Random views by the nine operations of UDA for microscopy, of which one turns the image.

    They are those of the paper on UDA and IIC for microscopy (Section 2.3.1: RandAugment, Cubuk et
    al., NeurIPS 2020, with a "random subset of strong transformations"), which leaves open how many
    are drawn and how strong they are. Here it is RandAugment's way: of each image a few are drawn
    with replacement, and their magnitude is one of 30, where more is always farther from the image:

    - ``"rotate"``: by an angle from 0 to 360 degrees, whatever the magnitude
    - ``"autocontrast"``, ``"invert"``, ``"equalize"``: as `RandAugment` has them, whatever the
      magnitude
    - ``"solarize"``: what is brighter than 1 - M / 30 of the image's range is inverted
    - ``"contrast"``, ``"color"``, ``"brightness"``, ``"sharpness"``: by the factor 1 + 0.9 M / 30
      or 1 - 0.9 M / 30, with even odds (RandAugment's own code has 0.1 + 1.8 M / 30, which turns
      from less to more half-way)

    The operations that leave pixels where they are come first, in the order drawn, then one turn by
    the sum of the angles drawn.

    An image's view depends on that image and its own random numbers alone, which are the same on
    each kind of device. The first images of a larger batch get the same views as those of a smaller
    one.

    Attributes:
        number: N, how many operations are drawn for an image.
        magnitude: M, from 0 (the graded operations do nothing) to 30, the same for all; by default
            each operation drawn has one of its own, uniform from 0 to 30.
        p: Probability that an operation drawn happens.
        operations: What is drawn from; ``("rotate",)`` for turns alone.
        fill: What stands in the corners of turned images: their ``"reflection"``, or ``"black"``,
            the smallest value of that image and channel.

    Raises:
        ValueError: A number, probability or magnitude is none, or an operation or the fill is
            unknown.
    """

    number: int = 2
    magnitude: float | None = None
    p: float = 1.0
    operations: tuple[str, ...] = OPERATIONS
    fill: Corners = "reflection"

    def __post_init__(self) -> None:
        if self.magnitude is not None and not 0 <= self.magnitude <= 30:
            raise ValueError(
                f"magnitude is {self.magnitude}; it must be between 0 and 30, or none for random "
                "ones"
            )
        if self.fill not in get_args(Corners):
            raise ValueError(f"fill is {self.fill!r}; it must be 'reflection' or 'black'")
        operations = check_draws(self.number, self.p, self.operations, OPERATIONS)
        object.__setattr__(self, "operations", operations)

    @torch.no_grad()
    def __call__(self, image: Tensor, *, generator: torch.Generator | None = None) -> View:
        """Returns a view of each image, new tensors of the same shape, type and memory format.

        Args:
            image: ``(B, C, *S)``, normalised, of a floating type; half precision is computed in
                single.
            generator: Where the random numbers come from, on any device; by default torch's own.

        Raises:
            ValueError: The images have other axes, or are of an integer type.
        """
        drawn = [self._drawn(seed) for seed in image_seeds(image, generator)]
        angles = torch.tensor([angle for _, angle in drawn], dtype=torch.float64)
        rotation = Rotation(angles)
        views = apply_to_each(image, [operations for operations, _ in drawn])
        return View(rotation.turn(views, self.fill), rotation)

    def _drawn(self, seed: int) -> tuple[list[tuple[str, float]], float]:
        """The operations of one image with `RandAugment`'s levels, and its angle."""
        generator = torch.Generator().manual_seed(seed)
        # All are drawn whatever the probability: no operation moves the others.
        draws = torch.rand((self.number, 4), generator=generator, dtype=torch.float64).tolist()
        operations, angle = [], 0.0
        for which, happens, share, free in draws:
            name = self.operations[int(which * len(self.operations))]
            strength = share if self.magnitude is None else self.magnitude / 30
            if happens >= self.p:
                continue
            if name == "rotate":
                angle += 360 * free
            elif name not in GRADED:
                operations.append((name, 0.0))
            elif strength > 0:
                operations.append((name, _level(name, strength, up=free < 0.5)))
        return operations, angle % 360


def random_view(settings: dict[str, Any] | None, **defaults: Any) -> RandomView:
    """A random view by the settings that are not its defaults.

    Args:
        settings: Values of `RandomView`'s attributes by name.
        defaults: Values that are other than the class's where the settings have none.

    Raises:
        ValueError: A setting is unknown or out of its range.
    """
    settings = {**defaults, **(settings or {})}
    return build_view(RandomView, settings, "view: ")


def _level(name: str, strength: float, *, up: bool) -> float:
    """The level of `RandAugment`, of 10, that has a strength between 0 and 1."""
    if name == "solarize":
        return 10 * strength
    # Its factors are 0.1 + 0.18 of the level: 5 is the image itself.
    return 5 + 5 * strength if up else 5 - 5 * strength
