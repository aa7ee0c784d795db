from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from true_annotations import KINDS as TRUE_KINDS
from true_annotations import allows, random_truth, true_annotation

from semiweak.data.annotations import (
    UNKNOWN,
    Annotation,
    Sample,
    pixel_of,
    pixels_of_box,
)
from semiweak.data.knowledge import understand

SHAPE = (4, 5)
U = UNKNOWN


def array(values, dtype=np.uint8):
    return np.array(values, dtype)


def boxes(*rows):
    return array(rows, np.float32)


def labels(*classes):
    return array(classes, np.int64)


def blank(fill=UNKNOWN):
    return np.full(SHAPE, fill, np.uint8)


def at(*pixels):
    where = np.zeros(SHAPE, bool)
    for pixel in pixels:
        where[pixel] = True
    return where


# One kind at a time


def test_nobody_said_anything():
    known = understand(Annotation(), SHAPE, 3)
    assert known.labels.dtype == np.uint8
    assert (known.labels == UNKNOWN).all()
    assert known.candidates.dtype == bool
    assert known.candidates.shape == (3, *SHAPE)
    assert known.candidates.all()
    assert not known.has_mask
    assert known.contradictions == ()


def test_a_complete_mask_pins_every_pixel():
    mask = array([[0, 1, 2, 0, 1]] * 4)
    known = understand(Annotation(mask=mask), SHAPE, 3)
    assert (known.labels == mask).all()
    assert (known.candidates == (mask == np.arange(3)[:, None, None])).all()
    assert known.has_mask


def test_unknown_pixels_of_a_mask_stay_unknown():
    mask = blank(1)
    mask[0, 0] = UNKNOWN
    known = understand(Annotation(mask=mask), SHAPE, 3)
    assert known.labels[0, 0] == UNKNOWN
    assert known.candidates[:, 0, 0].all()
    assert not known.has_mask


def test_annotated_classes_say_no_more_than_none_of_these():
    mask = blank(0)
    mask[0, 0], mask[0, 1], mask[0, 2] = 1, 200, UNKNOWN
    known = understand(Annotation(mask=mask, annotated_classes=(1,)), SHAPE, 3)
    assert known.labels[0, 0] == 1
    assert known.candidates[:, 0, 0].tolist() == [False, True, False]
    assert known.candidates[:, 0, 1].tolist() == [True, False, True]
    assert known.candidates[:, 0, 2].all()
    assert known.candidates[:, 3, 3].tolist() == [True, False, True]
    assert (known.labels == UNKNOWN).sum() == 19
    assert not known.has_mask


def test_scribbles_pin_what_they_cover():
    drawn = blank()
    drawn[1, 1:4] = 2
    known = understand(Annotation(scribbles=drawn), SHAPE, 3)
    assert (known.labels == drawn).all()
    assert known.candidates[:, 1, 1].tolist() == [False, False, True]
    assert known.candidates[:, 0].all()
    assert not known.has_mask


def test_points_pin_their_pixel_and_ties_go_up():
    points = array([[0, 0], [1.5, 2.49], [3.4, 3.6]], np.float32)
    known = understand(Annotation(points=points, point_labels=labels(0, 1, 2)), SHAPE, 3)
    expected = blank()
    expected[0, 0], expected[2, 2], expected[3, 4] = 0, 1, 2
    assert (known.labels == expected).all()
    assert known.candidates[:, 2, 2].tolist() == [False, True, False]
    assert known.candidates[:, expected == UNKNOWN].all()


def test_a_boxed_class_is_only_inside_its_boxes():
    said = Annotation(
        boxes=boxes([0, 0, 2, 2], [2.5, 3.5, 2.9, 4.1], [0, 0, 4, 5]),
        box_labels=labels(1, 1, 2),
        boxed_classes=(1,),
    )
    known = understand(said, SHAPE, 3)
    assert (known.candidates[1] == at((0, 0), (0, 1), (1, 0), (1, 1), (2, 3), (2, 4))).all()
    # Every object of class 1 is boxed; of class 2 nobody said so.
    assert known.candidates[[0, 2]].all()
    assert (known.labels == UNKNOWN).all()


