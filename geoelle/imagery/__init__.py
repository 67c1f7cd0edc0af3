"""Pixels of scenes: read, masked, in physical units."""

from geoelle.imagery.access import AccessPolicy
from geoelle.imagery.darkpixels import DarkPixels, check_radiometry, dark_pixels
from geoelle.imagery.radiometry import scaling
from geoelle.imagery.redaction import without_signature
from geoelle.imagery.tile import CloudMask, TileMemory, TilePixels, mask_source, read_tile

__all__ = (
    "AccessPolicy",
    "CloudMask",
    "DarkPixels",
    "TileMemory",
    "TilePixels",
    "check_radiometry",
    "dark_pixels",
    "mask_source",
    "read_tile",
    "scaling",
    "without_signature",
)
