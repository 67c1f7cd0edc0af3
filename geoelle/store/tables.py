"""Tables with geometry on disk: GeoParquet that appears whole, and GeoJSON for those who want it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import shapely

from geoelle.errors import AlreadyExistsError, NotFoundError, StoreError
from geoelle.store.atomic import replacing


def write_table(frame: gpd.GeoDataFrame, path: str | Path) -> None:
    """Write GeoParquet, in place of the file that is there.

    Raises:
        AlreadyExistsError: If a folder is there.
    """
    check_table_place(path)
    with replacing(Path(path)) as partial:
        frame.to_parquet(partial, index=False)


def write_geojson(frame: gpd.GeoDataFrame, path: str | Path) -> None:
    """Write GeoJSON (RFC 7946: EPSG:4326), in place of the file that is there. NaN becomes null.

    Raises:
        AlreadyExistsError: If a folder is there.
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
    with replacing(Path(path)) as partial:
        partial.write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")


def check_table_place(path: str | Path) -> None:
    """Refuse a place where writing a file would lose a folder.

    Raises:
        AlreadyExistsError: If a folder is there.
    """
    if Path(path).is_dir():
        raise AlreadyExistsError(f"{path} is a folder. Name a file, for example {Path(path) / 'table.parquet'}.")


def read_table(path: str | Path) -> gpd.GeoDataFrame:
    """Read GeoParquet.

    Raises:
        NotFoundError: If there is no such file.
        StoreError: If it is not GeoParquet.
    """
    source = Path(path)
    if not source.is_file():
        raise NotFoundError(f"There is no table {source}. Make it with the verb before this one.")
    try:
        return gpd.read_parquet(source)
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
