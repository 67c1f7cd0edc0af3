"""Tables with geometry on disk: GeoParquet that appears whole, and GeoJSON for those who want it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa

from geoelle.errors import NotFoundError, StoreError
from geoelle.store.atomic import replacing


def write_table(frame: gpd.GeoDataFrame, path: str | Path) -> None:
    """Write GeoParquet, in place of what is there."""
    with replacing(Path(path)) as partial:
        frame.to_parquet(partial, index=False)


def write_geojson(frame: gpd.GeoDataFrame, path: str | Path) -> None:
    """Write GeoJSON (RFC 7946: EPSG:4326), in place of what is there. NaN becomes null."""
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
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StoreError(f"{source} is not GeoParquet ({error}). Make it again.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value
