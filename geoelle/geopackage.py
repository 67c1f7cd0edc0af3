"""AOIs in GeoPackage: the one format beside GeoJSON that is read, through GDAL's own driver for it and no other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely

from geoelle.errors import AOIError

_SQLITE = b"SQLite format 3\x00"
_APPLICATION_ID = slice(68, 72)
_GEOPACKAGE_IDS = (b"GPKG", b"GP10", b"GP11")


def is_geopackage(path: Path) -> bool:
    """Whether a file says of itself that it is a GeoPackage (an SQLite database with its application id)."""
    try:
        with path.open("rb") as stream:
            header = stream.read(_APPLICATION_ID.stop)
    except OSError:
        return False
    return header.startswith(_SQLITE) and header[_APPLICATION_ID] in _GEOPACKAGE_IDS


def read_geopackage(path: Path, layer: str | None = None) -> gpd.GeoDataFrame:
    """Polygons of a GeoPackage, in its CRS, with `aoi_id` and `name` where it has them.

    Args:
        path: A file for which `is_geopackage` holds.
        layer: Name of the layer; None takes the first one of polygons.

    Raises:
        AOIError: If it cannot be read, or has no such layer.
    """
    import pyogrio

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GDAL warns of much that an AOI does not need
            chosen = _layer(path, [(str(n), str(t)) for n, t in pyogrio.list_layers(path)], layer)
            info: dict[str, Any] = pyogrio.read_info(path, layer=chosen)
            if info.get("driver") != "GPKG":
                raise AOIError(f"{path} was opened as {info.get('driver')}. Give a GeoJSON or GeoPackage file.")
            columns = [name for name in ("aoi_id", "name") if name in set(info["fields"])]
            frame = pyogrio.read_dataframe(path, layer=chosen, columns=columns, force_2d=True)
    except (RuntimeError, ValueError, TypeError, LookupError, OSError, shapely.errors.ShapelyError) as error:
        if isinstance(error, AOIError):
            raise
        raise AOIError(f"{path} cannot be read as a GeoPackage ({error}). Export it again, or use GeoJSON.") from None
    if not isinstance(frame, gpd.GeoDataFrame):
        raise AOIError(f"Layer {chosen!r} of {path} has no geometry. Name a layer of polygons with |layername=.")
    return frame[[g is not None and not g.is_empty for g in frame.geometry]]


def _layer(path: Path, layers: list[tuple[str, str]], wanted: str | None) -> str:
    names = [name for name, _ in layers]
    if wanted is not None:
        if wanted not in names:
            raise AOIError(f"{path} has no layer {wanted!r}. It has {', '.join(names) or 'none'}.")
        return wanted
    for kinds in (("Polygon", "Surface"), ("Unknown", "Collection")):  # the second may hold polygons
        for name, kind in layers:
            if any(k in kind for k in kinds):
                return name
    raise AOIError(f"{path} has no layer of polygons: {', '.join(f'{n} ({t})' for n, t in layers) or 'no layers'}.")
