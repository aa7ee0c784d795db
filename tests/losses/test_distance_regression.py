"""The regression of distances against a plain loop over its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from semiweak.losses.distance_regression import distance_regression

NAN = math.nan


def naive_distance_regression(
    predicted: Tensor, distances: Tensor, scale: float, valid: Tensor
) -> tuple[list[Tensor], list[bool]]:
    """Pixel by pixel, class by class, in double precision."""
    values, known = [], []
    for o, d, v in zip(predicted.double(), distances.double(), valid, strict=True):
        total, number = (0 * o).sum(), 0
        for c in range(len(o)):
            for at in v.nonzero().tolist():
                apart = d[(c, *at)].item()
                if math.isfinite(apart):
                    x = (o[(c, *at)] - math.exp(-apart / scale)).abs()
                    total = total + (x**2 / 0.2 if x < 0.1 else x - 0.05)
                    number += 1
        values.append(total / max(number, 1))
        known.append(number > 0)
    return values, known


def scene(shape: tuple[int, ...] = (5, 4)) -> tuple[Tensor, Tensor, Tensor]:
    """Three samples of three classes: one and two classes with points, and none."""
    generator = torch.Generator().manual_seed(0)
    distances = 40 * torch.rand(3, 3, *shape, generator=generator)
    distances[0, 1:], distances[1, 0], distances[2] = NAN, math.inf, NAN
    predicted = torch.exp(-torch.nan_to_num(distances, NAN, 9.0) / 16).nan_to_num(0.5)
    predicted += 0.15 * torch.randn(distances.shape, generator=generator)
    return predicted, distances, torch.rand(3, *shape, generator=generator) < 0.8


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)])
def test_value_and_gradient_are_those_of_the_loop(shape: tuple[int, ...]) -> None:
    predicted, distances, valid = scene(shape)
    predicted = predicted.double().requires_grad_()
    values, known = distance_regression(predicted, distances, scale=16.0, valid=valid)
    expected, sure = naive_distance_regression(predicted, distances, 16.0, valid)
    assert known.tolist() == sure == [True, True, False]
    weights = torch.tensor([1.0, -2.0, 3.0]).double()
    torch.testing.assert_close(values, torch.stack(expected), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad((weights * values).sum(), predicted)
    (wanted,) = torch.autograd.grad((weights * torch.stack(expected)).sum(), predicted)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-9)


def test_by_hand() -> None:
    """One pixel at a point and one a scale away, off by 0.5 and by 0.05."""
    distances = torch.tensor([[[[0.0, 8.0]], [[NAN, NAN]]]])
    predicted = torch.tensor([[[[0.5, math.exp(-1) + 0.05]], [[7.0, -7.0]]]])
    values, known = distance_regression(predicted, distances, scale=8.0)
    assert known.tolist() == [True]
    assert values.item() == pytest.approx((0.45 + 0.0125) / 2, rel=1e-5)


def test_a_perfect_prediction_costs_nothing() -> None:
    _, distances, _ = scene()
    predicted = torch.exp(-distances.nan_to_num(0.0, 0.0) / 16)
    assert not distance_regression(predicted, distances, scale=16.0)[0].any()


def test_what_is_unknown_or_padding_changes_nothing_and_has_no_gradient() -> None:
    predicted, distances, valid = scene()
    predicted.requires_grad_()
    values, _ = distance_regression(predicted, distances, scale=16.0, valid=valid)
    assert values[2] == 0
    values.sum().backward()
    counts = distances.isfinite() & valid[:, None]
    assert torch.equal(predicted.grad != 0, counts)
    with torch.no_grad():
        other = torch.where(counts, predicted, math.inf)
        changed, _ = distance_regression(other, distances, scale=16.0, valid=valid)
        assert torch.equal(changed, values)
        elsewhere = torch.where(valid[:, None], distances, 1.0)
        assert torch.equal(
            distance_regression(predicted, elsewhere, scale=16.0, valid=valid)[0], values
        )


def test_half_precision_is_computed_in_float32() -> None:
    predicted, distances, valid = scene()
    rounded = predicted.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        values, _ = distance_regression(rounded, distances, scale=16.0, valid=valid)
    exact, _ = distance_regression(rounded.float(), distances, scale=16.0, valid=valid)
    assert values.dtype == torch.float32
    assert torch.equal(values, exact)
