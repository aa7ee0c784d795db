"""Scores of instance segmentations, all from one contingency table an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from semiweak.metrics.instance_table import THRESHOLDS, Accumulate, InstanceMetric

Average = Literal["mean", "none"]
RandScore = Literal["error", "precision", "recall"]


class InstanceScores(InstanceMetric):
    """Every score of this file by name, from one contingency table an image.

    All that is counted is in one integer table, so the scores take one synchronisation of
    processes. `compute` returns scalars:

    * ``sbd``, ``best_dice_prediction``, ``best_dice_annotation``: see `SymmetricBestDice`; the two
      best Dice of which it is the smaller, image by image.
    * ``dic``, ``abs_dic``: see `DifferenceInCount`.
    * ``ap50``, ``map``: see `InstanceAveragePrecision`; at the threshold 0.5, and the mean over
      0.5, 0.55, ... 0.95; means over the images. ``ap50_pooled``, ``map_pooled``: the same of
      matches counted over the whole data set.
    * ``arand``, ``arand_precision``, ``arand_recall``: see `AdaptedRandError`.
    * ``foreground_dice``: see `ForegroundDice`.

    0 is the background on both sides, also in an image that has no background pixel. An image
    without objects on either side scores 1, with objects on one side only 0; for the adapted Rand
    scores an image without annotated objects does not count. An image without a valid pixel does
    not count at all. A score is NaN only if no image counted.
    """

    def __init__(self) -> None:
        super().__init__()

    def compute(self) -> dict[str, Tensor]:
        """Returns the scores by name, each a scalar."""
        scores = self.scores()
        by_image, pooled = self.average_precision("image"), self.average_precision("dataset")
        scores |= {"ap50": by_image[0], "map": sum(by_image) / len(by_image)}
        scores |= {"ap50_pooled": pooled[0], "map_pooled": sum(pooled) / len(pooled)}
        return {name: self.scalar(score) for name, score in scores.items()}


class _OneScore(InstanceMetric):
    """One of the scores that do not depend on a threshold."""

    higher_is_better: bool | None = True
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0
    score: str

    def __init__(self) -> None:
        super().__init__()

    def compute(self) -> Tensor:
        """Returns the mean over the images, a scalar; NaN if no image counted."""
        return self.scalar(self.scores()[self.score])


class SymmetricBestDice(_OneScore):
    """Symmetric best Dice of the leaf segmentation challenge (CVPPP), the mean over the images.

        BD(A, B) = mean over objects a of A of max over objects b of B of 2|a n b| / (|a| + |b|)
        SBD = min(BD(prediction, annotation), BD(annotation, prediction))

    Neither smoothed nor matched one to one. 0 is the background, also where an image has no pixel
    of it; the challenge's own code takes the lowest id that occurs for the background, loses an
    object of such an image, and scores 0 where both sides are empty. Here that is 1; one side
    empty is 0.
    """

    score = "sbd"


class ForegroundDice(_OneScore):
    """Dice of foreground, all objects as one, the mean over the images.

    An image without objects on both sides scores 1, on one side 0. Pooled over a data set it is the
    `DiceScore` of two classes.
    """

    score = "foreground_dice"


class DifferenceInCount(_OneScore):
    """Predicted minus annotated objects, the mean over the images (DiC).

    Args:
        absolute: Means the absolute differences (|DiC|), so that objects too many in one image do
            not make up for objects missed in another.
    """

    higher_is_better = None
    plot_lower_bound = None
    plot_upper_bound = None

    def __init__(self, *, absolute: bool = False) -> None:
        super().__init__()
        self.score = "abs_dic" if absolute else "dic"


class AdaptedRandError(_OneScore):
    """Adapted Rand error (SNEMI3D, CREMI), or its precision or recall, the mean over the images.

    Counts the pixels of annotated objects only; a pixel of them where nothing is predicted is a
    segment of its own. An image without annotated objects does not count. To merge objects lowers
    the precision, to split or to miss them the recall; scikit-image calls them the other way round.
    See `semiweak.metrics.matching.adapted_rand` for the formula and for other implementations.

    Args:
        score: ``"error"``, ``"precision"`` or ``"recall"``.

    Raises:
        ValueError: Another ``score``.
    """

    higher_is_better = None

    def __init__(self, *, score: RandScore = "error") -> None:
        super().__init__()
        if score not in get_args(RandScore):
            raise ValueError(f"score={score!r}, but it is one of {', '.join(get_args(RandScore))}")
        self.score = "arand" if score == "error" else f"arand_{score}"


class InstanceAveragePrecision(InstanceMetric):
    """Average precision of matched objects as in the Data Science Bowl 2018 and StarDist.

        AP = TP / (TP + FP + FN)

    of objects matched one to one at an IoU of the threshold or above: the largest number of matches
    that there is. Others demand an IoU above the threshold, which differs only for an IoU equal to
    it. This is not the AP of COCO, which needs a confidence of each object. An image without
    objects on both sides scores 1, on one side 0.

    ``accumulate`` says where the matches are counted; the two differ, so name the one you report:

    * ``"image"``: in each image by itself; the score is the mean over the images.
    * ``"dataset"``: over all images together, so that images of many objects count most.

    Args:
        thresholds: IoU, each above 0 and at most 1. One is the AP at this IoU; of several the
            mean is taken, by default of 0.5, 0.55, ... 0.95 (mAP).
        average: ``"mean"`` over the thresholds, a scalar; ``"none"``: each ``(T,)``.
        accumulate: ``"image"`` or ``"dataset"``.

    Raises:
        ValueError: An argument is out of its range.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        thresholds: Sequence[float] = THRESHOLDS,
        *,
        average: Average = "mean",
        accumulate: Accumulate = "image",
    ) -> None:
        thresholds = tuple(thresholds)
        if not thresholds or not all(0 < t <= 1 for t in thresholds):
            raise ValueError(
                f"thresholds={thresholds}, but it is one or more IoU, each above 0 and at most 1"
            )
        if average not in get_args(Average):
            raise ValueError(f"average={average!r}, but it is 'mean' or 'none'")
        if accumulate not in get_args(Accumulate):
            raise ValueError(f"accumulate={accumulate!r}, but it is 'image' or 'dataset'")
        super().__init__(thresholds)
        self.average = average
        self.accumulate = accumulate

    def compute(self) -> Tensor:
        """Returns the mean over the thresholds, a scalar, or each ``(T,)``; NaN if none counted."""
        precision = self.average_precision(self.accumulate)
        if self.average == "mean":
            return self.scalar(sum(precision) / len(precision))
        return torch.tensor(precision, dtype=torch.float32, device=self.table.device)
