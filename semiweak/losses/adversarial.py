"""Adversarial training on object masks by WGAN-GP (SPOCO paper, appendix A.1, Eq 1 to 3).

A critic tells painted masks from soft masks: large values for true ones. Its objective, V_D, is
`critic_loss` plus lambda times `gradient_penalty`; that of the embedding network is
`generator_loss`. The method is that of Gulrajani et al., "Improved Training of Wasserstein GANs",
NeurIPS 2017, arXiv 1704.00028.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from semiweak.losses.objects import Objects, object_means, random_pixels
from semiweak.losses.pixels import pick
from semiweak.losses.single_objects import soft_masks


def critic_loss(fake_scores: Tensor, real_scores: Tensor) -> Tensor:
    """By how much the critic takes false masks for true ones (Eq 2, first two terms).

        E[ D(fake) ] - E[ D(real) ]

    Args:
        fake_scores: What the critic says of soft masks, ``(M,)``.
        real_scores: What it says of painted ones, ``(M',)``.

    Returns:
        A scalar of either sign: minus the critic's estimate of the Wasserstein distance. A mean
        over no masks is 0.
    """
    return _mean(fake_scores) - _mean(real_scores)


def generator_loss(fake_scores: Tensor) -> Tensor:
    """L_wgan of the network whose masks the critic judges (Eq 3).

        -E[ D(fake) ]

    Args:
        fake_scores: What the critic says of soft masks, ``(M,)``.

    Returns:
        A scalar of either sign; 0 if there is no mask.
    """
    return -_mean(fake_scores)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Keeps the slope of the critic near 1 between true and false masks (Eq 2, last term).

        E[ ( ||grad D(x)|| - 1 )^2 ],   x = real + u (fake - real),   u uniform in [0, 1)

    One u is drawn for each pair of masks. It is computed in float32 also under autocast: the
    gradient of a gradient in half precision is mostly rounding.

    Args:
        critic: Gives each mask ``(M, 1, *S)`` a value ``(M,)``, and looks at each by itself.
        real: Painted masks, ``(M, 1, *S)``.
        fake: Soft masks, ``(M, 1, *S)``.
        generator: Draws u.

    Returns:
        A scalar, differentiable by the weights of the critic and not by the masks; 0 if there is no
        mask.
    """
    if not len(real):
        return real.new_zeros(())
    with torch.autocast(real.device.type, enabled=False):
        real, fake = (m.detach().to(torch.promote_types(m.dtype, torch.float32))
                      for m in (real, fake))  # fmt: skip
        place = generator.device if generator is not None else real.device
        u = torch.rand(len(real), generator=generator, device=place).to(real)
        x = torch.lerp(real, fake, u.view(-1, *[1] * (real.ndim - 1))).requires_grad_()
        # Each mask has a value of its own, so that the gradient of the sum holds those of all.
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        # The derivative of the norm at 0 is 0 here, not NaN.
        norm: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
        return (norm - 1).square().mean()


def mask_pairs(
    embeddings: Tensor,
    objects: Objects,
    *,
    delta_v: float = 0.5,
    threshold: float = 0.9,
    anchor: Literal["pixel", "mean"] = "pixel",
    max_masks: int = 8,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft and painted masks of the same objects, for the critic to tell apart.

    Args:
        embeddings: ``(B, D, N)``.
        objects: The objects of the N pixels.
        delta_v: See `soft_masks`.
        threshold: See `soft_masks`.
        anchor: What selects the soft mask of an object: a random ``"pixel"`` of it, or its
            ``"mean"``.
        max_masks: Of more objects in the batch, so many are drawn.
        generator: Draws anchors and objects.

    Returns:
        Soft masks ``(M, N)``, kept for autograd, and painted masks ``(M, N)`` of zeros and ones,
        both 0 in padding. M is 0 if no object is painted.
    """
    if anchor == "mean":
        anchors = object_means(embeddings, objects)
    else:
        anchors = pick(embeddings, random_pixels(objects, generator))
    image, number = torch.nonzero(objects.exists, as_tuple=True)
    if len(image) > max_masks:
        place = generator.device if generator is not None else torch.device("cpu")
        drawn = torch.randperm(len(image), generator=generator, device=place)[:max_masks]
        drawn = drawn.sort().values.to(image.device)
        image, number = image[drawn], number[drawn]
    # No rows, but a way for the gradient if there is no object.
    fakes, reals = [embeddings[:0, 0]], []
    for i in torch.unique(image).tolist():
        chosen = number[image == i]
        masks = soft_masks(
            embeddings[i : i + 1],
            anchors[i : i + 1, chosen],
            delta_v=delta_v,
            threshold=threshold,
        )[0]
        here = objects.number[i]
        fakes.append(torch.where(here >= 0, masks, 0.0) if objects.padded else masks)
        reals.append(here == chosen[:, None] + 1)
    fake = torch.cat(fakes)
    return fake, torch.cat(reals).to(fake.dtype) if reals else fake.detach()


def _mean(scores: Tensor) -> Tensor:
    """The mean; of nothing 0, with a gradient."""
    return scores.sum() / max(1, len(scores))
