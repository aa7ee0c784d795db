"""The terms and steps of the adversarial training of SPOCO, without a Trainer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_small import batch, build, cells, state, trainer
from torch import Tensor

from semiweak import AdversarialSpocoModule, SpocoModule
from semiweak.losses.objects import find_objects


def of_critic(module: AdversarialSpocoModule) -> list[int]:
    return [id(p) for p in module.adversary.parameters()]


def test_the_terms_are_spocos_and_one_more() -> None:
    terms = build().losses(batch())
    spoco = SpocoModule(widths=[4, 8], norm="group").losses(batch())
    assert set(terms) == {*spoco, "adversarial"}
    terms["adversarial"].backward()


def test_the_adversarial_term_is_minus_the_mean_score_of_soft_masks() -> None:
    module = build(anchor="mean", augment_f=False)
    one = batch()
    f = module(one["image"]).double()
    scores = []
    for image, k in ((0, 1), (0, 2), (1, 1)):
        mean = f[image][:, one["instances"][image] == k].mean(1)
        distance = (f[image] - mean[:, None, None]).square().sum(0)
        width = -(0.5**2) / torch.tensor(0.9).log()
        scores.append(module.adversary(torch.exp(-distance / width).float()[None, None]))
    expected = -torch.cat(scores).mean()
    torch.testing.assert_close(module.losses(one)["adversarial"], expected)


def test_the_adversarial_term_alone_moves_the_embedding_network() -> None:
    module = build()
    module.losses(batch())["adversarial"].backward()
    assert any(p.grad is not None and p.grad.any() for p in module.network.parameters())


def test_a_batch_without_objects_has_no_adversarial_term() -> None:
    module = build()
    terms = module.losses(batch(empty=True))
    assert terms["adversarial"].item() == 0
    sum(terms.values()).backward()
    for parameter in module.network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_the_critic_is_shown_nothing_of_padding() -> None:
    module = build()
    one, seen = batch(), []
    one["valid"][:, :, 12:] = False
    module.adversary.critic.register_forward_pre_hook(lambda _, masks: seen.append(masks[0]))
    objects = find_objects(one["instances"], one["valid"])
    module.adversary.losses(module(one["image"]), objects)
    assert len(seen) == 2
    for masks in seen:
        assert masks[..., :12].any()
        assert not masks[..., 12:].any()


def test_the_terms_of_the_critic_do_not_reach_the_embedding_network() -> None:
    module, one = build(), batch()
    f = module(one["image"])
    terms = module.adversary.losses(f, find_objects(one["instances"]))
    assert set(terms) == {"critic", "gradient_penalty"}
    sum(terms.values()).backward()
    assert all(p.grad is None for p in module.network.parameters())
    # Whatever is added to all scores cancels: the last bias has no gradient of either kind.
    slopes = {name: p.grad for name, p in module.adversary.critic.named_parameters()}
    assert all(slope.any() for name, slope in slopes.items() if name != "dense.bias")


def test_steps_of_the_critic_move_the_critic_and_tell_true_from_false() -> None:
    module, one = build(), batch()
    f, objects = module(one["image"]), find_objects(one["instances"])
    before = state(module)
    optimizer = torch.optim.Adam(module.adversary.parameters(), lr=1e-2)
    take = partial(module.adversary.take_steps, optimizer, f, objects, share=1.0,
                   mean_over_ranks=lambda value: value)  # fmt: skip
    first = take(steps=1)
    after = state(module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("adversary.") for name in moved)
    take(steps=60)
    assert take(steps=1)["critic"] < first["critic"] - 0.1


def test_two_optimisers_share_no_parameter_and_leave_out_the_teacher() -> None:
    module = build(lr=1e-4, critic_lr=1e-4)
    (optimizer, critic), (plateau,) = module.configure_optimizers()
    for one in (optimizer, critic):
        assert isinstance(one, torch.optim.Adam)
        group = one.param_groups[0]
        assert (group["lr"], group["betas"]) == (1e-4, (0.5, 0.9))
    ids = [{id(p) for p in one.param_groups[0]["params"]} for one in (optimizer, critic)]
    assert ids[0] == {id(p) for p in module.network.parameters()}
    assert ids[1] == set(of_critic(module))
    assert plateau.optimizer is optimizer
    assert build(lr_factor=1.0).configure_optimizers()[1] == []


def test_default_values_are_the_papers() -> None:
    given = AdversarialSpocoModule().hparams
    paper = {
        "lr": 1e-4, "critic_lr": 1e-4, "critic_steps": 5, "gradient_penalty_weight": 10.0,
        "adversarial_weight": 0.1, "adversarial_warmup": 50_000,
        "critic_widths": [64, 128, 256, 512],
    }  # fmt: skip
    assert {name: given[name] for name in paper} == paper


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adversarial_weight": 0.0}, "without a critic take SpocoModule"),
        ({"adversarial_weight": -1.0}, "adversarial_weight is -1"),
        ({"adversarial_warmup": -1}, "adversarial_warmup is -1"),
        ({"critic_steps": 0}, "critic_steps is 0"),
        ({"gradient_penalty_weight": -1.0}, "gradient_penalty_weight is -1"),
        ({"max_masks": 0}, "max_masks is 0"),
        ({"delta_v": 3.0}, "delta_v is 3"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_the_step_of_two_ranks_is_that_of_all_their_objects() -> None:
    module, one = build(anchor="mean", gradient_penalty_weight=0.0), batch()
    f, objects = module(one["image"]).detach(), find_objects(one["instances"])

    def gradients(images: slice, share: float) -> list[Tensor]:
        optimizer = torch.optim.SGD(module.adversary.parameters(), lr=0.0)
        module.adversary.take_steps(
            optimizer, f[images], find_objects(one["instances"][images]), steps=1, share=share,
            mean_over_ranks=lambda value: value,
        )  # fmt: skip
        return [p.grad for p in module.adversary.parameters()]

    assert objects.exists.sum(1).tolist() == [2, 1]
    together = gradients(slice(None), 1.0)
    # M R / sum M: 2 * 2 / 3 and 1 * 2 / 3
    apart = [gradients(slice(0, 1), 4 / 3), gradients(slice(1, 2), 2 / 3)]
    for all_, a, b in zip(together, *apart, strict=True):
        torch.testing.assert_close((a + b) / 2, all_, rtol=1e-4, atol=1e-7)


def test_painted_background_is_remembered_in_a_step_of_training(tmp_path: Path) -> None:
    module = build()
    assert module.background_embedding() is None
    # Every cell is painted, and so is the background.
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=cells())
    assert module.backgrounds_seen == 1
    assert module.background_embedding().any()
