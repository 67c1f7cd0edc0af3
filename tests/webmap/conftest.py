"""Stores and Leaflet for the tests of the map."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import pytest
import xarray as xr
from webmap_stores import absent, make_alerts, make_delta, make_difficulty

from geoelle.webmap.assets import KNOWN_ASSETS, AssetResolver, default_cache_dir


@pytest.fixture
def difficulty() -> xr.Dataset:
    return make_difficulty()


@pytest.fixture
def delta(difficulty: xr.Dataset) -> xr.Dataset:
    return make_delta(difficulty)


@pytest.fixture
def alerts(delta: xr.Dataset, difficulty: xr.Dataset) -> gpd.GeoDataFrame:
    return make_alerts(delta, difficulty)


@pytest.fixture(scope="session")
def real_assets() -> Path:
    """A cache folder that holds Leaflet, taken as the product takes it."""
    resolver = AssetResolver(default_cache_dir())
    for asset in KNOWN_ASSETS:
        data, reason = resolver.get(asset.url)
        if data is None:
            absent(f"Leaflet cannot be had: {reason}")
    return resolver.cache_dir


@pytest.fixture
def fake_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that holds short stand-ins, under their true sha256, so that no test waits for a network."""
    cache = tmp_path / "assets"
    known = []
    for asset in KNOWN_ASSETS:
        data = b"\x89PNG" if asset.member.endswith("png") else f"/* {asset.member} */".encode()
        path = cache / asset.cache_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        known.append(replace(asset, sha256=hashlib.sha256(data).hexdigest()))
    monkeypatch.setattr("geoelle.webmap.assets.KNOWN_ASSETS", tuple(known))
    return cache
