"""Points from CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiweak.data.formats.tables import Row, read_table

Points = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Positions ``(N, d)``, pixel centres at integers, and classes ``(N,)``."""


def read_points(
    path: str | Path, class_names: Sequence[str], *, spatial_dims: int = 2
) -> dict[str, Points]:
    """Reads ``image,y,x,class`` (or ``image,z,y,x,class``), in any order, one point a line.

    Coordinates are in pixels; the centre of the first pixel is 0. ``image`` is a file name or stem;
    ``class``, or ``label``, a class name or index. Other columns are passed over.

    Args:
        path: The CSV file.
        class_names: The classes in the order of their ids.
        spatial_dims: 2, or 3 for volumes.

    Returns:
        By the stem of the image.

    Raises:
        ValueError: A column is missing, a number is none, a class is unknown; with the line.
    """
    axes = ["z", "y", "x"][-spatial_dims:]
    columns, rows = read_table(path, ["image", *axes, "class"], aliases={"label": "class"})
    if "z" in columns and spatial_dims == 2:
        raise ValueError(
            f"{path}: has a column z, but spatial_dims is 2; set it to 3, or remove the column"
        )
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.stem(), []).append(row)
    return {
        stem: (
            np.array([[row.number(axis) for axis in axes] for row in of_image], np.float32),
            np.array([row.class_id("class", class_names) for row in of_image], np.int64),
        )
        for stem, of_image in lines.items()
    }
