"""What tells one observation from another: overpass, tile, baseline, time of processing, from properties or names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoelle.catalog import fields
from geoelle.catalog.providers import DEFAULT_PROPERTIES, Provider, Word

_TILE = r"(?P<tile>\d{2}[C-X][A-Z]{2})"
_PRODUCT_NAMES = (
    # Sentinel-2, with or without the baseline, as the Planetary Computer's ids are.
    re.compile(
        r"(?P<platform>S2[A-D])_MSIL2A_(?P<start>\d{8}T\d{6})_(?:N(?P<major>\d{2})(?P<minor>\d{2})_)?"
        rf"R(?P<orbit>\d{{3}})_T{_TILE}_(?P<made>\d{{8}}T\d{{6}})"
    ),
    re.compile(rf"HLS\.[SL]30\.T{_TILE}\.(?P<start>\d{{7}}T\d{{6}})\.v(?P<version>\d+\.\d+)"),
    re.compile(r"S1[A-D]_[A-Z0-9]{2}_[A-Z0-9]{4}_[A-Z0-9]{4}_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_(?P<datatake>[0-9A-F]{6})"),
)
_S2_DATATAKE = re.compile(r"^G?(S2[A-D])_(\d{8}T\d{6})(?:_|$)")
_S2_BASELINE = re.compile(r"^N?(\d{2})\.?(\d{2})$")
_MGRS = re.compile(r"^(?:MGRS-)?(\d{1,2})([C-X][A-Z]{2})$")
_MGRS_PARTS = (
    ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square"),
    ("sentinel:utm_zone", "sentinel:latitude_band", "sentinel:grid_square"),
)
_OF_THE_CATALOG = ("published", "updated", "created")
"""When the entry in the catalog was made, which only may be when the product was."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an item says of itself beyond STAC's core; None where it does not."""

    cloud_percent: float | None
    baseline: str | None
    relative_orbit: int | None
    platform: str | None
    """In lower case: providers differ."""
    datatake: str | None
    """The same at every provider and in every processing: `S2A_20230701T103631` of Sentinel-2."""
    mgrs_tile: str | None
    processed: np.datetime64 | None
    offset_flag: bool | None
    """Sentinel-2: what the provider says of the offset of baseline 04.00."""


def read_identity(item_id: str, properties: Mapping[str, Any], provider: Provider | None) -> Identity:
    """What an item says of itself, in its provider's words, else by the name of its product."""
    product = _product(item_id, properties)

    def words(word: Word) -> tuple[str, ...]:
        return provider.property_names(word) if provider else DEFAULT_PROPERTIES[word]

    def first(word: Word, convert: Any) -> Any:
        return next((v for v in map(convert, fields.said(properties, words(word))) if v is not None), None)

    platform = first("platform", fields.text)
    orbit = first("relative_orbit", fields.integer)
    return Identity(
        cloud_percent=first("cloud_percent", fields.number),
        baseline=first("processing_baseline", _said_baseline) or _baseline(product),
        relative_orbit=int(product["orbit"]) if orbit is None and product.get("orbit") else orbit,
        platform=None if platform is None else platform.lower(),
        datatake=_datatake(first("datatake", fields.text), product),
        mgrs_tile=first("mgrs_tile", _tile) or _tile_from_parts(properties) or product.get("tile"),
        processed=_processed(properties, words("processed"), product),
        offset_flag=first("offset_applied", fields.flag),
    )


def _product(item_id: str, properties: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the product's name, which holds more than an id that a provider made of it."""
    for name in (properties.get("s2:product_uri"), properties.get("sentinel:product_id"), item_id):
        for pattern in _PRODUCT_NAMES:
            match = pattern.match(name) if isinstance(name, str) else None
            if match:
                return {part: value for part, value in match.groupdict().items() if value}
    return {}


def _said_baseline(value: Any) -> str | None:
    """`05.09`, also where it is written as N0509 or 0509, which as a number would be something else."""
    said = fields.text(value)
    match = _S2_BASELINE.match(said or "")
    return f"{match.group(1)}.{match.group(2)}" if match else said


def _baseline(product: Mapping[str, str]) -> str | None:
    return f"{product['major']}.{product['minor']}" if "major" in product else product.get("version")


def _datatake(said: str | None, product: Mapping[str, str]) -> str | None:
    if said is not None:
        # The id ends in the baseline: without that, a reprocessed product is known to be of the same overpass.
        match = _S2_DATATAKE.match(said)
        return f"{match.group(1)}_{match.group(2)}" if match else said
    if "datatake" in product:
        return str(int(product["datatake"], 16))
    if "platform" in product:
        return f"{product['platform']}_{product['start']}"
    return product.get("start")


def _processed(
    properties: Mapping[str, Any], names: tuple[str, ...], product: Mapping[str, str]
) -> np.datetime64 | None:
    of_the_product = [n for n in names if n not in _OF_THE_CATALOG]
    of_the_catalog = [n for n in names if n in _OF_THE_CATALOG]
    candidates = (
        *fields.said(properties, of_the_product), product.get("made"), *fields.said(properties, of_the_catalog)
    )  # fmt: skip
    return next((t for t in map(fields.time, candidates) if t is not None), None)


def _tile(value: Any) -> str | None:
    match = _MGRS.match(fields.text(value) or "")
    return f"{int(match.group(1)):02d}{match.group(2)}" if match else None


def _tile_from_parts(properties: Mapping[str, Any]) -> str | None:
    tiles = (_tile("".join(fields.text(properties.get(part)) or "" for part in parts)) for parts in _MGRS_PARTS)
    return next((tile for tile in tiles if tile is not None), None)
