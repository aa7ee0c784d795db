"""The papers' U-Net against its tables."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semiweak.networks.base import crop_to, pad_to_multiple
from semiweak.networks.unet import UNet, number_of_groups

SMALL = (4, 6, 8)


def randomise_norms(network):
    """Gives the norms' parameters and running statistics values that a mistake would show in."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


def by_the_table(network, x):
    """The forward pass written down from Table 1: 2D, batch norm, in evaluation mode."""
    state = network.state_dict()

    def block(x, name):
        for conv, norm in (("0", "1"), ("3", "4")):
            x = F.conv2d(x, state[f"{name}.{conv}.weight"], padding=1)
            n = f"{name}.{norm}."
            mean, var = state[n + "running_mean"], state[n + "running_var"]
            x = F.batch_norm(x, mean, var, state[n + "weight"], state[n + "bias"])
            x = F.relu(x)
        return x

    first = block(x, "encoder.0")
    second = block(F.max_pool2d(first, 2), "encoder.1")
    third = block(F.max_pool2d(second, 2), "encoder.2")
    up = third.repeat_interleave(2, 2).repeat_interleave(2, 3)
    up = block(torch.cat([second, up], 1), "decoder.0")
    up = up.repeat_interleave(2, 2).repeat_interleave(2, 3)
    up = block(torch.cat([first, up], 1), "decoder.1")
    return F.conv2d(up, state["head.weight"], state["head.bias"])


def test_it_computes_what_the_table_says():
    network = randomise_norms(UNet(3, 2, widths=SMALL)).eval()
    x = torch.randn(2, 3, 16, 12)
    torch.testing.assert_close(network(x), by_the_table(network, x))


