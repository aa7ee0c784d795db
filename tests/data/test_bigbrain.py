"""Sections of the BigBrain, on small files built here; the published volumes were not read."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from semiweak.data.bigbrain import TISSUES, BigBrainDataModule

VALUES = np.repeat(np.arange(10, dtype=np.uint8), 2)[None].repeat(18, 0)


@pytest.fixture
def root(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in (98, 99, 100, 101, 200):
        name = f"coronal_{i:04d}.png"
        Image.fromarray(np.full(VALUES.shape, i, np.uint8)).save(tmp_path / "images" / name)
        if i != 200:
            Image.fromarray(VALUES).save(tmp_path / "masks" / name)
    return tmp_path


def module(root, **arguments):
    return BigBrainDataModule(
        str(root), **{"patch_size": 16, "num_workers": 0, "val": 0} | arguments
    )


def test_four_classes(root):
    data = module(root)
    assert data.class_names == [
        "background", "cortical grey matter", "white matter", "cortical layer 1",
    ]  # fmt: skip
    sample = data.sources()[0].read()
    assert (sample.annotation.mask == np.repeat([0, 0, 1, 2, 0, 3, 0, 0, 0, 0], 2)).all()
    assert sample.annotation.kind() == "mask"
    assert (sample.image == 98).all()
    assert len(TISSUES) == 10


def test_other_classes(root):
    data = module(root, keep=[9, 1])
    assert data.class_names[1:] == [TISSUES[9], "cerebrospinal fluid"]
    mask = data.sources()[0].read().annotation.mask
    assert (mask == np.repeat([0, 2, 0, 0, 0, 0, 0, 0, 0, 1], 2)).all()
    for keep in ([], [0, 2], [2, 2], [10]):
        with pytest.raises(ValueError, match=r"keep is .*different values of 1 to 9"):
            module(root, keep=keep)
    with pytest.raises(ValueError, match="spatial_dims is 3"):
        module(root, spatial_dims=3)


def test_groups_stay_together_and_a_section_without_mask_is_unlabelled(root):
    data = module(root, group_pattern="([0-9]+)[0-9]{2}$", val=1)
    assert [source.group for source in data.sources()] == ["00", "00", "01", "01", "02"]
    data.setup("fit")
    held_out = {source.name[:-2] for source in data.part("val")}
    assert len(held_out) == 1
    assert not held_out & set(data.kinds)
    assert data.kinds["coronal_0200"] == ("none",)
    assert [source.complete for source in data.sources()] == [True] * 4 + [False]
    assert len(data.kinds) == 3


def test_prediction_needs_no_masks(root):
    for file in (root / "masks").iterdir():
        file.unlink()
    data = module(root)
    data.setup("predict")
    assert len(data.predict_names()) == 5
    assert data.part("predict")[0].read().annotation.kind() == "none"


def test_masks_that_are_wrong(root):
    path = root / "masks" / "coronal_0099.png"
    Image.fromarray(VALUES * 28).save(path)
    with pytest.raises(ValueError, match=r"coronal_0099\.png: holds 28, 56, 84, 112, 140; .* 0 to"):
        module(root).setup("fit")
    tifffile.imwrite(path.with_suffix(".tif"), VALUES.astype(np.int16) - 1)
    path.unlink()
    with pytest.raises(
        ValueError, match=r"coronal_0099\.tif: holds -1; the tissue classes are 0 to"
    ):
        module(root).setup("fit")
    path.with_suffix(".tif").unlink()
    Image.fromarray(VALUES[:5]).save(path)
    with pytest.raises(ValueError, match=r"coronal_0099\.png has 5 x 20 pixels, its image has 18"):
        module(root).setup("fit")
    path.write_bytes(b"no PNG")
    with pytest.raises(ValueError, match=r"coronal_0099\.png"):
        module(root).setup("fit")
    path.rename(path.with_name("coronal_0777.png"))
    with pytest.raises(ValueError, match=r"masks: has annotations for 1 .* coronal_0777"):
        module(root).setup("fit")


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"images: there is no such folder"):
        module(tmp_path).setup("fit")
    (tmp_path / "full_cls_100um.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"full_cls_100um\.nii\.gz: volumes are not read; cut"):
        module(tmp_path).setup("fit")
