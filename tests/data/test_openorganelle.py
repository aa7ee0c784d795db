"""The layouts of OpenOrganelle, on containers built here by zarr, not on published ones."""

import sys

import numpy as np
import pytest
import torch
import zarr
from openorganelle_container import cosem_container, finer, n5, organelles, write

from semiweak.__main__ import main
from semiweak.data.crops import most_frequent
from semiweak.data.openorganelle import CLASS_NAMES, OpenOrganelleDataModule
from semiweak.data.readers.containers import Container, place_of

SHAPE = (12, 20, 24)
CROPS = {"crop2": (2, 4, 6), "crop10": (0, 8, 2), "crop13": (4, 0, 12)}
SIZE = (4, 8, 10)  # of a crop, in voxels of the image


def volume():
    return np.random.default_rng(0).integers(4000, size=SHAPE).astype(np.uint16)


def painted(name, ids=(35, 3, 4)):
    """Cytosol, and a mitochondrion with its membrane; in voxels of the image."""
    labels = np.full(SIZE, ids[0], np.uint64)
    if name != "crop13":
        labels[:, 1:5, 2:8] = ids[1]
        labels[:, 2:4, 3:7] = ids[2]
    return labels


@pytest.fixture
def cosem(tmp_path):
    crops = {name: (start, painted(name)) for name, start in CROPS.items()}
    return cosem_container(tmp_path / "jrc_hela-2.n5", volume(), crops)


def multiscales(scales, shifts):
    levels = [
        {
            "path": f"s{i}",
            "coordinateTransformations": [
                {"type": "scale", "scale": list(scale)},
                {"type": "translation", "translation": list(shift)},
            ],
        }
        for i, (scale, shift) in enumerate(zip(scales, shifts, strict=True))
    ]
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    return {"multiscales": [{"axes": axes, "datasets": levels, "version": "0.4", "name": ""}]}


VOXEL = (5.24, 4.0, 4.0)


@pytest.fixture
def ome(tmp_path):
    """The layout of the challenge: centres of voxels, and labels twice as fine."""
    group = zarr.open_group(str(tmp_path / "jrc_hela-2.zarr"), mode="a")
    coarse = volume().reshape(6, 2, 10, 2, 12, 2).mean((1, 3, 5)).astype(np.uint16)
    image = group.require_group("recon-1/em/fibsem-uint16")
    for level, array in (("s0", volume()), ("s1", coarse)):
        image.create_dataset(level, data=array, chunks=(4,) * 3)
    scales = [VOXEL, [2 * v for v in VOXEL]]
    image.attrs.update(multiscales(scales, [[0.0] * 3, [v / 2 for v in VOXEL]]))
    for name, start in CROPS.items():
        labels = group.require_group(f"recon-1/labels/groundtruth/{name}/all")
        labels.create_dataset("s0", data=finer(painted(name)).astype(np.uint8), chunks=(8,) * 3)
        shift = [i * v - v / 4 for i, v in zip(start, VOXEL, strict=True)]
        labels.attrs.update(multiscales([[v / 2 for v in VOXEL]], [shift]))
        group.require_group(f"recon-1/labels/groundtruth/{name}/mito")
    return tmp_path / "jrc_hela-2.zarr"


def module(root, **arguments):
    given = {"patch_size": 8, "num_workers": 0, "val": 1, "normalize": "none"}
    return OpenOrganelleDataModule(str(root), **given | arguments)


def window(start, size=SIZE):
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))


def class_of(labels):
    """COSEM's numbers count from 1."""
    return labels.astype(np.int64) - 1


@pytest.fixture(params=["cosem", "ome"])
def root(request):
    return request.getfixturevalue(request.param)


def test_slices_of_crops(root):
    data = module(root)
    sources = data.sources()
    assert [s.name for s in sources[:5]] == [*(f"crop2_z{z:04d}" for z in range(4)), "crop10_z0000"]
    assert [s.group for s in sources] == [name for name in CROPS for _ in range(4)]
    assert data.num_classes == 37
    assert [CLASS_NAMES[i - 1] for i in (1, 3, 16, 35, 37)] == ["ecs", "mito_mem", "er_mem", "cyto",
                                                               "nuc"]  # fmt: skip
    for source in sources:
        name, z = source.name.split("_z")
        sample = source.read()
        assert sample.name == source.name
        assert sample.image.dtype == np.uint16
        assert (sample.image[0] == volume()[window(CROPS[name])][int(z)]).all()
        assert (sample.annotation.mask == class_of(painted(name))[int(z)]).all()
        assert sample.annotation.is_dense()


