"""Stores of several zones: made-up difficulty across the antimeridian, and an embedding store cut in two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import geoelle
from geoelle.aoi import aoi_geometry, read_aoi
from geoelle.grid import GridExtent, ZoneChips, zone_chips
from geoelle.store.embeddings import prepare, stored_digests, write_job
from geoelle.store.layout import Variable, extent_of, grid_attrs, write_store
from geoelle.store.location import StorePath
from geoelle.store.zones import create_zones

NAN = float("nan")
AOI = read_aoi((179.93, 51.0, -179.94, 51.06))


def across() -> list[ZoneChips]:
    """Zones 1 and 60 about the antimeridian."""
    return zone_chips(aoi_geometry(AOI), 640, 320, 4)


def write_difficulties(path: Path, values: Mapping[str, np.ndarray], days: Mapping[str, Sequence[str]]) -> Path:
    """A difficulty store of made-up values, of zones 1 and 60."""
    zones = {zone.name: zone.extent for zone in across()}
    paths = create_zones(path, "difficulty", list(zones), {})
    variables = [
        Variable("difficulty", "float32", NAN, {}, {"units": "squared standard deviations"}),
        Variable("difficulty_se", "float32", NAN, {}, {}),
        Variable("support", "uint8", 255, {}, {}),
    ]
    for zone, extent in zones.items():
        numbers = values[zone].astype(np.float32)
        attrs = {
            "geoelle:kind": "difficulty",
            "geoelle:grid": grid_attrs(extent),
            "geoelle:encoder": {"name": "compact-rgb"},
            "geoelle:probe_digest": "ab",
            "geoelle:probe_origin": "local",
            "geoelle:aoi": json.loads(AOI.to_json()),
            "geoelle:scenes": {day: [f"{zone}-{day}"] for day in days[zone]},
            "geoelle:made_of": hashlib.sha256(numbers.tobytes()).hexdigest(),
        }
        per_date = (
            {"difficulty": v, "difficulty_se": v * 0 + 1, "support": np.where(np.isfinite(v), 1, 255).astype(np.uint8)}
            for v in numbers
        )
        stamps = list(np.array(days[zone], dtype="datetime64[ns]"))
        write_store(paths[zone], extent, stamps, variables, per_date, attrs)
    return path


def cut_in_two(flat: StorePath, out: StorePath) -> dict[str, GridExtent]:
    """An embedding store's western and eastern tiles as the two groups of a store of several zones."""
    ds = geoelle.open_store(flat, "embeddings")
    whole, digests = extent_of(ds.attrs), stored_digests(flat)
    middle = (whole.tile_columns.start + whole.tile_columns.stop) // 2
    halves = {
        "32631": range(whole.tile_columns.start, middle),
        "32632": range(middle, whole.tile_columns.stop),
    }
    paths = create_zones(out, "embeddings", list(halves), {})
    extents = {}
    for zone, columns in halves.items():
        extent = GridExtent(whole.grid, whole.tile_chips, whole.tile_rows, columns)
        attrs = {k: v for k, v in ds.attrs.items() if str(k).startswith("geoelle:")}
        attrs |= {"geoelle:grid": grid_attrs(extent)}
        index = prepare(
            paths[zone], extent, list(ds["time"].values), n_features=ds.sizes["feature"], units="reflectance",
            attrs=attrs,
        )  # fmt: skip
        shift = (columns.start - whole.tile_columns.start) * whole.tile_chips
        for t in range(ds.sizes["time"]):
            for n, tile in enumerate(extent.tiles()):
                there = slice(tile.x.start + shift, tile.x.stop + shift)
                data = {str(name): ds[name].values[t, tile.y, there] for name in ds.data_vars if name != "job_digest"}
                i, j = divmod(n, len(columns))
                job = digests[t, i, j + shift // whole.tile_chips].tobytes().hex()
                write_job(paths[zone], index[ds["time"].values[t]], (i, j), tile, data, job)
        extents[zone] = extent
    return extents
