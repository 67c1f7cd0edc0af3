"""Areas of interest: read once, checked hard, then a GeoDataFrame in EPSG:4326."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from geoelle.antimeridian import split_at_antimeridian
from geoelle.errors import AOIError
from geoelle.geopackage import is_geopackage, read_geopackage
from geoelle.schema import check_aoi

type AOILike = str | Path | gpd.GeoDataFrame | BaseGeometry | tuple[float, float, float, float] | list[float]
"""A GeoJSON or GeoPackage file, the name of a place as in `list_places`, a GeoDataFrame, a geometry in EPSG:4326, or
(west, south, east, north) in degrees, west > east for a box across the antimeridian."""

_LONLAT_CRS = ("EPSG:4326", "EPSG::4326", "CRS84")
_MAX_LON_DEG = 360.0
# In a projected CRS a straight edge gets a vertex at least this often before it is carried to degrees.
_MAX_SEGMENT_M = 10_000.0


def read_aoi(aoi: AOILike) -> gpd.GeoDataFrame:
    """An AOI from whatever names one.

    Of a GeoPackage the first layer of polygons is read, or the one named by `file.gpkg|layername=NAME`; its CRS is
    carried to EPSG:4326. Heights are dropped. Across the antimeridian longitudes may go beyond 180, or jump from 179
    to -179: an edge longer than 180 degrees goes the short way (see `geoelle.antimeridian`).

    Returns:
        GeoDataFrame in EPSG:4326 with `aoi_id`, `name` and `geometry` (polygons, valid, not empty, longitudes within
        -180 to 180, cut at 180 where they go across).

    Raises:
        AOIError: If it is no such file or place, holds no polygon, crosses itself, goes round a pole or is not in
            longitude and latitude.
    """
    if isinstance(aoi, gpd.GeoDataFrame):
        frame = _from_frame(aoi, "AOI")
    elif isinstance(aoi, BaseGeometry):
        frame = _frame([aoi], [{}], "AOI")
    elif isinstance(aoi, tuple | list):
        frame = _frame([_box(aoi)], [{}], "AOI")
    else:
        frame = _from_name(aoi)
    check_aoi(frame)
    return frame


def aoi_geometry(frame: gpd.GeoDataFrame) -> BaseGeometry:
    """All of an AOI's polygons as one geometry in EPSG:4326."""
    return shapely.union_all(frame.geometry.to_numpy())


def list_places() -> list[str]:
    """Names of the places that come with geoelle; `read_aoi` takes each."""
    return sorted(path.stem for path in _places_folder().glob("*.geojson"))


def _places_folder() -> Path:
    here = Path(__file__).parent
    installed = here / "places"
    return installed if installed.is_dir() else here.parent / "aoi"  # beside the package in a checkout


def _box(bbox: Sequence[float]) -> BaseGeometry:
    try:
        west, south, east, north = (float(number) for number in bbox)
    except (TypeError, ValueError):
        raise AOIError(f"The bounding box {bbox} is not four numbers: west, south, east, north in degrees.") from None
    if max(abs(west), abs(east)) > _MAX_LON_DEG or max(abs(south), abs(north)) > 90:
        raise AOIError(
            f"The bounding box {bbox} is not in longitude and latitude. Expected west, south, east, north in degrees."
        )
    width = east - west if east > west else east + 360 - west
    if not (south < north and west != east and 0 < width <= (360 if east > west else 180)):
        raise AOIError(
            f"The bounding box {bbox} is empty, or reaches too far round the Earth. Expected west, south, east, north "
            "in degrees with south < north, and west < east, or west > east for a box of at most 180 degrees across "
            "the antimeridian."
        )
    if -180 <= west < east <= 180:
        return shapely.box(west, south, east, north)
    # With a vertex in the middle no edge is too long for the antimeridian's rule.
    lon = [west, west + width / 2, west + width]
    return shapely.Polygon([*((x, south) for x in lon), *((x, north) for x in reversed(lon))])


def _from_frame(frame: gpd.GeoDataFrame, name: str) -> gpd.GeoDataFrame:
    if frame.crs is None:
        raise AOIError(f"{name} has no CRS. Set it, for example with GeoDataFrame.set_crs, then give it again.")
    if frame.crs.is_projected:
        frame = frame.set_geometry(frame.geometry.segmentize(_MAX_SEGMENT_M))
    try:
        lonlat = frame.to_crs(4326)
    except (RuntimeError, ValueError) as error:  # what PROJ raises, as for a CRS that lies nowhere on Earth
        raise AOIError(
            f"{name} cannot be carried from its CRS, {frame.crs.name}, to longitude and latitude ({error}). Give it in "
            "EPSG:4326."
        ) from None
    properties = [
        {key: row[key] for key in ("aoi_id", "name") if key in lonlat.columns} for _, row in lonlat.iterrows()
    ]
    return _frame(list(lonlat.geometry), properties, name)


def _from_name(aoi: str | Path) -> gpd.GeoDataFrame:
    path, _, layer = str(aoi).partition("|layername=")
    if Path(path).is_file():
        if is_geopackage(Path(path)):
            return _from_frame(read_geopackage(Path(path), layer or None), Path(path).stem)
        return _from_file(Path(path))
    places = list_places()
    if isinstance(aoi, str) and aoi in places:
        return _from_file(_places_folder() / f"{aoi}.geojson")
    if "://" in path or path.startswith("/vsi"):
        raise AOIError("An AOI is read from a local file, not from an address. Download it first.")
    near = difflib.get_close_matches(Path(path).stem.lower(), places, n=3) or places[:10]
    raise AOIError(
        f"There is no AOI file {path}, and no place of that name. Give the path of a GeoJSON or GeoPackage file, or "
        f"a place such as {', '.join(near)}."
    )


def _from_file(path: Path) -> gpd.GeoDataFrame:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, OSError, RecursionError) as error:
        raise AOIError(
            f"{path} is not GeoJSON ({error}), nor a GeoPackage. Other formats are not read: convert it, for example "
            f"with `ogr2ogr -t_srs EPSG:4326 aoi.geojson {path.name}`."
        ) from None
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
    whole = [
        g if g is None else split_at_antimeridian(shapely.force_2d(g), f"AOI {n!r}")
        for g, n in zip(geometries, names, strict=True)
    ]
    return gpd.GeoDataFrame({"aoi_id": ids, "name": names}, geometry=whole, crs=4326)