def test_volumes(root):
    data = module(root, spatial_dims=3, patch_size=4)
    data.setup("fit")
    assert [s.name for s in data.sources()] == list(CROPS)
    sample = data.sources()[1].read()
    assert (sample.image[0] == volume()[window(CROPS["crop10"])]).all()
    assert (sample.annotation.mask == class_of(painted("crop10"))).all()


def test_a_run_with_merged_classes(root):
    merge = {"mito": ["mito_mem", "mito_lum", "mito_ribo"], "none": ["golgi_mem", "golgi_lum"]}
    data = module(root, merge_classes=merge, min_groups=2)
    data.setup("fit")
    assert data.describe()["class_names"] == ["mito", "cyto"]
    assert len({s.group for s in data.part("val")}) == 1
    assert len(data.part("train")) == 8
    for batch in data.train_dataloader():
        assert set(np.unique(batch["labels"])) <= {0, 1, 255}
    for batch in data.val_dataloader():
        assert bool(batch["has_mask"].all())


def test_folds_of_crops(root):
    tested = []
    for fold in range(3):
        data = module(root, fold=fold, num_folds=3)
        data.setup("fit")
        tested += [s.group for s in data.part("test")]
        assert {s.group for s in data.part("val")}.isdisjoint(s.group for s in data.part("test"))
    assert sorted(tested) == sorted(name for name in CROPS for _ in range(4))


def test_prediction_needs_no_labels(root):
    data = module(root, crops=["crop13"])
    data.setup("predict")
    (sample, *others) = [s.read() for s in data.part("predict")]
    assert len(others) == 3
    assert sample.annotation.kind() == "none"
    assert (sample.image[0] == volume()[window(CROPS["crop13"])][0]).all()


def test_classes_of_ones_own(cosem):
    ids = {"cyto": 35, "mito": [3, 4, 5]}
    data = module(cosem, class_ids=ids)
    assert data.class_names == ["cyto", "mito"]
    assert set(np.unique(data.sources()[0].read().annotation.mask)) == {0, 1}
    data = module(cosem, class_ids={"cyto": 35, "mem": 3}, ignore_ids=[4])
    assert set(np.unique(data.sources()[0].read().annotation.mask)) == {0, 1, 255}
    with pytest.raises(ValueError, match=r"crop2.labels.all: holds 3, 4, which no class has; name"):
        module(cosem, class_ids={"cyto": 35}).sources()[0].read()
    with pytest.raises(ValueError, match=r"all: holds 35, which no class has"):
        module(cosem, class_ids={"mem": [3, 4]}).sources()[0].read()
    with pytest.raises(ValueError, match="class_ids: 3 is a and b; keep one of them"):
        module(cosem, class_ids={"a": 3, "b": [2, 3]})
    with pytest.raises(ValueError, match="ignore_ids: 3 is a in class_ids"):
        module(cosem, class_ids={"a": 3}, ignore_ids=[3])
    with pytest.raises(ValueError, match="the number -1 of a class must be 0 to 65535"):
        module(cosem, class_ids={"a": -1})


def test_zero_is_unknown_unless_it_is_a_class(cosem):
    name = "volumes/groundtruth/0003/crop2/labels/all"
    array = n5(cosem)[name]
    array[:2] = 0
    first, second = (s.read().annotation for s in module(cosem).sources()[:2])
    assert (first.mask == 255).all()
    assert not first.is_dense()
    assert second.is_dense()
    ids = {"background": 0, "cyto": 35, "mito": [3, 4]}
    first = module(cosem, class_ids=ids).sources()[0].read().annotation
    assert (first.mask == 0).all()


def test_another_level_of_the_image(ome):
    """The labels are four times as fine as the coarser image."""
    samples = {
        s.name: s.read() for s in module(ome, level="s1", spatial_dims=3, patch_size=2).sources()
    }
    image = volume().reshape(6, 2, 10, 2, 12, 2).mean((1, 3, 5)).astype(np.uint16)
    assert (samples["crop2"].image[0] == image[1:3, 2:6, 3:8]).all()
    expected = most_frequent(class_of(painted("crop2")).astype(np.uint8), (2, 2, 2))
    assert (samples["crop2"].annotation.mask == expected).all()


