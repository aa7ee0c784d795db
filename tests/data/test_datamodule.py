from collections import Counter
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from semiweak.data.annotations import UNKNOWN, Annotation, Sample
from semiweak.data.batch import InstanceBatch, SemanticBatch
from semiweak.data.datamodule import SegmentationDataModule
from semiweak.data.patches import Geometry
from semiweak.data.source import Source
from semiweak.data.weaken import Weakening

CLASSES = ["background", "cell", "nucleus"]


def painted(name, shape=(20, 24), channels=1, dtype=np.uint8):
    """An image with a mask and instances that are complete; no two images are alike."""
    rng = np.random.default_rng(list(name.encode()))
    mask = rng.integers(3, size=shape).astype(np.uint8)
    image = rng.integers(40, 200, size=(channels, *shape)).astype(dtype)
    instances = np.where(mask, rng.integers(1, 9, size=shape), 0)
    said = Annotation(mask=mask, instances=instances, instances_complete=True)
    return Sample(image, said, name)


def bare(name, **like):
    return Sample(painted(name, **like).image, Annotation(), name)


def clicked(name):
    said = Annotation(
        points=np.array([[3, 4]], np.float32), point_labels=np.array([1])
    )  # fmt: skip
    return Sample(painted(name).image, said, name)


class InMemory(SegmentationDataModule):
    """A data module of given samples that counts how often each is read."""

    def __init__(self, samples, *, groups=None, **arguments):
        arguments = {
            "class_names": CLASSES,
            "patch_size": 16,
            "num_workers": 0,
            "batch_size": 4,
        } | arguments
        super().__init__(**arguments)
        self.samples = samples
        self.groups = groups or {}
        self.reads = Counter()

    def sources(self):
        return [
            Source(s.name, partial(self._give, s), self.groups.get(s.name)) for s in self.samples
        ]

    def _give(self, sample):
        self.reads[sample.name] += 1
        return sample


def many(n=10, **like):
    return [painted(f"image_{i}", **like) for i in range(n)]


def mixed():
    return [
        *many(5),
        *(clicked(f"clicked_{i}") for i in range(4)),
        *(bare(f"bare_{i}") for i in range(3)),
    ]


def fitted(samples, **arguments):
    data = InMemory(samples, **arguments)
    data.setup("fit")
    return data


def names(data, part):
    return [source.name for source in data.part(part)]


def on_device(data, loader):
    """The batches as a method gets them."""
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], torch.Tensor):
            assert torch.equal(a[key], b[key]), key
        elif key == "name":
            assert a[key] == b[key]
        else:
            assert all(torch.equal(x, y) for x, y in zip(a[key], b[key], strict=True)), key


def joined(batches):
    """One batch of several."""
    return {
        key: torch.cat([b[key] for b in batches])
        if isinstance(batches[0][key], torch.Tensor)
        else [entry for b in batches for entry in b[key]]
        for key in batches[0]
    }


# The same batches


@pytest.mark.parametrize("geometry", [Geometry(), Geometry(rotate=20, scale=(0.9, 1.2))])
def test_batches_do_not_depend_on_the_number_of_workers(geometry):
    runs = []
    for workers in (0, 2, 0):
        data = fitted(
            mixed(), val=0, geometry=geometry, num_workers=workers, samples_per_epoch=24
        )  # fmt: skip
        runs.append(on_device(data, data.train_dataloader()))
    assert len(runs[0]) == 6
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            equal(a, b)


def test_another_seed_gives_other_batches():
    first, second = (
        on_device(data, data.train_dataloader())[0]
        for data in (fitted(mixed(), val=0, seed=seed) for seed in (0, 1))
    )
    assert not torch.equal(first["image"], second["image"])


def test_an_image_that_comes_again_shows_another_patch():
    data = fitted(many(1, shape=(60, 60)), val=0, samples_per_epoch=8, batch_size=8)
    (batch,) = data.train_dataloader()
    assert len({patch.numpy().tobytes() for patch in batch["image"]}) == 8


def test_two_ranks_see_together_what_one_sees(monkeypatch):
    def batches(world, rank, batch_size):
        data = fitted(mixed(), val=2, batch_size=batch_size, samples_per_epoch=24)
        monkeypatch.setattr(data, "_world", lambda: (world, rank))
        val = [name for batch in data.val_dataloader() for name in batch["name"]]
        return on_device(data, data.train_dataloader()), val

    one, all_val = batches(1, 0, 4)
    (first, val_0), (second, val_1) = (batches(2, rank, 2) for rank in (0, 1))
    assert len(first) == len(second) == len(one) == 6
    for alone, *together in zip(one, first, second, strict=True):
        equal(alone, joined(together))
    assert len(val_0) == len(val_1) == 1
    assert sorted(val_0 + val_1) == all_val


