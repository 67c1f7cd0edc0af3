"""`run` from a YAML config on small simulated scenes: all outputs, nothing twice, new dates added."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml

import geoelle
from geoelle.cli import main
from geoelle.config import RunConfig
from geoelle.schema import check_alerts, check_pairs
from geoelle.simulate import EventSpec, Simulation, SimulationConfig, make_scenes
from geoelle.workflow import RunSummary

DATES = ("2018-07-20", "2018-08-10", "2019-07-20", "2019-08-10", "2020-07-20", "2020-08-10", "2021-08-10")
OUTPUTS = {
    "items.parquet", "embeddings.zarr", "embeddings.log.jsonl", "pairs.parquet", "probe", "difficulty.zarr",
    "delta.zarr", "alerts.parquet", "alerts.geojson", "map.html",
}  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file, run logs left out."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.endswith(".log.jsonl")
    }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    config = SimulationConfig.small(
        width_px=192, height_px=160, dates=DATES, events=(EventSpec("burn", date="2021-08-01", radius_m=400.0),)
    )
    return make_scenes(tmp_path_factory.mktemp("run") / "scenes", config=config)


def write_config(folder: Path, scenes: Simulation, **search: Any) -> Path:
    """Beside the scenes, with relative paths, as people write them."""
    document = {
        "name": "small",
        "aoi": "scenes/aoi.geojson",
        "out": folder.name,
        "search": {
            "catalog": "scenes/catalog.json", "collections": [scenes.collection], "start": "2018-01-01",
            "end": "2021-12-31", **search,
        },
        "embed": {"chip_size_m": 320, "stride_m": 160, "tile_chips": 8},
        "calibrate": {
            "quiet": [["2018-01-01", "2021-07-31"]], "n": 100, "masks": 3, "block_size_m": 640, "allow_few": True,
        },
        "delta": {"reference_dates": [["2018-01-01", "2021-07-31"]], "alert_z": 2},
        "map": {"title": "A small run"},
    }  # fmt: skip
    path = scenes.root.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def done(scenes: Simulation) -> tuple[RunSummary, Path]:
    """A run of everything, and its config. Started elsewhere than where its relative paths point from."""
    config = write_config(scenes.root.parent / "out", scenes)
    return geoelle.run(config), config


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["geoelle", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        assert not stop.value.code, captured.err
        return captured.out

    return run


def test_all_outputs_are_there(done: tuple[RunSummary, Path], scenes: Simulation) -> None:
    summary, _ = done
    assert summary.folder == scenes.root.parent / "out"
    assert {p.name for p in summary.folder.iterdir()} == OUTPUTS
    assert summary.items == "7 seen, 7 kept"
    assert summary.embedding.n_failed == 0
    assert summary.embedding.n_embedded > 100
    assert summary.calibration.fitted
    assert summary.map.self_contained or summary.map.notes
    assert summary.n_alerts == summary.map.n_alerts == len(gpd.read_parquet(summary.folder / "alerts.parquet")) > 0


def test_stores_have_their_attributes(done: tuple[RunSummary, Path]) -> None:
    folder = done[0].folder
    stores = {kind: geoelle.open_store(folder / f"{kind}.zarr") for kind in ("embeddings", "difficulty", "delta")}
    for kind, ds in stores.items():
        assert ds.attrs["geoelle:kind"] == kind
        assert ds.attrs["proj:code"].startswith("EPSG:326")
        for name in ("spatial:transform", "multiscales", "zarr_conventions", "geoelle:grid", "geoelle:encoder"):
            assert name in ds.attrs, (kind, name)
        assert ds.attrs["geoelle:simulated"] is True
        assert "imulated" in ds.attrs["geoelle:attribution"]
        assert list(ds.attrs["geoelle:scenes"]) == list(DATES)
        assert "spatial_ref" in ds.coords
        assert (np.diff(ds["y"]) < 0).all()
        assert str(ds["time"].dtype) == "datetime64[ns]"
    difficulty, delta = stores["difficulty"], stores["delta"]
    assert difficulty.attrs["geoelle:probe_origin"] == "local"
    for name in ("digest", "n_train", "n_blocks", "scores", "trained_on"):
        assert name in difficulty.attrs["geoelle:probe"]
    assert delta.attrs["geoelle:reference"]["kind"] == "median"
    assert delta.attrs["geoelle:p_kind"]
    assert delta.attrs["geoelle:method"]
    with rasterio.open(f'ZARR:"{folder / "difficulty.zarr"}":/difficulty') as raster:
        assert raster.crs.to_epsg() == difficulty.attrs["geoelle:grid"]["epsg"]
        np.testing.assert_array_equal(raster.read(1), difficulty["difficulty"][0])
    check_pairs(gpd.read_parquet(folder / "pairs.parquet"))
    check_alerts(gpd.read_parquet(folder / "alerts.parquet"))
    assert json.loads((folder / "alerts.geojson").read_text())["type"] == "FeatureCollection"


def test_only_quiet_dates_calibrate_and_only_the_last_year_alerts(done: tuple[RunSummary, Path]) -> None:
    folder = done[0].folder
    assert set(gpd.read_parquet(folder / "pairs.parquet")["scene"]) <= set(DATES[:-1])
    assert set(gpd.read_parquet(folder / "alerts.parquet")["date"]) <= set(DATES[4:])


def test_the_map_says_what_it_shows(done: tuple[RunSummary, Path]) -> None:
    page = (done[0].folder / "map.html").read_text()
    assert "SIMULATED" in page
    assert "A small run" in page
    for day in DATES:
        assert day in page
    assert str(done[0].folder) not in page


def test_a_second_run_changes_no_byte(done: tuple[RunSummary, Path], cli: Callable[..., str]) -> None:
    summary, config = done
    before = contents(summary.folder)
    said = cli("run", config)
    assert "nothing to do" in said
    assert contents(summary.folder) == before


def test_workers_in_processes_give_the_same_bytes(done: tuple[RunSummary, Path], scenes: Simulation) -> None:
    """On two processes, in another folder: the same stores to the bit, the machine's threads being the same."""
    folder = scenes.root.parent / "elsewhere"
    geoelle.run(write_config(folder, scenes), workers=2)
    mine, theirs = contents(done[0].folder), contents(folder)
    assert set(mine) == set(theirs)
    differing = {name.split("/")[0] for name in mine if mine[name] != theirs[name]}
    assert not differing


