"""Pixels of scenes: read, masked, in physical units."""

from geoelle.imagery.access import AccessPolicy
from geoelle.imagery.redaction import without_signature
from geoelle.imagery.tile import TilePixels, read_tile

__all__ = ("AccessPolicy", "TilePixels", "read_tile", "without_signature")
