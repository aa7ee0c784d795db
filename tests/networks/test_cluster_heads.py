"""Cluster heads: which one predicts, what clusters mean, and when they have collapsed."""

import pytest
import torch

from semiweak.networks.cluster_heads import ClusterHeads


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return ClusterHeads(3, 4, number=2, spatial_dims=2)


def end_of_epoch(heads, *steps):
    for losses, probabilities in steps:
        heads.observe([torch.tensor(v) for v in losses], torch.tensor(probabilities)[None, :, None])
    return heads.conclude(heads.seen.clone())


CERTAIN = [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
HALVES = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
EVEN = [[0.25, 0.25]] * 4


def test_the_head_with_the_lowest_mean_loss_predicts(heads):
    features = torch.randn(1, 3, 2, 2)
    first, second = heads(features)
    assert torch.equal(heads.logits(features), first)
    end_of_epoch(heads, ((0.0, -0.5), EVEN), ((-0.5, -0.2), EVEN))  # means -0.25 and -0.35
    assert int(heads.best) == 1
    assert torch.equal(heads.logits(features), second)
    # The sums were forgotten: by both epochs together the second head would still lead.
    end_of_epoch(heads, ((-0.3, -0.25), EVEN))
    assert int(heads.best) == 0


def test_another_head_has_other_clusters(heads):
    heads.mapping.copy_(torch.tensor([1, 0, 1, 1]))
    end_of_epoch(heads, ((-1.0, 0.0), EVEN))
    assert heads.mapping.tolist() == [1, 0, 1, 1]
    end_of_epoch(heads, ((0.0, -1.0), EVEN))
    assert heads.mapping.tolist() == [-1] * 4


@pytest.mark.parametrize(
    ("steps", "entropy"),
    [
        ([CERTAIN], 0.0),
        ([EVEN], 1.0),
        ([HALVES], 0.5),  # log 2 / log 4
        ([HALVES, CERTAIN], 0.40564),  # shares 3/4 and 1/4
    ],
)
def test_entropy_of_the_mean_probabilities(heads, steps, entropy):
    found = end_of_epoch(heads, *(((0.0, 0.0), p) for p in steps))
    assert found == pytest.approx(entropy, abs=1e-5)


def test_what_was_seen_is_forgotten_after_the_epoch(heads):
    assert heads.seen is None
    end_of_epoch(heads, ((0.0, 0.0), EVEN))
    assert heads.seen is None


def test_probabilities_of_clusters_add_up_by_class(heads):
    heads.mapping.copy_(torch.tensor([2, 0, 2, 0]))
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1)
    classes = heads.classes(probabilities, 3).flatten().tolist()
    assert classes == pytest.approx([0.6, 0.0, 0.4])


def test_clusters_without_a_meaning_are_no_classes(heads):
    with pytest.raises(ValueError, match="what the 4 clusters mean is not known"):
        heads.classes(torch.rand(1, 4, 2, 2), 3)


def test_meaning_and_choice_are_kept_and_sums_are_not(heads):
    end_of_epoch(heads, ((0.0, 0.0), EVEN))
    heads.observe([torch.zeros(())] * 2, torch.tensor(EVEN)[None, :, None])
    # Distributed training copies all buffers of the first process to the others at every step.
    assert {name for name, _ in heads.named_buffers()} == {"best", "mapping"}
    assert {"best", "mapping"} <= set(heads.state_dict())


def test_volumes():
    heads = ClusterHeads(3, 2, number=1, spatial_dims=3)
    (logits,) = heads(torch.randn(1, 3, 2, 4, 4))
    assert logits.shape == (1, 2, 2, 4, 4)
    heads.observe([torch.zeros(())], logits.softmax(1))
    assert heads.seen[1:-1].sum().item() == pytest.approx(1)
