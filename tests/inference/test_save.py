"""Files of label images and probabilities."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from semiweak.inference.save import save_labels, save_probabilities

NAMES = ["background", "cell", "Zelle-ä"]


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def read(path: Path) -> np.ndarray:
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    save_labels(path, np.zeros((4, 4), np.uint8))
    before = path.read_bytes()

    def fail(*args, **kwargs):
        # Where the library is about to write: half of a file, then the disk is full.
        target = next(a for a in args if isinstance(a, Path))
        target.write_bytes(b"half")
        assert path.read_bytes() == before
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="no space"):
        save_labels(path, np.ones((4, 4), np.uint8), overwrite=True)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="no space"):
        save_labels(tmp_path / f"b{suffix}", np.ones((4, 4), np.uint8))
    assert files(tmp_path) == {path.name}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX files")
def test_others_may_read_a_file_as_they_may_any_other(tmp_path):
    save_labels(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "plain").touch()
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.png", "plain")]
    assert mode[0] == mode[1]


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_labels_come_back_in_the_smallest_type(tmp_path, largest, dtype, suffix):
    labels = np.arange(24).reshape(4, 6)
    labels[0, 0] = largest
    path = tmp_path / f"a{suffix}"
    if suffix == ".png" and largest > 65535:
        with pytest.raises(ValueError, match="holds labels up to 65535"):
            save_labels(path, labels)
        return
    save_labels(path, labels)
    assert read(path).dtype == dtype
    np.testing.assert_array_equal(read(path), labels)


def test_a_boolean_mask_is_a_label_image(tmp_path):
    save_labels(tmp_path / "a.png", np.eye(5, dtype=bool))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.eye(5, dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("a.png", np.zeros((4, 4), np.float32), "integers"),
        ("a.png", np.zeros(4, np.uint8), "2 or 3 axes"),
        ("a.tif", np.full((4, 4), -1), "no negative"),
        ("a.png", np.zeros((2, 4, 4), np.uint8), "cannot hold a stack"),
        ("a.jpg", np.zeros((4, 4), np.uint8), r"must end in \.tif"),
    ],
)
def test_what_is_no_label_image_is_refused(tmp_path, name, labels, words):
    with pytest.raises(ValueError, match=words) as error:
        save_labels(tmp_path / name, labels)
    assert str(tmp_path / name) in str(error.value)
    assert files(tmp_path) == set()


def test_functions_refuse_to_overwrite(tmp_path):
    path = tmp_path / "a.tif"
    save_probabilities(path, np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"a\.tif exists"):
        save_probabilities(path, np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"a\.tif exists"):
        save_labels(path, np.zeros((4, 4), np.uint8))
    save_labels(path, np.zeros((4, 4), np.uint8), overwrite=True)
    assert read(path).dtype == np.uint8


def test_probabilities_of_other_axes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(K, H, W\)"):
        save_probabilities(tmp_path / "a.tif", np.zeros((4, 4)))


def test_the_same_result_is_the_same_file(tmp_path):
    values = np.random.default_rng(0).random((3, 8, 8))
    for folder in ("one", "two"):
        save_probabilities(tmp_path / folder / "a.tif", values, class_names=NAMES)
        save_labels(tmp_path / folder / "b.tif", values.argmax(0))
    for name in ("a.tif", "b.tif"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
