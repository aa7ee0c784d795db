"""Neighbours of one colour, and the pairwise loss, against loops in float64."""

import math

import numpy as np
import pytest
import torch
from naive_boxes import (
    FLAT,
    SOLID,
    all_neighbours,
    example,
    naive_noise_level,
    naive_pairwise_loss,
    naive_similarities,
    pixels_in,
)

from semiweak.losses.colour_affinity import (
    affinity_threshold,
    colour_affinity,
    noise_level,
    pairwise_loss,
)

SIZES = [FLAT, SOLID]
every_size = pytest.mark.parametrize("size", SIZES)


def image_of(size, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, *size, generator=generator, dtype=torch.float64)


def everywhere(image):
    return torch.ones(len(image), *image.shape[2:], dtype=torch.bool)


def naive_colour_affinity(image, valid, **options):
    """One of each opposite pair, and 0 where there is no neighbour."""
    size = tuple(image.shape[2:])
    pairs = naive_similarities(image, valid, **options)
    steps = sorted({s for at in pixels_in(size) for s, _ in all_neighbours(size, at, 1)})
    forward = [s for s in steps if s > (0,) * len(size)]
    found = torch.zeros(len(image), len(forward), *size, dtype=torch.float64)
    for b in range(len(image)):
        for at in pixels_in(size):
            for step, other in all_neighbours(size, at, options.get("dilation", 2)):
                assert pairs[b, at, other] == pytest.approx(pairs[b, other, at])
                if step in forward:
                    found[(b, forward.index(step), *at)] = pairs[b, at, other]
    return found


# The noise and the threshold


@every_size
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_the_noise_is_that_of_the_loop(size, dilation):
    image, valid = image_of(size), example(size)[-1]
    image[1, 0] = 7  # no contrast at all
    image[2, 1] = (torch.arange(size[-1]) > 2).double()  # no noise
    found = noise_level(image, valid, dilation=dilation)
    torch.testing.assert_close(found, naive_noise_level(image, valid, dilation=dilation))
    assert found[1, 0] == 1


def test_the_noise_is_seen_on_a_slope_and_beside_objects():
    generator = torch.Generator().manual_seed(0)
    image = 3 * torch.randn(1, 1, 200, 200, generator=generator)
    image += torch.linspace(0, 100, 200)
    image[..., 20:60, 20:90] += 50
    assert noise_level(image, everywhere(image)).item() == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_share_of_the_noisy_pairs_reaches_the_threshold(channels, share):
    """Simulated, and, for one channel, from the normal distribution."""
    generator = torch.Generator().manual_seed(channels)
    image = torch.randn(1, channels, 256, 256, generator=generator)
    image *= torch.tensor([0.01, 300, 1, 4, 2])[:channels].view(-1, 1, 1)
    similarity = colour_affinity(image, everywhere(image))
    threshold = affinity_threshold(channels, share=share)
    assert (similarity[..., 2:-2, 2:-2] >= threshold).double().mean() == pytest.approx(
        share, abs=0.01
    )


def naive_affinity_threshold(channels, theta=0.5, share=0.95):
    noise = np.random.default_rng(0).normal(size=(2, 400_000, channels))
    distances = np.sqrt(((noise[0] - noise[1]) ** 2).mean(1))
    return math.exp(-theta * np.quantile(distances, share))


@pytest.mark.parametrize(("channels", "value"), [(1, 0.250), (2, 0.294), (3, 0.319)])
def test_the_threshold_is_the_quantile_of_the_noise(channels, value):
    assert affinity_threshold(channels) == pytest.approx(value, abs=5e-4)
    for theta, share in ((0.5, 0.95), (2.0, 0.7)):
        found = affinity_threshold(channels, theta=theta, share=share)
        assert found == pytest.approx(naive_affinity_threshold(channels, theta, share), rel=0.01)
    assert affinity_threshold(1) == pytest.approx(math.exp(-0.5 * 1.959964 * math.sqrt(2)))


# The similarity


@every_size
@pytest.mark.parametrize("options", [{}, {"dilation": 1, "theta": 2.0}, {"smoothing": 3}])
def test_the_similarity_is_that_of_the_loop(size, options):
    image, valid = image_of(size), example(size)[-1]
    found = colour_affinity(image, valid, **options)
    assert found.shape[1] == (3 ** len(size) - 1) // 2
    torch.testing.assert_close(found, naive_colour_affinity(image, valid, **options))


