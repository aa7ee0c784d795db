"""What Con2RModule adds to its losses: which pixels, which views, and what the graph knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semiweak import Con2RModule, SupervisedModule
from semiweak.losses import objects
from semiweak.losses.graph_contrast import (
    class_similarity,
    graph_contrast_loss,
    graph_targets,
    receptive_overlap,
)
from semiweak.losses.supervised import cross_entropy
from semiweak.methods import con2r

K = 3
SAME_VIEW = {"operations": "none", "cutout_times": 0}
SMALL: dict[str, Any] = {"num_classes": K, "widths": [4, 8], "norm": "group"}


def build(**arguments: Any) -> Con2RModule:
    torch.manual_seed(0)
    return Con2RModule(**(SMALL | {"queries": 20, "reach": 6.0} | arguments))


def batch_of(*, painted: int = 1, size: int = 3, shape: tuple[int, ...] = (16, 12)) -> Any:
    """The first images are painted, nothing is known of the others."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(K, (size, *shape), generator=generator)
    candidates = nn.functional.one_hot(truth, K).movedim(-1, 1).bool()
    truth[painted:], candidates[painted:] = 255, True
    return {
        "image": torch.randn(size, 1, *shape, generator=generator),
        "labels": truth,
        "candidates": candidates,
        "valid": torch.ones(size, *shape, dtype=torch.bool),
    }


def seeded_losses(module: Con2RModule, batch: Any, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return module.losses(batch)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The pixels that are drawn, of each call."""
    calls: list[Tensor] = []

    def record(*arguments: Any) -> Tensor:
        calls.append(objects.random_among(*arguments))
        return calls[-1]

    monkeypatch.setattr(con2r, "random_among", record)
    return calls


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The class distributions of queries and neighbours, of each call."""
    calls: list[tuple[Tensor, Tensor]] = []

    def record(query: Tensor, neighbours: Tensor) -> Tensor:
        calls.append((query, neighbours))
        return class_similarity(query, neighbours)

    monkeypatch.setattr(con2r, "class_similarity", record)
    return calls


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("shape", "reach"), [((16, 12), [6.0, 9.0]), ((6, 8, 10), [3, 5, 9])])
@pytest.mark.parametrize("filtered", [True, False])
def test_the_contrast_is_of_the_strong_view_under_the_graph_of_the_weak_one(
    filtered: bool, shape: tuple[int, ...], reach: list[float], normalize: bool, drawn: list[Tensor]
) -> None:
    module = build(
        spatial_dims=len(shape), reach=reach, alpha=0.3, temperature=0.7, normalize=normalize,
        filter_candidates=filtered, strong={"cutout_size": 4},
    )  # fmt: skip
    view, seen = module.strong, []
    module.strong = lambda image: seen.append((image, view(image))) or seen[0][1]
    batch = batch_of(shape=shape)
    loss = seeded_losses(module, batch)["contrast"]
    weak, strong = seen[0]
    assert torch.equal(weak, batch["image"])
    assert not torch.equal(weak, strong)

    # The same by maps of whole images.
    grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1).flatten(0, -2)
    scores = module(batch["image"])
    if filtered:
        scores = scores.masked_fill(~batch["candidates"], -torch.inf)
    predicted = scores.softmax(1).flatten(2)
    features = module.network.features(strong)
    embeddings = module.projection(features.movedim(1, -1)).flatten(1, -2)
    (pixels,) = drawn
    assert pixels.shape == (3, 40)
    expected = []
    for i in range(3):
        q, n = pixels[i].tensor_split(2)
        overlap = receptive_overlap(grid[q][None], grid[n][None], reach)
        similarity = class_similarity(predicted[i, :, q].T[None], predicted[i, :, n].T[None])
        graph = graph_targets(overlap, similarity, alpha=0.3)
        expected.append(
            graph_contrast_loss(
                embeddings[i, q][None], embeddings[i, n][None], *graph,
                normalize=normalize, temperature=0.7,
            )
        )  # fmt: skip
    torch.testing.assert_close(loss, torch.cat(expected).mean())


def test_the_loss_is_the_weighted_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = build(ce_weight=2.0, contrast_weight=0.5), batch_of()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
    terms = seeded_losses(module, batch)
    ce = cross_entropy(module(batch["image"]), batch["labels"])[0][0].item()
    assert terms["cross_entropy"].item() == pytest.approx(ce, rel=1e-5)
    torch.manual_seed(1)
    total = module.training_step(batch, 0).item()
    assert total == pytest.approx(2 * ce + 0.5 * terms["contrast"].item(), rel=1e-5)


def test_without_the_contrast_it_is_the_supervised_method_to_the_bit() -> None:
    module = build(contrast_weight=0.0)
    torch.manual_seed(0)
    supervised = SupervisedModule(**SMALL)
    weights = dict(supervised.named_parameters())
    assert {k: v.shape for k, v in module.named_parameters()} == {
        k: v.shape for k, v in weights.items()
    }
    batch = batch_of(painted=2)
    losses, expected = module.losses(batch), supervised.losses(batch)
    assert losses.keys() == expected.keys() == {"cross_entropy"}
    assert torch.equal(losses["cross_entropy"], expected["cross_entropy"])
    losses["cross_entropy"].backward()
    expected["cross_entropy"].backward()
    for name, weight in module.named_parameters():
        assert torch.equal(weight, weights[name]), name
        assert torch.equal(weight.grad, weights[name].grad), name


def test_with_the_contrast_the_network_starts_as_the_supervised_one() -> None:
    torch.manual_seed(0)
    weights = dict(SupervisedModule(**SMALL).network.named_parameters())
    for name, weight in build().network.named_parameters():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("embedding_dim", [0, 5])