def test_a_boxed_class_without_a_box_is_nowhere():
    known = understand(Annotation(boxed_classes=(1,)), SHAPE, 3)
    assert not known.candidates[1].any()
    assert known.candidates[[0, 2]].all()
    assert known.contradictions == ()


def test_a_crowd_box_allows_its_class():
    said = Annotation(
        boxes=boxes([0, 0, 1, 1], [2, 0, 3, 5]),
        box_labels=labels(1, 1),
        box_is_crowd=array([False, True], bool),
        boxed_classes=(1,),
    )
    expected = at((0, 0), *((2, x) for x in range(5)))
    assert (understand(said, SHAPE, 2).candidates[1] == expected).all()
    assert said.crowd.tolist() == [False, True]
    assert replace(said, box_is_crowd=None).crowd.tolist() == [False, False]


def test_filled_boxes_hold_boxed_classes_only():
    said = Annotation(
        boxes=boxes([0, 0, 2, 2], [1, 1, 3, 4], [2, 3, 4, 5]),
        box_labels=labels(1, 2, 3),
        box_is_crowd=array([False, False, True], bool),
        boxed_classes=(1,),
        boxes_filled=True,
    )
    candidates = understand(said, SHAPE, 4).candidates

    def left(y, x):
        return np.flatnonzero(candidates[:, y, x]).tolist()

    assert left(0, 1) == [1]
    assert left(1, 1) == [1, 2]  # two boxes
    assert left(1, 2) == [2]
    assert left(2, 3) == [2, 3]  # a crowd somewhere in here, and a box
    assert left(3, 4) == [0, 2, 3]  # a crowd box alone is not filled
    assert left(3, 0) == [0, 2, 3]  # in no box: class 1 is boxed exhaustively
    loose = understand(replace(said, boxes_filled=False), SHAPE, 4)
    assert loose.candidates[0].all()
    assert loose.candidates[3].all()


def test_filled_boxes_give_way_to_what_is_said():
    drawn, valid, content = blank(), np.ones(SHAPE, bool), np.ones(SHAPE, bool)
    drawn[0, 0] = 0  # background in the corner of a box
    valid[1], content[2] = False, False
    said = Annotation(
        scribbles=drawn,
        boxes=boxes([0, 0, 4, 3], [3, 3, 4, 5]),
        box_labels=labels(1, 2),
        points=array([[0, 1]], np.float32),
        point_labels=labels(0),
        tags=array([-1, -1, 0], np.int8),
        valid=valid,
        boxes_filled=True,
    )
    known = understand(said, SHAPE, 3, content)
    assert known.labels[0, :3].tolist() == [0, 0, UNKNOWN]
    assert known.candidates[:, 0, 0].tolist() == [True, False, False]
    assert known.candidates[:, 0, 2].tolist() == [False, True, False]
    assert known.candidates[:, 1:3].all()  # nobody looked; padding
    assert known.candidates[:, 3, 2].tolist() == [False, True, False]
    # All that its boxes allow is ruled out by a tag.
    assert known.candidates[:, 3, 4].tolist() == [True, True, False]
    only_contradiction(known, "tagged absent but has a box")


def test_filled_boxes_contradict_nothing_where_labels_clash():
    said = Annotation(
        mask=blank(0),
        scribbles=blank(1),
        boxes=boxes([0, 0, 4, 5]),
        box_labels=labels(1),
        boxes_filled=True,
    )
    known = understand(said, SHAPE, 2)
    assert known.candidates.all()
    only_contradiction(known, "two different classes")


