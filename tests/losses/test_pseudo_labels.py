"""Pseudo-labels and their loss against loops over the formulas in float64."""

import math

import pytest
import torch

from semiweak.losses.pseudo_labels import PseudoLabels, pseudo_label_loss, pseudo_labels
from semiweak.losses.reduction import mean_over_known
from semiweak.losses.supervised import cross_entropy

K = 4
SHAPES = [(5, 6), (3, 4, 2)]
SETTINGS = [
    {},
    {"threshold": 0.6},
    {"soft": True},
    {"soft": True, "temperature": 0.4, "threshold": 0.5},
    {"soft": True, "temperature": 2.0},
]


def example(shape=(5, 6), batch=3, dtype=torch.float64):
    """Logits of two views; candidates, of which some pixels have one or none; padding."""
    generator = torch.Generator().manual_seed(7)
    weak, strong = (
        2 * torch.randn(batch, K, *shape, dtype=dtype, generator=generator) for _ in range(2)
    )
    candidates = torch.rand(batch, K, *shape, generator=generator) < 0.6
    candidates[0].flatten(1)[:, 3] = False  # contradictory annotations
    candidates[0].flatten(1)[:, 4] = torch.tensor([False, False, True, False])
    valid = torch.rand(batch, *shape, generator=generator) < 0.8
    valid[0].flatten()[:5] = True
    return weak, strong.requires_grad_(), candidates, valid


def softmax_by_hand(scores, temperature=1.0):
    exponentials = {c: math.exp(s / temperature) for c, s in scores.items()}
    return {c: e / sum(exponentials.values()) for c, e in exponentials.items()}


def naive_pseudo_labels(
    logits, candidates=None, valid=None, threshold=0.0, soft=False, temperature=1.0
):
    """For each image and pixel: whether it can have a target, and the target's probabilities."""
    images = []
    for b, image in enumerate(logits.flatten(2).tolist()):
        pixels = []
        for j in range(len(image[0])):
            classes = range(len(image))
            if candidates is not None:
                classes = [c for c in classes if candidates[b].flatten(1)[c, j]]
            possible = bool(classes) and (valid is None or bool(valid[b].flatten()[j]))
            target = None
            if possible:
                scores = {c: image[c][j] for c in classes}
                p = softmax_by_hand(scores)
                best = max(p, key=p.get)
                if p[best] >= threshold:
                    target = softmax_by_hand(scores, temperature) if soft else {best: 1.0}
            pixels.append((possible, target))
        images.append(pixels)
    return images


def naive_pseudo_label_loss(logits, images):
    per_sample = []
    for x, pixels in zip(logits.flatten(2), images, strict=True):
        total, number = 0.0, 0
        for j, (possible, target) in enumerate(pixels):
            number += possible
            for c, share in (target or {}).items():
                q = torch.exp(x[c, j]) / torch.exp(x[:, j]).sum()
                total = total - share * torch.log(q)
        per_sample.append(total / number)
    return torch.stack(per_sample)


def gradient(values, logits):
    # Different weights a sample, so that one sample's gradient is not taken for another's.
    weights = torch.arange(1, len(values) + 1, dtype=values.dtype)
    return torch.autograd.grad((weights * values).sum(), logits)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("filtered", [True, False])
def test_labels_loss_and_gradient_are_the_formulas(shape, settings, filtered):
    weak, strong, candidates, valid = example(shape)
    options = {"candidates": candidates, "valid": valid} if filtered else {}
    labels = pseudo_labels(weak, **options, **settings)
    naive = naive_pseudo_labels(weak, **options, **settings)

    flat = [pixel for image in naive for pixel in image]
    assert labels.possible.flatten().tolist() == [possible for possible, _ in flat]
    assert labels.keep.flatten().tolist() == [target is not None for _, target in flat]
    dense = [[(target or {}).get(c, 0.0) for c in range(K)] for _, target in flat]
    if settings.get("soft"):
        got = labels.targets.movedim(1, -1).reshape(-1, K)
        torch.testing.assert_close(got, torch.tensor(dense, dtype=torch.float64))
    else:
        expected = [row.index(1.0) if any(row) else 255 for row in dense]
        assert labels.targets.dtype == torch.int64
        assert labels.targets.flatten().tolist() == expected

    values, known = pseudo_label_loss(strong, labels)
    by_hand = naive_pseudo_label_loss(strong, naive)
    assert known.tolist() == [True, True, True]
    torch.testing.assert_close(values, by_hand)
    torch.testing.assert_close(gradient(values, strong), gradient(by_hand, strong))


