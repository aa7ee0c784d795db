"""A clustering as plain values, as a checkpoint keeps it."""

from __future__ import annotations

import inspect
from typing import Any

from semiweak.clustering.base import Clustering
from semiweak.clustering.consistency import ConsistencyClustering
from semiweak.clustering.hdbscan import HDBSCAN
from semiweak.clustering.mean_shift import MeanShift
from semiweak.clustering.mutex_watershed import MutexWatershed

CLUSTERINGS: dict[str, type[Clustering]] = {
    cls.__name__: cls for cls in (MutexWatershed, MeanShift, HDBSCAN, ConsistencyClustering)
}


def description_of(clustering: Clustering) -> dict[str, Any]:
    """The clustering's class and arguments; of a class of somebody else only the import path."""
    cls = type(clustering)
    if CLUSTERINGS.get(cls.__name__) is not cls:
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": {}}
    arguments = {name: getattr(clustering, name) for name in inspect.signature(cls).parameters}
    return {"class_path": cls.__name__, "init_args": arguments}


def clustering_from(description: dict[str, Any]) -> Clustering | None:
    """The clustering that `description_of` described; None for a class of somebody else.

    A checkpoint is not trusted with import paths: what it names is looked up among our own.
    """
    cls = CLUSTERINGS.get(description["class_path"])
    return None if cls is None else cls(**description["init_args"])
