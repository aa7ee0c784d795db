"""A folder of small images annotated in every way, and commands run as a user runs them."""

import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from semiweak.__main__ import main

CLASSES = ["background", "cell", "nucleus"]
SHAPE = (32, 40)
CELL, NUCLEUS = (slice(5, 15), slice(8, 20)), (slice(20, 28), slice(25, 36))
QUIET = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--data.num_workers", "0"),
]


def truth():
    """One cell of 10 x 12 pixels and one nucleus of 8 x 11."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[CELL], mask[NUCLEUS] = 1, 2
    return mask


def picture(i, mask=None):
    mask = truth() if mask is None else mask
    noise = np.random.default_rng(i).normal(0, 8, mask.shape)
    return np.clip(50 + 60 * mask + noise, 0, 255).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)


def coco(boxes, **image):
    """Boxes (x, y, width, height) of the class cell in im4, as the text of a COCO file."""
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "im4.png"} | image],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": 1, "bbox": box}
                for i, box in enumerate(boxes)
            ],
            "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}],
        }
    )


def mixed_folder(root):
    """Eight images: four masks, and one each with a box, points, tags and nothing."""
    for i in range(8):
        save(root / "images" / f"im{i}.png", picture(i))
    for i in range(4):
        save(root / "masks" / f"im{i}.png", truth())
    (root / "boxes.json").write_text(coco([[8, 5, 12, 10]]))
    (root / "points.csv").write_text("image,y,x,class\nim5.png,10,12,cell\nim5.png,24,30,nucleus\n")
    (root / "tags.csv").write_text("image,class,value\nim6,cell,present\nim6,nucleus,absent\n")
    return root


def folder_options(root, **options):
    """The options that name a folder as the data, quickly trained on."""
    options = {"class_names": CLASSES, "val": 0.25, "patch_size": 32} | options
    given = ["--data", "MixedAnnotationDataModule", "--data.root", root]
    for name, value in options.items():
        text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
        given += [f"--data.{name}", text]
    return given


def small_model(num_classes=3):
    return [
        *("--model", "SupervisedModule", "--model.widths", "[4,8]"),
        *("--model.num_classes", num_classes),
    ]


def fit(root, *options, model=None, epochs=1, **data):
    run(
        *("fit", *(small_model() if model is None else model), *folder_options(root, **data)),
        *(*QUIET, "--trainer.max_epochs", epochs, *options),
    )


def run(*args):
    main([str(arg) for arg in args])


def refused(command, *args, **options):
    """Runs a command that must stop with one line that a user understands; returns that line."""
    with pytest.raises(SystemExit) as stopped:
        command(*args, **options)
    assert isinstance(stopped.value.code, str), stopped.value.code
    line, hint = stopped.value.code.splitlines()
    assert re.fullmatch(r"\(SEMIWEAK_TRACEBACK=1 .*\)", hint)
    assert line.startswith("error: ")
    return line
