"""What SupervisedModule adds to its losses: weights, class weights, optimiser, argument checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from semiweak import SupervisedModule
from semiweak.losses.supervised import cross_entropy, dice_loss


def build(**arguments: Any) -> SupervisedModule:
    torch.manual_seed(0)
    return SupervisedModule(**({"num_classes": 3, "widths": [4, 8], "norm": "group"} | arguments))


@pytest.fixture
def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (4, 16, 16), generator=generator)
    labels[1] = 255
    labels[2, :8] = 255
    return {"image": torch.randn(4, 1, 16, 16, generator=generator), "labels": labels}


def naive_mean(loss: Any, module: SupervisedModule, batch: dict[str, Any], **options: Any) -> float:
    """The loss of each annotated image by itself, and their mean."""
    single = []
    for image, labels in zip(batch["image"], batch["labels"], strict=True):
        if (labels != 255).any():
            single.append(loss(module(image[None]), labels[None], **options)[0].item())
    return sum(single) / len(single)


def test_each_term_has_its_weight_in_the_loss(
    batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build(ce_weight=2.0, dice_weight=0.5)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
    ce, dice = (naive_mean(loss, module, batch) for loss in (cross_entropy, dice_loss))
    terms = module.losses(batch)
    assert terms["cross_entropy"].item() == pytest.approx(ce, rel=1e-5)
    assert terms["dice"].item() == pytest.approx(dice, rel=1e-5)
    assert module.training_step(batch, 0).item() == pytest.approx(2 * ce + 0.5 * dice, rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "left"),
    [({"ce_weight": 1.0}, "cross_entropy"), ({"ce_weight": 0.0, "dice_weight": 1.0}, "dice")],
)
def test_a_term_of_weight_zero_is_not_computed(
    weights: dict[str, float], left: str, batch: dict[str, Any]
) -> None:
    module = build(**weights)
    assert set(module.losses(batch)) == {left}


def test_class_weights_reach_the_cross_entropy(batch: dict[str, Any]) -> None:
    module = build(class_weights=[1.0, 0.0, 3.0])
    weights = torch.tensor([1.0, 0.0, 3.0])
    expected = naive_mean(cross_entropy, module, batch, class_weights=weights)
    assert module.losses(batch)["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(naive_mean(cross_entropy, module, batch), rel=1e-3)


def test_adam_and_plateau_have_the_papers_values() -> None:
    settings = build().configure_optimizers()
    optimizer = settings["optimizer"]
    assert isinstance(optimizer, torch.optim.Adam)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (2e-4, 1e-5, (0.9, 0.999))
    plateau = settings["lr_scheduler"]
    assert plateau["monitor"] == "val/dice"
    assert plateau["scheduler"].mode == "max"
    assert plateau["scheduler"].factor == 0.2
    assert plateau["scheduler"].min_lrs == [1e-6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ce_weight": 0.0}, "one must be positive"),
        ({"ce_weight": -1.0, "dice_weight": 2.0}, "neither may be negative"),
        ({"class_weights": [1.0, 2.0]}, "2 values for 3 classes"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
