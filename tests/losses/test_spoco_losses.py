"""All terms of SPOCO together: each is its own function, by the same anchors and the formulas."""

import pytest
import torch
from naive_spoco import (
    assert_same,
    example,
    gradients,
    naive_consistency_loss,
    naive_draw_anchors,
    naive_means,
    naive_norm_loss,
    naive_object_loss,
    naive_pull_loss,
    naive_push_loss,
    naive_unlabeled_push_loss,
    regions,
)

from semiweak.losses import distances
from semiweak.losses.consistency import consistency_loss, draw_anchors
from semiweak.losses.discriminative import norm_loss, pull_loss, push_loss, unlabeled_push_loss
from semiweak.losses.objects import find_objects, object_means, random_pixels, random_unlabelled
from semiweak.losses.reduction import mean_over_known
from semiweak.losses.single_objects import object_loss
from semiweak.losses.spoco import spoco_losses

NAMES = ["pull", "push", "norm", "object", "unlabeled_push", "consistency"]
MARGINS = {"delta_v": 0.4, "delta_d": 1.5}
WEIGHTS = {"norm": 0.001}  # all others 1 (Eq 5 and 8)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def anchors_of(f, g, instances, valid=None, region="unlabelled", delta_v=0.4, anchor="pixel"):
    """The anchors that `spoco_losses` draws by the same generator."""
    generator = seeded()
    objects = find_objects(instances, valid)
    pixels = random_pixels(objects, generator) if anchor == "pixel" else None
    where = objects if region == "unlabelled" else objects.unpainted()
    drawn = draw_anchors(f.flatten(2), g.flatten(2), where, delta_v=delta_v, generator=generator)
    return objects, pixels, drawn


def naive_spoco_losses(
    f, g, labels, pixels, anchors, *, delta_v=0.5, delta_d=2.0, threshold=0.9, kind="dice"
):
    """The terms of Eq 5 and 8 by given anchors: of each image's objects, and of its consistency."""
    f, g = f.flatten(2), g.flatten(2)
    means = naive_means(f, labels)
    if pixels is None:
        at = means
    else:
        at = [
            [f[b, :, p] for p in of_image[: len(regions(labels[b])[0])]]
            for b, of_image in enumerate(pixels.tolist())
        ]
    drawn = [p[u].tolist() for p, u in zip(anchors.positions, anchors.used, strict=True)]
    return {
        "pull": naive_pull_loss(f, labels, means, delta_v),
        "push": naive_push_loss(means, delta_d),
        "norm": naive_norm_loss(means),
        "object": naive_object_loss(f, labels, at, delta_v, threshold, kind),
        "unlabeled_push": naive_unlabeled_push_loss(f, labels, means, delta_d),
        "consistency": naive_consistency_loss(f, g, labels, drawn, delta_v, threshold),
    }


def weighted(terms):
    """L_SSO of each image."""
    return sum(WEIGHTS.get(name, 1.0) * values for name, values in terms.items())


@pytest.mark.parametrize("anchor", ["pixel", "mean"])
@pytest.mark.parametrize("kind", ["dice", "bce"])
@pytest.mark.parametrize("region", ["unlabelled", "all"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_each_term_and_their_sum_are_the_formulas(layout, region, kind, anchor):
    f, g, instances = example(layout=layout)
    options = {**MARGINS, "threshold": 0.8, "kind": kind}
    found = spoco_losses(
        f, g, instances, region=region, anchor=anchor, generator=seeded(), **options
    )
    _, pixels, drawn = anchors_of(f, g, instances, region=region, anchor=anchor)
    expected = naive_spoco_losses(f, g, instances.flatten(1), pixels, drawn, **options)
    assert list(found) == NAMES
    for name, (values, known) in found.items():
        assert known.tolist() == [True, True], name
        assert_same(values, expected[name], (f, g) if name == "consistency" else (f,))
    total = weighted({name: values for name, (values, _) in found.items()})
    assert_same(total, weighted(expected), (f, g))


def test_three_dimensions():
    f, g, instances = example((2, 4, 3), layout="channels_last")
    found = spoco_losses(f, g, instances, generator=seeded())
    _, pixels, drawn = anchors_of(f, g, instances, delta_v=0.5)
    expected = naive_spoco_losses(f, g, instances.flatten(1), pixels, drawn)
    total = weighted({name: values for name, (values, _) in found.items()})
    assert_same(total, weighted(expected), (f, g))


def test_the_anchors_of_the_paper():
    f, g, instances = example()
    drawn = anchors_of(f, g, instances)[2]
    objects, generator = find_objects(instances), seeded()
    random_pixels(objects, generator)
    order = random_unlabelled(objects, 1024, generator).tolist()
    labels = instances.flatten(1)
    expected = naive_draw_anchors(f.flatten(2), g.flatten(2), labels, order, 0.4)
    assert [p[u].tolist() for p, u in zip(drawn.positions, drawn.used, strict=True)] == expected


@pytest.mark.parametrize("padded", [False, True])
def test_each_term_is_the_function_of_its_name(padded):
    f, g, instances = example(batch=3)
    instances[2] = 0
    valid = torch.rand(instances.shape, generator=seeded()) < 0.7 if padded else None
    found = spoco_losses(f, g, instances, valid=valid, generator=seeded(), **MARGINS)
    objects, pixels, drawn = anchors_of(f, g, instances, valid)
    e, h = f.flatten(2), g.flatten(2)
    means = object_means(e, objects)
    expected = {
        "pull": pull_loss(e, objects, means, delta_v=0.4),
        "push": push_loss(means, objects, delta_d=1.5),
        "norm": norm_loss(means, objects),
        "object": object_loss(e, objects, pixels, delta_v=0.4),
        "unlabeled_push": unlabeled_push_loss(e, objects, means, delta_d=1.5),
        "consistency": consistency_loss(e, h, drawn, objects, delta_v=0.4),
    }
    for name, (values, known) in found.items():
        torch.testing.assert_close(values, expected[name][0])
        assert torch.equal(known, expected[name][1]), name
        inputs = (f, g) if name == "consistency" else (f,)
        assert_same(values, expected[name][0], inputs)


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"single_objects": False}, ["object"]),
        ({"unlabeled_push": False}, ["unlabeled_push"]),
        ({"object_terms": False}, NAMES[:-1]),
        ({"g": None}, ["consistency"]),
        ({"g": None, "single_objects": False}, ["object", "consistency"]),
        ({"g": None, "object_terms": False}, NAMES),
    ],
)
def test_terms_that_are_left_out(options, left_out):
    f, g, instances = example()
    full = spoco_losses(f, g, instances, generator=seeded())
    options = {"g": g, **options}
    found = spoco_losses(f, options.pop("g"), instances, generator=seeded(), **options)
    assert list(found) == [name for name in NAMES if name not in left_out]
    for name, (values, known) in found.items():
        if name != "consistency" or "unlabeled_push" in options:  # else it is drawn first
            torch.testing.assert_close(values, full[name][0])
        assert torch.equal(known, full[name][1])
        assert gradients(values, f)[0].any()


