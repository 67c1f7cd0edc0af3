"""STAC catalogs: finding items, freezing what was found, grouping it into scenes."""

from geoelle.catalog.filters import FilterCounts, Filters
from geoelle.catalog.finding import find_items
from geoelle.catalog.items_file import items_frame, read_items, records_from_frame, write_items
from geoelle.catalog.scenes import group_scenes

__all__ = (
    "FilterCounts",
    "Filters",
    "find_items",
    "group_scenes",
    "items_frame",
    "read_items",
    "records_from_frame",
    "write_items",
)
