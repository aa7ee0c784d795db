"""The critic against Table 4, and what a gradient penalty asks of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semiweak.networks.critic import Critic

SMALL = (4, 6, 8)


@pytest.mark.parametrize(
    ("spatial_dims", "sizes"), [(2, [(16, 16), (7, 13), (1, 1)]), (3, [(8, 8, 8), (1, 5, 6)])]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mask_gets_one_value(spatial_dims, sizes, channels):
    critic = Critic(channels, spatial_dims=spatial_dims, widths=SMALL)
    for size in sizes:
        value = critic(torch.rand(2, channels, *size))
        assert value.shape == (2,)
        assert value.isfinite().all()


@pytest.mark.parametrize(("spatial_dims", "kernel"), [(2, 9), (3, 27)])
def test_the_default_is_table_4(spatial_dims, kernel):
    critic = Critic(1, spatial_dims=spatial_dims)
    weights = 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512
    biases = 2 * (64 + 128 + 256 + 512)
    assert sum(p.numel() for p in critic.parameters()) == kernel * weights + biases + 512 + 1
    slopes = {m.negative_slope for m in critic.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.01}
    assert not any(isinstance(m, nn.ReLU) for m in critic.modules())


def test_it_computes_what_the_table_says():
    critic = Critic(2, widths=SMALL)
    state = critic.state_dict()
    x = images = torch.randn(3, 2, 16, 8)
    for level in range(3):
        x = F.max_pool2d(x, 2) if level else x
        for conv in ("0", "2"):
            name = f"blocks.{level}.{conv}."
            x = F.conv2d(x, state[name + "weight"], state[name + "bias"], padding=1)
            x = torch.where(x > 0, x, 0.01 * x)
    expected = x.mean((2, 3)) @ state["dense.weight"][0] + state["dense.bias"]
    torch.testing.assert_close(critic(images), expected)


def test_every_pixel_counts_whatever_the_size():
    x = torch.rand(1, 1, 9, 11, requires_grad=True)
    critic = Critic(1, widths=SMALL).double()
    (gradient,) = torch.autograd.grad(critic(x.double()).sum(), x)
    assert gradient[..., -1].any()
    assert gradient[..., -1, :].any()


def test_no_sample_sees_another():
    critic = Critic(1, widths=SMALL)
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(critic(x), torch.cat([critic(one[None]) for one in x]))
    assert not list(critic.buffers())


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (5, 4)), (3, (3, 4, 2))])
def test_the_gradient_has_a_gradient(spatial_dims, size):
    torch.manual_seed(0)  # away from kinks
    critic = Critic(1, spatial_dims=spatial_dims, widths=(2, 3)).double()
    x = torch.rand(2, 1, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(critic, (x,))

    def penalty(*weights):
        state = dict(zip(dict(critic.named_parameters()), weights, strict=True))
        value = torch.func.functional_call(critic, state, (x,))
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()

    weights = tuple(p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(penalty, weights)


def test_a_gradient_penalty_moves_every_weight():
    critic = Critic(1, widths=SMALL)
    x = torch.rand(4, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    for name, parameter in critic.named_parameters():
        if name.endswith("weight"):  # a bias does not change the slope, but at a kink
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"in_channels": 0}, "in_channels=0"),
        ({"in_channels": 1, "spatial_dims": 1}, "spatial_dims=1"),
        ({"in_channels": 1, "widths": []}, "widths"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Critic(**arguments)


@pytest.mark.parametrize("shape", [(2, 1, 8), (2, 2, 8, 8), (2, 1, 8, 8, 8)])
def test_what_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=r"masks \(B, C, H, W\) with C=1"):
        Critic(1, widths=SMALL)(torch.rand(shape))
