"""Commands as a user types them, from a folder of images to label images."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch
import yaml
from conftest import ROOT
from mixed_folder import (
    CLASSES,
    QUIET,
    SHAPE,
    fit,
    folder_options,
    mixed_folder,
    picture,
    refused,
    run,
    save,
    small_model,
    truth,
)
from PIL import Image

import semiweak
from semiweak import MixedAnnotationDataModule, SupervisedModule, Tiling, __version__
from semiweak.data.normalize import Normalization


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """Where runs and predictions land."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run on a mixed folder, which no test changes."""
    home = tmp_path_factory.mktemp("home")
    folder = mixed_folder(home / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        quick = ("--model.lr", 0.02, "--model.norm", "group", "--data.samples_per_epoch", 64)
        fit(folder, *quick, "--trainer.log_every_n_steps", 1)
    run_folder = home / "runs" / "version_0"
    return SimpleNamespace(
        folder=folder,
        run=run_folder,
        best=run_folder / "checkpoints" / "best.ckpt",
        last=run_folder / "checkpoints" / "last.ckpt",
        files=everything_in(home),
    )


@pytest.fixture
def new(tmp_path):
    """Images that no training saw, in other sizes and formats."""
    rng = np.random.default_rng(0)
    save(tmp_path / "new" / "a.png", rng.integers(0, 256, (70, 55), dtype=np.uint8))
    save(tmp_path / "new" / "b.c.jpg", rng.integers(0, 256, (20, 17), dtype=np.uint8))
    save(tmp_path / "new" / "d.tif", rng.integers(0, 9000, (33, 40), dtype=np.uint16))
    return tmp_path / "new"


def everything_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def predict(checkpoint, *options, root="new", out="labels"):
    run("predict", "--ckpt_path", checkpoint, "--data.root", root, "--out", out, *QUIET, *options)


def metrics(run_folder):
    """The columns of the log that have a value, and the rows."""
    with (run_folder / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return {key for row in rows for key in row}, rows


def pixels(path):
    return np.array(Image.open(path))


def by_hand(checkpoint, image, tiling=None):
    """Probabilities of an image from Python, without the command line and the data module."""
    model = SupervisedModule.load_from_checkpoint(checkpoint, weights_only=True).eval()
    data = torch.load(checkpoint, weights_only=True)["semiweak"]["data"]
    normalise = Normalization(tuple(data["offset"]), tuple(data["scale"]))
    model.tiling = tiling or Tiling()
    with torch.no_grad():
        return model.predict_probabilities(normalise(torch.as_tensor(image)[None, None]))[0].numpy()


def changed(checkpoint, path, change):
    """A copy of a checkpoint with something else in it."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


# Without torch


def test_help_and_version_answer_without_importing_torch():
    program = """
import sys
import semiweak
from semiweak.__main__ import main
main([])
main(["--help"])
main(["-h"])
main(["--version"])
assert "semiweak.cli" not in sys.modules
heavy = {"torch", "numpy", "pytorch_lightning", "jsonargparse"} & set(sys.modules)
assert not heavy, heavy
assert "SupervisedModule" in dir(semiweak)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("usage: semiweak COMMAND") == 3
    assert done.stdout.endswith(f"semiweak {__version__}\n")


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "semiweak", "--version"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"semiweak {__version__}\n"


# The command line itself


def test_unknown_command():
    assert refused(run, "train", "--data", "x") == (
        "error: unknown command 'train'; there are fit, validate, test, predict and inspect"
    )


def test_print_config_is_a_complete_configuration(trained, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("fit", *small_model(), *folder_options(trained.folder), "--print_config")
    assert not stopped.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["widths"] == [4, 8]
    assert config["data"]["init_args"]["class_names"] == CLASSES
    assert config["data"]["init_args"]["geometry"]["flip"] is True
    assert config["trainer"]["max_epochs"] == 100
    assert {"tiling", "writer", "optimizer", "lr_scheduler"} <= set(config)


@pytest.mark.parametrize("command", ["fit", "predict", "inspect"])
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert not stopped.value.code
    assert "--data" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["data.patchsize", "model.learning_rate", "trainer.epochs"])
def test_misspelt_option(trained, capsys, key):
    with pytest.raises(SystemExit) as stopped:
        fit(trained.folder, f"--{key}", "3")
    assert stopped.value.code == 2
    assert key.split(".")[1] in capsys.readouterr().err


def test_misspelt_key_in_a_file(trained, tmp_path, capsys):
    config = yaml.safe_load((trained.run / "config.yaml").read_text())
    config["data"]["init_args"]["patchsize"] = 3
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    for command in ("fit", "inspect"):
        with pytest.raises(SystemExit) as stopped:
            run(command, "--config", "run.yaml")
        assert stopped.value.code == 2
        assert "'patchsize' is not accepted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.patch_size=0", "patch_size is 0; give one positive number or 2 of them"),
        ("--data.geometry.rotate=-3", "rotate is -3.0; it must be 0 to 180 degrees"),
        ("--model.network=vnet", "network='vnet' is not known; it is 'unet'"),
        ("--data.class_names=[a,cell,cell]", "each class needs a name of its own"),
        ("--trainer.limit_train_batches=1.5", "invalid value 1.5 for limit_train_batches"),
        ("--tiling.overlap=2000", "overlap must be smaller than the tiles"),
    ],
)
def test_a_value_that_a_class_refuses(trained, option, message):
    options = ["--tiling.size=64"] if "tiling" in option else []
    assert message in refused(fit, trained.folder, *options, option)


