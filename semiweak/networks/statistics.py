"""Batch normalisation beside views that prediction will never see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Keeps a pass in training mode from moving the running statistics of batch normalisation.

    The pass itself is normalised by its own batch, as ever. Strong views have holes and other grey
    levels; a network that predicts by a mixture of their statistics and those of real images fits
    neither.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
