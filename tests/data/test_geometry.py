from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from true_annotations import KINDS, allows, random_truth, true_annotation

from semiweak.data.annotations import (
    UNKNOWN,
    Annotation,
    Sample,
    pixel_of,
    pixels_of_box,
)
from semiweak.data.geometry import affine, crop, flip, transpose
from semiweak.data.knowledge import understand
from semiweak.data.patches import Geometry

seeds = st.integers(0, 2**32 - 1)
shapes_2d = st.tuples(st.integers(1, 14), st.integers(1, 14))
shapes = st.one_of(shapes_2d, st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8)))


def dense(truth, image=None):
    """The truth carried along as a mask, and its objects as instances."""
    objects = np.zeros(truth.shape, np.int32)
    for c in range(int(truth.max()) + 1):
        labels, _ = ndimage.label(truth == c)
        objects = np.where(labels, labels + objects.max(), objects)
    image = np.stack([truth, 255 - truth]) if image is None else image
    return Sample(image, Annotation(mask=truth, instances=objects), "dense")


def weak(truth, num_classes, rng, kinds):
    return Sample(
        np.stack([truth, 255 - truth]), true_annotation(truth, num_classes, rng, kinds), "weak"
    )


def freeze(sample):
    """Makes every array of a sample read-only."""
    for part in (sample.image, sample.content, *vars(sample.annotation).values()):
        if isinstance(part, np.ndarray):
            part.flags.writeable = False


def same(a, b):
    arrays = [(s.image, s.content, *vars(s.annotation).values()) for s in (a, b)]
    return all(np.array_equal(p, q) for p, q in zip(*arrays, strict=True))


def content_of(sample):
    return np.ones(sample.shape, bool) if sample.content is None else sample.content


# Every operation keeps what was said true


def exact_operations(shape, rng):
    """A random crop (which may reach beyond the image, or miss it), flip and transpose."""
    d = len(shape)
    start = [int(rng.integers(-n - 3, n + 4)) for n in shape]
    size = [int(rng.integers(1, n + 6)) for n in shape]
    axes = [axis for axis in range(d) if rng.random() < 0.5]
    order = [int(i) for i in rng.permutation(d)]
    return {
        "crop": lambda s, _: crop(s, start, size),
        "flip": lambda s, _: flip(s, axes),
        "transpose": lambda s, _: transpose(s, order),
        "patch": lambda s, r: Geometry(focus=0).patch(s, size, r),
    }


def check_exact(truth, said, num_classes):
    """``said`` is true of ``truth``, the same image moved in the same way."""
    assert said.shape == truth.shape
    content = content_of(truth)
    mask = truth.annotation.mask
    assert (content_of(said) == content).all()
    assert ((mask == UNKNOWN) == ~content).all()
    known = understand(said.annotation, said.shape, num_classes, said.content)
    assert allows(known.candidates, np.where(content, mask, 0))[content].all()
    assert known.candidates[:, ~content].all()
    assert (known.labels[~content] == UNKNOWN).all()
    assert ((known.labels == mask) | (known.labels == UNKNOWN)).all()
    # Of a crop, "present" is an upper bound; all else stays exact.
    assert [c for c in known.contradictions if c.position is not None] == []
    boxes, d = said.annotation.boxes, len(said.shape)
    assert boxes.shape[1] == 2 * d
    assert (boxes[:, :d] < boxes[:, d:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= np.tile(said.shape, 2)).all()
    pixels = pixel_of(said.annotation.points)
    assert (pixels >= 0).all()
    assert (pixels < said.shape).all()
    assert (mask[tuple(pixels.T)] == said.annotation.point_labels).all()


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(1, 5), seeds, st.sets(st.sampled_from(KINDS)), st.data())
def test_exact_operations_keep_annotations_true(shape, num_classes, seed, kinds, data):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, shape, num_classes)
    samples = dense(truth), weak(truth, num_classes, rng, kinds)
    operations = exact_operations(shape, rng)
    operation = operations[data.draw(st.sampled_from(sorted(operations)))]
    for sample in samples:
        freeze(sample)
    moved = [operation(sample, np.random.default_rng(seed)) for sample in samples]
    check_exact(*moved, num_classes)
    again = [operation(sample, np.random.default_rng(seed)) for sample in samples]
    assert all(same(a, b) for a, b in zip(moved, again, strict=True))
    # Once more on its own result: content, padding and annotations travel on.
    check_exact(*(crop(flip(s, (0,)), (1,) * len(shape), s.shape) for s in moved), num_classes)


