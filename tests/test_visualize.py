import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from semiweak.data.annotations import Annotation, Sample
from semiweak.visualize import (
    contact_sheet,
    draw_annotation,
    legend,
    middle_slice,
    overlay,
    palette,
    save_png,
    to_rgb,
)

GREY = np.full((1, 40, 60), 100, np.uint8)


def sample(annotation=None, image=None, **arguments):
    """A sample large enough to be drawn at its own size."""
    if image is None:
        image = np.random.default_rng(0).integers(90, 110, (1, 512, 512)).astype(np.uint8)
    return Sample(image, annotation or Annotation(), "name", **arguments)


def stack(shape, **arguments):
    return sample(Annotation(**arguments), image=np.zeros((1, *shape), np.uint8))


def changed(annotation, num_classes=3, **arguments):
    """Where drawing an annotation changes the picture ``(H, W)``, and the drawing."""
    plain = draw_annotation(sample(**arguments), num_classes)
    drawn = draw_annotation(sample(annotation, **arguments), num_classes)
    return (drawn[:512, :512] != plain).any(axis=-1), drawn


# palette


def test_the_first_colours_are_those_of_okabe_and_ito():
    colors = palette(8).tolist()
    assert colors[0] == [128, 128, 128]
    assert colors[1:4] == [[230, 159, 0], [86, 180, 233], [0, 158, 115]]


@pytest.mark.parametrize("num", [0, 1, 5, 8, 9, 24, 300])
def test_a_class_keeps_its_colour_whatever_the_number_of_classes(num):
    assert palette(num).shape == (num, 3)
    assert palette(num).dtype == np.uint8
    np.testing.assert_array_equal(palette(num), palette(500)[:num])


def test_the_colours_of_many_classes_are_far_apart():
    lab = rgb2lab(palette(24)[None] / 255)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 20  # 2.3 is just noticeable


# to_rgb


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.float16, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_image_becomes_a_picture_of_full_contrast(dtype, channels):
    values = np.random.default_rng(0).random((channels, 30, 40))
    image = (values > 0.5) if dtype is bool else (values * 100).astype(dtype)
    picture = to_rgb(image)
    assert picture.shape == (30, 40, 3)
    assert picture.dtype == np.uint8
    assert picture.min() == 0
    assert picture.max() == 255


def test_contrast_does_not_depend_on_scale_and_offset():
    image = np.random.default_rng(0).random((1, 50, 50)).astype(np.float32)
    np.testing.assert_allclose(to_rgb(image), to_rgb(image * 1e4 - 37), atol=1)


def test_a_hot_pixel_does_not_take_the_contrast():
    image = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (1, 64, 1))
    image[0, 3, 3] = 1e6
    assert to_rgb(image)[..., 128, 0].mean() == pytest.approx(128, abs=3)


def test_rare_spots_on_black_are_seen():
    image = np.zeros((1, 100, 100), np.uint16)
    image[0, 50, 50] = 900
    assert to_rgb(image)[50, 50].tolist() == [255] * 3
    assert to_rgb(image)[0, 0].tolist() == [0] * 3


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_constant_image_works(value, channels):
    picture = to_rgb(np.full((channels, 5, 6), value, np.uint8))
    assert np.ptp(picture.reshape(-1, 3), axis=0).tolist() == [0, 0, 0]


def test_what_is_not_finite_is_black_and_harms_nothing_else():
    image = np.tile(np.linspace(1, 2, 100, dtype=np.float32), (1, 20, 1))
    expected = to_rgb(image)
    image[0, 0, :4] = [np.nan, np.inf, -np.inf, np.nan]
    picture = to_rgb(image)
    assert (picture[0, :4] == 0).all()
    np.testing.assert_allclose(picture[1:].astype(int), expected[1:], atol=2)
    assert (to_rgb(np.full((1, 3, 3), np.nan)) == 0).all()


