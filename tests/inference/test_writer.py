from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch
from PIL import Image
from pytorch_lightning.cli import LightningArgumentParser
from torch.utils.data import DataLoader

from semiweak.inference.writer import LabelWriter
from semiweak.visualize import EmbeddingColors, legend, overlay, palette

pytestmark = [
    # Lightning's, of what torch has renamed meanwhile.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    # The predictions of these tests come from lists, for which workers bring nothing.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]

NAMES = ["background", "cell", "Zelle-ä"]


class Images(pl.LightningDataModule):
    """Predicts the given dicts, one a batch; announces their names if told."""

    def __init__(self, predictions, announce=True):
        super().__init__()
        self.predictions = predictions
        if announce:
            self.predict_names = lambda: [name for p in predictions for name in p["name"]]

    def predict_dataloader(self):
        return DataLoader(self.predictions, batch_size=1, collate_fn=lambda items: items[0])


class Parrot(pl.LightningModule):
    """Predicts what the data module brings, and counts."""

    def __init__(self, class_names=None, **hyperparameters):
        super().__init__()
        self.save_hyperparameters(hyperparameters)
        self.class_names = class_names
        self.calls = 0

    def predict_step(self, batch, batch_idx):
        self.calls += 1
        return batch


def prediction(*names, shape=(20, 30), classes=3, seed=0, largest=None):
    """One batch of the predictions of a semantic method."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand((len(names), classes, *shape), generator=generator).softmax(dim=1)
    labels = scores.argmax(dim=1)
    if largest is not None:
        labels[:, -1, -1] = largest
    image = torch.randn((len(names), 1, *shape), generator=generator)
    return {"name": list(names), "image": image, "labels": labels, "probabilities": scores}


def predict(writer, *predictions, module=None, announce=True):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[writer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = module or Parrot(num_classes=3)
    data = Images(list(predictions), announce)
    trainer.predict(module, datamodule=data, return_predictions=False)
    return module


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def read(path: Path) -> np.ndarray:
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


def test_each_image_becomes_a_label_image_of_its_name_and_size(tmp_path):
    out = tmp_path / "new" / "labels"
    first, second = prediction("a", "b.v2"), prediction("c", shape=(7, 9))
    predict(LabelWriter(out=str(out)), first, second)
    assert files(out) == {
        *("a.png", "b.v2.png", "c.png"),
        *("overlays/a.png", "overlays/b.v2.png", "overlays/c.png"),
    }
    for name, expected in zip("ab", first["labels"], strict=True):
        labels = read(out / {"a": "a.png", "b": "b.v2.png"}[name])
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected.numpy())
    np.testing.assert_array_equal(read(out / "c.png"), second["labels"][0].numpy())
    assert read(out / "overlays" / "c.png").shape == (7, 9, 3)


def test_a_stack_becomes_a_tiff_with_its_axes(tmp_path):
    stack = prediction("s", shape=(4, 12, 10))
    predict(LabelWriter(out=str(tmp_path), probabilities=True), stack, module=Parrot(NAMES))
    np.testing.assert_array_equal(read(tmp_path / "s.tif"), stack["labels"][0].numpy())
    with tifffile.TiffFile(tmp_path / "s.tif") as tiff:
        assert tiff.series[0].axes == "ZYX"
    with tifffile.TiffFile(tmp_path / "probabilities" / "s.tif") as tiff:
        assert tiff.series[0].axes == "CZYX"
        np.testing.assert_array_equal(tiff.asarray(), stack["probabilities"][0].numpy())
    assert read(tmp_path / "overlays" / "s.png").shape == (12, 10, 3)


def test_a_stack_of_one_slice_stays_a_stack(tmp_path):
    predict(LabelWriter(out=str(tmp_path)), prediction("s", shape=(1, 12, 10)))
    assert read(tmp_path / "s.tif").shape == (1, 12, 10)


def test_probabilities_come_as_float32_with_axes_and_class_names(tmp_path):
    batch = prediction("a", "b")
    batch["probabilities"] = batch["probabilities"].bfloat16()
    writer = LabelWriter(out=str(tmp_path), probabilities=True, overlay=False)
    predict(writer, batch, module=Parrot(NAMES, num_classes=3))
    assert files(tmp_path) == {"a.png", "b.png", "probabilities/a.tif", "probabilities/b.tif"}
    with tifffile.TiffFile(tmp_path / "probabilities" / "b.tif") as tiff:
        assert tiff.series[0].axes == "CYX"
        written = tiff.asarray()
        assert all(f'Name="{name}"' in tiff.ome_metadata for name in NAMES)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, batch["probabilities"][1].float().numpy())


@pytest.mark.parametrize(
    ("num_classes", "largest", "dtype"),
    [
        (3, 2, np.uint8),
        (256, 2, np.uint8),
        (257, 2, np.uint16),  # the run may give 256, so that every file has room for it
        (None, 255, np.uint8),
        (None, 256, np.uint16),
        (2, 300, np.uint16),  # object ids of a module that also knows classes
    ],
)
def test_all_files_of_a_run_have_the_smallest_type_for_its_classes(
    tmp_path, num_classes, largest, dtype
):
    arguments = {} if num_classes is None else {"num_classes": num_classes}
    batch = prediction("a", largest=largest)
    predict(LabelWriter(out=str(tmp_path)), batch, module=Parrot(**arguments))
    labels = read(tmp_path / "a.png")
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, batch["labels"][0].numpy())


def test_ids_that_a_png_cannot_hold_go_to_a_tiff(tmp_path):
    batch = prediction("many", largest=65536)
    few = prediction("few", largest=65535)
    predict(LabelWriter(out=str(tmp_path), overlay=False), batch, few, module=Parrot())
    assert files(tmp_path) == {"many.tif", "few.png"}
    assert read(tmp_path / "many.tif").dtype == np.uint32
    np.testing.assert_array_equal(read(tmp_path / "many.tif"), batch["labels"][0].numpy())
    asked = LabelWriter(out=str(tmp_path / "asked"), overlay=False, format="png")
    with pytest.warns(UserWarning, match="many has ids up to 65536"):
        predict(asked, batch, module=Parrot())
    assert files(tmp_path / "asked") == {"many.tif"}


def test_tiff_on_request(tmp_path):
    batch = prediction("a")
    predict(LabelWriter(out=str(tmp_path), overlay=False, format="tif"), batch)
    assert files(tmp_path) == {"a.tif"}
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), batch["labels"][0].numpy())
    # A viewer that knows nothing of tifffile reads it too.
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.tif")), batch["labels"][0])


def test_a_png_of_a_stack_is_refused_before_anything_is_computed(tmp_path):
    module = Parrot(spatial_dims=3)
    writer = LabelWriter(out=str(tmp_path), format="png")
    with pytest.raises(ValueError, match="PNG cannot hold a stack"):
        predict(writer, prediction("s", shape=(4, 12, 10)), module=module)
    assert module.calls == 0


def test_the_legend_of_the_classes_lies_beside_the_overlays(tmp_path):
    predict(LabelWriter(out=str(tmp_path)), prediction("a"), module=Parrot(NAMES))
    expected = legend(NAMES)
    np.testing.assert_array_equal(read(tmp_path / "overlays" / "_legend.png"), expected)


def test_object_ids_have_no_legend(tmp_path):
    objects = prediction("a")
    del objects["probabilities"]
    predict(LabelWriter(out=str(tmp_path)), objects, module=Parrot(NAMES))
    assert "overlays/_legend.png" not in files(tmp_path)


def test_embeddings_are_no_classes(tmp_path):
    batch = prediction("a", classes=8)
    predict(LabelWriter(out=str(tmp_path)), batch, module=Parrot(NAMES))
    assert "overlays/_legend.png" not in files(tmp_path)


@pytest.mark.parametrize("shape", [(20, 30), (5, 20, 30)])
def test_each_overlay_shows_its_own_image_and_labels(tmp_path, shape):
    batch = prediction("a", "b", shape=shape)
    predict(LabelWriter(out=str(tmp_path)), batch)
    for name, image, labels in zip("ab", batch["image"], batch["labels"], strict=True):
        if len(shape) == 3:
            image, labels = image[:, 2], labels[2]
        expected = overlay(image.numpy(), labels.numpy(), unknown=None)
        np.testing.assert_array_equal(read(tmp_path / "overlays" / f"{name}.png"), expected)


def test_255_is_an_id_like_any_other_in_an_overlay(tmp_path):
    objects = prediction("a")
    objects["labels"][:] = 0
    objects["labels"][0, 5:15, 5:15] = 255
    predict(LabelWriter(out=str(tmp_path)), objects, module=Parrot())
    picture = read(tmp_path / "overlays" / "a.png").astype(int)
    saturation = picture.max(axis=-1) - picture.min(axis=-1)
    assert saturation[5:15, 5:15].min() > 20
    assert saturation[:5].max() == 0


def objects(*names, shape=(20, 30), dim=8, seed=0):
    """One batch of the predictions of an instance method."""
    batch = prediction(*names, shape=shape, seed=seed)
    del batch["probabilities"]
    generator = torch.Generator().manual_seed(seed)
    batch["embeddings"] = torch.randn((len(names), dim, *shape), generator=generator)
    return batch


@pytest.mark.parametrize("shape", [(20, 30), (5, 20, 30)])
def test_embeddings_are_shown_by_one_projection_for_the_run(tmp_path, shape):
    first, second = objects("a", "b", shape=shape), objects("c", shape=shape, seed=1)
    predict(LabelWriter(out=str(tmp_path)), first, second, module=Parrot())
    colors = EmbeddingColors.fit(first["embeddings"][0])
    for name, embeddings in zip("abc", [*first["embeddings"], *second["embeddings"]], strict=True):
        picture = read(tmp_path / "embeddings" / f"{name}.png")
        np.testing.assert_array_equal(picture, colors(embeddings))


def test_the_next_run_takes_a_projection_of_its_own(tmp_path):
    writer = LabelWriter(out=str(tmp_path), overwrite=True)
    first, second = objects("a"), objects("a", dim=3, seed=1)
    for batch in (first, second):
        predict(writer, batch, module=Parrot())
        expected = EmbeddingColors.fit(batch["embeddings"][0])(batch["embeddings"][0])
        np.testing.assert_array_equal(read(tmp_path / "embeddings" / "a.png"), expected)


def test_half_precision_embeddings_are_shown(tmp_path):
    batch = objects("a")
    batch["embeddings"] = batch["embeddings"].bfloat16()
    predict(LabelWriter(out=str(tmp_path)), batch, module=Parrot())
    assert read(tmp_path / "embeddings" / "a.png").shape == (20, 30, 3)


def test_embeddings_are_written_if_wanted_and_there(tmp_path):
    predict(LabelWriter(out=str(tmp_path / "1"), embeddings=False), objects("a"), module=Parrot())
    predict(LabelWriter(out=str(tmp_path / "2")), prediction("a"))
    assert files(tmp_path / "1") == files(tmp_path / "2") == {"a.png", "overlays/a.png"}


def test_each_file_of_ids_has_the_type_for_its_own(tmp_path):
    few, many = objects("few"), objects("many")
    many["labels"][0, 0, 0] = 300
    predict(LabelWriter(out=str(tmp_path)), few, many, module=Parrot())
    assert read(tmp_path / "few.png").dtype == np.uint8
    assert read(tmp_path / "many.png").dtype == np.uint16
    np.testing.assert_array_equal(read(tmp_path / "many.png"), many["labels"][0].numpy())


def test_touching_objects_are_outlined(tmp_path):
    batch = objects("a")
    batch["labels"][:] = 1
    batch["labels"][..., 15:] = 2
    predict(LabelWriter(out=str(tmp_path)), batch, module=Parrot())
    picture = read(tmp_path / "overlays" / "a.png")
    assert (picture[:, 14] == palette(3)[1]).all()
    assert (picture[:, 15] == palette(3)[2]).all()


@pytest.mark.parametrize(
    "existing",
    ["b.png", "b.tif", "overlays/b.png", "embeddings/b.png", "probabilities/b.tif"],
)
def test_existing_files_are_refused_before_anything_is_computed(tmp_path, existing):
    path = tmp_path / existing
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    module = Parrot(num_classes=3)
    writer = LabelWriter(out=str(tmp_path), probabilities=True)
    with pytest.raises(ValueError, match="overwrite") as error:
        predict(writer, prediction("a"), prediction("b"), module=module)
    assert str(path) in str(error.value)
    assert module.calls == 0
    assert files(tmp_path) == {existing}
    assert path.read_text() == "precious"


def test_what_this_run_does_not_write_is_no_obstacle(tmp_path):
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays" / "a.png").write_text("of another run")
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "a.png").write_text("of another run")
    (tmp_path / "other.png").write_text("of another run")
    predict(LabelWriter(out=str(tmp_path), overlay=False, embeddings=False), objects("a"))
    assert (tmp_path / "embeddings" / "a.png").read_text() == "of another run"
    assert "a.png" in files(tmp_path)


def test_a_second_run_with_the_same_names_is_refused_and_the_third_replaces(tmp_path):
    first, second = prediction("a", seed=1), prediction("a", seed=2)
    predict(LabelWriter(out=str(tmp_path)), first, module=Parrot(NAMES))
    with pytest.raises(ValueError, match=r"a\.png"):
        predict(LabelWriter(out=str(tmp_path)), second, module=Parrot(NAMES))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), first["labels"][0].numpy())
    writer = LabelWriter(out=str(tmp_path), overwrite=True)
    for _ in range(2):  # one writer serves several runs
        predict(writer, second, module=Parrot(NAMES))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), second["labels"][0].numpy())


def test_many_existing_files_are_counted_and_some_named(tmp_path):
    names = [f"{i:02d}" for i in range(9)]
    for name in names:
        (tmp_path / f"{name}.png").touch()
    with pytest.raises(ValueError, match=r"00\.png, .*01\.png, .*02\.png and 6 more"):
        predict(LabelWriter(out=str(tmp_path)), prediction(*names))


def test_a_file_that_nobody_announced_is_not_replaced_either(tmp_path):
    (tmp_path / "b.png").write_text("precious")
    with pytest.raises(ValueError, match=r"b\.png"):
        predict(LabelWriter(out=str(tmp_path)), prediction("a", "b"), announce=False)
    assert (tmp_path / "b.png").read_text() == "precious"


def test_replacing_leaves_one_file_for_an_image(tmp_path):
    predict(LabelWriter(out=str(tmp_path), format="tif", overlay=False), prediction("a"))
    writer = LabelWriter(out=str(tmp_path), format="png", overlay=False, overwrite=True)
    predict(writer, prediction("a"))
    assert files(tmp_path) == {"a.png"}


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "./a"), ("a", "overlays/a"), ("embeddings/a", "a"), ("_legend",)]
)
def test_two_results_never_share_a_file(tmp_path, names, overwrite, announce):
    module = Parrot(NAMES)
    writer = LabelWriter(out=str(tmp_path), overwrite=overwrite)
    with pytest.raises(ValueError, match="two results"):
        predict(writer, *map(prediction, names), module=module, announce=announce)
    if announce:
        assert module.calls == 0


@pytest.mark.parametrize("name", ["../a", "x/../../a", "/a", "..", "", "."])
@pytest.mark.parametrize("announce", [True, False])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name, announce):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="leads out of the folder"):
        predict(LabelWriter(out=str(out)), prediction(name), announce=announce)
    assert files(tmp_path) == set()


def test_a_name_with_folders_stays_within(tmp_path):
    predict(LabelWriter(out=str(tmp_path)), prediction("plate1/well.A"))
    assert files(tmp_path) == {"plate1/well.A.png", "overlays/plate1/well.A.png"}


@pytest.mark.parametrize(
    ("missing", "arguments", "words"),
    [
        ("probabilities", {"probabilities": True}, "Parrot predicts no probabilities"),
        ("image", {}, "Parrot predicts no image; set the writer's overlay to false"),
    ],
)
def test_what_the_module_does_not_predict_cannot_be_written(tmp_path, missing, arguments, words):
    batch = prediction("a")
    del batch[missing]
    with pytest.raises(ValueError, match=words):
        predict(LabelWriter(out=str(tmp_path), **arguments), batch)
    assert files(tmp_path) == set()


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="auto, png, tif"):
        LabelWriter(format="jpg")  # type: ignore[arg-type]


def test_a_writer_comes_from_the_command_line():
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(LabelWriter, "writer")
    options = ["--writer.out=x", "--writer.format=tif", "--writer.overwrite=true"]
    writer = LabelWriter(**parser.parse_args(options).writer.as_dict())
    assert (writer.out, writer.format, writer.overlay) == (Path("x"), "tif", True)
    assert writer.overwrite
    assert parser.parse_args([]).writer.out == "predictions"  # a run that only trains needs none
