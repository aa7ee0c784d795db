"""Tags of whole images from CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiweak.data.annotations import ABSENT, NOT_LOOKED_AT, PRESENT
from semiweak.data.formats.tables import read_table

_WORDS = {
    **dict.fromkeys(("present", "1", "yes", "true"), PRESENT),
    **dict.fromkeys(("absent", "0", "no", "false"), ABSENT),
    **dict.fromkeys(("unknown", "-1"), NOT_LOOKED_AT),
}
_EVERY_OTHER = "*"


def read_tags(path: str | Path, class_names: Sequence[str]) -> dict[str, NDArray[np.int8]]:
    """Reads ``image,class,value``, one tag a line.

    The value is present (or 1, yes, true), absent (0, no, false) or unknown (-1); without that
    column every line says present. A class that no line tags is unknown, since nobody may have
    looked for it. The line ``image,*,absent`` says that all classes without a line of their own are
    absent from this image.

    Args:
        path: The CSV file.
        class_names: The classes in the order of their ids.

    Returns:
        By the stem of the image ``int8 (K,)``: 1 present, 0 absent, -1 unknown.

    Raises:
        ValueError: A column or value is wrong, a class unknown, two lines contradict each other,
            all classes are absent, or ``*`` would rule out a class named background by the way.
    """
    columns, rows = read_table(path, ["image", "class"], aliases={"label": "class", "tag": "class"})
    said: dict[str, dict[int | str, tuple[int, int]]] = {}  # image -> class -> value, line
    for row in rows:
        word = row.cells["value"].lower() if "value" in columns else "present"
        if word not in _WORDS:
            raise ValueError(
                f"{row.where}: the value is {row.cells['value']!r}; it can be present, absent or "
                "unknown"
            )
        value = _WORDS[word]
        every_other = row.cells["class"] == _EVERY_OTHER
        if every_other and value == PRESENT:
            raise ValueError(f"{row.where}: '*' can be absent, not present; name the classes")
        c = _EVERY_OTHER if every_other else row.class_id("class", class_names)
        of_image = said.setdefault(row.stem(), {})
        before, line = of_image.setdefault(c, (value, row.line))
        if before != value:
            raise ValueError(
                f"{row.where}: contradicts line {line}, which gives another value for "
                f"{row.cells['class']!r} in {row.cells['image']}"
            )
    return {
        stem: _tags(stem, {c: value for c, (value, _) in of_image.items()}, class_names, path)
        for stem, of_image in said.items()
    }


def _tags(
    stem: str, values: dict[int | str, int], class_names: Sequence[str], path: str | Path
) -> NDArray[np.int8]:
    others = values.pop(_EVERY_OTHER, NOT_LOOKED_AT)
    tags = np.full(len(class_names), others, np.int8)
    for c, value in values.items():
        tags[int(c)] = value
    if others == ABSENT:
        for c, name in enumerate(class_names):
            # Whoever writes "*,absent" thinks of objects; it would leave no place between them.
            if name.lower() == "background" and c not in values:
                raise ValueError(
                    f"{path}: '*,absent' of image {stem} would rule out {name!r} too; add a line "
                    f"'{stem},{name},present' (or absent)"
                )
    if (tags == ABSENT).all():
        raise ValueError(f"{path}: says that every class is absent from image {stem}")
    return tags