def test_one_channel_is_grey_two_are_magenta_and_green_three_red_green_blue():
    ramp = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1))
    one = to_rgb(ramp[None]).astype(int)
    assert (np.ptp(one, axis=-1) == 0).all()
    two = to_rgb(np.stack([ramp, ramp.T]))
    assert two[0, -1].tolist() == [255, 0, 255]
    assert two[-1, 0].tolist() == [0, 255, 0]
    assert two[-1, -1].tolist() == [255, 255, 255]
    three = to_rgb(np.stack([ramp, ramp.T, 1 - ramp]))
    assert three[-1, -1].tolist() == [255, 255, 0]
    five = to_rgb(np.stack([ramp] * 5)).astype(int)
    assert np.ptp(five, axis=-1).max() <= 1


def test_a_photograph_keeps_its_colours():
    rng = np.random.default_rng(0)
    red = np.stack([rng.integers(low, low + 50, (40, 40)) for low in (150, 50, 50)])
    assert to_rgb(red.astype(np.uint8)).mean(axis=(0, 1)).argmax() == 0
    assert to_rgb(red.astype(np.uint8)).mean(axis=(0, 1))[1] < 80
    # Channels of a microscope have each their own range.
    means = to_rgb(red.astype(np.uint16)).mean(axis=(0, 1))
    assert np.ptp(means) < 20


@pytest.mark.parametrize("shape", [(4, 4), (1, 2, 4, 4), (1, 0, 4)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        to_rgb(np.zeros(shape))


def test_middle_slice():
    volume = np.arange(5)[:, None, None] * np.ones((5, 3, 4))
    assert (middle_slice(volume) == 2).all()
    assert middle_slice(np.stack([volume, volume])).shape == (2, 3, 4)
    assert middle_slice(volume[:1]).shape == (3, 4)


# overlay


def test_labels_are_mixed_in_by_alpha():
    image = GREY
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 20:40] = 1
    labels[:, 40:] = 255
    picture = overlay(image, labels, alpha=0.25, outline=False)
    under = to_rgb(image)[0, 0].astype(float)
    expected = 0.75 * under + 0.25 * palette(2)[1]
    np.testing.assert_allclose(picture[:, 20:40], np.broadcast_to(expected, (40, 20, 3)), atol=1)
    np.testing.assert_array_equal(picture[:, 40:], to_rgb(image)[:, 40:])
    np.testing.assert_allclose(picture[:, :20], 0.75 * under[0], atol=1)  # class 0 darkens


def test_no_label_only_is_the_image_and_all_label_only_the_colours():
    labels = np.random.default_rng(0).integers(1, 9, (40, 60))
    np.testing.assert_array_equal(overlay(GREY, labels, alpha=0, outline=False), to_rgb(GREY))
    np.testing.assert_array_equal(overlay(GREY, labels, alpha=1), palette(9)[labels])


def test_regions_are_outlined_in_their_own_colour_from_within():
    labels = np.zeros((40, 60), np.int64)
    labels[10:20, 10:30] = 3
    picture = overlay(GREY, labels)
    edge = np.zeros((40, 60), bool)
    edge[10:20, 10:30] = True
    edge[11:19, 11:29] = False
    np.testing.assert_array_equal((picture == palette(4)[3]).all(axis=-1), edge)
    outside = labels == 0
    assert (picture[outside] == picture[0, 0]).all()


def test_an_image_has_no_outline_at_its_border():
    labels = np.ones((40, 60), np.int64)
    np.testing.assert_array_equal(overlay(GREY, labels), overlay(GREY, labels, outline=False))


def test_255_is_unknown_for_classes_and_an_object_for_ids():
    labels = np.full((40, 60), 255)
    np.testing.assert_array_equal(overlay(GREY, labels), to_rgb(GREY))
    assert (overlay(GREY, labels, unknown=None) != to_rgb(GREY)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.int64])
def test_object_ids_of_any_size_have_colours(dtype):
    largest = min(np.iinfo(dtype).max, 2**40)
    labels = np.zeros((40, 60), dtype)
    labels[5:20, 5:20] = 1
    labels[20:40, 5:20] = largest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = overlay(GREY, labels, unknown=None, alpha=1)
    assert (picture[10, 10] == palette(2)[1]).all()
    assert picture[30, 10].any()
    assert not picture[0, 0].any()


def test_an_overlay_leaves_its_input_alone():
    image, labels = GREY.copy(), np.full((40, 60), 2, np.uint8)
    overlay(image, labels)
    assert (image == 100).all()
    assert (labels == 2).all()


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(40, 61\).*\(40, 60\)"):
        overlay(GREY, np.zeros((40, 61), np.uint8))
    with pytest.raises(ValueError, match="alpha is 2"):
        overlay(GREY, np.zeros((40, 60), np.uint8), alpha=2)


