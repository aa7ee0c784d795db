"""Passes that leave the running statistics of batch normalisation alone."""

import pytest
import torch

from semiweak.networks.statistics import statistics_kept


@pytest.mark.parametrize("momentum", [0.1, 0.4, None])
def test_a_pass_uses_its_own_statistics_and_keeps_the_running_ones(momentum):
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=momentum), torch.nn.ReLU())
    network(torch.randn(4, 3, 5, 5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    strong = 7 * torch.randn(4, 3, 5, 5) - 20
    with statistics_kept(network):
        found = network(strong)
    assert network[0].momentum == momentum
    for name in ("0.running_mean", "0.running_var"):
        assert torch.equal(network.state_dict()[name], before[name])
    torch.testing.assert_close(found, torch.nn.BatchNorm2d(3)(strong).relu())
    network(strong)
    assert not torch.equal(network[0].running_mean, before["0.running_mean"])


def test_an_error_inside_leaves_the_momentum_as_it_was():
    network = torch.nn.BatchNorm2d(3)
    with pytest.raises(RuntimeError), statistics_kept(network):
        raise RuntimeError
    assert network.momentum == 0.1