def test_new_dates_add_only_themselves(done: tuple[RunSummary, Path], scenes: Simulation) -> None:
    folder = scenes.root.parent / "growing"
    first = geoelle.run(write_config(folder, scenes, end="2020-12-31"))
    before = geoelle.open_store(folder / "embeddings.zarr").load()
    pairs = (folder / "pairs.parquet").read_bytes()
    second = geoelle.run(write_config(folder, scenes))
    assert second.embedding.n_unchanged == first.embedding.n_jobs
    assert second.embedding.n_done == second.embedding.n_jobs - first.embedding.n_jobs > 0
    after = geoelle.open_store(folder / "embeddings.zarr")
    assert [str(t)[:10] for t in after["time"].values] == list(DATES)
    xr.testing.assert_identical(after.isel(time=slice(0, 6)).drop_attrs().load(), before.drop_attrs())
    # The new date is not quiet, so the probe stays what it was, and so does earlier difficulty.
    assert second.calibration.scores == first.calibration.scores
    assert gpd.read_parquet(folder / "pairs.parquet")["loss"].equals(_losses(pairs, folder))
    whole = geoelle.open_store(done[0].folder / "difficulty.zarr")
    xr.testing.assert_equal(geoelle.open_store(folder / "difficulty.zarr").load(), whole.load())


def _losses(pairs: bytes, folder: Path) -> Any:
    path = folder.with_name("pairs-before.parquet")
    path.write_bytes(pairs)
    return gpd.read_parquet(path)["loss"]


def test_verbs_return_xarray_and_geopandas(done: tuple[RunSummary, Path], tmp_path: Path) -> None:
    folder = done[0].folder
    ds = geoelle.difficulty(folder / "embeddings.zarr", out=tmp_path / "d.zarr", probe=folder / "probe")
    assert isinstance(ds, xr.Dataset)
    assert isinstance(geoelle.delta(tmp_path / "d.zarr", out=tmp_path / "x.zarr"), xr.Dataset)
    pairs = geoelle.calibrate(
        folder / "embeddings.zarr", items=folder / "items.parquet", out=tmp_path / "probe", n=20, masks=2
    )
    assert isinstance(pairs, gpd.GeoDataFrame)
    assert isinstance(geoelle.load_config(done[1]), RunConfig)


def test_without_an_area_all_the_items_cover(scenes: Simulation, tmp_path: Path) -> None:
    config = geoelle.load_config(write_config(tmp_path, scenes, start="2020-08-01", end="2020-08-31"))
    config = config.model_copy(update={"aoi": None, "out": str(tmp_path / "out")})
    with pytest.raises(geoelle.GeoelleError, match="history is too short"):
        geoelle.run(config, base=scenes.root.parent)
    ds = geoelle.open_store(tmp_path / "out" / "difficulty.zarr")
    west, south, east, north = gpd.read_parquet(tmp_path / "out" / "items.parquet").to_crs(32631).total_bounds
    seen = np.isfinite(ds["difficulty"].values[0])
    assert seen.any(axis=0).sum() * 160 == pytest.approx(east - west, abs=800)
    assert seen.any(axis=1).sum() * 160 == pytest.approx(north - south, abs=800)


@pytest.mark.parametrize(("gsd_m", "said"), [(20.0, True), (10.0, False)])
def test_a_run_on_coarser_imagery_says_so(
    gsd_m: float, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dates = tuple(f"2021-0{month}-10" for month in range(3, 9))
    config = SimulationConfig.small(width_px=112, height_px=96, gsd_m=gsd_m, dates=dates)
    scenes = make_scenes(tmp_path / "scenes", config=config)
    path = write_config(tmp_path / "out", scenes)
    document = yaml.safe_load(path.read_text())
    document["calibrate"] = {"n": 20, "masks": 2}
    document["delta"] = {"alert_z": 2}
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setattr("sys.argv", ["geoelle", "run", str(path), "--quiet"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert ("pixels of 20 m and was resampled to the 10 m that the encoder is fed" in capsys.readouterr().err) is said
