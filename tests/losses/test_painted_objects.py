"""Which pixels an object has, its mean embedding, and random pixels, against loops."""

import pytest
import torch
from naive_spoco import assert_same, example, gradients, naive_means, regions

from semiweak.losses import objects as module
from semiweak.losses.objects import (
    find_objects,
    mean_over_objects,
    object_means,
    random_among,
    random_pixels,
    random_unlabelled,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def naive_numbers(labels):
    numbers = []
    for y in labels.tolist():
        ids = sorted({i for i in y if i > 0})
        numbers.append([ids.index(i) + 1 if i > 0 else i for i in y])
    return numbers


def test_numbers_sizes_and_unlabelled_pixels():
    objects = find_objects(torch.tensor([[[5, 0], [2, 5]], [[0, 0], [7, 0]], [[0, 0], [0, 0]]]))
    assert objects.number.tolist() == [[2, 0, 1, 2], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert objects.sizes.tolist() == [[1, 2], [1, 0], [0, 0]]
    assert objects.exists.tolist() == [[True, True], [True, False], [False, False]]
    assert objects.unlabelled.tolist() == [1, 3, 4]
    assert not objects.padded
    assert objects.outside is None


def test_padding_is_neither_object_nor_unlabelled():
    instances = torch.tensor([[5, 0, 9, 9, 0]])
    valid = torch.tensor([[True, True, True, False, False]])
    objects = find_objects(instances, valid)
    assert objects.number.tolist() == [[1, 0, 2, -1, -1]]
    assert objects.sizes.tolist() == [[1, 1]]
    assert objects.unlabelled.tolist() == [1]
    assert objects.outside.tolist() == [[False, False, False, True, True]]
    unpainted = objects.unpainted()
    assert unpainted.number.tolist() == [[0, 0, 0, -1, -1]]
    assert unpainted.sizes.shape == (1, 0)
    assert unpainted.unlabelled.tolist() == [3]
    assert unpainted.padded


@pytest.mark.parametrize("fill", [0, 3, 2**40, -100])
def test_the_ids_in_padding_do_not_matter(fill):
    valid = torch.tensor([[True, True, True, False]])
    objects = find_objects(torch.tensor([[3, 0, 8, fill]]), valid)
    assert objects.number.tolist() == [[1, 0, 2, -1]]
    assert objects.sizes.tolist() == [[1, 1]]


def test_everything_is_padding():
    objects = find_objects(torch.tensor([[3, 0], [1, 1]]), torch.tensor([[False] * 2, [True] * 2]))
    assert objects.number.tolist() == [[-1, -1], [1, 1]]
    assert objects.sizes.tolist() == [[0], [2]]
    assert objects.unlabelled.tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1, 17, 2**20, 2**33 + 1])
@pytest.mark.parametrize("without_zero", [False, True])
def test_ids_with_gaps_and_of_any_size(scale, without_zero):
    instances = example(batch=4)[2]
    if without_zero:
        instances = instances + 1
    plain, objects = find_objects(instances), find_objects(instances * scale)
    assert objects.number.tolist() == naive_numbers((instances * scale).flatten(1))
    assert torch.equal(objects.number, plain.number)
    assert torch.equal(objects.sizes, plain.sizes)
    assert torch.equal(objects.unlabelled, plain.unlabelled)


def test_no_image():
    objects = find_objects(torch.zeros(0, 4, 4, dtype=torch.int64))
    assert objects.number.shape == (0, 16)
    assert objects.sizes.shape == (0, 0)


def test_refuses_negative_ids():
    with pytest.raises(ValueError, match="id -3 is negative"):
        find_objects(torch.tensor([[1, -3]]))


