"""Embeddings as colours."""

import json
import time

import numpy as np
import pytest
import torch

from semiweak.visualize import EmbeddingColors


def objects(dim=16, shape=(40, 50), num=6, noise=0.1, seed=0):
    """Embeddings of squares around points of their own, and the squares' ids."""
    rng = np.random.default_rng(seed)
    ids = (np.arange(shape[-2])[:, None] // 10 * 7 + np.arange(shape[-1]) // 10) % num
    ids = np.broadcast_to(ids, shape)
    points = rng.normal(size=(num, dim)) * 2
    embeddings = points[ids] + rng.normal(size=(*shape, dim)) * noise
    return np.moveaxis(embeddings, -1, 0).astype(np.float32), ids


def test_pixels_of_one_object_are_alike_and_of_others_unlike():
    embeddings, ids = objects()
    picture = EmbeddingColors.fit(embeddings)(embeddings).astype(float)
    assert picture.shape == (40, 50, 3)
    means = np.stack([picture[ids == i].mean(axis=0) for i in range(6)])
    spread = max(picture[ids == i].std(axis=0).max() for i in range(6))
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1) + np.eye(6) * 999
    assert spread < 8
    assert apart.min() > 40


@pytest.mark.parametrize("dim", [2, 3, 5, 16])
def test_the_colours_are_the_principal_components(dim):
    rng = np.random.default_rng(0)
    embeddings = rng.uniform(-1, 1, (dim, 30, 40)) * (2.0 + np.arange(dim))[:, None, None] + 5
    pixels = embeddings.reshape(dim, -1).T
    centred = pixels - pixels.mean(axis=0)
    _, _, rows = np.linalg.svd(centred, full_matrices=False)
    expected = np.full((len(pixels), 3), 0.5)
    for channel, row in enumerate(rows[:3]):
        values = centred @ (row * np.sign(row[np.abs(row).argmax()]))
        low, high = np.percentile(values, (1, 99))
        expected[:, channel] = np.clip((values - low) / (high - low), 0, 1)
    picture = EmbeddingColors.fit(embeddings)(embeddings).reshape(-1, 3)
    np.testing.assert_allclose(picture, expected * 255, atol=1)


def test_the_projection_stays_as_fitted():
    first, _ = objects(seed=0)
    second, _ = objects(seed=1)
    colors = EmbeddingColors.fit(first)
    before = colors(first)
    colors(second)
    np.testing.assert_array_equal(colors(first), before)
    both = colors(np.concatenate([first, second], axis=2))
    np.testing.assert_array_equal(both[:, :50], before)
    np.testing.assert_array_equal(both[:, 50:], colors(second))


def test_the_signs_are_not_a_matter_of_chance():
    embeddings, _ = objects()
    order = np.random.default_rng(0).permutation(50)
    one = EmbeddingColors.fit(embeddings).axes
    np.testing.assert_allclose(EmbeddingColors.fit(embeddings[:, :, order]).axes, one, atol=1e-9)
    assert (one[np.arange(3), np.abs(one).argmax(axis=1)] > 0).all()


def test_one_dimension_is_grey_and_two_leave_blue_out():
    embeddings, _ = objects(dim=2)
    picture = EmbeddingColors.fit(embeddings[:1])(embeddings[:1]).astype(int)
    assert np.ptp(picture, axis=-1).max() == 0
    assert picture.min() == 0
    assert picture.max() == 255
    picture = EmbeddingColors.fit(embeddings)(embeddings)
    assert set(np.unique(picture[..., 2])) <= {127, 128}
    assert np.ptp(picture[..., 0]) == 255


@pytest.mark.parametrize("value", [0.0, 3.7, -1e4])
@pytest.mark.parametrize("dim", [1, 2, 16])
def test_constant_embeddings_are_grey(dim, value):
    embeddings = np.full((dim, 8, 9), value, np.float32)
    picture = EmbeddingColors.fit(embeddings)(embeddings)
    assert set(np.unique(picture)) <= {127, 128}


