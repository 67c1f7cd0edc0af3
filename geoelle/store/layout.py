"""Zarr v3 stores on the chip grid: made whole by the coordinator, filled chunk by chunk, opened as xarray.

Only the coordinator writes metadata, before jobs start; a job writes whole chunks of its own.

A store on a disk is made beside its place and renamed. Object stores cannot rename, so there the root says first that
the store is unfinished, which every reader refuses, and gets its attributes last, in one put.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
import zarr.errors
from geozarr_toolkit import create_geozarr_attrs, create_multiscales_layout, create_zarr_conventions
from geozarr_toolkit.conventions import (
    MultiscalesConventionMetadata,
    ProjConventionMetadata,
    SpatialConventionMetadata,
)
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from pyproj import CRS
from pyproj.exceptions import CRSError
from zarr.codecs import Crc32cCodec, ZstdCodec

from geoelle.errors import NotFoundError, SchemaError, StoreError
from geoelle.grid import ChipGrid, GridExtent
from geoelle.schema import check_delta, check_difficulty, check_embeddings
from geoelle.store.atomic import replacing
from geoelle.store.attributes import check_attributes
from geoelle.store.location import Location, StorePath, reporting, said
from geoelle.store.locking import store_lock

ZONES = "geoelle:zones"
"""Attribute of a group over the stores of several zones: their names."""
UNFINISHED = "geoelle:unfinished"
"""Attribute of a store in an object store while it is being made."""
# The level is pinned, so that the same numbers are the same bytes whatever Zarr's default becomes.
_ZSTD_LEVEL = 3
_CHECKS = {"embeddings": check_embeddings, "difficulty": check_difficulty, "delta": check_delta}


@dataclass(frozen=True, slots=True)
class Variable:
    """One array of a store, before it exists. Its chunk is one job's part unless `inner_chunk` splits a shard."""

    name: str
    dtype: str
    fill: float | int
    trailing: Mapping[str, int]
    """Dimensions after (time, y, x) and their sizes."""
    attrs: Mapping[str, Any]
    inner_chunk: int | None = None
    """Edge in chips of the chunks inside a job's shard; None: not sharded."""
    crc32c: bool = False
    """Checksum by Zarr's crc32c codec, which GDAL 3.12 does not read; else by Zstandard's own, which it does."""

    @property
    def compressors(self) -> tuple[Any, ...]:
        """Codecs that compress, and make a damaged or cut chunk an error instead of numbers."""
        return (ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()) if self.crc32c else (checksummed(),)


def checksummed() -> ZstdCodec:
    """Compression with a checksum in each frame, which every reader of Zstandard checks."""
    return ZstdCodec(level=_ZSTD_LEVEL, checksum=True)


@contextmanager
def making(path: StorePath, kind: str) -> Iterator[Location]:
    """A place to make a store in, that becomes the store at `path` once its attributes are written and the block ends.

    In an object store what was there is given up first. A failure or kill leaves a store that is marked unfinished.
    """
    place = Location.of(path)
    if not place.is_remote:
        with replacing(place.path) as partial:
            _begin(Location.of(partial), kind)
            yield Location.of(partial)
        return
    _begin(place, kind)
    place.delete(keep="zarr.json")
    yield place


def _begin(place: Location, kind: str) -> None:
    attrs = {"geoelle:kind": kind, UNFINISHED: True}
    root = {"attributes": attrs, "zarr_format": 3, "node_type": "group"}
    (place / "zarr.json").write_bytes(json.dumps(root).encode())


def is_stored(path: StorePath) -> bool:
    """Whether a store, or anything else, is there. What a killed run left unfinished in an object store does not count.

    Raises:
        StoreError: If the place cannot be asked.
    """
    place = Location.of(path)
    if not place.exists():
        return False
    if not place.is_remote:
        return True
    try:
        root = json.loads((place / "zarr.json").read_bytes())
        return not (isinstance(root, dict) and (root.get("attributes") or {}).get(UNFINISHED))
    except (NotFoundError, ValueError, AttributeError):
        return True  # something else, which is not to be lost


def create_store(
    path: StorePath,
    extent: GridExtent,
    days: Sequence[np.datetime64],
    variables: Sequence[Variable],
    attrs: Mapping[str, Any],
) -> None:
    """Make a store's metadata at `path`, a place given by `making`: arrays of fill values, coordinates, attributes.

    The attributes come last: until then the store says that it is unfinished.
    """
    root = zarr.open_group(Location.of(path).zarr_store(), mode="r+", zarr_format=3)
    _create_arrays(root, extent, days, variables)
    root.attrs.put({**_geo_attrs(extent), **attrs})


