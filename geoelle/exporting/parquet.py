"""Embeddings as GeoParquet: one row per chip that was embedded, one file per zone and date, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import xarray as xr
from numpy.typing import NDArray
from pyproj import CRS

from geoelle import schema
from geoelle.exporting.footprints import chip_polygons
from geoelle.grid import GridExtent
from geoelle.provenance import canonical_json
from geoelle.store.atomic import replacing
from geoelle.store.layout import read_values

PROVENANCE_KEY = "geoelle:provenance"
_MIN_ROWS = 8192
_JOINED = {"difficulty": pa.float32(), "difficulty_se": pa.float32(), "support": pa.uint8()}
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def write_embeddings(
    target: Path,
    ds: xr.Dataset,
    time_index: int,
    extent: GridExtent,
    *,
    item_ids: Sequence[str],
    difficulty: xr.Dataset | None,
    provenance: Mapping[str, Any],
) -> int:
    """Write one date's embeddings as GeoParquet 1.1, in place of the file that is there.

    Columns: `chip_id`, `time` (solar day), `item_ids`, `embedding` (list of fixed length, float32), the fractions,
    `contrast`, with a difficulty store `difficulty`, `difficulty_se` and `support`, `geometry` (the chip's outline,
    WKB, EPSG:4326) and `bbox`, which covers it. Rows are in the raster's order, north to south and west to east.

    Args:
        target: File to write.
        ds: Flat embedding store, opened.
        time_index: Position on its time axis.
        extent: Its grid.
        item_ids: Items of that date.
        difficulty: Difficulty of that date on the same grid, over (y, x); joined where given.
        provenance: Goes into the file's metadata as JSON under `geoelle:provenance`.

    Returns:
        How many rows were written; where there is none, no file is left.

    Raises:
        StoreError: If a chunk of a store is damaged.
    """
    table_schema = _schema(ds, joined=difficulty is not None)
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    strips = _strips(ds, time_index, extent, item_ids, difficulty, table_schema, bounds)
    first = next(strips, None)
    if first is None:
        target.unlink(missing_ok=True)  # a date that has become empty must not keep yesterday's file
        return 0
    n_rows = 0
    waiting: list[pa.Table] = []
    with (
        replacing(target) as partial,
        pq.ParquetWriter(partial, table_schema, compression="zstd", use_dictionary=["item_ids"]) as writer,
    ):
        for table in chain([first], strips):
            waiting.append(table)
            n_rows += len(table)
            if sum(map(len, waiting)) >= _MIN_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
        writer.add_key_value_metadata({"geo": _geo_metadata(bounds), PROVENANCE_KEY: canonical_json(dict(provenance))})
    return n_rows


def _schema(ds: xr.Dataset, *, joined: bool) -> pa.Schema:
    return pa.schema(
        [
            ("chip_id", pa.string()),
            ("time", pa.timestamp("ns")),
            ("item_ids", pa.list_(pa.string())),
            ("embedding", pa.list_(pa.float32(), ds.sizes["feature"])),
            *((name, pa.float32()) for name in (*schema.FRACTIONS, "contrast")),
            *(_JOINED.items() if joined else ()),
            ("geometry", pa.binary()),
            ("bbox", pa.struct([(side, pa.float64()) for side in _SIDES])),
        ]
    )


def _strips(
    ds: xr.Dataset,
    time_index: int,
    extent: GridExtent,
    item_ids: Sequence[str],
    difficulty: xr.Dataset | None,
    table_schema: pa.Schema,
    bounds: NDArray[np.float64],
) -> Iterator[pa.Table]:
    """Rows of each row of tiles; `bounds` grows to what was seen."""
    height, _ = extent.shape
    day = ds["time"].values[time_index]
    for start in range(0, height, extent.tile_chips):
        strip = slice(start, start + extent.tile_chips)
        here = {"time": time_index, "y": strip}
        where = np.nonzero(read_values(ds["status"].isel(here)) == schema.DONE)
        n = len(where[0])
        if n == 0:
            continue
        rows, columns = where[0] + start, where[1]
        polygons = chip_polygons(extent, rows, columns)
        boxes = shapely.bounds(polygons)
        bounds[:2] = np.minimum(bounds[:2], boxes[:, :2].min(axis=0))
        bounds[2:] = np.maximum(bounds[2:], boxes[:, 2:].max(axis=0))
        values: dict[str, Any] = {
            "chip_id": pa.array(extent.grid.chip_ids(extent.rows[rows], extent.columns[columns])),
            "time": pa.array(np.full(n, day)),
            "item_ids": pa.array([list(item_ids)] * n, type=pa.list_(pa.string())),
            "embedding": _vectors(embedding_of(ds, time_index, strip)[where]),
            "geometry": pa.array(shapely.to_wkb(polygons)),
            "bbox": pa.StructArray.from_arrays([pa.array(boxes[:, i]) for i in range(4)], names=list(_SIDES)),
        }
        for name in (*schema.FRACTIONS, "contrast"):
            values[name] = pa.array(read_values(ds[name].isel(here))[where])
        if difficulty is not None:
            for name in _JOINED:
                values[name] = pa.array(read_values(difficulty[name].isel(y=strip))[where])
        yield pa.table([values[name] for name in table_schema.names], schema=table_schema)


def embedding_of(ds: xr.Dataset, time_index: int, rows: slice) -> NDArray[np.float32]:
    """Embeddings of one date and some rows of the raster, (y, x, feature), float32 whatever they are stored as."""
    return read_values(ds["embedding"].isel(time=time_index, y=rows)).astype(np.float32, copy=False)


def _vectors(embedding: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), embedding.shape[1])


def _geo_metadata(bounds: NDArray[np.float64]) -> str:
    """GeoParquet 1.1: the geometry column, its CRS, and the column that covers it."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "crs": CRS.from_epsg(4326).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
        "bbox": bounds.tolist(),
    }
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})
