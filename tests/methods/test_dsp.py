"""DSPModule: its terms on both views, its arguments, and two ranks that are one."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.batch import SemanticBatch, collate, semantic_item, to_contract
from semiweak.losses.prototypes import prototype_scores
from semiweak.methods.dsp import DSPModule

CLASSES, DIM = 3, 5
SIZE = (5, 8)
PROTOTYPES = ("mask_prototypes", "box_prototypes", "point_prototypes", "tag_prototypes")
TERMS = ("cross_entropy", *PROTOTYPES, "pseudo_label")
ALL_WEIGHTS = ("ce", "mask", "box", "point", "tag", "pseudo_label")
ITSELF = {"operations": "none", "cutout_times": 0}
"""A strong view that is the image."""


def build(**arguments: Any) -> DSPModule:
    torch.manual_seed(0)
    small = {"num_classes": CLASSES, "widths": [4, 8], "norm": "none", "strong": ITSELF}
    return DSPModule(**(small | arguments))


def painting(*pixels: tuple[int, int, int], fill: int = 255) -> np.ndarray[Any, Any]:
    drawn = np.full(SIZE, fill, np.uint8)
    for row, column, c in pixels:
        drawn[row, column] = c
    return drawn


def points(*rows: list[int], classes: list[int]) -> dict[str, Any]:
    return {"points": np.float32(rows), "point_labels": np.int64(classes)}


def boxes(*rows: list[float], classes: list[int]) -> dict[str, Any]:
    return {"boxes": np.float32(rows), "box_labels": np.int64(classes)}


def annotations() -> list[Annotation]:
    """One image of every kind of annotation and of some together, the last one of none."""
    mask = np.random.default_rng(0).integers(0, CLASSES, SIZE).astype(np.uint8)
    return [
        Annotation(mask=mask, **points([1, 1], classes=[int(mask[1, 1])])),
        Annotation(
            scribbles=painting((0, 0, 1), (0, 1, 1), (3, 7, 2)),
            **points([4, 6], [0, 1], classes=[0, 1]),
        ),
        Annotation(
            **boxes([0, 1, 3, 6], [2, 4, 5, 8], [1, 1, 2, 2], classes=[1, 2, 1]),
            boxed_classes=(1, 2),
        ),
        Annotation(
            tags=np.array([-1, 1, 0], np.int8), **boxes([1, 0, 4, 3.5], classes=[0]),
            **points([2, 2], [4, 7], classes=[1, 2]),  # the second is absent, they say
        ),
        Annotation(tags=np.array([1, -1, 1], np.int8)),
        Annotation(**points([0, 7], [4, 0], classes=[2, 0])),
        Annotation(tags=np.array([0, 1, 1], np.int8), **boxes([0, 0, 5, 8], classes=[2])),
        Annotation(),
    ]  # fmt: skip


def batch_of(
    said: list[Annotation], channels: int = 1, content: np.ndarray[Any, Any] | None = None
) -> SemanticBatch:
    rng = np.random.default_rng(1)
    items = [
        semantic_item(
            Sample(rng.normal(size=(channels, *SIZE)).astype(np.float32), a, f"image {i}", content),
            CLASSES,
        )
        for i, a in enumerate(said)
    ]
    return cast(SemanticBatch, to_contract(collate(items)))


def simple(strong: Callable[[Tensor], Tensor], **arguments: Any) -> DSPModule:
    """The image is its own embedding."""
    module = build(in_channels=DIM, embedding_dim=DIM, **arguments)
    module.embed = lambda image: image  # type: ignore[method-assign]
    module.strong = strong  # type: ignore[assignment]
    return module


def flipped(image: Tensor) -> Tensor:
    return image.flip(1)


# The terms, by hand


def found_by_hand(
    scores: Tensor, said: list[Annotation], may: Tensor, boxes: str, tags: str
) -> dict[str, list[list[Tensor]]]:
    """Of each term the scores of the positives, by classes."""

    def one_or_all(values: Tensor, reading: str) -> list[Tensor]:
        pooled = [values.logsumexp(0) - math.log(len(values))]
        return pooled if reading == "pooled" else list(values)

    found: dict[str, list[list[Tensor]]] = {name: [[], [], []] for name in PROTOTYPES}
    for b, a in enumerate(said):
        for (y, x), c in zip(a.points.astype(int).tolist(), a.point_labels.tolist(), strict=True):
            if may[b, c, y, x] and may[b, :, y, x].sum() == 1:
                found["point_prototypes"][c].append(scores[b, c, y, x])
        clicks = a.points.astype(int).tolist() if a.mask is None else []
        painted = a.scribbles if a.mask is None else a.mask
        for y, x in np.argwhere(painted != 255).tolist() if painted is not None else []:
            if [y, x] not in clicks:
                c = int(painted[y, x])
                found["mask_prototypes"][c].append(scores[b, c, y, x])
        for box, c in zip(a.boxes, a.box_labels.tolist(), strict=True):
            y0, x0, y1, x1 = (*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int))
            inside = scores[b, c, y0:y1, x0:x1]
            inside = inside.masked_fill(~may[b, c, y0:y1, x0:x1], -math.inf)
            highest = torch.cat((inside.amax(1), inside.amax(0)))
            highest = highest[highest > -math.inf]
            found["box_prototypes"][c] += one_or_all(highest, boxes)
        for c in np.flatnonzero(a.tags == 1).tolist() if a.tags is not None else []:
            found["tag_prototypes"][c] += one_or_all(scores[b, c][may[b, c]], tags)
    return found


def by_hand(
    scores: Tensor, said: list[Annotation], batch: SemanticBatch, boxes: str, tags: str
) -> dict[str, Tensor]:
    may = batch["candidates"]
    log_z = []
    for c in range(CLASSES):
        negative = torch.ones_like(may)
        negative[:, c] = ~may[:, c]
        log_z.append(scores[negative].logsumexp(0))
    terms = {}
    for name, of_class in found_by_hand(scores, said, may, boxes, tags).items():
        losses = [log_z[c] - sum(own) / len(own) for c, own in enumerate(of_class) if own]
        terms[name] = torch.stack(losses).sum()
    return terms


@pytest.mark.parametrize("of_boxes", ["maxima", "pooled"])
@pytest.mark.parametrize("of_tags", ["pooled", "all"])
def test_the_prototype_terms_are_those_by_hand_on_both_views(of_boxes: str, of_tags: str) -> None:
    module = simple(flipped, box_positives=of_boxes, tag_positives=of_tags)
    batch = batch_of(annotations(), DIM)
    terms = module.losses(batch)
    assert tuple(terms) == TERMS
    views = [
        by_hand(
            prototype_scores(image.double(), module.prototypes.double()),
            annotations(), batch, of_boxes, of_tags,
        )
        for image in (batch["image"], flipped(batch["image"]))
    ]  # fmt: skip
    for name in PROTOTYPES:
        expected = views[0][name] + views[1][name]
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-5), name
        (got,) = torch.autograd.grad(terms[name], module.prototypes, retain_graph=True)
        (wanted,) = torch.autograd.grad(expected, module.prototypes, retain_graph=True)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_default_readings_are_maxima_of_boxes_and_pooled_tags() -> None:
    batch = batch_of(annotations(), DIM)
    terms = simple(flipped).losses(batch)
    same = simple(flipped, box_positives="maxima", tag_positives="pooled").losses(batch)
    assert terms == same
    other = simple(flipped, box_positives="pooled", tag_positives="all").losses(batch)
    changed = [name for name in TERMS if terms[name] != other[name]]
    assert changed == ["box_prototypes", "tag_prototypes"]


def test_cross_entropy_is_of_the_painted_pixels_of_the_weak_view_only() -> None:
    module, batch = simple(flipped), batch_of(annotations(), DIM)
    logits = prototype_scores(batch["image"], module.prototypes)
    first = nn.functional.cross_entropy(logits[:1], batch["labels"][:1])
    drawn = -logits[1].log_softmax(0)
    second = (drawn[1, 0, 0] + drawn[2, 3, 7]) / 2  # another pixel of the scribble is clicked
    expected = ((first + second) / 2).item()
    assert module.losses(batch)["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)


def test_pseudo_labels_are_those_of_the_weak_view_among_the_candidates() -> None:
    module, batch = simple(flipped), batch_of(annotations(), DIM)
    weak, strong = (prototype_scores(x, module.prototypes) for x in
                    (batch["image"], flipped(batch["image"])))  # fmt: skip
    targets = weak.masked_fill(~batch["candidates"], -math.inf).argmax(1)
    assert (targets != weak.argmax(1)).any()
    expected = nn.functional.cross_entropy(strong, targets).item()
    assert module.losses(batch)["pseudo_label"].item() == pytest.approx(expected, rel=1e-5)


def test_a_threshold_leaves_pseudo_labels_out() -> None:
    batch = batch_of([Annotation()] * 3, DIM)
    for threshold, share in ((0.0, 1.0), (0.9, 0.5), (1.0, 0.0)):
        module = simple(flipped, threshold=threshold, temperature=0.2)
        weak, strong = (prototype_scores(x, module.prototypes, 0.2) for x in
                        (batch["image"], flipped(batch["image"])))  # fmt: skip
        sure, targets = weak.softmax(1).max(1)
        losses = nn.functional.cross_entropy(strong, targets, reduction="none")
        expected = torch.where(sure >= threshold, losses, 0).mean().item()
        assert module.losses(batch)["pseudo_label"].item() == pytest.approx(expected, rel=1e-5)
        assert ((sure >= threshold).float().mean() > 0) == (share > 0)


def test_which_view_gets_gradient_from_which_term() -> None:
    batch = batch_of(annotations(), DIM)
    weak = batch["image"].requires_grad_()
    strong = flipped(weak.detach()).requires_grad_()
    terms = simple(lambda _: strong).losses(batch)
    reached = {}
    for name, term in terms.items():
        grads = torch.autograd.grad(term, (weak, strong), retain_graph=True, allow_unused=True)
        reached[name] = tuple(g is not None and bool(g.any()) for g in grads)
    both = dict.fromkeys(PROTOTYPES, (True, True))
    one = {"cross_entropy": (True, False), "pseudo_label": (False, True)}
    assert reached == both | one


def test_the_strong_view_is_made_of_the_batch_and_seen_once() -> None:
    module, batch = build(), batch_of(annotations())
    asked, seen = [], []

    def view(image: Tensor) -> Tensor:
        asked.append(image)
        return image + 1

    module.strong = view  # type: ignore[assignment]
    module.network.register_forward_hook(lambda *_: pytest.fail("the network has no head"))
    features = module.network.features
    module.network.features = lambda x: seen.append(x) or features(x)  # type: ignore[assignment, func-returns-value]
    module.losses(batch)
    assert len(asked) == 1
    assert asked[0] is batch["image"]
    assert [bool(torch.equal(x, batch["image"] + i)) for i, x in enumerate(seen)] == [True, True]


# What nobody told


def test_an_unlabelled_image_moves_the_negatives_only() -> None:
    said = annotations()
    module = simple(flipped)
    batch, alone = batch_of(said, DIM), batch_of(said[:7], DIM)
    assert torch.equal(batch["image"][:7], alone["image"])
    with_it, without = module.losses(batch), module.losses(alone)
    assert with_it["cross_entropy"] == without["cross_entropy"]
    for name in PROTOTYPES:
        assert with_it[name] > without[name]
    positives = [
        found_by_hand(prototype_scores(b["image"], module.prototypes), s, b["candidates"],
                      "maxima", "pooled")
        for b, s in ((batch, said), (alone, said[:7]))
    ]  # fmt: skip
    assert positives[0].keys() == positives[1].keys()
    for name in PROTOTYPES:
        for with_c, without_c in zip(positives[0][name], positives[1][name], strict=True):
            assert len(with_c) == len(without_c)


@pytest.mark.parametrize("what", [1e3, math.nan])
def test_padding_counts_nowhere(what: float) -> None:
    content = np.ones(SIZE, bool)
    content[:, :2] = content[4:] = False
    said = [
        *annotations(),
        # A box that reaches beyond the border of the image.
        Annotation(**boxes([1, 0, 5, 5], classes=[1]), boxed_classes=(1,)),
    ]
    losses = []
    for value in (0.1, -0.4, what):
        module, batch = simple(lambda x: 0.5 * x, threshold=0.5), batch_of(said, DIM, content)
        scale = torch.linspace(-1, 1, DIM)[:, None, None]
        batch["image"] = torch.where(batch["valid"][:, None], batch["image"], value * scale)
        losses.append({name: term.item() for name, term in module.losses(batch).items()})
    assert losses[0] == losses[1]
    assert losses[0] == losses[2]


def test_a_batch_without_a_painted_pixel_has_cross_entropy_0() -> None:
    for chosen in ([2, 5, 7], [7]):
        module = build()
        said = [annotations()[i] for i in chosen]
        terms = module.losses(batch_of(said))
        silent = ["cross_entropy", "mask_prototypes", "tag_prototypes"]
        silent += ["box_prototypes", "point_prototypes"] if chosen == [7] else []
        for name in TERMS:
            assert terms[name].isfinite()
            assert (terms[name].item() == 0) == (name in silent)
        sum(terms[name] for name in silent).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


# The network


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_every_parameter_is_used(norm: str) -> None:
    module = build(norm=norm)
    sum(module.losses(batch_of(annotations())).values()).backward()
    assert not list(module.network.head.parameters())
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        if norm == "none":
            assert parameter.grad.any(), name


def test_other_networks_have_no_head_either() -> None:
    module = DSPModule(
        num_classes=CLASSES, network="smp.Unet", encoder="resnet18", embedding_dim=6, strong=ITSELF
    )
    module.losses(batch_of(annotations()))["mask_prototypes"].backward()
    unused = [name for name, p in module.named_parameters() if p.grad is None]
    assert not unused
    assert module.prototypes.shape == (CLASSES, 5, 6)


def test_scores_have_the_size_of_the_image_and_the_range_of_the_temperature() -> None:
    for temperature in (0.05, 0.5):
        module = build(temperature=temperature, prototypes=2, embedding_dim=7, in_channels=2)
        scores = module(torch.randn(2, 2, 9, 13))
        assert scores.shape == (2, CLASSES, 9, 13)
        assert scores.dtype == torch.float32
        assert scores.abs().max() <= 1 / temperature + 1e-4
        assert scores.abs().max() > 0.01 / temperature
        assert module.embed(torch.randn(2, 2, 9, 13)).shape == (2, 7, 9, 13)
        assert module.prototypes.shape == (CLASSES, 2, 7)


def test_prototypes_begin_as_different_unit_vectors() -> None:
    module = build()
    assert module.prototypes.shape == (CLASSES, 5, 4)  # as many dimensions as features
    rows = module.prototypes.detach().flatten(0, 1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(15))
    assert (rows @ rows.T - 2 * torch.eye(15)).max() < 1 - 1e-4


def test_the_projection_is_the_authors() -> None:
    norm, first, act, second = build(norm="batch", embedding_dim=6).projection
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(act, nn.LeakyReLU)
    assert act.negative_slope == 0.1
    assert (first.in_channels, first.out_channels, first.kernel_size) == (4, 6, (1, 1))
    assert (second.in_channels, second.out_channels, second.kernel_size) == (6, 6, (1, 1))
    none = build(norm="none").projection
    assert [type(m) for m in none] == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d]
    solid = build(norm="group", spatial_dims=3).projection
    assert [type(m) for m in solid] == [nn.GroupNorm, nn.Conv3d, nn.LeakyReLU, nn.Conv3d]


def test_volumes() -> None:
    size = (4, 4, 6)
    mask = np.random.default_rng(0).integers(0, CLASSES, size).astype(np.uint8)
    said = [
        Annotation(mask=mask, boxes=np.zeros((0, 6), np.float32), points=np.zeros((0, 3))),
        Annotation(
            boxes=np.float32([[0, 1, 2, 3, 3, 5]]), box_labels=np.int64([1]),
            points=np.float32([[3, 0, 5]]), point_labels=np.int64([2]),
            tags=np.array([1, -1, -1], np.int8),
        ),
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    items = [
        semantic_item(Sample(rng.normal(size=(1, *size)).astype(np.float32), a, "x"), CLASSES)
        for a in said
    ]
    module = build(spatial_dims=3, strong={"cutout_size": 2, "operations": "none"})
    terms = module.losses(cast(SemanticBatch, to_contract(collate(items))))
    assert all(term.isfinite() and term.item() != 0 for term in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_bfloat16_stays_close_to_float32() -> None:
    module, batch = build(norm="group"), batch_of(annotations())
    exact = module.losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module.losses(batch)
        assert module(batch["image"]).dtype == torch.float32
        sum(rounded.values()).backward()
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert rounded[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.02), name
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_probabilities_sum_to_1() -> None:
    module = build().eval()
    probabilities = module.predict_probabilities(torch.randn(2, 1, 11, 17))
    assert probabilities.shape == (2, CLASSES, 11, 17)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 11, 17))


# Weights and arguments


def test_a_weight_counts_and_a_term_of_weight_0_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = batch_of(annotations())
    terms = build().losses(batch)
    assert build().loss_weights() == dict.fromkeys(TERMS, 1.0)
    for argument, name in zip(ALL_WEIGHTS, TERMS, strict=True):
        module = build(**{f"{argument}_weight": 3.0})
        monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
        expected = sum(terms.values()).item() + 2 * terms[name].item()
        assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-5)
        left = build(**{f"{argument}_weight": 0.0}).losses(batch)
        assert left == {k: v for k, v in terms.items() if k != name}
        others = {f"{other}_weight": 0.0 for other in ALL_WEIGHTS if other != argument}
        assert build(**others).losses(batch) == {name: terms[name]}


def test_cross_entropy_alone_looks_at_no_strong_view() -> None:
    others = {f"{other}_weight": 0.0 for other in ALL_WEIGHTS if other != "ce"}
    module = build(**others)
    module.strong = lambda _: pytest.fail("a strong view")  # type: ignore[assignment]
    assert set(module.losses(batch_of(annotations()))) == {"cross_entropy"}


def test_default_values() -> None:
    given = DSPModule().hparams
    expected = {
        "prototypes": 5, "temperature": 0.05, "threshold": 0.0, "box_positives": "maxima",
        "tag_positives": "pooled", "global_batch": True, "norm": "batch", "embedding_dim": None,
    } | {f"{name}_weight": 1.0 for name in ALL_WEIGHTS}  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    strong = DSPModule().strong
    assert (strong.cutout_size, strong.cutout_times, strong.cutout_p) == (32, 9, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prototypes": 0}, "prototypes is 0; it must be at least 1"),
        ({"embedding_dim": 0}, "embedding_dim is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"box_weight": -1.0}, r"box.* is -1.0; it must not be negative"),
        ({"tag_weight": math.nan}, r"tag.* is nan; it must not be negative"),
        ({f"{name}_weight": 0.0 for name in ALL_WEIGHTS}, "all .*0, which leaves no loss at all"),
        ({"box_positives": "mean"}, "box_positives is 'mean'"),
        ({"tag_positives": "maxima"}, "tag_positives is 'maxima'"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"strong": {"operations": "all"}}, "operations is 'all'"),
        ({"strong": {"cutout_size": 0}}, "cutout_size"),
        ({"lr_factor": 2.0}, "lr_factor is 2.0"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


# Training


class Keep(pl.Callback):
    """Keeps the terms and the gradients of a step."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}
        self.gradients: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, losses = cast(DSPModule, pl_module), cast(DSPModule, pl_module).losses

        def kept(batch: SemanticBatch) -> dict[str, Tensor]:
            terms = losses(batch)
            self.terms = {name: term.item() for name, term in terms.items()}
            return terms

        module.losses = kept  # type: ignore[method-assign]

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.gradients = {
            k: p.grad.clone() for k, p in pl_module.named_parameters() if p.grad is not None
        }


