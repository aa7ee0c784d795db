"""Scores of one image that compare predicted with annotated objects, from its contingency table.

Each is 1 where neither side has an object and 0 where only one has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from semiweak.metrics.contingency import Contingency, Ints


def best_dice(table: Contingency) -> tuple[float, float]:
    """Best Dice of the predicted objects and of the annotated ones.

        BD(A, B) = mean over objects a of A of max over objects b of B of 2|a n b| / (|a| + |b|)

    Several objects may have the same best partner.

    Returns:
        BD(prediction, annotation), which falls with objects too many, and BD(annotation,
        prediction), which falls with objects missed; each 0 to 1.

    Source:
        Scharr et al., Leaf segmentation in plant phenotyping: a collation study, 2016.
    """
    if not table.num_predicted or not table.num_annotated:
        both_empty = float(table.num_predicted == table.num_annotated)
        return both_empty, both_empty
    p, a, shared = table.of_objects()
    dice = 2 * shared / (table.predicted_sizes[p] + table.annotated_sizes[a])
    of_predicted = np.zeros(1 + table.num_predicted)
    of_annotated = np.zeros(1 + table.num_annotated)
    np.maximum.at(of_predicted, p, dice)
    np.maximum.at(of_annotated, a, dice)
    return float(of_predicted[1:].mean()), float(of_annotated[1:].mean())


def matches(table: Contingency, thresholds: Sequence[float]) -> list[int]:
    """The largest number of one-to-one matches of objects whose IoU reaches each threshold.

    Above 0.5 an object overlaps with one partner at most that much. At 0.5 and below there may be
    several, and the matches are those of a largest matching of the graph of possible pairs.

    Args:
        table: The image's contingency table.
        thresholds: Intersections over union, above 0 and at most 1; a pair at the threshold itself
            can match.
    """
    p, a, shared = table.of_objects()
    iou = shared / (table.predicted_sizes[p] + table.annotated_sizes[a] - shared)
    return [_largest_matching(p[iou >= t], a[iou >= t]) for t in thresholds]


def _largest_matching(p: Ints, a: Ints) -> int:
    if not (_repeats(p) or _repeats(a)):
        return len(p)
    graph = csr_array((np.ones(len(p), dtype=bool), (p, a)))
    partners: NDArray[np.int32] = maximum_bipartite_matching(graph, perm_type="column")
    return int((partners >= 0).sum())


def _repeats(values: Ints) -> bool:
    return len(values) > 0 and int(np.bincount(values).max()) > 1


def adapted_rand(table: Contingency) -> tuple[float, float, float] | None:
    """Adapted Rand error, precision and recall, over the pixels of annotated objects.

        S = sum over pairs of |a n p|^2, A = sum over a of |a|^2, P = sum over p of |p|^2
        error = 1 - 2 S / (A + P), precision = S / P, recall = S / A

    with sizes that count pixels of annotated objects only: what is predicted on the background does
    not matter. A pixel of an annotated object where nothing is predicted is a segment of its own.
    So to merge two objects lowers the precision, to split or to miss one the recall.

    Two implementations differ. CREMI's adds the number of such single pixels, divided by that of
    all pixels, to S and P, where the definition gives that number itself. scikit-image takes the
    predicted background for one more object, counts pairs of distinct pixels, n (n - 1) in place of
    n^2, and calls the recall precision and the precision recall.

    Returns:
        None if there is no annotated object.

    Source:
        Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for
        connectomics, 2015 (SNEMI3D, CREMI).
    """
    if not table.num_annotated:
        return None
    inside = table.annotated > 0
    p, shared = table.predicted[inside], table.shared[inside].astype(np.float64)
    predicted = np.bincount(p, weights=shared, minlength=1)
    missed, predicted = predicted[0], predicted[1:]
    both = (shared[p > 0] ** 2).sum() + missed
    of_predicted = (predicted**2).sum() + missed
    of_annotated = (table.annotated_sizes[1:].astype(np.float64) ** 2).sum()
    error = 1 - 2 * both / (of_predicted + of_annotated)
    return float(error), float(both / of_predicted), float(both / of_annotated)


def foreground_dice(table: Contingency) -> float:
    """Dice of the pixels of any predicted object and of those of any annotated one, 0 to 1."""
    _, _, shared = table.of_objects()
    pixels = int(table.predicted_sizes[1:].sum() + table.annotated_sizes[1:].sum())
    return 2 * int(shared.sum()) / pixels if pixels else 1.0
