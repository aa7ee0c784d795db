"""Merged classes: what annotations say of them, and the arguments of the data module."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from semiweak.data.annotations import Annotation
from semiweak.data.folder import MixedAnnotationDataModule
from semiweak.data.hierarchy import merging_of
from semiweak.data.knowledge import understand
from semiweak.data.merging import Merging, leave_out_rare
from semiweak.data.normalize import Normalization
from semiweak.data.synthetic_module import SyntheticDataModule
from semiweak.data.vnc import CLASS_NAMES as VNC
from semiweak.data.vnc import VNCDataModule
from semiweak.data.weaken import Weakening, summarise, to_boxes, to_tags

NAMES = ["background", "mem", "lum", "ribo"]
MITO = Merging(("background", "mito", "ribo"), (0, 1, 1, 2))
NO_RIBO = MITO.only(["background", "mito"])
SHAPE = (6, 8)


def mask(*classes):
    """Columns of these classes."""
    return np.repeat(np.asarray(classes, np.uint8)[None], SHAPE[0], axis=0)


# The hierarchy


def test_a_hierarchy_in_the_order_of_the_old_classes():
    found = merging_of(NAMES, {"late": "ribo", "mito": ["lum", "mem"]})
    assert found == Merging(("background", "mito", "late"), (0, 1, 1, 2))
    assert merging_of(NAMES, None) == Merging(tuple(NAMES), (0, 1, 2, 3))


def test_a_class_that_is_left_out():
    assert merging_of(NAMES, {"mem": None, "background": None}).becomes == (255, 255, 0, 1)


def test_entries_can_name_entries_and_the_class_of_their_own_name():
    names = ["nuc", "ne_mem", "np_in", "np_out", "cyto"]
    given = {"nuc": ["nuc", "ne"], "ne": ["ne_mem", "np"], "np": ["np_in", "np_out"]}
    assert merging_of(names, given) == Merging(("nuc", "cyto"), (0, 0, 0, 0, 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mito": ["mem", "lun"]}, "'mito' names 'lun', which is neither an entry nor one of"),
        ({"ribos": None}, "'ribos' is left out, but is none of class_names, background, mem"),
        ({"a": ["mem"], "b": ["mem", "lum"]}, "the class 'mem' is in 'a' and in 'b'; keep one"),
        ({"a": ["mem"], "mem": None}, r"the class 'mem' is left out \(null\) and in 'a'"),
        ({"a": ["mem", "mem"]}, "'a' names the class 'mem' twice"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "the entries run in a circle: a > b > c > a"),
        ({"mem": ["lum"], "lum": ["mem"]}, "the entries run in a circle: mem > lum > mem"),
        ({"mem": ["lum"]}, "'mem' is an entry and a class of the files that no entry names"),
        ({"a": ["b", "mem"], "c": ["b"], "b": ["lum"]}, "the class 'lum' is in 'a' and in 'c'"),
        ({"a": []}, r"'a' is \[\]; give the list of its classes, or null"),
        ({"a": [1]}, "1 is no text; put the names of classes into quotes"),
        ({"a": 3}, "'a' is 3; give the list"),
        (dict.fromkeys(NAMES), "every class is left out"),
    ],
)
def test_hierarchies_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=f"merge_classes: ({message})"):
        merging_of(NAMES, given)


def test_files(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("mito: [mem, lum]  # both parts\nribo: null\n")
    expected = Merging(("background", "mito"), (0, 1, 1, 255))
    assert merging_of(NAMES, str(path)) == expected
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"mito": ["mem", "lum"], "ribo": None}, indent="\t"))
    assert merging_of(NAMES, str(path)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mito: [mem\n", "cannot be read as YAML or JSON"),
        ("- mem\n- lum\n", "holds no mapping of the form"),
        ("a: [mem]\na: [lum]\n", "has two entries 'a'; keep one of them"),
        ("no: [mem]\n", "False is no text; put the names of classes into quotes"),
        ("a: [lun]\n", "'a' names 'lun'"),
        (None, "there is no such file"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"classes\.yaml: {message}"):
        merging_of(NAMES, str(path))


# What annotations say


def test_masks_and_scribbles():
    said = MITO.merge(Annotation(mask=mask(0, 1, 2, 3, 255, 3, 0, 1), scribbles=mask(*[2] * 8)))
    assert said.mask[0].tolist() == [0, 1, 1, 2, 255, 2, 0, 1]
    assert said.mask.dtype == np.uint8
    assert (said.scribbles == 1).all()
    assert not said.is_dense()


def test_a_mask_with_a_class_that_is_left_out_is_complete_and_has_unknown_pixels():
    said = NO_RIBO.merge(Annotation(mask=mask(0, 1, 2, 3, 3, 3, 0, 1)))
    assert said.mask[0].tolist() == [0, 1, 1, 255, 255, 255, 0, 1]
    assert said.kinds() == ("mask",)
    known = understand(said, SHAPE, 2)
    assert known.has_mask
    assert known.candidates[:, 0, 3].all()
    assert known.labels[0, 3] == 255
    # Nothing was left out of these: a partial mask stays partial, a complete one is just that.
    assert NO_RIBO.merge(Annotation(mask=mask(*[3, 255] * 4))).kinds() == ("scribbles",)
    assert not NO_RIBO.merge(Annotation(mask=mask(*[0, 1] * 4))).left_out


def test_weakening_knows_that_what_was_left_out_is_none_of_the_classes():
    said = NO_RIBO.merge(Annotation(mask=mask(0, 0, 0, 3, 3, 0, 0, 0)))
    assert to_tags(said, 2).tags.tolist() == [1, 0]
    assert summarise([said], [said], 2).pinned == (36, 36)
    said = NO_RIBO.merge(Annotation(mask=mask(0, 0, 2, 3, 3, 0, 0, 0)))
    boxes = to_boxes(said, 2)
    assert not boxes.crowd.any()
    known = understand(boxes, SHAPE, 2)
    assert known.candidates[:, 0, 3].all()
    assert known.candidates[:, 0, 0].tolist() == [True, False]


def test_points():
    points = np.asarray([[1, 1], [2, 2], [3, 3]], np.float32)
    said = NO_RIBO.merge(Annotation(points=points, point_labels=np.asarray([2, 3, 0])))
    assert said.points.tolist() == [[1, 1], [3, 3]]
    assert said.point_labels.tolist() == [1, 0]


def boxed(labels, classes, **more):
    boxes = np.asarray([[0, i, 2, i + 2] for i in range(len(labels))], np.float32)
    crowd = np.arange(len(labels)) % 2 == 1
    return Annotation(
        boxes=boxes.reshape(-1, 4), box_labels=np.asarray(labels, np.int64), box_is_crowd=crowd,
        boxed_classes=classes, **more,
    )  # fmt: skip


def test_boxes_are_exhaustive_if_those_of_all_parts_are():
    said = NO_RIBO.merge(boxed([1, 3, 2, 0], (1, 3)))
    assert said.boxes[:, 1].tolist() == [0, 2, 3]
    assert said.box_labels.tolist() == [1, 1, 0]
    assert said.crowd.tolist() == [False, False, True]
    assert said.boxed_classes == ()
    assert NO_RIBO.merge(boxed([1, 3], (1, 2, 3))).boxed_classes == (1,)
    assert MITO.merge(boxed([1, 3], (1, 2, 3))).boxed_classes == (1, 2)


def test_boxes_are_not_filled_by_one_class_where_another_was_left_out():
    said = boxed([1, 3], (), boxes_filled=True)
    assert MITO.merge(said).boxes_filled
    assert not NO_RIBO.merge(said).boxes_filled


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([1, 0, 0, 1], [1, 0, 1]),
        ([1, 0, 1, -1], [1, 1, -1]),
        ([-1, 1, -1, 0], [-1, 1, 0]),
        ([0, 0, -1, 1], [0, -1, 1]),
    ],
)
def test_tags(old, new):
    assert MITO.merge(Annotation(tags=np.asarray(old, np.int8))).tags.tolist() == new
    assert NO_RIBO.merge(Annotation(tags=np.asarray(old, np.int8))).tags.tolist() == new[:2]


def test_annotated_classes():
    # ribo, and of mito the membrane alone, were looked for; 0 is anything else.
    painted = Annotation(mask=mask(0, 1, 3, 0, 255, 0, 0, 0), annotated_classes=(1, 3))
    said = MITO.merge(painted)
    assert said.annotated_classes == (2,)
    known = understand(said, SHAPE, 3)
    assert known.labels[0, :5].tolist() == [255, 1, 2, 255, 255]
    assert known.candidates[:, 0, 0].tolist() == [True, True, False]  # it may be the lumen
    assert known.candidates[:, 0, 4].all()
    assert not known.contradictions
    # Without ribo no class was looked for as a whole.
    known = understand(NO_RIBO.merge(painted), SHAPE, 2)
    assert known.labels[0, :4].tolist() == [255, 1, 255, 255]
    assert known.candidates[:, 0, [0, 2, 3, 4]].all()
    # Both parts of mito were looked for.
    said = NO_RIBO.merge(Annotation(mask=mask(3, 1, 2, 0, 0, 0, 0, 0), annotated_classes=(1, 2, 3)))
    assert said.annotated_classes == (1,)
    known = understand(said, SHAPE, 2)
    assert known.labels[0, :4].tolist() == [255, 1, 1, 255]
    assert known.candidates[:, 0, 3].tolist() == [True, False]
    assert known.candidates[:, 0, 0].all()


def test_annotated_classes_that_are_all_classes():
    said = Annotation(mask=mask(9, 0, 1, 2, 3, 0, 0, 0), annotated_classes=(0, 1, 2, 3))
    known = understand(MITO.merge(said), SHAPE, 3)
    assert known.labels[0, :5].tolist() == [255, 0, 1, 1, 2]
    assert not known.contradictions


def test_merging_rules_nothing_out_that_was_possible():
    """For pixels of random annotations: a new class is possible if one of its parts was."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        known = {}
        if rng.random() < 0.5:
            known["mask"] = rng.choice([0, 1, 2, 3, 255], SHAPE).astype(np.uint8)
            if rng.random() < 0.7:
                some = rng.permutation(4)[: rng.integers(1, 5)]
                known["annotated_classes"] = tuple(sorted(some.tolist()))
        if rng.random() < 0.5:
            strokes = rng.choice([0, 1, 2, 3, *[255] * 20], SHAPE)
            known["scribbles"] = strokes.astype(np.uint8)
        if rng.random() < 0.5:
            known["tags"] = rng.integers(-1, 2, 4).astype(np.int8)
        if rng.random() < 0.5:
            start = rng.integers(0, 4, (3, 2))
            known["boxes"] = np.concatenate([start, start + 2], 1).astype(np.float32)
            known["box_labels"] = rng.integers(0, 4, 3)
            known["boxed_classes"] = tuple(np.flatnonzero(rng.random(4) < 0.6).tolist())
            known["boxes_filled"] = bool(rng.random() < 0.5)
        if rng.random() < 0.3:
            known["points"] = rng.integers(0, 6, (2, 2)).astype(np.float32)
            known["point_labels"] = rng.integers(0, 4, 2)
        said = Annotation(**known)
        before = understand(said, SHAPE, 4)
        settled = not before.contradictions
        for merging in (MITO, NO_RIBO):
            after = understand(merging.merge(said), SHAPE, len(merging.names))
            for c in range(len(merging.names)):
                possible = before.candidates[merging.parts(c)].any(axis=0)
                if settled:
                    assert not (possible & ~after.candidates[c]).any()
            if settled:
                told = before.labels != 255
                expected = np.asarray(merging.becomes)[before.labels[told]]
                assert (after.labels[told] == expected).all()
                assert (after.labels[~told] == 255).all()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (Annotation(mask=mask(*[4] * 8)), "class 4 is painted, but class_names names 4 classes"),
        (Annotation(box_labels=np.asarray([7])), "class 7 is annotated"),
        (Annotation(tags=np.zeros(3, np.int8)), "there are 3 tags"),
    ],
)
def test_annotations_of_other_classes(said, message):
    with pytest.raises(ValueError, match=message):
        MITO.merge(said)