# draw_annotation


def test_nothing_said_is_the_image_alone():
    drawn = draw_annotation(sample(), 3)
    np.testing.assert_array_equal(drawn, to_rgb(sample().image))


def test_a_small_image_is_enlarged_by_a_whole_number():
    image = np.random.default_rng(0).integers(0, 255, (1, 60, 100)).astype(np.uint8)
    drawn = draw_annotation(sample(image=image), 3)
    assert drawn.shape == (300, 500, 3)
    np.testing.assert_array_equal(drawn[2::5, 2::5], to_rgb(image))


def test_a_mask_is_coloured_and_its_unknown_part_hatched():
    mask = np.full((512, 512), 1, np.uint8)
    whole, drawn = changed(Annotation(mask=mask))
    assert whole.all()
    assert drawn.shape == (512, 512, 3)  # nothing to explain
    mask[:, 200:] = 255
    part, drawn = changed(Annotation(mask=mask))
    assert part[:, :200].all()
    assert 0.02 < part[:, 200:].mean() < 0.2
    assert len(drawn) > 512  # a line says what hatched means


def test_only_classes_that_were_looked_for_are_coloured():
    mask = np.zeros((512, 512), np.uint8)
    mask[100:200, 100:200] = 2
    only, drawn = changed(Annotation(mask=mask, annotated_classes=(2,)))
    inside = np.zeros_like(only)
    inside[100:200, 100:200] = True
    np.testing.assert_array_equal(only, inside)
    assert len(drawn) > 512


def test_scribbles_are_solid_strokes_that_can_be_seen():
    scribbles = np.full((512, 512), 255, np.uint8)
    scribbles[100, 50:150] = 0
    scribbles[300, 50:150] = 2
    strokes, drawn = changed(Annotation(scribbles=scribbles))
    assert (drawn[100, 50:150] == palette(1)[0]).all()
    assert (drawn[299:302, 50:150] == palette(3)[2]).all()
    assert not strokes[110:290].any()
    assert strokes[97:104, 100].all()
    assert strokes.mean() < 0.02


def test_a_box_is_a_frame_inside_its_pixels():
    # The end is exclusive: the box holds pixels 100 to 199 by 50 to 299.
    box = np.array([[100, 50, 200, 300]], np.float32)
    frame, drawn = changed(Annotation(boxes=box, box_labels=np.array([1])))
    assert frame[100:200, 50:300].any()
    outside = np.ones_like(frame)
    outside[100:200, 50:300] = False
    assert not frame[outside].any()
    assert not frame[110:190, 60:290].any()
    for edge in (drawn[100, 50:300], drawn[199, 50:300], drawn[100:200, 50], drawn[100:200, 299]):
        assert (edge == palette(2)[1]).all()


def test_a_box_is_enlarged_with_its_image():
    image = np.zeros((1, 64, 64), np.uint8)
    annotation = Annotation(boxes=np.array([[2, 4, 10, 20]], np.float32), box_labels=np.array([1]))
    drawn = draw_annotation(sample(annotation, image=image), 2)
    colored = (drawn == palette(2)[1]).all(axis=-1)
    assert np.flatnonzero(colored.any(axis=1))[[0, -1]].tolist() == [2 * 8, 10 * 8 - 1]
    assert np.flatnonzero(colored.any(axis=0))[[0, -1]].tolist() == [4 * 8, 20 * 8 - 1]


def test_a_crowd_is_dashed():
    single = Annotation(boxes=np.array([[100, 50, 200, 300]], np.float32), box_labels=np.array([1]))
    crowd = replace(single, box_is_crowd=np.array([True]))
    solid, _ = changed(single)
    dashed, drawn = changed(crowd)
    assert 0.3 < dashed[100, 50:300].mean() < 0.7
    assert not (dashed & ~solid).any()
    assert len(drawn) > 512


