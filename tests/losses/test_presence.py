"""Which classes are in an image, and the loss of it, against loops over the formula in float64."""

import math

import pytest
import torch

from semiweak.losses.presence import presence_loss, presence_targets
from semiweak.losses.reduction import mean_over_known

K = 4
SHAPES = [(5, 6), (3, 4, 2)]


def example(shape, batch=6):
    """Labels, candidates, padding, tags and boxes of which every rule has cases."""
    generator = torch.Generator().manual_seed(3)

    def draw(p, *size):
        return torch.rand(size, generator=generator) < p

    candidates = draw(0.7, batch, K, 1, 1).view(batch, K, *[1] * len(shape)) & draw(
        0.8, batch, K, *shape
    )
    labels = torch.full((batch, *shape), 255)
    for b in range(batch - 2):
        labels[b].flatten()[b : 2 * b] = torch.arange(b) % K
    valid = draw(0.8, batch, *shape)
    valid[1] = False
    labels[~valid] = 255
    tags = torch.randint(-1, 2, (batch, K), generator=generator, dtype=torch.int8)
    size = torch.tensor(shape)
    boxes, box_labels = [], []
    for b in range(batch):
        low = (torch.rand(b, len(shape), generator=generator) * size / 2).floor()
        high = torch.minimum(low + 1 + (b % 2) * size / 2, size)
        boxes.append(torch.cat([low, high], 1).float())
        box_labels.append(torch.randint(K, (b,), generator=generator))
    return labels, candidates, valid, tags, boxes, box_labels


def naive_presence_targets(labels, candidates, valid, tags, boxes=None, box_labels=None):
    size = labels.shape[1:]
    rows = []
    for b in range(len(labels)):
        pixels = [j for j, looked in enumerate(valid[b].flatten().tolist()) if looked]
        row = []
        for c in range(candidates.shape[1]):
            may = candidates[b, c].flatten().tolist()
            whole = False
            for box, of_class in zip(boxes[b], box_labels[b], strict=True) if boxes else ():
                low, high = box[: len(size)].tolist(), box[len(size) :].tolist()
                if of_class == c and all(
                    a > 0 and e < n for a, e, n in zip(low, high, size, strict=True)
                ):
                    whole = True
            if not pixels:
                row.append(-1)
            elif c in labels[b].flatten().tolist():
                row.append(1)
            elif not any(may[j] for j in pixels):
                row.append(0)
            elif whole or tags[b, c] == 1:
                row.append(1)
            else:
                row.append(-1)
        rows.append(row)
    return rows