# Data modules


@pytest.fixture
def folder(tmp_path):
    """Ten images of five mice; lum is in two of them, ribo in three."""
    shape = (16, 16)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(10):
        rng = np.random.default_rng(i)
        image = Image.fromarray(rng.integers(256, size=shape).astype(np.uint8))
        image.save(tmp_path / "images" / f"mouse{i // 2}_{i}.png")
        labels = np.zeros(shape, np.uint8)
        labels[2:6, 2:6] = 1
        labels[8:12, 2:6] = 2 if i < 4 else 0
        labels[8:12, 8:12] = 3 if i < 6 else 0
        Image.fromarray(labels).save(tmp_path / "masks" / f"mouse{i // 2}_{i}.png")
    return tmp_path


def module(root, **arguments):
    given = {
        "class_names": NAMES, "patch_size": 16, "num_workers": 0, "val": 1, "test": 1,
        "group_pattern": "(mouse[0-9])_",
    }  # fmt: skip
    return MixedAnnotationDataModule(str(root), **given | arguments)


MERGED = {"merge_classes": {"mito": ["mem", "lum"]}}


def test_the_model_sees_merged_classes(folder):
    data = module(folder, **MERGED)
    assert data.num_classes == 3
    data.setup("fit")
    assert data.describe()["class_names"] == ["background", "mito", "ribo"]
    assert set(data.kinds.values()) == {("mask",)}
    batch = next(iter(data.train_dataloader()))
    assert batch["candidates"].shape[1] == 3
    assert batch["tags"].shape[1] == 3
    (batch, *_) = data.val_dataloader()
    assert set(np.unique(batch["labels"])) <= {0, 1, 2}
    mouse = batch["name"][0]
    painted = np.asarray(Image.open(folder / "masks" / f"{mouse}.png"))
    assert (batch["labels"][0].numpy() == np.asarray([0, 1, 1, 2])[painted]).all()
    pickle.dumps(data.part("test"))  # as workers do


