"""Bad input through the real command line: one sentence, exit code 1, and earlier output as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import yaml
import zarr

from geoelle.cli import main
from geoelle.simulate import Simulation, SimulationConfig, make_scenes

EVIL = "<img src=x onerror=alert(1)>"
DATES = ("2021-04-10", "2021-05-10", "2021-06-10", "2021-07-10", "2021-08-10")
CHIPS = ("--chip-size-m", "320", "--stride-m", "160", "--tile-chips", "8")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """One sentence for people, on one line, and exit code 1."""
        lines = self.err.strip().splitlines()
        assert self.code == 1, (self.code, self.out, self.err)
        assert len(lines) == 1, self.err
        assert lines[0].startswith("geoelle: ")
        assert lines[0].rstrip().endswith((".", "?"))
        assert "Traceback" not in self.err + self.out
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


Cli = Callable[..., Done]


def run_main(arguments: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Done:
    monkeypatch.setattr(sys, "argv", ["geoelle", *map(str, arguments)])
    capfd.readouterr()
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    captured = capfd.readouterr()
    return Done(code, captured.out, captured.err)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    return lambda *arguments: run_main(arguments, monkeypatch, capfd)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, hidden and partial ones too."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    config = SimulationConfig.small(width_px=224, height_px=192, dates=DATES)
    return make_scenes(tmp_path_factory.mktemp("bad") / "scenes", config=config)


@pytest.fixture(scope="session")
def made(small: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole chain, verb by verb, as a person would. Tests work on a copy, or leave it as it is."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (
            [
                "search", "--aoi", small.aoi, "--catalog", small.catalog, "--collection", small.collection,
                "--start", "2021-01-01", "--end", "2021-12-31",
            ],
            ["embed", "items.parquet", "--aoi", small.aoi, *CHIPS],
            [
                "calibrate", "embeddings.zarr", "--allow-few", "--n", "40", "--masks", "2", "--block-size-m", "640",
                "--pairs", "pairs.parquet",
            ],
            ["difficulty", "embeddings.zarr", "--probe", "probe"],
            ["delta", "difficulty.zarr", "--alert-z", "0.5"],
            ["map", "difficulty.zarr", "--delta", "delta.zarr", "--alerts", "alerts.parquet"],
        ):  # fmt: skip
            patch.setattr(sys, "argv", ["geoelle", *map(str, arguments)])
            with pytest.raises(SystemExit) as stop:
                main()
            assert not stop.value.code, arguments
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything, in which the command runs."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def unharmed(made: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run beside the outputs; afterwards each of their bytes must be what it was."""
    monkeypatch.chdir(made)
    before = contents(made)
    yield made
    assert contents(made) == before


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


# ---- stores, encoders, probes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chip-size-m", "640", "--stride-m", "320"], "another"),
        (["--chip-size-m", "320", "--stride-m", "160"], "another grid"),
        (["--chip-size-m", "320", "--stride-m", "320", "--tile-chips", "8"], "another grid"),
        ([*CHIPS, "--max-invalid-fraction", "0.5"], "another config"),
    ],
)
def test_store_of_another_grid_or_config(
    options: list[str], said: str, cli: Cli, small: Simulation, unharmed: Path
) -> None:
    cli("embed", "items.parquet", "--aoi", small.aoi, *options).refused(said, "give another --out")


def test_store_of_another_encoder(cli: Cli, small: Simulation, copy: Path) -> None:
    root = zarr.open_group(copy / "embeddings.zarr", mode="r+")
    root.attrs["geoelle:encoder"] = {**root.attrs["geoelle:encoder"], "weights_sha256": "0" * 64}  # type: ignore[dict-item]
    before = contents(copy)
    cli("embed", "items.parquet", "--aoi", small.aoi, *CHIPS).refused("another encoder", "weights_sha256")
    cli("calibrate", "embeddings.zarr", "--n", "50").refused("another version of compact-rgb")
    cli("difficulty", "embeddings.zarr", "--probe", "probe").refused("weights sha256")
    cli("difficulty", "embeddings.zarr").refused("weights sha256")
    assert contents(copy) == before


def test_unknown_encoder(cli: Cli, small: Simulation, unharmed: Path) -> None:
    cli("embed", "items.parquet", "--aoi", small.aoi, "--encoder", "compact-rbg", *CHIPS).refused(
        "compact-rbg", "compact-rgb"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--chip-size-m", "100"], "320 m"), (["--stride-m", "333"], "pixel"), (["--chip-size-m", "nan"], "nan")],
)
def test_chips_that_the_encoder_does_not_take(options: list[str], said: str, cli: Cli, unharmed: Path) -> None:
    size = ["--chip-size-m", "640"] if options[0] == "--stride-m" else ["--stride-m", "10"]
    cli("embed", "items.parquet", "--out", "new.zarr", *options, *size).refused(said)


