"""Stores of areas across UTM zones: one Zarr group per zone, named by its EPSG code, under a group that lists them.

An area within one zone is one flat store. So every verb walks `zone_paths`, and what it writes has the same zones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import zarr

from geoelle.errors import StoreError
from geoelle.store.layout import open_group
from geoelle.store.location import Location, StorePath, reporting

ZONES = "geoelle:zones"


def zone_paths(path: StorePath) -> dict[str, Location]:
    """The flat stores that a store is made of, by zone; a store of one zone is its own, under the name "".

    Raises:
        NotFoundError: If there is no store.
        StoreError: If it is none of geoelle's.
    """
    place = Location.of(path)
    zones = open_group(place).attrs.get(ZONES)
    if zones is None:
        return {"": place}
    if not isinstance(zones, list) or not zones or not all(isinstance(z, str) and z.isdigit() for z in zones):
        raise StoreError(f"{path} lists zones {zones!r}. Expected EPSG codes; make the store again.")
    return {zone: place / zone for zone in zones}


def create_zones(path: StorePath, kind: str, zones: Sequence[str], attrs: Mapping[str, Any]) -> dict[str, Location]:
    """Make, or take up, the group over the zones; the zones themselves are made by their writers.

    Raises:
        StoreError: If something else is there, or a store of other zones.
    """
    target = Location.of(path)
    if not target.exists():
        with reporting(target, "written"):  # in one write, so that a kill leaves all of it or nothing
            attrs = {**attrs, "geoelle:kind": kind, ZONES: list(zones)}
            zarr.create_group(target.zarr_store(), zarr_format=3, attributes=attrs)
    root = open_group(target)
    if root.attrs.get("geoelle:kind") != kind or root.attrs.get(ZONES) != list(zones):
        raise StoreError(
            f"{path} is a store of kind {root.attrs.get('geoelle:kind')!r} with zones {root.attrs.get(ZONES)}. "
            f"This run makes {kind} with zones {list(zones)}. It is left as it is; give another --out."
        )
    return zone_paths(target)
