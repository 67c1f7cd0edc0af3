"""The item that is kept: STAC with what geoelle reads of it, every field of one type; the rest is its provider's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shapely.geometry import box, mapping

from geoelle.catalog import fields
from geoelle.catalog.assets import NAMING, Assets
from geoelle.catalog.identity import Identity
from geoelle.catalog.providers import DEFAULT_PROPERTIES, Provider, Word, get_provider
from geoelle.records import AssetRecord

PROVIDER_PROPERTY = "geoelle:provider"

type _Plain = Callable[[Any], Any]
"""What an item said, as one type, or None where it is of another: one column of a table holds one type."""


def slim(
    raw: Mapping[str, Any],
    item_id: str,
    identity: Identity,
    typed: Assets,
    assets: Mapping[str, AssetRecord],
    bbox: tuple[float, float, float, float],
    provider: Provider | None,
    provider_name: str | None,
) -> dict[str, object]:
    """The item as STAC that parses to the same record again, also where its provider is no longer known."""
    properties = _typed(raw["properties"], _KEPT_PROPERTIES)
    # Whoever reads the item later may not have the user's file at hand, so it is worded as everybody understands.
    foreign = provider is not None and get_provider(provider.name) != provider
    if foreign:
        _reword(properties, identity)
    properties.setdefault("datetime", None)
    if provider_name is not None:
        properties[PROVIDER_PROPERTY] = provider_name
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": item_id,
        "collection": fields.name(raw.get("collection")),
        "geometry": raw.get("geometry") or mapping(box(*bbox)),
        "bbox": list(bbox),
        "properties": properties,
        "links": [],
        "assets": {
            key: _slim_asset(typed[key], key, assets, foreign)
            for key in sorted({asset.key for asset in assets.values()})
        },
    }


def _reword(properties: dict[str, Any], identity: Identity) -> None:
    processed = identity.processed
    words: dict[Word, Any] = {
        "cloud_percent": identity.cloud_percent, "processing_baseline": identity.baseline,
        "relative_orbit": identity.relative_orbit, "platform": identity.platform, "datatake": identity.datatake,
        "mgrs_tile": identity.mgrs_tile, "offset_applied": identity.offset_flag,
        "processed": None if processed is None else fields.stamp(processed.astype("datetime64[us]").item()),
    }  # fmt: skip
    for word, value in words.items():
        for name in DEFAULT_PROPERTIES[word]:
            properties.pop(name, None)
        if value is not None:
            properties[DEFAULT_PROPERTIES[word][0]] = value


def _slim_asset(asset: Mapping[str, Any], key: str, assets: Mapping[str, AssetRecord], foreign: bool) -> dict[str, Any]:
    """The asset with its bands one by one, as the next reader needs their names and the loader their number."""
    count = max(record.n_bands for record in assets.values() if record.key == key)
    inside = {record.band_index: name for name, record in assets.items() if record.key == key}
    by_name = [{"name": inside.get(n, f"band-{n}")} for n in range(1, count + 1)]
    kept = dict(asset)
    if foreign or (count > 1 and not fields.band_list(asset, *NAMING)):
        kept["eo:bands"] = by_name
    raster, common = fields.band_list(asset, "raster:bands"), fields.band_list(asset, "bands")
    # odc-stac counts `raster:bands`, else `bands`, and does not know of `eo:bands`.
    if raster and len(raster) < count:
        kept["raster:bands"] = [*raster, *({} for _ in range(count - len(raster)))]
    elif count > 1 and not raster and len(common) < count:
        kept["bands"] = by_name
    return kept


def typed_assets(assets: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """The assets that have an address, with what geoelle reads of them. Addresses are as they came: check them."""
    return {
        key: {"href": asset["href"]} | _typed(asset, _KEPT_ASSET_FIELDS)
        for key, asset in assets.items()
        if isinstance(key, str) and isinstance(asset, Mapping) and asset.get("href")
    }


def _typed(values: Mapping[str, Any], kept: Mapping[str, _Plain]) -> dict[str, Any]:
    found = {name: kept[name](value) for name, value in values.items() if name in kept}
    return {name: found[name] for name in kept if found.get(name) is not None}


def _band_list(value: Any) -> list[dict[str, Any]] | None:
    """Bands with what says their name and scaling. One that says nothing keeps its place in the list."""
    if not isinstance(value, list | tuple):
        return None
    bands = [_typed(band, _KEPT_BAND_FIELDS) if isinstance(band, Mapping) else {} for band in value]
    return bands if any(bands) else None


_SCALING: dict[str, _Plain] = {
    "nodata": fields.number, "raster:scale": fields.number, "raster:offset": fields.number,
    "raster:spatial_resolution": fields.number, "gsd": fields.number, "data_type": fields.text, "unit": fields.text,
}  # fmt: skip
_KEPT_BAND_FIELDS: dict[str, _Plain] = {
    "name": fields.text, "common_name": fields.text, "eo:common_name": fields.text, "scale": fields.number,
    "offset": fields.number, "spatial_resolution": fields.number, **_SCALING,
}  # fmt: skip
_KEPT_ASSET_FIELDS: dict[str, _Plain] = {
    "type": fields.text, "eo:bands": _band_list, "bands": _band_list, "raster:bands": _band_list,
    "roles": fields.texts, "proj:epsg": fields.integer, "proj:code": fields.text, "proj:shape": fields.integers,
    "proj:transform": fields.numbers, **_SCALING,
}  # fmt: skip
_KEPT_PROPERTIES: dict[str, _Plain] = {
    "datetime": fields.stamp, "start_datetime": fields.stamp, "end_datetime": fields.stamp, "created": fields.stamp,
    "updated": fields.stamp, "processing:datetime": fields.stamp, "s2:generation_time": fields.stamp,
    "platform": fields.text, "constellation": fields.text, "gsd": fields.number, "eo:cloud_cover": fields.number,
    "landsat:cloud_cover_land": fields.number, "landsat:wrs_path": fields.integer, "sat:relative_orbit": fields.integer,
    "sat:orbit_state": fields.text, "proj:epsg": fields.integer, "proj:code": fields.text,
    "proj:shape": fields.integers, "proj:transform": fields.numbers, "proj:bbox": fields.numbers,
    "grid:code": fields.text, "mgrs:utm_zone": fields.text, "mgrs:latitude_band": fields.text,
    "mgrs:grid_square": fields.text, "sentinel:utm_zone": fields.text, "sentinel:latitude_band": fields.text,
    "sentinel:grid_square": fields.text, "sentinel:product_id": fields.text,
    "sentinel:processing_baseline": fields.text, "sentinel:boa_offset_applied": fields.flag,
    "s1:datatake_id": fields.text, "eopf:datatake_id": fields.text, "s2:mgrs_tile": fields.text,
    "s2:processing_baseline": fields.text, "s2:datatake_id": fields.text, "s2:product_uri": fields.text,
    "processing:version": fields.text, "earthsearch:boa_offset_applied": fields.flag, "geoelle:simulated": fields.flag,
}  # fmt: skip
