"""Which chips a calibration looks at: spread evenly over blocks, seasons and textures, in an order fixed by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoelle import schema
from geoelle.days import DateRanges, select_days
from geoelle.errors import ProbeError
from geoelle.holdout import assign_blocks
from geoelle.provenance import content_order
from geoelle.store.layout import extent_of, read_values

_TEXTURE_STRATA = 3


@dataclass(frozen=True)
class Looks:
    """The dates of the stores of all zones, counted through, one store after another."""

    zones: Mapping[str, xr.Dataset]
    """Embedding stores by zone; a store of one zone is named ""."""

    @property
    def starts(self) -> dict[str, int]:
        """By zone, the number of its first look."""
        ends = np.cumsum([ds.sizes["time"] for ds in self.zones.values()])
        return {zone: int(end) - ds.sizes["time"] for (zone, ds), end in zip(self.zones.items(), ends, strict=True)}

    def at(self, look: int) -> tuple[str, int]:
        """The zone whose store holds a look, and the look's place on that store's time axis."""
        return next((zone, look - start) for zone, start in reversed(self.starts.items()) if start <= look)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Chips that may be sampled; arrays run along them."""

    time: NDArray[np.intp]
    """Number of the look, as `Looks` counts them: with one zone, the index on its time axis."""
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    key: list[str]
    block: NDArray[np.int64]
    stratum: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Whole:
    """Embedded chips of one zone's quiet dates that lie wholly in one block."""

    time: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    key: list[str]
    block: NDArray[np.int64]
    contrast: NDArray[np.float32]
    season: NDArray[np.int64]


def find_candidates(
    stores: xr.Dataset | Mapping[str, xr.Dataset],
    quiet: DateRanges,
    exclude_dates: Sequence[date | str],
    block_size_m: float,
) -> Candidates:
    """Embedded chips of quiet dates that lie wholly in one block, of all zones together.

    Chips overlap where the stride is less than their size; one that straddles a border would show the same pixels to
    the training folds and to the held-out one.

    Args:
        stores: The embedding store, or those of several zones.
        quiet: Date ranges; empty takes all dates.
        exclude_dates: Dates to leave out.
        block_size_m: Edge of a block, EPSG:6933 metres.

    Raises:
        ProbeError: If there is none.
        ConfigError: If the dates make no sense.
    """
    looks = Looks({"": stores} if isinstance(stores, xr.Dataset) else stores)
    n_embedded = 0
    parts: list[_Whole] = []
    for zone, ds in looks.zones.items():
        done = _quiet_chips(ds, quiet, exclude_dates)
        n_embedded += int(done.sum())
        parts.append(_whole_in_a_block(ds, done, looks.starts[zone], block_size_m))
    if n_embedded == 0:
        n_days = len({day for ds in looks.zones.values() for day in ds["time"].values})
        raise ProbeError(
            f"None of the {n_days} dates is quiet and has embedded chips. Widen the quiet dates, or embed more."
        )
    if not any(part.key for part in parts):
        size = extent_of(next(iter(looks.zones.values())).attrs).grid.chip_size_m
        raise ProbeError(
            f"None of {n_embedded} chips of {size:g} m lies wholly in one block of "
            f"{block_size_m:g} m. Use larger blocks."
        )
    time, row, column, block, contrast, season = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("time", "row", "column", "block", "contrast", "season")
    )
    edges = np.quantile(contrast, np.linspace(0, 1, _TEXTURE_STRATA + 1)[1:-1])
    texture = np.searchsorted(edges, contrast)
    _, stratum = np.unique(np.stack([block, season, texture]), axis=1, return_inverse=True)
    return Candidates(time, row, column, [k for p in parts for k in p.key], block, np.asarray(stratum).ravel())


def _quiet_chips(ds: xr.Dataset, quiet: DateRanges, exclude_dates: Sequence[date | str]) -> NDArray[np.bool_]:
    """Embedded chips of the dates that may be used, (time, y, x)."""
    usable = select_days(ds["time"].values, quiet, exclude_dates)
    return np.asarray((read_values(ds["status"]) == schema.DONE) & usable[:, None, None], dtype=np.bool_)


def _whole_in_a_block(ds: xr.Dataset, done: NDArray[np.bool_], first_look: int, block_size_m: float) -> _Whole:
    days = ds["time"].values
    time, row, column = np.nonzero(done)
    extent = extent_of(ds.attrs)
    rows, columns = extent.rows[row], extent.columns[column]
    corners = np.stack([assign_blocks(c, block_size_m) for c in extent.grid.corners_lonlat(rows, columns)])
    whole = (corners == corners[0]).all(axis=0)
    time, row, column, block = time[whole], row[whole], column[whole], corners[0][whole]
    ids = extent.grid.chip_ids(rows[whole], columns[whole])
    contrast = read_values(ds["contrast"])[time, row, column]
    month = days[time].astype("datetime64[M]").astype(np.int64) % 12
    labels = [np.datetime_as_string(day, "D") for day in days]
    key = [f"{chip} {labels[t]}" for chip, t in zip(ids, time, strict=True)]
    return _Whole(time + first_look, row, column, key, block, contrast, (month + 1) % 12 // 3)


def draw_sample(candidates: Candidates, n: int) -> NDArray[np.intp]:
    """Indices of up to n candidates, one from each stratum in turn, in the order of their keys' hashes."""
    order = np.array(content_order(candidates.key, salt="calibrate"), dtype=np.intp)
    strata = candidates.stratum[order]
    by_stratum = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    rank = np.empty(len(order), dtype=np.intp)
    rank[by_stratum] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[np.argsort(rank, kind="stable")][:n])
