"""Whether annotations belong to images that are there, and lie inside them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import pixel_of

_SHOWN = 5  # so many, an error lists at most


def check_stems(annotated: Iterable[str], images: Iterable[str], source: str | Path) -> None:
    """Makes sure that every annotated image is there.

    Args:
        annotated: The stems that annotations are for.
        images: The stems of the images.
        source: The file or folder of annotations, for messages.

    Raises:
        ValueError: An image is missing; the message names images with a similar stem.
    """
    have = list(images)
    missing = sorted(set(annotated) - set(have))
    if missing:
        named = [stem + _similar(stem, have) for stem in missing[:_SHOWN]]
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ValueError(
            f"{source}: has annotations for {len(missing)} image(s) that are not there: "
            f"{', '.join(named)}{more}. The {len(have)} images go by their file names without "
            "suffix; rename the files, or mend the names in the annotations"
        )


def check_points(
    points: NDArray[np.float32], shape: tuple[int, ...], source: str | Path
) -> NDArray[np.float32]:
    """Makes sure that points lie on pixels of their image; returns them as they are.

    Args:
        points: ``(N, d)``, pixel centres at integers.
        shape: The image's spatial shape.
        source: The image, for messages.

    Raises:
        ValueError: A point is outside, or has another number of coordinates than the image.
    """
    if points.shape[1] != len(shape):
        raise ValueError(
            f"{source}: has {len(shape)} dimensions, but its points have {points.shape[1]} "
            "coordinates"
        )
    inside = _on_image(points, shape)
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        text = (
            f"{source}: {int((~inside).sum())} of {len(points)} points lie outside the image, such "
            f"as ({_axes(shape)}) = {_numbers(points[first])} in an image of {_size(shape)} pixels"
        )
        if len(shape) == 2 and _on_image(points[:, ::-1], shape).all():
            text += "; all would be inside with y and x exchanged"
        raise ValueError(text)
    return points


def check_boxes(
    boxes: NDArray[np.float32], shape: tuple[int, ...], source: str | Path
) -> NDArray[np.float32]:
    """Makes sure that boxes are upright and touch their image; returns them, cut off at its edges.

    Args:
        boxes: ``(N, 2 d)``, the starts of all axes, then the ends.
        shape: The image's spatial shape.
        source: The image, for messages.

    Raises:
        ValueError: A box is reversed, empty or wholly outside.
    """
    d = len(shape)
    if boxes.shape[1] != 2 * d:
        raise ValueError(
            f"{source}: has {d} dimensions, but its boxes have {boxes.shape[1]} numbers, "
            f"not {2 * d}"
        )
    for box in boxes:
        where = f"{source}: the box ({_axes(shape)}) = {_numbers(box[:d])} to {_numbers(box[d:])}"
        problem = box_problem(box, shape)
        if problem is not None:
            raise ValueError(f"{where} {problem}")
    return np.clip(boxes, 0, np.array([*shape, *shape], np.float32))


def check_size(stated: tuple[int, int], shape: tuple[int, ...], source: str | Path) -> None:
    """Makes sure that boxes were drawn on the image as it is, not on a smaller or turned copy.

    Args:
        stated: Height and width that the file of boxes states.
        shape: The image's spatial shape.
        source: The image, for messages.

    Raises:
        ValueError: They differ.
    """
    if stated != tuple(shape):
        raise ValueError(
            f"{source}: was drawn on {_size(stated)} pixels (height x width), but the image has "
            f"{_size(shape)}; export the boxes for this very image"
        )


def box_problem(box: NDArray[np.float32], shape: tuple[int, ...] | None) -> str | None:
    """What is wrong with a box (starts, then ends), as the end of a sentence; None if nothing.

    A box that lies partly outside is in order.
    """
    d = len(box) // 2
    start, end = box[:d], box[d:]
    if not np.isfinite(box).all():
        return "is no box: it has a coordinate that is no finite number"
    if (end < start).any():
        return "is reversed: it ends before it starts"
    if (end == start).any():
        return "is empty: it starts where it ends"
    if shape is not None and ((end <= 0) | (start >= np.asarray(shape))).any():
        return f"lies outside the image, which has {_size(shape)} pixels"
    return None


def _on_image(points: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    pixels = pixel_of(points)
    return np.asarray(((pixels >= 0) & (pixels < np.asarray(shape))).all(axis=1))


def _similar(stem: str, have: list[str]) -> str:
    # Label Studio and others put a code before the name, which difflib would not look through.
    close = [other for other in have if other and (other in stem or stem in other)]
    close = close or get_close_matches(stem, have, n=1)
    return f" (is it {max(close, key=len)}?)" if close else ""


def _axes(shape: tuple[int, ...]) -> str:
    return ", ".join("zyx"[-len(shape) :])


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _numbers(values: NDArray[np.float32]) -> str:
    return f"({', '.join(f'{value:g}' for value in values.tolist())})"
