"""A folder as annotators leave it: what is read, and what is said of what is wrong."""

import json
import logging
import re
import shutil

import h5py
import numpy as np
import pytest
import tifffile
from mixed_folder import (
    CELL,
    CLASSES,
    NUCLEUS,
    SHAPE,
    coco,
    fit,
    folder_options,
    mixed_folder,
    picture,
    refused,
    run,
    save,
    truth,
)

from semiweak import MixedAnnotationDataModule
from semiweak.data.annotations import UNKNOWN


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return mixed_folder(tmp_path / "mine")


@pytest.fixture
def told(caplog, monkeypatch):
    """What Lightning's logger tells the user."""
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "propagate", True)
    return caplog


def module(root, **arguments):
    arguments = {"class_names": CLASSES, "val": 0, "patch_size": 32, "num_workers": 0} | arguments
    return MixedAnnotationDataModule(None if root is None else str(root), **arguments)


def fitted(root, **arguments):
    data = module(root, **arguments)
    data.setup("fit")
    return data


def read(data):
    """All samples by name."""
    return {source.name: source.read() for source in data.sources()}


def names(data, part):
    return [source.name for source in data.part(part)]


def stacks(root, n=2, shape=(6, 24, 20)):
    for i in range(n):
        mask = np.zeros(shape, np.uint8)
        mask[1:4, 5:15, 5:15] = 1
        save(root / "images" / f"stack{i}.tif", picture(i, mask))
        save(root / "masks" / f"stack{i}.tif", mask)
    return root


# What is read


def test_every_annotation_comes_to_its_image(folder):
    samples = read(module(folder))
    assert list(samples) == [f"im{i}" for i in range(8)]
    for i, sample in enumerate(samples.values()):
        assert sample.image.dtype == np.uint8
        assert (sample.image == picture(i)).all()
    kinds = [sample.annotation.kinds() for sample in samples.values()]
    assert kinds == [("mask",)] * 4 + [("boxes",), ("points",), ("tags",), ("none",)]
    assert (samples["im2"].annotation.mask == truth()).all()
    said = samples["im4"].annotation
    assert said.boxes.tolist() == [[5, 8, 15, 20]]  # y and x first
    assert said.box_labels.tolist() == [1]
    assert said.boxed_classes == (1,)
    said = samples["im5"].annotation
    assert said.points.tolist() == [[10, 12], [24, 30]]
    assert said.point_labels.tolist() == [1, 2]
    assert samples["im6"].annotation.tags.tolist() == [-1, 1, 0]


def test_one_image_may_have_every_annotation(folder):
    for name in ("boxes.json", "points.csv", "tags.csv"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("im4", "im0").replace("im5", "im0"))
    (folder / "tags.csv").write_text("image,class,value\nim0,cell,present\n")
    valid = np.zeros(SHAPE, np.uint8)
    valid[:30] = 255
    strokes = np.full(SHAPE, UNKNOWN, np.uint8)
    strokes[2, 2:9] = 0
    ids = np.zeros(SHAPE, np.uint16)
    ids[CELL], ids[NUCLEUS] = 300, 7
    save(folder / "valid" / "im0.png", valid)
    save(folder / "scribbles" / "im0.tif", strokes)
    save(folder / "instances" / "im0.tif", ids)
    save(folder / "masks" / "im0.png", np.where(truth() == 1, 1, UNKNOWN).astype(np.uint8))
    said = read(module(folder))["im0"].annotation
    assert said.kinds() == ("scribbles", "boxes", "points", "tags")
    assert (said.valid == (valid > 0)).all()
    assert (said.scribbles == strokes).all()
    assert said.instances is None  # semantic methods know no objects
    said = read(module(folder, task="instances", class_names=None))["im0"].annotation
    assert (said.instances == ids).all()
    assert said.mask is None


