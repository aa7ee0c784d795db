"""What PseudoLabelModule adds to its losses: which pixels and classes its targets are chosen of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from semiweak import PseudoLabelModule
from semiweak.data.annotations import Annotation, Sample
from semiweak.data.batch import collate, semantic_item, to_contract
from semiweak.losses.pseudo_labels import pseudo_label_loss, pseudo_labels
from semiweak.losses.supervised import cross_entropy

K, SIZE = 3, (16, 16)


def build(**arguments: Any) -> PseudoLabelModule:
    torch.manual_seed(0)
    return PseudoLabelModule(**({"num_classes": K, "widths": [4, 8], "norm": "group"} | arguments))


def batch_of(*annotations: Annotation) -> Any:
    rng = np.random.default_rng(0)
    items = []
    for said in annotations:
        image = rng.normal(size=(1, *SIZE)).astype(np.float32)
        items.append(semantic_item(Sample(image, said, "image"), K))
    return to_contract(collate(items))


def painted() -> Annotation:
    return Annotation(mask=np.random.default_rng(1).integers(0, K, SIZE).astype(np.uint8))


def without(*absent: int) -> Annotation:
    return Annotation(tags=np.array([0 if c in absent else 1 for c in range(K)], np.int8))


def test_the_terms_are_those_of_the_functions_by_their_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[str, Any] = {"threshold": 0.4, "soft": True, "temperature": 0.5}
    module = build(ce_weight=2.0, pseudo_label_weight=0.5, **settings)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
    batch = batch_of(painted(), without(1), Annotation())
    logits = module(batch["image"])
    ce = cross_entropy(logits, batch["labels"])[0][0].item()
    labels = pseudo_labels(logits, batch["candidates"], valid=batch["valid"], **settings)
    own = pseudo_label_loss(logits, labels)[0].mean().item()
    terms = module.losses(batch)
    assert terms["cross_entropy"].item() == pytest.approx(ce, rel=1e-5)
    assert terms["pseudo_label"].item() == pytest.approx(own, rel=1e-5)
    assert module.training_step(batch, 0).item() == pytest.approx(2 * ce + 0.5 * own, rel=1e-5)


@pytest.mark.parametrize("left", ["ce_weight", "pseudo_label_weight"])
def test_a_term_of_weight_zero_is_not_computed(left: str) -> None:
    module = build(**({"ce_weight": 0.0, "pseudo_label_weight": 0.0} | {left: 1.0}))
    name = {"ce_weight": "cross_entropy", "pseudo_label_weight": "pseudo_label"}[left]
    assert set(module.losses(batch_of(painted()))) == {name}


def test_a_painted_image_has_its_painting_as_pseudo_labels() -> None:
    terms = build(threshold=1.0).losses(batch_of(painted()))
    torch.testing.assert_close(terms["pseudo_label"], terms["cross_entropy"])


def test_a_class_that_is_tagged_absent_is_no_pseudo_label() -> None:
    """With one class left the pseudo-label is that class, whatever the network says."""
    module = build()
    batch = batch_of(without(0, 2))
    expected, _ = cross_entropy(module(batch["image"]), torch.ones_like(batch["labels"]))
    torch.testing.assert_close(module.losses(batch)["pseudo_label"], expected[0])


def test_a_boxed_class_is_a_pseudo_label_inside_its_boxes_only() -> None:
    module = build()
    with torch.no_grad():  # a network that takes every pixel for class 1
        module.network.head.weight.zero_()
        module.network.head.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))
    boxed = Annotation(
        boxes=np.array([[4, 4, 8, 10]], np.float32), box_labels=np.array([1]), boxed_classes=(1,)
    )
    p = torch.tensor([0.0, 3.0, 1.0]).log_softmax(0)
    inside = 4 * 6 / 256
    expected = -(inside * p[1] + (1 - inside) * p[2])  # elsewhere the best of the others
    torch.testing.assert_close(module.losses(batch_of(boxed))["pseudo_label"], expected)
    unfiltered = build(filter_candidates=False)
    unfiltered.load_state_dict(module.state_dict())
    torch.testing.assert_close(unfiltered.losses(batch_of(boxed))["pseudo_label"], -p[1])


def test_without_filter_the_pseudo_labels_look_at_no_annotation() -> None:
    module = build(filter_candidates=False)
    bare, said = batch_of(Annotation(), Annotation()), batch_of(painted(), without(1))
    assert torch.equal(bare["image"], said["image"])
    found = [module.losses(batch)["pseudo_label"] for batch in (bare, said)]
    assert torch.equal(*found)
    assert not torch.equal(build().losses(said)["pseudo_label"], found[0])


def test_an_image_that_is_all_padding_does_not_count() -> None:
    module = build()
    batch = batch_of(painted(), Annotation(), without(1))
    alone = module.losses({k: v[:2] for k, v in batch.items()})["pseudo_label"]
    batch["valid"][2] = False
    torch.testing.assert_close(module.losses(batch)["pseudo_label"], alone)


@pytest.mark.parametrize("weak", ["none", "threshold"])
def test_a_batch_without_any_target_gives_zero_and_a_gradient_for_every_weight(weak: str) -> None:
    module = build(**({"threshold": 1.0} if weak == "threshold" else {}))
    batch = batch_of(Annotation(), Annotation())
    if weak == "none":
        batch["valid"][:] = False
    terms = module.losses(batch)
    assert {name: term.item() for name, term in terms.items()} == {
        "cross_entropy": 0,
        "pseudo_label": 0,
    }
    for term in terms.values():
        module.zero_grad()
        term.backward(retain_graph=True)
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_volumes() -> None:
    module = build(spatial_dims=3)
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
        ({"ce_weight": 0.0, "pseudo_label_weight": 0.0}, "ce_weight and pseudo_label_weight are"),
        ({"pseudo_label_weight": -1.0}, "pseudo_label_weight is -1.0; it must not be negative"),
        ({"ce_weight": float("nan")}, "ce_weight is nan"),
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
