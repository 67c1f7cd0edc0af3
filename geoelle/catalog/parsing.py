"""One STAC item, from whatever provider, to one `ItemRecord`. Nothing of an item is trusted to be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geoelle.catalog import fields
from geoelle.catalog.assets import Assets, asset_record, check_href, find_places, layers_of, n_bands
from geoelle.catalog.identity import Identity, read_identity
from geoelle.catalog.providers import Provider, get_provider, list_providers
from geoelle.catalog.scaling import declared, offset_applied
from geoelle.catalog.slimming import PROVIDER_PROPERTY, slim, typed_assets
from geoelle.errors import CatalogError
from geoelle.records import AssetRecord, ItemRecord, TimeKind
from geoelle.sensors import Sensor, sensors_of_collection


def parse_item(
    raw: Mapping[str, Any], sensor: Sensor, *, provider: Provider | None = None, remote: bool = False
) -> ItemRecord | None:
    """An item as a record, or None if it holds none of the sensor's bands.

    Args:
        raw: STAC item as JSON, its asset hrefs absolute and unsigned.
        sensor: Whose bands to look for.
        provider: Who served it, for the asset keys and properties; None: as the frozen item says, else unknown.
        remote: Whether the item came over the network; then it may not name files of this machine, nor a provider.

    Raises:
        CatalogError: If the item lacks what STAC demands of every item, or names an address that is not one.
    """
    item_id = fields.name(raw.get("id"))
    properties, raw_assets = raw.get("properties"), raw.get("assets")
    if not item_id or not isinstance(properties, Mapping) or not isinstance(raw_assets, Mapping):
        raise CatalogError(f"The catalog holds an item {item_id or '(without id)'} that is not STAC: it lacks id, "
                           "properties or assets. Ask the provider, or leave it out with --exclude.")  # fmt: skip
    provider_name = provider.name if provider else None
    if provider is None and not remote:
        provider_name = fields.text(properties.get(PROVIDER_PROPERTY))
        provider = get_provider(provider_name) if provider_name in list_providers() else None
    collection = fields.name(raw.get("collection"))
    if _belongs_to_another(collection, sensor, provider):
        return None
    identity = read_identity(item_id, properties, provider)
    typed = typed_assets(raw_assets)
    applied, assets = _read_assets(item_id, typed, properties, sensor, provider, identity, remote)
    if not any(band.name in assets for band in sensor.bands):
        return None
    time, kind, end = _times(item_id, properties)
    bbox = _bbox(item_id, raw)
    return ItemRecord(
        id=item_id,
        collection=collection,
        sensor=sensor.name,
        time=time,
        time_kind=kind,
        time_end=end,
        bbox=bbox,
        cloud_percent=identity.cloud_percent,
        epsg=_epsg(properties),
        mgrs_tile=identity.mgrs_tile,
        processing_baseline=identity.baseline,
        offset_applied=applied,
        relative_orbit=identity.relative_orbit,
        platform=identity.platform,
        provider=provider_name,
        datatake=identity.datatake,
        processed=identity.processed,
        assets=assets,
        raw=slim(raw, item_id, identity, typed, assets, bbox, provider, provider_name),
    )


def _belongs_to_another(collection: str, sensor: Sensor, provider: Provider | None) -> bool:
    """Whether a collection is known to carry another sensor: the same asset keys then mean other bands.

    `B11` is short-wave infrared in HLS S30 and a temperature in HLS L30.
    """
    others = sensors_of_collection(collection)
    if not others or sensor.name in others or not sensor.collections or collection in sensor.collections:
        return False
    return provider is None or collection not in provider.collections_of(sensor)


def _read_assets(
    item_id: str,
    typed: Assets,
    properties: Mapping[str, Any],
    sensor: Sensor,
    provider: Provider | None,
    identity: Identity,
    remote: bool,
) -> tuple[bool | None, dict[str, AssetRecord]]:
    """Whether the Sentinel-2 offset is out of the pixels already, and the assets by geoelle's band names."""
    places = find_places(typed, sensor, provider)
    bands = [places[band.name] for band in sensor.bands if band.name in places]
    offsets = [declared(typed[place.key], place.band_index)[1] for place in bands]
    applied = offset_applied(sensor, identity.baseline, identity.offset_flag, offsets)
    assets: dict[str, AssetRecord] = {}
    for layer in layers_of(sensor):
        place = places.get(layer.name)
        if place is not None:
            asset = typed[place.key]
            check_href(item_id, asset["href"], remote)
            count = n_bands(asset, place.key, sensor, provider)
            assets[layer.name] = asset_record(asset, place, count, layer, sensor, applied, properties.get("gsd"))
    return applied, assets


def _times(item_id: str, properties: Mapping[str, Any]) -> tuple[np.datetime64, TimeKind, np.datetime64 | None]:
    instant = fields.time(properties.get("datetime"))
    start, end = fields.time(properties.get("start_datetime")), fields.time(properties.get("end_datetime"))
    if instant is not None:
        return instant, "instant", None
    if start is not None and end is not None and start <= end:
        return start, "interval", end
    raise CatalogError(
        f"Item {item_id} has neither a datetime nor a start_datetime and end_datetime in order. STAC asks for these; "
        "leave the item out with --exclude."
    )


def _bbox(item_id: str, raw: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """West, south, east, north; west lies beyond east where the item crosses the antimeridian."""
    bbox = raw.get("bbox")
    if isinstance(bbox, list | tuple) and len(bbox) in (4, 6):
        corners = list(bbox)
        numbers = [fields.number(v) for v in (corners if len(corners) == 4 else corners[:2] + corners[3:5])]
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
    epsg = fields.integer(properties.get("proj:epsg"))
    code = fields.text(properties.get("proj:code")) or ""
    if epsg is None and code.upper().startswith("EPSG:"):
        epsg = fields.integer(code[5:])
    return epsg
