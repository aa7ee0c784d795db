"""RandAugment without its geometry: random views that leave every pixel where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from semiweak.augment.seeds import image_seeds


@dataclass(frozen=True)
class RandAugment:
    """Random views by the photometric operations of RandAugment, the same geometry.

    Of each image a few operations are drawn with replacement, and each happens with probability
    ``p`` (RandAugment: Cubuk et al., NeurIPS 2020). Defaults are those of FixMatch's code (Sohn et
    al., NeurIPS 2020), without its five geometric operations, which would move pixels away from
    their labels. Level m of 10 means

    - ``"identity"``: nothing
    - ``"autocontrast"``: each channel is stretched to the image's whole range of values. This is
      seen only where another operation narrowed it, or in a channel narrower than the others.
    - ``"equalize"``: each channel's histogram becomes flat, in 256 bins of the image's range
    - ``"invert"``: white becomes black; UDA has it, FixMatch has not
    - ``"posterize"``: 4 - floor(0.4 m) bits of brightness remain, at least 1
    - ``"solarize"``: what is brighter than 1 - m / 10 of the range is inverted
    - ``"color"``, ``"contrast"``, ``"brightness"``, ``"sharpness"``: by the factor 0.1 + 0.18 m
      from the grey image (images with three channels; nothing in others), from the mean
      brightness, from black and from the image smoothed over 3 x 3 pixels

    The operations are torchvision's, which knows images of 1 or 3 channels within 0 and 1. So an
    image is mapped to that by its own smallest and largest value over all pixels and channels,
    whatever its normalisation, and back in the end: a view's values are within its image's. Values
    beyond are clipped. Of a volume the statistics are those of all slices, and sharpness is
    within slices. A contrast's mean is of the luminance of three channels, else of all channels.

    An image's view depends on that image and its own random numbers alone. The first images of a
    larger batch get the same views as those of a smaller one.

    Attributes:
        number: How many operations are drawn for an image.
        p: Probability that an operation drawn happens.
        magnitude: The level, above 0 and at most 10, the same for all; by default each operation
            has a level of its own, one of 1 to 9.
        operations: What is drawn from.

    Raises:
        ValueError: A number, probability or level is none, or an operation is unknown.
    """

    number: int = 2
    p: float = 0.5
    magnitude: float | None = None
    operations: tuple[str, ...] = (
        "identity",
        "autocontrast",
        "equalize",
        "posterize",
        "solarize",
        "color",
        "contrast",
        "brightness",
        "sharpness",
    )

    def __post_init__(self) -> None:
        if self.magnitude is not None and not 0 < self.magnitude <= 10:
            raise ValueError(
                f"magnitude is {self.magnitude}; it must be above 0 and at most 10, or none for a "
                "random one"
            )
        operations = check_draws(self.number, self.p, self.operations, list(OPERATIONS))
        object.__setattr__(self, "operations", operations)

    @torch.no_grad()
    def __call__(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns a view of each image, a new tensor of the same shape, type and memory format.

        Args:
            image: ``(B, C, *S)``, normalised, of a floating type; half precision is computed in
                single.
            generator: Where the random numbers come from, on any device; by default torch's own.
                The operations it leads to are the same on each kind of device.

        Raises:
            ValueError: The images have other axes, or are of an integer type.
        """
        seeds = image_seeds(image, generator)
        return apply_to_each(image, [self._drawn(seed) for seed in seeds])

    def _drawn(self, seed: int) -> list[tuple[str, float]]:
        """The operations of one image and their levels."""
        generator = torch.Generator().manual_seed(seed)
        # All are drawn whatever the probability: no operation moves the others.
        draws = torch.rand((self.number, 3), generator=generator).tolist()
        return [
            (
                self.operations[int(which * len(self.operations))],
                1 + int(9 * level) if self.magnitude is None else self.magnitude,
            )
            for which, happens, level in draws
            if happens < self.p
        ]


