"""What FixMatchModule adds to its losses: two views, and who predicts the weak one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from semiweak import FixMatchModule
from semiweak.losses.pseudo_labels import pseudo_label_loss, pseudo_labels
from semiweak.losses.supervised import cross_entropy

K = 3
SAME_VIEW = {"operations": "none", "cutout_times": 0}


def build(**arguments: Any) -> FixMatchModule:
    torch.manual_seed(0)
    return FixMatchModule(**({"num_classes": K, "widths": [4, 8], "norm": "group"} | arguments))


def batch_of(*, painted: int = 1, size: int = 3) -> Any:
    """The first images are painted, nothing is known of the others."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(K, (size, 16, 16), generator=generator)
    candidates = torch.nn.functional.one_hot(truth, K).movedim(-1, 1).bool()
    truth[painted:], candidates[painted:] = 255, True
    return {
        "image": torch.randn(size, 1, 16, 16, generator=generator),
        "labels": truth,
        "candidates": candidates,
        "valid": torch.ones(size, 16, 16, dtype=torch.bool),
    }


class Watched:
    """A strong view that remembers what it was given and what it made of it."""

    def __init__(self, view: Any) -> None:
        self.view = view

    def __call__(self, image: Tensor) -> Tensor:
        self.weak, self.strong = image, self.view(image)
        return self.strong


@pytest.mark.parametrize("teacher", ["self", "averaged"])
@pytest.mark.parametrize("filtered", [True, False])
def test_the_strong_view_learns_what_the_weak_one_is_taken_for(
    filtered: bool, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"threshold": 0.4, "soft": True, "temperature": 0.5}
    module = build(
        teacher=teacher, filter_candidates=filtered, ce_weight=2.0, pseudo_label_weight=0.5,
        **settings,
    )  # fmt: skip
    predict = module
    if module.averaged is not None:
        for weight in module.averaged.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
        predict = module.averaged
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
    module.strong = watched = Watched(module.strong)
    batch = batch_of()
    torch.manual_seed(1)
    terms = module.losses(batch)
    assert torch.equal(watched.weak, batch["image"])
    assert not torch.equal(watched.strong, batch["image"])
    candidates = batch["candidates"] if filtered else None
    labels = pseudo_labels(predict(batch["image"]), candidates, **settings)
    expected = pseudo_label_loss(module(watched.strong), labels)[0].mean().item()
    assert terms["pseudo_label"].item() == pytest.approx(expected, rel=1e-5)
    ce = cross_entropy(module(batch["image"]), batch["labels"])[0][0].item()
    assert terms["cross_entropy"].item() == pytest.approx(ce, rel=1e-5)
    torch.manual_seed(1)
    total = module.training_step(batch, 0).item()
    assert total == pytest.approx(2 * ce + 0.5 * expected, rel=1e-5)


def test_the_weak_view_gets_no_gradient_from_the_pseudo_labels() -> None:
    module = build(soft=True)
    batch = batch_of(painted=0)
    seen: list[Tensor] = []

    def view(image: Tensor) -> Tensor:
        seen.append(image.detach().clone().requires_grad_())
        return seen[0]

    module.strong = view
    batch["image"].requires_grad_()
    module.losses(batch)["pseudo_label"].backward()
    assert batch["image"].grad is None
    assert seen[0].grad.any()


@pytest.mark.parametrize("teacher", ["self", "averaged"])
def test_the_same_view_by_the_same_network_has_nothing_to_learn_from_soft_targets(
    teacher: str,
) -> None:
    batch = batch_of(painted=0)
    module = build(soft=True, teacher=teacher, strong=SAME_VIEW)
    module.losses(batch)["pseudo_label"].backward()
    for name, parameter in module.network.named_parameters():
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), msg=name)
    other = build(soft=True, teacher=teacher, strong=SAME_VIEW, temperature=0.5)
    other.losses(batch)["pseudo_label"].backward()
    assert max(p.grad.abs().max() for p in other.network.parameters()) > 1e-4


def test_every_image_is_an_unlabelled_image_too() -> None:
    """Painted ones have their painting as pseudo-labels, or, unfiltered, what they look like."""
    batch = batch_of(painted=3)
    same = build(strong=SAME_VIEW).losses(batch)
    torch.testing.assert_close(same["pseudo_label"], same["cross_entropy"])
    terms = [
        build(strong=SAME_VIEW, filter_candidates=False).losses(batch_of(painted=n)) for n in (0, 3)
    ]
    assert torch.equal(terms[0]["pseudo_label"], terms[1]["pseudo_label"])


