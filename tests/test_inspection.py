"""What `semiweak inspect` says of a folder, counted by hand, and the picture that it leaves."""

import re
import shutil

import numpy as np
import pytest
from conftest import ROOT
from mixed_folder import (
    SHAPE,
    coco,
    fit,
    folder_options,
    mixed_folder,
    refused,
    run,
    save,
    truth,
)
from PIL import Image

PIXELS = SHAPE[0] * SHAPE[1]
CELL, NUCLEUS = 10 * 12, 8 * 11


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return mixed_folder(tmp_path / "mine")


@pytest.fixture
def inspect(capsys):
    def said(folder, *options, **data):
        run("inspect", *folder_options(folder, **data), *options)
        return capsys.readouterr().out

    return said


def table(text, title):
    """The rows of a table by their first cell."""
    lines = text.splitlines()
    first = lines.index(title) + 1
    end = next(i for i in range(first, len(lines)) if not lines[i].startswith("  "))
    head, _, *rows = (re.split(r"  +", line.strip()) for line in lines[first:end])
    return {cells[0]: dict(zip(head[1:], cells[1:], strict=True)) for cells in rows}


def percent(pixels, images):
    return f"{100 * pixels / (images * PIXELS):.3g} %"


def test_the_numbers_are_right(folder, inspect):
    background = PIXELS - CELL - NUCLEUS
    found = table(inspect(folder, val=0), "train: 8 images")
    assert list(found) == ["mask", "boxes", "points", "tags", "none"]
    assert found["mask"] == {
        "images": "4",
        "known pixels": "50 %",
        "background": f"{4 * background:,} px",
        "cell": f"{4 * CELL} px",
        "nucleus": f"{4 * NUCLEUS} px",
    }
    nothing = {"known pixels": "-", "background": "-", "cell": "-", "nucleus": "-"}
    assert found["boxes"] == nothing | {"images": "1", "cell": "1 boxes"}
    assert found["points"] == nothing | {
        "images": "1",
        "known pixels": percent(2, 8),
        "cell": "1 points",
        "nucleus": "1 points",
    }
    assert found["tags"] == nothing | {"images": "1", "cell": "1 present", "nucleus": "1 absent"}
    assert found["none"] == nothing | {"images": "1"}


def test_each_part_has_a_table(folder, inspect):
    text = inspect(folder, val=1, test=["im0"])
    assert table(text, "train: 6 images")["mask"]["images"] == "2"
    for part in ("val", "test"):
        found = table(text, f"{part}: 1 images")
        assert list(found) == ["mask"]
        assert found["mask"]["known pixels"] == "100 %"
        assert found["mask"]["cell"] == "120 px"
    assert "will stop" not in text


def test_an_image_with_every_annotation_counts_once_in_each_row(folder, inspect):
    """Strokes, clicks and a partial mask of one image are told apart."""
    strokes = np.full(SHAPE, 255, np.uint8)
    strokes[2, 2:9] = 0
    save(folder / "scribbles" / "im0.png", strokes)
    save(folder / "scribbles" / "im5.png", strokes)
    partial = np.full(SHAPE, 255, np.uint8)
    partial[6:9, 9:13] = 1
    save(folder / "masks" / "im7.png", partial)
    (folder / "points.csv").write_text(
        "image,y,x,class\nim0,6,9,cell\nim5,6,9,cell\nim5,0,0,background\n"
    )
    (folder / "boxes.json").write_text(coco([[8, 5, 12, 10], [0, 0, 3, 3]], file_name="im0.png"))
    found = table(inspect(folder, val=0), "train: 8 images")
    assert found["mask"]["images"] == "4"
    assert found["mask"]["cell"] == f"{4 * CELL} px"
    assert found["scribbles"] == {
        "images": "3",
        "known pixels": percent(7 + 7 + 12, 8),
        "background": "14 px",
        "cell": "12 px",
        "nucleus": "-",
    }
    assert found["points"]["images"] == "2"
    assert found["points"]["cell"] == "2 points"
    assert found["points"]["known pixels"] == percent(3, 8)
    assert found["boxes"]["cell"] == "2 boxes"
    assert found["none"]["images"] == "1"  # im4, which has lost its box


