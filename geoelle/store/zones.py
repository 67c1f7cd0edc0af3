"""Stores of areas across zones: one Zarr group per zone, named by its EPSG code, under a group that lists them.

An area within one zone is one flat store. So every verb walks `zone_paths`, and what it writes has the same zones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from geoelle.errors import StoreError
from geoelle.store.layout import ZONES, open_group, open_store


def zone_paths(path: str | Path) -> dict[str, Path]:
    """The flat stores that a store is made of, by zone; a store of one zone is its own, under the name "".

    Raises:
        NotFoundError: If there is no store.
        StoreError: If it is none of geoelle's.
    """
    zones = open_group(path).attrs.get(ZONES)
    if zones is None:
        return {"": Path(path)}
    if (
        not isinstance(zones, list)
        or not zones
        or not all(isinstance(z, str) and z.isascii() and z.isdigit() for z in zones)
        or len(set(zones)) < len(zones)
    ):
        raise StoreError(f"{path} lists zones {zones!r}. Expected EPSG codes; make the store again.")
    return {zone: Path(path) / zone for zone in zones}


def open_zones(path: str | Path, kind: str | None = None, *, load: bool = False) -> dict[str, xr.Dataset]:
    """The flat stores that a store is made of, opened, by zone; of a store of one zone that one, under the name "".

    Raises:
        NotFoundError: If there is no store, or a zone of it was never made.
        StoreError: If one is not geoelle's, or of another kind.
        SchemaError: If one breaks its contract.
    """
    return {zone: open_store(part, kind, load=load) for zone, part in zone_paths(path).items()}


def open_area(path: str | Path, kind: str | None = None, *, load: bool = False) -> xr.Dataset | xr.DataTree:
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


def create_zones(path: str | Path, kind: str, zones: Sequence[str], attrs: Mapping[str, Any]) -> dict[str, Path]:
    """Make, or take up, the group over the zones; the zones themselves are made by their writers.

    Raises:
        StoreError: If something else is there, or a store of other zones.
    """
    target = Path(path)
    if not target.exists():
        root = zarr.create_group(target, zarr_format=3)
        root.attrs.update({**attrs, "geoelle:kind": kind, ZONES: list(zones)})
    root = open_group(target)
    if root.attrs.get("geoelle:kind") != kind or root.attrs.get(ZONES) != list(zones):
        raise StoreError(
            f"{path} is a store of kind {root.attrs.get('geoelle:kind')!r} with zones {root.attrs.get(ZONES)}. "
            f"This run makes {kind} with zones {list(zones)}. It is left as it is; give another --out."
        )
    return zone_paths(target)


def paths_like(path: str | Path, kind: str, zones: Sequence[str]) -> dict[str, Path]:
    """Where a verb writes, by zone: `path` itself for a store of one zone, named "", else its groups, made or taken up.

    Raises:
        StoreError: If something else is there, or a store of other zones.
    """
    return {"": Path(path)} if list(zones) == [""] else create_zones(path, kind, zones, {})
