"""The scores of one image against loops over their definitions and other implementations."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from skimage.metrics import adapted_rand_error

from semiweak.metrics.contingency import contingency_table
from semiweak.metrics.instance_table import THRESHOLDS as DEFAULT
from semiweak.metrics.matching import adapted_rand, best_dice, foreground_dice, matches

THRESHOLDS = [0.1, 0.25, 1 / 3, 0.4, 0.5, 0.6, 0.75, 0.95, 1.0]


def label_images():
    """Pairs of images of few pixels and ids, so that ties, splits and empty sides are common."""
    shapes = st.sampled_from([(3, 4), (2, 6), (2, 3, 3), (12, 1), (1, 1)])
    ids = st.sampled_from([0, 1, 2, 3, 5, 9])
    return shapes.flatmap(
        lambda shape: st.tuples(*(hnp.arrays(np.int64, shape, elements=ids) for _ in range(2)))
    )


def table_of(p, a):
    return contingency_table(torch.from_numpy(p), torch.from_numpy(a))


def objects(labels):
    return [labels == i for i in np.unique(labels) if i != 0]


def best_dice_by_hand(x, y):
    xs, ys = objects(x), objects(y)
    if not xs or not ys:
        return float(not xs and not ys)
    return np.mean([max(2 * (i & j).sum() / (i.sum() + j.sum()) for j in ys) for i in xs])


def iou_by_hand(p, a):
    return np.array([[(i & j).sum() / (i | j).sum() for j in objects(a)] for i in objects(p)])


def adapted_rand_by_hand(p, a):
    """Over all ordered pairs of pixels of annotated objects: are they in one segment?"""
    inside = a > 0
    p, a = p[inside].astype(float), a[inside]
    missed = p == 0
    p[missed] = -1 - np.arange(missed.sum())  # each a segment of its own
    in_p, in_a = p[:, None] == p, a[:, None] == a
    both = (in_p & in_a).sum()
    return 1 - 2 * both / (in_p.sum() + in_a.sum()), both / in_p.sum(), both / in_a.sum()


@settings(max_examples=200, deadline=None)
@given(label_images())
def test_best_dice_in_loops(images):
    p, a = images
    expected = best_dice_by_hand(p, a), best_dice_by_hand(a, p)
    assert best_dice(table_of(p, a)) == pytest.approx(expected)


@settings(max_examples=200, deadline=None)
@given(label_images())
def test_the_largest_matching_of_all(images):
    p, a = images
    table = table_of(p, a)
    if not (p.any() and a.any()):
        assert matches(table, THRESHOLDS) == [0] * len(THRESHOLDS)
        return
    iou = iou_by_hand(p, a)
    fewer = iou if len(iou) <= len(iou[0]) else iou.T
    for t, number in zip(THRESHOLDS, matches(table, THRESHOLDS), strict=True):
        # StarDist's: the number of matches first, then how well they fit.
        fit = (iou >= t) + iou / (2 * len(fewer))
        assert number == (iou >= t)[linear_sum_assignment(fit, maximize=True)].sum()
        # Every assignment that there is.
        assert number == max(
            sum(fewer[i, j] >= t for i, j in enumerate(others))
            for others in itertools.permutations(range(len(fewer[0])), len(fewer))
        )


def test_an_iou_equal_to_the_threshold_matches_once():
    a = np.ones((2, 4), dtype=np.int64)
    halves = np.array([[1, 1, 1, 1], [2, 2, 2, 2]])
    assert matches(table_of(halves, a), [0.5, 0.55]) == [1, 0]
    assert matches(table_of(a, halves), [0.5, 0.55]) == [1, 0]


def test_every_threshold_that_an_iou_can_equal():
    a = np.ones(20, dtype=np.int64)
    assert len(DEFAULT) == 10
    for i, t in enumerate(DEFAULT):
        p = (np.arange(20) < 10 + i).astype(np.int64)  # its IoU is t, whatever floats make of it
        expected = [1] * (i + 1) + [0] * (9 - i)
        assert matches(table_of(p, a), DEFAULT) == expected, t


def test_greedy_matching_would_lose_a_match():
    # Prediction 1 overlaps with both objects, prediction 2 with the first alone.
    a = np.array([1, 1, 1, 1, 2, 2, 2])
    p = np.array([2, 1, 1, 1, 1, 1, 0])
    iou = iou_by_hand(p, a)
    assert iou[0].argmax() == 0  # greedy: 1 takes object 1, and 2 is left without
    assert matches(table_of(p, a), [0.25]) == [2]


@settings(max_examples=200, deadline=None)
@given(label_images())
def test_adapted_rand_over_pairs_of_pixels(images):
    p, a = images
    scores = adapted_rand(table_of(p, a))
    if (a > 0).any():
        assert scores == pytest.approx(adapted_rand_by_hand(p, a))
        assert 0 <= scores[0] < 1
    else:
        assert scores is None


@settings(max_examples=50, deadline=None)
@given(label_images())
def test_adapted_rand_is_that_of_scikit_image(images):
    """Where the two are the same: nothing missed, and objects so large that n^2 is n (n - 1)."""
    p, a = (np.kron(side, np.ones((12,) * side.ndim, dtype=np.int64)) for side in images)
    if not a.any():
        return
    p[p == 0] = 4
    error, precision, recall = adapted_rand(table_of(p, a))
    # Theirs come as error, recall and precision in the sense of SNEMI3D and CREMI.
    assert adapted_rand_error(a, p) == pytest.approx((error, recall, precision), abs=0.01)


def test_splitting_lowers_the_recall_and_merging_the_precision():
    one, two = np.ones((1, 4), dtype=np.int64), np.array([[1, 1, 2, 2]])
    assert adapted_rand(table_of(two, one)) == pytest.approx((1 - 2 * 8 / (16 + 8), 1, 0.5))
    assert adapted_rand(table_of(one, two)) == pytest.approx((1 - 2 * 8 / (16 + 8), 0.5, 1))


def test_adapted_rand_of_an_object_that_is_missed():
    # Ten segments of one pixel: S = 10, A = 100, P = 10.
    one, none = np.ones((1, 10), dtype=np.int64), np.zeros((1, 10), dtype=np.int64)
    assert adapted_rand(table_of(none, one)) == pytest.approx((1 - 20 / 110, 1, 0.1))


def test_adapted_rand_of_huge_objects_does_not_overflow():
    table = table_of(np.ones(2, dtype=np.int64), np.ones(2, dtype=np.int64))
    for sizes in (table.shared, table.predicted_sizes, table.annotated_sizes):
        sizes *= 2**40
    assert adapted_rand(table) == (0, 1, 1)


@settings(max_examples=100, deadline=None)
@given(label_images())
def test_foreground_dice_in_loops(images):
    p, a = (side > 0 for side in images)
    expected = 2 * (p & a).sum() / (p.sum() + a.sum()) if (p | a).any() else 1
    assert foreground_dice(table_of(*images)) == pytest.approx(expected)
