"""Pictures for people: label overlays, what annotators said, contact sheets.

All pictures are RGB, ``uint8 (H, W, 3)``, and of 2D images; `middle_slice` takes one out of a
stack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from semiweak.data.annotations import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    Sample,
    pixel_of,
    pixels_of_box,
)
from semiweak.inference.files import replacing

Rgb = NDArray[np.uint8]

# The colours of Okabe and Ito ("Color universal design", 2008), which people with any colour vision
# tell apart, their black made a grey. Class 0, most often the background, takes the grey.
_OKABE_ITO = (
    (128, 128, 128),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_NUM_COLORS = 4096
_READABLE = 512  # pixels that a drawing is about long
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def palette(num: int) -> Rgb:
    """Colours that are easy to tell apart, ``uint8 (num, 3)``.

    The first colours are the same whatever ``num`` is: grey for class 0, then the seven of Okabe
    and Ito, then a walk around the hues in steps of the golden ratio.
    """
    extra = np.arange(max(num - len(_OKABE_ITO), 0))
    # Chosen by trial: the first 24 colours are at least 23 apart in CIE-Lab.
    hue = (0.66 + extra * (math.sqrt(5) - 1) / 2) % 1
    saturation = np.array([0.75, 1.0, 0.75])[extra % 3]
    value = np.array([0.75, 0.45, 1.0])[extra % 3]
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - _hue_to_rgb(hue)))
    return np.concatenate([np.array(_OKABE_ITO), np.rint(rgb * 255)])[:num].astype(np.uint8)


def middle_slice(array: NDArray[Any]) -> NDArray[Any]:
    """The middle (y, x) plane of a stack, ``(..., D, H, W)`` to ``(..., H, W)``."""
    return array[..., array.shape[-3] // 2, :, :]


def to_rgb(image: NDArray[Any]) -> Rgb:
    """An image of any type and number of channels as a picture with good contrast.

    Between its 0.5th and 99.5th percentiles the image is stretched to the whole range. One channel
    is shown grey; two in magenta and green, which white marks as overlapping; three as red, green
    and blue; more as the sum of hues spread around the circle. An 8-bit image of three channels is
    taken for a photograph, of which one common stretch keeps the colours; otherwise each channel
    is stretched by itself.

    Args:
        image: ``(C, H, W)``; values that are not finite are shown black.

    Raises:
        ValueError: The image has other axes, or no pixels.
    """
    if image.ndim != 3 or image.size == 0:
        raise ValueError(
            f"a picture is made of an image with axes (C, H, W), not of shape {image.shape}"
        )
    channels = len(image)
    if channels == 3 and image.dtype == np.uint8:
        return _to_uint8(np.moveaxis(_stretch(image), 0, -1))
    stretched = np.stack([_stretch(channel) for channel in image], axis=-1)
    if channels == 1:
        return _to_uint8(np.repeat(stretched, 3, axis=-1))
    if channels == 3:
        return _to_uint8(stretched)
    if channels == 2:
        return _to_uint8(stretched[..., [0, 1, 0]])
    hues = _hue_to_rgb(np.arange(channels) / channels)
    hues /= hues.sum(axis=0)  # what is equal in all channels is grey
    return _to_uint8(_stretch(stretched @ hues.astype(np.float32)))


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
        labels: Classes or object ids ``(H, W)``, coloured by `palette`; class 0 only darkens. There
            are 4096 colours: ids beyond begin again with the colour of 1.
        alpha: Share of the colour, from 0 (only the image) to 1 (only the labels).
        outline: Draw the border of each region in its full colour, one pixel wide.
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
    return _tint(to_rgb(image), labels, alpha=alpha, outline=outline, unknown=unknown)


def draw_annotation(sample: Sample, num_classes: int, class_names: Sequence[str] = ()) -> Rgb:
    """An image with everything that annotators said about it.

    Painted pixels carry their class's colour, objects are outlined in white, boxes are rectangles,
    points are crosses, and tags are written underneath, with a note on whatever needs one: hatched
    is what a partial mask leaves unknown, dark what nobody looked at, dashed the box of a crowd. Of
    a stack, the slice with the most annotation is shown. Small images are enlarged by a whole
    number, and thin strokes thickened, so that all is readable on a contact sheet.

    Args:
        sample: The image and its annotation.
        num_classes: K.
        class_names: K names for the tags; by default the classes' numbers.

    Raises:
        ValueError: There are not as many names as classes.
    """
    names = _names(class_names, num_classes)
    sample, slice_number = _plane(sample)
    annotation = sample.annotation
    zoom = max(1, round(_READABLE / max(sample.shape)))
    line = max(2, round(max(sample.shape) * zoom / 160))
    picture = _enlarge(to_rgb(sample.image), zoom)
    colors = palette(num_classes)
    notes: list[list[_Entry]] = []
    if slice_number is not None:
        notes.append([_Entry(f"slice {slice_number}, counted from 0")])

    if annotation.mask is not None:
        mask = annotation.mask
        unknown = mask == UNKNOWN
        if annotation.annotated_classes is not None:
            notes.append([_Entry("looked for:"), *_entries(annotation.annotated_classes, names)])
            mask = np.where(np.isin(mask, annotation.annotated_classes), mask, np.uint8(UNKNOWN))
        picture = _tint(picture, _enlarge(mask, zoom), alpha=0.45)
        if unknown.any():
            _hatch(picture, _enlarge(unknown, zoom), line)
            notes.append([_Entry("hatched: unknown")])
    if annotation.scribbles is not None:
        _draw_strokes(picture, _enlarge(annotation.scribbles, zoom), colors, line)
    if annotation.instances is not None:
        objects = _enlarge(annotation.instances, zoom)
        if annotation.mask is None:
            picture = _tint(picture, objects, alpha=0.45, unknown=0)
        picture[_borders(objects) & (objects != 0)] = _PAPER
    for region, note in (
        (annotation.valid, "dark: not looked at"),
        (sample.content, "dark: beyond the image"),
    ):
        if region is not None and not region.all():
            inside = _enlarge(region, zoom)
            picture[~inside] //= 4
            picture[_borders(inside) & inside] = _PAPER
            notes.append([_Entry(note)])

    for box, label, crowd in zip(
        annotation.boxes * zoom, annotation.box_labels, annotation.crowd, strict=True
    ):
        _draw_box(picture, box, colors[label], line, dashed=bool(crowd))
    if annotation.crowd.any():
        notes.append([_Entry("dashed: crowd")])
    canvas = Image.fromarray(picture)
    for point, label in zip(annotation.points, annotation.point_labels, strict=True):
        _draw_cross(canvas, (point + 0.5) * zoom, colors[label], line)
    if annotation.tags is not None:
        for value, word in ((PRESENT, "present:"), (ABSENT, "absent:")):
            tagged = np.flatnonzero(annotation.tags == value).tolist()
            if tagged:
                notes.append([_Entry(word), *_entries(tagged, names)])
    font_size = max(12, canvas.width // 24)
    return np.concatenate([np.array(canvas), *(_flow(n, canvas.width, font_size) for n in notes)])


def legend(class_names: Sequence[str], *, width: int | None = None, font_size: int = 16) -> Rgb:
    """The colours of the classes with their names, wrapped into lines.

    Args:
        class_names: One name a class, from class 0.
        width: Pixels; by default as wide as the names in one line.
        font_size: Height of the letters in pixels.
    """
    return _flow(_entries(range(len(class_names)), class_names), width, font_size)


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


def save_png(path: str | Path, rgb: Rgb) -> None:
    """Writes a picture, as a whole or not at all; folders are made as needed."""
    with replacing(path) as temporary:
        Image.fromarray(rgb).save(temporary, format="PNG")


# ---- the image under the annotation


def _stretch(values: NDArray[Any]) -> NDArray[np.float32]:
    """Values between 0 and 1, by percentiles; a constant image becomes a middle grey."""
    values = np.asarray(values, np.float32)
    finite = np.isfinite(values)
    known = values[finite]
    low, high = 0.0, 0.0
    if known.size:
        known = known[:: max(1, known.size // 1_000_000)]  # enough for percentiles
        low, high = np.percentile(known, (0.5, 99.5)).tolist()
        if low == high:  # a few bright spots on black
            low, high = float(known.min()), float(known.max())
    if low == high:
        return np.where(finite, np.float32(0.5), np.float32(0))
    return np.where(finite, np.clip((values - low) / (high - low), 0, 1), np.float32(0))


def _hue_to_rgb(hue: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The pure colours of hues in [0, 1), ``(N, 3)``: each channel is a clipped triangle wave."""
    distance = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3)
    return np.asarray(np.clip(distance - 1, 0, 1), np.float64)