def test_the_contrast_reaches_features_and_projection_by_the_strong_view_alone(
    embedding_dim: int,
) -> None:
    module, batch = build(embedding_dim=embedding_dim), batch_of()
    seen: list[Tensor] = []

    def view(image: Tensor) -> Tensor:
        seen.append((image.detach() + 1).requires_grad_())
        return seen[0]

    module.strong = view
    batch["image"].requires_grad_()
    module.losses(batch)["contrast"].backward()
    assert batch["image"].grad is None  # the graph is a target
    assert seen[0].grad.flatten(1).any(1).all()
    for name, parameter in module.named_parameters():
        if name.startswith("network.head"):
            assert parameter.grad is None
        else:
            assert parameter.grad.any(), name
    assert len(list(module.projection.parameters())) == 2 * bool(embedding_dim)


def test_painted_pixels_are_one_hot_and_others_have_their_candidates(
    drawn: list[Tensor], classes: Any
) -> None:
    batch = batch_of(painted=1)
    batch["candidates"][1, 2] = False  # tagged absent
    build().losses(batch)
    for pixels, found in zip(drawn[0].chunk(2, dim=1), classes[0], strict=True):
        assert not found.requires_grad
        assert torch.equal(found[0].argmax(1), batch["labels"][0].flatten()[pixels[0]])
        torch.testing.assert_close(found.sum(2), torch.ones(3, 20))
        assert found[0].unique().tolist() == [0, 1]
        assert not found[1, :, 2].any()
        assert (found[1, :, :2] > 0).all()
        assert (found[2] > 0).all()


def test_unfiltered_the_contrast_looks_at_no_annotation() -> None:
    losses = [
        seeded_losses(build(filter_candidates=filtered), batch_of(painted=n))["contrast"]
        for filtered in (False, True)
        for n in (0, 3)
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[2], losses[3])


def test_pixels_are_drawn_inside_the_image_and_an_image_without_any_does_not_count(
    drawn: list[Tensor],
) -> None:
    module, batch = build(strong=SAME_VIEW, queries=200), batch_of(painted=0)
    batch["valid"][:, :, 5:] = False
    batch["valid"][2] = False
    loss = seeded_losses(module, batch)["contrast"]
    positions = drawn[0][:2]
    assert torch.equal(positions.unique(), batch["valid"][0].flatten().nonzero().flatten())
    two = {key: value[:2] for key, value in batch.items()}
    torch.testing.assert_close(seeded_losses(module, two)["contrast"], loss)
    batch["valid"][:] = False
    loss = module.losses(batch)["contrast"]
    assert loss.item() == 0
    loss.backward()
    assert not any(p.grad.any() for p in module.projection.parameters())


def test_an_images_pixels_do_not_hang_on_those_that_follow(drawn: list[Tensor]) -> None:
    module, batch = build(), batch_of(size=4)
    batch["valid"][3, 5:] = False
    seeded_losses(module, batch)
    seeded_losses(module, {key: value[:2] for key, value in batch.items()})
    assert torch.equal(drawn[0][:2], drawn[1])
    seeded_losses(module, batch, seed=2)
    assert not torch.equal(drawn[2], drawn[0])


def test_without_annotation_every_weight_has_a_gradient() -> None:
    module = build()
    terms = module.losses(batch_of(painted=0))
    assert terms["cross_entropy"].item() == 0
    terms["cross_entropy"].backward(retain_graph=True)
    for parameter in module.network.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    terms["contrast"].backward()
    assert all(p.grad is not None for p in module.parameters())


def test_running_statistics_follow_the_weak_view() -> None:
    module = build(norm="batch")
    module.strong = lambda image: 5 * image + 20
    norm = next(m for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    inputs: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    module.losses(batch_of())
    assert [len(x) for x in inputs] == [3, 3]
    torch.testing.assert_close(norm.running_mean, 0.1 * inputs[0].mean((0, 2, 3)))


def test_training_draws_the_embeddings_of_a_class_together() -> None:
    module, batch = build(strong=SAME_VIEW, alpha=0.0, queries=96), batch_of(painted=3)
    batch["image"] = batch["labels"][:, None] + 0.1 * batch["image"]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    torch.manual_seed(0)
    first = last = module.losses(batch)["contrast"].item()
    for _ in range(40):
        optimizer.zero_grad()
        loss = module.losses(batch)["contrast"]
        loss.backward()
        optimizer.step()
        last = loss.item()
    # The entropy of a graph in which each third of the pixels has one class is ln 96 - ln 3.
    assert last < first - 0.5


def test_the_defaults_are_those_of_the_supplement_and_of_the_page() -> None:
    module = Con2RModule()
    assert (module.normalize, module.temperature) == (True, 0.1)
    assert module.filter_candidates
    view = module.strong
    assert (view.cutout_size, view.cutout_times, view.cutout_p) == (32, 9, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ce_weight": 0.0}, "ce_weight is 0; nothing else teaches the classes"),
        ({"contrast_weight": -1.0}, "contrast_weight is -1.0; it must not be negative"),
        ({"queries": 1}, "queries is 1; it must be 2 or more"),
        ({"alpha": 2.0}, "alpha is 2.0; it is a share: 0 to 1"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ({"embedding_dim": -1}, "embedding_dim is -1; it must be 0 or more"),
        ({"reach": 0.0}, "reach is 0.0; it must be a positive number of pixels"),
        ({"reach": [8.0, 8.0, 8.0]}, "or a list of 2, one for each axis"),
        ({"strong": {"operations": "all"}}, "operations is 'all'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
