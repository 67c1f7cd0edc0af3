"""The embedding store: one shard per job, and beside the data the digest of what each job was made of.

A job's digest is written last and cleared first, so a job that was killed half-way is never taken for done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from geoelle import schema
from geoelle.errors import StoreError
from geoelle.grid import GridExtent, Tile
from geoelle.provenance import digest
from geoelle.store.atomic import replacing
from geoelle.store.layout import Variable, create_store, grid_attrs, open_group

_INNER_CHUNK = 8
_NS = "datetime64[ns]"
JOB_DIGEST = "job_digest"
# What decides whether two runs may share a store; a change of any makes other bytes.
_IDENTITY = ("geoelle:grid", "geoelle:encoder", "geoelle:config", "geoelle:area")


def embedding_variables(n_features: int, units: str) -> list[Variable]:
    """The arrays of an embedding store."""
    flags = {"flag_values": list(range(7)), "flag_meanings": schema.STATUS_MEANINGS}
    nan = float("nan")
    return [
        Variable(
            "embedding", "float32", nan, {"feature": n_features}, {"long_name": "embedding", "units": "1"}, _INNER_CHUNK
        ),
        *(
            Variable(name, "float32", nan, {}, {"long_name": f"share of {name.partition('_')[0]} pixels", "units": "1"})
            for name in schema.FRACTIONS
        ),
        Variable("contrast", "float32", nan, {}, {"long_name": "standard deviation in the chip", "units": units}),
        Variable("status", "uint8", schema.NOT_DONE, {}, {"long_name": "what became of the chip", **flags}),
    ]  # fmt: skip


def prepare(
    path: Path,
    extent: GridExtent,
    days: Sequence[np.datetime64],
    *,
    n_features: int,
    units: str,
    attrs: Mapping[str, Any],
) -> dict[np.datetime64, int]:
    """Make the store, or add what dates it lacks to the one that is there.

    Returns:
        Index on the time axis of each of its dates.

    Raises:
        StoreError: If the store there was made with another grid, encoder or config.
    """
    if not path.exists():
        with replacing(path) as partial:
            create_store(partial, extent, sorted(days), embedding_variables(n_features, units), attrs)
            _create_digests(zarr.open_group(partial, mode="r+"), extent, len(days))
    root = open_group(path, mode="r+")
    _refuse_another(path, root.attrs, attrs)
    known = _mend(path, root)
    missing = sorted(set(days) - set(known))
    if missing:
        _append(root, known, missing)
    changed = {k: v for k, v in attrs.items() if k not in root.attrs or digest(root.attrs[k]) != digest(v)}
    if changed:
        root.attrs.update(changed)
    return {day: i for i, day in enumerate([*known, *missing])}


def _create_digests(root: zarr.Group, extent: GridExtent, n_days: int) -> None:
    root.create_array(
        JOB_DIGEST,
        shape=(n_days, len(extent.tile_rows), len(extent.tile_columns), 32),
        chunks=(1, 1, 1, 32),
        dtype="uint8",
        fill_value=0,
        dimension_names=("time", "tile_y", "tile_x", "byte"),
    ).attrs["long_name"] = "sha256 of what the job was made of; zero: not done"


def _append(root: zarr.Group, known: list[np.datetime64], missing: list[np.datetime64]) -> None:
    n = len(known) + len(missing)
    # `time` grows last: it says how many dates there are, and `_mend` cuts the rest back to it.
    _resize(root, n)
    time: Any = root["time"]
    time.resize((n,))
    time[len(known) :] = np.asarray(missing, dtype=_NS).astype("datetime64[D]").astype(np.int64)


def _mend(path: Path, root: zarr.Group) -> list[np.datetime64]:
    """The store's dates, after clearing away what a run that was killed left behind.

    That is files half written, and arrays that grew for dates which `time` does not hold yet.
    """
    for left in path.rglob("*.partial"):
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


def _refuse_another(path: Path, found: Any, wanted: Mapping[str, Any]) -> None:
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


def stored_digests(path: Path) -> NDArray[np.uint8]:
    """Digests of the jobs done, (time, tile_y, tile_x, 32); zero where not done.

    Raises:
        StoreError: If the store lacks them.
    """
    try:
        return np.asarray(open_group(path)[JOB_DIGEST][...])  # type: ignore[index]
    except (KeyError, OSError, ValueError) as error:
        raise StoreError(f"{path} lacks the digests of its jobs ({error}). Make the store again.") from None


def write_job(
    path: Path,
    time_index: int,
    tile_index: tuple[int, int],
    tile: Tile,
    data: Mapping[str, NDArray[np.generic]],
    job_digest: str | None,
) -> None:
    """Write one job's chunks; its digest last, or none where the job failed."""
    root = open_group(path, mode="r+")
    digests: Any = root[JOB_DIGEST]
    digests[time_index, *tile_index] = np.zeros(32, dtype=np.uint8)
    for name, values in data.items():
        array: Any = root[name]
        array[time_index, tile.y, tile.x] = values
    if job_digest is not None:
        digests[time_index, *tile_index] = np.frombuffer(bytes.fromhex(job_digest), dtype=np.uint8)


def common_attrs(extent: GridExtent, encoder: Mapping[str, Any], aoi: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that every store of a run carries."""
    return {"geoelle:grid": grid_attrs(extent), "geoelle:encoder": dict(encoder), "geoelle:aoi": dict(aoi)}


__all__ = ("common_attrs", "embedding_variables", "prepare", "stored_digests", "write_job")
