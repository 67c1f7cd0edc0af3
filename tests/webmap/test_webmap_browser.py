"""The map as people meet it: opened from disk in Chromium with the network cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from webmap_chromium import Page, chromium, find_chromium
from webmap_stores import DAYS, EVIL, absent, attributes, make_alerts, make_delta, make_difficulty

from geoelle import webmap

pytestmark = pytest.mark.browser

LABELS = "[...document.querySelectorAll('.leaflet-control-layers-group')].map(g => g.innerText)"
IMAGES = (
    "[...document.querySelectorAll('img.leaflet-image-layer')]"
    ".filter(i => getComputedStyle(i).display !== 'none').map(i => i.alt)"
)
N_ALERTS = "document.querySelectorAll('path.geoelle-alert').length"
SHOWING = "document.getElementById('geoelle-showing').textContent"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        absent("no chromium on the PATH")
    with chromium(str(program)) as tab:
        yield tab


@pytest.fixture
def opened(page: Page, real_assets: Path, tmp_path: Path) -> Iterator[Page]:
    """The full map, with alerts on two dates; afterwards nothing may have gone wrong or out."""
    difficulty = make_difficulty()
    delta = make_delta(difficulty)
    alerts = make_alerts(delta, difficulty, 12)
    alerts.loc[6:, "date"] = DAYS[1]
    out = tmp_path / "map.html"
    webmap.map(difficulty, delta=delta, alerts=alerts, out=out, cache_dir=real_assets)
    page.problems.clear()
    page.requests.clear()
    page.open(out)
    yield page
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


def choose(page: Page, group: str, text: str) -> None:
    """Click an entry of the layer control where a person would."""
    place = page.js(
        "(() => { const g = [...document.querySelectorAll('.leaflet-control-layers-group')]"
        f".find(g => g.innerText.startsWith({group!r}));"
        "const l = [...g.querySelectorAll('label')]"
        f".find(l => l.querySelector('input') && l.innerText.includes({text!r}));"
        "const r = l.querySelector('input').getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    page.click(*place)


def test_layer_control_lists_the_dates(opened: Page) -> None:
    difficulty, delta, on_top = opened.js(LABELS)
    for day in DAYS:
        assert day in difficulty
        assert day in delta
    assert "2022-03-08 · 6 alerts" in delta
    assert "Alerts (12)" in on_top
    assert "Hatch outside support" in on_top


def test_one_raster_at_a_time(opened: Page) -> None:
    assert opened.js(SHOWING) == "Difficulty · 2022-03-08"
    assert opened.js(IMAGES) == ["difficulty on 2022-03-08", "outside the probe's support"]
    choose(opened, "Delta", "2020-01-28")
    assert opened.js(IMAGES) == ["delta on 2020-01-28"]
    assert opened.js(SHOWING) == "Delta · 2020-01-28"
    assert opened.js("document.querySelectorAll('input[type=radio]:checked').length") == 1
    legends = ".geoelle-side .geoelle-only-"
    assert opened.js(f"getComputedStyle(document.querySelector('{legends}difficulty')).display") == "none"
    assert opened.js(f"getComputedStyle(document.querySelector('{legends}delta')).display") == "block"
    choose(opened, "Difficulty", "2020-01-13")
    assert opened.js(IMAGES) == ["difficulty on 2020-01-13", "outside the probe's support"]
    choose(opened, "Delta", "No raster")
    assert opened.js(IMAGES) == []
    assert opened.js(SHOWING) == "no raster"


def test_alerts_follow_the_date_and_the_switch(opened: Page) -> None:
    assert opened.js(N_ALERTS) == 6
    choose(opened, "Difficulty", "2020-01-13")
    assert opened.js(N_ALERTS) == 0
    choose(opened, "Delta", "2020-01-28")
    assert opened.js(N_ALERTS) == 6
    choose(opened, "Delta", "No raster")
    assert opened.js(N_ALERTS) == 12
    choose(opened, "On top", "Alerts")
    assert opened.js(N_ALERTS) == 0
    choose(opened, "Difficulty", "2022-03-08")
    assert opened.js(N_ALERTS) == 0
    choose(opened, "On top", "Alerts")
    assert opened.js(N_ALERTS) == 6


def test_hatch_can_be_taken_off(opened: Page) -> None:
    choose(opened, "On top", "Hatch")
    assert opened.js(IMAGES) == ["difficulty on 2022-03-08"]
    choose(opened, "Difficulty", "2020-01-28")
    assert opened.js(IMAGES) == ["difficulty on 2020-01-28"]


def click_alert(page: Page) -> str:
    """Click the first-ranked alert shown; the popup's text."""
    place = page.js(
        "(() => { const r = [...document.querySelectorAll('path.geoelle-alert')].pop().getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    page.click(*place)
    page.wait("document.querySelector('.leaflet-popup-content') !== null")
    return str(page.js("document.querySelector('.leaflet-popup-content').innerText"))


def test_popup_says_it_all(opened: Page) -> None:
    text = click_alert(opened)
    for part in (
        "Alert 1 · 2022-03-08",
        "up: harder for the encoder than is normal here",
        "+0.4",
        "not enough looks",
        "pooled-quiet-looks",
        "first: past the alert knob once",
        "median of looks before and after",
        "from 3 looks",
        "S2A_2020-01-13",
        "S2B_2020-03-03",
        "S2A_2022-03-08",
    ):
        assert part in text


def test_nothing_overlaps_on_a_laptop(opened: Page) -> None:
    box = (
        "(s => { const r = document.querySelector(s).getBoundingClientRect();"
        "return [r.left, r.top, r.right, r.bottom]; })"
    )
    aoi = opened.js(f"{box}('path[stroke-dasharray=\"1 5\"]')")
    names = (
        ".geoelle-head",
        ".geoelle-side",
        ".leaflet-control-layers",
        ".leaflet-control-zoom",
        ".leaflet-control-scale",
    )
    for name in (*names, ".leaflet-control-attribution"):
        left, top, right, bottom = opened.js(f"{box}({name!r})")
        assert right <= aoi[0] or left >= aoi[2] or bottom <= aoi[1] or top >= aoi[3], name
        assert 0 <= left < right <= 1280
        assert 0 <= top < bottom <= 800


def test_on_a_phone(opened: Page, tmp_path: Path) -> None:
    opened.open(tmp_path / "map.html", width=390, height=844, mobile=True)
    assert opened.js("document.documentElement.scrollWidth") <= 390
    assert opened.js("getComputedStyle(document.querySelector('.leaflet-control-layers-list')).display") == "none"
    x, y = opened.js(
        "(() => { const r = document.querySelector('.leaflet-control-layers-toggle').getBoundingClientRect();"
        "return [r.x + 9, r.y + 9]; })()"
    )
    opened.click(x, y)
    opened.wait("getComputedStyle(document.querySelector('.leaflet-control-layers-list')).display === 'block'")
    choose(opened, "Delta", "2020-01-28")
    assert opened.js(SHOWING) == "Delta · 2020-01-28"


def test_hostile_text_shows_as_text(page: Page, real_assets: Path, tmp_path: Path) -> None:
    aoi = attributes()["geoelle:aoi"]
    aoi["features"][0]["properties"]["name"] = EVIL
    difficulty = make_difficulty(**{"geoelle:aoi": aoi, "geoelle:attribution": EVIL})
    delta = make_delta(difficulty)
    alerts = make_alerts(delta, difficulty, 1)
    alerts["chip_id"] = EVIL
    alerts["before_item_ids"] = [[EVIL]]
    out = tmp_path / "map.html"
    webmap.map(difficulty, delta=delta, alerts=alerts, out=out, cache_dir=real_assets)
    page.problems.clear()
    page.open(out)
    assert page.js("document.title") == f"Difficulty of {EVIL}"
    assert page.js("document.querySelector('h1').textContent") == f"Difficulty of {EVIL}"
    assert EVIL in page.js("document.querySelector('.leaflet-control-attribution').textContent")
    assert click_alert(page).count(EVIL) == 2
    assert page.js("document.querySelectorAll('img:not(.leaflet-image-layer)').length") == 0
    assert page.problems == []


def test_the_policy_stops_what_escaping_would_miss(opened: Page) -> None:
    opened.js("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x\" onerror=\"hit=1\">')")
    time.sleep(0.3)
    assert opened.js("typeof hit") == "undefined"
    assert opened.problems
    assert all("Content Security Policy" in problem for problem in opened.problems)
    opened.problems.clear()
    opened.requests.clear()


def test_a_linked_map_without_network_says_so(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoelle.webmap.assets.KNOWN_ASSETS", ())
    out = tmp_path / "map.html"
    summary = webmap.map(make_difficulty(), out=out, cache_dir=tmp_path, allow_npm=False)
    assert "no sha256 is recorded" in summary.notes[0]
    page.open(out)
    assert "there is no network" in page.js(SHOWING)
    page.problems.clear()
