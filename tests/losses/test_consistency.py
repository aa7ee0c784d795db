"""The anchors of the consistency loss and the loss itself, against loops over the formulas."""

import pytest
import torch
from naive_spoco import (
    assert_same,
    example,
    gradients,
    naive_consistency_loss,
    naive_draw_anchors,
)

from semiweak.losses import distances
from semiweak.losses.consistency import Anchors, consistency_loss, draw_anchors
from semiweak.losses.objects import find_objects, random_unlabelled
from semiweak.losses.reduction import mean_over_known

LAYOUTS = ["contiguous", "channels_last"]
SHAPES = [(5, 6), (2, 4, 3)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def case(shape=(5, 6), layout="contiguous", batch=2, dtype=torch.float64):
    """Both embeddings, objects, labels, and 3 anchors in the first image and 2 in the others."""
    f, g, instances = example(shape, batch, dtype, layout)
    positions = torch.randint(0, 24, (batch, 3), generator=seeded())
    used = torch.ones(batch, 3, dtype=torch.bool)
    used[1:, 1] = False
    return f, g, find_objects(instances), instances.flatten(1), Anchors(positions, used)


def listed(anchors):
    return [p[u].tolist() for p, u in zip(anchors.positions, anchors.used, strict=True)]


@pytest.mark.parametrize("threshold", [0.9, 0.5])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_consistency_is_the_formula(shape, layout, threshold):
    f, g, objects, labels, anchors = case(shape, layout)
    options = {"delta_v": 0.6, "threshold": threshold}
    values, known = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects, **options)
    expected = naive_consistency_loss(
        f.flatten(2), g.flatten(2), labels, listed(anchors), **options
    )
    assert values.dtype == torch.float64
    assert known.tolist() == [True, True]
    assert_same(values, expected, (f, g))


def test_float32_is_as_good_as_float32_can_be():
    exact_f, exact_g, objects, labels, anchors = case()
    f, g = (t.detach().float().requires_grad_() for t in (exact_f, exact_g))
    values, _ = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects)
    expected = naive_consistency_loss(
        exact_f.flatten(2), exact_g.flatten(2), labels, listed(anchors)
    )
    assert_same(values, expected, (f, g), (exact_f, exact_g), rtol=1e-5, atol=1e-6)


def test_half_precision_is_computed_in_full():
    f, g, objects, _, anchors = case(dtype=torch.bfloat16)
    values, _ = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects)
    exact = (e.detach().double().flatten(2) for e in (f, g))
    expected, _ = consistency_loss(*exact, anchors, objects)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient in gradients(values, f, g):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_autocast_changes_nothing():
    f, g, objects, _, anchors = case(dtype=torch.float32)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values, _ = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects)
            found.append((values, *gradients(values, f, g)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_parts_and_at_once_are_the_same(layout, monkeypatch):
    found = []
    for room in (2**20, 1):  # parts have at least 256 pixels
        monkeypatch.setitem(distances._CHUNK, "cpu", room)
        f, g, objects, _, anchors = case((25, 31), layout)
        values, _ = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects)
        found.append((values, *gradients(values, f, g)))
    torch.testing.assert_close(found[0], found[1])


def test_derivatives_by_finite_differences():
    f, g, objects, _, _ = case((2, 4))
    anchors = Anchors(torch.tensor([[0, 3], [5, 5]]), torch.tensor([[True, True], [True, False]]))
    loss = lambda f, g: consistency_loss(f, g, anchors, objects)[0]  # noqa: E731
    assert torch.autograd.gradcheck(loss, (f.flatten(2), g.flatten(2)))


def test_one_dice_an_anchor_not_one_a_row():
    # In the lower row the masks vanish in f and are small in g: a Dice of its own would be 1.
    f = torch.tensor([[[[0.0, 0.0], [50.0, 50.0]]]], dtype=torch.float64)
    g = torch.tensor([[[[0.0, 0.0], [3.0, 3.0]]]], dtype=torch.float64)
    objects = find_objects(torch.zeros(1, 2, 2, dtype=torch.int64))
    anchors = Anchors(torch.tensor([[0]]), torch.tensor([[True]]))
    value = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects)[0].item()
    small = 0.9 ** (9 / 0.25)
    assert value == pytest.approx(1 - 2 * 2 / (2 + 2 + 2 * small**2))
    assert value < 0.01
    # The layout of the pixels in rows, columns and slices does not matter.
    f, g, _, _, anchors = case((4, 6))
    values = [
        consistency_loss(e.flatten(2), h.flatten(2), anchors, find_objects(y))[0]
        for e, h, y in [
            (f, g, torch.zeros(2, 4, 6, dtype=torch.int64)),
            (
                f.reshape(2, 3, 2, 3, 4),
                g.reshape(2, 3, 2, 3, 4),
                torch.zeros(2, 2, 3, 4, dtype=torch.int64),
            ),
        ]
    ]
    assert torch.equal(*values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_embeddings_that_agree_cost_nothing(dtype):
    f, _, objects, _, anchors = case(dtype=dtype)
    values, known = consistency_loss(f.flatten(2), f.flatten(2), anchors, objects)
    assert known.tolist() == [True, True]
    assert values.abs().max().item() < 1e-6
    assert gradients(values, f)[0].abs().max().item() < 1e-6


def test_embeddings_that_disagree_cost_at_most_1():
    f, _, _, _, _ = case()
    labels = torch.zeros(2, 5, 6, dtype=torch.int64)
    g = torch.zeros_like(f)
    anchors = Anchors(torch.tensor([[3], [4]]), torch.ones(2, 1, dtype=torch.bool))
    far = 1000 * torch.arange(30, dtype=torch.float64).expand(2, 3, 30)
    values, _ = consistency_loss(far, g.flatten(2), anchors, find_objects(labels))
    # One pixel against all 30.
    torch.testing.assert_close(values, torch.full_like(values, 1 - 2 / 31))


@pytest.mark.parametrize("anchors_in_the_other", [False, True])
def test_no_anchor(anchors_in_the_other):
    f, g, objects, _, anchors = case()
    anchors.used[0] = False
    anchors.used[1] = anchors_in_the_other
    values, known = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects)
    assert known.tolist() == [False, anchors_in_the_other]
    assert values[0].item() == 0
    for gradient in gradients(values, f, g):
        assert not gradient[0].any()
        assert gradient[1].any() == anchors_in_the_other
    assert mean_over_known(values, known).requires_grad
    none = Anchors(anchors.positions[:, :0], anchors.used[:, :0])
    values, known = consistency_loss(f.flatten(2), g.flatten(2), none, objects)
    assert values.tolist() == [0, 0]
    assert known.tolist() == [False, False]
    assert torch.equal(gradients(values, f)[0], torch.zeros_like(f))


