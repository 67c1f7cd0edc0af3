"""Pixels of one scene on one tile, in physical units, with what is valid and what hides the ground."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geoelle.errors import ConfigError, ImageryError
from geoelle.imagery import cloudtest, omnicloud
from geoelle.imagery.masks import SkyMasks, has_quality, no_masks, quality_masks
from geoelle.imagery.radiometry import scaling, to_units
from geoelle.imagery.reading import read_bands
from geoelle.records import ItemRecord, Scene
from geoelle.schema import check_items
from geoelle.sensors import Sensor, get_sensor

CloudMask = Literal["auto", "quality", "heuristic", "omnicloudmask", "none"]
"""What masks are made of. `auto`: the quality layer, else the heuristic where its bands are there, else nothing."""

HEURISTIC, OMNICLOUDMASK, NO_MASK = "heuristic", "omnicloudmask", "none"
"""What `mask_source` says where it is not the name of a quality layer."""
_AT_ONCE = 1 << 18
"""Numbers worked on at once: what fits into a processor's cache."""


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


class TileMemory(threading.local):
    """Room for pixels that each thread uses again for its next tile: new memory costs more than what is done in it."""

    def __init__(self) -> None:
        """Empty; grows to the largest tile that a thread has read."""
        self._room = np.empty(0, dtype=np.float32)

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array of a shape. What this thread took before is overwritten."""
        n = math.prod(shape)
        if self._room.size < n:
            self._room = np.empty(n, dtype=np.float32)
        return self._room[:n].reshape(shape)


@dataclass(frozen=True, slots=True)
class _MaskPlan:
    """Where a scene's masks come from, and which names have to be read for that beside the bands asked for."""

    source: str
    names: tuple[str, ...] = ()


