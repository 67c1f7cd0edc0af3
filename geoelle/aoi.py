"""Areas of interest: read once, checked hard, then a GeoDataFrame in EPSG:4326."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from geoelle.errors import AOIError
from geoelle.schema import check_aoi

type AOILike = str | Path | gpd.GeoDataFrame | BaseGeometry | tuple[float, float, float, float]
"""A GeoJSON file, a GeoDataFrame, a geometry in EPSG:4326, or (west, south, east, north) in degrees."""

_LONLAT_CRS = ("EPSG:4326", "EPSG::4326", "CRS84")


def read_aoi(aoi: AOILike) -> gpd.GeoDataFrame:
    """An AOI from whatever names one.

    Returns:
        GeoDataFrame in EPSG:4326 with `aoi_id`, `name` and `geometry` (polygons, valid, not empty).

    Raises:
        AOIError: If it is not GeoJSON, holds no polygon, crosses itself or is not in longitude and latitude.
    """
    if isinstance(aoi, gpd.GeoDataFrame):
        frame = _from_frame(aoi)
    elif isinstance(aoi, BaseGeometry):
        frame = _frame([aoi], [{}], "AOI")
    elif isinstance(aoi, tuple):
        frame = _frame([_box(aoi)], [{}], "AOI")
    else:
        frame = _from_file(Path(aoi))
    check_aoi(frame)
    return frame


def aoi_geometry(frame: gpd.GeoDataFrame) -> BaseGeometry:
    """All of an AOI's polygons as one geometry in EPSG:4326."""
    return shapely.union_all(frame.geometry.to_numpy())


def _box(bbox: tuple[float, float, float, float]) -> BaseGeometry:
    west, south, east, north = bbox
    if not (west < east and south < north):
        raise AOIError(
            f"The bounding box {bbox} is empty. Expected west, south, east, north in degrees with west < east "
            "and south < north; an area across the antimeridian is given as a GeoJSON MultiPolygon."
        )
    return shapely.box(west, south, east, north)


def _from_frame(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    if frame.crs is None:
        raise AOIError("The AOI has no CRS. Set it with GeoDataFrame.set_crs, then pass it again.")
    lonlat = frame.to_crs(4326)
    properties = [
        {key: row[key] for key in ("aoi_id", "name") if key in lonlat.columns} for _, row in lonlat.iterrows()
    ]
    return _frame(list(lonlat.geometry), properties, "AOI")


def _from_file(path: Path) -> gpd.GeoDataFrame:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise AOIError(f"There is no AOI file {path}. Give the path of a GeoJSON file.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise AOIError(f"{path} is not GeoJSON ({error}). Give a GeoJSON file with polygons.") from None
    if not isinstance(document, dict) or "type" not in document:
        raise AOIError(f"{path} is JSON but not GeoJSON: it has no `type`. Give a GeoJSON file with polygons.")
    _refuse_other_crs(document, path)
    features = _features(document, path)
    geometries = []
    for feature in features:
        try:
            geometries.append(shape(feature["geometry"]))
        except (
            LookupError, TypeError, ValueError, AttributeError, OverflowError, shapely.errors.ShapelyError
        ) as error:  # fmt: skip
            raise AOIError(f"{path} holds a geometry that cannot be read ({error}). Give polygons.") from None
    properties = [p if isinstance(p := f.get("properties"), dict) else {} for f in features]
    return _frame(geometries, properties, path.stem)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number that JSON knows")


def _features(document: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    kind = document["type"]
    if kind == "FeatureCollection":
        listed = document.get("features")
        found = [f for f in listed if isinstance(f, dict) and f.get("geometry")] if isinstance(listed, list) else []
    elif kind == "Feature":
        found = [document] if document.get("geometry") else []
    else:
        found = [{"type": "Feature", "geometry": document, "properties": {}}]
    if not found:
        raise AOIError(f"{path} holds no geometry. Expected at least one polygon.")
    return found


def _refuse_other_crs(document: dict[str, Any], path: Path) -> None:
    # RFC 7946 dropped `crs`, but older tools still write it.
    crs = document.get("crs")
    said = crs.get("properties") if isinstance(crs, dict) else None
    name = str(said.get("name") or "") if isinstance(said, dict) else ""
    if name and not name.endswith(_LONLAT_CRS):
        raise AOIError(
            f"{path} is in {name}. Expected longitude and latitude (EPSG:4326); convert it, for example with "
            f"`ogr2ogr -t_srs EPSG:4326 aoi.geojson {path.name}`."
        )


def _frame(geometries: list[BaseGeometry], properties: list[dict[str, Any]], name: str) -> gpd.GeoDataFrame:
    ids = [str(p.get("aoi_id") or (name if len(properties) == 1 else f"{name}-{i}")) for i, p in enumerate(properties)]
    names = [str(p.get("name") or i) for p, i in zip(properties, ids, strict=True)]
    return gpd.GeoDataFrame({"aoi_id": ids, "name": names}, geometry=geometries, crs=4326)