def test_the_traceback_is_there_for_who_wants_it(monkeypatch):
    monkeypatch.setenv("SEMIWEAK_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown command 'train'"):
        run("train")


def test_the_command_line_of_the_process_is_left_as_it_was(trained):
    before = list(sys.argv)
    refused(fit, trained.folder, model=small_model(4))
    assert sys.argv == before


# Training


def test_a_run_leaves_config_log_and_checkpoints(trained):
    assert [f for f in trained.files if not f.startswith("mine/")] == [
        "runs/version_0/checkpoints/best.ckpt",
        "runs/version_0/checkpoints/last.ckpt",
        "runs/version_0/config.yaml",
        "runs/version_0/hparams.yaml",
        "runs/version_0/metrics.csv",
    ]
    config = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert config["data"]["init_args"]["val"] == 0.25
    assert config["model"]["class_path"].endswith("SupervisedModule")
    columns, rows = metrics(trained.run)
    for score in ("dice", "iou", "dice_per_image", "iou_per_image"):
        assert f"val/{score}" in columns
        assert f"val/{score}/background" in columns
    assert {"train/loss", "train/cross_entropy", "val/loss", "lr-Adam"} <= columns
    last = rows[-1]
    per_class = [last[f"val/dice/{name}"] for name in CLASSES if f"val/dice/{name}" in last]
    assert last["val/dice"] == pytest.approx(np.mean(per_class))


def test_the_checkpoint_knows_the_data(trained):
    content = torch.load(trained.best, weights_only=True)["semiweak"]
    assert content["format"] == 1
    assert content["data"]["class_names"] == CLASSES
    assert (content["data"]["in_channels"], content["data"]["spatial_dims"]) == (1, 2)
    # One of the four painted images validates; the statistics are those of all others.
    means = [np.mean([picture(i) for i in range(8) if i != left_out]) for left_out in range(4)]
    assert np.isclose(content["data"]["offset"], means).sum() == 1


