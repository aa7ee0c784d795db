"""Instance scores: what is averaged over what, worked out by hand, and the edge cases."""

import math

import pytest
import torch
from instance_images import BEST, EMPTY, KEYS, OBJECTS, SINGLE, assert_same, batches, score

from semiweak.metrics.instances import AdaptedRandError, InstanceAveragePrecision, InstanceScores

# Image 1: an object of 12 split into 9 and 3. Image 2: one object found, one missed.
TARGET = torch.tensor([[[1] * 4] * 3 + [[0] * 4], [[5, 5, 0, 0], [0] * 4, [0, 9, 9, 9], [0] * 4]])
PREDS = torch.tensor([[[7] * 3 + [8]] * 3 + [[0] * 4], [[3, 3, 0, 0]] + [[0] * 4] * 3])
BY_HAND = {
    "best_dice_prediction": ((18 / 21 + 6 / 15) / 2 + 1) / 2,
    "best_dice_annotation": (18 / 21 + 1 / 2) / 2,
    "sbd": ((18 / 21 + 6 / 15) / 2 + 1 / 2) / 2,
    "dic": (1 - 1) / 2,
    "abs_dic": (1 + 1) / 2,
    "ap50": (1 / 2 + 1 / 2) / 2,
    # The IoU of 9/12 reaches 6 of the ten thresholds, that of 1 every one.
    "map": (6 / 10 * 1 / 2 + 1 / 2) / 2,
    "ap50_pooled": 2 / 4,
    "map_pooled": (6 * 2 / 4 + 4 * 1 / 5) / 10,
    "arand": ((1 - 2 * 90 / (144 + 90)) + (1 - 2 * 7 / (13 + 7))) / 2,
    "arand_precision": (1 + 1) / 2,
    "arand_recall": (90 / 144 + 7 / 13) / 2,
    "foreground_dice": (1 + 4 / 7) / 2,
}


def test_values_worked_out_by_hand():
    assert_same(score(PREDS, TARGET), BY_HAND)


def test_each_metric_by_itself_is_its_score():
    whole = InstanceScores()
    for batch in batches():
        whole.update(*batch)
    for name, make in SINGLE.items():
        metric = make()
        for batch in batches():
            metric.update(*batch)
        assert torch.equal(metric.compute(), whole.compute()[name]), name
        assert metric.compute().shape == ()


def test_the_keys():
    assert score(PREDS, TARGET).keys() == KEYS


NONE_RIGHT = dict.fromkeys(KEYS, 0.0) | {"abs_dic": 2.0}


@pytest.mark.parametrize(
    ("preds", "target", "expected"),
    [
        (OBJECTS, OBJECTS, BEST),
        (
            EMPTY,
            EMPTY,
            BEST | dict.fromkeys(["arand", "arand_precision", "arand_recall"], math.nan),
        ),
        (
            OBJECTS,
            EMPTY,
            NONE_RIGHT
            | {"dic": 2.0}
            | dict.fromkeys(["arand", "arand_precision", "arand_recall"], math.nan),
        ),
        (
            EMPTY,
            OBJECTS,
            NONE_RIGHT
            | {"dic": -2.0, "arand_precision": 1.0, "arand_recall": 8 / 32, "arand": 1 - 16 / 40},
        ),
    ],
    ids=["both full", "both empty", "annotation empty", "prediction empty"],
)
def test_empty_sides(preds, target, expected):
    assert_same(score(preds, target), expected)


def test_an_image_without_annotated_objects_is_left_out_of_adapted_rand():
    both = score(torch.cat((PREDS, EMPTY + 1)), torch.cat((TARGET, EMPTY)))
    for key in ("arand", "arand_precision", "arand_recall"):
        assert float(both[key]) == pytest.approx(BY_HAND[key])
    assert float(both["sbd"]) == pytest.approx(BY_HAND["sbd"] * 2 / 3)


def test_without_a_background_pixel_every_object_counts():
    target = torch.tensor([[[1, 1, 2, 2]] * 4])
    assert_same(score(target, target), BEST)
    found_one = torch.where(target == 1, 1, 0)
    assert_same(
        score(found_one, target),
        score(torch.where(target == 2, 1, 0), target),
    )
    assert float(score(found_one, target)["dic"]) == -1


