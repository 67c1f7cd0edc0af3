"""Whether Sentinel-2 pixels carry the +1000 of processing baseline 04.00, by their darkest ones. A check, no decision.

Almost every scene holds water, shadow or dense vegetation, which reflect next to nothing in some band. Their digital
numbers are near 0 where the offset is gone and near 1000 where it is still in, in every band at once. Haze brightens
dark ground too, so it must not look like the offset: bands of the water vapour over Sentinel-2's cloud and haze tell it
(see `geoelle.imagery.cloudtest`), and visible bands alone decide nothing. A scene of nothing but cloud, snow or bright
sand has no dark pixel and stays undecided.

What the pixels are scaled with follows from what an item declares, never from this test: a contradiction is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import ImageryError
from geoelle.imagery.overviews import read_overview
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

OFFSET_DN = 1000
"""What baseline 04.00 and later add to every digital number (ESA, Sentinel-2 Products Specification Document, 14.9)."""
_TESTED_RULE = "sentinel-2-l2a"
"""The rule for offsets of a sensor, Sentinel-2 itself or a user's, whose pixels may carry this one."""
_BANDS = ("coastal", "blue", "green", "red", "swir16", "swir22")
_VISIBLE, _SHORT_WAVE = ("blue", "green", "red"), ("swir16", "swir22")
_VAPOUR = ("nir08", "nir09")
_PERCENTILE = 0.1
_MIN_PIXELS = 1000
# Of floors, in digital numbers of 1e-4 reflectance. With the offset, a floor under 700 would be a reflectance under
# -0.03; without it, floors over 850 in all bands are ground without anything dark.
_GONE_LOWEST, _GONE_SECOND = 600.0, 800.0
_LEFT_IN_LOWEST = (850.0, 1350.0)
_LEFT_IN_VISIBLE, _LEFT_IN_SPREAD = (850.0, 1700.0), 1.5
_HAZE_RATIO = 1.1


@dataclass(frozen=True, slots=True)
class DarkPixels:
    """What the darkest pixels of one item say."""

    offset_in_pixels: bool | None
    """Whether the pixels carry the offset; None where they do not tell."""
    floors: dict[str, float]
    """Low percentile of the digital numbers (1e-4 reflectance) by band."""
    n_pixels: int
    """Pixels looked at, of the thinned item."""
    reason: str
    """Why, in a few words."""

    def as_json(self) -> dict[str, Any]:
        """For a store's attributes."""
        return asdict(self)


def dark_pixels(item: ItemRecord, sensor: Sensor) -> DarkPixels:
    """Look at an item's darkest pixels.

    Reads at most 512 x 512 pixels each of up to eight bands.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature.
    """
    if sensor.offset_rule != _TESTED_RULE:
        return DarkPixels(None, {}, 0, f"{sensor.name} has no such offset")
    names = [name for name in (*_BANDS, *_VAPOUR) if name in item.assets]
    if not set(_VISIBLE) <= set(names):
        return DarkPixels(None, {}, 0, "a visible band is missing")
    numbers = read_overview(item, names)
    return judge_floors({name: n * np.float32(item.assets[name].scale * 1e4) for name, n in numbers.items()})


