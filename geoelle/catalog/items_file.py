"""The frozen search: stac-geoparquet with the query that found it. Every later stage starts from here, offline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import stac_geoparquet.arrow

from geoelle.catalog.footprints import footprint_of
from geoelle.catalog.parsing import parse_item
from geoelle.errors import CatalogError, NotFoundError, SchemaError
from geoelle.records import ItemRecord
from geoelle.schema import check_items
from geoelle.sensors import get_sensor, register_sensor, sensor_from_definition
from geoelle.store.atomic import replacing
from geoelle.store.location import Location

_QUERY_KEY = b"geoelle:query"


def items_frame(items: Sequence[ItemRecord]) -> gpd.GeoDataFrame:
    """Items as a table for people: one row each, with the whole item as STAC JSON in column `stac`."""
    rows = [
        {
            "id": item.id,
            "collection": item.collection,
            "sensor": item.sensor,
            "time": item.time,
            "time_kind": item.time_kind,
            "time_end": pd.NaT if item.time_end is None else item.time_end,
            "cloud_percent": item.cloud_percent,
            "epsg": item.epsg,
            "mgrs_tile": item.mgrs_tile,
            "processing_baseline": item.processing_baseline,
            "offset_applied": item.offset_applied,
            "relative_orbit": item.relative_orbit,
            "platform": item.platform,
            "provider": item.provider,
            "datatake": item.datatake,
            "processed": pd.NaT if item.processed is None else item.processed,
            "bands": tuple(item.assets),
            "stac": json.dumps(item.raw, sort_keys=True),
        }
        for item in items
    ]
    geometry = [footprint_of(item) for item in items]
    return gpd.GeoDataFrame(rows, geometry=geometry, crs=4326)


def records_from_frame(frame: gpd.GeoDataFrame) -> list[ItemRecord]:
    """The records behind a table made by `items_frame`.

    Raises:
        SchemaError: If the table has no `stac` or `sensor` column.
    """
    if not {"stac", "sensor"} <= set(frame.columns):
        raise SchemaError(
            f"The items have columns {sorted(map(str, frame.columns))}. Expected `stac` and `sensor` among them; "
            "pass what geoelle.search returned."
        )
    return _parse((json.loads(raw), sensor) for raw, sensor in zip(frame["stac"], frame["sensor"], strict=True))


def write_items(items: Sequence[ItemRecord], path: str | Path, query: Mapping[str, Any]) -> Path:
    """Write stac-geoparquet with the query in the file's metadata; replaces the file in one step.

    Raises:
        SchemaError: If an item breaks the contract, e.g. holds a signed href.
        StoreError: If the path is a URL: the items stay on a disk.
    """
    check_items(items)
    target = Location.of(path).path
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow([_labelled(item) for item in items]).read_all()
    with replacing(target) as partial:
        stac_geoparquet.arrow.to_parquet(table, partial)
        written = pq.read_table(partial)
        metadata = {
            **(written.schema.metadata or {}),
            _QUERY_KEY: json.dumps(dict(query), sort_keys=True).encode(),
        }
        pq.write_table(written.replace_schema_metadata(metadata), partial)
    return target


def read_items(path: str | Path) -> tuple[list[ItemRecord], dict[str, Any]]:
    """Items and the query that found them.

    Raises:
        NotFoundError: If there is no such file.
        StoreError: If the path is a URL.
        CatalogError: If it is not stac-geoparquet written by geoelle.
    """
    source = Location.of(path).path
    if not source.is_file():
        raise NotFoundError(f"There is no items file {source}. Make one with `geoelle search`.")
    try:
        table = pq.read_table(source)
        query = json.loads((table.schema.metadata or {})[_QUERY_KEY])
        raws = list(stac_geoparquet.arrow.stac_table_to_items(table))
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise CatalogError(
            f"{source} is not an items file written by geoelle search ({type(error).__name__}: {error}). Search again."
        ) from None
    if isinstance(query, dict) and query.get("sensor_definition") is not None:
        register_sensor(sensor_from_definition(query["sensor_definition"]))  # a user's own travels with the items
    return _parse((raw, raw["properties"].get("geoelle:sensor", "")) for raw in raws), query


def _parse(raws: Iterable[tuple[dict[str, Any], str]]) -> list[ItemRecord]:
    parsed = (parse_item(raw, get_sensor(sensor)) for raw, sensor in raws)
    items = [item for item in parsed if item is not None]
    check_items(items)
    return sorted(items, key=lambda i: (i.time, i.id))


def _labelled(item: ItemRecord) -> dict[str, Any]:
    raw = json.loads(json.dumps(item.raw))
    raw["properties"] |= {
        "geoelle:sensor": item.sensor,
        "geoelle:time_kind": item.time_kind,
        "geoelle:cloud_percent": item.cloud_percent,
        "geoelle:epsg": item.epsg,
        "geoelle:mgrs_tile": item.mgrs_tile,
        "geoelle:processing_baseline": item.processing_baseline,
        "geoelle:offset_applied": item.offset_applied,
        "geoelle:relative_orbit": item.relative_orbit,
    }
    return dict(raw)
