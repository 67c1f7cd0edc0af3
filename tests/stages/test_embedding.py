"""The embedding stage: right values, done once, resumed to the byte, and failures that stay where they happen."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import psutil
import pytest
import shapely
import xarray as xr
import zarr
from distributed import LocalCluster
from pyproj import Transformer

from geoelle import running, schema
from geoelle.catalog import group_scenes, items_frame, records_from_frame, write_items
from geoelle.chips import cut_chips
from geoelle.embedding import embed
from geoelle.encoders import get_card, load_encoder
from geoelle.errors import (
    AOIError,
    ConfigError,
    EncoderInputError,
    NoItemsError,
    NotFoundError,
    StoreError,
    UnknownEncoderError,
)
from geoelle.grid import ChipGrid
from geoelle.imagery import read_tile
from geoelle.records import ItemRecord
from geoelle.searching import search
from geoelle.simulate import Simulation
from geoelle.store import open_store
from geoelle.store.layout import extent_of

OPTIONS: dict[str, Any] = {"chip_size_m": 320, "stride_m": 320, "tile_chips": 4}


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def times(path: Path) -> dict[str, int]:
    return {p.as_posix(): p.stat().st_mtime_ns for p in path.rglob("*")}


def summary(ds: xr.Dataset) -> dict[str, Any]:
    return dict(ds.attrs["geoelle:summary"])


def found(scenes: Simulation, start: str = "2021-01-01", end: str = "2021-12-31") -> gpd.GeoDataFrame:
    return search(scenes.aoi, catalog=scenes.catalog, collections=[], start=start, end=end)


def lonlat_box(scenes: Simulation, left: float, bottom: float, right: float, top: float) -> Any:
    """A box given in metres from the south-west corner of the area."""
    area = gpd.read_file(scenes.aoi).to_crs(32631).total_bounds
    to_lonlat = Transformer.from_crs(32631, 4326, always_xy=True).transform
    west, south = to_lonlat(area[0] + left, area[1] + bottom)
    east, north = to_lonlat(area[0] + right, area[1] + top)
    return shapely.box(west, south, east, north)


@pytest.fixture(scope="module")
def items(scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(records_from_frame(found(scenes)), tmp_path_factory.mktemp("items") / "items.parquet", {})


@pytest.fixture(scope="module")
def whole(items: Path, scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All dates embedded in one go. Not to be written to."""
    path = tmp_path_factory.mktemp("whole") / "e.zarr"
    embed(items, out=path, aoi=scenes.aoi, **OPTIONS)
    return path


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "e.zarr"))


# --- values


def test_values_are_those_of_chips_embedded_by_hand(whole: Path, items: Path) -> None:
    ds = open_store(whole, "embeddings")
    extent = extent_of(ds.attrs)
    card, encoder = get_card("compact-rgb"), load_encoder("compact-rgb", threads=1)
    frame = gpd.read_parquet(items)
    assert len(frame) == ds.sizes["time"] == 6
    compared = 0
    for scene in group_scenes(_records(items))[::3]:
        for tile in list(extent.tiles())[::2]:
            pixels = read_tile(scene, extent.tile_geobox(tile, 10), card.bands)
            chips = cut_chips(
                pixels, scene, extent, tile, np.ones((4, 4), bool), bands=card.bands, units=card.units, gsd_m=10
            )
            part = ds.sel(time=scene.day).isel(y=tile.y, x=tile.x)
            asked = part["status"].values[chips.index] != schema.OUTSIDE_AOI
            rows, columns = (axis[asked] for axis in chips.index)
            assert (part["status"].values[rows, columns] == schema.DONE).all()
            for k, row, column in zip(np.flatnonzero(asked), rows, columns, strict=True):
                (by_hand,) = encoder.embed(chips.batch.select(slice(k, k + 1)))
                np.testing.assert_array_equal(part["embedding"].values[row, column], by_hand)
                assert part["contrast"].values[row, column] == chips.contrast[row, column]
            compared += len(rows)
    assert compared > 20


