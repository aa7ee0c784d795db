"""UDAModule: its two losses, the views, and what validation measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from semiweak import SyntheticDataModule, UDAModule, Weakening
from semiweak.__main__ import main
from semiweak.augment.random_view import View
from semiweak.augment.rotation import Rotation
from semiweak.losses.mutual_information import joint_matrices, mutual_information_loss
from semiweak.losses.supervised import cross_entropy, dice_loss
from semiweak.losses.uda import annealed_labels, annealing_threshold, kl_consistency
from semiweak.methods import uda

K = 3


def build(**arguments: Any) -> UDAModule:
    torch.manual_seed(0)
    return UDAModule(**({"num_classes": K, "widths": [4, 8], "norm": "group"} | arguments))


def batch_of(*, painted: int = 1, size: int = 3, padding: int = 0) -> Any:
    """The first images are painted, nothing is known of the others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(K, (size, 16, 16), generator=generator)
    labels[painted:] = 255
    valid = torch.ones(size, 16, 16, dtype=torch.bool)
    valid[..., 16 - padding :] = False
    return {
        "image": torch.randn(size, 1, 16, 16, generator=generator),
        "labels": labels,
        "valid": valid,
        "has_mask": torch.arange(size) < painted,
        "name": [f"image {i}" for i in range(size)],
    }


class Watched:
    """A view that remembers what it was given and what it made of it."""

    def __init__(self, view: Any) -> None:
        self.view = view

    def __call__(self, image: Tensor) -> View:
        self.weak, self.seen = image, self.view(image)
        return self.seen


def identical(image: Tensor) -> View:
    return View(image, Rotation(torch.zeros(len(image))))


@pytest.mark.parametrize("all_images", [False, True])
def test_kl_between_unlabelled_images_and_their_views_turned_back(all_images: bool) -> None:
    settings: dict[str, Any] = {"temperature": 0.5, "threshold": 0.34}
    module = build(all_images=all_images, **settings)
    module.view = watched = Watched(module.view)
    batch = batch_of(padding=3)
    terms = module.losses(batch)
    first = 0 if all_images else 1
    assert torch.equal(watched.weak, batch["image"][first:])
    back = watched.seen.rotation.turn_back(module(watched.seen.image).softmax(1))
    valid = batch["valid"][first:] & watched.seen.rotation.valid(batch["valid"][first:])
    assert valid.float().mean() < 13 / 16
    weak = module(batch["image"])
    # Where the turned frame shows nothing there is no probability; those pixels do not count.
    seen = back.where(valid[:, None], torch.ones(())).log()
    values, _ = kl_consistency(weak[first:], seen, valid=valid, **settings)
    assert terms["consistency"].item() == pytest.approx(values.mean().item(), rel=1e-5)
    dice = dice_loss(weak, batch["labels"])[0][0]
    assert terms["supervised"].item() == pytest.approx(dice.item(), rel=1e-5)


