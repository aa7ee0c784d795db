"""Every semantic method on a transformer, with images of a size that no stride divides."""

from __future__ import annotations

import inspect

import pytest
import torch

import semiweak
from semiweak.data.annotations import Annotation, Sample
from semiweak.data.batch import collate, semantic_item, to_contract
from semiweak.data.synthetic import synthetic_sample
from semiweak.data.weaken import to_boxes, to_points
from semiweak.methods.catalogue import exported_methods
from semiweak.methods.semantic import SemanticModule

METHODS = [
    cls
    for cls in exported_methods()
    if issubclass(cls, SemanticModule) and "network" in inspect.signature(cls).parameters
]
SEGFORMER = {"network": "smp.Segformer", "encoder": "mit_b0"}
SWIN_UNET = {"network": "smp.Unet", "encoder": "tu-swin_tiny_patch4_window7_224"}


def batch(shape=(45, 70)):
    drawn = [synthetic_sample(i, shape=shape, num_classes=3) for i in range(4)]
    truth = [sample.annotation.without_instances() for sample in drawn]
    known = [truth[0], to_boxes(truth[1], 3), to_points(truth[2], 3), Annotation()]
    items = [
        semantic_item(Sample(s.image, a, s.name), 3) for s, a in zip(drawn, known, strict=True)
    ]
    found = to_contract(collate(items))
    return found | {"image": found["image"].float() / 50 - 2}


@pytest.mark.parametrize(
    ("cls", "backbone"),
    [
        *((cls, SEGFORMER) for cls in METHODS),
        # 31 million weights: one method that asks for logits and one for features are enough.
        (semiweak.SupervisedModule, SWIN_UNET),
        (semiweak.DSPModule, SWIN_UNET),
    ],
    ids=lambda value: getattr(value, "__name__", None) or value["encoder"],
)
def test_transformers_are_a_backbone_of_every_semantic_method(cls, backbone):
    torch.manual_seed(0)
    module = cls(num_classes=3, **backbone)
    terms = module.losses(batch())
    sum(terms.values()).backward()
    learns = [p for p in module.network.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learns)
    assert sum(p.grad.abs().sum() for p in learns) > 0
    module.eval()
    with torch.no_grad():
        found = module.predict_probabilities(torch.randn(1, 1, 45, 70))
    assert found.shape == (1, 3, 45, 70)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 45, 70))
