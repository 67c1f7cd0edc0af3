"""Embedding across UTM zones, and every verb on what that gives: at 6 degrees east, and across the antimeridian."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
import yaml
from zoned_imagery import ANTIMERIDIAN, SIX_EAST, Border

from geoelle import schema
from geoelle.aoi import aoi_geometry, read_aoi
from geoelle.embedding import embed
from geoelle.grid import zone_chips
from geoelle.inspecting import inspect
from geoelle.searching import search
from geoelle.store.zones import open_zones

DAYS = ("2020-06-10", "2020-07-10", "2020-08-10", "2020-09-10", "2021-06-10", "2021-07-10")
OPTIONS: dict[str, Any] = {"chip_size_m": 320, "stride_m": 320, "tile_chips": 2}
YEARS = {"start": "2020-01-01", "end": "2021-12-31"}


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def times(path: Path) -> dict[str, int]:
    return {p.as_posix(): p.stat().st_mtime_ns for p in (path, *path.rglob("*"))}


def run_cli(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "geoelle", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )


@dataclass
class Across:
    """An area across a border, what was found there, and its store, made in one go. Not to be written to."""

    border: Border
    items: Path
    store: Path


@pytest.fixture(scope="module", params=["6 E", "180"])
def across(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Across:
    folder = tmp_path_factory.mktemp("across")
    lon, sides = (6.0, SIX_EAST) if request.param == "6 E" else (180.0, ANTIMERIDIAN)
    border = Border(folder / "scenes", lon, 51.0, sides)
    border.list_items([border.write(side, day) for day in DAYS[:2] for side in sides])
    items = folder / "items.parquet"
    search(border.area, catalog=border.catalog, out=items, **YEARS)
    embed(items, aoi=border.area, out=folder / "e.zarr", **OPTIONS)
    return Across(border, items, folder / "e.zarr")


def test_every_chip_is_there_once_in_the_group_of_its_zone(across: Across) -> None:
    zones = open_zones(across.store, "embeddings")
    area = aoi_geometry(read_aoi(across.border.area))
    expected = {zone.name: zone for zone in zone_chips(area, 320, 320, 2)}
    assert set(zones) == set(expected) == {str(side.epsg) for side in across.border.sides}
    for name, ds in zones.items():
        asked = (ds["status"].values != schema.OUTSIDE_AOI) & (ds["status"].values != schema.NOT_DONE)
        np.testing.assert_array_equal(asked.any(axis=0), expected[name].wanted)
        done = ds["status"].values == schema.DONE
        assert done.any(axis=0).sum() >= 12
        assert np.isfinite(ds["embedding"].values[done]).all()


@pytest.mark.parametrize("west", [True, False])
def test_a_chip_is_that_of_a_run_for_its_zone_alone(across: Across, west: bool, tmp_path: Path) -> None:
    alone = embed(across.items, aoi=across.border.half(west=west), out=tmp_path / "e.zarr", **OPTIONS)
    assert isinstance(alone, xr.Dataset)
    whole = open_zones(across.store)[str(alone.attrs["geoelle:grid"]["epsg"])]
    same = whole.reindex(x=alone["x"], y=alone["y"]).sel(time=alone["time"])
    done = alone["status"].values == schema.DONE
    assert done.any(axis=0).sum() >= 8
    for name in ("status", "embedding", "contrast", "valid_fraction"):
        np.testing.assert_array_equal(same[name].values[done], alone[name].values[done])


def test_a_run_that_was_stopped_resumes_and_an_unchanged_one_does_nothing(across: Across, tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"

    def stop(done: int, total: int) -> None:
        if done == total // 4:
            raise RuntimeError("stopped by the test")

    with pytest.raises(RuntimeError, match="stopped by the test"):
        embed(across.items, aoi=across.border.area, out=path, progress=stop, **OPTIONS)
    said = embed(across.items, aoi=across.border.area, out=path, **OPTIONS).attrs["geoelle:summary"]
    assert 0 < said["n_unchanged"] < said["n_jobs"]
    assert tree(path) == tree(across.store)
    before = times(path)
    said = embed(across.items, aoi=across.border.area, out=path, **OPTIONS).attrs["geoelle:summary"]
    assert said["n_unchanged"] == said["n_jobs"]
    assert times(path) == before
    report = inspect(path)
    assert report.is_whole
    assert report.jobs["done"] == said["n_jobs"]


def test_a_zone_whose_imagery_comes_later_is_added(tmp_path: Path) -> None:
    """Two places of one area, far from the border and from each other."""
    west = Border(tmp_path / "scenes", 5.6, 51.0, SIX_EAST)
    east = Border(tmp_path / "scenes", 6.4, 51.0, SIX_EAST)
    area = tmp_path / "aoi.geojson"
    places = shapely.MultiPolygon([shapely.box(5.59, 51.0, 5.6, 51.009), shapely.box(6.4, 51.0, 6.41, 51.009)])
    gpd.GeoDataFrame(geometry=[places], crs=4326).to_file(area)
    first, second = west.write(SIX_EAST[0], DAYS[0]), east.write(SIX_EAST[1], DAYS[1])
    items = tmp_path / "items.parquet"

    def found(*listed: dict[str, Any]) -> Path:
        west.list_items(listed)
        search(area, catalog=west.catalog, out=items, **YEARS)
        return items

    embed(found(first), aoi=area, out=tmp_path / "e.zarr", **OPTIONS)
    assert list(open_zones(tmp_path / "e.zarr")) == ["32631"]
    before = tree(tmp_path / "e.zarr" / "32631")
    embed(found(first, second), aoi=area, out=tmp_path / "e.zarr", **OPTIONS)
    assert list(open_zones(tmp_path / "e.zarr")) == ["32631", "32632"]
    assert tree(tmp_path / "e.zarr" / "32631") == before
    embed(items, aoi=area, out=tmp_path / "once.zarr", **OPTIONS)
    assert tree(tmp_path / "once.zarr") == tree(tmp_path / "e.zarr")
    assert inspect(tmp_path / "e.zarr").is_whole


# --- every verb


@pytest.mark.parametrize("place", [pytest.param("6 E", marks=pytest.mark.long), "180"])
def test_the_whole_chain_through_the_command_line(place: str, tmp_path: Path) -> None:
    lon, sides = (6.0, SIX_EAST) if place == "6 E" else (180.0, ANTIMERIDIAN)
    border = Border(tmp_path / "scenes", lon, 51.0, sides)
    border.list_items([border.write(side, day) for day in DAYS for side in sides])
    document = {
        "name": "border", "aoi": list(border.area), "out": "out",
        "search": {"catalog": "scenes/catalog.json", **YEARS},
        "embed": {"chip_size_m": 320, "stride_m": 160, "tile_chips": 8},
        "calibrate": {"n": 60, "masks": 2, "block_size_m": 640, "allow_few": True},
        "delta": {"alert_z": 1.5},
    }  # fmt: skip
    (tmp_path / "border.yaml").write_text(yaml.safe_dump(document))
    done = run_cli("run", tmp_path / "border.yaml", "--quiet")
    assert done.returncode == 0, done.stderr
    out, names = tmp_path / "out", [str(side.epsg) for side in sides]
    for kind in ("embeddings", "difficulty", "delta"):
        assert sorted(open_zones(out / f"{kind}.zarr", kind)) == sorted(names)
        report = inspect(out / f"{kind}.zarr", verify=True)
        assert report.is_whole, report
        assert sorted(zone.zone for zone in report.zones) == sorted(names)
    looked = run_cli("inspect", out / "embeddings.zarr", "--verify")
    assert looked.returncode == 0, looked.stderr
    assert all(name in looked.stdout for name in names)
    assert "Cannot be read" not in looked.stdout
    assert "Damaged" not in looked.stdout
    pairs = gpd.read_parquet(out / "pairs.parquet")
    assert set(pairs["chip_id"].str.split("_").str[0]) == set(names)
    alerts = gpd.read_parquet(out / "alerts.parquet")
    schema.check_alerts(alerts)
    assert len(alerts) > 0
    assert (out / "map.html").stat().st_size > 10_000
    exported = run_cli(
        "export", out / "embeddings.zarr", out / "difficulty.zarr", out / "delta.zarr", "--items",
        out / "items.parquet", "--out", tmp_path / "exports", "--quiet",
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    files = [p.relative_to(tmp_path).as_posix() for p in (tmp_path / "exports").rglob("*.tif")]
    assert all(any(name in file for file in files) for name in names), files
    before = tree(out / "embeddings.zarr")
    again = run_cli("run", tmp_path / "border.yaml", "--quiet")
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert tree(out / "embeddings.zarr") == before
    updated = run_cli(
        "update", out / "embeddings.zarr", "--items", out / "items.parquet", "--end", "2021-12-31", "--quiet"
    )
    assert updated.returncode == 0, updated.stderr
    assert "Nothing new" in updated.stdout
    assert tree(out / "embeddings.zarr") == before
    assert json.loads((out / "alerts.geojson").read_text())["type"] == "FeatureCollection"
