"""The supervised losses against loops over their formulas in float64."""

import math

import pytest
import torch

from semiweak.losses.reduction import mean_over_known
from semiweak.losses.supervised import cross_entropy, dice_loss

K = 4
LOSSES = [cross_entropy, dice_loss]
SHAPES = [(5, 6), (3, 4, 2)]


def example(shape=(5, 6), batch=3, dtype=torch.float64, ignore_index=255):
    """Logits and labels of which a third is unknown; in the first sample a class is missing."""
    generator = torch.Generator().manual_seed(7)
    logits = 2 * torch.randn(batch, K, *shape, dtype=dtype, generator=generator)
    labels = torch.randint(0, K, (batch, *shape), generator=generator)
    labels[0][labels[0] == 2] = 1
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = ignore_index
    return logits.requires_grad_(), labels


def softmax_by_hand(scores):
    exponentials = [torch.exp(s) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def naive_cross_entropy(logits, labels, ignore_index=255, weights=None):
    per_sample = []
    for x, y in zip(logits.flatten(2), labels.flatten(1), strict=True):
        numerator = denominator = 0.0
        for i in range(len(y)):
            if y[i] != ignore_index:
                w = 1.0 if weights is None else weights[y[i]]
                numerator = numerator - w * torch.log(softmax_by_hand(x[:, i])[y[i]])
                denominator = denominator + w
        per_sample.append(numerator / denominator)
    return torch.stack(per_sample)


def naive_dice_loss(logits, labels, ignore_index=255):
    per_sample = []
    for x, y in zip(logits.flatten(2), labels.flatten(1), strict=True):
        scores = []
        known = [i for i in range(len(y)) if y[i] != ignore_index]
        for c in sorted({int(y[i]) for i in known}):
            overlap = predicted = labelled = 0.0
            for i in known:
                p = softmax_by_hand(x[:, i])[c]
                overlap = overlap + p * (y[i] == c)
                predicted = predicted + p
                labelled = labelled + (y[i] == c)
            scores.append(2 * overlap / (predicted + labelled))
        per_sample.append(1 - sum(scores) / len(scores))
    return torch.stack(per_sample)


def gradient(values, logits):
    # Different weights a sample, so that one sample's gradient is not taken for another's.
    weights = torch.arange(1, len(values) + 1, dtype=values.dtype)
    return torch.autograd.grad((weights * values).sum(), logits)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ignore_index", [255, -100])
@pytest.mark.parametrize(
    ("loss", "naive"), [(cross_entropy, naive_cross_entropy), (dice_loss, naive_dice_loss)]
)
def test_value_and_gradient_are_the_formulas(loss, naive, ignore_index, shape):
    logits, labels = example(shape, ignore_index=ignore_index)
    values, known = loss(logits, labels, ignore_index=ignore_index)
    expected = naive(logits, labels, ignore_index)
    assert values.dtype == torch.float64
    assert values.shape == (3,)
    assert known.tolist() == [True, True, True]
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(gradient(values, logits), gradient(expected, logits))


def test_weighted_cross_entropy_is_the_formula_and_torchs():
    logits, labels = example()
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    values, _ = cross_entropy(logits, labels, class_weights=weights)
    expected = naive_cross_entropy(logits, labels, weights=weights)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(gradient(values, logits), gradient(expected, logits))
    for i in range(3):
        theirs = torch.nn.functional.cross_entropy(
            logits[i : i + 1], labels[i : i + 1], weight=weights, ignore_index=255
        )
        torch.testing.assert_close(values[i], theirs)


def test_class_weights_of_another_type_and_all_zero():
    logits, labels = example(dtype=torch.float32)
    labels[1] = 3
    weights = torch.tensor([1, 1, 1, 0])
    values, known = cross_entropy(logits, labels, class_weights=weights)
    assert known.tolist() == [True, False, True]
    assert values[1].item() == 0
    assert values.isfinite().all()


def test_values_worked_out_by_hand():
    # Two pixels of class 0 and one of class 1, probabilities 3/4, 1/4 and 1/2 for class 0; the
    # last pixel is unknown. Cross-entropy: (ln 4/3 + ln 4 + ln 2) / 3.
    logits = torch.tensor([[[[math.log(3), 0.0, 0.0, 9.0]], [[0.0, math.log(3), 0.0, 0.0]]]])
    labels = torch.tensor([[[0, 0, 1, 255]]])
    values, _ = cross_entropy(logits, labels)
    assert values.item() == pytest.approx((math.log(4 / 3) + math.log(4) + math.log(2)) / 3)
    # Dice of class 0: 2 (3/4 + 1/4) / (3/2 + 2) = 4/7; of class 1: 2 (1/2) / (3/2 + 1) = 2/5.
    values, _ = dice_loss(logits, labels)
    assert values.item() == pytest.approx(1 - (4 / 7 + 2 / 5) / 2)


def test_a_perfect_prediction():
    labels = torch.tensor([[[0, 1], [2, 255]]])
    one_hot = torch.nn.functional.one_hot(labels.clamp(max=3), K).movedim(-1, 1)
    for loss in LOSSES:
        values, _ = loss(200.0 * one_hot, labels)
        assert values.item() == pytest.approx(0, abs=1e-6)
        values, _ = loss(-200.0 * one_hot, labels)
        assert values.item() >= 1 - 1e-6


def test_a_class_that_does_not_occur_does_not_dilute_the_dice_loss():
    logits, labels = example()
    labels[0][labels[0] != 255] = 1
    value = dice_loss(logits[:1], labels[:1])[0]
    known = labels[0] != 255
    p = logits[0].softmax(0)[1][known]
    torch.testing.assert_close(value[0], 1 - 2 * p.sum() / (p.sum() + known.sum()))


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_by_finite_differences(loss):
    logits, labels = example((2, 3), batch=2)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels)[0], (logits,))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_batch_is_the_mean_of_its_samples(loss):
    logits, labels = example()
    batch = mean_over_known(*loss(logits, labels))
    singles = [mean_over_known(*loss(logits[i : i + 1], labels[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(batch, sum(singles) / 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_unlabelled_sample_neither_adds_nor_dilutes(loss):
    logits, labels = example()
    labels[1] = 255
    values, known = loss(logits, labels)
    assert known.tolist() == [True, False, True]
    assert values[1].item() == 0
    both = mean_over_known(values, known)
    (grad,) = torch.autograd.grad(both, logits)
    assert grad[1].count_nonzero() == 0
    rest = mean_over_known(*loss(logits[[0, 2]], labels[[0, 2]]))
    torch.testing.assert_close(both, rest)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_predicted_at_an_unknown_pixel_changes_nothing(loss):
    logits, labels = example()
    unknown = (labels == 255)[:, None].expand_as(logits)
    values, _ = loss(logits, labels)
    grad = gradient(values, logits)
    assert grad[unknown].count_nonzero() == 0
    assert (grad[~unknown] != 0).all()
    other = torch.where(unknown, 1e3 * torch.randn_like(logits), logits)
    assert torch.equal(loss(other, labels)[0], values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_with_nothing_known_the_loss_is_zero_with_a_zero_gradient(loss, shape):
    logits, labels = example(shape)
    labels[:] = 255
    values, known = loss(logits, labels)
    assert not known.any()
    total = mean_over_known(values, known)
    assert total.item() == 0
    (grad,) = torch.autograd.grad(total, logits)
    assert torch.equal(grad, torch.zeros_like(logits))


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("loss", LOSSES)
def test_huge_logits_stay_finite(loss, scale):
    logits, labels = example(dtype=torch.float32)
    logits = (scale * logits.detach().sign()).requires_grad_()
    labels[2] = 255
    total = mean_over_known(*loss(logits, labels))
    (grad,) = torch.autograd.grad(total, logits)
    assert total.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss, half):
    logits, labels = example((32, 32), dtype=torch.float32)
    logits = logits.detach().to(half)
    expected = loss(logits.double(), labels)[0]
    with torch.autocast("cpu", torch.bfloat16):
        leaf = logits.clone().requires_grad_()
        values = loss(leaf, labels)[0]
        weighted = loss(logits.float(), labels)[0]
    for v in (values, weighted):
        assert v.dtype == torch.float32
        torch.testing.assert_close(v.double(), expected, rtol=1e-5, atol=1e-6)
    values.sum().backward()
    assert leaf.grad.dtype == half
    assert leaf.grad.isfinite().all()


def test_mean_over_known_is_the_mean_of_the_known():
    values = torch.tensor([1.0, 50.0, 3.0], requires_grad=True)
    mean = mean_over_known(values, torch.tensor([True, False, True]))
    assert mean.item() == 2
    mean.backward()
    assert values.grad.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_mean_over_known_lets_nothing_leak_from_an_unknown_sample(bad):
    values = torch.tensor([1.0, bad], requires_grad=True)
    mean = mean_over_known(values, torch.tensor([True, False]))
    mean.backward()
    assert mean.item() == 1
    assert values.grad.tolist() == [1, 0]


def test_mean_over_known_of_nothing_is_a_zero_that_can_be_differentiated():
    values = torch.tensor([math.nan, 2.0], requires_grad=True)
    for total in (None, torch.tensor(0.0), torch.tensor(1.5)):
        values.grad = None
        mean = mean_over_known(values, torch.tensor([False, False]), total)
        mean.backward()
        assert mean.item() == 0
        assert values.grad.tolist() == [0, 0]


def test_ranks_that_divide_by_their_share_of_all_known_average_to_the_mean_over_all():
    weight = torch.tensor(3.0, requires_grad=True)
    data = [torch.tensor([1.0, 2.0, 4.0]), torch.tensor([8.0, 16.0, 32.0])]
    known = [torch.tensor([True, False, False]), torch.tensor([False, False, False])]
    everything = mean_over_known(weight * torch.cat(data), torch.cat(known))
    (expected,) = torch.autograd.grad(everything, weight)
    total = sum(k.sum() for k in known) / 2  # 1 known sample on 2 ranks: one half
    gradients = [
        torch.autograd.grad(mean_over_known(weight * d, k, total), weight)[0]
        for d, k in zip(data, known, strict=True)
    ]
    torch.testing.assert_close(sum(gradients) / 2, expected)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        (torch.zeros(3), torch.ones(3, 1, dtype=torch.bool)),
        (torch.zeros(3), torch.ones(2, dtype=torch.bool)),
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(()), torch.ones((), dtype=torch.bool)),
    ],
)
def test_mean_over_known_refuses_shapes_that_would_broadcast(values, known):
    with pytest.raises(ValueError, match=r"wants values \(B,\) and known bool \(B,\)"):
        mean_over_known(values, known)
