"""Every exported method, held to one list (a to j); a new method is found by itself."""

from __future__ import annotations

import ast
import inspect
import math
import os
import socket
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import ROOT
from torch import Tensor

import semiweak
from semiweak.__main__ import main
from semiweak.augment.random_view import View
from semiweak.augment.rotation import Rotation
from semiweak.data.annotations import Annotation, Kind, Sample
from semiweak.data.batch import collate, instance_item, semantic_item, to_contract
from semiweak.data.normalize import Normalization
from semiweak.data.synthetic import cell_sample, synthetic_sample
from semiweak.data.weaken import to_boxes, to_points, to_scribbles, to_tags
from semiweak.losses import objects as objects_module
from semiweak.methods.base import SegmentationModule
from semiweak.methods.catalogue import exported_methods
from semiweak.methods.instances import InstanceModule
from semiweak.networks.teacher import Teacher

METHODS = exported_methods()
CLASSES = 3
SMALL: dict[str, Any] = {
    "num_classes": CLASSES,
    "widths": [4, 8],
    # Without normalisation over the batch, samples do not see each other.
    "norm": "group",
    # Views without chance, and margins that embeddings of random weights do not meet already.
    "photometric": {"jitter_p": 0.0, "blur_p": 0.0, "noise_p": 0.0, "gray_p": 0.0},
    "augment_f": False,
    "strong": {"operations": "none", "cutout_times": 0},
    "view": {"operations": ["invert"], "number": 1},
    "delta_v": 0.3,
    # Which pixels an anchor covers, and so which is the next one, may hang on a rounding error.
    "max_anchors": 1,
    # Nothing left out, and a critic that is quick.
    "max_masks": 100,
    "critic_widths": [4, 8],
}

every_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
# Chance has no loss: of it a, the two ranks of h, and j are asked.
every_learner = pytest.mark.parametrize(
    "cls", [cls for cls in METHODS if cls.learns], ids=lambda cls: cls.__name__
)
Method = type[SegmentationModule]


def finds_objects(cls: Method) -> bool:
    return issubclass(cls, InstanceModule)


def build(cls: type[SegmentationModule], **changes: Any) -> SegmentationModule:
    """The method with all its terms switched on, on a network that is quick."""
    accepted = inspect.signature(cls).parameters
    arguments = {name: value for name, value in (SMALL | changes).items() if name in accepted}
    weights = {name: 1.0 for name in accepted if name.endswith("_weight")}
    torch.manual_seed(0)
    return cls(**(weights | arguments))


def samples(cls: Method) -> list[Sample]:
    """One image of every kind of annotation, then two more that are painted."""
    return object_samples() if finds_objects(cls) else class_samples()


def object_samples() -> list[Sample]:
    drawn = [cell_sample(i, shape=(32, 32)) for i in range(6)]
    members = []
    for sample, kind in zip(
        drawn, ("instances", "objects", "none", "objects", "instances", "objects"), strict=True
    ):
        known = Annotation()
        if kind != "none":
            ids = sample.annotation.instances
            kept = np.unique(ids)[1 : None if kind == "instances" else 3]
            known = Annotation(
                instances=np.where(np.isin(ids, kept), ids, 0),
                instances_complete=kind == "instances",
            )
        members.append(Sample(sample.image, known, sample.name))
    return members


def class_samples() -> list[Sample]:
    drawn = [synthetic_sample(i, shape=(32, 32), num_classes=CLASSES) for i in range(8)]
    rng = np.random.default_rng(0)
    truth = [sample.annotation.without_instances() for sample in drawn]
    known = [
        truth[0],
        to_scribbles(truth[1], CLASSES, rng),
        to_boxes(truth[2], CLASSES),
        to_points(truth[3], CLASSES),
        to_tags(truth[4], CLASSES),
        Annotation(),
        truth[6],
        truth[7],
    ]
    return [Sample(s.image, a, s.name) for s, a in zip(drawn, known, strict=True)]