def step(module: DSPModule, batch: SemanticBatch, folder: Path, devices: int = 1) -> Keep:
    keep = Keep()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=1, devices=devices, callbacks=[keep],
        default_root_dir=folder, use_distributed_sampler=False,
        strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(cast(Any, [batch]), batch_size=None)
    trainer.fit(module, loader)
    return keep


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_checkpoint_gives_the_same_scores(tmp_path: Path) -> None:
    module, batch = build(prototypes=2, tag_positives="all", lr_factor=1.0), batch_of(annotations())
    before = module.prototypes.detach().clone()
    step(module, batch, tmp_path)
    assert not torch.equal(module.prototypes, before)
    module.trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = DSPModule.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    image = torch.randn(1, 1, 9, 12)
    assert torch.equal(again(image), module(image))
    assert again.losses(batch) == module.losses(batch)


ORDERS = {
    # Rank 0 has the first four.
    "shared": [0, 2, 4, 7, 1, 3, 5, 6],
    "one rank has none": [0, 1, 2, 3, 7, 7, 7, 7],
    "nobody has any": [7] * 8,
}


def brighter(image: Tensor) -> Tensor:
    return 0.7 * image + 0.2


def eight(order: str) -> SemanticBatch:
    return batch_of([annotations()[i] for i in ORDERS[order]])


