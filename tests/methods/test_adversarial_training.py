"""Adversarial SPOCO in the Trainer: who learns when, going on after a stop, and two ranks."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from adversarial_small import batch, build, cells, same, state, trainer
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from semiweak import AdversarialSpocoModule
from semiweak.data.batch import InstanceBatch


class Watched(AdversarialSpocoModule):
    """Remembers what changed between the beginnings of two steps of any optimiser."""

    def record(self) -> None:
        self.order: list[str] = []
        self.values = {"network": state(self.network), "critic": state(self.adversary),
                       "g": state(self.second)}  # fmt: skip

    def look(self, name: str) -> None:
        parts = {"network": self.network, "critic": self.adversary, "g": self.second}
        now = {part: state(module) for part, module in parts.items()}
        changed = [part for part in parts if not same(self.values[part], now[part])]
        self.order.append(f"{name}: {' '.join(changed)}")
        self.values = now

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.record()
        for name, optimizer in zip(("f", "D"), self.trainer.optimizers, strict=True):
            optimizer.register_step_post_hook(lambda *_, name=name: self.look(name))

    def on_train_batch_end(self, *args: Any) -> None:
        self.look("end")


def test_each_step_changes_its_own_network(tmp_path: Path) -> None:
    module = build()
    module.__class__ = Watched
    before = state(module.second)
    run = trainer(tmp_path)
    run.fit(module, datamodule=cells())
    assert module.order == ["D: critic", "D: critic", "f: network", "end: g"] * 2
    assert run.global_step == 2
    assert module.steps == 2
    assert not same(before, state(module.second))
    with torch.no_grad():
        module.eval()
        module(batch()["image"])
    after = state(module.second)
    run.validate(module, datamodule=cells(), verbose=False)
    assert same(after, state(module.second))


def test_f_takes_no_part_of_the_critic_until_the_warm_up_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    module = build(adversarial_warmup=3, adversarial_weight=0.25)
    given = module.weighted_sum

    def watch(terms: dict[str, Tensor], size: int) -> Tensor:
        weights.append(module.loss_weights()["adversarial"])
        return given(terms, size)

    monkeypatch.setattr(module, "weighted_sum", watch)
    critic = state(module.adversary)
    trainer(tmp_path, max_epochs=3).fit(module, datamodule=cells())
    assert weights == [0, 0, 0, 0.25, 0.25, 0.25]
    assert not same(critic, state(module.adversary))


def test_during_the_warm_up_the_critic_changes_nothing_in_f(tmp_path: Path) -> None:
    networks = []
    for lr in (1e-3, 0.5):
        module = build(adversarial_warmup=10, critic_lr=lr)
        pl.seed_everything(1, verbose=False)
        trainer(tmp_path).fit(module, datamodule=cells())
        networks.append(state(module.network))
    assert same(*networks)


def test_max_steps_counts_the_steps_of_f(tmp_path: Path) -> None:
    module = build()
    trainer(tmp_path, max_epochs=-1, max_steps=3).fit(module, datamodule=cells())
    assert module.steps == 3


def test_resuming_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    class SameSeed(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            pl.seed_everything(trainer.global_step, verbose=False)

    def run(epochs: int, path: Path | None = None) -> tuple[pl.Trainer, AdversarialSpocoModule]:
        module = build(adversarial_warmup=3)
        fit = trainer(tmp_path, max_epochs=epochs, callbacks=[SameSeed()])
        fit.fit(module, datamodule=cells(), ckpt_path=path, weights_only=True)
        return fit, module

    _, whole = run(2)
    half, stopped = run(1)
    path = tmp_path / "half.ckpt"
    half.save_checkpoint(path)
    again = AdversarialSpocoModule.load_from_checkpoint(path, weights_only=True)
    assert same(state(stopped), state(again))
    assert again.steps == 2
    rest, resumed = run(2, path)
    assert rest.global_step == 4
    assert resumed.steps == 4
    for name, value in state(whole).items():
        torch.testing.assert_close(state(resumed)[name], value, msg=name)


def test_the_learning_rate_of_f_falls_on_a_plateau(tmp_path: Path) -> None:
    module = build(lr_patience=0, lr_factor=0.5, min_lr=0.0)
    run = trainer(tmp_path, max_epochs=3)
    # The score is the same in all three: no better in the second and third.
    module.validation_step = lambda *_: module.log(  # type: ignore[method-assign]
        "val/sbd", 0.5, batch_size=1
    )
    module.on_validation_epoch_end = lambda: None  # type: ignore[method-assign]
    run.fit(module, datamodule=cells())
    rates = [optimizer.param_groups[0]["lr"] for optimizer in run.optimizers]
    assert rates == [1e-3 / 4, 1e-3]


def test_objects_nowhere_leave_the_critic_alone(tmp_path: Path) -> None:
    class Nothing(pl.Callback):
        def on_train_batch_start(self, t: Any, m: Any, one: InstanceBatch, i: int) -> None:
            one["instances"].zero_()

    module = build()
    before = state(module.adversary), state(module.network)
    run = trainer(tmp_path, callbacks=[Nothing()])
    run.fit(module, datamodule=cells())
    assert same(before[0], state(module.adversary))
    assert not same(before[1], state(module.network))
    assert all(v.isfinite().all() for v in state(module).values())
    assert "train/critic" not in run.callback_metrics


def test_bfloat16_trains_and_the_critic_stays_in_float32(tmp_path: Path) -> None:
    module, kinds = build(), set()
    module.adversary.critic.register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
    run = trainer(tmp_path, precision="bf16-mixed")
    run.fit(module, datamodule=cells())
    assert kinds == {torch.float32}
    assert all(value.isfinite() for name, value in run.callback_metrics.items() if "train" in name)
    assert {"train/critic", "train/gradient_penalty", "train/adversarial"} <= set(
        run.callback_metrics
    )


@pytest.mark.parametrize("option", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}])
def test_what_two_optimisers_cannot_do_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=f"Remove `Trainer\\({next(iter(option))}"):
        trainer(tmp_path, **option).fit(build(), datamodule=cells())


def test_an_optimiser_of_the_command_line_is_refused(tmp_path: Path) -> None:
    module = build()
    module.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]
        module.parameters(), lr=0.1
    )
    with pytest.raises(ValueError, match="leave out --optimizer"):
        trainer(tmp_path).fit(module, datamodule=cells())


# Two ranks


class Painted(pl.Callback):
    """Leaves a rank only so many objects."""

    def __init__(self, most: list[int]) -> None:
        self.most = most

    def on_train_batch_start(self, run: Any, module: Any, one: InstanceBatch, i: int) -> None:
        one["instances"][one["instances"] > self.most[run.global_rank]] = 0


def _rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "NODE_RANK": "0", "LOCAL_RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name, most in (("both", [9, 9]), ("one", [0, 9]), ("none", [0, 0])):
        module = build()
        if rank == 1:  # as without a seed
            torch.nn.init.normal_(module.adversary.critic.dense.weight)
        before = module.adversary.critic.dense.weight.detach().clone()
        run = trainer(folder, devices=2, strategy="ddp", callbacks=[Painted(most)])
        run.fit(module, datamodule=cells(batch_size=1, num_val=2))
        results[name] = {"before": before, "state": state(module), "steps": run.global_step}
    torch.save(results, folder / f"{rank}.pt")


def test_ranks_stay_alike_with_objects_on_both_one_or_none(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("both", "one", "none"):
        one, two = first[name], second[name]
        assert one["steps"] == two["steps"] == 2
        for key, value in one["state"].items():
            torch.testing.assert_close(two["state"][key], value, rtol=1e-6, atol=1e-7, msg=key)
            assert value.isfinite().all()
        moved = not torch.equal(one["before"], one["state"]["adversary.critic.dense.weight"])
        assert moved == (name != "none")