def test_values_worked_out_by_hand():
    # Probabilities 3/4 and 1/4, then 1/2 and 1/2, then 1/4 and 3/4; the last may be class 0 only.
    third = math.log(3)
    logits = torch.tensor([[[[third, 0.0, 0.0]], [[0.0, 0.0, third]]]])
    candidates = torch.tensor([[[[True, True, True]], [[True, True, False]]]])
    labels = pseudo_labels(logits, candidates, threshold=0.75)
    assert labels.targets.tolist() == [[[0, 255, 0]]]
    # The mean is over all three pixels, though two are kept: -(ln 3/4 + ln 1/4) / 3.
    values, _ = pseudo_label_loss(logits, labels)
    assert values.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 3)


def test_the_threshold_keeps_what_reaches_it():
    logits = torch.zeros(1, 2, 1, 1)
    assert pseudo_labels(logits, threshold=0.5).keep.all()
    assert not pseudo_labels(logits, threshold=0.5 + 1e-6).keep.any()
    assert pseudo_labels(logits, threshold=0.0).keep.all()


def test_a_pixel_with_one_candidate_is_kept_at_any_threshold_whatever_its_logits():
    generator = torch.Generator().manual_seed(0)
    logits = 1e4 * torch.randn(2, K, 8, 8, generator=generator)
    painted = torch.randint(K, (2, 8, 8), generator=generator)
    candidates = torch.nn.functional.one_hot(painted, K).movedim(-1, 1).bool()
    for soft in (False, True):
        labels = pseudo_labels(logits, candidates, threshold=1.0, soft=soft)
        assert labels.keep.all()
        classes = labels.targets.argmax(1) if soft else labels.targets
        assert torch.equal(classes, painted)


def test_the_threshold_looks_at_probabilities_that_are_not_sharpened():
    logits = torch.tensor([1.0, 0.0])[None, :, None]  # 0.73 and 0.27; sharpened 0.9999
    for temperature in (0.1, 10.0):
        settings = {"soft": True, "temperature": temperature}
        assert pseudo_labels(logits, threshold=0.7, **settings).keep.all()
        assert not pseudo_labels(logits, threshold=0.74, **settings).keep.any()


def test_the_loss_of_painted_pixels_is_the_cross_entropy_of_the_painting():
    _, strong, _, valid = example()
    painted = torch.randint(K, valid.shape, generator=torch.Generator().manual_seed(1))
    candidates = torch.nn.functional.one_hot(painted, K).movedim(-1, 1).bool()
    labels = pseudo_labels(torch.randn_like(strong), candidates, valid=valid)
    values, _ = pseudo_label_loss(strong, labels)
    torch.testing.assert_close(values, cross_entropy(strong, painted.where(valid, 255))[0])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_gradient_goes_through_the_targets(settings):
    weak, strong, candidates, valid = example()
    weak.requires_grad_()
    labels = pseudo_labels(weak, candidates, valid=valid, **settings)
    assert not labels.targets.requires_grad
    values, _ = pseudo_label_loss(strong + 0 * weak, labels)
    values.sum().backward()
    assert not weak.grad.any()


def test_a_prediction_that_is_its_own_soft_target_has_nothing_to_learn():
    _, logits, _, valid = example()
    values, _ = pseudo_label_loss(logits, pseudo_labels(logits, valid=valid, soft=True))
    assert (values > 0.1).all()  # the entropy
    torch.testing.assert_close(gradient(values, logits), torch.zeros_like(logits))
    sharpened = pseudo_labels(logits, valid=valid, soft=True, temperature=0.5)
    assert gradient(pseudo_label_loss(logits, sharpened)[0], logits).abs().max() > 1e-3


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("bad", [1e30, math.inf, -math.inf, math.nan])
def test_what_stands_at_a_pixel_that_is_not_kept_changes_nothing(bad, soft):
    weak, strong, candidates, valid = example()
    settings = {"valid": valid, "threshold": 0.6, "soft": soft}
    labels = pseudo_labels(weak, candidates, **settings)
    values, _ = pseudo_label_loss(strong, labels)
    grad = gradient(values, strong)
    kept = labels.keep[:, None].expand_as(strong)
    assert not labels.keep.all()
    assert not grad[~kept].any()
    assert (grad[kept] != 0).all()

    outside = ~labels.possible[:, None]
    again = pseudo_labels(weak.masked_fill(outside, bad), candidates, **settings)
    assert torch.equal(again.targets, labels.targets)
    assert torch.equal(again.keep, labels.keep)
    other = strong.detach().masked_fill(~kept, bad).requires_grad_()
    values_again, _ = pseudo_label_loss(other, labels)
    assert torch.equal(values_again, values)
    assert torch.equal(gradient(values_again, other), grad)