def test_images_may_lie_in_the_folder_itself(tmp_path):
    for i in range(2):
        save(tmp_path / f"im{i}.png", picture(i))
    save(tmp_path / "masks" / "im1.tif", truth())  # of another format than its image
    (tmp_path / "notes.txt").write_text("of Tuesday")
    (tmp_path / ".im0.png").write_text("left by a program")
    samples = read(module(tmp_path))
    assert list(samples) == ["im0", "im1"]
    assert samples["im0"].annotation.kind() == "none"
    assert (samples["im1"].annotation.mask == truth()).all()


def test_an_empty_folder_for_masks_to_come_is_no_error(folder):
    shutil.rmtree(folder / "masks")
    (folder / "masks").mkdir()
    (folder / "masks" / ".DS_Store").write_text("")
    assert names(fitted(folder), "train") == [f"im{i}" for i in range(8)]
    (folder / "masks" / "im0.npy").write_text("")
    with pytest.raises(ValueError, match=r"masks: has no images; files of these kinds are read"):
        fitted(folder)


def test_black_and_white_and_coloured_masks(folder):
    shutil.rmtree(folder / "masks")
    for i in range(2):
        save(folder / "masks" / f"im{i}.png", (truth() > 0).astype(np.uint8) * 255)
    with pytest.raises(ValueError, match=r"im0\.png: .* mask_values does not list: 255 \(208 pix"):
        fitted(folder, mask_values={0: 0, 7: 1})
    samples = read(module(folder, mask_values={0: 0, 255: 2}))
    assert (samples["im0"].annotation.mask == 2 * (truth() > 0)).all()
    for i in range(2):
        save(folder / "masks" / f"im{i}.png", np.eye(3, dtype=np.uint8)[truth()] * 255)
    colours = {"#ff0000": 0, "#00ff00": 1, "#0000ff": 255}
    samples = read(module(folder, mask_values=colours))
    assert (samples["im1"].annotation.mask == np.where(truth() == 2, UNKNOWN, truth())).all()


def test_a_black_and_white_mask_is_not_taken_for_unknown(folder):
    for name in ("boxes.json", "points.csv", "tags.csv"):
        (folder / name).unlink()
    for i in range(4):
        save(folder / "masks" / f"im{i}.png", (truth() > 0).astype(np.uint8) * 255)
    two = {"class_names": ["background", "cell"]}
    line = refused(run, "inspect", *folder_options(folder, **two))
    assert "masks/im0.png: holds only 0 and 255" in line
    assert "mask_values: {0: 0, 255: 1}" in line
    run("inspect", *folder_options(folder, mask_values="{0: 0, 255: 1}", **two))
    unknown = module(folder, mask_values={0: 0, 1: 1, 255: 255}, **two)
    assert read(unknown)["im0"].annotation.kind() == "scribbles"
    # Nobody paints a few strokes in black and white.
    (folder / "masks").rename(folder / "scribbles")
    assert read(module(folder, **two))["im0"].annotation.kind() == "scribbles"


def test_boxes_that_are_not_exhaustive(folder):
    strict = read(module(folder))["im4"]
    loose = read(module(folder, boxes_exhaustive=False))["im4"]
    assert strict.annotation.boxed_classes == (1,)
    assert loose.annotation.boxed_classes == ()
    assert len(loose.annotation.boxes) == 1


@pytest.mark.parametrize("filled", [False, True])
def test_filled_boxes(folder, filled):
    said = read(module(folder, boxes_filled=filled))["im4"].annotation
    assert said.boxes_filled is filled


