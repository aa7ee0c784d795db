"""What the readers of all formats share."""

from typing import Literal

Purpose = Literal["image", "labels", "colours"]
"""What pixels are read for: brightness or colour; the numbers in the file; the colours (RGB(A))."""


class UnusableFileError(ValueError):
    """A file that cannot be read as asked; the message names it and says what to do."""
