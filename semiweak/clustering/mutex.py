"""The compiled part of the mutex watershed: edges, their order, and union-find with mutexes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiweak.compiled import compiled

LEVELS = 32767  # strengths are rounded to 1..LEVELS, so that counting sorts them


@compiled
def _random(seed: int, index: int) -> float:
    """A number in [0, 1) of its own for every edge (SplitMix64, Steele et al. 2014)."""
    z = np.uint64(index) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return float((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@compiled
def edge_keys(
    values: NDArray[np.float32],
    inside: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    strides: NDArray[np.int64],
    distances: NDArray[np.int64],
    delta_d: float,
    signed: bool,
    share: float,
    seed: int,
) -> NDArray[np.uint16]:
    """The key of every edge ``(number of distances * number of axes * N,)``.

    Edge ``(k * axes + a) * N + p`` joins pixel p with the pixel ``distances[k]`` further along axis
    a. Its key is 2 * level + 1 if it attracts, 2 * level if it repels, 0 if it does not exist:
    leaves the image, has an end outside the mask, has no strength, or is a long edge that is not
    among the random ``share`` that is used.
    """
    pixels, dim = values.shape
    axes = len(lengths)
    keys = np.zeros(len(distances) * axes * pixels, np.uint16)
    reach = 2.0 * delta_d
    for k in range(len(distances)):
        for a in range(axes):
            step = distances[k] * strides[a]
            last = lengths[a] - distances[k]
            block = lengths[a] * strides[a]
            start = (k * axes + a) * pixels
            # Pixels whose coordinate along axis a is below `last` are runs of last * stride.
            for begin in range(0, pixels, block):
                for p in range(begin, begin + max(last, 0) * strides[a]):
                    q = p + step
                    if not (inside[p] and inside[q]):
                        continue
                    if k > 0 and share < 1.0 and _random(seed, start + p) >= share:
                        continue
                    squared = np.float32(0.0)
                    for d in range(dim):
                        difference = values[p, d] - values[q, d]
                        squared += difference * difference
                    near = max(1.0 - np.sqrt(squared) / reach, 0.0)
                    affinity = near * near  # 1 - w of Eq. 4
                    if signed:
                        strength = 2.0 * affinity - 1.0
                        attracts = strength > 0.0
                        strength = abs(strength)
                    else:
                        attracts = k == 0
                        strength = affinity if attracts else 1.0 - affinity
                    level = int(strength * LEVELS + 0.5)
                    if level > 0:
                        keys[start + p] = 2 * level + (1 if attracts else 0)
    return keys


@compiled
def descending(keys: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """The indices of all keys above 0, largest key first, equal keys in their order."""
    counts = np.zeros(2 * LEVELS + 3, np.int64)
    for key in keys:
        counts[key] += 1
    total = 0
    for key in range(2 * LEVELS + 1, 0, -1):
        here = counts[key]
        counts[key] = total
        total += here
    order = np.empty(total, np.uint32)
    for index in range(len(keys)):
        key = keys[index]
        if key:
            order[counts[key]] = index
            counts[key] += 1
    return order


@compiled
def _find(parent: NDArray[np.int32], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _slot(table: NDArray[np.int64], a: int, b: int) -> np.int64:
    """Where the pair stands in the hash table, or the free slot where it would."""
    low, high = np.int64(min(a, b)), np.int64(max(a, b))
    key = (low << 32) | high
    bits = len(table) - 1
    # Pixels in a row with partners at one offset share a cache line: that is how most edges come.
    line = ((low >> 3) * 0x9E3779B1 + (high - low)) * 0x85EBCA77
    slot = ((line ^ (line >> 17)) * 8 + (low & 7)) & bits
    while table[slot] != -1 and table[slot] != key:
        slot = (slot + 1) & bits
    return slot


@compiled
def _insert(table: NDArray[np.int64], slot: np.int64, a: int, b: int) -> None:
    table[slot] = (np.int64(min(a, b)) << 32) | np.int64(max(a, b))


@compiled
def _grown(table: NDArray[np.int64]) -> NDArray[np.int64]:
    larger = np.full(2 * len(table), -1, np.int64)
    for key in table:
        if key != -1:
            a, b = key >> 32, key & 0xFFFFFFFF
            _insert(larger, _slot(larger, a, b), a, b)
    return larger


@compiled
def partition(
    keys: NDArray[np.uint16],
    order: NDArray[np.uint32],
    steps: NDArray[np.int64],
    inside: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """The mutex watershed over sorted edges: ``(N,)``, ids from 1, 0 outside the mask.

    An attractive edge merges the clusters at its ends unless they exclude each other; a repulsive
    edge between two clusters makes them exclude each other. The exclusions are a hash set of
    pairs of roots, and, for each root, a linked list of who it excludes. When two clusters merge,
    the shorter list moves, so all moves together take O(M log M).
    """
    pixels = len(inside)
    parent = np.arange(pixels).astype(np.int32)
    head = np.full(pixels, -1, np.int32)
    length = np.zeros(pixels, np.int32)
    repulsive = 0
    for index in order:
        repulsive += 1 - (keys[index] & 1)
    partner = np.empty(2 * repulsive, np.int32)
    following = np.empty(2 * repulsive, np.int32)
    used = 0
    capacity = 1 << 12
    while capacity < 2 * repulsive:
        capacity *= 2
    table = np.full(capacity, -1, np.int64)
    stored = 0

    for index in order:
        p = index % pixels
        a = _find(parent, p)
        b = _find(parent, p + steps[index // pixels])
        if a == b:
            continue
        if keys[index] & 1:
            if length[a] < length[b]:
                a, b = b, a
            if length[b] and table[_slot(table, a, b)] != -1:
                continue
            parent[b] = a
            entry = head[b]
            while entry != -1:
                after = following[entry]
                excluded = _find(parent, partner[entry])
                slot = _slot(table, a, excluded)
                if table[slot] == -1:
                    _insert(table, slot, a, excluded)
                    stored += 1
                    following[entry] = head[a]
                    head[a] = entry
                    length[a] += 1
                    if 2 * stored > len(table):
                        table = _grown(table)
                entry = after
        else:
            slot = _slot(table, a, b)
            if table[slot] != -1:
                continue
            _insert(table, slot, a, b)
            stored += 1
            for one, two in ((a, b), (b, a)):
                partner[used] = two
                following[used] = head[one]
                head[one] = used
                length[one] += 1
                used += 1
            if 2 * stored > len(table):
                table = _grown(table)

    labels = np.zeros(pixels, np.int32)
    ids = np.zeros(pixels, np.int32)
    number = 0
    for p in range(pixels):
        if inside[p]:
            root = _find(parent, p)
            if ids[root] == 0:
                number += 1
                ids[root] = number
            labels[p] = ids[root]
    return labels
