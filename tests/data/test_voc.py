"""Boxes in PASCAL VOC form: a rectangle in an image that is not square, and wrong files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import real_data

from semiweak import MixedAnnotationDataModule
from semiweak.data.annotations import Annotation, pixels_of_box
from semiweak.data.formats import BoxAnnotations, read_voc_boxes
from semiweak.data.knowledge import understand

SHAPE = (37, 53)
ROWS, COLUMNS = slice(5, 17), slice(20, 41)
CLASSES = ["background", "nucleus", "debris"]
NUCLEUS = {"xmin": 21, "ymin": 6, "xmax": 41, "ymax": 17}  # its first and last pixels, from 1
SIZE = f"<size><width>{SHAPE[1]}</width><height>{SHAPE[0]}</height><depth>3</depth></size>"


def thing(name: str = "nucleus", more: str = "", **sides: object) -> str:
    """An object; of the rectangle's sides, those that are not given."""
    box = "".join(f"<{k}>{v}</{k}>" for k, v in (NUCLEUS | sides).items() if v is not None)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def file(*objects: str, size: str = SIZE) -> str:
    return f"<annotation><filename>old.jpg</filename>{size}{''.join(objects)}</annotation>"


def read(
    folder: Path, text: str | bytes, name: str = "a.xml", *, exhaustive: bool = True
) -> dict[str, BoxAnnotations]:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_voc_boxes(folder, CLASSES, exhaustive=exhaustive)


# What is read


def test_the_box_is_the_rectangle(tmp_path: Path) -> None:
    found = read(tmp_path, file(thing()))
    assert list(found) == ["a"]  # not `old`
    boxes = found["a"]
    assert boxes.boxes.dtype == np.float32
    assert boxes.labels.dtype == np.int64
    assert boxes.boxes.tolist() == [[5, 20, 17, 41]]
    assert pixels_of_box(boxes.boxes[0], SHAPE) == (ROWS, COLUMNS)
    assert boxes.labels.tolist() == [1]
    assert boxes.crowd.tolist() == [False]
    assert boxes.boxed_classes == (1,)
    assert (boxes.where, boxes.drawn_on) == (str(tmp_path / "a.xml"), SHAPE)


def test_the_box_allows_the_nucleus_inside_alone(tmp_path: Path) -> None:
    found = read(tmp_path, file(thing()))["a"]
    said = Annotation(boxes=found.boxes, box_labels=found.labels, boxed_classes=found.boxed_classes)
    candidates = understand(said, SHAPE, 3).candidates
    expected = np.zeros(SHAPE, bool)
    expected[ROWS, COLUMNS] = True
    np.testing.assert_array_equal(candidates[1], expected)
    assert candidates[0].all()  # nobody boxed background or debris
    assert candidates[2].all()


def test_the_whole_image_and_one_pixel(tmp_path: Path) -> None:
    whole = thing(xmin=1, ymin=1, xmax=SHAPE[1], ymax=SHAPE[0])
    pixel = thing(xmin=53, ymin=37, xmax=53, ymax=37)
    found = read(tmp_path, file(whole, pixel))["a"].boxes
    assert found.tolist() == [[0, 0, 37, 53], [36, 52, 37, 53]]


def test_fractions_and_spaces(tmp_path: Path) -> None:
    found = read(tmp_path, file(thing(" nucleus\n", xmin=" 21.25 ", ymax="16.5")))["a"]
    assert found.boxes.tolist() == [[5, 20.25, 16.5, 41]]


def test_a_box_that_reaches_beyond_the_image_is_cut_off(tmp_path: Path) -> None:
    beyond = thing(xmin=0, ymin=-3, xmax=60, ymax=38)
    assert read(tmp_path, file(beyond))["a"].boxes.tolist() == [[0, 0, 37, 53]]
    for size in ("", "<size><width>0</width><height>0</height></size>", "<size><width/></size>"):
        found = read(tmp_path, file(beyond, size=size))["a"]
        assert found.boxes.tolist() == [[-4, -1, 38, 60]]
        assert found.drawn_on is None


def test_the_size_may_be_written_with_a_point(tmp_path: Path) -> None:
    size = "<size><width>53.0</width><height>37.0</height></size>"
    assert read(tmp_path, file(thing(), size=size))["a"].drawn_on == SHAPE


def test_what_was_looked_for(tmp_path: Path) -> None:
    both = file(thing("debris"), thing(), thing("debris"))
    found = read(tmp_path, both)["a"]
    assert found.labels.tolist() == [2, 1, 2]
    assert found.boxed_classes == (1, 2)
    assert read(tmp_path, both, exhaustive=False)["a"].boxed_classes == ()
    assert read(tmp_path, file()) == {}  # a file without objects says nothing


