"""Weaker annotations derived from complete masks, to find out how much painting a method needs.

Every function takes an `Annotation` with a mask and returns a new one that an annotator with less
time could have given of the same image. What it says is always true of the mask: `understand` never
rules out the class that was painted, and pixels that are unknown in the mask stay unknown.

An *object* or *component* of a class is a set of its pixels that hang together by their faces,
edges or corners.
"""

from semiweak.data.weaken.boxes import to_boxes
from semiweak.data.weaken.objects import to_objects
from semiweak.data.weaken.points import LARGEST_GRID, medoid, to_points
from semiweak.data.weaken.scribbles import to_scribbles
from semiweak.data.weaken.summary import Summary, summarise
from semiweak.data.weaken.tags import to_nothing, to_tags
from semiweak.data.weaken.weakening import Weakening

__all__ = [
    "LARGEST_GRID",
    "Summary",
    "Weakening",
    "medoid",
    "summarise",
    "to_boxes",
    "to_nothing",
    "to_objects",
    "to_points",
    "to_scribbles",
    "to_tags",
]