def _create_arrays(
    root: zarr.Group, extent: GridExtent, days: Sequence[np.datetime64], variables: Sequence[Variable]
) -> None:
    height, width = extent.shape
    tile = extent.tile_chips
    for variable in variables:
        trailing = tuple(variable.trailing.values())
        job = (1, min(tile, height), min(tile, width), *trailing)
        inner = variable.inner_chunk
        array = root.create_array(
            variable.name,
            shape=(len(days), height, width, *trailing),
            dtype=variable.dtype,
            fill_value=variable.fill,
            # A shard holds whole chunks: a tile that cannot be split evenly is one chunk.
            chunks=job if inner is None or tile % inner else (1, inner, inner, *trailing),
            shards=None if inner is None else job,
            compressors=variable.compressors,
            dimension_names=("time", "y", "x", *variable.trailing),
        )
        array.attrs.update({**variable.attrs, "grid_mapping": "spatial_ref"})
    _create_coordinates(root, extent, days)


def _create_coordinates(root: zarr.Group, extent: GridExtent, days: Sequence[np.datetime64]) -> None:
    crs = CRS.from_epsg(extent.grid.epsg)
    for axis, values in (("y", extent.y), ("x", extent.x)):
        array = root.create_array(
            axis,
            shape=values.shape,
            dtype="float64",
            chunks=values.shape,
            compressors=checksummed(),
            dimension_names=(axis,),
        )
        array[:] = values
        word = "northing" if axis == "y" else "easting"
        array.attrs.update(
            {
                "standard_name": f"projection_{axis}_coordinate",
                "units": "m",
                "long_name": f"{word} of the chip's centre",
            }
        )
    time = root.create_array(
        "time", shape=(len(days),), dtype="int64", chunks=(1024,), compressors=checksummed(), dimension_names=("time",)
    )
    time[:] = _as_days(days)
    time.attrs.update(
        {
            "units": "days since 1970-01-01",
            "calendar": "proleptic_gregorian",
            "standard_name": "time",
            "long_name": "solar day of the scene",
        }
    )
    reference = root.create_array("spatial_ref", shape=(), dtype="int64", dimension_names=())
    reference[...] = 0
    t = extent.transform
    reference.attrs.update({**crs.to_cf(), "GeoTransform": f"{t.c} {t.a} {t.b} {t.f} {t.d} {t.e}"})


def _geo_attrs(extent: GridExtent) -> dict[str, Any]:
    """Attributes of the GeoZarr conventions; one level until there are pyramids."""
    t = extent.transform
    height, width = extent.shape
    attrs = create_geozarr_attrs(
        dimensions=["y", "x"],
        crs=f"EPSG:{extent.grid.epsg}",
        transform=[t.a, t.b, t.c, t.d, t.e, t.f],
        bbox=[t.c, t.f + t.e * height, t.c + t.a * width, t.f],
        shape=[height, width],
    )
    conventions = create_zarr_conventions(
        SpatialConventionMetadata(), ProjConventionMetadata(), MultiscalesConventionMetadata()
    )
    return {
        **attrs,
        **create_multiscales_layout([{"asset": ".", "transform": {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}}]),
        "zarr_conventions": conventions,
        "Conventions": "CF-1.11",
    }


def write_store(
    path: StorePath,
    extent: GridExtent,
    days: Sequence[np.datetime64],
    variables: Sequence[Variable],
    dates: Iterable[Mapping[str, NDArray[np.generic]]],
    attrs: Mapping[str, Any],
) -> None:
    """Write a whole store, date by date; takes the place of what is at `path` only once it is complete.

    In an object store the old one is given up when the first date comes, and the new one cannot be read until its
    attributes are written, last of all.

    Raises:
        StoreError: If it cannot be written, or another run is writing it.
    """
    place = Location.of(path)
    kind = str(attrs.get("geoelle:kind"))
    with store_lock(place, kind), reporting(place, "written"), making(place, kind) as partial:
        root = zarr.open_group(partial.zarr_store(), mode="r+", zarr_format=3)
        _create_arrays(root, extent, days, variables)
        for i, data in enumerate(dates):
            for variable in variables:
                array: Any = root[variable.name]
                array[i] = data[variable.name]
        root.attrs.put({**_geo_attrs(extent), **attrs})


