"""Pictures for people: overlays, what annotators said, embeddings as colours, contact sheets.

All pictures are RGB, ``uint8 (H, W, 3)``, and of 2D images; `middle_slice` takes one out of a
stack.
"""

from semiweak.visualize.annotation import draw_annotation
from semiweak.visualize.color import Rgb, palette
from semiweak.visualize.embeddings import EmbeddingColors
from semiweak.visualize.layers import overlay
from semiweak.visualize.picture import middle_slice, save_png, to_rgb
from semiweak.visualize.prototypes import prototype_map
from semiweak.visualize.sheet import contact_sheet, instance_sheet
from semiweak.visualize.text import legend

__all__ = [
    "EmbeddingColors",
    "Rgb",
    "contact_sheet",
    "draw_annotation",
    "instance_sheet",
    "legend",
    "middle_slice",
    "overlay",
    "palette",
    "prototype_map",
    "save_png",
    "to_rgb",
]
