"""SPOCO's terms in images that lack something: objects, unlabelled pixels, pixels at all."""

import pytest
import torch
from naive_spoco import assert_same, example, gradients, naive_object_loss

from semiweak.losses.consistency import Anchors, consistency_loss
from semiweak.losses.discriminative import pull_loss, unlabeled_push_loss
from semiweak.losses.objects import find_objects, object_means, random_pixels
from semiweak.losses.reduction import mean_over_known
from semiweak.losses.single_objects import object_loss
from semiweak.losses.spoco import spoco_losses

NAMES = ["pull", "push", "norm", "object", "unlabeled_push", "consistency"]


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def test_an_image_does_not_change_another_and_all_have_gradients():
    f, g, instances = example(batch=4)
    for name, (values, known) in spoco_losses(f, g, instances, generator=seeded()).items():
        assert known.all(), name
        for i in range(4):
            (gradient,) = torch.autograd.grad(values[i], f, retain_graph=True)
            assert gradient[i].any(), name
            assert not gradient[torch.arange(4) != i].any(), name
        (gradient,) = torch.autograd.grad(mean_over_known(values, known), f, retain_graph=True)
        assert gradient.flatten(1).any(1).all(), name


@pytest.mark.parametrize("kind", ["dice", "bce"])
@pytest.mark.parametrize("anchor", ["pixel", "mean"])
@pytest.mark.parametrize("painted", ["nothing", "everything", "one each"])
def test_images_of_which_a_term_does_not_speak(painted, anchor, kind):
    f, g, instances = example()
    if painted == "nothing":
        instances[:] = 0
    elif painted == "everything":
        instances = instances + 1
    else:
        instances[0] = 0
        instances[1] += 1
    speaks = {
        "nothing": [[False, False]] * 5 + [[True, True]],
        "everything": [[True, True]] * 4 + [[False, False]] * 2,
        "one each": [[False, True]] * 4 + [[False, False], [True, False]],
    }[painted]
    found = spoco_losses(f, g, instances, anchor=anchor, kind=kind, generator=seeded())
    for (name, (values, known)), expected in zip(found.items(), speaks, strict=True):
        assert known.tolist() == expected, name
        mean = mean_over_known(values, known)
        assert mean.requires_grad, name
        (gradient,) = torch.autograd.grad(mean, f, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.flatten(1).any(1).tolist() == expected, name
        if not any(expected):
            assert mean.item() == 0
            assert torch.equal(values, torch.zeros_like(values))
    if painted == "everything":
        everywhere = spoco_losses(f, g, instances, region="all", generator=seeded())
        assert everywhere["consistency"][1].all()
        assert gradients(everywhere["consistency"][0], g)[0].flatten(1).any(1).all()


def test_the_background_of_a_painted_image_is_an_object_like_any():
    f, _, instances = example(batch=1)
    instances = torch.where(instances == 0, 99, instances)
    objects = find_objects(instances)
    assert objects.sizes.shape[1] == 4
    pixels = random_pixels(objects, seeded())
    found = spoco_losses(f, None, instances, generator=seeded())["object"][0]
    labels = instances.flatten(1)
    at = [[f.flatten(2)[0, :, p] for p in pixels[0]]]
    expected = naive_object_loss(f.flatten(2), labels, at)
    assert_same(found, expected, (f,))
    background = gradients(found, f)[0].flatten(2).mT[labels == 99]
    assert background.any(1).all()


@pytest.mark.parametrize("ids", [[0, 2, 3, 1], [0, 70000, 5, 8], [0, 2**31 + 5, 2**40, 2**62]])
def test_ids_are_but_names(ids):
    f, g, instances = example()
    renamed = torch.tensor(ids)[instances]
    # By the mean as the anchor, and by the region without objects, no draw depends on the order.
    one, two = (
        spoco_losses(f, g, y, anchor="mean", generator=seeded()) for y in (instances, renamed)
    )
    for name in NAMES:
        torch.testing.assert_close(one[name][0], two[name][0])
        torch.testing.assert_close(gradients(one[name][0], f), gradients(two[name][0], f))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", ["dice", "bce"])
@pytest.mark.parametrize("anchor", ["pixel", "mean"])
@pytest.mark.parametrize("region", ["unlabelled", "all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_padding_changes_nothing(dtype, region, anchor, kind, layout):
    options = {"region": region, "anchor": anchor, "kind": kind}
    f, g, instances = example(batch=3, dtype=dtype, layout=layout)
    instances[1] = 0
    instances[2] += 1
    plain = spoco_losses(f, g, instances, generator=seeded(), **options)
    expected = {n: (v, k, gradients(v, f)[0]) for n, (v, k) in plain.items()}
    for value, label in [(0.0, 0), (0.3, 2), (1e6, 7), (-1e30, 2**40)]:
        room = torch.full((3, 3, 8, 9), value, dtype=dtype)
        if layout == "channels_last":
            room = room.contiguous(memory_format=torch.channels_last)
        padded_f, padded_g = room.clone(), room.clone()
        padded_f[..., 2:7, 3:], padded_g[..., 2:7, 3:] = f.detach(), g.detach()
        padded_f.requires_grad_()
        labels = torch.full((3, 8, 9), label)
        labels[:, 2:7, 3:] = instances
        valid = torch.zeros(3, 8, 9, dtype=torch.bool)
        valid[:, 2:7, 3:] = True
        found = spoco_losses(padded_f, padded_g, labels, valid=valid, generator=seeded(), **options)
        tolerance = {} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-6}
        for name, (values, known) in found.items():
            torch.testing.assert_close(values, expected[name][0], **tolerance)
            assert torch.equal(known, expected[name][1]), name
            (gradient,) = gradients(values, padded_f)
            torch.testing.assert_close(gradient[..., 2:7, 3:], expected[name][2], **tolerance)
            assert not gradient[~valid[:, None].expand_as(gradient)].any(), name


def test_an_image_that_is_all_padding():
    f, g, instances = example()
    valid = torch.ones_like(instances, dtype=torch.bool)
    valid[0] = False
    found = spoco_losses(f, g, instances, valid=valid, region="all", generator=seeded())
    for name, (values, known) in found.items():
        assert known.tolist() == [False, True], name
        assert values[0].item() == 0, name
        assert not gradients(values, f)[0][0].any(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dice", "bce"])
def test_embeddings_that_all_coincide(kind, dtype):
    instances = example()[2]
    f = torch.full((2, 3, 5, 6), 0.3, dtype=dtype, requires_grad=True)
    found = spoco_losses(f, f.detach().clone(), instances, kind=kind)
    for name, (values, _) in found.items():
        assert values.isfinite().all(), name
        assert gradients(values, f)[0].isfinite().all(), name


@pytest.mark.parametrize("kind", ["dice", "bce"])
def test_padding_changes_no_function(kind):
    found = []
    instances = example()[2]
    valid = torch.ones_like(instances, dtype=torch.bool)
    valid[:, 3:] = valid[1, 0] = False
    objects = find_objects(instances, valid)
    anchors = Anchors(torch.tensor([[1, 8]] * 2), torch.tensor([[True, True], [False, True]]))
    for value in (0.0, -1e30):
        e, h = (x.detach().float().masked_fill_(~valid[:, None], value) for x in example()[:2])
        e, h = e.flatten(2).requires_grad_(), h.flatten(2).requires_grad_()
        means = object_means(e, objects)
        values = [
            pull_loss(e, objects, means),
            unlabeled_push_loss(e, objects, means),
            object_loss(e, objects, means, kind=kind),
            object_loss(e, objects, random_pixels(objects, seeded()), kind=kind),
            consistency_loss(e, h, anchors, objects),
        ]
        gradient = gradients(sum((i + 1) * v for i, (v, _) in enumerate(values)), e, h)
        found.append([*values, gradient])
    for clean, dirty in zip(*found, strict=True):
        torch.testing.assert_close(clean, dirty)
