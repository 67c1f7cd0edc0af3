"""What lies beside the package works: the notebook runs, configs parse, areas are valid."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
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


def test_an_image_holds_what_its_wheel_is_built_of(repo_root: Path) -> None:
    lines = [line.split() for line in (repo_root / "docker" / "Dockerfile").read_text().splitlines()]
    copied = {name for words in lines if words[:1] == ["COPY"] for name in words[1:-1] if not name.startswith("-")}
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "constraints.txt"}
    assert needed | set(project["project"]["license-files"]) <= copied
    let_in = {line[1:] for line in (repo_root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied - {"/opt/geoelle"} <= let_in


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("ldd") is None, reason="asks the Linux loader")
def test_an_image_has_the_libraries_that_rasterio_takes_from_the_system(repo_root: Path) -> None:
    import rasterio

    modules = sorted(Path(rasterio.__file__).parent.glob("_base*.so"))
    assert modules
    said = subprocess.run(["ldd", modules[0]], capture_output=True, text=True, check=True).stdout
    asked = {line.split()[0] for line in said.splitlines() if "=> /lib/" in line or "=> /usr/lib/" in line}
    # Of the C library, the compiler and Python itself, which any Python image has; libexpat1 is installed.
    there = {
        f"lib{name}" for name in ("c.so.6", "dl.so.2", "gcc_s.so.1", "m.so.6", "pthread.so.0", "rt.so.1", "z.so.1")
    }
    assert asked - there <= {"libstdc++.so.6", "libexpat.so.1"}
    assert "libexpat1" in (repo_root / "docker" / "Dockerfile").read_text()