def test_what_nobody_looked_at_is_not_known(folder, inspect):
    for i in range(4):
        valid = np.zeros(SHAPE, np.uint8)
        valid[5:10, 8:20] = 1  # the upper half of the cell
        save(folder / "valid" / f"im{i}.png", valid)
    found = table(inspect(folder, val=0), "train: 8 images")
    assert "mask" not in found  # none is complete any more
    assert found["scribbles"]["cell"] == f"{4 * CELL // 2} px"
    assert found["scribbles"]["background"] == "-"


def test_what_a_method_uses_and_ignores(folder, inspect):
    used = table(inspect(folder), "what each method learns from the training images")
    row = used["SupervisedModule"]
    assert row["mask"] == "cross-entropy and Dice on every painted pixel"
    assert row["points"] == "cross-entropy and Dice on the clicked pixels"
    assert (row["boxes"], row["tags"], row["none"]) == ("ignored",) * 3
    assert "scribbles" not in row  # there are none


def test_contradictions_name_image_and_place(folder, inspect):
    assert "\ncontradictions: 0\n" in inspect(folder)
    (folder / "tags.csv").write_text("image,class,value\nim1,cell,absent\nim3,nucleus,absent\n")
    (folder / "points.csv").write_text("image,y,x,class\nim2,6,9,nucleus\n")
    text = inspect(folder, "--overwrite", "true", val=["im3"])  # also in a validation image
    assert "\ncontradictions: 3\n" in text
    assert re.search(rf"  im1 at \(5, 8\): .* a tag.* \({CELL} pixels\)\n", text)
    assert "  im2 at (6, 9): painted or clicked as two different classes (1 pixels)\n" in text
    assert re.search(rf"  im3 at \(20, 25\): .* a tag.* \({NUCLEUS} pixels\)\n", text)


def test_what_the_model_must_be_given(folder, inspect):
    text = inspect(folder)
    assert "for the model: in_channels: 1, num_classes: 3, spatial_dims: 2\n" in text


# The contact sheet


def test_the_contact_sheet_is_a_picture_of_the_images(folder, inspect):
    text = inspect(folder, "--sheet", "sheets/first.png", val=0)
    assert "contact sheet of the training images: sheets/first.png" in text
    first = np.array(Image.open("sheets/first.png"))
    assert first.ndim == 3
    assert first.shape[0] >= SHAPE[0]
    assert first.shape[1] >= SHAPE[1]
    assert len(np.unique(first.reshape(-1, first.shape[-1]), axis=0)) > 50
    shutil.rmtree(folder / "masks")
    inspect(folder, "--sheet", "sheets/second.png", val=0)
    second = np.array(Image.open("sheets/second.png"))
    assert first.shape != second.shape or (first != second).any()  # the masks are drawn


def test_it_is_not_overwritten_unless_told(folder, inspect, tmp_path):
    sheet = tmp_path / "inspect.png"
    sheet.write_text("mine")
    line = refused(inspect, folder)
    assert line == "error: inspect.png exists; pass --overwrite true to replace it"
    assert sheet.read_text() == "mine"
    inspect(folder, "--overwrite", "true")
    assert np.array(Image.open(sheet)).shape[1] >= SHAPE[1]


# Data that cannot be trained on as they are


def test_without_any_mask(folder, inspect):
    shutil.rmtree(folder / "masks")
    text = inspect(folder, val=0.2, test=1)
    assert text.startswith("cannot be split for training: test is 1, but of the completely paint")
    found = table(text, "train: 8 images")
    assert list(found) == ["boxes", "points", "tags", "none"]
    assert found["none"]["images"] == "5"


def test_images_alone(folder, inspect):
    shutil.rmtree(folder / "masks")
    for name in ("boxes.json", "points.csv", "tags.csv"):
        (folder / name).unlink()
    found = table(inspect(folder), "train: 8 images")
    assert list(found) == ["none"]
    assert found["none"]["images"] == "8"


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ({"val": 9}, "val is 9, but of the completely painted images"),
        ({"val": ["im99"]}, "val lists images that do not exist: im99"),
        ({"fold": 0, "num_folds": 8}, r"fold 0 of 8 has no image for (val|test)"),
        ({"fold": 0, "num_folds": 9}, "num_folds is 9; with 8 groups it must be 2 to 8"),
        ({"val": 4, "test": 0}, None),
    ],
)
def test_a_split_that_is_not_possible(folder, inspect, split, reason):
    text = inspect(folder, **split)
    if reason is None:
        assert text.startswith("train: 4 images")
    else:
        assert re.match(f"cannot be split for training: {reason}", text)
        assert table(text, "train: 8 images")["mask"]["images"] == "4"