def kinds(cls: Method, sample: Sample) -> tuple[Kind, ...]:
    return sample.annotation.kinds("instances" if finds_objects(cls) else "semantic")


def batch_of(cls: Method, members: list[Sample]) -> dict[str, Any]:
    objects = finds_objects(cls)
    items = [instance_item(s) if objects else semantic_item(s, CLASSES) for s in members]
    batch = to_contract(collate(items))
    batch["image"] = Normalization((100.0,), (50.0,))(batch["image"])
    return batch


def synthetic_options(cls: Method) -> dict[str, Any]:
    """Images of the sort that a method is for."""
    return (
        {"scene": "cells", "task": "instances"} if finds_objects(cls) else {"num_classes": CLASSES}
    )


def synthetic_data(cls: Method, **options: Any) -> semiweak.SyntheticDataModule:
    common = {"num_train": 8, "num_val": 1, "num_predict": 1, "size": 32, "patch_size": 32}
    return semiweak.SyntheticDataModule(
        **(common | {"num_workers": 0} | some_annotation(cls) | synthetic_options(cls) | options)
    )


def quiet_trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def some_annotation(cls: Method) -> dict[str, Any]:
    if finds_objects(cls):
        return {"instance_ratio": 0.4}
    return {"weaken": semiweak.Weakening(masks=3, points=0.4, nothing=0.6)}


def choose_without_chance(sizes: Tensor, generator: torch.Generator | None) -> Tensor:
    """Takes the place of random ranks: as spread out, but the same for an image in any batch."""
    share = torch.arange(sizes.shape[1]) * 0.618034 % 1
    return (share * sizes).long().clamp(max=(sizes - 1).clamp_min(0))


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "_random_ranks", choose_without_chance)


def total(module: SegmentationModule, batch: dict[str, Any]) -> Tensor:
    weights = module.loss_weights()
    return torch.stack([weights.get(k, 1.0) * v for k, v in module.losses(batch).items()]).sum()


def test_every_method_is_found() -> None:
    defined = {
        node.name
        for path in (ROOT / "semiweak" / "methods").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Module")
    }
    bases = {
        "SegmentationModule", "SemanticModule", "InstanceModule", "EmbeddingModule", "ChanceModule",
    }  # fmt: skip
    assert {cls.__name__ for cls in METHODS} == defined - bases
    chance = {"RandomModule", "ClassPriorModule"}  # no other may leave the list below
    assert {cls.__name__ for cls in METHODS if not cls.learns} == chance


# a: construction and checkpoint


@every_method
def test_a_constructs_from_defaults_with_plain_keyword_arguments(
    cls: type[SegmentationModule],
) -> None:
    module = cls()
    for name, parameter in inspect.signature(cls).parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, name
        assert yaml.safe_load(yaml.safe_dump(parameter.default)) == parameter.default, name
    assert set(module.hparams) == set(inspect.signature(cls).parameters)


@every_method
def test_a_checkpoint_reloads_to_the_same_output_from_python_and_command_line(
    cls: type[SegmentationModule], tmp_path: Path
) -> None:
    module = build(cls)
    data = semiweak.SyntheticDataModule(
        num_train=2, num_val=1, num_predict=1, size=40, patch_size=32, batch_size=2, num_workers=0,
        **synthetic_options(cls),
    )  # fmt: skip
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module, datamodule=data)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)

    again = cls.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    assert {k: v for k, v in again.hparams.items() if not k.startswith("_")} == dict(module.hparams)
    image = torch.randn(1, 1, 40, 40)
    module.eval()
    again.eval()
    torch.testing.assert_close(again(image), module(image), rtol=0, atol=0)

    (out,) = trainer.predict(module, datamodule=data)
    assert out["labels"].shape == (1, 40, 40)
    common = [
        "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.callbacks=[]",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        f"--ckpt_path={path}", "--data=SyntheticDataModule", "--data.num_train=2",
        "--data.num_val=1", "--data.num_test=8", "--data.num_predict=1", "--data.size=40",
        "--data.num_workers=0", f"--out={tmp_path / 'labels'}",
    ]  # fmt: skip
    common += [f"--data.{name}={value}" for name, value in synthetic_options(cls).items()]
    main(["predict", *common])
    from semiweak.data.readers import read_labels

    written = read_labels(tmp_path / "labels" / f"{out['name'][0]}.png")
    assert (written == out["labels"][0].numpy()).all()


