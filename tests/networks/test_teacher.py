"""The averaged network, by itself and as SPOCO's g in the Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from semiweak import SpocoModule, SyntheticDataModule
from semiweak.networks.build import build_network
from semiweak.networks.teacher import Teacher


def network(norm: str = "batch") -> nn.Module:
    torch.manual_seed(0)
    return build_network(in_channels=1, out_channels=3, widths=[4, 8], norm=norm)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def change(module: nn.Module) -> dict[str, Tensor]:
    """Other weights and running statistics; returns the weights."""
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.add_(torch.rand_like(value))
            else:
                value.add_(1)
    return parameters(module)


# By itself


@pytest.mark.parametrize("momentum", [0.9, 0.999, 0.0])
def test_without_warm_up_every_step_is_the_formula(momentum: float) -> None:
    f = network()
    teacher = Teacher(f, momentum=momentum, warmup=False)
    expected = {name: p.double() for name, p in parameters(f).items()}
    for _ in range(3):
        new = change(f)
        teacher.update_parameters(f)
        for name, value in parameters(teacher.module).items():
            expected[name] = momentum * expected[name] + (1 - momentum) * new[name].double()
            torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)


def test_with_warm_up_it_is_the_average_of_all_weights_until_the_momentum_is_less() -> None:
    f = network()
    teacher = Teacher(f, momentum=0.75)
    seen, expected = [], {}
    for step in range(1, 8):
        new = change(f)
        seen.append(new)
        teacher.update_parameters(f)
        m = min(0.75, 1 - 1 / step)
        for name, value in parameters(teacher.module).items():
            old = expected.get(name, torch.zeros_like(value, dtype=torch.float64))
            expected[name] = m * old + (1 - m) * new[name].double()
            torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)
            if step <= 4:  # 1 - 1/4 is the momentum
                average = torch.stack([one[name] for one in seen]).mean(0)
                torch.testing.assert_close(value, average, rtol=1e-5, atol=1e-6)


def test_it_begins_as_a_copy_that_shares_no_storage() -> None:
    f = network()
    teacher = Teacher(f)
    assert same(state(teacher.module), state(f))
    mine = {value.untyped_storage().data_ptr() for value in teacher.state_dict().values()}
    assert not mine & {value.untyped_storage().data_ptr() for value in f.state_dict().values()}
    for _ in range(2):  # the first step with warm-up copies
        teacher.update_parameters(f)
        before = state(teacher)
        change(f)
        assert same(before, state(teacher))


def test_it_takes_no_gradient() -> None:
    teacher = Teacher(network())
    assert not any(p.requires_grad for p in teacher.parameters())
    image = torch.randn(2, 1, 16, 16, requires_grad=True)
    assert not teacher(image).requires_grad


def test_its_buffers_are_those_of_the_network() -> None:
    f = network()
    teacher = Teacher(f, momentum=0.9, warmup=False)
    f(torch.randn(4, 1, 16, 16) * 5 + 3)
    buffers = dict(f.named_buffers())
    assert buffers
    assert any((b != dict(teacher.module.named_buffers())[k]).any() for k, b in buffers.items())
    teacher(torch.randn(4, 1, 16, 16))  # training: g sees batch statistics, and counts them
    teacher.update_parameters(f)
    for name, value in teacher.module.named_buffers():
        assert torch.equal(value, buffers[name]), name
        assert value.data_ptr() != buffers[name].data_ptr()


def test_how_far_it_is_stands_in_the_state() -> None:
    f = network()
    teacher, fresh = Teacher(f, momentum=0.9), Teacher(f, momentum=0.9)
    for _ in range(3):
        change(f)
        teacher.update_parameters(f)
    fresh.load_state_dict(teacher.state_dict())
    change(f)
    for one in (teacher, fresh):
        one.update_parameters(f)
    assert same(state(teacher), state(fresh))


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_out_of_range_is_told(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum is {momentum}; it must be at least 0 and"):
        Teacher(network(), momentum=momentum)


# In the Trainer


def build(**arguments: Any) -> SpocoModule:
    torch.manual_seed(0)
    small = {"widths": [4, 8], "norm": "batch", "embedding_dim": 4, "lr": 1e-3, "momentum": 0.9}
    return SpocoModule(**(small | arguments))


def cells(**arguments: Any) -> SyntheticDataModule:
    few: dict[str, Any] = {
        "num_train": 4, "num_val": 1, "num_test": 1, "num_predict": 1, "size": 24,
        "patch_size": 24, "batch_size": 2, "samples_per_epoch": 4, "instance_ratio": 0.5,
        "num_workers": 0,
    }  # fmt: skip
    return SyntheticDataModule(scene="cells", task="instances", **(few | arguments))


class SameSeed(pl.Callback):
    """The random numbers of a step are those of its number, also in a run that goes on."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        pl.seed_everything(trainer.global_step, verbose=False)


