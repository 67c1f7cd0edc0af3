"""What lies beside the package works: the notebook runs, configs parse, areas are valid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from geoelle.aoi import read_aoi
from geoelle.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda p: p.name)
def test_configs_parse(path: Path) -> None:
    config = load_config(path)
    if isinstance(config.aoi, str):
        read_aoi(path.parent / config.aoi)


@pytest.mark.parametrize("path", sorted((ROOT / "aoi").glob("*.geojson")), ids=lambda p: p.name)
def test_areas_are_valid(path: Path) -> None:
    assert len(read_aoi(path)) >= 1


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda p: p.name)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, path, tmp_path / "out"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "map.html").is_file()


def test_pipelines_show_help(repo_root: Path) -> None:
    for path in sorted((repo_root / "pipelines").glob("*.py")):
        done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


def test_dockerfile_copies_what_exists(repo_root: Path) -> None:
    for line in (repo_root / "docker" / "Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--"):
            for name in words[1:-1]:
                assert (repo_root / name).exists(), line