def test_tags_rule_out_what_is_absent():
    known = understand(Annotation(tags=array([1, 0, -1], np.int8)), SHAPE, 3)
    assert known.candidates[[0, 2]].all()
    assert not known.candidates[1].any()
    assert (known.labels == UNKNOWN).all()


def test_nothing_is_known_outside_the_valid_region():
    valid = np.ones(SHAPE, bool)
    valid[:, 0] = False
    said = Annotation(
        mask=blank(0),
        boxed_classes=(1,),
        tags=array([1, -1, 0], np.int8),
        valid=valid,
    )
    known = understand(said, SHAPE, 3)
    assert known.candidates[:, ~valid].all()
    assert (known.labels[~valid] == UNKNOWN).all()
    assert (known.labels[valid] == 0).all()
    assert not known.has_mask
    assert known.contradictions == ()


def test_nothing_is_known_of_padding_and_nothing_contradicts_there():
    content = np.ones(SHAPE, bool)
    content[:, 3:] = False
    said = Annotation(
        mask=np.where(content, np.uint8(1), np.uint8(UNKNOWN)),
        boxes=boxes([0, 0, 4, 3]),
        box_labels=labels(1),
        boxed_classes=(0, 1),
    )
    known = understand(said, SHAPE, 2, content)
    assert known.candidates[:, ~content].all()
    assert (known.labels[~content] == UNKNOWN).all()
    assert (known.labels[content] == 1).all()
    assert known.has_mask
    assert known.contradictions == ()


def test_three_dimensions():
    said = Annotation(
        boxes=boxes([0, 1, 1, 1, 2, 3]), box_labels=labels(1), boxed_classes=(1,),
        points=array([[1, 0, 2]], np.float32), point_labels=labels(0),
    )  # fmt: skip
    known = understand(said, (2, 3, 4), 2)
    assert np.argwhere(known.candidates[1]).tolist() == [[0, 1, 1], [0, 1, 2]]
    assert np.argwhere(known.labels == 0).tolist() == [[1, 0, 2]]


# Kinds together


def test_annotations_combine_by_intersection():
    drawn = blank()
    drawn[0, 0] = 2
    said = Annotation(
        scribbles=drawn,
        boxes=boxes([0, 0, 2, 5]),
        box_labels=labels(1),
        boxed_classes=(1,),
        points=array([[3, 3]], np.float32),
        point_labels=labels(3),
        tags=array([0, 1, 1, 1], np.int8),
    )
    known = understand(said, SHAPE, 4)
    assert known.candidates[:, 0, 0].tolist() == [False, False, True, False]
    assert known.candidates[:, 1, 1].tolist() == [False, True, True, True]
    assert known.candidates[:, 3, 0].tolist() == [False, False, True, True]
    assert known.candidates[:, 3, 3].tolist() == [False, False, False, True]
    assert known.contradictions == ()


# Contradictions: position, number of pixels, and the pixels become unknown


def only_contradiction(known, said):
    (found,) = known.contradictions
    assert said in found.message
    return found


def test_mask_against_scribbles():
    drawn = blank()
    drawn[1, 2:4] = 1
    drawn[0, 0] = 0
    known = understand(Annotation(mask=blank(0), scribbles=drawn), SHAPE, 2)
    found = only_contradiction(known, "two different classes")
    assert (found.position, found.pixels) == ((1, 2), 2)
    assert (known.labels[1, 2:4] == UNKNOWN).all()
    assert known.candidates[:, 1, 2:4].all()
    assert (known.labels == 0).sum() == 18


def test_point_against_mask():
    said = Annotation(
        mask=blank(0), points=array([[2, 3]], np.float32), point_labels=labels(1)
    )  # fmt: skip
    known = understand(said, SHAPE, 2)
    found = only_contradiction(known, "two different classes")
    assert (found.position, found.pixels) == ((2, 3), 1)
    assert known.labels[2, 3] == UNKNOWN
    assert known.candidates[:, 2, 3].all()


