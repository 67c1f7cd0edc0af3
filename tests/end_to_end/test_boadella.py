"""The main job on real imagery: the Boadella reservoir, twelve dates, a flood and a drought."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox
from scipy import stats

import geoelle
from geoelle.catalog import group_scenes, read_items
from geoelle.cli import main
from geoelle.grid import GridExtent
from geoelle.imagery import read_tile
from geoelle.schema import check_alerts
from geoelle.store.layout import extent_of
from geoelle.workflow import RunSummary

pytestmark = pytest.mark.shared

DATES = (
    "2020-01-13", "2020-01-18", "2020-01-23", "2020-01-28", "2020-02-02", "2020-06-21", "2020-09-14", "2021-06-26",
    "2021-07-16", "2021-07-21", "2022-03-08", "2022-06-01",
)  # fmt: skip
CLOUDY = {"2020-01-13", "2020-01-18", "2020-01-23"}  # haze, overcast, mostly cloud; the config may name more
HIDDEN = {"2020-01-13", "2020-01-18"}  # the heuristic cloud and haze test leaves no chip of these
CLEAR = set(DATES) - CLOUDY - {"2021-06-26"}  # which has thin cloud in the south-west
FULL, LOW = "2020-01-28", "2022-03-08"


def absent(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{what}, which CI has to have")
    pytest.skip(what)


@pytest.fixture(scope="module")
def boadella(shared_data: Path, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """The run that pipelines/boadella.yaml asks for, on every second chip and with fewer pairs, to be quicker."""
    path = repo_root / "pipelines" / "boadella.yaml"
    config = geoelle.load_config(path)
    out = tmp_path_factory.mktemp("boadella") / "out"
    config = config.model_copy(
        update={
            "out": str(out),
            "embed": config.embed.model_copy(update={"stride_m": 2 * config.embed.stride_m}),
            "calibrate": config.calibrate.model_copy(update={"n": 200, "masks": 2}),
        }
    )
    return geoelle.run(config, base=path.parent)


@pytest.fixture(scope="module")
def unclear(repo_root: Path) -> set[str]:
    """Dates that are no clear look: those that the config leaves out, and those that the test for clouds does."""
    config = geoelle.load_config(repo_root / "pipelines" / "boadella.yaml")
    found = {str(day) for day in config.delta.exclude_dates} | HIDDEN
    assert CLOUDY <= found <= set(DATES)
    assert {str(day) for day in config.calibrate.exclude_dates} >= CLOUDY - HIDDEN
    assert len(found) <= 4
    return found


@pytest.fixture(scope="module")
def water(boadella: RunSummary) -> tuple[dict[str, np.ndarray], GeoBox]:
    """Water by MNDWI on the full and the low date, at 10 m: from the imagery alone, without any embedding."""
    extent = extent_of(geoelle.open_store(boadella.folder / "difficulty.zarr").attrs)
    box = extent.geobox.zoom_to(resolution=10)
    scenes = {str(s.day)[:10]: s for s in group_scenes(read_items(boadella.folder / "items.parquet")[0])}
    masks = {}
    for day in (FULL, LOW):
        green, swir = read_tile(scenes[day], box, ("green", "swir16")).pixels
        masks[day] = (green - swir) / (green + swir) > 0.2
    return masks, box


def shares(mask: np.ndarray, box: GeoBox, extent: GridExtent) -> np.ndarray:
    """Share of each chip's own window that a mask covers, (y, x) of the chip raster."""
    size = extent.chip_size_px(10.0)
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    column, row = ~box.affine * np.stack(np.meshgrid(extent.x, extent.y))
    top, left = (np.rint(v - size / 2).astype(int) for v in (row, column))
    low = [np.clip(v, 0, n) for v, n in zip((top, left), mask.shape, strict=True)]
    high = [np.clip(v + size, 0, n) for v, n in zip((top, left), mask.shape, strict=True)]
    inside = total[high[0], high[1]] - total[low[0], high[1]] - total[high[0], low[1]] + total[low[0], low[1]]
    return inside / size**2


def test_all_dates_are_embedded(boadella: RunSummary) -> None:
    assert boadella.items == "12 seen, 12 kept" or " 12 kept" in boadella.items
    assert boadella.embedding.n_failed == 0
    ds = geoelle.open_store(boadella.folder / "difficulty.zarr")
    assert tuple(str(t)[:10] for t in ds["time"].values) == DATES
    n = np.isfinite(ds["difficulty"].values).sum(axis=(1, 2))
    seen = dict(zip(DATES, n.tolist(), strict=True))
    assert {day for day, chips in seen.items() if chips == 0} == HIDDEN
    assert max(n) > 300
    assert min(seen[day] for day in CLEAR) > 0.97 * max(n)
    assert seen["2020-01-23"] < 0.6 * max(n)
    assert ds.attrs["geoelle:simulated"] is False
    assert "modified Copernicus Sentinel data [2020-2022]" in ds.attrs["geoelle:attribution"]