@pytest.mark.parametrize("radius", [0, 1])
def test_mutual_information_between_the_views(radius: int) -> None:
    settings: dict[str, Any] = {"mi_lambda": 1.5, "collapsed": True}
    module = build(consistency="mutual_information", radius=radius, **settings)
    module.view = watched = Watched(module.view)
    batch = batch_of()
    terms = module.losses(batch)
    back = watched.seen.rotation.turn_back(module(watched.seen.image).softmax(1))
    valid = watched.seen.rotation.valid(batch["valid"][1:])
    weak = module(batch["image"][1:]).softmax(1)
    joints = joint_matrices(weak, back, valid=valid, radius=radius)
    expected = mutual_information_loss(joints, lamb=1.5, collapsed=True)
    assert terms["consistency"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_mutual_information_is_of_the_images_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of classes over a few images are not those over all."""
    module = build(consistency="mutual_information", view={"number": 0})
    there = torch.rand(1, K, K, generator=torch.Generator().manual_seed(1)) * 100
    monkeypatch.setattr(module, "gather_from_ranks", lambda here: torch.stack([here, there]))
    batch = batch_of(painted=1)
    weak = module(batch["image"])[1:].softmax(1)
    together = joint_matrices(weak, weak) + there
    expected = mutual_information_loss(together).item()
    assert module.losses(batch)["consistency"].item() == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(mutual_information_loss(joint_matrices(weak, weak)).item())


@pytest.mark.parametrize("consistency", ["kl", "mutual_information"])
def test_the_target_takes_no_gradient_by_kl_and_both_learn_by_information(consistency: str) -> None:
    module = build(consistency=consistency)
    reached = {}
    for side in ("weak", "strong"):
        batch = batch_of(painted=0)
        other = torch.randn_like(batch["image"])
        (batch["image"] if side == "weak" else other).requires_grad_()
        module.view = lambda image, other=other: View(other, Rotation(torch.zeros(len(image))))
        module.losses(batch)["consistency"].backward()
        grad = (batch["image"] if side == "weak" else other).grad
        reached[side] = grad is not None and bool(grad.any())
    assert reached == {"weak": consistency == "mutual_information", "strong": True}
    module = build(stop_gradient=False)
    batch = batch_of(painted=0)
    batch["image"].requires_grad_()
    module.losses(batch)["consistency"].backward()
    assert batch["image"].grad.any()


@pytest.mark.parametrize("consistency", ["kl", "mutual_information"])
def test_a_batch_that_is_painted_throughout_compares_nothing(consistency: str) -> None:
    module = build(consistency=consistency, supervised_weight=0.0)
    term = module.losses(batch_of(painted=3))["consistency"]
    assert term.item() == 0
    term.backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_supervised_by_cross_entropy() -> None:
    module, batch = build(supervised="cross_entropy"), batch_of()
    expected = cross_entropy(module(batch["image"]), batch["labels"])[0][0]
    assert module.losses(batch)["supervised"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_running_statistics_follow_the_weak_view_alone() -> None:
    module, batch = build(norm="batch"), batch_of()
    alone = build(norm="batch")
    alone(batch["image"])
    module.losses(batch)
    kept = {k: v for k, v in module.state_dict().items() if "running" in k}
    for name, value in kept.items():
        assert torch.equal(value, alone.state_dict()[name]), name
    assert kept


def test_the_consistency_ramps_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(consistency_rampup=10, consistency_weight=4.0)
    monkeypatch.setattr(UDAModule, "global_step", 5)
    assert module.loss_weights() == {"supervised": 1.0, "consistency": 2.0}
    monkeypatch.setattr(UDAModule, "global_step", 50)
    assert module.loss_weights()["consistency"] == 4.0


def data(**options: Any) -> SyntheticDataModule:
    common = {
        "num_classes": K, "num_train": 4, "num_val": 3, "size": 32, "patch_size": 32,
        "batch_size": 2, "num_workers": 0, "weaken": Weakening(masks=1, nothing=1),
    }  # fmt: skip
    return SyntheticDataModule(**(common | options))


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    common = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(**(common | options))


@pytest.mark.parametrize("schedule", ["linear", "log", "exp"])
def test_annealing_leaves_out_what_is_predicted_well(schedule: str, tmp_path: Path) -> None:
    module = build(annealing=schedule)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, index: int) -> None:
            step, steps = trainer.global_step, trainer.estimated_stepping_batches
            logits = model(batch["image"]).detach()
            threshold = annealing_threshold(step, steps, K, schedule)
            left = annealed_labels(logits, batch["labels"], threshold)
            seen.append((step, threshold, left, batch["labels"]))
            expected = dice_loss(logits, left)
            terms = model.losses(batch)
            known = expected[1]
            value = expected[0][known].mean().item() if known.any() else 0
            assert terms["supervised"].item() == pytest.approx(value, rel=1e-4, abs=1e-6)

    fit = trainer(tmp_path, max_epochs=2, callbacks=[Watch()], limit_val_batches=0)
    fit.fit(module, datamodule=data(samples_per_epoch=8))
    assert [step for step, *_ in seen] == list(range(8))
    assert seen[0][1] < seen[-1][1] <= 1
    assert any((left != labels).any() for _, _, left, labels in seen)


def test_annealing_has_to_know_the_end(tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_epochs=-1, limit_val_batches=0)
    with pytest.raises(ValueError, match="annealing is 'log', which needs to know"):
        fit.fit(build(annealing="log"), datamodule=data())


@pytest.mark.parametrize("consistency", ["kl", "mutual_information"])
def test_half_precision_ends_at_the_logits(
    consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilities of bfloat16 have three digits, which no loss in float32 brings back."""
    taken: list[Tensor] = []

    def record(weak: Tensor, strong: Tensor, **options: Any) -> Any:
        taken.extend([weak, strong] if consistency == "mutual_information" else [strong])
        return loss(weak, strong, **options)

    name = "kl_consistency" if consistency == "kl" else "joint_matrices"
    loss = getattr(uda, name)
    monkeypatch.setattr(uda, name, record)
    module, batch = build(consistency=consistency), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        assert module(batch["image"]).dtype == torch.bfloat16
        module.losses(batch)
    assert taken
    assert all(x.dtype == torch.float32 for x in taken)
    # No value is one that bfloat16 has, but for 0 and 1.
    assert any((x != x.bfloat16().float()).float().mean() > 0.9 for x in taken)


def test_the_learning_rate_falls_by_steps(tmp_path: Path) -> None:
    rates = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, model: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = build(lr=0.1, lr_step=2, lr_factor=0.5)
    fit = trainer(tmp_path, max_epochs=5, callbacks=[Watch()], limit_val_batches=0)
    fit.fit(module, datamodule=data())
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])
    assert list(build(lr_step=0).configure_optimizers()) == ["optimizer"]


