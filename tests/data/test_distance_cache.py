"""Distance maps are made once, kept by content, and move with the patches."""

from __future__ import annotations

import errno
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import semiweak
from semiweak.data import distance_cache
from semiweak.data.annotations import Annotation, Sample
from semiweak.data.distance_cache import DistanceMaps, cache_folder
from semiweak.data.distances import distance_maps
from semiweak.data.geometry import affine, crop, flip, transpose
from semiweak.data.patches import Geometry
from semiweak.data.source import Maps

SHAPE = (20, 24)


def sample(name: str = "a", **known: Any) -> Sample:
    rng = np.random.default_rng(0)
    said = {
        "points": np.array([[3, 4], [15, 20]], np.float32),
        "point_labels": np.array([1, 1]),
    } | known
    return Sample(rng.integers(0, 256, (1, *SHAPE)).astype(np.uint8), Annotation(**said), name)


def maker(folder: Path | None, **changes: Any) -> DistanceMaps:
    settings = {"num_classes": 3, "distance": "geodesic", "mixing": 0.8}
    return DistanceMaps(**(settings | {"cache": folder and str(folder)} | changes))


def expected(of: Sample, **changes: Any) -> Any:
    said = of.annotation
    return distance_maps(of.image, said.points, said.point_labels, 3, mixing=0.8, **changes)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is computed rather than read."""
    calls = []

    def count(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return distance_maps(*args, **kwargs)

    monkeypatch.setattr(distance_cache, "distance_maps", count)
    return calls


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("kept", [True, False])
def test_maps_are_made_once(kept: bool, tmp_path: Path, computed: list[Any]) -> None:
    make = maker(tmp_path if kept else None)
    for _ in range(3):
        np.testing.assert_array_equal(make(sample()), expected(sample()))
    assert len(computed) == 1
    assert len(files(tmp_path)) == kept
    np.testing.assert_array_equal(maker(tmp_path if kept else None)(sample()), expected(sample()))
    assert len(computed) == 2 - kept


def test_workers_get_a_copy_that_knows_the_folder(tmp_path: Path, computed: list[Any]) -> None:
    make = maker(tmp_path)
    make(sample())
    pickle.loads(pickle.dumps(make))(sample())
    assert len(computed) == 1


def test_a_file_is_named_by_all_that_the_maps_depend_on(tmp_path: Path) -> None:
    this = sample()
    key = maker(tmp_path).key(this)
    assert key == maker(tmp_path / "elsewhere").key(replace(this, name="b"))
    assert key == maker(tmp_path, spacing=[1, 1]).key(this)
    other = this.image.copy()
    other[0, 0, 0] ^= 1
    different = [
        maker(tmp_path).key(replace(this, image=other)),
        maker(tmp_path).key(replace(this, image=this.image.astype(np.float32))),
        maker(tmp_path).key(replace(this, image=this.image.reshape(1, 24, 20))),
        maker(tmp_path).key(sample(points=np.array([[3, 4], [15, 19]], np.float32))),
        maker(tmp_path).key(sample(point_labels=np.array([1, 2]))),
        maker(tmp_path).key(sample(valid=np.ones(SHAPE, bool))),
        maker(tmp_path, num_classes=4).key(this),
        maker(tmp_path, distance="euclidean").key(this),
        maker(tmp_path, mixing=0.5).key(this),
        maker(tmp_path, spacing=[2.0, 1.0]).key(this),
        key,
    ]
    assert len(set(different)) == len(different)
    straight = maker(tmp_path, distance="euclidean")
    assert straight.key(this) == straight.key(replace(this, image=other))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\x01\x00", "short", "shape", "dtype"])
def test_a_broken_file_is_made_again_with_a_word(tmp_path: Path, content: Any) -> None:
    maker(tmp_path)(sample())
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    if content == "short":
        file.write_bytes(whole[:-100])
    elif isinstance(content, str):
        np.save(file, np.zeros((3, *SHAPE), np.float64 if content == "dtype" else "f4")[:2])
    else:
        file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"is no file of the distances of a .*computed again"):
        np.testing.assert_array_equal(maker(tmp_path)(sample()), expected(sample()))
    assert file.read_bytes() == whole
    assert files(tmp_path) == [file]


def test_where_nothing_can_be_written_maps_stay_in_memory(
    tmp_path: Path, computed: list[Any]
) -> None:
    (tmp_path / "file").touch()
    make = maker(tmp_path / "file")
    with pytest.warns(UserWarning, match=r"cannot be kept in .*say another folder as cache"):
        first = make(sample())
    np.testing.assert_array_equal(make(sample()), first)
    assert len(computed) == 1


def test_no_half_written_file_is_ever_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: Any, maps: Any) -> None:
        handle.write(b"half")
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(distance_cache.np, "save", full)
    with pytest.warns(UserWarning, match="no space left"):
        maker(tmp_path)(sample())
    assert not files(tmp_path)


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/semiweak/distances")
    assert maker(None, cache="auto").folder == cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "semiweak" / "distances"


def test_only_where_somebody_looked_for_points(tmp_path: Path) -> None:
    valid = np.zeros(SHAPE, bool)
    valid[:, :18] = True
    for _ in range(2):
        maps = maker(tmp_path)(sample(valid=valid))
        assert np.array_equal(~np.isnan(maps[1]), valid)
        assert np.isnan(maps[[0, 2]]).all()
    none = {"points": np.zeros((0, 2), np.float32), "point_labels": np.zeros(0, np.int64)}
    assert np.isnan(maker(tmp_path)(sample("b", **none))).all()
    assert len(files(tmp_path)) == 1


# Maps move with the image


def placed() -> Sample:
    """An image of its own coordinates, as maps too; the last map is empty."""
    here = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(np.float32)
    maps = np.concatenate([here, np.full((1, *SHAPE), np.nan, np.float32)])
    return Sample(here, Annotation(), "placed", maps=maps)


@pytest.mark.parametrize(
    "move",
    [
        lambda s: crop(s, (4, 6), (8, 9)),
        lambda s: flip(s, [0]),
        lambda s: flip(s, [0, 1]),
        lambda s: transpose(s, [1, 0]),
        lambda s: transpose(flip(crop(s, (3, 2), (7, 7)), [1]), [1, 0]),
    ],
)
def test_maps_are_cut_and_turned_as_the_image_is(move: Any) -> None:
    moved = move(placed())
    np.testing.assert_array_equal(moved.maps[:2], moved.image)
    assert np.isnan(moved.maps[2]).all()


def test_beyond_the_image_there_are_no_maps() -> None:
    moved = crop(placed(), (-3, 10), (16, 20))
    inside = moved.content
    assert inside is not None
    assert not inside.all()
    np.testing.assert_array_equal(moved.maps[:2, inside], moved.image[:, inside])
    assert np.isnan(moved.maps[:, ~inside]).all()


def test_maps_are_rotated_and_scaled_as_the_image_is_and_keep_their_values() -> None:
    big = placed()
    for seed in range(3):
        moved = affine(big, np.random.default_rng(seed), rotate=40, scale=(1.5, 2.0))
        inside = np.ones(SHAPE, bool) if moved.content is None else moved.content
        apart = np.abs(moved.maps[:2] - moved.image)[:, inside]
        assert apart.max() < 1.01  # the nearest pixel beside the interpolated one
        assert np.median(apart) < 0.5
        assert np.isnan(moved.maps[:2, ~inside]).all()
        assert np.isnan(moved.maps[2]).all()


# From a data module


def points_data(**options: Any) -> semiweak.SyntheticDataModule:
    common: dict[str, Any] = {
        "num_train": 4, "num_val": 1, "size": 40, "patch_size": 24, "num_workers": 0,
        "weaken": semiweak.Weakening(masks=0, points=0.5, nothing=0.5), "batch_size": 2,
        "samples_per_epoch": 8,
    }  # fmt: skip
    return semiweak.SyntheticDataModule(**(common | options))


@pytest.mark.parametrize(
    "geometry", [Geometry(), Geometry(flip=False, rotate=30, scale=(0.8, 1.2))]
)
def test_training_patches_carry_the_maps_of_the_whole_weakened_image(geometry: Geometry) -> None:
    data = points_data(geometry=geometry)
    data.setup("fit")
    made: dict[str, Sample] = {}

    def make(whole: Sample) -> Any:
        made[whole.name] = whole
        return np.stack([whole.image[0], np.full(whole.shape, np.nan)]).astype(np.float32)

    data.add_maps(Maps("extra", make))
    batches = list(data.train_dataloader())
    assert all(whole.shape == (40, 40) for whole in made.values())
    assert all(whole.annotation.mask is None for whole in made.values())
    assert {len(w.annotation.points) > 0 for w in made.values()} == {True, False}
    for batch in batches:
        assert batch["extra"].shape == (2, 2, 24, 24)
        inside = batch["valid"]
        apart = (batch["extra"][:, 0] - batch["image"][:, 0].float()).abs()[inside]
        assert apart.mean() < (20 if geometry.rotate else 1e-6)
        assert batch["extra"][:, 0].isnan().equal(~inside)
        assert batch["extra"][:, 1].isnan().all()
    assert "extra" not in next(iter(data.val_dataloader()))


def test_maps_leave_the_rest_of_a_batch_as_it_was() -> None:
    batches = []
    for with_maps in (False, True):
        data = points_data(geometry=Geometry(rotate=30))
        data.setup("fit")
        if with_maps:
            data.add_maps(Maps("distances", maker(None, num_classes=4)))
        batches.append(list(data.train_dataloader()))
    for plain, more in zip(*batches, strict=True):
        assert set(more) - set(plain) == {"distances"}
        for key, value in plain.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, more[key]), key
