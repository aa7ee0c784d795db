"""What all clusterings share: the call, the common options, the steps after the clustering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semiweak.clustering.finishing import (
    background_ids,
    cores,
    merge_and_absorb,
    relabel,
    sizes_and_means,
)
from semiweak.clustering.flood import flood
from semiweak.clustering.pixels import Array, Mask, Pixels, read_pixels
from semiweak.clustering.regions import (
    absorb_touching,
    connected_pieces,
    find_seams,
    merge_touching,
)

Background = Literal["none", "largest", "learned"]


class Clustering(ABC):
    """Turns the embeddings of one image into objects.

    A subclass finds clusters; what follows is the same for all, in this order:

    1. If objects are ``connected``, each connected piece of a cluster is one.
    2. Clusters whose means are nearer than ``merge_distance`` merge, if ``connected`` only where
       they touch.
    3. Clusters smaller than ``min_size`` or ``min_core`` join the (touching) cluster with the
       nearest mean, if that is nearer than ``merge_distance``; else their pixels are noise. If
       ``connected``, so does a seam: a thin cluster between two others, in space and by its mean.
    4. With ``fill``, noise joins the cluster that reaches it first in a seeded watershed.
    5. The background becomes 0: with ``"largest"`` the largest cluster, with ``"learned"`` those
       whose means are near the mean embedding of backgrounds that were painted for the training.

    Args:
        min_size: The fewest pixels of an object.
        min_core: The fewest pixels of an object that have only neighbours of the same cluster.
            Sorts out the seams of mixed pixels between objects, and objects thinner than 3 pixels.
        merge_distance: In the space of embeddings. None merges nothing, nor absorbs seams. For
            Cityscapes the paper takes the push margin delta_d.
        connected: An object is one piece. Far from each other objects may then have one embedding,
            which a network that sees a part of the image cannot always avoid. False for objects
            that others cross, such as the leaves of CVPPP.
        background: "learned" if background was painted in the training: it is told by its
            embedding, also where it is in pieces or small; as "largest" where nothing is known of
            it. "largest" for images whose background is one cluster, and the largest; "none" if
            there is no background or a mask removes it.
        background_distance: With "learned", clusters whose means are nearer to the background's
            are background; the push margin delta_d is half of the distance that training puts
            between objects.
        fill: Whether noise is given to neighbouring clusters. Right for dense tissue; wrong where
            noise is the background.
        seed: The seed of random choices; the same seed gives the same labels.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        min_size: int = 0,
        min_core: int = 0,
        merge_distance: float | None = None,
        connected: bool = True,
        background: Background = "none",
        background_distance: float = 2.0,
        fill: bool = False,
        seed: int = 0,
    ) -> None:
        for name, number in (("min_size", min_size), ("min_core", min_core)):
            if number < 0:
                raise ValueError(f"{name}={number}, but a number of pixels is not negative")
        if merge_distance is not None and not merge_distance > 0:
            raise ValueError(
                f"merge_distance={merge_distance}, but it is a positive distance, or None to merge "
                "nothing"
            )
        if background not in get_args(Background):
            allowed = ", ".join(map(repr, get_args(Background)))
            raise ValueError(f"background={background!r}, but it is one of {allowed}")
        if not background_distance > 0:
            raise ValueError(
                f"background_distance={background_distance}, but it is a positive distance"
            )
        self.min_size = min_size
        self.min_core = min_core
        self.merge_distance = merge_distance
        self.connected = connected
        self.background: Background = background
        self.background_distance = background_distance
        self.fill = fill
        self.seed = seed

    def __call__(
        self,
        embeddings: Array,
        *,
        other: Array | None = None,
        mask: Mask | None = None,
        background: Array | None = None,
    ) -> NDArray[np.int32]:
        """Clusters one image.

        Args:
            embeddings: ``(D, H, W)`` or ``(D, depth, H, W)``, floating, torch or numpy.
            other: The g-network's embeddings of the same image, ``(E, *S)``; only
                `ConsistencyClustering` reads them.
            mask: Where objects are looked for, ``bool (*S)``; everywhere if None. Nothing outside
                is read.
            background: The mean embedding of background, ``(D,)``, for ``background="learned"``.

        Returns:
            Objects ``int32 (*S)``: ids 1..n in the order of their first pixels; 0 is background,
            noise and everything outside the mask.

        Raises:
            ValueError: Shapes or types do not fit, or an embedding is NaN or infinite.
        """
        pixels = read_pixels(embeddings, other, mask, background)
        return self.labels(pixels).reshape(pixels.shape)

    def partition(
        self, embeddings: Array, *, other: Array | None = None, mask: Mask | None = None
    ) -> NDArray[np.int32]:
        """The clusters before the steps that all clusterings share; arguments as in a call."""
        pixels = read_pixels(embeddings, other, mask)
        if not pixels.inside.any():
            return np.zeros(pixels.shape, np.int32)
        return relabel(self._partition(pixels)).reshape(pixels.shape)

    def labels(self, pixels: Pixels) -> NDArray[np.int32]:
        """The objects of an image that has been read: `__call__` without its checks, ``(N,)``."""
        if not pixels.inside.any():
            return np.zeros(len(pixels.inside), np.int32)
        return self._finish(self._partition(pixels), pixels)

    @abstractmethod
    def _partition(self, pixels: Pixels) -> NDArray[np.int32]:
        """Clusters ``(N,)``, ids from 1, 0 = noise or outside the mask, which is not empty."""

    def _finish(self, labels: NDArray[np.int32], pixels: Pixels) -> NDArray[np.int32]:
        values = pixels.values
        axes = (pixels.lengths, pixels.strides)
        if self.connected:
            labels = connected_pieces(labels, *axes)
            if self.merge_distance is not None:
                labels = merge_touching(labels, values, *axes, self.merge_distance)
            core = cores(labels, pixels.inside, *axes)
            eligible = self._eligible(labels, core)
            seams = np.zeros_like(eligible)
            if self.merge_distance is not None:
                seams = find_seams(labels, values, eligible, core, *axes)
            labels = absorb_touching(labels, values, eligible, seams, *axes, self.merge_distance)
        else:
            eligible = self._eligible(labels, cores(labels, pixels.inside, *axes))
            labels = merge_and_absorb(labels, values, eligible, self.merge_distance)
        background = self._background(labels, pixels)
        if self.fill and not (labels[pixels.inside] > 0).all():
            _, means = sizes_and_means(labels, values)
            labels = flood(labels, values, means, pixels.inside, *axes)
        if len(background):
            labels[np.isin(labels, background)] = 0
        return relabel(labels)

    def _background(self, labels: NDArray[np.int32], pixels: Pixels) -> NDArray[np.int64]:
        """The clusters that are background."""
        if self.background == "none":
            return np.zeros(0, np.int64)
        if self.background == "learned" and pixels.background is not None:
            sizes, means = sizes_and_means(labels, pixels.values)
            distance = np.linalg.norm(means - pixels.background, axis=1)
            return np.flatnonzero((distance < self.background_distance) & (sizes > 0))
        return background_ids(labels, pixels.values, self.merge_distance)

    def _eligible(self, labels: NDArray[np.int32], core: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which clusters are large enough for an object, ``(K + 1,)``."""
        eligible: NDArray[np.bool_] = (np.bincount(labels) >= self.min_size) & (
            core >= self.min_core
        )
        eligible[0] = False
        return eligible
