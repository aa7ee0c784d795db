"""The compiled sums, which run for float32 on a CPU, against PyTorch in float64 and the loops."""

import numpy as np
import pytest
import torch
from compiled_scene import (
    MARGINS,
    assert_as_in_double,
    assert_same,
    back,
    channels_last,
    contiguous,
    every_second_number,
    leaf,
    same_in_all_images,
    scene,
    seeded,
    some_channels,
    spoco,
)
from naive_spoco import (
    example,
    gradients,
    naive_consistency_loss,
    naive_means,
    naive_norm_loss,
    naive_object_loss,
    naive_pull_loss,
    naive_push_loss,
    naive_unlabeled_push_loss,
    regions,
)

from semiweak.losses import kernels
from semiweak.losses.consistency import draw_anchors
from semiweak.losses.objects import find_objects, object_means, random_pixels
from semiweak.losses.spoco import spoco_losses


@pytest.mark.parametrize(
    ("dtype", "kind", "expected"),
    [
        (torch.float32, "dice", ["sums", "gradients"]),
        (torch.float32, "bce", []),
        (torch.float64, "dice", []),
        (torch.bfloat16, "dice", []),
    ],
)
def test_who_computes(dtype, kind, expected, passes):
    f, g, instances = scene((5, 6))
    f, g = leaf(f, dtype), leaf(g, dtype)
    terms = spoco_losses(f, g, instances, kind=kind)
    gradients(sum(values for values, _ in terms.values()), f, g)
    assert passes == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"anchor": "mean"},
        {"region": "all"},
        {"anchor": "mean", "region": "all", "max_anchors": 2},
        {"object_terms": False},
        {"single_objects": False},
        {"unlabeled_push": False},
        {"unlabeled_push": False, "single_objects": False},
        {"g": None},
        {"g": None, "anchor": "mean"},
        {"g": None, "single_objects": False},
        {"g": None, "object_terms": False},
        {"kind": "bce"},
        {"kind": "bce", "anchor": "mean", "region": "all"},
        {"delta_v": 0.1, "delta_d": 0.7, "threshold": 0.9},
    ],
    ids=str,
)
def test_all_settings(options):
    f, g, instances = scene()
    found = assert_as_in_double(**({"f": f, "g": g, "instances": instances} | options))
    for name, each in found.items():
        assert each[-1].any() or each[-2].any(), name


def naive_terms(f, g, labels, pixels, drawn, *, delta_v, delta_d, threshold):
    means = naive_means(f, labels)
    at = means
    if pixels is not None:
        numbers = [len(regions(y)[0]) for y in labels]
        at = [[f[b, :, p] for p in pixels[b][:n]] for b, n in enumerate(numbers)]
    anchors = [p[u] for p, u in zip(drawn.positions, drawn.used, strict=True)]
    return {
        "pull": naive_pull_loss(f, labels, means, delta_v),
        "push": naive_push_loss(means, delta_d),
        "norm": naive_norm_loss(means),
        "unlabeled_push": naive_unlabeled_push_loss(f, labels, means, delta_d),
        "object": naive_object_loss(f, labels, at, delta_v, threshold),
        "consistency": naive_consistency_loss(f, g, labels, anchors, delta_v, threshold),
    }


@pytest.mark.parametrize("anchor", ["pixel", "mean"])
def test_the_formulas(anchor, passes):
    f, g, instances = example(dtype=torch.float32)
    found = spoco_losses(f, g, instances, anchor=anchor, generator=seeded(), **MARGINS)
    e, h, generator, objects = f.flatten(2), g.flatten(2), seeded(), find_objects(instances)
    pixels = random_pixels(objects, generator) if anchor == "pixel" else None
    drawn = draw_anchors(e, h, objects, delta_v=0.4, generator=generator)
    doubles = f.detach().double().requires_grad_(), g.detach().double().requires_grad_()
    flat = [e.flatten(2) for e in doubles]
    expected = naive_terms(*flat, instances.flatten(1), pixels, drawn, **MARGINS)
    for name, (values, _) in found.items():
        theirs = (expected[name], *back(expected[name], *doubles))
        assert_same({name: (values, *back(values, f, g))}, {name: theirs})
    assert passes[0] == "sums"


