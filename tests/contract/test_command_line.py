"""Every verb has help with an example, quickly; usage errors are 2; the README's commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from geoelle.cli.app import app
from geoelle.encoders import list_encoders

VERBS = (
    "demo", "search", "embed", "calibrate", "difficulty", "delta", "map", "run", "encoders",
    "update", "inspect", "export", "weights",
)  # fmt: skip
OF_WEIGHTS = ("list", "get", "convert", "verify")


def run_cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "geoelle", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_the_verbs_are_these() -> None:
    assert set(get_command(app).commands) == set(VERBS)  # type: ignore[attr-defined]
    assert set(get_command(app).commands["weights"].commands) == set(OF_WEIGHTS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", [*VERBS, *(f"weights {verb}" for verb in OF_WEIGHTS)])
def test_help_has_an_example(verb: str) -> None:
    done = run_cli(*verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout
    assert f"geoelle {verb}" in done.stdout


@pytest.mark.parametrize("verb", ["", *VERBS, "weights get"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    arguments = [*verb.split(), "--help"]
    code = (
        "import sys\nimport geoelle.cli\nfrom geoelle.cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "heavy = {'torch', 'onnxruntime', 'xarray', 'geopandas', 'rasterio', 'sklearn', 'zarr', 'distributed'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["embed"],
        ["embed", "items.parquet", "--workers", "0"],
        [
            "search",
            "--aoi",
            "a.geojson",
            "--catalog",
            "c",
            "--collection",
            "x",
            "--start",
            "soon",
            "--end",
            "2020-01-01",
        ],
        ["delta", "difficulty.zarr", "--reference", "guess"],
        ["delta", "difficulty.zarr", "--dates", "yesterday"],
        ["run"],
    ],
)
def test_usage_errors_are_two(arguments: list[str]) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_encoders_lists_the_compact_one() -> None:
    done = run_cli("encoders")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["encoder", *(card.name for card in list_encoders())]
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("compact-rgb ")]
    for word in ("sentinel-2-l2a", "32-64", "10 m", "192", "own", "Apache-2.0", "shipped"):
        assert word in row
    assert "geoelle encoders NAME" in done.stderr
    whole = run_cli("encoders", "--long").stdout
    for word in ("compact-rgb", "own", "EuroSAT", "Copernicus"):
        assert word in whole


def test_encoders_shows_one_card_by_name() -> None:
    done = run_cli("encoders", "satclip-vit16-l10:cosine")
    assert done.returncode == 0
    assert "│ satclip-vit16-l10:cosine " in done.stdout
    assert "proxy" in done.stdout
    assert "EuroSAT" not in done.stdout
    unknown = run_cli("encoders", "satclip")
    assert unknown.returncode == 1
    assert "Did you mean satclip-" in unknown.stderr
    assert run_cli("encoders", "compact-rgb", "--sensor", "naip").returncode == 2


def test_version_is_the_changelogs(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    changelog = (repo_root / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[?([\w.]+)", changelog, flags=re.MULTILINE)
    assert project["version"] in versions
    assert next(v for v in versions if v != "Unreleased") == project["version"]


def test_every_dependency_has_its_reason_and_pin(repo_root: Path) -> None:
    text = (repo_root / "pyproject.toml").read_text()
    lines = re.findall(r'^    "([a-zA-Z0-9_-]+)>=[^"]*",?\s*(#.*)?$', text, flags=re.MULTILINE)
    assert len(lines) > 20
    pins = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (repo_root / "constraints.txt").read_text().split()
    }
    for name, reason in lines:
        assert reason or name in {"pytest", "mypy", "ruff"}, f"{name} has no reason beside it"
        assert name.lower() in pins, f"{name} is not pinned in constraints.txt"
    for line in (repo_root / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line), line


def readme_commands(root: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (root / "README.md").read_text(), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_readme_commands_are_real(repo_root: Path) -> None:
    commands = readme_commands(repo_root)
    targets = set(re.findall(r"^([a-z-]+):", (repo_root / "Makefile").read_text(), flags=re.MULTILINE))
    seen = set()
    for command in commands:
        words = shlex.split(command, comments=True)
        if words and words[0] == "make":
            assert words[1] in targets, command
            seen.add(words[1])
        elif words and words[0].endswith("geoelle"):
            assert words[1] in VERBS, command
            known = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
            known = known.commands[words[2]] if words[1] == "weights" else known
            options = {name for p in known.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
            for word in words[2:]:
                if word.startswith("--"):
                    assert word in options, f"{command}: no option {word}"
            seen.add(words[1])
    assert {"demo", "test", *VERBS} <= seen | {"encoders"}, f"the README leaves out {set(VERBS) - seen}"


def test_tree_names_no_machine_and_no_registry(repo_root: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=repo_root, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org")
    for name in tracked.stdout.split():
        path = repo_root / name
        if path.suffix in {".safetensors", ".onnx", ".png"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for host in hosts:
            assert host not in text, f"{name} names {host}"
        assert not re.search(r"(?<![\w.])/(work|farm|root)/", text), f"{name} holds a path of one machine"


def test_every_page_of_docs_that_is_named_is_there(repo_root: Path) -> None:
    places = [repo_root / "README.md", repo_root / "CHANGELOG.md", *(repo_root / "docs").glob("*.md")]
    places += (repo_root / "geoelle").rglob("*.py")
    named = {(name, place) for place in places for name in re.findall(r"\bdocs/[\w-]+\.md\b", place.read_text("utf-8"))}
    assert {name for name, _ in named} >= {"docs/design.md", "docs/masks.md", "docs/scale.md"}
    assert not [(name, place.name) for name, place in named if not (repo_root / name).is_file()]