def test_files_keep_their_names(folder):
    (folder / "tags.csv").write_text("image,class,value\nmouse0_0,lum,present\n")
    (folder / "points.csv").write_text("image,y,x,class\nmouse0_0,3,3,mem\nmouse0_1,3,3,1\n")
    found = {s.name: s.read().annotation for s in module(folder, **MERGED).sources()}
    assert found["mouse0_0"].tags.tolist() == [-1, -1, 1, -1]
    assert found["mouse0_1"].point_labels.tolist() == [1]


def test_rare_classes_are_left_out_with_a_word(folder, monkeypatch):
    told = []
    monkeypatch.setattr("semiweak.data.merging.rank_zero_info", told.append)
    data = module(folder, min_groups=3)
    assert data.num_classes == 4  # nothing was read
    data.setup("fit")
    assert data.class_names == ["background", "mem", "ribo"]
    assert data.describe()["class_names"] == ["background", "mem", "ribo"]
    assert told == [
        "left out, since they occur in fewer than 3 groups: lum (2); their pixels are unknown. "
        "3 classes stay: background, mem, ribo"
    ]
    samples = [s.read() for part in ("train", "val", "test") for s in data.part(part)]
    assert len(samples) == 10
    assert {s.annotation.kind() for s in samples} == {"mask"}
    (one,) = [s for s in samples if s.name == "mouse0_0"]
    assert one.annotation.mask[9, 3] == 255
    assert one.annotation.mask[9, 9] == 2
    for name in ("val", "test"):
        assert len(data._evaluation(name)) == 2  # complete, although some pixels are unknown