def test_a_crop_that_begins_within_a_voxel(cosem):
    name = "volumes/groundtruth/0003/crop2/labels/all"
    n5(cosem)[name].attrs["offset"] = [26.0, 16.0, 8.0]  # x is one label further
    sample = module(cosem, crops=["crop2"]).sources()[0].read()
    assert sample.shape == (8, 9)
    assert (sample.image[0] == volume()[2, 4:12, 7:16]).all()
    shifted = finer(painted("crop2"))[:2, :, 1:-1].astype(np.uint8) - 1
    assert (sample.annotation.mask == most_frequent(shifted, (2, 2, 2))[0]).all()


def test_labels_of_the_same_voxels(cosem):
    group = n5(cosem)
    attributes = {"resolution": [4.0] * 3, "offset": [24.0, 16.0, 8.0]}
    name = "volumes/groundtruth/0003/crop2/labels/all"
    write(group, name, painted("crop2").astype(np.uint8), **attributes)
    sample = module(cosem).sources()[0].read()
    assert (sample.annotation.mask == class_of(painted("crop2"))[0]).all()


def test_images_that_are_not_isotropic(cosem):
    """Labels of 2021 count in voxels of 4 nm, whatever the image says."""
    n5(cosem)["volumes/raw/s0"].attrs["transform"] = {
        "axes": ["z", "y", "x"], "scale": [4.56, 4.0, 4.0], "translate": [0.0] * 3,
    }  # fmt: skip
    message = r"all: its voxels of 2 x 2 x 2 do not divide .* image, 4\.56 x 4 x 4.*voxel_size"
    with pytest.raises(ValueError, match=message):
        module(cosem).sources()
    sample = module(cosem, voxel_size=[4, 4, 4]).sources()[1].read()
    assert (sample.image[0] == volume()[window(CROPS["crop2"])][1]).all()
    for wrong in ([4, 4], [4, 4, 0]):
        with pytest.raises(ValueError, match=r"voxel_size is .*; give three positive numbers"):
            module(cosem, voxel_size=wrong)


def test_labels_beyond_the_image(cosem):
    n5(cosem)["volumes/groundtruth/0003/crop10/labels/all"].attrs["offset"] = [80.0, 16.0, 8.0]
    message = r"crop10.*: reaches from voxel 20 to 30 along x, but .*raw.s0 has 24"
    with pytest.raises(ValueError, match=message):
        module(cosem).sources()
    assert module(cosem, crops=["crop2"]).sources()


def test_attributes_of_n5(cosem):
    container = Container(cosem)
    group = n5(cosem)
    write(group, "a", volume(), pixelResolution={"dimensions": [4.0, 5.0, 6.0], "unit": "nm"})
    place = place_of(container, "a")
    assert place.voxel == (6, 5, 4)
    assert place.corner == (-3, -2.5, -2)
    write(group, "a", volume(), pixelResolution=[4.0, 5.0, 6.0])
    assert place_of(container, "a") == place
    transform = {"axes": ["x", "y", "z"], "scale": [4, 5, 6], "translate": [2, 2.5, 3]}
    write(group, "a", volume(), transform=transform)
    assert place_of(container, "a").corner == (0, 0, 0)
    write(group, "a", volume())
    with pytest.raises(ValueError, match=r"n5.a: no attribute says its voxel size; known are"):
        place_of(container, "a")
    write(group, "a", volume(), transform={"axes": ["c", "y", "x"], "scale": 1, "translate": 0})
    with pytest.raises(ValueError, match=r"n5.a: its attributes do not say .*axes are c, y, x"):
        place_of(container, "a")


def test_transformations_of_all_levels(ome):
    group = zarr.open_group(str(ome), mode="a")["recon-1/em/fibsem-uint16"]
    attributes = group.attrs["multiscales"]
    attributes[0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [2.0, 1.0, 1.0]},
        {"type": "translation", "translation": [0.0, 0.0, 3.0]},
    ]
    group.attrs["multiscales"] = attributes
    place = place_of(Container(ome), "recon-1/em/fibsem-uint16/s1")
    assert place.voxel == pytest.approx((4 * 5.24, 8, 8))
    assert place.corner == pytest.approx((5.24 - 2 * 5.24, 2 - 4, 2 + 3 - 4))
    attributes[0]["coordinateTransformations"][0]["type"] = "affine"
    group.attrs["multiscales"] = attributes
    with pytest.raises(ValueError, match="a transformation is of the type affine"):
        module(ome).sources()


