"""The first stage: an area and dates become a frozen list of items."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import geopandas as gpd

from geoelle.aoi import AOILike, aoi_geometry, read_aoi
from geoelle.catalog import find_items, items_frame, write_items
from geoelle.days import as_day
from geoelle.sensors import get_sensor

DEFAULT_SENSOR = "sentinel-2-l2a"


def search(
    aoi: AOILike,
    *,
    catalog: str | Path,
    collections: Sequence[str],
    start: date | str,
    end: date | str,
    sensor: str = DEFAULT_SENSOR,
    max_cloud_percent: float | None = None,
    exclude: Sequence[str] = (),
    out: str | Path | None = None,
) -> gpd.GeoDataFrame:
    """Find the items that touch an area within dates.

    Args:
        aoi: GeoJSON file, GeoDataFrame, geometry in EPSG:4326, or (west, south, east, north) in degrees.
        catalog: URL of a STAC API or static catalog, or the path of a static catalog.
        collections: Collection ids.
        start: First day, included.
        end: Last day, included.
        sensor: Whose bands the items must hold.
        max_cloud_percent: Items that declare more cloud are left out; items that declare none are kept.
        exclude: Item ids to leave out.
        out: Where to write the items as stac-geoparquet, with the query inside.

    Returns:
        One row per item, in order of time; `attrs["geoelle:filters"]` says what each filter removed.

    Raises:
        AOIError: If the AOI cannot be used.
        ConfigError: If a date is none, or the dates are in the wrong order.
        CatalogError: If the catalog does not answer as it should.
        NoItemsError: If nothing passes the filters.
    """
    area = aoi_geometry(read_aoi(aoi))
    first, last = as_day(start), as_day(end)
    items, counts = find_items(
        area,
        catalog=catalog,
        sensor=get_sensor(sensor),
        collections=collections,
        start=first,
        end=last,
        max_cloud_percent=max_cloud_percent,
        exclude=exclude,
    )
    query = {
        "aoi": area.__geo_interface__,
        "catalog": str(catalog),
        "collections": list(collections),
        "start": str(start),
        "end": str(end),
        "sensor": sensor,
        "max_cloud_percent": max_cloud_percent,
        "exclude": list(exclude),
        "filters": counts.as_dict(),
    }
    if out is not None:
        write_items(items, out, query)
    frame = items_frame(items)
    frame.attrs["geoelle:filters"] = counts.sentence()
    return frame
