"""Every annotation file on one object: a rectangle in an image that is not square."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiweak.data.annotations import UNKNOWN, Annotation, pixel_of, pixels_of_box
from semiweak.data.formats import (
    BoxAnnotations,
    ManifestRow,
    check_boxes,
    check_points,
    check_stems,
    read_coco_boxes,
    read_manifest,
    read_points,
    read_tags,
)
from semiweak.data.knowledge import understand

SHAPE = (37, 53)
ROWS, COLUMNS = slice(5, 17), slice(20, 41)
CLASSES = ["background", "nucleus", "debris"]


def mask() -> np.ndarray:
    """The rectangle is a nucleus."""
    painted = np.zeros(SHAPE, np.uint8)
    painted[ROWS, COLUMNS] = 1
    return painted


def coco(
    *annotations: dict[str, Any], images: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A COCO file of one image; annotations are nuclei of it where they do not say."""
    one = {"id": 7, "file_name": "images/a.png", "height": SHAPE[0], "width": SHAPE[1]}
    return {
        "images": [one] if images is None else images,
        "categories": [
            {"id": 3, "name": "debris"},
            {"id": 5, "name": "nucleus"},
            {"id": 9, "name": "scale bar"},
        ],
        "annotations": [
            {"id": 100 + i, "image_id": 7, "category_id": 5, **annotation}
            for i, annotation in enumerate(annotations)
        ],
    }


def read_coco(folder: Path, data: Any, **options: Any) -> dict[str, BoxAnnotations]:
    path = folder / "boxes.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_coco_boxes(path, CLASSES, **options)


def write(folder: Path, *lines: str, name: str = "table.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


NUCLEUS = {"bbox": [20, 5, 21, 12]}  # x, y, width, height of the rectangle


# boxes.json --------------------------------------------------------------------------------------


def test_the_box_is_the_rectangle(tmp_path: Path) -> None:
    found = read_coco(tmp_path, coco(NUCLEUS))
    assert list(found) == ["a"]
    boxes = found["a"]
    assert boxes.boxes.dtype == np.float32
    assert boxes.labels.dtype == np.int64
    assert boxes.boxes.tolist() == [[5, 20, 17, 41]]
    assert pixels_of_box(boxes.boxes[0], SHAPE) == (ROWS, COLUMNS)
    assert boxes.labels.tolist() == [1]
    assert boxes.crowd.tolist() == [False]
    assert boxes.boxed_classes == (1,)


def test_the_box_allows_the_nucleus_where_the_mask_has_it(tmp_path: Path) -> None:
    boxes = read_coco(tmp_path, coco(NUCLEUS))["a"]
    annotation = Annotation(
        boxes=boxes.boxes, box_labels=boxes.labels, boxed_classes=boxes.boxed_classes
    )
    candidates = understand(annotation, SHAPE, len(CLASSES)).candidates
    np.testing.assert_array_equal(candidates[1], mask() == 1)
    assert candidates[2].all()  # nobody boxed debris


def test_fractions_are_kept(tmp_path: Path) -> None:
    boxes = read_coco(tmp_path, coco({"bbox": [20.25, 5.5, 20.75, 11.5]}))["a"].boxes
    assert boxes.tolist() == [[5.5, 20.25, 17, 41]]
    assert pixels_of_box(boxes[0], SHAPE) == (ROWS, COLUMNS)


def test_categories_are_matched_by_name_and_unused_ones_may_have_any(tmp_path: Path) -> None:
    found = read_coco(tmp_path, coco({**NUCLEUS, "category_id": 3}, {**NUCLEUS, "category_id": 5}))
    assert found["a"].labels.tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"boxes\.json: annotation 100 .*'scale bar'.*'nucleus'"):
        read_coco(tmp_path, coco({**NUCLEUS, "category_id": 9}))


def test_a_crowd_is_marked(tmp_path: Path) -> None:
    found = read_coco(tmp_path, coco({**NUCLEUS, "iscrowd": 1}, {**NUCLEUS, "iscrowd": 0}))["a"]
    assert found.crowd.tolist() == [True, False]
    assert found.boxed_classes == (1,)


