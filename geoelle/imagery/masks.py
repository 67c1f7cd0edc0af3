"""What a quality layer says of each pixel: scene classes, QA bits and Fmask, all by one path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import ImageryError
from geoelle.records import ItemRecord
from geoelle.sensors import QualitySpec, QualityTests

_N_NUMBERS = 1 << 16
_INVALID, _CLOUD, _SHADOW, _SNOW, _WATER = (np.uint8(1 << k) for k in range(5))


@dataclass(frozen=True, slots=True)
class SkyMasks:
    """What hides or covers the ground. All (y, x) bool over the same pixels."""

    observed: NDArray[np.bool_]
    """The source of the masks could tell something."""
    cloud: NDArray[np.bool_]
    """Observed, but cloud, cirrus or haze."""
    shadow: NDArray[np.bool_]
    """Observed, in a cloud's shadow, and not cloud."""
    snow: NDArray[np.bool_]
    """Snow or ice, where the ground is seen."""
    water: NDArray[np.bool_]
    """Water, where the ground is seen."""


def no_masks(observed: NDArray[np.bool_]) -> SkyMasks:
    """Masks of a source that tells nothing."""
    return SkyMasks(observed, *(np.zeros_like(observed) for _ in range(4)))


def quality_masks(numbers: NDArray[np.float32], quality: QualitySpec) -> SkyMasks:
    """What the numbers of a quality layer mean.

    Args:
        numbers: (y, x), NaN where the layer says nothing. Numbers of a layer stored as int16 may be negative: they are
            the same 16 bits. What does not fit into 16 bits is no number of a quality layer and not observed.
        quality: The layer's tests.
    """
    readable = (numbers >= -(_N_NUMBERS >> 1)) & (numbers < _N_NUMBERS)  # false for NaN
    bits = np.where(readable, numbers, np.float32(0)).astype(np.int32).astype(np.uint16)
    meanings = _meanings(quality).take(bits)
    meanings[~readable] = _INVALID

    def has(flag: np.uint8) -> NDArray[np.bool_]:
        return np.asarray((meanings & flag) != 0)

    return SkyMasks(~has(_INVALID), has(_CLOUD), has(_SHADOW), has(_SNOW), has(_WATER))


@lru_cache(maxsize=32)
def _meanings(quality: QualitySpec) -> NDArray[np.uint8]:
    """Flags of every 16-bit number. Invalid hides all else, cloud hides shadow, both hide snow and water."""
    numbers = np.arange(_N_NUMBERS, dtype=np.int64)
    invalid = has_any(numbers, quality.invalid)
    cloud = has_any(numbers, quality.cloud) & ~invalid
    shadow = has_any(numbers, quality.shadow) & ~invalid & ~cloud
    ground = ~(invalid | cloud | shadow)
    flags = np.zeros(_N_NUMBERS, dtype=np.uint8)
    for where, flag in (
        (invalid, _INVALID),
        (cloud, _CLOUD),
        (shadow, _SHADOW),
        (has_any(numbers, quality.snow) & ground, _SNOW),
        (has_any(numbers, quality.water) & ground, _WATER),
    ):
        flags[where] |= flag
    return flags


def has_any(numbers: NDArray[np.integer], tests: QualityTests) -> NDArray[np.bool_]:
    """Where any of (mask, value) holds: `number & mask == value`."""
    found = np.zeros(numbers.shape, dtype=np.bool_)
    for mask, value in tests:
        found |= (numbers & mask) == value
    return found


def has_quality(items: Sequence[ItemRecord], quality: QualitySpec | None) -> bool:
    """Whether a scene has its quality layer; one that has it in part only would be masked in part only.

    Raises:
        ImageryError: If some items have it and others do not; names one of each.
    """
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
