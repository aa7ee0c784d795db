"""SPOCO against a critic of its object masks, by WGAN-GP."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from semiweak.data.annotations import Kind
from semiweak.data.batch import InstanceBatch
from semiweak.losses.objects import Objects, find_objects
from semiweak.methods.adversary import Adversary
from semiweak.methods.embedding import EmbeddingModule


class AdversarialSpocoModule(EmbeddingModule):
    """SPOCO whose object masks must pass for painted ones (Wolny et al., CVPR 2022, appendix A.1).

    A critic D learns to tell the painted masks of objects from the soft masks that anchors in them
    select. The network f learns SPOCO's terms and to make soft masks that the critic takes for
    painted ones. The paper recommends it beside the object loss, or, with ``object_weight=0``, in
    its place.

        f:  L_SO + zeta L_wgan, or L_SSO + zeta L_wgan,   L_wgan = -E[D(fake)]           (Eq 1, 3)
        D:  E[D(fake)] - E[D(real)] + lambda E[(||grad D|| - 1)^2]                       (Eq 2)

    How it is trained:

    - At every batch the critic takes ``critic_steps`` steps, each on newly drawn objects and
      anchors in the embeddings of this batch; then f takes one, and the moving average g follows.
    - In the first ``adversarial_warmup`` steps of f, zeta is 0. The critic learns from the first
      step on: the paper delays L_wgan alone, lest an untrained critic lead f astray.
    - ``global_step`` and ``max_steps`` of the Trainer count the steps of f. Its learning rate falls
      on a plateau as in the other methods, that of the critic is fixed.
    - The critic works in float32 at any precision. With several GPUs, by DDP, it learns from the
      objects of all.
    - Accumulation and clipping of gradients and ``--optimizer`` are refused: they do not say which
      of the two optimisers they mean.

    The log has ``train/adversarial``, L_wgan, and, as means over the critic's steps,
    ``train/critic``, the first two terms of D, and ``train/gradient_penalty``.

    Args:
        in_channels: Channels of the images.
        embedding_dim: D, the dimension of the embeddings.
        spatial_dims: 2 or 3.
        network: See `build_network`.
        widths: Feature maps of the U-Net, a level each.
        norm: Normalisation of the U-Net; the paper has ``"group"`` for electron microscopy and 3D.
        encoder: Encoder of the other architectures.
        encoder_weights: Their pretrained weights, such as ``"imagenet"``; downloads them.
        delta_v: Within this distance of its object's mean, a pixel is not pulled; the radius of an
            object in the space of embeddings.
        delta_d: Objects are pushed until their means are twice this from each other.
        threshold: t, the value of the soft mask at distance ``delta_v`` from its anchor.
        object_loss: Compares soft mask and object by ``"dice"`` or ``"bce"``.
        anchor: Anchor of an object, for the object loss and the critic: a random ``"pixel"`` of it,
            or its ``"mean"``.
        max_anchors: At most so many anchors an image are drawn to cover the unlabelled region.
        consistency_region: Where they are drawn: in the ``"unlabelled"`` region, or in ``"all"`` of
            the image.
        pull_weight: Weight of the pull.
        push_weight: Weight of the push.
        norm_weight: Weight of the regulariser.
        object_weight: Weight of the object loss.
        unlabeled_push_weight: Weight of the unlabelled push.
        consistency_weight: Weight of the consistency. A term of weight 0 is left out.
        adversarial_weight: Weight of L_wgan after the warm-up (zeta).
        adversarial_warmup: So many steps of f are made without it.
        critic_widths: The channels of the critic, a level each.
        critic_steps: Steps of the critic for each step of f (n_critic).
        gradient_penalty_weight: Weight of the gradient penalty (lambda).
        critic_lr: Learning rate of the critic's Adam.
        max_masks: The critic looks at no more objects than this of a batch at a time, drawn anew
            each time. Each takes some 0.4 GB for a patch of 224 x 224 pixels, in proportion.
        g_network: The second network: ``"momentum"``: a moving average of f; ``"shared"``: f
            itself; ``"dropout"``: f with spatial dropout in the bottleneck; ``"trained"``: one with
            weights of its own.
        momentum: m of the moving average.
        momentum_warmup: See `Teacher`.
        dropout: Probability of dropping a channel, for ``"dropout"``.
        photometric: Strengths and probabilities of the views, as the arguments of `Photometric`;
            the others have its defaults.
        augment_f: Whether f sees a view, too; else it sees the image as it is.
        lr: Learning rate of the Adam of f.
        weight_decay: Its weight decay; the critic has none.
        lr_factor: The learning rate of f is multiplied by this when the validation SBD stops
            improving; 1 keeps it as it is.
        lr_patience: After this many validations without improvement.
        min_lr: It does not fall below this.
    """

    annotation_terms: ClassVar[frozenset[str]] = EmbeddingModule.annotation_terms | {"adversarial"}
    term_kinds: ClassVar[dict[str, frozenset[Kind]]] = {
        **EmbeddingModule.term_kinds,
        "adversarial": frozenset({"instances", "objects"}),
    }

    def __init__(
        self,
        *,
        in_channels: int = 1,
        embedding_dim: int = 16,  # A.1
        spatial_dims: Literal[2, 3] = 2,
        network: str = "unet",
        widths: list[int] = [16, 32, 64, 128, 256, 512],  # noqa: B006 never changed; A.1 Table 1
        norm: Literal["batch", "group", "none"] = "batch",
        encoder: str = "resnet34",
        encoder_weights: str | None = None,
        delta_v: float = 0.5,  # section 3.1
        delta_d: float = 2.0,
        threshold: float = 0.9,  # section 3.1, A.7
        object_loss: Literal["dice", "bce"] = "dice",
        anchor: Literal["pixel", "mean"] = "pixel",
        max_anchors: int = 20,
        consistency_region: Literal["unlabelled", "all"] = "unlabelled",
        pull_weight: float = 1.0,  # Eq 5: alpha = beta = lambda = 1
        push_weight: float = 1.0,
        norm_weight: float = 0.001,  # footnote 1
        object_weight: float = 1.0,
        unlabeled_push_weight: float = 1.0,  # Eq 8: gamma = delta = 1
        consistency_weight: float = 1.0,
        adversarial_weight: float = 0.1,  # this and the next five: A.1, Table 4
        adversarial_warmup: int = 50_000,
        critic_widths: list[int] = [64, 128, 256, 512],  # noqa: B006 never changed
        critic_steps: int = 5,
        gradient_penalty_weight: float = 10.0,
        critic_lr: float = 1e-4,
        max_masks: int = 8,
        g_network: Literal["momentum", "shared", "dropout", "trained"] = "momentum",  # A.3
        momentum: float = 0.999,  # A.6
        momentum_warmup: bool = True,
        dropout: float = 0.5,
        photometric: dict[str, Any] | None = None,
        augment_f: bool = True,
        lr: float = 1e-4,  # A.1, adversarial training
        weight_decay: float = 1e-5,  # this and the next three: A.1
        lr_factor: float = 0.2,
        lr_patience: int = 10,
        min_lr: float = 1e-6,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            embedding_dim=embedding_dim,
            spatial_dims=spatial_dims,
            network=network,
            widths=widths,
            norm=norm,
            encoder=encoder,
            encoder_weights=encoder_weights,
            delta_v=delta_v,
            delta_d=delta_d,
            threshold=threshold,
            object_loss=object_loss,
            anchor=anchor,
            max_anchors=max_anchors,
            consistency_region=consistency_region,
            weights={
                "pull": pull_weight,
                "push": push_weight,
                "norm": norm_weight,
                "object": object_weight,
                "unlabeled_push": unlabeled_push_weight,
                "consistency": consistency_weight,
                "adversarial": adversarial_weight,
            },
            g_network=g_network,
            momentum=momentum,
            momentum_warmup=momentum_warmup,
            dropout=dropout,
            photometric=photometric,
            augment_f=augment_f,
            lr=lr,
            weight_decay=weight_decay,
            lr_factor=lr_factor,
            lr_patience=lr_patience,
            min_lr=min_lr,
        )
        self.save_hyperparameters()
        if adversarial_weight == 0:
            raise ValueError("adversarial_weight is 0; without a critic take SpocoModule")
        if adversarial_warmup < 0:
            raise ValueError(f"adversarial_warmup is {adversarial_warmup}; it must not be negative")
        if critic_steps < 1:
            raise ValueError(f"critic_steps is {critic_steps}; it must be at least 1")
        self.adversarial_warmup = adversarial_warmup
        self.critic_steps = critic_steps
        self.critic_lr = critic_lr
        self.adversary = Adversary(
            spatial_dims=spatial_dims,
            widths=critic_widths,
            penalty_weight=gradient_penalty_weight,
            max_masks=max_masks,
            delta_v=delta_v,
            threshold=threshold,
            anchor=anchor,
        )
        # DDP wants every parameter used in each backward pass; the adversary averages its own.
        names = (name for name, _ in self.adversary.named_parameters())
        self._ddp_params_and_buffers_to_ignore = [f"adversary.{name}" for name in names]
        self.steps: Tensor
        self.register_buffer("steps", torch.tensor(0))
        self.automatic_optimization = False

    # The loss of f

    def losses(self, batch: InstanceBatch) -> dict[str, Tensor]:
        """The terms of L_SO or L_SSO, and L_wgan, of two views of the images."""
        f, g = self.embed_views(batch["image"])
        objects = find_objects(batch["instances"], batch["valid"])
        return self._losses(f, g, batch, objects, self._share(objects) or 0.0)

    def _losses(
        self, f: Tensor, g: Tensor | None, batch: InstanceBatch, objects: Objects, share: float
    ) -> dict[str, Tensor]:
        self.see_background(f, batch)
        terms = self.embedding_losses(f, g, batch["instances"], batch["valid"])
        terms["adversarial"] = share * self.adversary.generator_loss(f, objects)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """As given to the constructor; during the warm-up that of ``adversarial`` is 0."""
        warm = int(self.steps) >= self.adversarial_warmup
        return self.weights if warm else self.weights | {"adversarial": 0.0}

    # Training

    def training_step(self, batch: InstanceBatch, batch_idx: int) -> Tensor:
        """The steps of the critic, then one of f."""
        both: Any = self.optimizers()
        # The bare optimiser of the critic: no scaling of gradients, and no count as a global step.
        optimizer, critic_optimizer = both[0], both[1].optimizer
        f, g = self.embed_views(batch["image"])
        objects = find_objects(batch["instances"], batch["valid"])
        share = self._share(objects)
        if share is not None:
            found = self.adversary.take_steps(
                critic_optimizer,
                f,
                objects,
                steps=self.critic_steps,
                share=share,
                mean_over_ranks=self.mean_over_ranks,
            )
            self.log_dict({f"train/{name}": v for name, v in found.items()}, batch_size=len(f))

        self.toggle_optimizer(optimizer)  # what f learns is no gradient of the critic
        terms = self._losses(f, g, batch, objects, share or 0.0)
        total = self.weighted_sum(terms, len(f))
        optimizer.zero_grad()
        self.manual_backward(total)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.update_second()
        self.steps += 1
        return total.detach()

    def on_train_epoch_end(self) -> None:
        """Lowers the learning rate of f on a plateau, when Lightning does in other methods."""
        plateau: Any = self.lr_schedulers()
        score = self.trainer.callback_metrics.get(self.monitor)
        validated = (self.current_epoch + 1) % self._validation_interval() == 0
        if plateau is not None and score is not None and validated:
            plateau.step(score)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One Adam for f, whose learning rate falls on a plateau, and one for the critic."""
        betas = (0.5, 0.9)  # A.1
        critic = list(self.adversary.parameters())
        rest = [p for p in self.parameters() if p.requires_grad and all(p is not c for c in critic)]
        optimizer = torch.optim.Adam(rest, lr=self.lr, betas=betas, weight_decay=self.weight_decay)
        critic_optimizer = torch.optim.Adam(critic, lr=self.critic_lr, betas=betas)
        plateau = self.plateau(optimizer)
        return [optimizer, critic_optimizer], [] if plateau is None else [plateau]

    def on_fit_start(self) -> None:
        """Checks the optimisers, and gives all ranks the same critic."""
        super().on_fit_start()
        if len(self.trainer.optimizers) != 2:
            raise ValueError(
                f"{type(self).__name__} brings its two optimisers; leave out --optimizer and "
                "--lr_scheduler, and set model.lr, model.weight_decay and model.critic_lr"
            )
        if self.trainer.world_size > 1:
            weights = {k: v.cpu() for k, v in self.adversary.state_dict().items()}
            self.adversary.load_state_dict(self.trainer.strategy.broadcast(weights))

    # Ranks

    def _share(self, objects: Objects) -> float | None:
        """The weight of the mean over this rank's masks in the mean over those of all ranks.

        DDP averages over R ranks, which have unequal numbers M of masks: M R / sum M, where M = 0
        gives 0. None if no rank has a mask.
        """
        here = objects.exists.sum().clamp_max(self.adversary.max_masks).float()
        mean = float(self.mean_over_ranks(here))
        return float(here) / mean if mean else None
