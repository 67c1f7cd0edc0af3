"""Stores as files for others: COG for desktops, GeoParquet for tables, a STAC catalog over all of it."""

from geoelle.exporting.exports import ExportSummary, export

__all__ = ("ExportSummary", "export")