@pytest.mark.parametrize("classes", [(0, 1), (1, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)])
def test_point_against_point(classes):
    points = np.full((len(classes), 2), 1, np.float32)
    known = understand(Annotation(points=points, point_labels=labels(*classes)), SHAPE, 2)
    found = only_contradiction(known, "two different classes")
    assert (found.position, found.pixels) == ((1, 1), 1)
    assert (known.labels == UNKNOWN).all()
    assert known.candidates.all()


def test_pinned_class_against_boxes():
    said = Annotation(
        mask=blank(1), boxes=boxes([0, 0, 4, 3]), box_labels=labels(1), boxed_classes=(1,)
    )
    known = understand(said, SHAPE, 2)
    found = only_contradiction(known, "rule out")
    assert (found.position, found.pixels) == ((0, 3), 8)
    assert (known.labels[:, 3:] == UNKNOWN).all()
    assert known.candidates[:, :, 3:].all()
    assert (known.labels[:, :3] == 1).all()


def test_pinned_class_against_tag():
    drawn = blank()
    drawn[3, 4] = 1
    known = understand(Annotation(scribbles=drawn, tags=array([-1, 0], np.int8)), SHAPE, 2)
    found = only_contradiction(known, "rule out")
    assert (found.position, found.pixels) == ((3, 4), 1)
    assert known.labels[3, 4] == UNKNOWN
    assert known.candidates[:, 3, 4].all()
    assert not known.candidates[1, 0].any()


def test_scribble_against_annotated_classes():
    drawn = blank()
    drawn[0, 1] = 1
    said = Annotation(mask=blank(0), annotated_classes=(1,), scribbles=drawn)
    known = understand(said, SHAPE, 3)
    found = only_contradiction(known, "rule out")
    assert (found.position, found.pixels) == ((0, 1), 1)
    assert known.candidates[:, 0, 1].all()


def test_no_class_left():
    said = Annotation(
        boxes=boxes([0, 0, 4, 4]),
        box_labels=labels(1),
        boxed_classes=(1,),
        tags=array([0, 1], np.int8),
    )
    known = understand(said, SHAPE, 2)
    found = only_contradiction(known, "no class is left")
    assert (found.position, found.pixels) == ((0, 4), 4)
    assert known.candidates[:, :, 4].all()
    assert known.candidates[1].all()
    assert not known.candidates[0, :, :4].any()


def test_box_of_an_absent_class():
    said = Annotation(
        boxes=boxes([0, 0, 1, 1]), box_labels=labels(1), tags=array([1, 0], np.int8)
    )  # fmt: skip
    found = only_contradiction(understand(said, SHAPE, 2), "class 1 is tagged absent but has a box")
    assert (found.position, found.pixels) == (None, 0)


def test_present_but_nowhere_possible():
    said = Annotation(mask=blank(0), tags=array([1, 1], np.int8))
    known = understand(said, SHAPE, 2)
    found = only_contradiction(known, "class 1 is tagged present but no pixel may have it")
    assert (found.position, found.pixels) == (None, 0)
    assert (known.labels == 0).all()


def test_a_pixel_is_reported_once():
    drawn = blank()
    drawn[0, 0] = 1
    said = Annotation(mask=blank(0), scribbles=drawn, tags=array([1, 0], np.int8))
    assert len(understand(said, SHAPE, 2).contradictions) == 1


