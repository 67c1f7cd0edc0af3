"""Stores on disk: Zarr rasters, probes, pairs. The only user of zarr."""

from geoelle.store.layout import open_store

__all__ = ("open_store",)
