"""What the methods share that give every pixel a class: scores and prediction."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import MeanMetric

from semiweak.data.batch import SemanticBatch
from semiweak.inference.tiling import predict_tiled
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.base import SegmentationModule
from semiweak.metrics.overlap import OverlapScores


class SemanticModule(SegmentationModule):
    """The base of the methods that give every pixel a class.

    ``forward`` maps images ``(B, C, *S)`` to logits ``(B, K, *S)``. Validation and test score whole
    images by Dice and IoU, accumulated over the data set (``val/dice``) and per image
    (``val/dice_per_image``), and per class by name (``val/dice/<class>``).
    """

    monitor: ClassVar[str] = "val/dice"

    num_classes: int

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.val_scores = OverlapScores(self.num_classes)
        self.test_scores = OverlapScores(self.num_classes)
        self.val_loss = MeanMetric()

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Class probabilities ``float32 (B, K, *S)`` of normalised images of any size, by tiles."""

        def probabilities(tile: Tensor) -> Tensor:
            logits: Tensor = self(tile)
            return logits.float().softmax(dim=1)

        return predict_tiled(probabilities, image, self.tiling)

    def batch_probabilities(self, batch: dict[str, Any] | SemanticBatch) -> Tensor:
        """Class probabilities ``float32 (B, K, *S)`` of a batch of whole images."""
        return self.predict_probabilities(batch["image"])

    def validation_step(self, batch: SemanticBatch, batch_idx: int) -> None:
        """Scores whole images."""
        probabilities = self.batch_probabilities(batch)
        loss, known = cross_entropy(probabilities.clamp_min(1e-12).log(), batch["labels"])
        self.val_loss.update(loss[known])
        self.val_scores.update(probabilities, batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the validation images."""
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()
        self._log_scores("val", self.val_scores)

    def test_step(self, batch: SemanticBatch, batch_idx: int) -> None:
        """Scores whole images."""
        probabilities = self.batch_probabilities(batch)
        self.test_scores.update(probabilities, batch["labels"])

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test images."""
        self._log_scores("test", self.test_scores)

    def _log_scores(self, stage: str, scores: OverlapScores) -> None:
        values = scores.compute()
        scores.reset()
        self.log_classes(stage, values)

    def log_classes(self, stage: str, values: dict[str, Tensor]) -> None:
        """Logs scores ``(K,)`` by name, their mean and those of each class."""
        for name, per_class in values.items():
            self.log(f"{stage}/{name}", per_class.nanmean(), prog_bar=name == "dice")
            for c, value in enumerate(per_class):
                if not math.isnan(value):  # the class occurs in neither truth nor prediction
                    self.log(f"{stage}/{name}/{self.class_names[c]}", value)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Labels ``int64 (B, *S)`` and probabilities of whole images."""
        probabilities = self.batch_probabilities(batch)
        return {
            "labels": probabilities.max(dim=1).indices,  # argmax is far slower on a CPU
            "probabilities": probabilities,
            "image": batch["image"],
            "name": batch["name"],
        }
