"""The layout of the Cell Tracking Challenge, on sequences built here, not on published ones."""

import numpy as np
import pytest
import tifffile

from semiweak.data.cell_tracking import CellTrackingDataModule

SHAPE = (20, 24)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)


def cells(*ids):
    """Cells 1, 2 and 7 of which those asked for are painted."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[2:7, 2:7], labels[2:7, 7:12], labels[12:16, 4:10] = 1, 2, 7
    return np.where(np.isin(labels, ids), labels, np.uint16(0))


def markers():
    """One dot in each cell, with the numbers of its track."""
    dots = np.zeros(SHAPE, np.uint16)
    dots[4, 4:6], dots[4, 9], dots[14, 7] = 31, 32, 33
    return dots


@pytest.fixture
def root(tmp_path):
    """Gold truth of frame 0 (all cells) and 2 (some); silver truth of frames 0 to 2 (two cells)."""
    for sequence, digits in (("01", 3), ("02", 4)):
        for t in range(6):
            image = np.random.default_rng(t).integers(4000, size=SHAPE).astype(np.uint16)
            save(tmp_path / sequence / f"t{t:0{digits}}.tif", image)
            tra = tmp_path / f"{sequence}_GT" / "TRA" / f"man_track{t:0{digits}}.tif"
            save(tra, markers())
        gold, silver = (tmp_path / f"{sequence}_{kind}" / "SEG" for kind in ("GT", "ST"))
        save(gold / f"man_seg{0:0{digits}}.tif", cells(1, 2, 7))
        save(gold / f"man_seg{2:0{digits}}.tif", cells(7))
        for t in range(3):
            save(silver / f"man_seg{t:0{digits}}.tif", cells(1, 2))
    (tmp_path / "01_GT" / "TRA" / "man_track.txt").write_text("31 0 5 0\n")
    (tmp_path / "01" / "._t000.tif").write_text("of a Mac")
    return tmp_path


def module(root, **arguments):
    return CellTrackingDataModule(
        str(root), **{"patch_size": 16, "num_workers": 0, "val": 0} | arguments
    )


def said(data):
    return {source.name: source.read().annotation for source in data.sources()}


def kinds(data):
    return [a.kind(data.task) for name, a in said(data).items() if name.startswith("01")]


def names(data, part):
    return [source.name for source in data.part(part)]


def test_gold_truth_of_all_cells_is_a_mask_and_of_some_is_not(root):
    data = module(root)
    found = said(data)
    assert list(found)[:2] == ["01_t000", "01_t001"]
    assert list(found)[6] == "02_t0000"
    assert data.class_names == ["background", "cell"]
    assert kinds(data) == ["mask", "none", "scribbles", "none", "none", "none"]
    assert (found["01_t000"].mask == (cells(1, 2, 7) > 0)).all()
    assert (found["02_t0002"].mask == np.where(cells(7) > 0, 1, 255)).all()
    assert [source.complete for source in data.sources()][:4] == [None, False, None, False]
    sample = data.sources()[1].read()
    expected = np.random.default_rng(1).integers(4000, size=SHAPE)
    assert sample.image.dtype == np.uint16
    assert (sample.image[0] == expected).all()


def test_objects(root):
    data = module(root, task="instances")
    assert data.class_names is None
    assert kinds(data) == ["instances", "none", "objects", "none", "none", "none"]
    assert (said(data)["01_t000"].instances == cells(1, 2, 7)).all()
    data = module(root, task="instances", object_budget=2, val=1)
    data.setup("fit")
    assert sum(map(len, data.painted_objects.values())) == 2


def test_who_says_what_is_complete(root):
    none = ["none"] * 3
    assert kinds(module(root, complete="all")) == ["mask", "none", "mask", *none]
    assert kinds(module(root, complete="some")) == ["scribbles", "none", "scribbles", *none]
    # A marker in no painted cell, and no markers at all.
    save(root / "01_GT" / "TRA" / "man_track000.tif", np.roll(markers(), 10, axis=1))
    assert kinds(module(root))[0] == "scribbles"
    (root / "01_GT" / "TRA" / "man_track000.tif").unlink()
    assert kinds(module(root))[0] == "scribbles"


def test_silver_truth(root):
    data = module(root, truth="silver")
    assert kinds(data) == ["mask", "mask", "mask", "none", "none", "none"]
    assert (said(data)["01_t002"].mask == (cells(1, 2) > 0)).all()
    assert kinds(module(root, truth="silver", complete="some"))[0] == "scribbles"


def test_gold_truth_where_it_is_complete_and_silver_elsewhere(root):
    found = said(module(root, truth="both"))
    assert (found["01_t000"].mask == (cells(1, 2, 7) > 0)).all()
    assert (found["01_t001"].mask == (cells(1, 2) > 0)).all()
    assert (found["01_t002"].mask == (cells(1, 2) > 0)).all()
    (root / "01_ST" / "SEG" / "man_seg002.tif").unlink()
    found = said(module(root, truth="both"))
    assert (found["01_t002"].mask == np.where(cells(7) > 0, 1, 255)).all()


def test_sequences_and_runs_stay_together(root):
    data = module(root, truth="silver", val=0.2)
    data.setup("fit")
    assert {len(names(data, part)) for part in ("train", "val")} == {6, 3}
    assert {n[:2] for n in names(data, "train")} | {n[:2] for n in names(data, "val")} == {
        "01",
        "02",
    }
    assert len({n[:2] for n in names(data, "val")}) == 1
    data = module(root, truth="silver", sequences=["01"], run_length=2, val=1)
    assert [s.group for s in data.sources()] == ["01_0"] * 2 + ["01_1"] * 2 + ["01_2"] * 2
    data.setup("fit")
    assert len(names(data, "train")) == 4
    (batch, *_) = data.val_dataloader()
    assert batch["image"].shape == (1, 1, *SHAPE)


def test_frames_are_in_the_order_of_time(root):
    (root / "01" / "t001.tif").rename(root / "01" / "t0010.tif")
    found = [s.name for s in module(root, truth="none", sequences=["01"]).sources()]
    assert found == ["01_t000", "01_t002", "01_t003", "01_t004", "01_t005", "01_t0010"]


def test_frames_alone(root):
    assert kinds(module(root, truth="none")) == ["none"] * 6
    data = module(root, border=3)
    data.setup("predict")
    assert data.predict_names()[5:7] == ["01_t005", "02_t0000"]
    sample = data.part("predict")[0].read()
    assert sample.shape == SHAPE
    assert sample.annotation.kind() == "none"


def test_the_border_is_cut_off(root):
    sample = module(root, border=3).sources()[0].read()
    assert sample.shape == (14, 18)
    assert sample.annotation.is_dense()
    assert (sample.annotation.mask == (cells(1, 2, 7) > 0)[3:-3, 3:-3]).all()
    with pytest.raises(ValueError, match=r"t000\.tif has 20 x 24 pixels; a border of 10 leaves"):
        said(module(root, border=10))


def test_a_challenge_data_set_without_truth(root):
    for folder in ("01_GT", "02_GT"):
        (root / folder / "SEG").rename(root / folder / "elsewhere")
    with pytest.raises(ValueError, match=r"holds no truth in 01_GT/SEG/man_seg000\.tif; choose"):
        module(root).sources()
    assert kinds(module(root, truth="both"))[0] == "mask"
    assert len(module(root).predict_sources()) == 12


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("01_GT/SEG/man_seg009.tif", r"man_seg009\.tif: there is no frame 9 in .*01"),
        ("01_GT/SEG/man_seg_001_004.tif", r"man_seg_001_004\.tif: is a painted slice of a stack"),
        ("01_GT/SEG/man_seg0001.tif", None),
        ("01_GT/SEG/man_seg0000.tif", r"man_seg000\.tif and .*man_seg0000\.tif have the same num"),
        ("01_GT/SEG/mask001.tif", r"mask001\.tif: files in this folder are called man_seg000\.tif"),
        ("01/image.tif", r"image\.tif: files in this folder are called t000\.tif"),
    ],
)
def test_files_that_do_not_belong(root, path, message):
    save(root / path, cells(1))
    if message is None:
        assert kinds(module(root))[1] == "scribbles"
        return
    with pytest.raises(ValueError, match=message):
        module(root).sources()


def test_files_that_cannot_be_read(root):
    save(root / "01_GT" / "SEG" / "man_seg000.tif", cells(1)[:5])
    with pytest.raises(ValueError, match=r"man_seg000\.tif has 5 x 24 pixels, its image has 20 x"):
        said(module(root))
    save(root / "01_GT" / "SEG" / "man_seg000.tif", cells(1))
    save(root / "01_GT" / "TRA" / "man_track000.tif", markers()[:5])
    with pytest.raises(ValueError, match=r"man_track000\.tif has 5 x 24 pixels"):
        said(module(root))
    save(root / "01" / "t000.tif", np.zeros((9, *SHAPE), np.uint16))
    with pytest.raises(ValueError, match=r"t000\.tif.*stack"):
        said(module(root))
    (root / "01" / "t000.tif").write_bytes(b"no TIFF")
    with pytest.raises(ValueError, match=r"t000\.tif"):
        said(module(root))


def test_folders_that_are_missing(root, tmp_path):
    with pytest.raises(ValueError, match=r"root: there is no folder .*gone"):
        module(tmp_path / "gone").sources()
    with pytest.raises(ValueError, match=r"01_GT holds no sequence, a folder such as 01"):
        module(tmp_path / "01_GT").predict_sources()
    with pytest.raises(ValueError, match=r"sequences: .* has no 03; it has 01, 02"):
        module(root, sequences=["01", "03"]).sources()
    (root / "03").mkdir()
    with pytest.raises(ValueError, match=r"03 holds no frame, such as t000\.tif"):
        module(root).sources()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"truth": "bronze"}, "truth is 'bronze'; it must be gold, silver, both or none"),
        ({"complete": "yes"}, "complete is 'yes'; it must be auto, all or some"),
        ({"run_length": 0}, "run_length is 0; it must be at least 1"),
        ({"border": -1}, "border is -1; it must be at least 0"),
        ({"spatial_dims": 3}, "spatial_dims is 3; of the Cell Tracking Challenge, the 2D data"),
        ({"object_budget": 3}, "task is semantic"),
    ],
)
def test_arguments_that_cannot_be(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        module(root, **arguments)