@pytest.mark.parametrize(
    ("images", "boxes"), [("images", "boxes"), ("JPEGImages", "Annotations"), ("", "boxes")]
)
def test_boxes_in_voc_form_say_what_those_in_coco_form_say(folder, images, boxes):
    expected = read(module(folder))["im4"].annotation
    (folder / "boxes.json").unlink()
    voc(folder / boxes / "im4.xml")
    if images:
        (folder / "images").rename(folder / images)
    else:
        for path in list((folder / "images").iterdir()):
            path.rename(folder / path.name)
        (folder / "images").rmdir()
    samples = read(module(folder))
    assert list(samples) == [f"im{i}" for i in range(8)]
    said = samples["im4"].annotation
    assert said.kinds() == ("boxes",)
    for field in ("boxes", "box_labels", "box_is_crowd", "boxed_classes"):
        np.testing.assert_array_equal(getattr(said, field), getattr(expected, field))
    assert samples["im7"].annotation.kind() == "none"
    loose = read(module(folder, boxes_exhaustive=False))["im4"].annotation
    assert loose.boxed_classes == ()
    data = module(folder, class_names=None)
    data.setup("predict")
    assert data.predict_names() == [f"im{i}" for i in range(8)]


def test_an_empty_folder_for_boxes_to_come_is_no_error(folder):
    made(folder / "boxes")
    (folder / "boxes" / ".DS_Store").write_text("")
    assert read(module(folder))["im4"].annotation.kind() == "boxes"  # of boxes.json


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_16_bit_and_float_images(folder, dtype):
    for i in range(8):
        (folder / "images" / f"im{i}.png").unlink()
        save(folder / "images" / f"im{i}.tif", (picture(i) / 255 * 3000).astype(dtype))
    data = fitted(folder)
    assert data.in_channels == 1
    assert read(data)["im3"].image.dtype == (np.uint16 if dtype == np.uint16 else np.float32)
    (batch, *_) = data.train_dataloader()
    image = data.on_after_batch_transfer(batch, 0)["image"]
    assert image.isfinite().all()
    assert image.abs().max() < 20


def test_an_alpha_channel_is_dropped(folder):
    for i in range(8):
        rgba = np.stack([picture(i), picture(i + 1), picture(i + 2), np.full(SHAPE, 9)], -1)
        save(folder / "images" / f"im{i}.png", rgba.astype(np.uint8))
    data = fitted(folder)
    assert data.in_channels == 3
    assert (read(data)["im0"].image[1] == picture(1)).all()


def test_a_float_mask_of_whole_numbers(folder):
    (folder / "masks" / "im2.png").unlink()
    save(folder / "masks" / "im2.tif", truth().astype(np.float32))
    mask = read(module(folder))["im2"].annotation.mask
    assert mask.dtype == np.uint8
    assert (mask == truth()).all()


@pytest.mark.parametrize("normalize", ["standard", "minmax", "percentile", "none"])
def test_constant_images(folder, normalize):
    for i in range(8):
        save(folder / "images" / f"im{i}.png", np.full(SHAPE, 9, np.uint8))
    data = fitted(folder, normalize=normalize)
    for batch in data.train_dataloader():
        image = data.on_after_batch_transfer(batch, 0)["image"]
        assert (image == (9 if normalize == "none" else 0)).all()


def test_volumes(tmp_path):
    data = fitted(stacks(tmp_path), class_names=CLASSES[:2], spatial_dims=3, patch_size=[4, 16, 16])
    (sample, *_) = read(data).values()
    assert sample.image.shape == (1, 6, 24, 20)
    assert sample.annotation.mask.sum() == 300
    (batch, *_) = data.train_dataloader()
    assert batch["image"].shape[1:] == (1, 4, 16, 16)


def test_a_stack_among_images_is_not_cut_up(tmp_path):
    with pytest.raises(ValueError, match=r"stack0\.tif: .*stack of 6 slices.* spatial_dims: 3"):
        fitted(stacks(tmp_path))


def test_axes_that_are_not_obvious(tmp_path):
    six = np.stack([picture(i) for i in range(6)])
    tifffile.imwrite(tmp_path / "im0.tif", six, metadata=None, photometric="minisblack")
    with pytest.raises(ValueError, match=r"im0\.tif: looks like a stack of 6 slices.* axes"):
        fitted(tmp_path)
    assert (read(module(tmp_path, axes="CYX"))["im0"].image == six).all()


