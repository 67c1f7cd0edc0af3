"""Bad stores, encoders, probes and values through the command line: one sentence, exit code 1, output as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import zarr
from command_line import CHIPS, Cli, contents

from geoelle.simulate import Simulation

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