def edit_probe(folder: Path, **changes: Any) -> None:
    path = folder / "probe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BAD_PROBES: dict[str, Callable[[Path], Any]] = {
    "another encoder": lambda p: edit_probe(p, encoder="dofa-large"),
    "another chip size": lambda p: edit_probe(p, chip_size_px=64),
    "other bands": lambda p: edit_probe(p, bands=["nir", "green", "blue"]),
    "other weights": lambda p: edit_probe(p, weights_sha256="0" * 64),
    "another format": lambda p: edit_probe(p, format=99),
    "unknown key": lambda p: edit_probe(p, surprise=1),
    "wrong type": lambda p: edit_probe(p, bands=5),
    "wrong scores": lambda p: edit_probe(p, scores=3),
    "wrong smearing": lambda p: edit_probe(p, smearing="much"),
    "wrong count": lambda p: edit_probe(p, n_train=0),
    "list": lambda p: (p / "probe.json").write_text("[]"),
    "no json": lambda p: (p / "probe.json").write_text("{"),
    "not text": lambda p: (p / "probe.json").write_bytes(b"\xff\xfe\x00"),
    "lost json": lambda p: (p / "probe.json").unlink(),
    "lost arrays": lambda p: (p / "probe.safetensors").unlink(),
    "cut arrays": lambda p: (p / "probe.safetensors").write_bytes((p / "probe.safetensors").read_bytes()[:999]),
    "empty arrays": lambda p: (p / "probe.safetensors").write_bytes(b""),
    "pickle": lambda p: (p / "probe.safetensors").write_bytes(b"\x80\x04\x95cposix\nsystem\n."),
    "other arrays": lambda p: safetensors.numpy.save_file({"w": np.zeros(3)}, p / "probe.safetensors"),
    "folder": lambda p: [(p / "probe.json").unlink(), (p / "probe.json").mkdir()],
}


@pytest.mark.parametrize("case", BAD_PROBES)
def test_probe(case: str, cli: Cli, copy: Path) -> None:
    BAD_PROBES[case](copy / "probe")
    before = contents(copy)
    cli("difficulty", "embeddings.zarr", "--probe", "probe").refused("probe")
    assert contents(copy) == before