def test_scale_and_offset_of_the_grey_values_change_nothing():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    image[..., 10:20, 8:30] += 3
    other = image * torch.tensor([0.001, -20.0, 3000.0]).view(3, 1, 1) + 5000
    valid = everywhere(image)
    found = colour_affinity(other, valid)
    torch.testing.assert_close(found, colour_affinity(image, valid))
    sixteen_bits = (3000 * image + 30_000).round().float()
    found = colour_affinity(sixteen_bits, valid)
    torch.testing.assert_close(found.double(), colour_affinity(image, valid), atol=1e-3, rtol=0)


def test_an_image_without_noise_has_edges_and_no_nan():
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8:] = 1
    similarity = colour_affinity(image, everywhere(image))
    assert similarity.isfinite().all()
    to_the_right = similarity[0, 0, :, :-2]
    assert (to_the_right[:, 6:8] < 1e-3).all()
    assert (to_the_right[:, [*range(6), *range(8, 14)]] == 1).all()
    same = colour_affinity(torch.full((1, 1, 16, 16), 3.0), everywhere(image))
    assert set(same.unique().tolist()) == {0.0, 1.0}  # 0 beyond the border


def test_an_edge_above_the_noise_is_seen():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, 64, 64, generator=generator)
    image[..., 32:] += 6
    alike = colour_affinity(image, everywhere(image)) >= affinity_threshold(1)
    to_the_right = alike[0, 0]
    assert to_the_right[:, 30:32].float().mean() < 0.05
    assert to_the_right[:, :30].float().mean() > 0.9


def test_beyond_the_border_and_in_padding_nothing_is_alike():
    image = torch.zeros(1, 1, 6, 6)
    valid = everywhere(image)
    valid[..., 4:] = False
    similarity = colour_affinity(image, valid)
    assert not similarity[..., 4:].any()
    assert not similarity[:, 0, :, 2:].any()  # (0, 2) to the right
    assert similarity[:, 0, :, :2].all()
    tiny = torch.zeros(1, 1, 2, 1)  # smaller than the distance of neighbours
    assert not colour_affinity(tiny, everywhere(tiny)).any()


# The loss


@every_size
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_loss_is_that_of_all_neighbours_of_every_pixel_in_a_box(size, dilation):
    logits, boxes, classes, _, valid = example(size)
    image = image_of(size)
    similarity = colour_affinity(image, valid, dilation=dilation)
    pairs = naive_similarities(image, valid, dilation=dilation)
    options = {"threshold": 0.5, "dilation": dilation}
    values, known = pairwise_loss(logits, boxes, classes, similarity, valid, **options)
    wanted, speaks = naive_pairwise_loss(logits, boxes, classes, pairs, **options)
    assert known.tolist() == speaks.tolist() == [True, True, False]
    torch.testing.assert_close(values, wanted)
    weights = torch.tensor([1.0, -2.0, 3.0])
    (grad,) = torch.autograd.grad((weights * values).sum(), logits)
    (naive,) = torch.autograd.grad((weights * wanted).sum(), logits)
    torch.testing.assert_close(grad, naive)
    assert grad[0].any()
    assert grad[1].any()
    assert not grad[2].any()


def test_the_gradient_of_the_pairwise_loss_is_the_numerical_one():
    logits, boxes, classes, _, valid = example(FLAT)
    similarity = colour_affinity(image_of(FLAT), valid)
    assert torch.autograd.gradcheck(
        lambda x: pairwise_loss(x, boxes, classes, similarity, valid, threshold=0.5)[0],
        (logits,),
        fast_mode=True,
    )


def two_pixels(first, second):
    """The loss of a row of three pixels in a box, of which the first and the third are alike."""
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 1, 0, 0], logits[0, 1, 0, 2] = first, second
    logits.requires_grad_()
    box, c = torch.tensor([[0, 0, 0, 1, 3]]), torch.tensor([1])
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    similarity = colour_affinity(torch.zeros(1, 1, 1, 3), valid)
    values, _ = pairwise_loss(logits, box, c, similarity, valid, threshold=0.5)
    (grad,) = torch.autograd.grad(values.sum(), logits)
    return values.item(), grad