@pytest.mark.parametrize("bbox", [[-4, -9, 10, 12], [49, 30, 100, 100]])
def test_a_box_that_reaches_beyond_the_image_is_cut_off(tmp_path: Path, bbox: list[int]) -> None:
    box = read_coco(tmp_path, coco({"bbox": bbox}))["a"].boxes[0]
    assert box.tolist() == ([0, 0, 3, 6] if bbox[0] < 0 else [30, 49, 37, 53])


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"bbox": [20, 5, -3, 12]}, "is reversed"),
        ({"bbox": [20, 5, 3, -12]}, "is reversed"),
        ({"bbox": [20, 5, 0, 12]}, "is empty"),
        ({"bbox": [20, 5, 1e-9, 12]}, "is empty"),
        ({"bbox": [53, 5, 4, 4]}, "outside the image, which has 37 x 53 pixels"),
        ({"bbox": [5, 37, 4, 4]}, "outside"),
        ({"bbox": [-8, 5, 8, 4]}, "outside"),
        ({"bbox": [20, 5, float("nan"), 4]}, "no finite number"),
        ({"bbox": [20, 5, 4]}, "must be four numbers"),
        ({"bbox": ["20", "5", "4", "4"]}, "must be four numbers"),
        ({"bbox": {"x": 1}}, "must be four numbers"),
        ({"segmentation": [[0, 0, 5, 0, 5, 5]]}, "a segmentation but no bbox; export boxes"),
        ({"bbox": None}, "no bbox"),
        ({**NUCLEUS, "attributes": {"rotation": 30.0}}, "rotated by 30.0 degrees"),
        ({**NUCLEUS, "category_id": 4}, "category id 4"),
    ],
)
def test_a_wrong_box_is_refused_by_name(
    tmp_path: Path, annotation: dict[str, Any], message: str
) -> None:
    match = rf"boxes\.json: annotation 101 of image images/a\.png.*{message}"
    with pytest.raises(ValueError, match=match):
        read_coco(tmp_path, coco(NUCLEUS, annotation))


def test_upright_boxes_of_cvat_are_accepted(tmp_path: Path) -> None:
    attributes = {"occluded": False, "rotation": 0.0}
    assert len(read_coco(tmp_path, coco({**NUCLEUS, "attributes": attributes}))["a"].boxes) == 1


def image(key: int, name: str, **fields: Any) -> dict[str, Any]:
    return {"id": key, "file_name": name, **fields}


def test_shapes_stand_in_for_what_the_file_does_not_say(tmp_path: Path) -> None:
    beyond = {"bbox": [40, 30, 100, 100]}
    for size in ({}, {"height": 0, "width": 0}, {"height": None, "width": None}):
        data = coco(beyond, images=[image(7, "a.png", **size)])
        assert read_coco(tmp_path, data)["a"].boxes.tolist() == [[30, 40, 130, 140]]
        cut = read_coco(tmp_path, data, shapes={"a": SHAPE})["a"].boxes
        assert cut.tolist() == [[30, 40, 37, 53]]
        with pytest.raises(ValueError, match="outside"):
            read_coco(tmp_path, data, shapes={"a": (20, 20)})


def test_boxes_drawn_on_a_copy_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"drawn on 37 x 53 pixels .*the image has 74 x 106"):
        read_coco(tmp_path, coco(NUCLEUS), shapes={"a": (74, 106)})


def test_what_was_looked_for(tmp_path: Path) -> None:
    both = (NUCLEUS, {**NUCLEUS, "category_id": 3})

    def boxed(*annotations: dict[str, Any], exhaustive: bool = True, **fields: Any) -> Any:
        data = coco(*annotations, images=[image(7, "a.png", **fields)])
        found = read_coco(tmp_path, data, exhaustive=exhaustive)
        return found["a"].boxed_classes if found else None

    assert boxed(*both) == (1, 2)
    assert boxed(*both, not_exhaustive_category_ids=[5]) == (2,)
    assert boxed(*both, exhaustive=False) == ()
    assert boxed(NUCLEUS, neg_category_ids=[3, 9]) == (1, 2)
    assert boxed(NUCLEUS, neg_category_ids=[3], exhaustive=False) == (2,)
    assert boxed(neg_category_ids=[5]) == (1,)
    assert boxed() is None  # an image without annotations says nothing
    assert boxed(neg_category_ids=[], not_exhaustive_category_ids=[3]) is None
    with pytest.raises(ValueError, match=r"image a\.png: has boxes of 'nucleus'.*is absent"):
        boxed(NUCLEUS, neg_category_ids=[5])
    with pytest.raises(ValueError, match=r"image a\.png: neg_category_ids: .*id 11"):
        boxed(NUCLEUS, neg_category_ids=[11])
    with pytest.raises(ValueError, match="must be a list"):
        boxed(NUCLEUS, neg_category_ids=3)


