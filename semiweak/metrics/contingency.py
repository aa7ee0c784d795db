"""How many pixels each predicted object shares with each annotated one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Contingency:
    """The contingency table of two label images, of which only the pairs that occur are kept.

    Objects are numbered anew, from 1 in the order of their ids; 0 is the background, which is there
    even where no pixel belongs to it.

    Attributes:
        predicted: The predicted object of each pair ``(N,)``, 0 to P.
        annotated: The annotated object of each pair ``(N,)``, 0 to A.
        shared: The pixels that the two share ``(N,)``, at least 1.
        predicted_sizes: Pixels of the background and of each predicted object ``(1 + P,)``.
        annotated_sizes: Pixels of the background and of each annotated object ``(1 + A,)``.
    """

    predicted: Ints
    annotated: Ints
    shared: Ints
    predicted_sizes: Ints
    annotated_sizes: Ints

    @property
    def num_pixels(self) -> int:
        """Pixels that were counted."""
        return int(self.predicted_sizes.sum())

    @property
    def num_predicted(self) -> int:
        """Predicted objects."""
        return len(self.predicted_sizes) - 1

    @property
    def num_annotated(self) -> int:
        """Annotated objects."""
        return len(self.annotated_sizes) - 1

    def of_objects(self) -> tuple[Ints, Ints, Ints]:
        """``predicted``, ``annotated`` and ``shared`` of the pairs without background."""
        objects = (self.predicted > 0) & (self.annotated > 0)
        return self.predicted[objects], self.annotated[objects], self.shared[objects]


def contingency_table(preds: Tensor, target: Tensor, valid: Tensor | None = None) -> Contingency:
    """Counts the pixels that predicted and annotated objects share, on the CPU.

    The time is that of two looks at each pixel: a label image is made of runs of equal pixels, and
    what follows handles runs.

    Args:
        preds: The predicted label image, integer of any width, any shape ``S``: 0 is background,
            every other id an object. Ids may have gaps and be as large as the type allows.
        target: The annotated label image ``S``, likewise.
        valid: Bool ``S``, False at pixels to leave out, as if the image did not have them; None
            counts every pixel.

    Raises:
        ValueError: Another type, a shape of its own, or a negative id.
    """
    for what, labels in (("prediction", preds), ("annotation", target)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"the {what} holds {labels.dtype}, but it is integer object ids")
    if preds.shape != target.shape:
        raise ValueError(
            f"the prediction has the shape {tuple(preds.shape)}, but the annotation "
            f"{tuple(target.shape)}"
        )
    p, a = preds.flatten().cpu().numpy(), target.flatten().cpu().numpy()
    if valid is not None:
        if valid.dtype != torch.bool or valid.shape != target.shape:
            raise ValueError(
                f"valid is {valid.dtype} of the shape {tuple(valid.shape)}, but it is torch.bool "
                f"of the annotation's shape {tuple(target.shape)}"
            )
        inside = valid.flatten().cpu().numpy()
        p, a = p[inside], a[inside]

    starts = _run_starts(p, a)
    lengths = np.diff(starts, append=len(p))
    num_predicted, p = _number("prediction", p[starts])
    num_annotated, a = _number("annotation", a[starts])
    pairs, pair_of_run = _distinct(p * (num_annotated + 1) + a)
    shared = _sums(pair_of_run, lengths, len(pairs))
    predicted, annotated = np.divmod(pairs, num_annotated + 1)
    return Contingency(
        predicted=predicted,
        annotated=annotated,
        shared=shared,
        predicted_sizes=_sums(predicted, shared, num_predicted + 1),
        annotated_sizes=_sums(annotated, shared, num_annotated + 1),
    )


def _run_starts(p: NDArray[Any], a: NDArray[Any]) -> Ints:
    """Where a pixel differs from the one before it in either image; the first pixel does."""
    starts = np.ones(len(p), dtype=bool)
    np.not_equal(p[1:], p[:-1], out=starts[1:])
    starts[1:] |= a[1:] != a[:-1]
    return np.flatnonzero(starts)


def _number(what: str, ids: NDArray[Any]) -> tuple[int, Ints]:
    """The number of objects, and each id's object from 1 on; id 0 is 0."""
    if len(ids) and ids.min() < 0:
        raise ValueError(
            f"the {what} contains the id {ids.min()}, but 0 is the background and objects have "
            "positive ids; name the pixels to leave out with valid"
        )
    distinct, number = _distinct(ids)
    if len(distinct) and distinct[0] == 0:
        return len(distinct) - 1, number
    return len(distinct), number + 1


def _distinct(ids: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
    """The distinct ids, sorted, and for each id its place among them."""
    if not len(ids) or int(ids.max()) > 16 * len(ids):
        return np.unique(ids, return_inverse=True)
    # A table to look up is several times quicker than to sort, while it is not much larger.
    present = np.zeros(int(ids.max()) + 1, dtype=bool)
    present[ids] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[ids]


def _sums(groups: Ints, values: Ints, number: int) -> Ints:
    """The sum of the values of each group ``(number,)``; exact below 2^53."""
    return np.bincount(groups, weights=values, minlength=number).astype(np.int64)