def half(batch: SemanticBatch, rank: int) -> SemanticBatch:
    return cast(SemanticBatch, {k: v[4 * rank : 4 * rank + 4] for k, v in batch.items()})  # type: ignore[index]


def ready(global_batch: bool) -> DSPModule:
    module = build(global_batch=global_batch, lr_factor=1.0)
    module.strong = brighter  # type: ignore[assignment]
    return module


def run_rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "NODE_RANK": "0", "LOCAL_RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    for order in ORDERS:
        for global_batch in (True, False):
            keep = step(ready(global_batch), half(eight(order), rank), folder, devices=2)
            kept = {"terms": keep.terms, "gradients": keep.gradients}
            torch.save(kept, folder / f"{order} {global_batch} {rank}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks_of_dsp")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_rank, (port, folder), nprocs=2)
    return folder


def outcomes(folder: Path, order: str, global_batch: bool) -> list[dict[str, Any]]:
    files = [folder / f"{order} {global_batch} {rank}.pt" for rank in (0, 1)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("order", ORDERS)
def test_two_ranks_with_four_images_are_one_with_eight(
    order: str, two_ranks: Path, tmp_path: Path
) -> None:
    one = step(ready(True), eight(order), tmp_path)
    assert (one.terms["mask_prototypes"] != 0) == (order != "nobody has any")
    ranks = outcomes(two_ranks, order, True)
    for rank in ranks:
        for name in PROTOTYPES:  # each rank has the loss of all
            assert rank["terms"][name] == pytest.approx(one.terms[name], rel=1e-5), name
        assert rank["gradients"].keys() == one.gradients.keys()
        for name, grad in one.gradients.items():
            torch.testing.assert_close(
                rank["gradients"][name],
                grad,
                rtol=1e-3,
                atol=1e-4,
                msg=lambda m, n=name: f"{n}: {m}",
            )
    for name in TERMS:
        mean = sum(rank["terms"][name] for rank in ranks) / 2
        assert mean == pytest.approx(one.terms[name], rel=1e-5), name


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_ranks_that_do_not_share_have_the_losses_of_their_own_images(
    two_ranks: Path, tmp_path: Path
) -> None:
    for order in ("shared", "one rank has none"):
        one = step(ready(False), eight(order), tmp_path)
        for rank, outcome in enumerate(outcomes(two_ranks, order, False)):
            alone = step(ready(False), half(eight(order), rank), tmp_path)
            for name in PROTOTYPES:
                got = outcome["terms"][name]
                assert got == pytest.approx(alone.terms[name], rel=1e-5), name
                assert got != pytest.approx(one.terms[name], rel=1e-2), name
            different = [
                not torch.allclose(outcome["gradients"][name], grad, rtol=1e-2)
                for name, grad in one.gradients.items()
            ]
            assert any(different)


def test_running_statistics_follow_the_weak_view_alone() -> None:
    module, batch = build(norm="batch", strong=None).train(), batch_of(annotations())
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    seen: dict[torch.nn.Module, list[Tensor]] = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, given: seen[norm].append(given[0].detach()))
    module.losses(batch)
    assert len(norms) > 2
    for norm in norms:
        weak, strong = seen[norm]
        assert not torch.allclose(weak, strong)
        torch.testing.assert_close(norm.running_mean, 0.1 * weak.mean((0, 2, 3)))


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.5), (10, 1.0), (40, 1.0)])
def test_the_weight_of_pseudo_labels_grows(
    step: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build(pseudo_label_weight=2.0, pseudo_label_rampup=10)
    monkeypatch.setattr(DSPModule, "global_step", step)
    assert module.loss_weights() == module.weights | {"pseudo_label": 2.0 * share}
    assert build(pseudo_label_weight=2.0).loss_weights()["pseudo_label"] == 2.0
    with pytest.raises(ValueError, match="pseudo_label_rampup is -1; it is a number of steps"):
        build(pseudo_label_rampup=-1)
