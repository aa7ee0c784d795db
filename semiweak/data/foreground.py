"""From painted objects to two classes: foreground and background."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semiweak.data.annotations import UNKNOWN, Annotation, Sample, Task


def foreground_of(annotation: Annotation) -> Annotation:
    """What painted objects say of two classes: 1 is the inside of any object, 0 the background.

    Background is known where every object is painted and nowhere else: of a partial painting only
    the objects are known. Objects that overlap are no contradiction, since both are class 1.

    Returns:
        The annotation with a mask in place of the objects; without one where nothing is known.
    """
    said = replace(annotation, instances=None, instances_complete=False, contradictions=())
    objects = annotation.instances
    if objects is None:
        return said
    mask = (objects != 0).astype(np.uint8)
    if not annotation.instances_complete:
        mask[mask == 0] = UNKNOWN
    if annotation.valid is not None:
        mask[~annotation.valid] = UNKNOWN
    return replace(said, valid=None, mask=mask if (mask != UNKNOWN).any() else None)


def class_names_of(
    task: Task, class_names: list[str] | None = None, foreground: str = "cell"
) -> list[str] | None:
    """The classes of a data set of painted objects; objects themselves have none.

    Raises:
        ValueError: Names for objects, or not two names.
    """
    if task == "instances":
        if class_names:
            raise ValueError(
                f"class_names is {class_names}, but objects have no classes; leave it out, or set "
                "data.task to semantic to learn foreground and background"
            )
        return None
    if class_names is not None and len(class_names) != 2:
        raise ValueError(
            f"class_names is {class_names}; painted objects tell two classes: name the background "
            "and the foreground, such as [background, cell]"
        )
    return class_names or ["background", foreground]


def in_two_classes(sample: Sample) -> Sample:
    """The image with foreground and background in place of its objects."""
    return replace(sample, annotation=foreground_of(sample.annotation))