def open_store(path: StorePath, kind: str | None = None, *, load: bool = False) -> xr.Dataset:
    """Open a store, dates in order, checked against its contract.

    Args:
        path: Folder of the store, or its URL.
        kind: `embeddings`, `difficulty` or `delta`; None takes whichever it is.
        load: Read it into memory; else arrays are read when they are used.

    Raises:
        NotFoundError: If there is no store.
        StoreError: If it is not one of geoelle's, of another kind, or a group of several zones.
        SchemaError: If it breaks its contract.
    """
    place = Location.of(path)
    root = open_group(place)
    found = root.attrs.get("geoelle:kind")
    if (zones := root.attrs.get(ZONES)) is not None:
        names = ", ".join(map(str, zones)) if isinstance(zones, list) else repr(zones)
        raise StoreError(
            f"{path} holds a store for each of several zones: {names}. Open one of these folders in it, or all with "
            "geoelle.store.open_area."
        )
    if not isinstance(found, str) or found not in _CHECKS or (kind is not None and found != kind):
        raise StoreError(
            f"{path} is a Zarr store of kind {found!r}. Expected {kind or ' or '.join(_CHECKS)}; "
            "give the store that the verb asks for."
        )
    try:
        source: Any = place.zarr_store(read_only=True) if place.is_remote else str(place)
        ds: xr.Dataset = xr.open_zarr(source, consolidated=False, decode_coords="all", chunks=None).sortby("time")
    except (BaseError, OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise StoreError(
            f"{path} cannot be opened ({said(error)}). If a run was killed while it added dates, run it again; "
            "otherwise make the store again."
        ) from None
    check_attributes(ds.attrs, path)
    _CHECKS[found](ds)
    _check_extent(place, ds)
    if load:
        for name in ds.data_vars:
            ds[name] = (ds[name].dims, read_values(ds[name]), ds[name].attrs)
    return ds


def _check_extent(place: Location, ds: xr.Dataset) -> None:
    """Refuse a grid of another size than the arrays: what a stranger's store claims may be larger than memory."""
    extent = extent_of(ds.attrs)
    n = extent.tile_chips
    asked = tuple(max(0, tiles.stop - tiles.start) * n for tiles in (extent.tile_rows, extent.tile_columns))
    there = (ds.sizes["y"], ds.sizes["x"])
    if asked != there:
        raise SchemaError(
            f"{place}: geoelle:grid asks for {asked} chips where the arrays hold {there}. Make the store again."
        )


def read_values(array: xr.DataArray) -> NDArray[Any]:
    """The numbers of an array of a store.

    Raises:
        StoreError: If a chunk is damaged.
    """
    try:
        return np.asarray(array.values)
    except (BaseError, OSError, ValueError, RuntimeError, zarr.errors.BaseZarrError) as error:
        raise StoreError(
            f"Variable {array.name} cannot be read ({said(error)}). A file of the store is damaged, which "
            "`geoelle inspect --verify` names, or cannot be reached. Delete what is damaged, or make the store again."
        ) from None


def open_group(path: StorePath, mode: str = "r") -> zarr.Group:
    """The Zarr group at `path`.

    Raises:
        NotFoundError: If there is none.
        StoreError: If something else is there, or a store that was not finished.
    """
    place = Location.of(path)
    if not place.exists():
        raise NotFoundError(f"There is no store at {place}. Make it with the verb before this one.")
    try:
        group = zarr.open_group(place.zarr_store(read_only=mode == "r"), mode=mode, zarr_format=3)  # type: ignore[arg-type]
    except (BaseError, OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise StoreError(
            f"{place} is not a Zarr v3 store ({said(error)}). Give the folder of a geoelle store."
        ) from None
    if group.attrs.get(UNFINISHED):
        raise StoreError(f"{place} is not whole: the run that makes it was stopped or is still at it. Run it again.")
    return group


def grid_attrs(extent: GridExtent) -> dict[str, Any]:
    """The grid as stored: JSON that `extent_of` reads back."""
    grid = extent.grid
    return {
        "epsg": grid.epsg,
        "chip_size_m": grid.chip_size_m,
        "stride_m": grid.stride_m,
        "tile_chips": extent.tile_chips,
        "tile_rows": [extent.tile_rows.start, extent.tile_rows.stop],
        "tile_columns": [extent.tile_columns.start, extent.tile_columns.stop],
    }


def extent_of(attrs: Mapping[str, Any]) -> GridExtent:
    """The grid extent that a store was made for.

    Raises:
        StoreError: If the attributes do not hold one.
    """
    try:
        g = attrs["geoelle:grid"]
        return GridExtent(
            ChipGrid(int(g["epsg"]), float(g["chip_size_m"]), float(g["stride_m"])),
            int(g["tile_chips"]),
            range(*map(int, g["tile_rows"])),
            range(*map(int, g["tile_columns"])),
        )
    except (KeyError, TypeError, ValueError, OverflowError, CRSError) as error:
        raise StoreError(f"The store's attribute geoelle:grid is not a grid ({error}). Make the store again.") from None


def _as_days(days: Sequence[np.datetime64]) -> NDArray[np.int64]:
    return np.asarray(days, dtype="datetime64[ns]").astype("datetime64[D]").astype(np.int64)


def run_log(store: StorePath) -> Location:
    """The log beside a store: one line of JSON for each run."""
    place = Location.of(store).absolute()
    stem, dot, suffix = place.name.rpartition(".")
    return place.with_name(f"{stem if dot and stem else suffix}.log.jsonl")
