"""The terms of SpocoModule: which there are, and which images and pixels they speak of."""

from __future__ import annotations

import pytest
import torch
from spoco_small import NOISY, OBJECT_TERMS, PLAIN, build, flat, losses, three

from semiweak import SpocoModule
from semiweak.losses import objects as objects_module
from semiweak.losses.discriminative import norm_loss, pull_loss, push_loss
from semiweak.losses.single_objects import object_loss

# Which terms there are


def test_the_terms_and_weights_are_the_papers() -> None:
    module = build()
    terms = losses(module, three())
    assert list(terms) == [*OBJECT_TERMS, "unlabeled_push", "consistency"]
    assert module.loss_weights() == dict.fromkeys(terms, 1.0) | {"norm": 0.001}
    assert SpocoModule.sample_means == set(terms)


def test_a_weight_counts_and_a_term_of_weight_0_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ones = {f"{name}_weight": 1.0 for name in build().loss_weights()}
    terms = losses(build(**ones), three())
    for name in terms:
        module = build(**(ones | {f"{name}_weight": 3.0}))
        monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no Trainer to log to
        torch.manual_seed(1)
        expected = sum(terms.values()).item() + 2 * terms[name].item()
        assert module.training_step(three(), 0).item() == pytest.approx(expected, rel=1e-5)
        left = losses(build(**(ones | {f"{name}_weight": 0.0})), three())
        assert set(left) == set(terms) - {name}


def test_the_baseline_is_the_discriminative_loss_and_looks_at_no_second_view() -> None:
    module = build(
        object_weight=0.0, unlabeled_push_weight=0.0, consistency_weight=0.0, augment_f=False
    )
    assert module.second is None
    one = three()
    assert module.embed_views(one["image"])[1] is None
    f, objects, means = flat(module, one)
    expected = {
        "pull": pull_loss(f, objects, means, delta_v=0.1),
        "push": push_loss(means, objects),
        "norm": norm_loss(means, objects),
    }
    terms = losses(module, one)
    assert set(terms) == set(expected)
    for name, (values, known) in expected.items():
        assert known.tolist() == [True, True, False]
        torch.testing.assert_close(terms[name], values[:2].mean())


def test_consistency_only_looks_at_no_annotation() -> None:
    module = build(consistency_only=True, photometric=NOISY)
    one = three()
    terms = losses(module, one)
    assert set(terms) == {"consistency"}
    assert {k for k, v in module.loss_weights().items() if v} == {"consistency"}
    assert terms["consistency"] > 0
    other = {**one, "instances": torch.randint(0, 9, one["instances"].shape)}
    assert torch.equal(losses(module, other)["consistency"], terms["consistency"])
    painted = {**one, "instances": torch.ones_like(one["instances"])}
    assert torch.equal(losses(module, painted)["consistency"], terms["consistency"])


# Which images they speak of


def test_every_image_gets_gradient_from_every_term_that_speaks_of_it() -> None:
    speaks = {name: [True, True, False] for name in OBJECT_TERMS}
    speaks |= {"unlabeled_push": [False, True, False], "consistency": [False, True, True]}
    for name, expected in speaks.items():
        one = three()
        one["image"].requires_grad_()
        module = build(photometric=NOISY, augment_f=False)
        losses(module, one)[name].backward()
        reached = one["image"].grad.flatten(1).abs().sum(1) > 0
        assert reached.tolist() == expected, name


def test_a_batch_is_the_mean_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "_random_ranks", lambda sizes, _: sizes // 2)
    module, one = build(g_network="trained", photometric=PLAIN), three()
    together = module.losses(one)
    apart = [module.losses({k: v[i : i + 1] for k, v in one.items()}) for i in range(3)]
    for name, value in together.items():
        of = {"unlabeled_push": [1], "consistency": [1, 2]}.get(name, [0, 1])
        assert value > 0
        torch.testing.assert_close(value, torch.stack([apart[i][name] for i in of]).mean())


@pytest.mark.parametrize("region", ["unlabelled", "all"])
def test_a_batch_that_is_painted_completely(region: str) -> None:
    one = {key: value[:1] for key, value in three().items()}
    terms = losses(build(photometric=NOISY, consistency_region=region), one)
    assert terms["unlabeled_push"].item() == 0
    assert (terms["consistency"].item() == 0) == (region == "unlabelled")
    sum(terms.values()).backward()
    assert all(value.isfinite() and value >= 0 for value in terms.values())


