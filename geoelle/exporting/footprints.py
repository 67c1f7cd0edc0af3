"""Outlines in longitude and latitude, cut where they cross the antimeridian."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from geoelle.grid import GridExtent

_EDGE_POINTS = 8
_HALF_TURN = 180.0  # no chip and no zone is so wide: what seems to be crosses the antimeridian
type Box = tuple[float, float, float, float]


def chip_polygons(extent: GridExtent, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.object_]:
    """Outlines of chips in EPSG:4326, counter-clockwise, of shape (chip,).

    Args:
        extent: The run's part of the grid.
        rows: Rows of the run's arrays, of shape (chip,).
        columns: Columns of the run's arrays, of shape (chip,).
    """
    half = extent.grid.chip_size_m / 2
    x, y = extent.x[columns][:, None], extent.y[rows][:, None]
    ring_x = x + half * np.array([-1, 1, 1, -1, -1])
    ring_y = y + half * np.array([-1, -1, 1, 1, -1])
    rings = _lonlat(extent, ring_x, ring_y)
    polygons = np.asarray(shapely.polygons(rings), dtype=object)
    for i in np.flatnonzero(np.ptp(rings[..., 0], axis=1) > _HALF_TURN):
        polygons[i] = _cut(rings[i])
    return polygons


def extent_footprint(extent: GridExtent) -> BaseGeometry:
    """Outline of a run's raster in EPSG:4326; its edges have vertices enough to bend as they should."""
    height, width = extent.shape
    t = extent.transform
    west, north, east, south = t.c, t.f, t.c + t.a * width, t.f + t.e * height
    dense = shapely.segmentize(shapely.box(west, south, east, north), max(east - west, north - south) / _EDGE_POINTS)
    ring = shapely.get_coordinates(shapely.normalize(dense))
    lonlat = _lonlat(extent, ring[:, 0], ring[:, 1])
    return shapely.orient_polygons(_cut(lonlat))


def centre_longitude(extent: GridExtent) -> float:
    """Longitude of the middle of a run's raster, degrees."""
    middle = np.array([extent.x.mean()]), np.array([extent.y.mean()])
    return float(_lonlat(extent, *middle)[0, 0])


def bounds_of(geometry: BaseGeometry) -> Box:
    """West, south, east, north in degrees; west is larger than east where it crosses the antimeridian (RFC 7946)."""
    west, south, east, north = (float(v) for v in geometry.bounds)
    if west == -180 and east == 180 and geometry.geom_type == "MultiPolygon":
        parts = [part.bounds for part in geometry.geoms]
        west = float(min(p[0] for p in parts if p[2] == 180))
        east = float(max(p[2] for p in parts if p[0] == -180))
    return west, south, east, north


def _lonlat(extent: GridExtent, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = Transformer.from_crs(extent.grid.epsg, 4326, always_xy=True).transform(x, y)
    return np.stack([np.asarray(lon, float), np.asarray(lat, float)], axis=-1)


def _cut(ring: NDArray[np.float64]) -> BaseGeometry:
    """A polygon of a closed ring (vertex, 2); two, one on each side, where the ring crosses the antimeridian."""
    lon = ring[:, 0]
    if np.ptp(lon) <= _HALF_TURN:
        return shapely.Polygon(ring)
    shifted = shapely.Polygon(np.stack([np.where(lon < 0, lon + 360, lon), ring[:, 1]], axis=-1))
    east = shapely.intersection(shifted, shapely.box(0, -90, 180, 90))
    west = shapely.intersection(shifted, shapely.box(180, -90, 360, 90))
    back = shapely.transform(west, lambda xy: xy - np.array([360.0, 0.0]))
    return shapely.MultiPolygon([part for part in (east, back) if part.geom_type == "Polygon"])