# b: the terms


@every_learner
def test_b_every_term_is_finite_and_alone_moves_the_network(cls: type[SegmentationModule]) -> None:
    batch = batch_of(cls, samples(cls))
    names = list(build(cls).losses(batch))
    assert names
    for name in names:
        module = build(cls)
        before = {k: v.clone() for k, v in module.named_parameters()}
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
        term = module.losses(batch)[name]
        assert term.ndim == 0
        assert math.isfinite(term.item())
        assert term.requires_grad
        term.backward()
        optimizer.step()
        assert any(not torch.equal(before[k], v) for k, v in module.named_parameters()), name


@every_learner
def test_b_the_loss_is_the_sum_of_the_terms_by_their_weights(
    cls: type[SegmentationModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch = build(cls), batch_of(cls, samples(cls))
    weights = {name: 0.5 + i for i, name in enumerate(module.losses(batch))}
    monkeypatch.setattr(module, "loss_weights", lambda: weights)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
    torch.manual_seed(1)
    terms = module.losses(batch)
    torch.manual_seed(1)
    expected = sum(weights[name] * term.item() for name, term in terms.items())
    assert module.weighted_sum(module.losses(batch), 1).item() == pytest.approx(expected, rel=1e-5)


# c: the samples of a batch


@every_learner
def test_c_every_annotated_sample_gets_gradient(cls: type[SegmentationModule]) -> None:
    members = samples(cls)
    batch = batch_of(cls, members)
    batch["image"].requires_grad_()
    module = build(cls)
    if getattr(module, "second", None) is not None:  # at first it is the same network
        torch.nn.init.normal_(next(module.second.parameters()))
    if hasattr(module, "strong"):  # a gradient ends at an image that was made of another
        module.strong = lambda image: image
    if hasattr(module, "view"):
        module.view = lambda image: View(-image, Rotation(torch.zeros(len(image))))
    total(module, batch).backward()
    reached = batch["image"].grad.flatten(1).abs().sum(1) > 0
    for sample, got in zip(members, reached.tolist(), strict=True):
        used = [kind for kind in kinds(cls, sample) if kind in cls.uses]
        assert got == bool(used), (kinds(cls, sample), cls.uses)


@every_learner
@pytest.mark.usefixtures("no_chance")
def test_c_a_batch_is_the_mean_of_its_annotated_samples(cls: type[SegmentationModule]) -> None:
    module = build(cls)
    members = samples(cls)
    together = module.losses(batch_of(cls, members))
    apart = [module.losses(batch_of(cls, [sample])) for sample in members]
    for name in cls.sample_means:
        about = cls.term_kinds.get(name, set(cls.uses))
        speaks = [bool(about & set(kinds(cls, sample))) for sample in members]
        mean = torch.stack([a[name] for a, s in zip(apart, speaks, strict=True) if s]).mean()
        torch.testing.assert_close(together[name], mean)


# d: the averaged network


def teachers(module: torch.nn.Module) -> list[Teacher]:
    return [m for m in module.modules() if isinstance(m, Teacher)]


def storages(tensors: Iterable[Tensor]) -> set[int]:
    return {t.data_ptr() for t in tensors}


with_a_teacher = pytest.mark.parametrize(
    "cls",
    [cls for cls in METHODS if teachers(build(cls, teacher="averaged"))],
    ids=lambda cls: cls.__name__,
)


@with_a_teacher
def test_d_the_teacher_is_an_average_that_moves_in_training_only(cls: Method) -> None:
    module = build(cls, teacher="averaged", momentum=0.75, momentum_warmup=False)
    (teacher,) = teachers(module)
    followed = dict(module.network.named_parameters())
    own = dict(teacher.module.named_parameters())
    assert own.keys() == followed.keys()
    assert not {p.data_ptr() for p in own.values()} & {
        p.data_ptr() for p in module.network.parameters()
    }
    assert not any(p.requires_grad for p in teacher.parameters())
    before = {k: v.clone() for k, v in own.items()}

    module.configure_optimizers = partial(gradient_descent, module)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    data = synthetic_data(cls, batch_size=4)
    trainer.fit(module, datamodule=data)
    groups = [group["params"] for o in trainer.optimizers for group in o.param_groups]
    assert not storages(p for group in groups for p in group) & storages(teacher.parameters())
    moved = False
    for name, weight in teacher.module.named_parameters():
        expected = 0.75 * before[name] + 0.25 * followed[name]
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)
        moved |= not torch.equal(weight, before[name])
    assert moved
    kept = {k: v.clone() for k, v in teacher.state_dict().items()}
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.predict(module, datamodule=data)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, kept[name]), name
    name = next(k for k, m in module.named_children() if m is teacher)
    assert {f"{name}.{k}" for k in kept} <= module.state_dict().keys()


