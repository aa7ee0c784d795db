"""What the scores of instance segmentations count, and how it adds up over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from semiweak.metrics.contingency import Contingency, contingency_table
from semiweak.metrics.matching import adapted_rand, best_dice, foreground_dice, matches

Accumulate = Literal["image", "dataset"]

# Scores of single images are summed in units of 2^-30. Integers add up to the same sum in any order
# and over any number of processes, need no float64 (which some devices lack), and a trainer that
# casts its modules to half precision leaves them alone.
_ONE = 2**30

# 0.5, 0.55, ... 0.95, each the float nearest to it: sums of 0.05 drift past an IoU that is equal.
THRESHOLDS = tuple(i / 20 for i in range(10, 20))

# What the table sums over the images, before the matches and the AP at each threshold.
_COUNTS = ("images", "images_with_objects", "predicted", "annotated", "surplus", "difference")
_SCORES = (
    "sbd",
    "best_dice_prediction",
    "best_dice_annotation",
    "foreground_dice",
    "arand",
    "arand_precision",
    "arand_recall",
)


class InstanceMetric(Metric):
    """Sums what the scores of single images come to, in one integer table; base of every score.

    Args:
        thresholds: The IoU at which objects are matched.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS) -> None:
        super().__init__()
        self.thresholds = tuple(thresholds)
        # A collection shares the states of metrics that have equal names and, by chance perhaps,
        # equal first values; so tables of other thresholds must not have the same name.
        self._table_name = "_".join(("table", *map(str, self.thresholds)))
        size = len(_COUNTS) + len(_SCORES) + 2 * len(self.thresholds)
        self.add_state(self._table_name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def table(self) -> Tensor:
        """All that is counted: the counts, the summed scores, the matches and the summed AP."""
        table: Tensor = getattr(self, self._table_name)
        return table

    def update(self, preds: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Counts a batch of images; the tables of the images are made on the CPU.

        Args:
            preds: Predicted object ids, integer of any width ``(B, *S)``, 0 = background. Ids need
                not be consecutive, and mean nothing from image to image.
            target: Annotated object ids ``(B, *S)``, 0 = background; painted completely wherever
                it is valid.
            valid: Bool ``(B, *S)``, False where nothing is known; None if everything is. These
                pixels are taken out of both sides before counting: an object is what remains of it.

        Raises:
            ValueError: Another type or shape, or a negative id. Then nothing of the batch counts.
        """
        if target.ndim < 3:
            raise ValueError(
                f"the annotation has the shape {tuple(target.shape)}, but it is a batch (B, *S); "
                "give a single image as labels[None]"
            )
        for what, labels in (("prediction", preds), ("valid", valid)):
            if labels is not None and labels.shape != target.shape:
                raise ValueError(
                    f"{what} has the shape {tuple(labels.shape)}, but the annotation "
                    f"{tuple(target.shape)}"
                )
        rows = [[0] * len(self.table)]
        for i, (p, a) in enumerate(zip(preds, target, strict=True)):
            try:
                table = contingency_table(p, a, None if valid is None else valid[i])
            except ValueError as error:
                raise ValueError(f"image {i} of the batch: {error}") from error
            if table.num_pixels:
                rows.append(self._row(table))
        total = torch.tensor(rows, device=self.table.device).sum(0)
        # Not in place: a table that was reset in inference mode could not be changed outside it.
        setattr(self, self._table_name, self.table + total)

    def _row(self, table: Contingency) -> list[int]:
        """What one image adds to the table."""
        surplus = table.num_predicted - table.num_annotated
        of_predicted, of_annotated = best_dice(table)
        rand = adapted_rand(table)
        matched = matches(table, self.thresholds)
        scores = (
            min(of_predicted, of_annotated),
            of_predicted,
            of_annotated,
            foreground_dice(table),
            *(rand or (0, 0, 0)),
            *(_precision(m, table.num_predicted, table.num_annotated) for m in matched),
        )
        units = [round(score * _ONE) for score in scores]
        return [
            1,
            int(rand is not None),
            table.num_predicted,
            table.num_annotated,
            surplus,
            abs(surplus),
            *units[: len(_SCORES)],
            *matched,
            *units[len(_SCORES) :],
        ]

    def scores(self) -> dict[str, float]:
        """Every score that does not depend on a threshold; NaN if no image counted."""
        sums = dict(zip((*_COUNTS, *_SCORES), self.table.tolist(), strict=False))
        images = sums["images"]
        scores = {
            "dic": _mean(sums["surplus"], images),
            "abs_dic": _mean(sums["difference"], images),
        }
        for name in _SCORES:
            of = sums["images_with_objects"] if name.startswith("arand") else images
            scores[name] = _mean(sums[name], of * _ONE)
        return scores

    def average_precision(self, accumulate: Accumulate) -> list[float]:
        """AP at each threshold; NaN if no image counted."""
        values = self.table.tolist()
        images, predicted, annotated = values[0], values[2], values[3]
        t = len(self.thresholds)
        if accumulate == "image":
            return [_mean(total, images * _ONE) for total in values[-t:]]
        if not images:
            return [torch.nan] * t
        return [_precision(matched, predicted, annotated) for matched in values[-2 * t : -t]]

    def scalar(self, value: float) -> Tensor:
        """A score as it is returned."""
        return torch.tensor(value, dtype=torch.float32, device=self.table.device)


def _precision(matched: int, predicted: int, annotated: int) -> float:
    """TP / (TP + FP + FN); 1 without any object."""
    union = predicted + annotated - matched
    return matched / union if union else 1.0


def _mean(total: int, number: int) -> float:
    return total / number if number else torch.nan
