"""Commands of instance segmentation as a user types them: clustering, fine-tuning, files."""

import csv
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mixed_folder import QUIET, refused, run, save
from PIL import Image

from semiweak import HDBSCAN, MeanShift, SpocoModule, Tiling
from semiweak.clustering.describe import clustering_from, description_of
from semiweak.data.normalize import Normalization
from semiweak.data.readers import read_labels
from semiweak.data.synthetic import cell_sample

CHECKPOINT = "runs/version_0/checkpoints/last.ckpt"
MEAN_SHIFT = ("--clustering", "MeanShift", "--clustering.bandwidth", "0.7")
SIZE = 40


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """Where runs and predictions land."""
    monkeypatch.chdir(tmp_path)


def options(**data):
    given = {
        "scene": "cells", "task": "instances", "num_train": 4, "num_val": 1, "num_test": 1,
        "num_predict": 2, "size": SIZE, "patch_size": 32, "batch_size": 2, "instance_ratio": 0.5,
    } | data  # fmt: skip
    return [
        "--data=SyntheticDataModule",
        *(f"--data.{name}={value}" for name, value in given.items() if value is not None),
        *QUIET,
    ]


def model(**arguments):
    given = {"widths": "[4,8]", "norm": "group", "embedding_dim": 4} | arguments
    return ["--model=SpocoModule", *(f"--model.{name}={value}" for name, value in given.items())]


