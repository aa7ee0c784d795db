"""Clusters as regions: pieces, neighbours, merging, seams; and the clusterings with `connected`."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from semiweak.clustering import HDBSCAN, ConsistencyClustering, MeanShift, MutexWatershed
from semiweak.clustering.finishing import cores, relabel
from semiweak.clustering.pixels import read_pixels
from semiweak.clustering.regions import (
    absorb_touching,
    connected_pieces,
    find_seams,
    merge_touching,
    touching,
)

SHAPES = [(1, 40), (40, 1), (17, 23), (1, 1), (5, 7, 6), (4, 1, 9)]


def grid(shape):
    pixels = read_pixels(np.zeros((1, *shape)), None, None)
    return pixels.lengths, pixels.strides


def random_labels(shape, number=3, seed=0):
    return np.random.default_rng(seed).integers(number + 1, size=shape).astype(np.int32)


def naive_touching(labels):
    pairs = set()
    for p in itertools.product(*map(range, labels.shape)):
        for axis in range(labels.ndim):
            q = tuple(c + (a == axis) for a, c in enumerate(p))
            if q[axis] < labels.shape[axis] and 0 != labels[p] != labels[q] != 0:
                pairs.add((min(labels[p], labels[q]), max(labels[p], labels[q])))
    return sorted((int(a), int(b)) for a, b in pairs)


def strip(sizes, values):
    """A row of clusters 1, 2, ... of so many pixels with these one-dimensional embeddings."""
    labels = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)
    return labels, np.repeat(np.array(values, np.float32), sizes)[:, None], *grid((1, len(labels)))


def merged(sizes, values, distance=2.0):
    """The clusters of a row that end in one, as groups of their numbers from 0."""
    labels, embeddings, *axes = strip(sizes, values)
    found = merge_touching(labels, embeddings, *axes, distance)
    of_cluster = [set(found[labels == k]) for k in range(1, len(sizes) + 1)]
    assert all(len(one) == 1 for one in of_cluster)
    ids = [one.pop() for one in of_cluster]
    return sorted([k for k, i in enumerate(ids) if i == j] for j in set(ids))


# Pieces and neighbours


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [1, 3])
def test_pieces_are_those_of_scikit_image_and_scipy(shape, number):
    labels = random_labels(shape, number)
    pieces = connected_pieces(labels.ravel(), *grid(shape)).reshape(shape)
    expected = measure.label(labels, connectivity=1, background=0)
    np.testing.assert_array_equal(relabel(pieces.ravel()), relabel(expected.ravel().astype("i4")))
    np.testing.assert_array_equal(pieces > 0, labels > 0)
    # Numbered by their first pixels.
    np.testing.assert_array_equal(relabel(pieces.ravel()), pieces.ravel())
    if number == 1:
        assert pieces.max() == ndimage.label(labels)[1]


def test_a_piece_that_winds_is_one():
    rows = ["11111", "00001", "11101", "10001", "11111"]
    spiral = np.array([list(map(int, row)) for row in rows], np.int32)
    assert connected_pieces(spiral.ravel(), *grid((5, 5))).max() == 1
    assert connected_pieces(spiral[:, :4].ravel().copy(), *grid((5, 4))).max() == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_touching_is_that_of_the_loop(shape):
    labels = random_labels(shape, 30)
    one, other = touching(labels.ravel(), *grid(shape))
    assert list(zip(one.tolist(), other.tolist(), strict=True)) == naive_touching(labels)


def test_the_end_of_a_row_does_not_touch_the_begin_of_the_next():
    rows = np.zeros((3, 6), np.int32)
    rows[0, -1], rows[1, 0] = 1, 2
    assert len(touching(rows.ravel(), *grid(rows.shape))[0]) == 0
    rows[0, -1] = rows[1, 0] = 1
    assert connected_pieces(rows.ravel(), *grid(rows.shape)).max() == 2
    slices = np.zeros((2, 2, 3), np.int32)
    slices[0, -1], slices[1, 0] = 1, 2
    assert len(touching(slices.ravel(), *grid(slices.shape))[0]) == 0


def test_more_pairs_than_the_first_table_holds():
    labels = np.arange(1, 1601, dtype=np.int32).reshape(40, 40)
    assert len(touching(labels.ravel(), *grid((40, 40)))[0]) == 2 * 40 * 39


# Merging


def test_near_means_merge_only_where_clusters_touch():
    assert merged([5, 4, 3], [0, 9, 0.5]) == [[0], [1], [2]]
    assert merged([5, 4, 3], [0, 0.5, 9]) == [[0, 1], [2]]
    assert merged([9, 2, 9], [0, 1.5, 2.5]) == [[0], [1, 2]]  # the nearest
    assert merged([9, 2, 9], [2.5, 1.5, 0]) == [[0, 1], [2]]
    assert merged([5, 3], [0, 2]) == [[0], [1]]  # nearer than the distance, not as near


def test_small_steps_do_not_lead_from_one_object_to_another():
    # Every step is 1, and 2 is near enough: yet what has grown has the mean of all its pixels.
    groups = merged([30, 3, 3, 3, 30], [0, 1, 2, 3, 4])
    assert [0 in group and 4 in group for group in groups] == [False] * len(groups)
    groups = merged([10] * 12, range(12))
    assert max(map(len, groups)) <= 3


def test_the_result_holds_no_touching_clusters_with_near_means():
    """Also such as have come near by growing."""
    # 1 draws the mean of 0 to 0.38, and so within 2 of cluster 2, which it was not before.
    assert merged([9, 10, 10], [0.8, 0, 2.1]) == [[0, 1, 2]]
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels = measure.label(generator.integers(1, 5, size=(14, 15)), connectivity=1)
        labels = labels.ravel().astype(np.int32)
        values = (5 * generator.random((labels.max() + 1, 2))).astype(np.float32)[labels]
        found = merge_touching(labels, values, *grid((14, 15)), 2.0)
        means = {k: values[found == k].mean(0, dtype=float) for k in np.unique(found)}
        for a, b in naive_touching(found.reshape(14, 15)):
            assert np.linalg.norm(means[a] - means[b]) > 2 - 1e-5
        # Whole clusters merge, and what is one is in one piece.
        assert all(len(np.unique(found[labels == k])) == 1 for k in range(1, labels.max() + 1))
        pieces = connected_pieces(found, *grid((14, 15)))
        assert pieces.max() == len(np.unique(found))


def test_merging_does_not_hang_on_the_numbers_of_clusters():
    generator = np.random.default_rng(1)
    for _ in range(10):
        # Powers of 2: no two sizes are alike, whatever has merged, so that the numbers need not
        # decide.
        sizes, values = generator.permutation(2 ** np.arange(12)), 6 * generator.random(12)
        labels, embeddings, *axes = strip(sizes, values)
        first = relabel(merge_touching(labels, embeddings, *axes, 2.0))
        assert 1 < first.max() < 12
        for _ in range(4):
            number = np.append(0, 1 + generator.permutation(12)).astype(np.int32)
            found = merge_touching(number[labels], embeddings, *axes, 2.0)
            np.testing.assert_array_equal(relabel(found), first)


# Seams, and what is too small


def two_objects(between, width=3):
    """Two objects, and ``width`` columns between them with these embeddings; labels and values."""
    labels = np.ones((20, 24), np.int32)
    labels[:, 12:] = 2
    labels[:, 12 - width // 2 - width % 2 : 12 + width // 2] = 3
    left = np.zeros((20, 24, 4), np.float32)
    left[:, 12:] = (4, 0, 0, 0)
    left[labels == 3] = np.tile(np.asarray(between, np.float32), (20, 1, 1)).reshape(-1, 4)
    return labels.ravel(), left.reshape(-1, 4), *grid((20, 24))


def seams_of(labels, values, *axes):
    core = cores(labels, np.ones(len(labels), bool), *axes)
    eligible = np.arange(len(core)) > 0
    return find_seams(labels, values, eligible, core, *axes)


BLEND = [(1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0)]


def test_a_blend_of_two_objects_is_a_seam():
    assert seams_of(*two_objects(BLEND)).tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("between", "width", "why"),
    [
        ([(0, 4, 0, 0)] * 3, 3, "an object of its own, at a right angle"),
        ([(8, 0, 0, 0)] * 3, 3, "beyond both, on the same line"),
        ([(2, 0, 0, 0)] * 6, 6, "between both, but an object's width"),
    ],
)
def test_a_real_third_object_is_no_seam(between, width, why):
    assert not seams_of(*two_objects(between, width)).any(), why


def test_a_seam_touches_both_of_its_objects():
    labels, values, *axes = two_objects(BLEND)
    image = labels.reshape(20, 24)
    image[:, 13:15] = 0  # noise between it and the right one
    assert not seams_of(labels, values, *axes).any()


def test_a_cluster_larger_than_its_neighbours_is_no_seam():
    labels = np.full((9, 12), 3, np.int32)  # thin lines, and small objects between
    values = np.full((9, 12), 2.0, np.float32)
    labels[1:8, 1:3], values[1:8, 1:3] = 1, 0
    labels[1:8, 9:11], values[1:8, 9:11] = 2, 4
    labels[:, 4:8] = 0
    labels[4, 4:8] = 3
    assert not seams_of(labels.ravel(), values.reshape(-1, 1), *grid((9, 12))).any()


def absorbed(sizes, values, small, seam=(), distance=2.0):
    labels, embeddings, *axes = strip(sizes, values)
    eligible = np.ones(len(sizes) + 1, bool)
    eligible[[0, *(k + 1 for k in small)]] = False
    seams = np.isin(np.arange(len(sizes) + 1), [k + 1 for k in seam])
    found = absorb_touching(labels, embeddings, eligible, seams, *axes, distance)
    return [int(found[labels == k + 1][0]) - 1 for k in range(len(sizes))]


def test_what_is_too_small_joins_the_nearest_it_touches_or_is_noise():
    assert absorbed([9, 2, 9], [0, 1.5, 4], small=[1]) == [0, 0, 2]
    assert absorbed([9, 2, 9], [0, 1.5, 2.5], small=[1]) == [0, 2, 2]
    assert absorbed([9, 2, 9], [0, 6, 9], small=[1]) == [0, -1, 2]
    assert absorbed([9, 2, 9, 9], [0, 6, 9, 6.1], small=[1]) == [0, -1, 2, 3]  # does not touch
    assert absorbed([9, 2, 2], [0, 1, 1], small=[1, 2]) == [0, 0, -1]  # the second no object
    assert absorbed([9, 2, 9], [0, 1, 4], small=[1], distance=None) == [0, -1, 2]


def test_a_seam_joins_at_any_distance():
    assert absorbed([9, 2, 9], [0, 6, 11], small=[], seam=[1]) == [0, 2, 2]
    assert absorbed([9, 2, 9], [0, 4, 11], small=[], seam=[1]) == [0, 0, 2]


# All together

CLUSTERINGS = [MutexWatershed, MeanShift, HDBSCAN, ConsistencyClustering]
every_clustering = pytest.mark.parametrize("method", CLUSTERINGS)


def far_twins():
    """A background, and two objects far from each other with one embedding."""
    truth = np.ones((48, 80), np.int32)
    truth[10:34, 8:28], truth[14:40, 50:72] = 2, 3
    centres = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0], [4, 0, 0, 0]])
    noise = 0.05 * np.random.default_rng(0).normal(size=(48, 80, 4))
    return np.moveaxis(centres[truth] + noise, -1, 0).astype(np.float32), truth


@every_clustering
def test_far_objects_with_one_embedding_are_two_if_objects_are_connected(method):
    embeddings, truth = far_twins()
    found = method()(embeddings, other=embeddings)
    np.testing.assert_array_equal(found, truth)
    found = method(connected=False)(embeddings, other=embeddings)
    np.testing.assert_array_equal(found, np.minimum(truth, 2))


@every_clustering
def test_an_object_that_another_crosses_is_one_if_it_need_not_be_connected(method):
    embeddings, _ = far_twins()
    embeddings[:, :, 36:42] = np.array([0, 4, 0, 0], np.float32)[:, None, None]
    found = method(connected=False)(embeddings, other=embeddings)
    assert found[0, 0] == found[0, -1] > 0
    found = method()(embeddings, other=embeddings)
    assert found[0, 0] != found[0, -1]
    assert len(np.unique(found)) == 5


@every_clustering
@pytest.mark.parametrize("mix", [2.0, 4.0])
def test_a_blurred_border_makes_no_object(method, mix):
    """The objects' embeddings change into each other over three pixels."""
    embeddings = np.zeros((4, 40, 60), np.float32)
    embeddings[0, :, 30:] = 2 * mix
    embeddings[0] = ndimage.uniform_filter1d(embeddings[0], 4, axis=1)
    embeddings += 0.05 * np.random.default_rng(0).normal(size=embeddings.shape)
    found = method(fill=True)(embeddings, other=embeddings)
    assert found.max() == 2
    assert (found[:, :28] == 1).all()
    assert (found[:, 32:] == 2).all()