def _records(items: Path) -> list[ItemRecord]:
    from geoelle.catalog import read_items

    return read_items(items)[0]


def test_the_store_says_what_it_is(whole: Path, scenes: Simulation) -> None:
    ds = open_store(whole)
    assert ds.attrs["geoelle:simulated"] is True
    assert "Simulated" in ds.attrs["geoelle:attribution"]
    assert [id_ for ids in ds.attrs["geoelle:scenes"].values() for id_ in ids] == list(scenes.item_ids)
    assert ds.attrs["geoelle:encoder"]["weights_sha256"] == get_card("compact-rgb").weights_sha256
    done = ds["status"] == schema.DONE
    assert np.isfinite(ds["embedding"].values[done.values]).all()
    assert np.isnan(ds["embedding"].values[~done.values]).all()
    assert done.values.any(axis=0).sum() > 20


def test_a_chips_embedding_depends_on_neither_tiling_nor_aoi(
    whole: Path, items: Path, scenes: Simulation, tmp_path: Path
) -> None:
    small = lonlat_box(scenes, 500, 500, 1500, 1400)
    reference = open_store(whole)
    first = _records(items)[:1]
    other = embed(items_frame(first), out=tmp_path / "o.zarr", aoi=small, **OPTIONS | {"tile_chips": 3})
    done = other["status"].values[0] == schema.DONE
    assert done.sum() >= 9
    same = reference.sel(time=other["time"].values[0], y=other["y"], x=other["x"])
    np.testing.assert_array_equal(other["embedding"].values[0][done], same["embedding"].values[done])


@pytest.mark.shared
def test_a_warped_chips_embedding_depends_on_neither_tiling_nor_aoi(shared_data: Path, tmp_path: Path) -> None:
    frame = search(
        (2.80, 42.335, 2.83, 42.36), catalog=shared_data / "stac", collections=["boadella-s2-l2a"],
        start="2020-01-28", end="2020-01-28",
    )  # fmt: skip
    stores = [
        embed(frame, out=tmp_path / f"{n}.zarr", aoi=aoi, **OPTIONS | {"tile_chips": n})
        for n, aoi in ((5, (2.80, 42.335, 2.83, 42.36)), (3, (2.805, 42.34, 2.825, 42.355)))
    ]
    small = stores[1].isel(time=0)
    done = small["status"].values == schema.DONE
    assert done.sum() >= 9
    same = stores[0].isel(time=0).reindex(y=small["y"], x=small["x"])
    np.testing.assert_array_equal(small["embedding"].values[done], same["embedding"].values[done])
    assert stores[0].attrs["geoelle:attribution"] == "Contains modified Copernicus Sentinel data [2020]"