def fit(*more, data=None, **arguments):
    run("fit", *model(**arguments), *(data or options()), "--trainer.max_epochs=1", *more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run, which no test changes."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        fit(*MEAN_SHIFT, "--clustering.background", "largest", "--model.lr", "0.01")
    return SimpleNamespace(run=home / "runs" / "version_0", last=home / CHECKPOINT)


def content(path):
    return torch.load(path, weights_only=True)


def clustering_of(path):
    return content(path)["semiweak"]["clustering"]


def cell_images(folder, number=2, shape=(33, 47)):
    images = [cell_sample(90 + i, shape=shape).image[0] for i in range(number)]
    for i, image in enumerate(images):
        save(folder / f"im{i}.png", image)
    return images


def by_hand(checkpoint, images, clustering=None, tiling=None):
    """Objects of images from Python, without the command line and the data module."""
    module = SpocoModule.load_from_checkpoint(checkpoint, weights_only=True).eval()
    data = content(checkpoint)["semiweak"]["data"]
    normalise = Normalization(tuple(data["offset"]), tuple(data["scale"]))
    module.clustering, module.tiling = clustering, tiling or Tiling()
    return [module.segment(normalise(torch.as_tensor(i)[None, None]))[0][0].numpy() for i in images]


def predict(checkpoint, *more, out="labels"):
    run("predict", "--ckpt_path", checkpoint, "--data.root", "new", "--out", out, *QUIET, *more)


# A run


def test_a_run_leaves_scores_pictures_and_what_it_painted(trained):
    assert sorted(path.name for path in trained.run.iterdir()) == [
        "checkpoints", "config.yaml", "hparams.yaml", "metrics.csv", "painted_objects.json",
        "pictures",
    ]  # fmt: skip
    with (trained.run / "metrics.csv").open() as file:
        columns = {k for row in csv.DictReader(file) for k, v in row.items() if v}
    assert {"val/sbd", "val/ap50", "val/map", "val/arand", "lr-Adam"} <= columns
    (picture,) = (trained.run / "pictures").iterdir()
    assert np.array(Image.open(picture)).ndim == 3


def test_the_data_of_the_wrong_task_are_told():
    line = refused(fit, data=options(task="semantic", instance_ratio=None))
    assert "SpocoModule learns and is scored by objects" in line
    assert "set data.task to instances" in line


# The clustering


def test_the_clustering_of_the_training_is_that_of_the_prediction(trained, tmp_path):
    given = MeanShift(bandwidth=0.7, background="largest")
    assert clustering_of(trained.last) == description_of(given)
    images = cell_images(tmp_path / "new")
    predict(trained.last)
    same = by_hand(trained.last, images, given)
    for i, labels in enumerate(by_hand(trained.last, images)):
        np.testing.assert_array_equal(labels, same[i])
        np.testing.assert_array_equal(read_labels(tmp_path / "labels" / f"im{i}.png"), labels)


@pytest.mark.parametrize(
    "chosen",
    [
        ("MeanShift", "--clustering.bandwidth", "5", "--clustering.merge_distance", "20"),
        ("HDBSCAN", "--clustering.min_size", "20", "--clustering.fill", "true"),
        ("MutexWatershed", "--clustering.offsets", "[3,5]", "--clustering.merge_distance", "null"),
        ("ConsistencyClustering", "--clustering.delta_v", "0.6"),
    ],
)
def test_another_clustering_to_predict_with(trained, tmp_path, chosen):
    images = cell_images(tmp_path / "new")
    predict(trained.last, "--clustering", *chosen)
    values = {"5": 5.0, "20": 20, "true": True, "[3,5]": [3, 5], "null": None, "0.6": 0.6}
    names = [name.partition(".")[2] for name in chosen[1::2]]
    arguments = dict(zip(names, [values[value] for value in chosen[2::2]], strict=True))
    other = clustering_from({"class_path": chosen[0], "init_args": arguments})
    for i, labels in enumerate(by_hand(trained.last, images, other)):
        np.testing.assert_array_equal(read_labels(tmp_path / "labels" / f"im{i}.png"), labels)
    assert clustering_of(trained.last)["class_path"] == "MeanShift"


def test_a_configuration_holds_the_clustering_and_an_option_beats_it(trained, monkeypatch):
    used, segment = [], SpocoModule.segment

    def watch(self, *args):
        used.append(description_of(self.active_clustering))
        return segment(self, *args)

    monkeypatch.setattr(SpocoModule, "segment", watch)
    given = {"bandwidth": 0.7, "background": "largest"}
    both = inspect.signature(HDBSCAN).parameters.keys() & inspect.signature(MeanShift).parameters
    shared = {name: getattr(MeanShift(**given), name) for name in both}
    checkpoint = ("--ckpt_path", trained.last)
    for command, expected in (
        ((*checkpoint, *options()), MeanShift(**given)),
        ((*checkpoint, "--config", trained.run / "config.yaml"), MeanShift(**given)),
        (
            ("--clustering.seed=3", "--config", trained.run / "config.yaml", *checkpoint),
            MeanShift(**given, seed=3),
        ),
        (
            ("--config", trained.run / "config.yaml", *checkpoint, "--clustering", "HDBSCAN"),
            HDBSCAN(**shared),  # a saved configuration has all options; what both have is kept
        ),
    ):
        run("test", *command)
        assert used.pop() == description_of(expected)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--clustering", "MeanShft"), ("clustering", "MeanShft")),
        ((*MEAN_SHIFT, "--clustering.bandwith", "3"), ("Option 'bandwith' is not accepted",)),
        ((*MEAN_SHIFT, "--clustering.seed", "x"), ('"seed"', "Got value: x")),
        (("--clustering.min_size", "3"), ('"clustering"', "min_size")),
    ],
)
def test_a_misspelt_clustering(trained, capsys, wrong, words):
    with pytest.raises(SystemExit) as stopped:
        fit(*wrong)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_a_value_that_a_clustering_refuses():
    line = refused(fit, "--clustering=MeanShift", "--clustering.bandwidth=-1")
    assert line.startswith("error: bandwidth=-1.0, but the radius of a kernel is positive")


def test_a_method_without_embeddings_has_nothing_to_cluster():
    data = options(task="semantic", instance_ratio=None)
    semantic = ("--model=SupervisedModule", "--model.num_classes=2", "--model.widths=[4,8]")
    line = refused(run, "fit", *semantic, *data, *MEAN_SHIFT)
    assert "SupervisedModule finds no objects to be clustered" in line


def test_consistency_clustering_of_a_model_without_a_second_network():
    line = refused(fit, "--clustering=ConsistencyClustering", g_network="shared")
    assert "ConsistencyClustering needs the embeddings of a second network" in line
    assert "choose another clustering" in line


# Fine-tuning


