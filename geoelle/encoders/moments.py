"""Times as the numbers that encoders are told."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_EPOCH_DAY_OF_WEEK = 3
"""1970-01-01 was a Thursday; ISO weeks start on Monday."""


def moments(time: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Year, day of year from 1, ISO week and hour of day (with its fraction) of times.

    Args:
        time: (chip, step), datetime64, UTC.

    Returns:
        (chip, step, 4); NaN where the time is NaT.
    """
    day = time.astype("datetime64[D]")
    year = time.astype("datetime64[Y]")
    known = ~np.isnat(time)
    day_of_year = (day - year.astype("datetime64[D]")).astype(np.int64) + 1
    # An ISO week belongs to the year of its Thursday.
    monday = day - ((day.astype(np.int64) + _EPOCH_DAY_OF_WEEK) % 7).astype("timedelta64[D]")
    thursday = monday + np.timedelta64(3, "D")
    week = (thursday - thursday.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) // 7 + 1
    hour = (time - day).astype("timedelta64[ns]").astype(np.float64) / 3.6e12
    found = np.stack([year.astype(np.int64) + 1970.0, day_of_year, week, hour], axis=-1)
    return np.where(known[..., None], found, np.nan)
