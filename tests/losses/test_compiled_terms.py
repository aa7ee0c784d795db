"""Single terms by the compiled sums, given centres, and which path is taken."""

import pytest
import torch
from compiled_scene import (
    assert_same,
    back,
    channels_last,
    contiguous,
    leaf,
    results,
    same_in_all_images,
    scene,
    seeded,
    some_channels,
    spoco,
)
from naive_spoco import (
    gradients,
    naive_means,
)

from semiweak.losses import kernels
from semiweak.losses.consistency import Anchors, ConsistencyTerm, consistency_loss
from semiweak.losses.discriminative import MeansTerm, pull_loss, unlabeled_push_loss
from semiweak.losses.distances import sum_over_pixels
from semiweak.losses.objects import Objects, find_objects, object_means, random_pixels
from semiweak.losses.single_objects import ObjectTerm, object_loss
from semiweak.losses.spoco import spoco_losses


def without_second(objects):
    """The same objects, but for the second of the first image: its number is nobody's."""
    number, sizes, unlabelled = (
        e.clone() for e in (objects.number, objects.sizes, objects.unlabelled)
    )
    number[0][number[0] == 2] = 0
    unlabelled[0] += sizes[0, 1]
    sizes[0, 1] = 0
    return Objects(number, sizes, unlabelled, objects.padded)


def given(dtype, fixed=()):
    """The functions of one term each, and what they are given."""
    f, g, instances = scene()
    objects = without_second(find_objects(instances))
    e, h = leaf(f.flatten(2), dtype), leaf(g.flatten(2), dtype)
    inputs = {"f": e, "g": h}
    for i, name in enumerate(("means", "anchors")):  # off the true ones
        drawn = 0.4 * torch.randn(len(f), objects.sizes.shape[1], 5, generator=seeded(i))
        drawn[..., 0] += torch.arange(drawn.shape[1]) * 0.5
        drawn[~objects.exists] = 3.0
        inputs[name] = leaf(drawn, dtype)
    for name in fixed:
        inputs[name].requires_grad_(False)
    pixels = random_pixels(objects, seeded())
    positions = torch.randint(0, f[0, 0].numel(), (3, 6), generator=seeded())
    positions[0, :2] = positions[0, 2]  # one pixel thrice: its gradients add up
    anchors = Anchors(positions, torch.rand(3, 6, generator=seeded()) < 0.7)
    true = object_means(e, objects)
    margin, kernel = {"delta_v": 0.3}, {"delta_v": 0.3, "threshold": 0.7}
    terms = {
        "pull": pull_loss(e, objects, inputs["means"], **margin),
        "true": pull_loss(e, objects, true, **margin),
        "unlabeled": unlabeled_push_loss(e, objects, inputs["means"], delta_d=1.3),
        "object": object_loss(e, objects, inputs["anchors"], **kernel),
        "at_pixels": object_loss(e, objects, pixels, **kernel),
        "consistency": consistency_loss(e, h, anchors, objects, **kernel),
    }
    return terms, inputs


@pytest.mark.parametrize("fixed", [(), ("f",), ("means", "anchors"), ("f", "g")], ids=str)
def test_gradients_by_given_means_and_anchors(fixed, passes):
    found = []
    for dtype in (torch.float32, torch.float64):
        terms, inputs = given(dtype, fixed)
        terms = {n: v for n, v in terms.items() if v[0].requires_grad}
        found.append(results(terms, *(e for e in inputs.values() if e.requires_grad)))
    assert_same(*found)
    assert passes.count("sums") == 6
    assert {"gradients"} < set(passes)


def test_a_given_mean_at_a_pixel():
    f, _, instances = scene()
    objects, found = find_objects(instances), []
    for dtype in (torch.float32, torch.float64):
        e = leaf(f.flatten(2), dtype)
        means = e.detach()[:, :, : objects.sizes.shape[1]].mT.clone().requires_grad_()
        terms = {"pull": pull_loss(e, objects, means, delta_v=0.0)}
        terms["unlabeled"] = unlabeled_push_loss(e, objects, means)
        found.append(results(terms, e, means))
    assert_same(*found)
    assert all(e.isfinite().all() for each in found[0].values() for e in each)


