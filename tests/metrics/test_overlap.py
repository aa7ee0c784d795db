"""Dice and IoU against loops over their definitions, torchmetrics and values worked out by hand."""

import copy
import pickle

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from semiweak.metrics.overlap import DiceScore, IoU, OverlapScores

K = 4
NAN = float("nan")
METRICS = [DiceScore, IoU]
ACCUMULATE = ["dataset", "image"]


def batches(number=3, images=2, shape=(7, 6), seed=0, unknown=0.2):
    """Class maps; class 3 is rare, so that single images lack it in one of the two or in both."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.tensor([0.5, 0.3, 0.18, 0.02])
    size = (images, *shape)

    def draw():
        flat = torch.multinomial(weights, size.numel(), replacement=True, generator=generator)
        return flat.view(size)

    size = torch.Size(size)
    result = []
    for _ in range(number):
        target = draw()
        preds = draw().where(torch.rand(size, generator=generator) < 0.5, target)
        target[torch.rand(size, generator=generator) < unknown] = 255
        result.append((preds, target))
    return result


def counts(pred, target, c):
    """(TP, FP, FN) of class c over lists of pixels."""
    tp = fp = fn = 0
    for p, t in zip(pred, target, strict=True):
        if t != 255:
            tp += p == c and t == c
            fp += p == c and t != c
            fn += p != c and t == c
    return tp, fp, fn


def by_hand(metric, accumulate, data):
    """The definition in loops: the score of every class."""
    images = [
        (p.flatten().tolist(), t.flatten().tolist())
        for preds, target in data
        for p, t in zip(preds, target, strict=True)
    ]
    if accumulate == "dataset":
        images = [tuple([i for side in sides for i in side] for sides in zip(*images, strict=True))]
    scores = []
    for c in range(K):
        of_class = []
        for pred, target in images:
            tp, fp, fn = counts(pred, target, c)
            if tp + fp + fn:
                dice = 2 * tp / (2 * tp + fp + fn)
                of_class.append(dice if metric is DiceScore else tp / (tp + fp + fn))
        scores.append(sum(of_class) / len(of_class) if of_class else NAN)
    return torch.tensor(scores)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-7, equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(7, 6), (3, 4, 3)])
@pytest.mark.parametrize("accumulate", ACCUMULATE)
@pytest.mark.parametrize("metric", METRICS)
def test_it_is_the_definition(metric, accumulate, shape, seed):
    data = batches(shape=shape, seed=seed)
    per_class = metric(K, average="none", accumulate=accumulate)
    macro = metric(K, accumulate=accumulate)
    objects = metric(K, accumulate=accumulate, include_background=False)
    for preds, target in data:
        per_class.update(preds, target)
        macro.update(preds, target)
        objects.update(preds, target)
    expected = by_hand(metric, accumulate, data)
    assert_same(per_class.compute(), expected)
    assert_same(macro.compute(), expected.nanmean())
    assert_same(objects.compute(), expected[1:].nanmean())


def test_the_data_tell_the_two_ways_to_accumulate_apart():
    data = batches()
    assert abs(by_hand(IoU, "image", data) - by_hand(IoU, "dataset", data)).max() > 0.01


@pytest.mark.parametrize(
    ("metric", "theirs"), [(DiceScore, MulticlassF1Score), (IoU, MulticlassJaccardIndex)]
)
@pytest.mark.parametrize("average", ["macro", "none"])
def test_accumulated_it_is_that_of_torchmetrics(metric, theirs, average):
    ours = metric(K, average=average)
    theirs = theirs(K, average=average, ignore_index=255)
    for preds, target in batches(seed=3):
        ours.update(preds, target)
        theirs.update(preds, target)
    assert_same(ours.compute(), theirs.compute())


# Two images, three classes of which the last never occurs; 255 is unknown.
PREDS = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 1]]])
TARGET = torch.tensor([[[0, 1, 1, 255]], [[0, 0, 0, 0]]])


@pytest.mark.parametrize(
    ("metric", "accumulate", "expected"),
    [
        # Class 0: TP 1 + 3, FP 1, FN 0 + 1. Class 1: TP 1, FP 0 + 1, FN 1.
        (DiceScore, "dataset", [8 / 10, 2 / 4, NAN]),
        (IoU, "dataset", [4 / 6, 1 / 3, NAN]),
        # Class 1 is only predicted in the second image: 0, and it counts.
        (DiceScore, "image", [(2 / 3 + 6 / 7) / 2, (2 / 3 + 0) / 2, NAN]),
        (IoU, "image", [(1 / 2 + 3 / 4) / 2, (1 / 2 + 0) / 2, NAN]),
    ],
)
def test_values_worked_out_by_hand(metric, accumulate, expected):
    per_class = metric(3, average="none", accumulate=accumulate)
    assert_same(per_class(PREDS, TARGET), torch.tensor(expected))
    macro = metric(3, accumulate=accumulate)
    assert_same(macro(PREDS, TARGET), torch.tensor(sum(expected[:2]) / 2))
    without = metric(3, average="none", accumulate=accumulate, include_background=False)
    assert_same(without(PREDS, TARGET), torch.tensor([NAN, *expected[1:]]))


@pytest.mark.parametrize("accumulate", ACCUMULATE)
@pytest.mark.parametrize("metric", METRICS)
def test_with_nothing_known_there_is_no_score(metric, accumulate):
    macro = metric(K, accumulate=accumulate)
    assert macro(torch.zeros(2, 5, 5, dtype=torch.long), torch.full((2, 5, 5), 255)).isnan()
    per_class = metric(K, average="none", accumulate=accumulate)
    per_class.update(torch.zeros(0, 5, 5, dtype=torch.long), torch.zeros(0, 5, 5, dtype=torch.long))
    assert per_class.compute().isnan().all()
    # A later image counts by itself.
    image = torch.ones(1, 5, 5, dtype=torch.long)
    macro.update(image, image)
    assert macro.compute() == 1


@pytest.mark.parametrize("metric", METRICS)
def test_the_prediction_at_an_unknown_pixel_does_not_matter(metric):
    (preds, target), *_ = batches(1)
    other = preds.where(target != 255, 200)
    for accumulate in ACCUMULATE:
        assert_same(
            metric(K, average="none", accumulate=accumulate)(other, target),
            metric(K, average="none", accumulate=accumulate)(preds, target),
        )


@pytest.mark.parametrize("ignore_index", [-1, 17, None])
def test_another_value_for_unknown_or_none(ignore_index):
    (preds, target), *_ = batches(1, unknown=0.2 if ignore_index is not None else 0)
    expected = DiceScore(K, average="none")(preds, target)
    if ignore_index is not None:
        target[target == 255] = ignore_index
    metric = DiceScore(K, average="none", ignore_index=ignore_index)
    assert_same(metric(preds, target), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_and_no_change_of_the_input(dtype):
    (preds, target), *_ = batches(1)
    expected = by_hand(IoU, "dataset", [(preds, target)])
    preds, target = preds.to(dtype), target.to(dtype)
    kept = preds.clone(), target.clone()
    assert_same(IoU(K, average="none")(preds, target), expected)
    assert torch.equal(preds, kept[0])
    assert torch.equal(target, kept[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_and_probabilities_count_as_their_largest(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, K, 5, 6, generator=generator).to(dtype)
    target = torch.randint(0, K, (2, 5, 6), generator=generator)
    expected = DiceScore(K, average="none")(logits.argmax(1), target)
    assert_same(DiceScore(K, average="none")(logits, target), expected)
    assert_same(DiceScore(K, average="none")(logits.softmax(1), target), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_forward_is_of_the_batch_and_compute_of_everything(metric):
    for accumulate in ACCUMULATE:
        data = batches()
        whole = metric(K, average="none", accumulate=accumulate)
        for batch in data:
            assert_same(whole(*batch), by_hand(metric, accumulate, [batch]))
        assert_same(whole.compute(), by_hand(metric, accumulate, data))
        whole.reset()
        whole.update(*data[1])
        assert_same(whole.compute(), by_hand(metric, accumulate, data[1:2]))


def test_it_travels():
    data = batches()
    metric = DiceScore(K, accumulate="image")
    metric.update(*data[0])
    twins = [pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()]
    metric.persistent(True)
    reloaded = DiceScore(K, accumulate="image")
    reloaded.persistent(True)
    reloaded.load_state_dict(metric.state_dict())
    twins.append(reloaded)
    for m in (metric, *twins):
        m.update(*data[1])
    expected = by_hand(DiceScore, "image", data[:2]).nanmean()
    for m in (metric, *twins):
        assert_same(m.compute(), expected)


def test_nothing_of_it_is_in_a_checkpoint_by_default():
    assert not DiceScore(K).state_dict()


def test_a_cast_of_the_module_leaves_the_counts_alone():
    metric = IoU(2).to(torch.bfloat16).half()
    ones = torch.ones(1, 40, 40, dtype=torch.long)
    ones[0, 0, 0] = 0
    for _ in range(50):
        metric.update(ones, torch.ones_like(ones))
    assert metric.compute().item() == pytest.approx((1599 / 1600) / 2)


def test_it_counts_inside_and_outside_inference_mode():
    data = batches()
    metric = IoU(K)
    with torch.inference_mode():
        metric.update(*data[0])
    metric.update(*data[1])
    assert_same(metric.compute(), by_hand(IoU, "dataset", data[:2]).nanmean())


def collection():
    return MetricCollection(
        {
            "dice": DiceScore(K),
            "dice_of": DiceScore(K, average="none", accumulate="image"),
            "iou": IoU(K, include_background=False),
            "iou_image": IoU(K, accumulate="image"),
        }
    )


def expected_of_the_collection(data):
    return {
        "dice": by_hand(DiceScore, "dataset", data).nanmean(),
        "dice_of": by_hand(DiceScore, "image", data),
        "iou": by_hand(IoU, "dataset", data)[1:].nanmean(),
        "iou_image": by_hand(IoU, "image", data).nanmean(),
    }


def test_a_collection_counts_once(monkeypatch):
    data = batches()
    metrics = collection()
    metrics.update(*data[0])
    assert len(metrics.compute_groups) == 1
    calls = []
    count = OverlapScores._count
    monkeypatch.setattr(OverlapScores, "_count", lambda *a: calls.append(1) or count(*a))
    metrics.update(*data[1])
    metrics.update(*data[2])
    assert len(calls) == 2
    for key, expected in expected_of_the_collection(data).items():
        assert_same(metrics.compute()[key], expected)
    metrics.reset()
    metrics.update(*data[2])
    for key, expected in expected_of_the_collection(data[2:]).items():
        assert_same(metrics.compute()[key], expected)


def test_the_whole_state_is_one_tensor():
    for metric in (DiceScore(K), IoU(K, accumulate="image", average="none")):
        assert [tuple(t.shape) for t in metric.metric_state.values()] == [(6, K)]


def one_process(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    data = batches(5)  # an odd number: one process has more than the other
    metrics = collection()
    alone = IoU(K, average="none", accumulate="image")
    for preds, target in data[rank::2]:
        metrics.update(preds, target)
        alone.update(preds, target)
    first = {"alone": alone.compute(), **metrics.compute()}
    # After computing, each process goes on from its own counts.
    metrics.update(*data[rank])
    torch.save((first, metrics.compute()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    data = batches(5)
    for rank in range(2):
        first, second = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_same(first.pop("alone"), by_hand(IoU, "image", data))
        for computed, seen in ((first, data), (second, [*data, *data[:2]])):
            expected = expected_of_the_collection(seen)
            assert computed.keys() == expected.keys()
            for key in expected:
                assert_same(computed[key], expected[key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes=1, but it counts the background too"),
        ({"average": "micro"}, "average='micro', but it is 'macro' or 'none'"),
        ({"accumulate": "batch"}, "accumulate='batch', but it is 'dataset' or 'image'"),
        ({"ignore_index": 0}, "ignore_index=0 is one of the 4 classes"),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_wrong_arguments_are_told(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        metric(**({"num_classes": K} | arguments))


INTS = torch.zeros(2, 3, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (INTS, INTS[:1], r"prediction has the shape \(2, 3, 4\), but the annotation \(1, 3, 4\)"),
        (torch.zeros(2, 5, 3, 4), INTS, r"scores have .* it must be \(2, 4, 3, 4\)"),
        (torch.zeros(2, 3, 4), INTS, r"scores have .* it must be \(2, 4, 3, 4\)"),
        (INTS, INTS.float(), "annotation holds torch.float32, but it is integer class ids"),
        (INTS, INTS.bool(), "annotation holds torch.bool"),
        (INTS.bool(), INTS, "prediction holds torch.bool, but"),
        (INTS + 4, INTS, "prediction contains the class id 4, but with num_classes=4 .* 0 to 3"),
        (INTS - 1, INTS, "prediction contains the class id -1"),
        (INTS, INTS + 9, r"annotation contains the class id 9, .* \(unknown is 255\)"),
        (INTS, INTS - 2, "annotation contains the class id -2"),
        (INTS + 255, INTS, "prediction contains the class id 255"),
    ],
)
def test_wrong_input_is_told_and_not_counted(preds, target, message):
    metric = DiceScore(K)
    with pytest.raises(ValueError, match=message):
        metric.update(preds, target)
    assert not metric.table.any()


def test_all_four_scores_come_from_one_count():
    generator = torch.Generator().manual_seed(0)
    preds = torch.randint(4, (5, 9, 11), generator=generator)
    target = torch.randint(4, (5, 9, 11), generator=generator)
    target[0, :3] = 255
    every = OverlapScores(4)
    every.update(preds, target)
    scores = every.compute()
    for metric, name in ((DiceScore, "dice"), (IoU, "iou")):
        for accumulate, suffix in (("dataset", ""), ("image", "_per_image")):
            one = metric(4, average="none", accumulate=accumulate)
            one.update(preds, target)
            assert torch.equal(scores[name + suffix], one.compute())
    assert len(every.metric_state) == 1  # and so one synchronisation