@settings(max_examples=60, deadline=None)
@given(shapes_2d, st.integers(1, 5), seeds, st.sets(st.sampled_from(KINDS)), st.booleans())
def test_affine_keeps_annotations_true(shape, num_classes, seed, kinds, by_patch):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, shape, num_classes)
    samples = [dense(truth), weak(truth, num_classes, rng, kinds)]
    for sample in samples:
        freeze(sample)
    if by_patch:
        geometry = Geometry(rotate=180, scale=(0.6, 1.6), focus=0)
        size = rng.integers(4, 12, 2).tolist()
        truth, said = (geometry.patch(s, size, np.random.default_rng(seed)) for s in samples)
    else:
        truth, said = (
            affine(s, np.random.default_rng(seed), rotate=90, scale=(0.6, 1.6)) for s in samples
        )
    # A click is carried as a point; it may end beside the nearest pixel of its class.
    points, point_labels = said.annotation.points, said.annotation.point_labels
    others = replace(said.annotation, points=points[:0], point_labels=point_labels[:0])
    check_exact(truth, replace(said, annotation=others), num_classes)
    pixels = pixel_of(points)
    assert (pixels >= 0).all()
    assert (pixels < said.shape).all()


@pytest.mark.parametrize("seed", range(20))
def test_affine_carries_points_to_their_class(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, (30, 30), 3)
    said = weak(truth, 3, rng, {"points"})
    arguments = {"rotate": 45, "scale": (0.8, 1.5)}
    moved = affine(said, np.random.default_rng(seed), **arguments).annotation
    mask = affine(dense(truth), np.random.default_rng(seed), **arguments).annotation.mask
    beside = np.pad(mask, 1, constant_values=UNKNOWN)
    for (y, x), c in zip(pixel_of(moved.points), moved.point_labels, strict=True):
        assert c in beside[y : y + 3, x : x + 3]


def test_affine_drops_no_point_in_the_middle_and_keeps_their_order():
    points = np.array([[14, 15], [17, 12], [15.5, 16.25]], np.float32)
    said = Annotation(points=points, point_labels=np.array([2, 0, 1]))
    sample = Sample(np.zeros((1, 30, 31), np.uint8), said, "a")
    moved = affine(sample, np.random.default_rng(0), rotate=0, scale=(2.0, 2.0)).annotation
    centre = np.array([14.5, 15])
    np.testing.assert_allclose(moved.points, centre + 2 * (points - centre), atol=1e-4)
    assert moved.point_labels.tolist() == [2, 0, 1]


# Boxes are tight


@settings(max_examples=80, deadline=None)
@given(shapes, seeds, st.data())
def test_exact_operations_keep_boxes_tight(shape, seed, data):
    """One solid object: its box is its bounding box, or is gone with it."""
    rng = np.random.default_rng(seed)
    start = [int(rng.integers(n)) for n in shape]
    stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)]
    truth = np.zeros(shape, np.uint8)
    truth[tuple(map(slice, start, stop))] = 1
    said = Annotation(
        mask=truth,
        boxes=np.array([[*start, *stop]], np.float32),
        box_labels=np.array([1]),
        box_is_crowd=np.array([True]),
    )
    operations = exact_operations(shape, rng)
    operation = operations[data.draw(st.sampled_from(sorted(operations)))]
    moved = operation(Sample(truth[None], said, "a"), np.random.default_rng(seed)).annotation
    pixels = np.argwhere(moved.mask == 1)
    expected = [[*pixels.min(0), *(pixels.max(0) + 1)]] if len(pixels) else []
    assert moved.boxes.tolist() == expected
    assert moved.boxes.dtype == np.float32
    assert moved.box_labels.tolist() == [1] * len(expected)
    assert moved.crowd.tolist() == [True] * len(expected)


