"""Which asset of an item holds a band: by the provider's key, by the sensor's aliases, by the names bands declare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from geoelle.catalog.fields import band_list, number
from geoelle.catalog.providers import Provider
from geoelle.catalog.scaling import declared_band, first_number, scale_and_offset
from geoelle.errors import CatalogError
from geoelle.records import AssetRecord
from geoelle.sensors import AssetPlace, BandSpec, QualitySpec, Sensor

_REMOTE_SCHEMES = ("http", "https", "s3", "gs", "az", "abfs")
_PREFIX = re.compile(r"^([^/\\:]{2,}):")
"""Scheme of an address or name of a GDAL driver."""
_PICTURES = {"overview", "thumbnail", "visual", "preview", "rendered_preview"}
"""Roles and keys of pictures for people: 8 bits and stretched, whatever bands they name."""
_ORIGINALS = "-jp2"
"""Ends the key of ESA's own file beside a COG; its numbers may differ from the COG's by the offset."""


NAMING = ("eo:bands", "bands")
"""Fields of an asset that name its bands, in STAC 1.0 and 1.1."""

type Assets = Mapping[str, Mapping[str, Any]]
"""Assets by key, each field of one type, as `slimming.typed_assets` gives them."""


def layers_of(sensor: Sensor) -> tuple[BandSpec | QualitySpec, ...]:
    """The bands of a sensor and its quality layer."""
    return (*sensor.bands, *((sensor.quality,) if sensor.quality else ()))


def find_places(assets: Assets, sensor: Sensor, provider: Provider | None) -> dict[str, AssetPlace]:
    """Where each band of a sensor, and its quality layer, is in an item's assets; what is not there is left out."""
    known = provider.places(sensor) if provider else {}
    found = {layer.name: _find(assets, layer, sensor, known.get(layer.name)) for layer in layers_of(sensor)}
    return {layer: place for layer, place in found.items() if place is not None}


def _find(assets: Assets, layer: BandSpec | QualitySpec, sensor: Sensor, known: AssetPlace | None) -> AssetPlace | None:
    if known is not None and known.key in assets:
        index = _index_in(_names(assets[known.key]), known.band_index, layer, sensor)
        if index is not None:
            return AssetPlace(known.key, index)
    for alias in layer.aliases:
        if alias in assets:
            return AssetPlace(alias)
    return _find_by_names(assets, layer)


def _index_in(names: list[str | None], expected: int, layer: BandSpec | QualitySpec, sensor: Sensor) -> int | None:
    """Which band of a file is the layer: what the file's own names say goes before where the provider keeps it."""
    for alias in layer.aliases:
        if alias in names:
            return names.index(alias) + 1
    if not names:
        return expected
    others = {alias for other in layers_of(sensor) if other.name != layer.name for alias in other.aliases}
    return expected if expected <= len(names) and names[expected - 1] not in others else None


def _find_by_names(assets: Assets, layer: BandSpec | QualitySpec) -> AssetPlace | None:
    for key, names in _named_bands(assets, "name"):
        for alias in layer.aliases:
            if alias in names:
                return AssetPlace(key, names.index(alias) + 1)
    # A common name says less than a name, and several bands may share one: it counts if one band alone has it.
    common = [
        AssetPlace(key, index)
        for key, names in _named_bands(assets, "common_name", "eo:common_name")
        for index, name in enumerate(names, start=1)
        if name == layer.name
    ]
    return common[0] if len(common) == 1 else None


def _named_bands(assets: Assets, *keys: str) -> Iterator[tuple[str, list[str | None]]]:
    # In the order of the keys, so that a frozen item is read as the one it was made of.
    for key in sorted(assets):
        if not key.endswith(_ORIGINALS) and not {key, *assets[key].get("roles", ())} & _PICTURES:
            yield key, _names(assets[key], *keys)


def _names(asset: Mapping[str, Any], *keys: str) -> list[str | None]:
    said = keys or ("name",)
    return [next((band[k] for k in said if k in band), None) for band in band_list(asset, *NAMING)]


def n_bands(asset: Mapping[str, Any], key: str, sensor: Sensor, provider: Provider | None) -> int:
    """How many bands the file of an asset holds, as far as asset and provider say."""
    named, declared = len(band_list(asset, *NAMING)), len(band_list(asset, "raster:bands"))
    known = provider.places(sensor).values() if provider and not named else ()
    return max([named, declared, 1, *(place.band_index for place in known if place.key == key)])


def asset_record(
    asset: Mapping[str, Any],
    place: AssetPlace,
    count: int,
    layer: BandSpec | QualitySpec,
    sensor: Sensor,
    applied: bool | None,
    item_gsd: Any,
) -> AssetRecord:
    """What is known of one band of one item.

    Args:
        asset: STAC asset that holds it.
        place: Its key, and the band of its file.
        count: Bands of the file.
        layer: The band, or the quality layer, which is never scaled.
        sensor: It belongs to.
        applied: Whether the item's pixels are free of the offset of baseline 04.00.
        item_gsd: What the item as a whole says of its pixels.
    """
    band = declared_band(asset, place.band_index)
    nodata = first_number(band.get("nodata"), asset.get("nodata"))
    href = str(asset["href"])
    if isinstance(layer, QualitySpec):
        return AssetRecord(place.key, place.band_index, count, href, nodata, 1.0, 0.0)
    scale, offset = scale_and_offset(sensor, asset, place.band_index, applied)
    resolutions = (
        band.get("spatial_resolution"), band.get("raster:spatial_resolution"), asset.get("raster:spatial_resolution"),
        band.get("gsd"), asset.get("gsd"), item_gsd,
    )  # fmt: skip
    gsd_m = next((n for n in map(number, resolutions) if n is not None and n > 0), None)
    return AssetRecord(place.key, place.band_index, count, href, nodata, scale, offset, gsd_m)


def check_href(item_id: str, href: Any, remote: bool) -> None:
    """Refuse what GDAL would take for something else than one file: its virtual file systems, inline XML, drivers.

    Raises:
        CatalogError: With the item's id and the address.
    """
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