# A manifest


def manifest(folder, rows, header="image,mask,split,group"):
    path = folder / "all.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_manifest_in_place_of_the_folders(folder):
    with h5py.File(folder / "raw.h5", "w") as file:
        file["a/raw"], file["a/truth"] = picture(0), truth()
        file["b"] = picture(1)
    path = manifest(
        folder,
        [
            "one,raw.h5:/a/raw,raw.h5:/a/truth,,",
            "two,raw.h5:/b,,,",
            "three,images/im5.png,masks/im3.png,train,",
        ],
        header="name,image,mask,split,group",
    )
    (folder / "boxes.json").unlink()
    (folder / "tags.csv").unlink()
    (folder / "points.csv").write_text("image,y,x,class\ntwo,10,12,cell\n")
    for root in (folder, None):  # by default the manifest's own folder
        samples = read(module(root, manifest=str(path)))
        assert list(samples) == ["one", "two", "three"]
        assert (samples["one"].image == picture(0)).all()
        assert (samples["one"].annotation.mask == truth()).all()
        assert (samples["two"].image == picture(1)).all()
        assert samples["two"].annotation.kind() == "points"
        assert (samples["three"].image == picture(5)).all()
    with pytest.raises(ValueError, match=r"all\.csv, line 2: the mask .*nowhere\.png does not"):
        fitted(None, manifest=str(manifest(folder, ["images/im0.png,nowhere.png,,"])))


def test_the_manifest_says_the_split_and_the_groups(folder):
    rows = [f"images/im{i}.png,masks/im{i}.png,{s}," for i, s in enumerate(["", "train", "val"])]
    rows += ["images/im3.png,masks/im3.png,test,", "images/im7.png,,train,"]
    for name in ("boxes.json", "points.csv", "tags.csv"):
        (folder / name).unlink()
    data = fitted(folder, manifest=str(manifest(folder, rows)), val=0.5)
    assert data.validates
    assert names(data, "train") == ["im0", "im1", "im7"]
    assert (names(data, "val"), names(data, "test")) == (["im2"], ["im3"])
    data = fitted(folder, manifest=str(manifest(folder, rows[:2])), val=0.5)
    assert not data.validates  # whatever `val` says
    assert names(data, "val") == []

    groups = [f"images/im{i}.png,masks/im{i}.png,,mouse{i // 2}" for i in range(4)]
    data = fitted(folder, manifest=str(manifest(folder, groups)), val=0.5)
    assert data.validates
    assert set(names(data, "val")) in ({"im0", "im1"}, {"im2", "im3"})


def test_classes_that_were_not_looked_for(folder):
    path = manifest(folder, ["images/im0.png,masks/im0.png,cell"], "image,mask,annotated_classes")
    for name in ("boxes.json", "points.csv", "tags.csv"):
        (folder / name).unlink()
    said = read(module(folder, manifest=str(path)))["im0"].annotation
    assert said.annotated_classes == (1,)
    assert said.kind() == "scribbles"
    data = module(folder, manifest=str(path), class_names=None)
    data.setup("predict")
    assert data.predict_names() == ["im0"]


def test_neither_root_nor_manifest():
    with pytest.raises(ValueError, match="give root, the folder that holds the images, or manif"):
        MixedAnnotationDataModule()


# Splits


