from collections import Counter
from itertools import islice, pairwise

import pytest
from torch.utils.data import DistributedSampler

from semiweak.data.sampler import EvaluationSampler, StratifiedSampler

KINDS = "abcdef"


def strata(sizes):
    return [kind for kind, size in zip(KINDS, sizes, strict=False) for _ in range(size)]


def epoch(kinds, world, batch, *, epoch=0, **arguments):
    """The draws of each rank, as [rank][step][place]."""
    ranks = []
    for rank in range(world):
        sampler = StratifiedSampler(
            kinds, batch_size=batch, num_replicas=world, rank=rank, **arguments
        )
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert len(draws) == len(sampler)
        assert len(draws) % batch == 0
        ranks.append([draws[i : i + batch] for i in range(0, len(draws), batch)])
    return ranks


def in_order(ranks):
    """All draws of all ranks in the order of the global batches."""
    return [draw for step in zip(*ranks, strict=True) for batch in step for draw in batch]


def test_lightning_leaves_them_alone():
    assert isinstance(StratifiedSampler(["a"], batch_size=1), DistributedSampler)
    assert isinstance(EvaluationSampler(3), DistributedSampler)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    "sizes", [(5,), (7, 3), (4, 4, 4), (9, 1, 2, 5), (3, 2, 1, 1, 6), (2,) * 6]
)
def test_shares(sizes, batch, world):
    kinds = strata(sizes)
    # A whole number of turns: after `len(sizes)` steps every rank has had every kind equally often.
    turns = 6 * len(sizes)
    ranks = epoch(kinds, world, batch, num_samples=turns * batch * world)
    for steps in ranks:
        assert len(steps) == turns
        for local in steps:
            counts = Counter(kinds[draw.index] for draw in local)
            assert max(counts.values()) - min(counts[k] for k in set(kinds)) <= 1
        overall = Counter(kinds[draw.index] for local in steps for draw in local)
        assert set(overall.values()) == {turns * batch // len(sizes)}
    seen = {kind: [] for kind in set(kinds)}
    for draw in in_order(ranks):
        seen[kinds[draw.index]].append(draw.index)
    for kind, indices in seen.items():
        members = {i for i, k in enumerate(kinds) if k == kind}
        for start in range(0, len(indices), len(members)):
            whole = indices[start : start + len(members)]
            assert len(set(whole)) == len(whole)
            assert set(whole) <= members


@pytest.mark.parametrize(
    ("sizes", "batch"), [((7, 3, 2), 8), ((5, 4), 8), ((6,), 8), ((3,) * 5, 8)]
)
def test_more_ranks_see_together_what_one_sees(sizes, batch):
    one = epoch(strata(sizes), 1, batch, num_samples=100, seed=3)
    for world in (2, 4):
        many = epoch(strata(sizes), world, batch // world, num_samples=100, seed=3)
        for step, alone in enumerate(one[0]):
            assert [draw for rank in many for draw in rank[step]] == alone


def test_seed_and_epoch_decide():
    kinds = strata((20, 10))

    def order(**arguments):
        return in_order(epoch(kinds, 1, 4, **arguments))

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    for other in ({"seed": 1, "epoch": 3}, {"seed": 2, "epoch": 2}, {"seed": 2, "epoch": 1}):
        changed = order(**other)
        assert [d.index for d in changed] != [d.index for d in order(seed=1, epoch=2)]
        assert {d.seed for d in changed}.isdisjoint(d.seed for d in order(seed=1, epoch=2))


def test_iterating_twice_repeats_the_epoch():
    sampler = StratifiedSampler(strata((5, 3)), batch_size=2)
    assert list(sampler) == list(sampler)


def test_every_draw_has_a_seed_of_its_own():
    draws = in_order(epoch(strata((5, 3)), 2, 4, num_samples=400))
    assert len({draw.seed for draw in draws}) == len(draws)


@pytest.mark.parametrize(
    ("sizes", "batch", "world", "num_samples", "steps"),
    [
        ((7, 3), 4, 1, None, 4),  # 2 kinds of 7 each, in whole batches
        ((7, 3), 2, 2, None, 4),
        ((8,), 4, 1, None, 2),
        ((7, 3), 4, 1, 9, 3),
        ((7, 3), 4, 2, 1, 1),
    ],
)
def test_length(sizes, batch, world, num_samples, steps):
    for rank in epoch(strata(sizes), world, batch, num_samples=num_samples):
        assert len(rank) == steps


def test_the_most_frequent_kind_is_seen_once_by_default():
    kinds = strata((12, 4))
    draws = in_order(epoch(kinds, 1, 4))
    counts = Counter(draw.index for draw in draws)
    assert {counts[i] for i in range(12)} == {1}
    assert {counts[i] for i in range(12, 16)} == {3}


def test_a_long_run_of_small_batches_visits_kinds_at_a_regular_pace():
    kinds = strata((3, 3, 3, 3))
    sampler = StratifiedSampler(kinds, batch_size=1, num_replicas=2, rank=1, num_samples=2 * 400)
    order = [kinds[draw.index] for draw in islice(sampler, 400)]
    for kind in set(kinds):
        places = [i for i, k in enumerate(order) if k == kind]
        assert max(b - a for a, b in pairwise(places)) <= 2 * 4


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 10])
def test_evaluation_sees_every_image_once(size, world):
    ranks = [EvaluationSampler(size, num_replicas=world, rank=rank) for rank in range(world)]
    assert sorted(i for rank in ranks for i in rank) == list(range(size))
    for rank in ranks:
        assert len(rank) == len(list(rank))
        assert list(rank) == sorted(rank)
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
