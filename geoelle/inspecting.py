"""What is in a store, what is missing, what failed and why: read from the store and the run log beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry import shape

from geoelle import schema
from geoelle.aoi import aoi_geometry, read_aoi
from geoelle.errors import GeoelleError, StoreError
from geoelle.grid import GridExtent, zone_chips
from geoelle.provenance import digest
from geoelle.store import open_store
from geoelle.store.embeddings import stored_digests
from geoelle.store.integrity import DamagedChunk, damaged_chunks
from geoelle.store.layout import extent_of, open_group, read_values, run_log
from geoelle.store.location import Location, StorePath
from geoelle.store.zones import zone_paths

if TYPE_CHECKING:
    from geoelle.inspection_tables import Table

_SUPPORT_NAMES = {schema.SUPPORT_OUTSIDE: "outside", schema.SUPPORT_INSIDE: "inside", schema.SUPPORT_NO_DATA: "no_data"}
_FLAGS: Mapping[str, tuple[str, Mapping[int, str]]] = {
    "embeddings": ("status", dict(enumerate(schema.STATUS_MEANINGS.split()))),
    "difficulty": ("support", _SUPPORT_NAMES),
    "delta": ("state", dict(enumerate(schema.STATE_NAMES))),
}
_SHOWN_ATTRS = (
    "geoelle:config", "geoelle:area", "geoelle:simulated", "geoelle:attribution", "geoelle:native_gsd_m",
    "geoelle:encoder_notes",
    "geoelle:probe", "geoelle:probe_origin", "geoelle:reference", "geoelle:p_kind", "geoelle:method", "geoelle:made_of",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DateReport:
    """One date of one zone."""

    date: str
    items: tuple[str, ...]
    """Ids of the scene's items."""
    chips: dict[str, int]
    """How many by what became of them: `status`, `support` or `state`, by the kind of store."""
    jobs_done: int = 0
    jobs_failed: int = 0
    jobs_missing: int = 0
    """Neither done nor failed. All three are of embedding stores."""


