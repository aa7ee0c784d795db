"""What methods of embeddings share: which clustering, scores, pictures, prediction."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from adversarial_small import SIZE, cells, trainer
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from spoco_small import build

from semiweak import (
    HDBSCAN,
    ConsistencyClustering,
    InstanceScores,
    MeanShift,
    MutexWatershed,
    SpocoModule,
    SyntheticDataModule,
)
from semiweak.clustering.base import Clustering
from semiweak.clustering.describe import CLUSTERINGS, clustering_from, description_of
from semiweak.visualize import EmbeddingColors

SCORES = {
    "sbd", "best_dice_prediction", "best_dice_annotation", "dic", "abs_dic", "ap50", "map",
    "ap50_pooled", "map_pooled", "arand", "arand_precision", "arand_recall", "foreground_dice",
}  # fmt: skip


class Halves(Clustering):
    """Somebody else's: the left half is one object, and it is told what it was called with."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, embeddings: Any, *, other: Any = None, mask: Any = None, background: Any = None
    ) -> Any:
        given = {"embeddings": embeddings, "other": other, "mask": mask, "background": background}
        self.calls.append(given)
        labels = np.zeros(embeddings.shape[1:], np.int32)
        labels[..., : labels.shape[-1] // 2] = 1
        return labels

    def _partition(self, pixels: Any) -> Any:
        raise NotImplementedError


def saved(module: SpocoModule, folder: Path) -> Path:
    run = trainer(folder)
    run.strategy.connect(module)
    run.save_checkpoint(folder / "x.ckpt")
    return folder / "x.ckpt"


def load(path: Path) -> SpocoModule:
    return SpocoModule.load_from_checkpoint(path, weights_only=True)


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "version_0" / "pictures").iterdir())


def fit(module: SpocoModule, folder: Path, **arguments: Any) -> pl.Trainer:
    logger = CSVLogger(folder, name="")
    run = trainer(folder, logger=logger, log_every_n_steps=1, **arguments)
    run.fit(module, cells(num_val=2))
    return run


# Which clustering


def test_the_default_is_the_mutex_watershed_with_the_learned_background() -> None:
    clustering = build().active_clustering
    assert isinstance(clustering, MutexWatershed)
    assert clustering.background == "learned"
    assert description_of(clustering) == description_of(MutexWatershed(background="learned"))


def test_what_was_set_beats_the_checkpoint_which_beats_the_default(tmp_path: Path) -> None:
    module = build()
    module.clustering = MeanShift(bandwidth=0.7, background="largest")
    again = load(saved(module, tmp_path))
    assert again.clustering is None
    assert description_of(again.active_clustering) == description_of(module.clustering)
    again.clustering = HDBSCAN(min_size=33)
    assert again.active_clustering is again.clustering
    third = load(saved(again, tmp_path))
    assert description_of(third.active_clustering) == description_of(HDBSCAN(min_size=33))
    # A checkpoint of a model that was loaded and not changed keeps what it had.
    fourth = load(saved(third, tmp_path))
    assert description_of(fourth.active_clustering) == description_of(HDBSCAN(min_size=33))
    assert isinstance(load(saved(build(), tmp_path)).active_clustering, MutexWatershed)


@pytest.mark.parametrize("cls", CLUSTERINGS.values(), ids=list(CLUSTERINGS))
def test_a_checkpoint_remembers_every_option(cls: type[Clustering], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "min_size": 7, "min_core": 3, "merge_distance": 1.5, "connected": False, "fill": True,
        "background": "largest", "seed": 5,
    }  # fmt: skip
    module = build()
    module.clustering = cls(**options)
    again = load(saved(module, tmp_path)).active_clustering
    assert type(again) is cls
    assert {name: getattr(again, name) for name in options} == options
    module.clustering = cls(merge_distance=None)
    assert load(saved(module, tmp_path)).active_clustering.merge_distance is None


