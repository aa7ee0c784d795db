"""A small SpocoModule, and a batch with an image of every kind of annotation."""

from __future__ import annotations

from typing import Any

import torch
from adversarial_small import batch
from torch import Tensor

from semiweak import SpocoModule
from semiweak.data.batch import InstanceBatch
from semiweak.losses.objects import find_objects, object_means

PLAIN = {"jitter_p": 0.0, "blur_p": 0.0, "noise_p": 0.0, "gray_p": 0.0}
"""Views that are the image itself."""
NOISY = PLAIN | {"noise_p": 1.0, "noise_std": (0.5, 0.5)}
OBJECT_TERMS = ("pull", "push", "norm", "object")


def build(**arguments: Any) -> SpocoModule:
    torch.manual_seed(0)
    # A margin that embeddings of random weights do not meet already.
    small = {"widths": [4, 8], "norm": "group", "embedding_dim": 4, "delta_v": 0.1}
    return SpocoModule(**(small | arguments))


def three() -> InstanceBatch:
    """One image painted completely, one of which two objects are painted, one with nothing."""
    one = batch()
    image = torch.cat((one["image"], one["image"][:1] + 0.3))
    instances = torch.zeros(3, *one["instances"].shape[1:], dtype=torch.long)
    instances[0] = 3
    instances[0, :10, :10], instances[0, 12:20, 4:20] = 1, 2
    instances[1, 5:15, 5:15], instances[1, 20:, :] = 1, 4
    valid = torch.ones(instances.shape, dtype=torch.bool)
    return {
        "image": image,
        "instances": instances,
        "background": torch.tensor([3, 0, 0]),
        "valid": valid,
        "name": list("abc"),
    }


def losses(module: SpocoModule, one: InstanceBatch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return module.losses(one)


def flat(module: SpocoModule, one: InstanceBatch) -> tuple[Tensor, Any, Tensor]:
    """Embeddings, objects and their means as the functions of `semiweak.losses` take them."""
    f = module(one["image"]).flatten(2)
    objects = find_objects(one["instances"], one["valid"])
    return f, objects, object_means(f, objects)
