"""The terms of WGAN-GP on object masks: values by hand, and naive loops over the equations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from semiweak.losses.adversarial import critic_loss, generator_loss, gradient_penalty, mask_pairs
from semiweak.losses.objects import find_objects
from semiweak.networks.critic import Critic

MASKS, SIZE = 3, 6


def naive_critic_loss(fake: Tensor, real: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for score in fake:
        total = total + score / len(fake)
    for score in real:
        total = total - score / len(real)
    return total


def naive_generator_loss(fake: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for score in fake:
        total = total - score / len(fake)
    return total


def naive_gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, shares: Tensor
) -> Tensor:
    """One mask at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for r, f, u in zip(real, fake, shares, strict=True):
        x = ((1 - u) * r + u * f).clone().requires_grad_()
        (slope,) = torch.autograd.grad(critic(x[None])[0], x, create_graph=True)
        total = total + (slope.pow(2).sum().sqrt() - 1) ** 2 / len(real)
    return total


def naive_mask_pairs(
    embeddings: Tensor, instances: Tensor, valid: Tensor, width: float
) -> list[tuple[Tensor, Tensor]]:
    """Around the mean of each object, pixel by pixel."""
    pairs = []
    for e, ids, here in zip(embeddings, instances, valid, strict=True):
        for k in sorted(set(ids[here].tolist()) - {0}):
            member = (ids == k) & here
            anchor = e[:, member].mean(1)
            fake, real = [], []
            for i in range(ids.numel()):
                distance = (e[:, i] - anchor).pow(2).sum()
                fake.append(torch.exp(-distance / width) if here[i] else torch.zeros(()).double())
                real.append(float(member[i]))
            pairs.append((torch.stack(fake), torch.tensor(real, dtype=torch.float64)))
    return pairs


def masks(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(MASKS, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)


def small_critic() -> Critic:
    torch.manual_seed(0)
    return Critic(1, widths=[4, 6]).double()


def linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """A critic whose slope is the same everywhere."""
    return lambda x: (x * weight).flatten(1).sum(1)


def test_values_worked_out_by_hand() -> None:
    fake, real = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 0.0, 1.0])
    assert critic_loss(fake, real) == 0.0  # 2 - 2
    assert critic_loss(fake + 1, real) == 1.0
    assert generator_loss(fake) == -2.0


