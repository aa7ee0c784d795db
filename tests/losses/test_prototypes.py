"""DSP's scores, negatives and loss against loops over its formulas in float64."""

import math

import pytest
import torch
from naive_dsp import (
    assert_same,
    example,
    gradients,
    naive_log_sum_exp,
    naive_log_z,
    naive_mask_positives,
    naive_negatives,
    naive_prototype_loss,
    naive_prototype_scores,
)

from semiweak.losses.positives import mask_positives, point_positives
from semiweak.losses.prototypes import (
    Negatives,
    Positives,
    log_sum_exp,
    negatives,
    prototype_loss,
    prototype_scores,
)

SIZES = [(3, 4), (2, 3, 2)]


def vectors(size=(3, 4), batch=2, dim=5, classes=3, number=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    embeddings = 2 * torch.randn(batch, dim, *size, generator=generator, dtype=torch.float64)
    prototypes = 3 * torch.randn(classes, number, dim, generator=generator, dtype=torch.float64)
    return embeddings.to(dtype).requires_grad_(), prototypes.to(dtype).requires_grad_()


def channels_last(x):
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.detach().contiguous(memory_format=last).requires_grad_()


def labels_of(scores, seed=2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(scores.shape[1], (len(scores), *scores.shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.4] = 255
    return labels


def pinned(candidates, labels):
    """The candidates of pixels of which some have a label: that alone."""
    known = labels != 255
    only = torch.nn.functional.one_hot(labels.masked_fill(~known, 0), candidates.shape[1])
    return torch.where(known[:, None], only.movedim(-1, 1).bool(), candidates)


def whole_loss(scores, labels, candidates, valid):
    return prototype_loss(negatives(scores, candidates, valid), mask_positives(scores, labels))


# The scores


@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.005])
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_scores_are_those_of_the_loop(layout, size, number, temperature):
    embeddings, prototypes = vectors(size, number=number)
    if layout == "channels_last":
        embeddings = channels_last(embeddings)
    ours = prototype_scores(embeddings, prototypes, temperature)
    expected = naive_prototype_scores(embeddings, prototypes, temperature)
    assert ours.abs().max() <= 1 / temperature
    assert_same(ours, expected, (embeddings, prototypes))


def test_scores_of_a_slice_and_of_a_transposed_image_are_those_of_the_loop():
    embeddings, prototypes = vectors((4, 6))
    for part in (embeddings[:, :, 1:3, ::2], embeddings.mT, embeddings[:, :4]):
        own = prototypes[..., : part.shape[1]]
        ours = prototype_scores(part, own)
        assert_same(ours, naive_prototype_scores(part, own), (embeddings, prototypes))


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_lies_in_memory_as_the_embeddings_do(size):
    embeddings, prototypes = vectors(size)
    for x in (embeddings, channels_last(embeddings)):
        (grad,) = gradients(prototype_scores(x, prototypes).sum(), x)
        assert grad.stride() == x.stride()


def test_the_temperature_is_005_unless_said():
    embeddings, prototypes = vectors()
    expected = 20 * prototype_scores(embeddings, prototypes, 1.0)
    torch.testing.assert_close(prototype_scores(embeddings, prototypes), expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_the_scores_is_the_numerical_one(layout, size):
    embeddings, prototypes = vectors(size, batch=2, number=3)
    if layout == "channels_last":
        embeddings = channels_last(embeddings)
    assert torch.autograd.gradcheck(prototype_scores, (embeddings, prototypes, 0.5))
    for leaf in (embeddings, prototypes):  # each by itself
        leaf.requires_grad_(False)
        assert torch.autograd.gradcheck(prototype_scores, (embeddings, prototypes, 0.5))
        leaf.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(dtype, autocast):
    embeddings, prototypes = vectors(dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in (embeddings, prototypes)]
    expected = naive_prototype_scores(*exact)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = prototype_scores(embeddings, prototypes)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
        got = gradients(ours.square().sum(), embeddings, prototypes)
    wanted = gradients(expected.square().sum(), *exact)
    for g, w in zip(got, wanted, strict=True):
        assert g.dtype == dtype
        # Rounded once, to the type of the leaf.
        torch.testing.assert_close(g, w.to(dtype), rtol=torch.finfo(dtype).eps * 2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_an_embedding_of_length_0_scores_0_with_a_finite_gradient(layout, dtype):
    embeddings, prototypes = vectors(dtype=dtype)
    with torch.no_grad():
        embeddings[0, :, 0, 0] = 0
        embeddings[1, :, 2] *= 1e-9  # shorter than what it is divided by
        prototypes[1, 0] = 0
    if layout == "channels_last":
        embeddings = channels_last(embeddings)
    ours = prototype_scores(embeddings, prototypes)
    assert not ours[0, :, 0, 0].any()
    exact = [x.detach().double().requires_grad_() for x in (embeddings, prototypes)]
    expected = naive_prototype_scores(*exact)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)
    got = gradients(ours.sum(), embeddings, prototypes)
    for g, w in zip(got, gradients(expected.sum(), *exact), strict=True):
        assert g.isfinite().all()
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-3)


def test_the_mean_prototype_scores_as_the_mean_over_prototypes():
    embeddings, prototypes = vectors(number=5)
    mean = torch.nn.functional.normalize(prototypes, dim=2).mean(1)
    direction = torch.nn.functional.normalize(embeddings, dim=1)
    expected = torch.einsum("bdhw,cd->bchw", direction, mean)
    each = torch.nn.functional.normalize(prototypes, dim=2)
    cosines = torch.einsum("bdhw,cpd->bcphw", direction, each).mean(2)
    torch.testing.assert_close(expected, cosines)
    assert_same(prototype_scores(embeddings, prototypes, 1.0), cosines, (embeddings, prototypes))


def test_neither_length_changes_a_score():
    embeddings, prototypes = vectors()
    expected = prototype_scores(embeddings, prototypes)
    lengths = torch.rand(2, 1, 3, 4, dtype=torch.float64) + 0.1
    torch.testing.assert_close(prototype_scores(lengths * embeddings, prototypes), expected)
    lengths = torch.rand(3, 2, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(prototype_scores(embeddings, lengths * prototypes), expected)


# The negatives


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padded", [True, False])
def test_negatives_are_those_of_the_loop(size, padded):
    scores, candidates, valid = example(size)
    if not padded:
        valid = torch.ones_like(valid)
    for given in (valid, None) if not padded else (valid,):
        ours = negatives(scores, candidates, given)
        for part, expected in zip(ours, naive_negatives(scores, candidates, valid), strict=True):
            assert_same(part, expected, (scores,))
        assert_same(ours.log_z(), naive_log_z(scores, candidates, valid), (scores,))


def test_the_gradient_of_the_negatives_is_the_numerical_one():
    scores, candidates, valid = example()
    candidates[:, 2] = True  # one without any that is impossible

    def finite_parts(x):
        everywhere, impossible = negatives(x, candidates, valid)
        return everywhere, impossible[:2]

    assert torch.autograd.gradcheck(finite_parts, (scores,))
    assert torch.autograd.gradcheck(lambda x: negatives(x, candidates, valid).log_z(), (scores,))


def test_a_channels_last_layout_of_the_scores_changes_nothing():
    scores, candidates, valid = example()
    other = channels_last(scores)
    torch.testing.assert_close(
        negatives(other, channels_last_bool(candidates), valid).log_z(),
        negatives(scores, candidates, valid).log_z(),
    )
    assert_same(
        negatives(other, candidates, valid).log_z(),
        naive_log_z(other, candidates, valid),
        (other,),
    )


def channels_last_bool(x):
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [20.0, 200.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_scores_stay_finite(dtype, scale):
    scores, candidates, valid = example()
    scores = (scale * scores.detach().sign()).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = negatives(scores, candidates, valid)
        log_z = found.log_z()
    exact = scores.detach().double().requires_grad_()
    assert log_z.dtype == torch.float32
    for part, k in zip(found, (candidates >= 0, ~candidates), strict=True):
        used = exact.masked_fill(~(k & valid[:, None]), -math.inf)
        expected = used.logsumexp((0, 2, 3))
        torch.testing.assert_close(part.double(), expected, rtol=1e-5, atol=1e-5)
    (grad,) = gradients(log_z.sum(), scores)
    assert grad.dtype == dtype
    assert grad.isfinite().all()


def test_impossible_scores_far_below_the_highest_are_not_lost():
    scores = torch.full((1, 2, 2, 2), 100.0, requires_grad=True)
    candidates = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    candidates[0, 0, 0, 0] = False
    with torch.no_grad():
        scores[0, 0, 0, 0] = -100
        scores[0, 1] = -1000
    found = negatives(scores, candidates)
    assert found.impossible.tolist() == [-100, -math.inf]
    # Alone it is Z of class 0: the other class is farther below still.
    assert found.log_z()[0].item() == -100
    (grad,) = gradients(found.log_z()[0], scores)
    assert grad[0, 0, 0, 0] == 1
    assert grad.sum() == 1


def test_the_negatives_of_a_class_by_hand():
    scores = torch.log(torch.tensor([[[2.0, 3.0]], [[5.0, 7.0]]])).movedim(1, 0)[:, :, None]
    candidates = torch.ones(1, 2, 1, 2, dtype=torch.bool)
    assert negatives(scores, candidates).log_z().exp().tolist() == pytest.approx([12, 5])
    candidates[0, 0, 0, 1] = False  # the second pixel is not class 0
    assert negatives(scores, candidates).log_z().exp().tolist() == pytest.approx([15, 5])
    candidates[0, 1] = False
    assert negatives(scores, candidates).log_z().exp().tolist() == pytest.approx([15, 17])
    valid = torch.tensor([[[True, False]]])
    assert negatives(scores, candidates, valid).log_z().exp().tolist() == pytest.approx([5, 7])


@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf, 1e30])
def test_what_stands_in_padding_counts_nowhere(what):
    scores, candidates, valid = example()
    expected = negatives(scores, candidates, valid)
    (wanted,) = gradients(expected.log_z().sum(), scores)
    for possible in (True, False):
        other = scores.detach().masked_fill(~valid[:, None], what).requires_grad_()
        found = candidates.masked_fill(~valid[:, None], possible)
        ours = negatives(other, found, valid)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
        (grad,) = gradients(ours.log_z().sum(), other)
        torch.testing.assert_close(grad, wanted, rtol=0, atol=0)
        assert not grad[~valid[:, None].expand_as(grad)].any()


def test_nothing_at_all_is_negative():
    scores, candidates, valid = example()
    for outside in (torch.zeros_like(valid), None):
        x = scores if outside is not None else scores.detach()[:0].requires_grad_()
        found = negatives(x, candidates[: len(x)], outside)
        assert found.everywhere.tolist() == found.impossible.tolist() == [-math.inf] * 3
        assert found.log_z().tolist() == [-math.inf] * 3
        loss = prototype_loss(found, Positives(3 * x.sum() + torch.ones(3), torch.ones(3)))
        assert loss.item() == 0
        (grad,) = gradients(loss, x)
        assert not grad.any()


@pytest.mark.parametrize("dim", [0, 1])
def test_log_sum_exp_is_that_of_the_loop(dim):
    x = torch.randn(4, 3, dtype=torch.float64)
    x[1, 2] = -math.inf
    x[:, 0] = x[2] = -math.inf
    x.requires_grad_()
    rows = x if dim == 1 else x.T
    assert_same(log_sum_exp(x, dim), naive_log_sum_exp(rows), (x,))
    total = log_sum_exp(x, dim)
    (grad,) = gradients(torch.where(total > -math.inf, total, 0).sum(), x)
    assert grad.isfinite().all()
    assert not grad[2].any()
    assert log_sum_exp(torch.tensor([[1e4, 1e4]]), 1).item() == pytest.approx(1e4 + math.log(2))


# The loss


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", [2, 4])
def test_the_loss_is_that_of_the_loop(size, classes):
    scores, candidates, valid = example(size, classes=classes)
    labels = labels_of(scores).masked_fill(~valid, 255)
    candidates = pinned(candidates, labels)
    expected = naive_prototype_loss(scores, candidates, valid, naive_mask_positives(scores, labels))
    assert_same(whole_loss(scores, labels, candidates, valid), expected, (scores,))


@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.005])
@pytest.mark.parametrize("size", SIZES)
def test_from_embeddings_to_the_loss_it_is_that_of_the_loop(size, temperature):
    embeddings, prototypes = vectors(size)
    _, candidates, valid = example(size)
    labels = labels_of(candidates).masked_fill(~valid, 255)
    candidates = pinned(candidates, labels)
    ours = whole_loss(
        prototype_scores(embeddings, prototypes, temperature), labels, candidates, valid
    )
    scores = naive_prototype_scores(embeddings, prototypes, temperature)
    expected = naive_prototype_loss(scores, candidates, valid, naive_mask_positives(scores, labels))
    assert_same(ours, expected, (embeddings, prototypes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.05, 0.005, 1e-4])
