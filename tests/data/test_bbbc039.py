"""The layout of BBBC039, on small copies built here; the published files were not read."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from semiweak.data.bbbc039 import BBBC039DataModule

SHAPE = (20, 24)
LISTS = {"training": ["a", "b", "c"], "validation": ["d"], "test": ["e", "f"]}


def numbers():
    """Two nuclei that touch have numbers of their own; number 1 stands for two nuclei."""
    first = np.zeros(SHAPE, np.uint8)
    first[2:7, 2:7], first[2:7, 7:12], first[12:16, 4:10] = 1, 2, 1
    first[16, 10] = 1  # a corner touches
    return first


def save_mask(path, first, channel=0):
    colours = np.zeros((*first.shape, 4), np.uint8)
    colours[..., channel], colours[..., 3] = first, 255
    Image.fromarray(colours).save(path)


@pytest.fixture
def root(tmp_path):
    for folder in ("images", "masks", "metadata"):
        (tmp_path / folder).mkdir()
    for i, name in enumerate("abcdef"):
        image = np.random.default_rng(i).integers(4096, size=SHAPE).astype(np.uint16)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image)
        save_mask(tmp_path / "masks" / f"{name}.png", numbers())
    for name, members in LISTS.items():
        text = "".join(f"{member}.png\n" for member in members)
        (tmp_path / "metadata" / f"{name}.txt").write_text(text)
    return tmp_path


def module(root, **arguments):
    return BBBC039DataModule(str(root), **{"patch_size": 16, "num_workers": 0} | arguments)


def names(data, part):
    return [source.name for source in data.part(part)]


def test_nuclei_are_one_class(root):
    data = module(root)
    assert data.class_names == ["background", "nucleus"]
    sample = data.sources()[0].read()
    assert (sample.annotation.mask == (numbers() > 0)).all()
    assert sample.annotation.kind() == "mask"
    assert sample.image.dtype == np.uint16
    assert sample.image.shape == (1, *SHAPE)


def test_nuclei_that_touch_are_two_objects(root):
    said = module(root, task="instances").sources()[0].read().annotation
    assert said.paints_all_objects()
    assert said.object_ids().tolist() == [1, 2, 3]
    at = {said.instances[4, 4], said.instances[4, 8], said.instances[13, 6]}
    assert at == {1, 2, 3}
    assert said.instances[16, 10] == said.instances[15, 9]
    assert ((said.instances > 0) == (numbers() > 0)).all()


def test_the_published_split(root):
    data = module(root)
    assert data.validates
    data.setup("fit")
    assert [names(data, part) for part in ("train", "val", "test")] == [*LISTS.values()]


def test_other_splits(root):
    data = module(root, val=["f"], test=0)
    data.setup("fit")
    assert names(data, "val") == ["f"]
    assert len(names(data, "train")) == 5
    data = module(root, fold=0, num_folds=3)
    data.setup("fit")
    assert [len(names(data, part)) for part in ("train", "val", "test")] == [2, 2, 2]
    assert not module(root, val=0).validates


def test_an_image_without_mask_is_unlabelled(root):
    (root / "masks" / "a.png").unlink()
    data = module(root)
    data.setup("fit")
    assert data.kinds == {"a": ("none",), "b": ("mask",), "c": ("mask",)}
    assert [source.complete for source in data.sources()] == [False] + [True] * 5


def test_prediction_needs_no_masks(root):
    for file in (root / "masks").iterdir():
        file.unlink()
    data = module(root)
    data.setup("predict")
    assert data.predict_names() == [*"abcdef"]
    assert data.part("predict")[0].read().annotation.kind() == "none"


def test_lists_that_do_not_fit(root):
    at = root / "metadata" / "validation.txt"
    at.write_text("d.png\nzz.png\n")
    with pytest.raises(ValueError, match=r"validation\.txt: there is no image zz"):
        module(root).setup("fit")
    at.write_text("d.png\n\na.png\n")
    with pytest.raises(ValueError, match=r"validation\.txt: a is listed a second time"):
        module(root).setup("fit")
    at.write_text("")
    with pytest.raises(ValueError, match=r"metadata: 1 images are in none of the lists .* as d;"):
        module(root).setup("fit")
    at.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match=r"validation\.txt: is no text file"):
        module(root).setup("fit")
    at.unlink()
    with pytest.raises(ValueError, match=r"validation\.txt: cannot be read .*set data\.val"):
        module(root).setup("fit")
    module(root, val=1).setup("fit")


def test_files_that_cannot_be_read(root):
    save_mask(root / "masks" / "a.png", numbers(), channel=1)
    with pytest.raises(ValueError, match=r"a\.png: holds colours without red"):
        module(root).setup("fit")
    save_mask(root / "masks" / "a.png", numbers()[:5])
    with pytest.raises(ValueError, match=r"a\.png has 5 x 24 pixels, its image has 20 x 24"):
        module(root).setup("fit")
    (root / "masks" / "a.png").write_bytes(b"no PNG")
    with pytest.raises(ValueError, match=r"a\.png"):
        module(root).setup("fit")


def test_folders_that_are_wrong(root, tmp_path):
    with pytest.raises(ValueError, match=r"gone.images: there is no such folder"):
        module(tmp_path / "gone").setup("fit")
    (root / "images" / "a.tif").unlink()
    with pytest.raises(ValueError, match=r"masks: has annotations for 1 .* not there: a"):
        module(root).setup("fit")
    with pytest.raises(ValueError, match="spatial_dims is 3"):
        module(root, spatial_dims=3)
