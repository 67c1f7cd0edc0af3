"""One STAC item, from whatever provider, to one `ItemRecord`. Nothing of an item is trusted to be there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from geoelle.errors import CatalogError
from geoelle.records import AssetRecord, ItemRecord, TimeKind
from geoelle.sensors import BandSpec, QualitySpec, Sensor

# What of an item's properties is kept; the rest is the provider's business and need not be of one type.
_KEPT_PROPERTIES = (
    "datetime", "start_datetime", "end_datetime", "platform", "constellation", "gsd", "eo:cloud_cover",
    "proj:epsg", "proj:code", "proj:shape", "proj:transform", "proj:bbox", "sat:relative_orbit",
    "s2:mgrs_tile", "s2:processing_baseline", "s2:datatake_id", "processing:version", "grid:code",
    "earthsearch:boa_offset_applied", "geoelle:simulated",
)  # fmt: skip
_KEPT_ASSET_FIELDS = ("type", "eo:bands", "bands", "raster:bands", "roles", "proj:epsg", "proj:code", "proj:shape",
                      "proj:transform", "gsd")  # fmt: skip
_REMOTE_SCHEMES = ("http", "https", "s3", "gs", "az", "abfs")
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
    item_id = str(raw.get("id", ""))
    properties = raw.get("properties")
    if not item_id or not isinstance(properties, Mapping) or not isinstance(raw.get("assets"), Mapping):
        raise CatalogError(f"The catalog holds an item {item_id or '(without id)'} that is not STAC: it lacks id, "
                           "properties or assets. Ask the provider, or leave it out with --exclude.")  # fmt: skip
    baseline = _text(properties.get("s2:processing_baseline") or properties.get("processing:version"))
    offset_applied = _offset_applied(properties, baseline)
    assets: dict[str, AssetRecord] = {}
    for spec in (*sensor.bands, *((sensor.quality,) if sensor.quality else ())):
        asset = _find_asset(raw["assets"], spec, sensor, offset_applied)
        if asset is not None:
            _check_href(item_id, asset.href, remote)
            assets[spec.name] = asset
    if not any(band.name in assets for band in sensor.bands):
        return None
    time, kind, end = _times(item_id, properties)
    return ItemRecord(
        id=item_id,
        collection=str(raw.get("collection") or ""),
        sensor=sensor.name,
        time=time,
        time_kind=kind,
        time_end=end,
        bbox=_bbox(item_id, raw),
        cloud_percent=_number(properties.get("eo:cloud_cover")),
        epsg=_epsg(properties),
        mgrs_tile=_mgrs(properties),
        processing_baseline=baseline,
        offset_applied=offset_applied,
        relative_orbit=_integer(properties.get("sat:relative_orbit")),
        platform=_text(properties.get("platform")),
        assets=assets,
        raw=_slim(raw, assets),
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


def _check_href(item_id: str, href: str, remote: bool) -> None:
    """Refuse what GDAL would take for something else than one file: its virtual file systems, inline XML, drivers."""
    scheme = urlsplit(href).scheme.lower()
    drive = len(scheme) == 1  # C:\...
    local = not scheme or drive or scheme == "file"
    if href.startswith(("/vsi", "<")) or (not local and scheme not in _REMOTE_SCHEMES) or (remote and local):
        raise CatalogError(
            f"Item {item_id} has the asset address {href[:80]!r}, which is no plain address. "
            f"Expected {', '.join(_REMOTE_SCHEMES)}{'' if remote else ' or a path'}; leave the item out with --exclude."
        )


def _find_asset(
    assets: Mapping[str, Any], spec: BandSpec | QualitySpec, sensor: Sensor, offset_applied: bool | None
) -> AssetRecord | None:
    for alias in spec.aliases:
        asset = assets.get(alias)
        if isinstance(asset, Mapping) and asset.get("href"):
            return _asset(alias, asset, 1, 1, spec, sensor, offset_applied)
    for key, asset in assets.items():
        if not isinstance(asset, Mapping) or not asset.get("href"):
            continue
        names = [str(b.get("name", "")) for b in _bands(asset)]
        for alias in spec.aliases:
            if alias in names:
                return _asset(key, asset, names.index(alias) + 1, len(names), spec, sensor, offset_applied)
    return None


def _bands(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    bands = asset.get("eo:bands") or asset.get("bands") or []
    return [b for b in bands if isinstance(b, Mapping)] if isinstance(bands, list) else []


def _asset(
    key: str,
    asset: Mapping[str, Any],
    index: int,
    n_bands: int,
    spec: BandSpec | QualitySpec,
    sensor: Sensor,
    offset_applied: bool | None,
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
    return AssetRecord(
        key, index, n_bands, str(asset["href"]), nodata, sensor.scale if scale is None else scale, offset
    )


def _times(
    item_id: str, properties: Mapping[str, Any]
) -> tuple[np.datetime64, TimeKind, np.datetime64 | None]:
    instant = _time(properties.get("datetime"))
    start, end = _time(properties.get("start_datetime")), _time(properties.get("end_datetime"))
    if instant is not None:
        return instant, "instant", None
    if start is not None:
        return start, "interval", end
    raise CatalogError(
        f"Item {item_id} has neither datetime nor start_datetime. STAC asks for one; leave the item out."
    )


def _time(value: Any) -> np.datetime64 | None:
    if value is None:
        return None
    try:
        parsed = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return None
    if parsed.tzinfo is not None:
        parsed = parsed.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(parsed, "ns")


def _bbox(item_id: str, raw: Mapping[str, Any]) -> tuple[float, float, float, float]:
    bbox = raw.get("bbox")
    if isinstance(bbox, list | tuple) and len(bbox) in (4, 6):
        corners = list(bbox)
        numbers = [_number(v) for v in (corners if len(corners) == 4 else corners[:2] + corners[3:5])]
        if all(n is not None for n in numbers):
            west, south, east, north = (float(n) for n in numbers if n is not None)
            return west, south, east, north
    raise CatalogError(f"Item {item_id} has no usable bbox ({bbox}). STAC asks for one; leave the item out.")


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


def _slim(raw: Mapping[str, Any], assets: Mapping[str, AssetRecord]) -> dict[str, object]:
    keys = {asset.key for asset in assets.values()}
    properties = {k: raw["properties"][k] for k in _KEPT_PROPERTIES if k in raw["properties"]}
    properties.setdefault("datetime", None)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": str(raw["id"]),
        "collection": str(raw.get("collection") or ""),
        "geometry": raw.get("geometry"),
        "bbox": list(raw["bbox"]),
        "properties": properties,
        "links": [],
        "assets": {
            key: {"href": str(raw["assets"][key]["href"])}
            | {f: raw["assets"][key][f] for f in _KEPT_ASSET_FIELDS if f in raw["assets"][key]}
            for key in sorted(keys)
        },
    }


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