def check_draws(
    number: int, p: float, operations: Sequence[str], known: Sequence[str]
) -> tuple[str, ...]:
    """Refuses settings by which nothing can be drawn; returns the operations as a tuple.

    YAML has lists only, with which a frozen class would not be hashable.

    Raises:
        ValueError: The number or the probability is none, or an operation is unknown.
    """
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"number is {number}; it must be a whole number, 0 or more")
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; it must be between 0 and 1")
    if not operations or any(name not in known for name in operations):
        raise ValueError(
            f"operations are {list(operations)}; they must be one or more of {', '.join(known)}"
        )
    return tuple(operations)


def apply_to_each(images: Tensor, drawn: list[list[tuple[str, float]]]) -> Tensor:
    """A new batch in which each image ``(C, *S)`` has operations of its own."""
    views = torch.empty_like(images)
    with torch.autocast(images.device.type, enabled=False):
        for image, view, operations in zip(images, views, drawn, strict=True):
            view.copy_(apply_operations(image, operations))
    return views


def apply_operations(image: Tensor, operations: list[tuple[str, float]]) -> Tensor:
    """An image after some operations, in their order; what none changes is returned itself.

    Args:
        image: ``(C, *S)``, of a floating type.
        operations: Names and levels, of which `RandAugment` says what they mean.
    """
    if all(name == "identity" for name, _ in operations):
        return image
    if image.dtype not in (torch.float32, torch.float64):
        image = image.float()
    # A memory format must not decide in which order torchvision adds up.
    image = image.contiguous()
    black, white = image.aminmax()
    # A constant image is black, and as its range is 0 comes back as it was.
    view = (image - black).div_(torch.where(white > black, white - black, 1))
    for name, level in operations:
        view = OPERATIONS[name](view, level)
    return view.mul_(white - black).add_(black)


def _autocontrast(image: Tensor, _: float) -> Tensor:
    return _by_channel(F.autocontrast, image)


def _equalize(image: Tensor, _: float) -> Tensor:
    # Channel by channel: of several, the histogram of torchvision has no deterministic version on
    # a GPU. It is of 8-bit values, to which torchvision rounds a floating image.
    return torch.stack([F.equalize(x.reshape(1, -1)).reshape(x.shape) for x in image])


def _posterize(image: Tensor, level: float) -> Tensor:
    # With no bit at all, which level 10 stands for, the view would be black.
    return _by_channel(F.posterize, image, max(4 - int(0.4 * level), 1))


def _solarize(image: Tensor, level: float) -> Tensor:
    return _by_channel(F.solarize, image, 1 - level / 10)


def _color(image: Tensor, level: float) -> Tensor:
    return _of_colours(F.adjust_saturation, image, level) if len(image) == 3 else image


def _contrast(image: Tensor, level: float) -> Tensor:
    if len(image) == 3:
        return _of_colours(F.adjust_contrast, image, level)
    # All channels as one grey image of one row.
    view: Tensor = F.adjust_contrast(image.reshape(1, 1, -1), _factor(level))
    return view.reshape(image.shape)


def _brightness(image: Tensor, level: float) -> Tensor:
    return _by_channel(F.adjust_brightness, image, _factor(level))


def _sharpness(image: Tensor, level: float) -> Tensor:
    # Three channels as colours take half the time that they take as three grey images.
    colours = 3 if len(image) == 3 else 1
    slices = image.reshape(colours, -1, *image.shape[-2:]).transpose(0, 1)
    view: Tensor = F.adjust_sharpness(slices, _factor(level))
    return view.transpose(0, 1).reshape(image.shape)


def _factor(level: float) -> float:
    return 0.1 + 0.18 * level


def _by_channel(operation: Callable[..., Any], image: Tensor, *arguments: float) -> Tensor:
    """Applies an operation to each channel as a grey image of one row."""
    view: Tensor = operation(image.reshape(len(image), 1, 1, -1), *arguments)
    return view.reshape(image.shape)


def _of_colours(operation: Callable[..., Any], image: Tensor, level: float) -> Tensor:
    """Applies an operation to three channels as a colour image of one row."""
    view: Tensor = operation(image.reshape(3, 1, -1), _factor(level))
    return view.reshape(image.shape)


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda image, _: image,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda image, _: F.invert(image),
    "posterize": _posterize,
    "solarize": _solarize,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