def test_penalty_of_a_linear_critic_is_known_and_has_the_known_slope() -> None:
    weight = torch.full((SIZE, SIZE), 0.5, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(linear(weight), masks(0), masks(1))
    assert penalty.item() == pytest.approx((0.5 * SIZE - 1) ** 2)
    penalty.backward()
    # d (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 2 * (3 - 1) * 0.5 / 3))


def test_penalty_of_a_flat_critic_is_one_and_has_a_gradient_without_nan() -> None:
    weight = torch.zeros(SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(linear(weight), masks(0), masks(1))
    penalty.backward()
    assert penalty.item() == 1
    assert not weight.grad.any()


def test_scores_agree_with_naive_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    fake, real = (
        torch.randn(n, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, 5)
    )
    for quick, slow in (
        (critic_loss(fake, real), naive_critic_loss(fake, real)),
        (generator_loss(fake), naive_generator_loss(fake)),
    ):
        torch.testing.assert_close(quick, slow)
        one, two = (
            torch.autograd.grad(loss, (fake, real), allow_unused=True) for loss in (quick, slow)
        )
        torch.testing.assert_close(one, two)


def test_penalty_agrees_with_a_naive_loop() -> None:
    critic, real, fake = small_critic(), masks(0), masks(1)
    shares = torch.rand(MASKS, generator=torch.Generator().manual_seed(3)).double()
    quick = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(3))
    slow = naive_gradient_penalty(critic, real, fake, shares)
    torch.testing.assert_close(quick, slow)
    weights = [w for name, w in critic.named_parameters() if not name.endswith("bias")]
    one, two = (torch.autograd.grad(loss, weights) for loss in (quick, slow))
    torch.testing.assert_close(one, two)
    assert all(slope.any() for slope in one)


def test_penalty_looks_between_the_masks_and_moves_neither() -> None:
    seen = []
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return (weight * x).flatten(1).sum(1)

    real = torch.zeros(50, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    fake = torch.ones(50, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    gradient_penalty(critic, real, fake).backward()
    assert real.grad is None
    assert fake.grad is None
    (points,) = seen
    assert torch.equal(points, points[:, :, :1, :1].expand_as(points))  # one share a mask
    shares = points[:, 0, 0, 0]
    assert 0 <= shares.min() < 0.2
    assert 0.8 < shares.max() < 1


def test_penalty_is_computed_in_float32_under_autocast() -> None:
    critic = small_critic().float()
    real, fake = masks(0).float(), masks(1).float()
    plain = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = gradient_penalty(critic, real, fake, torch.Generator().manual_seed(0))
        half = gradient_penalty(
            critic, real.bfloat16(), fake.bfloat16(), torch.Generator().manual_seed(0)
        )
    assert torch.equal(plain, cast)
    assert half.dtype == torch.float32


def test_without_masks_all_is_zero() -> None:
    none = torch.zeros(0, requires_grad=True)
    critic_loss(none, none).backward()
    assert critic_loss(none, none) == 0
    assert generator_loss(none) == 0
    empty = torch.zeros(0, 1, SIZE, SIZE)
    assert gradient_penalty(small_critic(), empty, empty) == 0


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, ids and what is valid, of 3 images of 20 pixels; the second has no object."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, 4, 20, generator=generator, dtype=torch.float64)
    instances = torch.randint(0, 4, (3, 20), generator=generator) * 5
    instances[1] = 0
    valid = torch.ones(3, 20, dtype=torch.bool)
    valid[2, 12:] = False
    return embeddings, instances, valid


def test_pairs_agree_with_a_naive_loop(images: tuple[Tensor, Tensor, Tensor]) -> None:
    embeddings, instances, valid = images
    embeddings.requires_grad_()
    fake, real = mask_pairs(
        embeddings, find_objects(instances, valid), delta_v=0.6, threshold=0.8, anchor="mean"
    )
    pairs = naive_mask_pairs(embeddings, instances, valid, -(0.6**2) / math.log(0.8))
    slow_fake, slow_real = (torch.stack(column) for column in zip(*pairs, strict=True))
    torch.testing.assert_close(fake, slow_fake)
    assert torch.equal(real, slow_real)
    weights = torch.rand(fake.shape, generator=torch.Generator().manual_seed(1)).double()
    one, two = (torch.autograd.grad((m * weights).sum(), embeddings) for m in (fake, slow_fake))
    torch.testing.assert_close(one, two)
    assert not one[0][1].any()  # the image without object


def test_a_random_pixel_of_the_object_selects_its_mask(
    images: tuple[Tensor, Tensor, Tensor],
) -> None:
    embeddings, instances, valid = images
    objects = find_objects(instances, valid)
    anchors = set()
    for seed in range(10):
        fake, real = mask_pairs(embeddings, objects, generator=torch.Generator().manual_seed(seed))
        for mask, member in zip(fake, real, strict=True):
            at = int(mask.argmax())
            assert mask[at].item() == pytest.approx(1, abs=1e-12)
            assert member[at] == 1
        anchors.add(int(fake[0].argmax()))
    assert len(anchors) > 1


def test_of_too_many_objects_some_are_drawn(images: tuple[Tensor, Tensor, Tensor]) -> None:
    embeddings, instances, valid = images
    objects = find_objects(instances, valid)
    _, every = mask_pairs(embeddings, objects)
    drawn = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        fake, real = mask_pairs(embeddings, objects, max_masks=2, generator=generator)
        assert fake.shape == real.shape == (2, 20)
        rows = [int((every == row).all(1).nonzero()[0]) for row in real]
        assert rows[0] < rows[1]  # none twice
        drawn.update(rows)
    assert drawn == set(range(len(every)))


@pytest.mark.parametrize("anchor", ["pixel", "mean"])
def test_without_objects_there_are_no_pairs_but_a_gradient(anchor: str) -> None:
    embeddings = torch.randn(2, 4, 20, requires_grad=True)
    fake, real = mask_pairs(
        embeddings, find_objects(torch.zeros(2, 20, dtype=torch.long)), anchor=anchor
    )
    assert fake.shape == real.shape == (0, 20)
    fake.sum().backward()
    assert not embeddings.grad.any()
