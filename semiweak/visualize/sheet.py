"""Contact sheets: many pictures on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from semiweak.visualize.color import INK, PAPER, Rgb
from semiweak.visualize.embeddings import EmbeddingColors
from semiweak.visualize.layers import overlay
from semiweak.visualize.picture import middle_slice, to_rgb
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


def instance_sheet(
    images: Sequence[NDArray[Any]],
    instances: Sequence[NDArray[np.integer[Any]]],
    *,
    names: Sequence[str],
    embeddings: Sequence[NDArray[Any] | Tensor] = (),
    truth: Sequence[NDArray[np.integer[Any]]] = (),
    colors: EmbeddingColors | None = None,
    tile_size: int = 320,
) -> Rgb:
    """A contact sheet with a row an image: the image, its embeddings, its objects, the true ones.

    Embeddings and true objects are shown where they are given. Of stacks, the middle slices are
    shown, and all objects counted.

    Args:
        images: Of each image, ``(C, *S)``.
        instances: Of each image, the objects' ids ``(*S)``, 0 for none.
        names: Of each image, what is written under it.
        embeddings: Of each image, ``(D, *S)``.
        truth: Of each image, the true objects' ids ``(*S)``, 0 for none.
        colors: The projection of the embeddings; by default that of the first image's.
        tile_size: Width of a column in pixels.

    Raises:
        ValueError: There is no image, or there are not as many of something as images.
    """
    given = {"instances": instances, "names": names, "embeddings": embeddings, "truth": truth}
    for what, values in given.items():
        optional = what in ("embeddings", "truth")
        if len(images) == 0 or (len(values) != len(images) and (len(values) or not optional)):
            raise ValueError(
                f"got {len(images)} images and {len(values)} of {what}; a sheet takes at least one "
                "image, and as many of all else"
            )
    if len(embeddings) and colors is None:
        colors = EmbeddingColors.fit(embeddings[0])
    tiles, captions = [], []
    for i, name in enumerate(names):
        image = middle_slice(images[i]) if images[i].ndim == 4 else images[i]
        tiles.append(to_rgb(image))
        captions.append(name)
        if len(embeddings) and colors is not None:
            tiles.append(colors(embeddings[i]))
            captions.append("embeddings")
        for ids, word in ((instances, "objects"), (truth, "true objects")):
            if len(ids):
                flat = middle_slice(ids[i]) if ids[i].ndim == 3 else ids[i]
                tiles.append(overlay(image, flat, unknown=None))
                count = np.count_nonzero(np.unique(ids[i]))
                captions.append(f"{count} {word}")
    return contact_sheet(tiles, captions, len(tiles) // len(images), tile_size)


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