def test_padding_has_no_pseudo_labels() -> None:
    module, batch = build(strong=SAME_VIEW), batch_of(painted=0)
    batch["valid"][:, :, 8:] = False
    logits = module(batch["image"])[..., :8]
    expected, _ = pseudo_label_loss(logits, pseudo_labels(logits))
    torch.testing.assert_close(module.losses(batch)["pseudo_label"], expected.mean())


def test_without_annotation_the_cross_entropy_is_zero_and_every_weight_has_a_gradient() -> None:
    module = build(teacher="averaged")
    terms = module.losses(batch_of(painted=0))
    assert terms["cross_entropy"].item() == 0
    assert terms["pseudo_label"].item() > 0
    terms["cross_entropy"].backward(retain_graph=True)
    for parameter in module.network.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    terms["pseudo_label"].backward()
    for name, parameter in module.network.named_parameters():
        assert parameter.grad.any(), name


@pytest.mark.parametrize("left", ["ce_weight", "pseudo_label_weight"])
def test_a_term_of_weight_zero_is_not_computed(left: str) -> None:
    weights = {"ce_weight": 0.0, "pseudo_label_weight": 0.0} | {left: 1.0}
    module = build(teacher="averaged", **weights)
    module.strong = watched = Watched(module.strong)
    name = {"ce_weight": "cross_entropy", "pseudo_label_weight": "pseudo_label"}[left]
    assert set(module.losses(batch_of())) == {name}
    assert hasattr(watched, "strong") == (left == "pseudo_label_weight")
    assert (module.averaged is None) == (left == "ce_weight")


def test_each_view_is_normalised_by_itself_and_neither_teacher_leaves_training() -> None:
    """Batch norm has the statistics of one view in each pass; the running ones follow the weak."""
    module = build(norm="batch", strong=SAME_VIEW)
    module.strong = watched = Watched(lambda image: 5 * image + 20)
    batch = batch_of(painted=0)
    norm = next(m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    inputs: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    loss = module.losses(batch)["pseudo_label"]
    assert norm.num_batches_tracked == 2
    assert [len(x) for x in inputs] == [3, 3]
    torch.testing.assert_close(norm.running_mean, 0.1 * inputs[0].mean((0, 2, 3)))
    labels = pseudo_labels(module(batch["image"]))
    expected = pseudo_label_loss(module(watched.strong), labels)[0].mean()
    torch.testing.assert_close(loss, expected)


def test_the_averaged_network_is_the_teacher_alone() -> None:
    assert build().averaged is None
    module = build(teacher="averaged", momentum=0.5, momentum_warmup=False)
    assert not any(p.requires_grad for p in module.averaged.parameters())
    image = batch_of()["image"]
    for weight in module.averaged.parameters():
        weight.zero_()
    assert module(image).any()  # predictions are those of the network that learns


def test_the_defaults_are_the_papers() -> None:
    module = build()
    assert module.loss_weights() == {"cross_entropy": 1.0, "pseudo_label": 1.0}
    assert (module.threshold, module.soft, module.filter_candidates) == (0.0, False, True)
    view = module.strong
    assert (view.cutout_size, view.cutout_times, view.cutout_p) == (32, 9, 0.5)


def test_volumes() -> None:
    module = build(spatial_dims=3, teacher="averaged")
    batch = {
        "image": torch.randn(2, 1, 4, 8, 8),
        "labels": torch.full((2, 4, 8, 8), 255),
        "candidates": torch.ones(2, K, 4, 8, 8, dtype=torch.bool),
        "valid": torch.ones(2, 4, 8, 8, dtype=torch.bool),
    }
    assert module.losses(batch)["pseudo_label"].item() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ce_weight": 0.0, "pseudo_label_weight": 0.0}, "are all 0"),
        ({"threshold": 95}, "threshold is 95"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"teacher": "mean"}, "teacher is 'mean'; it must be 'self' or 'averaged'"),
        ({"teacher": "averaged", "momentum": 1.0}, "momentum is 1.0"),
        ({"strong": {"operations": "all"}}, "operations is 'all'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
