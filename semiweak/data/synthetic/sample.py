"""A scene as a sample: photographed and painted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.synthetic.fields import smooth
from semiweak.data.synthetic.scene import BACKGROUND, CLASS_NAMES, Scene

# Mean grey level of each class and, last, of the space between cells; from 0 (black) to 1 (white).
_GREY = np.array([0.55, 0.47, 0.52, 0.56, 0.32, 0.41, 0.40, 0.60, 0.66])


def synthetic_sample(
    index: int,
    *,
    seed: int = 0,
    shape: Sequence[int] = (128, 128),
    num_classes: int = 4,
    channels: int = 1,
    noise: float = 0.04,
) -> Sample:
    """Draws one image with its complete mask and all objects.

    Args:
        index: Which image of the series; each index gives another scene.
        seed: Which series.
        shape: The spatial shape, (H, W) or (D, H, W). Structures have their full size in images
            with sides of 128 pixels and more, and shrink with smaller ones.
        num_classes: The first so many of `CLASS_NAMES` are painted, from 2 to 8.
        channels: Channels of the image. Each further one shows the same scene in other contrast,
            like another stain.
        noise: Standard deviation of the camera's noise at medium grey, as a share of the range
            from black to white.

    Returns:
        The image as ``uint8 (C, *S)``. The mask is painted everywhere; the instances are
        ``int32 (*S)`` with ids from 1 without gaps, each a connected object of one class, and 0 at
        background pixels and only there.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"shape is {shape}; give two or three positive sizes, (y, x) or (z, y, x)")
    if not 2 <= num_classes <= len(CLASS_NAMES):
        raise ValueError(f"num_classes is {num_classes}; it must be 2 to {len(CLASS_NAMES)}")
    for what, value, least in (("index", index, 0), ("seed", seed, 0), ("channels", channels, 1)):
        if value < least:
            raise ValueError(f"{what} is {value}; it must be {least} or more")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}; it must be 0 or more")
    scene = Scene(shape, np.random.default_rng([seed, index]))
    scene.draw()
    camera = np.random.default_rng([seed, index, 1])
    image = np.stack([_photograph(scene, channel, noise, camera) for channel in range(channels)])
    mask, instances = _paint(scene, num_classes)
    d = len(shape)
    annotation = Annotation(
        mask=mask,
        instances=instances,
        instances_complete=True,
        boxes=np.zeros((0, 2 * d), np.float32),
        points=np.zeros((0, d), np.float32),
    )
    return Sample(image, annotation, f"synthetic_{index:04d}")


def _photograph(
    scene: Scene, channel: int, noise: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One channel of the image of a scene."""
    levels, gain = _GREY, 1.0
    if channel:
        stain = np.random.default_rng(channel)  # the same for all images
        levels, gain = stain.uniform(0.38, 0.62, len(_GREY)), stain.uniform(0.5, 1.0)
    levels = levels + rng.normal(0, 0.035, len(_GREY))
    light = levels.astype(np.float32)[scene.classes] + np.float32(gain) * scene.texture
    light = ndimage.gaussian_filter(light, rng.uniform(0.7, 1.0) * scene.unit, truncate=3)
    side = max(scene.shape)
    shade, haze = (smooth(rng, scene.shape, 0.7 * side) for _ in range(2))
    contrast, brightness = rng.uniform(1.0, 1.7), rng.uniform(-0.06, 0.06)
    light = 0.5 + contrast * (light * (1 + 0.08 * shade) - 0.5) + brightness + 0.04 * haze
    # Photons: the variance of the noise grows with the light.
    shot = rng.standard_normal(scene.shape, np.float32)
    light = light + noise * np.sqrt(np.maximum(light, 0.02) / 0.5) * shot
    image: NDArray[np.uint8] = np.rint(255 * np.clip(light, 0, 1)).astype(np.uint8)
    return image


def _paint(scene: Scene, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Mask and instances of the first classes; all others are background."""
    painted = scene.classes < num_classes
    mask = np.where(painted, scene.classes, np.uint8(BACKGROUND))
    kept = np.unique(scene.objects[painted & (scene.objects > 0)])
    new_ids = np.zeros(scene.count + 1, np.int32)
    new_ids[kept] = np.arange(1, len(kept) + 1)
    return mask, np.where(painted, new_ids[scene.objects], 0).astype(np.int32)
