"""CSV files as people export them: with commas or, from a German Excel, with semicolons."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from semiweak.data.readers.names import stem_of


class Row(NamedTuple):
    """One line of a table."""

    where: str
    """File and line, for messages."""
    line: int
    cells: dict[str, str]
    """Text by column, without spaces around it; empty where the line has none."""

    def stem(self) -> str:
        """The stem of the line's image.

        Raises:
            ValueError: The cell is empty.
        """
        if not self.cells["image"]:
            raise ValueError(f"{self.where}: the image is empty; give a file name")
        return stem_of(self.cells["image"])

    def number(self, column: str) -> float:
        """The cell as a number; a decimal comma is understood.

        Raises:
            ValueError: The cell is no finite number.
        """
        text = self.cells[column]
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            value = float("nan")
        if not abs(value) < float("inf"):
            raise ValueError(f"{self.where}: {column} is {text!r}, which is no number")
        return value

    def class_id(self, column: str, class_names: Sequence[str]) -> int:
        """The class that the cell names, or whose index it is; a name goes first.

        Raises:
            ValueError: The cell is empty or no class.
        """
        return class_id(self.cells[column], class_names, self.where)


def class_id(text: str, class_names: Sequence[str], where: str) -> int:
    """The class that a text names, or whose index it is; a name goes first.

    Raises:
        ValueError: It is empty or no class; the message begins with ``where``.
    """
    if text in class_names:
        return class_names.index(text)
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    given = f"{text!r} is no class" if text else "the class is empty"
    raise ValueError(
        f"{where}: {given}; give one of {list(class_names)} or its index, 0 to "
        f"{len(class_names) - 1}"
    )


def read_table(
    path: str | Path,
    required: Sequence[str],
    *,
    aliases: dict[str, str] | None = None,
) -> tuple[list[str], list[Row]]:
    """Reads a CSV file with a header; commas, semicolons or tabs, UTF-8 with or without a mark.

    Args:
        path: The file.
        required: Columns that must be there; upper case is as good as lower.
        aliases: Other names of columns.

    Returns:
        The columns of the file, and its lines, but for empty ones.

    Raises:
        ValueError: The file is missing or no such table; a line has more cells than the header.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is not in UTF-8; in Excel, save it as 'CSV UTF-8 (comma delimited)'"
        ) from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened ({error.strerror})") from error
    header, _, _ = text.lstrip().partition("\n")
    if not header.strip():
        raise ValueError(f"{path}: is empty; its first line must be {','.join(required)}")
    delimiter = max(",;\t", key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: list[str] | None = None
    rows: list[Row] = []
    try:
        for cells in lines:
            cells = [cell.strip() for cell in cells]
            where = f"{path}, line {lines.line_num}"
            if not any(cells):
                continue
            if columns is None:
                columns = _columns(cells, required, aliases or {}, path)
                continue
            if len(cells) > len(columns) and any(cells[len(columns) :]):
                raise ValueError(
                    f"{where}: has {len(cells)} cells, but the header has {len(columns)} columns; "
                    "write 1.5, not 1,5, and put quotes around a text with a comma"
                )
            cells += [""] * (len(columns) - len(cells))
            rows.append(Row(where, lines.line_num, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: is no CSV: {error}") from error
    return columns or [], rows


def _columns(
    cells: list[str], required: Sequence[str], aliases: dict[str, str], path: str | Path
) -> list[str]:
    lower = [cell.lower() for cell in cells]
    columns = [
        aliases[name] if name in aliases and aliases[name] not in lower else name for name in lower
    ]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: has two columns {twice[0]!r}")
    missing = [name for name in required if name not in columns]
    if missing:
        raise ValueError(
            f"{path}: lacks the column {', '.join(missing)}; its first line is {', '.join(cells)}, "
            f"but must have {', '.join(required)} (separated by comma, semicolon or tab)"
        )
    return columns
