"""HDBSCAN, on a sample of the pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiweak.clustering.base import Background, Clustering
from semiweak.clustering.finishing import nearest, sizes_and_means
from semiweak.clustering.mean_shift import even_steps
from semiweak.clustering.pixels import Pixels


class HDBSCAN(Clustering):
    """Density-based clusters of the embeddings, with noise (Campello et al. 2013).

    The clusters are sought among a sample of the pixels; every other pixel belongs to the cluster
    with the nearest mean if it is no further from it than that cluster's furthest sampled pixel,
    otherwise it is noise. On all pixels of a 448 x 448 image HDBSCAN takes minutes.

    Args:
        min_size: The fewest pixels of a cluster, also for the sample, where it counts in
            proportion. The paper takes 200 for leaves, 550 to 600 for ovules and cells.
        sample: How many pixels, in even steps, the clusters are sought among; None for all.
        epsilon: Clusters nearer than this are not separated (`cluster_selection_epsilon`); the
            authors take the pull margin delta_v.
        single: Whether one cluster may be all there is. Only where images of one object and no
            background occur: it then joins objects that touch.
        min_core: See `Clustering`.
        merge_distance: See `Clustering`.
        connected: See `Clustering`.
        background: See `Clustering`.
        background_distance: See `Clustering`.
        fill: See `Clustering`. In dense tissue the paper fills the gaps between cells.
        seed: Which pixel of each step is in the sample.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        min_size: int = 200,
        sample: int | None = 8_000,
        epsilon: float = 0.5,
        single: bool = False,
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
        if min_size < 2:
            raise ValueError(f"min_size={min_size}, but HDBSCAN needs clusters of at least 2")
        if sample is not None and sample < 2:
            raise ValueError(f"sample={sample}, but it is 2 pixels or more, or None for all")
        if epsilon < 0:
            raise ValueError(f"epsilon={epsilon}, but a distance is not negative")
        self.sample = sample
        self.epsilon = epsilon
        self.single = single

    def _partition(self, pixels: Pixels) -> NDArray[np.int32]:
        points = pixels.chosen
        steps = even_steps(len(points), self.sample, np.random.default_rng(self.seed))
        sample = points[steps]
        # Fewer than 5 pixels of a sample are chance, whatever min_size says.
        least = max(round(self.min_size * len(sample) / max(len(points), 1)), min(self.min_size, 5))
        if len(sample) <= least:
            return np.zeros(len(pixels.inside), np.int32)
        found = self._cluster(sample, least)
        if found.max() == 0:
            return np.zeros(len(pixels.inside), np.int32)
        if len(sample) == len(points):
            return pixels.spread(found)
        _, means = sizes_and_means(found, sample)
        reach = np.zeros(len(means), np.float32)
        np.maximum.at(reach, found, np.linalg.norm(sample - means[found], axis=1))
        index, distance = nearest(points, means[1:])
        labels = np.where(distance <= reach[1:][index], index + 1, 0).astype(np.int32)
        labels[steps] = found
        return pixels.spread(labels)

    def _cluster(self, sample: NDArray[np.float32], least: int) -> NDArray[np.int32]:
        import hdbscan  # here: with scikit-learn it takes a second, which only its users should pay

        labels = hdbscan.HDBSCAN(
            min_cluster_size=least, cluster_selection_epsilon=self.epsilon,
            allow_single_cluster=self.single, core_dist_n_jobs=1,
        ).fit_predict(sample.astype(np.float64))  # fmt: skip
        result: NDArray[np.int32] = labels.astype(np.int32) + 1
        return result
