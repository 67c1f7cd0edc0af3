"""Pixels of one scene on one tile, in physical units, with what is valid and what hides the ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geoelle.errors import ImageryError
from geoelle.imagery.masks import has_any
from geoelle.imagery.radiometry import scaling
from geoelle.imagery.reading import read_bands
from geoelle.records import ItemRecord, Scene
from geoelle.schema import check_items
from geoelle.sensors import QualitySpec, Sensor, get_sensor


@dataclass(frozen=True, slots=True)
class TilePixels:
    """What one load gives. Masks are (y, x) bool over the same pixels."""

    pixels: NDArray[np.float32]
    """(band, y, x), in the sensor's units; NaN where not valid."""
    valid: NDArray[np.bool_]
    """Observed in every band, and neither cloud nor its shadow as far as the mask source knows."""
    cloud: NDArray[np.bool_]
    """Observed, but cloud, cirrus or haze."""
    shadow: NDArray[np.bool_]
    """Observed, but in a cloud's shadow, and not cloud."""
    snow: NDArray[np.bool_]
    """Valid and snow or ice; stays valid."""
    water: NDArray[np.bool_]
    """Valid and water; stays valid."""
    mask_source: str
    """What the masks come from: the quality layer's name, `heuristic`, `omnicloudmask`, or `none`."""


def read_tile(scene: Scene, geobox: GeoBox, bands: Sequence[str], *, sensor: Sensor | None = None) -> TilePixels:
    """Read one scene on a geobox.

    Reflectance is interpolated bilinearly where grids differ and copied where they agree; the quality layer is
    never interpolated. Where items overlap, the earlier one's valid pixels win.

    Args:
        scene: Whose items to read; those that miss the geobox cost nothing.
        geobox: Where to.
        bands: geoelle's band names, in the order wanted.
        sensor: What the items are of; by default the sensor that they name.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature. Also if
            items of one scene need different scaling, or only some of them have the quality layer.
        SchemaError: If an item lacks a band.
    """
    items = scene.items
    check_items(items, bands)
    sensor = sensor or get_sensor(items[0].sensor)
    quality = sensor.quality
    has_quality = _has_quality(items, quality)
    names = [*bands, *([quality.name] if quality and has_quality else [])]
    stack = read_bands(items, geobox, names, sensor)
    digital = stack[: len(bands)]
    scale, offset = scaling(items, bands)
    physical = digital * scale[:, None, None] + offset[:, None, None]
    observed = np.isfinite(physical).all(axis=0)
    cloud, shadow, snow, water = (np.zeros_like(observed) for _ in range(4))
    if quality and has_quality:
        numbers = stack[-1]
        observed &= np.isfinite(numbers)
        classes = np.where(observed, numbers, quality.nodata).astype(np.int64)
        observed &= ~has_any(classes, quality.invalid)
        cloud = observed & has_any(classes, quality.cloud)
        shadow = observed & ~cloud & has_any(classes, quality.shadow)
        snow, water = has_any(classes, quality.snow), has_any(classes, quality.water)
    valid = observed & ~cloud & ~shadow
    physical[:, ~valid] = np.nan
    source = quality.name if quality and has_quality else "none"
    return TilePixels(physical, valid, cloud, shadow, snow & valid, water & valid, source)


def _has_quality(items: Sequence[ItemRecord], quality: QualitySpec | None) -> bool:
    """Whether a scene has its quality layer; one that has it in part only would be masked in part only."""
    if quality is None:
        return False
    there = [item for item in items if quality.name in item.assets]
    if there and len(there) < len(items):
        lacking = next(item for item in items if quality.name not in item.assets)
        raise ImageryError(
            f"Item {lacking.id} lacks the quality layer {quality.name} that item {there[0].id} of the same day has. "
            "Its clouds would pass for ground; leave it out with --exclude."
        )
    return bool(there)
