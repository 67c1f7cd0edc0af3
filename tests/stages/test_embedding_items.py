"""Which items a tile is made of, options that decide what an encoder sees, and two runs at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene_files import item_of, smooth_noise, write_geotiff

from geoelle import schema
from geoelle.calibration import calibrate
from geoelle.catalog import write_items
from geoelle.embedding import embed
from geoelle.errors import ImageryError
from geoelle.inspecting import inspect
from geoelle.mapping import difficulty
from geoelle.records import ItemRecord
from geoelle.searching import search
from geoelle.simulate import Simulation
from geoelle.store import open_store
from geoelle.store.quantised import read_embedding

OPTIONS: dict[str, Any] = {"chip_size_m": 320, "stride_m": 320, "tile_chips": 4}
LEFT, TOP = 500_480.0, 5_700_480.0
AREA = (3.0085, 51.4455, 3.17, 51.4530)
"""About 11 km by 0.8 km, in one zone."""
KEYS = ("B02", "B03", "B04", "SCL")


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def strip(
    folder: Path, name: str, start_px: int, *, offset: int = 0, extra: int = 0, keys: tuple[str, ...] = KEYS,
    **properties: Any,
) -> ItemRecord:  # fmt: skip
    """An item 5 km wide from some pixel of the area on; `offset` is declared, `extra` is not."""
    rng = np.random.default_rng(sum(name.encode()))
    pixels = smooth_noise(rng, 512, low=400, high=3000)[:160]
    pixels[:48, :48] = rng.integers(80, 140, (48, 48))  # a lake, dark in every band
    assets: dict[str, dict[str, Any]] = {}
    for key in keys:
        values = np.full(pixels.shape, 4, np.uint8) if key == "SCL" else pixels + np.uint16(offset + extra)
        write_geotiff(folder / f"{name}_{key}.tif", values, nodata=0, left=LEFT + start_px * 10, top=TOP)
        assets[key] = {"href": (folder / f"{name}_{key}.tif").as_posix()}
        if key != "SCL":
            assets[key]["raster:bands"] = [{"scale": 1e-4, "offset": -offset * 1e-4}]
    said = {"s2:processing_baseline": "04.00" if offset else "03.01", **properties}
    return item_of(name, assets, size_px=(160, 512), left=LEFT + start_px * 10, top=TOP, properties=said)


def run(items: list[ItemRecord], folder: Path, **options: Any) -> Any:
    return embed(write_items(items, folder / "i.parquet", {}), out=folder / "e.zarr", aoi=AREA, **OPTIONS, **options)


def summary(ds: Any) -> dict[str, Any]:
    return dict(ds.attrs["geoelle:summary"])


# --- items by tile


def test_items_of_other_scaling_are_refused_where_both_reach_a_tile(tmp_path: Path) -> None:
    """One day, one item with the offset of baseline 04.00 and one without."""
    items = [strip(tmp_path, "OLD", 0), strip(tmp_path, "NEW", 500, offset=1000)]
    with pytest.raises(ImageryError, match=r"NEW and OLD of one day .* --exclude"):
        run(items, tmp_path)
    assert not list(tmp_path.glob("*.zarr")), "nothing is written before the refusal"


def test_items_of_other_scaling_that_never_meet_are_each_read_by_their_own(tmp_path: Path) -> None:
    items = [strip(tmp_path, "OLD", 0), strip(tmp_path, "NEW", 950, offset=1000)]
    ds = run(items, tmp_path)
    assert summary(ds)["n_failed"] == 0
    compared = 0
    for item in items:
        (tmp_path / item.id).mkdir()
        alone = run([item], tmp_path / item.id)
        mine = ds["embedding"].sel(y=alone["y"], x=alone["x"])
        there = (alone["status"] == schema.DONE).values
        np.testing.assert_array_equal(mine.values[there], alone["embedding"].values[there])
        compared += int(there.sum())
    assert compared > 20


def test_an_item_that_is_excluded_later_takes_its_tiles_back(tmp_path: Path) -> None:
    west, east = strip(tmp_path, "WEST", 0), strip(tmp_path, "EAST", 640)
    first = run([west, east], tmp_path)
    assert summary(first)["n_failed"] == 0
    n_before = int((first["status"].values == schema.DONE).sum())
    second = run([west], tmp_path)
    said = summary(second)
    assert said["n_done"] > 0, "nothing was undone"
    assert 0 < said["n_unchanged"] <= said["n_jobs"]
    assert 0 < int((second["status"].values == schema.DONE).sum()) < n_before
    (tmp_path / "alone").mkdir()
    alone = run([west], tmp_path / "alone")
    np.testing.assert_array_equal(second["status"].values, alone["status"].values)
    done = alone["status"].values == schema.DONE
    np.testing.assert_array_equal(second["embedding"].values[done], alone["embedding"].values[done])
    unreached = second["status"].values[0][:, -1]
    assert set(unreached.tolist()) <= {schema.NOT_DONE, schema.OUTSIDE_AOI}
    report = inspect(tmp_path / "e.zarr")
    assert report.is_whole, report.jobs
    assert report.jobs["missing"] == 0
    assert summary(run([west], tmp_path))["n_done"] == 0


def test_a_tile_that_failed_and_that_nothing_reaches_any_more_has_no_failure(tmp_path: Path) -> None:
    west, east = strip(tmp_path, "WEST", 0), strip(tmp_path, "EAST", 640)
    Path(east.assets["red"].href).write_bytes(b"no image")
    first = run([west, east], tmp_path)
    assert summary(first)["n_failed"] > 0
    second = run([west], tmp_path)
    assert summary(second)["n_failed"] == 0
    assert not (second["status"].values == schema.FAILED).any()
    report = inspect(tmp_path / "e.zarr")
    assert report.is_whole, report.jobs
    assert summary(run([west], tmp_path))["n_done"] == 0


def test_states_that_the_pixels_deny_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    keys = ("B02", "B03", "B04", "B11", "B12", "SCL")
    good = strip(tmp_path, "GOOD", 0, keys=keys)
    bad = strip(tmp_path, "FORGOTTEN", 300, keys=keys, extra=1000, datetime="2022-06-14T10:36:21Z")
    (tmp_path / "out").mkdir()
    items = write_items([good, bad], tmp_path / "i.parquet", {})
    with pytest.raises(ImageryError, match=r"FORGOTTEN still carry the \+1000.*GOOD.*mixed.*--exclude"):
        embed(items, out=tmp_path / "out" / "e.zarr", aoi=AREA, **OPTIONS)
    assert list((tmp_path / "out").iterdir()) == []


# --- options


@pytest.fixture(scope="module")
def found(scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("found") / "items.parquet"
    search(scenes.aoi, catalog=scenes.catalog, start="2021-03-01", end="2021-06-30", out=path)
    return path


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "geoelle", *map(str, arguments)], capture_output=True, text=True, check=False
    )


CHIPS = ("--chip-size-m", "320", "--stride-m", "320", "--tile-chips", "4", "--quiet")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_numbers_go_through_calibration_and_difficulty(
    dtype: str, found: Path, scenes: Simulation, tmp_path: Path
) -> None:
    store = tmp_path / "e.zarr"
    done = run_cli("embed", found, "--aoi", scenes.aoi, "--out", store, "--dtype", dtype, *CHIPS)
    assert done.returncode == 0, done.stderr
    full = embed(found, out=tmp_path / "full.zarr", aoi=scenes.aoi, **OPTIONS)
    kept = open_store(store, "embeddings")
    done_ = full["status"].values == schema.DONE
    np.testing.assert_array_equal(kept["status"].values == schema.DONE, done_)
    exact, rough = read_embedding(full)[done_], read_embedding(kept)[done_]
    assert np.abs(exact - rough).max() < (0.001 if dtype == "float16" else 0.01) * np.abs(exact).max()
    assert not np.array_equal(exact, rough)
    pairs = calibrate(store, items=found, out=tmp_path / "p", n=40, masks=2, block_size_m=640, allow_few=True)
    assert len(pairs) >= 20
    probe = tmp_path / "p" if pairs.attrs["geoelle:calibration"]["fitted"] else None
    ds = difficulty(store, out=tmp_path / "d.zarr", probe=probe)
    assert np.isfinite(ds["difficulty"].values[done_]).all()  # type: ignore[union-attr,index]
    assert inspect(store).dtype == dtype


def test_masks_and_limits_through_the_command_line(found: Path, scenes: Simulation, tmp_path: Path) -> None:
    flat = run_cli(
        "embed", found, "--aoi", scenes.aoi, "--out", tmp_path / "flat.zarr", "--min-contrast", "0.02",
        "--max-cloud-fraction", "0.2", "--cloud-mask", "none", *CHIPS,
    )  # fmt: skip
    assert flat.returncode == 0, flat.stderr
    assert "as flat" in flat.stdout
    assert "its clouds were not masked" in flat.stderr
    ds = open_store(tmp_path / "flat.zarr", "embeddings")
    skipped = ds["status"].values == schema.SKIPPED_FLAT
    assert skipped.any()
    assert (ds["contrast"].values[skipped] < 0.02).all()
    assert (ds["contrast"].values[ds["status"].values == schema.DONE] >= 0.02).all()
    assert ds.attrs["geoelle:config"]["max_cloud_fraction"] == 0.2
    assert set(ds.attrs["geoelle:masks"].values()) == {"none"}
    other = run_cli(
        "embed", found, "--aoi", scenes.aoi, "--out", tmp_path / "flat.zarr", "--min-contrast", "0.03",
        "--max-cloud-fraction", "0.2", "--cloud-mask", "none", *CHIPS,
    )  # fmt: skip
    assert other.returncode == 1
    assert "another config: min_contrast 0.02 (this run: 0.03)" in other.stderr


def test_a_source_without_a_quality_layer_says_heuristic(tmp_path: Path) -> None:
    keys = ("B02", "B03", "B04", "B08", "B11", "B12")
    ds = run([strip(tmp_path, "BARE", 0, keys=keys)], tmp_path)
    assert summary(ds)["mask_sources"] == ("heuristic",)
    assert set(ds.attrs["geoelle:masks"].values()) == {"heuristic"}
    (tmp_path / "both").mkdir()
    mixed = [strip(tmp_path, "BARE", 0, keys=keys), strip(tmp_path, "WITH", 0, datetime="2022-06-14T10:36:21Z")]
    ds = run(mixed, tmp_path / "both")
    assert summary(ds)["mask_sources"] == ("heuristic", "scl")
    assert ds.attrs["geoelle:masks"] == {"2022-06-04": "heuristic", "2022-06-14": "scl"}


# --- two runs

SLOW = """
import sys, time
from geoelle.embedding import embed
def progress(done, total):
    print(done, flush=True)
    if done == 2:
        time.sleep(120)
