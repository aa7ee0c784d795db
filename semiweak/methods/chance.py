"""The floor of every table: what is right by chance."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from semiweak.data.annotations import UNKNOWN, Kind
from semiweak.data.batch import SemanticBatch
from semiweak.data.knowledge import understand
from semiweak.methods.semantic import SemanticModule


class ChanceModule(SemanticModule):
    """The base of the baselines of chance: each pixel's class is drawn, whatever the image.

    Training is one step, in which nothing is learnt: so there is a checkpoint, which knows the
    classes and the normalisation as every other does. What is drawn for an image depends on the
    seed and the image's name alone: it repeats, in any order and on any number of devices.

    Args:
        seed: Of the drawing.
        common: As for `SegmentationModule`.
    """

    uses: ClassVar[dict[Kind, str]] = {}
    annotation_terms: ClassVar[frozenset[str]] = frozenset()
    sample_means: ClassVar[frozenset[str]] = frozenset()
    learns: ClassVar[bool] = False

    def __init__(self, *, seed: int, **common: Any) -> None:
        super().__init__(
            lr=0.0, weight_decay=0.0, lr_factor=1.0, lr_patience=0, min_lr=0.0, **common
        )
        self.seed = seed
        # Distributed training, mixed precision and the count of steps, by which a checkpoint is
        # written, all want a parameter. Its gradient is 0.
        self.idle = nn.Parameter(torch.zeros(()))

    @property
    @abstractmethod
    def prior(self) -> Tensor:
        """The probability of each class, ``float64 (K,)``."""

    def losses(self, batch: SemanticBatch) -> dict[str, Tensor]:
        """None."""
        return {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Ends the training: more steps would change nothing."""
        self.trainer.should_stop = True
        return 0 * self.idle

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One that moves nothing."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def forward(self, image: Tensor) -> Tensor:
        """The logarithm of the prior at each pixel, ``(B, K, *S)``, of images ``(B, C, *S)``."""
        size = image.shape[2:]
        log = self.prior.log().to(image.device, torch.float32)
        return log.view(1, -1, *[1] * len(size)).expand(len(image), -1, *size)

    def predict_probabilities(self, image: Tensor, names: list[str] | None = None) -> Tensor:
        """One-hot draws ``float32 (B, K, *S)``, whatever is in the images.

        Args:
            image: ``(B, C, *S)``.
            names: Of the images; images without a name all get the same draw.
        """
        # Of the classes' intervals of [0, 1), the one that a number falls into.
        ends = self.prior.cpu().cumsum(0)[:-1]
        drawn = []
        for name in names or [""] * len(image):
            generator = torch.Generator().manual_seed(crc32(f"{self.seed} {name}".encode()))
            numbers = torch.rand(image.shape[2:], generator=generator, dtype=torch.float64)
            drawn.append(torch.bucketize(numbers, ends, right=True))
        one_hot = nn.functional.one_hot(torch.stack(drawn), self.num_classes)
        return one_hot.movedim(-1, 1).to(image.device, torch.float32)

    def batch_probabilities(self, batch: dict[str, Any] | SemanticBatch) -> Tensor:
        """Draws by the images' names."""
        return self.predict_probabilities(batch["image"], batch["name"])


class RandomModule(ChanceModule):
    """Each pixel's class is drawn at random, each class as often as the others.

    The "random baseline" of Reiss et al., CVPR 2023, supplement, Table 2.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        seed: Of the drawing.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        spatial_dims: Literal[2, 3] = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            in_channels=in_channels, num_classes=num_classes, spatial_dims=spatial_dims, seed=seed
        )
        self.save_hyperparameters()

    @property
    def prior(self) -> Tensor:
        """The same for each class."""
        return torch.full((self.num_classes,), 1 / self.num_classes, dtype=torch.float64)


class ClassPriorModule(ChanceModule):
    """Each pixel's class is drawn at random, each as often as it occurs in the training labels.

    The "class-prior baseline" of Reiss et al., CVPR 2023, supplement, Table 2. What is counted are
    the known pixels of the whole training images, once each: not of patches, of which the sampler
    draws more from some images than from others.

    Args:
        in_channels: Channels of the images.
        num_classes: Classes, the background among them.
        spatial_dims: 2 or 3.
        seed: Of the drawing.
    """

    uses: ClassVar[dict[Kind, str]] = {
        "mask": "how often each class occurs",
        "scribbles": "how often each class occurs",
        "points": "how often each class occurs",
    }

    counts: Tensor

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        spatial_dims: Literal[2, 3] = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            in_channels=in_channels, num_classes=num_classes, spatial_dims=spatial_dims, seed=seed
        )
        self.save_hyperparameters()
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @property
    def prior(self) -> Tensor:
        """The share of each class.

        Raises:
            ValueError: Nothing was counted yet.
        """
        if not self.counts.any():
            raise ValueError(
                "how often the classes occur is not known: ClassPriorModule counts it in training; "
                "train it, or load a checkpoint"
            )
        return self.counts.double() / self.counts.sum()

    def on_fit_start(self) -> None:
        """Counts the known pixels of each class, each rank those of its share of the images."""
        super().on_fit_start()
        data = self._data_module()
        if not hasattr(data, "training_sources"):
            raise ValueError(
                "ClassPriorModule counts the training images of a data module of semiweak; there "
                f"is {'none' if data is None else type(data).__name__}"
            )
        counts = torch.zeros_like(self.counts)
        for source in data.training_sources()[self.global_rank :: self.trainer.world_size]:
            sample = source.read()
            said = understand(sample.annotation, sample.shape, self.num_classes, sample.content)
            known = torch.from_numpy(said.labels[said.labels != UNKNOWN]).long()
            counts += torch.bincount(known, minlength=self.num_classes).to(counts.device)
        self.counts.copy_(self.trainer.strategy.reduce(counts, reduce_op="sum"))
        if not self.counts.any():
            raise ValueError(
                "no training pixel has a known class; `semiweak inspect` lists what is annotated"
            )