def test_a_tiny_temperature_overflows_nothing(temperature, dtype):
    embeddings, prototypes = vectors(dtype=dtype)
    _, candidates, valid = example()
    labels = labels_of(candidates).masked_fill(~valid, 255)
    candidates = pinned(candidates, labels)
    loss = whole_loss(
        prototype_scores(embeddings, prototypes, temperature), labels, candidates, valid
    )
    assert loss.isfinite()
    for grad in gradients(loss, embeddings, prototypes):
        assert grad.isfinite().all()
        assert grad.any()


def test_the_loss_by_hand_begins_at_0():
    # The authors' code begins to add up the positives at 1.
    found = Negatives(torch.log(torch.tensor([2.0, 3.0, 5.0])), torch.full((3,), -math.inf))
    positives = Positives(torch.tensor([4.0, 0.0, 9.0]), torch.tensor([2.0, 0.0, 3.0]))
    expected = math.log(3 + 5) - 2 + math.log(2 + 3) - 3
    assert prototype_loss(found, positives).item() == pytest.approx(expected)
    found = found._replace(impossible=torch.log(torch.tensor([4.0, 8.0, 0.0])))
    expected = math.log(3 + 5 + 4) - 2 + math.log(2 + 3) - 3
    assert prototype_loss(found, positives).item() == pytest.approx(expected)