@dataclass(frozen=True, slots=True)
class ZoneReport:
    """One flat store: the whole, or one UTM zone of it."""

    zone: str
    """EPSG code; empty where the store has no zones."""
    place: str
    grid: dict[str, Any]
    shape: tuple[int, int]
    """Chips, (y, x)."""
    dates: tuple[DateReport, ...]
    n_bytes: int
    """On disk or in the bucket."""
    n_files: int
    trouble: tuple[str, ...] = ()
    """What of it cannot be read."""
    damaged: tuple[DamagedChunk, ...] | None = None
    """None where it was not asked for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that failed, and why, in the words of the run that tried it last."""

    job: str
    error: str
    run: str
    """When that run ended, UTC."""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What is in a store."""

    store: str
    kind: str
    dtype: str
    """How embeddings are stored; empty for other kinds."""
    encoder: dict[str, Any]
    zones: tuple[ZoneReport, ...]
    failures: tuple[Failure, ...]
    runs: int
    """Runs in the log beside the store."""
    last_run: dict[str, Any]
    """The last line of that log."""
    software: dict[str, str]
    masks: dict[str, int]
    """Dates by what their clouds were masked by, of all zones: `scl`, `heuristic`, `none`, ..."""
    provenance: dict[str, Any] = field(repr=False)
    """Attributes that say what it was made of."""

    @property
    def n_bytes(self) -> int:
        """On disk or in the bucket."""
        return sum(zone.n_bytes for zone in self.zones)

    @property
    def n_chips(self) -> int:
        """Chips with a value, over all dates."""
        have = {"embeddings": ("done",), "difficulty": ("inside", "outside"), "delta": schema.STATE_NAMES[1:]}[
            self.kind
        ]
        return sum(date.chips.get(name, 0) for date in self._dates for name in have)

    @property
    def bytes_per_chip(self) -> float:
        """NaN where no chip has a value."""
        return self.n_bytes / self.n_chips if self.n_chips else float("nan")

    @property
    def jobs(self) -> dict[str, int]:
        """Jobs done, failed and missing."""
        return {
            name: sum(getattr(date, f"jobs_{name}") for date in self._dates) for name in ("done", "failed", "missing")
        }

    @property
    def is_whole(self) -> bool:
        """Whether nothing failed, is missing, cannot be read, or was found damaged."""
        jobs = self.jobs
        return not (jobs["failed"] or jobs["missing"] or any(z.trouble or z.damaged for z in self.zones))

    @property
    def _dates(self) -> Iterator[DateReport]:
        return (date for zone in self.zones for date in zone.dates)

    def tables(self) -> dict[str, Table]:
        """Plain text to show: for each table its title, then its columns and rows."""
        from geoelle.inspection_tables import report_tables

        return report_tables(self)


def inspect(store: StorePath, *, verify: bool = False) -> StoreReport:
    """Say what is in a store, what is missing, what failed and why.

    Args:
        store: Store of any kind, of one zone or several, in a folder or an object store.
        verify: Read every chunk, and list those that are damaged or missing where the status says done.

    Raises:
        NotFoundError: If there is no store.
        StoreError: If it is none of geoelle's.
    """
    place = Location.of(store)
    root = open_group(place)
    kind = root.attrs.get("geoelle:kind")
    if not isinstance(kind, str) or kind not in _FLAGS:
        raise StoreError(f"{place} is a Zarr store of kind {kind!r}. Expected {', '.join(_FLAGS)}.")
    paths = zone_paths(place)
    zones = tuple(_inspect_zone(zone, path, kind, verify) for zone, path in paths.items())
    attrs = _attrs_of(paths.values()) | dict(root.attrs)
    log = _log_lines(place)
    dtype = str(attrs.get("geoelle:dtype", "float32")) if kind == "embeddings" else ""
    failed = any(date.jobs_failed or date.jobs_missing for zone in zones for date in zone.dates)
    return StoreReport(
        store=str(place),
        kind=kind,
        dtype=dtype,
        encoder=_mapping(attrs.get("geoelle:encoder")),
        zones=zones,
        failures=_failures(log) if failed else (),
        runs=len(log),
        last_run=log[-1] if log else {},
        software={k: str(v) for k, v in _mapping(attrs.get("geoelle:software")).items()},
        masks=_masks_of(paths.values()),
        provenance={name: attrs[name] for name in _SHOWN_ATTRS if name in attrs},
    )


def _inspect_zone(zone: str, place: Location, kind: str, verify: bool) -> ZoneReport:
    files = place.files()
    n_bytes, n_files = sum(files.values()), len(files)
    try:
        ds = open_store(place, kind)
        extent = extent_of(ds.attrs)
    except GeoelleError as error:  # a zone that was not begun, or is damaged: the others are still worth a report
        return ZoneReport(zone, str(place), {}, (0, 0), (), n_bytes, n_files, (str(error),))
    trouble: list[str] = []
    dates = _dates(ds, place, kind, extent, trouble)
    damaged = damaged_chunks(place, kind) if verify else None
    grid = _mapping(ds.attrs["geoelle:grid"])
    return ZoneReport(zone, str(place), grid, extent.shape, dates, n_bytes, n_files, tuple(trouble), damaged)


def _dates(
    ds: xr.Dataset, place: Location, kind: str, extent: GridExtent, trouble: list[str]
) -> tuple[DateReport, ...]:
    flag, names = _FLAGS[kind]
    scenes = _mapping(ds.attrs.get("geoelle:scenes"))
    reports, flags = [], []
    for i, day in enumerate(ds["time"].values):
        label = str(np.datetime_as_string(day, "D"))
        try:
            values = read_values(ds[flag].isel(time=i))
        except StoreError as error:
            trouble.append(f"{label}: {error}")
            values = np.zeros(extent.shape, dtype=np.uint8)
        found, counts = np.unique(values, return_counts=True)
        chips = {names.get(int(v), str(v)): int(n) for v, n in zip(found, counts, strict=True)}
        items = scenes.get(label)
        reports.append((label, tuple(map(str, items)) if isinstance(items, list) else (), chips))
        flags.append(values)
    jobs = [(0, 0, 0)] * len(flags)
    if kind == "embeddings" and flags:
        try:
            jobs = _jobs(place, ds, extent, flags)
        except StoreError as error:
            trouble.append(str(error))
    return tuple(DateReport(*report, *job) for report, job in zip(reports, jobs, strict=True))


def _jobs(
    place: Location, ds: xr.Dataset, extent: GridExtent, status: Sequence[NDArray[np.uint8]]
) -> list[tuple[int, int, int]]:
    """Jobs done, failed and missing of each date, in the order of the dates."""
    digests = stored_digests(place).any(axis=-1)
    # Digests lie as the dates were added; the dataset has its dates sorted.
    added = np.asarray(open_group(place)["time"][...])  # type: ignore[index]
    digests = digests[np.argsort(added, kind="stable")]
    shape = digests.shape[1:]
    failed = np.stack([_any_by_tile(s == schema.FAILED, extent, shape) for s in status]) & ~digests
    touched = np.stack([_any_by_tile(s != schema.NOT_DONE, extent, shape) for s in status]) | digests
    wanted = _wanted(ds, extent)
    asked = touched.any(axis=0) if wanted is None else _any_by_tile(wanted, extent, shape)
    missing = asked & ~digests & ~failed
    counts = [(int(d.sum()), int(f.sum()), int(m.sum())) for d, f, m in zip(digests, failed, missing, strict=True)]
    # Where no imagery reaches a tile there is no job; the run that planned them wrote down how many there are.
    planned = _mapping(ds.attrs.get("geoelle:jobs"))
    days = [str(day) for day in np.datetime_as_string(ds["time"].values, "D")]
    return [
        (done, fails, max(0, int(n) - done - fails) if isinstance(n := planned.get(day), int) else lacking)
        for day, (done, fails, lacking) in zip(days, counts, strict=True)
    ]


def _any_by_tile(mask: NDArray[np.bool_], extent: GridExtent, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    tiles = [mask[tile.y, tile.x].any() for tile in extent.tiles()]
    if len(tiles) != np.prod(shape):
        raise StoreError(f"The store has digests of {shape} tiles, and its grid {len(tiles)}. Make the store again.")
    return np.array(tiles, dtype=np.bool_).reshape(shape)


def _wanted(ds: xr.Dataset, extent: GridExtent) -> NDArray[np.bool_] | None:
    """Chips that the store was made for; None where its attributes do not tell."""
    asked = _mapping(ds.attrs.get("geoelle:area")).get("digest")
    try:
        features = ds.attrs["geoelle:aoi"]["features"]
        area = aoi_geometry(read_aoi(shapely.union_all([shape(f["geometry"]) for f in features])))
        whole = extent.aoi_mask(area)
        if _digest_of(whole) == asked:
            return whole
        grid = extent.grid
        for zone in zone_chips(area, grid.chip_size_m, grid.stride_m, extent.tile_chips):
            if zone.extent == extent and _digest_of(zone.wanted) == asked:
                return zone.wanted
    except (GeoelleError, shapely.errors.ShapelyError, LookupError, TypeError, ValueError, AttributeError):
        return None
    return None


def _digest_of(wanted: NDArray[np.bool_]) -> str:
    return digest(np.packbits(wanted).tobytes().hex())


def _log_lines(place: Location) -> list[dict[str, Any]]:
    """Lines of the log beside the store; a line that a kill cut short is left out."""
    lines = []
    try:
        text = run_log(place).read_bytes().decode(errors="replace")
    except StoreError:  # none yet, or none to be read
        return []
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            lines.append(found)
    return lines


def _failures(log: Sequence[Mapping[str, Any]]) -> tuple[Failure, ...]:
    """Of the last run, each job that failed: a run tries all that is not done, so earlier ones are settled."""
    if not log or not isinstance(log[-1].get("failures"), list):
        return ()
    when = str(log[-1].get("time", ""))
    parts = [str(failure).partition(": ") for failure in log[-1]["failures"]]
    return tuple(Failure(job, error, when) for job, _, error in parts)


def _attrs_of(paths: Any) -> dict[str, Any]:
    for path in paths:
        try:
            return dict(open_group(path).attrs)
        except StoreError:
            continue
    return {}


def _masks_of(paths: Iterable[Location]) -> dict[str, int]:
    by_day: dict[str, set[str]] = {}
    for path in paths:
        try:
            masks = _mapping(open_group(path).attrs.get("geoelle:masks"))
        except StoreError:
            continue
        for day, source in masks.items():
            by_day.setdefault(str(day), set()).add(str(source))
    counted = Counter(source for sources in by_day.values() for source in sources)
    return dict(sorted(counted.items()))


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
