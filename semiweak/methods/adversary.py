"""The critic of object masks, what it is shown, and what it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from semiweak.losses.adversarial import critic_loss, generator_loss, gradient_penalty, mask_pairs
from semiweak.losses.objects import Objects
from semiweak.networks.critic import Critic


class Adversary(nn.Module):
    """A critic of the masks that embeddings give of objects.

    It works in float32 at any precision of the rest, so that no gradient needs scaling.

    Args:
        spatial_dims: 2 or 3.
        widths: See `Critic`.
        penalty_weight: Weight of the gradient penalty.
        max_masks: So many objects of a batch are looked at together.
        delta_v: See `soft_masks`.
        threshold: See `soft_masks`.
        anchor: See `mask_pairs`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        widths: list[int],
        penalty_weight: float,
        max_masks: int,
        delta_v: float,
        threshold: float,
        anchor: Literal["pixel", "mean"],
    ) -> None:
        super().__init__()
        if penalty_weight < 0:
            raise ValueError(
                f"gradient_penalty_weight is {penalty_weight}; it must not be negative"
            )
        if max_masks < 1:
            raise ValueError(f"max_masks is {max_masks}; it must be at least 1")
        self.critic = Critic(1, spatial_dims=spatial_dims, widths=widths)
        self.penalty_weight = penalty_weight
        self.max_masks = max_masks
        self.settings: dict[str, Any] = {
            "delta_v": delta_v,
            "threshold": threshold,
            "anchor": anchor,
            "max_masks": max_masks,
        }

    def forward(self, masks: Tensor) -> Tensor:
        """One value a mask, ``(M,)``, of masks ``(M, 1, *S)``."""
        if not len(masks):
            return masks.flatten(1).sum(1)
        with torch.autocast(masks.device.type, enabled=False):
            scores: Tensor = self.critic(masks)
        return scores

    def generator_loss(self, f: Tensor, objects: Objects) -> Tensor:
        """L_wgan (Eq 3) of objects in the embeddings ``(B, D, *S)``; 0 if there is none."""
        fake, _ = self._draw(f, objects)
        return generator_loss(self(fake))

    def losses(self, f: Tensor, objects: Objects) -> dict[str, Tensor]:
        """``critic`` and ``gradient_penalty`` (Eq 2); no gradient reaches the embeddings."""
        fake, real = self._draw(f.detach(), objects)
        fake_scores, real_scores = self(torch.cat((fake, real))).chunk(2)
        return {
            "critic": critic_loss(fake_scores, real_scores),
            "gradient_penalty": gradient_penalty(self, real, fake),
        }

    def _draw(self, f: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """Soft and painted masks, ``(M, 1, *S)`` each."""
        fake, real = mask_pairs(f.flatten(2), objects, **self.settings)
        return fake.view(-1, 1, *f.shape[2:]), real.view(-1, 1, *f.shape[2:])

    def take_steps(
        self,
        optimizer: torch.optim.Optimizer,
        f: Tensor,
        objects: Objects,
        *,
        steps: int,
        share: float,
        mean_over_ranks: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Takes steps, each on newly drawn objects and anchors; all ranks are to do so together.

        Args:
            optimizer: Of the weights of the critic.
            f: Embeddings ``(B, D, *S)``.
            objects: The painted objects.
            steps: How many.
            share: Weight of this rank's loss; 0 if it has no object.
            mean_over_ranks: Averages a tensor over the ranks.

        Returns:
            The means of `losses`, without gradient; empty if this rank has no object.
        """
        sums: dict[str, Tensor] = {}
        for _ in range(steps):
            optimizer.zero_grad()
            if share > 0:
                terms = self.losses(f, objects)
                total = terms["critic"] + self.penalty_weight * terms["gradient_penalty"]
                torch.autograd.backward(share * total)
                sums = {name: v.detach() + sums.get(name, 0) for name, v in terms.items()}
            for weight in self.parameters():
                slope = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad = mean_over_ranks(slope)
            optimizer.step()
        return {name: v / steps for name, v in sums.items()}
