"""Geometries across the antimeridian: from however they were written to parts within -180 to 180 degrees.

The rule: an edge longer than 180 degrees of longitude goes the short way, so a polygon that jumps from 179 to -179 is
two degrees wide. Only an edge from -180 to 180 itself may run round the whole Earth: where that is what closes its
ring. So an area wider than half the Earth is given as a bounding box, or with a vertex at least every 180 degrees.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from shapely.validation import explain_validity

from geoelle.errors import AOIError

_TURN = 360.0


def split_at_antimeridian(geometry: BaseGeometry, name: str = "The geometry") -> BaseGeometry:
    """A polygon or multipolygon in EPSG:4326 with longitudes within -180 to 180, cut at 180 where it goes across.

    What lies within already comes back as it is. So does what is no area on Earth: it is for `check_aoi` to refuse.

    Args:
        geometry: Polygon or MultiPolygon, longitudes from -360 to 360 degrees.
        name: How an error calls it.

    Raises:
        AOIError: If it goes round a pole or more than once round the Earth, or crosses itself.
    """
    if geometry.geom_type not in ("Polygon", "MultiPolygon") or geometry.is_empty:
        return geometry
    xy = shapely.get_coordinates(geometry)
    if not (np.isfinite(xy).all() and (np.abs(xy) <= (_TURN, 90.0)).all()):
        return geometry
    whole = [_unwrapped(polygon, name) for polygon in shapely.get_parts(geometry)]
    if all(p is q for p, q in whole) and geometry.bounds[0] >= -180 and geometry.bounds[2] <= 180:
        return geometry
    pieces = [piece for _, polygon in whole for piece in _cut(polygon, name)]
    return shapely.union_all(pieces)


def turned(geometry: BaseGeometry, turns: int) -> BaseGeometry:
    """The geometry, so many times 360 degrees further east."""
    return shapely.transform(geometry, lambda xy: xy + np.array([_TURN * turns, 0.0])) if turns else geometry


def polygons_of(geometry: BaseGeometry) -> BaseGeometry:
    """The areas among the parts of a geometry, without lines and points that an overlay leaves."""
    parts = shapely.get_parts(geometry)
    nested = shapely.get_parts(parts[shapely.get_type_id(parts) >= 4])
    areas = [p for p in [*parts, *nested] if p.geom_type == "Polygon"]
    return areas[0] if len(areas) == 1 else shapely.MultiPolygon(areas)


def _unwrapped(polygon: BaseGeometry, name: str) -> tuple[BaseGeometry, BaseGeometry]:
    """A polygon, and the same without jumps in longitude; the very same object where it has none."""
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    smooth = [_without_jumps(ring, name) for ring in rings]
    west = smooth[0][:, 0].min()
    for hole in smooth[1:]:  # beside the shell, however it was written
        hole[:, 0] += _TURN * np.ceil((west - hole[:, 0].min()) / _TURN - 1e-9)
    if all(np.array_equal(a, b) for a, b in zip(rings, smooth, strict=True)):
        return polygon, polygon
    return polygon, shapely.Polygon(smooth[0], smooth[1:])


def _without_jumps(ring: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    step = np.diff(ring[:, 0])
    long = np.abs(step) > _TURN / 2
    for jumps in (long, long & (np.abs(step) != _TURN)):
        turns = np.concatenate([[0], np.cumsum(np.where(jumps, -np.sign(step), 0))])
        lon = ring[:, 0] + _TURN * turns
        # A whole circle written from -180 to 180 would shrink to nothing, or not close, by the short way.
        if turns[-1] == 0 and (np.ptp(lon) > 0 or not jumps.any()):
            return np.stack([lon, ring[:, 1]], axis=1)
    raise AOIError(
        f"{name} goes round a pole: its longitudes do not come back to where they start. Cut it along a meridian, or "
        "leave the pole out; the grids end at 84 degrees."
    )


def _cut(polygon: BaseGeometry, name: str) -> list[BaseGeometry]:
    west, south, east, north = polygon.bounds
    if east - west > _TURN:
        raise AOIError(
            f"{name} reaches from longitude {west:g} to {east:g}, more than once round the Earth. Expected at most "
            "360 degrees."
        )
    if not polygon.is_valid:
        raise AOIError(
            f"{name} is not a valid polygon ({explain_validity(polygon)}). Mend it, for example with QGIS's Fix "
            "geometries."
        )
    pieces = []
    for turn in range(int(np.floor((west + 180) / _TURN)), int(np.floor((east + 180) / _TURN)) + 1):
        left = _TURN * turn - 180
        inside = left <= west and east <= left + _TURN
        part = polygon if inside else polygons_of(polygon.intersection(shapely.box(left, south, left + _TURN, north)))
        if not part.is_empty:
            pieces.append(turned(part, -turn))
    return pieces
