"""The exports: which stores, which dates, which files, and where they go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr

from geoelle.catalog import read_items, records_from_frame
from geoelle.days import DateRanges, select_days
from geoelle.errors import ConfigError, SchemaError
from geoelle.exporting.lineage import Lineage, lineage_of
from geoelle.exporting.parquet import write_embeddings
from geoelle.exporting.rasters import RASTERS, band_facts, write_cog
from geoelle.exporting.stac import (
    COG_TYPE,
    PARQUET_TYPE,
    ZARR_TYPE,
    AssetFacts,
    OutputDate,
    check_catalog_place,
    check_item_place,
    forget_item,
    item_id,
    item_path,
    write_catalog,
)
from geoelle.grid import GridExtent
from geoelle.records import ItemRecord
from geoelle.running import Progress, no_progress
from geoelle.store import open_store
from geoelle.store.layout import extent_of
from geoelle.store.location import Location, StorePath
from geoelle.store.zones import zone_paths

if TYPE_CHECKING:
    import geopandas as gpd

Format = Literal["cog", "geoparquet", "stac"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ZARR_TITLE = "The whole store, all dates, as Zarr v3"


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export left."""

    folder: Path
    files: tuple[Path, ...]
    """COG and GeoParquet files written."""
    n_rows: int
    """Rows of the GeoParquet files written: one per chip and date."""
    n_items: int
    """STAC items written."""
    n_empty: int
    """Dates of a zone that hold nothing, and so have neither file nor item."""
    catalog: Path | None
    """`catalog.json`, where STAC was asked for."""


@dataclass(frozen=True, slots=True)
class _Zone:
    """One zone of one store."""

    kind: str
    place: Location
    ds: xr.Dataset
    extent: GridExtent


@dataclass(frozen=True, slots=True)
class _Piece:
    """One date of one zone: an item, and the folder that holds its files."""

    zone: _Zone
    time_index: int
    day: str
    folder: Path
    lineage: Lineage


def export(
    stores: StorePath | Sequence[StorePath],
    *,
    out: str | Path,
    formats: Sequence[Format] = FORMATS,
    dates: DateRanges = (),
    items: str | Path | gpd.GeoDataFrame | None = None,
    progress: Progress = no_progress,
) -> ExportSummary:
    """Write stores as COG, GeoParquet and a STAC catalog of both; one file and one item per date and UTM zone.

    Difficulty gives `difficulty.tif` (difficulty, difficulty_se) and `support.tif`; delta gives `delta.tif` (delta, z,
    p, reference_n) and `state.tif`; embeddings give `embeddings.parquet`, with difficulty joined where a difficulty
    store is among `stores`. Files of the same date are replaced, those of other dates stay in the catalog; an item
    lists what the last export of its date wrote.

    Args:
        stores: One store or several, made by `embed`, `difficulty` or `delta`: paths or URLs of object stores.
        out: Local folder to write to.
        formats: Any of `cog`, `geoparquet`, `stac`.
        dates: Ranges of the dates to export; empty exports all.
        items: The items the stores were made from, for links to them and what the stores do not say about them.
        progress: Told how many dates are done.

    Raises:
        ConfigError: If a format is unknown, two stores are of one kind, or nothing is left to export.
        SchemaError: If difficulty and embeddings are not of the same grid.
        AlreadyExistsError: If the folder holds exports of another grid.
        StoreError: If a store cannot be read, a file cannot be written, or `out` lies in an object store.
    """
    asked = _check_formats(formats)
    target = Location.of(out).path
    zones = list(_zones([stores] if isinstance(stores, str | Path | Location) else stores))
    pieces = list(_pieces(zones, target, dates, _records(items)))
    if not pieces:
        raise ConfigError("None of the dates of these stores is left to export. Widen the dates.")
    check_catalog_place(target)
    for piece in pieces:
        name = piece.folder.name
        check_item_place(item_path(target, piece.zone.kind, name), piece.zone.ds.attrs["geoelle:grid"])
    made: list[OutputDate] = []
    files: list[Path] = []
    n_rows = n_empty = 0
    progress(0, len(pieces))
    for done, piece in enumerate(pieces, start=1):
        assets, rows, tried = _write_files(piece, asked, zones)
        files += [asset.place.path for asset in assets]
        n_rows += rows
        if assets or not tried:
            zarr = AssetFacts("zarr", piece.zone.place, ZARR_TYPE, ("data",), _ZARR_TITLE, {})
            made.append(OutputDate(piece.zone.kind, piece.day, piece.zone.extent, piece.lineage, (*assets, zarr)))
        else:
            n_empty += 1
            forget_item(item_path(target, piece.zone.kind, piece.folder.name))
        progress(done, len(pieces))
    wants_catalog = "stac" in asked
    catalog = write_catalog(target, made) if wants_catalog else None
    return ExportSummary(target, tuple(files), n_rows, len(made) if wants_catalog else 0, n_empty, catalog)


