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
from semiweak.losses.distances import Term, means_and_sums
from semiweak.losses.objects import find_objects, random_pixels
from semiweak.losses.single_objects import ObjectTerm, kernel_width

Known = tuple[Tensor, Tensor]
"""The loss of each image ``(B,)`` and which images it speaks about ``bool (B,)``."""

_TERMS = ("pull", "push", "norm", "object", "unlabeled_push", "consistency")


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
    f, g = f.flatten(2), None if g is None else g.flatten(2)
    push_away = delta_d if unlabeled_push and bool(objects.unlabelled.any()) else None

    def terms_of(means: Tensor) -> list[Term]:
        terms: list[Term] = []
        if object_terms:
            terms.append(MeansTerm(objects, means, delta_v=delta_v, delta_d=push_away))
        if object_terms and single_objects:
            at = means if anchor == "mean" else random_pixels(objects, generator)
            terms.append(ObjectTerm(objects, at, width, kind))
        if g is not None:
            where = objects if region == "unlabelled" else objects.unpainted()
            anchors = draw_anchors(
                f, g, where, delta_v=delta_v, max_anchors=max_anchors, generator=generator
            )
            terms.append(ConsistencyTerm(anchors, objects, width))
        return terms

    means, terms, of_terms = means_and_sums([f] if g is None else [f, g], objects, terms_of)
    found: dict[str, Known] = {}
    for term, sums in zip(terms, of_terms, strict=True):
        if isinstance(term, MeansTerm):
            found["pull"] = term.pull(sums)
            found["push"] = push_loss(means, objects, delta_d=delta_d)
            found["norm"] = norm_loss(means, objects)
            if unlabeled_push:
                found["unlabeled_push"] = term.unlabeled_push(sums)
        elif isinstance(term, ObjectTerm):
            found["object"] = term.loss(sums)
        elif isinstance(term, ConsistencyTerm):
            found["consistency"] = term.loss(sums)
    return {name: found[name] for name in _TERMS if name in found}