@pytest.mark.parametrize("offset", [3, 1000, 2**31 + 1, 2**50])
def test_only_which_pixels_share_an_id_matters(offset):
    def renamed(labels):
        return torch.where(labels > 0, (7 - labels) * offset, 0)

    for preds, target in batches():
        assert_same(score(renamed(preds), target), score(preds, target))
        assert_same(score(preds, renamed(target)), score(preds, target))


def test_a_score_is_nan_only_if_nothing_was_counted():
    metric = InstanceScores()
    metric.update(EMPTY[:0], EMPTY[:0])
    metric.update(EMPTY, OBJECTS, torch.zeros_like(EMPTY, dtype=torch.bool))
    assert not metric.table.any()
    metric._update_count = 1
    assert_same(metric.compute(), dict.fromkeys(KEYS, math.nan))
    metric.update(OBJECTS, OBJECTS)
    assert_same(metric.compute(), BEST)


def test_pixels_that_are_not_valid_count_on_neither_side():
    for preds, target in batches():
        valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.7
        expected = score(preds * valid, target * valid)
        other = preds.where(valid, 99), target.where(valid, 77)
        assert_same(score(*other, valid), expected)
        whole = torch.ones_like(valid)
        assert_same(score(preds, target, whole), score(preds, target))
    # An object outside is none, and one cut in half is its half.
    cut = torch.ones_like(OBJECTS, dtype=torch.bool)
    cut[..., 1:] = False
    assert_same(score(OBJECTS.clamp(max=1), OBJECTS, cut), BEST)


def test_volumes_and_a_slice_of_one():
    for preds, target in batches():
        assert_same(score(preds[:, None], target[:, None]), score(preds, target))
    for preds, target in batches(shape=(4, 5, 6)):
        assert_same(score(preds, target), score(preds.flatten(2), target.flatten(2)))


def test_average_precision_at_every_threshold():
    each = InstanceAveragePrecision([0.25, 0.5, 0.8], average="none")
    pooled = InstanceAveragePrecision([0.25, 0.5, 0.8], average="none", accumulate="dataset")
    for metric in (each, pooled):
        metric.update(PREDS, TARGET)
    assert each.compute().tolist() == pytest.approx([1 / 2, 1 / 2, (0 + 1 / 2) / 2])
    # Pieces of 3/4 and 1/4 reach 0.25, but the object has one match.
    assert pooled.compute().tolist() == pytest.approx([2 / 4, 2 / 4, 1 / 5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InstanceAveragePrecision([]), r"thresholds=\(\), but it is one or more IoU"),
        (lambda: InstanceAveragePrecision([0.5, 0]), r"thresholds=\(0.5, 0\), .* above 0"),
        (lambda: InstanceAveragePrecision([50]), r"thresholds=\(50,\), .* at most 1"),
        (lambda: InstanceAveragePrecision([math.nan]), "thresholds=.nan"),
        (lambda: InstanceAveragePrecision(average="macro"), "average='macro', but it is 'mean'"),
        (lambda: InstanceAveragePrecision(accumulate="all"), "accumulate='all', but it is 'image'"),
        (lambda: AdaptedRandError(score="f1"), "score='f1', but it is one of error, precision"),
    ],
)
def test_wrong_arguments_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EMPTY[0], EMPTY[0]), r"shape \(4, 4\), but it is a batch \(B, \*S\); give a single"),
        ((EMPTY, EMPTY[:, :2]), r"prediction has the shape \(1, 4, 4\), but the annotation \(1, 2"),
        ((EMPTY, EMPTY, EMPTY[0].bool()), r"valid has the shape \(4, 4\), but the annotation"),
        ((OBJECTS, OBJECTS.float()), "image 0 of the batch: the annotation holds torch.float32"),
        (
            (torch.cat((OBJECTS, OBJECTS - 1)), torch.cat((OBJECTS, OBJECTS))),
            "image 1 of the batch: the prediction contains the id -1",
        ),
    ],
)
def test_wrong_input_is_told_and_not_counted(arguments, message):
    metric = InstanceScores()
    with pytest.raises(ValueError, match=message):
        metric.update(*arguments)
    assert not metric.table.any()
