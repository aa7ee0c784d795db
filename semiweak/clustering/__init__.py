"""Clustering: from embeddings to objects."""

from semiweak.clustering.base import Clustering
from semiweak.clustering.consistency import ConsistencyClustering
from semiweak.clustering.hdbscan import HDBSCAN
from semiweak.clustering.mean_shift import MeanShift
from semiweak.clustering.mutex_watershed import MutexWatershed

__all__ = ["HDBSCAN", "Clustering", "ConsistencyClustering", "MeanShift", "MutexWatershed"]
