"""SPOCO: all losses of single objects and of regions that nobody painted.

[SPOCO] Wolny et al., "Sparse Object-level Supervision for Instance Segmentation with Pixel
Embeddings", CVPR 2022, arXiv 2103.14572; equations 1 to 8.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from semiweak.losses.consistency import ConsistencyTerm, draw_anchors
from semiweak.losses.discriminative import MeansTerm, norm_loss, push_loss
from semiweak.losses.distances import sum_over_pixels
from semiweak.losses.objects import find_objects, object_means, random_pixels
from semiweak.losses.single_objects import ObjectTerm, kernel_width

Known = tuple[Tensor, Tensor]
"""The loss of each image ``(B,)`` and which images it speaks about ``bool (B,)``."""


def spoco_losses(
    f: Tensor,
    g: Tensor | None,
    instances: Tensor,
    *,
    valid: Tensor | None = None,
    delta_v: float = 0.5,
    delta_d: float = 2.0,
    threshold: float = 0.9,
    kind: Literal["dice", "bce"] = "dice",
    anchor: Literal["pixel", "mean"] = "pixel",
    region: Literal["unlabelled", "all"] = "unlabelled",
    max_anchors: int = 20,
    object_terms: bool = True,
    single_objects: bool = True,
    unlabeled_push: bool = True,
    generator: torch.Generator | None = None,
) -> dict[str, Known]:
    """All terms of L_SO and L_SSO (Eq 5 and 8), in one pass through the embeddings.

    Each term is the function of the same name, `pull_loss`, `push_loss`, `norm_loss`,
    `object_loss`, `unlabeled_push_loss` and `consistency_loss`, and the sums of Eq 5 and 8 are
    those of the terms by their weights.

    Args:
        f: Embeddings, ``(B, D, *S)``.
        g: Those of the second network; None to leave the consistency out.
        instances: Object ids ``int64 (B, *S)``, 0 where unlabelled.
        valid: False in padding, ``bool (B, *S)``.
        delta_v: Margin of the pull, and radius of a soft mask.
        delta_d: Margin of the push.
        threshold: t of the kernel.
        kind: Loss of a single object, ``"dice"`` or ``"bce"``.
        anchor: Anchor of a single object: a random ``"pixel"`` of it, as the paper says, or its
            ``"mean"``, as its authors' code does.
        region: Where the anchors of the consistency come from: the ``"unlabelled"`` pixels, or
            ``"all"``, by which it also regularises images that are painted completely.
        max_anchors: See `draw_anchors`.
        object_terms: False leaves out all terms that speak of painted objects.
        single_objects: False leaves the object loss out.
        unlabeled_push: False leaves the unlabelled push out.
        generator: Draws the anchors.

    Returns:
        ``pull``, ``push``, ``norm``, ``object``, ``unlabeled_push`` and ``consistency``, as far as
        they are not left out.
    """
    objects = find_objects(instances, valid)
    width = kernel_width(delta_v, threshold)
    f = f.flatten(2)
    means_term, object_term, consistency_term = None, None, None
    if object_terms:
        means = object_means(f, objects)
        push_away = delta_d if unlabeled_push and bool(objects.unlabelled.any()) else None
        means_term = MeansTerm(objects, means, delta_v=delta_v, delta_d=push_away)
        if single_objects:
            at = means if anchor == "mean" else random_pixels(objects, generator)
            object_term = ObjectTerm(objects, at, width, kind)
    if g is not None:
        g = g.flatten(2)
        where = objects if region == "unlabelled" else objects.unpainted()
        anchors = draw_anchors(
            f, g, where, delta_v=delta_v, max_anchors=max_anchors, generator=generator
        )
        consistency_term = ConsistencyTerm(anchors, objects, width)

    terms = [t for t in (means_term, object_term, consistency_term) if t is not None]
    of_terms = sum_over_pixels([f] if g is None else [f, g], terms, objects.outside)
    sums = dict(zip(terms, of_terms, strict=True))
    found: dict[str, Known] = {}
    if means_term is not None:
        found["pull"] = means_term.pull(sums[means_term])
        found["push"] = push_loss(means, objects, delta_d=delta_d)
        found["norm"] = norm_loss(means, objects)
        if object_term is not None:
            found["object"] = object_term.loss(sums[object_term])
        if unlabeled_push:
            found["unlabeled_push"] = means_term.unlabeled_push(sums[means_term])
    if consistency_term is not None:
        found["consistency"] = consistency_term.loss(sums[consistency_term])
    return found