def test_an_aoi_smaller_than_a_chip_gets_its_chip(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    ds = embed(
        items_frame(_records(items)[:1]), out=tmp_path / "e.zarr", aoi=lonlat_box(scenes, 900, 900, 910, 910),
        **OPTIONS,
    )  # fmt: skip
    assert (ds["status"].values == schema.DONE).sum() in (1, 2, 4)
    assert summary(ds)["n_jobs"] == 1


# --- once


def test_an_unchanged_rerun_does_nothing_and_says_so(items: Path, scenes: Simulation, copied: Path) -> None:
    before = times(copied), tree(copied)
    said = summary(embed(items, out=copied, aoi=scenes.aoi, **OPTIONS))
    assert (times(copied), tree(copied)) == before
    assert said["n_jobs"] == said["n_unchanged"] > 0
    assert said["n_done"] == said["n_failed"] == said["n_embedded"] == 0


def test_new_dates_add_only_their_jobs(items: Path, scenes: Simulation, whole: Path, tmp_path: Path) -> None:
    records, path = _records(items), tmp_path / "e.zarr"
    some = [records[k] for k in (1, 4)]
    first = summary(embed(items_frame(some), out=path, aoi=scenes.aoi, **OPTIONS))
    assert first["n_done"] == first["n_jobs"]
    before = tree(path)
    ds = embed(items, out=path, aoi=scenes.aoi, **OPTIONS)
    said = summary(ds)
    assert (said["n_unchanged"], said["n_done"]) == (first["n_jobs"], 2 * first["n_jobs"])
    chunks = {k: v for k, v in before.items() if k.startswith("embedding/c/")}
    assert chunks.items() <= tree(path).items()
    reference = open_store(whole)
    np.testing.assert_array_equal(ds["time"].values, reference["time"].values)
    for name in reference.data_vars:
        np.testing.assert_array_equal(ds[name].values, reference[name].values)


def test_what_the_store_says_covers_earlier_runs_too(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    records, path = _records(items), tmp_path / "e.zarr"
    raw = json.loads(json.dumps(records[1].raw))
    del raw["properties"]["geoelle:simulated"]
    real = replace(records[1], raw=raw)
    embed(items_frame(records[:1]), out=path, aoi=scenes.aoi, **OPTIONS)
    ds = embed(items_frame([real]), out=path, aoi=scenes.aoi, **OPTIONS)
    assert ds.attrs["geoelle:simulated"] is True
    assert list(ds.attrs["geoelle:scenes"]) == ["2021-03-10", "2021-04-10"]


def test_a_reprocessed_item_redoes_its_date_alone(items: Path, scenes: Simulation, copied: Path) -> None:
    records = _records(items)
    raw = json.loads(json.dumps(records[2].raw))
    raw["properties"]["s2:processing_baseline"] = "03.02"
    records[2] = replace(records[2], raw=raw, processing_baseline="03.02")
    said = summary(embed(items_frame(records), out=copied, aoi=scenes.aoi, **OPTIONS))
    assert said["n_done"] == said["n_jobs"] // 6
    assert said["n_unchanged"] == said["n_jobs"] - said["n_done"]


def test_a_late_granule_redoes_its_date_alone(items: Path, scenes: Simulation, copied: Path) -> None:
    records = _records(items)
    late = replace(records[3], id="LATE", raw={**records[3].raw, "id": "LATE"})
    ds = embed(items_frame([*records, late]), out=copied, aoi=scenes.aoi, **OPTIONS)
    assert summary(ds)["n_done"] == summary(ds)["n_jobs"] // 6
    assert ds.attrs["geoelle:scenes"]["2021-06-10"] == ["LATE", records[3].id]


# --- resumed

CHILD = """
import sys
from geoelle.embedding import embed
def progress(done, total):
    print(done, flush=True)
embed(sys.argv[1], out=sys.argv[2], aoi=sys.argv[3], chip_size_m=320, stride_m=320, tile_chips=4, progress=progress)
"""


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 203))])
def test_a_run_that_was_killed_resumes_to_the_same_bytes(
    items: Path, scenes: Simulation, whole: Path, tmp_path: Path, seed: int
) -> None:
    path, rng = tmp_path / "e.zarr", random.Random(seed)
    killed_after = []
    for _ in range(2 if seed == 1 else 1):
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(items), str(path), str(scenes.aoi)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            target = rng.randint(1, 14)
            for line in child.stdout:
                if int(line) >= target:
                    time.sleep(rng.random() * 0.02)
                    child.kill()
                    break
            child.stdout.read()
        killed_after.append(child.returncode)
    assert set(killed_after) == {-9}, "the runs ended before they could be killed"
    said = summary(embed(items, out=path, aoi=scenes.aoi, **OPTIONS))
    assert 0 < said["n_unchanged"] < said["n_jobs"]
    assert tree(path) == tree(whole)


def test_two_workers_write_the_same_bytes(items: Path, scenes: Simulation, whole: Path, tmp_path: Path) -> None:
    embed(items, out=tmp_path / "e.zarr", aoi=scenes.aoi, workers=2, **OPTIONS)
    assert tree(tmp_path / "e.zarr") == tree(whole)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster.scheduler_address


