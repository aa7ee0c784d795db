"""Colours of neighbouring objects."""

import numpy as np
from skimage.color import rgb2lab

from semiweak.visualize import overlay, palette

GREY = np.full((1, 20, 20), 100, np.uint8)


def test_objects_whose_ids_are_near_have_colours_that_are_not():
    lab = rgb2lab(palette(1000)[None] / 255)[0]
    for difference in range(1, 41):
        apart = np.linalg.norm(lab[1 + difference :] - lab[1:-difference], axis=1)
        assert apart.min() > 15, difference  # 2.3 is just noticeable


def test_fifty_colours_come_again():
    colors = palette(500)
    np.testing.assert_array_equal(colors[58:], colors[8:-50])
    assert len(np.unique(colors, axis=0)) == 58


def test_objects_of_one_colour_that_touch_are_parted_by_white():
    labels = np.full((20, 20), 9)
    labels[:, 10:] = 59
    picture = overlay(GREY, labels, unknown=None)
    assert (picture[:, 9:11] == 255).all()
    assert (picture[:, :9] == picture[0, 0]).all()
    labels[:, 10:] = 60
    picture = overlay(GREY, labels, unknown=None)
    assert (picture[:, 9] == palette(10)[9]).all()
    assert (picture[:, 10] == palette(61)[60]).all()


def test_the_background_is_no_object_of_any_colour():
    labels = np.zeros((20, 20), int)
    labels[5:10, 5:10] = 58
    picture = overlay(GREY, labels, unknown=None)
    assert (picture[5, 5:10] == palette(59)[58]).all()
    assert (picture[4] == picture[0, 0]).all()
