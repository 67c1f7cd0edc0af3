"""How much of an AOI the scenes of a search cover."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geoelle.catalog.footprints import footprint_of
from geoelle.catalog.scenes import solar_day
from geoelle.records import ItemRecord

_LONGEST_EDGE_DEG = 0.25


def covered_fractions(items: Iterable[ItemRecord], aoi: BaseGeometry) -> Mapping[np.datetime64, float]:
    """Share of an AOI's area that the footprints of each solar day cover, by day, 0 to 1.

    Areas are those of the cylindrical equal-area projection of a sphere (Snyder 1987, section 10); the ellipsoid
    changes both alike.

    Args:
        items: Items of any days.
        aoi: Polygons in EPSG:4326.
    """
    total = _area(aoi)
    by_day: dict[np.datetime64, list[BaseGeometry]] = {}
    for item in items:
        by_day.setdefault(solar_day(item), []).append(footprint_of(item))
    return {
        day: min(1.0, _area(shapely.intersection(shapely.union_all(grounds), aoi)) / total) if total else 0.0
        for day, grounds in by_day.items()
    }


def _area(geometry: BaseGeometry) -> float:
    # A straight edge in degrees is a curve on the map.
    return float(shapely.area(shapely.transform(shapely.segmentize(geometry, _LONGEST_EDGE_DEG), _equal_area)))


def _equal_area(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = np.radians(lonlat).T
    return np.stack([x, np.sin(y)], axis=1)