def test_a_scheduler_that_is_running_writes_the_same_bytes(
    items: Path, scenes: Simulation, whole: Path, tmp_path: Path, scheduler: str
) -> None:
    for name in ("a.zarr", "b.zarr"):  # twice: its jobs are not taken for those of the first
        said = summary(embed(items, out=tmp_path / name, aoi=scenes.aoi, scheduler=scheduler, **OPTIONS))
        assert said["n_done"] == said["n_jobs"]
        assert tree(tmp_path / name) == tree(whole)


def _double(number: int) -> int:
    return 2 * number


def test_two_runs_on_one_scheduler_do_not_take_each_others_jobs(scheduler: str) -> None:
    with running.cluster(1, scheduler) as one, running.cluster(1, scheduler) as other:
        first = running.run_jobs(one, _double, range(20), label="embed")
        second = running.run_jobs(other, _double, range(100, 120), label="embed")
        results = list(zip(first, second, strict=True))
    assert sorted(r for r, _ in results) == list(range(0, 40, 2))
    assert sorted(r for _, r in results) == list(range(200, 240, 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_local_cluster_listens_on_loopback_alone(workers: int) -> None:
    with running.cluster(workers, None):
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {c.laddr.ip for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening <= {"127.0.0.1"}


def test_a_scheduler_that_does_not_answer(
    items: Path, scenes: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CONNECT_TIMEOUT", "0.3s")
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(ConfigError, match="does not answer"):
            embed(items, out=tmp_path / "e.zarr", aoi=scenes.aoi, scheduler=address, **OPTIONS)
    with pytest.raises(ConfigError, match="workers is 0"):
        embed(items, out=tmp_path / "e.zarr", aoi=scenes.aoi, workers=0, **OPTIONS)


# --- failing


def test_a_truncated_file_fails_its_jobs_alone_until_it_is_mended(scenes: Simulation, tmp_path: Path) -> None:
    shutil.copytree(scenes.root, tmp_path / "s")
    catalog = tmp_path / "s" / scenes.catalog.relative_to(scenes.root)
    frame = search(scenes.aoi, catalog=catalog, collections=[], start="2021-03-01", end="2021-05-30")
    records = records_from_frame(frame)
    whole = tmp_path / "whole.zarr"
    embed(frame, out=whole, aoi=scenes.aoi, **OPTIONS)
    broken = Path(records[1].assets["red"].href)
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    path = tmp_path / "e.zarr"
    ds = embed(frame, out=path, aoi=scenes.aoi, **OPTIONS)
    said = summary(ds)
    per_date = said["n_jobs"] // 3
    assert 0 < said["n_failed"] <= per_date
    assert said["n_done"] == said["n_jobs"] - said["n_failed"]
    assert len(said["failures"]) == said["n_failed"]
    for failure in said["failures"]:
        assert failure.startswith("2021-04-10 tile ")
        assert records[1].id in failure
        assert "B04" in failure
        assert broken.name in failure
    failed = (ds["status"].values == schema.FAILED).any(axis=(1, 2))
    assert failed.tolist() == [False, True, False]
    again = summary(embed(frame, out=path, aoi=scenes.aoi, **OPTIONS))
    assert again["n_failed"] == said["n_failed"], "still broken, tried again"
    broken.write_bytes(content)
    mended = summary(embed(frame, out=path, aoi=scenes.aoi, **OPTIONS))
    assert (mended["n_done"], mended["n_failed"]) == (said["n_failed"], 0)
    assert mended["n_unchanged"] == said["n_done"]
    assert tree(path) == tree(whole)
    log = [json.loads(line) for line in (tmp_path / "e.log.jsonl").read_text().splitlines()]
    assert [entry["n_failed"] for entry in log] == [said["n_failed"], said["n_failed"], 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stride_m": 160}, "another grid: stride_m 320"),
        ({"tile_chips": 8}, "another grid: tile_chips 4"),
        ({"chip_size_m": 640}, "another grid: chip_size_m 320"),
        ({"max_invalid_fraction": 0.2}, "another config: max_invalid_fraction 0.1"),
    ],
)
def test_a_store_of_other_options_is_refused_and_left_alone(
    items: Path, scenes: Simulation, copied: Path, changes: dict[str, Any], said: str
) -> None:
    before = times(copied)
    with pytest.raises(StoreError, match=said):
        embed(items, out=copied, aoi=scenes.aoi, **OPTIONS | changes)
    assert times(copied) == before


def test_a_store_of_another_encoder_is_refused_and_left_alone(items: Path, scenes: Simulation, copied: Path) -> None:
    root = zarr.open_group(copied, mode="r+")
    root.attrs["geoelle:encoder"] = {**dict(root.attrs["geoelle:encoder"]), "weights_sha256": "0" * 64}  # type: ignore[arg-type]
    before = times(copied)
    with pytest.raises(StoreError, match="another encoder: weights_sha256"):
        embed(items, out=copied, aoi=scenes.aoi, **OPTIONS)
    assert times(copied) == before


def test_bad_input_is_refused_before_anything_is_written(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "e.zarr"
    bad: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (EncoderInputError, r"takes 640 m \(64 px\) or 320 m", {"chip_size_m": 960}),
        (UnknownEncoderError, "compact-rgb", {"encoder": "compact-rbg"}),
        (NoItemsError, "touches the AOI", {"aoi": (10.0, 10.0, 10.1, 10.1)}),
        (AOIError, "no AOI file", {"aoi": tmp_path / "nothing.geojson"}),
        (ConfigError, "max_invalid_fraction", {"max_invalid_fraction": 1.0}),
        (ConfigError, "max_invalid_fraction", {"max_invalid_fraction": float("nan")}),
        (ValueError, "tile_chips is 0", {"tile_chips": 0}),
        (ValueError, "stride_m", {"stride_m": 640}),
        (ValueError, "whole number of pixels", {"stride_m": 155}),
    ]
    for kind, said, changes in bad:
        with pytest.raises(kind, match=said):
            embed(items, out=out, **{"aoi": scenes.aoi, **OPTIONS, **changes})
    with pytest.raises(NotFoundError, match="geoelle search"):
        embed(tmp_path / "nothing.parquet", out=out, aoi=scenes.aoi, **OPTIONS)
    assert not out.parent.exists()


def test_without_an_aoi_all_that_the_items_cover_is_done(items: Path, tmp_path: Path) -> None:
    first = _records(items)[:1]
    ds = embed(items_frame(first), out=tmp_path / "e.zarr", **OPTIONS)
    extent = extent_of(ds.attrs)
    assert extent.grid == ChipGrid(32631, 320, 320)
    assert (ds["status"].values == schema.DONE).sum() >= 30
    file = write_items(first, tmp_path / "i.parquet", {})
    assert summary(embed(file, out=tmp_path / "e.zarr", **OPTIONS))["n_done"] == 0


def test_a_scheduler_without_workers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_WORKERS_TIMEOUT_S", 0.5)
    with (
        LocalCluster(
            n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0"
        ) as empty,
        pytest.raises(ConfigError, match="has no worker"),
        running.cluster(1, empty.scheduler_address),
    ):
        pass


def test_a_smaller_area_does_not_take_chips_from_a_store(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    """A job writes its whole tile, so fewer chips of it would lose the others."""
    store = tmp_path / "e.zarr"
    embed(items, out=store, aoi=scenes.aoi, **OPTIONS)
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    west, south, east, north = gpd.read_file(scenes.aoi).total_bounds
    part = (west, south, (west + east) / 2, (south + north) / 2)
    with pytest.raises(StoreError, match=r"another (area|grid)"):
        embed(items, out=store, aoi=part, **OPTIONS)
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before


def test_coarser_imagery_is_recorded(shared_data: Path, tmp_path: Path) -> None:
    found = search(
        (-118.49, 34.32, -118.47, 34.34), catalog=shared_data / "stac", start="2024-01-01", end="2025-12-31",
        collections=["calfire-s2-before-after-shared"],
    )  # fmt: skip
    ds = embed(found, out=tmp_path / "e.zarr", chip_size_m=640, stride_m=640)
    assert ds.attrs["geoelle:native_gsd_m"] == 20