class Watch(pl.Callback):
    """What f and g are before the first and after each batch."""

    def __init__(self) -> None:
        self.f: list[dict[str, Tensor]] = []
        self.g: list[dict[str, Tensor]] = []

    def look(self, module: Any) -> None:
        self.f.append(state(module.network))
        self.g.append(state(module.second.module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.look(module)


def trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(**(quiet | arguments))


@pytest.mark.parametrize("warmup", [False, True])
def test_g_follows_the_weights_that_the_optimiser_has_left(tmp_path: Path, warmup: bool) -> None:
    watch = Watch()
    module = build(momentum_warmup=warmup)
    trainer(tmp_path, max_epochs=2, callbacks=[watch]).fit(module, cells())
    assert len(watch.f) == 5
    buffers = {name for name, _ in module.network.named_buffers()}
    for step in range(1, 5):
        m = min(0.9, 1 - 1 / step) if warmup else 0.9
        assert not same(watch.f[step], watch.f[step - 1])
        for name, value in watch.g[step].items():
            expected = watch.f[step][name]
            if name not in buffers:
                expected = m * watch.g[step - 1][name] + (1 - m) * expected
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_g_does_not_move_where_nothing_is_trained(tmp_path: Path) -> None:
    module, data = build(), cells()
    change(module.network)
    before = state(module.second)
    run = trainer(tmp_path, num_sanity_val_steps=1, limit_train_batches=0)
    run.fit(module, data)
    run.validate(module, data, verbose=False)
    run.test(module, data, verbose=False)
    run.predict(module, data)
    module.eval().second_embeddings(torch.randn(1, 1, 24, 24))
    assert same(before, state(module.second))


def test_g_moves_once_a_step_of_the_optimiser(tmp_path: Path) -> None:
    watch = Watch()
    module = build()
    run = trainer(tmp_path, accumulate_grad_batches=2, max_epochs=2, callbacks=[watch])
    run.fit(module, cells())
    assert run.global_step == 2
    names = [name for name, _ in module.network.named_parameters()]
    moved = [
        any(not torch.equal(a[name], b[name]) for name in names)
        for a, b in zip(watch.g, watch.g[1:], strict=False)
    ]
    assert moved == [False, True, False, True]
    assert int(module.second.n_averaged) == 2


def test_g_is_in_the_checkpoint_and_not_in_the_optimiser(tmp_path: Path) -> None:
    module = build()
    run = trainer(tmp_path)
    run.fit(module, cells())
    run.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    for name, value in module.second.state_dict().items():
        assert torch.equal(content["state_dict"][f"second.{name}"], value)
    (optimizer,) = run.optimizers
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.network.parameters()}
    again = SpocoModule.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert same(state(again), state(module))


def test_a_run_that_goes_on_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    def fit(epochs: int, path: Path | None = None) -> tuple[pl.Trainer, SpocoModule]:
        module = build()
        run = trainer(tmp_path, max_epochs=epochs, callbacks=[SameSeed()])
        run.fit(module, cells(), ckpt_path=path, weights_only=True)
        return run, module

    _, whole = fit(4)
    half, stopped = fit(2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest, resumed = fit(4, tmp_path / "half.ckpt")
    assert rest.global_step == 8
    assert int(resumed.second.n_averaged) == 8
    assert not same(state(stopped.second), state(resumed.second))
    for name, value in state(whole).items():
        torch.testing.assert_close(state(resumed)[name], value, msg=name)
