"""The exported methods, found by themselves."""

from __future__ import annotations

from inspect import isabstract

import semiweak
from semiweak.methods.base import SegmentationModule


def exported_methods() -> list[type[SegmentationModule]]:
    """Every method that the package exports; imports all exported names."""
    exported = [getattr(semiweak, name) for name in semiweak.__all__]
    return [
        cls
        for cls in exported
        if isinstance(cls, type) and issubclass(cls, SegmentationModule) and not isabstract(cls)
    ]