def test_merged_classes_are_counted_together(folder):
    data = module(folder, min_groups=3, merge_classes={"rare": ["lum", "ribo"]})
    data.setup("fit")
    assert data.class_names == ["background", "mem", "rare"]
    with pytest.raises(ValueError, match=r"min_groups is 6, .* mem in 5, lum in 2"):
        module(folder, min_groups=6).setup("fit")


def test_without_groups_an_image_is_one(folder):
    data = module(folder, min_groups=4, group_pattern=None)
    data.setup("fit")
    assert data.class_names == NAMES
    data = module(folder, min_groups=5, group_pattern=None)
    data.setup("fit")
    assert data.class_names == ["background", "mem", "ribo"]


def test_every_kind_of_annotation_tells_where_a_class_occurs():
    present = np.asarray([-1, 0, 1, -1], np.int8)
    looked = Annotation(mask=mask(0, 1, *[3] * 6), annotated_classes=(1,))
    kinds = [
        (Annotation(tags=present), {2}),
        (Annotation(scribbles=mask(*[255, 3] * 4)), {3}),
        (Annotation(boxes=np.zeros((1, 4), np.float32), box_labels=np.asarray([1])), {1}),
        (Annotation(points=np.zeros((1, 2), np.float32), point_labels=np.asarray([0])), {0}),
        (looked, {1}),
        (Annotation(mask=mask(*[0, 1] * 4), valid=mask(*[0, 1] * 4) == 0), {0}),
    ]
    from semiweak.data.annotations import Sample
    from semiweak.data.source import Source

    for said, classes in kinds:
        sample = Sample(np.zeros((1, *SHAPE), np.uint8), said, "a")
        source = Source("a", lambda sample=sample: sample)
        found = leave_out_rare(merging_of(NAMES, None), [source], 1)
        assert found.names == tuple(NAMES[c] for c in sorted(classes))


