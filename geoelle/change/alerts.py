"""Alerts: chips past the threshold, ranked, as a table that QGIS and GeoPandas open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray

from geoelle import schema
from geoelle.change.scoring import reference_looks
from geoelle.days import select_days
from geoelle.errors import ConfigError, SchemaError
from geoelle.schema import check_alerts
from geoelle.store.layout import extent_of
from geoelle.store.tables import check_table_place, write_geojson, write_table

_ALERTING = (schema.FIRST, schema.PROVISIONAL, schema.CONFIRMED)


def rank_alerts(delta: xr.Dataset, difficulty: xr.Dataset) -> gpd.GeoDataFrame:
    """Alerts of a delta store, the largest |z| first.

    Args:
        delta: Store made by `geoelle.delta`.
        difficulty: The difficulty store it was made from.

    Returns:
        One row per chip and date past the threshold, with the columns of `schema.ALERT_COLUMNS`, in EPSG:4326; the
        geometry is the chip's cell. `before_item_ids` are those of the latest reference look before the alert's
        that saw the place; where a `surrounding` reference has none before, of the first one after.

    Raises:
        SchemaError: If the two stores differ in dates or places.
    """
    if any(not np.array_equal(delta[axis].values, difficulty[axis].values) for axis in ("time", "y", "x")):
        raise SchemaError("Delta and difficulty differ in dates or places. Compute delta from this difficulty.")
    state = delta["state"].values
    time, row, column = np.nonzero(np.isin(state, _ALERTING))
    z = delta["z"].values[time, row, column].astype(np.float64)
    extent = extent_of(delta.attrs)
    ids = extent.grid.chip_ids(extent.rows[row], extent.columns[column])
    order = np.lexsort((ids, time, -np.abs(z)))
    time, row, column, z, ids = time[order], row[order], column[order], z[order], ids[order]
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
            "rank": np.arange(1, len(time) + 1),
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
        },
        geometry=_cells(delta, row, column),
        crs=extent.grid.epsg,
    ).to_crs(4326)
    check_alerts(frame)
    return frame


def write_alerts(alerts: gpd.GeoDataFrame, path: str | Path) -> None:
    """Write GeoParquet at `path`, and GeoJSON beside it."""
    check_alerts_place(path)
    target = Path(path)
    write_table(alerts, target)
    write_geojson(alerts, target.with_suffix(".geojson"))


def check_alerts_place(path: str | Path) -> None:
    """Refuse a path whose two files would be one, or would take a folder's place.

    Raises:
        ConfigError: If it ends in `.geojson`, which is the other file's name.
        AlreadyExistsError: If a folder is there.
    """
    target = Path(path)
    if target.suffix.lower() == ".geojson":
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