def judge_floors(numbers: Mapping[str, NDArray[np.float32]]) -> DarkPixels:
    """The verdict on digital numbers (of 1e-4 reflectance) by band, each (y, x), NaN or 0 where there is no data."""
    seen = _inside(np.all([np.nan_to_num(values) > 0 for values in numbers.values()], axis=0))
    n = int(seen.sum())
    if n < _MIN_PIXELS:
        return DarkPixels(None, {}, n, "too few pixels with data")
    floors = {b: round(float(np.percentile(numbers[b][seen], _PERCENTILE)), 1) for b in _BANDS if b in numbers}
    lowest, second = sorted(floors.values())[:2]
    if lowest < _GONE_LOWEST or second < _GONE_SECOND:
        return DarkPixels(False, floors, n, "there are darker pixels than the offset allows")
    visible = [floors[name] for name in _VISIBLE]
    if not set(_SHORT_WAVE) & set(floors):
        return DarkPixels(None, floors, n, "without short-wave infrared, haze looks the same")
    if not _LEFT_IN_LOWEST[0] <= lowest <= _LEFT_IN_LOWEST[1] or not (
        _LEFT_IN_VISIBLE[0] <= min(visible) and max(visible) <= min(_LEFT_IN_VISIBLE[1], _LEFT_IN_SPREAD * min(visible))
    ):
        return DarkPixels(None, floors, n, "nothing dark to tell by")
    if set(_VAPOUR) <= set(numbers):
        near, vapour = (numbers[name][seen] for name in _VAPOUR)
        if np.median(vapour / near) > _HAZE_RATIO:
            return DarkPixels(None, floors, n, "cloud or haze over all of it")
    return DarkPixels(True, floors, n, "dark pixels lie at the offset in every band")


def _inside(there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the pixels beside a gap: overviews may have mixed them with it."""
    inside = there.copy()
    for axis in (0, 1):
        for shift in (1, -1):
            neighbour = np.roll(inside, shift, axis)
            edge = [slice(None), slice(None)]
            edge[axis] = slice(0, 1) if shift == 1 else slice(-1, None)
            neighbour[tuple(edge)] = True
            inside = inside & neighbour
    return inside


def check_radiometry(items: Iterable[ItemRecord], evidence: Mapping[str, DarkPixels]) -> dict[str, dict[str, Any]]:
    """Compare what items declare about the offset with what their pixels say.

    Args:
        items: Of one run.
        evidence: By item id; items that are not in it are not checked.

    Returns:
        By item id, what is declared and found, as JSON-able values for the store's `geoelle:radiometry`.

    Raises:
        ImageryError: If pixels contradict a declaration, or an offset that no one declares is in some items and not in
            others; names the items, what they declare, what the pixels say and what to do.
    """
    checked = [(item, evidence[item.id]) for item in items if item.id in evidence]
    doubled = [item for item, found in checked if _subtracts(item) and found.offset_in_pixels is False]
    forgotten = [item for item, found in checked if not _subtracts(item) and found.offset_in_pixels is True]
    if forgotten:
        free = [item for item, found in checked if not _subtracts(item) and found.offset_in_pixels is False]
        mixed = (
            f" Others declare the same and are free of it ({_named(free)}): mixed, they fake change." if free else ""
        )
        raise ImageryError(
            f"The pixels of {_named(forgotten)} still carry the +{OFFSET_DN} of baseline 04.00, which their metadata "
            f"({_declared(forgotten[0])}) does not have subtracted.{mixed} Leave them out with --exclude, take them "
            "from a provider that declares it, or correct offset or baseline in the items."
        )
    if doubled:
        raise ImageryError(
            f"The metadata of {_named(doubled)} ({_declared(doubled[0])}) has {OFFSET_DN} subtracted from pixels that "
            "are free of it already: they would be too dark by 0.1. Leave them out with --exclude, take them from "
            "another provider, or correct offset or baseline in the items."
        )
    return {
        item.id: {"subtracted": _subtracts(item), **_words(item), "pixels": found.as_json()} for item, found in checked
    }


def _subtracts(item: ItemRecord) -> bool:
    """Whether reading takes an offset off this item's numbers."""
    return any(asset.offset < 0 for asset in item.assets.values())


def _words(item: ItemRecord) -> dict[str, Any]:
    return {"processing_baseline": item.processing_baseline, "offset_applied": item.offset_applied}


def _declared(item: ItemRecord) -> str:
    applied = {True: "offset applied already", False: "offset not applied", None: "nothing about an offset"}
    return f"baseline {item.processing_baseline or 'unknown'}, {applied[item.offset_applied]}"


def _named(items: list[ItemRecord]) -> str:
    names = [item.id for item in items]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
