"""What all random views share: which images they take, and random numbers an image."""

from __future__ import annotations

import torch
from torch import Tensor


def check_images(image: Tensor) -> None:
    """Refuses what is no batch of normalised images.

    Raises:
        ValueError: The images have other axes, or are of an integer type.
    """
    if image.ndim not in (4, 5) or not image.is_floating_point():
        raise ValueError(
            "views are made of normalised images (B, C, H, W) or (B, C, D, H, W) of a floating "
            f"type, not of {image.dtype} {tuple(image.shape)}"
        )


def image_seeds(image: Tensor, generator: torch.Generator | None) -> list[int]:
    """A seed for each image, the first of which do not depend on how many there are.

    Args:
        image: ``(B, C, *S)``, normalised, of a floating type.
        generator: Where they come from, on any device; by default torch's own.

    Raises:
        ValueError: The images have other axes, or are of an integer type.
    """
    check_images(image)
    return draw_seeds(len(image), generator)


def draw_seeds(number: int, generator: torch.Generator | None) -> list[int]:
    """Seeds for generators of their own.

    Args:
        number: How many.
        generator: Where they come from, on any device; by default torch's own.
    """
    device = "cpu" if generator is None else generator.device
    seeds: list[int] = torch.randint(
        2**63 - 1, (number,), generator=generator, device=device
    ).tolist()
    return seeds
