"""Bad stores and items to inspect, export and update: one sentence, exit code 1, and earlier output as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import zarr
from command_line import CHIPS, EVIL, Cli, contents

from geoelle.catalog import read_items, write_items
from geoelle.simulate import Simulation

VERBS = ("inspect", "export", "update")


def asked(verb: str, store: Path | str, out: Path) -> tuple[str, ...]:
    """The command that gives a store to a verb."""
    more = {"inspect": (), "export": ("--out", str(out)), "update": ("--items", "items.parquet", "--end", "2021-12-31")}
    return (verb, str(store), *more[verb])


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", ["missing", "file", "empty folder", "foreign", "version 2", "climbs out", "no list"])
def test_what_is_no_store(case: str, verb: str, cli: Cli, unharmed: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    if case == "file":
        path.write_text("a file")
    elif case == "empty folder":
        path.mkdir()
    elif case == "foreign":
        zarr.create_group(path, zarr_format=3).create_array("a", shape=(3,), dtype="f4")
    elif case == "version 2":
        zarr.create_group(path, zarr_format=2)
    elif case != "missing":
        zones: Any = ["../../embeddings.zarr"] if case == "climbs out" else {"a": 1}
        attrs = {"geoelle:kind": "embeddings", "geoelle:zones": zones}
        zarr.create_group(path, zarr_format=3, attributes=attrs)
    before = contents(tmp_path)
    cli(*asked(verb, path, tmp_path / "out")).refused("store.zarr")
    assert contents(tmp_path) == before


HOSTILE: dict[str, dict[str, Any]] = {
    "grid of words": {"geoelle:grid": {"epsg": "x", "chip_size_m": "y"}},
    "grid beyond numbers": {"geoelle:grid": {"epsg": 32631, "chip_size_m": 1e308, "stride_m": 1e-308, "tile_chips": 8}},
    "no grid": {"geoelle:grid": None},
    "scenes are a list": {"geoelle:scenes": ["a"]},
    "scenes of numbers": {"geoelle:scenes": {"2021-04-10": 7}},
    "aoi of words": {"geoelle:aoi": "somewhere"},
    "aoi nowhere": {"geoelle:aoi": {"features": [{"geometry": {"type": "Point", "coordinates": ["a"]}}]}},
    "encoder is a list": {"geoelle:encoder": [1]},
    "encoder climbs": {"geoelle:encoder": {"name": "../../etc/passwd"}},
    "config is a number": {"geoelle:config": 3},
    "markup": {"geoelle:attribution": EVIL, "geoelle:software": {EVIL: EVIL}, "geoelle:encoder": {"name": EVIL}},
    "items of words": {"geoelle:items": "all", "geoelle:jobs": "many", "geoelle:masks": 3, "geoelle:radiometry": 4},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_attributes_end_in_a_sentence_or_in_a_report(case: str, cli: Cli, copy: Path, tmp_path: Path) -> None:
    root = zarr.open_group(copy / "embeddings.zarr", mode="r+")
    root.attrs.update(HOSTILE[case])
    for verb in VERBS:
        done = cli(*asked(verb, "embeddings.zarr", tmp_path / "out"))
        assert "Traceback" not in done.err + done.out
        assert done.code in (0, 1), done.err
        if done.code:
            done.refused()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(copy) and "out" not in p.parts]


@pytest.mark.parametrize("verb", ["inspect", "export"])
def test_a_log_that_is_no_log_is_passed_over(verb: str, cli: Cli, copy: Path, tmp_path: Path) -> None:
    (copy / "embeddings.log.jsonl").write_bytes(b'\xff\xfe nonsense\n[1]\n{"failures": [[1]], "time": {}}\n')
    done = cli(*asked(verb, "embeddings.zarr", tmp_path / "out"))
    assert done.code == 0, done.err


@pytest.mark.parametrize("query", [[], "all", {"aoi": "here", "catalog": "catalog.json", "start": "2021-01-01"},
                                   {"aoi": {"type": "Polygon", "coordinates": [[["a"]]]}, "catalog": "c",
                                    "start": "2021-01-01"},
                                   {"aoi": None, "catalog": None, "start": None}])  # fmt: skip
def test_items_that_do_not_say_what_was_asked(query: Any, cli: Cli, copy: Path) -> None:
    import pyarrow.parquet as pq

    records, _ = read_items(copy / "items.parquet")
    write_items(records, copy / "items.parquet", {})
    table = pq.read_table(copy / "items.parquet")
    metadata = dict(table.schema.metadata)
    key = next(k for k, v in metadata.items() if v == b"{}")
    metadata[key] = json.dumps(query).encode()
    pq.write_table(table.replace_schema_metadata(metadata), copy / "items.parquet")
    before = contents(copy)
    cli("update", "embeddings.zarr", "--end", "2021-12-31").refused()
    assert contents(copy) == before


def test_export_into_what_is_not_its_own(cli: Cli, unharmed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = cli("export", "difficulty.zarr", "--out", tmp_path / "mine.txt")
    done.refused("mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_update_without_a_catalog_changes_nothing(cli: Cli, copy: Path, small: Simulation) -> None:
    before = contents(copy)
    cli("update", "embeddings.zarr", "--catalog", "nothing/catalog.json").refused("nothing/catalog.json")
    cli("update", "difficulty.zarr").refused("kind 'difficulty'")
    cli("update", "embeddings.zarr", "--end", "2020-01-01").refused("2020-01-01")
    assert contents(copy) == before


# --- ways to name an area, which are good


def test_an_area_by_geopackage_and_by_the_name_of_a_place(
    cli: Cli, copy: Path, small: Simulation, tmp_path: Path
) -> None:
    gpd.read_file(small.aoi).to_file(tmp_path / "area.gpkg", driver="GPKG")
    search = ("--catalog", small.catalog, "--start", "2021-01-01", "--end", "2021-12-31")
    done = cli("search", "--aoi", tmp_path / "area.gpkg", *search, "--out", tmp_path / "items.parquet")
    assert done.code == 0, done.err
    assert "5 kept" in done.out
    before = contents(copy / "embeddings.zarr")
    done = cli("embed", tmp_path / "items.parquet", "--aoi", tmp_path / "area.gpkg", "--out", "embeddings.zarr", *CHIPS)
    assert done.code == 0, done.err
    assert "nothing to do" in done.out
    assert contents(copy / "embeddings.zarr") == before
    cli("search", "--aoi", "boadella", *search, "--out", tmp_path / "none.parquet").refused("5 seen")
    cli("search", "--aoi", "boadela", *search, "--out", tmp_path / "none.parquet").refused("boadela")


def test_a_gap_in_a_store_is_reported(cli: Cli, copy: Path) -> None:
    shutil.rmtree(copy / "embeddings.zarr" / "job_digest" / "c" / "0")
    done = cli("inspect", "embeddings.zarr")
    assert done.code == 0, done.err
    assert "missing" in done.out
