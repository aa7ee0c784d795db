"""Every reader on one picture: a bright rectangle in a frame that is not square."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from conftest import real_data
from PIL import Image

from semiweak.data.readers import (
    SUFFIXES,
    check_mask,
    image_shape,
    list_images,
    read_image,
    read_labels,
    split_source,
    stem_of,
)

H, W = 37, 53
ROWS, COLUMNS = slice(5, 17), slice(20, 41)


def rectangle(dtype: Any = np.uint8, value: float = 200) -> np.ndarray:
    """A rectangle on black, with one brighter pixel at its top left, so that no flip goes by."""
    picture = np.zeros((H, W), dtype)
    picture[ROWS, COLUMNS] = value
    picture[ROWS.start, COLUMNS.start] = value + 1
    return picture


def colours() -> np.ndarray:
    """Another number in each channel: red, green, blue are never the same."""
    picture = rectangle()
    return np.stack([picture, picture // 2, picture // 4], axis=-1)


def volume(dtype: Any = np.uint8) -> np.ndarray:
    """Seven slices, a box in slices 2 to 4."""
    stack = np.zeros((7, H, W), dtype)
    stack[2:5] = rectangle(dtype)
    return stack


def write_png(path: Path, rows: list[bytes], size: tuple[int, int], depth: int, kind: int) -> Path:
    """Writes the kinds of PNG that Pillow cannot."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    return path


def write_hdf5(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


# Images: every format ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        ("png", np.uint8),
        ("png", np.uint16),
        ("bmp", np.uint8),
        *product(("tif", "h5"), (np.uint8, np.uint16, np.float32)),
    ],
)
def test_grey_comes_back_as_written(tmp_path: Path, suffix: str, dtype: Any) -> None:
    picture = rectangle(dtype, 200 if dtype == np.uint8 else 40_000)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, picture)
    elif suffix == "h5":
        write_hdf5(path, raw=picture)
    else:
        Image.fromarray(picture).save(path)
    image = read_image(path)
    assert image.dtype == dtype
    assert image.shape == (1, H, W)
    np.testing.assert_array_equal(image[0], picture)
    assert image.flags.c_contiguous
    assert image_shape(path) == (H, W)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "h5"])
def test_colour_comes_channels_first_and_red_first(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "h5":
        write_hdf5(path, raw=colours())
    elif suffix == "tif":
        tifffile.imwrite(path, colours(), photometric="rgb")
    else:
        Image.fromarray(colours()).save(path)
    image = read_image(path)
    np.testing.assert_array_equal(image, colours().transpose(2, 0, 1))
    assert image.flags.c_contiguous
    assert image_shape(path) == (H, W)


def test_jpeg_is_close_to_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(colours()).save(path, quality=95, subsampling=0)
    image = read_image(path).astype(int)
    assert image.shape == (3, H, W)
    assert np.abs(image - colours().transpose(2, 0, 1)).mean() < 3
    rows, columns = np.nonzero(image[0] > 100)
    assert (rows.min(), rows.max() + 1) == (ROWS.start, ROWS.stop)
    assert (columns.min(), columns.max() + 1) == (COLUMNS.start, COLUMNS.stop)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_jpeg_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    turned = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # quarter turns that the camera was held by
    picture = Image.fromarray(np.rot90(rectangle(), turned).copy())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    picture.save(path, quality=95, exif=exif)
    image = read_image(path)[0].astype(int)
    assert image.shape == (H, W)
    assert np.abs(image - rectangle()).mean() < 3
    assert image_shape(path) == (H, W)


def test_16_bit_colour_png_keeps_its_bits(tmp_path: Path) -> None:
    picture = colours().astype(np.uint16) * 257 + 3
    rows = [row.astype(">u2").tobytes() for row in picture]
    path = write_png(tmp_path / "a.png", rows, (H, W), depth=16, kind=2)
    image = read_image(path)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, picture.transpose(2, 0, 1))
    assert image_shape(path) == (H, W)


@pytest.mark.parametrize("samples", [2, 4])
def test_16_bit_alpha_is_dropped(tmp_path: Path, samples: int) -> None:
    colour = (colours().astype(np.uint16) * 257 + 3)[..., : samples - 1]
    alpha = np.full((H, W, 1), 60_000, np.uint16)
    rows = [row.astype(">u2").tobytes() for row in np.concatenate([colour, alpha], -1)]
    path = write_png(tmp_path / "a.png", rows, (H, W), depth=16, kind=4 if samples == 2 else 6)
    np.testing.assert_array_equal(read_image(path), colour.transpose(2, 0, 1))


