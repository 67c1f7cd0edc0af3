"""Alerts: chips past the threshold, ranked, as a table that QGIS and GeoPandas open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray

from geoelle import schema
from geoelle.antimeridian import split_at_antimeridian
from geoelle.change.scoring import reference_looks
from geoelle.days import select_days
from geoelle.errors import ConfigError, SchemaError
from geoelle.schema import check_alerts
from geoelle.store.layout import extent_of
from geoelle.store.location import Location, StorePath
from geoelle.store.tables import check_table_place, write_geojson, write_table
from geoelle.store.zones import zones_of

_ALERTING = (schema.FIRST, schema.PROVISIONAL, schema.CONFIRMED)


type Zones = xr.Dataset | xr.DataTree | Mapping[str, xr.Dataset]
"""A store that was opened: of one zone, or of several."""


def rank_alerts(delta: Zones, difficulty: Zones) -> gpd.GeoDataFrame:
    """Alerts of a delta store, the largest |z| first; those of several zones ranked together.

    Args:
        delta: Store made by `geoelle.delta`.
        difficulty: The difficulty store it was made from.

    Returns:
        One row per chip and date past the threshold, with the columns of `schema.ALERT_COLUMNS`, in EPSG:4326; the
        geometry is the chip's cell, cut at the antimeridian where it goes across. `before_item_ids` are those of the
        latest reference look before the alert's that saw the place; where a `surrounding` reference has none before,
        of the first one after.

    Raises:
        SchemaError: If the two stores differ in zones, dates or places.
    """
    deltas, levels = zones_of(delta), zones_of(difficulty)
    if deltas.keys() != levels.keys():
        raise SchemaError(
            f"Delta has the zones {', '.join(deltas)}, difficulty {', '.join(levels)}. Compute delta from this "
            "difficulty."
        )
    tables = [_alerts_of(deltas[zone], levels[zone]) for zone in deltas]
    # What pandas makes of an empty table's columns must not decide the types of the whole.
    full = [table for table in tables if len(table)] or tables[:1]
    frame = full[0] if len(full) == 1 else _joined(full)
    order = np.lexsort((frame["chip_id"].astype(str), frame["date"].astype(str), -np.abs(frame["z"].to_numpy())))
    frame = frame.iloc[order].reset_index(drop=True)
    frame["rank"] = np.arange(1, len(frame) + 1)
    check_alerts(frame)
    return frame


def _joined(tables: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    """The rows of tables with the same columns, one table after another."""
    types = tables[0].drop(columns="geometry").dtypes.to_dict()
    columns = {name: [value for table in tables for value in table[name]] for name in types}
    geometry = [cell for table in tables for cell in table.geometry]
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=4326).astype(types)


def _alerts_of(delta: xr.Dataset, difficulty: xr.Dataset) -> gpd.GeoDataFrame:
    """Alerts of one zone, not ranked yet."""
    if any(not np.array_equal(delta[axis].values, difficulty[axis].values) for axis in ("time", "y", "x")):
        raise SchemaError("Delta and difficulty differ in dates or places. Compute delta from this difficulty.")
    state = delta["state"].values
    time, row, column = np.nonzero(np.isin(state, _ALERTING))
    z = delta["z"].values[time, row, column].astype(np.float64)
    extent = extent_of(delta.attrs)
    ids = extent.grid.chip_ids(extent.rows[row], extent.columns[column])
    days = delta["time"].values
    reference = delta.attrs["geoelle:reference"]
    scenes = delta.attrs["geoelle:scenes"]
    levels = difficulty["difficulty"].values
    before = _looks_before(delta, levels, time, row, column)
    change = delta["delta"].values[time, row, column].astype(np.float64)
    value = levels[time, row, column].astype(np.float64)
    labels = [str(np.datetime_as_string(day, "D")) for day in days]
    frame = gpd.GeoDataFrame(
        {
            "rank": np.zeros(len(time), dtype=np.int64),
            "chip_id": ids.astype(object),
            "date": [labels[t] for t in time],
            "direction": np.where(z > 0, "up", "down").astype(object),
            "delta": change,
            "z": z,
            "p": delta["p"].values[time, row, column].astype(np.float64),
            "p_kind": [delta.attrs["geoelle:p_kind"]] * len(time),
            "state": [schema.STATE_NAMES[s] for s in state[time, row, column]],
            "difficulty": value,
            "reference": value - change,
            "reference_kind": [reference["kind"]] * len(time),
            "reference_n": delta["reference_n"].values[time, row, column].astype(np.int32),
            "before_item_ids": [list(scenes.get(labels[t], [])) for t in before],
            "after_item_ids": [list(scenes.get(labels[t], [])) for t in time],
            "loss_kind": [str(delta.attrs["geoelle:encoder"].get("loss_kind", ""))] * len(time),
        },
        geometry=_cells(delta, row, column),
        crs=extent.grid.epsg,
    ).to_crs(4326)
    return frame.set_geometry([split_at_antimeridian(cell) for cell in frame.geometry], crs=4326)


def write_alerts(alerts: gpd.GeoDataFrame, path: StorePath) -> None:
    """Write GeoParquet at `path`, and GeoJSON beside it."""
    check_alerts_place(path)
    target = Location.of(path)
    write_table(alerts, target)
    write_geojson(alerts, target.with_suffix(".geojson"))


def check_alerts_place(path: StorePath) -> None:
    """Refuse a path whose two files would be one, or would take a folder's place.

    Raises:
        ConfigError: If it ends in `.geojson`, which is the other file's name.
        AlreadyExistsError: If a folder is there.
    """
    target = Location.of(path)
    if target.name.lower().endswith(".geojson"):
        raise ConfigError(
            f"The alerts {target} would be overwritten by the GeoJSON that goes beside them. "
            f"Name the GeoParquet file, for example {target.with_suffix('.parquet')}."
        )
    check_table_place(target)
    check_table_place(target.with_suffix(".geojson"))


def _looks_before(
    delta: xr.Dataset, values: NDArray[np.float32], time: NDArray[np.intp], row: NDArray[np.intp],
    column: NDArray[np.intp],
) -> NDArray[np.intp]:  # fmt: skip
    """For each alert, index of the latest reference look before it that saw its place; else of the first after it."""
    days = delta["time"].values
    options = delta.attrs["geoelle:reference"]
    allowed = select_days(days, options["reference_dates"], options["excluded_dates"])
    found = np.empty(len(time), dtype=np.intp)
    for t in np.unique(time):
        looks = np.flatnonzero(reference_looks(days, int(t), allowed, options["kind"], options["window_days"] or 0))
        nearest_first = looks[np.lexsort((np.abs(days[looks] - days[t]), days[looks] > days[t]))]
        mine = np.flatnonzero(time == t)
        saw = np.isfinite(values[nearest_first][:, row[mine], column[mine]])
        found[mine] = nearest_first[saw.argmax(axis=0)]
    return found


def _cells(delta: xr.Dataset, row: Any, column: Any) -> Any:
    half = extent_of(delta.attrs).grid.stride_m / 2
    x, y = delta["x"].values[column], delta["y"].values[row]
    return shapely.box(x - half, y - half, x + half, y + half)