def test_a_run_goes_on(trained, tmp_path, capsys):
    """The model comes from the checkpoint."""
    fit(trained.folder, "--ckpt_path", trained.last, model=[], epochs=2)
    first, second = metrics(trained.run)[1], metrics(tmp_path / "runs" / "version_0")[1]
    assert [row["epoch"] for row in second if "val/dice" in row] == [1]
    assert min(row["step"] for row in second) > max(row["step"] for row in first)
    went_on = torch.load("runs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert went_on["hyper_parameters"]["widths"] == [4, 8]
    assert went_on["optimizer_states"][0]["state"][0]["step"] == went_on["global_step"]
    assert "best model: runs/version_0/checkpoints/best.ckpt" in capsys.readouterr().out


def test_a_saved_configuration_repeats_the_run(trained, tmp_path):
    run("fit", "--config", trained.run / "config.yaml")
    _, first = metrics(trained.run)
    _, second = metrics(tmp_path / "runs" / "version_0")
    assert first == second


def test_an_option_beats_a_configuration_wherever_it_stands(trained, capsys):
    """A saved configuration says `ckpt_path: null`."""
    config = ("--config", trained.run / "config.yaml")
    checkpoint = ("--ckpt_path", trained.best)
    tables = []
    for args in ((*checkpoint, *config), (*config, *checkpoint)):
        run("validate", *args)
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    score = metrics(trained.run)[1][-1]["val/dice"]
    assert str(score)[:8] in tables[0]


@pytest.mark.parametrize(
    ("scheduler", "second_rate"),
    [
        (("CosineAnnealingLR", "--lr_scheduler.T_max", "2"), 0.05),
        (("ReduceLROnPlateau", "--lr_scheduler.monitor", "val/loss"), 0.1),
    ],
)
def test_any_optimiser_and_schedule(trained, tmp_path, scheduler, second_rate):
    fit(
        trained.folder,
        *("--optimizer", "SGD", "--optimizer.lr", "0.1", "--optimizer.momentum", "0.9"),
        *("--lr_scheduler", *scheduler),
        epochs=2,
    )
    _, rows = metrics(tmp_path / "runs" / "version_0")
    rates = [row["lr-SGD"] for row in rows if "lr-SGD" in row]
    assert rates == pytest.approx([0.1, second_rate])


def test_without_validation(trained, tmp_path):
    fit(trained.folder, "--trainer.log_every_n_steps", 1, val=0)
    columns, _ = metrics(tmp_path / "runs" / "version_0")
    assert "train/loss" in columns
    assert not any(column.startswith("val/") for column in columns)
    assert everything_in(tmp_path / "runs" / "version_0" / "checkpoints") == [
        "best.ckpt",
        "last.ckpt",
    ]


def test_a_manifest_without_validation_images(tmp_path, trained):
    """`val` has a default, which the manifest's column overrules."""
    rows = [f"images/im{i}.png,masks/im{i}.png,train" for i in range(2)]
    (tmp_path / "all.csv").write_text("\n".join(["image,mask,split", *rows]))
    shutil.copytree(trained.folder / "images", tmp_path / "images")
    shutil.copytree(trained.folder / "masks", tmp_path / "masks")
    run(
        *("fit", *small_model(), "--data", "MixedAnnotationDataModule"),
        *("--data.manifest", "all.csv", "--data.class_names", f"[{','.join(CLASSES)}]"),
        *("--data.patch_size", 32, *QUIET, "--trainer.max_epochs", 1),
    )
    assert (tmp_path / "runs" / "version_0" / "checkpoints" / "best.ckpt").exists()


def test_constant_images_smaller_than_the_patch(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "mine")
    for i in range(8):
        save(tmp_path / "mine" / "images" / f"im{i}.png", np.full(SHAPE, 7, np.uint8))
    fit("mine", "--trainer.log_every_n_steps", 1, patch_size=48)
    _, rows = metrics(tmp_path / "runs" / "version_0")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses
    assert np.isfinite(losses).all()


def test_folds_by_group(trained, tmp_path, capsys):
    for i in range(6):
        save(tmp_path / "mine" / "images" / f"mouse{i // 2}_{i}.png", picture(i))
        save(tmp_path / "mine" / "masks" / f"mouse{i // 2}_{i}.png", truth())
    options = {"fold": 1, "num_folds": 3, "group_pattern": r"(mouse\d)"}
    fit("mine", **options)
    checkpoint = "runs/version_0/checkpoints/best.ckpt"
    run("test", "--ckpt_path", checkpoint, *folder_options("mine", **options), *QUIET)
    assert "test/dice_per_image" in capsys.readouterr().out
    line = refused(fit, "mine", **options | {"num_folds": 7})
    assert "num_folds is 7; with 3 groups it must be 2 to 3" in line


def test_without_checkpoints_and_without_log(trained, tmp_path):
    fit(trained.folder, "--trainer.enable_checkpointing", "false", "--trainer.logger", "false")
    fit(trained.folder, "--trainer.fast_dev_run", "true")
    assert [f for f in everything_in(tmp_path) if f.endswith(".ckpt")] == []


def test_a_checkpoint_callback_of_ones_own(trained, tmp_path):
    own = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename=mine")
    fit(trained.folder, *own)
    assert everything_in(tmp_path / "runs" / "version_0" / "checkpoints") == ["mine.ckpt"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"num_classes": 4}, "the model has num_classes 4, the data have 3 .*num_classes to 3"),
        (
            {"in_channels": 2},
            "the model has in_channels 2, the data have 1; set .*in_channels to 1",
        ),
        ({"spatial_dims": 3}, "spatial_dims 3, the data have 2; set model.spatial_dims to 2"),
    ],
)
def test_model_and_data_must_fit(trained, model, message):
    options = [f"--model.{name}={value}" for name, value in model.items()]
    line = refused(fit, trained.folder, *options)
    assert re.search(message, line)


