"""Stores on disk: what other tools see in them, dates that are added, and writes that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  for .rio
import shapely
import xarray as xr
import zarr
from geozarr_toolkit import validate_multiscales, validate_proj, validate_spatial

from geoelle.errors import AlreadyExistsError, NotFoundError, StoreError
from geoelle.grid import ChipGrid, GridExtent
from geoelle.schema import ENCODER_ATTRS, FRACTIONS
from geoelle.store import open_store
from geoelle.store.atomic import replacing
from geoelle.store.embeddings import prepare, stored_digests, write_job
from geoelle.store.layout import Variable, extent_of, grid_attrs, write_store
from geoelle.store.tables import read_table, write_geojson, write_table

EXTENT = GridExtent(ChipGrid(32631, 640, 320), 4, range(4_450, 4_452), range(390, 393))
DAYS = [np.datetime64(day, "ns") for day in ("2022-06-04", "2022-06-14", "2023-01-01")]
ATTRS: dict[str, Any] = {
    "geoelle:grid": grid_attrs(EXTENT), "geoelle:encoder": {"name": "e"}, "geoelle:kind": "difficulty",
    "geoelle:probe_digest": "d", "geoelle:probe_origin": "shipped",
}  # fmt: skip
VARIABLES = [
    Variable("difficulty", "float32", float("nan"), {}, {"long_name": "difficulty", "units": "1"}),
    Variable("difficulty_se", "float32", float("nan"), {}, {}),
    Variable("support", "uint8", 255, {}, {"flag_values": [0, 1, 255]}),
]


def maps(seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    for k in range(len(DAYS)):
        values = rng.random(EXTENT.shape).astype(np.float32)
        values[:4, :4] = np.nan  # a whole chunk without data has no file
        values[-1, -1] = np.nan
        yield {
            "difficulty": values, "difficulty_se": values / 10,
            "support": np.where(np.isnan(values), 255, k % 2).astype(np.uint8),
        }  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "difficulty.zarr"
    write_store(path, EXTENT, DAYS, VARIABLES, maps(), ATTRS)
    return path


def tree(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        p.relative_to(path).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file()
    }


# --- as others see it


def test_gdal_opens_it_as_it_is(store: Path) -> None:
    expected = list(maps())
    with rasterio.open(f'ZARR:"{store}":/difficulty') as f:
        assert f.crs.to_epsg() == 32631
        assert f.transform.almost_equals(EXTENT.transform, 1e-6)
        assert (f.count, f.shape) == (len(DAYS), EXTENT.shape)
        assert f.nodata is not None
        assert np.isnan(f.nodata)
        for band, data in enumerate(expected, start=1):
            np.testing.assert_array_equal(f.read(band), data["difficulty"])
    with rasterio.open(f'ZARR:"{store}":/support') as f:
        assert f.dtypes[0] == "uint8"
        np.testing.assert_array_equal(f.read(2), expected[1]["support"])


def test_xarray_gets_back_types_values_and_place(store: Path) -> None:
    ds = open_store(store, "difficulty")
    assert ds["time"].dtype == "datetime64[ns]"
    np.testing.assert_array_equal(ds["time"].values, DAYS)
    assert {name: str(v.dtype) for name, v in ds.data_vars.items()} == {
        "difficulty": "float32", "difficulty_se": "float32", "support": "uint8",
    }  # fmt: skip
    assert ds["difficulty"].dims == ("time", "y", "x")
    np.testing.assert_array_equal(ds["support"].values, np.stack([m["support"] for m in maps()]))
    np.testing.assert_array_equal(ds["difficulty"].values, np.stack([m["difficulty"] for m in maps()]))
    np.testing.assert_array_equal(ds["y"].values, EXTENT.y)
    assert "spatial_ref" in ds.coords
    assert ds["difficulty"].rio.crs.to_epsg() == 32631
    assert ds["difficulty"].rio.transform().almost_equals(EXTENT.transform, 1e-6)
    assert extent_of(ds.attrs) == EXTENT


def test_a_plain_xarray_user_gets_the_same(store: Path) -> None:
    with xr.open_zarr(store, consolidated=False, decode_coords="all") as ds:
        assert ds["support"].dtype == "uint8"
        assert ds["difficulty"].encoding["grid_mapping"] == "spatial_ref"
        np.testing.assert_array_equal(ds["time"].values.astype("datetime64[ns]"), DAYS)


def test_the_geozarr_attributes_are_valid(store: Path) -> None:
    attrs = dict(zarr.open_group(store, mode="r").attrs)
    for validate in (validate_proj, validate_spatial, validate_multiscales):
        valid, errors = validate(attrs)
        assert valid, errors
    assert attrs["proj:code"] == "EPSG:32631"
    assert attrs["spatial:shape"] == list(EXTENT.shape)
    assert "NaN" not in (store / "zarr.json").read_text().replace('"NaN"', "")


def test_dates_come_out_sorted(tmp_path: Path) -> None:
    order = [2, 0, 1]
    path = tmp_path / "d.zarr"
    write_store(path, EXTENT, [DAYS[k] for k in order], VARIABLES, (list(maps())[k] for k in order), ATTRS)
    ds = open_store(path)
    np.testing.assert_array_equal(ds["time"].values, DAYS)
    np.testing.assert_array_equal(ds["difficulty"].values, np.stack([m["difficulty"] for m in maps()]))


# --- the embedding store


ENCODER = dict.fromkeys(ENCODER_ATTRS, 0) | {"name": "e"}


def embedding_attrs(**changes: Any) -> dict[str, Any]:
    return {
        "geoelle:kind": "embeddings", "geoelle:grid": grid_attrs(EXTENT), "geoelle:encoder": ENCODER,
        "geoelle:config": {"gsd_m": 10}, "geoelle:area": {"chips": 9, "digest": "a"},
        "geoelle:aoi": {}, "geoelle:simulated": True, "geoelle:attribution": "",
        "geoelle:scenes": {}, "geoelle:software": {}, **changes,
    }  # fmt: skip


def prepared(path: Path, days: list[np.datetime64], **changes: Any) -> dict[np.datetime64, int]:
    return prepare(path, EXTENT, days, n_features=5, units="1", attrs=embedding_attrs(**changes))


def fill(path: Path, time_index: int, value: float) -> None:
    for n, tile in enumerate(EXTENT.tiles()):
        where = divmod(n, len(EXTENT.tile_columns))
        data = {
            "embedding": np.full((4, 4, 5), value, np.float32), "valid_fraction": np.ones((4, 4), np.float32),
            **{f: np.zeros((4, 4), np.float32) for f in FRACTIONS[1:]}, "contrast": np.ones((4, 4), np.float32),
            "status": np.ones((4, 4), np.uint8),
        }  # fmt: skip
        write_job(path, time_index, where, tile, data, "ab" * 32)


@pytest.mark.parametrize("tile_chips", [1, 4, 7, 8, 10, 12, 16, 24])
def test_there_is_one_shard_for_each_job_at_any_tile_size(tmp_path: Path, tile_chips: int) -> None:
    extent = GridExtent(EXTENT.grid, tile_chips, range(0, 2), range(0, 3))
    path = tmp_path / "e.zarr"
    attrs = embedding_attrs(**{"geoelle:grid": grid_attrs(extent)})
    prepare(path, extent, DAYS[:1], n_features=5, units="1", attrs=attrs)
    array: Any = zarr.open_group(path, mode="r")["embedding"]
    assert array.shards == (1, tile_chips, tile_chips, 5)
    tile = list(extent.tiles())[4]
    data = {"embedding": np.full((tile_chips, tile_chips, 5), 3, np.float32)}
    write_job(path, 0, (1, 1), tile, data, "cd" * 32)
    shards = [p.relative_to(path).as_posix() for p in (path / "embedding").rglob("*") if p.name != "zarr.json"]
    assert [s for s in shards if (path / s).is_file()] == ["embedding/c/0/1/1/0"]
    assert (open_store(path)["embedding"].values[0, tile.y, tile.x] == 3).all()
    assert stored_digests(path)[0, 1, 1].tobytes().hex() == "cd" * 32


def test_added_dates_leave_the_others_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    assert prepared(path, [DAYS[1]]) == {DAYS[1]: 0}
    fill(path, 0, 1)
    before = tree(path)
    assert prepared(path, [DAYS[2], DAYS[0], DAYS[1]]) == {DAYS[1]: 0, DAYS[0]: 1, DAYS[2]: 2}
    after = tree(path)
    assert {k: v for k, v in after.items() if "/c/" in k and not k.startswith("time/")} == {
        k: v for k, v in before.items() if "/c/" in k and not k.startswith("time/")
    }
    fill(path, 1, 0)
    fill(path, 2, 2)
    ds = open_store(path, "embeddings")
    np.testing.assert_array_equal(ds["time"].values, DAYS)
    np.testing.assert_array_equal(ds["embedding"].values[:, 0, 0, 0], [0, 1, 2])


def test_preparing_what_is_there_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    prepared(path, DAYS)
    fill(path, 0, 1)
    before = tree(path)
    prepared(path, DAYS)
    assert tree(path) == before


@pytest.mark.parametrize("stage", ["one array grown", "all arrays grown", "time grown but empty"])
def test_a_kill_while_dates_are_added_is_mended(tmp_path: Path, stage: str) -> None:
    path, whole = tmp_path / "e.zarr", tmp_path / "whole.zarr"
    for p in (path, whole):
        prepared(p, DAYS[:1])
        fill(p, 0, 1)
    root = zarr.open_group(path, mode="r+")
    names = ["contrast"] if stage == "one array grown" else [n for n, _ in root.arrays() if n not in "yx"]
    for name in names:
        array: Any = root[name]
        if array.ndim and (name != "time" or stage == "time grown but empty"):
            array.resize((3, *array.shape[1:]))
    (path / "embedding" / "c" / "0.abc.partial").write_bytes(b"half")
    if stage != "time grown but empty":
        with pytest.raises(StoreError, match="run it again"):
            open_store(path)
    for p in (path, whole):
        assert prepared(p, DAYS) == {day: k for k, day in enumerate(DAYS)}
        fill(p, 2, 7)
    assert {k: v[0] for k, v in tree(path).items()} == {k: v[0] for k, v in tree(whole).items()}
    np.testing.assert_array_equal(open_store(path)["time"].values, DAYS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"geoelle:config": {"gsd_m": 20}}, "another config: gsd_m 10"),
        ({"geoelle:area": {"chips": 4, "digest": "b"}}, "another area: chips 9 .this run: 4."),
        ({"geoelle:encoder": {**ENCODER, "name": "f"}}, "another encoder: name 'e'"),
        ({"geoelle:grid": {**grid_attrs(EXTENT), "stride_m": 640}}, "another grid: stride_m 320"),
    ],
)
def test_a_store_of_something_else_is_refused_and_left_alone(tmp_path: Path, changes: Any, said: str) -> None:
    path = tmp_path / "e.zarr"
    prepared(path, DAYS[:1])
    (path / "x.partial").write_bytes(b"")
    before = tree(path)
    with pytest.raises(StoreError, match=said):
        prepared(path, DAYS, **changes)
    assert tree(path) == before


def test_a_store_of_another_kind_is_refused_and_left_alone(store: Path) -> None:
    before = tree(store)
    with pytest.raises(StoreError, match="kind 'difficulty'"):
        prepared(store, DAYS)
    with pytest.raises(StoreError, match="kind 'difficulty'"):
        open_store(store, "embeddings")
    assert tree(store) == before


@pytest.mark.parametrize("what", ["file", "empty folder", "zarr 2", "junk", "foreign"])
def test_what_is_no_store_is_one_sentence(tmp_path: Path, what: str) -> None:
    path = tmp_path / "s"
    if what == "file":
        path.write_text("x")
    elif what == "zarr 2":
        zarr.create_group(path, zarr_format=2)
    elif what == "foreign":
        zarr.create_group(path, zarr_format=3)
    else:
        path.mkdir()
        if what == "junk":
            (path / "zarr.json").write_text("{")
    for ask in (lambda: open_store(path), lambda: prepared(path, DAYS)):
        with pytest.raises(StoreError) as error:
            ask()
        assert str(path) in str(error.value)


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no store"):
        open_store(tmp_path / "nothing")


# --- writes that fail


def test_a_failed_write_leaves_the_old_store_whole(store: Path) -> None:
    before = tree(store)

    def failing() -> Iterator[dict[str, Any]]:
        yield from list(maps(1))[:2]
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_store(store, EXTENT, DAYS, VARIABLES, failing(), ATTRS)
    assert tree(store) == before
    assert os.listdir(store.parent) == [store.name]


def test_a_new_store_takes_the_place_of_the_old_one(store: Path) -> None:
    write_store(store, EXTENT, DAYS[:1], VARIABLES, list(maps(1))[:1], ATTRS)
    assert len(open_store(store)["time"]) == 1
    assert os.listdir(store.parent) == [store.name]


@pytest.fixture
def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


def test_what_a_killed_process_left_is_swept(tmp_path: Path, dead_pid: int) -> None:
    target = tmp_path / "a[1].zarr"
    left = [f".a[1].zarr.{dead_pid}.partial", f".a[1].zarr.{dead_pid}.old.partial"]
    alive = [f".a[1].zarr.{os.getppid()}.partial", ".b.zarr.1.partial", ".a[1].zarr.notes.partial"]
    target.mkdir()
    for name in left + alive:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    with replacing(target) as partial:
        partial.mkdir()
        (partial / "x").write_text("new")
    assert (target / "x").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == sorted([*alive, target.name])


def test_a_store_that_had_stepped_aside_when_the_process_died_comes_back(tmp_path: Path, dead_pid: int) -> None:
    target = tmp_path / "a.zarr"
    aside = tmp_path / f".a.zarr.{dead_pid}.old.partial"
    aside.mkdir()
    (aside / "x").write_text("old")
    with pytest.raises(RuntimeError), replacing(target):
        raise RuntimeError
    assert (target / "x").read_text() == "old"


# --- tables


def test_tables_come_back_and_geojson_holds_no_nan(tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame(
        {"a": [1.5, np.nan], "ids": [["x"], ["y", "z"]], "n": np.array([1, 2], np.uint8)},
        geometry=[shapely.Point(0, 1), shapely.box(0, 0, 1, 1)], crs=4326,
    )  # fmt: skip
    write_table(frame, tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert found["n"].dtype == "uint8"
    assert list(found["ids"].iloc[1]) == ["y", "z"]
    write_geojson(frame, tmp_path / "t.geojson")
    document = json.loads((tmp_path / "t.geojson").read_text())
    assert document["features"][1]["properties"] == {"a": None, "ids": ["y", "z"], "n": 2}
    assert sorted(os.listdir(tmp_path)) == ["t.geojson", "t.parquet"]


def test_what_is_no_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no table"):
        read_table(tmp_path / "t.parquet")
    for content in (b"", b"junk"):
        (tmp_path / "t.parquet").write_bytes(content)
        with pytest.raises(StoreError, match="is not GeoParquet"):
            read_table(tmp_path / "t.parquet")


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "precious").write_text("here")
    file.write_text("here")
    with pytest.raises(AlreadyExistsError, match="is a folder"), replacing(folder) as partial:
        partial.write_text("new")
    with pytest.raises(AlreadyExistsError, match="is a file"), replacing(file) as partial:
        partial.mkdir()
    assert (folder / "precious").read_text() == file.read_text() == "here"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