# What cannot be understood at all


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (Annotation(mask=blank(7)), "class 7; with 3 classes it must be 0 to 2"),
        (Annotation(scribbles=blank(3)), "class 3"),
        (
            Annotation(points=array([[0, 0]], np.float32), point_labels=labels(-1)),
            "points say class -1",
        ),
        (Annotation(boxes=boxes([0, 0, 1, 1]), box_labels=labels(3)), "boxes say class 3"),
        (Annotation(boxed_classes=(4,)), "class 4"),
        (Annotation(mask=blank(0), annotated_classes=(1, 3)), "class 3"),
        (Annotation(tags=array([1, 1], np.int8)), "2 tags for 3 classes"),
        (
            Annotation(points=array([[-1, 0]], np.float32), point_labels=labels(0)),
            r"the point \[-1.0, 0.0\] is outside the image, whose size is \[4, 5\]",
        ),
        (Annotation(points=array([[0, 4.5]], np.float32), point_labels=labels(0)), "outside"),
    ],
)
def test_what_cannot_be(said, message):
    with pytest.raises(ValueError, match=message):
        understand(said, SHAPE, 3)


def test_an_unlisted_value_of_a_partial_mask_is_no_class():
    said = Annotation(mask=blank(7), annotated_classes=(1,))
    assert not understand(said, SHAPE, 3).candidates[1].any()


# Against the definition, pixel by pixel


def by_hand(said, shape, num_classes):
    """A_j as the intersection of sets, and the pinned class, of each pixel."""
    d = len(shape)
    allowed = np.zeros((num_classes, *shape), bool)
    pinned = np.full(shape, UNKNOWN, np.uint8)
    for pixel in np.ndindex(shape):
        sets, pins = [set(range(num_classes))], set()
        if said.valid is None or said.valid[pixel]:
            if said.tags is not None:
                sets.append({c for c in range(num_classes) if said.tags[c] != 0})
            for c in said.boxed_classes:
                touched = any(
                    all(box[a] < pixel[a] + 1 and box[d + a] > pixel[a] for a in range(d))
                    for box, label in zip(said.boxes, said.box_labels, strict=True)
                    if label == c
                )
                sets.append(set(range(num_classes)) - (set() if touched else {c}))
            if said.mask is not None and said.mask[pixel] != UNKNOWN:
                only = said.annotated_classes
                if only is None or said.mask[pixel] in only:
                    pins.add(int(said.mask[pixel]))
                else:
                    sets.append(set(range(num_classes)) - set(only))
            if said.scribbles is not None and said.scribbles[pixel] != UNKNOWN:
                pins.add(int(said.scribbles[pixel]))
        for point, c in zip(said.points, said.point_labels, strict=True):
            if all(i - 0.5 <= p < i + 0.5 for p, i in zip(point, pixel, strict=True)):
                pins.add(int(c))
        left = set.intersection(*sets, *({c} for c in pins))
        if left and pins:
            pinned[pixel] = pins.pop()
        for c in left or range(num_classes):
            allowed[(c, *pixel)] = True
    return pinned, allowed


cases = st.tuples(
    st.one_of(
        st.tuples(st.integers(1, 8), st.integers(1, 8)),
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    ),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
    st.sets(st.sampled_from(TRUE_KINDS)),
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_true_annotations_never_exclude_the_truth(case):
    shape, num_classes, seed, kinds = case
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, shape, num_classes)
    said = true_annotation(truth, num_classes, rng, kinds)
    known = understand(said, shape, num_classes)
    assert allows(known.candidates, truth).all()
    assert ((known.labels == truth) | (known.labels == UNKNOWN)).all()
    assert known.contradictions == ()
    pinned, allowed = by_hand(said, shape, num_classes)
    assert (known.labels == pinned).all()
    assert (known.candidates == allowed).all()


