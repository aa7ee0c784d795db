from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jsonargparse import auto_cli
from scipy import ndimage
from skimage.measure import label as label_independently
from skimage.measure import regionprops

from semiweak.data.annotations import UNKNOWN, Annotation
from semiweak.data.knowledge import understand
from semiweak.data.weaken import (
    Weakening,
    medoid,
    summarise,
    to_boxes,
    to_nothing,
    to_objects,
    to_points,
    to_scribbles,
    to_tags,
)
from semiweak.data.weaken import points as clicks

WEAKER = {
    "tags": lambda a, k, size, rng: to_tags(a, k),
    "boxes": lambda a, k, size, rng: to_boxes(a, k, min_size=size),
    "points": lambda a, k, size, rng: to_points(a, k, min_size=size),
    "scribbles": lambda a, k, size, rng: to_scribbles(a, k, rng, share=0.3, min_size=size),
    "objects": lambda a, k, size, rng: to_objects(a, size, rng),
    "nothing": lambda a, k, size, rng: to_nothing(a),
}


@st.composite
def paintings(draw, num_classes=None):
    """A complete truth, and an annotation of it that may have gaps of every sort."""
    num_classes = num_classes or draw(st.integers(2, 5))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=8))
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, num_classes - 1)))
    if draw(st.booleans()):  # larger components
        truth = ndimage.maximum_filter(truth, 3)
    mask, valid, annotated = truth.copy(), None, None
    if draw(st.booleans()):
        mask[draw(hnp.arrays(bool, shape))] = UNKNOWN
    if draw(st.booleans()):
        valid = draw(hnp.arrays(bool, shape))
        mask[~valid] = draw(st.integers(0, num_classes - 1))  # never looked at: any value
    if draw(st.booleans()):
        annotated = tuple(sorted(draw(st.sets(st.integers(1, num_classes - 1)))))
        mask[~np.isin(mask, (*annotated, UNKNOWN))] = 0
    annotation = Annotation(mask=mask, valid=valid, annotated_classes=annotated)
    return truth, annotation, num_classes


@pytest.mark.parametrize("kind", WEAKER)
@given(paintings(), st.integers(1, 6), st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_the_truth_always_stays_possible(kind, painting, size, seed):
    truth, annotation, num_classes = painting
    weak = WEAKER[kind](annotation, num_classes, size, np.random.default_rng(seed))
    knowledge = understand(weak, truth.shape, num_classes)
    assert np.take_along_axis(knowledge.candidates, truth[None].astype(int), 0).all()
    assert np.isin(knowledge.labels[knowledge.labels != truth], UNKNOWN).all()
    assert not knowledge.contradictions
    unknown = annotation.mask == UNKNOWN
    if annotation.valid is not None:
        unknown |= ~annotation.valid
    assert knowledge.candidates[:, unknown].all(), "says something of an unknown pixel"


@pytest.mark.parametrize("kind", WEAKER)
@given(paintings(), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_a_weaker_annotation_holds_nothing_of_the_mask(kind, painting, seed):
    truth, annotation, num_classes = painting
    annotation = replace(annotation, instances=(truth > 0).astype(np.int32))
    weak = WEAKER[kind](annotation, num_classes, 1, np.random.default_rng(seed))
    assert weak.mask is None
    assert (weak.instances is None) == (kind != "objects")
    d = truth.ndim
    assert weak.boxes.shape == (len(weak.box_labels), 2 * d)
    assert weak.points.shape == (len(weak.point_labels), d)
    assert (weak.boxes.dtype, weak.points.dtype) == (np.float32, np.float32)
    assert weak.kind() in ("scribbles" if kind == "objects" else kind, "none")


def painted(rows: list[str]) -> Annotation:
    """A mask drawn with digits; ``?`` is unknown."""
    values = [[UNKNOWN if c == "?" else int(c) for c in row] for row in rows]
    return Annotation(mask=np.array(values, np.uint8))


def random_mask(shape, num_classes, seed=0, grain=2.0):
    noise = np.random.default_rng(seed).standard_normal((num_classes, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, *[grain] * len(shape)))
    return smooth.argmax(axis=0).astype(np.uint8)


def test_tags_are_the_classes_present():
    assert to_tags(painted(["002", "000"]), 4).tags.tolist() == [1, 0, 1, 0]


def test_a_class_that_may_hide_in_unknown_pixels_is_not_absent():
    assert to_tags(painted(["002", "00?"]), 4).tags.tolist() == [1, -1, 1, -1]


def test_a_class_that_was_not_looked_for_is_neither_present_nor_absent():
    annotation = replace(painted(["002", "000"]), annotated_classes=(2, 3))
    assert to_tags(annotation, 4).tags.tolist() == [-1, -1, 1, 0]


def test_components_touch_by_corners():
    boxes = to_boxes(painted(["1000", "0100", "0001"]), 2)
    ones = boxes.boxes[boxes.box_labels == 1]
    assert ones.tolist() == [[0, 0, 2, 2], [2, 3, 3, 4]]


@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 16)])
def test_boxes_agree_with_an_independent_implementation(shape):
    mask = random_mask(shape, 3)
    weak = to_boxes(Annotation(mask=mask), 3)
    expected = []
    for c in range(3):
        components = label_independently(mask == c, connectivity=len(shape))
        expected += [(c, *region.bbox) for region in regionprops(components)]
    found = [(int(c), *box) for c, box in zip(weak.box_labels, weak.boxes.tolist(), strict=True)]
    assert sorted(found) == sorted(expected)
    assert weak.boxed_classes == (0, 1, 2)
    assert not weak.crowd.any()