def test_boxes_of_an_absent_class_are_an_empty_array(tmp_path: Path) -> None:
    data = coco(images=[image(7, "a.png", neg_category_ids=[5])])
    found = read_coco(tmp_path, data)["a"]
    assert found.boxes.shape == (0, 4)
    annotation = Annotation(boxes=found.boxes, boxed_classes=found.boxed_classes)
    assert not understand(annotation, SHAPE, 3).candidates[1].any()


def test_each_image_gets_its_own_boxes(tmp_path: Path) -> None:
    images = [image("x", r"C:\data\b.ome.tif"), image("y", "sub/a.png"), image("z", "c.png")]
    data = coco(
        {**NUCLEUS, "image_id": "y"}, {"bbox": [0, 0, 1, 2], "image_id": "x"}, images=images
    )
    found = read_coco(tmp_path, data)
    assert {stem: boxes.boxes.tolist() for stem, boxes in found.items()} == {
        "b": [[0, 0, 2, 1]],
        "a": [[5, 20, 17, 41]],
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ([{"image_id": 1, "bbox": [0, 0, 1, 1]}], "no COCO file.*not a list"),
        ({"images": [], "annotations": []}, "'categories' is missing"),
        ({"images": {}, "annotations": [], "categories": []}, "'images' is not a list"),
        ({"images": [], "annotations": [1], "categories": []}, "'annotations' is not a list"),
        (coco(images=[{"id": 7}]), "image 7: has no 'file_name'"),
        (coco(images=[{"file_name": "a.png"}]), "an image: has no 'id'"),
        (coco(images=[image(7, "a.png"), image(7, "b.png")]), "two images have the id 7"),
        (coco(images=[image(7, "a.png"), image(8, "x/a.jpg")]), "image 8: two images.* a "),
        (coco({**NUCLEUS, "image_id": 8}), "annotation 100: is of image 8, which is not"),
        (coco({**NUCLEUS, "image_id": None}), "annotation 100: its 'image_id' is None"),
        (coco({**NUCLEUS, "category_id": [5]}), r"its 'category_id' is \[5\]"),
        (
            {**coco(), "annotations": [{"image_id": 7, "bbox": [0, 0, 1, 1]}]},
            "annotation 'number 0' of image .* has no 'category_id'",
        ),
        ({**coco(), "categories": [{"id": 1}]}, "a category: has no 'name'"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"boxes\.json: .*{message}"):
        read_coco(tmp_path, data)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none"
    for read in (
        lambda: read_coco_boxes(path, CLASSES),
        lambda: read_points(path, CLASSES),
        lambda: read_tags(path, CLASSES),
        lambda: read_manifest(path, CLASSES),
    ):
        with pytest.raises(ValueError, match="none: there is no such file"):
            read()


def test_a_file_with_a_mark_of_its_encoding_is_read(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(coco(NUCLEUS)), encoding="utf-8-sig")
    assert list(read_coco_boxes(path, CLASSES)) == ["a"]


def test_the_file_and_the_size_that_it_states_are_kept(tmp_path: Path) -> None:
    found = read_coco(tmp_path, coco(NUCLEUS))["a"]
    assert found.where == f"{tmp_path / 'boxes.json'}: image a"
    assert found.drawn_on == SHAPE
    data = coco(NUCLEUS, images=[image(7, "a.png")])
    assert read_coco(tmp_path, data)["a"].drawn_on is None


# points.csv --------------------------------------------------------------------------------------


def test_points_on_the_corners_hit_the_corner_pixels(tmp_path: Path) -> None:
    corners = [(5, 20), (5, 40), (16, 20), (16, 40)]
    path = write(tmp_path, "image,y,x,class", *(f"a.png,{y},{x},nucleus" for y, x in corners))
    points, labels = read_points(path, CLASSES)["a"]
    assert points.dtype == np.float32
    assert labels.dtype == np.int64
    assert labels.tolist() == [1] * 4
    hit = np.zeros(SHAPE, bool)
    hit[tuple(pixel_of(points).T)] = True
    rows, columns = np.nonzero(hit)
    assert hit.sum() == 4
    assert (rows.min(), rows.max() + 1) == (ROWS.start, ROWS.stop)
    assert (columns.min(), columns.max() + 1) == (COLUMNS.start, COLUMNS.stop)
    known = understand(Annotation(points=points, point_labels=labels), SHAPE, 3)
    np.testing.assert_array_equal(known.labels, np.where(hit, mask(), UNKNOWN))


def test_columns_come_in_any_order_with_others_between(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Label, note,X ,Image,y",
        "nucleus,by Ann,20.25,cells/a.ome.tif,5.5",
        "",
        "2,,1,b,0",
        "debris,,2,a,3e0",
    )
    found = read_points(path, CLASSES)
    assert list(found) == ["a", "b"]
    assert found["a"][0].tolist() == [[5.5, 20.25], [3, 2]]
    assert found["a"][1].tolist() == [1, 2]
    assert found["b"][1].tolist() == [2]


def test_points_of_a_volume(tmp_path: Path) -> None:
    path = write(tmp_path, "image,x,y,z,class", "a,20,5,3,nucleus")
    assert read_points(path, CLASSES, spatial_dims=3)["a"][0].tolist() == [[3, 5, 20]]
    with pytest.raises(ValueError, match="has a column z, but spatial_dims is 2"):
        read_points(path, CLASSES)
    flat = write(tmp_path, "image,y,x,class", "a,5,20,nucleus")
    with pytest.raises(ValueError, match="lacks the column z"):
        read_points(flat, CLASSES, spatial_dims=3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_any_office(tmp_path: Path, delimiter: str, end: str, encoding: str) -> None:
    lines = [["image", "y", "x", "class"], ["é.png", "5.5", "20", "nucleus"], ["", "", "", ""]]
    path = write(tmp_path, *(delimiter.join(line) + end for line in lines), encoding=encoding)
    points, labels = read_points(path, CLASSES)["é"]
    assert (points.tolist(), labels.tolist()) == ([[5.5, 20]], [1])


def test_decimal_commas_of_a_german_office(tmp_path: Path) -> None:
    path = write(tmp_path, "image;y;x;class", "a;5,5;20,25;nucleus", 'b;"1,5";2;debris')
    found = read_points(path, CLASSES)
    assert found["a"][0].tolist() == [[5.5, 20.25]]
    assert found["b"][0].tolist() == [[1.5, 2]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,five,20,nucleus", "line 3: y is 'five', which is no number"),
        ("a,5,,nucleus", "line 3: x is '', which is no number"),
        ("a,nan,20,nucleus", "line 3: y is 'nan'"),
        ("a,5,-inf,nucleus", "line 3: x is '-inf'"),
        ("a,5,20,Nucleus", r"line 3: 'Nucleus' is no class; give one of \['background'"),
        ("a,5,20,3", "line 3: '3' is no class.* 0 to 2"),
        ("a,5,20,-1", "line 3: '-1' is no class"),
        ("a,5,20,", "line 3: the class is empty"),
        ("a,5", "line 3: x is ''"),
        (",5,20,nucleus", "line 3: the image is empty"),
        ("a,5,5,20,25,nucleus", "line 3: has 6 cells, but the header has 4.*write 1.5"),
        ("a,5\0,20,nucleus", "line 3: "),
    ],
)
def test_a_wrong_point_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, "image,y,x,class", "a,5,20,nucleus", line)
    with pytest.raises(ValueError, match=rf"table\.csv, {message}"):
        read_points(path, CLASSES)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,y,class", "lacks the column x; its first line is image, y, class"),
        ("image,y,x", "lacks the column class"),
        ("", "is empty"),
        ("image,y,x,class,Y", "two columns 'y'"),
        ("a.png,5,20,nucleus", "lacks the column image, y, x, class"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"table\.csv: .*{message}"):
        read_points(write(tmp_path, header), CLASSES)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused_with_the_remedy(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "image,y,x,class", "é,5,20,nucleus", encoding=encoding)
    with pytest.raises(ValueError, match=r"not in UTF-8.*CSV UTF-8"):
        read_points(path, CLASSES)