def test_the_background_is_an_object_for_the_object_loss_too() -> None:
    module = build(anchor="mean", augment_f=False)
    one = {key: value[:1] for key, value in three().items()}
    f, objects, means = flat(module, one)
    assert objects.exists.tolist() == [[True] * 3]
    value, _ = object_loss(f, objects, means, delta_v=0.1)
    torch.testing.assert_close(losses(module, one)["object"], value[0])


def test_what_the_ids_are_does_not_matter_and_the_lowest_is_an_object() -> None:
    one = {key: value[:1] for key, value in three().items()}
    module = build(augment_f=False)
    expected = losses(module, one)
    for offset in (1, 300, 10**6):
        shifted = {**one, "instances": one["instances"] + offset}
        for name, value in losses(module, shifted).items():
            torch.testing.assert_close(value, expected[name], msg=name)


def test_unlabelled_pixels_are_no_object_whatever_the_weights() -> None:
    """Neither pulled together, nor pushed, nor in the regulariser."""
    module, one = build(unlabeled_push_weight=0.0, consistency_weight=0.0, anchor="mean"), three()
    f = module(one["image"]).detach()[1:2]
    instances = one["instances"][1:2]
    moved = torch.where(instances[:, None] > 0, f, f + 50)
    for name in ("pull", "push", "norm"):
        values = [module.embedding_losses(e, None, instances)[name] for e in (f, moved)]
        torch.testing.assert_close(*values)


def test_images_without_any_object() -> None:
    one = three()
    one["instances"].zero_()
    terms = losses(build(photometric=NOISY), one)
    assert terms["consistency"] > 0
    assert [terms[name].item() for name in (*OBJECT_TERMS, "unlabeled_push")] == [0.0] * 5
    sum(terms.values()).backward()


def test_embeddings_that_all_coincide_have_finite_losses_and_gradients() -> None:
    module = build()
    for parameter in module.parameters():
        parameter.data.zero_()
    terms = losses(module, three())
    sum(terms.values()).backward()
    assert terms["push"] > 0
    for parameter in module.network.parameters():
        assert parameter.grad.isfinite().all()


def test_volumes() -> None:
    generator = torch.Generator().manual_seed(0)
    instances = torch.zeros(2, 6, 12, 12, dtype=torch.long)
    instances[0, 1:4, 2:8, 2:8], instances[0, 3:, 8:, 8:] = 1, 2
    one = {
        "image": torch.randn(2, 1, *instances.shape[1:], generator=generator),
        "instances": instances, "valid": torch.ones_like(instances, dtype=torch.bool),
        "background": torch.zeros(2, dtype=torch.long), "name": ["a", "b"],
    }  # fmt: skip
    module = build(spatial_dims=3, photometric=NOISY)
    terms = losses(module, one)
    assert all(value > 0 for value in terms.values())
    sum(terms.values()).backward()
    assert module(one["image"]).shape == (2, 4, 6, 12, 12)


def test_nothing_in_padding_is_looked_at() -> None:
    module, one = build(), three()
    with torch.no_grad():
        f, g = module(one["image"]), module(one["image"] + 0.2)
    f.requires_grad_()
    one["valid"][:, :, 14:] = one["valid"][:, 22:] = False
    outside = ~one["valid"]
    torch.manual_seed(1)
    expected = module.embedding_losses(f, g, one["instances"], one["valid"])
    sum(expected.values()).backward()
    assert not f.grad.transpose(0, 1)[:, outside].any()
    assert f.grad.transpose(0, 1)[:, ~outside].any()
    same = {**one, "instances": one["instances"].masked_fill(outside, 77)}
    assert losses(module, one) == losses(module, same)
    other = [torch.where(outside[:, None], 1e3, e) for e in (f, g)]
    painted = one["instances"].masked_fill(outside, 77)
    torch.manual_seed(1)
    for name, value in module.embedding_losses(*other, painted, one["valid"]).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_bfloat16_computes_the_losses_in_float32() -> None:
    module = build(photometric=PLAIN, delta_v=0.5, anchor="mean", max_anchors=1)
    exact = losses(module, three())
    with torch.autocast("cpu", torch.bfloat16):
        assert module(three()["image"]).dtype == torch.bfloat16
        rounded = losses(module, three())
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05, abs=0.01), name
