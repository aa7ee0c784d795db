"""The electron microscopy of the fly's nerve cord, on a copy in small and on the real slices."""

import numpy as np
import pytest
import tifffile
from conftest import real_data
from PIL import Image
from scipy import ndimage

from semiweak import VNCDataModule
from semiweak.data.vnc import CLASS_NAMES

GREYS = [0, 32, 64, 96, 128, 159, 191, 223, 255]
CLASSES = [0, 0, 0, 0, 0, 1, 2, 3, 4]
SIZE = 18


@pytest.fixture
def small(tmp_path):
    """16 slices in the layout of the data set; every grey value is a stripe of two columns."""
    for folder in ("raw", "labels", "mitochondria"):
        (tmp_path / "stack1" / folder).mkdir(parents=True)
    labels = np.repeat(np.array(GREYS, np.uint8), 2)[None].repeat(SIZE, 0)
    blobs = np.zeros((SIZE, SIZE), np.uint8)
    blobs[2:5, 2:5] = blobs[5, 5] = blobs[10:14, 8:12] = 1  # two, as corners touch
    for i in range(16):
        at = tmp_path / "stack1"
        tifffile.imwrite(at / "raw" / f"{i:02d}.tif", np.full((SIZE, SIZE), i, np.uint8))
        Image.fromarray(labels).save(at / "labels" / f"labels{i:08d}.png")
        binary = Image.fromarray(blobs * 255).convert("1") if i % 2 else anti_aliased(blobs)
        binary.save(at / "mitochondria" / f"{i:02d}.png")
    return tmp_path


def anti_aliased(blobs):
    edges = ndimage.binary_dilation(blobs, np.ones((3, 3))) & (blobs == 0)
    return Image.fromarray(np.where(edges, np.uint8(60), blobs * np.uint8(255)))


def module(root, **arguments):
    return VNCDataModule(str(root), **{"patch_size": 16, "num_workers": 0} | arguments)


def names(data, part):
    return [source.name for source in data.part(part)]


def numbers(*which):
    return [f"{i:02d}" for i in which]


def test_the_nine_greys_are_five_classes(small):
    (source, *_) = module(small).sources()
    sample = source.read()
    assert (sample.annotation.mask == np.repeat(CLASSES, 2)).all()
    assert sample.annotation.kind() == "mask"
    assert sample.image.shape == (1, SIZE, SIZE)
    assert len(CLASS_NAMES) == max(CLASSES) + 1


def test_another_grey_is_an_error_that_names_the_file(small):
    path = small / "stack1" / "labels" / "labels00000003.png"
    Image.fromarray(np.full((SIZE, SIZE), 33, np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"labels00000003\.png: holds values .* 33 \(324 pixels\)"):
        module(small).setup("fit")


def test_mitochondria_are_objects_in_one_bit_and_anti_aliased_files(small):
    for source in module(small, task="instances").sources()[:2]:
        ids = source.read().annotation.instances
        assert ids.dtype == np.int32
        assert sorted(np.unique(ids, return_counts=True)[1].tolist()) == [10, 16, SIZE**2 - 26]
        assert ids[2, 2] == ids[5, 5] != 0


def test_neighbouring_slices_stay_together(small):
    data = module(small)
    assert data.validates
    data.setup("fit")
    assert names(data, "train") == numbers(*range(10))
    assert names(data, "val") == numbers(10, 11, 12)
    assert names(data, "test") == numbers(13, 14, 15)
    assert data.normalization.offset == (4.5,)


def test_other_splits(small):
    data = module(small, val=["03"], test=2)
    data.setup("fit")
    assert names(data, "val") == ["03"]
    assert len(names(data, "test")) == 2
    data = module(small, val=0, test=0)
    assert not data.validates
    data.setup("fit")
    assert len(names(data, "train")) == 16
    data = module(small, test=3)
    assert not data.validates  # whoever says one says both
    data = module(small, fold=1, num_folds=4)
    data.setup("fit")
    assert [len(names(data, part)) for part in ("train", "val", "test")] == [8, 4, 4]


def test_a_folder_without_slices(tmp_path):
    with pytest.raises(ValueError, match=r"no slice in .*raw: root must hold stack1/raw/NN\.tif"):
        module(tmp_path).setup("fit")


def test_slices_that_are_not_numbered(small):
    raw = small / "stack1" / "raw"
    (raw / "00.tif").rename(raw / "first.tif")
    with pytest.raises(ValueError, match=r"first\.tif.*number"):
        module(small).setup("fit")


def test_real_data_vnc_classes():
    data = module(real_data("vnc_sstem"), cache_mb=0, patch_size=64, batch_size=4)
    sources = data.sources()
    assert [source.name for source in sources] == numbers(*range(16))
    sample = sources[3].read()
    assert sample.image.shape == (1, 1024, 1024)
    assert sample.image.dtype == np.uint8
    share = np.bincount(sample.annotation.mask.ravel(), minlength=5) / 1024**2
    assert len(share) == 5
    assert (share > 0).all()
    assert share.argmax() == CLASS_NAMES.index("intracellular")
    assert share[CLASS_NAMES.index("synapse")] < 0.05


def test_real_data_vnc_mitochondria():
    """Objects agree with the class of the label image, in one-bit and in anti-aliased files."""
    root = real_data("vnc_sstem")
    semantic = {s.name: s for s in module(root).sources()}
    for source in module(root, task="instances").sources()[::5]:
        ids = source.read().annotation.instances
        mask = semantic[source.name].read().annotation.mask == CLASS_NAMES.index("mitochondria")
        assert 5 < ids.max() < 100
        overlap = ((ids > 0) & mask).sum() / ((ids > 0) | mask).sum()
        assert overlap > 0.9