def test_difficult_and_parts_make_no_difference(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    more = f"<difficult>1</difficult><truncated>1</truncated>{part}"
    found = read(tmp_path, file(thing(more=more)))["a"]
    assert found.boxes.tolist() == [[5, 20, 17, 41]]
    assert found.boxed_classes == (1,)


def test_files_by_the_stem_of_their_image(tmp_path: Path) -> None:
    (tmp_path / "b.ome.tif.XML").write_text(file(thing("debris")))
    (tmp_path / "._a.xml").write_bytes(b"\0\5\26")  # of a Mac
    (tmp_path / "classes.txt").write_text("nucleus")
    found = read(tmp_path, file(thing()), "plate.7.xml")
    assert {stem: boxes.labels.tolist() for stem, boxes in found.items()} == {
        "b": [2],
        "plate.7": [1],
    }
    (tmp_path / "b.xml").write_text(file())
    with pytest.raises(ValueError, match=r"b\.ome\.tif\.XML and .*b\.xml are of one image"):
        read_voc_boxes(tmp_path, CLASSES)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_files_of_any_encoding(tmp_path: Path, encoding: str) -> None:
    declared = f"<?xml version='1.0' encoding='{encoding.removesuffix('-sig')}'?><!-- é -->"
    assert list(read(tmp_path, (declared + file(thing())).encode(encoding))) == ["a"]


# What is refused


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (thing(xmin=41, xmax=21), r"\(nucleus\): .* 41, 6, 21, 17 .* is reversed"),
        (thing(ymin=17, ymax=6), "is reversed"),
        (thing(xmin=42), "is reversed"),  # by one: half open it would be empty
        (thing(xmin=54, xmax=60), "outside the image, which has 37 x 53 pixels"),
        (thing(ymin=38, ymax=60), "outside"),
        (thing(xmin=-5, xmax=0), "outside"),
        (thing(xmax="nan"), "no finite number"),
        (thing(xmax="inf"), "no finite number"),
        (thing(xmax=None), r"\(nucleus\): its bndbox has no xmax"),
        (thing(ymin="six"), "its ymin is 'six', not a number"),
        (thing(ymin=""), "its ymin is '', not a number"),
        ("<object><name>nucleus</name></object>", "has no bndbox"),
        ("<object><name>nucleus</name><polygon/></object>", "has no bndbox"),
        (thing("scale bar"), r"the name 'scale bar', .*\['background', 'nucleus', 'debris'\]"),
        (thing("Nucleus"), "the name 'Nucleus'"),
        ("<object><bndbox/></object>", "the name ''"),
    ],
)
def test_a_wrong_object_is_refused_by_file_and_number(
    tmp_path: Path, wrong: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"a\.xml: object 2.*{message}") as told:
        read(tmp_path, file(thing(), wrong))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as XML: no element"),
        (file(thing())[:-20], "cannot be read as XML"),
        (b"\x89PNG\r\n", "cannot be read as XML"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "cannot be read as XML"),
        ("<annotation>&nucleus;</annotation>", "cannot be read as XML: undefined entity"),
        ("<annotations><image/></annotations>", "no PASCAL VOC file: .* not a <annotations>"),
    ],
)
def test_what_is_no_voc_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.xml: .*{message}"):
        read(tmp_path, text)


ENTITY = "<!DOCTYPE annotation [<!ENTITY e 'nucleus'>]>"
OUTSIDE = "<!DOCTYPE annotation SYSTEM 'voc.dtd'>"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "ascii"])
@pytest.mark.parametrize("doctype", [ENTITY, OUTSIDE])
def test_entities_are_never_expanded(tmp_path: Path, doctype: str, encoding: str) -> None:
    text = doctype + file(thing("&e;" if doctype == ENTITY else "nucleus"))
    with pytest.raises(ValueError, match=r"a\.xml: has a DOCTYPE, .* is refused"):
        read(tmp_path, text.encode(encoding))


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no XML files"):
        read_voc_boxes(tmp_path, CLASSES)
    with pytest.raises(ValueError, match="none: there is no such folder"):
        read_voc_boxes(tmp_path / "none", CLASSES)


# Real data


def test_boxes_of_the_real_blood_cells() -> None:
    names = ["background", "RBC", "WBC", "Platelets"]
    data = MixedAnnotationDataModule(str(real_data("bccd")), class_names=names, val=0)
    counted: Counter[str] = Counter()
    for source in data.sources():
        said = source.read().annotation
        assert said.kinds() == ("boxes",)
        assert (said.boxes[:, :2] < said.boxes[:, 2:]).all()
        counted.update(names[label] for label in said.box_labels.tolist())
    assert counted == {"RBC": 682, "WBC": 60, "Platelets": 60}