@pytest.mark.parametrize(
    "box", [(-20, -30, 10, 5), (500, 500, 600, 600), (3.2, 4.7, 3.4, 4.9), (0, 0, 512, 512)]
)
def test_odd_boxes_are_drawn_as_far_as_they_reach(box):
    drawn, _ = changed(Annotation(boxes=np.array([box], np.float32), box_labels=np.array([2])))
    assert drawn.any()


def test_a_cross_is_centred_on_its_pixel():
    point = Annotation(points=np.array([[100, 300]], np.float32), point_labels=np.array([2]))
    cross, drawn = changed(point)
    y, x = np.nonzero(cross)
    assert np.mean([y.min(), y.max()]) == pytest.approx(100, abs=1)
    assert np.mean([x.min(), x.max()]) == pytest.approx(300, abs=1)
    assert (drawn[100, 300] == palette(3)[2]).all()
    assert 8 < np.ptp(y) < 40


def test_a_cross_is_enlarged_with_its_image():
    point = Annotation(points=np.array([[10, 20]], np.float32), point_labels=np.array([2]))
    drawn = draw_annotation(sample(point, image=np.zeros((1, 64, 64), np.uint8)), 3)
    y, x = np.nonzero((drawn != 128).any(axis=-1))
    assert np.mean([y.min(), y.max()]) == pytest.approx(10.5 * 8, abs=1)
    assert np.mean([x.min(), x.max()]) == pytest.approx(20.5 * 8, abs=1)


def test_objects_are_outlined_and_keep_apart():
    instances = np.zeros((512, 512), np.int32)
    instances[100:200, 100:200] = 7
    instances[100:200, 200:300] = 70000
    objects, drawn = changed(Annotation(instances=instances))
    assert (drawn[150, 199:201] == 255).all()
    assert (drawn[150, 150] != drawn[150, 250]).any()
    np.testing.assert_array_equal(objects[50:90], False)


def test_what_nobody_looked_at_is_dark():
    valid = np.zeros((512, 512), bool)
    valid[100:400, 100:400] = True
    dark, drawn = changed(Annotation(valid=valid))
    assert not dark[105:395, 105:395].any()
    outside = ~valid
    assert drawn[:512][outside].max() <= 255 // 4
    assert len(drawn) > 512
    everywhere = draw_annotation(sample(Annotation(valid=np.ones_like(valid))), 3)
    assert len(everywhere) == 512


def test_what_lies_beyond_the_image_is_dark():
    content = np.ones((512, 512), bool)
    content[400:] = False
    drawn = draw_annotation(sample(content=content), 3)
    assert drawn[400:512].max() <= 255 // 4
    assert len(drawn) > 512


def test_tags_are_written_with_the_colours_of_their_classes():
    none = Annotation(tags=np.array([-1, -1, -1], np.int8))
    assert len(draw_annotation(sample(none), 3)) == 512
    present = Annotation(tags=np.array([-1, 1, -1], np.int8))
    drawn = draw_annotation(sample(present), 3, ["a", "b", "c"])[512:]
    assert (drawn == palette(2)[1]).all(axis=-1).sum() > 100
    assert not (drawn == palette(3)[2]).all(axis=-1).any()
    both = Annotation(tags=np.array([-1, 1, 0], np.int8))
    drawn_both = draw_annotation(sample(both), 3, ["a", "b", "c"])[512:]
    assert len(drawn_both) == 2 * len(drawn)
    other_names = draw_annotation(sample(both), 3, ["a", "x", "c"])[512:]
    assert (drawn_both != other_names).any()


def test_all_at_once_leaves_the_sample_alone():
    rng = np.random.default_rng(0)
    annotation = Annotation(
        mask=rng.integers(0, 3, (512, 512)).astype(np.uint8),
        scribbles=np.where(rng.random((512, 512)) < 0.01, 1, 255).astype(np.uint8),
        instances=rng.integers(0, 5, (512, 512)),
        boxes=np.array([[1, 2, 30, 40]], np.float32),
        box_labels=np.array([1]),
        points=np.array([[5, 6]], np.float32),
        point_labels=np.array([2]),
        tags=np.array([1, 0, -1], np.int8),
        valid=rng.random((512, 512)) < 0.9,
    )
    whole = sample(annotation)
    arrays = [whole.image, *(v for v in vars(annotation).values() if isinstance(v, np.ndarray))]
    before = [array.copy() for array in arrays]
    drawn = draw_annotation(whole, 3)
    assert drawn.dtype == np.uint8
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_a_stack_shows_the_slice_with_the_most_annotation():
    shape = (7, 64, 64)
    scribbles = np.full(shape, 255, np.uint8)
    scribbles[5, 10, 10:20] = 1
    drawn = draw_annotation(stack(shape, scribbles=scribbles), 2)
    assert (drawn[10 * 8 + 4, 15 * 8] == palette(2)[1]).all()
    assert len(drawn) > 512  # says which slice
    nothing = draw_annotation(stack(shape), 2)
    assert nothing.shape[1] == 512