def naive_presence_loss(logits, targets):
    values = []
    for row, said in zip(logits, targets.tolist(), strict=True):
        terms = []
        for z, t in zip(row, said, strict=True):
            p = 1 / (1 + torch.exp(-z))
            if t >= 0:
                terms.append(-(t * torch.log(p) + (1 - t) * torch.log(1 - p)))
        values.append(sum(terms) / len(terms) if terms else 0 * row.sum())
    return torch.stack(values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("boxed", [False, True])
def test_targets_are_the_rules(shape, boxed):
    labels, candidates, valid, tags, boxes, box_labels = example(shape)
    said = {"boxes": boxes, "box_labels": box_labels} if boxed else {}
    targets = presence_targets(labels, candidates, valid, tags, **said)
    expected = naive_presence_targets(labels, candidates, valid, tags, **said)
    assert targets.dtype == torch.int8
    assert targets.tolist() == expected
    assert {v for row in expected for v in row} == {-1, 0, 1}
    if boxed and len(shape) == 2:
        assert targets.tolist() != presence_targets(labels, candidates, valid, tags).tolist()


def nothing_known(size=8):
    return {
        "labels": torch.full((1, size, size), 255),
        "candidates": torch.ones(1, K, size, size, dtype=torch.bool),
        "valid": torch.ones(1, size, size, dtype=torch.bool),
        "tags": torch.full((1, K), -1, dtype=torch.int8),
    }


def test_nothing_said_is_nothing_known():
    assert presence_targets(**nothing_known()).tolist() == [[-1] * K]


def test_a_mask_implies_all_tags():
    batch = nothing_known()
    batch["labels"][0] = 1
    batch["labels"][0, 3:] = 2
    batch["candidates"] = torch.nn.functional.one_hot(batch["labels"], K).movedim(-1, 1).bool()
    assert presence_targets(**batch).tolist() == [[0, 1, 1, 0]]


def test_what_is_seen_in_the_patch_beats_the_tags_of_its_image():
    batch = nothing_known()
    batch["tags"][0] = torch.tensor([1, 1, 0, -1])
    batch["candidates"][0, 2] = False  # as absent tags do
    batch["candidates"][0, 1] = False  # painted otherwise in this patch
    batch["candidates"][0, 1, 5] = True  # ... but where it was padded
    batch["valid"][0, 5] = False
    assert presence_targets(**batch).tolist() == [[1, 0, 0, -1]]


def test_a_click_is_present_and_says_nothing_of_the_others():
    batch = nothing_known()
    batch["labels"][0, 4, 4] = 3
    batch["candidates"][0, :3, 4, 4] = False
    assert presence_targets(**batch).tolist() == [[-1, -1, -1, 1]]


def test_a_box_that_the_edge_cuts_may_hold_no_more_of_its_object():
    batch = nothing_known()
    for box, expected in (
        ([1, 2, 7, 6], 1),
        ([0, 2, 7, 6], -1),
        ([1, 2, 8, 6], -1),
        ([1, 0, 7, 6], -1),
        ([1, 2, 7, 8], -1),
    ):
        said = {"boxes": [torch.tensor([box]).float()], "box_labels": [torch.tensor([2])]}
        assert presence_targets(**batch, **said).tolist() == [[-1, -1, expected, -1]]


def test_no_valid_pixel_nothing_known():
    batch = nothing_known()
    batch["valid"][:] = False
    batch["candidates"][:] = False
    batch["tags"][:] = 1
    assert presence_targets(**batch).tolist() == [[-1] * K]


def logits_and_targets(batch=5):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(batch, K, dtype=torch.float64, generator=generator)
    targets = torch.randint(-1, 2, (batch, K), generator=generator, dtype=torch.int8)
    targets[1] = -1
    return logits.requires_grad_(), targets


def test_loss_and_gradient_are_the_formula():
    logits, targets = logits_and_targets()
    values, known = presence_loss(logits, targets)
    by_hand = naive_presence_loss(logits, targets)
    assert known.tolist() == [True, False, True, True, True]
    torch.testing.assert_close(values, by_hand)
    weights = torch.arange(1.0, 6, dtype=torch.float64)
    (found,) = torch.autograd.grad((weights * values).sum(), logits)
    (expected,) = torch.autograd.grad((weights * by_hand).sum(), logits)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda z: presence_loss(z, targets)[0], (logits,))


def test_a_value_worked_out_by_hand():
    # Probabilities 3/4 and 1/5: present and absent.
    logits = torch.tensor([[math.log(3), -math.log(4), 17.0]])
    values, _ = presence_loss(logits, torch.tensor([[1, 0, -1]]))
    assert values.item() == pytest.approx((math.log(4 / 3) + math.log(5 / 4)) / 2)


@pytest.mark.parametrize("bad", [1e30, math.inf, -math.inf, math.nan])
def test_a_class_of_which_nothing_is_known_changes_nothing(bad):
    logits, targets = logits_and_targets()
    other = logits.detach().masked_fill(targets < 0, bad).requires_grad_()
    losses = [mean_over_known(*presence_loss(z, targets)) for z in (logits, other)]
    assert losses[0] == losses[1]
    gradients = [torch.autograd.grad(x, z)[0] for x, z in zip(losses, (logits, other), strict=True)]
    assert torch.equal(*gradients)
    assert not gradients[0][targets < 0].any()
    assert (gradients[0][targets >= 0] != 0).all()


def test_with_nothing_known_the_loss_is_zero_with_a_zero_gradient():
    logits, targets = logits_and_targets()
    total = mean_over_known(*presence_loss(logits, torch.full_like(targets, -1)))
    assert total.item() == 0
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.equal(gradient, torch.zeros_like(logits))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(half):
    logits, targets = logits_and_targets()
    logits = (20 * logits.detach()).to(half)
    expected, _ = presence_loss(logits.double(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        values, _ = presence_loss(logits, targets)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)
