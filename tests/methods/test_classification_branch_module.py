"""What ClassificationBranchModule adds to its losses: one backbone, and gating in prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from semiweak import ClassificationBranchModule, SupervisedModule, Tiling
from semiweak.losses.presence import presence_loss, presence_targets
from semiweak.losses.supervised import cross_entropy
from semiweak.methods.classification_branch import gated

K = 3


def build(cls: Any = ClassificationBranchModule, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return cls(**({"num_classes": K, "widths": [4, 8], "norm": "group"} | arguments))


def batch_of(size: tuple[int, ...] = (16, 16), *, painted: int = 1) -> Any:
    """The first images are painted, the next is tagged, of the last nothing is known."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(K - 1, (3, *size), generator=generator)
    candidates = torch.nn.functional.one_hot(truth, K).movedim(-1, 1).bool()
    truth[painted:], candidates[painted:] = 255, True
    tags = torch.full((3, K), -1, dtype=torch.int8)
    tags[1] = torch.tensor([1, -1, 0])
    candidates[1, 2] = False
    nothing = [torch.zeros(0, 2 * len(size))] * 3
    return {
        "image": torch.randn(3, 1, *size, generator=generator),
        "labels": truth,
        "candidates": candidates,
        "valid": torch.ones(3, *size, dtype=torch.bool),
        "tags": tags,
        "boxes": nothing,
        "box_labels": [torch.zeros(0, dtype=torch.int64)] * 3,
    }


def test_the_loss_is_the_terms_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = build(classification_weight=0.25), batch_of()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
    terms = module.losses(batch)
    ce = cross_entropy(module(batch["image"]), batch["labels"])[0][0].item()
    of_image = module.branch(module.network.features(batch["image"]))
    targets = torch.tensor([[1, 1, 0], [1, -1, 0], [-1, -1, -1]])
    presence = presence_loss(of_image, targets)[0][:2].mean().item()
    assert terms["cross_entropy"].item() == pytest.approx(ce, rel=1e-5)
    assert terms["classification"].item() == pytest.approx(presence, rel=1e-5)
    total = module.training_step(batch, 0).item()
    assert total == pytest.approx(ce + 0.25 * presence, rel=1e-5)


def test_boxes_say_what_is_there() -> None:
    module, batch = build(), batch_of(painted=0)
    batch["boxes"] = [torch.tensor([[2.0, 2, 9, 9]])] * 3
    batch["box_labels"] = [torch.tensor([1])] * 3
    targets = presence_targets(
        batch["labels"], batch["candidates"], batch["valid"], batch["tags"],
        boxes=batch["boxes"], box_labels=batch["box_labels"],
    )  # fmt: skip
    assert targets.tolist() == [[-1, 1, -1], [1, 1, 0], [-1, 1, -1]]
    of_image = module.branch(module.network.features(batch["image"]))
    expected = presence_loss(of_image, targets)[0].mean()
    torch.testing.assert_close(module.losses(batch)["classification"], expected)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_without_the_branch_it_is_the_supervised_method_to_the_bit(norm: str) -> None:
    branch = build(classification_weight=0.0, norm=norm)
    alone = build(SupervisedModule, norm=norm)
    assert branch.branch is None
    steps = []
    for module in (branch, alone):
        before = {k: v.clone() for k, v in module.network.named_parameters()}
        terms = module.losses(batch_of())
        assert set(terms) == {"cross_entropy"}
        terms["cross_entropy"].backward()
        gradients = {k: v.grad for k, v in module.named_parameters()}
        steps.append((before, terms["cross_entropy"], gradients))
    (weights, loss, gradients), (weights_alone, loss_alone, gradients_alone) = steps
    assert torch.equal(loss, loss_alone)
    assert weights.keys() == weights_alone.keys()
    assert gradients.keys() == gradients_alone.keys()
    assert all(torch.equal(v, weights_alone[k]) for k, v in weights.items())
    assert all(torch.equal(v, gradients_alone[k]) for k, v in gradients.items())


