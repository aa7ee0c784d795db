"""Synthetic micrographs of cells with organelles, as embedded data for tests, examples and demos.

The scene: cells that meet at membranes, in each a nucleus, mitochondria with inner stripes,
vesicles, lysosomes and other bodies, in the style of electron microscopy. The grey levels of the
classes overlap and vary from image to image, so that only shape and texture tell them apart. What
an image shows does not depend on the number of classes: structures beyond it are background, and
look enough like the others to mislead.

A second scene shows cells that touch, for learning to tell objects of one class apart.
"""

from semiweak.data.synthetic.cells import CELL_CLASSES, cell_sample
from semiweak.data.synthetic.sample import synthetic_sample
from semiweak.data.synthetic.scene import (
    BACKGROUND,
    CLASS_NAMES,
    DROPLET,
    LYSOSOME,
    MEMBRANE,
    MITOCHONDRION,
    NUCLEUS,
    RETICULUM,
    VESICLE,
)

__all__ = [
    "BACKGROUND",
    "CELL_CLASSES",
    "CLASS_NAMES",
    "DROPLET",
    "LYSOSOME",
    "MEMBRANE",
    "MITOCHONDRION",
    "NUCLEUS",
    "RETICULUM",
    "VESICLE",
    "cell_sample",
    "synthetic_sample",
]