# e: what nobody told


@every_learner
@pytest.mark.usefixtures("no_chance")
def test_e_what_lies_under_an_unknown_pixel_changes_nothing(cls: type[SegmentationModule]) -> None:
    module = build(cls)
    valid = np.zeros((32, 32), bool)
    valid[:, :16] = True
    if finds_objects(cls):
        truth = cell_sample(0, shape=(32, 32))
        painting, key = truth.annotation.instances, "instances"
        said: dict[str, Any] = {"instances_complete": True}
    else:
        truth = synthetic_sample(0, shape=(32, 32), num_classes=CLASSES)
        painting, key, said = truth.annotation.mask, "mask", {}
    losses = []
    for other in (0, 1):
        changed = painting.copy()
        changed[~valid] = (changed[~valid] + other) % CLASSES
        known = Annotation(**{key: changed}, valid=valid, **said)
        half = Sample(truth.image, known, "half")
        losses.append(total(module, batch_of(cls, [half, *samples(cls)])))
    assert losses[0] == losses[1]
    if not cls.annotation_terms:
        return  # it learns from the image alone
    whole = Sample(truth.image, Annotation(**{key: painting}, **said), "whole")
    assert total(module, batch_of(cls, [whole, *samples(cls)])) != losses[0]


@pytest.mark.parametrize(
    "cls", [cls for cls in METHODS if cls.annotation_terms], ids=lambda cls: cls.__name__
)
def test_e_a_batch_with_nothing_known_gives_zero(cls: type[SegmentationModule]) -> None:
    module = build(cls)
    blank = [Sample(s.image, Annotation(), s.name) for s in samples(cls)[:3]]
    terms = module.losses(batch_of(cls, blank))
    for name in cls.annotation_terms:
        assert terms[name].item() == 0
    sum(terms[name] for name in cls.annotation_terms).backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and cls.annotation_terms == set(terms):
            assert parameter.grad is not None, name  # distributed training wants every one used
            assert not parameter.grad.any(), name


# f: two views


@pytest.mark.parametrize(
    "cls", [cls for cls in METHODS if cls.consistency_terms], ids=lambda cls: cls.__name__
)
def test_f_identical_views_are_consistent_and_the_target_takes_no_gradient(cls: Method) -> None:
    batch = batch_of(cls, samples(cls))
    terms = build(cls, view={"number": 0}).losses(batch)
    for name in cls.consistency_terms:
        assert terms[name].item() == pytest.approx(0, abs=1e-6)
    module = build(cls)  # with another view, or another network
    for teacher in teachers(module):
        for weight in teacher.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    terms = module.losses(batch)
    for name in cls.consistency_terms:
        assert terms[name].item() > 1e-4
    total(module, batch).backward()
    assert all(p.grad is None for t in teachers(module) for p in t.parameters())


