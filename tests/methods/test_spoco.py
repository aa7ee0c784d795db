"""SpocoModule: its second networks and views, its optimiser and its arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adversarial_small import batch
from spoco_small import NOISY, PLAIN, build, losses, three
from torch import nn

from semiweak import SpocoModule

G_NETWORKS = ("momentum", "shared", "dropout", "trained")


def optimizer(module: SpocoModule) -> torch.optim.Optimizer:
    settings: Any = module.configure_optimizers()
    return settings["optimizer"]


# The second network


@pytest.mark.parametrize("g_network", G_NETWORKS)
def test_which_network_gets_gradient_from_the_consistency(g_network: str) -> None:
    module = build(g_network=g_network, photometric=NOISY)
    losses(module, three())["consistency"].backward()
    assert all(p.grad is not None and p.grad.any() for p in module.network.parameters())
    if g_network in ("shared", "dropout"):
        assert module.second is None
        return
    assert isinstance(module.second, nn.Module)
    assert all((p.grad is not None) == (g_network == "trained") for p in module.second.parameters())
    weights = [next(iter(one.parameters())) for one in (module.network, module.second)]
    assert torch.equal(*weights) == (g_network == "momentum")  # at first a copy
    trained = {id(p) for p in optimizer(module).param_groups[0]["params"]}
    assert trained >= {id(p) for p in module.network.parameters()}
    among = [id(p) in trained for p in module.second.parameters()]
    assert all(among) if g_network == "trained" else not any(among)


@pytest.mark.parametrize("g_network", G_NETWORKS)
def test_gradient_flows_through_g_unless_it_is_an_average(g_network: str) -> None:
    module = build(g_network=g_network, momentum=0.5)
    g = module.embed_g(batch()["image"])
    assert g.requires_grad == (g_network != "momentum")
    module.update_second()  # moves an average and leaves the others alone
    if g_network == "trained":
        assert not torch.equal(next(module.network.parameters()), next(module.second.parameters()))


def test_dropout_is_for_g_only_and_in_the_bottleneck_only() -> None:
    module = build(g_network="dropout", dropout=0.75)
    seen: list[tuple[float, int]] = []
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.register_forward_hook(lambda m, _, out: seen.append((m.p, out.shape[-1])))
    image = torch.randn(8, 1, 32, 32)
    f, again = module(image), module(image)
    g = module.embed_g(image)
    after = module(image)
    assert seen == [(0.0, 16), (0.0, 16), (0.75, 16), (0.0, 16)]  # of 32 pixels and two levels
    assert torch.equal(f, again)
    assert torch.equal(f, after)
    assert not torch.allclose(f, g)
    assert torch.equal(module.eval()(image), module.embed_g(image))
    with pytest.raises(ValueError, match="in_channels=1"):
        module.embed_g(torch.randn(1, 2, 16, 16))
    assert module.network.dropout.p == 0


@pytest.mark.parametrize("g_network", ["shared", "momentum"])
def test_identical_views_of_identical_networks_are_consistent(g_network: str) -> None:
    for photometric, equal in ((PLAIN, True), (NOISY, False)):
        module = build(g_network=g_network, photometric=photometric, augment_f=False, delta_v=0.5)
        value = losses(module, three())["consistency"].item()
        assert (value == pytest.approx(0, abs=1e-6)) == equal


@pytest.mark.parametrize("augment_f", [True, False])
def test_f_and_g_see_views_of_their_own(augment_f: bool) -> None:
    module = build(photometric=NOISY, augment_f=augment_f)
    seen = []
    for network in (module.network, module.second):
        network.register_forward_pre_hook(lambda _, images: seen.append(images[0].clone()))
    image = batch()["image"]
    module.embed_views(image)
    f, g = seen
    assert torch.equal(f, image) != augment_f
    assert not torch.equal(g, image)
    assert not torch.equal(f, g)


def test_only_an_own_g_gives_embeddings_to_cluster() -> None:
    image = batch()["image"]
    for g_network in G_NETWORKS:
        module = build(g_network=g_network).eval()
        g = module.second_embeddings(image)
        assert (g is not None) == (g_network in ("momentum", "trained"))
        if g is not None:
            torch.testing.assert_close(g, module.second(image).detach())
    assert build(consistency_weight=0.0).second is None


# Arguments


def test_default_values_are_the_papers() -> None:
    given = SpocoModule().hparams
    paper = {
        "embedding_dim": 16, "widths": [16, 32, 64, 128, 256, 512], "norm": "batch",
        "delta_v": 0.5, "delta_d": 2.0, "threshold": 0.9, "momentum": 0.999, "anchor": "pixel",
        "object_loss": "dice", "g_network": "momentum", "consistency_region": "unlabelled",
    }  # fmt: skip
    assert {name: given[name] for name in paper} == paper


def test_adam_and_plateau_have_the_papers_values() -> None:
    module = build()
    adam = optimizer(module)
    assert isinstance(adam, torch.optim.Adam)
    group = adam.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (2e-4, 1e-5, (0.9, 0.999))
    settings: Any = module.configure_optimizers()
    plateau = settings["lr_scheduler"]["scheduler"]
    assert settings["lr_scheduler"]["monitor"] == "val/sbd"
    assert (plateau.mode, plateau.factor, plateau.patience) == ("max", 0.2, 10)
    assert plateau.min_lrs == [1e-6]
    assert "lr_scheduler" not in build(lr_factor=1.0).configure_optimizers()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta_v": 2.0}, "delta_v is 2.0 and delta_d is 2.0; both are distances, and delta_v"),
        ({"delta_v": 0.0}, "delta_v is 0.0"),
        ({"threshold": 1.0}, "threshold is 1.0; it must be between 0 and 1"),
        ({"max_anchors": 0}, "max_anchors is 0; it must be at least 1"),
        ({"pull_weight": -1.0}, "pull_weight is -1.0; it must not be negative"),
        ({"consistency_only": True, "consistency_weight": 0.0}, "leaves no loss at all"),
        ({"momentum": 1.0}, "momentum is 1.0; it must be at least 0 and below 1"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be between 0 and 1"),
        ({"anchor": "median"}, "anchor is 'median'; it must be one of pixel, mean"),
        ({"object_loss": "l1"}, "object_loss is 'l1'; it must be one of dice, bce"),
        ({"consistency_region": "none"}, "consistency_region is 'none'; it must be one of unlabe"),
        ({"g_network": "ema"}, "g_network is 'ema'; it must be one of momentum, shared, dropout"),
        ({"lr_factor": 2.0}, "lr_factor is 2.0"),
        ({"photometric": {"blur_p": 2.0}}, "blur_p is 2.0"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_all_weights_0_and_dropout_of_another_network_are_told() -> None:
    weights = {f"{name}_weight": 0.0 for name in build().loss_weights()}
    with pytest.raises(ValueError, match="all weights are 0"):
        build(**weights)
    with pytest.raises(ValueError, match=r"needs the network 'unet', not 'smp\.Unet'"):
        SpocoModule(g_network="dropout", network="smp.Unet", encoder="resnet18")


def test_the_mean_embedding_of_painted_background_is_remembered_from_training() -> None:
    module, one = build(photometric=PLAIN, augment_f=False), three()
    assert module.background_embedding() is None
    f = module(one["image"])
    expected = f[0][:, one["instances"][0] == 3].mean(1)  # the background of the first image
    module.losses(one)
    torch.testing.assert_close(module.background_embedding(), expected)
    other = {**one, "instances": one["instances"].roll(3, 0), "image": one["image"] + 1}
    module.losses(other)  # half and half, until there were twenty
    then = module(other["image"])[0][:, other["instances"][0] == 3].mean(1)
    torch.testing.assert_close(module.background_embedding(), (expected + then) / 2)


def test_background_is_not_learned_where_there_is_none_nor_outside_of_training() -> None:
    module, one = build(), three()
    none = {**one, "background": torch.zeros(3, dtype=torch.long)}
    module.losses(none)
    module.eval()
    module.losses(one)
    assert module.background_embedding() is None
    again = build()
    again.losses(one)
    module.load_state_dict(again.state_dict())
    torch.testing.assert_close(module.background_embedding(), again.background_embedding())


def test_background_is_averaged_over_the_pixels_of_all_ranks() -> None:
    module, one = build(photometric=PLAIN, augment_f=False), three()
    f = module(one["image"])
    pixels = f[0][:, one["instances"][0] == 3]
    other = torch.tensor([100.0, 200.0, 300.0, 400.0, 50.0])  # sums of another rank, 50 pixels
    module.mean_over_ranks = lambda mine: (mine + other) / 2  # type: ignore[method-assign]
    module.see_background(f, one)
    expected = (pixels.sum(1) + other[:4]) / (pixels.shape[1] + 50)
    torch.testing.assert_close(module.background_embedding(), expected)
