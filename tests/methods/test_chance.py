"""The baselines of chance: how often a class is drawn, and that a draw repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from semiweak import (
    ClassPriorModule,
    RandomModule,
    SyntheticDataModule,
    Weakening,
)
from semiweak.data.knowledge import understand

K = 4
both = pytest.mark.parametrize("cls", [RandomModule, ClassPriorModule])


def prior_of(*counts: int, **arguments: Any) -> ClassPriorModule:
    module = ClassPriorModule(num_classes=len(counts), **arguments)
    module.counts.copy_(torch.tensor(counts))
    return module


def some_data(**options: Any) -> SyntheticDataModule:
    common: dict[str, Any] = {
        "num_train": 6, "num_val": 2, "num_test": 2, "num_predict": 2, "size": 40,
        "patch_size": 24, "batch_size": 2, "num_workers": 0, "num_classes": K,
    }  # fmt: skip
    return SyntheticDataModule(**(common | options))


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    common: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 3,
    }  # fmt: skip
    return pl.Trainer(**(common | {"default_root_dir": folder} | options))


def build(cls: Any, **arguments: Any) -> Any:
    if cls is ClassPriorModule:
        return prior_of(1, 2, 3, 4, **arguments)
    return cls(num_classes=K, **arguments)


# What is drawn


def test_random_draws_each_class_equally_often() -> None:
    drawn = RandomModule(num_classes=K).predict_probabilities(torch.zeros(1, 1, 300, 400))
    share = drawn.mean((0, 2, 3))
    torch.testing.assert_close(share, torch.full((K,), 1 / K), atol=0.004, rtol=0)


def test_the_prior_draws_each_class_as_often_as_it_was_counted() -> None:
    module = prior_of(70, 0, 20, 10, 0)
    share = module.predict_probabilities(torch.zeros(1, 1, 300, 400)).mean((0, 2, 3))
    torch.testing.assert_close(share, torch.tensor([0.7, 0, 0.2, 0.1, 0]), atol=0.004, rtol=0)
    assert share[1] == 0  # a class that does not occur is never drawn
    assert share[4] == 0


def test_pixels_are_drawn_independently() -> None:
    labels = RandomModule(num_classes=2).predict_probabilities(torch.zeros(1, 1, 400, 400))[0, 0]
    for shift in ((0, 1), (1, 0), (7, 3)):
        same = (labels == labels.roll(shift, (0, 1))).float().mean().item()
        assert same == pytest.approx(0.5, abs=0.01)


@both
@pytest.mark.parametrize("size", [(5, 7), (3, 4, 6)])
def test_a_draw_is_one_class_a_pixel(cls: Any, size: tuple[int, ...]) -> None:
    drawn = build(cls).predict_probabilities(torch.zeros(2, 1, *size), ["a", "b"])
    assert drawn.shape == (2, K, *size)
    assert drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(1) == 1).all()


@both
def test_a_draw_hangs_on_name_and_seed_alone(cls: Any) -> None:
    module, image = build(cls), torch.zeros(1, 1, 20, 20)
    a, b = (module.predict_probabilities(image, [name]) for name in "ab")
    assert not torch.equal(a, b)
    torch.manual_seed(3)
    again = module.predict_probabilities(torch.ones(2, 1, 20, 20), ["b", "a"])
    assert torch.equal(again, torch.cat([b, a]))
    other = build(cls, seed=1).predict_probabilities(image, ["a"])
    assert not torch.equal(other, a)


@both
def test_forward_is_the_logarithm_of_the_prior(cls: Any) -> None:
    module = build(cls)
    logits = module(torch.randn(2, 1, 6, 5))
    expected = module.prior.float()[None, :, None, None].expand(2, -1, 6, 5)
    torch.testing.assert_close(logits.softmax(1), expected)
    torch.testing.assert_close(logits.exp(), expected)


# What is counted


@pytest.mark.parametrize("weaken", [None, Weakening(masks=2, scribbles=1, points=1, boxes=1)])
def test_the_known_pixels_of_the_training_images_are_counted_once(
    weaken: Weakening | None, tmp_path: Path
) -> None:
    module, data = ClassPriorModule(num_classes=K), some_data(weaken=weaken)
    trainer(tmp_path, max_epochs=5).fit(module, datamodule=data)
    expected = np.zeros(K, int)
    for source in data.part("train"):
        sample = source.read()
        labels = understand(sample.annotation, sample.shape, K).labels
        for c in range(K):
            expected[c] += (labels == c).sum()
    assert module.counts.tolist() == expected.tolist()
    assert (expected.sum() == 6 * 40 * 40) == (weaken is None)


def test_only_the_images_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    weaken = Weakening(masks=2, points=1)
    module = ClassPriorModule(num_classes=K)
    data = some_data(weaken=weaken, kinds=["mask"])
    trainer(tmp_path).fit(module, datamodule=data)
    assert module.counts.sum() == 2 * 40 * 40


def test_a_second_training_forgets_the_first(tmp_path: Path) -> None:
    module = ClassPriorModule(num_classes=K)
    for number in (2, 5):
        trainer(tmp_path).fit(module, datamodule=some_data(num_train=number))
        assert module.counts.sum() == number * 40 * 40


def test_before_training_there_is_no_prior() -> None:
    module = ClassPriorModule(num_classes=K)
    for call in (module, module.predict_probabilities):
        with pytest.raises(ValueError, match="is not known: ClassPriorModule counts it in train"):
            call(torch.zeros(1, 1, 4, 4))


def test_nothing_to_count_is_told(tmp_path: Path) -> None:
    bare = some_data(weaken=Weakening(masks=0, boxes=1))
    with pytest.raises(ValueError, match="no training pixel has a known class"):
        trainer(tmp_path).fit(ClassPriorModule(num_classes=K), datamodule=bare)
    loader = torch.utils.data.DataLoader(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="a data module of semiweak; there is none"):
        trainer(tmp_path).fit(ClassPriorModule(num_classes=K), loader, loader)


# In a run


@both
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_training_is_one_step_and_the_scores_repeat(
    cls: Any, precision: Any, tmp_path: Path
) -> None:
    module, data = cls(num_classes=K), some_data()
    run = trainer(tmp_path, max_epochs=7, precision=precision)
    run.fit(module, datamodule=data)
    assert (run.global_step, run.current_epoch) == (1, 1)
    assert 0 < run.callback_metrics["val/dice"] < 0.4
    assert module.idle == 0
    scores = [trainer(tmp_path).test(module, datamodule=data, verbose=False) for _ in range(2)]
    assert scores[0] == scores[1]


@both
def test_the_dice_is_that_of_chance(cls: Any, tmp_path: Path) -> None:
    """Of a class with share q of the pixels, drawn with probability p: 2 p q / (p + q)."""
    module, data = cls(num_classes=K), some_data(size=96, num_val=1, num_test=3)
    run = trainer(tmp_path)
    run.fit(module, datamodule=data)
    (scores,) = run.test(module, datamodule=data, verbose=False)
    masks = np.concatenate([s.read().annotation.mask.ravel() for s in data.part("test")])
    for c, name in enumerate(data.class_names or []):
        p, q = module.prior[c].item(), (masks == c).mean()
        assert scores[f"test/dice/{name}"] == pytest.approx(2 * p * q / (p + q), abs=0.01)


def test_labels_are_what_was_scored(tmp_path: Path) -> None:
    module, data = RandomModule(num_classes=K), some_data()
    run = trainer(tmp_path)
    run.fit(module, datamodule=data)
    for found in run.predict(module, datamodule=data) or []:
        expected = module.predict_probabilities(found["image"], found["name"])
        assert torch.equal(found["labels"], expected.argmax(1))