def _to_uint8(picture: NDArray[np.float32]) -> Rgb:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _enlarge(array: NDArray[Any], zoom: int) -> NDArray[Any]:
    return array.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _plane(sample: Sample) -> tuple[Sample, int | None]:
    """A 2D sample as it is; of a stack, the slice with the most annotation, and its number."""
    if len(sample.shape) == 2:
        return sample, None
    annotation = sample.annotation
    boxes, points = annotation.boxes.reshape(-1, 6), annotation.points.reshape(-1, 3)
    z = np.arange(sample.shape[0])[:, None]
    # Every slice that a box touches, as `pixels_of_box` has it.
    boxed = (np.floor(boxes[:, 0]) <= z) & (z < np.ceil(boxes[:, 3]))
    clicked = pixel_of(points)[:, 0] == z
    said = boxed.sum(axis=1) + clicked.sum(axis=1)
    for labels, nothing in (
        (annotation.mask, UNKNOWN),
        (annotation.scribbles, UNKNOWN),
        (annotation.instances, 0),
    ):
        if labels is not None:
            said = said + (labels != nothing).sum(axis=(1, 2))
    from_middle = np.abs(z[:, 0] - len(z) // 2)
    best = int(np.lexsort((from_middle, -said))[0])

    def cut(array: NDArray[Any] | None) -> Any:
        return None if array is None else array[best]

    flat = replace(
        annotation,
        mask=cut(annotation.mask),
        scribbles=cut(annotation.scribbles),
        instances=cut(annotation.instances),
        valid=cut(annotation.valid),
        boxes=boxes[boxed[best]][:, [1, 2, 4, 5]],
        box_labels=annotation.box_labels[boxed[best]],
        box_is_crowd=annotation.crowd[boxed[best]],
        points=points[clicked[best]][:, 1:],
        point_labels=annotation.point_labels[clicked[best]],
    )
    return Sample(sample.image[:, best], flat, sample.name, cut(sample.content)), best


# ---- layers


def _tint(
    picture: Rgb,
    labels: NDArray[np.integer[Any]],
    *,
    alpha: float,
    outline: bool = True,
    unknown: int | None = UNKNOWN,
) -> Rgb:
    known = np.ones(labels.shape, bool) if unknown is None else labels != unknown
    ids = labels.astype(np.int64)  # in 8 bits the next line would wrap
    index = np.where(ids > 0, (ids - 1) % (_NUM_COLORS - 1) + 1, 0)
    colors = palette(int(index[known].max(initial=0)) + 1)
    colors[0] = 0  # the legend's grey would lift a dark background
    strength = np.where(known, np.float32(alpha), np.float32(0))
    if outline:
        strength[known & (labels != 0) & _borders(labels)] = 1
    strength = strength[..., None]
    blend = picture * (1 - strength) + colors[np.where(known, index, 0)] * strength
    return np.asarray(np.rint(blend), np.uint8)


def _borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """The pixels that have another label to the left, the right, above or below."""
    border = np.zeros(labels.shape, bool)
    down = labels[1:] != labels[:-1]
    across = labels[:, 1:] != labels[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= across
    border[:, :-1] |= across
    return border


def _hatch(picture: Rgb, where: NDArray[np.bool_], line: int) -> None:
    """Lays thin diagonal lines over a region, in place: light ones on dark, dark ones on light."""
    y, x = np.indices(where.shape)
    stroke = where & ((y + x) % (6 * line) < max(1, line // 2))
    picture[stroke] = picture[stroke] // 2 + np.where(picture[stroke] < 128, 80, 0).astype(np.uint8)


def _draw_strokes(picture: Rgb, strokes: NDArray[np.uint8], colors: Rgb, line: int) -> None:
    """Draws scribbles in place, at least as wide as a line, with a light rim."""
    classes = _thicken(strokes, line)
    picture[_thicken(strokes, 2 * line) != UNKNOWN] = _PAPER
    picture[classes != UNKNOWN] = colors[classes[classes != UNKNOWN]]


def _thicken(strokes: NDArray[np.uint8], line: int) -> NDArray[np.uint8]:
    """Widens strokes by a line; where two meet, the higher class wins."""
    painted = np.where(strokes == UNKNOWN, 0, strokes + np.uint8(1)).astype(np.uint8)
    widened = np.asarray(Image.fromarray(painted).filter(ImageFilter.MaxFilter(line | 1)))
    return np.where(widened == 0, UNKNOWN, widened - np.uint8(1)).astype(np.uint8)


def _draw_box(picture: Rgb, box: NDArray[np.float32], color: Rgb, line: int, dashed: bool) -> None:
    """Draws a frame inside the box, in place, with a dark edge that shows on any ground."""
    inside = picture[pixels_of_box(box, picture.shape[:2])]
    y, x = np.indices(inside.shape[:2])
    dash = (y + x) // (4 * line) % 2 == 0 if dashed else np.True_
    for thickness, ink in ((line + 1, np.uint8(0)), (line, color)):
        frame = np.ones(inside.shape[:2], bool)
        frame[thickness:-thickness, thickness:-thickness] = False
        inside[frame & dash] = ink


def _draw_cross(canvas: Image.Image, point: NDArray[np.float32], color: Rgb, line: int) -> None:
    draw = ImageDraw.Draw(canvas)
    y, x = point.tolist()
    arm = 2 * line
    for thickness, ink in ((line + 2, (0, 0, 0)), (line, tuple(color.tolist()))):
        reach = arm + (thickness - line) / 2
        draw.line((x - reach, y - reach, x + reach, y + reach), ink, thickness)
        draw.line((x - reach, y + reach, x + reach, y - reach), ink, thickness)


# ---- text


class _Entry(NamedTuple):
    text: str
    color: tuple[int, ...] | None = None


def _names(class_names: Sequence[str], num_classes: int) -> list[str]:
    if class_names and len(class_names) != num_classes:
        raise ValueError(
            f"got {len(class_names)} names for {num_classes} classes: {list(class_names)}"
        )
    return list(class_names) or [f"class {c}" for c in range(num_classes)]


def _entries(classes: Iterable[int], names: Sequence[str]) -> list[_Entry]:
    colors = palette(len(names)).tolist()
    return [_Entry(names[c], tuple(colors[c])) for c in classes]


def _flow(entries: Sequence[_Entry], width: int | None, font_size: int) -> Rgb:
    """Writes words, each behind a patch of its colour, in as many lines as they take."""
    font = ImageFont.load_default(font_size)
    gap, leading = font_size // 2, font_size * 3 // 2
    places = []
    left, top, longest = gap, gap // 2, gap
    for text, color in entries:
        patch = 0 if color is None else font_size + gap
        if width is not None:
            text = _shorten(text, font, width - 2 * gap - patch)
        length = patch + math.ceil(font.getlength(text))
        if width is not None and left > gap and left + length + gap > width:
            left, top = gap, top + leading
        places.append((left, top, patch, color, text))
        left += length + 2 * gap
        longest = max(longest, left)
    strip = Image.new("RGB", (width or longest, top + leading), _PAPER)
    draw = ImageDraw.Draw(strip)
    for left, top, patch, color, text in places:
        if color is not None:
            corner = (left + font_size - 1, top + font_size - 1)
            draw.rectangle(((left, top), corner), fill=color, outline=_INK)
        draw.text((left + patch, top + font_size // 2), text, _INK, font, anchor="lm")
    return np.asarray(strip)


def _shorten(text: str, font: Any, width: float) -> str:
    """Cuts out the middle of a text that is too wide: names often differ at their end."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shorter = text[: (kept + 1) // 2] + "..." + text[len(text) - kept // 2 :]
        if font.getlength(shorter) <= width:
            return shorter
    return "..."


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
    row = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(row)
    for column, (picture, texts) in enumerate(zip(pictures, lines, strict=True)):
        left = gap + column * (tile_size + gap)
        row.paste(picture, (left + (tile_size - picture.width) // 2, gap))
        for number, text in enumerate(texts):
            top = picture.height + gap * 3 // 2 + number * leading
            draw.text((left, top), _shorten(text, font, tile_size), _INK, font)
    return np.asarray(row)


def _fit(picture: Rgb, side: int) -> Image.Image:
    """Scales a picture to a width, less if it would be more than a third higher than that."""
    height, width = picture.shape[:2]
    scale = min(side / width, side * 4 / 3 / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize(size, how)