@pytest.mark.parametrize("max_anchors", [20, 3, 1])
@pytest.mark.parametrize("delta_v", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_anchors_are_those_of_one_after_the_other(layout, delta_v, max_anchors):
    f, g, instances = example(batch=4, layout=layout)
    instances[2] = 1  # nothing to draw from
    objects = find_objects(instances)
    options = {"delta_v": delta_v, "max_anchors": max_anchors}
    found = draw_anchors(
        f.flatten(2), g.flatten(2), objects, samples=200, generator=seeded(), **options
    )
    order = random_unlabelled(objects, 200, seeded()).tolist()
    expected = naive_draw_anchors(
        f.flatten(2), g.flatten(2), instances.flatten(1), order, **options
    )
    assert listed(found) == expected
    assert not expected[2]
    assert expected[0]
    assert found.positions.shape == found.used.shape
    assert found.used.sum(1).max() <= max_anchors
    assert not found.positions.requires_grad


def test_anchors_are_unlabelled_pixels_inside_the_image():
    f, g, instances = example((9, 11), batch=4)
    valid = torch.ones_like(instances, dtype=torch.bool)
    valid[:, :, 6:] = False
    objects = find_objects(instances, valid)
    for seed in range(20):
        anchors = draw_anchors(f.flatten(2), g.flatten(2), objects, generator=seeded(seed))
        found = objects.number.gather(1, anchors.positions)
        assert anchors.used.any(1).all()
        assert not found[anchors.used].any()


def test_the_masks_cover_the_unlabelled_region():
    torch.manual_seed(0)
    centres = 3 * torch.randn(2, 9, 4)
    which = torch.randint(0, 9, (2, 60 * 60))
    f, g = (
        torch.stack([c[w] for c, w in zip(centres, which, strict=True)]).mT
        + 0.1 * torch.randn(2, 4, 3600)
        for _ in range(2)
    )
    labels = (which == 3).long().view(2, 60, 60)
    objects = find_objects(labels)
    anchors = draw_anchors(f, g, objects, max_anchors=100, generator=seeded())
    assert (anchors.used.sum(1) >= 8).all()
    for i in range(2):
        at = anchors.positions[i][anchors.used[i]]
        region = labels[i].flatten() == 0
        covered = torch.zeros(3600, dtype=torch.bool)
        for e in (f[i], g[i]):
            covered |= (torch.cdist(e.T, e[:, at].T) <= 0.5).any(1)
        assert covered[region].double().mean() >= 0.98


def test_either_embedding_covers():
    zero, far = torch.zeros(1, 1, 50), 10 * torch.arange(50.0)[None, None]
    objects = find_objects(torch.zeros(1, 50, dtype=torch.int64))
    assert draw_anchors(zero, far, objects).used.sum() == 1
    assert draw_anchors(far, zero, objects).used.sum() == 1
    assert draw_anchors(far, far, objects, max_anchors=30).used.sum() == 30
    assert draw_anchors(far, far, objects, max_anchors=100).used.sum() == 50


def test_half_precision_draws_the_anchors_of_its_values():
    torch.manual_seed(0)
    f, g = (0.3 * torch.randn(2, 2, 16, 4000).bfloat16()).unbind()
    objects = find_objects(torch.zeros(2, 4000, dtype=torch.int64))
    half, exact = (
        draw_anchors(a, b, objects, delta_v=1.5, max_anchors=50, generator=seeded())
        for a, b in ((f, g), (f.double(), g.double()))
    )
    assert exact.used.sum() > 4
    assert listed(half) == listed(exact)


def test_a_generator_repeats_the_anchors():
    f, g, objects, _, _ = case()
    first, again, other = (
        draw_anchors(f.flatten(2), g.flatten(2), objects, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first.positions, again.positions)
    assert listed(first) != listed(other)


def test_nothing_unlabelled_in_the_whole_batch():
    f, g, _, _, _ = case()
    objects = find_objects(torch.ones(2, 5, 6, dtype=torch.int64))
    anchors = draw_anchors(f.flatten(2), g.flatten(2), objects)
    assert anchors.positions.shape == (2, 0)
    everywhere = draw_anchors(f.flatten(2), g.flatten(2), objects.unpainted())
    assert everywhere.used.any(1).all()


def test_the_batch_is_the_mean_of_its_images():
    f, g, objects, labels, anchors = case(batch=4)
    values, _ = consistency_loss(f.flatten(2), g.flatten(2), anchors, objects)
    for i in range(4):
        one = slice(i, i + 1)
        single, _ = consistency_loss(
            f[one].flatten(2),
            g[one].flatten(2),
            Anchors(anchors.positions[one], anchors.used[one]),
            find_objects(labels[one]),
        )
        torch.testing.assert_close(values[one], single)
