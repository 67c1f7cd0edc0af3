"""One STAC item, from whatever provider, to one `ItemRecord`. Nothing of an item is trusted to be there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from shapely.geometry import box, mapping

from geoelle.errors import CatalogError
from geoelle.records import AssetRecord, ItemRecord, TimeKind
from geoelle.sensors import BandSpec, QualitySpec, Sensor

type _Plain = Callable[[Any], Any]
"""What an item said, as one type, or None where it is of another: one column of a table holds one type."""

_REMOTE_SCHEMES = ("http", "https", "s3", "gs", "az", "abfs")
_PREFIX = re.compile(r"^([^/\\:]{2,}):")
"""Scheme of an address or name of a GDAL driver."""
_MGRS = re.compile(r"^(?:MGRS-)?(\d{1,2}[C-X][A-Z]{2})$")


def parse_item(raw: Mapping[str, Any], sensor: Sensor, *, remote: bool = False) -> ItemRecord | None:
    """An item as a record, or None if it holds none of the sensor's bands.

    Args:
        raw: STAC item as JSON, its asset hrefs absolute and unsigned.
        sensor: Whose bands to look for.
        remote: Whether the item came over the network; then it may not name files of this machine.

    Raises:
        CatalogError: If the item lacks what STAC demands of every item, or names an address that is not one.
    """
    item_id = _name(raw.get("id"))
    properties = raw.get("properties")
    if not item_id or not isinstance(properties, Mapping) or not isinstance(raw.get("assets"), Mapping):
        raise CatalogError(f"The catalog holds an item {item_id or '(without id)'} that is not STAC: it lacks id, "
                           "properties or assets. Ask the provider, or leave it out with --exclude.")  # fmt: skip
    baseline = _text(properties.get("s2:processing_baseline") or properties.get("processing:version"))
    offset_applied = _offset_applied(properties, baseline)
    assets: dict[str, AssetRecord] = {}
    for spec in (*sensor.bands, *((sensor.quality,) if sensor.quality else ())):
        asset = _find_asset(raw["assets"], spec, sensor, offset_applied, properties.get("gsd"))
        if asset is not None:
            _check_href(item_id, raw["assets"][asset.key]["href"], remote)
            assets[spec.name] = asset
    if not any(band.name in assets for band in sensor.bands):
        return None
    time, kind, end = _times(item_id, properties)
    bbox = _bbox(item_id, raw)
    return ItemRecord(
        id=item_id,
        collection=_name(raw.get("collection")),
        sensor=sensor.name,
        time=time,
        time_kind=kind,
        time_end=end,
        bbox=bbox,
        cloud_percent=_number(properties.get("eo:cloud_cover")),
        epsg=_epsg(properties),
        mgrs_tile=_mgrs(properties),
        processing_baseline=baseline,
        offset_applied=offset_applied,
        relative_orbit=_integer(properties.get("sat:relative_orbit")),
        platform=_text(properties.get("platform")),
        assets=assets,
        raw=_slim(raw, item_id, assets, bbox),
    )


def _offset_applied(properties: Mapping[str, Any], baseline: str | None) -> bool | None:
    """Whether the baseline 04.00 offset is already out of the pixels; None where nothing says that there is one.

    Decided from the provider's flag and the baseline, never from the date: Collection 1 reprocessed older scenes.
    """
    flag = properties.get("earthsearch:boa_offset_applied")
    if isinstance(flag, bool):
        return flag
    number = _number(baseline)
    if number is None:
        return None
    return None if number < 4 else False


def _check_href(item_id: str, href: Any, remote: bool) -> None:
    """Refuse what GDAL would take for something else than one file: its virtual file systems, inline XML, drivers."""
    if not _is_plain_address(href, remote):
        raise CatalogError(
            f"Item {item_id} has the asset address {str(href)[:80]!r}, which is no plain address. "
            f"Expected {', '.join(_REMOTE_SCHEMES)}{'' if remote else ' or a path'}; leave the item out with --exclude."
        )


def _is_plain_address(href: Any, remote: bool) -> bool:
    # GDAL looks for inline XML anywhere in a name.
    if not isinstance(href, str) or href != href.strip() or not href.isprintable() or "<" in href or "/vsi" in href:
        return False
    prefix = _PREFIX.match(href)  # one letter is a drive, as in C:
    if prefix is None or prefix.group(1).lower() == "file":
        return not remote
    try:
        return prefix.group(1).lower() in _REMOTE_SCHEMES and bool(urlsplit(href).netloc)
    except ValueError:
        return False


def _find_asset(
    assets: Mapping[str, Any],
    spec: BandSpec | QualitySpec,
    sensor: Sensor,
    offset_applied: bool | None,
    item_gsd: Any,
) -> AssetRecord | None:
    for alias in spec.aliases:
        asset = assets.get(alias)
        if isinstance(asset, Mapping) and asset.get("href"):
            return _asset(alias, asset, 1, 1, spec, sensor, offset_applied, item_gsd)
    for key, asset in assets.items():
        if not isinstance(key, str) or not isinstance(asset, Mapping) or not asset.get("href"):
            continue
        names = [_text(b.get("name")) for b in _bands(asset)]
        for alias in spec.aliases:
            if alias in names:
                return _asset(key, asset, names.index(alias) + 1, len(names), spec, sensor, offset_applied, item_gsd)
    return None


def _bands(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    bands = asset.get("eo:bands") or asset.get("bands") or []
    # Not one is dropped: the place in the list is the band of the file.
    return [b if isinstance(b, Mapping) else {} for b in bands] if isinstance(bands, list) else []


def _asset(
    key: str,
    asset: Mapping[str, Any],
    index: int,
    n_bands: int,
    spec: BandSpec | QualitySpec,
    sensor: Sensor,
    offset_applied: bool | None,
    item_gsd: Any,
) -> AssetRecord:
    raster = asset.get("raster:bands") or asset.get("bands") or []
    declared = raster[index - 1] if isinstance(raster, list) and len(raster) >= index else {}
    declared = declared if isinstance(declared, Mapping) else {}
    nodata = _number(declared.get("nodata"))
    if isinstance(spec, QualitySpec):
        return AssetRecord(key, index, n_bands, str(asset["href"]), nodata, 1.0, 0.0)
    scale = _number(declared.get("scale", declared.get("raster:scale")))
    offset = _number(declared.get("offset", declared.get("raster:offset")))
    if offset is None:
        # Baseline 04.00 and later add 1000 to every number; a provider that declares nothing left that in.
        offset = -0.1 if offset_applied is False and scale is None else 0.0
    elif offset_applied:
        # Earth Search declares -0.1 for pixels from which it is already gone.
        offset = 0.0
    resolutions = (declared.get("spatial_resolution"), declared.get("raster:spatial_resolution"), asset.get("gsd"))
    gsd_m = next((n for n in map(_number, (*resolutions, item_gsd)) if n is not None and n > 0), None)
    return AssetRecord(
        key, index, n_bands, str(asset["href"]), nodata, sensor.scale if scale is None else scale, offset, gsd_m
    )


def _times(item_id: str, properties: Mapping[str, Any]) -> tuple[np.datetime64, TimeKind, np.datetime64 | None]:
    instant = _time(properties.get("datetime"))
    start, end = _time(properties.get("start_datetime")), _time(properties.get("end_datetime"))
    if instant is not None:
        return instant, "instant", None
    if start is not None and end is not None and start <= end:
        return start, "interval", end
    raise CatalogError(
        f"Item {item_id} has neither a datetime nor a start_datetime and end_datetime in order. STAC asks for these; "
        "leave the item out with --exclude."
    )


def _time(value: Any) -> np.datetime64 | None:
    if not isinstance(value, str | datetime):
        return None
    try:
        parsed = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if parsed.tzinfo is not None:
            parsed = parsed.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    # datetime64[ns] reaches from 1678 to 2262 and wraps round silently beyond; no satellite flew outside of this.
    return np.datetime64(parsed, "ns") if 1900 <= parsed.year < 2200 else None


def _bbox(item_id: str, raw: Mapping[str, Any]) -> tuple[float, float, float, float]:
    bbox = raw.get("bbox")
    if isinstance(bbox, list | tuple) and len(bbox) in (4, 6):
        corners = list(bbox)
        numbers = [_number(v) for v in (corners if len(corners) == 4 else corners[:2] + corners[3:5])]
        if all(n is not None for n in numbers):
            west, south, east, north = (float(n) for n in numbers if n is not None)
            # Some providers write 181 for what lies beyond the antimeridian.
            if max(abs(west), abs(east)) <= 360 and -90 <= south <= north <= 90:
                return west, south, east, north
    raise CatalogError(
        f"Item {item_id} has no usable bbox ({str(bbox)[:80]}). Expected west, south, east, north in degrees; "
        "leave the item out with --exclude."
    )


def _epsg(properties: Mapping[str, Any]) -> int | None:
    epsg = _integer(properties.get("proj:epsg"))
    code = _text(properties.get("proj:code")) or ""
    if epsg is None and code.upper().startswith("EPSG:"):
        epsg = _integer(code[5:])
    return epsg


def _mgrs(properties: Mapping[str, Any]) -> str | None:
    for key in ("s2:mgrs_tile", "grid:code"):
        match = _MGRS.match(_text(properties.get(key)) or "")
        if match:
            return match.group(1)
    return None


def _slim(
    raw: Mapping[str, Any], item_id: str, assets: Mapping[str, AssetRecord], bbox: tuple[float, float, float, float]
) -> dict[str, object]:
    """The item with what geoelle keeps of it, every field of one type; the rest is the provider's business."""
    properties = _typed(raw["properties"], _KEPT_PROPERTIES)
    properties.setdefault("datetime", None)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": item_id,
        "collection": _name(raw.get("collection")),
        "geometry": raw.get("geometry") or mapping(box(*bbox)),
        "bbox": list(bbox),
        "properties": properties,
        "links": [],
        "assets": {
            key: {"href": raw["assets"][key]["href"]} | _typed(raw["assets"][key], _KEPT_ASSET_FIELDS)
            for key in sorted({asset.key for asset in assets.values()})
        },
    }