def test_no_point_is_no_error(tmp_path: Path) -> None:
    assert read_points(write(tmp_path, "image,y,x,class"), CLASSES) == {}


def test_a_class_name_goes_before_an_index(tmp_path: Path) -> None:
    path = write(tmp_path, "image,y,x,class", "a,0,0,1", "a,0,0,0")
    assert read_points(path, ["1", "one"])["a"][1].tolist() == [0, 0]


# tags.csv ----------------------------------------------------------------------------------------


def test_tags_of_each_kind(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "image,class,value",
        "a.png,nucleus,present",
        "a.png,debris,Absent",
        "b,nucleus,1",
        "b,background,yes",
        "c,0,-1",
        "c,1,0",
        "d,debris,unknown",
    )
    tags = read_tags(path, CLASSES)
    assert {stem: tag.tolist() for stem, tag in tags.items()} == {
        "a": [-1, 1, 0],
        "b": [1, 1, -1],
        "c": [-1, 0, -1],
        "d": [-1, -1, -1],
    }
    assert tags["a"].dtype == np.int8


def test_tags_without_values_are_present(tmp_path: Path) -> None:
    path = write(tmp_path, "image,tag", "a,nucleus", "a,nucleus", "a,debris")
    assert read_tags(path, CLASSES)["a"].tolist() == [-1, 1, 1]


