"""What the methods share that tell objects apart: clustering, scores, pictures and prediction."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from semiweak import visualize
from semiweak.clustering.base import Clustering
from semiweak.clustering.consistency import ConsistencyClustering
from semiweak.clustering.describe import clustering_from, description_of
from semiweak.clustering.mutex_watershed import MutexWatershed
from semiweak.data.batch import InstanceBatch
from semiweak.inference.tiling import predict_tiled
from semiweak.methods.base import SegmentationModule
from semiweak.metrics.instances import InstanceScores

PICTURES = 4
"""So many validation images are shown."""


class InstanceModule(SegmentationModule):
    """The base of the methods that give every pixel an embedding and cluster these to objects.

    ``forward`` maps images ``(B, C, *S)`` to embeddings ``(B, D, *S)``. Validation and test segment
    whole images and score them (`InstanceScores`: ``val/sbd``, ``val/ap50``, ``val/map``,
    ``val/arand`` ...). At every validation the first images, their embeddings (by principal
    components, the same throughout a run) and their objects are drawn into
    ``<log_dir>/pictures/``.

    How embeddings are clustered may change after training: ``clustering`` is no argument but an
    attribute. A checkpoint remembers what it was; set it to another to change it.
    """

    monitor: ClassVar[str] = "val/sbd"

    def __init__(self, **common: Any) -> None:
        super().__init__(num_classes=None, **common)
        self.clustering: Clustering | None = None
        self._clustering_of_checkpoint: Clustering | None = None
        self.val_scores = InstanceScores()
        self.test_scores = InstanceScores()
        self.colors: visualize.EmbeddingColors | None = None
        self._shown: list[dict[str, Any]] = []

    @property
    def active_clustering(self) -> Clustering:
        """The clustering in use: the one that was set, the checkpoint's, or the default one."""
        return self.clustering or self._clustering_of_checkpoint or self.default_clustering()

    def default_clustering(self) -> Clustering:
        """Mutex watershed, with the background that was painted, else the largest cluster."""
        return MutexWatershed(background="learned")

    def background_embedding(self) -> Tensor | None:
        """The mean embedding ``(D,)`` of painted background; None where none was seen."""
        return None

    def setup(self, stage: str) -> None:
        """Checks that data and model fit."""
        task = getattr(self._data_module(), "task", "instances")
        if stage != "predict" and task != "instances":
            raise ValueError(
                f"{type(self).__name__} learns and is scored by objects, but the data's task is "
                f"{task}; set data.task to instances"
            )
        super().setup(stage)

    # Prediction

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Embeddings ``(B, D, *S)`` of images ``(B, C, *S)`` of any size."""

    def second_embeddings(self, image: Tensor) -> Tensor | None:
        """Embeddings of a second network, for `ConsistencyClustering`; None where there is none."""
        return None

    def predict_embeddings(self, image: Tensor) -> Tensor:
        """Embeddings ``float32 (B, D, *S)`` of normalised images of any size, by tiles."""
        return predict_tiled(lambda tile: self(tile).float(), image, self.tiling)

    def segment(self, image: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Objects of normalised images.

        Args:
            image: ``(B, C, *S)``.
            valid: Where objects are looked for, ``bool (B, *S)``; everywhere if None.

        Returns:
            Object ids ``int64 (B, *S)``, 0 where there is none, and embeddings ``(B, D, *S)``.
        """
        embeddings = self.predict_embeddings(image)
        clustering = self.active_clustering
        others: Tensor | None = None
        if isinstance(clustering, ConsistencyClustering):
            others = self.second_embeddings(image)
            if others is None:
                raise ValueError(
                    f"{type(clustering).__name__} needs the embeddings of a second network, which "
                    f"{type(self).__name__} does not have here; choose another clustering"
                )
        labels = [
            clustering(
                e,
                other=None if others is None else others[i],
                background=self.background_embedding(),
                mask=None if valid is None or bool(valid[i].all()) else valid[i],
            )
            for i, e in enumerate(embeddings)
        ]
        return torch.from_numpy(np.stack(labels)).long().to(image.device), embeddings

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Object ids ``int64 (B, *S)`` and embeddings of whole images."""
        labels, embeddings = self.segment(batch["image"])
        return {
            "labels": labels,
            "embeddings": embeddings,
            "image": batch["image"],
            "name": batch["name"],
        }

    # Scores and pictures

    def validation_step(self, batch: InstanceBatch, batch_idx: int) -> None:
        """Segments and scores whole images."""
        labels, embeddings = self.segment(batch["image"], batch["valid"])
        self.val_scores.update(labels, batch["instances"], batch["valid"])
        if len(self._shown) < PICTURES and self.trainer.is_global_zero:
            self._shown.append(
                {
                    "image": batch["image"][0].float().cpu().numpy(),
                    "embeddings": embeddings[0].cpu().numpy(),
                    "instances": labels[0].cpu().numpy(),
                    "truth": batch["instances"][0].cpu().numpy(),
                    "name": batch["name"][0],
                }
            )

    def on_validation_epoch_end(self) -> None:
        """Logs the scores and pictures of the validation images."""
        self._log_scores("val", self.val_scores)
        shown, self._shown = self._shown, []
        if shown and not self.trainer.sanity_checking:
            self._log_picture(shown)

    def test_step(self, batch: InstanceBatch, batch_idx: int) -> None:
        """Segments and scores whole images."""
        labels, _ = self.segment(batch["image"], batch["valid"])
        self.test_scores.update(labels, batch["instances"], batch["valid"])

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test images."""
        self._log_scores("test", self.test_scores)

    def _log_scores(self, stage: str, scores: InstanceScores) -> None:
        values = scores.compute()
        scores.reset()
        for name, value in values.items():
            if not value.isnan():  # nothing was there to be scored
                self.log(f"{stage}/{name}", value, prog_bar=name == "sbd")

    def _log_picture(self, shown: list[dict[str, Any]]) -> None:
        """Draws the first validation images into the log."""
        if self.colors is None:
            self.colors = visualize.EmbeddingColors.fit(shown[0]["embeddings"])
        columns = {key: [one[key] for one in shown] for key in shown[0]}
        picture = visualize.instance_sheet(
            columns["image"],
            columns["instances"],
            names=columns["name"],
            embeddings=columns["embeddings"],
            truth=columns["truth"],
            colors=self.colors,
        )
        self.log_picture("val/objects", f"epoch_{self.current_epoch:04d}.png", picture)

    # The checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the clustering, and the colours of the pictures."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["semiweak"]["clustering"] = description_of(self.active_clustering)
        colors = None if self.colors is None else self.colors.state_dict()
        checkpoint["semiweak"]["colors"] = colors

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes back what `on_save_checkpoint` added."""
        super().on_load_checkpoint(checkpoint)
        own = checkpoint["semiweak"]
        self._clustering_of_checkpoint = clustering_from(own["clustering"])
        if self._clustering_of_checkpoint is None and self.clustering is None:
            warnings.warn(
                f"the model was used with the clustering {own['clustering']['class_path']}, which "
                "is not of semiweak and therefore not taken from a checkpoint; set `clustering`, "
                f"or {type(self.default_clustering()).__name__} is used",
                stacklevel=2,
            )
        if own["colors"] is not None:
            self.colors = visualize.EmbeddingColors.from_state(own["colors"])
