"""Footprints of items."""

from __future__ import annotations

import shapely
from shapely.geometry.base import BaseGeometry

from geoelle.records import ItemRecord


def footprint_of(item: ItemRecord) -> BaseGeometry:
    """Placeholder until the search helper's lands."""
    geometry = item.raw.get("geometry")
    return shapely.geometry.shape(geometry) if geometry else shapely.box(*item.bbox)
