"""Cluster-mapped IoU against loops over all assignments, and values worked out by hand."""

import copy
from itertools import permutations, product

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from semiweak.metrics.clusters import ClusterMappedIoU


def table_of(pairs):
    counts = {}
    for preds, target in pairs:
        for p, t in zip(preds.flatten().tolist(), target.flatten().tolist(), strict=True):
            if t != 255:
                counts[p, t] = counts.get((p, t), 0) + 1
    return counts


def iou_by_hand(counts, mapping, num_classes):
    """IoU of each class by its definition, None where there is no pixel of it."""
    scores = []
    for c in range(num_classes):
        both = sum(n for (p, t), n in counts.items() if mapping[p] == c and t == c)
        either = sum(n for (p, t), n in counts.items() if mapping[p] == c or t == c)
        scores.append(both / either if either else None)
    return scores


def right(counts, mapping):
    return sum(n for (p, t), n in counts.items() if mapping[p] == t)


def noisy(seed, clusters, classes, images=3, unknown=0.2):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (images, 6, 5), generator=generator)
    names = torch.randperm(clusters, generator=generator)
    preds = names[
        (target + classes * torch.randint(2, target.shape, generator=generator)) % clusters
    ]
    other = torch.randint(clusters, target.shape, generator=generator)
    preds = other.where(torch.rand(target.shape, generator=generator) < 0.3, preds)
    target[torch.rand(target.shape, generator=generator) < unknown] = 255
    return preds, target


def value(metric):
    return metric.compute().item()


@pytest.mark.parametrize("seed", range(5))
def test_one_to_one_is_the_best_of_all_assignments(seed):
    pairs = [noisy(seed, 4, 4), noisy(seed, 4, 4, images=1)]
    metric = ClusterMappedIoU(4, 4)
    for preds, target in pairs:
        metric.update(preds, target)
    counts = table_of(pairs)
    mapping = metric.mapping().tolist()
    assert sorted(mapping) == [0, 1, 2, 3]
    assert right(counts, mapping) == max(right(counts, m) for m in permutations(range(4)))
    expected = iou_by_hand(counts, mapping, 4)
    assert metric.scores()["iou"].tolist() == pytest.approx(expected)
    assert value(metric) == pytest.approx(sum(expected) / 4)


@pytest.mark.parametrize("seed", range(5))
def test_many_to_one_is_the_best_of_all_maps(seed):
    pairs = [noisy(seed, 6, 3)]
    metric = ClusterMappedIoU(6, 3, assignment="many_to_one")
    metric.update(*pairs[0])
    counts, mapping = table_of(pairs), metric.mapping().tolist()
    best = max(right(counts, m) for m in product(range(3), repeat=6))
    assert right(counts, mapping) == best
    iou = iou_by_hand(counts, mapping, 3)
    assert metric.scores()["iou"].tolist() == pytest.approx(iou)
    assert metric.scores()["dice"].tolist() == pytest.approx([2 * i / (1 + i) for i in iou])


def test_by_hand():
    # Cluster 1 is class 0 in three of four pixels, cluster 0 is class 1 in two of two.
    target = torch.tensor([[0, 0, 0, 1, 1, 1, 255]])
    preds = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    metric = ClusterMappedIoU(2, 2)
    metric.update(preds, target)
    assert metric.mapping().tolist() == [1, 0]
    assert metric.scores()["iou"].tolist() == pytest.approx([3 / 4, 2 / 3])
    assert metric.scores()["dice"].tolist() == pytest.approx([6 / 7, 4 / 5])


def test_all_images_are_counted_before_a_cluster_gets_its_class():
    """An image by itself would name the clusters the other way round."""
    metric = ClusterMappedIoU(2, 2)
    metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1, 1, 0, 0]]))
    assert value(metric) == 1
    metric.update(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64))
    assert metric.mapping().tolist() == [0, 1]
    assert value(metric) == pytest.approx((8 / 12 + 0) / 2)


def test_scores_count_by_the_largest():
    preds, target = noisy(0, 4, 4)
    ids, scores = ClusterMappedIoU(4, 4), ClusterMappedIoU(4, 4)
    ids.update(preds, target)
    scores.update(torch.nn.functional.one_hot(preds, 4).movedim(-1, 1) * 0.1, target)
    assert torch.equal(ids.table, scores.table)


def test_a_class_that_does_not_occur_has_no_score():
    metric = ClusterMappedIoU(3, 3)
    metric.update(torch.tensor([[0, 1, 1]]), torch.tensor([[2, 1, 1]]))
    scores = metric.scores()["iou"]
    assert scores[0].isnan()
    assert value(metric) == 1
    empty = ClusterMappedIoU(3, 3)
    empty.update(torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), 255))
    assert empty.compute().isnan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 3, "num_classes": 2}, "3 clusters cannot stand for 2 classes"),
        ({"num_clusters": 2, "num_classes": 1}, "at least 1 cluster and 2 classes"),
        ({"num_clusters": 2, "num_classes": 2, "assignment": "best"}, "one_to_one, many_to_one"),
        ({"num_clusters": 2, "num_classes": 2, "ignore_index": 1}, "is one of the classes"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClusterMappedIoU(**arguments)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64), "equal"),
        (torch.zeros(1, 3, 2), torch.zeros(1, 2, dtype=torch.int64), "2 clusters"),
        (torch.full((1, 2), 2), torch.zeros(1, 2, dtype=torch.int64), "cluster id outside 0 to 1"),
        (torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), -1), "class id outside 0 to 1"),
    ],
)
def test_bad_input(preds, target, message):
    with pytest.raises(ValueError, match=message):
        ClusterMappedIoU(2, 2).update(preds, target)


def _count(rank, store, result):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    metric = ClusterMappedIoU(6, 3, assignment="many_to_one")
    metric.update(*(part[rank * 2 : rank * 2 + 2] for part in noisy(0, 6, 3, images=4)))
    scores, mapping = metric.scores_and_mapping()
    result[rank] = (value(metric), scores["iou"].tolist(), mapping.tolist())
    torch.distributed.destroy_process_group()


def test_two_processes_agree_on_the_mapping_of_all_images(tmp_path):
    with torch.multiprocessing.Manager() as manager:
        result = manager.dict()
        torch.multiprocessing.spawn(_count, (tmp_path / "store", result), nprocs=2)
        result = dict(result)
    metric = ClusterMappedIoU(6, 3, assignment="many_to_one")
    metric.update(*noisy(0, 6, 3, images=4))
    alone = (value(metric), metric.scores()["iou"].tolist(), metric.mapping().tolist())
    assert result == {0: alone, 1: alone}


def test_copy_and_reset():
    metric = ClusterMappedIoU(4, 4)
    metric.update(*noisy(1, 4, 4))
    again = copy.deepcopy(metric)
    assert value(again) == value(metric)
    metric.reset()
    assert not metric.table.any()
