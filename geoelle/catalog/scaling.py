"""Digital numbers to physical units: what an item and its assets say of scale and offset, and whom to believe.

Sentinel-2 from processing baseline 04.00 on adds 1000 to every number, and some providers take it out again. Which of
the two an item's pixels are is decided here from the baseline and from what the provider says, never from the date:
Collection 1 reprocessed older scenes. What no field can tell is left to the test on dark pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geoelle.catalog.fields import band_list, mapping, number
from geoelle.sensors import Sensor

FIRST_BASELINE_WITH_OFFSET = 4.0
_S2_OFFSET = -0.1
"""-1000 digital numbers at 1e-4."""


def declared(asset: Mapping[str, Any], band_index: int) -> tuple[float | None, float | None]:
    """Scale and offset that an asset declares for one of its bands, as STAC 1.0 and 1.1 write them."""
    band = declared_band(asset, band_index)
    scale = first_number(band.get("scale"), band.get("raster:scale"), asset.get("raster:scale"))
    offset = first_number(band.get("offset"), band.get("raster:offset"), asset.get("raster:offset"))
    # A scale of 0 would make every pixel the same: nobody means that.
    return (None if scale == 0 else scale), offset


def declared_band(asset: Mapping[str, Any], band_index: int) -> Mapping[str, Any]:
    """What an asset says of one of its bands; empty where it says nothing."""
    bands = band_list(asset, "raster:bands", "bands")
    return mapping(bands[band_index - 1]) if len(bands) >= band_index else {}


def first_number(*values: Any) -> float | None:
    """The first value that is a number."""
    return next((n for n in map(number, values) if n is not None), None)


def offset_applied(sensor: Sensor, baseline: str | None, flag: bool | None, offsets: list[float | None]) -> bool | None:
    """Whether the offset of baseline 04.00 is already out of an item's pixels; None where there is none to take out.

    Before 04.00 no product had it, whatever a flag says. From then on it is out if either the provider's flag or its
    declarations say so: the errors known (Earth Search issues 9, 66 and 71, Planetary Computer 349) all claim less
    than was done. A flag that wrongly says `false` beside a declared -0.1 cannot be told from a right one.

    Args:
        sensor: Whose `offset_rule` decides whether this applies at all.
        baseline: Processing baseline of the item, such as `05.09`.
        flag: The provider's flag.
        offsets: What each band's asset declares, None where it declares none.
    """
    if sensor.offset_rule != "sentinel-2-l2a":
        return None
    version = number(baseline)
    if version is not None and version < FIRST_BASELINE_WITH_OFFSET:
        return None
    said = [offset for offset in offsets if offset is not None]
    none_left = bool(said) and not any(said)
    if flag or (none_left and (flag is False or version is not None)):
        return True
    return False if flag is False or version is not None or any(said) else None


def scale_and_offset(
    sensor: Sensor, asset: Mapping[str, Any], band_index: int, applied: bool | None
) -> tuple[float, float]:
    """Physical = digital number x scale + offset, for one band of one item.

    Args:
        sensor: Whose defaults hold where nothing is declared.
        asset: STAC asset.
        band_index: 1-based band of its file.
        applied: As `offset_applied` found it.
    """
    scale, offset = declared(asset, band_index)
    if sensor.offset_rule == "sentinel-2-l2a":
        remaining = 0.0 if applied is not False else _S2_OFFSET if offset is None else offset
        return sensor.scale if scale is None else scale, remaining
    if offset is None:
        # A scale of the item's own comes with an offset of its own.
        offset = sensor.offset if scale is None or scale == sensor.scale else 0.0
    return sensor.scale if scale is None else scale, offset