def test_groups_by_pattern_and_folds(folder):
    for i in range(8):
        (folder / "images" / f"im{i}.png").rename(folder / "images" / f"mouse{i // 2}_{i}.png")
        if i < 4:
            (folder / "masks" / f"im{i}.png").rename(folder / "masks" / f"mouse{i // 2}_{i}.png")
    for name in ("boxes.json", "points.csv", "tags.csv"):
        (folder / name).unlink()
    pattern = {"group_pattern": r"(mouse\d)_"}
    data = fitted(folder, val=1, **pattern)
    assert names(data, "val") in (["mouse0_0", "mouse0_1"], ["mouse1_2", "mouse1_3"])
    assert len(names(data, "train")) == 6
    with pytest.raises(ValueError, match=r"group_pattern 'rat' finds no group in .* 'mouse0_0'"):
        fitted(folder, group_pattern="rat")

    for i in range(4, 8):
        save(folder / "masks" / f"mouse{i // 2}_{i}.png", truth())
    tested = []
    for fold in range(4):
        data = fitted(folder, fold=fold, num_folds=4, **pattern)
        parts = [names(data, part) for part in ("train", "val", "test")]
        assert [len(part) for part in parts] == [4, 2, 2]
        assert all(len({name.split("_")[0] for name in p}) == len(p) / 2 for p in parts)
        tested += parts[2]
    assert len(set(tested)) == 8


def test_images_to_predict_need_no_classes_and_keep_their_order(folder):
    save(folder / "images" / "im10.png", picture(10))
    data = module(folder, class_names=None)
    data.setup("predict")
    assert data.predict_names() == [*(f"im{i}" for i in range(8)), "im10"]
    assert all(source.read().annotation.kind() == "none" for source in data.part("predict"))


# What the user is told


def test_padding_is_told_once(folder, told):
    save(folder / "images" / "im3.png", picture(3, np.zeros((60, 60), np.uint8)))
    save(folder / "masks" / "im3.png", np.zeros((60, 60), np.uint8))
    data = fitted(folder, patch_size=[32, 48])
    data.setup("fit")
    list(data.train_dataloader())
    (line,) = (line for line in told.messages if "padded" in line)
    assert line.startswith("7 of 8 training images are smaller than the patch_size of 32 x 48 and")
    assert "such as im0 (32 x 40 pixels)" in line
    told.clear()
    fitted(folder, patch_size=32)
    assert not told.messages


def test_contradictions_are_told_with_image_and_place(folder):
    (folder / "tags.csv").write_text("image,class,value\nim1,cell,absent\n")
    with pytest.warns(UserWarning, match=r"im1 at \(5, 8\): .*tag.* \(120 pixels\)"):
        fitted(folder)


# Bad input


def no_images(folder):
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()


def mask(array, name="im1.png"):
    def change(folder):
        (folder / "masks" / "im1.png").unlink()
        save(folder / "masks" / name, array)

    return change


def image(array, name="im6.png"):
    def change(folder):
        (folder / "images" / "im6.png").unlink()
        save(folder / "images" / name, array)

    return change


def text(file, content):
    return lambda folder: (folder / file).write_text(content)


def cut_short(folder):
    path = folder / "images" / "im6.png"
    path.write_bytes(path.read_bytes()[:200])


def copied(file, to):
    return lambda folder: shutil.copy(folder / file, folder / to)


def not_finite(value):
    array = picture(6).astype(np.float32)
    array[3, 4] = value
    return array


def other_class(folder):
    content = json.loads(coco([[8, 5, 12, 10]]))
    content["categories"][0]["name"] = "cel"
    (folder / "boxes.json").write_text(json.dumps(content))


def voc(path, bndbox=(9, 6, 20, 15), size=SHAPE):
    """A file in PASCAL VOC form with one cell; by default that of ``mixed_folder``."""
    stated = size and f"<size><height>{size[0]}</height><width>{size[1]}</width></size>"
    sides = zip(("xmin", "ymin", "xmax", "ymax"), bndbox, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"<annotation>{stated or ''}<object><name>cell</name><bndbox>{box}</bndbox></object>"
        "</annotation>"
    )


def in_voc(bndbox, size=SHAPE, stem="im4"):
    """One XML file in place of ``boxes.json``."""

    def change(folder):
        (folder / "boxes.json").unlink()
        voc(folder / "boxes" / f"{stem}.xml", bndbox, size)

    return change


