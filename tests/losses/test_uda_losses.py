"""UDA's consistency and its annealing against loops over the formulas in float64."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from semiweak.losses.reduction import mean_over_known
from semiweak.losses.uda import annealed_labels, annealing_threshold, kl_consistency

SIZES = [(3, 4), (2, 3, 2)]


def naive_softmax(logits):
    exps = [math.exp(x - max(logits)) for x in logits]
    return [e / sum(exps) for e in exps]


def naive_kl_consistency(weak, strong, valid=None, temperature=1.0, threshold=0.0):
    """One value a sample, None where nothing is valid."""
    values = []
    for n in range(len(weak)):
        total, number = 0 * (weak[n].sum() + strong[n].sum()), 0
        for u in product(*map(range, weak.shape[2:])):
            if valid is not None and not valid[(n, *u)]:
                continue
            number += 1
            p = weak[(n, slice(None), *u)]
            q = (strong[(n, slice(None), *u)]).softmax(0)
            if threshold > 0 and not p.softmax(0).max() > threshold:
                continue
            target = (p / temperature).softmax(0)
            for c in range(len(p)):
                total = total + target[c] * (target[c].log() - q[c].log())
        values.append(total / number if number else None)
    return values


def naive_annealing_threshold(step, steps, num_classes, schedule):
    t = step / steps
    share = {"linear": t, "log": 1 - math.exp(-5 * t), "exp": math.exp(5 * (t - 1))}[schedule]
    return 1 / num_classes + (1 - 1 / num_classes) * share


def naive_annealed_labels(logits, labels, threshold, ignore_index=255):
    found = labels.clone()
    for n, *u in product(*map(range, labels.shape)):
        label = labels[(n, *u)].item()
        if label != ignore_index:
            p = naive_softmax(logits[(n, slice(None), *u)].tolist())
            if p[label] > threshold:
                found[(n, *u)] = ignore_index
    return found


def views(size=(3, 4), batch=3, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shape = (2, batch, classes, *size)
    weak, strong = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return weak.to(dtype).requires_grad_(), strong.to(dtype).requires_grad_()


def mask(size=(3, 4), batch=3):
    valid = torch.rand(batch, *size, generator=torch.Generator().manual_seed(1)) < 0.6
    valid[1] = False  # one that shows nothing
    return valid


# The consistency of two views


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_consistency_is_that_of_the_loop(size, masked, temperature, threshold):
    weak, strong = views(size)
    valid = mask(size) if masked else None
    options = {"valid": valid, "temperature": temperature, "threshold": threshold}
    ours, known = kl_consistency(weak, strong, **options, stop_gradient=False)
    expected = naive_kl_consistency(weak, strong, **options)
    assert known.tolist() == [e is not None for e in expected]
    for value, e in zip(ours, expected, strict=True):
        assert value.item() == pytest.approx(0.0 if e is None else e.item(), rel=1e-12)
    weights = (3.0, 5.0, 7.0)
    total = sum(w * e for w, e in zip(weights, expected, strict=True) if e is not None)
    got = torch.autograd.grad((ours * torch.tensor(weights)).sum(), (weak, strong))
    for g, w in zip(got, torch.autograd.grad(total, (weak, strong)), strict=True):
        torch.testing.assert_close(g, w)


def test_the_weak_view_is_a_target_unless_said():
    weak, strong = views()
    values, _ = kl_consistency(weak, strong, temperature=0.5)
    other, _ = kl_consistency(weak, strong, temperature=0.5, stop_gradient=False)
    torch.testing.assert_close(values, other, rtol=0, atol=0)
    to_weak, to_strong = torch.autograd.grad(values.sum(), (weak, strong), allow_unused=True)
    assert to_weak is None
    # The gradient of a cross-entropy: q - target.
    expected = (strong.softmax(1) - (weak / 0.5).softmax(1)) / 12
    torch.testing.assert_close(to_strong, expected)
    assert torch.autograd.grad(other.sum(), weak)[0].any()


def test_by_hand():
    # (3/4, 1/4) against (1/2, 1/2), and a pixel that is not certain enough.
    weak = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log().mT[None, :, None]
    strong = torch.zeros(1, 2, 1, 2)
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    values, _ = kl_consistency(weak, strong, threshold=0.7)
    assert values.item() == pytest.approx(one / 2)  # it counts in the mean
    # Sharpened by T = 1/2: (9/10, 1/10). The threshold looks at 3/4.
    sharp = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    values, _ = kl_consistency(weak, strong, temperature=0.5, threshold=0.7)
    assert values.item() == pytest.approx(sharp / 2)
    values, known = kl_consistency(weak, strong, temperature=0.5, threshold=0.8)
    assert values.item() == 0
    assert known.item()


def test_a_threshold_that_is_just_reached_leaves_out():
    weak, strong = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert kl_consistency(weak, strong, threshold=0.5)[0].item() == 0  # UDA's > is strict
    assert kl_consistency(weak, strong, threshold=0.49)[0].item() > 0
    assert kl_consistency(weak, strong, threshold=0.0)[0].item() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_views_give_exactly_0(dtype):
    weak, _ = views(dtype=dtype)
    strong = weak.detach().clone().requires_grad_()
    values, known = kl_consistency(weak, strong, valid=mask())
    assert values.tolist() == [0, 0, 0]
    assert known.tolist() == [True, False, True]
    (grad,) = torch.autograd.grad(values.sum(), strong)
    assert grad.abs().max() < 1e-6


@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_stands_at_other_pixels_changes_nothing(what, threshold):
    weak, strong = views()
    valid = mask()
    options = {"valid": valid, "threshold": threshold, "stop_gradient": False}
    expected, _ = kl_consistency(weak, strong, **options)
    wanted = torch.autograd.grad(expected.sum(), (weak, strong))
    leaves = [
        x.detach().masked_fill(~valid[:, None], what).requires_grad_() for x in (weak, strong)
    ]
    ours, _ = kl_consistency(*leaves, **options)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    for g, w in zip(torch.autograd.grad(ours.sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=0)
        assert not g[~valid[:, None].expand_as(g)].any()


def test_no_sample_known_gives_0_with_a_graph():
    weak, strong = views()
    valid = torch.zeros(3, 3, 4, dtype=torch.bool)
    values, known = kl_consistency(weak, strong, valid=valid)
    assert not known.any()
    loss = mean_over_known(values, known)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, strong)[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 0.4, 0.01])
@pytest.mark.parametrize("scale", [1e4, 6e4, math.inf])
def test_large_logits_stay_finite(scale, temperature, dtype):
    weak, strong = ((scale * x.detach().sign()).to(dtype).requires_grad_() for x in views())
    for options in ({}, {"threshold": 0.6}, {"stop_gradient": False}):
        with torch.autocast("cpu", torch.bfloat16):
            values, _ = kl_consistency(weak, strong, temperature=temperature, **options)
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert (values > 0).all()
        (grad,) = torch.autograd.grad(values.sum(), strong, retain_graph=True)
        assert grad.isfinite().all()
        if "stop_gradient" in options:  # over T it may be more than float16 can hold
            (grad,) = torch.autograd.grad(values.sum(), weak)
            assert not grad.isnan().any()
            assert dtype == torch.float16 or grad.isfinite().all()
    if scale < math.inf:
        exact = [x.detach().double() for x in (weak, strong)]
        expected, _ = kl_consistency(*exact, temperature=temperature)
        torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(dtype, autocast):
    weak, strong = views(dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in (weak, strong)]
    expected, _ = kl_consistency(*exact, temperature=0.4, threshold=0.5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values, _ = kl_consistency(weak, strong, temperature=0.4, threshold=0.5)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)
    (got,) = torch.autograd.grad(values.sum(), strong)
    (wanted,) = torch.autograd.grad(expected.sum(), exact[1])
    torch.testing.assert_close(got, wanted.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize(
    ("weak", "strong", "options", "message"),
    [
        ((1, 2, 3, 3), (1, 3, 3, 3), {}, "two views"),
        ((1, 2), (1, 2), {}, "two views"),
        ((1, 2, 3, 3), (1, 2, 3, 3), {"valid": torch.ones(1, 3, 3)}, "valid"),
        ((1, 2, 3, 3), (1, 2, 3, 3), {"valid": torch.ones(1, 2, 3, 3).bool()}, "valid"),
        ((1, 2, 3, 3), (1, 2, 3, 3), {"temperature": 0.0}, "temperature"),
    ],
)
def test_what_does_not_fit_is_refused(weak, strong, options, message):
    with pytest.raises(ValueError, match=message):
        kl_consistency(torch.zeros(weak), torch.zeros(strong), **options)


# Training signal annealing


@pytest.mark.parametrize("schedule", ["linear", "log", "exp"])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_threshold_is_the_formula_and_rises(schedule, classes):
    found = [annealing_threshold(t, 8, classes, schedule) for t in range(9)]
    expected = [naive_annealing_threshold(t, 8, classes, schedule) for t in range(9)]
    assert found == pytest.approx(expected, rel=1e-14)
    assert found == sorted(set(found))
    assert annealing_threshold(20, 8, classes, schedule) == found[-1]


def test_the_ends_of_the_threshold():
    assert annealing_threshold(0, 10, 4, "linear") == 0.25
    assert annealing_threshold(0, 10, 4, "log") == 0.25
    assert annealing_threshold(10, 10, 4, "linear") == 1
    assert annealing_threshold(10, 10, 4, "exp") == 1
    assert annealing_threshold(5, 10, 4) == 0.625
    half = [annealing_threshold(5, 10, 4, s) for s in ("exp", "linear", "log")]
    assert half == sorted(half)


def test_a_schedule_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="schedule"):
        annealing_threshold(1, 10, 4, "cosine")
    with pytest.raises(ValueError, match="steps"):
        annealing_threshold(0, 0, 4)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("ignore_index", [255, -1])
@pytest.mark.parametrize("size", SIZES)
def test_annealed_labels_are_those_of_the_loop(size, ignore_index, threshold):
    logits, _ = views(size)
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (3, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = ignore_index
    before = labels.clone()
    ours = annealed_labels(logits, labels, threshold, ignore_index)
    expected = naive_annealed_labels(logits, labels, threshold, ignore_index)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    torch.testing.assert_close(labels, before, rtol=0, atol=0)
    assert not ours.requires_grad
    if threshold < 1:
        assert 0 < (ours != labels).sum() < (labels != ignore_index).sum()
    else:
        assert (ours == labels).all()


def test_a_probability_of_just_the_threshold_stays():
    logits, labels = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)
    assert annealed_labels(logits, labels, 0.5).item() == 0
    assert annealed_labels(logits, labels, 0.49).item() == 255


def test_annealing_looks_at_the_labelled_class_not_at_the_prediction():
    logits = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
    wrong = torch.ones(1, 1, 1, dtype=torch.long)
    assert annealed_labels(logits, wrong, 0.5).item() == 1
    assert annealed_labels(logits.half(), 0 * wrong, 0.5).item() == 255


def test_the_authors_supervised_loss_comes_of_cross_entropy():
    logits, _ = views()
    labels = torch.randint(3, (3, 3, 4), generator=torch.Generator().manual_seed(2))
    left = annealed_labels(logits, labels, 0.5)
    losses = F.cross_entropy(logits, labels, reduction="none")
    keep = losses.neg().exp() <= 0.5
    expected = (losses * keep).sum() / max(1, keep.sum())
    torch.testing.assert_close(F.cross_entropy(logits, left, ignore_index=255), expected)
