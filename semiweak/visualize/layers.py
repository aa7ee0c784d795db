"""What is laid over a picture: labels, hatching, strokes, boxes, crosses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from semiweak.data.annotations import UNKNOWN, pixels_of_box
from semiweak.visualize.color import PAPER, Rgb, color_numbers, palette
from semiweak.visualize.picture import to_rgb


def overlay(
    image: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    *,
    alpha: float = 0.4,
    outline: bool = True,
    unknown: int | None = UNKNOWN,
) -> Rgb:
    """An image under a translucent layer of its labels' colours.

    Args:
        image: ``(C, H, W)``.
        labels: Classes or object ids ``(H, W)``, coloured by `palette`; class 0 only darkens.
        alpha: Share of the colour, from 0 (only the image) to 1 (only the labels).
        outline: Draw the border of each region in its full colour, one pixel wide; in white where
            two objects touch that have the same colour.
        unknown: The label of pixels that are left as they are; None where there are none, as among
            object ids, of which 255 is one like any other.

    Raises:
        ValueError: Image and labels have different sizes, or alpha is out of range.
    """
    if labels.shape != image.shape[1:]:
        raise ValueError(
            f"the labels have shape {labels.shape}, the image {image.shape[1:]}; they must be equal"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be between 0 and 1")
    return tint(to_rgb(image), labels, alpha=alpha, outline=outline, unknown=unknown)


def tint(
    picture: Rgb,
    labels: NDArray[np.integer[Any]],
    *,
    alpha: float,
    outline: bool = True,
    unknown: int | None = UNKNOWN,
) -> Rgb:
    """A picture under a translucent layer of its labels' colours; see `overlay`."""
    known = np.ones(labels.shape, bool) if unknown is None else labels != unknown
    index = color_numbers(labels)
    colors = palette(int(index[known].max(initial=0)) + 1)
    colors[0] = 0  # the legend's grey would lift a dark background
    layer = colors[np.where(known, index, 0)]
    strength = np.where(known, np.float32(alpha), np.float32(0))
    if outline:
        edge = known & (labels != 0) & borders(labels)
        strength[edge] = 1
        layer[edge & ~borders(index)] = PAPER
    strength = strength[..., None]
    blend = picture * (1 - strength) + layer * strength
    return np.asarray(np.rint(blend), np.uint8)


def borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """The pixels that have another label to the left, the right, above or below."""
    border = np.zeros(labels.shape, bool)
    down = labels[1:] != labels[:-1]
    across = labels[:, 1:] != labels[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= across
    border[:, :-1] |= across
    return border


def hatch(picture: Rgb, where: NDArray[np.bool_], line: int) -> None:
    """Lays thin diagonal lines over a region, in place: light ones on dark, dark ones on light."""
    y, x = np.indices(where.shape)
    stroke = where & ((y + x) % (6 * line) < max(1, line // 2))
    picture[stroke] = picture[stroke] // 2 + np.where(picture[stroke] < 128, 80, 0).astype(np.uint8)


def draw_strokes(picture: Rgb, strokes: NDArray[np.uint8], colors: Rgb, line: int) -> None:
    """Draws scribbles in place, at least as wide as a line, with a light rim."""
    classes = _thicken(strokes, line)
    picture[_thicken(strokes, 2 * line) != UNKNOWN] = PAPER
    picture[classes != UNKNOWN] = colors[classes[classes != UNKNOWN]]


def _thicken(strokes: NDArray[np.uint8], line: int) -> NDArray[np.uint8]:
    """Widens strokes by a line; where two meet, the higher class wins."""
    painted = np.where(strokes == UNKNOWN, 0, strokes + np.uint8(1)).astype(np.uint8)
    widened = np.asarray(Image.fromarray(painted).filter(ImageFilter.MaxFilter(line | 1)))
    return np.where(widened == 0, UNKNOWN, widened - np.uint8(1)).astype(np.uint8)


def draw_box(picture: Rgb, box: NDArray[np.float32], color: Rgb, line: int, dashed: bool) -> None:
    """Draws a frame inside the box, in place, with a dark edge that shows on any ground."""
    inside = picture[pixels_of_box(box, picture.shape[:2])]
    y, x = np.indices(inside.shape[:2])
    dash = (y + x) // (4 * line) % 2 == 0 if dashed else np.True_
    for thickness, ink in ((line + 1, np.uint8(0)), (line, color)):
        frame = np.ones(inside.shape[:2], bool)
        frame[thickness:-thickness, thickness:-thickness] = False
        inside[frame & dash] = ink


def draw_cross(canvas: Image.Image, point: NDArray[np.float32], color: Rgb, line: int) -> None:
    """Draws a diagonal cross with a dark edge, in place; the point is in pixels (y, x)."""
    draw = ImageDraw.Draw(canvas)
    y, x = point.tolist()
    arm = 2 * line
    for thickness, ink in ((line + 2, (0, 0, 0)), (line, tuple(color.tolist()))):
        reach = arm + (thickness - line) / 2
        draw.line((x - reach, y - reach, x + reach, y + reach), ink, thickness)
        draw.line((x - reach, y + reach, x + reach, y - reach), ink, thickness)
