"""`geoelle.inspect`: what is in a store, what is missing, what failed and why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_stores import DAYS, EXTENT, JOBS, TILES, attrs, do, make, make_difficulty, make_whole, tile_index

import geoelle
from geoelle import schema
from geoelle.errors import NotFoundError, SchemaError, StoreError
from geoelle.inspecting import Failure, run_log
from geoelle.inspection_tables import human_bytes
from geoelle.store.embeddings import write_job
from geoelle.store.location import Location
from geoelle.store.zones import create_zones

N = len(TILES)


def log(path: Path, *failures: list[str]) -> None:
    lines = [json.dumps({"time": f"2026-01-0{i + 1}", "failures": f}) for i, f in enumerate(failures)]
    Path(str(run_log(path))).write_text("\n".join([*lines, '{"time": "cut sho']) + "\n")


def fail(path: Path, time_index: int, n: int) -> None:
    status = {"status": np.full((4, 4), schema.FAILED, np.uint8)}
    write_job(path, time_index, tile_index(n), TILES[n], status, None)


def test_a_whole_store(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    make_whole(path, "int8")
    report = geoelle.inspect(path)
    assert (report.kind, report.dtype, report.encoder["name"]) == ("embeddings", "int8", "e")
    assert report.is_whole
    assert report.jobs == {"done": len(JOBS), "failed": 0, "missing": 0}
    zone = report.zones[0]
    assert (zone.zone, zone.grid["epsg"], zone.shape) == ("", 32631, EXTENT.shape)
    assert [d.date for d in zone.dates] == [str(d)[:10] for d in DAYS]
    assert zone.dates[1].items == ("item-1", "other")
    assert zone.dates[1].chips == {"done": 15 * N, "skipped_cloud": N}
    files = [p for p in path.rglob("*") if p.is_file()]
    assert (report.n_bytes, zone.n_files) == (sum(f.stat().st_size for f in files), len(files))
    assert report.bytes_per_chip == report.n_bytes / (15 * len(JOBS))
    assert zone.damaged is None
    assert report.software == {"geoelle": "0"}
    assert report.provenance["geoelle:config"] == {"gsd_m": 10}


def test_what_is_missing_and_what_failed_and_why(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    index = make(path, [DAYS[2]]) | make(path, DAYS)  # added out of order: jobs are still told of the right date
    do(path, index, 0, 0)
    do(path, index, 0, 1)
    do(path, index, 2, 0)
    fail(path, index[DAYS[2]], 1)
    log(
        path, ["2022-06-04 tile 1,1: settled since"], ["2023-01-01 tile 4450,391: ImageryError: item-2: red: timed out"]
    )
    report = geoelle.inspect(path, verify=True)
    assert [(d.jobs_done, d.jobs_failed, d.jobs_missing) for d in report.zones[0].dates] == [
        (2, 0, 0), (0, 0, 2), (1, 1, 0),
    ]  # fmt: skip
    assert report.zones[0].dates[1].chips == {"not_done": 16 * N}
    assert report.failures == (
        Failure("2023-01-01 tile 4450,391", "ImageryError: item-2: red: timed out", "2026-01-02"),
    )
    assert report.runs == 2
    assert not report.is_whole
    assert report.zones[0].damaged == ()
    tables = report.tables()
    assert set(tables) == {"Store", "Zones", "Dates", "Failed jobs"}
    for columns, rows in tables.values():
        assert rows
        for row in rows:
            assert len(row) == len(columns)
            assert all(isinstance(text, str) for text in row)
    assert tables["Dates"][1][1][-1] == "0 done, 2 missing"
    assert ("jobs", "3 done, 1 failed, 2 missing") in tables["Store"][1]


def test_tiles_beyond_the_area_are_not_missed(tmp_path: Path) -> None:
    """The area of a store may leave whole tiles without a chip; then there is no such job."""
    path = tmp_path / "e.zarr"
    index = make(path, DAYS[:1])
    do(path, index, 0, 0)
    assert geoelle.inspect(path).jobs["missing"] == N - 1
    root = zarr.open_group(path, mode="r+")
    root.attrs["geoelle:aoi"] = {"features": "junk"}  # then only what was ever begun counts
    assert geoelle.inspect(path).jobs == {"done": 1, "failed": 0, "missing": 0}


def test_zones_and_one_of_them_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "z.zarr"
    paths = create_zones(path, "embeddings", ["32631", "32632"], {"geoelle:software": {"geoelle": "1"}})
    make_whole(paths["32631"])
    report = geoelle.inspect(path)
    assert report.jobs["done"] == len(JOBS)
    assert [z.zone for z in report.zones] == ["32631", "32632"]
    assert "There is no store" in report.zones[1].trouble[0]
    assert report.encoder["name"] == "e"
    assert report.tables()["Cannot be read"][1][0][0] == "32632"
    assert not report.is_whole


def test_a_difficulty_store_and_an_empty_one(tmp_path: Path) -> None:
    make_difficulty(tmp_path / "d.zarr")
    report = geoelle.inspect(tmp_path / "d.zarr", verify=True)
    assert (report.kind, report.dtype, report.is_whole) == ("difficulty", "", True)
    assert report.zones[0].dates[0].chips == {"inside": 16 * N - 1, "no_data": 1}
    assert report.n_chips == 3 * (16 * N - 1)
    make(tmp_path / "e.zarr", [])
    empty = geoelle.inspect(tmp_path / "e.zarr", verify=True)
    assert empty.zones[0].dates == ()
    assert math.isnan(empty.bytes_per_chip)
    assert empty.tables()["Dates"][1] == []


def test_damage_does_not_stop_the_report(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    make_whole(path)
    (path / "status" / "c" / "0" / "0" / "0").write_bytes(b"junk")
    report = geoelle.inspect(path)
    assert report.zones[0].trouble[0].startswith("2022-06-04: Variable status cannot be read")
    assert report.zones[0].dates[1].chips == {"done": 15 * N, "skipped_cloud": N}
    (path / "contrast" / "zarr.json").write_bytes(b"{")
    assert geoelle.inspect(path).zones[0].trouble


@pytest.mark.parametrize("kind", ["file", "folder", "nothing", "foreign"])
def test_what_is_no_store_of_geoelles(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.write_bytes(b"x")
    elif kind == "folder":
        path.mkdir()
    elif kind == "foreign":
        zarr.create_group(path, zarr_format=3, attributes={"geoelle:kind": ["embeddings"]})
    with pytest.raises(NotFoundError if kind == "nothing" else StoreError):
        geoelle.inspect(path)


@pytest.mark.parametrize(
    "hostile",
    [
        {"geoelle:encoder": 3}, {"geoelle:scenes": [1]}, {"geoelle:area": None}, {"geoelle:software": "x"},
        {"geoelle:grid": {"epsg": "x"}}, {"geoelle:zones": ["../../etc"]}, {"geoelle:zones": []},
        {"geoelle:dtype": {"a": 1}},
        {"geoelle:aoi": {"features": [{"geometry": {"type": "Polygon", "coordinates": []}}]}},
    ],
)  # fmt: skip
def test_hostile_attributes_give_a_report_or_one_sentence(tmp_path: Path, hostile: dict[str, object]) -> None:
    path = tmp_path / "e.zarr"
    make_whole(path)
    zarr.open_group(path, mode="r+").attrs.put({**attrs(), **hostile})
    said = ""
    try:
        assert geoelle.inspect(path, verify=True).tables()["Store"]
    except StoreError as error:
        said = str(error)
    assert not said or str(path) in said


def test_the_log_lies_beside_the_store() -> None:
    for store, expected in [
        ("a/e.zarr", "a/e.log.jsonl"), ("a/e", "a/e.log.jsonl"), ("s3://b/r/e.zarr", "s3://b/r/e.log.jsonl"),
    ]:  # fmt: skip
        assert run_log(store) == Location.of(expected).absolute()


def test_sizes_are_said_in_powers_of_a_thousand() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 2_500_000, 3e15)] == [
        "0 B", "999 B", "1.0 kB", "2.5 MB", "3,000.0 TB",
    ]  # fmt: skip


def test_more_failures_than_the_log_keeps_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    index = make(path)
    fail(path, index[DAYS[0]], 0)
    line = {"time": "2026-01-01", "n_failed": 120, "failures": ["2022-06-04 tile 1,1: ImageryError: gone"]}
    Path(str(run_log(path))).write_text(json.dumps(line) + "\n")
    _, rows = geoelle.inspect(path).tables()["Failed jobs"]
    assert [row[0] for row in rows] == ["2022-06-04 tile 1,1", "and 119 more"]


@pytest.mark.parametrize("maker", [make_whole, make_difficulty])
def test_a_flag_that_means_nothing_is_shown_as_its_number(tmp_path: Path, maker: Callable[[Path], None]) -> None:
    path = tmp_path / "store.zarr"
    maker(path)
    root = zarr.open_group(path, mode="r+")
    root["status" if "status" in root else "support"][0, 0, 0] = 99  # type: ignore[index]
    columns, rows = geoelle.inspect(path).tables()["Dates"]
    assert rows[0][columns.index("99")] == "1"


@pytest.mark.parametrize("maker", [make_whole, make_difficulty])
@pytest.mark.parametrize(
    "changes",
    [{"tile_rows": [0, 10**9]}, {"tile_rows": [0, 10**40]}, {"tile_rows": [5, 3]}, {"epsg": 1}, {"epsg": 10**30}],
)
def test_a_grid_that_is_not_the_arrays_is_refused_before_it_fills_memory(
    tmp_path: Path, maker: Callable[[Path], None], changes: dict[str, object]
) -> None:
    path = tmp_path / "store.zarr"
    maker(path)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["geoelle:grid"].update(changes)
    (path / "zarr.json").write_text(json.dumps(document))
    report = geoelle.inspect(path, verify=True)
    assert not report.is_whole
    assert "geoelle:grid" in report.zones[0].trouble[0]
    with pytest.raises((StoreError, SchemaError), match="geoelle:grid"):
        geoelle.export(path, out=tmp_path / "exports")
