"""Bad areas, catalogs, items and imagery through the command line: one sentence, exit code 1, output as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zarr
from command_line import CHIPS, EVIL, Cli

from geoelle.simulate import Simulation


def test_the_chain_left_its_outputs(made: Path) -> None:
    names = {p.name for p in made.iterdir()}
    assert {"items.parquet", "embeddings.zarr", "pairs.parquet", "probe", "difficulty.zarr", "delta.zarr"} <= names
    assert {"alerts.parquet", "alerts.geojson", "map.html"} <= names
    assert not [n for n in names if "partial" in n]


# ---- the area of interest

RING = [[4.29, 48.40], [4.31, 48.40], [4.31, 48.41], [4.29, 48.41], [4.29, 48.40]]
BOW_TIE = [[4.29, 48.40], [4.31, 48.41], [4.31, 48.40], [4.29, 48.41], [4.29, 48.40]]


def polygon(ring: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [ring]}


BAD_AREAS: dict[str, tuple[Any, str]] = {
    "text": ("here be dragons", "not GeoJSON"),
    "binary": (b"\x89PNG\xff\xfe\x00", "not GeoJSON"),
    "nothing": ("", "not GeoJSON"),
    "json": ({"area": 1}, "not GeoJSON"),
    "list": ([1, 2, 3], "not GeoJSON"),
    "empty": ({"type": "FeatureCollection", "features": []}, "no geometry"),
    "empty polygon": ({"type": "Polygon", "coordinates": []}, "empty"),
    "no geometry": ({"type": "Feature", "geometry": None, "properties": {}}, "no geometry"),
    "bow tie": (polygon(BOW_TIE), "Self-intersection"),
    "point": ({"type": "Point", "coordinates": [4.3, 48.4]}, "Point"),
    "metres": (polygon([[x * 1e5, y * 1e5] for x, y in RING]), "longitude"),
    "other crs": (
        {**polygon(RING), "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}},
        "EPSG::32631",
    ),
    "strings": ({"type": "Polygon", "coordinates": "everywhere"}, "cannot be read"),
    "hostile": ({"type": "Feature", "properties": {"name": EVIL}, "geometry": polygon(BOW_TIE)}, "Self-intersection"),
}


@pytest.mark.parametrize("case", BAD_AREAS)
def test_area(case: str, cli: Cli, small: Simulation, unharmed: Path, tmp_path: Path) -> None:
    found, said = BAD_AREAS[case]
    path = tmp_path / "aoi.geojson"
    path.write_bytes(
        found if isinstance(found, bytes) else (found if isinstance(found, str) else json.dumps(found)).encode()
    )
    cli(
        "search", "--aoi", path, "--catalog", small.catalog, "--collection", small.collection, "--start", "2021-01-01",
        "--end", "2021-12-31",
    ).refused(said)  # fmt: skip
    cli("embed", "items.parquet", "--aoi", path, *CHIPS).refused(said)


@pytest.mark.parametrize(
    ("area", "said"),
    [
        ("nowhere.geojson", "no AOI file"),
        ("4.31,48.40,4.29,48.41", "empty"),
        ("west,48.40,4.29,48.41", "four numbers"),
        ("nan,48.40,4.29,48.41", "empty"),
        ("431000,5360000,432000,5361000", "longitude"),
        ("4.29,48.40,4.31", "four numbers"),
    ],
)
def test_area_in_words(area: str, said: str, cli: Cli, unharmed: Path) -> None:
    cli("embed", "items.parquet", "--aoi", area, *CHIPS).refused(said)


def test_area_outside_the_data(cli: Cli, small: Simulation, unharmed: Path) -> None:
    cli(
        "search", "--aoi", "-3,40,-2.9,40.1", "--catalog", small.catalog, "--collection", small.collection,
        "--start", "2021-01-01", "--end", "2021-12-31",
    ).refused("5 outside the AOI")  # fmt: skip
    cli("embed", "items.parquet", "--aoi", "-3,40,-2.9,40.1", *CHIPS).refused("touches the AOI")


# ---- the catalog


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no catalog"),
        ("{", "JSON"),
        ("<html>Login</html>", "JSON"),
        ('{"type": "FeatureCollection", "features": []}', "no STAC catalog"),
        ('{"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "x", "links": '
         '[{"rel": "item", "href": "gone.json"}]}', "gone.json"),
    ],
)  # fmt: skip
def test_catalog_on_disk(
    text: str | None, said: str, cli: Cli, small: Simulation, unharmed: Path, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.json"
    if text is not None:
        catalog.write_text(text)
    cli(
        "search", "--aoi", small.aoi, "--catalog", catalog, "--collection", "x", "--start", "2021-01-01", "--end",
        "2021-12-31",
    ).refused(said)  # fmt: skip


def test_catalog_that_does_not_answer(cli: Cli, small: Simulation, unharmed: Path) -> None:
    cli(
        "search", "--aoi", small.aoi, "--catalog", "http://127.0.0.1:9/stac", "--collection", "x", "--start",
        "2021-01-01", "--end", "2021-12-31",
    ).refused("127.0.0.1:9", "does not answer")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--collection", "elsewhere"], "5 another collection"),
        (["--start", "1999-01-01", "--end", "1999-12-31"], "5 outside the dates"),
        (["--exclude", "all"], "5 excluded by name"),
        (["--start", "2022-01-01", "--end", "2021-01-01"], "before it starts"),
        (["--end", "9999-12-31", "--collection", "elsewhere"], "9999"),
        (["--sensor", "sentinel-9"], "sentinel-9"),
    ],
)
def test_no_items(options: list[str], said: str, cli: Cli, small: Simulation, unharmed: Path) -> None:
    given = {"--collection": small.collection, "--start": "2021-01-01", "--end": "2021-12-31"}
    if options == ["--exclude", "all"]:
        options = [word for item in small.item_ids for word in ("--exclude", item)]
    given = {k: v for k, v in given.items() if k not in options}
    words = [word for pair in given.items() for word in pair]
    cli("search", "--aoi", small.aoi, "--catalog", small.catalog, *words, *options).refused(said)


# ---- the items file


@pytest.mark.parametrize("case", ["missing", "empty", "garbage", "cut", "another table", "alerts", "folder"])
def test_items_file(case: str, cli: Cli, small: Simulation, unharmed: Path, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    good = (unharmed / "items.parquet").read_bytes()
    if case == "another table":
        pd.DataFrame({"a": [1, 2]}).to_parquet(path)
    elif case == "alerts":
        shutil.copy(unharmed / "alerts.parquet", path)
    elif case == "folder":
        path.mkdir()
    elif case != "missing":
        path.write_bytes({"empty": b"", "garbage": b"PAR1 but no more", "cut": good[: len(good) // 2]}[case])
    cli("embed", path, "--aoi", small.aoi, *CHIPS).refused("items.parquet", "earch")
    cli("calibrate", "embeddings.zarr", "--items", path, "--out", tmp_path / "probe").refused("items.parquet")
    assert not (tmp_path / "probe").exists()


# ---- a truncated COG


def test_truncated_cog(cli: Cli, small: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs fail and are named, the others go on, and the rerun takes it up again."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small.root, "scenes")
    cli(
        "search", "--aoi", "scenes/aoi.geojson", "--catalog", "scenes/catalog.json", "--collection", small.collection,
        "--start", "2021-01-01", "--end", "2021-12-31",
    )  # fmt: skip
    victim = small.item_ids[2]
    cog = Path("scenes", small.asset_path(victim, "B04").relative_to(small.root))
    whole = cog.read_bytes()
    cog.write_bytes(whole[: len(whole) // 3])
    arguments = ("embed", "items.parquet", "--aoi", "scenes/aoi.geojson", *CHIPS)
    first = cli(*arguments)
    assert first.code == 1
    assert victim in first.err
    assert "B04" in first.err
    assert "takes them up again" in first.err
    assert "Traceback" not in first.err
    assert all(line.startswith("geoelle: ") for line in first.err.strip().splitlines())
    status = zarr.open_group("embeddings.zarr")["status"][:]
    assert [(day == 1).any() for day in status] == [True, True, False, True, True]
    assert (status[2] == 5).any()
    again = cli(*arguments)
    assert again.code == 1
    assert victim in again.err
    cog.write_bytes(whole)
    mended = cli(*arguments)
    assert (mended.code, mended.err) == (0, "")
    assert "were there already" in mended.out
    status = zarr.open_group("embeddings.zarr")["status"][:]
    assert all((day == 1).any() for day in status)
    assert not (status == 5).any()


def test_cog_lost_between_embedding_and_calibration(cli: Cli, made: Path, small: Simulation, unharmed: Path) -> None:
    cog = small.asset_path(small.item_ids[1], "B03")
    whole = cog.read_bytes()
    try:
        cog.write_bytes(whole[:200])
        cli("calibrate", "embeddings.zarr", "--n", "60", "--masks", "2").refused(small.item_ids[1], "B03")
    finally:
        cog.write_bytes(whole)
