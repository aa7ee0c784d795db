"""Predictions as files: label images, overlays and embeddings to look at, probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from semiweak import visualize
from semiweak.inference.save import LARGEST_IN_PNG, save_labels, save_probabilities

Format = Literal["auto", "png", "tif"]

_LEGEND = "_legend.png"


class LabelWriter(BasePredictionWriter):
    """Writes what ``predict`` finds, image by image, into a folder.

    - ``<out>/<name>.png`` (``.tif``): classes or object ids, as large as the image; the smallest
      unsigned integer type that holds every class
    - ``<out>/overlays/<name>.png``: the image under its labels' colours; a stack's middle slice
    - ``<out>/overlays/_legend.png``: the colours of the classes
    - ``<out>/embeddings/<name>.png``: the embeddings as colours (`EmbeddingColors`), if the module
      predicts any; one projection for the whole run, taken from the first image (by each process
      from its own first one); a stack's middle slice
    - ``<out>/probabilities/<name>.tif``: ``float32 (K, *S)``, an OME-TIFF with the classes' names

    The module's ``predict_step`` returns a dict with ``labels`` (B, *S), ``name`` (B file stems),
    ``image`` (B, C, *S) for the overlays and, where it has them, ``embeddings`` (B, D, *S) and
    ``probabilities`` (B, K, *S).
    Call ``trainer.predict(..., return_predictions=False)``: what is in files need not fill memory.

    No file is replaced unless ``overwrite`` says so: before anything is computed, all names that
    ``datamodule.predict_names()`` announces are checked, and each file again before it is written.
    Files appear whole: a run that is killed leaves no half image.

    Args:
        out: The folder for the files; made if needed.
        format: Of the label images: ``"png"``, ``"tif"``, or ``"auto"``: PNG in 2D, TIFF in 3D. Ids
            beyond 65535, which PNG cannot hold, go to a TIFF.
        overlay: Write overlays.
        embeddings: Write embeddings as colours, of modules that predict any.
        probabilities: Write probabilities.
        overwrite: Replace files of an earlier run.

    Raises:
        ValueError: A file exists already, two images have one name, a name leads out of the folder,
            the format cannot hold a stack, or the module does not predict what is to be written.
    """

    def __init__(
        self,
        *,
        out: str = "predictions",
        format: Format = "auto",
        overlay: bool = True,
        embeddings: bool = True,
        probabilities: bool = False,
        overwrite: bool = False,
    ) -> None:
        super().__init__(write_interval="batch")
        if format not in get_args(Format):
            raise ValueError(
                f"format is {format!r}; it must be one of {', '.join(get_args(Format))}"
            )
        self.out = Path(out)
        self.format = format
        self.overlay = overlay
        self.embeddings = embeddings
        self.probabilities = probabilities
        self.overwrite = overwrite
        self._written: set[Path] = set()
        self._has_legend = False
        self._colors: visualize.EmbeddingColors | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses names that would replace a file or each other, before anything is computed."""
        self._written, self._has_legend, self._colors = set(), False, None
        if self.format == "png" and pl_module.hparams.get("spatial_dims") == 3:
            raise ValueError("a PNG cannot hold a stack; set the writer's format to auto or tif")
        names = getattr(getattr(trainer, "datamodule", None), "predict_names", None)
        if names is not None:
            self._check(names())
        # No process may write before the last has looked: it would take new files for old ones.
        trainer.strategy.barrier("LabelWriter")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Writes the images of a batch."""
        wanted = {"image": self.overlay, "probabilities": self.probabilities}
        for key in [key for key, wants in wanted.items() if wants and prediction.get(key) is None]:
            option = "overlay" if key == "image" else key
            raise ValueError(
                f"{type(pl_module).__name__} predicts no {key}; set the writer's {option} to false"
            )
        num_classes = int(pl_module.hparams.get("num_classes") or 1)
        class_names = list(getattr(pl_module, "class_names", None) or [])
        probabilities = prediction.get("probabilities")
        if probabilities is None or probabilities.shape[1] != len(class_names):
            class_names = []  # the labels are object ids, or nobody named the classes

        embeddings = prediction.get("embeddings") if self.embeddings else None
        for index, name in enumerate(prediction["name"]):
            self._check([name])
            self._written.update(self._files(name))
            labels = prediction["labels"][index].cpu().numpy()
            self._write_labels(name, labels, num_classes)
            if self.overlay:
                image = prediction["image"][index].float().cpu().numpy()
                self._write_overlay(name, image, labels, class_names)
            if embeddings is not None:
                self._write_embeddings(name, embeddings[index])
            if self.probabilities:
                values = prediction["probabilities"][index].float().cpu().numpy()
                path = _named(self.out / "probabilities", name, ".tif")
                save_probabilities(path, values, class_names=class_names, overwrite=self.overwrite)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says where the files are."""
        rank_zero_info(f"label images: {self.out}")

    def _write_labels(self, name: str, labels: NDArray[Any], num_classes: int) -> None:
        largest = max(num_classes - 1, int(labels.max(initial=0)))
        suffix = {"png": ".png", "tif": ".tif", "auto": ".png" if labels.ndim == 2 else ".tif"}
        end = suffix[self.format]
        if end == ".png" and largest > LARGEST_IN_PNG:
            if self.format == "png":
                warnings.warn(
                    f"{name} has ids up to {largest}, a PNG holds {LARGEST_IN_PNG}: it is written "
                    "as TIFF",
                    stacklevel=2,
                )
            end = ".tif"
        path = _named(self.out, name, end)
        save_labels(path, labels, largest=largest, overwrite=self.overwrite)
        # An earlier run's file in the other format would be a second answer for the same image.
        if self.overwrite:
            _named(self.out, name, ".tif" if end == ".png" else ".png").unlink(missing_ok=True)

    def _write_overlay(
        self, name: str, image: NDArray[Any], labels: NDArray[Any], class_names: list[str]
    ) -> None:
        folder = self.out / "overlays"
        if class_names and not self._has_legend:
            visualize.save_png(folder / _LEGEND, visualize.legend(class_names))
            self._has_legend = True
        if labels.ndim == 3:
            image, labels = visualize.middle_slice(image), visualize.middle_slice(labels)
        picture = visualize.overlay(image, labels, unknown=None)
        visualize.save_png(_named(folder, name, ".png"), picture)

    def _write_embeddings(self, name: str, embeddings: Tensor) -> None:
        if self._colors is None:
            self._colors = visualize.EmbeddingColors.fit(embeddings)
        path = _named(self.out / "embeddings", name, ".png")
        visualize.save_png(path, self._colors(embeddings))

    def _check(self, names: Iterable[str]) -> None:
        """Raises where a result would replace a file, or another result of this run."""
        taken = {self.out / "overlays" / _LEGEND, *self._written}
        existing = []
        for name in names:
            for file in self._files(name):
                if file in taken:
                    raise ValueError(
                        f"two results of this run would be written to {file}; rename the image "
                        f"{name!r} or the other one"
                    )
                taken.add(file)
                if not self.overwrite and file.exists():
                    existing.append(file)
        if existing:
            more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
            raise ValueError(
                f"the prediction would replace {', '.join(map(str, existing[:3]))}{more}; choose "
                "another folder, or allow it with overwrite=True (--writer.overwrite true on the "
                "command line)"
            )

    def _files(self, name: str) -> list[Path]:
        """Every file that may be written for an image, in any format."""
        files = [_named(self.out, name, suffix) for suffix in (".png", ".tif")]
        if self.overlay:
            files.append(_named(self.out / "overlays", name, ".png"))
        if self.embeddings:
            files.append(_named(self.out / "embeddings", name, ".png"))
        if self.probabilities:
            files.append(_named(self.out / "probabilities", name, ".tif"))
        return files


def _named(folder: Path, name: str, suffix: str) -> Path:
    """The file of an image; a name is a stem, in which a dot begins no suffix."""
    relative = Path(name)
    if not relative.name or relative.anchor or ".." in relative.parts:
        raise ValueError(f"the image name {name!r} leads out of the folder {folder}")
    return folder / relative.parent / (relative.name + suffix)