def test_a_checkpoint_says_which_classes_stay(folder):
    trained = module(folder, min_groups=3)
    trained.setup("fit")
    # Other data, in which ribo is rare as well.
    for i in range(2, 6):
        (folder / "masks" / f"mouse{i // 2}_{i}.png").unlink()
        (folder / "images" / f"mouse{i // 2}_{i}.png").unlink()
    other = module(folder, min_groups=3)
    other.setup("test")
    assert other.class_names == ["background", "mem"]
    other.adopt(trained.describe())
    assert other.class_names == ["background", "mem", "ribo"]
    for batch in other.test_dataloader():
        assert batch["candidates"].shape[1] == 3
    other.adopt(trained.describe())
    assert other.class_names == ["background", "mem", "ribo"]
    # The same in the other order, as where a checkpoint is read first.
    other = module(folder, min_groups=3)
    other.adopt(trained.describe())
    assert other.normalization == Normalization(
        tuple(trained.describe()["offset"]), tuple(trained.describe()["scale"])
    )
    other.setup("predict")
    assert other.class_names == ["background", "mem", "ribo"]


def test_a_checkpoint_with_other_classes(folder):
    trained = module(folder)
    trained.setup("fit")
    with pytest.raises(ValueError, match="the model was trained on the classes"):
        module(folder, **MERGED).adopt(trained.describe())
    with pytest.raises(ValueError, match="the model was trained on the classes"):
        module(folder, **MERGED, min_groups=1).adopt(trained.describe())


@pytest.mark.parametrize("kind", ["boxes", "points", "tags", "scribbles", "nothing"])
def test_merged_classes_are_weakened(folder, kind):
    data = module(folder, **MERGED, min_groups=4, weaken=Weakening(masks=1, **{kind: 1.0}))
    data.setup("fit")
    assert data.class_names == ["background", "mito"]
    assert not data.contradictions
    for batch in data.train_dataloader():
        assert batch["candidates"].shape[1] == 2
        assert set(np.unique(batch["labels"])) <= {0, 1, 255}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"merge_classes": {"a": ["b"]}}, "merge_classes: 'a' names 'b'"),
        ({"min_groups": -1}, "min_groups is -1; it must be 0 or more"),
        ({"task": "instances", **MERGED}, "merge_classes speaks of classes, but task is instances"),
        (
            {"class_names": None, "min_groups": 2},
            "there are no class_names",
        ),
    ],
)
def test_arguments_that_cannot_be(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        module(folder, **arguments)


def test_other_data_modules_have_it():
    data = SyntheticDataModule(
        num_train=2, num_val=1, size=32, patch_size=32, num_workers=0,
        merge_classes={"inside": ["nucleus", "vesicle"]},
    )  # fmt: skip
    data.setup("fit")
    assert "inside" in data.class_names
    assert data.num_classes == 3
    assert VNCDataModule("x", merge_classes={"rest": VNC[1:]}).class_names == ["membrane", "rest"]


@pytest.mark.parametrize("num_folds", [5, 10])
def test_folds_of_groups(folder, num_folds):
    """Every sub-volume tests once; none is in two parts."""
    pattern = "(mouse[0-9])_" if num_folds == 5 else "_([0-9])"
    tested = []
    for fold in range(num_folds):
        data = module(folder, fold=fold, num_folds=num_folds, group_pattern=pattern)
        data.setup("fit")
        parts = [{s.name for s in data.part(p)} for p in ("train", "val", "test")]
        groups = [{s.split("_")[0 if num_folds == 5 else 1] for s in part} for part in parts]
        assert [len(g) for g in groups] == [num_folds - 2, 1, 1]
        assert len(set.union(*groups)) == num_folds
        tested += parts[2]
    assert len(tested) == len(set(tested)) == 10