@pytest.mark.parametrize("seed", range(30))
def test_affine_boxes_are_the_envelope(seed):
    rng = np.random.default_rng(seed)
    truth = np.zeros((60, 60), np.uint8)
    (a, b), (h, w) = rng.integers(18, 28, 2), rng.integers(4, 14, 2)
    truth[a : a + h, b : b + w] = 1
    said = Annotation(
        mask=truth,
        boxes=np.array([[50, 50, 55, 55], [a, b, a + h, b + w]], np.float32),
        box_labels=np.array([2, 1]),
    )
    moved = affine(Sample(truth[None], said, "a"), rng, rotate=180, scale=(0.7, 1.4)).annotation
    pixels = np.argwhere(moved.mask == 1)
    box = moved.boxes[moved.box_labels == 1][0]
    window = np.zeros(truth.shape, bool)
    window[pixels_of_box(box, truth.shape)] = True
    assert window[moved.mask == 1].all()
    # A solid rectangle fills its envelope but for the corners' last pixels.
    assert np.abs(box - [*pixels.min(0), *(pixels.max(0) + 1)]).max() < 2


def test_one_factor_for_both_axes():
    said = Annotation(boxes=np.array([[40, 40, 60, 60]], np.float32), box_labels=np.array([0]))
    sample = Sample(np.zeros((1, 100, 100), np.uint8), said, "a")
    sides = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ((y0, x0, y1, x1),) = affine(sample, rng, rotate=0, scale=(0.5, 2.0)).annotation.boxes
        assert y1 - y0 == pytest.approx(x1 - x0, abs=1e-3)
        sides.append(y1 - y0)
    assert min(sides) < 15 < 30 < max(sides)


# Instances


def test_instances_keep_their_ids_through_everything():
    """Ids beyond what a float32, float64 or int32 can tell apart are still told apart."""
    rng = np.random.default_rng(0)
    small = rng.integers(5, size=(20, 24))
    ids = np.array([0, 2**24 + 1, 2**30 + 1, 2**31 + 3, 2**59 + 1])
    geometry = Geometry(rotate=30, scale=(0.7, 1.5))
    for make in (
        lambda s: affine(s, np.random.default_rng(1), rotate=30, scale=(0.7, 1.5)),
        lambda s: geometry.patch(s, (16, 16), np.random.default_rng(2)),
        lambda s: crop(s, (-2, 3), (16, 30)),
    ):
        plain, large = (
            make(Sample(np.zeros((1, 20, 24), np.uint8), Annotation(instances=a), "a"))
            for a in (small, ids[small])
        )
        assert large.annotation.instances.dtype == np.int64
        assert len(np.unique(plain.annotation.instances)) == 5
        assert (large.annotation.instances == ids[plain.annotation.instances]).all()


@pytest.mark.parametrize("seed", range(10))
def test_instances_and_mask_move_together(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, (30, 30), 3)
    sample = dense(truth)
    class_of = np.zeros(sample.annotation.instances.max() + 1, np.uint8)
    class_of[sample.annotation.instances] = truth
    moved = Geometry(rotate=20, scale=(0.8, 1.2)).patch(sample, (24, 24), rng)
    known = content_of(moved)
    instances = moved.annotation.instances
    assert (instances[~known] == 0).all()
    assert (class_of[instances][known] == moved.annotation.mask[known]).all()


# Padding


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ((1, 2), (3, 4)),
        ((-2, 3), (6, 9)),
        ((-9, -1), (30, 30)),
        ((8, 0), (3, 4)),
        ((-7, 2), (4, 4)),
    ],
)
def test_crop_reflects_the_image_and_knows_its_content(start, size):
    shape = (5, 7)
    image = np.arange(2 * 5 * 7, dtype=np.uint16).reshape(2, *shape)
    said = Annotation(mask=np.zeros(shape, np.uint8), valid=np.ones(shape, bool))
    cut = crop(Sample(image, said, "a"), start, size)
    window = tuple(slice(a + 40, a + 40 + n) for a, n in zip(start, size, strict=True))
    reflected = np.pad(image, [(0, 0), (40, 40), (40, 40)], mode="symmetric")
    assert (cut.image == reflected[:, *window]).all()
    assert cut.image.dtype == np.uint16
    content = np.pad(np.ones(shape, bool), 40)[window]
    assert (content_of(cut) == content).all()
    assert (cut.annotation.valid == content).all()
    assert (cut.annotation.mask == np.where(content, 0, UNKNOWN)).all()
    assert (cut.content is None) == content.all()


