"""How instance scores add up over batches and processes, and travel between devices and files."""

import copy
import pickle

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from instance_images import KEYS, OBJECTS, SINGLE, assert_same, batches, score
from torchmetrics import MetricCollection

from semiweak.metrics import instance_table
from semiweak.metrics.instances import InstanceAveragePrecision, InstanceScores


def test_order_and_batches_do_not_matter():
    expected = InstanceScores()
    for batch in batches():
        expected.update(*batch)
    images = [image for batch in batches() for image in zip(*batch, strict=True)]
    backwards = InstanceScores()
    for p, a in reversed(images):
        backwards.update(p[None], a[None])
    assert torch.equal(backwards.table, expected.table)


def test_two_states_add_up_to_one():
    data = batches()
    first, second, whole = InstanceScores(), InstanceScores(), InstanceScores()
    for i, batch in enumerate(data):
        (first, second)[i % 2].update(*batch)
        whole.update(*batch)
    assert [len(m.metric_state) for m in (first, second, whole)] == [1, 1, 1]
    assert torch.equal(first.table + second.table, whole.table)
    assert whole.table.dtype == torch.int64
    first.merge_state(second)
    assert torch.equal(first.table, whole.table)


def one_process(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    metric = InstanceScores()
    for batch in batches()[: 3 if rank else 1]:
        metric.update(*batch)
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    whole = InstanceScores()
    for batch in [*batches()[:1], *batches()[:3]]:
        whole.update(*batch)
    for rank in range(2):
        scores = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert scores.keys() == KEYS
        assert all(torch.equal(scores[key], value) for key, value in whole.compute().items())


def test_forward_is_of_the_batch_and_compute_of_everything():
    data = batches()
    whole = InstanceScores()
    for batch in data:
        assert_same(whole(*batch), score(*batch))
    expected = InstanceScores()
    for batch in data:
        expected.update(*batch)
    assert_same(whole.compute(), expected.compute())
    whole.reset()
    whole.update(*data[1])
    assert_same(whole.compute(), score(*data[1]))


def test_a_collection_counts_once_and_shares_no_table_of_other_thresholds(monkeypatch):
    data = batches()
    metrics = MetricCollection({name: make() for name, make in SINGLE.items()})
    # Equal to those above on the first batch, which is perfect, but not later.
    metrics.add_metrics({"ap90": InstanceAveragePrecision([0.9])})
    metrics.update(OBJECTS, OBJECTS)
    assert sorted(len(group) for group in metrics.compute_groups.values()) == [1, 2, 9]
    calls = []
    count = instance_table.contingency_table
    monkeypatch.setattr(
        instance_table, "contingency_table", lambda *a: calls.append(1) or count(*a)
    )
    for batch in data:
        metrics.update(*batch)
    assert len(calls) == 3 * sum(len(preds) for preds, _ in data)
    singles = {name: make() for name, make in SINGLE.items()}
    singles["ap90"] = InstanceAveragePrecision([0.9])
    for batch in [(OBJECTS, OBJECTS), *data]:
        for metric in singles.values():
            metric.update(*batch)
    assert_same(metrics.compute(), {name: metric.compute() for name, metric in singles.items()})
    assert metrics.compute()["ap90"] != metrics.compute()["ap50"]


def test_it_travels():
    data = batches()
    metric = InstanceScores()
    metric.update(*data[0])
    twins = [pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()]
    metric.persistent(True)
    reloaded = InstanceScores()
    reloaded.persistent(True)
    reloaded.load_state_dict(metric.state_dict())
    twins.append(reloaded)
    for m in (metric, *twins):
        m.update(*data[1])
        assert torch.equal(m.table, metric.table)
    assert not InstanceScores().state_dict()


def test_a_cast_of_the_module_leaves_the_counts_alone():
    metric = InstanceScores().to(torch.bfloat16).half()
    expected = InstanceScores()
    for _ in range(40):
        for batch in batches():
            metric.update(*batch)
            expected.update(*batch)
    assert metric.table.dtype == torch.int64
    assert_same(metric.compute(), expected.compute())


def test_it_counts_inside_and_outside_inference_mode():
    metric = InstanceScores()
    with torch.inference_mode():
        metric.reset()
        metric.update(*batches()[0])
    metric.update(*batches()[1])
    expected = InstanceScores()
    for batch in batches()[:2]:
        expected.update(*batch)
    assert torch.equal(metric.table, expected.table)


def test_it_moves_between_devices():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    metric, expected = InstanceScores().cuda(), InstanceScores()
    for preds, target in batches():
        valid = target != 5
        metric.update(preds.cuda(), target.cuda(), valid.cuda())
        expected.update(preds, target, valid)
    assert metric.table.is_cuda
    assert all(value.is_cuda for value in metric.compute().values())
    assert torch.equal(metric.cpu().table, expected.table)
    metric.update(*batches()[0])
