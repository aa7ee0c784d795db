"""The compiled mutex watershed against sets and a loop over sorted edges, and by known objects."""

import itertools
import math

import numpy as np
import pytest
import torch

from semiweak.clustering.mutex import LEVELS, descending, edge_keys, partition
from semiweak.clustering.mutex_watershed import MutexWatershed
from semiweak.clustering.pixels import read_pixels


def naive_edges(embeddings, mask, offsets, delta_d, edges):
    """Edges as (key, pixel, other pixel), sorted; the weights in float64 from the formula."""
    shape = embeddings.shape[1:]
    found = []
    for distance in (1, *offsets):
        for axis in range(len(shape)):
            for p in itertools.product(*map(range, shape)):
                q = tuple(c + distance * (a == axis) for a, c in enumerate(p))
                if q[axis] >= shape[axis] or not (mask[p] and mask[q]):
                    continue
                length = math.dist(embeddings[(slice(None), *p)], embeddings[(slice(None), *q)])
                w = 1 - max((2 * delta_d - length) / (2 * delta_d), 0) ** 2
                if edges == "signed":
                    attracts, strength = w < 0.5, abs(1 - 2 * w)
                else:
                    attracts = distance == 1
                    strength = 1 - w if attracts else w
                level = int(strength * LEVELS + 0.5)
                if level:
                    found.append((2 * level + attracts, p, q))
    return sorted(found, key=lambda edge: -edge[0])


def naive_partition(edges, mask):
    """Wolf et al., with clusters and exclusions as Python sets."""
    cluster = {tuple(p): frozenset([tuple(p)]) for p in np.argwhere(mask)}
    excluded = set()
    for key, p, q in edges:
        a, b = cluster[p], cluster[q]
        if a is b:
            continue
        if not key % 2:
            excluded.add((p, q))
        elif not any((p in a and q in b) or (p in b and q in a) for p, q in excluded):
            union = a | b
            for pixel in union:
                cluster[pixel] = union
    labels = np.zeros(mask.shape, int)
    for p in map(tuple, np.argwhere(mask)):
        if not labels[p]:
            for q in cluster[p]:
                labels[q] = labels.max() + 1 if q == p else -1
            number = labels[p]
            for q in cluster[p]:
                labels[q] = number
    return labels


@pytest.mark.parametrize("edges", ["signed", "split"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(9, 7), (4, 5, 4), (1, 12)])
@pytest.mark.parametrize("seed", range(3))
def test_partition_is_that_of_the_naive_watershed(shape, masked, edges, seed):
    generator = np.random.default_rng(seed)
    # Multiples of a power of 2 in one dimension: distances, levels and ties are exact.
    embeddings = generator.integers(-12, 12, (1, *shape)).astype(np.float32) / 4
    mask = generator.random(shape) < 0.8 if masked else np.ones(shape, bool)
    method = MutexWatershed(offsets=(2, 3, 9), edges=edges, share=1)
    expected = naive_partition(naive_edges(embeddings, mask, (2, 3, 9), 2.0, edges), mask)
    np.testing.assert_array_equal(method.partition(embeddings, mask=mask), expected)


def test_many_exclusions_move_with_merging_clusters():
    generator = np.random.default_rng(0)
    smooth = np.cumsum(generator.normal(size=(2, 40, 3)), axis=1).astype(np.float32)
    for edges in ("signed", "split"):
        pixels = read_pixels(smooth, None, None)
        distances = np.array([1, 3, 9, 27])
        keys = edge_keys(
            pixels.values, pixels.inside, pixels.lengths, pixels.strides, distances,
            2.0, edges == "signed", 1.0, 0,
        )  # fmt: skip
        order = descending(keys)
        steps = (distances[:, None] * pixels.strides).ravel()
        pairs = [(int(keys[i]), int(i) % 120, int(i) % 120 + steps[int(i) // 120]) for i in order]
        flat = [(key, (int(p),), (int(q),)) for key, p, q in pairs]
        expected = naive_partition(flat, np.ones(120, bool))
        result = partition(keys, order, steps, pixels.inside)
        np.testing.assert_array_equal(result, expected)


def test_keys_follow_the_paper_and_are_counted_into_order():
    generator = np.random.default_rng(1)
    embeddings = generator.normal(size=(16, 5, 6)).astype(np.float32)
    pixels = read_pixels(embeddings, None, None)
    for edges in ("signed", "split"):
        keys = edge_keys(
            pixels.values, pixels.inside, pixels.lengths, pixels.strides, np.array([1, 3]),
            2.0, edges == "signed", 1.0, 0,
        )  # fmt: skip
        order = descending(keys)
        expected = np.argsort(-keys.astype(int), kind="stable")[: (keys > 0).sum()]
        np.testing.assert_array_equal(order, expected)
        naive = naive_edges(embeddings, np.ones((5, 6), bool), (3,), 2.0, edges)
        # float32 rounds a level up or down
        assert np.abs(keys[order].astype(int) - [key for key, _, _ in naive]).max() <= 2


@pytest.mark.parametrize("edges", ["signed", "split"])
def test_two_perfect_objects_are_two_clusters(edges):
    embeddings = np.zeros((16, 30, 30), np.float32)
    embeddings[0, :, 15:] = 4
    raw = MutexWatershed(edges=edges).partition(embeddings)
    assert raw.max() == 2
    assert (raw[:, :15] == 1).all()
    assert (raw[:, 15:] == 2).all()


def test_objects_in_parts_are_one_and_fragments_vanish():
    generator = np.random.default_rng(0)
    truth = np.ones((60, 80), int)
    truth[:, 36:44] = 2  # cuts the first object into halves
    centres = np.zeros((3, 16), np.float32)
    centres[1, 0], centres[2, 1] = 3, 3
    embeddings = centres[truth].transpose(2, 0, 1) + 0.1 * generator.normal(size=(16, 60, 80))
    embeddings[:, 10:12, 10:12] = 9
    embeddings[:, 20, 20:60] = centres[2][:, None]
    labels = MutexWatershed(connected=False)(embeddings)
    assert labels.max() == 2
    assert (labels[:, :34][20:] == truth[:, :34][20:]).mean() > 0.98
    assert (labels[11, 11], labels[40, 40], labels[40, 70]) == (1, 2, 1)


def test_a_share_of_the_long_edges_follows_the_seed():
    embeddings = torch.randn(4, 30, 30, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        MutexWatershed(share=0.3, seed=seed).partition(embeddings) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta_d": 0}, "delta_d=0"),
        ({"offsets": (1, 3)}, "2 pixels or more"),
        ({"edges": "all"}, "'signed' or 'split'"),
        ({"share": 0}, "share=0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MutexWatershed(**arguments)
