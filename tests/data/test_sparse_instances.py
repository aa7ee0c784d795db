"""Every layout of painted objects, on small copies and on real data."""

import h5py
import numpy as np
import pytest
import torch
from conftest import real_data
from PIL import Image

from semiweak import MixedAnnotationDataModule, SparseInstanceDataModule, VNCDataModule, Weakening
from semiweak.data.batch import instance_item
from semiweak.data.readers import read_objects

SHAPE = (16, 20)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def grey(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(255, size=shape).astype(np.uint8)


def ids():
    """Objects 3, 7 and 200; two of them touch."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 2:6], labels[2:6, 6:9], labels[10:14, 3:18] = 3, 7, 200
    return labels


def module(root, **arguments):
    return SparseInstanceDataModule(
        str(root), **{"patch_size": 16, "num_workers": 0, "val": 0} | arguments
    )


def read(data):
    return {source.name: source.read() for source in data.sources()}


# images/ with labels/ and instances/


@pytest.fixture
def images(tmp_path):
    for i in range(4):
        save(tmp_path / "images" / f"im{i}.png", grey(i))
    save(tmp_path / "labels" / "im0.png", ids())
    save(tmp_path / "labels" / "im1.png", ids())
    save(tmp_path / "instances" / "im2.png", ids())
    return tmp_path


def test_labels_are_complete_and_instances_are_some(images):
    samples = read(module(images))
    kinds = [s.annotation.kind("instances") for s in samples.values()]
    assert kinds == ["instances", "instances", "objects", "none"]
    assert (samples["im1"].annotation.instances == ids()).all()
    assert samples["im1"].annotation.instances.dtype == np.int32
    assert samples["im0"].image.shape == (1, *SHAPE)
    data = module(images, val=1)
    data.setup("fit")
    assert data.part("val")[0].name in ("im0", "im1")
    assert data.describe()["class_names"] == []
    some = read(module(images, complete=False))
    assert some["im0"].annotation.kind("instances") == "objects"


def test_two_paintings_of_one_image(images):
    save(images / "instances" / "im1.png", ids())
    with pytest.raises(ValueError, match=r"labels.im1\.png and .*instances.im1\.png are two"):
        module(images).sources()


def test_another_folder_of_labels(images):
    (images / "labels").rename(images / "masks")
    assert read(module(images))["im0"].annotation.kind("instances") == "none"
    samples = read(module(images, label_folder="masks"))
    assert samples["im0"].annotation.kind("instances") == "instances"
    with pytest.raises(ValueError, match=r"label_folder: there is no folder .*cells"):
        module(images, label_folder="cells").sources()


def test_labels_without_image_and_of_another_size(images):
    save(images / "labels" / "im9.png", ids())
    with pytest.raises(ValueError, match=r"labels: has annotations for 1 .* not there: im9"):
        module(images).sources()
    (images / "labels" / "im9.png").unlink()
    save(images / "labels" / "im0.png", ids()[:, :10])
    with pytest.raises(ValueError, match=r"im0\.png has 16 x 10 pixels, its image has 16 x 20"):
        module(images).setup("fit")


def test_colours_are_objects(images):
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[ids() == 3], colours[ids() == 7], colours[ids() == 200] = (
        (0, 0, 9),
        (255, 0, 0),
        (9, 9, 9),
    )
    save(images / "labels" / "im0.png", colours)
    found = read(module(images))["im0"].annotation.instances
    assert (found == np.select([ids() == 3, ids() == 7, ids() == 200], [1, 3, 2], 0)).all()


def test_numbers_that_are_no_ids(images, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["big"] = np.array([[0, 2**40, 2**41, -1]], np.int64)
        file["half"] = np.array([[0.5, 1]], np.float32)
        file["many"] = np.zeros((2, 16, 20), np.uint16)
    assert read_objects(f"{tmp_path / 'x.h5'}:/big").tolist() == [[0, 1, 2, -1]]
    with pytest.raises(ValueError, match=r"x\.h5:/half.*whole numbers"):
        read_objects(f"{tmp_path / 'x.h5'}:/half")
    with pytest.raises(ValueError, match=r"one number or one 8-bit RGB colour .* 2 channels"):
        read_objects(f"{tmp_path / 'x.h5'}:/many", axes="CYX")


def test_another_background_and_pixels_of_which_nothing_is_known(tmp_path):
    labels = np.ones(SHAPE, np.int16)
    labels[3:6, 3:6], labels[10:12, :], labels[0, :] = 5, -1, 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["label"] = grey(), labels
    said = read(module(tmp_path, background_label=1))["a"].annotation
    assert np.unique(said.instances).tolist() == [0, 5]
    assert (said.valid == (labels >= 0)).all()
    assert not said.paints_all_objects()
    data = module(tmp_path, background_label=1)
    data.setup("fit")
    assert data.painted_objects == {"a": [0, 5]}
    (batch,) = data.train_dataloader()
    assert set(batch["instances"].unique().tolist()) <= {0, 5, 6}


def test_background_that_was_painted_in_some_images(images):
    (images / "labels" / "im1.png").unlink()
    some = np.where(ids() == 3, 3, 0).astype(np.uint8)
    for name, background in (("im1", 250), ("im2", 0)):
        painting = np.where(ids() == 0, background, some)
        save(images / "instances" / f"{name}.png", painting.astype(np.uint8))
    found = read(module(images, background_label=250))
    painted, bare = found["im1"].annotation, found["im2"].annotation
    assert painted.kinds("instances") == bare.kinds("instances") == ("objects",)
    items = {name: instance_item(found[name]) for name in ("im1", "im2")}
    assert items["im1"]["background"] == 4
    assert (items["im1"]["instances"].numpy() == np.where(ids() == 0, 4, some)).all()
    assert items["im2"]["background"] == 0
    assert (items["im2"]["instances"].numpy() == some).all()
    held_out = instance_item(found["im1"], training=False)
    assert (held_out["background"], held_out["instances"].max()) == (0, 3)


# DSB


@pytest.fixture
def dsb(tmp_path):
    for name, n in (("aa", 2), ("bb", 1), ("cc", 0)):
        image = np.repeat(grey(ord(name[0]))[..., None], 4, 2)
        image[..., 3] = 255
        save(tmp_path / name / "images" / f"{name}.png", image)
        for i in range(n):
            mask = np.zeros(SHAPE, np.uint8)
            mask[2:6, 2 + 5 * i : 6 + 5 * i] = 255
            save(tmp_path / name / "masks" / f"m{i}.png", mask)
    (tmp_path / "bb" / "notes.txt").write_text("")
    return tmp_path


def test_one_mask_an_object(dsb):
    samples = read(module(dsb))
    assert list(samples) == ["aa", "bb", "cc"]
    assert [s.image.shape for s in samples.values()] == [(1, *SHAPE)] * 3
    said = samples["aa"].annotation
    assert said.paints_all_objects()
    assert said.instances[3, 3] == 1
    assert said.instances[3, 8] == 2
    assert (said.instances > 0).sum() == 32
    assert samples["cc"].annotation.kind("instances") == "none"
    assert [s.complete for s in module(dsb).sources()] == [True, True, False]


def test_masks_that_overlap_or_are_empty_are_reported(dsb):
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:8, 4:7] = 255
    save(dsb / "bb" / "masks" / "m5.png", mask)
    save(dsb / "bb" / "masks" / "m6.png", 0 * mask)
    data = module(dsb)
    with pytest.warns(UserWarning, match="contradictory annotations: bb"):
        data.setup("fit")
    assert data.contradictions == [
        "bb at (4, 4): the mask m5.png overlaps another; these pixels stay with the first of them"
        " (4 pixels)",
        "bb: the mask m6.png is empty",
    ]
    said = read(data)["bb"].annotation
    assert (said.instances == 1).sum() == 16
    assert (said.instances == 2).sum() == 8
    data = module(dsb, instance_ratio=0.5)
    with pytest.warns(UserWarning, match="contradictory annotations: bb"):
        data.setup("fit")


def test_dsb_folders_that_are_wrong(dsb):
    save(dsb / "aa" / "masks" / "m1.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"m1\.png has 3 x 3 pixels, its image has 16 x 20"):
        read(module(dsb))
    save(dsb / "aa" / "images" / "second.png", grey())
    with pytest.raises(ValueError, match=r"aa.images holds 2 images; it must hold one"):
        module(dsb).sources()


def test_channels(dsb):
    colour = np.stack([grey(1), grey(2), grey(3)], -1)
    save(dsb / "bb" / "images" / "bb.png", colour)
    with pytest.raises(ValueError, match=r"aa has 1 channel\(s\), bb has 3"):
        module(dsb).setup("fit")
    samples = read(module(dsb, channels="rgb"))
    assert [len(s.image) for s in samples.values()] == [3, 3, 3]
    assert (samples["bb"].image == colour.transpose(2, 0, 1)).all()
    samples = read(module(dsb, channels="gray"))
    assert [len(s.image) for s in samples.values()] == [1, 1, 1]
    assert (samples["aa"].image[0] == grey(ord("a"))).all()
    by_hand = colour @ np.array([0.299, 0.587, 0.114])
    assert samples["bb"].image.dtype == np.uint8
    assert abs(samples["bb"].image[0] - by_hand).max() <= 0.51


# HDF5


@pytest.fixture
def volume(tmp_path):
    labels = np.zeros((8, 16, 20), np.uint16)
    labels[1:7, 2:7, 2:7], labels[1:7, 9:15, 5:18] = 4, 918
    raw = grey(0, labels.shape)
    with h5py.File(tmp_path / "vol.h5", "w") as file:
        file["raw"], file["label"] = raw, labels
    return tmp_path, raw, labels


def in_3d(root, **arguments):
    return module(root, **{"spatial_dims": 3, "patch_size": 8} | arguments)


def test_a_volume(volume):
    root, raw, labels = volume
    for where in (root, root / "vol.h5"):
        (sample,) = read(in_3d(where)).values()
        assert (sample.image[0] == raw).all()
        assert (sample.annotation.instances == labels).all()
        assert sample.annotation.paints_all_objects()
    data = in_3d(root)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["instances"].shape == (4, 8, 8, 8)
    assert batch["instances"].dtype == torch.int64


def test_other_keys(volume):
    root, raw, labels = volume
    with h5py.File(root / "vol.h5", "w") as file:
        file["volumes/image"], file["volumes/nuclei"] = raw[None], labels
    keys = {"raw_key": "volumes/image", "label_key": "/volumes/nuclei"}
    (sample,) = read(in_3d(root, axes="CZYX", **keys)).values()
    assert sample.image.shape == (1, *raw.shape)
    assert (sample.annotation.instances == labels).all()
    with pytest.raises(ValueError, match=r"vol\.h5:/raw.* there is no data set .*volumes/image"):
        in_3d(root).setup("fit")
    (sample,) = read(in_3d(root, raw_key="volumes/image", axes="CZYX")).values()
    assert sample.annotation.kind("instances") == "none"
    (root / "vol.h5").write_bytes(b"no HDF5 at all")
    with pytest.raises(ValueError, match=r"vol\.h5: cannot be read as HDF5"):
        in_3d(root).sources()


def test_blocks_are_images_of_their_own(volume):
    root, raw, labels = volume
    samples = read(in_3d(root, blocks=[1, 2, 3]))
    names = ["vol_0_0_0", "vol_0_0_1", "vol_0_0_2", "vol_0_1_0", "vol_0_1_1", "vol_0_1_2"]
    assert list(samples) == names
    assert sum(s.image.size for s in samples.values()) == raw.size
    last = samples["vol_0_1_2"]
    assert (last.image[0] == raw[:, 8:, 13:]).all()
    assert (last.annotation.instances == labels[:, 8:, 13:]).all()
    assert last.image.base is None
    rebuilt = np.block(
        [[[samples[f"vol_0_{y}_{x}"].annotation.instances for x in range(3)] for y in range(2)]]
    )
    assert (rebuilt == labels).all()


def test_blocks_in_a_split(volume):
    root, _, _ = volume
    data = in_3d(root, blocks=[1, 2, 2], val=1, test=["vol_0_1_1"])
    data.setup("fit")
    assert [len(data.part(part)) for part in ("train", "val", "test")] == [2, 1, 1]
    assert not {s.name for s in data.part("train")} & {s.name for s in data.part("val")}
    data.setup("predict")
    assert data.predict_names() == ["vol"]
    assert {s.group for s in in_3d(root, blocks=[1, 2, 2]).sources()} == {None}
    grouped = in_3d(root, blocks=[1, 2, 2], group_pattern="(.+)_[0-9]_[0-9]_[0-9]")
    assert {s.group for s in grouped.sources()} == {"vol"}


def test_blocks_that_cannot_be(volume):
    root, _, _ = volume
    for blocks in ([2, 2], [1, 0, 2]):
        with pytest.raises(ValueError, match=r"blocks is .* give 3 numbers of 1 or more"):
            in_3d(root, blocks=blocks)
    with pytest.raises(ValueError, match=r"8 x 16 x 20 pixels cannot be cut into 9 x 1 x 1"):
        read(in_3d(root, blocks=[9, 1, 1]))


# CVPPP


def test_plants(tmp_path):
    for name in ("plant001", "plant002"):
        colour = np.stack([grey(i) for i in range(4)], -1)
        save(tmp_path / "A1" / f"{name}_rgb.png", colour)
    indexed = Image.fromarray(ids())
    indexed.putpalette(np.random.default_rng(0).integers(255, size=768).astype(np.uint8).tobytes())
    indexed.save(tmp_path / "A1" / "plant001_label.png")
    save(tmp_path / "A1" / "plant001_fg.png", (ids() > 0).astype(np.uint8))
    samples = read(module(tmp_path / "A1"))
    assert list(samples) == ["plant001", "plant002"]
    assert samples["plant001"].image.shape == (3, *SHAPE)
    assert (samples["plant001"].annotation.instances == ids()).all()
    assert samples["plant001"].annotation.paints_all_objects()
    assert samples["plant002"].annotation.kind("instances") == "none"
    assert list(read(module(tmp_path))) == ["A1_plant001", "A1_plant002"]


# Which layout


def test_unknown_and_ambiguous_layouts(images, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=r"none of the known layouts .*dsb: ID/images.*nothing"):
        module(empty).sources()
    (empty / "notes.txt").write_text("")
    (empty / "stage1_train").mkdir()
    with pytest.raises(ValueError, match=r"It holds notes\.txt, stage1_train/"):
        module(empty).sources()
    with pytest.raises(ValueError, match=r"no image in the layout cvppp: NAME_rgb\.png"):
        module(empty, layout="cvppp").sources()
    with pytest.raises(ValueError, match=r"there is no folder .*gone"):
        module(empty / "gone").sources()
    with pytest.raises(ValueError, match="layout is 'coco'; it must be auto, images, dsb"):
        module(empty, layout="coco").sources()
    with pytest.raises(ValueError, match="channels is 'red'; it must be auto, gray or rgb"):
        module(empty, channels="red")
    save(images / "x_rgb.png", grey())
    with pytest.raises(ValueError, match=r"more than one layout \(cvppp, images\); say which"):
        module(images).sources()
    assert len(module(images, layout="images").sources()) == 4
    assert len(module(images, layout="cvppp").sources()) == 1


def test_prediction_needs_no_objects(images, dsb):
    data = module(images, layout="images", blocks=[2, 2])
    data.setup("predict")
    assert data.predict_names() == ["im0", "im1", "im2", "im3"]
    assert all(s.read().annotation.instances is None for s in data.part("predict"))


def test_the_folder_of_mixed_annotations_can_be_complete(images):
    def kinds(**more):
        data = MixedAnnotationDataModule(str(images), task="instances", **more)
        return [s.read().annotation.kind("instances") for s in data.sources()]

    assert kinds() == ["none", "none", "objects", "none"]
    assert kinds(instances_complete=True) == ["none", "none", "instances", "none"]


# Foreground and background


def semantic(root, **arguments):
    return module(root, task="semantic", **arguments)


def test_complete_paintings_are_masks_and_partial_ones_tell_objects_alone(images):
    data = semantic(images)
    assert data.class_names == ["background", "cell"]
    said = {name: sample.annotation for name, sample in read(data).items()}
    assert [a.kind() for a in said.values()] == ["mask", "mask", "scribbles", "none"]
    assert (said["im0"].mask == (ids() > 0)).all()
    assert (said["im2"].mask == np.where(ids() > 0, 1, 255)).all()
    assert said["im0"].instances is None
    some = read(semantic(images, complete=False))["im0"].annotation
    assert (some.mask == np.where(ids() > 0, 1, 255)).all()
    data = semantic(images, val=1)
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert (batch["labels"].numpy() == (ids() > 0)).all()


def test_a_partial_painting_of_nothing_says_nothing(images):
    save(images / "instances" / "im2.png", 0 * ids())
    assert read(semantic(images))["im2"].annotation.kind() == "none"
    save(images / "labels" / "im0.png", 0 * ids())
    said = read(semantic(images))["im0"].annotation
    assert said.kind() == "mask"
    assert not said.mask.any()


def test_ignored_pixels_are_of_no_class(tmp_path):
    labels = np.ones(SHAPE, np.int16)
    labels[3:6, 3:6], labels[10:12, :], labels[0, :] = 5, -1, 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["label"] = grey(), labels
    said = read(semantic(tmp_path, background_label=1))["a"].annotation
    mask = said.mask
    assert said.valid is None
    assert (mask == np.select([labels == 5, labels == -1], [1, 255], 0)).all()
    mask = read(semantic(tmp_path, complete=False))["a"].annotation.mask
    assert (mask == np.where(labels > 0, 1, 255)).all()


def test_background_that_was_painted_is_background(images):
    painting = np.where(ids() == 3, 3, 0).astype(np.uint8)
    painting[12:] = 250
    save(images / "instances" / "im2.png", painting)
    mask = read(semantic(images, background_label=250))["im2"].annotation.mask
    assert (mask == np.select([painting == 3, painting == 250], [1, 0], 255)).all()


def test_masks_that_overlap_are_foreground(dsb):
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:8, 4:7] = 255
    save(dsb / "bb" / "masks" / "m5.png", mask)
    data = semantic(dsb)
    data.setup("fit")
    assert data.contradictions == []
    assert data.kinds == {"aa": ("mask",), "bb": ("mask",), "cc": ("none",)}
    found = read(data)["bb"].annotation.mask
    assert (found[4:8, 4:7] == 1).all()
    assert found.sum() == 16 + 8
    assert [s.complete for s in data.sources()] == [True, True, False]


def test_blocks_in_two_classes(volume):
    root, _, labels = volume
    data = semantic(root, spatial_dims=3, patch_size=8, blocks=[1, 2, 3])
    assert (read(data)["vol_0_1_2"].annotation.mask == (labels[:, 8:, 13:] > 0)).all()


def test_names_of_two_classes(images):
    assert semantic(images, class_names=["sky", "star"]).class_names == ["sky", "star"]
    with pytest.raises(ValueError, match=r"painted objects tell two classes: name the background"):
        semantic(images, class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"objects have no classes; .* set data.task to semantic"):
        module(images, class_names=["background", "cell"])
    with pytest.raises(ValueError, match=r"instance_ratio.* but task is semantic"):
        semantic(images, instance_ratio=0.5)


def test_a_share_of_the_masks(images):
    """The label ratios of the comparison of UDA and IIC: 10, 25 and 50 per cent."""
    for i in range(40):
        save(images / "images" / f"n{i}.png", grey(i))
        save(images / "labels" / f"n{i}.png", ids())
    (images / "instances" / "im2.png").unlink()
    for name in ("im0", "im1", "im2", "im3"):
        (images / "images" / f"{name}.png").unlink()
    for name in ("im0", "im1"):
        (images / "labels" / f"{name}.png").unlink()
    for acr, kept in ((10, 4), (4, 10), (2, 20)):
        data = semantic(images, weaken=Weakening(acr=acr, nothing=1.0), normalize="minmax")
        data.setup("fit")
        assert [*data.kinds.values()].count(("mask",)) == kept
        assert [*data.kinds.values()].count(("none",)) == 40 - kept


# Real data


def test_real_data_phase_contrast_in_two_classes():
    data = semantic(real_data("usiigaci_phc"), val=2, patch_size=64)
    for source in data.sources()[:2]:
        ids = read_objects(str(data.root / "labels" / f"{source.name}.png"))
        mask = source.read().annotation.mask
        assert (mask == (ids > 0)).all()
        assert 0.02 < mask.mean() < 0.8
    assert len(data.sources()) == 16


def test_real_data_dsb_in_two_classes():
    data = semantic(real_data("dsb2018") / "stage1_train")
    for source in data.sources()[:3]:
        files = (data.root / source.name / "masks").iterdir()
        union = np.any([np.array(Image.open(file)) > 0 for file in files], axis=0)
        assert (source.read().annotation.mask == union).all()


def check_batches(data, objects):
    """Training items hold painted objects and nothing else; validation is complete."""
    data.setup("fit")
    kept = data.painted_objects
    assert sum(map(len, kept.values())) == objects
    seen = 0
    for batch in data.train_dataloader():
        for name, found in zip(batch["name"], batch["instances"], strict=True):
            own = set(found.unique().tolist()) - {0}
            assert own <= set(kept[name])
            seen += len(own)
    assert seen > 0
    batch = next(iter(data.val_dataloader()))
    assert batch["instances"].max() > 1
    assert (batch["instances"] == 0).any()


def test_real_data_dsb_has_80_images():
    root = real_data("dsb2018") / "stage1_train"
    data = module(root)
    sources = data.sources()
    assert len(sources) == 80
    sample = sources[0].read()
    assert len(sample.image) == 1
    masks = {s.name: len(list((root / s.name / "masks").iterdir())) for s in sources}
    assert sample.annotation.object_ids().tolist() == list(range(1, masks[sample.name] + 1))
    few = [source for source in sources if masks[source.name] < 20][:14]
    val = [source.name for source in few[12:]]
    data = module(root, val=val, instance_ratio=0.1, patch_size=128)
    data.sources = lambda: few
    check_batches(data, int(0.1 * sum(masks[source.name] for source in few[:12]) + 0.5))


def test_real_data_ovule_in_blocks():
    root = real_data("plantseg_3d") / "sample_ovule.h5"
    data = in_3d(root, blocks=[1, 2, 2], patch_size=[16, 40, 40], val=1)
    whole = in_3d(root).sources()[0].read()
    assert whole.shape == (32, 128, 128)
    assert len(whole.annotation.object_ids()) == 50
    data.setup("fit")
    assert [len(data.part(part)) for part in ("train", "val")] == [3, 1]
    (val,) = data.val_dataloader()
    assert val["instances"].shape == (1, 32, 64, 64)
    for batch in data.train_dataloader():
        assert (batch["instances"] != 0).all()  # a crop without an unlabelled pixel is right
        assert all(len(ids.unique()) > 1 for ids in batch["instances"])


def test_real_data_phase_contrast():
    data = module(real_data("usiigaci_phc"), object_budget=16, val=2, patch_size=448)
    check_batches(data, 16)
    assert {len(ids) for ids in data.painted_objects.values()} == {1, 2}


def test_real_data_vnc_mitochondria_as_sparse_objects():
    data = VNCDataModule(
        str(real_data("vnc_sstem")), task="instances", instance_ratio=0.1, ratio_per="image",
        patch_size=256, num_workers=0,
    )  # fmt: skip
    data.setup("fit")
    assert data.describe()["class_names"] == []
    assert all(len(ids) < 10 and 0 not in ids for ids in data.painted_objects.values())
    assert data.painted_objects["00"]
    (val, *_) = data.val_dataloader()
    assert val["instances"].max() > 5
