"""The contingency table against a count of each pixel."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semiweak.metrics.contingency import contingency_table

TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
# Some small, some far apart, some that no 32-bit type holds.
IDS = st.sampled_from([0, 1, 2, 3, 7, 250, 60_000, 2**31 + 5, 2**40, 2**63 - 1])


def counted(preds, target, valid=None):
    """What the table must say, pixel by pixel: pairs of ids, numbered by the order of ids."""
    p, a = preds.flatten().tolist(), target.flatten().tolist()
    inside = [True] * len(p) if valid is None else valid.flatten().tolist()
    pixels = [pair[:2] for pair in zip(p, a, inside, strict=True) if pair[2]]
    numbers = []
    for side in range(2):
        ids = sorted({pair[side] for pair in pixels} - {0})
        numbers.append({0: 0} | {i: n for n, i in enumerate(ids, 1)})
    pairs = Counter((numbers[0][i], numbers[1][j]) for i, j in pixels)
    sizes = [
        [sum(n for pair, n in pairs.items() if pair[side] == i) for i in range(len(numbers[side]))]
        for side in range(2)
    ]
    return dict(pairs), *sizes


def as_counted(table):
    pairs = zip(table.predicted.tolist(), table.annotated.tolist(), strict=True)
    shared = dict(zip(pairs, table.shared.tolist(), strict=True))
    return shared, table.predicted_sizes.tolist(), table.annotated_sizes.tolist()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_it_counts_each_pixel(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6))
    preds, target = (
        torch.from_numpy(data.draw(hnp.arrays(np.int64, shape, elements=IDS))) for _ in range(2)
    )
    valid = data.draw(st.none() | hnp.arrays(bool, shape).map(torch.from_numpy))
    table = contingency_table(preds, target, valid)
    assert as_counted(table) == counted(preds, target, valid)
    assert len(table.shared) == len(set(zip(table.predicted, table.annotated, strict=True)))
    assert table.num_pixels == (preds.numel() if valid is None else int(valid.sum()))
    assert table.num_predicted == len(table.predicted_sizes) - 1
    assert table.num_annotated == len(table.annotated_sizes) - 1


@pytest.mark.parametrize("dtype", TYPES + UNSIGNED)
def test_every_integer_type(dtype):
    largest = torch.iinfo(dtype).max
    ids = torch.tensor([0, 1, 5, largest], dtype=dtype)
    preds = ids[torch.tensor([[0, 1, 1], [3, 3, 2]])]
    target = torch.tensor([[0, 9, 9], [2**33, 0, 0]])
    kept = preds.clone()
    table = contingency_table(preds, target)
    assert as_counted(table) == counted(preds, target)
    assert table.predicted_sizes.tolist() == [1, 2, 1, 2]
    assert torch.equal(preds, kept)


def test_without_background_no_object_is_lost():
    preds, target = torch.tensor([[4, 4, 6]]), torch.tensor([[1, 2, 2]])
    table = contingency_table(preds, target)
    assert table.predicted_sizes.tolist() == [0, 2, 1]
    assert table.annotated_sizes.tolist() == [0, 1, 2]


def test_the_layout_in_memory_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    preds = torch.randint(5, (6, 7, 8), generator=generator).transpose(0, 2)
    target = torch.randint(5, (8, 14, 6), generator=generator)[:, ::2]
    assert as_counted(contingency_table(preds, target)) == counted(preds, target)


def test_pairs_of_objects():
    table = contingency_table(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 1]))
    assert [side.tolist() for side in table.of_objects()] == [[1, 2], [1, 1], [1, 1]]


INTS = torch.zeros(3, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((INTS.float(), INTS), "prediction holds torch.float32, but it is integer object ids"),
        ((INTS, INTS.bfloat16()), "annotation holds torch.bfloat16"),
        ((INTS.bool(), INTS), "prediction holds torch.bool"),
        ((INTS, INTS.cfloat()), "annotation holds torch.complex64"),
        ((INTS[:2], INTS), r"prediction has the shape \(2, 4\), but the annotation \(3, 4\)"),
        ((INTS.T, INTS), r"shape \(4, 3\), but the annotation \(3, 4\)"),
        ((INTS - 1, INTS), "prediction contains the id -1, but 0 is the background"),
        ((INTS, INTS - 2**40), f"annotation contains the id -{2**40}"),
        ((INTS, INTS, INTS), r"valid is torch.int64 of the shape \(3, 4\)"),
        ((INTS, INTS, INTS[0].bool()), r"valid is torch.bool of the shape \(4,\)"),
    ],
)
def test_wrong_input_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        contingency_table(*arguments)


def test_a_negative_id_that_is_not_valid_does_not_matter():
    target = torch.tensor([0, 1, -1])
    table = contingency_table(torch.tensor([0, 3, 3]), target, target >= 0)
    assert as_counted(table) == ({(0, 0): 1, (1, 1): 1}, [1, 1], [1, 1])
