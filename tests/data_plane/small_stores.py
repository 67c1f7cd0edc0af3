"""A small embedding store and difficulty store made by hand, for the tests of what happens to stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import mapping

from geoelle import schema
from geoelle.grid import ChipGrid, GridExtent, Tile
from geoelle.provenance import digest, seed_from
from geoelle.schema import ENCODER_ATTRS
from geoelle.store.embeddings import prepare, write_job
from geoelle.store.layout import Variable, grid_attrs, write_store
from geoelle.store.location import Location, StorePath

EXTENT = GridExtent(ChipGrid(32631, 640, 320), 4, range(4_450, 4_451), range(390, 392))
DAYS = [np.datetime64(day, "ns") for day in ("2022-06-04", "2022-06-14", "2023-01-01")]
N_FEATURES = 5
TILES = list(EXTENT.tiles())
JOBS = [(day, n) for day in range(len(DAYS)) for n in range(len(TILES))]
"""Date and tile of every job."""


def wanted() -> NDArray[np.bool_]:
    """The chips of the area: all."""
    return np.ones(EXTENT.shape, dtype=np.bool_)


def attrs(**changes: Any) -> dict[str, Any]:
    """Attributes of an embedding store over the whole extent."""
    from odc.geo.geom import Geometry

    box = Geometry(mapping(EXTENT.geobox.extent.geom), crs=32631).to_crs(4326, resolution=100)
    aoi = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": box.json}]}
    return {
        "geoelle:kind": "embeddings", "geoelle:grid": grid_attrs(EXTENT),
        "geoelle:encoder": dict.fromkeys(ENCODER_ATTRS, 0) | {"name": "e", "n_features": N_FEATURES},
        "geoelle:config": {"gsd_m": 10},
        "geoelle:area": {"chips": wanted().size, "digest": digest(np.packbits(wanted()).tobytes().hex())},
        "geoelle:aoi": aoi, "geoelle:simulated": True, "geoelle:attribution": "",
        "geoelle:scenes": {str(d)[:10]: [f"item-{i}", "other"] for i, d in enumerate(DAYS)},
        "geoelle:software": {"geoelle": "0"}, **changes,
    }  # fmt: skip


def make(path: StorePath, days: Sequence[np.datetime64] = DAYS, dtype: str = "float32") -> dict[np.datetime64, int]:
    """Prepare the store for these dates."""
    return prepare(path, EXTENT, days, n_features=N_FEATURES, units="1", attrs=attrs(), dtype=dtype)


def tile_index(n: int) -> tuple[int, int]:
    return divmod(n, len(EXTENT.tile_columns))


def job_data(day: int, n: int) -> dict[str, NDArray[Any]]:
    """What a job writes: a function of its date and tile alone; one chip is skipped."""
    rng = np.random.default_rng(seed_from(str(DAYS[day]), n))
    shape = (4, 4)
    status = np.full(shape, schema.DONE, np.uint8)
    status[0, 0] = schema.SKIPPED_CLOUD
    embedding = rng.normal(size=(*shape, N_FEATURES)).astype(np.float32)
    embedding[0, 0] = np.nan
    return {
        "embedding": embedding,
        **{name: rng.random(shape).astype(np.float32) for name in schema.FRACTIONS},
        "contrast": rng.random(shape).astype(np.float32),
        "status": status,
    }


def job_digest(day: int, n: int) -> str:
    return digest([str(DAYS[day]), n])


def do(path: StorePath, index: dict[np.datetime64, int], day: int, n: int, **options: Any) -> None:
    """Do one job."""
    tile: Tile = TILES[n]
    write_job(path, index[DAYS[day]], tile_index(n), tile, job_data(day, n), job_digest(day, n), **options)


def make_whole(path: StorePath, dtype: str = "float32") -> None:
    """A store with every job done."""
    index = make(path, dtype=dtype)
    for job in JOBS:
        do(path, index, *job)


def make_difficulty(path: StorePath, made_of: str = "x") -> None:
    """A small difficulty store."""
    variables = [
        *(Variable(name, "float32", float("nan"), {}, {}) for name in ("difficulty", "difficulty_se")),
        Variable("support", "uint8", 255, {}, {}),
    ]  # fmt: skip
    meta = {
        **attrs(), "geoelle:kind": "difficulty", "geoelle:probe_digest": "d", "geoelle:probe_origin": "shipped",
        "geoelle:made_of": made_of,
    }  # fmt: skip
    write_store(path, EXTENT, DAYS, variables, difficulty_dates(), meta)


def difficulty_dates() -> list[dict[str, NDArray[Any]]]:
    dates = []
    for k in range(len(DAYS)):
        values = np.random.default_rng(k).random(EXTENT.shape).astype(np.float32)
        values[0, 0] = np.nan
        support = np.where(np.isnan(values), 255, 1).astype(np.uint8)
        dates.append({"difficulty": values, "difficulty_se": values / 10, "support": support})
    return dates


def contents(path: StorePath) -> dict[str, bytes]:
    """Every file of a store, by name."""
    place = Location.of(path)
    return {name: (place / name).read_bytes() for name in place.files()}


def file_of(path: Path, pattern: str) -> Path:
    """The first file that matches."""
    return sorted(p for p in path.rglob(pattern) if p.is_file())[0]