def test_at_most_so_many_anchors():
    f, g, instances = example()
    one = spoco_losses(f, g, instances, max_anchors=1, generator=seeded())["consistency"][0]
    objects, _, drawn = anchors_of(f, g, instances, delta_v=0.5)
    first = type(drawn)(drawn.positions[:, :1], drawn.used[:, :1])
    expected = consistency_loss(f.flatten(2), g.flatten(2), first, objects)[0]
    torch.testing.assert_close(one, expected)


def test_four_copies_cost_as_much_as_one():
    # Anchors differ from copy to copy, unless each region is one pixel or one embedding.
    f, g, instances = example(batch=1)
    f = (0.7 * instances[:, None] + torch.zeros_like(f)).detach()
    g = (f * 1.2 + 0.1).detach()
    g[:, 1] += 0.3 * (instances == 1)
    single = spoco_losses(f, g, instances)
    copies = spoco_losses(*(e.repeat(4, 1, 1, 1) for e in (f, g)), instances.repeat(4, 1, 1))
    for name in NAMES:
        assert copies[name][0].shape == (4,)
        a, b = mean_over_known(*single[name]), mean_over_known(*copies[name])
        assert name == "pull" or a > 0
        torch.testing.assert_close(a, b)


def test_identical_views_are_consistent():
    f, _, instances = example(dtype=torch.float32)
    values, known = spoco_losses(f, f, instances)["consistency"]
    assert known.all()
    assert values.abs().max().item() < 1e-6


@pytest.mark.parametrize("kind", ["dice", "bce"])
def test_low_precision(kind):
    f, g, instances = example((25, 31), dtype=torch.float32)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = spoco_losses(f, g, instances, kind=kind, generator=seeded())
            found.append({n: (v, *gradients(v, f)) for n, (v, _) in terms.items()})
    for name in NAMES:
        for a, b in zip(found[0][name], found[1][name], strict=True):
            assert torch.equal(a, b), name
    f, g = (e.detach().bfloat16().requires_grad_() for e in (f, g))
    for values, _ in spoco_losses(f, g, instances, kind=kind, generator=seeded()).values():
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert gradients(values, f)[0].isfinite().all()


def test_in_parts_and_at_once_are_the_same(monkeypatch):
    found = []
    for room in (2**20, 1):
        monkeypatch.setitem(distances._CHUNK, "cpu", room)
        f, g, instances = example((25, 31), batch=3)
        valid = torch.rand(instances.shape, generator=seeded()) < 0.8
        terms = spoco_losses(f, g, instances, valid=valid, generator=seeded())
        total = weighted({name: values for name, (values, _) in terms.items()})
        found.append((total, *gradients(total, f, g)))
    torch.testing.assert_close(found[0], found[1])


def test_a_seed_repeats_all():
    f, g, instances = example()
    one, two, other = (spoco_losses(f, g, instances, generator=seeded(s)) for s in (1, 1, 2))
    for name in NAMES:
        assert torch.equal(one[name][0], two[name][0])
    assert not torch.equal(one["object"][0], other["object"][0])