def test_with_the_branch_the_network_begins_as_without() -> None:
    weights, alone = build().network.state_dict(), build(SupervisedModule).network.state_dict()
    assert all(torch.equal(v, alone[k]) for k, v in weights.items())
    terms, of_alone = (build(c).losses(batch_of()) for c in (ClassificationBranchModule, SupervisedModule))  # fmt: skip  # noqa: E501
    assert torch.equal(terms["cross_entropy"], of_alone["cross_entropy"])


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("network", ["unet", "smp.FPN"])
def test_the_branch_alone_reaches_the_shared_network(network: str, separate: bool) -> None:
    settings: dict[str, Any] = {"network": network, "separate": separate}
    if network != "unet":
        settings |= {"encoder": "resnet18", "widths": [16, 32, 64, 128, 256, 512], "norm": "batch"}
    module = build(**settings)
    module.losses(batch_of())["classification"].backward()
    head = {id(p) for p in module.network.head.parameters()}
    for name, parameter in module.network.named_parameters():
        if id(parameter) in head:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            # Of images of one cell of the encoder, batch normalisation leaves nothing.
            assert parameter.grad.any() or network != "unet", name
    assert any(p.grad.any() for p in module.network.parameters() if p.grad is not None)


def test_the_branch_has_a_rate_of_its_own() -> None:
    module = build(lr=0.01, branch_lr_factor=0.25)
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = module.configure_optimizers()["optimizer"]
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # the first step of Adam is as long as the rate
    of_branch = {id(p) for p in module.branch.parameters()}
    for parameter, old in zip(module.parameters(), before, strict=True):
        step = 0.0025 if id(parameter) in of_branch else 0.01
        torch.testing.assert_close(old - parameter, torch.full_like(old, step), rtol=1e-2, atol=0)


def test_without_the_branch_there_is_one_rate() -> None:
    module = build(classification_weight=0.0)
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert len(group["params"]) == len(list(module.parameters()))


def test_the_number_of_branches() -> None:
    assert len(build().branch.branches) == K
    assert len(build(separate=False).branch.branches) == 1


def test_volumes() -> None:
    module = build(spatial_dims=3, separate=False)
    batch = batch_of((4, 8, 8))
    terms = module.losses(batch)
    assert terms["classification"].item() > 0
    module.gate = True
    assert module.predict_probabilities(batch["image"]).shape == (3, K, 4, 8, 8)


# Gating


def test_absent_classes_get_nothing_and_the_others_all() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]]).T[None, :, None]  # (1, 3, 1, 2)
    got = gated(p, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(got[0, :, 0].T, torch.tensor([[0.625, 0.375, 0], [1.0, 0, 0]]))
    # The second pixel has nothing left, and keeps its own; so do all where no class is there.
    got = gated(p, torch.tensor([[False, True, False]]))
    torch.testing.assert_close(got[0, :, 0].T, torch.tensor([[0.0, 1, 0], [0.1, 0, 0.9]]))
    assert torch.equal(gated(p, torch.zeros(1, 3, dtype=torch.bool)), p)


def see(module: Any, logits: list[list[float]]) -> None:
    """Lets the branch say this of the next images or tiles."""
    said = iter(logits)
    module.branch.forward = lambda features: torch.tensor([next(said) for _ in features])


def test_it_is_off_by_default() -> None:
    module, image = build().eval(), batch_of()["image"]
    plain = build(SupervisedModule).eval()
    assert torch.equal(module.predict_probabilities(image), plain.predict_probabilities(image))


def test_prediction_takes_away_what_the_branch_does_not_see() -> None:
    module, image = build(gate=True, gate_threshold=0.5).eval(), batch_of()["image"][:2]
    see(module, [[0.0, 3.0, -0.01], [-1.0, -1.0, 1.0]])  # probability 0.5 is enough
    probabilities = module.predict_probabilities(image)
    own = module(image).softmax(1)
    assert not probabilities[0, 2].any()
    assert (probabilities[1, 2] == 1).all()
    torch.testing.assert_close(probabilities[0, :2], own[0, :2] / own[0, :2].sum(0))


def test_each_tile_is_gated_by_itself() -> None:
    module = build(gate=True).eval()
    module.tiling = Tiling(size=16, overlap=0)
    see(module, [[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]])
    probabilities = module.predict_probabilities(torch.randn(1, 1, 16, 32))
    assert (probabilities[0, 0, :, :16] == 1).all()
    assert (probabilities[0, 1, :, 16:] == 1).all()


def test_presence_is_a_probability_a_class() -> None:
    module, image = build(), batch_of()["image"]
    expected = module.branch(module.network.features(image)).sigmoid()
    torch.testing.assert_close(module.presence(image), expected)
    with pytest.raises(ValueError, match="no branch to ask"):
        build(classification_weight=0.0).presence(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classification_weight": -1.0}, "classification_weight is -1.0"),
        ({"gate_threshold": 50}, "gate_threshold is 50; it is a probability"),
        ({"branch_lr_factor": 0.0}, "branch_lr_factor is 0.0; it must be positive"),
        ({"gate": True, "classification_weight": 0.0}, "gate asks the branch"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
