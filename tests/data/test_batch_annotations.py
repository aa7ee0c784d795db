"""What annotators said of a whole batch: painted pixels, points and boxes as tensors."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from semiweak.data.annotations import Annotation, Sample, pixel_of, pixels_of_box
from semiweak.data.batch import SemanticBatch, collate, semantic_item, to_contract
from semiweak.data.batch_annotations import annotations_of

CLASSES = 3
SIZE = (4, 6)


def batch_of(*annotations: Annotation, size: tuple[int, ...] = SIZE) -> SemanticBatch:
    image = np.zeros((1, *size), np.float32)
    items = [semantic_item(Sample(image, a, "x"), CLASSES) for a in annotations]
    return cast(SemanticBatch, to_contract(collate(items)))


def points(*rows: list[float], classes: list[int]) -> dict[str, Any]:
    return {"points": np.float32(rows), "point_labels": np.int64(classes)}


def boxes(*rows: list[float], classes: list[int]) -> dict[str, Any]:
    return {"boxes": np.float32(rows), "box_labels": np.int64(classes)}


def mask(*pixels: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    drawn = np.full(SIZE, 255, np.uint8)
    for row, column, c in pixels:
        drawn[row, column] = c
    return drawn


def test_a_batch_with_nothing_said_is_empty() -> None:
    for size in (SIZE, (2, 4, 3)):
        said = annotations_of(batch_of(Annotation(), Annotation(), size=size))
        assert (said.painted == 255).all()
        assert said.painted.shape == (2, *size)
        assert said.points.shape == (0, 1 + len(size))
        assert said.boxes.shape == (0, 1 + 2 * len(size))
        assert said.point_classes.shape == said.box_classes.shape == (0,)
        assert all(part.dtype == torch.int64 for part in said)


def test_every_point_and_box_knows_its_image() -> None:
    said = annotations_of(
        batch_of(
            Annotation(**boxes([0, 1, 2, 3], [1, 0, 4, 6], classes=[2, 0])),
            Annotation(),
            Annotation(
                **points([3, 5], [0, 2], classes=[1, 0]), **boxes([2, 1, 3, 2], classes=[1])
            ),
        )
    )
    assert said.points.tolist() == [[2, 3, 5], [2, 0, 2]]
    assert said.point_classes.tolist() == [1, 0]
    assert said.boxes.tolist() == [[0, 0, 1, 2, 3], [0, 1, 0, 4, 6], [2, 2, 1, 3, 2]]
    assert said.box_classes.tolist() == [2, 0, 1]


def test_points_and_boxes_are_rounded_as_the_data_model_says() -> None:
    at = [[0.49, 1.5], [2.5, 3.49], [-0.5, 5.2]]
    around = [[0.2, 1.0, 2.1, 2.9], [-3.0, 4.5, 1.0, 9.0], [3.9, 0.0, 4.0, 0.1]]
    batch = batch_of(
        Annotation(**points(*at, classes=[0, 1, 2]), **boxes(*around, classes=[0, 1, 2]))
    )
    said = annotations_of(batch)
    assert said.points[:, 1:].tolist() == pixel_of(np.float32(at)).tolist()
    for box, row in zip(np.float32(around), said.boxes, strict=True):
        slices = pixels_of_box(box, SIZE)
        expected = [s.start for s in slices] + [s.stop for s in slices]
        assert row[1:].tolist() == expected
    assert said.boxes[1].tolist() == [0, 0, 4, 1, 6]  # what sticks out is cut off


def test_a_box_beyond_the_frame_has_no_size() -> None:
    batch = batch_of(Annotation())
    batch["boxes"] = [torch.tensor([[-5.0, -5.0, -2.0, -1.0], [5.0, 7.0, 9.0, 9.0]])]
    batch["box_labels"] = [torch.tensor([0, 1])]
    said = annotations_of(batch)
    assert said.boxes.tolist() == [[0, 0, 0, 0, 0], [0, 4, 6, 4, 6]]


def test_a_crowd_is_no_box() -> None:
    crowd = Annotation(
        **boxes([0, 0, 2, 2], [1, 1, 3, 3], classes=[0, 1]), box_is_crowd=np.array([True, False])
    )
    assert annotations_of(batch_of(crowd)).boxes.tolist() == [[0, 1, 1, 3, 3]]


def test_a_click_on_an_unpainted_image_speaks_as_a_point_only() -> None:
    batch = batch_of(Annotation(**points([1, 2], classes=[2])))
    assert batch["labels"][0, 1, 2] == 2
    said = annotations_of(batch)
    assert (said.painted == 255).all()
    assert said.points.tolist() == [[0, 1, 2]]


def test_scribbles_and_points_of_one_image_speak_each_for_itself() -> None:
    drawn = mask((0, 0, 1), (0, 1, 1), (3, 3, 2))
    batch = batch_of(
        Annotation(scribbles=drawn, **points([2, 5], [0, 1], classes=[0, 1])),
        Annotation(mask=mask((2, 5, 0))),
    )
    said = annotations_of(batch)
    drawn[0, 1] = 255  # the click on it is a point
    assert said.painted[0].tolist() == drawn.tolist()
    assert said.points.tolist() == [[0, 2, 5], [0, 0, 1]]
    assert said.painted[1, 2, 5] == 0  # the click on the other image is not this one's


def test_a_click_on_a_painted_image_speaks_as_both() -> None:
    painted = np.ones(SIZE, np.uint8)
    batch = batch_of(Annotation(mask=painted, **points([1, 2], classes=[1])))
    said = annotations_of(batch)
    assert (said.painted == 1).all()
    assert said.points.tolist() == [[0, 1, 2]]


def test_a_contradicted_point_says_nothing() -> None:
    tags = np.array([0, -1, -1], np.int8)
    batch = batch_of(
        Annotation(mask=np.ones(SIZE, np.uint8), **points([1, 2], [1, 3], classes=[0, 1])),
        Annotation(tags=tags, **points([1, 2], [2, 2], classes=[0, 1])),
        Annotation(**points([1, 2], [1, 2], [3, 3], classes=[0, 1, 2])),
    )
    assert batch["labels"][:, 1, 2].tolist() == [255, 255, 255]
    said = annotations_of(batch)
    assert said.points.tolist() == [[0, 1, 3], [1, 2, 2], [2, 3, 3]]
    assert said.point_classes.tolist() == [1, 1, 2]
    assert (said.painted[:, 1, 2] == 255).all()
    assert (said.painted[1:] == 255).all()


def test_points_beyond_the_frame_and_in_padding_say_nothing() -> None:
    content = np.ones(SIZE, bool)
    content[:, 4:] = False
    sample = Sample(
        np.zeros((1, *SIZE), np.float32),
        Annotation(**points([1, 5], [1, 1], classes=[2, 2])),
        "x",
        content,
    )
    batch = cast(SemanticBatch, to_contract(collate([semantic_item(sample, CLASSES)])))
    assert annotations_of(batch).points.tolist() == [[0, 1, 1]]
    beyond = [[-1.0, 0.0], [0.0, 6.0], [4.0, 0.0], [3.5, 0.0], [1.0, 1.0]]
    batch["points"] = [torch.tensor(beyond)]
    batch["point_labels"] = [torch.full((5,), 2)]
    batch["labels"].fill_(2)  # -1 is no pixel at the other end
    assert annotations_of(batch).points.tolist() == [[0, 1, 1]]


def test_volumes_have_three_axes() -> None:
    one = Annotation(
        points=np.float32([[1, 3, 2]]), point_labels=np.int64([1]),
        boxes=np.float32([[0, 1, 0, 2, 3.5, 9]]), box_labels=np.int64([2]),
    )  # fmt: skip
    said = annotations_of(batch_of(Annotation(), one, size=(2, 4, 3)))
    assert said.points.tolist() == [[1, 1, 3, 2]]
    assert said.boxes.tolist() == [[1, 0, 1, 0, 2, 4, 3]]
    assert (said.painted == 255).all()


def test_the_batch_is_left_as_it_was() -> None:
    batch = batch_of(
        Annotation(scribbles=mask((0, 0, 1)), **points([0, 0], [1, 1], classes=[1, 2])),
        Annotation(**boxes([-1, 0, 2, 2], classes=[1])),
    )
    before = {k: [x.clone() for x in v] for k, v in batch.items() if k != "name"}  # type: ignore[attr-defined]
    annotations_of(batch)
    for key, values in before.items():
        for a, b in zip(values, batch[key], strict=True):  # type: ignore[literal-required]
            assert torch.equal(a, b), key


@pytest.mark.parametrize("kind", ["tags and boxes", "points and tags", "scribbles and boxes"])
def test_kinds_of_one_image_intersect_in_the_candidates(kind: str) -> None:
    tags = np.array([0, 1, -1], np.int8)
    said = {
        "tags and boxes": {"tags": tags, "boxed_classes": (1,)},
        "points and tags": {"tags": tags} | points([2, 2], classes=[2]),
        "scribbles and boxes": {"scribbles": mask((0, 0, 2)), "boxed_classes": (1,)},
    }[kind]
    if "boxes" in kind:
        said |= boxes([1, 1, 3, 3], classes=[1])
    candidates = batch_of(Annotation(**cast(Any, said)))["candidates"][0]
    here, there, corner = candidates[:, 2, 2], candidates[:, 3, 5], candidates[:, 0, 0]
    expected = {
        "tags and boxes": ([False, True, True], [False, False, True], [False, False, True]),
        "points and tags": ([False, False, True], [False, True, True], [False, True, True]),
        "scribbles and boxes": ([True, True, True], [True, False, True], [False, False, True]),
    }[kind]
    assert (here.tolist(), there.tolist(), corner.tolist()) == expected