def test_which_image_and_which_labels(ome, cosem, tmp_path):
    with pytest.raises(ValueError, match=r"holds 2 containers \(jrc_hela-2.n5, jrc_hela-2.zarr\)"):
        module(tmp_path).sources()
    group = zarr.open_group(str(ome), mode="a")
    image = group.require_group("recon-1/em/fibsem-uint8")
    with pytest.raises(ValueError, match=r"holds 2 images \(recon-1/em/fibsem-uint16, .*uint8\)"):
        module(ome).sources()
    assert module(ome, image="recon-1/em/fibsem-uint16").sources()
    with pytest.raises(ValueError, match="is no array and has no level s0; it holds nothing"):
        module(ome, image="recon-1/em/fibsem-uint8").sources()
    image.create_dataset("s0", data=volume())
    with pytest.raises(ValueError, match="no attribute says its voxel size"):
        module(ome, image="recon-1/em/fibsem-uint8").sources()
    with pytest.raises(ValueError, match=r"crops: .* has no crop1; it has crop10, crop13, crop2"):
        module(cosem, crops=["crop1", "crop2"]).sources()
    n5(cosem).require_group("volumes/groundtruth/0004")
    with pytest.raises(ValueError, match=r"holds volumes/groundtruth/0003, .*0004; say in"):
        module(cosem).sources()
    assert module(cosem, labels="volumes/groundtruth/0003").sources()
    with pytest.raises(ValueError, match="0003 holds no crop with labels called mito; say what"):
        module(cosem, labels="volumes/groundtruth/0003", label_name="mito").sources()


def test_folders_that_are_no_data(tmp_path):
    with pytest.raises(ValueError, match=r"root: there is no folder .*gone"):
        module(tmp_path / "gone").sources()
    with pytest.raises(ValueError, match=r"holds 0 containers \(none\); root must be one"):
        module(tmp_path).sources()
    (tmp_path / "a.n5").mkdir()
    with pytest.raises(ValueError, match=r"a\.n5 has neither volumes/groundtruth/0003 nor recon-1"):
        module(tmp_path).sources()


def test_containers_that_are_damaged(ome, cosem):
    array = ome / "recon-1/em/fibsem-uint16/s0/.zarray"
    array.write_text("{")
    with pytest.raises(ValueError, match=r"s0: cannot be read"):
        module(ome).sources()
    (cosem / "volumes/raw/s0/attributes.json").write_text("{")
    with pytest.raises(ValueError, match=r"attributes\.json: cannot be read as JSON; it seems dam"):
        module(cosem).sources()


def test_zarr_is_an_extra(cosem, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'semiweak\[openorganelle\]'"):
        module(cosem).sources()


def test_the_most_frequent_label_of_a_block():
    rng = np.random.default_rng(0)
    for ratio in ((2, 2, 2), (1, 2, 2), (3, 1, 2), (1, 1, 1)):
        labels = rng.choice([0, 1, 2, 255], (6, 4, 8)).astype(np.uint8)
        found = most_frequent(labels, ratio)
        for index in np.ndindex(found.shape):
            block = labels[
                tuple(slice(i * r, i * r + r) for i, r in zip(index, ratio, strict=True))
            ]
            values, counts = np.unique(block, return_counts=True)
            assert found[index] == values[counts.argmax()]


def test_from_the_command_line(tmp_path, monkeypatch):
    """Merged classes go by file or in the configuration; the checkpoint brings those that stay."""
    monkeypatch.chdir(tmp_path)
    organelles(tmp_path / "jrc_hela-2.n5")
    (tmp_path / "classes.yaml").write_text("nucleus: [ne_mem, hchrom]\necs: null\n")
    arguments = [
        "--data", "OpenOrganelleDataModule", "--data.root", str(tmp_path / "jrc_hela-2.n5"),
        "--data.patch_size", "32", "--data.num_workers", "0", "--data.samples_per_epoch", "4",
        "--data.merge_classes", "classes.yaml", "--data.min_groups", "3", "--data.test", "1",
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        "--trainer.enable_model_summary", "false",
    ]  # fmt: skip
    model = [
        "--model", "SupervisedModule", "--model.num_classes", "9", "--model.in_channels", "1",
        "--model.widths", "[4, 8]",
    ]  # fmt: skip
    main(["fit", *model, *arguments, "--trainer.max_epochs", "1"])
    checkpoint = "runs/version_0/checkpoints/last.ckpt"
    names = torch.load(checkpoint, weights_only=True)["semiweak"]["data"]["class_names"]
    assert len(names) == 9
    assert "nucleus" in names
    assert not {"ecs", "golgi_mem", "ne_mem"} & set(names)
    main(["test", "--ckpt_path", checkpoint, *model, *arguments])
