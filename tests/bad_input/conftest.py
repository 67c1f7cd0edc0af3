"""A chain that is done, which bad input must leave as it is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import CHIPS, DATES, Cli, contents, run_main

from geoelle.cli import main
from geoelle.simulate import Simulation, SimulationConfig, make_scenes


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    return lambda *arguments: run_main(arguments, monkeypatch, capfd)


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