@pytest.mark.parametrize(
    "layout",
    [
        (channels_last, channels_last),
        (contiguous, channels_last),
        (every_second_number, some_channels),
        (some_channels, contiguous),
        (channels_last, every_second_number),
    ],
    ids=lambda pair: "-".join(layout.__name__ for layout in pair),
)
def test_layouts(layout, passes):
    f, g, instances = scene()
    for e, lay in ((f, layout[0]), (g, layout[1])):
        flat = lay(e).flatten(2)
        assert flat.untyped_storage().nbytes() == lay(e).untyped_storage().nbytes()  # no copy
    assert_as_in_double(f, g, instances, layout=layout)
    assert passes[0] == "sums"


def test_embeddings_that_share_their_memory():
    f, g, instances = scene()
    f, g = same_in_all_images(f), same_in_all_images(g)
    assert_as_in_double(f, g, instances, layout=(same_in_all_images, same_in_all_images))
    assert_as_in_double(f[:, :1].expand_as(f), f, instances, layout=(torch.Tensor.clone,) * 2)


@pytest.mark.parametrize(
    ("shape", "batch", "dim"),
    [
        ((25, 31), 3, 1),
        ((25, 31), 2, 3),
        ((16, 8), 2, 4),
        ((16, 16), 1, 16),
        ((127,), 3, 6),
        ((43, 3), 3, 7),
        ((1, 1), 3, 2),
        ((5, 11, 7), 2, 5),
    ],
    ids=str,
)
def test_sizes(shape, batch, dim):
    assert_as_in_double(*scene(shape, batch, dim))


@pytest.mark.parametrize("threads", [2, 3, 100])
def test_threads(threads):
    # 21 tiles, 7 an image: the parts of two threads end within an image, those of three do not.
    f, g, instances = scene()
    one = spoco(f, g, instances)
    torch.set_num_threads(threads)
    try:
        many = spoco(f, g, instances)
    finally:
        torch.set_num_threads(1)
    assert_same(many, one, digits=6)


def empty_images(instances):
    instances[:] = 0


def one_without_objects(instances):
    instances[1] = 0


def one_without_unlabelled(instances):
    instances[0].clamp_(min=7)


def painted_completely(instances):
    instances.clamp_(min=7)


def one_pixel_each(instances):
    instances[:] = 0
    instances[0, 3, 4], instances[0, 20, 1], instances[2, 24, 30] = 9, 2, 1


def many_objects(instances):
    instances[1:] = torch.arange(instances[0].numel()).view(instances[0].shape) // 33
    instances[2][:20] = 0


@pytest.mark.parametrize(
    "edit",
    [
        empty_images,
        one_without_objects,
        one_without_unlabelled,
        painted_completely,
        one_pixel_each,
        many_objects,
    ],
)
@pytest.mark.parametrize("region", ["unlabelled", "all"])
def test_paintings(edit, region):
    f, g, instances = scene()
    edit(instances)
    found = assert_as_in_double(f, g, instances, region=region)
    for each in found.values():
        assert all(e.isfinite().all() for e in each)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_padding(layout):
    f, g, instances = scene()
    valid = torch.rand(instances.shape, generator=seeded()) < 0.8
    valid[0, :, 20:] = valid[1, :12] = valid[2] = False  # the third has nothing else
    layouts = {"layout": (layout, layout)}
    zero, nan = ([e.masked_fill(~valid[:, None], x) for e in (f, g)] for x in (0.0, torch.nan))
    expected = assert_as_in_double(*zero, instances, valid=valid, **layouts)
    found = spoco(*nan, instances, valid=valid, **layouts)
    assert_same(found, expected, digits=7)
    for each in found.values():
        for grad in (e for e in each if e.dim() == 4):
            assert not grad.masked_select(~valid[:, None]).any()
    assert not assert_as_in_double(f, g, instances)["total"][0].equal(found["total"][0])
    objects = find_objects(instances, valid)
    means = [object_means(e.flatten(2), objects) for e in (zero[0], nan[0])]
    assert torch.equal(*means)


