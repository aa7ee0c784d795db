"""A container in the layout of Heinrich et al. 2021, written by zarr."""

import json
import warnings

import numpy as np
import zarr
from numcodecs import GZip


def n5(path):
    """The groups of an N5 container."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that zarr 3 has it no more
        return zarr.open_group(zarr.n5.N5Store(str(path)), mode="a")


def write(group, name, array, **attributes):
    """An array, compressed as the published ones are."""
    data = group.create_dataset(
        name, data=array, chunks=(16,) * 3, compressor=GZip(), overwrite=True
    )
    data.attrs.update(attributes)


def finer(labels):
    """The same labels, twice as fine."""
    for axis in range(3):
        labels = labels.repeat(2, axis)
    return labels


def cosem_container(path, image, crops):
    """An image of 4 nm and crops of it, whose labels of 2 nm have an offset: x, y, z.

    Args:
        path: Where to write.
        image: The image.
        crops: Of each crop its first voxel in the image, and its labels in voxels of the image.
    """
    group = n5(path)
    transform = {"axes": ["z", "y", "x"], "scale": [4.0] * 3, "translate": [0.0] * 3}
    write(group, "volumes/raw/s0", image, transform=transform)
    for name, (start, labels) in crops.items():
        offset = [4.0 * i for i in start][::-1]
        attributes = {"resolution": [2.0] * 3, "offset": offset, "offset_unit": "nm"}
        write(group, f"volumes/groundtruth/0003/{name}/labels/all", finer(labels), **attributes)
    # N5 does not need attributes of groups.
    for file in path.rglob("attributes.json"):
        if file.parent != path and "dimensions" not in json.loads(file.read_text()):
            file.unlink()
    return path


def organelles(path):
    """Five crops with eleven organelles, and the Golgi apparatus in two of them."""
    rng = np.random.default_rng(0)
    image = rng.integers(30000, size=(8, 32, 120)).astype(np.uint16)
    everywhere = [1, 2, 3, 8, 10, 12, 16, 20, 24, 30, 35]
    crops = {}
    for i in range(5):
        labels = np.full((3, 24, 24), 35, np.uint64)
        for place, number in enumerate([*everywhere, *([6] if i < 2 else [])]):
            labels[:, 2 * place : 2 * place + 2] = number
        crops[f"crop{i + 1}"] = (i, 4, 24 * i), labels
    return cosem_container(path, image, crops)