def test_class_names_are_needed_to_train(trained):
    data = ("--data", "MixedAnnotationDataModule", "--data.root", trained.folder)
    line = refused(run, "fit", *small_model(), *data, *QUIET)
    assert "needs class_names, a list with the name of each class" in line


# Prediction


def test_predict_in_its_short_form(trained, new, tmp_path, capsys):
    predict(trained.best)
    assert everything_in(tmp_path / "labels") == [
        "a.png",
        "b.c.png",
        "d.png",
        "overlays/_legend.png",
        "overlays/a.png",
        "overlays/b.c.png",
        "overlays/d.png",
    ]
    assert not (tmp_path / "runs").exists()
    for name, shape in (("a", (70, 55)), ("b.c", (20, 17)), ("d", (33, 40))):
        labels = pixels(tmp_path / "labels" / f"{name}.png")
        assert labels.shape == shape
        assert labels.dtype == np.uint8
        assert labels.max() < 3
        assert pixels(tmp_path / "labels" / "overlays" / f"{name}.png").shape == (*shape, 3)
    expected = by_hand(trained.best, pixels(new / "a.png")).argmax(0)
    assert len(np.unique(expected)) > 1
    assert (pixels("labels/a.png") == expected).all()


def test_images_larger_than_a_tile_are_cut(trained, new, tmp_path):
    tiling = ("--tiling.size", 32, "--tiling.overlap", 8)
    predict(trained.best, *tiling, "--writer.probabilities", "true")
    found = tifffile.imread(tmp_path / "labels" / "probabilities" / "a.tif")
    image = pixels(new / "a.png")
    np.testing.assert_allclose(found, by_hand(trained.best, image, Tiling(32, 8)), atol=1e-5)
    assert np.abs(found - by_hand(trained.best, image)).max() > 1e-3
    assert (pixels("labels/a.png") == found.argmax(0)).all()


def test_probabilities_on_request(trained, new, tmp_path):
    predict(trained.best, "--writer.probabilities", "true", "--writer.overlay", "false")
    assert not (tmp_path / "labels" / "overlays").exists()
    for name, file in (("a", "a.png"), ("b.c", "b.c.jpg")):
        found = tifffile.imread(tmp_path / "labels" / "probabilities" / f"{name}.tif")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, by_hand(trained.best, pixels(new / file)), atol=1e-5)
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
        assert (pixels(tmp_path / "labels" / f"{name}.png") == found.argmax(0)).all()


def test_nothing_is_overwritten_unless_told(trained, new, tmp_path):
    save(tmp_path / "labels" / "a.png", np.full((2, 2), 9, np.uint8))
    line = refused(predict, trained.best)
    assert "labels/a.png" in line
    assert "--writer.overwrite true" in line
    assert everything_in(tmp_path / "labels") == ["a.png"]
    assert pixels("labels/a.png").shape == (2, 2)
    predict(trained.best, "--writer.overwrite", "true", "--writer.format", "tif")
    assert tifffile.imread("labels/a.tif").shape == (70, 55)
    assert not (tmp_path / "labels" / "a.png").exists()


