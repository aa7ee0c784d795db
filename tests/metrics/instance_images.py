"""Label images that the tests of instance scores share."""

import pytest
import torch

from semiweak.metrics.instances import (
    AdaptedRandError,
    DifferenceInCount,
    ForegroundDice,
    InstanceAveragePrecision,
    InstanceScores,
    SymmetricBestDice,
)

SINGLE = {
    "sbd": SymmetricBestDice,
    "dic": DifferenceInCount,
    "abs_dic": lambda: DifferenceInCount(absolute=True),
    "ap50": lambda: InstanceAveragePrecision([0.5]),
    "map": InstanceAveragePrecision,
    "ap50_pooled": lambda: InstanceAveragePrecision([0.5], accumulate="dataset"),
    "map_pooled": lambda: InstanceAveragePrecision(accumulate="dataset"),
    "arand": AdaptedRandError,
    "arand_precision": lambda: AdaptedRandError(score="precision"),
    "arand_recall": lambda: AdaptedRandError(score="recall"),
    "foreground_dice": ForegroundDice,
}
KEYS = {*SINGLE, "best_dice_prediction", "best_dice_annotation"}
BEST = dict.fromkeys(KEYS, 1.0) | {"dic": 0.0, "abs_dic": 0.0, "arand": 0.0}

EMPTY = torch.zeros(1, 4, 4, dtype=torch.long)
OBJECTS = torch.tensor([[[1, 1, 2, 2]] * 2 + [[0] * 4] * 2])


def batches(number=4, images=2, shape=(9, 8), seed=0):
    """Noise of a few ids and, more often, objects that agree; some images without objects."""
    generator = torch.Generator().manual_seed(seed)
    size = (number, images, *shape)
    target = torch.randint(
        6, (number, images, shape[0], *[1] * (len(shape) - 1)), generator=generator
    )
    target = target.expand(size).clone()
    noise = torch.randint(6, size, generator=generator)
    preds = noise.where(torch.rand(size, generator=generator) < 0.2, target)
    target[1, 0] = 0
    preds[2, 0] = 0
    target[3, 1] = preds[3, 1] = 0
    return list(zip(preds, target, strict=True))


def assert_same(scores, expected):
    assert scores.keys() == expected.keys()
    for key, value in expected.items():
        assert float(scores[key]) == pytest.approx(float(value), abs=1e-6, nan_ok=True), key


def score(preds, target, valid=None):
    metric = InstanceScores()
    metric.update(torch.as_tensor(preds), torch.as_tensor(target), valid)
    return metric.compute()