def test_a_clustering_of_somebody_else_is_not_taken_from_a_checkpoint(tmp_path: Path) -> None:
    module = build()
    module.clustering = Halves()
    path = saved(module, tmp_path)
    stored = torch.load(path, weights_only=True)["semiweak"]["clustering"]
    assert stored["class_path"] == f"{__name__}.Halves"
    with pytest.warns(UserWarning, match=r"Halves.*set `clustering`.*MutexWatershed"):
        again = load(path)
    assert isinstance(again.active_clustering, MutexWatershed)
    assert clustering_from({"class_path": "os.system", "init_args": {}}) is None


def test_consistency_clustering_wants_a_second_network() -> None:
    image = torch.randn(1, 1, SIZE, SIZE)
    for g_network in ("shared", "dropout"):
        module = build(g_network=g_network).eval()
        module.clustering = ConsistencyClustering()
        with pytest.raises(ValueError, match=r"ConsistencyClustering needs .* SpocoModule does"):
            module.segment(image)
    module = build(g_network="trained").eval()
    seen = []
    clustering = ConsistencyClustering()
    given = clustering.labels
    clustering.labels = lambda pixels: seen.append(pixels.other) or given(pixels)  # type: ignore
    module.clustering = clustering
    module.segment(image)
    expected = module.second(image)[0].flatten(1).T.detach().numpy()
    np.testing.assert_allclose(seen[0], expected, rtol=1e-5, atol=1e-6)


def test_the_clustering_is_told_what_background_is_like() -> None:
    module = build()
    module.clustering = halves = Halves()
    module.segment(torch.zeros(1, 1, 16, 16))
    module.backgrounds_seen.fill_(1)
    module.background_mean.fill_(2.0)
    module.segment(torch.zeros(1, 1, 16, 16))
    assert halves.calls[0]["background"] is None  # nothing was painted so far
    assert halves.calls[1]["background"].tolist() == [2.0] * 4


def test_other_clusterings_do_not_compute_the_second_embeddings() -> None:
    module = build().eval()
    module.clustering = halves = Halves()
    module.second_embeddings = None  # type: ignore[assignment, method-assign]
    module.segment(torch.randn(1, 1, SIZE, SIZE))
    assert halves.calls[0]["other"] is None


def test_objects_are_looked_for_where_the_image_is() -> None:
    module = build().eval()
    module.clustering = halves = Halves()
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[1, 5:] = False
    labels, embeddings = module.segment(torch.randn(2, 1, SIZE, SIZE), valid)
    assert halves.calls[0]["mask"] is None  # everywhere
    assert torch.equal(halves.calls[1]["mask"], valid[1])
    assert torch.equal(halves.calls[1]["embeddings"], embeddings[1])
    module.clustering = MutexWatershed(min_size=0)
    labels, _ = module.segment(torch.randn(2, 1, SIZE, SIZE), valid)
    assert not labels[1, 5:].any()
    assert labels[1, :5].any()


# Prediction


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_prediction_has_ids_and_embeddings_of_the_whole_image(spatial_dims: int) -> None:
    module = build(spatial_dims=spatial_dims).eval()
    shape = (3, 21, 30)[-spatial_dims:]
    image = torch.randn(2, 1, *shape)
    found = module.predict_step({"image": image, "name": ["a", "b"]}, 0)
    assert set(found) == {"labels", "embeddings", "image", "name"}
    assert found["labels"].dtype == torch.int64
    assert found["labels"].shape == (2, *shape)
    assert found["embeddings"].dtype == torch.float32
    assert found["embeddings"].shape == (2, 4, *shape)
    assert found["image"] is image
    with torch.no_grad():
        torch.testing.assert_close(found["embeddings"], module(image))


def test_half_precision_predicts_embeddings_in_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        labels, embeddings = build().eval().segment(torch.randn(1, 1, SIZE, SIZE))
    assert embeddings.dtype == torch.float32
    assert labels.dtype == torch.int64


# Scores and pictures