@pytest.mark.parametrize("alpha", [255, 0])
def test_alpha_is_dropped_and_colours_stay(tmp_path: Path, alpha: int) -> None:
    layer = np.full((H, W, 1), alpha, np.uint8)
    Image.fromarray(np.concatenate([colours(), layer], -1)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([rectangle()[..., None], layer], -1)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), colours().transpose(2, 0, 1))
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), rectangle()[None])


def palette_picture(entries: list[int]) -> Image.Image:
    indices = (rectangle() > 0).astype(np.uint8)
    picture = Image.fromarray(indices).convert("P")
    picture.putdata(indices.ravel().tolist())
    picture.putpalette(entries)
    return picture


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    palette_picture([1, 2, 3, 90, 80, 70]).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, H, W)
    assert image[:, 0, 0].tolist() == [1, 2, 3]
    assert image[:, ROWS.start, COLUMNS.start].tolist() == [90, 80, 70]


def test_palette_with_transparency_gives_its_colours_without_a_warning(tmp_path: Path) -> None:
    picture = palette_picture([1, 2, 3, 90, 80, 70])
    picture.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "a.png")
    assert image[:, 0, 0].tolist() == [1, 2, 3]


def test_palette_of_greys_is_one_channel(tmp_path: Path) -> None:
    palette_picture([7, 7, 7, 90, 90, 90]).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (1, H, W)
    assert (image[0, 0, 0], image[0, ROWS.start, COLUMNS.start]) == (7, 90)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "h5"])
def test_one_bit_is_black_and_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, rectangle() > 0)
    elif suffix == "h5":
        write_hdf5(path, raw=rectangle() > 0)
    else:
        Image.fromarray(rectangle() > 0).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[0], (rectangle() > 0) * 255)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64, np.float16, np.float64]
)
def test_other_types_become_float32_whatever_they_hold(tmp_path: Path, dtype: Any) -> None:
    picture = rectangle(dtype, 100)
    if np.dtype(dtype).kind != "u":
        picture[0, 0] = -3
    image = read_image(write_hdf5(tmp_path / "a.h5", raw=picture))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[0], picture)


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_byte_order_is_the_machine_s(tmp_path: Path, dtype: str) -> None:
    image = read_image(write_hdf5(tmp_path / "a.h5", raw=rectangle(dtype)))
    assert image.dtype.isnative
    assert image.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image[0], rectangle())


def test_a_constant_image_is_an_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((H, W), 7, np.float32))
    assert np.ptp(read_image(tmp_path / "a.tif")) == 0


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(rectangle()).save(path, format="PNG")
    np.testing.assert_array_equal(read_image(path)[0], rectangle())


def test_a_large_image_is_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, write in (("a.png", {}), ("a.bmp", {}), ("a.jpg", {"quality": 95})):
        Image.fromarray(rectangle()).save(tmp_path / name, **write)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("a.png", "a.bmp", "a.jpg"):
        assert read_image(tmp_path / name).shape == (1, H, W)
        assert image_shape(tmp_path / name) == (H, W)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), rectangle())


# TIFF and HDF5: axes -----------------------------------------------------------------------------


def write_tiff(path: Path, array: np.ndarray, axes: str | None, style: str) -> Path:
    """As tifffile itself, ImageJ or OME would store it."""
    metadata = {"axes": axes} if axes else {}
    tifffile.imwrite(
        path,
        array,
        photometric="rgb" if axes and "S" in axes else "minisblack",
        imagej=style == "imagej",
        ome=style == "ome",
        metadata=metadata,
    )
    return path


