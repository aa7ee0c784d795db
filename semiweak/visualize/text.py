"""Words on pictures: lines of entries, legends, shortened captions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from semiweak.visualize.color import INK, PAPER, Rgb, palette


class Entry(NamedTuple):
    """Some words, and the colour of the patch before them, if there is one."""

    text: str
    color: tuple[int, ...] | None = None


def legend(class_names: Sequence[str], *, width: int | None = None, font_size: int = 16) -> Rgb:
    """The colours of the classes with their names, wrapped into lines.

    Args:
        class_names: One name a class, from class 0.
        width: Pixels; by default as wide as the names in one line.
        font_size: Height of the letters in pixels.
    """
    return flow(entries_of(range(len(class_names)), class_names), width, font_size)


def entries_of(classes: Iterable[int], names: Sequence[str]) -> list[Entry]:
    """The names of some classes, each with its colour."""
    colors = palette(len(names)).tolist()
    return [Entry(names[c], tuple(colors[c])) for c in classes]


def flow(entries: Sequence[Entry], width: int | None, font_size: int) -> Rgb:
    """Writes words, each behind a patch of its colour, in as many lines as they take."""
    font = ImageFont.load_default(font_size)
    gap, leading = font_size // 2, font_size * 3 // 2
    places = []
    left, top, longest = gap, gap // 2, gap
    for text, color in entries:
        patch = 0 if color is None else font_size + gap
        if width is not None:
            text = shorten(text, font, width - 2 * gap - patch)
        length = patch + math.ceil(font.getlength(text))
        if width is not None and left > gap and left + length + gap > width:
            left, top = gap, top + leading
        places.append((left, top, patch, color, text))
        left += length + 2 * gap
        longest = max(longest, left)
    strip = Image.new("RGB", (width or longest, top + leading), PAPER)
    draw = ImageDraw.Draw(strip)
    for left, top, patch, color, text in places:
        if color is not None:
            corner = (left + font_size - 1, top + font_size - 1)
            draw.rectangle(((left, top), corner), fill=color, outline=INK)
        draw.text((left + patch, top + font_size // 2), text, INK, font, anchor="lm")
    return np.asarray(strip)


def shorten(text: str, font: Any, width: float) -> str:
    """Cuts out the middle of a text that is too wide: names often differ at their end."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shorter = text[: (kept + 1) // 2] + "..." + text[len(text) - kept // 2 :]
        if font.getlength(shorter) <= width:
            return shorter
    return "..."
