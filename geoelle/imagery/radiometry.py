"""Digital numbers to physical units: one scaling for a scene, decided per item and never from the date."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import ImageryError
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

LINEAR, DECIBEL = "linear", "dB"
_NAMED = 5


def scaling(items: Sequence[ItemRecord], bands: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and offset of each band, of one scene's items.

    Raises:
        ImageryError: If the items need different ones; names those of two states, the first few of each.
    """
    states: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for item in items:
        states.setdefault(tuple((item.assets[b].scale, item.assets[b].offset) for b in bands), []).append(item.id)
    if len(states) > 1:
        first, second = list(states.values())[:2]
        raise ImageryError(
            f"Items {_named(first)} and {_named(second)} of one day scale their numbers differently (offset of "
            "baseline 04.00). Mixed, they would show change where there is none; leave one state out with --exclude."
        )
    (pairs,) = states
    array = np.asarray(pairs, dtype=np.float32)
    return array[:, 0], array[:, 1]


def to_units(pixels: NDArray[np.float32], sensor: Sensor, units: str | None) -> NDArray[np.float32]:
    """Pixels in the units asked for, in place.

    The only conversion is of radar power to decibels, 10 log10(power). Power of zero or less, which is noise taken off
    or no data, has no logarithm and becomes NaN.

    Raises:
        ImageryError: If the units are others than the sensor's and cannot be made of them.
    """
    if units is None or units == sensor.units:
        return pixels
    if (sensor.units, units) != (LINEAR, DECIBEL):
        raise ImageryError(
            f"Pixels of {sensor.name} are in {sensor.units}, and {units} is asked for. "
            f"Only {LINEAR} power is made {DECIBEL}; take a sensor in {units}, or an encoder for {sensor.units}."
        )
    for values in pixels:
        np.copyto(values, np.nan, where=~(values > 0))
        np.log10(values, out=values)
        values *= np.float32(10)
    return pixels


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more