def test_the_order_of_the_classes_changes_nothing():
    # In the authors' code later classes weigh less.
    scores, candidates, valid = example(classes=4)
    labels = labels_of(scores).masked_fill(~valid, 255)
    candidates = pinned(candidates, labels)
    expected = whole_loss(scores, labels, candidates, valid)
    (grad,) = gradients(expected, scores)
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        new = torch.tensor(order).argsort()
        moved = torch.where(labels == 255, 255, new[labels.clamp_max(3)])
        ours = whole_loss(scores[:, order], moved, candidates[:, order], valid)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(gradients(ours, scores)[0], grad)


def test_a_class_without_a_positive_adds_nothing():
    scores, candidates, valid = example()
    labels = labels_of(scores).masked_fill(~valid, 255)
    labels[labels == 1] = 255
    found, positives = negatives(scores, candidates, valid), mask_positives(scores, labels)
    log_z, means = found.log_z(), positives.sums / positives.counts
    assert positives.counts[1] == 0
    expected = (log_z - means)[[0, 2]].sum()
    torch.testing.assert_close(prototype_loss(found, positives), expected)
    nobody = mask_positives(scores, torch.full_like(labels, 255))
    loss = prototype_loss(found, nobody)
    assert loss.item() == 0
    assert not gradients(loss, scores)[0].any()


