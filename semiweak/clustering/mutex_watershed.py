"""Mutex watershed on affinities between embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semiweak.clustering.base import Background, Clustering
from semiweak.clustering.mutex import descending, edge_keys, partition
from semiweak.clustering.pixels import Pixels

Edges = Literal["signed", "split"]


class MutexWatershed(Clustering):
    """Partitions the grid of pixels by edges that attract and edges that exclude.

    Each pixel is joined with its nearest neighbours and with the pixels 3, 9 and 27 further along
    each axis. An edge between embeddings e_i and e_j has the weight (SPOCO, appendix, Eq. 4)

        w = 1 - max((2 delta_d - |e_i - e_j|) / (2 delta_d), 0)^2

    which is 0 for equal embeddings and 1 from 2 delta_d on. From the strongest edge down, an
    attractive edge merges two clusters unless they exclude each other, and a repulsive edge makes
    two clusters exclude each other (Wolf et al., "The mutex watershed", ECCV 2018). Edges are
    sorted by counting, the rest is a union-find: time grows linearly with the pixels.

    The watershed alone leaves fragments in the mixed pixels at borders and cuts apart objects
    that another one crosses, hence the defaults of ``min_size``, ``merge_distance`` and ``fill``.

    The first call on a machine compiles for some seconds.

    Args:
        delta_d: The push margin of the training.
        offsets: The distances in pixels of the long edges, along every axis. One that is longer
            than an axis adds no edge there.
        edges: "signed": every edge attracts with 1 - 2w if that is positive and repels with 2w - 1
            otherwise. "split": nearest neighbours attract with 1 - w, long edges repel with w, as
            the paper says; in 3D it leaves many more fragments.
        share: The share of the long edges that is used, drawn at random: less is faster.
        min_size: See `Clustering`.
        min_core: See `Clustering`.
        merge_distance: See `Clustering`; "delta_d" stands for the value of ``delta_d``.
        connected: See `Clustering`.
        background: See `Clustering`.
        background_distance: See `Clustering`.
        fill: See `Clustering`.
        seed: See `Clustering`; counts if ``share`` is below 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        delta_d: float = 2.0,
        offsets: Sequence[int] = (3, 9, 27),
        edges: Edges = "signed",
        share: float = 0.5,
        min_size: int = 50,
        min_core: int = 10,
        merge_distance: float | Literal["delta_d"] | None = "delta_d",
        connected: bool = True,
        background: Background = "none",
        background_distance: float = 2.0,
        fill: bool = True,
        seed: int = 0,
    ) -> None:
        if not delta_d > 0:
            raise ValueError(f"delta_d={delta_d}, but a distance between clusters is positive")
        super().__init__(
            min_size=min_size,
            min_core=min_core,
            merge_distance=delta_d if merge_distance == "delta_d" else merge_distance,
            connected=connected,
            background=background,
            background_distance=background_distance,
            fill=fill,
            seed=seed,
        )
        if any(offset < 2 for offset in offsets):
            raise ValueError(
                f"offsets={tuple(offsets)}, but long edges reach 2 pixels or more: the nearest "
                "neighbours are always joined"
            )
        if not 0 < share <= 1:
            raise ValueError(f"share={share}, but it is above 0 and at most 1")
        if edges not in get_args(Edges):
            raise ValueError(f"edges={edges!r}, but it is 'signed' or 'split'")
        self.delta_d = delta_d
        self.offsets = tuple(offsets)
        self.edges = edges
        self.share = share

    def _partition(self, pixels: Pixels) -> NDArray[np.int32]:
        distances = np.array([1, *self.offsets], np.int64)
        if len(distances) * len(pixels.shape) * len(pixels.inside) >= 2**32:
            raise ValueError(
                f"an image of {pixels.shape} pixels has more than 2^32 edges; cluster parts of it"
            )
        keys = edge_keys(
            pixels.values, pixels.inside, pixels.lengths, pixels.strides, distances,
            float(self.delta_d), self.edges == "signed", float(self.share), self.seed,
        )  # fmt: skip
        steps = (distances[:, None] * pixels.strides).ravel()
        return partition(keys, descending(keys), steps, pixels.inside)