def test_the_small_area_says_which_probe_it_used(boadella: RunSummary, unclear: set[str]) -> None:
    found = boadella.calibration
    pairs = gpd.read_parquet(boadella.folder / "pairs.parquet")
    assert not set(pairs["scene"]) & CLOUDY
    assert found.n_scenes == pairs["scene"].nunique() >= 12 - len(unclear) - 2  # nor the two of the flood
    assert found.quiet_declared
    assert min(pairs["scene"]) > "2020-02-28"
    ds = geoelle.open_store(boadella.folder / "difficulty.zarr")
    assert ds.attrs["geoelle:probe_origin"] == found.origin
    if not found.fitted:
        assert found.n_blocks < 30
        assert "independent blocks" in found.why
        assert "cold start" in (boadella.folder / "map.html").read_text().lower()


def test_unclear_dates_are_not_judged(boadella: RunSummary, unclear: set[str]) -> None:
    ds = geoelle.open_store(boadella.folder / "delta.zarr")
    judged = (ds["state"].values != 0).any(axis=(1, 2))
    assert {day for day, was in zip(DATES, judged, strict=True) if not was} == unclear
    assert set(ds.attrs["geoelle:reference"]["excluded_dates"]) == unclear - HIDDEN
    assert ds.attrs["geoelle:reference"]["kind"] == "surrounding"
    for name in ("delta", "z", "p"):
        assert np.isnan(ds[name].values[~judged]).all()


def test_alerts_lie_in_the_area_and_name_their_images(boadella: RunSummary, unclear: set[str]) -> None:
    alerts = gpd.read_parquet(boadella.folder / "alerts.parquet")
    check_alerts(alerts)
    assert len(alerts) == boadella.n_alerts
    assert not set(alerts["date"]) & unclear
    west, south, east, north = gpd.read_parquet(boadella.folder / "items.parquet").total_bounds
    assert shapely.within(alerts.geometry.to_numpy(), shapely.box(west, south, east, north).buffer(0.01)).all()
    known = set(gpd.read_parquet(boadella.folder / "items.parquet")["id"])
    for _, alert in alerts.head(20).iterrows():
        assert set(alert["before_item_ids"]) <= known
        assert set(alert["after_item_ids"]) <= known
        assert len(alert["before_item_ids"]) == len(alert["after_item_ids"]) == 1


def test_the_map_needs_no_network(boadella: RunSummary, unclear: set[str]) -> None:
    drawn = boadella.map
    assert drawn.n_dates == 12 - len(HIDDEN)
    assert drawn.n_delta_dates == 12 - len(unclear)
    if not drawn.self_contained:
        absent("; ".join(drawn.notes))
    page = drawn.path.read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?://[^"'>]+\.(?:js|css)""", page)
    for day in sorted(set(DATES) - HIDDEN):
        assert day in page
    assert "Copernicus" in page


def test_the_reservoir_differs_where_the_water_did(
    boadella: RunSummary, water: tuple[dict[str, np.ndarray], GeoBox]
) -> None:
    """Full on 28 January 2020, low on 8 March 2022: difficulty moved more on the shore than where nothing changed."""
    masks, box = water
    shore = masks[FULL] & ~masks[LOW]
    hectares = shore.sum() * 0.01
    assert masks[FULL].sum() > masks[LOW].sum()
    assert hectares > 20, f"{hectares:.0f} ha of shore: the two dates should differ by a drought"
    ds = geoelle.open_store(boadella.folder / "difficulty.zarr")
    share = shares(shore, box, extent_of(ds.attrs))
    moved = np.abs(ds["difficulty"].sel(time=FULL).values - ds["difficulty"].sel(time=LOW).values)
    there = np.isfinite(moved)
    on, off = moved[there & (share > 0.1)], moved[there & (share == 0)]
    assert min(len(on), len(off)) > 20
    assert np.median(on) > np.median(off)
    test = stats.mannwhitneyu(on, off, alternative="greater")
    assert test.pvalue < 0.01


def test_asked_prospectively_the_history_is_too_short(
    boadella: RunSummary,
    unclear: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "delta",
        str(boadella.folder / "difficulty.zarr"),
        "--reference",
        "median",
        "--dates",
        "2020-01-01/2020-01-31",
    ]
    words += [word for day in sorted(unclear) for word in ("--exclude-date", day)]
    monkeypatch.setattr(sys, "argv", ["geoelle", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    said = capfd.readouterr().err.strip()
    assert said.startswith("geoelle: The history is too short: 2020-01-28 has 0 earlier clear looks")
    assert "surrounding" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_the_map_in_a_browser(
    boadella: RunSummary, unclear: set[str], repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the network cut: no error, no request, and a layer for each of the twelve dates."""
    monkeypatch.syspath_prepend(str(repo_root / "tests" / "webmap"))
    from webmap_chromium import chromium, find_chromium

    program = find_chromium()
    if program is None:
        absent("no chromium on the PATH")
    if not boadella.map.self_contained:
        absent("; ".join(boadella.map.notes))
    with chromium(str(program)) as page:
        page.open(boadella.map.path)
        groups = page.js("[...document.querySelectorAll('.leaflet-control-layers-group')].map(g => g.innerText)")
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:", "about:"))] == []
    difficulty = next(g for g in groups if g.startswith("Difficulty"))
    delta = next(g for g in groups if g.startswith("Delta"))
    for day in sorted(set(DATES) - HIDDEN):
        assert day in difficulty
        assert (day in delta) == (day not in unclear)
