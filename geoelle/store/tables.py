"""Tables with geometry: GeoParquet that appears whole, and GeoJSON for those who want it. On disk or in a bucket."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import shapely

from geoelle.errors import AlreadyExistsError, NotFoundError, StoreError
from geoelle.store.atomic import replacing
from geoelle.store.location import Location, StorePath, reporting


def write_table(frame: gpd.GeoDataFrame, path: StorePath) -> None:
    """Write GeoParquet, in place of the file that is there.

    Raises:
        AlreadyExistsError: If a folder is there.
        StoreError: If it cannot be written.
    """
    check_table_place(path)
    place = Location.of(path)
    if place.is_remote:
        content = BytesIO()
        frame.to_parquet(content, index=False)
        place.write_bytes(content.getvalue())
        return
    with reporting(place, "written"), replacing(place.path) as partial:
        frame.to_parquet(partial, index=False)


def write_geojson(frame: gpd.GeoDataFrame, path: StorePath) -> None:
    """Write GeoJSON (RFC 7946: EPSG:4326), in place of the file that is there. NaN becomes null.

    Raises:
        AlreadyExistsError: If a folder is there.
        StoreError: If it cannot be written.
    """
    check_table_place(path)
    features = []
    properties = [c for c in frame.columns if c != frame.geometry.name]
    for geometry, (_, row) in zip(frame.geometry, frame[properties].iterrows(), strict=True):
        features.append(
            {
                "type": "Feature",
                "properties": {name: _plain(row[name]) for name in properties},
                "geometry": geometry.__geo_interface__,
            }
        )
    document = {"type": "FeatureCollection", "features": features}
    Location.of(path).write_bytes((json.dumps(document, allow_nan=False) + "\n").encode())


def check_table_place(path: StorePath) -> None:
    """Refuse a place where writing a file would lose a folder.

    Raises:
        AlreadyExistsError: If a folder is there.
    """
    place = Location.of(path)
    if place.is_folder():
        raise AlreadyExistsError(f"{place} is a folder. Name a file, for example {place / 'table.parquet'}.")


def read_table(path: StorePath) -> gpd.GeoDataFrame:
    """Read GeoParquet.

    Raises:
        NotFoundError: If there is no such file.
        StoreError: If it is not GeoParquet.
    """
    source = Location.of(path)
    if not source.is_file():
        raise NotFoundError(f"There is no table {source}. Make it with the verb before this one.")
    content = BytesIO(source.read_bytes()) if source.is_remote else source.path
    try:
        return gpd.read_parquet(content)
    except (pa.ArrowException, shapely.errors.ShapelyError, ValueError, KeyError, TypeError, OSError) as error:
        raise StoreError(f"{source} is not GeoParquet ({error}). Make it again.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value
