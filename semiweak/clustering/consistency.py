"""Consistency clustering: objects on which two networks agree."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from semiweak.clustering.base import Background, Clustering
from semiweak.clustering.mean_shift import MeanShift
from semiweak.clustering.pixels import Pixels

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

_CHUNK = 1 << 19  # distances held at a time


def draw_anchors(labels: Labels, number: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """For every cluster of ``(N,)`` the indices of random pixels of it ``(K, number)``.

    Drawn with replacement, so that a cluster may have fewer pixels.
    """
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=1)
    first = sizes.cumsum() - sizes
    draws = generator.random((len(sizes) - 1, number))
    chosen = first[1:, None] + (draws * sizes[1:, None]).astype(np.int64)
    result: NDArray[np.int64] = order[chosen]
    return result


def anchor_iou(labels: Labels, values: Floats, anchors: NDArray[np.int64], radius: float) -> Floats:
    """The IoU of each cluster with the neighbourhood of each of its anchors.

    Args:
        labels: Clusters ``(N,)``, ids 1..K, 0 = none.
        values: The g-network's embeddings ``(N, D)``.
        anchors: Indices of pixels ``(K, M)``.
        radius: A pixel is in the neighbourhood if its embedding is nearer than this to the
            anchor's.

    Returns:
        ``(K, M)``.
    """
    clusters, number = anchors.shape
    # By cluster, so that the pixels of a cluster are rows in a block of their own.
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=clusters + 1)
    middle = values.mean(0, dtype=np.float64).astype(np.float32)
    x = torch.from_numpy(values[order] - middle)
    centres = torch.from_numpy(values[anchors.ravel()] - middle)
    squares = x.square().sum(1)
    limits = radius**2 - centres.square().sum(1)
    near = torch.zeros(clusters * number, dtype=torch.int64)
    common = torch.zeros_like(near)
    rows = max(_CHUNK // max(len(centres), 1), 1)
    begin = 0
    for cluster, size in enumerate(sizes):
        own = slice((cluster - 1) * number, cluster * number)
        for start in range(begin, begin + size, rows):
            part = slice(start, min(start + rows, begin + size))
            # |x - a|^2 < r^2 by one matrix product
            squared = torch.addmm(squares[part, None], x[part], centres.t(), alpha=-2)
            inside = (squared < limits).sum(0)
            near += inside
            if cluster:
                common[own] += inside[own]
        begin += size
    union = near + torch.from_numpy(np.repeat(sizes[1:], number)) - common
    result: Floats = (common / union.clamp(min=1)).numpy().reshape(clusters, number)
    return result


class ConsistencyClustering(Clustering):
    """Mean-shift clusters of one network that the other network confirms (SPOCO, Algorithm 1).

    The embeddings of f are clustered by mean-shift. Around each of M random pixels of a cluster,
    the anchors, an object is cut out of the embeddings of g: all pixels whose embedding is nearer
    than delta_v to the anchor's. A cluster stays if the median IoU with its anchors' objects is
    above ``iou_threshold``; the pixels of the others become noise.

    f and g should see two views of the image (see `Clustering` for the call; ``other`` is g's).

    Args:
        delta_v: The pull margin: bandwidth of the mean-shift and radius around an anchor.
        iou_threshold: t_IoU.
        anchors: M. The paper does not say; the authors' code takes 100.
        sample: See `MeanShift`.
        reach: See `MeanShift`.
        min_size: See `Clustering`.
        min_core: See `Clustering`.
        merge_distance: See `Clustering`. Clusters merge before they are confirmed.
        connected: See `Clustering`.
        background: See `Clustering`.
        background_distance: See `Clustering`.
        fill: See `Clustering`.
        seed: See `MeanShift`; and which pixels are anchors.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        delta_v: float = 0.5,
        iou_threshold: float = 0.6,
        anchors: int = 100,
        sample: int | None = 10_000,
        reach: float | None = 2.0,
        min_size: int = 50,
        min_core: int = 10,
        merge_distance: float | None = 2.0,
        connected: bool = True,
        background: Background = "none",
        background_distance: float = 2.0,
        fill: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            min_size=min_size, min_core=min_core, merge_distance=merge_distance,
            background=background, background_distance=background_distance, connected=connected,
            fill=fill, seed=seed,
        )  # fmt: skip
        if not delta_v > 0:
            raise ValueError(f"delta_v={delta_v}, but the radius of an object is positive")
        if not 0 <= iou_threshold < 1:
            raise ValueError(f"iou_threshold={iou_threshold}, but it is from 0 to below 1")
        if anchors < 1:
            raise ValueError(f"anchors={anchors}, but each cluster needs one or more")
        # An anchor's object is found by embedding alone: what it is compared with is a cluster of
        # embeddings, and only a cluster that stays falls into its connected pieces.
        self.mean_shift = MeanShift(
            bandwidth=delta_v, sample=sample, reach=reach, min_size=min_size, min_core=min_core,
            merge_distance=merge_distance, connected=False, fill=True, seed=seed,
        )  # fmt: skip
        self.delta_v = delta_v
        self.iou_threshold = iou_threshold
        self.anchors = anchors
        self.sample = sample
        self.reach = reach

    def _partition(self, pixels: Pixels) -> Labels:
        if pixels.other is None:
            raise ValueError(
                "ConsistencyClustering compares the embeddings of two networks, but the second "
                "are missing: give those of g as `other`"
            )
        labels = self.mean_shift.labels(pixels)
        anchors = draw_anchors(labels, self.anchors, np.random.default_rng(self.seed))
        if len(anchors) == 0:
            return labels
        inside = pixels.inside
        index = np.cumsum(inside) - 1  # of a pixel among those inside the mask
        iou = anchor_iou(labels[inside], pixels.other[inside], index[anchors], self.delta_v)
        stays = np.median(iou, axis=1) > self.iou_threshold
        return np.where(np.concatenate(([False], stays))[labels], labels, 0).astype(np.int32)