def test_boxes_rule_out_what_they_can():
    candidates = understand(to_boxes(painted(["011", "011", "000"]), 3), (3, 3), 3).candidates
    assert candidates.astype(int).tolist() == [
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],  # the background's box is the whole image
        [[0, 1, 1], [0, 1, 1], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],  # absent
    ]


def test_the_box_of_a_speck_is_a_crowd_box():
    weak = to_boxes(painted(["1000", "0022", "0022"]), 3, min_size=2)
    assert dict(zip(weak.box_labels.tolist(), weak.crowd.tolist(), strict=True)) == {
        0: False,
        1: True,
        2: False,
    }
    assert understand(weak, (3, 4), 3).candidates[1].sum() == 1


def test_a_box_that_the_unknown_may_cut_off_is_a_crowd_box():
    weak = to_boxes(painted(["11?000", "11?002", "000002"]), 3)
    assert dict(zip(weak.box_labels.tolist(), weak.crowd.tolist(), strict=True)) == {
        0: True,
        1: True,
        2: False,
    }


def test_a_mask_of_unknown_pixels_has_no_boxes():
    assert to_boxes(painted(["??", "??"]), 3).kind() == "none"


def brute_force(region):
    pixels = np.argwhere(region)
    sums = [np.linalg.norm(pixels - p, axis=1).sum() for p in pixels]
    return pixels, np.array(sums)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, max_side=7)).filter(np.any))
@settings(deadline=None)
def test_the_medoid_has_the_smallest_sum_of_distances(region):
    pixels, sums = brute_force(region)
    at = medoid(region)
    assert region[at]
    assert sums[(pixels == at).all(axis=1)] == pytest.approx(sums.min(), rel=1e-9)


@pytest.mark.parametrize("shape", [(70, 50), (14, 16, 18)])
def test_the_medoid_of_a_large_region_by_fourier_transform(shape, monkeypatch):
    region = random_mask(shape, 2, grain=4.0) == 1
    pixels, sums = brute_force(region)
    monkeypatch.setattr(clicks, "cdist", None)  # must not be used
    assert medoid(region) == tuple(pixels[sums.argmin()])


def test_the_medoid_of_a_ring_is_on_the_ring():
    y, x = np.mgrid[:101, :101]
    distance = np.hypot(y - 50, x - 50)
    region = (distance < 50) & (distance > 40)
    at = medoid(region)
    assert region[at]
    pixels, sums = brute_force(region)
    assert sums[(pixels == at).all(axis=1)] == pytest.approx(sums.min(), rel=1e-9)


