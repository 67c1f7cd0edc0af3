"""The first stages on small simulated scenes, done once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pytest

import geoelle
from geoelle.simulate import Simulation

CHIP_SIZE_M, STRIDE_M = 320, 160


@dataclass(frozen=True)
class Chain:
    """Where the outputs of the first stages lie. Tests leave them as they are."""

    folder: Path
    scenes: Simulation
    items: Path
    embeddings: Path


@dataclass(frozen=True)
class Calibrated:
    pairs: gpd.GeoDataFrame
    pairs_path: Path
    probe: Path


@pytest.fixture(scope="session")
def chain(scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Items and embeddings of six dates, chips of 320 m every 160 m."""
    folder = tmp_path_factory.mktemp("chain")
    items, embeddings = folder / "items.parquet", folder / "embeddings.zarr"
    geoelle.search(
        scenes.aoi, catalog=scenes.catalog, collections=[scenes.collection], start="2021-01-01", end="2021-12-31",
        out=items,
    )  # fmt: skip
    geoelle.embed(items, aoi=scenes.aoi, out=embeddings, chip_size_m=CHIP_SIZE_M, stride_m=STRIDE_M)
    return Chain(folder, scenes, items, embeddings)


@pytest.fixture(scope="session")
def calibrated(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """A local probe from 120 chips in blocks of 640 m: few, as the area is small."""
    folder = tmp_path_factory.mktemp("calibrated")
    pairs = geoelle.calibrate(
        chain.embeddings, items=chain.items, out=folder / "probe", n=120, block_size_m=640,
        exclude_dates=["2021-05-10"], allow_few=True,
    )  # fmt: skip
    return Calibrated(pairs, folder / "pairs.parquet", folder / "probe")