class Recorder(pl.LightningModule):
    """Notes the batches that a Trainer feeds it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_batches, self.val_names = [], []

    def training_step(self, batch, batch_idx):
        self.train_batches.append((self.current_epoch, batch["image"].clone()))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        self.val_names += batch["name"]

    def predict_step(self, batch, batch_idx):
        return batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**arguments):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def test_in_a_trainer_each_epoch_has_its_own_patches_and_a_run_repeats():
    runs = []
    for _ in range(2):
        model, data = Recorder(), InMemory(mixed(), val=2, num_workers=0)
        trainer(max_epochs=2, num_sanity_val_steps=0).fit(model, data)
        predicted = trainer().predict(model, data)
        runs.append(model)
        assert sorted(model.val_names) == sorted(2 * names(data, "val"))
        assert predicted == [[s.name] for s in mixed()]
    first, again = (model.train_batches for model in runs)
    assert len(first) == 2 * 3  # 3 kinds, the most frequent one 4 times, in batches of 4
    assert [epoch for epoch, _ in first] == [0, 0, 0, 1, 1, 1]
    for (_, a), (_, b) in zip(first, again, strict=True):
        assert torch.equal(a, b)
    for (_, a), (_, b) in zip(first[:3], first[3:], strict=True):
        assert not torch.equal(a, b)


# What is in a batch


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_semantic_batches(dims, dtype):
    shape, size = ((20, 24), [16, 12]) if dims == 2 else ((6, 12, 10), [4, 8, 9])
    data = fitted(
        [*many(6, shape=shape, channels=2, dtype=dtype), bare("x", shape=shape, channels=2)],
        spatial_dims=dims,
        patch_size=size,
        val=1,
        test=1,
        batch_size=3,
    )
    train = on_device(data, data.train_dataloader())[0]
    assert set(train) == set(SemanticBatch.__annotations__) - {"distances"}
    for key, kind, expected in (
        ("image", torch.float32, (3, 2, *size)),
        ("labels", torch.int64, (3, *size)),
        ("candidates", torch.bool, (3, 3, *size)),
        ("valid", torch.bool, (3, *size)),
        ("has_mask", torch.bool, (3,)),
        ("tags", torch.int8, (3, 3)),
    ):
        assert train[key].dtype == kind, key
        assert train[key].shape == expected, key
    assert [b.shape for b in train["boxes"]] == [(0, 2 * dims)] * 3
    assert [p.shape for p in train["points"]] == [(0, dims)] * 3
    has_mask = {
        "x" if name == "x" else "mask": bool(has)
        for batch in data.train_dataloader()
        for name, has in zip(batch["name"], batch["has_mask"], strict=True)
    }
    assert has_mask == {"mask": True, "x": False}
    for loader, part in ((data.val_dataloader(), "val"), (data.test_dataloader(), "test")):
        (batch,) = on_device(data, loader)
        assert set(batch) == set(train)
        (source,) = data.part(part)
        sample = source.read()
        assert batch["image"].shape == (1, 2, *shape)
        assert (batch["labels"][0].numpy() == sample.annotation.mask).all()
        assert batch["has_mask"].all()
        assert batch["valid"].all()


@pytest.mark.parametrize("dims", [2, 3])
def test_instance_batches(dims):
    shape, size = ((20, 24), [16, 12]) if dims == 2 else ((6, 12, 10), [4, 8, 9])
    data = fitted(
        many(5, shape=shape), task="instances", spatial_dims=dims, patch_size=size, val=1, test=1
    )
    train = on_device(data, data.train_dataloader())[0]
    assert set(train) == set(InstanceBatch.__annotations__)
    assert train["image"].dtype == torch.float32
    assert train["instances"].dtype == torch.int64
    assert train["instances"].shape == train["valid"].shape == (4, *size)
    assert train["valid"].dtype == torch.bool
    (val,) = on_device(data, data.val_dataloader())
    assert (val["instances"][0].numpy() == data.part("val")[0].read().annotation.instances).all()


def test_patches_of_smaller_images_are_padded():
    data = fitted(many(4), patch_size=[30, 20], val=0)
    batch = on_device(data, data.train_dataloader())[0]
    assert (batch["valid"].sum((1, 2)) == 20 * 20).all()
    assert (batch["labels"][~batch["valid"]] == UNKNOWN).all()
    assert batch["candidates"].permute(0, 2, 3, 1)[~batch["valid"]].all()
    assert (batch["labels"][batch["valid"]] != UNKNOWN).all()
    assert batch["has_mask"].all()


def test_predict_batches_know_nothing():
    data = fitted(mixed())
    data.setup("predict")
    batches = on_device(data, data.predict_dataloader())
    assert [name for b in batches for name in b["name"]] == data.predict_names()
    assert data.predict_names() == [s.name for s in mixed()]
    assert {frozenset(b) for b in batches} == {frozenset({"image", "valid", "name"})}
    assert all(b["image"].dtype == torch.float32 for b in batches)


# Strata


def test_every_kind_has_its_share_of_every_batch():
    data = fitted(mixed(), val=0, batch_size=6)
    assert data.kinds["clicked_0"] == ("points",)
    for batch in data.train_dataloader():
        kinds = Counter(name.split("_")[0] for name in batch["name"])
        assert kinds == {"image": 2, "clicked": 2, "bare": 2}
    data = fitted(mixed(), val=0, batch_size=6, stratify=False)
    seen = Counter(name for batch in data.train_dataloader() for name in batch["name"])
    assert seen == {s.name: 1 for s in mixed()}


def test_only_images_of_the_kinds_asked_for_train():
    data = fitted(mixed(), val=0, batch_size=6, kinds=["mask", "points"])
    for batch in data.train_dataloader():
        kinds = Counter(name.split("_")[0] for name in batch["name"])
        assert kinds == {"image": 3, "clicked": 3}
    with pytest.raises(ValueError, match="no training image has an annotation of the kinds"):
        fitted(mixed(), val=0, kinds=["boxes"]).train_dataloader()


def test_samples_per_epoch():
    data = fitted(mixed(), val=0, samples_per_epoch=30)
    assert sum(len(batch["name"]) for batch in data.train_dataloader()) == 32


# Splits


def test_only_painted_images_validate_and_test():
    data = fitted(mixed(), val=0.4, test=2)
    assert (len(names(data, "val")), len(names(data, "test"))) == (2, 2)
    held_out = {*names(data, "val"), *names(data, "test")}
    assert held_out <= {s.name for s in many(5)}
    assert sorted([*held_out, *names(data, "train")]) == sorted(s.name for s in mixed())


def test_groups_stay_together():
    groups = {f"image_{i}": f"volume_{i // 2}" for i in range(10)}
    data = fitted(many(), groups=groups, val=2, test=1)
    of = {part: {groups[n] for n in names(data, part)} for part in ("train", "val", "test")}
    assert [len(members) for members in of.values()] == [2, 2, 1]
    assert len(set.union(*of.values())) == 5


def test_folds():
    groups = {f"image_{i}": f"volume_{i // 2}" for i in range(10)}
    tested, validated = [], []
    for fold in range(5):
        data = fitted(many(), groups=groups, fold=fold, num_folds=5, val=0, test=["image_0"])
        parts = [names(data, part) for part in ("train", "val", "test")]
        assert sorted(name for part in parts for name in part) == sorted(groups)
        assert [len(part) for part in parts] == [6, 2, 2]
        assert all(len({groups[n] for n in part}) == len(part) / 2 for part in parts)
        assert data.validates
        validated.append(parts[1])
        tested += parts[2]
    assert sorted(tested) == sorted(groups)
    assert len({tuple(v) for v in validated}) == 5


def test_folds_need_images_for_every_part():
    with pytest.raises(ValueError, match="fold 0 of 2 has no image for train"):
        fitted(many(4), fold=0, num_folds=2)
    with pytest.raises(ValueError, match=r"no image for (val|test)"):
        fitted([*many(1), *(bare(f"bare_{i}") for i in range(8))], fold=0, num_folds=3)


def test_listed_validation_images_without_masks():
    data = fitted(mixed(), val=["bare_1", "image_0", "clicked_2"], test=["bare_0"])
    with pytest.raises(
        ValueError, match=r"val split .* without a complete mask are: bare_1, click"
    ):
        data.val_dataloader()
    with pytest.raises(ValueError, match=r"test split .* without a complete mask are: bare_0"):
        data.test_dataloader()


def test_a_share_of_validation_images_without_any_mask():
    with pytest.raises(ValueError, match=r"val is 0\.2, .* set it to 0"):
        fitted([bare(f"bare_{i}") for i in range(5)])


def test_no_validation_and_no_test():
    data = fitted(many(4), val=0)
    assert not data.validates
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"no test image; set data\.test"):
        data.test_dataloader()


@pytest.mark.parametrize(("stage", "part"), [("validate", "val"), ("test", "test")])
def test_a_stage_alone(stage, part):
    whole = fitted(many(), val=3, test=2)
    data = InMemory(many(), val=3, test=2)
    data.setup(stage)
    assert names(data, part) == names(whole, part)
    assert names(data, "train") == []
    loader = data.val_dataloader() if part == "val" else data.test_dataloader()
    with pytest.raises(ValueError, match="no normalisation is known"):
        on_device(data, loader)
    data.adopt(whole.describe())
    same = whole.val_dataloader() if part == "val" else whole.test_dataloader()
    for a, b in zip(on_device(data, loader), on_device(whole, same), strict=True):
        equal(a, b)
    data.setup("fit")
    assert names(data, "train") == names(whole, "train")


def test_fit_is_set_up_once():
    data = fitted(many(), val=2)
    reads = sum(data.reads.values())
    data.setup("fit")
    data.setup("validate")
    assert sum(data.reads.values()) == reads


# Normalisation


def test_statistics_are_those_of_the_training_images():
    data = fitted(many(8, channels=2), val=2, test=2)
    train = [s for s in many(8, channels=2) if s.name in names(data, "train")]
    pixels = np.stack([s.image for s in train]).astype(float)
    assert data.normalization.offset == pytest.approx(pixels.mean((0, 2, 3)))
    assert data.normalization.scale == pytest.approx(pixels.std((0, 2, 3)))
    assert data.in_channels == 2
    (val, *_) = on_device(data, data.val_dataloader())
    raw = data.part("val")[0].read().image
    offset, scale = (
        np.reshape(v, (2, 1, 1)) for v in (data.normalization.offset, data.normalization.scale)
    )
    np.testing.assert_allclose(val["image"][0], (raw - offset) / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", ["minmax", "percentile", "none"])
def test_other_normalisations(normalize):
    data = fitted(many(4), val=0, normalize=normalize, patch_size=[20, 24])
    image = torch.cat([batch["image"] for batch in on_device(data, data.train_dataloader())])
    if normalize == "none":
        assert image.max() > 100
    else:
        assert image.min() == pytest.approx(0, abs=0.02)
        assert image.max() == pytest.approx(1, abs=0.02)


def test_another_number_of_channels_names_the_image():
    data = fitted(many(4), val=1)
    data.samples = [painted("rgb", channels=3)]
    data.setup("predict")
    with pytest.raises(ValueError, match="rgb has 3 channels; the training images had 1"):
        on_device(data, data.predict_dataloader())


# The checkpoint


def test_describe_and_adopt():
    data = fitted(many(4, channels=2), val=1)
    said = data.describe()
    assert said["class_names"] == CLASSES
    assert (said["in_channels"], said["spatial_dims"]) == (2, 2)
    new = InMemory(many(3, channels=2), class_names=None)
    new.adopt(said)
    assert new.class_names == CLASSES
    assert new.normalization == data.normalization
    assert new.describe() == said
    new.setup("predict")
    data.setup("predict")
    for a, b in zip(
        on_device(new, new.predict_dataloader()),
        on_device(data, data.predict_dataloader()),
        strict=False,
    ):
        equal(a, b)


def test_a_description_is_plain_values():
    said = fitted(many(4), val=1).describe()
    flat = [v for value in said.values() for v in (value if isinstance(value, list) else [value])]
    assert {type(v) for v in flat} == {str, int, float}


def test_adopt_refuses_what_does_not_fit():
    said = fitted(many(4), val=1).describe()
    with pytest.raises(ValueError, match=r"trained on the classes .*, the data have \['a', 'b'\]"):
        InMemory([], class_names=["a", "b"]).adopt(said)
    with pytest.raises(
        ValueError, match="trained on 2D images; set the data's spatial_dims, now 3"
    ):
        InMemory([], spatial_dims=3).adopt(said)


def test_describe_before_setup():
    with pytest.raises(ValueError, match=r"call setup\('fit'\) first"):
        InMemory(many(2)).describe()


# Weakening


@pytest.mark.filterwarnings("ignore:contradictory")
def test_weakening_leaves_validation_and_test_alone(monkeypatch):
    weakened = []
    apply = Weakening.apply

    def spy(self, annotation, kind, num_classes, name):
        weakened.append(name)
        return apply(self, annotation, kind, num_classes, name)

    monkeypatch.setattr(Weakening, "apply", spy)
    data = fitted(many(12), val=3, test=3, weaken=Weakening(acr=3, points=1, tags=1), cache_mb=0)
    on_device(data, data.train_dataloader())
    on_device(data, data.val_dataloader())
    on_device(data, data.test_dataloader())
    assert set(weakened) == set(names(data, "train"))
    assert len(set(weakened)) == 6
    truth = {s.name: s.annotation for s in many(12)}
    for part in ("val", "test"):
        for source in data.part(part):
            said = source.read().annotation
            assert said.kind() == "mask"
            assert (said.mask == truth[source.name].mask).all()
    kinds = Counter(source.read().annotation.kind() for source in data.part("train"))
    assert kinds == {"mask": 2, "points": 2, "tags": 2}
    assert kinds == Counter(k[0] for k in data.kinds.values())
    assert data.weakening_summary


def test_the_split_does_not_depend_on_weakening():
    plain, weak = (fitted(many(12), val=3, test=3, weaken=w) for w in (None, Weakening(acr=4)))
    for part in ("train", "val", "test"):
        assert names(plain, part) == names(weak, part)
    assert plain.weakening_summary == ""
    assert plain.normalization == weak.normalization


# Memory and warnings


def test_images_are_read_once_if_memory_allows():
    many_reads, few_reads = (
        fitted(many(6), val=2, cache_mb=cache_mb, weaken=Weakening(acr=2, boxes=1))
        for cache_mb in (0, 100)
    )
    batches = []
    for data in (many_reads, few_reads):
        before = Counter(data.reads)
        batches.append(on_device(data, data.train_dataloader()))
        on_device(data, data.val_dataloader())
        data.later = sum((data.reads - before).values())
    assert few_reads.later == 0
    assert many_reads.later > 4
    for a, b in zip(*batches, strict=True):
        equal(a, b)


def test_training_changes_no_stored_image():
    samples = mixed()
    for sample in samples:
        for part in (sample.image, *vars(sample.annotation).values()):
            if isinstance(part, np.ndarray):
                part.flags.writeable = False
    data = fitted(samples, val=1, geometry=Geometry(rotate=10, scale=(0.9, 1.1)))
    on_device(data, data.train_dataloader())
    on_device(data, data.val_dataloader())


def test_contradictions_are_told():
    samples = many(8)
    for i in range(7):
        said = Annotation(mask=samples[i].annotation.mask, tags=np.zeros(3, np.int8))
        samples[i] = Sample(samples[i].image, said, samples[i].name)
    data = InMemory(samples, val=0)
    with pytest.warns(UserWarning, match="contradict") as told:
        data.setup("fit")
    texts = [str(w.message) for w in told]
    assert len(data.contradictions) >= 7
    assert len(texts) == 6
    assert texts[0].startswith("contradictory annotations, counted as unknown: image_0 at (0, 0)")
    assert f"{len(data.contradictions) - 5} more" in texts[-1]


def test_an_annotation_of_no_class_names_the_image():
    wrong = Annotation(mask=np.full((20, 24), 5, np.uint8))
    with pytest.raises(ValueError, match=r"odd: .* class 5"):
        fitted([*many(3), Sample(painted("odd").image, wrong, "odd")], val=0)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": [16, 16, 16]}, r"patch_size is \[16, 16, 16\]; give one .* or 2 of them"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"samples_per_epoch": 0}, "samples_per_epoch is 0"),
        ({"fold": 5, "num_folds": 5}, "fold is 5; with 5 folds it must be 0 to 4"),
        ({"fold": -1}, "fold is -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        InMemory([], **arguments)


def test_class_names_are_needed_to_train():
    data = InMemory(many(3), class_names=None, val=0)
    with pytest.raises(ValueError, match="InMemory needs class_names, a list"):
        data.setup("fit")
    assert InMemory([]).num_classes == 3
    assert InMemory([], task="instances").item_classes is None


def test_wrong_normalize():
    with pytest.raises(ValueError, match="normalize is 'zscore'; allowed are standard"):
        fitted(many(3), normalize="zscore")