def test_predict_a_manifest_with_hdf5(trained, tmp_path):
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["em/one"], file["em/two"] = picture(1), picture(2)[:20]
    (tmp_path / "all.csv").write_text(
        "name,image,mask,annotated_classes\n"
        "one,raw.h5:/em/one,raw.h5:/em/two,nucleus\n"
        "two,raw.h5:/em/two,,\n"
    )
    run(
        *("predict", "--ckpt_path", trained.best, "--data.manifest", "all.csv"),
        *("--out=labels", *QUIET),
    )
    assert pixels("labels/one.png").shape == SHAPE
    assert pixels("labels/two.png").shape == (20, 40)


def test_predict_with_the_configuration_of_the_training(trained, tmp_path):
    run(
        *("predict", "--ckpt_path", trained.best, "--config", trained.run / "config.yaml"),
        *("--out", "labels", "--trainer.logger", "false"),
    )
    for i in range(8):
        found = pixels(f"labels/im{i}.png")
        assert (found == by_hand(trained.best, picture(i)).argmax(0)).all()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_checkpoint_from_python_predicts_alike(tmp_path, spatial_dims):
    if spatial_dims == 2:
        shape, patch, suffix = SHAPE, 32, "png"
        masks = [truth()] * 3
    else:
        shape, patch, suffix = (5, 24, 20), [4, 16, 16], "tif"
        masks = [np.zeros(shape, np.uint8)] * 3
        masks[0][1:4, 5:15, 5:15] = 2
    for i, mask in enumerate(masks):
        save(tmp_path / "mine" / "images" / f"im{i}.{suffix}", picture(i, mask))
        save(tmp_path / "mine" / "masks" / f"im{i}.{suffix}", mask)
    data = MixedAnnotationDataModule(
        "mine",
        class_names=CLASSES,
        spatial_dims=spatial_dims,
        patch_size=patch,
        val=1,
        num_workers=0,
        batch_size=2,
    )
    model = SupervisedModule(num_classes=3, widths=[4, 8], spatial_dims=spatial_dims)
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint("from_python.ckpt")
    new = picture(7, masks[0])[..., 2:, :-3]
    save(tmp_path / "new" / f"x.{suffix}", new)
    predict("from_python.ckpt", "--writer.probabilities", "true")
    read = tifffile.imread if spatial_dims == 3 else pixels
    labels = read(tmp_path / "labels" / f"x.{suffix}")
    assert labels.shape == new.shape
    assert labels.dtype == np.uint8
    expected = by_hand("from_python.ckpt", new)
    found = tifffile.imread(tmp_path / "labels" / "probabilities" / "x.tif")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (labels == found.argmax(0)).all()
    assert pixels(tmp_path / "labels" / "overlays" / "x.png").shape == (*new.shape[-2:], 3)


# Bad input to prediction


def test_an_image_with_other_channels(trained, new):
    save(new / "colour.png", np.zeros((20, 17, 3), np.uint8))
    line = refused(predict, trained.best)
    assert "image colour has 3 channels; the training images had 1" in line


def test_a_truncated_image_read_by_a_worker(trained, new):
    (new / "e.png").write_bytes((new / "a.png").read_bytes()[:500])
    line = refused(predict, trained.best, "--data.num_workers", 1)
    assert "new/e.png: cannot be read as PNG; it seems damaged or cut short" in line


def test_a_folder_without_images(trained, tmp_path):
    (tmp_path / "new").mkdir()
    assert "new: has no images; files of these kinds are read" in refused(predict, trained.best)
    assert "there is no folder nowhere" in refused(predict, trained.best, root="nowhere")


@pytest.mark.parametrize("command", ["predict", "test", "validate"])
def test_no_checkpoint(command):
    line = refused(run, command, *folder_options("new"))
    assert f"{command} needs a trained model: --ckpt_path" in line
    assert "--ckpt_path" in refused(run, command)


def test_neither_folder_nor_manifest(trained):
    line = refused(run, "predict", "--ckpt_path", trained.best)
    assert line.startswith("error: give root, the folder that holds the images, or manifest")