embed(sys.argv[1], out=sys.argv[2], aoi=sys.argv[3], chip_size_m=320, stride_m=320, tile_chips=4, progress=progress)
"""


def test_a_second_run_is_refused_and_goes_on_once_the_first_is_dead(
    found: Path, scenes: Simulation, tmp_path: Path
) -> None:
    store = tmp_path / "e.zarr"
    command = [sys.executable, "-W", "ignore", "-c", SLOW, str(found), str(store), str(scenes.aoi)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert any(line.strip() == "2" for line in first.stdout)
            before = time.monotonic()
            second = run_cli("embed", found, "--aoi", scenes.aoi, "--out", store, *CHIPS)
            assert second.returncode == 1
            assert f"is being written by process {first.pid} on" in second.stderr
            assert "Traceback" not in second.stderr
            assert time.monotonic() - before < 60
            assert run_cli("inspect", store).returncode == 0, "readers take no lock"
        finally:
            os.kill(first.pid, signal.SIGKILL)
    third = run_cli("embed", found, "--aoi", scenes.aoi, "--out", store, *CHIPS)
    assert third.returncode == 0, third.stderr
    assert "were there already" in third.stdout
    embed(found, out=tmp_path / "once.zarr", aoi=scenes.aoi, **OPTIONS)
    assert tree(store) == tree(tmp_path / "once.zarr")