def test_affine_knows_what_came_from_beyond_the_image():
    sample = dense(np.zeros((20, 20), np.uint8), image=np.full((3, 20, 20), 90, np.uint8))
    sample = replace(sample, annotation=replace(sample.annotation, valid=np.ones((20, 20), bool)))
    shrunk = affine(sample, np.random.default_rng(0), rotate=0, scale=(0.5, 0.5))
    content = np.zeros((20, 20), bool)
    content[5:15, 5:15] = True
    assert (shrunk.content == content).all()
    assert (shrunk.annotation.valid == content).all()
    assert (shrunk.annotation.mask == np.where(content, 0, UNKNOWN)).all()
    assert (shrunk.annotation.instances == content).all()
    assert (shrunk.image[:, ~content] == 90).all()
    assert (shrunk.image[:, 6:14, 6:14] == 90).all()
    assert affine(sample, np.random.default_rng(0), rotate=0, scale=(2, 2)).content is None


def test_padding_is_still_a_reflection_after_affine():
    image = np.random.default_rng(0).integers(100, 200, (1, 40, 40)).astype(np.float32)
    padded = crop(Sample(image, Annotation(), "a"), (-20, -20), (80, 80))
    moved = affine(padded, np.random.default_rng(0), rotate=0, scale=(1.25, 1.25))
    beyond = moved.image[0][~moved.content]
    assert not moved.content.all()
    assert beyond.std() > 10


def test_a_patch_from_a_smaller_image_is_padded_on_all_sides():
    sample = dense(np.ones((6, 5), np.uint8))
    patch = Geometry(flip=False).patch(sample, (10, 9), np.random.default_rng(0))
    content = np.zeros((10, 9), bool)
    content[2:8, 2:7] = True
    assert (patch.content == content).all()
    assert patch.image.shape == (2, 10, 9)


@pytest.mark.parametrize(
    ("rotate", "scale", "size"),
    [
        (180, (0.5, 1.0), (32, 32)),
        (90, (1.0, 1.0), (16, 48)),
        (20, (0.8, 1.25), (40, 24)),
        (0, (2.0, 3.0), (32, 32)),
    ],
)
def test_a_warped_patch_of_a_large_image_is_full_of_real_pixels(rotate, scale, size):
    truth = np.zeros((130, 130), np.uint8)
    geometry = Geometry(rotate=rotate, scale=scale)
    for seed in range(30):
        patch = geometry.patch(dense(truth), size, np.random.default_rng(seed))
        assert patch.content is None or patch.content.all()
        assert patch.shape == size


# Images


