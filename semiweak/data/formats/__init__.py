"""Annotation files: boxes in COCO form, points, tags and manifests as CSV."""

from semiweak.data.formats.checks import check_boxes, check_points, check_stems
from semiweak.data.formats.coco import BoxAnnotations, read_coco_boxes
from semiweak.data.formats.manifest import ManifestRow, read_manifest
from semiweak.data.formats.points import read_points
from semiweak.data.formats.tags import read_tags

__all__ = [
    "BoxAnnotations",
    "ManifestRow",
    "check_boxes",
    "check_points",
    "check_stems",
    "read_coco_boxes",
    "read_manifest",
    "read_points",
    "read_tags",
]