def test_merging_nothing_loses_nothing():
    """Without a distance no seam is absorbed either: the clusters are the objects."""
    labels, values, *_ = two_objects([(1.2, 0, 0, 0), (2, 0, 0, 0), (2.8, 0, 0, 0)])
    values = values.reshape(20, 24, 4)
    values[labels.reshape(20, 24) == 3] = (2, 0, 0, 0)
    plain = {"min_size": 0, "min_core": 0, "merge_distance": None, "fill": False}
    for method in (MutexWatershed, MeanShift):
        found = method(**plain)(np.moveaxis(values, -1, 0))
        raw = method(**plain).partition(np.moveaxis(values, -1, 0))
        assert (found > 0).all()
        np.testing.assert_array_equal(found, raw)


def three_regions():
    """A background of two pieces, an object larger than each, and one between them."""
    embeddings = np.zeros((4, 40, 60), np.float32)
    embeddings[0, :, 10:50] = 6
    embeddings[1, 15:25, 30:40] = 6
    embeddings[0, 15:25, 30:40] = 0
    return embeddings


@every_clustering
def test_learned_background_is_told_by_its_embedding(method):
    embeddings = three_regions()
    learned = method(background="learned", min_size=20, min_core=1)
    found = learned(embeddings, other=embeddings, background=np.full(4, 0.5, np.float32))
    assert len(np.unique(found)) == 3
    assert not found[:, :10].any()
    assert not found[:, 50:].any()
    assert found[0, 20] != found[20, 35]
    # Nothing is as far from anything as this; and where nothing is known, the largest it is.
    far = learned(embeddings, other=embeddings, background=np.full(4, 99.0))
    assert far.all()
    assert not learned(embeddings, other=embeddings)[0, 20]
    near = method(background="learned", min_size=20, min_core=1, background_distance=0.9)
    assert near(embeddings, other=embeddings, background=np.full(4, 0.5)).all()


def test_the_learned_background_must_be_an_embedding():
    with pytest.raises(ValueError, match=r"shape \(3,\); it must hold 4 finite numbers"):
        MutexWatershed(background="learned")(three_regions(), background=np.zeros(3))