with_pseudo_labels = pytest.mark.parametrize(
    "cls",
    [cls for cls in METHODS if "pseudo_label" in cls.sample_means],
    ids=lambda cls: cls.__name__,
)


@with_pseudo_labels
@pytest.mark.parametrize("teacher", ["self", "averaged"])
def test_f_pseudo_labels_carry_no_gradient(cls: Method, teacher: str) -> None:
    """A gradient through soft targets would sharpen them, even where both views are the same."""
    accepted = inspect.signature(cls).parameters
    if not {"soft", "teacher"} & set(accepted) and teacher == "averaged":
        pytest.skip("has hard pseudo-labels and no second network")
    blank = batch_of(cls, [Sample(s.image, Annotation(), s.name) for s in samples(cls)])
    steps = {}
    for soft in (True, False):
        module = build(cls, soft=soft, teacher=teacher)
        module.losses(blank)["pseudo_label"].backward()
        steps[soft] = [p.grad for p in module.parameters() if p.requires_grad]
        assert all(p.grad is None for t in teachers(module) for p in t.parameters())
    assert max(g.abs().max() for g in steps[False]) > 1e-4  # hard labels ask for more than there is
    if "soft" in accepted:
        for gradient in steps[True]:
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


# g: views


@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, n) for cls in METHODS for n in ("photometric", "strong") if hasattr(build(cls), n)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_g_views_leave_every_pixel_where_it_is(cls: Method, name: str) -> None:
    module = build(cls, photometric=None, strong={"cutout_size": 8})
    torch.manual_seed(0)
    image = torch.randn(16, 1, 32, 32)
    view = getattr(module, name)(image)
    assert not torch.equal(view, image)
    spectrum = torch.fft.fft2(view) * torch.fft.fft2(image).conj()
    alike = torch.fft.ifft2(spectrum).real  # by every shift
    assert (alike.flatten(1).argmax(1) == 0).all()


@pytest.mark.parametrize(
    "cls", [cls for cls in METHODS if hasattr(build(cls), "view")], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize("shape", [(40, 56), (3, 32, 32)])
def test_g_what_is_seen_turned_comes_back_to_its_place(cls: Method, shape: tuple[int, ...]) -> None:
    module = build(cls, view={"operations": ["rotate"], "number": 1})
    grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).float()
    grid = grid.expand(8, *grid.shape)
    torch.manual_seed(0)
    seen = module.view(grid)
    back = seen.rotation.turn_back(seen.image)
    valid = seen.rotation.valid(grid[:, 0])
    # What is reflected at the corners is not where it was; the place of a pixel near the border
    # is interpolated from there.
    inner = valid[..., 1:-1, 1:-1]
    assert 0.5 < inner.float().mean() < 1
    apart = (back - grid).abs().amax(1)[..., 1:-1, 1:-1]
    assert apart[inner].max() < 1e-2
    assert (seen.image - grid).abs().max() > 5


# h: repetition


@every_learner
def test_h_one_seed_one_loss(cls: type[SegmentationModule]) -> None:
    losses = []
    for _ in range(2):
        module = build(cls)
        torch.manual_seed(1)
        losses.append(total(module, batch_of(cls, samples(cls))).item())
    assert losses[0] == losses[1]


def gradient_descent(module: SegmentationModule) -> Any:
    """The method's optimisers, as plain gradient descent on the same parameters."""
    its_own = type(module).configure_optimizers(module)
    if isinstance(its_own, dict):
        its_own = its_own["optimizer"]
    if isinstance(its_own, tuple):  # optimisers, and schedules of their rates
        its_own = its_own[0]
    several = its_own if isinstance(its_own, list) else [its_own]
    plain = [
        torch.optim.SGD([p for group in o.param_groups for p in group["params"]], lr=0.1)
        for o in several
    ]
    return plain if several is its_own else plain[0]