def test_validation_images_without_a_mask(folder, inspect):
    text = inspect(folder, val=["im0", "im5", "im7"])
    assert list(table(text, "val: 3 images")) == ["mask", "points", "none"]
    assert "without a complete mask, so that val will stop: im5, im7" in text


def test_objects(folder, inspect):
    ids = np.zeros(SHAPE, np.uint16)
    ids[truth() == 1], ids[truth() == 2] = 300, 7
    for i in range(2):
        save(folder / "instances" / f"im{i}.tif", ids)
    text = inspect(folder, task="instances", class_names=[], val=0)
    found = table(text, "train: 8 images")
    assert list(found) == ["objects", "none"]
    assert found["objects"]["images"] == "2"
    assert found["objects"]["known pixels"] == percent(2 * (CELL + NUCLEUS), 8)
    assert found["objects"]["objects"] == "4"
    assert found["objects"]["in an image"] == "2 to 2"
    assert found["none"]["images"] == "6"
    assert "for the model: in_channels: 1, spatial_dims: 2" in text
    assert "num_classes" not in text
    assert "SupervisedModule" not in text  # it learns nothing from objects
    options = {"task": "instances", "class_names": [], "val": ["im0", "im5"]}
    text = inspect(folder, "--overwrite", "true", **options)
    assert "without all objects painted, so that val will stop: im0, im5" in text


def test_complete_and_sampled_objects(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def said(*options):
        drawn = ("--data.num_train", "3", "--data.num_test", "0", "--data.size", "64")
        cells = ("--data.scene", "cells", "--data.task", "instances")
        run("inspect", "--data", "SyntheticDataModule", *cells, *drawn, *options)
        return capsys.readouterr().out

    found = table(said(), "train: 3 images")
    assert list(found) == ["instances"]
    assert found["instances"]["known pixels"] == "100 %"
    assert int(found["instances"]["objects"]) > 3
    text = said("--data.object_budget", "2", "--overwrite", "true")
    assert table(text, "train: 3 images")["objects"]["objects"] == "2"
    assert list(table(text, "val: 4 images")) == ["instances"]


def test_volumes(tmp_path, monkeypatch, inspect):
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((6, 24, 20), np.uint8)
    mask[1:4, 5:15, 5:15] = 1
    for i in range(2):
        save(tmp_path / "stacks" / "images" / f"s{i}.tif", mask * 90)
    save(tmp_path / "stacks" / "masks" / "s0.tif", mask)
    (tmp_path / "stacks" / "points.csv").write_text("image,z,y,x,class\ns1,2,6,7,cell\n")
    text = inspect("stacks", spatial_dims=3, patch_size=16, val=0)
    found = table(text, "train: 2 images")
    assert found["mask"]["cell"] == "300 px"
    assert found["points"]["cell"] == "1 points"
    assert "spatial_dims: 3" in text
    assert len(np.unique(np.array(Image.open("inspect.png")))) > 2


# Configurations of a training


def test_the_configuration_that_a_training_saved(folder, inspect, capsys, tmp_path):
    fit(folder, val=1)
    capsys.readouterr()
    run("inspect", "--config", "runs/version_0/config.yaml", "--sheet", "a.png")
    told = capsys.readouterr().out
    assert told.replace("a.png", "b.png") == inspect(folder, "--sheet", "b.png", val=1)


def test_an_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("--data.num_train", "3", "--data.num_val", "1", "--data.num_test", "1")
    config = ROOT / "examples" / "supervised_synthetic.yaml"
    run("inspect", "--config", config, *small, "--data.size", "40")
    text = capsys.readouterr().out
    assert table(text, "train: 3 images")["mask"]["known pixels"] == "100 %"
    assert "num_classes: 4" in text


def test_weakening_is_told(folder, inspect):
    shutil.rmtree(folder / "images")
    for i in range(4):
        save(folder / "images" / f"im{i}.png", np.arange(PIXELS, dtype=np.uint8).reshape(SHAPE))
    for name in ("boxes.json", "points.csv", "tags.csv"):
        (folder / name).unlink()
    weaken = ("--data.weaken.acr", "2", "--data.weaken.boxes", "1")
    text = inspect(folder, *weaken, val=0)
    found = table(text, "train: 4 images")
    assert found["mask"]["images"] == "2"
    assert found["boxes"]["cell"] == "2 boxes"
    assert "Annotation of 4 training images: complete mask 2 (50 %), boxes 2 (50 %)" in text
