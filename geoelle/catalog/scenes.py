"""Items of one solar day are one scene."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from geoelle.catalog.footprints import middle_longitude
from geoelle.records import ItemRecord, Scene

_NS_PER_DEGREE = round(86_400e9 / 360)  # the sun needs a day for 360 degrees of longitude


def solar_day(item: ItemRecord) -> np.datetime64:
    """The date at the item's place when it was taken, datetime64[ns] at 00:00.

    A composite is no moment, so its day is the start of its interval.
    """
    time = item.time
    # A time of exactly midnight UTC is a date without a time of day, and stays that date.
    if item.time_kind == "instant" and time != time.astype("datetime64[D]").astype("datetime64[ns]"):
        time = time + np.timedelta64(round(middle_longitude(item) * _NS_PER_DEGREE), "ns")
    return np.datetime64(time.astype("datetime64[D]"), "ns")


def group_scenes(items: Iterable[ItemRecord]) -> list[Scene]:
    """Scenes in order of time; within one, items by time and id, so that mosaics do not depend on the catalog."""
    by_day: dict[np.datetime64, list[ItemRecord]] = {}
    for item in sorted(items, key=lambda i: (i.time, i.id)):
        by_day.setdefault(solar_day(item), []).append(item)
    return [
        Scene(day=day, time=group[0].time, time_kind=group[0].time_kind, items=tuple(group))
        for day, group in sorted(by_day.items())
    ]