def test_scores_are_those_of_the_clustering_under_their_names(tmp_path: Path) -> None:
    module = build()
    run = fit(module, tmp_path)
    module.clustering = Halves()  # what was scored before does not count any more
    data = run.datamodule
    scores = InstanceScores()
    for name, stage in (("val", "validate"), ("test", "test")):
        scores.reset()
        data.setup(stage)
        for one in getattr(data, f"{name}_dataloader")():
            labels = torch.zeros_like(one["instances"]).long()
            labels[..., : SIZE // 2] = 1
            scores.update(labels, one["instances"].long(), one["valid"])
        (logged,) = getattr(run, stage)(module, data, verbose=False)
        expected = {f"{name}/{k}": v.item() for k, v in scores.compute().items()}
        assert set(logged) == {f"{name}/{score}" for score in SCORES}
        assert logged == pytest.approx(expected)
    with (tmp_path / "version_0" / "metrics.csv").open() as file:
        columns = {k for row in csv.DictReader(file) for k, v in row.items() if v}
    assert {f"val/{score}" for score in SCORES} <= columns
    terms = {f"train/{name}" for name in module.loss_weights()}
    assert terms | {"train/loss"} <= columns


def test_the_learning_rate_falls_on_a_plateau_of_the_score(tmp_path: Path) -> None:
    module = build(lr_patience=0, min_lr=0.0)
    module.clustering = Halves()  # the score is the same in all three
    run = fit(module, tmp_path, max_epochs=3)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(2e-4 * 0.2**2)


def test_a_picture_of_every_validation_with_the_same_colours(tmp_path: Path) -> None:
    module = build()
    module.clustering = Halves()
    used: list[Any] = []
    draw = module._log_picture

    def watch(shown: list[dict[str, Any]]) -> None:
        draw(shown)
        used.append(module.colors)
        assert [one["name"] for one in shown] == ["synthetic_0004", "synthetic_0005"]

    module._log_picture = watch  # type: ignore[method-assign]
    run = fit(module, tmp_path, max_epochs=2, num_sanity_val_steps=2)
    assert [path.name for path in pictures(tmp_path)] == ["epoch_0000.png", "epoch_0001.png"]
    shown: list[NDArray[Any]] = [np.array(Image.open(path)) for path in pictures(tmp_path)]
    assert shown[0].shape == shown[1].shape
    assert (shown[0] != shown[1]).any()  # the network has learnt
    assert len(used) == 2
    assert used[0] is used[1]

    path = tmp_path / "x.ckpt"
    module.clustering = None
    run.save_checkpoint(path)
    again = load(path)
    assert isinstance(again.colors, EmbeddingColors)
    np.testing.assert_array_equal(again.colors.axes, used[0].axes)
    np.testing.assert_array_equal(again.colors.center, used[0].center)


def test_no_picture_in_sanity_checking_or_without_a_folder(tmp_path: Path) -> None:
    module = build()
    fit(module, tmp_path / "a", num_sanity_val_steps=2, limit_train_batches=0)
    assert not (tmp_path / "a" / "version_0" / "pictures").exists()
    assert module._shown == []
    trainer(tmp_path / "b").fit(module, cells())  # no logger
    assert not (tmp_path / "b").exists()


def test_no_more_pictures_than_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semiweak.methods.instances.PICTURES", 1)
    module, seen = build(), []
    monkeypatch.setattr(module, "_log_picture", lambda shown: seen.append(len(shown)))
    fit(module, tmp_path, max_epochs=2)
    assert seen == [1, 1]


def test_data_of_classes_are_refused(tmp_path: Path) -> None:
    data = SyntheticDataModule(scene="cells", num_train=2, num_val=1, size=SIZE, num_workers=0)
    assert data.task == "semantic"
    message = "SpocoModule learns and is scored by objects, .* is semantic; set data.task to inst"
    for stage in ("fit", "validate", "test"):
        with pytest.raises(ValueError, match=message):
            getattr(trainer(tmp_path), stage)(build(), data)