@pytest.mark.parametrize("anchor", ["pixel", "mean"])
@pytest.mark.parametrize("shift", [0.0, 5e-7])
def test_embeddings_at_a_mean_or_anchor(anchor, shift):
    # All pixels of an object are at its mean, and so are, or nearly, the unlabelled pixels.
    _, _, instances = scene()
    f = torch.zeros(3, 5, 25, 31)
    f[:, 1] = (instances // 7 % 3) * 0.5
    f[:, 0] = torch.where(instances == 0, shift, 0.0)
    g = 1.5 * f
    found = assert_as_in_double(f, g, instances, anchor=anchor)
    for each in found.values():
        assert all(e.isfinite().all() for e in each)
    assert found["unlabeled_push"][0].all()


@pytest.mark.parametrize("scale", [30.0, 1e3, 1e15])
def test_embeddings_far_apart(scale):
    f, g, instances = scene()
    found = spoco(scale * f, scale * g, instances)
    for each in found.values():
        assert all(e.isfinite().all() for e in each)
    # An anchor is alone in its mask, and in both of its masks.
    objects = find_objects(instances)
    dice = (1 - 2 / (1 + objects.sizes)) * objects.exists
    dice = dice.sum(1) / objects.exists.sum(1)
    assert_same({"object": found["object"][:1]}, {"object": [dice]}, digits=6)
    assert found["consistency"][0].abs().max() < 1e-6
    for name in ("object", "consistency"):
        assert max(e.abs().max() for e in found[name][2:]) < 1e-9
    if scale < 1e4:
        expected = spoco(scale * f, scale * g, instances, torch.float64)
        for name in ("pull", "push", "norm", "unlabeled_push"):
            assert_same({name: found[name]}, {name: expected[name]})


def test_the_exponential():
    x = np.linspace(0, 100, 128 * 99, dtype=np.float32)
    found = x.copy()
    for row in found.reshape(-1, 128):
        kernels._kernel(row, np.float32(-1.0), np.zeros(128, np.float32))
    expected = np.exp(-np.minimum(x, np.float32(87)).astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=3e-7)
    assert found[0] == 1


@pytest.mark.parametrize("painted", [True, False])
@pytest.mark.parametrize("net", ["f", "g"])
def test_nan_is_not_hidden(net, painted):
    f, g, instances = scene()
    at = torch.nonzero((instances[1] > 0) == painted)[-1]
    e, h = leaf(f.clone()), leaf(g.clone())
    expected = spoco_losses(e, h, instances, generator=seeded())
    (f if net == "f" else g)[1, 2, at[0], at[1]] = torch.nan
    f, g = leaf(f), leaf(g)
    found = spoco_losses(f, g, instances, generator=seeded())
    shown = ["object", "unlabeled_push"] + (["pull"] if painted else [])
    shown = ["consistency"] + (shown if net == "f" else [])
    for name, (values, _) in found.items():
        if name in shown:  # a norm that is NaN counts as 0 in the other two
            assert values.isnan().tolist() == [False, True, False], name
        # The other images are as they were, and so are their gradients.
        theirs = expected[name][0][::2]
        torch.testing.assert_close(values[::2], theirs)
        for a, b in zip(back(values[::2], f, g), back(theirs, e, h), strict=True):
            assert_same({name: [a[::2]]}, {name: [b[::2]]})


@pytest.mark.parametrize("needs", ["f", "g"])
def test_only_what_needs_a_gradient_gets_one(needs):
    full = spoco(*scene())
    f, g, instances = scene()
    only = (f if needs == "f" else g).requires_grad_()
    for name, (values, _) in spoco_losses(f, g, instances, generator=seeded(), **MARGINS).items():
        if values.requires_grad:
            expected = full[name][2 if needs == "f" else 3]
            assert_same({name: back(values, only)}, {name: [expected]}, digits=7)
    assert (f if needs == "g" else g).grad is None
