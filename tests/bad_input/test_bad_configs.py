"""Bad configurations and hostile text through the command line: one sentence, exit code 1, output as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import yaml
from command_line import EVIL, Cli

from geoelle.simulate import Simulation

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
