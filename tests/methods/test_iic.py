"""IICModule: its two kinds of heads, what clusters mean, and the alarm."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from semiweak import IICModule, SyntheticDataModule, Weakening
from semiweak.losses.mutual_information import joint_matrices, mutual_information_loss
from semiweak.methods import iic

K = 3


def build(**arguments: Any) -> IICModule:
    torch.manual_seed(0)
    small = {"num_classes": K, "auxiliary_clusters": 7, "widths": [4, 8], "norm": "group"}
    return IICModule(**(small | arguments))


def batch_of(size: int = 3, padding: int = 0) -> Any:
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(size, 16, 16, dtype=torch.bool)
    valid[..., 16 - padding :] = False
    return {"image": torch.randn(size, 1, 16, 16, generator=generator), "valid": valid}


def data(**options: Any) -> SyntheticDataModule:
    common = {
        "num_classes": K, "num_train": 4, "num_val": 2, "num_test": 2, "num_predict": 1, "size": 32,
        "patch_size": 32, "batch_size": 2, "num_workers": 0,
        "weaken": Weakening(masks=0, nothing=1),
    }  # fmt: skip
    return SyntheticDataModule(**(common | options))


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    common = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(**(common | options))


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("radius", [0, 2])
def test_the_terms_are_the_information_between_the_image_and_its_turned_view(
    radius: int, collapsed: bool
) -> None:
    module = build(radius=radius, mi_lambda=1.5, collapsed=collapsed)
    batch = batch_of(padding=3)
    torch.manual_seed(1)
    terms = module.losses(batch)
    torch.manual_seed(1)
    seen = module.view(batch["image"])
    valid = batch["valid"] & seen.rotation.valid(batch["valid"])
    assert 0.5 < valid.float().mean() < 13 / 16
    for name, heads in module._heads():
        (first,) = heads(module.network.features(batch["image"]))
        (second,) = heads(module.network.features(seen.image))
        second = seen.rotation.turn_back(second.softmax(1))
        joints = joint_matrices(first.softmax(1), second, valid=valid, radius=radius)
        loss = mutual_information_loss(joints, lamb=1.5, collapsed=collapsed)
        torch.testing.assert_close(terms[name], loss)
    assert len(terms) == 2


def test_the_second_view_is_turned_and_nothing_else_by_default() -> None:
    module = build()
    assert module.view.operations == ("rotate",)
    assert module.view.number == 1
    both = build(view={"operations": ["rotate", "brightness"], "number": 2})
    assert both.view.operations == ("rotate", "brightness")


def test_sub_heads_are_averaged_and_differ() -> None:
    module = build(sub_heads=3)
    batch = batch_of()
    torch.manual_seed(1)
    terms = module.losses(batch)
    means = {name: heads.seen[:3] for name, heads in module._heads()}  # of one step
    for name, mean in means.items():
        assert len(set(mean.tolist())) == 3
        assert terms[name].item() == pytest.approx(mean.mean().item(), rel=1e-5)


def test_heads_learn_in_turn_and_every_weight_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(heads="alternate")
    for step, (learns, rests) in enumerate((("main", "auxiliary"), ("auxiliary", "main"))):
        monkeypatch.setattr(IICModule, "global_step", step)
        terms = module.losses(batch_of())
        assert list(terms) == [learns]
        module.zero_grad()
        terms[learns].backward()
        assert all(p.grad is not None for p in module.parameters())
        assert any(p.grad.any() for p in module.heads[learns].parameters())
        assert not any(p.grad.any() for p in module.heads[rests].parameters())


def test_one_kind_of_head_alone() -> None:
    main = build(auxiliary_weight=0.0)
    assert list(main.losses(batch_of())) == ["main"]
    other = build(main_weight=0.0, output="auxiliary")
    assert list(other.losses(batch_of())) == ["auxiliary"]


@pytest.mark.parametrize("output", ["main", "auxiliary"])
def test_clusters_get_their_classes_in_validation_and_keep_them(
    output: str, tmp_path: Path
) -> None:
    module = build(output=output)
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=data())
    scores = fit.callback_metrics
    assert scores[f"val/mapped_iou/{output}"] == scores["val/iou"]
    mapping = module.heads[output].mapping
    assert (mapping >= 0).all()
    if output == "main":
        assert sorted(mapping.tolist()) == [0, 1, 2]
    path = tmp_path / "model.ckpt"
    fit.save_checkpoint(path)
    again = IICModule.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    assert torch.equal(again.heads[output].mapping, mapping)

    (out,) = fit.predict(again, datamodule=data())
    again.eval()
    with torch.inference_mode():
        clusters = again.cluster_probabilities(out["image"])[output]
        classes = again(out["image"]).exp()
    assert torch.allclose(out["probabilities"].sum(1), torch.ones(()))
    for c in range(K):
        expected = clusters[:, mapping == c].sum(1)
        torch.testing.assert_close(out["probabilities"][:, c], expected)
    torch.testing.assert_close(classes, out["probabilities"])


def test_the_mapping_of_validation_is_used_in_the_test_and_that_of_the_test_is_an_upper_bound(
    tmp_path: Path,
) -> None:
    module = build()
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=data())
    (good,) = fit.test(module, datamodule=data(), verbose=False)
    module.heads["main"].mapping = module.heads["main"].mapping.roll(1)
    (bad,) = fit.test(module, datamodule=data(), verbose=False)
    assert good["test/mapped_iou/main"] == bad["test/mapped_iou/main"]
    assert good["test/iou"] != bad["test/iou"]
    assert 0 < good["test/mapped_iou/auxiliary"] <= 1


@pytest.mark.filterwarnings("ignore:Total length of `list`")
def test_without_validation_images_the_clusters_themselves_are_written(tmp_path: Path) -> None:
    module = build()
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=data(num_val=0))
    (out,) = fit.predict(module, datamodule=data(num_val=0))
    with torch.inference_mode():
        clusters = module.cluster_probabilities(out["image"])["main"]
    assert torch.equal(out["labels"], clusters.argmax(1))
    with pytest.raises(ValueError, match="what the 7 clusters mean is not known"):
        build(output="auxiliary").eval()(torch.zeros(1, 1, 16, 16))


def test_another_best_head_is_chosen_before_validation(tmp_path: Path) -> None:
    """Validation then finds out what its clusters mean."""
    module = build(sub_heads=4)
    for _, heads in module._heads():
        heads.best.fill_(3)  # one of four: some other is nearly always better
    trainer(tmp_path, max_epochs=2).fit(module, datamodule=data())
    for _, heads in module._heads():
        assert (heads.mapping >= 0).all()
        assert heads.seen is None


def collapse(module: IICModule) -> None:
    """All pixels in the first cluster, whatever the image."""
    for _, heads in module._heads():
        for head in heads.heads:
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
            head.bias.data[0] = 20.0


@pytest.mark.parametrize(("on_collapse", "epochs"), [("warn", 3), ("stop", 1), ("ignore", 3)])
def test_a_collapse_is_told_of_and_can_end_the_training(
    on_collapse: str, epochs: int, tmp_path: Path
) -> None:
    module = build(on_collapse=on_collapse, lr=1e-9)
    collapse(module)
    fit = trainer(tmp_path, max_epochs=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit.fit(module, datamodule=data())
    told = [str(w.message) for w in caught if "have collapsed" in str(w.message)]
    assert len(told) == (0 if on_collapse == "ignore" else 2 * epochs)  # of both kinds of heads
    assert fit.current_epoch == epochs
    assert fit.callback_metrics["train/entropy/main"] < 0.01


def test_no_alarm_without_a_collapse(tmp_path: Path) -> None:
    module = build()
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=data())  # a warning would be an error here
    assert fit.callback_metrics["train/entropy/main"] > 0.5


def test_half_precision_ends_at_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities of bfloat16 have three digits, which no loss in float32 brings back."""
    taken: list[torch.Tensor] = []

    def record(first: torch.Tensor, second: torch.Tensor, **options: Any) -> torch.Tensor:
        taken.extend((first, second))
        return joint_matrices(first, second, **options)

    monkeypatch.setattr(iic, "joint_matrices", record)
    module, batch = build(), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        assert module.network.features(batch["image"]).dtype == torch.bfloat16
        module.losses(batch)
    assert len(taken) == 4
    for x in taken:
        assert x.dtype == torch.float32
        assert (x != x.bfloat16().float()).float().mean() > 0.5  # the corners are 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"auxiliary_clusters": 2}, "auxiliary_clusters is 2; there must be as many as classes, 3"),
        ({"sub_heads": 0}, "sub_heads is 0"),
        ({"radius": -1}, "radius is -1"),
        ({"heads": "both"}, "heads is 'both'; it must be one of 'joint', 'alternate'"),
        ({"output": "other"}, "output is 'other'; it must be one of 'main', 'auxiliary'"),
        ({"on_collapse": "cry"}, "on_collapse is 'cry'"),
        ({"collapse_threshold": 1.0}, "collapse_threshold is 1.0"),
        ({"main_weight": 0.0}, "output is 'main', but main_weight is 0"),
        ({"main_weight": 0.0, "auxiliary_weight": 0.0}, "are all 0"),
        ({"view": {"turn": 1}}, "view: there is no 'turn'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_auxiliary_clusters_are_five_times_the_classes_by_default() -> None:
    assert build(auxiliary_clusters=None).heads["auxiliary"].clusters == 5 * K