@pytest.mark.parametrize("seed", range(10))
def test_image_labels_and_points_stay_aligned(seed):
    """The image shows, and the instances number, where in the original each pixel was."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:60, :70]
    points = rng.uniform(10, 50, (20, 2)).astype(np.float32)
    said = Annotation(
        instances=1 + 70 * rows + columns, points=points, point_labels=np.arange(20)
    )  # fmt: skip
    sample = Sample(np.stack([rows, columns]).astype(np.float32), said, "a")
    patch = Geometry(rotate=180, scale=(0.8, 1.3)).patch(sample, (30, 36), rng)
    ids = patch.annotation.instances - 1
    assert (patch.content is None) or patch.content.mean() > 0.5
    # Where the map leaves the image, its edge is mixed with what lies beyond.
    inner = ndimage.binary_erosion(ids >= 0, np.ones((3, 3)), border_value=1)
    beside = patch.image - np.stack([ids // 70, ids % 70])
    assert np.abs(beside[:, inner]).max() < 0.55
    at = pixel_of(patch.annotation.points)
    shown = patch.image[:, at[:, 0], at[:, 1]].T
    within = inner[tuple(at.T)]
    assert within.any()
    assert np.abs(shown - points[patch.annotation.point_labels])[within].max() < 0.75 / 0.8


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_affine_of_any_image(channels, dtype):
    ramp = np.linspace(0, 250 if dtype == np.uint8 else 60000, 20 * 30).reshape(20, 30)
    image = np.stack([ramp + c for c in range(channels)]).astype(dtype)
    moved = affine(
        Sample(image, Annotation(), "a"), np.random.default_rng(0), rotate=10, scale=(1.0, 1.0)
    )
    assert moved.image.shape == image.shape
    assert moved.image.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    middle = moved.image[:, 8:12, 10:20].astype(float)
    assert np.allclose(middle - middle[0], np.arange(channels)[:, None, None], atol=1)
    assert np.abs(middle[0] - ramp[8:12, 10:20]).max() < 0.15 * ramp.max()


# Random choices


def some_sample():
    rng = np.random.default_rng(3)
    truth = random_truth(rng, (40, 50), 4)
    return replace(
        weak(truth, 4, rng, {"mask", "scribbles", "boxes", "points", "tags", "valid"}),
        image=rng.integers(255, size=(1, 40, 50)).astype(np.uint8),
    )


@pytest.mark.parametrize("geometry", [Geometry(), Geometry(rotate=30, scale=(0.8, 1.2))])
def test_a_seed_repeats_a_patch(geometry):
    sample = some_sample()
    freeze(sample)
    first, other, again = (
        geometry.patch(sample, (24, 24), np.random.default_rng(seed)) for seed in (5, 6, 5)
    )
    assert same(first, again)
    assert not np.array_equal(first.image, other.image)


def test_flip_makes_all_symmetries_of_the_square():
    image = np.array([[[0, 1], [2, 3]]], np.uint8)
    sample = Sample(image, Annotation(), "a")
    seen = {
        Geometry().patch(sample, (2, 2), np.random.default_rng(s)).image.tobytes()
        for s in range(100)
    }
    assert len(seen) == 8
    still = {
        Geometry(flip=False).patch(sample, (2, 2), np.random.default_rng(s)).image.tobytes()
        for s in range(20)
    }
    assert still == {image.tobytes()}


def test_a_patch_that_is_not_square_keeps_its_shape():
    sample = some_sample()
    for seed in range(20):
        assert Geometry().patch(sample, (16, 24), np.random.default_rng(seed)).shape == (16, 24)


def test_patches_reach_every_corner():
    sample = Sample(np.arange(36, dtype=np.uint8).reshape(1, 6, 6), Annotation(), "a")
    geometry = Geometry(flip=False)
    firsts = {
        int(geometry.patch(sample, (4, 4), np.random.default_rng(s)).image[0, 0, 0])
        for s in range(200)
    }
    assert firsts == {6 * y + x for y in range(3) for x in range(3)}


def annotated(kind):
    shape, spot = (100, 100), (90, 4)
    if kind == "points":
        return Annotation(points=np.array([spot], np.float32), point_labels=np.array([1]))
    if kind == "boxes":
        return Annotation(
            boxes=np.array([[*spot, 91, 5]], np.float32),
            box_labels=np.array([1]),
            boxed_classes=(1,),
        )
    drawn = np.full(shape, UNKNOWN, np.uint8)
    drawn[spot] = 1
    return Annotation(**{kind: drawn})


@pytest.mark.parametrize("kind", ["points", "boxes", "scribbles", "mask"])
@pytest.mark.parametrize("warp", [{}, {"rotate": 180.0, "scale": (0.7, 1.5)}])
def test_focus_finds_what_is_annotated(kind, warp):
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 90, 4] = 1
    centred = crop(Sample(image, annotated(kind), "a"), (40, -46), (100, 100))
    sample = replace(centred, content=None)

    def share(focus):
        found = 0
        for seed in range(60):
            geometry = Geometry(focus=focus, **warp)
            patch = geometry.patch(sample, (24, 24), np.random.default_rng(seed))
            said = patch.annotation
            found += bool(
                len(said.points)
                or len(said.boxes)
                or (said.scribbles is not None and (said.scribbles == 1).any())
                or (said.mask is not None and (said.mask == 1).any())
            )
        return found / 60

    assert share(0.0) < 0.3
    if warp and kind in ("scribbles", "mask"):  # one pixel may be lost between pixels
        assert share(1.0) > 0.7
    else:
        assert share(1.0) == 1
    assert 0.3 < share(0.5) < 0.8


def test_focus_reaches_what_lies_at_the_edge():
    for kind in ("points", "boxes", "scribbles"):
        sample = Sample(np.zeros((1, 100, 100), np.uint8), annotated(kind), "a")
        for seed in range(10):
            patch = Geometry(focus=1.0).patch(sample, (20, 20), np.random.default_rng(seed))
            assert patch.annotation.kind() == kind


def test_focus_copes_with_boxes_that_reach_beyond_the_image():
    said = Annotation(
        boxes=np.array([[-50, -50, -20, 150], [90, 90, 150, 150]], np.float32),
        box_labels=np.array([0, 0]),
    )
    sample = Sample(np.zeros((1, 100, 100), np.uint8), said, "a")
    for seed in range(20):
        Geometry(focus=1.0).patch(sample, (20, 20), np.random.default_rng(seed))


def test_focus_leaves_complete_masks_alone():
    sample = dense(np.zeros((30, 30), np.uint8))
    for seed in range(5):
        a, b = (
            Geometry(focus=focus).patch(sample, (8, 8), np.random.default_rng(seed))
            for focus in (0.0, 1.0)
        )
        assert same(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotate": 200.0}, "rotate is 200"),
        ({"scale": (0.0, 1.0)}, r"scale is \[0.0, 1.0\]"),
        ({"scale": (2.0, 1.0)}, "the smaller first"),
        ({"focus": 1.5}, "focus is 1.5"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Geometry(**arguments)


def test_no_rotation_in_3d():
    sample = Sample(np.zeros((1, 4, 8, 8), np.uint8), Annotation(), "a")
    with pytest.raises(ValueError, match="2D images"):
        Geometry(rotate=5).patch(sample, (4, 4, 4), np.random.default_rng(0))


def test_scale_may_be_a_list():
    sample = some_sample()
    Geometry(scale=[0.9, 1.1]).patch(sample, [16, 16], np.random.default_rng(0))


def test_a_patch_in_3d_of_every_orientation():
    image = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(1, 4, 5, 5)
    sample = Sample(image, Annotation(), "a")
    turned = {
        Geometry().patch(sample, (4, 5, 5), np.random.default_rng(s)).image.tobytes()
        for s in range(200)
    }
    assert len(turned) == 16


def test_a_point_in_a_mirrored_image_stays_with_its_pixel():
    """Between two pixels a point counts for the second, mirrored or not."""
    said = Annotation(
        points=np.array([[1.5, 2.0], [0.25, 4.4], [-0.5, 0.0]], np.float32),
        point_labels=np.arange(3),
    )
    sample = Sample(np.zeros((1, 4, 5), np.uint8), said, "a")
    before = pixel_of(said.points)
    after = flip(sample, (0,)).annotation.points
    assert (pixel_of(after) == [3, 0] + before * [-1, 1]).all()
    assert after[1].tolist() == [2.75, np.float32(4.4)]


def test_flip_and_transpose_move_boxes_in_3d():
    said = Annotation(
        boxes=np.array([[0, 1, 2, 1, 3, 5]], np.float32), box_labels=np.array([0])
    )  # fmt: skip
    sample = Sample(np.zeros((1, 2, 4, 8), np.uint8), said, "a")
    assert flip(sample, (2,)).annotation.boxes.tolist() == [[0, 1, 3, 1, 3, 6]]
    assert transpose(sample, (2, 0, 1)).annotation.boxes.tolist() == [[2, 0, 1, 5, 1, 3]]
    assert transpose(sample, (2, 0, 1)).image.shape == (1, 8, 2, 4)
