"""Alerts and the area of interest as GeoJSON that holds nothing but what the page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geoelle.errors import MapError
from geoelle.webmap.text import alert_popup

if TYPE_CHECKING:
    import geopandas as gpd

    from geoelle.webmap.overlays import Bounds

_NAMES_IN_TITLE = 3
_COORDINATE_DECIMALS = 6  # a decimetre


def alert_features(
    alerts: gpd.GeoDataFrame | None, unit: str | None, max_alerts: int, *, middle_deg: float = 0.0
) -> dict[str, list[dict[str, Any]]]:
    """GeoJSON features by date; within a date the first-ranked last, so that it lies on top.

    On a map about longitude `middle_deg`, longitudes lie within 180 degrees of it.
    """
    import shapely

    by_date: dict[str, list[dict[str, Any]]] = {}
    if alerts is None:
        return by_date
    for row in reversed(alerts.head(max_alerts).to_dict("records")):
        geometry = row["geometry"]
        if geometry is None or geometry.is_empty or geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise MapError(f"Alert {row['rank']} has no polygon. Make the alerts again with geoelle delta.")
        if not np.isfinite(shapely.get_coordinates(geometry)).all():
            raise MapError(f"Alert {row['rank']} has coordinates that are not numbers. Make the alerts again.")
        feature = {
            "type": "Feature",
            "id": int(row["rank"]),
            "geometry": _plain_geometry(geometry, middle_deg),
            "properties": {
                "direction": "down" if row["direction"] == "down" else "up",
                "popup": alert_popup(row, unit),
            },
        }
        by_date.setdefault(str(row["date"])[:10], []).append(feature)
    return dict(sorted(by_date.items()))


def n_alerts_by_date(alerts: gpd.GeoDataFrame | None) -> dict[str, int]:
    """How many alerts each date has, drawn or not."""
    return {} if alerts is None else dict(Counter(str(date)[:10] for date in alerts["date"]))


def _plain_geometry(geometry: Any, middle_deg: float) -> dict[str, Any]:
    import shapely

    if middle_deg != 0:
        parts = [p if p.centroid.x >= 0 else _further(p) for p in shapely.get_parts(geometry)]
        geometry = shapely.union_all(parts)
    rounded = shapely.transform(geometry, lambda xy: np.round(xy, _COORDINATE_DECIMALS))
    return dict(shapely.geometry.mapping(rounded))


def _further(geometry: Any) -> Any:
    import shapely

    return shapely.transform(geometry, lambda xy: xy + np.array([360.0, 0.0]))


def aoi_outline(attrs: Mapping[str, Any], middle_deg: float = 0.0) -> dict[str, Any] | None:
    """The AOI's geometries without their properties; None where the store has none."""
    import shapely
    from shapely.errors import ShapelyError

    collection = attrs.get("geoelle:aoi")
    features = collection.get("features") if isinstance(collection, Mapping) else None
    if not features:
        return None
    try:
        geometries = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    except (ShapelyError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise MapError("The store's 'geoelle:aoi' is not a GeoJSON FeatureCollection. Make the store again.") from error
    plain = [
        {"type": "Feature", "id": i, "properties": {}, "geometry": _plain_geometry(geometry, middle_deg)}
        for i, geometry in enumerate(geometries)
        if geometry.geom_type in ("Polygon", "MultiPolygon") and not geometry.is_empty
    ]
    return {"type": "FeatureCollection", "features": plain} if plain else None


def bounds_of(aoi: Mapping[str, Any] | None) -> Bounds | None:
    """What the outline covers; None without one."""
    import shapely

    if aoi is None:
        return None
    west, south, east, north = shapely.total_bounds([shapely.geometry.shape(f["geometry"]) for f in aoi["features"]])
    return (float(south), float(west)), (float(north), float(east))


def default_title(attrs: Mapping[str, Any]) -> str:
    """A heading from the names of the areas."""
    collection = attrs.get("geoelle:aoi")
    features = collection.get("features") if isinstance(collection, Mapping) else None
    names = [str((f.get("properties") or {}).get("name") or "") for f in features or () if isinstance(f, Mapping)]
    names = [name for name in dict.fromkeys(names) if name]
    if not names:
        return "Difficulty map"
    more = f" and {len(names) - _NAMES_IN_TITLE} more" if len(names) > _NAMES_IN_TITLE else ""
    return f"Difficulty of {', '.join(names[:_NAMES_IN_TITLE])}{more}"
