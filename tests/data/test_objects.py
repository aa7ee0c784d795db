"""Which painted objects are kept: the arithmetic, the draw, and what becomes of the pixels."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from test_datamodule import InMemory, Recorder

from semiweak.data.annotations import Annotation, Sample
from semiweak.data.batch import instance_item
from semiweak.data.objects import (
    ObjectSampling,
    choosable,
    in_words,
    keep_objects,
    read_choice,
    write_choice,
)
from semiweak.data.patches import Geometry
from semiweak.data.sampler import strata
from semiweak.data.weaken import Weakening


def painted(sizes, background=True):
    """Images a, b ... with so many objects each, whose ids begin at 11."""
    first = [0] if background else []
    return {
        name: first + list(range(11, 11 + n)) for name, n in zip("abcdefghij", sizes, strict=False)
    }


def pairs(choice):
    return {(name, i) for name, ids in choice.items() for i in ids}


def count(choice):
    return sum(map(len, choice.values()))


# How many


@pytest.mark.parametrize(
    ("ratio", "sizes", "kept"),
    [
        (0.1, [10, 10, 10], 3),
        (0.1, [5, 5, 5], 2),  # 1.5
        (0.1, [4, 5, 5], 1),  # 1.4
        (0.5, [1, 2], 2),  # 1.5
        (0.25, [2, 2, 2], 2),  # 1.5
        (0.145, [50, 50], 15),  # 14.5, which the computer has a little lower
        (0.001, [3, 4], 1),  # at least one
        (1.0, [3, 4], 7),
        (0.4, [0, 0, 5], 2),
    ],
)
def test_a_share_of_all_objects(ratio, sizes, kept):
    before = painted(sizes)
    choice = ObjectSampling(ratio=ratio).choose(before)
    assert count(choice) == kept
    assert list(choice) == list(before)
    assert all(set(choice[name]) <= set(before[name]) - {0} for name in before)
    assert all(ids == sorted(set(ids)) for ids in choice.values())


@pytest.mark.parametrize(
    ("ratio", "sizes", "kept"),
    [
        (0.5, [1, 2, 3, 4, 5], [1, 1, 2, 2, 3]),
        (0.1, [4, 5, 14, 15, 0], [0, 1, 1, 2, 0]),
        (1.0, [2, 0, 3], [2, 0, 3]),
        (0.01, [3, 7, 5], [0, 1, 0]),  # none would be left: the fullest image keeps one
    ],
)
def test_a_share_of_the_objects_of_each_image(ratio, sizes, kept):
    choice = ObjectSampling(ratio=ratio, ratio_per="image").choose(painted(sizes))
    assert [len(ids) for ids in choice.values()] == kept


@pytest.mark.parametrize(
    ("budget", "sizes", "kept"),
    [
        (3, [5, 5, 5], [1, 1, 1]),
        (5, [5, 1, 5], [2, 1, 2]),
        (7, [5, 1, 5], [3, 1, 3]),
        (16, [20] * 10, None),
        (11, [5, 1, 5], [5, 1, 5]),
    ],
)
def test_a_sparse_budget_is_spread_over_as_many_images_as_possible(budget, sizes, kept):
    choice = ObjectSampling(budget=budget).choose(painted(sizes))
    assert count(choice) == budget
    assert 0 not in {i for _, i in pairs(choice)}
    if kept is None:  # 16 in ten images: six have two, four have one
        assert Counter(map(len, choice.values())) == {2: 6, 1: 4}
    else:
        assert [len(ids) for ids in choice.values()] == kept


def test_a_dense_budget_takes_whole_images_with_their_background():
    before = painted([16, 16, 16, 0])
    choice = ObjectSampling(budget=16, budget_mode="dense").choose(before)
    (name,) = (name for name, ids in choice.items() if ids)
    assert choice[name] == before[name]
    assert choice[name][0] == 0
    choice = ObjectSampling(budget=32, budget_mode="dense").choose(before)
    assert sum(ids == before[name] for name, ids in choice.items() if name != "d") == 2
    assert choice["d"] == []  # its background would come for nothing


def test_what_is_left_of_a_dense_budget_goes_to_objects_of_one_more_image():
    before = painted([6, 6, 6])
    for seed in range(5):
        choice = ObjectSampling(budget=8, budget_mode="dense", seed=seed).choose(before)
        whole, cut, nothing = sorted(choice.values(), key=len, reverse=True)
        assert len(whole) == 7
        assert whole[0] == 0
        assert len(cut) == 2
        assert 0 not in cut
        assert nothing == []


def test_a_dense_budget_prefers_images_that_fit():
    for seed in range(10):
        sampling = ObjectSampling(budget=5, budget_mode="dense", seed=seed)
        choice = sampling.choose(painted([20, 5, 30]))
        assert choice == {"a": [], "b": [0, 11, 12, 13, 14, 15], "c": []}


def test_a_dense_budget_of_an_image_whose_background_nobody_painted():
    choice = ObjectSampling(budget=2, budget_mode="dense").choose(painted([2], background=False))
    assert choice == {"a": [11, 12]}


# The draw


@pytest.mark.parametrize("per", ["dataset", "image"])
def test_a_smaller_ratio_keeps_a_part_of_a_larger_one(per):
    before = painted([3, 7, 1, 20, 12])
    for seed in range(5):
        last = set()
        for ratio in (0.001, 0.03, 0.1, 0.2, 0.4, 0.8, 1.0):
            sampling = ObjectSampling(ratio=ratio, ratio_per=per, seed=seed)
            kept = pairs(sampling.choose(before))
            assert last <= kept
            last = kept
        assert last == {(name, i) for name, i in pairs(before) if i}


def test_a_smaller_sparse_budget_keeps_a_part_of_a_larger_one():
    last = set()
    for budget in range(1, 24):
        kept = pairs(ObjectSampling(budget=budget, seed=3).choose(painted([3, 7, 1, 12])))
        assert last < kept
        last = kept


@pytest.mark.parametrize(
    "sampling",
    [
        ObjectSampling(ratio=0.2),
        ObjectSampling(ratio=0.2, ratio_per="image"),
        ObjectSampling(budget=7),
        ObjectSampling(budget=20, budget_mode="dense"),
    ],
)
def test_the_order_of_files_plays_no_part_but_the_seed_does(sampling):
    before = painted([9, 14, 3, 20])
    backwards = {name: before[name][::-1] for name in reversed(before)}
    assert sampling.choose(before) == sampling.choose(before) == sampling.choose(backwards)
    others = [replace(sampling, seed=seed).choose(before) for seed in range(1, 6)]
    assert any(other != sampling.choose(before) for other in others)


def test_every_object_is_drawn_as_often_as_any_other():
    drawn = Counter()
    for seed in range(400):
        drawn.update(pairs(ObjectSampling(ratio=0.25, seed=seed).choose(painted([2, 6]))))
    assert len(drawn) == 8
    assert all(70 < n < 130 for n in drawn.values())


# What cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.0}, "instance_ratio is 0.0; it must be a share above 0"),
        ({"ratio": 1.5}, "instance_ratio is 1.5"),
        ({"budget": 0}, "object_budget is 0; it must be 1 object or more"),
        ({"ratio": 0.5, "budget": 3}, "instance_ratio is 0.5 and object_budget is 3; .* one of"),
        ({"ratio": 0.5, "choice": "x.json"}, "objects_from is x.json"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        ObjectSampling(**arguments)


def test_too_few_objects():
    with pytest.raises(ValueError, match=r"object_budget is 6, but .* have 5 painted objects"):
        ObjectSampling(budget=6).choose(painted([2, 3]))
    with pytest.raises(ValueError, match="no training image has a painted object to choose from"):
        ObjectSampling(ratio=0.5).choose(painted([0, 0]))


# The pixels

IDS = np.array([[0, 5, 5, 9], [0, 2, 2, 9]], np.uint16)
COMPLETE = Annotation(
    mask=np.zeros((2, 4), np.uint8), instances=IDS, instances_complete=True
)  # fmt: skip


def test_what_can_be_chosen():
    assert choosable(COMPLETE) == [0, 2, 5, 9]
    assert choosable(Annotation(instances=IDS)) == [2, 5, 9]
    valid = np.array([[True, True, True, False]] * 2)
    assert choosable(replace(COMPLETE, valid=valid)) == [0, 2, 5]
    assert choosable(Annotation()) == []


def test_everything_but_the_kept_objects_is_unknown():
    kept = keep_objects(COMPLETE, [2, 9])
    assert kept.instances.tolist() == [[0, 0, 0, 9], [0, 2, 2, 9]]
    assert kept.instances.dtype == IDS.dtype
    assert kept.mask is None
    assert kept.kinds("instances") == ("objects",)
    assert not kept.paints_all_objects()
    assert keep_objects(COMPLETE, []).kinds("instances") == ("none",)
    assert (COMPLETE.instances == IDS).all()
    valid = np.array([[True, True, True, False]] * 2)
    kept = keep_objects(replace(COMPLETE, valid=valid), [2, 9])
    assert kept.instances.tolist() == [[0, 0, 0, 0], [0, 2, 2, 0]]


def test_the_background_is_kept_with_all_objects():
    kept = keep_objects(COMPLETE, [0, 2, 5, 9])
    assert (kept.instances == IDS).all()
    assert kept.paints_all_objects()
    assert kept.mask is None


def test_kinds_of_objects():
    assert COMPLETE.kinds() == ("mask",)  # as before
    assert COMPLETE.kinds("instances") == ("instances",)
    assert Annotation(instances=IDS).kinds("instances") == ("objects",)
    assert Annotation(instances=IDS).kinds() == ("none",)
    assert Annotation(instances=0 * IDS).kinds("instances") == ("none",)
    empty = Annotation(instances=0 * IDS, instances_complete=True)
    assert empty.kinds("instances") == ("instances",)
    partly = replace(empty, valid=np.array([[True, True, True, False]] * 2))
    assert partly.kinds("instances") == ("objects",)  # its background is known in part
    assert Annotation().kinds("instances") == ("none",)
    assert COMPLETE.without_instances().kinds("instances") == ("none",)


# The batch


def item(annotation, content=None, **how):
    sample = Sample(np.zeros((1, 2, 4), np.uint8), annotation, "a", content)
    return instance_item(sample, **how)["instances"].tolist()


def test_the_background_of_a_complete_painting_is_one_more_object_in_training():
    assert item(COMPLETE) == [[10, 5, 5, 9], [10, 2, 2, 9]]
    assert item(COMPLETE, training=False) == IDS.tolist()
    assert item(Annotation(instances=IDS)) == IDS.tolist()
    assert item(Annotation()) == [[0] * 4] * 2
    full = Annotation(instances=IDS + 1, instances_complete=True)
    assert item(full) == (IDS + 1).tolist()  # no pixel of background
    empty = Annotation(instances=0 * IDS, instances_complete=True)
    assert item(empty) == [[1] * 4] * 2


def test_the_id_of_the_background_does_not_overflow():
    ids = np.array([[0, 255, 255, 255]] * 2, np.uint8)
    assert item(Annotation(instances=ids, instances_complete=True)) == [[256, 255, 255, 255]] * 2


def test_padding_and_what_nobody_looked_at_are_no_background():
    inside = np.array([[True, True, True, True], [False, True, True, True]])
    assert item(COMPLETE, inside) == [[10, 5, 5, 9], [0, 2, 2, 9]]
    looked_at = np.array([[True, True, True, False], [False, True, True, False]])
    assert item(replace(COMPLETE, valid=looked_at)) == [[6, 5, 5, 0], [0, 2, 2, 0]]


def test_padded_patches_keep_their_padding_unlabelled():
    sample = Sample(np.zeros((1, 2, 4), np.uint8), COMPLETE, "a")
    rng = np.random.default_rng(0)
    patch = Geometry(flip=False).patch(sample, (4, 6), rng, "instances")
    made = instance_item(patch)
    assert made["valid"].sum() == 8
    assert (made["instances"][~made["valid"]] == 0).all()
    assert (made["instances"][made["valid"]] != 0).all()


# Where patches are cut


def speck(shape=(100, 100), **more):
    """A small object and a large one."""
    ids = np.zeros(shape, np.int32)
    ids[..., 30:33, 40:43] = 7
    ids[..., 60:80, 60:80] = 300
    return Sample(np.zeros((1, *shape), np.uint8), Annotation(instances=ids, **more), "a")


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(
    "geometry", [Geometry(focus=1.0), Geometry(focus=1.0, rotate=30, scale=(0.8, 1.2))]
)
def test_focus_finds_every_object_equally_often(complete, geometry):
    rng = np.random.default_rng(0)
    sample = speck(instances_complete=complete)
    found = Counter()
    for _ in range(60):
        patch = geometry.patch(sample, (20, 20), rng, "instances")
        ids = np.unique(patch.annotation.instances).tolist()
        assert set(ids) & {7, 300}
        found.update(ids)
    assert 15 < found[7] < 45


def test_without_focus_patches_are_anywhere():
    rng = np.random.default_rng(0)
    geometry = Geometry(focus=0.0)
    hits = [
        7 in geometry.patch(speck(), (20, 20), rng, "instances").annotation.instances
        for _ in range(60)
    ]
    assert sum(hits) < 20
    empty = Sample(np.zeros((1, 100, 100), np.uint8), Annotation(), "a")
    Geometry(focus=1.0).patch(empty, (20, 20), rng, "instances")


def test_focus_in_a_volume():
    rng = np.random.default_rng(0)
    for _ in range(5):
        patch = Geometry(focus=1.0).patch(speck((9, 100, 100)), (4, 20, 20), rng, "instances")
        assert patch.annotation.instances.any()


# In a data module


def cells(name, n=4, shape=(24, 24), **more):
    """An image with ``n`` completely painted objects in a row."""
    rng = np.random.default_rng(list(name.encode()))
    ids = np.zeros(shape, np.int32)
    for i in range(n):
        ids[..., 4:20, 5 * i + 1 : 5 * i + 5] = i + 1
    image = rng.integers(255, size=(1, *shape)).astype(np.uint8)
    return Sample(image, Annotation(instances=ids, **{"instances_complete": True} | more), name)


def module(samples, **arguments):
    arguments = {"class_names": None, "task": "instances", "val": 0, "patch_size": 24} | arguments
    return InMemory(samples, **arguments)


def ten():
    return [cells(f"im{i}", n=i % 5) for i in range(10)]


def fitted(samples, **arguments):
    data = module(samples, **arguments)
    data.setup("fit")
    return data


def test_everything_is_trained_on_by_default():
    data = fitted(ten())
    assert data.painted_objects == {f"im{i}": list(range(i % 5 + 1)) for i in range(10)}
    assert set(data.kinds.values()) == {("instances",)}
    for batch in data.train_dataloader():
        assert (batch["instances"] != 0).all()


def test_sampled_objects_are_what_batches_hold():
    data = fitted(ten(), instance_ratio=0.25, samples_per_epoch=100, val=["im0"])
    total = sum(map(len, data.painted_objects.values()))
    assert total == 5
    held = {name: set() for name in data.painted_objects}
    for batch in data.train_dataloader():
        for name, ids in zip(batch["name"], batch["instances"], strict=True):
            held[name] |= set(ids.unique().tolist()) - {0}
            assert (ids == 0).any()
    assert held == {name: set(ids) for name, ids in data.painted_objects.items()}
    (batch,) = data.val_dataloader()
    assert (batch["instances"][0].numpy() == data.part("val")[0].read().annotation.instances).all()


@pytest.mark.parametrize("cache_mb", [0, 2000])
def test_all_objects_but_no_background(cache_mb):
    data = fitted(ten(), instance_ratio=1.0, cache_mb=cache_mb)
    assert data.painted_objects == {f"im{i}": list(range(1, i % 5 + 1)) for i in range(10)}
    reads = max(data.reads.values())
    assert reads == (2 if cache_mb == 0 else 1)
    for batch in data.train_dataloader():
        assert (batch["instances"] == 0).any()


def test_a_dense_budget_in_batches():
    data = fitted(ten(), object_budget=4, budget_mode="dense", samples_per_epoch=40)
    dense = {name for name, ids in data.painted_objects.items() if 0 in ids}
    assert dense
    assert sum(len(ids) - 1 for ids in data.painted_objects.values() if ids) == 4
    for batch in data.train_dataloader():
        for name, ids in zip(batch["name"], batch["instances"], strict=True):
            assert bool((ids != 0).all()) == (name in dense)
            assert bool((ids == 0).all()) == (name not in dense)


def test_workers_make_the_same_batches():
    batches = []
    for workers in (0, 2):
        data = fitted(ten(), instance_ratio=0.3, num_workers=workers, patch_size=12)
        batches.append([(b["name"], b["instances"].tolist()) for b in data.train_dataloader()])
    assert batches[0] == batches[1]


def test_few_painted_images_get_half_of_each_batch():
    data = fitted(ten(), object_budget=2, batch_size=4)
    having = {name for name, ids in data.painted_objects.items() if ids}
    assert len(having) == 2
    for batch in data.train_dataloader():
        assert sum(name in having for name in batch["name"]) == 2
    data = fitted(ten(), object_budget=2, kinds=["objects"])
    assert {n for b in data.train_dataloader() for n in b["name"]} == having


def test_strata_of_objects():
    assert strata(["objects", "none", "none"]) == ["painted", "none", "none"]
    assert strata(["objects", "instances", "none"]) == ["all"] * 3
    assert strata(["instances"] * 3) == ["all"] * 3
    assert strata(["mask", "points", "none"]) == ["mask", "points", "none"]


def test_validation_needs_all_objects():
    some = [cells(f"im{i}", instances_complete=i < 3) for i in range(6)]
    data = fitted(some, val=2, test=1)
    held_out = {s.name for part in ("val", "test") for s in data.part(part)}
    assert held_out == {"im0", "im1", "im2"}
    data = fitted(some, val=["im0", "im4"])
    with pytest.raises(ValueError, match=r"val split .* without all objects painted are: im4"):
        data.val_dataloader()


def test_images_that_are_known_to_be_complete_are_not_read_for_it():
    data = module(ten(), val=2)
    known = data.sources()
    data.sources = lambda: [replace(source, complete=True) for source in known]
    data.setup("fit")
    data.val_dataloader()
    assert set(data.reads.values()) == {1}


def test_nothing_painted():
    bare = [replace(s, annotation=Annotation()) for s in ten()]
    with pytest.raises(
        ValueError, match=r"no training image has a painted object.*kinds: \[none\]"
    ):
        fitted(bare).train_dataloader()
    assert len(fitted(bare, kinds=["none"]).train_dataloader()) > 0  # for pre-training


def test_arguments_that_do_not_go_together():
    with pytest.raises(ValueError, match=r"task is semantic; set data\.task to instances"):
        module(ten(), task="semantic", instance_ratio=0.1)
    weaken = Weakening(acr=2)
    with pytest.raises(ValueError, match="weaken and one of instance_ratio"):
        module(ten(), weaken=weaken, instance_ratio=0.1)


def test_weakening_leaves_some_objects():
    weaken = Weakening(objects=1)
    data = fitted(ten(), weaken=weaken)
    assert all(len(ids) <= 1 and 0 not in ids for ids in data.painted_objects.values())
    assert set(data.kinds.values()) == {("objects",), ("none",)}


# Written out and given back


def test_a_run_writes_its_objects_and_another_repeats_them(tmp_path):
    def run(**arguments):
        data = module(ten(), num_workers=0, val=["im9"], **arguments)
        trainer = pl.Trainer(
            max_epochs=1, limit_train_batches=1, accelerator="cpu", enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            logger=CSVLogger(tmp_path, name="runs"),
        )  # fmt: skip
        trainer.fit(Recorder(), data)
        return data

    first = run(instance_ratio=0.2, seed=5)
    file = tmp_path / "runs" / "version_0" / "painted_objects.json"
    assert json.loads(file.read_text()) == first.painted_objects
    assert count(first.painted_objects) == 3  # 0.2 of 16
    again = run(objects_from=str(file), seed=6)
    assert again.painted_objects == first.painted_objects
    assert (tmp_path / "runs" / "version_1" / "painted_objects.json").exists()
    run()
    assert not (tmp_path / "runs" / "version_2" / "painted_objects.json").exists()


def test_without_a_logger_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = pl.Trainer(
        max_epochs=1, limit_train_batches=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Recorder(), module(ten(), instance_ratio=0.2, val=["im9"]))
    assert list(tmp_path.iterdir()) == []


def test_a_choice_with_background_is_repeated(tmp_path):
    first = fitted(ten(), object_budget=6, budget_mode="dense")
    write_choice(tmp_path / "a" / "objects.json", first.painted_objects)
    again = fitted(ten(), objects_from=str(tmp_path / "a" / "objects.json"))
    assert again.painted_objects == first.painted_objects
    assert again.kinds == first.kinds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "objects_from: there is no file"),
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "must hold the object ids of each image"),
        ('{"im1": ["1"]}', "must hold the object ids of each image"),
        ('{"other": [1]}', "names 1 image.s. that are not trained on here, such as other"),
        ('{"im1": [1, 8]}', "the image im1 has no painted object 8"),
        ('{"im2": [0, 1]}', "lists 0, the background, of the image im2, but not all its objects"),
        ('{"im1": []}', "lists no object at all"),
    ],
)
def test_files_that_do_not_fit(tmp_path, text, message):
    file = tmp_path / "objects.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        fitted(ten(), objects_from=str(file))


def test_background_that_nobody_painted_cannot_be_listed(tmp_path):
    file = tmp_path / "objects.json"
    file.write_text('{"im1": [0, 1]}')
    some = [cells("im1", n=1, instances_complete=False)]
    with pytest.raises(ValueError, match=r"im1, but the painting .* is background"):
        fitted(some, objects_from=str(file))


def test_a_choice_in_words(tmp_path):
    choice = {"a": [0, 3, 4], "b": [7], "c": []}
    assert in_words(choice) == (
        "3 painted objects in 2 of 3 training images; the background is painted in 1 of these"
    )
    write_choice(tmp_path / "x.json", choice)
    assert read_choice(tmp_path / "x.json") == choice
    assert (tmp_path / "x.json").read_text().count("\n") == 5