def test_the_default_is_table_1():
    network = UNet(3, 16)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    pairs = [(c.in_channels, c.out_channels) for c in convolutions]
    assert pairs == [
        *[(3, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)],
        *[(64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)],
        *[(512 + 256, 256), (256, 256), (256 + 128, 128), (128, 128), (128 + 64, 64), (64, 64)],
        *[(64 + 32, 32), (32, 32), (32 + 16, 16), (16, 16)],
        (16, 16),
    ]
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * 22 + [(1, 1)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 22


def number_of_parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_parameters_counted_by_hand():
    encoder_0 = (3 * 16 * 9 + 2 * 16) + (16 * 16 * 9 + 2 * 16)  # convolution, norm, twice
    encoder_1 = (16 * 32 * 9 + 2 * 32) + (32 * 32 * 9 + 2 * 32)
    decoder_0 = (48 * 16 * 9 + 2 * 16) + (16 * 16 * 9 + 2 * 16)
    head = 16 * 2 + 2
    assert encoder_0 + encoder_1 + decoder_0 + head == 26_066
    assert number_of_parameters(UNet(3, 2, widths=(16, 32))) == 26_066
    assert number_of_parameters(UNet(3, 2, widths=(16, 32), norm="group")) == 26_066
    # Without a norm each convolution has one bias a channel in place of a scale and a shift.
    assert number_of_parameters(UNet(3, 2, widths=(16, 32), norm="none")) == 26_066 - 2 * (
        16 + 32 + 16
    )


def test_parameters_counted_by_hand_in_3d():
    level = (1 * 8 * 27 + 2 * 8) + (8 * 8 * 27 + 2 * 8)
    head = 8 * 4 + 4
    network = UNet(1, 4, spatial_dims=3, widths=(8,), norm="group")
    assert number_of_parameters(network) == level + head == 2_012


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize(
    "size", [(1, 1), (3, 2), (4, 4), (5, 13), (16, 8), (1, 2, 3), (4, 4, 4), (5, 9, 6)]
)
def test_any_size_comes_back(size, norm):
    network = UNet(2, 3, spatial_dims=len(size), widths=SMALL, norm=norm).eval()
    x = torch.randn(1, 2, *size)
    assert network(x).shape == (1, 3, *size)
    assert network.features(x).shape == (1, network.feature_channels, *size)
    assert network.feature_channels == 4


@pytest.mark.parametrize("size", [(7, 9), (2, 8), (3, 6, 5)])
def test_the_border_is_repeated_at_the_far_end_and_cropped(size):
    network = UNet(1, 2, spatial_dims=len(size), widths=SMALL).eval()
    x = torch.randn(2, 1, *size)
    padded = x
    for axis, n in enumerate(size, start=2):
        last = padded.narrow(axis, n - 1, 1)
        padded = torch.cat([padded, *[last] * (-n % 4)], axis)
    inside = (..., *(slice(n) for n in size))
    assert torch.equal(network(x), network(padded)[inside])


def test_padding_to_a_smallest_size():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    padded = pad_to_multiple(x, 2, smallest=4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(crop_to(padded, (2, 3)), x)
    assert pad_to_multiple(padded, 2, smallest=4) is padded
    assert crop_to(x, (2, 3)) is x


@pytest.mark.parametrize("dims", [2, 3])
def test_the_output_is_the_head_of_the_features(dims):
    network = UNet(1, 2, spatial_dims=dims, widths=SMALL).eval()
    x = torch.randn(1, 1, *(5, 6, 7)[:dims])
    assert torch.equal(network(x), network.head(network.features(x)))


def test_a_bias_only_where_no_norm_follows():
    for norm in ("batch", "group", "none"):
        network = UNet(1, 2, widths=SMALL, norm=norm)
        blocks = [*network.encoder, *network.decoder]
        biases = {c.bias is not None for b in blocks for c in b if isinstance(c, nn.Conv2d)}
        assert biases == {norm == "none"}
        assert network.head.bias is not None


@pytest.mark.parametrize(
    ("width", "groups"),
    [(512, 8), (64, 8), (16, 8), (12, 6), (10, 5), (9, 3), (11, 1), (8, 4), (4, 2), (2, 1), (1, 1)],
)
def test_groups(width, groups):
    assert number_of_groups(width) == groups


def test_with_group_norm_images_of_a_batch_do_not_meet():
    network = randomise_norms(UNet(1, 2, widths=SMALL, norm="group"))
    x = torch.randn(3, 1, 8, 8)
    alone = torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(network(x), alone)


@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_drops_whole_channels_of_the_deepest_level_in_training_only(dims):
    network = UNet(1, 2, spatial_dims=dims, widths=(4, 64), dropout=0.5)
    seen = []
    network.dropout.register_forward_hook(lambda _, before, after: seen.append((before[0], after)))
    x = torch.randn(2, 1, *(8,) * dims)
    network(x)
    before, after = (t.detach().flatten(2) for t in seen.pop())
    assert before.shape[:2] == (2, 64)
    dropped = (after == 0).all(2)
    assert 30 < dropped.sum() < 98  # of 128, with probability 1/2 (six standard deviations)
    torch.testing.assert_close(after[~dropped], 2 * before[~dropped])
    network.eval()
    network(x)
    assert torch.equal(*seen.pop())


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_every_parameter_gets_a_gradient(norm):
    network = UNet(2, 3, widths=SMALL, norm=norm)
    network(torch.randn(2, 2, 9, 9)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_learns():
    torch.manual_seed(0)
    network = UNet(1, 2, widths=(8, 16))
    x = torch.randn(2, 1, 16, 16)
    labels = (F.avg_pool2d(x, 3, stride=1, padding=1)[:, 0] > 0).long()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimiser.step()
    assert (network(x).argmax(1) == labels).float().mean() > 0.97


def test_bfloat16_autocast():
    network = UNet(1, 2, widths=SMALL).eval()
    x = torch.randn(1, 1, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), network(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("dims", "memory_format"), [(2, torch.channels_last), (3, torch.channels_last_3d)]
)
def test_the_memory_format_does_not_matter(dims, memory_format):
    network = UNet(2, 2, spatial_dims=dims, widths=SMALL, norm="group").eval()
    x = torch.randn(1, 2, *(7,) * dims)
    expected = network(x)
    network.to(memory_format=memory_format)
    torch.testing.assert_close(network(x), expected)


def test_copies_share_nothing_and_weights_reload():
    network = UNet(1, 2, widths=SMALL)
    twin = copy.deepcopy(network)
    other = UNet(1, 2, widths=SMALL)
    other.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        expected = network.eval()(x)
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(twin.eval()(x), expected)
    assert torch.equal(other.eval()(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels=0, but a network needs at least one channel"),
        ({"out_channels": 0}, "out_channels=0, but"),
        ({"spatial_dims": 1}, r"spatial_dims=1, but it is 2 for images \(H, W\) or 3"),
        ({"widths": ()}, r"widths=\[\], but it is a list of one positive number"),
        ({"widths": (8, 0)}, r"widths=\[8, 0\], but"),
        ({"norm": "layer"}, "norm='layer', but it is one of 'batch', 'group', 'none'"),
        ({"dropout": 1.0}, "dropout=1.0, but it is a probability"),
        ({"dropout": -0.1}, "dropout=-0.1, but"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**({"in_channels": 1, "out_channels": 2} | arguments))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 8, 8), "built for in_channels=1, but the images have 3"),
        ((1, 8, 8), r"takes images of 2 spatial axes as \(B, C, H, W\), but .* \(1, 8, 8\)"),
        ((1, 1, 8, 8, 8), "takes images of 2 spatial axes"),
    ],
)
def test_wrong_images_are_told(shape, message):
    network = UNet(1, 2, widths=SMALL)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        network.features(torch.zeros(shape))


def test_batch_norm_over_a_single_value_is_told():
    network = UNet(1, 2, widths=SMALL)
    with pytest.raises(ValueError, match="one pixel there stands for 4 along each axis"):
        network(torch.zeros(1, 1, 3, 4))
    network(torch.zeros(2, 1, 4, 4))
    network(torch.zeros(1, 1, 4, 8))
    network.eval()(torch.zeros(1, 1, 3, 4))
    UNet(1, 2, widths=SMALL, norm="group")(torch.zeros(1, 1, 3, 4))