def made(folder):
    folder.mkdir()
    return folder


FLOATS = np.full(SHAPE, 0.5, np.float32)
POINT = "image,y,x,class\n"
TAG = "image,class,value\n"

BAD = {
    "an empty folder": (no_images, r"mine/images: has no images; files of these kinds are read"),
    "a missing folder": (shutil.rmtree, r"there is no folder .*mine"),
    "a mask of another size": (
        mask(np.zeros((30, 40), np.uint8)),
        r"masks/im1\.png has 30 x 40 pixels, its image im1 has 32 x 40; they must be equal",
    ),
    "a class id beyond the classes": (
        mask(truth() * 3),
        r"masks/im1\.png: holds the values 0, 3, 6; allowed are 0 to 2.*mask_values: {0: 0, 3: 1",
    ),
    "a float mask": (mask(FLOATS, "im1.tif"), r"masks/im1\.tif: .*no whole numbers.* threshold"),
    "a mask in colours": (
        mask(np.zeros((*SHAPE, 3), np.uint8)),
        r"masks/im1\.png: .*3 channels.* in mask_values",
    ),
    "a mask of a missing image": (
        copied("masks/im1.png", "masks/im1_mask.png"),
        r"masks: .* not there: im1_mask \(is it im1\?\).* rename",
    ),
    "a truncated image": (cut_short, r"images/im6\.png: cannot be read as PNG; .*cut short"),
    "a text file": (
        text("images/im6.png", "hello"),
        r"images/im6\.png: is no image .*files of these kinds are: \.png",
    ),
    "an empty file": (text("images/im6.png", ""), r"images/im6\.png: is empty \(0 bytes\)"),
    "NaN": (
        image(not_finite(np.nan), "im6.tif"),
        r"images/im6\.tif: 1 values are NaN.*\(y, x\) = \(3, 4\).* replace them",
    ),
    "infinity": (image(not_finite(np.inf), "im6.tif"), r"images/im6\.tif: 1 values are .*infinite"),
    "two files of one stem": (
        copied("images/im1.png", "images/im1.tif"),
        r"images/im1\.png and .*images/im1\.tif have the same name .*rename one",
    ),
    "two masks of one stem": (
        copied("masks/im1.png", "masks/im1.tif"),
        r"masks/im1\.png and .*masks/im1\.tif have the same name .*rename one",
    ),
    "an image with other channels": (
        image(np.zeros((*SHAPE, 4), np.uint8)),
        r"image im0 has 1 channel\(s\), im6 has 3; .* convert",
    ),
    "a box outside": (
        text("boxes.json", coco([[100, 5, 10, 10]])),
        r"boxes\.json: image im4: the box \(y, x\) = \(5, 100\).* outside .* 32 x 40 pixels",
    ),
    "a box outside the stated size": (
        text("boxes.json", coco([[3, 5, 9, 9], [100, 5, 10, 10]], height=32, width=40)),
        r"boxes\.json: annotation 1 of image im4\.png: .* lies outside the image",
    ),
    "an empty box": (
        text("boxes.json", coco([[10, 5, 0, 10]])),
        r"boxes\.json: annotation 0 of image im4\.png: .* is empty",
    ),
    "a reversed box": (
        text("boxes.json", coco([[10, 5, -3, 10]])),
        r"boxes\.json: annotation 0 of image im4\.png: .* is reversed",
    ),
    "a box of an unknown class": (
        other_class,
        r"boxes\.json: annotation 0 of image im4\.png: .*'cel'.*\['background', 'cell', 'nucleus'",
    ),
    "a box of a missing image": (
        text("boxes.json", coco([[8, 5, 12, 10]], file_name="cell_4.png")),
        r"boxes\.json: .* not there: cell_4\b.* mend the names",
    ),
    "boxes that are no JSON": (text("boxes.json", "{"), r"boxes\.json: cannot be read as JSON"),
    "boxes drawn on another size": (
        text("boxes.json", coco([[3, 5, 9, 9]], height=64, width=80)),
        r"boxes\.json: image im4: was drawn on 64 x 80 pixels .*, but the image has 32 x 40",
    ),
    "boxes of two forms": (
        lambda folder: voc(folder / "boxes" / "im6.xml"),
        r"boxes\.json and .*boxes are both there; keep one",
    ),
    "a box of VOC outside": (
        in_voc([41, 6, 50, 15], size=None),
        r"boxes/im4\.xml: the box \(y, x\) = \(5, 40\).* outside .* 32 x 40 pixels",
    ),
    "a box of VOC drawn on another size": (
        in_voc([9, 6, 20, 15], size=(40, 32)),
        r"boxes/im4\.xml: was drawn on 40 x 32 pixels .*, but the image has 32 x 40",
    ),
    "a box of VOC of a missing image": (
        in_voc([9, 6, 20, 15], stem="im44"),
        r"boxes: .* not there: im44 \(is it im4\?\)",
    ),
    "a folder of boxes without XML": (
        lambda folder: (folder / "boxes.json").rename(made(folder / "boxes") / "a.json"),
        r"mine/boxes: has no XML files; .* boxes\.json beside",
    ),
    "two folders of images": (
        lambda folder: made(folder / "JPEGImages"),
        r"images and .*JPEGImages are both there; keep one",
    ),
    "a point outside": (
        text("points.csv", POINT + "im5,31,38,cell\nim5,38,31,cell\n"),
        r"points\.csv: image im5: 1 of 2 points lie outside .*\(y, x\) = \(38, 31\).* 32 x 40",
    ),
    "points with y and x exchanged": (
        text("points.csv", POINT + "im5,38,31,cell\n"),
        r"points\.csv: image im5: .*inside with y and x exchanged",
    ),
    "a point of an unknown class": (
        text("points.csv", POINT + "im5,1,2,cel\n"),
        r"points\.csv, line 2: 'cel' is no class; give one of \['background', 'cell', 'nucleus'",
    ),
    "a point of a missing image": (
        text("points.csv", POINT + "im55,1,2,cell\n"),
        r"points\.csv: .* not there: im55 \(is it im5\?\)",
    ),
    "points without a column": (
        text("points.csv", "image,y,x\nim5,1,2\n"),
        r"points\.csv: lacks the column class",
    ),
    "a tag of an unknown class": (
        text("tags.csv", TAG + "im6,cel,present\n"),
        r"tags\.csv, line 2: 'cel' is no class; give one of",
    ),
    "a tag of a missing image": (
        text("tags.csv", TAG + "im66,cell,present\n"),
        r"tags\.csv: .* not there: im66",
    ),
    "a tag with another value": (
        text("tags.csv", TAG + "im6,cell,maybe\n"),
        r"tags\.csv, line 2: the value is 'maybe'; it can be present, absent or unknown",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(folder, case):
    change, message = BAD[case]
    change(folder)
    with pytest.raises(ValueError, match=message) as told:
        fitted(folder, val=1)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("case", ["a truncated image", "an image with other channels", "NaN"])
def test_bad_input_on_the_command_line(folder, case):
    change, message = BAD[case]
    change(folder)
    line = refused(run, "inspect", *folder_options(folder))
    assert re.search(message, line)


def test_validation_needs_painted_images(folder):
    line = refused(fit, folder, val=["im0", "im5"])
    assert "val split needs completely painted images; without a complete mask are: im5" in line
    assert "data.val" in line
    assert "val lists images that do not exist: im99" in refused(fit, folder, val=["im99"])
    shutil.rmtree(folder / "masks")
    line = refused(fit, folder, val=0.2)
    assert "val is 0.2, but of the completely painted images (or groups of them) 0 are left" in line
    assert "paint more" in line
    assert "data.val: 0" in line