def test_the_medoid_of_a_region_beyond_the_largest_grid_is_near(monkeypatch):
    region = random_mask((60, 80), 2, seed=1, grain=6.0) == 1
    pixels, sums = brute_force(region)
    monkeypatch.setattr(clicks, "LARGEST_GRID", 2000)
    side = next(b for b in range(1, 60) if (2 * -(-60 // b) - 1) * (2 * -(-80 // b) - 1) <= 2000)
    assert side > 1
    excess = sums[(pixels == medoid(region)).all(axis=1)] - sums.min()
    assert excess / len(pixels) <= 2 * side * np.sqrt(2)


def test_points_of_a_giant_component_and_hundreds_of_small_ones():
    y, x = np.ogrid[:1024, :1024]
    mask = (np.hypot(y - 500, x - 510) < 480).astype(np.uint8)
    mask[::40, ::40] = 2
    weak = to_points(Annotation(mask=mask), 3)
    giant = weak.points[weak.point_labels == 1]
    assert len(giant) == 1
    assert np.abs(giant - [500, 510]).max() < 1
    assert (weak.point_labels == 2).sum() == 26 * 26


def test_specks_are_neither_clicked_nor_scribbled_on():
    annotation = painted(["1000", "0022", "0022"])
    assert to_points(annotation, 3, min_size=2).point_labels.tolist() == [0, 2]
    weak = to_scribbles(annotation, 3, np.random.default_rng(0), min_size=2)
    assert set(np.unique(weak.scribbles)) == {0, 2, UNKNOWN}


@pytest.mark.parametrize("shape", [(90, 80), (20, 24, 28)])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 1.0])
def test_scribbles_cover_the_share_that_was_asked_for(shape, share):
    mask = random_mask(shape, 3, grain=4.0)
    weak = to_scribbles(Annotation(mask=mask), 3, np.random.default_rng(0), share=share)
    for c in range(3):
        components = label_independently(mask == c, connectivity=len(shape))
        for region in regionprops(components):
            drawn = (weak.scribbles == c) & (components == region.label)
            assert drawn.sum() == max(1, round(share * region.area))


def test_scribbles_are_thin_strokes_inside_the_component():
    y, x = np.ogrid[:80, :200]
    mask = ((abs(y - 40) < 15) & (x > 10) & (x < 190)).astype(np.uint8)
    depth = ndimage.distance_transform_edt(mask)
    depths = []
    for seed in range(10):
        weak = to_scribbles(Annotation(mask=mask), 2, np.random.default_rng(seed), share=0.03)
        stroke = weak.scribbles == 1
        _, pieces = ndimage.label(stroke, np.ones((3, 3)))
        assert pieces <= 3, "dots, not strokes"
        assert ndimage.binary_opening(stroke, np.ones((3, 3))).mean() < 0.001, "a blob"
        depths.append(depth[stroke].mean())
    assert np.mean(depths) > 1.2 * depth[mask == 1].mean(), "along the rim, not the middle"


def test_other_seeds_draw_other_scribbles():
    annotation = Annotation(mask=random_mask((50, 50), 3))
    first, again, other = (
        to_scribbles(annotation, 3, np.random.default_rng(seed)).scribbles for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_objects_keep_all_their_pixels_and_nothing_else():
    annotation = painted(["11002", "11002", "00000", "22001"])
    weak = to_objects(annotation, 2, np.random.default_rng(0), exclude=[0])
    assert sorted(np.unique(weak.instances[weak.instances > 0])) == pytest.approx(
        np.unique(weak.instances)[1:]
    )
    assert len(np.unique(weak.instances)) == 3
    assert ((weak.scribbles != UNKNOWN) == (weak.instances > 0)).all()
    for i in np.unique(weak.instances)[1:]:
        region = weak.instances == i
        c = annotation.mask[region][0]
        components = label_independently(annotation.mask == c, connectivity=2)
        assert (region == (components == components[region][0])).all()


def test_all_objects_are_kept_where_there_are_fewer():
    annotation = painted(["110", "000", "022"])
    weak = to_objects(annotation, 99, np.random.default_rng(0))
    assert (weak.scribbles == annotation.mask).all()
    assert len(np.unique(weak.instances)) == 3


def test_an_instance_is_an_object_also_where_it_touches_another():
    annotation = replace(
        painted(["1111", "0000"]), instances=np.array([[7, 7, 4, 4], [0, 0, 0, 0]], np.uint16)
    )
    kept = [
        to_objects(annotation, 1, np.random.default_rng(seed), exclude=(0,)) for seed in range(20)
    ]
    found = {tuple(np.unique(weak.instances[weak.instances > 0])) for weak in kept}
    assert found == {(7,), (4,)}
    everything = to_objects(annotation, 3, np.random.default_rng(0))
    assert set(np.unique(everything.instances)) == {4, 7, 8}, "the background has an id of its own"
    none = to_objects(annotation, 3, np.random.default_rng(0), exclude=(0, 1))
    assert not none.instances.any()


def test_objects_of_an_image_with_instances_only():
    annotation = Annotation(instances=np.array([[1, 1, 0], [0, 2, 3]], np.int32))
    weak = to_objects(annotation, 2, np.random.default_rng(0))
    assert weak.scribbles is None
    assert len(np.unique(weak.instances)) == 3
    assert np.isin(weak.instances, (0, *annotation.instances.ravel())).all()


def test_fewer_objects_are_some_of_more():
    annotation = Annotation(mask=random_mask((60, 60), 4))
    few, many = (to_objects(annotation, k, np.random.default_rng(5)).scribbles for k in (3, 8))
    assert ((few == UNKNOWN) | (few == many)).all()
    assert (few != many).any()


@pytest.mark.parametrize(
    "weaker",
    [lambda a: to_tags(a, 2), lambda a: to_boxes(a, 2), lambda a: to_points(a, 2)],
)
def test_errors_of_masks(weaker):
    with pytest.raises(ValueError, match="class 7 is painted, but with 2 classes"):
        weaker(painted(["07"]))
    with pytest.raises(ValueError, match="without a mask"):
        weaker(Annotation())
    with pytest.raises(ValueError, match="class 5 is painted"):
        weaker(replace(painted(["01"]), annotated_classes=(1, 5)))


NAMES = [f"image_{i}" for i in range(40)]


@pytest.mark.parametrize(
    ("acr", "n", "kept"),
    [(1, 40, 40), (2, 40, 20), (3, 40, 13), (8, 40, 5), (64, 40, 1), (1.5, 3, 2), (2, 5, 2)],
)
def test_the_compression_ratio_says_how_many_images_keep_their_mask(acr, n, kept):
    kinds = Weakening(acr=acr).assign(NAMES[:n])
    assert Counter(kinds.values())["mask"] == kept


def test_a_number_of_masks_and_shares_by_largest_remainder():
    # 33 images remain; 5 : 3 : 1 of 33 is 18.33, 11, 3.67
    weakening = Weakening(masks=7, boxes=5, tags=3, nothing=1)
    counts = Counter(weakening.assign(NAMES).values())
    assert counts == {"mask": 7, "boxes": 18, "tags": 11, "none": 4}


def test_without_shares_the_remaining_images_get_nothing():
    assert Counter(Weakening(acr=4).assign(NAMES).values()) == {"mask": 10, "none": 30}


def test_assignment_is_the_same_in_every_run():
    kinds = Weakening(masks=1, boxes=1, points=1, tags=1, scribbles=1).assign(list("abcde"))
    assert kinds == {
        "a": "boxes",
        "b": "tags",
        "c": "points",
        "d": "mask",
        "e": "scribbles",
    }


@given(
    st.permutations(NAMES[:12]),
    st.floats(1, 20),
    st.floats(1, 20),
    st.integers(-3, 1000),
    st.lists(st.floats(0, 5), min_size=5, max_size=5),
)
def test_assignment_is_nested_and_independent_of_the_order(names, one, two, seed, shares):
    kinds = ("boxes", "points", "tags", "scribbles", "nothing")
    weakening = Weakening(acr=max(one, two), seed=seed, **dict(zip(kinds, shares, strict=True)))
    few = weakening.assign(names)
    assert list(few) == names
    assert few == weakening.assign(sorted(names))
    many = Weakening(acr=min(one, two), seed=seed).assign(names)
    assert {n for n in names if few[n] == "mask"} <= {n for n in names if many[n] == "mask"}


def test_seeds_choose_other_images():
    chosen = {tuple(sorted(Weakening(masks=2, seed=s).assign(NAMES).items())) for s in range(5)}
    assert len(chosen) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"acr": 0.5}, "acr is 0.5"),
        ({"acr": float("nan")}, "acr is nan"),
        ({"acr": 2, "masks": 3}, "give one of them"),
        ({"masks": -1}, "masks is -1"),
        ({"boxes": -0.1}, "boxes is -0.1"),
        ({"nothing": float("inf")}, "nothing is inf"),
        ({"objects": 0}, "objects is 0"),
        ({"scribble_share": 0.0}, "scribble_share is 0.0"),
        ({"min_size": 0}, "min_size is 0"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Weakening(**arguments)


def test_errors_of_assignment():
    with pytest.raises(ValueError, match="masks is 5, but there are only 2"):
        Weakening(masks=5).assign(["a", "b"])
    with pytest.raises(ValueError, match="same name: a"):
        Weakening().assign(["a", "b", "a"])
    assert Weakening().assign([]) == {}


def test_errors_of_application_name_the_image():
    with pytest.raises(ValueError, match="image 'x': class 7 is painted"):
        Weakening().apply(painted(["07"]), "tags", 2, "x")
    with pytest.raises(ValueError, match="image 'x': it should keep its mask, but has none"):
        Weakening().apply(Annotation(), "mask", 2, "x")
    with pytest.raises(ValueError, match=r"objects_exclude is \[0, 2\]; the classes are 0 to 1"):
        Weakening(objects=1, objects_exclude=(0, 2)).apply(painted(["01"]), "mask", 2, "x")
    with pytest.raises(ValueError, match="no kind 'circles'"):
        Weakening().apply(painted(["01"]), "circles", 2, "x")


@pytest.mark.parametrize("kind", ["mask", "boxes", "points", "tags", "scribbles", "none"])
def test_application_gives_the_kind_that_was_assigned(kind):
    annotation = Annotation(mask=random_mask((30, 30), 3))
    weak = Weakening().apply(annotation, kind, 3, "x")
    assert weak.kinds() == (kind,)
    assert (weak is annotation) == (kind == "mask")


def test_application_repeats_by_seed_and_name():
    annotation = Annotation(mask=random_mask((60, 60), 3))

    def drawn(seed, name):
        return Weakening(seed=seed).apply(annotation, "scribbles", 3, name).scribbles

    assert (drawn(0, "a") == drawn(0, "a")).all()
    assert (drawn(0, "a") != drawn(0, "b")).any()
    assert (drawn(0, "a") != drawn(1, "a")).any()


def test_masks_are_cut_down_to_objects():
    annotation = Annotation(mask=random_mask((60, 60), 3))
    weakening = Weakening(objects=4, objects_exclude=(0,))
    weak = weakening.apply(annotation, weakening.assign(["x"])["x"], 3, "x")
    assert len(np.unique(weak.instances)) == 5
    assert set(np.unique(weak.scribbles)) <= {1, 2, UNKNOWN}


def test_weakening_options_reach_the_annotations():
    annotation = painted(["1000", "0022", "0022"])
    weakening = Weakening(scribble_share=1.0, min_size=2)
    assert weakening.apply(annotation, "boxes", 3, "x").crowd.tolist() == [False, True, False]
    assert weakening.apply(annotation, "points", 3, "x").point_labels.tolist() == [0, 2]
    scribbles = weakening.apply(annotation, "scribbles", 3, "x").scribbles
    assert (scribbles[annotation.mask != 1] != UNKNOWN).all()


def test_weakening_from_a_configuration(tmp_path):
    def run(weaken: Weakening | None = None) -> Weakening | None:
        return weaken

    file = tmp_path / "config.yaml"
    file.write_text(
        "weaken: {acr: 8, boxes: 1, nothing: 0.5, objects: 5, objects_exclude: [0, 2], seed: 3}"
    )
    expected = Weakening(acr=8.0, boxes=1.0, nothing=0.5, objects=5, objects_exclude=(0, 2), seed=3)
    assert auto_cli(run, args=["--config", str(file)]) == expected
    assert auto_cli(run, args=["--weaken.masks", "2"]) == Weakening(masks=2)


@given(st.lists(st.tuples(paintings(3), st.sampled_from(list(WEAKER))), max_size=4))
@settings(deadline=None, max_examples=40)
def test_the_summary_counts_what_is_understood(images):
    before = [annotation for (_, annotation, _), _ in images]
    after = [
        WEAKER[kind](annotation, k, 1, np.random.default_rng(0))
        for (_, annotation, k), kind in images
    ]
    summary = summarise(iter(before), iter(after), 3)
    pinned, narrowed = np.zeros(2), np.zeros(2)
    for i, side in enumerate((before, after)):
        for annotation, ((truth, *_), _) in zip(side, images, strict=True):
            knowledge = understand(annotation, truth.shape, 3)
            pinned[i] += (knowledge.labels != UNKNOWN).sum()
            narrowed[i] += (~knowledge.candidates.all(axis=0)).sum()
    assert summary.pinned == tuple(pinned)
    assert summary.narrowed == tuple(narrowed)
    assert summary.pixels == sum(truth.size for (truth, *_), _ in images)
    assert summary.images == {
        kind: sum(annotation.kind() == kind for annotation in after) for kind in summary.images
    }


def test_the_summary_in_words():
    full = painted(["0011", "0011"])
    after = [full, to_boxes(full, 2), to_points(full, 2), to_nothing(full)]
    text = str(summarise([full] * 4, after, 2))
    assert text == (
        "Annotation of 4 training images: complete mask 1 (25 %), boxes 1 (25 %), points 1 (25 %), "
        "nothing 1 (25 %)\n"
        "Pixels with a told class: 31.2 % (before weakening 100 %); with at least one class ruled "
        "out: 56.2 % (before 100 %)"
    )


def test_the_summary_of_no_images():
    assert "0 training images: none" in str(summarise([], [], 3))


def test_the_summary_needs_the_same_images():
    with pytest.raises(ValueError, match="zip"):
        summarise([Annotation()], [], 3)