def test_all_others_are_absent(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "image,class,value",
        "a,*,absent",
        "a,background,present",
        "a,nucleus,unknown",
        "b,debris,present",
    )
    tags = read_tags(path, CLASSES)
    assert tags["a"].tolist() == [1, -1, 0]
    assert tags["b"].tolist() == [-1, -1, 1]


def test_all_others_must_not_take_the_background_along(tmp_path: Path) -> None:
    path = write(tmp_path, "image,class,value", "a,nucleus,present", "a,*,absent")
    with pytest.raises(ValueError, match=r"image a would rule out 'background'.*a,background,pres"):
        read_tags(path, CLASSES)
    assert read_tags(path, ["membrane", "nucleus", "debris"])["a"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,nucleus,present", "a.png,1,absent"], "line 3: contradicts line 2.*'1' in a.png"),
        (["a,nucleus,present", "a,nucleus,unknown"], "line 3: contradicts line 2"),
        (["a,*,absent", "a,*,unknown"], "line 3: contradicts line 2"),
        (["a,nucleus,maybe"], "line 2: the value is 'maybe'; it can be present"),
        (["a,nucleus,"], "line 2: the value is ''"),
        (["a,cell,present"], "line 2: 'cell' is no class"),
        ([",nucleus,present"], "line 2: the image is empty"),
        (["a,*,present"], "line 2: '\\*' can be absent, not present"),
        (
            ["a,0,absent", "a,1,absent", "a,2,absent"],
            "every class is absent from image a",
        ),
    ],
)
def test_wrong_tags_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path, "image,class,value", *lines)
    with pytest.raises(ValueError, match=rf"table\.csv.*{message}"):
        read_tags(path, CLASSES)


# manifest.csv ------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_manifest(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.ome.tif", "i/b.png", "m/a.png", "s/b.png", "v/b.png", "c.h5")
    path = write(
        tmp_path,
        "image,mask,scribbles,instances,valid,split,group,annotated_classes,note",
        "i/a.ome.tif,m/a.png,,,,train,mouse 1,nucleus;background,",
        r"i\b.png,,s/b.png,,v/b.png,VAL,,,hello",
        f"{tmp_path}/c.h5:/raw,,,c.h5:/ids",
    )
    assert read_manifest(path, CLASSES) == [
        ManifestRow(
            stem="a",
            image=str(tmp_path / "i/a.ome.tif"),
            mask=str(tmp_path / "m/a.png"),
            split="train",
            group="mouse 1",
            annotated_classes=(0, 1),
        ),
        ManifestRow(
            stem="b",
            image=str(tmp_path / "i/b.png"),
            scribbles=str(tmp_path / "s/b.png"),
            valid=str(tmp_path / "v/b.png"),
            split="val",
        ),
        ManifestRow(
            stem="c", image=f"{tmp_path / 'c.h5'}:/raw", instances=f"{tmp_path / 'c.h5'}:/ids"
        ),
    ]


