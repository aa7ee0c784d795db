"""What PointDistanceModule adds to SupervisedModule: a second head, and where its targets are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import semiweak
from semiweak import PointDistanceModule, SupervisedModule
from semiweak.data.annotations import Annotation, Sample
from semiweak.data.batch import collate, semantic_item, to_contract
from semiweak.data.distances import distance_maps
from semiweak.data.synthetic import synthetic_sample
from semiweak.data.weaken import to_points
from semiweak.losses.distance_regression import distance_regression

K = 3
SMALL: dict[str, Any] = {"num_classes": K, "widths": [4, 8], "norm": "group"}
NAN = float("nan")


def build(**arguments: Any) -> PointDistanceModule:
    torch.manual_seed(0)
    return PointDistanceModule(**(SMALL | {"cache": None} | arguments))


def batch_of(*kinds: str, shape: tuple[int, ...] = (16, 16)) -> Any:
    """An image for each kind: "mask", "points", "none"."""
    items = []
    for i, kind in enumerate(kinds):
        drawn = synthetic_sample(i, shape=shape, num_classes=K)
        truth = drawn.annotation.without_instances()
        known = {"mask": truth, "points": to_points(truth, K), "none": Annotation()}[kind]
        items.append(semantic_item(Sample(drawn.image, known, drawn.name), K))
    batch = to_contract(collate(items))
    batch["image"] = (batch["image"].float() - 100) / 50
    return batch


def gradients(module: pl.LightningModule) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    "network", [{}, {"norm": "batch"}, {"network": "smp.FPN", "encoder": "resnet18"}]
)
def test_with_weight_zero_it_is_the_supervised_module_to_the_bit(network: dict[str, Any]) -> None:
    arguments = {"num_classes": K} | network if "network" in network else SMALL | network
    torch.manual_seed(0)
    plain = SupervisedModule(**arguments)
    torch.manual_seed(0)
    module = PointDistanceModule(**arguments, distance_weight=0.0)
    assert module.state_dict().keys() == plain.state_dict().keys()
    batch = batch_of("mask", "points", "none", shape=(64, 64))
    torch.manual_seed(1)  # of dropout
    theirs = plain.losses(batch)
    torch.manual_seed(1)
    mine = module.losses(batch)
    assert set(mine) == set(theirs) == {"cross_entropy"}
    assert torch.equal(mine["cross_entropy"], theirs["cross_entropy"])
    theirs["cross_entropy"].backward()
    mine["cross_entropy"].backward()
    for name, weight in plain.named_parameters():
        assert torch.equal(weight, module.get_parameter(name)), name
        if weight.grad is not None:
            assert torch.equal(weight.grad, module.get_parameter(name).grad), name


def test_the_second_head_leaves_network_and_cross_entropy_as_they_are() -> None:
    torch.manual_seed(0)
    plain = SupervisedModule(**SMALL)
    batch = batch_of("mask", "points")
    theirs, mine = plain.losses(batch), build().losses(batch)
    assert torch.equal(mine["cross_entropy"], theirs["cross_entropy"])


def test_the_regression_alone_reaches_the_shared_layers_and_not_the_first_head() -> None:
    module = build()
    module.losses(batch_of("points"))["distance"].backward()
    for name, gradient in gradients(module).items():
        if name.startswith("network.head"):
            assert gradient is None
        else:
            assert gradient.any(), name


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_targets_of_the_batch_come_first_and_else_those_of_the_patch(distance: Any) -> None:
    module = build(distance=distance, mixing=0.7, spacing=[2.0, 1.0], scale=9.0)
    batch = batch_of("points", "mask", "none")
    features = module.network.features(batch["image"])
    own = distance_maps(
        batch["image"][0].numpy(), batch["points"][0].numpy(), batch["point_labels"][0].numpy(),
        K, distance=distance, mixing=0.7, spacing=[2.0, 1.0],
    )  # fmt: skip
    for given in (None, torch.rand(3, K, 16, 16) * 20):
        wanted = torch.from_numpy(own)[None] if given is None else given[:1]
        other = {} if given is None else {"distances": given}
        if given is not None:
            given[1:] = NAN
        head = module.distance_head(features[:1])
        expected, _ = distance_regression(head, wanted, scale=9.0)
        found = module.losses(batch | other)["distance"]
        torch.testing.assert_close(found, expected[0])


def test_padding_does_not_count() -> None:
    module, batch = build(), batch_of("points")
    batch["distances"] = 20 * torch.rand(1, K, 16, 16)
    batch["valid"][:, :, 10:] = False
    first = module.losses(batch)["distance"]
    batch["distances"][..., 10:] = 0.0
    assert torch.equal(module.losses(batch)["distance"], first)


def test_images_without_points_have_no_regression_and_zeros_for_gradients() -> None:
    module = build()
    terms = module.losses(batch_of("mask", "none"))
    assert terms["distance"].item() == 0
    terms["distance"].backward(retain_graph=True)
    assert not module.distance_head.weight.grad.any()
    blank = module.losses(batch_of("none"))
    assert [t.item() for t in blank.values()] == [0, 0]
    sum(blank.values()).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_the_mean_is_over_the_images_with_points() -> None:
    module, batch = build(), batch_of("points", "mask", "points", "none")
    together = module.losses(batch)["distance"]
    apart = [module.losses(batch_of("none", "none", "points"))["distance"]]
    apart.append(module.losses(batch_of("points"))["distance"])
    torch.testing.assert_close(together, torch.stack(apart).mean())


def test_a_decoder_smaller_than_the_image_gives_the_logits_of_the_prediction() -> None:
    module = build(network="smp.FPN", encoder="resnet18", widths=[16, 32, 64, 128, 256, 512],
                   norm="batch").eval()  # fmt: skip
    image = torch.randn(2, 1, 70, 64)
    features, logits = module.network.features_and_output(image)
    assert logits.shape == (2, K, 70, 64)
    torch.testing.assert_close(logits, module(image))
    torch.testing.assert_close(features, module.network.features(image))
    assert module.losses(batch_of("points", "mask", shape=(70, 64)))["distance"] > 0


def data(**options: Any) -> semiweak.SyntheticDataModule:
    common: dict[str, Any] = {
        "num_train": 4, "num_val": 1, "size": 40, "patch_size": 32, "num_classes": K,
        "weaken": semiweak.Weakening(masks=2, points=1), "batch_size": 4, "num_workers": 0,
    }  # fmt: skip
    return semiweak.SyntheticDataModule(**(common | options))


def trainer(folder: Path) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=2, default_root_dir=folder,
    )  # fmt: skip


def test_training_has_the_maps_of_the_whole_image_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, images = build(cache=str(tmp_path / "kept")), data()
    seen = []
    steps = module.losses

    def watch(batch: Any) -> Any:
        seen.append(batch)
        return steps(batch)

    monkeypatch.setattr(module, "losses", watch)
    trainer(tmp_path).fit(module, datamodule=images)
    assert len(seen) == 2
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2
    whole = {s.name: s.read() for s in images.part("train")}
    for batch in seen:
        assert batch["distances"].dtype == torch.float32
        for i, name in enumerate(batch["name"]):
            said = whole[name].annotation
            has = np.isin(np.arange(K), said.point_labels)
            got = ~batch["distances"][i].isnan().flatten(1).all(1).numpy()
            assert np.array_equal(got, has)
            if has.any():  # somewhere in the image there is such a patch
                maps = distance_maps(
                    whole[name].image, said.points, said.point_labels, K, mixing=module.mixing
                )
                values = batch["distances"][i][torch.from_numpy(has)].flatten().numpy()
                assert np.isin(values, maps[has]).all()


def test_loaders_without_a_data_module_do(tmp_path: Path) -> None:
    items = [
        {k: v[0] for k, v in batch_of(kind, shape=(32, 32)).items()} for kind in ("points", "mask")
    ]
    module = build(cache=str(tmp_path / "kept"))
    loaders = [DataLoader(items[i:], batch_size=2, collate_fn=collate) for i in range(2)]
    trainer(tmp_path).fit(module, *loaders)
    assert not (tmp_path / "kept").exists()


def test_a_switched_off_branch_asks_for_nothing(tmp_path: Path) -> None:
    images = data()
    trainer(tmp_path).fit(build(distance_weight=0.0), datamodule=images)
    assert images.maps is None


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_volumes(tmp_path: Path, distance: Any) -> None:
    module = build(spatial_dims=3, distance=distance, spacing=[4.0, 1.0, 1.0])
    images = data(spatial_dims=3, size=[8, 24, 24], patch_size=[8, 16, 16], batch_size=2)
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=images)
    assert fit.callback_metrics["train/distance"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ce_weight": 0.0}, "ce_weight is 0"),
        ({"distance_weight": -1.0}, "distance_weight is -1.0"),
        ({"distance": "city block"}, "distance is 'city block'; it must be 'euclidean' or"),
        ({"mixing": -0.1}, "mixing is -0.1"),
        ({"spacing": [1.0, 1.0, 1.0]}, "spacing is .*2 positive numbers"),
        ({"scale": 0.0}, "scale is 0.0"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