def test_fine_tuning_begins_with_the_weights_and_nothing_else(trained, monkeypatch):
    starts = []

    def watch(self):
        SpocoModule.__mro__[1].on_train_start(self)
        starts.append({name: value.clone() for name, value in self.state_dict().items()})
        (adam,) = self.trainer.optimizers
        assert not adam.state
        assert adam.param_groups[0]["lr"] == 2e-5
        assert self.trainer.lr_scheduler_configs == []
        assert (self.trainer.global_step, self.trainer.current_epoch) == (0, 0)

    monkeypatch.setattr(SpocoModule, "on_train_start", watch)
    before = content(trained.last)
    # Brighter images: with the normalisation of the first run the network would see others.
    data = options(num_train=6, size=48, normalize="minmax")
    fit("--init_from", trained.last, data=data, lr=2e-5, lr_factor=1)
    (start,) = starts
    assert start.keys() == before["state_dict"].keys()
    for name, value in before["state_dict"].items():
        assert torch.equal(start[name], value), name
    after = content(CHECKPOINT)
    changed = [not torch.equal(after["state_dict"][k], v) for k, v in start.items()]
    assert any(changed)
    assert after["hyper_parameters"]["lr"] == 2e-5
    assert after["optimizer_states"][0]["param_groups"][0]["lr"] == 2e-5
    data_before, data_after = before["semiweak"]["data"], after["semiweak"]["data"]
    assert data_before["scale"] != data_after["scale"]
    assert data_before["offset"] != data_after["offset"]
    # The clustering is said anew, or the default.
    assert clustering_of(CHECKPOINT)["class_path"] == "MutexWatershed"


@pytest.mark.parametrize(
    "other", [{"widths": "[4,12]"}, {"embedding_dim": 5}, {"g_network": "shared"}]
)
def test_weights_of_other_networks(trained, other):
    line = refused(fit, "--init_from", trained.last, **other)
    assert line.startswith(f"error: the weights of {trained.last} do not fit the model: it must be")


def test_nothing_to_begin_with(tmp_path):
    assert "there is no checkpoint nowhere.ckpt" in refused(fit, "--init_from=nowhere.ckpt")
    (tmp_path / "x.ckpt").write_text("hello")
    assert "x.ckpt is no checkpoint of semiweak" in refused(fit, "--init_from=x.ckpt")
    assert not (tmp_path / "runs" / "version_0" / "checkpoints").exists()


# Files


def test_label_images_hold_ids_and_embeddings_are_shown(trained, tmp_path):
    cell_images(tmp_path / "new", number=2)
    small = ("--clustering.min_size=1", "--clustering.min_core=0", "--clustering.bandwidth=0.1")
    predict(trained.last, "--clustering=MeanShift", *small, "--clustering.merge_distance=null")
    found = read_labels(tmp_path / "labels" / "im0.png")
    assert found.shape == (33, 47)
    ids = np.unique(found)
    assert len(ids) > 3  # objects, not two classes
    np.testing.assert_array_equal(ids[ids > 0], np.arange(1, ids.max() + 1))
    for name in ("im0.png", "im1.png"):
        for folder in ("embeddings", "overlays"):
            shown = np.array(Image.open(tmp_path / "labels" / folder / name))
            assert shown.shape == (33, 47, 3)
            assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 3
    assert not (tmp_path / "labels" / "overlays" / "_legend.png").exists()
    predict(trained.last, "--writer.embeddings", "false", out="other")
    assert not (tmp_path / "other" / "embeddings").exists()


def test_images_larger_than_a_tile_have_the_objects_of_the_whole(trained, tmp_path):
    (image,) = cell_images(tmp_path / "new", number=1, shape=(70, 60))
    tiling = ("--tiling.size", 32, "--tiling.overlap", 8)
    predict(trained.last, *tiling)
    found = read_labels(tmp_path / "labels" / "im0.png")
    np.testing.assert_array_equal(found, by_hand(trained.last, [image], tiling=Tiling(32, 8))[0])
    assert (found != by_hand(trained.last, [image])[0]).any()  # tiles see less around them


def test_probabilities_are_told_to_be_none(trained, tmp_path):
    cell_images(tmp_path / "new", number=1)
    line = refused(predict, trained.last, "--writer.probabilities", "true")
    assert "SpocoModule predicts no probabilities" in line


def test_synthetic_images_are_predicted_too(trained, tmp_path):
    run("predict", "--ckpt_path", trained.last, *options(), "--out", "labels")
    assert len(list((tmp_path / "labels").glob("*.png"))) == 2
