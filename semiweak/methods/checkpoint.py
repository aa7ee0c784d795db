"""What a checkpoint of this package holds beside weights and arguments."""

from __future__ import annotations

from typing import Any

import semiweak

CHECKPOINT_FORMAT = 1
"""Raised when a checkpoint of an older release can no longer be read."""


def check_checkpoint(checkpoint: dict[str, Any], path: str = "the checkpoint") -> dict[str, Any]:
    """The part of a checkpoint that this package wrote.

    Args:
        checkpoint: The content of a checkpoint file.
        path: Names the file in errors.

    Raises:
        ValueError: Another program wrote it, or a release with another format.
    """
    own = checkpoint.get("semiweak")
    if not isinstance(own, dict) or "format" not in own:
        raise ValueError(f"{path} was not written by semiweak")
    if own["format"] != CHECKPOINT_FORMAT:
        raise ValueError(
            f"{path} has format {own['format']}, written by semiweak {own.get('version')}; this is "
            f"semiweak {semiweak.__version__}, which reads format {CHECKPOINT_FORMAT}: predict "
            "with that release, or train again"
        )
    return own