def _in_double(transfer: Any, batch: Any, index: int) -> Any:
    batch = transfer(batch, index)
    return batch | {"image": batch["image"].double()}


def _fit_a_little(
    cls: type[SegmentationModule], devices: int, folder: Path, precision: str = "32-true"
) -> dict[str, Any]:
    module = build(cls)
    # Plain gradient descent: Adam would turn a rounding error in a tiny gradient into a step.
    module.configure_optimizers = partial(gradient_descent, module)  # type: ignore[method-assign]
    data = synthetic_data(cls, num_val=3, batch_size=4 // devices, samples_per_epoch=8)
    if precision == "64-true":
        data.on_after_batch_transfer = partial(_in_double, data.on_after_batch_transfer)
    trainer = quiet_trainer(
        max_epochs=2, devices=devices, precision=precision, default_root_dir=folder,
        strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return {
        "weights": {k: v.detach().clone() for k, v in module.named_parameters()},
        "scores": {k: v.item() for k, v in trainer.callback_metrics.items() if k[:3] == "val"},
    }


def _rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "NODE_RANK": "0", "LOCAL_RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    objects_module._random_ranks = choose_without_chance
    for cls in METHODS:
        outcome = _fit_a_little(cls, 2, folder, "64-true")
        if rank == 0:
            torch.save(outcome, folder / f"{cls.__name__}.pt")


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outcome of each method on two ranks; the two processes start once for all methods."""
    folder = tmp_path_factory.mktemp("two_ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, folder), nprocs=2)
    return folder


@every_method
@pytest.mark.usefixtures("no_chance")
def test_h_two_ranks_take_the_steps_of_one_and_score_alike(
    cls: type[SegmentationModule], tmp_path: Path, two_ranks: Path
) -> None:
    # In double precision: in single, rounding errors grow to 1e-5 in these few steps.
    one = _fit_a_little(cls, 1, tmp_path, "64-true")
    two = torch.load(two_ranks / f"{cls.__name__}.pt", weights_only=True)
    if cls.sample_means | cls.global_terms >= set(build(cls).losses(batch_of(cls, samples(cls)))):
        for name, value in one["weights"].items():
            torch.testing.assert_close(two["weights"][name], value, rtol=1e-6, atol=1e-8)
    assert one["scores"].keys() == two["scores"].keys()
    assert cls.monitor in one["scores"]
    for name, value in one["scores"].items():
        assert two["scores"][name] == pytest.approx(value, abs=2e-3), name
    if not cls.learns:
        assert two["scores"] == one["scores"]
        assert _fit_a_little(cls, 1, tmp_path)["scores"] == one["scores"]


@every_learner
def test_h_bfloat16_autocast_stays_close(cls: type[SegmentationModule], tmp_path: Path) -> None:
    half = _fit_a_little(cls, 1, tmp_path, "bf16-mixed")
    assert all(math.isfinite(v) for v in half["scores"].values())
    module, batch = build(cls), batch_of(cls, samples(cls))
    torch.manual_seed(1)
    exact = module.losses(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module.losses(batch)
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert rounded[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name


# i: every loss has a naive twin


NO_LOSSES = {
    "reduction.py",  # how losses are averaged
    "distances.py",  # how they are summed over pixels
    "fused.py",  # the same
    "kernels.py",  # the same, compiled
    "pixels.py",  # how embeddings are read
    "displacements.py",  # how joint matrices are summed
    "objects.py",  # what they know of the painted objects
}


def test_i_every_loss_is_compared_with_a_naive_loop() -> None:
    tests = "\n".join(p.read_text() for p in (ROOT / "tests" / "losses").glob("test_*.py"))
    for path in (ROOT / "semiweak" / "losses").glob("*.py"):
        if path.name in NO_LOSSES:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert f"naive_{node.name}" in tests, f"{path.name}: {node.name}"


# k: it learns


def learn(
    cls: Method, folder: Path, annotation: dict[str, Any], score: str = "", **changes: Any
) -> float:
    """A score after a short training on synthetic images, by default the method's own."""
    torch.set_num_threads(2)
    pl.seed_everything(0)
    module = build(cls, **(LEARNING | changes))
    data = semiweak.SyntheticDataModule(
        size=128, patch_size=128, num_val=4, num_workers=0,
        **synthetic_options(cls) | annotation,
    )  # fmt: skip
    trainer = quiet_trainer(
        max_epochs=1, precision="bf16-mixed", default_root_dir=folder, num_sanity_val_steps=0
    )
    trainer.fit(module, datamodule=data)
    return trainer.callback_metrics[score or cls.monitor].item()


LEARNING: dict[str, Any] = {
    "num_classes": 4,
    "widths": [16, 32, 64, 128],
    "norm": "batch",
    "lr": 2e-3,
    "delta_v": 0.5,
    "max_anchors": 20,
    "photometric": None,
    "strong": {"cutout_size": 8},
    "norm_weight": 0.001,
    "contrast_weight": 0.1,
    "max_masks": 4,
}
# The best that grey levels alone can reach is below 0.35; see tests/data/test_synthetic.py.
PAINTED = {"num_train": 16, "num_classes": 4, "batch_size": 8, "samples_per_epoch": 8 * 240}
CELLS = {"num_train": 64, "instance_ratio": 0.1, "batch_size": 4, "samples_per_epoch": 4 * 600}


@pytest.mark.slow
@pytest.mark.parametrize(
    "cls",
    [cls for cls in METHODS if cls.learns and cls.annotation_terms],
    ids=lambda cls: cls.__name__,
)
def test_k_learns_the_synthetic_images(cls: type[SegmentationModule], tmp_path: Path) -> None:
    objects = finds_objects(cls)
    score = learn(cls, tmp_path, CELLS if objects else PAINTED)
    assert score > (0.35 if objects else 0.5)


@pytest.mark.slow
def test_k_clusters_of_two_views_tell_of_each_other(tmp_path: Path) -> None:
    """Of IIC nothing else is certain: which classes they are is up to the images."""
    data = PAINTED | {"num_classes": 2, "batch_size": 4, "samples_per_epoch": 4 * 120}
    settings = {"num_classes": 2, "norm": "group", "lr": 1e-3, "radius": 1}
    told = -learn(semiweak.IICModule, tmp_path, data, "train/main", **settings)
    assert told > 0.5 * math.log(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cls", [cls for cls in METHODS if cls.consistency_terms], ids=lambda cls: cls.__name__
)
def test_k_what_nobody_painted_does_no_harm(cls: Method, tmp_path: Path) -> None:
    few = CELLS | {"samples_per_epoch": 4 * 300}
    if not finds_objects(cls):
        weaken = semiweak.Weakening(masks=2, nothing=1)
        few = PAINTED | {"batch_size": 4, "samples_per_epoch": 4 * 300, "weaken": weaken}
    without = {f"{name}_weight": 0.0 for name in (*cls.consistency_terms, "unlabeled_push")}
    assert learn(cls, tmp_path, few) > learn(cls, tmp_path, few, **without) - 0.03


# j: nothing is missing


@every_method
def test_j_method_is_exported_shown_and_documented(cls: type[SegmentationModule]) -> None:
    name = cls.__name__
    assert getattr(semiweak, name) is cls
    examples = [yaml.safe_load(p.read_text()) for p in (ROOT / "examples").glob("*.yaml")]
    assert any(e["model"]["class_path"] == name for e in examples), "an example YAML"
    pages = [p.read_text() for p in (ROOT / "docs" / "methods").glob("*.md")]
    assert any(f"::: semiweak.{name}" in page for page in pages), "a docs page"
    assert f"`{name}`" in (ROOT / "CHANGELOG.md").read_text(), "a line in the changelog"
    assert set(cls.uses) <= set(get_args(Kind))
    assert (inspect.getdoc(cls) or "").count("Args:") == 1
