"""The scene of cells that touch."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from semiweak import SyntheticDataModule
from semiweak.data.synthetic import CELL_CLASSES, cell_sample


@pytest.mark.parametrize("shape", [(128, 128), (40, 90), (16, 16), (24, 48, 48), (1, 30, 30)])
def test_cells_are_connected_and_numbered_without_gaps(shape):
    sample = cell_sample(1, shape=shape, channels=2)
    assert sample.image.shape == (2, *shape)
    assert sample.image.dtype == np.uint8
    said = sample.annotation
    assert said.instances.dtype == np.int32
    assert ((said.instances > 0) == (said.mask == CELL_CLASSES.index("cell"))).all()
    assert said.paints_all_objects()
    assert said.is_dense()
    for number, window in enumerate(ndimage.find_objects(said.instances), start=1):
        assert window is not None, number
        assert ndimage.label(said.instances[window] == number)[1] == 1


def touching(ids):
    """The pairs of cells that are neighbours somewhere."""
    found = set()
    for axis in range(ids.ndim):
        a, b = np.delete(ids, -1, axis), np.delete(ids, 0, axis)
        meet = (a != b) & (a > 0) & (b > 0)
        found |= {
            tuple(sorted(pair)) for pair in zip(a[meet].tolist(), b[meet].tolist(), strict=True)
        }
    return found


@pytest.mark.parametrize("shape", [(128, 128), (32, 96, 96)])
def test_cells_are_crowded(shape):
    series = [cell_sample(i, shape=shape).annotation.instances for i in range(6)]
    assert 8 < np.mean([ids.max() for ids in series]) < 40
    assert 0.45 < np.mean([(ids > 0).mean() for ids in series]) < 0.9
    assert np.mean([len(touching(ids)) / max(ids.max(), 1) for ids in series]) > 0.8


def test_no_threshold_tells_cells_apart():
    """The best threshold of each image, of 19, finds not even half of the cells."""
    found, there = 0, 0
    for i in range(8):
        sample = cell_sample(i)
        ids, image = sample.annotation.instances, ndimage.gaussian_filter(sample.image[0], 1.0)
        best = 0
        for threshold in np.percentile(image, range(5, 100, 5)):
            pieces, count = ndimage.label(image > threshold)
            hits = 0
            for number in range(1, count + 1):
                piece = pieces == number
                cell = np.bincount(ids[piece]).argmax()
                if cell:
                    whole = ids == cell
                    hits += (piece & whole).sum() > 0.5 * (piece | whole).sum()
            best = max(best, hits)
        found, there = found + best, there + ids.max()
    assert found < 0.5 * there


def test_neighbours_differ_or_have_a_border():
    """A network can tell them apart: brightness, texture or a dark line between them."""
    plain = 0
    pairs = 0
    for i in range(4):
        sample = cell_sample(i, noise=0)
        image, ids = sample.image[0].astype(float), sample.annotation.instances
        for a, b in touching(ids):
            border = ndimage.binary_dilation(ids == a, iterations=2) & (ids == b)
            inner = ndimage.binary_erosion(ids == a, iterations=4)
            other = ndimage.binary_erosion(ids == b, iterations=4)
            if min(border.sum(), inner.sum(), other.sum()) < 10:
                continue
            step = abs(image[inner].mean() - image[other].mean())
            dip = min(image[inner].mean(), image[other].mean()) - np.percentile(image[border], 25)
            roughness = abs(image[inner].std() - image[other].std())
            pairs += 1
            plain += max(step, dip, roughness) < 6
    assert pairs > 20
    assert plain < 0.1 * pairs


def test_a_seed_and_an_index_repeat_an_image():
    first, again = cell_sample(5, seed=1), cell_sample(5, seed=1)
    assert (first.image == again.image).all()
    assert (first.annotation.instances == again.annotation.instances).all()
    for other in (cell_sample(6, seed=1), cell_sample(5, seed=2), cell_sample(1, seed=5)):
        assert (other.image != first.image).any()
        assert (other.annotation.instances != first.annotation.instances).any()


def test_channels_show_the_same_cells():
    one, two = cell_sample(0).image[0], cell_sample(0, channels=2).image
    assert (one == two[0]).all()
    assert (two[0] != two[1]).mean() > 0.5


def module(**arguments):
    arguments = {"size": 64, "patch_size": 32, "num_workers": 0, "num_train": 8} | arguments
    data = SyntheticDataModule(**arguments)
    data.setup("fit")
    return data


def test_the_data_module_draws_objects():
    data = module(scene="cells", task="instances")
    assert data.describe()["class_names"] == []
    batch = next(iter(data.train_dataloader()))
    assert (batch["instances"] != 0).all()
    val = next(iter(data.val_dataloader()))
    assert (val["instances"] == 0).any()
    some = module(scene="cells", task="instances", instance_ratio=0.2)
    kept, there = (sum(len(set(i) - {0}) for i in d.painted_objects.values()) for d in (some, data))
    assert kept == int(0.2 * there + 0.5)


def test_the_data_module_draws_classes():
    data = module(scene="cells")
    assert data.class_names == list(CELL_CLASSES)
    assert set(data.kinds.values()) == {("mask",)}
    with pytest.raises(ValueError, match="num_classes is 3; it must be 2 in the scene cells"):
        module(scene="cells", num_classes=3)
    with pytest.raises(ValueError, match="scene is 'stars'; it must be organelles or cells"):
        module(scene="stars")


def test_organelles_as_objects():
    data = module(task="instances")
    assert data.describe()["class_names"] == []
    assert data.part("train")[0].read().annotation.mask is None
    assert set(data.kinds.values()) == {("instances",)}