@pytest.mark.parametrize("chunk", [4096, 7])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(5, 6), (2, 4, 3)])
def test_means_are_those_of_a_loop(shape, layout, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    f, _, instances = example(shape, layout=layout)
    means = object_means(f.flatten(2), find_objects(instances))
    naive = naive_means(f.flatten(2), instances.flatten(1))
    expected = torch.zeros_like(means)
    for i, of_image in enumerate(naive):
        expected[i, : len(of_image)] = torch.stack(of_image)
    assert means.shape == (2, 3, 3)
    assert not means[1, 2].any()  # the second image has but two objects
    weights = torch.randn(means.shape, dtype=torch.float64, generator=seeded())
    assert_same((means * weights).sum((1, 2)), (expected * weights).sum((1, 2)), (f,))


def test_derivatives_of_means_by_finite_differences():
    f, _, instances = example((2, 3))
    objects = find_objects(instances)
    assert torch.autograd.gradcheck(lambda e: object_means(e, objects), (f.flatten(2),))


def test_means_in_half_precision_and_under_autocast():
    f, _, instances = example((40, 50), dtype=torch.bfloat16)
    objects = find_objects(instances)
    means = object_means(f.flatten(2), objects)
    assert means.dtype == torch.float32
    exact = object_means(f.detach().double().flatten(2), objects)
    torch.testing.assert_close(means.double(), exact, rtol=1e-5, atol=1e-6)
    e = f.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cast = object_means(e.flatten(2), objects)
        (gradient,) = gradients(cast.square().sum((1, 2)), e)
    assert torch.equal(cast, object_means(e.flatten(2), objects))
    assert torch.equal(gradient, gradients(cast.square().sum((1, 2)), e)[0])


def test_mean_over_objects_ignores_what_stands_where_no_object_is():
    objects = find_objects(torch.tensor([[1, 2], [1, 1], [0, 0]]))
    values = torch.tensor([[2.0, 4.0], [3.0, torch.nan], [torch.nan, torch.inf]])
    values.requires_grad_()
    mean, known = mean_over_objects(values, objects)
    assert mean.tolist() == [3, 3, 0]
    assert known.tolist() == [True, True, False]
    (gradient,) = torch.autograd.grad(mean.sum(), values)
    assert gradient.tolist() == [[0.5, 0.5], [1, 0], [0, 0]]


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("chunk", [4096, 30, 7])
def test_random_pixels_are_uniform_over_each_object(chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    # The second object stretches over several parts; the third is one pixel, the very last.
    labels = torch.tensor([[0, 9, 9, 0] + [4] * 19 + [0, 4, 0, 0, 4, 4, 12]])
    objects = find_objects(labels)
    generator = seeded(3)
    draws = torch.stack([random_pixels(objects, generator)[0] for _ in range(4200)])
    for k, pixels in enumerate([range(4, 23), [1, 2], [29]]):
        pixels = [i for i in range(30) if labels[0, i] == [4, 9, 12][k]]
        counts = torch.bincount(draws[:, k], minlength=30)
        assert counts.sum() == counts[pixels].sum() == 4200
        # 99.9 % quantiles of chi-square with 21 and 1 degrees of freedom.
        assert chi_square(counts[pixels].double()) < {22: 46.8, 2: 10.8, 1: 0.1}[len(pixels)]


def test_random_pixels_lie_in_their_objects_of_every_image(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 8)
    instances = example((9, 11), batch=4)[2] * 1000
    instances[2] = 0
    objects = find_objects(instances)
    generator = seeded()
    seen = set()
    for _ in range(50):
        positions = random_pixels(objects, generator)
        found = objects.number.gather(1, positions)
        expected = torch.arange(1, 4).expand(4, 3)
        assert torch.equal(found[objects.exists], expected[objects.exists])
        assert not positions[~objects.exists].any()
        seen.add(tuple(positions.flatten().tolist()))
    assert len(seen) == 50


@pytest.mark.parametrize("draw", [random_pixels, lambda o, g: random_unlabelled(o, 5, g)])
def test_a_generator_repeats_a_draw(draw):
    objects = find_objects(example((9, 11))[2])
    first, again, other = (draw(objects, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    first = draw(objects, None)
    torch.manual_seed(5)
    assert torch.equal(first, draw(objects, None))


def test_random_unlabelled_pixels_are_uniform():
    instances = example((4, 5), batch=4)[2]
    instances[2] = instances[3, 0] = 1
    valid = torch.ones_like(instances, dtype=torch.bool)
    valid[0, 2:] = False
    objects = find_objects(instances, valid)
    draws = random_unlabelled(objects, 5000, seeded())
    assert draws.shape == (4, 5000)
    for i in (0, 1, 3):
        inside = valid[i].flatten()
        pixels = [p for p in regions(instances[i].flatten())[1] if inside[p]]
        counts = torch.bincount(draws[i], minlength=20)
        assert counts.sum() == counts[pixels].sum()
        assert chi_square(counts[pixels].double()) < 3.5 * len(pixels) + 4
    assert not draws[2].any()


def test_random_pixels_among_the_eligible_are_uniform_and_do_not_hang_on_later_images():
    eligible = torch.zeros(3, 12, dtype=torch.bool)
    eligible[0, [1, 4, 11]] = eligible[2, :10] = True
    draws = random_among(eligible, 5000, seeded())
    for i in (0, 2):
        counts = torch.bincount(draws[i], minlength=12)
        pixels = eligible[i]
        assert counts.sum() == counts[pixels].sum()
        assert chi_square(counts[pixels].double()) < 3.5 * int(pixels.sum()) + 4
    assert not draws[1].any()
    assert torch.equal(random_among(eligible[:2], 5000, seeded()), draws[:2])


def test_nothing_to_draw_from():
    none = find_objects(torch.zeros(2, 3, 3, dtype=torch.int64))
    assert random_pixels(none).shape == (2, 0)
    full = find_objects(torch.ones(2, 3, 3, dtype=torch.int64))
    assert random_unlabelled(full, 4).tolist() == [[0] * 4] * 2
