"""What every clustering keeps to, and the steps that they share."""

import inspect

import numpy as np
import pytest
import torch

from semiweak.clustering import HDBSCAN, ConsistencyClustering, MeanShift, MutexWatershed
from semiweak.clustering.finishing import (
    background_ids,
    cores,
    greedy_cover,
    merge_and_absorb,
    nearest,
    relabel,
)
from semiweak.clustering.flood import flood
from semiweak.clustering.pixels import read_pixels

METHODS = [MutexWatershed, MeanShift, HDBSCAN, ConsistencyClustering]
every_method = pytest.mark.parametrize("method", METHODS)


def objects(shape, spread=0.06, seed=0):
    """Four quadrants, far apart in 8 dimensions; (embeddings, truth)."""
    generator = np.random.default_rng(seed)
    truth = np.ones(shape, np.int32)
    truth[..., shape[-2] // 2 :, :] += 2
    truth[..., shape[-1] // 2 :] += 1
    centres = 4 * np.eye(5, 8)
    embeddings = centres[truth] + spread * generator.normal(size=(*shape, 8))
    return np.moveaxis(embeddings, -1, 0).astype(np.float32), truth


def run(method, embeddings, **options):
    arguments = {"mask": options.pop("mask", None)}
    return method(**options)(embeddings, other=embeddings, **arguments)


@every_method
@pytest.mark.parametrize("shape", [(40, 50), (6, 24, 26)])
def test_clear_objects_are_found_in_raster_order(method, shape):
    embeddings, truth = objects(shape)
    labels = run(method, embeddings)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, truth)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_type_gives_the_same_objects(method, dtype):
    embeddings, truth = objects((40, 50))
    tensor = torch.from_numpy(embeddings).to(dtype).requires_grad_()
    before = tensor.detach().clone()
    np.testing.assert_array_equal(run(method, tensor), truth)
    assert (tensor == before).all()


@every_method
def test_the_seed_decides_and_memory_order_does_not(method):
    embeddings, _ = objects((40, 50), spread=0.25)
    first = run(method, embeddings, seed=3)
    np.testing.assert_array_equal(run(method, torch.from_numpy(embeddings), seed=3), first)
    np.testing.assert_array_equal(run(method, np.asfortranarray(embeddings), seed=3), first)


@every_method
def test_nothing_outside_the_mask_is_read(method):
    embeddings, truth = objects((40, 50))
    mask = np.ones((40, 50), bool)
    mask[:, :10] = False
    embeddings[:, ~mask] = np.nan
    labels = run(method, embeddings, mask=mask)
    np.testing.assert_array_equal(labels, truth * mask)
    np.testing.assert_array_equal(run(method, embeddings, mask=torch.from_numpy(mask)), labels)


@every_method
def test_an_empty_mask_and_an_empty_image_have_no_objects(method):
    embeddings, _ = objects((40, 50))
    assert not run(method, embeddings, mask=np.zeros((40, 50), bool)).any()
    assert run(method, embeddings[:, :0]).shape == (0, 50)


@every_method
def test_every_argument_is_an_attribute(method):
    parameters = inspect.signature(method).parameters
    again = method(**{name: getattr(method(), name) for name in parameters})
    assert all(getattr(again, name) == getattr(method(), name) for name in parameters)


@every_method
def test_one_pixel(method):
    assert run(method, np.ones((3, 1, 1), np.float32)).shape == (1, 1)
    assert run(MutexWatershed, np.ones((3, 1, 1), np.float32), min_size=1, min_core=0) == 1


@pytest.mark.parametrize("method", [MutexWatershed, MeanShift, ConsistencyClustering])
def test_constant_embeddings_are_one_object(method):
    assert (run(method, np.full((4, 30, 30), 7.0, np.float32)) == 1).all()


def test_constant_embeddings_are_one_object_to_hdbscan_only_if_it_may_be_single():
    constant = np.zeros((4, 30, 30), np.float32)
    assert (HDBSCAN(single=True)(constant) == 1).all()
    assert len(np.unique(HDBSCAN()(constant))) == 1


@every_method
def test_noise_gives_no_error_and_consecutive_ids(method):
    noise = np.random.default_rng(0).normal(size=(8, 30, 40)) * 5
    ids = np.unique(run(method, noise))
    assert set(ids) - {0} == set(range(1, ids.max() + 1))


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(method, bad):
    embeddings, _ = objects((40, 50))
    embeddings[1, 3, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        run(method, embeddings)


@pytest.mark.parametrize(
    ("embeddings", "options", "message"),
    [
        (np.zeros((2, 3)), {}, "one image's are"),
        (np.zeros((2, 3, 4, 5, 6)), {}, "one by one"),
        (np.zeros((2, 3, 4), int), {}, "floating-point"),
        (np.zeros((0, 3, 4)), {}, "no dimension"),
        (np.zeros((2, 3, 4)), {"mask": np.ones((3, 4))}, "bool"),
        (np.zeros((2, 3, 4)), {"mask": np.ones((4, 3), bool)}, "bool"),
        (np.zeros((2, 3, 4)), {"other": np.zeros((2, 4, 3))}, "same image"),
    ],
)
def test_wrong_input_is_named(embeddings, options, message):
    with pytest.raises(ValueError, match=message):
        MutexWatershed()(embeddings, **options)


@every_method
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_size": -1}, "min_size=-1"),
        ({"min_core": -1}, "min_core=-1"),
        ({"merge_distance": 0.0}, "merge_distance=0.0"),
        ({"background": "first"}, "one of 'none', 'largest', 'learned'"),
    ],
)
def test_wrong_common_options_are_named(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@every_method
def test_the_largest_cluster_can_be_the_background(method):
    embeddings, truth = objects((40, 50))
    larger = np.where(truth == 3, 1, truth)
    embeddings[:, truth == 3] = embeddings[:, truth == 1]
    expected = relabel(np.where(larger == 1, 0, larger).astype(np.int32).ravel())
    labels = run(method, embeddings, background="largest")
    np.testing.assert_array_equal(labels.ravel(), expected)


def test_near_means_merge_into_the_largest_without_chains():
    labels = np.repeat(np.array([1, 2, 3, 4], np.int32), [10, 8, 6, 2])
    values = np.array([0.0, 1.5, 3.0, 3.4], np.float32)[labels - 1][:, None]
    eligible = np.array([False, True, True, True, True])
    merged = merge_and_absorb(labels, values, eligible, 2.0)
    # 2 is near 1 and near 3, but 3 is not near 1; 2 joins the nearest of those that stay.
    np.testing.assert_array_equal(merged, np.array([0, 1, 1, 2, 2])[labels])
    np.testing.assert_array_equal(merge_and_absorb(labels, values, eligible, None), labels)
    eligible[4] = False
    alone = merge_and_absorb(labels, values, eligible, 0.3)
    np.testing.assert_array_equal(alone, np.array([0, 1, 2, 3, 0])[labels])


def test_background_takes_near_clusters_with_it():
    labels = np.repeat(np.array([1, 2, 3], np.int32), [4, 9, 3])
    values = np.array([5.0, 0.0, 1.0], np.float32)[labels - 1][:, None]
    assert background_ids(labels, values, None).tolist() == [2]
    assert background_ids(labels, values, 2.0).tolist() == [2, 3]
    assert background_ids(np.zeros(3, np.int32), values[:3], 2.0).tolist() == []


def test_cores_do_not_count_seams():
    labels = np.ones((7, 9), np.int32)
    labels[:, 4:6] = 2
    labels[:, 6:] = 3
    pixels = read_pixels(np.zeros((1, 7, 9)), None, None)
    counts = cores(labels.ravel(), pixels.inside, pixels.lengths, pixels.strides)
    assert counts.tolist() == [0, 7 * 3, 0, 7 * 2]


def test_nearest_is_exact_far_from_the_origin():
    generator = np.random.default_rng(0)
    points, centres = generator.normal(size=(500, 6)), generator.normal(size=(40, 6))
    points, centres = (points + 1000).astype(np.float32), (centres + 1000).astype(np.float32)
    index, distance = nearest(points, centres)
    all_distances = np.linalg.norm(points[:, None].astype(float) - centres[None], axis=2)
    np.testing.assert_array_equal(index, all_distances.argmin(1))
    np.testing.assert_allclose(distance, all_distances.min(1), rtol=1e-3)


def test_the_cover_keeps_the_heaviest_first():
    points = np.array([[0.0], [0.9], [1.8]], np.float32)
    assert greedy_cover(points, np.array([1, 3, 2]), 1.0).tolist() == [1]
    assert greedy_cover(points, np.array([3, 1, 2]), 1.0).tolist() == [0, 2]
    assert greedy_cover(points, np.array([3, 1, 2]), 1.0, at_most=1).tolist() == [0]


def test_the_flood_stays_in_the_mask_and_meets_where_the_embeddings_change():
    labels = np.zeros((3, 10), np.int32)
    labels[0, 0], labels[0, 9] = 1, 2
    values = np.where(np.arange(10) < 7, 0.0, 4.0)[None].repeat(3, 0)
    mask = np.ones((3, 10), bool)
    mask[1] = False
    pixels = read_pixels(values[None], None, mask)
    means = np.array([[0], [0], [4]], np.float32)
    result = flood(
        labels.ravel(), pixels.values, means, pixels.inside, pixels.lengths, pixels.strides
    ).reshape(3, 10)
    assert result[0].tolist() == [1] * 7 + [2] * 3
    assert not result[1:].any()  # outside, and cut off by what is outside
