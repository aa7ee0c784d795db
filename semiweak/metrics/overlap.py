"""Dice and intersection over union of semantic segmentations, each averaged in a stated way."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

Average = Literal["macro", "none"]
Accumulate = Literal["dataset", "image"]

# Scores of single images are summed in units of 2^-30. Integers add up to the same sum in any order
# and over any number of processes, need no float64 (which some devices lack), and a trainer that
# casts its modules to half precision leaves them alone.
_ONE = 2**30

_CLASS_ID_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class OverlapScores(Metric):
    """Dice and IoU of each class, accumulated over the data set and per image, from one count.

    All that is counted is in one integer table (6, K): true positives, predicted and annotated
    pixels of each class; the sums of the Dice and of the IoU of single images; the number of images
    in which the class occurs. So all four scores take one synchronisation of processes.

    `compute` returns ``dice``, ``iou``, ``dice_per_image`` and ``iou_per_image`` by name, each
    ``(K,)`` and NaN for a class that occurs neither in the annotation nor in the prediction. See
    `DiceScore` for what the two ways to accumulate mean.

    Args:
        num_classes: K, at least 2: the background is one of them.
        ignore_index: The id of unknown pixels in the annotation; None if every pixel is known.
        include_background: False leaves class 0 out; its scores are NaN then.

    Raises:
        ValueError: An argument is out of its range.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    table: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int | None = 255,
        include_background: bool = True,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"num_classes={num_classes}, but it counts the background too: it is at least 2"
            )
        if ignore_index is not None and 0 <= ignore_index < num_classes:
            raise ValueError(
                f"ignore_index={ignore_index} is one of the {num_classes} classes: it marks pixels "
                "of unknown class. To leave class 0 out of the mean say include_background=False"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.include_background = include_background
        self.add_state(
            "table", torch.zeros(6, num_classes, dtype=torch.int64), dist_reduce_fx="sum"
        )

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts a batch of images.

        Args:
            preds: Class ids, integer ``(B, *S)``, or logits or probabilities, floating
                ``(B, K, *S)``, of which the class of the largest counts.
            target: Class ids, integer ``(B, *S)``, ``ignore_index`` where unknown. There the
                prediction may be anything.

        Raises:
            ValueError: Another type or shape, or a class id that does not exist.
        """
        preds = self._as_class_ids(preds, target)
        overlap, predicted, annotated = self._count(preds, target)
        both = predicted + annotated
        self.table += torch.stack(
            (
                overlap.sum(0),
                predicted.sum(0),
                annotated.sum(0),
                _fraction(2 * overlap, both).sum(0),
                _fraction(overlap, both - overlap).sum(0),
                (both > 0).sum(0),
            )
        )

    def compute(self) -> Any:
        """Returns the four scores of each class."""
        # On the CPU, because float64 exists there in any case; the table is tiny.
        overlap, predicted, annotated, dice, iou, images = self.table.cpu().double()
        scores = {
            "dice": 2 * overlap / (predicted + annotated),
            "iou": overlap / (predicted + annotated - overlap),
            "dice_per_image": dice / (_ONE * images),
            "iou_per_image": iou / (_ONE * images),
        }
        if not self.include_background:
            for score in scores.values():
                score[0] = torch.nan
        return {name: score.float().to(self.table.device) for name, score in scores.items()}

    def _as_class_ids(self, preds: Tensor, target: Tensor) -> Tensor:
        if target.dtype not in _CLASS_ID_TYPES:
            raise ValueError(f"the annotation holds {target.dtype}, but it is integer class ids")
        if preds.is_floating_point():
            wanted = (target.shape[0], self.num_classes, *target.shape[1:])
            if preds.shape != wanted:
                raise ValueError(
                    f"the scores have the shape {tuple(preds.shape)}, but for {self.num_classes} "
                    f"classes and an annotation {tuple(target.shape)} it must be {wanted}"
                )
            # Not argmax: over an inner axis it is several times slower on a CPU (torch 2.15).
            return preds.max(dim=1).indices
        if preds.dtype not in _CLASS_ID_TYPES:
            raise ValueError(
                f"the prediction holds {preds.dtype}, but it is integer class ids or floating "
                "scores of each class"
            )
        if preds.shape != target.shape:
            raise ValueError(
                f"the prediction has the shape {tuple(preds.shape)}, but the annotation "
                f"{tuple(target.shape)}"
            )
        return preds

    def _count(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """True positives, predicted and annotated pixels per image and class, each (B, K)."""
        images, k = len(target), self.num_classes
        # The time goes into moving memory: hence int32, and in place from here on.
        preds = preds.flatten(1).to(torch.int32, copy=True)
        target = target.flatten(1).to(torch.int32, copy=True)
        if self.ignore_index is None:
            unknown = None
        else:
            unknown = target == self.ignore_index
            preds.masked_fill_(unknown, 0)
            target.masked_fill_(unknown, 0)
        self._check_ids("prediction", preds)
        self._check_ids("annotation", target)

        # One histogram over (image, annotated class, predicted class); unknown pixels fall into a
        # last bin.
        image = torch.arange(images, dtype=torch.int32, device=target.device)[:, None]
        pair = target.mul_(k).add_(preds).add_(image * k * k)
        if unknown is not None:
            pair.masked_fill_(unknown, images * k * k)
        bins = torch.bincount(pair.flatten(), minlength=images * k * k + 1)
        confusion = bins[:-1].view(images, k, k)
        return confusion.diagonal(dim1=1, dim2=2), confusion.sum(1), confusion.sum(2)

    def _check_ids(self, what: str, ids: Tensor) -> None:
        if not ids.numel():
            return
        smallest, largest = (int(i) for i in ids.aminmax())
        if smallest < 0 or largest >= self.num_classes:
            wrong = smallest if smallest < 0 else largest
            raise ValueError(
                f"the {what} contains the class id {wrong}, but with num_classes="
                f"{self.num_classes} the ids are 0 to {self.num_classes - 1}"
                + (f" (unknown is {self.ignore_index})" if what == "annotation" else "")
            )


class _OneScore(OverlapScores):
    """One of the four scores, as a mean over the classes or for each class."""

    score: ClassVar[str]

    def __init__(
        self,
        num_classes: int,
        *,
        average: Average = "macro",
        accumulate: Accumulate = "dataset",
        ignore_index: int | None = 255,
        include_background: bool = True,
    ) -> None:
        super().__init__(
            num_classes, ignore_index=ignore_index, include_background=include_background
        )
        if average not in get_args(Average):
            raise ValueError(f"average={average!r}, but it is 'macro' or 'none'")
        if accumulate not in get_args(Accumulate):
            raise ValueError(f"accumulate={accumulate!r}, but it is 'dataset' or 'image'")
        self.average = average
        self.accumulate = accumulate

    def compute(self) -> Tensor:
        """Returns the mean over classes, a scalar, or with ``average="none"`` every class, (K,)."""
        name = self.score if self.accumulate == "dataset" else f"{self.score}_per_image"
        score: Tensor = super().compute()[name]
        return score.nanmean() if self.average == "macro" else score


class DiceScore(_OneScore):
    r"""Dice score of each class, 2TP / (2TP + FP + FN), and their mean.

    A class that occurs neither in the annotation nor in the prediction has no score (NaN) and is
    left out of every mean; one that is only predicted, or only annotated, scores 0. Pixels of
    unknown class are taken out of both sides before counting.

    ``accumulate`` says over what the pixels are counted; the two differ widely, so name the one you
    report:

    * ``"dataset"``: over all images together; one score a class. Large objects count most.
    * ``"image"``: in each image by itself; the score of a class is the mean over the images in
      which it occurs in the annotation or the prediction. Every image counts the same.

    Args:
        num_classes: K, at least 2: the background is one of them.
        average: ``"macro"``: the mean over the classes. ``"none"``: the score of every class
            ``(K,)``, NaN where there is none.
        accumulate: ``"dataset"`` or ``"image"``.
        ignore_index: The id of unknown pixels in the annotation; None if every pixel is known.
        include_background: False leaves class 0 out of the mean; its score is NaN then.

    Raises:
        ValueError: An argument is out of its range.
    """

    score = "dice"


class IoU(_OneScore):
    r"""Intersection over union (Jaccard index) of each class, TP / (TP + FP + FN), and their mean.

    What is said of `DiceScore` about absent classes, unknown pixels and the two ways to accumulate
    holds here too.

    Args:
        num_classes: K, at least 2: the background is one of them.
        average: ``"macro"``: the mean over the classes. ``"none"``: the score of every class
            ``(K,)``, NaN where there is none.
        accumulate: ``"dataset"`` or ``"image"``.
        ignore_index: The id of unknown pixels in the annotation; None if every pixel is known.
        include_background: False leaves class 0 out of the mean; its score is NaN then.

    Raises:
        ValueError: An argument is out of its range.
    """

    score = "iou"


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` in units of 1 / `_ONE`, rounded; 0 where the whole is 0."""
    whole = whole.clamp_min(1)
    return (part * _ONE + whole // 2) // whole