def test_boxes_and_points_of_a_stack_show_in_their_slices():
    shape = (7, 64, 64)
    box = {"boxes": np.array([[1, 8, 8, 3, 40, 40]], np.float32), "box_labels": np.array([1])}
    points = {"points": np.array([[2, 50, 50], [6, 5, 5]], np.float32)}
    drawn = draw_annotation(stack(shape, **box, **points, point_labels=np.array([2, 2])), 3)
    assert (drawn[8 * 8, 20 * 8] == palette(2)[1]).all()
    assert (drawn[50 * 8 + 4, 50 * 8 + 4] == palette(3)[2]).all()
    assert (drawn[5 * 8 + 4, 5 * 8 + 4] == 128).all()  # clicked in another slice


def test_names_must_match_the_classes():
    with pytest.raises(ValueError, match=r"2 names for 3 classes: \['a', 'b'\]"):
        draw_annotation(sample(), 3, ["a", "b"])


# legend and contact sheet


def test_a_legend_shows_every_colour_and_wraps():
    names = [f"organelle {i}" for i in range(12)]
    line, wrapped = legend(names), legend(names, width=300)
    for picture in (line, wrapped):
        for color in palette(12):
            assert (picture == color).all(axis=-1).sum() > 50
    assert wrapped.shape[1] == 300
    assert wrapped.shape[0] > 3 * line.shape[0]


def test_a_long_name_is_cut_not_spilled():
    short = legend(["x" * 500], width=200)
    assert short.shape[1] == 200
    assert (short[:, -3:] == 255).all()


def test_a_contact_sheet_shows_every_picture():
    sizes = [(100, 100), (300, 100), (100, 300), (700, 700), (1, 1)]
    tiles = [
        np.full((*size, 3), color, np.uint8)
        for size, color in zip(sizes, palette(9)[4:], strict=True)
    ]
    sheet = contact_sheet(tiles, ["one", "two\nlines", "", "x" * 300, "Zellkern-ä"], 2, 120)
    assert 2 * 120 < sheet.shape[1] < 2 * 140
    for color in palette(9)[4:]:
        assert (sheet == color).all(axis=-1).sum() > 1000
    assert (sheet[:, -3:] == 255).all()  # no caption runs over the edge


def test_captions_and_legend_are_there():
    tile = np.full((50, 50, 3), 255, np.uint8)
    bare = contact_sheet([tile], [""])
    captioned = contact_sheet([tile], ["name"])
    assert (bare == 255).all()
    assert (captioned != 255).any()
    explained = contact_sheet([tile], [""], class_names=["a", "b", "c"])
    assert (explained == palette(3)[2]).all(axis=-1).any()
    assert explained.shape[1] == bare.shape[1]


def test_a_few_pictures_take_a_narrow_sheet():
    tile = np.zeros((10, 10, 3), np.uint8)
    narrow = contact_sheet([tile], [""], columns=4, tile_size=100)
    assert narrow.shape[1] < 130


@pytest.mark.parametrize(("tiles", "captions", "columns"), [(0, 0, 4), (2, 1, 4), (1, 1, 0)])
def test_a_sheet_that_makes_no_sense_is_refused(tiles, captions, columns):
    with pytest.raises(ValueError, match="contact sheet takes"):
        contact_sheet([np.zeros((9, 9, 3), np.uint8)] * tiles, [""] * captions, columns)


def test_save_png_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "a.png"
    rng = np.random.default_rng(0)
    for _ in range(2):
        picture = rng.integers(0, 255, (8, 9, 3)).astype(np.uint8)
        save_png(path, picture)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