def read_tile(
    scene: Scene,
    geobox: GeoBox,
    bands: Sequence[str],
    *,
    sensor: Sensor | None = None,
    cloud_mask: CloudMask = "auto",
    units: str | None = None,
    memory: TileMemory | None = None,
) -> TilePixels:
    """Read one scene on a geobox.

    Reflectance is interpolated bilinearly where grids differ and copied where they agree; the quality layer is
    never interpolated. Where items overlap, the earlier one's valid pixels win. Radar power is interpolated as power
    and made decibels after that.

    Args:
        scene: Whose items to read; those that miss the geobox cost nothing.
        geobox: Where to.
        bands: geoelle's band names, in the order wanted.
        sensor: What the items are of; by default the sensor that they name.
        cloud_mask: What the masks are made of. The heuristic and OmniCloudMask read more bands where `bands` does not
            hold all that they need; they decide from this tile's pixels alone.
        units: Of the pixels given; by default the sensor's. `dB` of a sensor in `linear` power is 10 log10.
        memory: Where to put the pixels; they hold until this thread reads its next tile with it. None: to keep.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature. Also if
            items of one scene need different scaling, only some of them have the quality layer, the mask asked for
            cannot be made of what is there, or the units are others than the sensor's.
        ConfigError: If `cloud_mask` is none of the known ones, or OmniCloudMask is not installed.
        SchemaError: If an item lacks a band.
    """
    items = scene.items
    check_items(items, bands)
    sensor = sensor or get_sensor(items[0].sensor)
    plan = _plan(items, sensor, cloud_mask)
    names = list(dict.fromkeys((*bands, *plan.names)))
    room = None if memory is None else memory.take((len(names), *geobox.shape))
    stack = read_bands(items, geobox, names, sensor, out=room)
    quality = sensor.quality
    is_quality = quality is not None and plan.source == quality.name
    physical = stack[: len(names) - is_quality]
    pixels = physical[: len(bands)]
    scales, offsets = scaling(items, names[: len(physical)])
    observed = np.empty(pixels.shape[1:], dtype=np.bool_)
    step = max(1, _AT_ONCE // (len(physical) * pixels.shape[2]))
    for first in range(0, len(observed), step):
        rows = slice(first, first + step)
        _scale(physical[:, rows], scales, offsets)
        observed[rows] = _finite(to_units(pixels[:, rows], sensor, units))
    if quality is not None and is_quality:
        masks = quality_masks(stack[-1], quality)
    else:
        masks = _judge(plan, dict(zip(names, physical, strict=True)), observed, geobox)
    return _masked(pixels, observed, masks, plan.source)


def mask_source(items: Sequence[ItemRecord], sensor: Sensor, cloud_mask: CloudMask = "auto") -> str:
    """What the masks of items come from: the quality layer's name, `heuristic`, `omnicloudmask`, or `none`.

    Raises:
        ConfigError, ImageryError: As `read_tile` says.
    """
    return _plan(items, sensor, cloud_mask).source


def _plan(items: Sequence[ItemRecord], sensor: Sensor, cloud_mask: CloudMask) -> _MaskPlan:
    """Decide what the masks are made of.

    Raises:
        ConfigError, ImageryError: As `read_tile` says.
    """
    if cloud_mask not in get_args(CloudMask):
        raise ConfigError(f"cloud_mask is {cloud_mask!r}. Expected one of {', '.join(get_args(CloudMask))}.")
    there = [spec.name for spec in sensor.bands if all(spec.name in item.assets for item in items)]
    if cloud_mask in ("auto", "quality") and sensor.quality is not None and has_quality(items, sensor.quality):
        return _MaskPlan(sensor.quality.name, (sensor.quality.name,))
    if cloud_mask in ("auto", "heuristic") and (needed := cloudtest.bands_for_test(sensor, there)):
        return _MaskPlan(HEURISTIC, needed)
    if cloud_mask in ("auto", "none"):
        return _MaskPlan(NO_MASK)
    if cloud_mask == "omnicloudmask" and set(omnicloud.NEEDED) <= set(there):
        omnicloud.check_installed()
        return _MaskPlan(OMNICLOUDMASK, omnicloud.NEEDED)
    lacking = {
        "quality": "the quality layer" if sensor.quality is None else f"the quality layer {sensor.quality.name}",
        "heuristic": f"reflectance in {', '.join(cloudtest.NEEDED)}",
        "omnicloudmask": f"the bands {', '.join(omnicloud.NEEDED)}",
    }[cloud_mask]
    raise ImageryError(
        f"Item {items[0].id} of {sensor.name} does not have {lacking}, which cloud_mask {cloud_mask!r} asks for. "
        "Use another one, or auto, which takes what is there."
    )


def _scale(digital: NDArray[np.float32], scales: NDArray[np.float32], offsets: NDArray[np.float32]) -> None:
    """Digital numbers to physical units, in place, in no more passes than there is something to do."""
    for values, scale, offset in zip(digital, scales, offsets, strict=True):
        if scale != 1:
            values *= scale
        if offset != 0:
            values += offset


def _finite(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where every band has a number, of shape (y, x)."""
    finite = np.isfinite(pixels[0])
    for values in pixels[1:]:
        finite &= np.isfinite(values)
    return np.asarray(finite)


def _judge(
    plan: _MaskPlan, physical: dict[str, NDArray[np.float32]], observed: NDArray[np.bool_], geobox: GeoBox
) -> SkyMasks:
    """Masks made of the pixels themselves; or none."""
    wanted = {name: physical[name] for name in plan.names}
    if plan.source == HEURISTIC:
        return cloudtest.spectral_masks(wanted)
    if plan.source == OMNICLOUDMASK:
        return omnicloud.predicted_masks(wanted, abs(geobox.resolution.x))
    return no_masks(observed)


def _masked(pixels: NDArray[np.float32], observed: NDArray[np.bool_], masks: SkyMasks, source: str) -> TilePixels:
    """Pixels whose invalid ones are NaN, with masks that do not overlap."""
    observed = observed & masks.observed
    cloud, shadow = masks.cloud & observed, masks.shadow & observed
    valid = observed & ~cloud & ~shadow
    if not valid.all():
        invalid = ~valid
        for values in pixels:
            np.copyto(values, np.nan, where=invalid)
    return TilePixels(pixels, valid, cloud, shadow, masks.snow & valid, masks.water & valid, source)
