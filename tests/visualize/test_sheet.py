"""Sheets of images with their embeddings and objects."""

import numpy as np
import pytest

from semiweak.visualize import (
    EmbeddingColors,
    contact_sheet,
    instance_sheet,
    middle_slice,
    overlay,
    to_rgb,
)


def things(shape=(24, 30), num=2):
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(num)]
    instances = [rng.integers(0, 4, shape) for _ in range(num)]
    embeddings = [rng.normal(size=(8, *shape)).astype(np.float32) for _ in range(num)]
    return images, instances, embeddings, [f"image {i}" for i in range(num)]


def test_each_image_has_a_row_of_all_that_is_given():
    images, instances, embeddings, names = things()
    truth = [np.zeros((24, 30), int), np.full((24, 30), 255)]
    colors = EmbeddingColors.fit(embeddings[0])
    tiles, captions = [], []
    for i, name in enumerate(names):
        tiles += [to_rgb(images[i]), colors(embeddings[i])]
        tiles += [overlay(images[i], ids[i], unknown=None) for ids in (instances, truth)]
        captions += [name, "embeddings", "3 objects", f"{i} true objects"]
    expected = contact_sheet(tiles, captions, columns=4, tile_size=100)
    sheet = instance_sheet(
        images, instances, names=names, embeddings=embeddings, truth=truth, tile_size=100
    )
    np.testing.assert_array_equal(sheet, expected)


def test_embeddings_and_truth_may_be_missing():
    images, instances, embeddings, names = things()
    widths = [
        instance_sheet(images, instances, names=names, tile_size=100, **more).shape[1]
        for more in ({}, {"truth": instances}, {"truth": instances, "embeddings": embeddings})
    ]
    assert widths[0] < widths[1] < widths[2]


def test_a_projection_of_before_is_kept():
    images, instances, embeddings, names = things()
    colors = EmbeddingColors.fit(embeddings[1])
    arguments = {"names": names, "embeddings": embeddings}
    kept = instance_sheet(images, instances, colors=colors, **arguments)
    assert not np.array_equal(kept, instance_sheet(images, instances, **arguments))


def test_stacks_are_shown_by_their_middle_slices():
    images, instances, embeddings, names = things(shape=(5, 24, 30))
    colors = EmbeddingColors.fit(embeddings[0])
    sheet = instance_sheet(
        images, instances, names=names, embeddings=embeddings, truth=instances, colors=colors
    )
    for ids in instances:
        assert len(np.unique(ids[2])) == len(np.unique(ids))  # so that the captions are the same
    images, instances = ([middle_slice(a) for a in arrays] for arrays in (images, instances))
    embeddings = [middle_slice(e) for e in embeddings]
    flat = instance_sheet(
        images, instances, names=names, embeddings=embeddings, truth=instances, colors=colors
    )
    np.testing.assert_array_equal(sheet, flat)


def test_objects_are_counted_in_the_whole_stack():
    images = [np.zeros((1, 5, 24, 30), np.float32)]
    plain, more = np.zeros((5, 24, 30), int), np.zeros((5, 24, 30), int)
    more[0, 3:6, 3:6] = 7
    sheets = [instance_sheet(images, [ids], names=["a"]) for ids in (plain, more)]
    assert not np.array_equal(*sheets)


@pytest.mark.parametrize("short", ["instances", "names", "embeddings", "truth"])
def test_what_does_not_match_is_refused(short):
    images, instances, embeddings, names = things()
    arguments = {"instances": instances, "names": names, "embeddings": embeddings}
    arguments["truth"] = instances
    arguments[short] = arguments[short][:1]
    with pytest.raises(ValueError, match=f"got 2 images and 1 of {short}"):
        instance_sheet(images, **arguments)


def test_nothing_is_no_sheet():
    with pytest.raises(ValueError, match="at least one image"):
        instance_sheet([], [], names=[])