def test_noise_beside_a_strong_component_is_not_blown_up():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(8, 40, 40)) * 0.01
    embeddings[2, :, 20:] += 4
    picture = EmbeddingColors.fit(embeddings)(embeddings).astype(float)
    assert picture[:, 20:, 0].mean() - picture[:, :20, 0].mean() > 200
    assert picture[..., 1:].std() < 5


def test_a_few_small_objects_are_seen():
    embeddings = np.zeros((4, 60, 60), np.float32)
    embeddings[1, 5:9, 5:9] = 3
    picture = EmbeddingColors.fit(embeddings)(embeddings).astype(int)
    assert abs(picture[6, 6] - picture[30, 30]).max() > 200


def test_a_far_offset_costs_no_precision():
    embeddings, _ = objects()
    expected = EmbeddingColors.fit(embeddings)(embeddings)
    far = embeddings.astype(np.float64) + 1000
    np.testing.assert_allclose(EmbeddingColors.fit(far)(far).astype(int), expected, atol=1)


def test_what_is_not_finite_is_black_and_harms_nothing_else():
    embeddings, _ = objects()
    colors = EmbeddingColors.fit(embeddings)
    expected = colors(embeddings)
    embeddings[3, 0, 0], embeddings[0, 0, 1] = np.nan, np.inf
    picture = colors(embeddings)
    assert not picture[0, :2].any()
    np.testing.assert_array_equal(picture[1:], expected[1:])
    refitted = EmbeddingColors.fit(embeddings)(embeddings)
    np.testing.assert_allclose(refitted[1:].astype(int), expected[1:], atol=3)
    nothing = np.full((4, 5, 6), np.nan)
    assert not EmbeddingColors.fit(nothing)(nothing).any()


def test_of_a_stack_the_middle_slice_is_shown():
    embeddings, _ = objects(shape=(5, 40, 50))
    colors = EmbeddingColors.fit(embeddings)
    np.testing.assert_array_equal(colors(embeddings), colors(embeddings[:, 2]))
    other = embeddings.copy()
    other[:, 4] += 3  # the fit looks at all slices
    assert not np.allclose(EmbeddingColors.fit(other).center, colors.center)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_are_as_good_as_arrays(dtype):
    embeddings = torch.from_numpy(objects()[0]).to(dtype).requires_grad_()
    array = embeddings.detach().float().numpy()
    colors = EmbeddingColors.fit(embeddings)
    np.testing.assert_array_equal(colors.axes, EmbeddingColors.fit(array).axes)
    np.testing.assert_array_equal(colors(embeddings), colors(array))


def test_half_precision_arrays_are_summed_in_double():
    embeddings = objects()[0].astype(np.float16)
    expected = EmbeddingColors.fit(embeddings.astype(np.float32))
    np.testing.assert_array_equal(EmbeddingColors.fit(embeddings).axes, expected.axes)


def test_large_images_are_quick_and_repeat():
    embeddings = np.tile(objects(dim=4, shape=(50, 50))[0], (1, 10, 10))
    whole = EmbeddingColors.fit(embeddings[:, :50, :50]).axes
    start = time.perf_counter()
    colors = EmbeddingColors.fit(embeddings)
    assert time.perf_counter() - start < 1
    np.testing.assert_array_equal(EmbeddingColors.fit(embeddings).axes, colors.axes)
    assert not np.array_equal(EmbeddingColors.fit(embeddings, seed=1).axes, colors.axes)
    np.testing.assert_allclose(colors.axes, whole, atol=0.02)


def test_a_run_can_keep_the_projection():
    embeddings, _ = objects()
    colors = EmbeddingColors.fit(embeddings)
    state = json.loads(json.dumps(colors.state_dict()))
    np.testing.assert_array_equal(EmbeddingColors.from_state(state)(embeddings), colors(embeddings))


def test_what_is_no_embedding_is_refused():
    with pytest.raises(ValueError, match=r"\(D, H, W\)"):
        EmbeddingColors.fit(np.zeros((4, 4)))
    colors = EmbeddingColors.fit(np.zeros((4, 5, 6)))
    with pytest.raises(ValueError, match="of 4 dimensions, these have 3"):
        colors(np.zeros((3, 5, 6)))