@pytest.mark.parametrize("consistency", ["kl", "mutual_information"])
def test_validation_measures_both_losses_the_same_in_every_epoch(
    consistency: str, tmp_path: Path
) -> None:
    module = build(consistency=consistency, supervised_weight=2.0, consistency_weight=0.5)
    fit, images = trainer(tmp_path, limit_train_batches=0), data()
    fit.fit(module, datamodule=images)  # the data module knows the normalisation now
    (first,) = fit.validate(module, datamodule=images, verbose=False)
    torch.manual_seed(5)
    (again,) = fit.validate(module, datamodule=images, verbose=False)
    assert first == again
    weighted = 2 * first["val/supervised_loss"] + 0.5 * first["val/consistency_loss"]
    assert first["val/total_loss"] == pytest.approx(weighted)
    dice = []
    module.eval()
    for batch in images.val_dataloader():
        batch = images.on_after_batch_transfer(batch, 0)
        with torch.no_grad():
            dice += dice_loss(module(batch["image"]), batch["labels"])[0].tolist()
    assert first["val/supervised_loss"] == pytest.approx(sum(dice) / 3, rel=1e-4)
    module.view = lambda image, generator: identical(image)
    (same,) = fit.validate(module, datamodule=images, verbose=False)
    if consistency == "kl":
        assert same["val/consistency_loss"] == pytest.approx(0, abs=1e-6)
        assert first["val/consistency_loss"] > 1e-5
    else:
        assert same["val/consistency_loss"] < first["val/consistency_loss"]


def test_both_checkpoints_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main([
        "fit", "--model=UDAModule", "--model.num_classes=3", "--model.widths=[4,8]",
        "--data=SyntheticDataModule", "--data.num_train=2", "--data.num_val=1", "--data.size=32",
        "--data.patch_size=32", "--data.num_classes=3", "--data.num_workers=0",
        "--data.batch_size=2", "--trainer.max_epochs=2", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    ])  # fmt: skip
    folder = tmp_path / "runs" / "version_0" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "best_total.ckpt", "last.ckpt"}
    kept = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]
    monitors = {state["monitor"] for name, state in kept.items() if "ModelCheckpoint" in name}
    assert monitors == {"val/supervised_loss", "val/total_loss"}
    for name, state in kept.items():
        if "ModelCheckpoint" in name:
            assert "'mode': 'min'" in name
            assert state["best_model_score"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"supervised": "iou"}, "supervised is 'iou'; it must be one of 'dice', 'cross_entropy'"),
        ({"consistency": "mse"}, "consistency is 'mse'; it must be one of 'kl', 'mutual_inf"),
        ({"annealing": "cosine"}, "annealing is 'cosine'"),
        ({"consistency_rampup": -1}, "consistency_rampup is -1"),
        ({"radius": -1}, "radius is -1"),
        ({"lr_step": -1}, "lr_step is -1"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"supervised_weight": -1.0}, "supervised_weight is -1.0"),
        ({"supervised_weight": 0.0, "consistency_weight": 0.0}, "are all 0"),
        ({"view": {"magnitude": 31}}, "view: magnitude is 31"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
