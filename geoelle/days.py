"""Picking dates by ranges."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

type DateRanges = Sequence[tuple[date | str, date | str]]
"""First and last day of each range, both included."""


def select_days(days: NDArray[Any], ranges: DateRanges, exclude: Sequence[date | str]) -> NDArray[np.bool_]:
    """Mask of the days that lie in one of the ranges (all, if there is none) and are not excluded, (time,)."""
    as_days = days.astype("datetime64[D]")
    chosen = np.full(len(days), not ranges)
    for first, last in ranges:
        chosen |= (as_days >= np.datetime64(str(first), "D")) & (as_days <= np.datetime64(str(last), "D"))
    for day in exclude:
        chosen &= as_days != np.datetime64(str(day), "D")
    return np.asarray(chosen, dtype=np.bool_)