def test_a_manifest_from_a_german_office(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a_mask.png")
    path = write(
        tmp_path, "image;mask;annotated_classes", 'a.png;a_mask.png;"nucleus; 2"', encoding="utf-8"
    )
    assert read_manifest(path, CLASSES)[0].annotated_classes == (1, 2)


def test_a_name_tells_apart_what_the_files_do_not(tmp_path: Path) -> None:
    touch(tmp_path, "c.h5")
    path = write(tmp_path, "name,image", "one,c.h5:/1", "two,c.h5:/2", ",c.h5:/3")
    assert [row.stem for row in read_manifest(path, CLASSES)] == ["one", "two", "c"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image", "a.png", "none.png"], r", line 3: the image .*none\.png does not exist"),
        (["image,mask", "a.png,none.png"], r", line 2: the mask .*none\.png does not exist"),
        (["image", "none.h5:/raw"], r", line 2: the image .*none\.h5 does not exist"),
        (["image,mask", ",a.png"], ", line 2: the image is empty"),
        (["image", "a.png", "x/a.png"], ", line 3: .*name 'a', and so has line 2"),
        (["image,split", "a.png,training"], ", line 2: split is 'training'; it can be train"),
        (["image,mask,annotated_classes", "a.png,a.png,cell"], ", line 2: 'cell' is no class"),
        (["image,annotated_classes", "a.png,nucleus"], ", line 2: has annotated_classes"),
        (["mask", "a.png"], ": lacks the column image"),
        (["image"], ": lists no image"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    touch(tmp_path, "a.png", "x/a.png")
    with pytest.raises(ValueError, match=rf"table\.csv{message}"):
        read_manifest(write(tmp_path, *lines), CLASSES)


# Checks ------------------------------------------------------------------------------------------


def test_annotations_of_images_that_are_there_are_accepted() -> None:
    check_stems(["a"], ["a", "b"], "points.csv")
    check_stems({}, [], "points.csv")


def test_annotations_of_missing_images_are_refused_with_a_guess() -> None:
    images = ["cell_01", "cell_02", "other"]
    with pytest.raises(
        ValueError, match=r"points\.csv: .*for 2 .*cel_01 \(is it cell_01\?\), zz\."
    ):
        check_stems(["zz", "other", "cel_01"], images, "points.csv")
    with pytest.raises(ValueError, match=r"3f2a1b4c-cell_02 \(is it cell_02\?\)"):
        check_stems(["3f2a1b4c-cell_02"], images, "boxes.json")
    with pytest.raises(ValueError, match=r"for 9 .* and 4 more"):
        check_stems([str(i) for i in range(9)], images, "boxes.json")


def test_points_on_the_image_are_accepted() -> None:
    points = np.array([[-0.5, 0], [36.49, 52.49]], np.float32)
    assert check_points(points, SHAPE, "a.png") is points
    check_points(np.zeros((0, 2), np.float32), SHAPE, "a.png")


@pytest.mark.parametrize("point", [[-0.51, 0], [36.5, 0], [0, 52.5], [0, -1]])
def test_a_point_outside_is_refused(point: list[float]) -> None:
    points = np.array([[36, 52], point], np.float32)
    with pytest.raises(ValueError, match=r"a\.png: 1 of 2 points.*\(y, x\) = .*37 x 53") as caught:
        check_points(points, SHAPE, "a.png")
    assert "exchanged" not in str(caught.value)


def test_exchanged_coordinates_are_guessed() -> None:
    with pytest.raises(ValueError, match="inside with y and x exchanged"):
        check_points(np.array([[50, 3], [2, 2]], np.float32), SHAPE, "a.png")
    with pytest.raises(ValueError, match="has 3 dimensions, but its points have 2"):
        check_points(np.zeros((1, 2), np.float32), (7, *SHAPE), "a.tif")


def test_boxes_are_cut_off_at_the_image() -> None:
    boxes = np.array([[5, 20, 17, 41], [-3, -4, 1, 2], [36, 50, 40, 60]], np.float32)
    cut = check_boxes(boxes, SHAPE, "a.png")
    assert cut.dtype == np.float32
    assert cut.tolist() == [[5, 20, 17, 41], [0, 0, 1, 2], [36, 50, 37, 53]]
    assert check_boxes(np.zeros((0, 4), np.float32), SHAPE, "a.png").shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 20, 4, 41], "reversed"),
        ([5, 20, 17, 20], "empty"),
        ([37, 0, 40, 10], "outside"),
        ([0, -5, 4, 0], "outside"),
        ([0, 0, np.inf, 4], "no finite number"),
    ],
)
def test_a_box_that_is_none_on_the_image_is_refused(box: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.png: the box \(y, x\) = .* to .*{message}"):
        check_boxes(np.array([box], np.float32), SHAPE, "a.png")


def test_boxes_of_a_volume() -> None:
    box = np.array([[1, 5, 20, 9, 17, 41]], np.float32)
    assert check_boxes(box, (7, *SHAPE), "a.tif").tolist() == [[1, 5, 20, 7, 17, 41]]
    with pytest.raises(ValueError, match="have 4 numbers, not 6"):
        check_boxes(box[:, :4], (7, *SHAPE), "a.tif")
