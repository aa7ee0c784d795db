import os
import subprocess
import sys

import pytest

from semiweak.data.splits import folds, split

NAMES = [f"image_{i:02d}" for i in range(20)]


def parts_of(names, *args, **kwargs):
    result = split(names, *args, **kwargs)
    everything = [name for part in result for name in part]
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(names)
    return result


@pytest.mark.parametrize(
    ("val", "test", "sizes"),
    [
        (0.2, 0.1, (14, 4, 2)),
        (0.2, 0.0, (16, 4, 0)),
        (0, 0, (20, 0, 0)),
        (3, 5, (12, 3, 5)),
        (0.01, 0, (19, 1, 0)),  # a share is rounded up
        (0.15, 0, (17, 3, 0)),
        (1, 0.5, (9, 1, 10)),
    ],
)
def test_shares_and_numbers(val, test, sizes):
    result = parts_of(NAMES, NAMES, val, test)
    assert tuple(map(len, result)) == sizes
    assert sorted(result.train + result.val + result.test) == NAMES
    assert result.val == sorted(result.val)


def test_rounding_errors_take_no_further_image():
    names = [str(i) for i in range(100)]
    for percent in range(1, 60):
        assert len(split(names, names, percent / 100, 0).val) == percent


def test_names():
    result = parts_of(NAMES, NAMES, ["image_03", "image_01"], ["image_07"])
    assert result.val == ["image_01", "image_03"]
    assert result.test == ["image_07"]
    assert result.train == [n for n in NAMES if n not in ("image_01", "image_03", "image_07")]


def test_names_and_a_share():
    for seed in range(10):
        result = parts_of(NAMES, NAMES, ["image_03"], 0.5, seed=seed)
        assert result.val == ["image_03"]
        assert len(result.test) == 10


def test_only_eligible_images_validate_and_test_and_all_others_train():
    eligible = NAMES[10:]
    result = parts_of(NAMES, eligible, 0.2, 3)
    assert (len(result.val), len(result.test)) == (2, 3)
    assert set(result.val + result.test) <= set(eligible)
    assert set(NAMES[:10]) <= set(result.train)
    assert len(result.train) == 15


def test_groups_stay_together():
    groups = {name: f"group_{i // 4}" for i, name in enumerate(NAMES)}
    eligible = [n for i, n in enumerate(NAMES) if i % 4]
    for seed in range(5):
        result = parts_of(NAMES, eligible, 1, 0.4, groups=groups, seed=seed)
        members = [{groups[n] for n in part} for part in result]
        assert [len(m) for m in members] == [2, 1, 2]
        assert not members[0] & members[1]
        assert not members[0] & members[2]
        assert not members[1] & members[2]
        assert len(result.val) == 3
        assert len(result.train) == 8


def test_the_rest_of_a_listed_group_is_not_trained_on():
    groups = {name: f"group_{i // 4}" for i, name in enumerate(NAMES)}
    result = parts_of(NAMES, NAMES, ["image_00"], 1, groups=groups)
    assert result.val == ["image_00"]
    assert not {"image_01", "image_02", "image_03"} & set(result.train + result.test)


def test_the_seed_decides_and_the_order_of_names_does_not():
    first = split(NAMES, NAMES, 0.3, 0.2, seed=1)
    assert split(NAMES, NAMES, 0.3, 0.2, seed=1) == first
    turned = split(NAMES[::-1], NAMES[::-1], 0.3, 0.2, seed=1)
    assert (turned.val, turned.test) == (first.val, first.test)
    assert sorted(turned.train) == sorted(first.train)
    assert split(NAMES, NAMES, 0.3, 0.2, seed=2).val != first.val


def test_a_seed_means_the_same_split_in_every_process():
    """Python gives strings another hash, and sets another order, in each process."""
    code = (
        "from semiweak.data.splits import folds, split; names = [str(i) for i in range(30)];"
        "print(split(names, names, 0.3, 0.2, seed=4), folds(names, 3, 1))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_the_test_images_do_not_depend_on_val():
    assert len({tuple(split(NAMES, NAMES, val, 4).test) for val in (0, 0.2, 7)}) == 1


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (["image_99"], 0, "val lists images that do not exist: image_99"),
        (0, ["x", "image_00"], "test lists images that do not exist: x"),
        (["image_00"], ["image_00"], "listed twice in val and test: image_00"),
        ("image_00", 0, "val is 'image_00'; give a list"),
        (-1, 0, "val is -1"),
        (0, -0.5, "test is -0.5"),
        (21, 0, "val is 21, but of the completely painted images .* 20 are left"),
        (15, 6, "val is 15, .* 14 are left"),
        (15, 5, "of 20 images 15 go to validation and 5 to the test; none is left"),
    ],
)
def test_errors(val, test, message):
    with pytest.raises(ValueError, match=message):
        split(NAMES, NAMES, val, test)


def test_a_share_of_no_painted_image():
    with pytest.raises(ValueError, match=r"val is 0.2, .* 0 are left .* set it to 0"):
        split(NAMES, [], 0.2, 0)
    assert split(NAMES, [], 0, 0).train == NAMES


@pytest.mark.parametrize("num_folds", [2, 3, 5, 7])
def test_folds(num_folds):
    groups = [name for name in "gfedcba" for _ in range(3)]
    dealt = folds(groups, num_folds, seed=1)
    assert len(dealt) == num_folds
    assert sorted(g for fold in dealt for g in fold) == list("abcdefg")
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert folds(groups[::-1], num_folds, seed=1) == dealt


def test_folds_depend_on_the_seed():
    assert folds(NAMES, 5, seed=0) != folds(NAMES, 5, seed=1)


@pytest.mark.parametrize("num_folds", [1, 4])
def test_wrong_number_of_folds(num_folds):
    with pytest.raises(
        ValueError, match=f"num_folds is {num_folds}; with 3 groups it must be 2 to 3"
    ):
        folds(["a", "b", "c", "a"], num_folds)