def test_what_the_loops_cannot_share_is_right_all_the_same(passes):
    f, _, instances = scene()
    objects, found = find_objects(instances), []
    others = find_objects(torch.where(instances == 35, 0, instances))
    for dtype in (torch.float32, torch.float64):
        e = leaf(f.flatten(2), dtype)
        means, at = object_means(e, objects), random_pixels(others, seeded())
        anchors = Anchors(at, others.exists)
        pairs = [
            [ObjectTerm(objects, means, 0.5, "dice"), ObjectTerm(objects, means + 1, 0.5, "dice")],
            [ObjectTerm(objects, means, 0.5, "dice"), ConsistencyTerm(anchors, objects, 0.2)],
            [MeansTerm(objects, means, delta_v=0.3), ObjectTerm(others, at, 0.4, "dice")],
            [MeansTerm(objects, means, delta_d=1.3), ObjectTerm(objects, means, 0.4, "bce")],
        ]
        sums = [s for terms in pairs for s in sum_over_pixels([e, e.flip(2)], terms)]
        sums = [s.flatten(1).sum(1) for s in sums]
        found.append(results({i: (s, s > 0) for i, s in enumerate(sums)}, e))
    assert_same(*found)
    assert passes == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, passes):
    f, g, instances = scene()
    rounded = [e.to(dtype) for e in (f, g)]
    expected = spoco(*(e.float() for e in rounded), instances)
    passes.clear()
    found = spoco(*rounded, instances, dtype)
    assert passes == []
    for name in found:
        assert found[name][0].dtype == torch.float32
        torch.testing.assert_close(found[name][0], expected[name][0], rtol=1e-5, atol=1e-5)
    assert found["total"][1].dtype == dtype
    assert_same({"f": found["total"][1:]}, {"f": expected["total"][1:]}, digits=2)


def test_no_image():
    f = torch.zeros(0, 3, 4, 4, requires_grad=True)
    for values, known in spoco_losses(f, f, torch.zeros(0, 4, 4, dtype=torch.int64)).values():
        assert values.shape == known.shape == (0,)
        assert back(values, f)[0].shape == f.shape


@pytest.mark.parametrize("layout", [contiguous, channels_last, some_channels, same_in_all_images])
def test_object_means(layout):
    f, _, instances = scene()
    f = layout(f)
    instances[1, :, :9] = instances[2] = 0
    valid = torch.rand(instances.shape, generator=seeded()) < 0.8
    objects, found = find_objects(instances, valid), []
    for dtype, lay in ((torch.float32, layout), (torch.float64, contiguous)):
        e = leaf(f, dtype, lay)
        means = object_means(e.flatten(2), objects)
        assert means.dtype == dtype
        values = (means * torch.linspace(1, 2, 5, dtype=dtype)).square().sum((1, 2))
        found.append({"means": (means, *gradients(values, e))})
    assert_same(*found, digits=6)
    e = leaf(f.double())
    naive = naive_means(e.flatten(2)[:1], torch.where(valid, instances, -1).flatten(1)[:1])
    assert_same({"means": [found[0]["means"][0][0]]}, {"means": [torch.stack(naive[0])]}, digits=6)


def test_as_pytorch_does_in_float32(monkeypatch, passes):
    expected = spoco(*scene())
    assert passes
    passes.clear()
    monkeypatch.setattr(kernels, "can_look_at", lambda *embeddings: False)
    assert_same(spoco(*scene()), expected, digits=4)
    assert passes == []


def test_differentiable_once(passes):
    f, g, instances = scene((5, 6))
    f = leaf(f)
    terms = spoco_losses(f, g, instances)
    objects = find_objects(instances)
    means = object_means(f.flatten(2), objects)
    # "norm" speaks of the means alone, "object" of the sums alone.
    alone = pull_loss(f.flatten(2), objects, means.detach() + 1)
    for values, _ in (terms["object"], terms["pull"], terms["norm"], alone):
        (grad,) = torch.autograd.grad(
            values.square().sum(), f, create_graph=True, retain_graph=True
        )
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward(retain_graph=True)
    assert passes.count("gradients") == 4