@settings(max_examples=60, deadline=None)
@given(cases)
def test_contradictory_annotations_are_what_intersection_says(case):
    """Each kind speaks of another truth; where nothing is left, the pixel is unknown."""
    shape, num_classes, seed, kinds = case
    rng = np.random.default_rng(seed)
    said = {}
    for kind in kinds:
        one = true_annotation(random_truth(rng, shape, num_classes), num_classes, rng, {kind})
        said |= {
            k: v for k, v in vars(one).items() if isinstance(v, (np.ndarray, tuple)) and len(v)
        }
    said = Annotation(**said)
    known = understand(said, shape, num_classes)
    pinned, allowed = by_hand(said, shape, num_classes)
    assert (known.labels == pinned).all()
    assert (known.candidates == allowed).all()
    # Whatever the order in which things were said.
    turned = replace(
        said,
        mask=said.mask if said.annotated_classes else said.scribbles,
        scribbles=said.scribbles if said.annotated_classes else said.mask,
        boxes=said.boxes[::-1],
        box_labels=said.box_labels[::-1],
        boxed_classes=said.boxed_classes[::-1],
        points=said.points[::-1],
        point_labels=said.point_labels[::-1],
    )
    again = understand(turned, shape, num_classes)
    assert (again.labels == known.labels).all()
    assert (again.candidates == known.candidates).all()
    assert again.contradictions == known.contradictions


def test_understanding_changes_no_annotation():
    rng = np.random.default_rng(0)
    said = true_annotation(random_truth(rng, (8, 8), 3), 3, rng, TRUE_KINDS)
    for part in vars(said).values():
        if isinstance(part, np.ndarray):
            part.flags.writeable = False
    understand(said, (8, 8), 3)


# Kinds, and the parts


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        (Annotation(), ("none",)),
        (Annotation(mask=blank(0)), ("mask",)),
        (Annotation(mask=np.tile(array([0, U, 0, 0, 0]), (4, 1))), ("scribbles",)),
        (Annotation(mask=blank(0), annotated_classes=(0,)), ("scribbles",)),
        (Annotation(mask=blank(0), valid=at((0, 0))), ("scribbles",)),
        (Annotation(scribbles=blank()), ("none",)),
        (Annotation(scribbles=blank(1)), ("scribbles",)),
        (Annotation(boxed_classes=(1,)), ("boxes",)),
        (Annotation(tags=array([-1, -1], np.int8)), ("none",)),
        (Annotation(tags=array([-1, 0], np.int8)), ("tags",)),
        (
            Annotation(
                mask=blank(0),
                boxes=boxes([0, 0, 1, 1]),
                box_labels=labels(0),
                points=array([[0, 0]], np.float32),
                point_labels=labels(0),
                tags=array([1], np.int8),
            ),
            ("mask", "boxes", "points", "tags"),
        ),
    ],
)
def test_kinds(said, kinds):
    assert said.kinds() == kinds
    assert said.kind() == kinds[0]


def test_is_dense_asks_only_for_content():
    content = ~at((0, 0))
    mask = np.where(content, np.uint8(0), np.uint8(UNKNOWN))
    assert not Annotation(mask=mask).is_dense()
    assert Annotation(mask=mask).is_dense(content)
    assert not Annotation(mask=mask, valid=~at((1, 1))).is_dense(content)


def test_without_instances():
    said = Annotation(mask=blank(0), instances=np.ones(SHAPE, np.int32))
    bare = said.without_instances()
    assert bare.instances is None
    assert bare.mask is said.mask


def test_pixel_of():
    points = array([[0, 0], [-0.5, 0.49], [1.5, 2.75]], np.float32)
    assert pixel_of(points).tolist() == [[0, 0], [0, 0], [2, 3]]


def test_pixels_of_box_rounds_outwards_and_stays_inside():
    assert pixels_of_box(array([0.2, 1.0, 1.1, 2.0], np.float32), SHAPE) == (
        slice(0, 2),
        slice(1, 2),
    )
    assert pixels_of_box(array([-3, 4.5, 9, 9], np.float32), SHAPE) == (slice(0, 4), slice(4, 5))


@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7)])
def test_empty_boxes_and_points_have_as_many_columns_as_the_image_axes(shape):
    d = len(shape)
    sample = Sample(np.zeros((2, *shape), np.uint8), Annotation(), "a")
    assert sample.shape == shape
    assert sample.annotation.boxes.shape == (0, 2 * d)
    assert sample.annotation.points.shape == (0, d)