@pytest.mark.parametrize("case", ["missing", "file", "empty folder", "foreign", "version 2", "another kind"])
def test_store(case: str, cli: Cli, small: Simulation, unharmed: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    if case == "file":
        path.write_text("a file")
    elif case == "empty folder":
        path.mkdir()
    elif case == "foreign":
        zarr.create_group(path, zarr_format=3).create_array("a", shape=(3,), dtype="f4")
    elif case == "version 2":
        zarr.create_group(path, zarr_format=2)
    elif case == "another kind":
        shutil.copytree(unharmed / "delta.zarr", path)
    before = contents(tmp_path)
    cli("calibrate", path).refused("store.zarr")
    cli("difficulty", path).refused("store.zarr")
    cli("delta", path if case != "another kind" else "embeddings.zarr").refused(".zarr")
    cli("map", path).refused("store.zarr")
    if case != "missing":
        cli("difficulty", "embeddings.zarr", "--out", path).refused("store.zarr", "in the way")
        cli("embed", "items.parquet", "--aoi", small.aoi, "--out", path, *CHIPS).refused("store.zarr")
    if case not in ("missing", "another kind"):
        cli("delta", "difficulty.zarr", "--out", path, "--alerts", tmp_path / "a.parquet").refused("in the way")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("case", ["missing", "garbage", "empty", "pairs", "another table", "folder", "geojson"])
def test_alerts(case: str, cli: Cli, unharmed: Path, tmp_path: Path) -> None:
    path = tmp_path / "alerts.parquet"
    if case == "garbage":
        path.write_bytes(b"PAR1nonsense")
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "another table":
        pd.DataFrame({"rank": [1]}).to_parquet(path)
    elif case == "folder":
        path.mkdir()
    elif case != "missing":
        shutil.copy(unharmed / {"pairs": "pairs.parquet", "geojson": "alerts.geojson"}[case], path)
    cli("map", "difficulty.zarr", "--delta", "delta.zarr", "--alerts", path).refused("lerts")


def test_parts_that_do_not_belong_together(cli: Cli, unharmed: Path) -> None:
    cli("map", "delta.zarr").refused("kind 'delta'")
    cli("map", "difficulty.zarr", "--delta", "difficulty.zarr").refused("kind 'difficulty'")


# ---- slips that would cost something


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "embeddings.zarr", "--out", "embeddings.zarr"),
        ("calibrate", "embeddings.zarr", "--out", "."),
        ("calibrate", "embeddings.zarr", "--out", "items.parquet"),
        ("calibrate", "embeddings.zarr", "--pairs", "embeddings.zarr", "--out", "new"),
        ("difficulty", "embeddings.zarr", "--out", "embeddings.zarr"),
        ("difficulty", "embeddings.zarr", "--out", "items.parquet"),
        ("difficulty", "embeddings.zarr", "--out", "items.parquet/difficulty.zarr"),
        ("delta", "difficulty.zarr", "--out", "difficulty.zarr"),
        ("delta", "difficulty.zarr", "--alerts", "embeddings.zarr"),
        ("delta", "difficulty.zarr", "--alerts", "alerts.geojson"),
        ("delta", "difficulty.zarr", "--out", "new.zarr", "--alerts", "alerts.geojson"),
        ("map", "difficulty.zarr", "--out", "embeddings.zarr"),
        ("map", "difficulty.zarr", "--out", "items.parquet/map.html"),
        ("demo", "--out", "."),
        ("demo", "--out", "items.parquet"),
    ],
)
def test_a_slip_of_the_path_costs_nothing(arguments: tuple[str, ...], cli: Cli, unharmed: Path) -> None:
    cli(*arguments).refused()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("delta", "difficulty.zarr", "--alert-z", "nan"), "alert_z nan"),
        (("delta", "difficulty.zarr", "--alert-z", "-1"), "alert_z -1"),
        (("delta", "difficulty.zarr", "--min-looks", "9"), "history is too short"),
        (("delta", "difficulty.zarr", "--dates", "1999-01-01/1999-12-31"), "left to judge"),
        (("calibrate", "embeddings.zarr", "--block-size-m", "nan"), "block_size_m nan"),
        (("calibrate", "embeddings.zarr", "--block-size-m", "-5"), "block_size_m -5"),
        (("calibrate", "embeddings.zarr", "--quiet-dates", "1999-01-01/1999-12-31"), "is quiet"),
        (("delta", "difficulty.zarr", "--reference-dates", "2021-12-31/2021-01-01"), "ends before it starts"),
        (("map", "difficulty.zarr", "--alerts", "pairs.parquet"), "Alerts"),
    ],
)
def test_values_that_make_no_sense(arguments: tuple[str, ...], said: str, cli: Cli, unharmed: Path) -> None:
    cli(*arguments).refused(said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",), ("embed",), ("delta", "d.zarr", "--reference", "guess"), ("delta", "d.zarr", "--dates", "soon"),
        ("embed", "i.parquet", "--workers", "0"), ("calibrate", "e.zarr", "--n", "many"), ("map", "--max-alerts", "0"),
        ("calibrate", "e.zarr", "--quiet-dates", "2020-02-30"), ("run",), ("run", "a.yaml", "--colour", "red"),
    ],
)  # fmt: skip
def test_usage_errors_are_two(arguments: tuple[str, ...], cli: Cli) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_interrupted(cli: Cli, unharmed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("geoelle.mapping.difficulty", interrupt)
    done = cli("difficulty", "embeddings.zarr")
    assert done.code == 130
    assert "takes up where this one stopped" in done.err


# ---- configs


def config_of(small: Simulation, **changes: Any) -> dict[str, Any]:
    return {
        "name": "bad",
        "aoi": str(small.aoi),
        "search": {
            "catalog": str(small.catalog), "collections": [small.collection], "start": "2021-01-01",
            "end": "2021-12-31",
        },
        **changes,
    }  # fmt: skip


BAD_CONFIGS: dict[str, tuple[Any, str]] = {
    "unknown key": ({"surprise": 1}, "surprise"),
    "unknown key inside": ({"embed": {"chip_size": 320}}, "embed.chip_size"),
    "wrong type": ({"embed": {"chip_size_m": "large"}}, "embed.chip_size_m"),
    "negative": ({"embed": {"stride_m": -1}}, "embed.stride_m"),
    "not a number": ({"delta": {"alert_z": float("nan")}}, "delta.alert_z"),
    "endless": ({"calibrate": {"block_size_m": float("inf")}}, "calibrate.block_size_m"),
    "section is a list": ({"delta": [1, 2]}, "delta"),
    "reference": ({"delta": {"reference": "guess"}}, "'median' or 'surrounding'"),
    "missing": ({"search": {"catalog": "c"}}, "search.start"),
    "dates": ({"search": {"catalog": "c", "collections": ["x"], "start": "2021-02-01", "end": "2021-01-01"}}, "before"),
    "name": ({"name": ".."}, "name"),
    "name with a slash": ({"name": "../../etc"}, "name"),
    "text for a list": ({"search": {"catalog": "c", "collections": "x", "start": "2021-01-01", "end": "2021-01-02"}},
                        "search.collections"),
    "range the wrong way round": ({"delta": {"dates": [["2021-02-01", "2021-01-01"]]}}, "earlier date first"),
    "range": ({"calibrate": {"quiet": [["2021-01-01"]]}}, "calibrate.quiet"),
    "key that is no text": ({1: 2}, "1"),
    "list": ([1, 2], "list"),
    "text": ("just words", "str"),
    "nothing": ("", "NoneType"),
    "not YAML": ("a: [1", "not YAML"),
    "not text": (b"\xff\xfe\x00\x01", "not YAML"),
    "python": ("name: !!python/object/apply:os.system ['true']", "not YAML"),
    "too deep": ("[" * 5000, "not YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_config(case: str, cli: Cli, small: Simulation, unharmed: Path, tmp_path: Path) -> None:
    found, said = BAD_CONFIGS[case]
    path = tmp_path / "run.yaml"
    if isinstance(found, bytes):
        path.write_bytes(found)
    elif isinstance(found, str):
        path.write_text(found)
    else:
        path.write_text(
            yaml.safe_dump(config_of(small, **found) if isinstance(found, dict) and 1 not in found else found)
        )
    cli("run", path).refused(said)


def test_config_that_is_not_there(cli: Cli, unharmed: Path) -> None:
    cli("run", "nowhere.yaml").refused("no config nowhere.yaml")
    cli("run", "probe").refused("probe")


def test_run_into_a_file(cli: Cli, small: Simulation, unharmed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config_of(small, out=str(unharmed / "items.parquet"))))
    cli("run", path).refused("items.parquet is a file")


def test_run_with_a_truncated_cog_goes_on_and_says_so(
    cli: Cli, small: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small.root, "scenes")
    cog = Path("scenes", small.asset_path(small.item_ids[0], "B02").relative_to(small.root))
    cog.write_bytes(cog.read_bytes()[:500])
    config = config_of(
        small, aoi="scenes/aoi.geojson", out="out", embed={"chip_size_m": 320, "stride_m": 160},
        calibrate={"n": 10, "masks": 2}, delta={"min_looks": 2},
    )  # fmt: skip
    config["search"]["catalog"] = "scenes/catalog.json"
    Path("run.yaml").write_text(yaml.safe_dump(config))
    done = cli("run", "run.yaml")
    assert done.code == 1
    assert small.item_ids[0] in done.err
    assert "Traceback" not in done.err
    assert Path("out/map.html").is_file()
    assert "difficulty on 4 dates" in done.out


def test_run_with_a_history_too_short_still_draws(
    cli: Cli, small: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {
        "out": "out", "embed": {"chip_size_m": 320, "stride_m": 320}, "delta": {"min_looks": 9},
        "calibrate": {"n": 10, "masks": 2},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(config_of(small, **changes)))
    cli("run", "run.yaml").refused("history is too short", "out/map.html")
    assert Path("out/map.html").is_file()
    assert not Path("out/delta.zarr").exists()


# ---- hostile text


def test_hostile_text_is_shown_not_run(
    cli: Cli, small: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in an area and in items are other people's text, through the whole chain into the map."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small.root, "scenes")
    area = json.loads(Path("scenes/aoi.geojson").read_text())
    area["properties"]["name"] = EVIL
    Path("scenes/aoi.geojson").write_text(json.dumps(area))
    for path in Path("scenes", small.collection).glob("*/*.json"):
        item = json.loads(path.read_text())
        item["id"] = f"{EVIL}{item['id']}"
        path.write_text(json.dumps(item))
    config = config_of(
        small, aoi="scenes/aoi.geojson", out="out", embed={"chip_size_m": 320, "stride_m": 160},
        calibrate={"n": 60, "masks": 2, "allow_few": True, "block_size_m": 640}, delta={"alert_z": 0.1},
    )  # fmt: skip
    config["search"]["catalog"] = "scenes/catalog.json"
    Path("run.yaml").write_text(yaml.safe_dump(config))
    done = cli("run", "run.yaml")
    assert done.code == 0
    assert "Traceback" not in done.err
    alerts = gpd.read_parquet("out/alerts.parquet")
    assert alerts["after_item_ids"].iloc[0][0].startswith(EVIL)
    page = Path("out/map.html").read_text()
    assert "onerror" in page
    assert "<img src=x" not in page