def test_a_logit_that_is_not_a_number_is_no_label():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0, 0] = math.nan
    for soft in (False, True):
        labels = pseudo_labels(logits, soft=soft)
        assert labels.keep.tolist() == [[[False, True]]]
        assert labels.targets.isfinite().all()
        values, known = pseudo_label_loss(torch.zeros(1, 2, 1, 2), labels)
        assert known.all()
        assert values.item() == pytest.approx(math.log(2) / 2)  # one of two pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_huge_and_infinite_logits_stay_finite(dtype, temperature, soft):
    rows = [
        [math.inf, 0.0, -math.inf],
        [-math.inf, -math.inf, -math.inf],
        [math.inf, math.inf, 0.0],
        [torch.finfo(dtype).max, torch.finfo(dtype).min, 0.0],
        [-math.inf, 1.0, 2.0],
    ]
    logits = torch.tensor(rows).to(dtype).T[None]
    candidates = torch.ones_like(logits, dtype=torch.bool)
    candidates[0, :, 4] = torch.tensor(
        [True, False, False]
    )  # the impossible one is all that is left
    labels = pseudo_labels(logits, candidates, soft=soft, temperature=temperature)
    assert labels.keep.all()
    classes = labels.targets.max(1).indices if soft else labels.targets
    assert classes.tolist() == [[0, 0, 0, 0, 0]]
    if soft:
        torch.testing.assert_close(labels.targets.sum(1), torch.ones(1, 5))
        torch.testing.assert_close(labels.targets[0, :, 1], torch.full((3,), 1 / 3))
    student = torch.zeros(1, 3, 5, dtype=dtype, requires_grad=True)
    values, _ = pseudo_label_loss(student, labels)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert values.item() == pytest.approx(math.log(3), rel=1e-3)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_half_precision_is_computed_in_float32(half, settings):
    weak, strong, candidates, valid = example((16, 16))
    weak, strong = weak.to(half), strong.detach().to(half)
    exact = pseudo_labels(weak.double(), candidates, valid=valid, **settings)
    expected, _ = pseudo_label_loss(strong.double(), exact)
    with torch.autocast("cpu", torch.bfloat16):
        labels = pseudo_labels(weak, candidates, valid=valid, **settings)
        values, _ = pseudo_label_loss(strong, labels)
    assert torch.equal(labels.keep, exact.keep)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_batch_is_the_mean_of_its_samples_and_one_without_pixels_does_not_count(settings):
    weak, strong, candidates, valid = example()
    valid[1] = False
    labels = pseudo_labels(weak, candidates, valid=valid, **settings)
    values, known = pseudo_label_loss(strong, labels)
    assert known.tolist() == [True, False, True]
    assert values[1].item() == 0
    single = []
    for i in (0, 2):
        one = slice(i, i + 1)
        alone = pseudo_labels(weak[one], candidates[one], valid=valid[one], **settings)
        single.append(pseudo_label_loss(strong[one], alone)[0][0])
    torch.testing.assert_close(mean_over_known(values, known), sum(single) / 2)


@pytest.mark.parametrize("nothing", ["valid", "candidates", "threshold"])
@pytest.mark.parametrize("soft", [False, True])
def test_with_nothing_kept_the_loss_is_zero_with_a_zero_gradient(nothing, soft):
    weak, strong, candidates, valid = example()
    threshold = 0.0
    if nothing == "valid":
        valid[:] = False
    elif nothing == "candidates":
        candidates[:] = False
    else:
        weak, threshold, candidates = torch.zeros_like(weak), 0.9, None
    labels = pseudo_labels(weak, candidates, valid=valid, threshold=threshold, soft=soft)
    assert not labels.keep.any()
    values, known = pseudo_label_loss(strong, labels)
    # Below the threshold is no reason not to count: it is a sample of which nothing was kept.
    assert known.all() if nothing == "threshold" else not known.any()
    total = mean_over_known(values, known)
    assert total.item() == 0
    (grad,) = torch.autograd.grad(total, strong)
    assert torch.equal(grad, torch.zeros_like(strong))


def test_pixels_below_the_threshold_dilute():
    """The mean is over all pixels: half as many kept pixels have half the loss."""
    strong = torch.zeros(1, 2, 1, 4)
    all_four = torch.ones(1, 1, 4, dtype=torch.bool)
    two = torch.tensor([[[True, True, False, False]]])
    zeros = torch.zeros(1, 1, 4, dtype=torch.int64)
    full, _ = pseudo_label_loss(strong, PseudoLabels(zeros, all_four, all_four))
    half, _ = pseudo_label_loss(strong, PseudoLabels(zeros.where(two, 255), two, all_four))
    assert half.item() == pytest.approx(full.item() / 2)


def test_derivatives_by_finite_differences():
    weak, strong, candidates, valid = example((2, 3), batch=2)
    for settings in SETTINGS:
        labels = pseudo_labels(weak, candidates, valid=valid, **settings)
        assert torch.autograd.gradcheck(lambda x, t=labels: pseudo_label_loss(x, t)[0], (strong,))
