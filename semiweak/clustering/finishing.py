"""What makes clusters into objects: the steps after every clustering, each a function of labels.

Labels are int32 ``(N,)``, 0 = no cluster; embeddings ``(N, D)``; means ``(K + 1, D)``, row i for
cluster i, row 0 unused.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from semiweak.compiled import compiled

Labels = NDArray[np.int32]
Floats = NDArray[np.float32]

_CHUNK = 1 << 20  # distances held at a time: a few MB stay in the processor's cache


@compiled
def _sums(labels: Labels, values: Floats, number: int) -> tuple[NDArray[np.float64], Labels]:
    dim = values.shape[1]
    sums = np.zeros((number + 1, dim))
    sizes = np.zeros(number + 1, np.int32)
    for p in range(len(labels)):
        label = labels[p]
        if label > 0:
            sizes[label] += 1
            for d in range(dim):
                sums[label, d] += values[p, d]
    return sums, sizes


def sizes_and_means(labels: Labels, values: Floats) -> tuple[Labels, Floats]:
    """The number of pixels ``(K + 1,)`` and the mean embedding of every cluster."""
    number = int(labels.max(initial=0))
    sums, sizes = _sums(labels, values, number)
    return sizes, (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)


def nearest(points: Floats, centres: Floats) -> tuple[NDArray[np.int64], Floats]:
    """For every point the index of the nearest centre and the distance to it.

    Args:
        points: ``(N, D)``.
        centres: ``(K, D)``, at least one.
    """
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2 takes one matrix product; about the centres' own mean, so
    # that large numbers do not cancel.
    middle = centres.mean(0, dtype=np.float64).astype(np.float32)
    around = torch.from_numpy(centres - middle)
    offset = around.square().sum(1)
    index = np.empty(len(points), np.int64)
    distance = np.empty(len(points), np.float32)
    rows = max(_CHUNK // max(*centres.shape, 1), 1)
    for begin in range(0, len(points), rows):
        part = torch.from_numpy(points[begin : begin + rows] - middle)
        score = torch.addmm(offset, part, around.t(), alpha=-2)
        smallest, which = score.min(dim=1)
        index[begin : begin + rows] = which.numpy()
        squared = part.square().sum(1).add_(smallest).clamp_(min=0)
        distance[begin : begin + rows] = squared.sqrt().numpy()
    return index, distance


@compiled
def _cover(
    points: Floats, order: NDArray[np.int64], radius: float, at_most: int
) -> NDArray[np.int64]:
    dim = points.shape[1]
    kept = np.empty(len(order), np.int64)
    number = 0
    for i in order:
        if number == at_most:
            break
        near = False
        for k in range(number):
            squared = np.float32(0.0)
            for d in range(dim):
                difference = points[i, d] - points[kept[k], d]
                squared += difference * difference
            if squared < radius * radius:
                near = True
                break
        if not near:
            kept[number] = i
            number += 1
    return kept[:number]


def greedy_cover(
    points: Floats, weights: NDArray[np.integer], radius: float, at_most: int | None = None
) -> NDArray[np.int64]:
    """The rows ``(K, D)`` that stay, of largest weight first: those not near to one that stays.

    No chain of neighbours can join two rows that lie far apart.
    """
    order = np.argsort(-weights.astype(np.int64), kind="stable")
    result: NDArray[np.int64] = _cover(
        points, order, radius, len(points) if at_most is None else at_most
    )
    return result


@compiled
def cores(
    labels: Labels,
    inside: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    strides: NDArray[np.int64],
) -> Labels:
    """How many pixels of each cluster ``(K + 1,)`` have only neighbours of the same cluster.

    Neighbours outside the image or the mask do not count. The seam of mixed pixels between two
    objects has next to no such pixel, however long it is.
    """
    counts = np.zeros(labels.max() + 1, np.int32)
    for p in range(len(labels)):
        alone = True
        for a in range(len(lengths)):
            position = p // strides[a] % lengths[a]
            for side in (-1, 1):
                if 0 <= position + side < lengths[a]:
                    neighbour = p + side * strides[a]
                    alone &= labels[neighbour] == labels[p] or not inside[neighbour]
        counts[labels[p]] += alone
    return counts


def merge_and_absorb(
    labels: Labels, values: Floats, eligible: NDArray[np.bool_], merge_distance: float | None
) -> Labels:
    """Merges clusters with near means; those that are no objects join the nearest or become noise.

    From the largest eligible cluster down, one stays if no mean of those that stay is nearer than
    ``merge_distance``. Every other cluster joins the nearest that stays if that is nearer than
    ``merge_distance``; without one its pixels become 0. Without a distance nothing merges.

    Args:
        labels: ``(N,)``.
        values: ``(N, D)``.
        eligible: Which clusters may stay, ``(K + 1,)``.
        merge_distance: In the space of embeddings.
    """
    sizes, means = sizes_and_means(labels, values)
    large = np.flatnonzero(eligible & (sizes > 0))
    if len(large) == 0:
        return np.zeros_like(labels)
    new = np.zeros(len(sizes), np.int32)
    if merge_distance is None:
        new[large] = np.arange(1, len(large) + 1)
        return new[labels]
    kept = large[greedy_cover(means[large], sizes[large], merge_distance)]
    index, distance = nearest(means, means[kept])
    new[:] = np.where((distance < merge_distance) & (sizes > 0), index + 1, 0)
    new[kept] = np.arange(1, len(kept) + 1)
    new[0] = 0
    return new[labels]


def background_ids(labels: Labels, values: Floats, near: float | None) -> NDArray[np.int64]:
    """The largest cluster and, given a distance, those whose means are nearer to its mean."""
    sizes, means = sizes_and_means(labels, values)
    if len(sizes) < 2:
        return np.zeros(0, np.int64)
    largest = int(sizes.argmax())
    if near is None:
        return np.array([largest])
    distance = np.linalg.norm(means - means[largest], axis=1)
    return np.flatnonzero((distance < near) & (sizes > 0))


@compiled
def relabel(labels: Labels) -> Labels:
    """Ids 1..n in the order of their first pixels; 0 stays."""
    largest = 0
    for label in labels:
        largest = max(largest, label)
    ids = np.zeros(largest + 1, np.int32)
    result = np.zeros(len(labels), np.int32)
    number = 0
    for p in range(len(labels)):
        label = labels[p]
        if label > 0:
            if ids[label] == 0:
                number += 1
                ids[label] = number
            result[p] = ids[label]
    return result
