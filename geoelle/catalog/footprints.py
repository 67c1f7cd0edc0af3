"""Footprints of items as geometry that can be trusted: valid, and within -180 to 180 degrees.

Providers write what crosses the antimeridian in four ways: cut at 180 (RFC 7946), with longitudes beyond 180, with a
bbox whose west is greater than its east, or as a ring that runs the wrong way round the world. All come out cut at 180.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geoelle.errors import CatalogError
from geoelle.records import ItemRecord

_TURN = 360.0
_WIDEST_DEG, _TALLEST_DEG = 90.0, 60.0
"""A ring that jumps across 180 is a scene if it is at most so large read that way; larger ones are global products."""
_POLAR_DEG = 60.0
_TURNS = (-2, -1, 0, 1, 2)


def footprint(raw: Mapping[str, Any]) -> BaseGeometry:
    """The ground that a STAC item covers, from its geometry or else its bbox.

    Args:
        raw: STAC item as JSON.

    Returns:
        Valid geometry in EPSG:4326, longitudes within -180 to 180, cut at 180 where the item goes across.

    Raises:
        CatalogError: If its geometry cannot be read, or lies nowhere on Earth.
    """
    try:
        geometry, bbox = raw.get("geometry"), raw.get("bbox")
        found = shapely.geometry.shape(geometry) if geometry else _box(bbox)
        return _within_world(found, bbox)
    except (
        shapely.errors.ShapelyError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError
    ):  # fmt: skip
        raise CatalogError(
            f"Item {str(raw.get('id'))[:80]} has a geometry that cannot be read. "
            "Ask the provider, or leave it out with --exclude."
        ) from None


def footprint_of(item: ItemRecord) -> BaseGeometry:
    """The ground that an item covers; as `footprint`."""
    return footprint({"id": item.id, "geometry": item.raw.get("geometry"), "bbox": item.bbox})


def middle_longitude(item: ItemRecord) -> float:
    """Longitude of the middle of an item, degrees, -180 to 180; right for items across the antimeridian too."""
    west, _, east, _ = item.bbox
    if west > east:
        east += _TURN
    elif east - west > _TURN / 2:
        west, east = _narrowest(item, west, east)
    return ((west + east) / 2 + 180) % _TURN - 180


def _narrowest(item: ItemRecord, west: float, east: float) -> tuple[float, float]:
    """A bbox round the world belongs to a global product, or to an item cut at 180, of which it says nothing."""
    try:
        bounds = shapely.bounds(shapely.get_parts(footprint_of(item)))
    except CatalogError:
        return west, east
    turned = bounds[:, [0, 2]] + np.where(bounds[:, 2] <= 0, _TURN, 0.0)[:, None]
    wests, easts = (bounds[:, 0], bounds[:, 2]), (turned[:, 0], turned[:, 1])
    if np.ptp(easts) < np.ptp(wests):
        return float(turned.min()), float(turned.max())
    return float(wests[0].min()), float(wests[1].max())


def _box(bbox: Any) -> BaseGeometry:
    west, south, east, north = bbox if len(bbox) == 4 else (*bbox[:2], *bbox[3:5])
    return shapely.box(west, south, east + _TURN if east < west else east, north)


def _within_world(geometry: BaseGeometry, bbox: Any) -> BaseGeometry:
    xy = shapely.get_coordinates(geometry)
    if not len(xy) or not np.isfinite(xy).all():
        raise ValueError("no coordinates")
    low, high = xy.min(axis=0), xy.max(axis=0)
    if low[0] >= -180 and high[0] <= 180 and high[0] - low[0] <= 180 and low[1] >= -90 and high[1] <= 90:
        return geometry if shapely.is_valid(geometry) else shapely.make_valid(geometry)
    crosses = isinstance(bbox, list | tuple) and len(bbox) in (4, 6) and bbox[0] > bbox[len(bbox) // 2]
    parts = [
        _smooth(part, crosses) if part.geom_type == "Polygon" else part
        for part in _leaves(geometry)
    ]  # fmt: skip
    pieces = [piece for part in parts for piece in _wrapped(part)]
    if not pieces:
        raise ValueError("not on Earth")
    return shapely.union_all(pieces)


def _leaves(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The simple geometries in a geometry."""
    if not hasattr(geometry, "geoms"):
        return [geometry]
    return [leaf for part in geometry.geoms for leaf in _leaves(part)]


def _smooth(polygon: BaseGeometry, crosses: bool) -> BaseGeometry:
    """A polygon without jumps in longitude, where it is one that crosses the antimeridian."""
    shell = _unwrapped(shapely.get_coordinates(polygon.exterior), crosses)
    if shell is None:
        return polygon
    holes = []
    for ring in polygon.interiors:
        hole = _unwrapped(shapely.get_coordinates(ring), True)
        hole = shapely.get_coordinates(ring) if hole is None else hole
        hole[:, 0] += _TURN * np.ceil((shell[:, 0].min() - hole[:, 0].min()) / _TURN - 1e-9)
        holes.append(hole)
    return shapely.Polygon(shell, holes)


def _unwrapped(ring: NDArray[np.float64], crosses: bool) -> NDArray[np.float64] | None:
    """A ring whose every edge goes the short way; None where it is right as it is."""
    lon, lat = ring[:, 0], ring[:, 1]
    steps = np.diff(lon)
    if not (np.abs(steps) > _TURN / 2).any():
        return None
    short = (steps + _TURN / 2) % _TURN - _TURN / 2
    smooth = np.concatenate([[lon[0]], lon[0] + np.cumsum(short)])
    width, height = np.ptp(smooth), np.ptp(lat)
    round_pole = abs(smooth[-1] - smooth[0]) > 1
    if round_pole and height <= 90 and np.abs(lat).max() > _POLAR_DEG:
        pole = np.copysign(90.0, lat.mean())
        smooth = np.concatenate([smooth, [smooth[-1], smooth[0]]])
        return np.stack([smooth, np.concatenate([lat, [pole, pole]])], axis=1)
    small = 1e-6 < width <= _WIDEST_DEG and height <= _TALLEST_DEG
    return np.stack([smooth, lat], axis=1) if not round_pole and width > 0 and (crosses or small) else None


def _wrapped(part: BaseGeometry) -> list[BaseGeometry]:
    """A geometry's pieces within -180 to 180 degrees, each moved by whole turns."""
    part = part if shapely.is_valid(part) else shapely.make_valid(part)
    dimension = shapely.get_dimensions(part)
    pieces = []
    for turn in _TURNS:
        window = shapely.box(_TURN * turn - 180, -90, _TURN * turn + 180, 90)
        inside = shapely.transform(shapely.intersection(part, window), lambda xy, t=turn: xy - (_TURN * t, 0.0))
        # Where two windows meet, one of them has a line only.
        pieces += [p for p in _leaves(inside) if not p.is_empty and shapely.get_dimensions(p) == dimension]
    return pieces
