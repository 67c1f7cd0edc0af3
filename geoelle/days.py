"""Picking dates by ranges."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import ConfigError

_FIRST_YEAR, _LAST_YEAR = 1700, 2200

type DateRanges = Sequence[tuple[date | str, date | str]]
"""First and last day of each range, both included."""


def as_day(day: date | str) -> np.datetime64:
    """A day as datetime64[ns] at 00:00.

    Raises:
        ConfigError: If it is no date, or beyond what datetime64[ns] holds.
    """
    try:
        found = date.fromisoformat(str(day).replace(" ", "T").partition("T")[0])
    except ValueError:
        raise ConfigError(f"{str(day)!r} is no date. Write it as YYYY-MM-DD.") from None
    if not _FIRST_YEAR <= found.year <= _LAST_YEAR:  # NumPy would wrap round without a word
        raise ConfigError(f"{str(day)!r} is out of range. Expected a year from {_FIRST_YEAR} to {_LAST_YEAR}.")
    return np.datetime64(found, "ns")


def select_days(days: NDArray[Any], ranges: DateRanges, exclude: Sequence[date | str]) -> NDArray[np.bool_]:
    """Mask of the days that lie in one of the ranges (all, if there is none) and are not excluded, (time,).

    Raises:
        ConfigError: If a date is none, or a range ends before it starts.
    """
    as_days = days.astype("datetime64[D]")
    chosen = np.full(len(days), not ranges)
    for first, last in ranges:
        if as_day(last) < as_day(first):
            raise ConfigError(f"The range {first} to {last} ends before it starts. Give the earlier date first.")
        chosen |= (as_days >= as_day(first)) & (as_days <= as_day(last))
    for day in exclude:
        chosen &= as_days != as_day(day)
    return np.asarray(chosen, dtype=np.bool_)
