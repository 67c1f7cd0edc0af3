"""Which chips a calibration looks at: spread evenly over blocks, seasons and textures, in an order fixed by content."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Candidates:
    """Chips that may be sampled; arrays run along them."""

    time: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    key: list[str]
    block: NDArray[np.int64]
    stratum: NDArray[np.int64]


def find_candidates(
    ds: xr.Dataset, quiet: DateRanges, exclude_dates: Sequence[date | str], block_size_m: float
) -> Candidates:
    """Embedded chips of quiet dates that lie wholly in one block.

    Chips overlap where the stride is less than their size; one that straddles a border would show the same pixels to
    the training folds and to the held-out one.

    Args:
        ds: The embedding store.
        quiet: Date ranges; empty takes all dates.
        exclude_dates: Dates to leave out.
        block_size_m: Edge of a block, EPSG:6933 metres.

    Raises:
        ProbeError: If there is none.
        ConfigError: If the dates make no sense.
    """
    days = ds["time"].values
    usable = select_days(days, quiet, exclude_dates)
    done = (read_values(ds["status"]) == schema.DONE) & usable[:, None, None]
    time, row, column = np.nonzero(done)
    if len(time) == 0:
        raise ProbeError(
            f"None of the {len(days)} dates is quiet and has embedded chips. Widen the quiet dates, or embed more."
        )
    extent = extent_of(ds.attrs)
    rows, columns = extent.rows[row], extent.columns[column]
    corners = np.stack([assign_blocks(c, block_size_m) for c in extent.grid.corners_lonlat(rows, columns)])
    whole = (corners == corners[0]).all(axis=0)
    if not whole.any():
        raise ProbeError(
            f"None of {len(time)} chips of {extent.grid.chip_size_m:g} m lies wholly in one block of "
            f"{block_size_m:g} m. Use larger blocks."
        )
    time, row, column, block = time[whole], row[whole], column[whole], corners[0][whole]
    ids = extent.grid.chip_ids(rows[whole], columns[whole])
    contrast = read_values(ds["contrast"])[time, row, column]
    edges = np.quantile(contrast, np.linspace(0, 1, _TEXTURE_STRATA + 1)[1:-1])
    texture = np.searchsorted(edges, contrast)
    month = days[time].astype("datetime64[M]").astype(np.int64) % 12
    season = (month + 1) % 12 // 3
    _, stratum = np.unique(np.stack([block, season, texture]), axis=1, return_inverse=True)
    labels = [np.datetime_as_string(day, "D") for day in days]
    key = [f"{chip} {labels[t]}" for chip, t in zip(ids, time, strict=True)]
    return Candidates(time, row, column, key, block, np.asarray(stratum).ravel())


def draw_sample(candidates: Candidates, n: int) -> NDArray[np.intp]:
    """Indices of up to n candidates, one from each stratum in turn, in the order of their keys' hashes."""
    order = np.array(content_order(candidates.key, salt="calibrate"), dtype=np.intp)
    strata = candidates.stratum[order]
    by_stratum = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    rank = np.empty(len(order), dtype=np.intp)
    rank[by_stratum] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[np.argsort(rank, kind="stable")][:n])