def test_files_that_are_no_checkpoint_of_ours(trained, new, tmp_path):
    file = tmp_path / "x.ckpt"
    assert "there is no checkpoint" in refused(predict, file)
    file.write_text("hello")
    assert f"{file} is no checkpoint of semiweak, or is damaged" in refused(predict, file)
    file.write_bytes(trained.best.read_bytes()[:1000])
    assert f"{file} is no checkpoint of semiweak, or is damaged" in refused(predict, file)
    torch.save([1, 2], file)
    assert f"{file} is no checkpoint of semiweak" in refused(predict, file)
    torch.save(torch.nn.Linear(1, 1), file)  # would execute code
    assert f"{file} is no checkpoint of semiweak" in refused(predict, file)
    changed(trained.best, file, lambda content: content.pop("semiweak"))
    assert f"{file} was not written by semiweak" in refused(predict, file)
    assert not (tmp_path / "labels").exists()


def test_a_checkpoint_of_another_release(trained, new, tmp_path):
    def newer(content):
        content["semiweak"] |= {"format": 99, "version": "7.1"}

    line = refused(predict, changed(trained.best, tmp_path / "x.ckpt", newer))
    assert "x.ckpt has format 99, written by semiweak 7.1" in line
    assert "reads format 1: predict with that release, or train again" in line


@pytest.mark.parametrize(
    "name", ["os.system", "tests.Mine", "semiweak.data.vnc.VNCDataModule", None]
)
def test_a_class_that_is_not_exported_is_not_taken_from_a_checkpoint(trained, new, tmp_path, name):
    def other(content):
        content["hyper_parameters"]["_class_path"] = name

    line = refused(predict, changed(trained.best, tmp_path / "x.ckpt", other))
    assert f"x.ckpt is of the class {name}, which semiweak does not export" in line
    assert "load it from Python" in line


def test_data_of_other_classes(trained):
    line = refused(
        *(run, "test", "--ckpt_path", trained.best),
        *folder_options(trained.folder, class_names=["background", "nucleus", "cell"], test=1),
        *QUIET,
    )
    assert f"trained on the classes {CLASSES}, the data have ['background', 'nucleus'," in line
    assert "set data.class_names" in line


def test_no_test_images(trained):
    options = folder_options(trained.folder)
    line = refused(run, "test", "--ckpt_path", trained.best, *options, *QUIET)
    assert "there is no test image; set data.test" in line


def test_a_checkpoint_names_no_code_but_its_own_class(trained):
    arguments = torch.load(trained.best, weights_only=True)["hyper_parameters"]
    assert arguments["_class_path"] == "semiweak.methods.supervised.SupervisedModule"
    assert [name for name in arguments if name.startswith("_")] == ["_class_path"]


# Methods that learn nothing


@pytest.mark.parametrize("method", ["RandomModule", "ClassPriorModule"])
def test_chance_is_run_as_any_method_is(trained, new, method, capsys):
    options = folder_options(trained.folder, test=1)
    model = ("--model", method, "--model.num_classes", 3)
    run("fit", *model, *options, *QUIET)  # for 100 epochs, if it learnt
    home = Path("runs/version_0")
    assert everything_in(home / "checkpoints") == ["best.ckpt", "last.ckpt"]
    assert "best model: runs/version_0/checkpoints/best.ckpt" in capsys.readouterr().out
    checkpoint = home / "checkpoints" / "best.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 1
    run("test", "--config", home / "config.yaml", "--ckpt_path", checkpoint)
    assert "test/dice/nucleus" in capsys.readouterr().out
    predict(checkpoint)
    assert set(np.unique(pixels("labels/a.png"))) == {0, 1, 2}
    drawn = getattr(semiweak, method).load_from_checkpoint(checkpoint, weights_only=True)
    expected = drawn.predict_probabilities(torch.zeros(1, 1, 70, 55), ["a"]).argmax(1)[0]
    assert (pixels("labels/a.png") == expected.numpy()).all()


def test_the_prior_is_in_the_checkpoint(trained):
    options = folder_options(trained.folder)
    run("fit", "--model", "ClassPriorModule", "--model.num_classes", 3, *options, *QUIET)
    state = torch.load("runs/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    # Three of the four masks train, and two clicks.
    expected = 3 * np.bincount(truth().ravel()) + [0, 1, 1]
    assert state["counts"].tolist() == expected.tolist()
