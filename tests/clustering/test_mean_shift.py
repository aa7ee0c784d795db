"""Mean-shift against loops and scikit-learn; HDBSCAN's sample; consistency against its loop."""

import numpy as np
import pytest
from sklearn import cluster

from semiweak.clustering import HDBSCAN, ConsistencyClustering, MeanShift
from semiweak.clustering.consistency import anchor_iou, draw_anchors
from semiweak.clustering.mean_shift import even_steps, shift


def blobs(number=4, pixels=400, spread=0.1, dim=6, seed=0):
    """(points (pixels, dim), truth from 1)."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(number, size=pixels)
    points = 4 * np.eye(number, dim)[truth] + spread * generator.normal(size=(pixels, dim))
    return points.astype(np.float32), truth + 1


def naive_shift(points, start, bandwidth):
    mode = start.astype(float)
    for _ in range(100):
        near = [p for p in points.astype(float) if np.linalg.norm(p - mode) <= bandwidth]
        if not near:
            return mode, 0
        new = np.mean(near, axis=0)
        if np.linalg.norm(new - mode) <= 1e-3 * bandwidth:
            return new, len(near)
        mode = new
    raise AssertionError("does not settle")


@pytest.mark.parametrize("offset", [0, 300])
def test_shift_is_that_of_the_loop(offset):
    points, _ = blobs(spread=0.25)
    points += offset
    starts = np.concatenate((points[:12], points[:1] + 50))
    modes, counts = shift(points, starts, 0.7)
    for start, mode, count in zip(starts, modes, counts, strict=True):
        expected, number = naive_shift(points, start, 0.7)
        np.testing.assert_allclose(mode, expected, atol=2e-3)
        assert abs(count - number) <= 1  # one that lies on the kernel's edge
    assert counts[-1] == 0


def test_clusters_are_those_of_scikit_learn():
    points, truth = blobs()
    plain = MeanShift(sample=None, reach=None)
    labels = plain.partition(points.T.reshape(6, 20, 20)).ravel()
    other = cluster.MeanShift(bandwidth=0.5).fit(points.astype(float)).labels_ + 1
    for reference in (other, truth):
        pairs = set(zip(labels.tolist(), reference.tolist(), strict=True))
        assert len(pairs) == len(set(labels)) == len(set(reference)) == 4


def test_every_pixel_has_the_nearest_mode_or_is_noise():
    points, _ = blobs(spread=0.1)
    points[0] = 20
    image = points.T.reshape(6, 20, 20)
    limited = MeanShift(sample=100, min_size=3).partition(image).ravel()
    assert limited[0] == 0
    assert (limited[1:] > 0).all()
    assert (MeanShift(sample=100, reach=None, min_size=3).partition(image) > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_objects_do_not_hang_on_the_seed(seed):
    points, truth = blobs(number=6, pixels=10_000, seed=7)
    order = np.argsort(truth, kind="stable")
    image = points[order].T.reshape(6, 100, 100)
    labels = MeanShift(seed=seed, sample=500)(image)
    np.testing.assert_array_equal(labels.ravel(), truth[order])


def test_even_steps_cover_everything_once():
    generator = np.random.default_rng(0)
    steps = even_steps(1000, 130, generator)
    assert len(np.unique(steps)) == 130
    assert np.diff(steps).max() <= 16
    np.testing.assert_array_equal(even_steps(7, 9, generator), np.arange(7))
    np.testing.assert_array_equal(even_steps(7, None, generator), np.arange(7))


def test_hdbscan_of_a_sample_leaves_what_is_far_from_all_clusters():
    points, truth = blobs(pixels=10_000)
    points[:300] = np.random.default_rng(1).normal(size=(300, 6)) * 30
    image = points.T.reshape(6, 100, 100)
    raw = HDBSCAN(sample=1000).partition(image).ravel()
    assert (raw[:300] > 0).mean() < 0.05
    pairs = set(zip(raw[300:].tolist(), truth[300:].tolist(), strict=True))
    assert len(pairs - {(0, t) for t in range(1, 5)}) == 4
    assert (raw[300:] > 0).mean() > 0.97
    everything = HDBSCAN(sample=None).partition(image).ravel()
    assert (everything[300:] == raw[300:])[raw[300:] > 0].all()


def test_hdbscan_without_any_cluster_is_all_noise():
    noise = np.random.default_rng(0).uniform(size=(8, 40, 40)) * 100
    assert not HDBSCAN(sample=100, min_size=200).partition(noise).any()


@pytest.mark.parametrize("dim", [2, 16])
def test_anchor_iou_is_that_of_the_loop(dim):
    generator = np.random.default_rng(dim)
    labels = generator.integers(5, size=600).astype(np.int32)
    # Multiples of a power of 2, so that nothing rounds at the radius.
    values = np.round(8 * (np.eye(5, dim)[labels] + 0.3 * generator.normal(size=(600, dim)))) / 8
    values = values.astype(np.float32)
    values -= values.mean(0).round(3)
    anchors = draw_anchors(labels, 7, generator)
    result = anchor_iou(labels, values, anchors, 1.03)
    assert result.shape == (4, 7)
    for k in range(4):
        for m in range(7):
            near = np.linalg.norm(values.astype(float) - values[anchors[k, m]], axis=1) < 1.03
            own = labels == k + 1
            assert result[k, m] == pytest.approx((near & own).sum() / (near | own).sum(), abs=1e-7)


def test_anchors_lie_in_their_clusters():
    labels = np.array([0, 2, 1, 2, 0, 3, 1], np.int32)
    anchors = draw_anchors(labels, 50, np.random.default_rng(0))
    assert (labels[anchors] == np.array([[1], [2], [3]])).all()
    assert set(anchors[1]) == {1, 3}


@pytest.mark.parametrize("masked", [False, True])
def test_only_objects_that_both_networks_see_stay(masked):
    points, truth = blobs(pixels=10_000)
    order = np.argsort(truth, kind="stable")
    image = points[order].T.reshape(6, 100, 100)
    truth = truth[order].reshape(100, 100)
    other = image.copy()
    other[:, truth == 2] = np.random.default_rng(0).normal(size=(6, (truth == 2).sum()))
    other[:, truth == 4] = other[:, truth == 3].mean(1, keepdims=True)  # g takes both for one
    mask = np.ones((100, 100), bool)
    mask[:2] = not masked
    labels = ConsistencyClustering(iou_threshold=0.6)(image, other=other, mask=mask)
    np.testing.assert_array_equal(labels, np.where((truth == 1) & mask, 1, 0))


def test_consistency_without_the_second_network_says_so():
    with pytest.raises(ValueError, match="give those of g as `other`"):
        ConsistencyClustering()(np.zeros((2, 5, 5)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanShift(bandwidth=0), "bandwidth=0"),
        (lambda: MeanShift(sample=0), "sample=0"),
        (lambda: MeanShift(reach=0.5), "reach=0.5"),
        (lambda: HDBSCAN(min_size=1), "min_size=1"),
        (lambda: HDBSCAN(sample=1), "sample=1"),
        (lambda: HDBSCAN(epsilon=-1), "epsilon=-1"),
        (lambda: ConsistencyClustering(delta_v=0), "delta_v=0"),
        (lambda: ConsistencyClustering(iou_threshold=1), "iou_threshold=1"),
        (lambda: ConsistencyClustering(anchors=0), "anchors=0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
