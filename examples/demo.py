"""Single cells from a few painted ones: what `make demo` runs.

Draws synthetic micrographs of crowded cells into demo/annotated, in which a tenth of the cells is
painted, and in some images the background, and into demo/new, where nothing is, then runs the
commands that you would run on your own images. Everything lands in demo/.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from semiweak import Sample, SymmetricBestDice, visualize
from semiweak.__main__ import main as semiweak
from semiweak.data.readers import read_image, read_labels
from semiweak.data.synthetic import cell_sample

SIZE = 128
# So many images with some painted cells, with all cells painted (to validate), and new ones.
PARTLY, COMPLETELY, NEW = 64, 8, 20
# This share of the cells; and in so many images the background, as 255.
PAINTED, WITH_BACKGROUND, BACKGROUND = 0.1, 32, 255


def draw(index: int) -> Sample:
    return cell_sample(index, shape=(SIZE, SIZE))


def paint_some(samples: list[Sample], rng: np.random.Generator) -> list[NDArray[np.int32]]:
    """A tenth of all cells, anywhere in the images, and the background of some images."""
    ids = [s.annotation.instances for s in samples]
    cells = [(i, k) for i, image in enumerate(ids) for k in np.unique(image[image > 0])]
    chosen = rng.permutation(len(cells))[: round(PAINTED * len(cells))]
    painted = [np.zeros_like(image) for image in ids]
    for i, k in (cells[c] for c in chosen):
        painted[i][ids[i] == k] = k
    some = [i for i, image in enumerate(painted) if image.any()]
    for i in rng.permutation(some)[:WITH_BACKGROUND]:
        painted[i][ids[i] == 0] = BACKGROUND
    print(f"{len(chosen)} of {len(cells)} cells are painted, in {len(some)} of {len(ids)} images")
    return painted


def save(image: NDArray[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(path)


def draw_folder(root: Path) -> None:
    """Writes images, and label images of what was painted."""
    samples = [draw(index) for index in range(PARTLY + COMPLETELY)]
    for sample in samples:
        save(sample.image[0], root / "images" / f"{sample.name}.png")
    partly, completely = samples[:PARTLY], samples[PARTLY:]
    for sample, painted in zip(partly, paint_some(partly, np.random.default_rng(0)), strict=True):
        save(painted, root / "instances" / f"{sample.name}.png")
    for sample in completely:
        save(sample.annotation.instances, root / "labels" / f"{sample.name}.png")


def run(*command: str) -> None:
    print(f"\n$ semiweak {' '.join(command)}\n", flush=True)
    semiweak(list(command))


def picture(out: Path, truths: dict[str, NDArray[Any]]) -> None:
    """Image, objects and true objects of four new images, side by side."""
    names = list(truths)[:4]
    sheet = visualize.instance_sheet(
        [read_image(out / "new" / f"{name}.png") for name in names],
        [read_labels(out / "labels" / f"{name}.png") for name in names],
        names=names,
        truth=[truths[name] for name in names],
    )
    visualize.save_png(out / "demo.png", sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="replaced if it exists")
    parser.add_argument("--max_epochs", type=int)
    arguments = parser.parse_args()
    out: Path = arguments.out
    marker = out / ".made_by_demo"
    if out.exists():
        if not marker.exists():
            parser.error(f"{out} exists and was not made by the demo; choose another --out")
        shutil.rmtree(out)

    draw_folder(out / "annotated")
    marker.touch()
    truths = {}
    for index in range(100, 100 + NEW):
        sample = draw(index)
        truths[sample.name] = sample.annotation.instances
        save(sample.image[0], out / "new" / f"{sample.name}.png")

    config = str(Path(__file__).with_name("spoco_folder.yaml"))
    data = ["--config", config, "--data.root", str(out / "annotated")]
    epochs = []
    if arguments.max_epochs:
        epochs = ["--trainer.max_epochs", str(arguments.max_epochs)]
        epochs += ["--trainer.check_val_every_n_epoch", "1"]
    run("inspect", *data, "--sheet", str(out / "annotated.png"))
    run("fit", *data, *epochs, "--trainer.logger.save_dir", str(out / "runs"))
    best = next((out / "runs").rglob("best.ckpt"))
    run(
        *("predict", "--ckpt_path", str(best), "--data.root", str(out / "new")),
        *("--out", str(out / "labels")),
    )
    picture(out, truths)
    score = SymmetricBestDice()
    for name, truth in truths.items():
        found = read_labels(out / "labels" / f"{name}.png")
        score.update(*(torch.from_numpy(a.astype(np.int64))[None] for a in (found, truth)))
    print(f"\nsymmetric best Dice of the {NEW} new images: {score.compute():.2f}")
    print(f"label images: {out / 'labels'}\npicture:      {out / 'demo.png'}")


if __name__ == "__main__":
    main()
