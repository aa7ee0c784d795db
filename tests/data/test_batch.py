import numpy as np
import pytest
import torch

from semiweak.data.annotations import UNKNOWN, Annotation, Sample
from semiweak.data.batch import (
    InstanceBatch,
    SemanticBatch,
    collate,
    image_item,
    instance_item,
    semantic_item,
    to_contract,
)
from semiweak.data.source import contradictions

K = 3


def annotated(shape):
    d = len(shape)
    mask = np.full(shape, UNKNOWN, np.uint8)
    mask[(0,) * d] = 2
    return Annotation(
        mask=mask,
        instances=np.ones(shape, np.uint16),
        boxes=np.array([[0] * d + [2] * d, [1] * d + [3] * d], np.float32),
        box_labels=np.array([1, 2]),
        box_is_crowd=np.array([True, False]),
        points=np.full((1, d), 1, np.float32),
        point_labels=np.array([0]),
        tags=np.array([1, -1, 1], np.int8),
    )


def batch(shape, dtype=np.uint8):
    rng = np.random.default_rng(0)
    image = rng.integers(200, size=(2, *shape)).astype(dtype)
    content = np.ones(shape, bool)
    content[-1] = False
    return [
        Sample(image, annotated(shape), "some", content),
        Sample(image, Annotation(mask=np.zeros(shape, np.uint8)), "painted"),
        Sample(image, Annotation(), "bare"),
    ]


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6)])
def test_semantic_batch(shape):
    d = len(shape)
    made = to_contract(collate([semantic_item(s, K) for s in batch(shape)]))
    assert set(made) == set(SemanticBatch.__annotations__) - {"distances"}
    for key, dtype, size in (
        ("image", torch.uint8, (3, 2, *shape)),
        ("labels", torch.int64, (3, *shape)),
        ("candidates", torch.bool, (3, K, *shape)),
        ("valid", torch.bool, (3, *shape)),
        ("has_mask", torch.bool, (3,)),
        ("tags", torch.int8, (3, K)),
    ):
        assert made[key].dtype == dtype, key
        assert made[key].shape == size, key
    for key, dtype, width in (
        ("boxes", torch.float32, (2 * d,)),
        ("box_labels", torch.int64, ()),
        ("points", torch.float32, (d,)),
        ("point_labels", torch.int64, ()),
    ):
        assert isinstance(made[key], list), key
        assert [t.dtype for t in made[key]] == [dtype] * 3, key
        assert [tuple(t.shape) for t in made[key]] == [(n, *width) for n in (1, 0, 0)], key
    assert made["name"] == ["some", "painted", "bare"]
    assert made["has_mask"].tolist() == [False, True, False]
    assert made["tags"].tolist() == [[1, -1, 1], [-1] * 3, [-1] * 3]
    assert (made["labels"][1] == 0).all()
    assert (made["labels"][2] == UNKNOWN).all()
    assert made["candidates"][2].all()
    assert made["labels"][0, *(0,) * d] == 2
    assert made["labels"][0, *(1,) * d] == 0
    assert made["candidates"][0, :, *(1,) * d].tolist() == [True, False, False]
    assert not made["valid"][0, -1].any()
    assert made["valid"][0, :-1].all()
    assert made["valid"][1:].all()


def test_padding_is_unknown_and_leaves_a_mask_complete():
    content = np.arange(24).reshape(4, 6) < 18
    said = Annotation(mask=np.where(content, np.uint8(1), np.uint8(UNKNOWN)), boxed_classes=(0, 2))
    item = semantic_item(Sample(np.zeros((1, 4, 6), np.uint8), said, "a", content), K)
    assert item["has_mask"]
    assert item["candidates"][:, ~content].all()
    assert (item["labels"].numpy() == said.mask).all()


def test_a_crowd_box_is_no_box_of_an_object():
    item = semantic_item(batch((5, 6))[0], K)
    assert item["boxes"].tolist() == [[1, 1, 3, 3]]
    assert item["box_labels"].tolist() == [2]


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_instance_batch(shape, dtype):
    samples = batch(shape)
    ids = np.full(shape, 100, dtype)
    samples[1] = Sample(samples[1].image, Annotation(instances=ids), "painted")
    made = to_contract(collate([instance_item(s) for s in samples]))
    assert set(made) == set(InstanceBatch.__annotations__)
    assert made["instances"].dtype == torch.int64
    assert made["instances"].shape == (3, *shape)
    assert (made["instances"][1] == 100).all()
    assert (made["instances"][2] == 0).all()
    assert made["background"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.uint8, torch.uint8),
        (np.uint16, torch.float32),
        (np.float32, torch.float32),
        (np.float64, torch.float32),
        (np.int16, torch.float32),
        (bool, torch.float32),
    ],
)
def test_images_travel_light(dtype, expected):
    image = np.arange(8).reshape(1, 2, 4).astype(dtype)
    item = image_item(Sample(image, Annotation(), "a"))
    assert item["image"].dtype == expected
    assert (item["image"].numpy() == image).all()


def test_items_of_read_only_and_mirrored_arrays():
    sample = batch((5, 6))[0]
    for part in (sample.image, sample.content, *vars(sample.annotation).values()):
        if isinstance(part, np.ndarray):
            part.flags.writeable = False
    flipped = Sample(sample.image[:, ::-1], sample.annotation, "a")
    for item in (semantic_item(sample, K), semantic_item(flipped, K), instance_item(sample)):
        assert collate([item])["name"] == [item["name"]]


def test_changing_a_batch_leaves_the_sample_alone():
    sample = batch((5, 6))[0]
    made = to_contract(collate([semantic_item(sample, K)]))
    for value in made.values():
        for tensor in value:
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()
    assert sample.image.any()
    assert sample.annotation.points.all()
    assert sample.annotation.boxes[1].all()
    assert sample.annotation.box_labels.all()
    assert sample.annotation.tags.all()
    assert sample.content.any()


def test_contradictions_are_told_by_name_and_place():
    mask = np.zeros((4, 5), np.uint8)
    said = Annotation(
        mask=mask,
        points=np.array([[1, 2]], np.float32),
        point_labels=np.array([1]),
        tags=np.array([1, 1, -1], np.int8),
    )
    image = np.zeros((1, 4, 5), np.uint8)
    lines = contradictions([Sample(image, Annotation(), "b"), Sample(image, said, "a")], K)
    assert len(lines) == 1
    assert lines[0].startswith("a at (1, 2): ")
    assert lines[0].endswith("(1 pixels)")
    tagged = Annotation(mask=mask, tags=np.array([1, 1, -1], np.int8))
    (line,) = contradictions([Sample(image, tagged, "c")], K)
    assert line == "c: class 1 is tagged present but no pixel may have it"


def test_what_cannot_be_understood_is_told_by_name():
    said = Annotation(mask=np.full((4, 5), 9, np.uint8))
    with pytest.raises(ValueError, match=r"cell_7: .* class 9"):
        contradictions([Sample(np.zeros((1, 4, 5), np.uint8), said, "cell_7")], K)
