"""Stores of areas across zones: one Zarr group per zone, named by its EPSG code, under a group that lists them.

An area within one zone is one flat store. So every verb walks `zone_paths`, and what it writes has the same zones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
import zarr

from geoelle.errors import StoreError
from geoelle.store.layout import ZONES, is_stored, open_group, open_store
from geoelle.store.location import Location, StorePath, reporting
from geoelle.store.locking import store_lock


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
    if (
        not isinstance(zones, list)
        or not zones
        or not all(isinstance(z, str) and z.isascii() and z.isdigit() for z in zones)
        or len(set(zones)) < len(zones)
    ):
        raise StoreError(f"{path} lists zones {zones!r}. Expected EPSG codes; make the store again.")
    return {zone: place / zone for zone in zones}


def open_zones(path: StorePath, kind: str | None = None, *, load: bool = False) -> dict[str, xr.Dataset]:
    """The flat stores that a store is made of, opened, by zone; of a store of one zone that one, under the name "".

    Raises:
        NotFoundError: If there is no store, or a zone of it was never made.
        StoreError: If one is not geoelle's, or of another kind.
        SchemaError: If one breaks its contract.
    """
    return {zone: open_store(part, kind, load=load) for zone, part in zone_paths(path).items()}


def open_area(path: StorePath, kind: str | None = None, *, load: bool = False) -> xr.Dataset | xr.DataTree:
    """What a verb returns: a store of one zone as a Dataset, of several as a DataTree with one child per zone.

    Raises:
        NotFoundError: If there is no store, or a zone of it was never made.
        StoreError: If one is not geoelle's, or of another kind.
        SchemaError: If one breaks its contract.
    """
    zones = open_zones(path, kind, load=load)
    if list(zones) == [""]:
        return zones[""]
    root = xr.Dataset(attrs=dict(open_group(path).attrs))
    return xr.DataTree.from_dict({"/": root, **zones})


def zones_of(opened: xr.Dataset | xr.DataTree | Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The Datasets by zone of what `open_area` or `open_zones` returned; of a Dataset itself, under the name ""."""
    if isinstance(opened, xr.Dataset):
        return {"": opened}
    if isinstance(opened, xr.DataTree):
        return {str(name): child.to_dataset(inherit=False) for name, child in opened.children.items()}
    return dict(opened)


def create_zones(path: StorePath, kind: str, zones: Sequence[str], attrs: Mapping[str, Any]) -> dict[str, Location]:
    """Make, or take up, the group over the zones; the zones themselves are made by their writers.

    A zone that comes later, since imagery reached it only then, is added to the list.

    Raises:
        StoreError: If something else is there.
    """
    target = Location.of(path)
    if not is_stored(target):
        with store_lock(target, kind), reporting(target, "written"):
            _create_group(target, {**attrs, "geoelle:kind": kind, ZONES: sorted(zones)})
    root = open_group(target)
    known = root.attrs.get(ZONES)
    if root.attrs.get("geoelle:kind") != kind or not isinstance(known, list):
        raise StoreError(
            f"{path} is a store of kind {root.attrs.get('geoelle:kind')!r} with zones {known}. "
            f"This run makes {kind} with zones {list(zones)}. It is left as it is; give another --out."
        )
    if not set(zones) <= set(known):
        with reporting(target, "written"):
            open_group(target, mode="r+").attrs[ZONES] = sorted({*known, *zones})
    return {zone: place for zone, place in zone_paths(target).items() if zone in zones}


def _create_group(target: Location, attrs: Mapping[str, Any]) -> None:
    if is_stored(target):  # another run was quicker
        return
    target.delete()  # what a run that was killed left unfinished in an object store
    # In one write, so that a kill leaves all of it or nothing.
    zarr.create_group(target.zarr_store(), zarr_format=3, attributes=dict(attrs))


def paths_like(path: StorePath, kind: str, zones: Sequence[str]) -> dict[str, Location]:
    """Where a verb writes, by zone: `path` itself for a store of one zone, named "", else its groups, made or taken up.

    Raises:
        StoreError: If something else is there, or a store of other zones.
    """
    return {"": Location.of(path)} if list(zones) == [""] else create_zones(path, kind, zones, {})
