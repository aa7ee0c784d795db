"""A map of prototypes among the embeddings of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from semiweak.visualize.color import INK, PAPER, Rgb, palette
from semiweak.visualize.text import legend

_MARGIN = 0.05  # of the map, left free at each side


def prototype_map(
    prototypes: NDArray[Any] | Tensor,
    embeddings: NDArray[Any] | Tensor,
    class_names: Sequence[str],
    *,
    size: int = 512,
    seed: int = 0,
) -> Rgb:
    """Projects prototypes and embeddings to a plane by t-SNE of their cosines (DSP, Fig. 5).

    Stars in the colours of their classes are the prototypes, grey crosses the pixels. Neighbours
    are meaningful, distances between groups are not.

    Args:
        prototypes: ``(C, P, D)``, of any length.
        embeddings: ``(n, D)``, of any length, n some hundreds.
        class_names: One name a class.
        size: Width and height of the map in pixels.
        seed: Repeats the projection.
    """
    from sklearn.manifold import TSNE  # here, because it takes a second

    stars, crosses = (np.asarray(x, np.float64) for x in (prototypes, embeddings))
    classes = np.repeat(np.arange(len(stars)), stars.shape[1])
    points = np.concatenate([stars.reshape(len(classes), -1), crosses])
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    perplexity = min(30.0, max(1.0, (len(points) - 1) / 3))
    plane = TSNE(
        perplexity=perplexity, metric="cosine", init="random", random_state=seed
    ).fit_transform(points)
    low, high = plane.min(0), plane.max(0)
    plane = (plane - low) / np.maximum(high - low, 1e-12)
    places = (_MARGIN + (1 - 2 * _MARGIN) * plane) * size

    canvas = Image.new("RGB", (size, size), PAPER)
    draw = ImageDraw.Draw(canvas)
    for x, y in places[len(classes) :].tolist():
        draw.line((x - 3, y, x + 3, y), (150, 150, 150))
        draw.line((x, y - 3, x, y + 3), (150, 150, 150))
    colors = palette(len(stars)).tolist()
    for c, (x, y) in zip(classes.tolist(), places[: len(classes)].tolist(), strict=True):
        draw.polygon(_star(x, y, size / 50), tuple(colors[c]), INK)
    names = legend(class_names, width=size)
    return np.concatenate([np.asarray(canvas), names])


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    corners = []
    for i in range(10):
        reach = radius if i % 2 == 0 else 0.45 * radius
        angle = math.pi * (i / 5 - 0.5)
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners
