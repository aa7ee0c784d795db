"""Contact sheets: many pictures on one page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from semiweak.visualize.color import INK, PAPER, Rgb
from semiweak.visualize.text import legend, shorten


def contact_sheet(
    tiles: Sequence[Rgb],
    captions: Sequence[str],
    columns: int = 4,
    tile_size: int = 320,
    class_names: Sequence[str] = (),
) -> Rgb:
    """Many pictures on one page, each with a caption, under a legend of the classes.

    Args:
        tiles: Pictures ``(H, W, 3)`` of any size.
        captions: One a picture, of one or several lines; cut where they are too long.
        columns: Pictures in a row.
        tile_size: Width of a column in pixels; a picture may be a third higher than that.
        class_names: One name a class for the legend; without, there is none.

    Raises:
        ValueError: There is nothing to show, not one caption a picture, or no column.
    """
    if len(tiles) == 0 or len(tiles) != len(captions) or columns < 1:
        raise ValueError(
            f"got {len(tiles)} pictures, {len(captions)} captions and {columns} columns; a contact "
            "sheet takes at least one picture, one caption for each, and one column or more"
        )
    columns = min(columns, len(tiles))
    font_size = max(12, tile_size // 20)
    fitted = [_fit(tile, tile_size) for tile in tiles]
    rows = [
        _row(fitted[i : i + columns], captions[i : i + columns], columns, tile_size, font_size)
        for i in range(0, len(tiles), columns)
    ]
    width = rows[0].shape[1]
    head = [legend(class_names, width=width, font_size=font_size)] if class_names else []
    return np.concatenate([*head, *rows])


def _row(
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    columns: int,
    tile_size: int,
    font_size: int,
) -> Rgb:
    """One row of a contact sheet."""
    font = ImageFont.load_default(font_size)
    gap, leading = font_size // 2, font_size * 5 // 4
    lines = [caption.splitlines() for caption in captions]
    heights = [p.height + len(t) * leading for p, t in zip(pictures, lines, strict=True)]
    size = (gap + columns * (tile_size + gap), max(heights) + 2 * gap)
    row = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(row)
    for column, (picture, texts) in enumerate(zip(pictures, lines, strict=True)):
        left = gap + column * (tile_size + gap)
        row.paste(picture, (left + (tile_size - picture.width) // 2, gap))
        for number, text in enumerate(texts):
            top = picture.height + gap * 3 // 2 + number * leading
            draw.text((left, top), shorten(text, font, tile_size), INK, font)
    return np.asarray(row)


def _fit(picture: Rgb, side: int) -> Image.Image:
    """Scales a picture to a width, less if it would be more than a third higher than that."""
    height, width = picture.shape[:2]
    scale = min(side / width, side * 4 / 3 / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize(size, how)