def test_one_class_that_is_possible_everywhere_has_no_negative_and_adds_nothing():
    scores, _, valid = example(classes=1)
    everything = torch.ones_like(scores, dtype=torch.bool)
    labels = torch.zeros_like(valid, dtype=torch.long)
    loss = whole_loss(scores, labels, everything, valid)
    (grad,) = gradients(loss, scores)
    assert loss.item() == 0
    assert not grad.any()
    everything[0, 0, 0, 0] = False
    assert whole_loss(scores, labels, everything, valid).item() != 0


def test_an_unlabelled_image_changes_the_negatives_only():
    scores, candidates, valid = example()
    labels = labels_of(scores).masked_fill(~valid, 255)
    candidates = pinned(candidates, labels)
    more = torch.cat((scores, 2 * scores.detach().flip(0)))
    blank = torch.full_like(labels, 255)
    wider = torch.cat((candidates, torch.ones_like(candidates)))
    together = mask_positives(more, torch.cat((labels, blank)))
    alone = mask_positives(scores, labels)
    torch.testing.assert_close(together, alone, rtol=0, atol=0)  # nothing is diluted
    before, after = (
        negatives(scores, candidates, valid),
        negatives(more, wider, torch.cat((valid, valid))),
    )
    torch.testing.assert_close(after.impossible, before.impossible)
    added = negatives(more[2:], wider[2:], valid).everywhere
    torch.testing.assert_close(after.everywhere, torch.logaddexp(before.everywhere, added))
    assert (after.log_z() > before.log_z()).all()


def test_a_positive_pixel_is_a_negative_of_the_other_classes_only():
    scores, _, _ = example((2, 2), batch=1)
    candidates = torch.ones_like(scores, dtype=torch.bool)
    labels = torch.full((1, 2, 2), 255)
    labels[0, 0, 1] = 2
    candidates = pinned(candidates, labels)
    log_z = negatives(scores, candidates).log_z()
    for c in range(3):
        (grad,) = gradients(log_z[c], scores)
        at = grad[0, :, 0, 1] > 0
        # Z_c has the score of class c at the pixel only where it has another class.
        assert at.tolist() == [k != c or c != 2 for k in range(3)]
        assert (grad[0, :, 1, 1] > 0).tolist() == [k != c for k in range(3)]
    pixel, own = torch.tensor([[0, 0, 1]]), torch.tensor([2])
    loss = prototype_loss(negatives(scores, candidates), point_positives(scores, pixel, own))
    (grad,) = gradients(loss, scores)
    assert grad[0, 2, 0, 1].item() == -1  # decoupled: drawn up with all its weight
