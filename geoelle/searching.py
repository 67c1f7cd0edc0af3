"""The first stage: an area and dates become a frozen list of items."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from geoelle.aoi import AOILike, aoi_geometry, read_aoi
from geoelle.catalog import FilterCounts, Filters, find_items, items_frame, write_items
from geoelle.catalog.transport import unsigned
from geoelle.days import as_day
from geoelle.errors import ConfigError
from geoelle.sensors import Sensor, get_sensor, register_sensor, sensor_definition, sensors_of_collection

DEFAULT_SENSOR = "sentinel-2-l2a"


def search(
    aoi: AOILike,
    *,
    catalog: str | Path,
    collections: Sequence[str] = (),
    start: date | str,
    end: date | str,
    sensor: str | Path | Sensor = DEFAULT_SENSOR,
    bands: Sequence[str] = (),
    max_cloud_percent: float | None = None,
    months: Sequence[int] = (),
    relative_orbits: Sequence[int] = (),
    platforms: Sequence[str] = (),
    min_aoi_coverage_fraction: float = 0.0,
    exclude: Sequence[str] = (),
    fallback: str | Path | None = None,
    out: str | Path | None = None,
) -> gpd.GeoDataFrame:
    """Find the items that touch an area within dates.

    Each filter is asked of the server where that can filter without losing an item, and applied again here.
    Reprocessed products replace older ones of the same overpass and tile.

    Args:
        aoi: GeoJSON file, GeoDataFrame, geometry in EPSG:4326, or (west, south, east, north) in degrees.
        catalog: Name of a provider (`planetary-computer`, `earth-search`) or its YAML file, URL of a STAC API, or URL
            or path of a static catalog or a stac-geoparquet file.
        collections: Collection ids; empty means those that the provider has for the sensor, or all of a catalog that
            is not a provider's.
        start: First day, included.
        end: Last day, included.
        sensor: Whose bands the items must hold: a name, a YAML file, or the sensor.
        bands: Items that lack one of these are left out, by geoelle's names or a provider's keys; empty asks for none.
        max_cloud_percent: Items that declare more cloud are left out; items that declare none are kept.
        months: Months of year to keep, 1 to 12; empty means all.
        relative_orbits: Relative orbits to keep; items that do not say theirs are left out. Empty means all.
        platforms: Platforms to keep, as `sentinel-2a`; items that do not say theirs are left out. Empty means all.
        min_aoi_coverage_fraction: Days on which the items together cover a smaller share of the AOI are left out.
        exclude: Item ids to leave out.
        fallback: As `catalog`: asked instead where that does not answer; by default what the provider names.
        out: Where to write the items as stac-geoparquet, with the query inside.

    Returns:
        One row per item, in order of time; `attrs["geoelle:filters"]` says what each filter removed, and which endpoint
        answered where it is not the first.

    Raises:
        AOIError: If the AOI cannot be used.
        SensorError: If there is no such sensor, or it has no such band.
        ConfigError: If a date or another filter makes no sense.
        CatalogError: If no catalog answers as it should.
        NoItemsError: If nothing passes the filters.
    """
    for name, given in (
        ("collections", collections), ("bands", bands), ("platforms", platforms), ("exclude", exclude),
    ):  # fmt: skip
        if isinstance(given, str):  # it would be taken for a list of letters
            raise ConfigError(f"{name} is the text {given[:80]!r}. Expected a list, as [{given[:80]!r}].")
    area = aoi_geometry(read_aoi(aoi))
    known = register_sensor(sensor) if isinstance(sensor, Sensor) else get_sensor(sensor)
    filters = Filters(
        aoi=area,
        start=as_day(start),
        end=as_day(end),
        bands=tuple(dict.fromkeys(known.band(band).name for band in bands)),
        max_cloud_percent=max_cloud_percent,
        months=_plain(months),
        relative_orbits=_plain(relative_orbits),
        platforms=tuple(platforms),
        min_aoi_coverage_fraction=min_aoi_coverage_fraction,
        exclude=tuple(exclude),
    )
    items, counts = find_items(filters, catalog=catalog, sensor=known, collections=collections, fallback=fallback)
    if out is not None:
        asked = {
            "catalog": _to_find_again(catalog),
            "collections": list(collections),
            "fallback": None if fallback is None else _to_find_again(fallback),
            "start": str(start),
            "end": str(end),
        }
        write_items(items, out, asked | _query(filters, known, counts))
    frame = items_frame(items)
    frame.attrs["geoelle:filters"] = counts.sentence()
    return frame


def _to_find_again(catalog: str | Path) -> str:
    """An address without a signature, and a path that `update` finds from wherever it is started."""
    path = Path(catalog)
    return path.absolute().as_posix() if path.exists() else unsigned(str(catalog))


def _plain(numbers: Sequence[Any]) -> tuple[Any, ...]:
    """Whole numbers of NumPy's as Python's; what is none stays, for `Filters` to refuse."""
    return tuple(n.item() if isinstance(n, np.integer) else n for n in numbers)


def _query(filters: Filters, sensor: Sensor, counts: FilterCounts) -> dict[str, Any]:
    """What was asked and who answered, as plain data without a clock: the same search gives the same."""
    return {
        "aoi": filters.aoi.__geo_interface__,
        "sensor": sensor.name,
        "sensor_definition": None if _is_own(sensor) else sensor_definition(sensor),
        "bands": list(filters.bands),
        "max_cloud_percent": filters.max_cloud_percent,
        "months": list(filters.months),
        "relative_orbits": list(filters.relative_orbits),
        "platforms": list(filters.platforms),
        "min_aoi_coverage_fraction": filters.min_aoi_coverage_fraction,
        "exclude": list(filters.exclude),
        "endpoint": counts.endpoint,
        "filters": counts.as_dict(),
    }


def _is_own(sensor: Sensor) -> bool:
    """Whether geoelle brings the sensor; a user's own has to travel with the items."""
    return any(sensor.name in sensors_of_collection(collection) for collection in sensor.collections)
