"""The branch from features of any size to one logit a class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semiweak.networks.classification_branch import GRID, ClassificationBranch, mean_pool

F, K = 3, 4


def build(spatial_dims: int = 2, *, separate: bool = True) -> ClassificationBranch:
    torch.manual_seed(0)
    return ClassificationBranch(
        F, K, spatial_dims=spatial_dims, separate=separate, channels=4, units=8
    )


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize(
    "size", [(1, 1), (5, 7), (11, 11), (21, 64), (100, 33), (512, 512), (2, 9, 30), (40, 21, 21)]
)
def test_images_of_any_size_end_at_11(size: tuple[int, ...], separate: bool) -> None:
    branch = build(len(size), separate=separate)
    weights = {name: p.shape for name, p in branch.named_parameters()}
    seen = []
    for one in branch.branches:
        one.convolutions.register_forward_hook(lambda *args: seen.append(args[2].shape[2:]))
    logits = branch(torch.randn(2, F, *size))
    assert logits.shape == (2, K)
    assert seen == [(GRID,) * len(size)] * (K if separate else 1)
    assert weights == {name: p.shape for name, p in branch.named_parameters()}


def test_the_layers_are_the_papers() -> None:
    (one,) = build(separate=False).branches
    assert sum(isinstance(m, nn.Conv2d) for m in one.modules()) == 1 + 4
    linear = [m for m in one.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 7
    assert linear[0].in_features == 4 * 11 * 11
    assert linear[-1].out_features == K
    # Without the inner layers the residual connection is what is left.
    for layer in linear[1:-1]:
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    x = torch.randn(2, F, 21, 21)
    first = one.first(one.convolutions(x).flatten(1)).relu()
    assert first.any()
    torch.testing.assert_close(one(x), one.last(first))


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (37, 50)), (2, (6, 9)), (3, (6, 30, 23))])
@pytest.mark.parametrize("separate", [True, False])
def test_the_gradient_reaches_every_position(
    spatial_dims: int, size: tuple[int, ...], separate: bool
) -> None:
    """As maximum pooling's does not."""
    features = torch.randn(2, F, *size, requires_grad=True)
    torch.manual_seed(0)
    branch = ClassificationBranch(F, K, spatial_dims=spatial_dims, separate=separate)
    logits = branch(features)
    for c in range(K):
        (gradient,) = torch.autograd.grad(logits[:, c].sum(), features, retain_graph=True)
        assert (gradient.abs().sum(1) > 0).all()


def test_a_separate_branch_shares_no_weight() -> None:
    branch = build()
    logits = branch(torch.randn(2, F, 30, 30))
    logits[:, 1].sum().backward()
    for c, one in enumerate(branch.branches):
        assert any(bool(p.grad.any()) for p in one.parameters()) == (c == 1)


@pytest.mark.parametrize(("size", "cells"), [(7, 3), (3, 7), (8, 4), (1, 5), (5, 5), (50, 21)])
def test_mean_pooling_is_the_mean_over_each_part(size: int, cells: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, size, 4, dtype=torch.float64, generator=generator)
    pooled = mean_pool(x, cells)
    assert pooled.shape == (2, 3, cells, cells)
    # Each pixel as so many small ones that no part ends inside of one.
    fine = x.repeat_interleave(cells, 2).repeat_interleave(cells, 3)
    torch.testing.assert_close(pooled, nn.functional.avg_pool2d(fine, (size, 4)))


@pytest.mark.parametrize("size", [(10, 33), (6, 9, 40)])
def test_every_pixel_counts_the_same(size: tuple[int, ...]) -> None:
    x = torch.randn(1, 1, *size, dtype=torch.float64, requires_grad=True)
    mean_pool(x, 21).mean().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / x.numel()))
