"""The offset of Sentinel-2's baseline 04.00, declared by each item and checked on its darkest pixels, once an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from geoelle.errors import ImageryError
from geoelle.imagery import DarkPixels, check_radiometry, dark_pixels
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

_READERS = 8


def radiometry_of(
    items: Sequence[ItemRecord], sensor: Sensor, known: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What items declare about the offset and what their pixels say, for the store's `geoelle:radiometry`.

    Items whose file cannot be read are left out: their jobs will say so, and a later run checks them.

    Args:
        items: Of one run.
        sensor: What they are of; sensors without such an offset are not checked.
        known: What earlier runs found, by item id; those items are not read again.

    Raises:
        ImageryError: If pixels contradict what an item declares, or the items are of mixed states; names them.
    """
    if sensor.offset_rule is None:
        return {}
    evidence = {item.id: found for item in items if (found := _stored(known.get(item.id), item)) is not None}
    with ThreadPoolExecutor(_READERS) as readers:
        unread = [item for item in items if item.id not in evidence]
        for item, found in zip(unread, readers.map(lambda i: _look(i, sensor), unread), strict=True):
            if found is not None:
                evidence[item.id] = found
    checked = check_radiometry(items, evidence)
    made = {item.id: _made(item) for item in items}
    return {item_id: {**found, "processed": made[item_id]} for item_id, found in checked.items()}


def _look(item: ItemRecord, sensor: Sensor) -> DarkPixels | None:
    try:
        return dark_pixels(item, sensor)
    except ImageryError:
        return None


def _stored(known: Mapping[str, Any] | None, item: ItemRecord) -> DarkPixels | None:
    """What an earlier run found, unless the item has been processed again since."""
    if known is None or (known.get("processing_baseline"), known.get("processed")) != (
        item.processing_baseline,
        _made(item),
    ):
        return None
    try:
        pixels = dict(known["pixels"])
        return DarkPixels(
            offset_in_pixels=None if pixels["offset_in_pixels"] is None else bool(pixels["offset_in_pixels"]),
            floors={str(k): float(v) for k, v in pixels["floors"].items()},
            n_pixels=int(pixels["n_pixels"]),
            reason=str(pixels["reason"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # not as we write it: look again


def _made(item: ItemRecord) -> str | None:
    return None if item.processed is None else f"{np.datetime_as_string(item.processed, 's')}Z"
