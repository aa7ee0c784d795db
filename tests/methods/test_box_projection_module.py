"""What BoxProjectionModule makes of a batch, and what it is with its branch switched off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semiweak import Annotation, BoxProjectionModule, Sample, SupervisedModule
from semiweak.data.batch import collate, semantic_item, to_contract
from semiweak.data.batch_annotations import box_pixels
from semiweak.losses.box_projection import projection_loss
from semiweak.losses.colour_affinity import colour_affinity, pairwise_loss
from semiweak.losses.supervised import cross_entropy

K = 3


def build(cls: type[Any] = BoxProjectionModule, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return cls(**({"num_classes": K, "widths": [4, 8], "norm": "group"} | arguments))


def batch_of(*annotations: Annotation, size: tuple[int, ...] = (16, 16), seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    items = [
        semantic_item(Sample(rng.normal(size=(1, *size)).astype(np.float32), a, str(i)), K)
        for i, a in enumerate(annotations)
    ]
    return to_contract(collate(items))


def boxed(*boxes: list[float], classes: Any = None, **more: Any) -> Annotation:
    labels = np.asarray([1] * len(boxes) if classes is None else classes)
    return Annotation(boxes=np.asarray(boxes, np.float32), box_labels=labels, **more)


def painted(seed: int = 0) -> Annotation:
    return Annotation(mask=np.random.default_rng(seed).integers(K, size=(16, 16), dtype=np.uint8))


def mixed_batch() -> Any:
    return batch_of(
        painted(),
        boxed([2, 3, 9, 12], [8, 1, 16, 7], classes=[1, 2], boxed_classes=(1, 2)),
        Annotation(),
    )


@pytest.mark.parametrize("reading", ["box", "class"])
@pytest.mark.parametrize("cut_boxes", ["skip", "keep"])
def test_each_term_is_its_loss_of_the_images_that_it_speaks_about(
    reading: str, cut_boxes: str
) -> None:
    settings: Any = {"reading": reading, "cut_boxes": cut_boxes}
    module = build(**settings, dilation=1, similarity_smoothing=3, similarity_threshold=0.4)
    batch = mixed_batch()
    terms = module.losses(batch)
    logits, valid = module(batch["image"]), batch["valid"]
    said = torch.tensor([[1, 2, 3, 9, 12], [1, 8, 1, 16, 7]]), torch.tensor([1, 2])
    values, _ = projection_loss(logits, *said, batch["candidates"], valid, **settings)
    torch.testing.assert_close(terms["projection"], values[1])
    similarity = colour_affinity(batch["image"], valid, dilation=1, smoothing=3)
    values, _ = pairwise_loss(logits, *said, similarity, valid, threshold=0.4, dilation=1)
    torch.testing.assert_close(terms["pairwise"], values[1])
    values, _ = cross_entropy(logits, batch["labels"])
    torch.testing.assert_close(terms["cross_entropy"], values[0])


def test_switched_off_it_is_the_supervised_module_to_the_bit() -> None:
    batch = mixed_batch()
    gradients = []
    for module in (
        build(projection_weight=0.0, pairwise_weight=0.0, norm="batch"),
        build(SupervisedModule, norm="batch"),
    ):
        terms = module.losses(batch)
        assert set(terms) == {"cross_entropy"}
        terms["cross_entropy"].backward()
        gradients.append({k: (v.detach(), v.grad) for k, v in module.named_parameters()})
        gradients[-1]["loss"] = (terms["cross_entropy"].detach(), None)
    assert gradients[0].keys() == gradients[1].keys()
    for name, (value, gradient) in gradients[0].items():
        other, its_gradient = gradients[1][name]
        assert torch.equal(value, other), name
        assert gradient is None or torch.equal(gradient, its_gradient), name


@pytest.mark.parametrize("name", ["projection", "pairwise"])
def test_each_box_loss_alone_reaches_the_whole_network(name: str) -> None:
    module = build()
    module.losses(mixed_batch())[name].backward()
    for parameter, value in module.network.named_parameters():
        assert value.grad.any(), parameter


def test_without_boxes_they_are_zero_and_every_weight_has_a_gradient() -> None:
    module = build()
    terms = module.losses(batch_of(painted(), Annotation()))
    for name in ("projection", "pairwise"):
        assert terms[name].item() == 0
    (terms["projection"] + terms["pairwise"]).backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize("left", ["cross_entropy", "projection", "pairwise"])
def test_a_term_of_weight_zero_is_not_computed(left: str) -> None:
    weights = {"ce_weight": 0.0, "projection_weight": 0.0, "pairwise_weight": 0.0}
    module = build(**weights | {left.replace("cross_entropy", "ce") + "_weight": 1.0})
    assert set(module.losses(mixed_batch())) == {left}


def test_the_pairwise_weight_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(projection_weight=2.0, pairwise_weight=4.0, pairwise_warmup=100)
    found = []
    for step in (0, 25, 100, 1000):
        monkeypatch.setattr(BoxProjectionModule, "global_step", step)
        assert module.loss_weights()["projection"] == 2
        found.append(module.loss_weights()["pairwise"])
    assert found == [0, 1, 4, 4]


def test_the_defaults_are_the_sources() -> None:
    module = build()
    assert module.pairwise_warmup == 10_000
    assert module.dilation == 2
    assert module.weights == {"cross_entropy": 1.0, "projection": 1.0, "pairwise": 1.0}
    assert module.similarity_threshold == pytest.approx(0.25, abs=1e-3)
    assert build(in_channels=3).similarity_threshold == pytest.approx(0.319, abs=1e-3)


# Boxes


def test_a_pixel_is_in_a_box_that_holds_its_centre() -> None:
    batch = batch_of(
        boxed([1, 2, 4, 6], [1.4, 2.6, 4.5, 6.6], [3.6, 3.6, 4.4, 4.4], [0, 0, 16, 16]),
        Annotation(),
        boxed([0.2, 12, 3, 15.7]),
    )
    boxes, classes = box_pixels(batch)
    assert boxes.tolist() == [
        [0, 1, 2, 4, 6], [0, 1, 3, 4, 7], [0, 0, 0, 16, 16], [2, 0, 12, 3, 16],
    ]  # fmt: skip
    assert classes.tolist() == [1, 1, 1, 1]  # one has no centre in it
    assert boxes.dtype == classes.dtype == torch.int64


def grad_at_logits(annotation: Annotation, **arguments: Any) -> Tensor:
    """The gradient of the projection loss at the logits, of a uniform prediction."""
    module, batch = build(**arguments), batch_of(annotation)
    logits = torch.zeros(1, K, 16, 16, requires_grad=True)
    module.forward = lambda image: logits
    module.losses(batch)["projection"].backward()
    assert logits.grad is not None
    return logits.grad[0]


def test_a_crowd_box_and_boxes_of_some_objects_push_nothing_down() -> None:
    one = [3.0, 3.0, 8.0, 8.0]
    grad = grad_at_logits(boxed(one))  # not exhaustive
    assert (grad[1, 3:8, 3:8].sum() < 0) & (grad[:, 8:].abs().sum() + grad[:, :3].abs().sum() == 0)
    grad = grad_at_logits(boxed(one, boxed_classes=(1,)))
    assert (grad[1, 9:] > 0).any()
    crowd = np.asarray([False, True])
    grad = grad_at_logits(
        boxed(one, [9.0, 0.0, 16.0, 16.0], box_is_crowd=crowd, boxed_classes=(1,))
    )
    assert not grad[:, 9:].any()  # neither an object of its own nor none
    assert (grad[1, :3] > 0).any()


def test_what_a_fractional_box_merely_touches_is_neither_in_nor_out() -> None:
    grad = grad_at_logits(boxed([3.7, 3, 8, 8], boxed_classes=(1,)))
    assert not grad[:, 3, 3:8].any()
    assert grad[1, 4, 3:8].any()


def test_volumes() -> None:
    module = build(spatial_dims=3)
    batch = batch_of(boxed([1, 2, 2, 3, 7, 6], boxed_classes=(1,)), size=(4, 8, 8))
    terms = module.losses(batch)
    assert terms["projection"].item() > 0
    assert terms["pairwise"].item() > 0
    assert terms["cross_entropy"].item() == 0
    (terms["projection"] + terms["pairwise"]).backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"projection_weight": -1.0}, "projection_weight is -1"),
        ({"reading": "object"}, "reading is 'object'; it must be one of 'box', 'class'"),
        ({"cut_boxes": "drop"}, "cut_boxes is 'drop'"),
        ({"similarity_threshold": 0.0}, "similarity_threshold is 0"),
        ({"similarity_smoothing": 2}, "similarity_smoothing is 2"),
        ({"dilation": 0}, "dilation is 0"),
        ({"pairwise_warmup": -1}, "pairwise_warmup is -1"),
        ({"num_classes": 1}, "num_classes=1, but"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