@pytest.mark.parametrize("style", ["imagej", "ome", "tifffile"])
@pytest.mark.parametrize("axes", ["CYX", "YXS"])
def test_tiff_axes_of_an_image_are_believed(tmp_path: Path, style: str, axes: str) -> None:
    channels_first = np.stack([rectangle(), rectangle() // 2, rectangle() // 4])
    stored = channels_first if axes == "CYX" else channels_first.transpose(1, 2, 0)
    path = write_tiff(tmp_path / "a.tif", stored, axes, style)
    np.testing.assert_array_equal(read_image(path), channels_first)
    assert image_shape(path) == (H, W)


def test_more_channels_than_four_need_the_files_word(tmp_path: Path) -> None:
    stored = np.stack([rectangle() // n for n in range(1, 7)])
    path = write_tiff(tmp_path / "a.tif", stored, "CYX", "imagej")
    np.testing.assert_array_equal(read_image(path), stored)


@pytest.mark.parametrize("style", ["imagej", "ome", "tifffile"])
@pytest.mark.parametrize("axes", ["ZYX", "ZCYX", "ZYXS"])
def test_tiff_axes_of_a_volume_are_believed(tmp_path: Path, style: str, axes: str) -> None:
    # Three slices and two or three channels: lengths alone would not tell them apart.
    stack = volume()[1:4]
    if axes == "ZYX":
        stored, expected = stack, stack[None]
    elif axes == "ZCYX":
        expected = np.stack([stack, stack // 2])
        stored = expected.transpose(1, 0, 2, 3)
    else:
        expected = np.stack([stack, stack // 2, stack // 4])
        stored = expected.transpose(1, 2, 3, 0)
    path = write_tiff(tmp_path / "a.tif", np.ascontiguousarray(stored), axes, style)
    np.testing.assert_array_equal(read_image(path, spatial_dims=3), expected)
    assert image_shape(path, spatial_dims=3) == (3, H, W)


def test_colour_samples_of_channels_become_one_axis(tmp_path: Path) -> None:
    stored = np.stack([colours(), colours() // 3])
    path = write_tiff(tmp_path / "a.tif", stored, "CYXS", "imagej")
    image = read_image(path)
    assert image.shape == (6, H, W)
    np.testing.assert_array_equal(image[4], colours()[..., 1] // 3)


def test_tiff_pages_are_slices(tmp_path: Path) -> None:
    first, *rest = (Image.fromarray(plane) for plane in volume())
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    image = read_image(tmp_path / "a.tif", spatial_dims=3)
    np.testing.assert_array_equal(image, volume()[None])


def test_opaque_alpha_of_a_tiff_is_dropped_and_a_fourth_channel_kept(tmp_path: Path) -> None:
    opaque = np.concatenate([colours(), np.full((H, W, 1), 255, np.uint8)], -1)
    fourth = np.concatenate([colours(), rectangle()[..., None]], -1)
    for name, array in (("opaque", opaque), ("fourth", fourth)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", array, photometric="rgb", extrasamples=["unassalpha"]
        )
    assert read_image(tmp_path / "opaque.tif").shape == (3, H, W)
    np.testing.assert_array_equal(read_image(tmp_path / "fourth.tif")[3], rectangle())


@pytest.mark.parametrize(
    ("shape", "spatial_dims", "expected"),
    [
        ((H, W), 2, "yx"),
        ((H, W, 4), 2, "yxc"),
        ((1, H, W), 2, "cyx"),
        ((4, H, W), 2, "cyx"),
        ((1, 1, H, W), 2, "11yx"),
        ((1, 3, H, W), 2, "1cyx"),
        ((7, H, W), 3, "zyx"),
        ((7, H, W, 3), 3, "zyxc"),
        ((3, H, W, 3), 3, "zyxc"),
        ((2, 7, H, W), 3, "czyx"),
        ((7, 2, H, W), 3, "zcyx"),
        ((1, 1, 7, H, W), 3, "11zyx"),
    ],
)
def test_axes_by_their_lengths(
    tmp_path: Path, shape: tuple[int, ...], spatial_dims: int, expected: str
) -> None:
    array = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    image = read_image(write_hdf5(tmp_path / "a.h5", raw=array), spatial_dims=spatial_dims)
    named = array[tuple(0 if axis == "1" else slice(None) for axis in expected)]
    letters = expected.replace("1", "")
    if "c" not in letters:
        named, letters = named[None], "c" + letters
    order = [letters.index(axis) for axis in "czyx" if axis in letters]
    np.testing.assert_array_equal(image, named.transpose(order))


def test_given_axes_beat_all_others(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 8, 9), np.uint8)
    path = write_hdf5(tmp_path / "a.h5", raw=array)
    np.testing.assert_array_equal(read_image(path, axes="YXC"), array.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_image(path, axes="xyc"), array.transpose(2, 1, 0))
    assert image_shape(path, axes="xyc") == (8, 3)
    tiff = write_tiff(tmp_path / "a.tif", volume(), "CYX", "imagej")
    np.testing.assert_array_equal(read_image(tiff, spatial_dims=3, axes="ZYX"), volume()[None])


def test_axes_leave_png_alone(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", axes="CYX")
    np.testing.assert_array_equal(image, colours().transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (volume(), {}, "stack of 7 slices.*spatial_dims: 3.*axes"),
        (volume()[..., None], {}, r"stack of 7 slices"),
        (rectangle(), {"spatial_dims": 3}, "single plane"),
        (np.zeros((2, 3, H, W)), {"spatial_dims": 3}, "axes: CZYX or ZCYX"),
        (np.zeros((7, 8, H, W)), {"spatial_dims": 3}, "stack of 7 slices"),
        (np.zeros((2, 2, 2, H, W)), {}, "no image of 2 dimensions"),
        (np.zeros(9), {}, "no image of 2 dimensions"),
        (colours(), {"axes": "YX"}, "one different letter for each of its 3 axes"),
        (colours(), {"axes": "YXX"}, "one different letter"),
        (colours(), {"axes": "HWC"}, "cannot use H .37., W .53.; X and Y is missing"),
        (colours(), {"axes": "TYX"}, r"cannot use T \(37\)"),
        (volume(), {"axes": "ZYX"}, "stack of 7 slices"),
        (rectangle(), {"spatial_dims": 4}, "spatial_dims is 4; it can be 2 or 3"),
        (np.zeros((0, 5)), {}, "no pixels"),
        (rectangle(np.complex64), {}, "complex64, not pixels"),
    ],
)
def test_axes_that_make_no_image_are_refused(
    tmp_path: Path, array: np.ndarray, options: dict[str, Any], message: str
) -> None:
    path = write_hdf5(tmp_path / "a.h5", raw=array)
    with pytest.raises(ValueError, match=message) as caught:
        read_image(path, **options)
    assert str(path) in str(caught.value) or "spatial_dims is 4" in message


def test_a_tiff_stack_is_refused_as_an_image(tmp_path: Path) -> None:
    for style, axes in (("imagej", "ZYX"), ("tifffile", None), ("ome", "ZYX")):
        path = write_tiff(tmp_path / f"{style}.tif", volume(), axes, style)
        with pytest.raises(ValueError, match=rf"{style}.tif.*stack of 7 slices"):
            read_image(path)
        with pytest.raises(ValueError, match="stack of 7 slices"):
            image_shape(path)


@pytest.mark.parametrize("axes", ["CYX", "TYX"])
def test_planes_that_are_no_slices_say_how_to_make_them_so(tmp_path: Path, axes: str) -> None:
    path = write_tiff(tmp_path / "a.tif", volume(), axes, "imagej")
    with pytest.raises(ValueError, match=rf"7 along {axes[0]}.*axes: ZYX"):
        read_image(path, spatial_dims=3)


def test_hdf5_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["exported/raw"] = rectangle()
        file["label"] = rectangle() // 200
        file["text"] = "no pixels"
    for key in ("/exported/raw", "exported/raw"):
        np.testing.assert_array_equal(read_image(f"{path}:{key}")[0], rectangle())
    assert image_shape(f"{path}:/label") == (H, W)
    for source, message in (
        (f"{path}:/nothing", r"no data set /nothing.*/exported/raw \(37, 53\), /label"),
        (f"{path}:/exported", "no data set /exported"),
        (f"{path}:/text", "not pixels"),
        (path, r"say which data set.*a.h5:/key.*/exported/raw"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read_image(source)
        assert str(caught.value).startswith(str(source))


# Bad files ---------------------------------------------------------------------------------------


def encoded(suffix: str) -> Callable[[Path], None]:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)

    def write(path: Path) -> None:
        if suffix == "h5":
            write_hdf5(path, raw=noise)
        elif suffix == "16.png":
            rows = [row.astype(">u2").tobytes() for row in noise.astype(np.uint16) * 257]
            write_png(path, rows, (64, 64), depth=16, kind=2)
        elif suffix == "zip.tif":
            tifffile.imwrite(path, noise[..., 0], compression="zlib")
        elif suffix == "tif":
            tifffile.imwrite(path, noise[..., 0])
        else:
            Image.fromarray(noise).save(path)

    return write


@pytest.mark.parametrize("suffix", ["png", "16.png", "jpg", "bmp", "tif", "zip.tif", "h5"])
@pytest.mark.parametrize("part", [0.9, 0.5, 12])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    encoded(suffix)(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part) if part < 1 else int(part)])
    with pytest.raises(ValueError, match=r"cut\.") as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))
    assert "damaged" in str(caught.value) or "cut short" in str(caught.value)


@pytest.mark.parametrize("style", ["imagej", "ome", "tifffile", "pages", "zlib"])
def test_a_stack_that_lacks_slices_is_refused(tmp_path: Path, style: str) -> None:
    # tifffile would read the slices that are left, or fill up with zeros.
    path = tmp_path / "a.tif"
    stack = np.random.default_rng(0).integers(0, 255, (7, H, W), np.uint8)
    if style == "pages":
        first, *rest = (Image.fromarray(plane) for plane in stack)
        first.save(path, save_all=True, append_images=rest)
    elif style == "zlib":
        tifffile.imwrite(path, stack, compression="zlib", metadata=None)
    else:
        write_tiff(path, stack, "ZYX", style)
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_image(path, spatial_dims=3)[0], stack)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.tif: .*(cut short|damaged)"):
        read_image(path, spatial_dims=3)


def test_an_imagej_stack_of_one_page_that_lacks_slices_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", volume(), "ZYX", "imagej")
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        chain = page.offset + 2 + 12 * len(page.tags)
        data = page.dataoffsets[0]
    whole = bytearray(path.read_bytes())
    whole[chain : chain + 4] = bytes(4)  # the first page is the last, as ImageJ writes it
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path, spatial_dims=3)[0], volume())
    path.write_bytes(whole[: data + 3 * H * W])
    with pytest.raises(ValueError, match="cut short: its header names 7 planes"):
        read_image(path)


@pytest.mark.parametrize("complete", [True, False])
def test_an_ome_tiff_of_several_files_is_refused(tmp_path: Path, complete: bool) -> None:
    # tifffile would read the other files with it, and zeros for those that are missing.
    path = write_tiff(tmp_path / "a.ome.tif", volume(), "ZYX", "ome")
    with tifffile.TiffFile(path) as tif:
        description = str(tif.ome_metadata)
    other = '<UUID FileName="b.ome.tif">urn:uuid:b</UUID>'
    description = description.replace('SizeZ="7"', 'SizeZ="8"').replace(
        "</Pixels>", f'<TiffData IFD="0" FirstZ="7" PlaneCount="1">{other}</TiffData></Pixels>'
    )
    tifffile.imwrite(path, volume(), description=description.encode(), metadata=None)
    if complete:
        tifffile.imwrite(tmp_path / "b.ome.tif", rectangle(), metadata=None)
    with pytest.raises(ValueError, match=r"a\.ome\.tif: .*several files"):
        read_image(path, spatial_dims=3)


def test_a_tiff_of_several_images_is_refused_but_a_thumbnail_is_not(tmp_path: Path) -> None:
    for name, second in (("two", rectangle()), ("thumbnail", rectangle()[::4, ::4])):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as tif:
            tif.write(rectangle(), metadata={"axes": "YX"})
            tif.write(second, metadata={"axes": "YX"})
    np.testing.assert_array_equal(read_image(tmp_path / "thumbnail.tif")[0], rectangle())
    with pytest.raises(ValueError, match=r"two\.tif: holds 2 images"):
        read_image(tmp_path / "two.tif")


def test_lzw_is_read_or_the_message_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(rectangle()).save(path, compression="tiff_lzw")
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"a\.tif.*pip install imagecodecs"):
            read_image(path)
    else:
        np.testing.assert_array_equal(read_image(path)[0], rectangle())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"these are no pixels", "no image|cannot be read as HDF5")],
)
def test_what_is_no_image_is_refused(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for read in (read_image, read_labels, image_shape):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for source in (tmp_path / "a.png", tmp_path / "a.h5", f"{tmp_path}/a.h5:/raw"):
        with pytest.raises(ValueError, match=r"a\.\w+: there is no such file"):
            read_image(source)
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, value: float, dtype: Any) -> None:
    array = np.zeros((2, H, W), dtype)
    array[1, 3, 5] = array[1, 4, 0] = value
    path = write_hdf5(tmp_path / "a.h5", raw=array)
    with pytest.raises(ValueError, match=r"a\.h5: 2 values.*\(y, x\) = \(3, 5\), channel 1"):
        read_image(path)


