"""Classes of pixels from mixed annotations: what `make demo-semantic` runs.

Draws synthetic micrographs into demo_semantic/annotated (a few painted, some with boxes, some with
a point on each object, some with tags, most with nothing) and demo_semantic/new (never annotated),
then runs the commands that you would run on your own images.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semiweak import visualize
from semiweak.__main__ import main as semiweak
from semiweak.data.readers import read_image, read_labels
from semiweak.data.synthetic import CLASS_NAMES, synthetic_sample
from semiweak.data.weaken import to_boxes, to_points, to_tags

CLASSES = list(CLASS_NAMES[:4])
SIZE = 192
# Of each kind so many images: 12 painted, 4 with boxes, 4 with points, 4 with tags, 16 bare.
KINDS = ["mask"] * 12 + ["boxes"] * 4 + ["points"] * 4 + ["tags"] * 4 + ["nothing"] * 16


def draw_folder(root: Path) -> None:
    """Writes images and what four annotators said of them, in the forms that semiweak reads."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    coco: dict[str, Any] = {
        "categories": [{"id": c, "name": name} for c, name in enumerate(CLASSES)],
        "images": [],
        "annotations": [],
    }
    points, tags = [["image", "y", "x", "class"]], [["image", "class", "value"]]
    for index, kind in enumerate(KINDS):
        sample = draw(index)
        name = f"cell_{index:02d}"
        Image.fromarray(sample.image[0]).save(root / "images" / f"{name}.png")
        if kind == "mask":
            Image.fromarray(sample.annotation.mask).save(root / "masks" / f"{name}.png")
        elif kind == "boxes":
            weak = to_boxes(sample.annotation, len(CLASSES))
            coco["images"].append(
                {"id": index, "file_name": f"{name}.png", "height": SIZE, "width": SIZE}
            )
            for (y0, x0, y1, x1), c in zip(weak.boxes.tolist(), weak.box_labels, strict=True):
                coco["annotations"].append(
                    {
                        "id": len(coco["annotations"]),
                        "image_id": index,
                        "category_id": int(c),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "iscrowd": 0,
                    }
                )
        elif kind == "points":
            weak = to_points(sample.annotation, len(CLASSES))
            for (y, x), c in zip(weak.points.tolist(), weak.point_labels, strict=True):
                points.append([name, y, x, CLASSES[c]])
        elif kind == "tags":
            for c, value in enumerate(to_tags(sample.annotation, len(CLASSES)).tags):
                tags.append([name, CLASSES[c], "present" if value == 1 else "absent"])
    (root / "boxes.json").write_text(json.dumps(coco))
    for file, rows in (("points.csv", points), ("tags.csv", tags)):
        with (root / file).open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


def draw(index: int) -> Any:
    return synthetic_sample(index, shape=(SIZE, SIZE), num_classes=len(CLASSES))


def run(*command: str) -> None:
    print(f"\n$ semiweak {' '.join(command)}\n", flush=True)
    semiweak(list(command))


def picture(out: Path, truths: dict[str, np.ndarray[Any, Any]]) -> None:
    """Image, prediction and truth of four new images, side by side."""
    tiles, captions = [], []
    for name, truth in list(truths.items())[:4]:
        image = read_image(out / "new" / f"{name}.png")
        found = read_labels(out / "labels" / f"{name}.png")
        tiles += [visualize.to_rgb(image)]
        tiles += [visualize.overlay(image, found), visualize.overlay(image, truth)]
        right = 100 * float((found == truth).mean())
        captions += [name, f"predicted, {right:.0f} % of pixels right", "truth"]
    sheet = visualize.contact_sheet(tiles, captions, columns=3, class_names=CLASSES)
    visualize.save_png(out / "demo.png", sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo_semantic"), help="replaced if it exists"
    )
    parser.add_argument("--max_epochs", type=int, default=30)
    arguments = parser.parse_args()
    out: Path = arguments.out
    marker = out / ".made_by_demo"
    if out.exists():
        if not marker.exists():
            parser.error(f"{out} exists and was not made by the demo; choose another --out")
        shutil.rmtree(out)

    draw_folder(out / "annotated")
    marker.touch()
    (out / "new").mkdir()
    truths = {}
    for index in range(100, 108):
        sample = draw(index)
        truths[f"new_{index}"] = sample.annotation.mask
        Image.fromarray(sample.image[0]).save(out / "new" / f"new_{index}.png")

    config = str(Path(__file__).with_name("supervised_folder.yaml"))
    data = ["--config", config, "--data.root", str(out / "annotated")]
    run("inspect", *data, "--sheet", str(out / "annotated.png"))
    run(
        *("fit", *data, "--trainer.max_epochs", str(arguments.max_epochs)),
        *("--trainer.logger.save_dir", str(out / "runs")),
    )
    best = next((out / "runs").rglob("best.ckpt"))
    run(
        *("predict", "--ckpt_path", str(best), "--data.root", str(out / "new")),
        *("--out", str(out / "labels")),
    )
    picture(out, truths)
    print(f"\nlabel images: {out / 'labels'}\npicture:      {out / 'demo.png'}")


if __name__ == "__main__":
    main()
