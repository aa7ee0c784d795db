"""Annotation files: boxes in COCO or PASCAL VOC form, points, tags and manifests as CSV."""

from semiweak.data.formats.checks import check_boxes, check_points, check_size, check_stems
from semiweak.data.formats.coco import BoxAnnotations, read_coco_boxes
from semiweak.data.formats.manifest import ManifestRow, read_manifest
from semiweak.data.formats.points import read_points
from semiweak.data.formats.tags import read_tags
from semiweak.data.formats.voc import read_voc_boxes

__all__ = [
    "BoxAnnotations",
    "ManifestRow",
    "check_boxes",
    "check_points",
    "check_size",
    "check_stems",
    "read_coco_boxes",
    "read_manifest",
    "read_points",
    "read_tags",
    "read_voc_boxes",
]
