"""What a store says of itself must be of the kind that its readers take it for: anyone can write a Zarr attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geoelle.errors import SchemaError

_MAPPINGS = ("grid", "encoder", "config", "area", "aoi", "scenes", "items", "jobs", "masks", "radiometry", "software",
             "probe", "reference")  # fmt: skip
_SHORTEST_M, _LONGEST_M = 0.01, 1e6


def check_attributes(attrs: Mapping[str, Any], store: object) -> None:
    """Refuse attributes of other types than geoelle writes. What is left out is for their readers to miss.

    Args:
        attrs: Of a flat store.
        store: How an error calls it.

    Raises:
        SchemaError: If one is of another type; names it.
    """
    for name in _MAPPINGS:
        found = attrs.get(f"geoelle:{name}", {})
        if not isinstance(found, Mapping):
            raise _wrong(store, name, "a mapping", found)
    scenes = attrs.get("geoelle:scenes", {})
    for ids in scenes.values():
        if not isinstance(ids, list) or not all(isinstance(item_id, str) for item_id in ids):
            raise _wrong(store, "scenes", "lists of item ids by date", ids)
    for name in ("items", "radiometry"):
        for found in attrs.get(f"geoelle:{name}", {}).values():
            if not isinstance(found, Mapping):
                raise _wrong(store, name, "a mapping for each item id", found)
    grid = attrs.get("geoelle:grid", {})
    for name in ("chip_size_m", "stride_m"):
        length = grid.get(name)
        if not isinstance(length, int | float) or not _SHORTEST_M <= length <= _LONGEST_M:
            raise _wrong(store, "grid", f"{name} in metres", length)


def _wrong(store: object, name: str, expected: str, found: object) -> SchemaError:
    return SchemaError(
        f"{store} has {str(found)[:80]!r} in its attribute geoelle:{name}. Expected {expected}; make the store again."
    )
