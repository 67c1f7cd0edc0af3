"""The embedding store: one shard per job, and beside the data the digest of what each job was made of.

A job's digest is written last and cleared first, and so is its status within it: a job that was killed half-way is
never taken for done, nor are its chips. Every chunk carries a checksum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from zarr.codecs import Crc32cCodec

from geoelle import schema
from geoelle.errors import NotFoundError, StoreError
from geoelle.grid import GridExtent, Tile
from geoelle.provenance import digest
from geoelle.store.layout import Variable, create_store, grid_attrs, is_stored, making, open_group
from geoelle.store.location import Location, StorePath, reporting, said
from geoelle.store.locking import Hold, check_hold
from geoelle.store.quantised import encode_embedding, stored_variables

_INNER_CHUNK = 8
_NS = "datetime64[ns]"
JOB_DIGEST = "job_digest"
_OPEN_ARRAYS = 128  # of a process: more than the zones that are being written at a time have
DTYPE = "geoelle:dtype"
"""Attribute: how numbers of the embedding are stored."""
# What decides whether two runs may share a store; a change of any makes other bytes.
_IDENTITY = ("geoelle:grid", "geoelle:encoder", "geoelle:config", "geoelle:area")


def embedding_variables(n_features: int, units: str, dtype: str = "float32") -> list[Variable]:
    """The arrays of an embedding store.

    Args:
        n_features: Length of an embedding.
        units: Of the pixels, so of `contrast`.
        dtype: How the embedding is stored: `float32`, `float16`, or `int8` with one scale per chip.

    Raises:
        ConfigError: If the dtype is none of these.
    """
    flags = {"flag_values": list(range(7)), "flag_meanings": schema.STATUS_MEANINGS}
    nan = float("nan")

    def raster(name: str, long_name: str, units: str) -> Variable:
        return Variable(name, "float32", nan, {}, {"long_name": long_name, "units": units}, crc32c=True)

    return [
        *stored_variables(n_features, dtype, _INNER_CHUNK),
        *(raster(name, f"share of {name.partition('_')[0]} pixels", "1") for name in schema.FRACTIONS),
        raster("contrast", "standard deviation in the chip", units),
        Variable(
            "status", "uint8", schema.NOT_DONE, {}, {"long_name": "what became of the chip", **flags}, crc32c=True
        ),
    ]


def prepare(
    path: StorePath,
    extent: GridExtent,
    days: Sequence[np.datetime64],
    *,
    n_features: int,
    units: str,
    attrs: Mapping[str, Any],
    dtype: str = "float32",
) -> dict[np.datetime64, int]:
    """Make the store, or add what dates it lacks to the one that is there. The caller holds its `store_lock`.

    Returns:
        Index on the time axis of each of its dates.

    Raises:
        StoreError: If the store there was made with another grid, encoder, config or dtype, or cannot be written.
        ConfigError: If the dtype is unknown.
    """
    place = Location.of(path)
    attrs = {**attrs, DTYPE: dtype}
    variables = embedding_variables(n_features, units, dtype)
    with reporting(place, "written"):
        if not is_stored(place):
            with making(place, str(attrs["geoelle:kind"])) as partial:
                _create_digests(open_unfinished(partial), extent, len(days))
                create_store(partial, extent, sorted(days), variables, attrs)
        root = open_group(place, mode="r+")
        _refuse_another(place, root.attrs, attrs)
        known = _mend(place, root)
        missing = sorted(set(days) - set(known))
        if missing:
            _append(root, known, missing)
        changed = {k: v for k, v in attrs.items() if k not in root.attrs or digest(root.attrs[k]) != digest(v)}
        if changed:
            root.attrs.update(changed)
    return {day: i for i, day in enumerate([*known, *missing])}


def open_unfinished(place: Location) -> zarr.Group:
    """The group of a store that is being made."""
    return zarr.open_group(place.zarr_store(), mode="r+", zarr_format=3)


def _create_digests(root: zarr.Group, extent: GridExtent, n_days: int) -> None:
    root.create_array(
        JOB_DIGEST,
        shape=(n_days, len(extent.tile_rows), len(extent.tile_columns), 32),
        chunks=(1, 1, 1, 32),
        dtype="uint8",
        fill_value=0,
        compressors=Crc32cCodec(),
        dimension_names=("time", "tile_y", "tile_x", "byte"),
    ).attrs["long_name"] = "sha256 of what the job was made of; zero: not done"


def _append(root: zarr.Group, known: list[np.datetime64], missing: list[np.datetime64]) -> None:
    n = len(known) + len(missing)
    # `time` grows last: it says how many dates there are, and `_mend` cuts the rest back to it.
    _resize(root, n)
    time: Any = root["time"]
    time.resize((n,))
    time[len(known) :] = np.asarray(missing, dtype=_NS).astype("datetime64[D]").astype(np.int64)


def _mend(place: Location, root: zarr.Group) -> list[np.datetime64]:
    """The store's dates, after clearing away what a run that was killed left behind.

    That is files half written, and arrays that grew for dates which `time` does not hold yet. No other run's files:
    whoever prepares a store holds its lock. An object store shows no half-written object.
    """
    if not place.is_remote:
        for left in place.path.rglob("*.partial"):
            left.unlink(missing_ok=True)
    days = _days(root)
    while days and days[-1] == np.datetime64(0, "ns"):  # `time` itself grew but was not filled in
        days.pop()
    _resize(root, len(days))
    time: Any = root["time"]
    if time.shape[0] != len(days):
        time.resize((len(days),))
    return days


def _resize(root: zarr.Group, n_days: int) -> None:
    for name, array in sorted(root.arrays()):
        dimensions = array.metadata.dimension_names  # type: ignore[union-attr]
        if dimensions and dimensions[0] == "time" and name != "time" and array.shape[0] != n_days:
            array.resize((n_days, *array.shape[1:]))


def _days(root: zarr.Group) -> list[np.datetime64]:
    values = np.asarray(root["time"][:])  # type: ignore[index]
    return list(values.astype("datetime64[D]").astype(_NS))


def _refuse_another(path: Location, found: Any, wanted: Mapping[str, Any]) -> None:
    kind = found.get("geoelle:kind")
    if kind != wanted["geoelle:kind"]:
        raise StoreError(f"{path} is a Zarr store of kind {kind!r}. It is left as it is; give another --out.")
    for name in _IDENTITY:
        if name in found and digest(found[name]) == digest(wanted[name]):
            continue
        is_dict = isinstance(found.get(name), dict)
        differing = [k for k, v in wanted[name].items() if not is_dict or digest(found[name].get(k)) != digest(v)]
        said = ", ".join(
            f"{k} {found[name].get(k)!r} (this run: {wanted[name][k]!r})" for k in differing[:2] if is_dict
        )
        raise StoreError(
            f"{path} was made with another {name.removeprefix('geoelle:')}: {said or 'none recorded'}. "
            "It is left as it is; give another --out, or delete it."
        )
    stored = found.get(DTYPE, "float32")
    if stored != wanted[DTYPE]:
        raise StoreError(
            f"{path} holds embeddings as {stored} (this run: {wanted[DTYPE]}). "
            "It is left as it is; give another --out, or delete it."
        )


def stored_digests(path: StorePath) -> NDArray[np.uint8]:
    """Digests of the jobs done, (time, tile_y, tile_x, 32); zero where not done.

    Raises:
        StoreError: If the store lacks them, or they are damaged.
    """
    try:
        return np.asarray(open_group(path)[JOB_DIGEST][...])  # type: ignore[index]
    except (KeyError, OSError, ValueError, RuntimeError, BaseError, zarr.errors.BaseZarrError) as error:
        raise StoreError(
            f"{path} lacks the digests of its jobs, or they are damaged ({said(error)}). "
            f"Delete its folder {JOB_DIGEST}/c, and every job is done again."
        ) from None


def status_of(path: StorePath, time_index: int) -> NDArray[np.uint8]:
    """What became of each chip on one date, (y, x).

    Raises:
        StoreError: If it cannot be read.
    """
    try:
        return np.asarray(_open_array(Location.of(path), "status")[time_index])
    except (OSError, ValueError, RuntimeError, BaseError, zarr.errors.BaseZarrError) as error:
        raise StoreError(f"{path} has a damaged status ({said(error)}).") from None


def write_job(
    path: StorePath,
    time_index: int,
    tile_index: tuple[int, int],
    tile: Tile,
    data: Mapping[str, NDArray[np.generic]],
    job_digest: str | None,
    hold: Hold | None = None,
) -> None:
    """Write one job's chunks; its digest last, or none where the job failed.

    Digest and status are cleared first and written last, so whatever stops this leaves a job that is not done, and
    chips that no reader takes for done.

    Args:
        path: The store.
        time_index: On its time axis.
        tile_index: Row and column of the tile in the store.
        tile: The tile.
        data: By variable; `embedding` as float32, stored as the store's dtype asks.
        job_digest: What the job was made of, 64 hexadecimal digits; None where it failed.
        hold: The run's lock of the store; a run that lost it gives the job up.

    Raises:
        StoreError: If it cannot be written: the disk is full or read-only, the network is away, the lock is lost.
    """
    place = Location.of(path)
    with reporting(place, "written"):
        if hold is not None:
            check_hold(hold)
        if not (place / "zarr.json").is_file():  # deleted meanwhile, or never made
            raise NotFoundError(f"There is no store at {place}. Make it with the verb before this one.")

        def array(name: str) -> Any:
            return _array(place, name, time_index, hold)

        stored = encode_embedding(data, str(array("embedding").dtype))
        digests, status = array(JOB_DIGEST), array("status")
        digests[time_index, *tile_index] = 0
        status[time_index, tile.y, tile.x] = schema.NOT_DONE
        for name in sorted(stored, key=lambda n: n == "status"):
            array(name)[time_index, tile.y, tile.x] = stored[name]
        if job_digest is not None:
            if hold is not None:
                check_hold(hold)
            digests[time_index, *tile_index] = np.frombuffer(bytes.fromhex(job_digest), dtype=np.uint8)


def _array(place: Location, name: str, time_index: int, hold: Hold | None) -> Any:
    """An array of a store, opened by itself: the attributes of the root can be megabytes.

    Within a run its metadata is read once per process. Only the coordinator writes metadata, before jobs start; dates
    that it added since show in a time index beyond the array.
    """
    if hold is None:
        return _open_array(place, name)
    array = _opened(place, name, hold.token)
    if time_index < array.shape[0]:
        return array
    _opened.cache_clear()
    return _opened(place, name, hold.token)


@lru_cache(maxsize=_OPEN_ARRAYS)
def _opened(place: Location, name: str, run: str) -> Any:
    return _open_array(place, name)


def _open_array(place: Location, name: str) -> Any:
    try:
        return zarr.open_array(place.zarr_store(), path=name, mode="r+", zarr_format=3)
    except (FileNotFoundError, KeyError, ValueError, zarr.errors.BaseZarrError):
        open_group(place)  # says what is wrong with the store itself
        raise StoreError(f"{place} has no array {name!r} that can be used. Make the store again.") from None


def common_attrs(extent: GridExtent, encoder: Mapping[str, Any], aoi: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that every store of a run carries."""
    return {"geoelle:grid": grid_attrs(extent), "geoelle:encoder": dict(encoder), "geoelle:aoi": dict(aoi)}


__all__ = ("common_attrs", "embedding_variables", "prepare", "status_of", "stored_digests", "write_job")