def test_pixels_beyond_float32_are_refused_without_a_warning(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", raw=np.full((H, W), 1e300))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="too large for float32"):
            read_image(path)


# Label images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        ("png", np.uint8),
        ("png", np.uint16),
        ("bmp", np.uint8),
        *product(("tif", "h5"), (np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.int64)),
    ],
)
def test_labels_come_back_in_the_type_of_the_file(tmp_path: Path, suffix: str, dtype: Any) -> None:
    labels = rectangle(dtype, 2)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, labels)
    elif suffix == "h5":
        write_hdf5(path, raw=labels)
    else:
        Image.fromarray(labels).save(path)
    read = read_labels(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, labels)


def test_labels_of_a_palette_are_indices(tmp_path: Path) -> None:
    palette_picture([0, 0, 0, 250, 0, 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), rectangle() > 0)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "h5"])
def test_labels_of_one_bit_are_0_and_1(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, rectangle() > 0)
    elif suffix == "h5":
        write_hdf5(path, raw=rectangle() > 0)
    else:
        Image.fromarray(rectangle() > 0).save(path)
    labels = read_labels(path)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, rectangle() > 0)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_labels_of_few_bits_are_not_spread_over_a_byte(tmp_path: Path, depth: int) -> None:
    stored = np.arange(8) % 2**depth
    bits = np.unpackbits(stored.astype(np.uint8)[:, None], axis=1)[:, -depth:]
    rows = [np.packbits(bits.ravel()).tobytes()] * 3
    path = write_png(tmp_path / "a.png", rows, (3, 8), depth, kind=0)
    np.testing.assert_array_equal(read_labels(path), [stored] * 3)
    brightest = 2**depth - 1
    np.testing.assert_array_equal(read_image(path)[0], [stored * (255 // brightest)] * 3)


def test_labels_of_a_volume(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", label=volume()[:3] // 200)
    np.testing.assert_array_equal(read_labels(path, spatial_dims=3), volume()[:3] // 200)
    moved = write_hdf5(tmp_path / "b.h5", label=volume().transpose(1, 2, 0))
    np.testing.assert_array_equal(read_labels(moved, spatial_dims=3, axes="YXZ"), volume())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint64])
def test_whole_numbers_as_floats_are_labels(tmp_path: Path, dtype: Any) -> None:
    labels = read_labels(write_hdf5(tmp_path / "a.h5", raw=rectangle(dtype, 7)))
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, rectangle(value=7))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (rectangle(np.float32) / 500, "no whole numbers.*0.402.*threshold"),
        (rectangle(np.float32) * np.nan, "NaN"),
        (rectangle(np.float64, 1e30), "too large for a label"),
        (rectangle(np.uint64, 2**63), "too large for a label"),
        (colours(), "3 channels.*mask_values.*quotes"),
        (rectangle(np.complex64), "complex64"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = write_hdf5(tmp_path / "a.h5", raw=array)
    with pytest.raises(ValueError, match=rf"a\.h5: .*{message}"):
        read_labels(path)


def test_a_jpeg_is_no_label_image(tmp_path: Path) -> None:
    Image.fromarray(rectangle()).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: is a JPEG.*PNG or TIFF"):
        read_labels(tmp_path / "a.jpg")


def test_values_map_numbers(tmp_path: Path) -> None:
    Image.fromarray(rectangle()).save(tmp_path / "a.png")
    values: dict[int | str, int] = {0: 255, "200": 0, 201: 3, 99: 4}
    labels = read_labels(tmp_path / "a.png", values=values)
    assert labels.dtype == np.uint8
    expected = np.full((H, W), 255)
    expected[ROWS, COLUMNS] = 0
    expected[ROWS.start, COLUMNS.start] = 3
    np.testing.assert_array_equal(labels, expected)


def test_values_map_negative_numbers_and_numbers_beyond_the_type(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", raw=rectangle(np.int16, 1) - np.int16(1))
    labels = read_labels(path, values={-1: 255, 0: 0, 1: 1, 70_000: 2})
    assert labels[0, 0] == 255
    assert labels[ROWS.start, COLUMNS.start] == 1


def colour_key(suffix: str, path: Path) -> None:
    """Black, and #fa0102 in the rectangle."""
    inside = rectangle() > 0
    rgb = inside[..., None] * np.array([0xFA, 1, 2], np.uint8)
    alpha = np.full((H, W, 1), 128, np.uint8)
    if suffix == "h5":
        write_hdf5(path, raw=rgb)
    elif suffix == "tif":
        tifffile.imwrite(path, rgb, photometric="rgb")
    elif suffix == "rgba.png":
        Image.fromarray(np.concatenate([rgb, alpha], -1)).save(path)
    elif suffix == "palette.png":
        palette_picture([0, 0, 0, 0xFA, 1, 2]).save(path)
    else:
        Image.fromarray(rgb).save(path)


@pytest.mark.parametrize("suffix", ["png", "rgba.png", "palette.png", "bmp", "tif", "h5"])
def test_values_map_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    colour_key(suffix, path)
    labels = read_labels(path, values={"#000000": 0, "#FA0102": 1})
    np.testing.assert_array_equal(labels, rectangle() > 0)
    with pytest.raises(ValueError, match=r"not list: #fa0102 \(252 pixels\); it lists #000000"):
        read_labels(path, values={"#000000": 0})


def test_transparent_is_a_colour_of_its_own(tmp_path: Path) -> None:
    inside = rectangle() > 0
    painted = np.zeros((H, W, 4), np.uint8)
    painted[inside] = [255, 0, 0, 255]
    Image.fromarray(painted).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "a.png", values={"transparent": 255, "#ff0000": 1})
    np.testing.assert_array_equal(labels, np.where(inside, 1, 255))
    with pytest.raises(ValueError, match=r"not list: transparent"):
        read_labels(tmp_path / "a.png", values={"#000000": 0, "#ff0000": 1})


def test_values_that_are_not_listed_are_refused_with_their_numbers(tmp_path: Path) -> None:
    Image.fromarray(rectangle()).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"a\.png: .*not list: 200 \(251 pixels\), 201 \(1 pixels\); it lists 0, 1"
    ):
        read_labels(tmp_path / "a.png", values={0: 0, 1: 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "empty"),
        ({0: 0, "#ffffff": 1}, "numbers or colours alone"),
        ({"red": 1}, "keys are numbers, colours"),
        ({"#fff": 1}, "keys are numbers, colours"),
        ({0: 256}, "classes are 0 to 254"),
        ({0: "nucleus"}, "classes are 0 to 254"),
        ({"#000000": 0}, "1 channel.* of uint8, not 8-bit RGB"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, values: Any, message: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", rectangle())
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "a.tif", values=values)


def test_16_bit_colours_are_no_key(tmp_path: Path) -> None:
    rows = [row.astype(">u2").tobytes() for row in colours().astype(np.uint16)]
    path = write_png(tmp_path / "a.png", rows, (H, W), depth=16, kind=2)
    with pytest.raises(ValueError, match="not 8-bit RGB"):
        read_labels(path, values={"#000000": 0})
    with pytest.raises(ValueError, match="3 channels"):
        read_labels(path)


# Masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_a_mask_of_classes_and_unknown_is_accepted(dtype: Any) -> None:
    labels = np.array([[0, 1], [2, 255]], dtype)
    mask = check_mask(labels, 3, "a.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, labels)


def test_minus_one_is_unknown() -> None:
    np.testing.assert_array_equal(check_mask(np.array([[-1, 1]]), 2, "a.tif"), [[255, 1]])


def test_a_mask_is_not_changed_in_place() -> None:
    labels = np.array([[-1, 1]])
    check_mask(labels, 2, "a.tif")
    np.testing.assert_array_equal(labels, [[-1, 1]])


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([0, 1, 3], 3, "values 0, 1, 3; allowed are 0 to 2, and 255"),
        ([0, 128], 2, r"mask_values: \{0: 0, 128: 1\}"),
        ([0, 128, 255], 3, r"mask_values: \{0: 0, 128: 1, 255: 2\}"),
        ([0, 256], 2, "values 0, 256"),
        ([0, -56], 2, "values -56, 0"),
        (range(40), 2, "instances.*thresholded"),
        (range(6), 4, "class_names"),
    ],
)
def test_a_mask_with_other_values_is_refused(labels: Any, num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"masks/a\.png: .*{message}"):
        check_mask(np.array([labels], np.int32), num_classes, "masks/a.png")


def test_a_black_and_white_painting_is_refused_until_declared() -> None:
    labels = np.array([[0, 255]], np.uint8)
    with pytest.raises(ValueError, match=r"a\.png: .*mask_values: \{0: 0, 255: 1\}"):
        check_mask(labels, 2, "a.png")
    np.testing.assert_array_equal(check_mask(labels, 2, "a.png", declared=True), labels)
    # Of more classes, or with the other class beside them, 0 and 255 are plausible.
    np.testing.assert_array_equal(check_mask(labels, 3, "a.png"), labels)
    check_mask(np.array([[0, 255, 1]], np.uint8), 2, "a.png")
    check_mask(np.zeros((2, 2), np.uint8), 2, "a.png")


@pytest.mark.parametrize("values", [[255, 255], [-1, -1]])
def test_a_mask_of_nothing_but_unknown_is_accepted(values: list[int]) -> None:
    assert (check_mask(np.array([values]), 2, "a.png") == 255).all()


# Names and folders -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a.png", "a"),
        ("A.TIF", "A"),
        ("cells/a.ome.tif", "a"),
        ("a.OME.TIFF", "a"),
        (r"C:\cells\a.jpeg", "a"),
        ("a.h5:/exported/raw", "a"),
        (Path("x") / "plate.7.bmp", "plate.7"),
        ("plate.7", "plate.7"),
        ("a", "a"),
        (".png", ".png"),
    ],
)
def test_stems(source: str | Path, stem: str) -> None:
    assert stem_of(source) == stem


