"""Stores on disk and in object stores: Zarr rasters, probes, pairs. The only user of zarr."""

from geoelle.store.layout import open_store
from geoelle.store.quantised import read_embedding
from geoelle.store.zones import open_area

__all__ = ("open_area", "open_store", "read_embedding")