def _typed(fields: Mapping[str, Any], kept: Mapping[str, _Plain]) -> dict[str, Any]:
    values = {name: plain(fields.get(name)) for name, plain in kept.items()}
    return {name: value for name, value in values.items() if value is not None}


def _name(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _stamp(value: Any) -> str | None:
    time = _time(value)
    return None if time is None else f"{time.astype('datetime64[us]').item().isoformat()}Z"


def _numbers(value: Any) -> list[float] | None:
    numbers = [_number(v) for v in value] if isinstance(value, list | tuple) else [None]
    return None if None in numbers else [n for n in numbers if n is not None]


def _integers(value: Any) -> list[int] | None:
    numbers = _numbers(value)
    return None if numbers is None else [int(n) for n in numbers]


def _texts(value: Any) -> list[str] | None:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list | tuple) else None


def _band_list(value: Any) -> list[dict[str, Any]] | None:
    """Bands with what says their name and scaling. One that says nothing keeps its place in the list."""
    if not isinstance(value, list | tuple):
        return None
    bands = [_typed(band, _KEPT_BAND_FIELDS) if isinstance(band, Mapping) else {} for band in value]
    return bands if any(bands) else None


_KEPT_BAND_FIELDS: dict[str, _Plain] = {
    "name": _text, "common_name": _text, "data_type": _text, "unit": _text, "nodata": _number, "scale": _number,
    "offset": _number, "spatial_resolution": _number, "raster:scale": _number, "raster:offset": _number,
    "raster:spatial_resolution": _number,
}  # fmt: skip
_KEPT_ASSET_FIELDS: dict[str, _Plain] = {
    "type": _text, "eo:bands": _band_list, "bands": _band_list, "raster:bands": _band_list, "roles": _texts,
    "proj:epsg": _integer, "proj:code": _text, "proj:shape": _integers, "proj:transform": _numbers, "gsd": _number,
}  # fmt: skip
_KEPT_PROPERTIES: dict[str, _Plain] = {
    "datetime": _stamp, "start_datetime": _stamp, "end_datetime": _stamp, "platform": _text, "constellation": _text,
    "gsd": _number, "eo:cloud_cover": _number, "proj:epsg": _integer, "proj:code": _text, "proj:shape": _integers,
    "proj:transform": _numbers, "proj:bbox": _numbers, "sat:relative_orbit": _integer, "s2:mgrs_tile": _text,
    "s2:processing_baseline": _text, "s2:datatake_id": _text, "processing:version": _text, "grid:code": _text,
    "earthsearch:boa_offset_applied": _flag, "geoelle:simulated": _flag,
}  # fmt: skip