def test_sources_are_split_at_their_key() -> None:
    assert split_source("x/a.h5:/raw") == (Path("x/a.h5"), "/raw")
    assert split_source("a.hdf5") == (Path("a.hdf5"), None)
    assert split_source("C:/a.png") == (Path("C:/a.png"), None)
    assert split_source("C:/a.H5:label") == (Path("C:/a.H5"), "label")


def test_images_are_listed_as_people_count(tmp_path: Path) -> None:
    names = ["img10.png", "img2.TIF", "img1.ome.tif", "Img3.jpg", "a.h5", ".hidden.png", "a.txt"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "b.png").touch()
    (tmp_path / "folder.png" / "z.png").touch()
    images = list_images(tmp_path)
    assert list(images) == ["a", "img1", "img2", "Img3", "img10"]
    assert images["img2"] == tmp_path / "img2.TIF"
    assert list(list_images(tmp_path, recursive=True)) == [*images, "z"]


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    for name in ("a.ome.tif", "a.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"a\.ome\.tif and .*a\.png"):
        list_images(tmp_path)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"has no images.*\.png .*\.hdf5"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        list_images(tmp_path / "images")
    with pytest.raises(ValueError, match="a file, not a folder"):
        list_images(tmp_path / "a.txt")


# Real files --------------------------------------------------------------------------------------


def test_real_data_bccd_jpeg() -> None:
    images = list_images(real_data("bccd") / "JPEGImages")
    image = read_image(next(iter(images.values())))
    assert (image.shape, image.dtype) == ((3, 480, 640), np.uint8)
    assert image[0].mean() > image[1].mean()  # blood is red


def test_real_data_wbc_bmp_and_its_labels() -> None:
    folder = real_data("wbc") / "Dataset 1"
    path = sorted(folder.glob("*.bmp"))[0]
    assert read_image(path).shape == (3, 120, 120)
    labels = read_labels(path.with_suffix(".png"))
    assert labels.shape == image_shape(path) == (120, 120)
    with pytest.raises(ValueError, match=r"and .*\.(png|bmp) have the same name"):
        list_images(folder)


def test_real_data_vnc_tif_and_its_one_bit_labels() -> None:
    folder = real_data("vnc_sstem") / "stack1"
    image = read_image(folder / "raw" / "00.tif")
    assert (image.shape, image.dtype) == ((1, 1024, 1024), np.uint8)
    grey = {0: 0, 32: 0, 64: 0, 96: 0, 128: 0, 159: 1, 191: 2, 223: 3, 255: 4}
    mask = read_labels(folder / "labels" / "labels00000000.png", values=grey)
    assert set(np.unique(check_mask(mask, 5, "labels"))) == {0, 1, 2, 3, 4}
    # Membranes are dark, and lie where the labels say.
    assert image[0][mask == 0].mean() < image[0][mask == 4].mean() - 20
    assert set(np.unique(read_labels(folder / "synapses" / "00.png"))) <= {0, 1}


def test_real_data_plantseg_h5() -> None:
    path = real_data("plantseg_3d") / "sample_ovule.h5"
    image = read_image(f"{path}:/raw", spatial_dims=3)
    labels = read_labels(f"{path}:/label", spatial_dims=3)
    assert image.shape == (1, 32, 128, 128)
    assert labels.shape == image_shape(f"{path}:/label", spatial_dims=3) == (32, 128, 128)
    assert len(np.unique(labels)) >= 50
    with pytest.raises(ValueError, match=r"/label.*/raw"):
        read_image(path, spatial_dims=3)


def test_real_data_dsb2018_rgba_png() -> None:
    folder = next(iter(sorted((real_data("dsb2018") / "stage1_train").iterdir())))
    (path,) = list_images(folder / "images").values()
    image = read_image(path)
    mask = read_labels(next(iter(list_images(folder / "masks").values())))
    assert image.shape == (3, *mask.shape)