def _check_formats(formats: Sequence[str]) -> set[str]:
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats or isinstance(formats, str):
        found = formats if isinstance(formats, str) else sorted(unknown) or "none"
        raise ConfigError(f"The formats asked for hold {found}. Expected a list of {', '.join(FORMATS)}.")
    return set(formats)


def _zones(stores: Sequence[StorePath]) -> Iterator[_Zone]:
    seen: dict[str, Location] = {}
    for store in map(Location.of, stores):
        for place in zone_paths(store).values():
            ds = open_store(place)
            kind = str(ds.attrs["geoelle:kind"])
            if seen.setdefault(kind, store) != store:
                raise ConfigError(f"{seen[kind]} and {store} both hold {kind}. Export them to folders of their own.")
            yield _Zone(kind, place, ds, _extent(place, ds))


def _extent(path: Location, ds: xr.Dataset) -> GridExtent:
    extent = extent_of(ds.attrs)
    if not (np.array_equal(extent.y, ds["y"]) and np.array_equal(extent.x, ds["x"])):
        raise SchemaError(f"{path}: geoelle:grid asks for chips elsewhere than the arrays hold. Make the store again.")
    return extent


def _records(items: str | Path | gpd.GeoDataFrame | None) -> dict[str, ItemRecord]:
    if items is None:
        return {}
    records = read_items(items)[0] if isinstance(items, str | Path) else records_from_frame(items)
    return {record.id: record for record in records}


def _pieces(
    zones: Sequence[_Zone], out: Path, dates: DateRanges, records: Mapping[str, ItemRecord]
) -> Iterator[_Piece]:
    for zone in zones:
        days = zone.ds["time"].values
        for t in np.flatnonzero(select_days(days, dates, ())).tolist():
            day = str(np.datetime_as_string(days[t], "D"))
            folder = item_path(out, zone.kind, item_id(zone.kind, zone.extent, day)).parent
            yield _Piece(zone, t, day, folder, lineage_of(zone.ds.attrs, zone.kind, day, records))


def _write_files(piece: _Piece, asked: set[str], zones: Sequence[_Zone]) -> tuple[list[AssetFacts], int, bool]:
    """Files of one date as assets, rows of tables among them, and whether any file was asked for."""
    zone = piece.zone
    assets: list[AssetFacts] = []
    tried = False
    for spec in RASTERS[zone.kind] if "cog" in asked else ():
        tried = True
        path = piece.folder / f"{spec.key}.tif"
        if write_cog(path, zone.ds, piece.time_index, zone.extent, spec, piece.lineage.tags()):
            extra: dict[str, Any] = {
                "bands": band_facts(zone.ds, spec),
                "raster:sampling": "area",
                "raster:spatial_resolution": zone.extent.grid.stride_m,
            }
            title = ", ".join(spec.variables)
            assets.append(AssetFacts(spec.key, Location.of(path), COG_TYPE, ("data",), title, extra))
    rows = 0
    if "geoparquet" in asked and zone.kind == "embeddings":
        tried = True
        path = piece.folder / "embeddings.parquet"
        joined, lineage = _joined(piece, zones)
        rows = write_embeddings(
            path, zone.ds, piece.time_index, zone.extent,
            item_ids=lineage.item_ids, difficulty=joined, provenance=lineage.properties,
        )  # fmt: skip
        if rows:
            title = "One row per chip: embedding, outline" + ("" if joined is None else ", difficulty")
            assets.append(
                AssetFacts("table", Location.of(path), PARQUET_TYPE, ("data",), title, {"geoelle:rows": rows})
            )
    return assets, rows, tried


def _joined(piece: _Piece, zones: Sequence[_Zone]) -> tuple[xr.Dataset | None, Lineage]:
    """Difficulty of a piece's date, over (y, x), where there is one; and a lineage that names its probe."""
    same = [z for z in zones if z.kind == "difficulty" and z.extent.grid.epsg == piece.zone.extent.grid.epsg]
    for zone in same:
        if zone.ds.attrs["geoelle:grid"] != piece.zone.ds.attrs["geoelle:grid"]:
            raise SchemaError(
                f"{zone.place} and {piece.zone.place} are on different grids. Compute difficulty from these embeddings."
            )
        index = np.flatnonzero(zone.ds["time"].values == piece.zone.ds["time"].values[piece.time_index])
        if len(index):
            probe = {k: zone.ds.attrs[k] for k in ("geoelle:probe_digest", "geoelle:probe_origin")}
            lineage = replace(piece.lineage, properties={**piece.lineage.properties, **probe})
            return zone.ds.isel(time=int(index[0])), lineage
    return None, piece.lineage
