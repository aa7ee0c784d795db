"""Clusters as connected regions, and which of them touch; labels as in `finishing`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiweak.clustering.finishing import Floats, Labels, sizes_and_means
from semiweak.compiled import compiled

Ints = NDArray[np.int64]


@compiled
def _root(parent: Labels, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def connected_pieces(labels: Labels, lengths: Ints, strides: Ints) -> Labels:
    """Every connected piece of every cluster as a cluster of its own; 0 stays 0.

    Pixels are connected over the sides that they share (4 neighbours in 2D, 6 in 3D).
    """
    parent = np.arange(len(labels)).astype(np.int32)
    for p in range(len(labels)):
        if labels[p] == 0:
            continue
        for a in range(len(lengths)):
            if p // strides[a] % lengths[a] > 0 and labels[p - strides[a]] == labels[p]:
                one, other = _root(parent, p - strides[a]), _root(parent, p)
                parent[max(one, other)] = min(one, other)
    result = np.zeros(len(labels), np.int32)
    number = 0
    for p in range(len(labels)):
        if labels[p] == 0:
            continue
        root = _root(parent, p)  # the first pixel of the piece
        if root == p:
            number += 1
            result[p] = number
        else:
            result[p] = result[root]
    return result


@compiled
def _border_pairs(labels: Labels, lengths: Ints, strides: Ints) -> Ints:
    count = 0
    width = np.int64(labels.max()) + 1
    pairs = np.empty(1024, np.int64)
    for a in range(len(lengths)):
        last = np.int64(-1)
        for p in range(len(labels)):
            if p // strides[a] % lengths[a] == 0:
                continue
            one, other = labels[p - strides[a]], labels[p]
            if one == other or one == 0 or other == 0:
                continue
            key = min(one, other) * width + max(one, other)
            if key == last:
                continue
            last = key
            if count == len(pairs):
                longer = np.empty(2 * count, np.int64)
                longer[:count] = pairs
                pairs = longer
            pairs[count] = key
            count += 1
    return pairs[:count]


def touching(labels: Labels, lengths: Ints, strides: Ints) -> tuple[Ints, Ints]:
    """The pairs of clusters that share a side of a pixel, the smaller label first, each once."""
    width = int(labels.max(initial=0)) + 1
    pairs = np.unique(_border_pairs(labels, lengths, strides))
    return pairs // width, pairs % width


def merge_touching(
    labels: Labels, values: Floats, lengths: Ints, strides: Ints, merge_distance: float
) -> Labels:
    """Merges touching clusters whose means are nearer than a distance.

    Round by round, each cluster whose nearest neighbour is larger joins it, unless that one is
    about to join another itself, until no two that touch are near. What has grown has the mean of
    all its pixels, so that no chain of small steps leads from one object to another.
    """
    sizes, means32 = sizes_and_means(labels, values)
    means, weight = means32.astype(np.float64), sizes.astype(np.float64)
    one, other = touching(labels, lengths, strides)
    into = np.arange(len(sizes))
    while len(one):
        distance = np.linalg.norm(means[one] - means[other], axis=1)
        near = np.flatnonzero(distance < merge_distance)
        order = near[np.argsort(-distance[near], kind="stable")]  # the nearest comes last and stays
        a, b = one[order], other[order]
        nearest = np.arange(len(sizes))
        nearest[np.stack((a, b), 1).ravel()] = np.stack((b, a), 1).ravel()
        rank = np.empty(len(sizes), np.int64)
        rank[np.lexsort((-np.arange(len(sizes)), weight))] = np.arange(len(sizes))
        joins = rank[nearest] > rank
        joins &= ~joins[nearest]
        gone = np.flatnonzero(joins)
        if len(gone) == 0:
            break
        to = nearest[gone]
        sums = means * weight[:, None]
        np.add.at(sums, to, sums[gone])
        np.add.at(weight, to, weight[gone])
        means[to] = sums[to] / weight[to][:, None]
        step = np.arange(len(sizes))
        step[gone] = to
        into = step[into]
        one, other = step[one], step[other]
        kept = one != other
        low, high = np.minimum(one, other)[kept], np.maximum(one, other)[kept]
        pairs = np.unique(low * len(sizes) + high)
        one, other = pairs // len(sizes), pairs % len(sizes)
    return into.astype(np.int32)[labels]


def find_seams(
    labels: Labels,
    values: Floats,
    eligible: NDArray[np.bool_],
    cores: Labels,
    lengths: Ints,
    strides: Ints,
) -> NDArray[np.bool_]:
    """Which clusters are the mixed pixels between two others, ``(K + 1,)``.

    A network changes from one object to the next (or to the background) over a few pixels. Such a
    seam is thin (at most a third of its pixels are cores, as in a strip three pixels wide), it
    touches both, and its mean lies between theirs: the way over it is at most a fifth longer than
    the straight one.
    """
    sizes, means = sizes_and_means(labels, values)
    seams = np.zeros(len(sizes), bool)
    one, other = touching(labels, lengths, strides)
    small, large = np.concatenate((one, other)), np.concatenate((other, one))
    thin = eligible & (3 * cores <= sizes)
    chosen = thin[small] & eligible[large] & (sizes[small] < sizes[large])
    small, large = small[chosen], large[chosen]
    order = np.argsort(small, kind="stable")
    small, large = small[order], large[order]
    for seam, around in zip(
        *(np.unique(small), np.split(large, np.flatnonzero(np.diff(small)) + 1)), strict=False
    ):
        to_seam = np.linalg.norm(means[around] - means[seam], axis=1)
        apart = np.linalg.norm(means[around][:, None] - means[around], axis=2)
        over = to_seam[:, None] + to_seam
        seams[seam] = bool(((over <= 1.2 * apart) & (apart > 0)).any())
    return seams


def absorb_touching(
    labels: Labels,
    values: Floats,
    eligible: NDArray[np.bool_],
    seams: NDArray[np.bool_],
    lengths: Ints,
    strides: Ints,
    merge_distance: float | None,
) -> Labels:
    """Clusters that are no objects join the touching object with the nearest mean, or become noise.

    Args:
        labels: ``(N,)``.
        values: ``(N, D)``.
        eligible: Which clusters are large enough for an object, ``(K + 1,)``.
        seams: Which of them are seams; they join an object at any distance.
        lengths: The image's shape.
        strides: How far apart neighbours along each axis lie in raster order.
        merge_distance: What is too small joins an object nearer than this; None: none.
    """
    sizes, means = sizes_and_means(labels, values)
    objects = eligible & ~seams
    new = np.where(objects, np.arange(len(sizes)), 0)
    if merge_distance is not None:
        one, other = touching(labels, lengths, strides)
        small, large = np.concatenate((one, other)), np.concatenate((other, one))
        meet = ~objects[small] & objects[large]
        small, large = small[meet], large[meet]
        distance = np.linalg.norm(means[small] - means[large], axis=1)
        # The nearest comes last and stays.
        for i in np.argsort(-distance, kind="stable"):
            if distance[i] < merge_distance or seams[small[i]]:
                new[small[i]] = large[i]
    return new.astype(np.int32)[labels]