def test_by_hand():
    value, _ = two_pixels(math.log(3), math.log(1 / 4))  # 0.75 and 0.2
    assert value == pytest.approx(-math.log(0.75 * 0.2 + 0.25 * 0.8))


@pytest.mark.parametrize("far", [40.0, 300.0, 1e4])
def test_certain_predictions_cost_what_they_must_and_nothing_overflows(far):
    for a, b in ((far, far), (-far, -far)):
        value, grad = two_pixels(a, b)
        assert value == pytest.approx(0, abs=1e-5)
        assert grad.isfinite().all()
    value, grad = two_pixels(far, -far)
    assert value == pytest.approx(far - math.log(2), rel=1e-5)
    assert grad.isfinite().all()
    assert grad[0, 1].flatten().tolist() == pytest.approx([0.5, 0, -0.5], abs=1e-4)


def test_a_certain_class_among_several_still_has_its_gradient():
    """1 - p is 0 in float32 from a margin of 17 on."""
    logits = torch.zeros(1, 4, 1, 3)
    logits[0, :, 0, 0] = torch.tensor([0.0, 30.0, 1.0, -2.0])
    logits[0, :, 0, 2] = torch.tensor([30.0, 0.0, 1.0, -2.0])
    exact = logits.double().requires_grad_()
    logits.requires_grad_()
    box, c = torch.tensor([[0, 0, 0, 1, 3]]), torch.tensor([1])
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    pairs = colour_affinity(torch.zeros(1, 1, 1, 3), valid)
    found, _ = pairwise_loss(logits, box, c, pairs, valid, threshold=0.5)
    naive, _ = naive_pairwise_loss(
        exact, box, c, naive_similarities(torch.zeros(1, 1, 1, 3).double(), valid), threshold=0.5
    )
    assert found.item() == pytest.approx(naive.item(), rel=1e-5)
    (grad,) = torch.autograd.grad(found.sum(), logits)
    (wanted,) = torch.autograd.grad(naive.sum(), exact)
    torch.testing.assert_close(grad.double(), wanted, atol=1e-5, rtol=1e-4)


def test_without_boxes_or_without_pairs_it_is_zero_with_a_gradient():
    logits, boxes, classes, _, valid = example(FLAT)
    similarity = colour_affinity(image_of(FLAT), valid)
    for given, known in (((boxes[:0], classes[:0]), False), ((boxes, classes), True)):
        values, speaks = pairwise_loss(
            logits, *given, similarity * (not known), valid, threshold=0.5
        )
        assert speaks.any() == known
        assert values.tolist() == [0, 0, 0]
        assert not torch.autograd.grad(values.sum(), logits)[0].any()


def test_padding_reaches_no_gradient():
    logits, boxes, classes, _, valid = example(FLAT)
    similarity = colour_affinity(image_of(FLAT), valid)
    values, _ = pairwise_loss(logits, boxes, classes, similarity, valid, threshold=0.5)
    (wanted,) = torch.autograd.grad(values.sum(), logits)
    other = logits.detach().masked_fill(~valid[:, None], math.nan).requires_grad_()
    found, _ = pairwise_loss(other, boxes, classes, similarity, valid, threshold=0.5)
    torch.testing.assert_close(found, values, rtol=0, atol=0)
    assert torch.equal(torch.autograd.grad(found.sum(), other)[0], wanted)


def test_half_precision_is_computed_in_float32():
    logits, boxes, classes, _, valid = example(FLAT)
    half = logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        similarity = colour_affinity(image_of(FLAT).bfloat16(), valid)
        values, _ = pairwise_loss(half, boxes, classes, similarity, valid, threshold=0.5)
    assert similarity.dtype == values.dtype == torch.float32
    exact = colour_affinity(image_of(FLAT).bfloat16().double(), valid)
    torch.testing.assert_close(similarity.double(), exact, rtol=1e-5, atol=1e-6)
    wanted, _ = pairwise_loss(half.double(), boxes, classes, exact, valid, threshold=0.5)
    torch.testing.assert_close(values.double(), wanted, rtol=1e-5, atol=1e-6)
