"""What a map holds, what its summary says, and what is refused."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
from webmap_stores import DAYS, EVIL, attributes, make_alerts, make_delta, make_difficulty

from geoelle import webmap
from geoelle.errors import MapError
from geoelle.webmap import MapSummary


class Loads(html.parser.HTMLParser):
    """Every address that opening the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.loads += re.findall(r"url\(\s*[\"']?((?!data:|#)[^\"')]+)", text)
        self.loads += re.findall(r"@import[^;]+", text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster") and not (value or "").startswith(
                ("data:", "#")
            ):
                self.loads.append(f"{tag} {value}")


def test_everything_is_in_one_file(
    difficulty: xr.Dataset, delta: xr.Dataset, alerts: gpd.GeoDataFrame, real_assets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder" / "map.html"
    summary = webmap.map(difficulty, delta=delta, alerts=alerts, out=out, max_alerts=20, cache_dir=real_assets)
    assert summary == MapSummary(out, out.stat().st_size, 4, 4, 20, 30, True, ())
    text = out.read_text()
    assert Loads(text).loads == []
    assert "Leaflet 1.9.3" in text
    assert "jquery" not in text.lower()
    assert "bootstrap" not in text.lower()
    assert text.count("L.imageOverlay(") == 4 + 4 + 4  # difficulty, its hatch, delta
    assert summary.bytes < 1_000_000
    for day in DAYS:
        assert f'"{day}"' in text


def test_the_same_input_gives_the_same_bytes(
    difficulty: xr.Dataset, delta: xr.Dataset, alerts: gpd.GeoDataFrame, fake_assets: Path, tmp_path: Path
) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        webmap.map(difficulty, delta=delta, alerts=alerts, out=tmp_path / name, cache_dir=fake_assets)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    shuffled = difficulty.isel(time=[2, 0, 3, 1])
    webmap.map(shuffled, delta=delta, alerts=alerts, out=tmp_path / "c.html", cache_dir=fake_assets)
    assert (tmp_path / "c.html").read_bytes() == pages[0]


def test_another_process_gives_the_same_bytes(difficulty: xr.Dataset, real_assets: Path, tmp_path: Path) -> None:
    webmap.map(difficulty, out=tmp_path / "here.html", cache_dir=real_assets)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from webmap_stores import make_difficulty\nfrom geoelle.webmap import map\n"
        f"map(make_difficulty(), out={str(tmp_path / 'there.html')!r}, cache_dir={str(real_assets)!r})\n"
    )
    root = Path(webmap.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=root, env={"PYTHONHASHSEED": "5", "PYTHONPATH": str(root)}
    )
    assert (tmp_path / "here.html").read_bytes() == (tmp_path / "there.html").read_bytes()


def test_text_from_data_is_only_text(fake_assets: Path, tmp_path: Path) -> None:
    base = attributes()
    encoder = {**base["geoelle:encoder"], "name": EVIL, "loss_definition": EVIL, "bands": [EVIL], "loss_kind": EVIL}
    aoi = base["geoelle:aoi"]
    aoi["features"][0]["properties"]["name"] = EVIL
    hostile = {
        "geoelle:encoder": encoder, "geoelle:aoi": aoi, "geoelle:attribution": EVIL, "geoelle:probe_origin": "shipped",
        "geoelle:probe": {"trained_on": EVIL, "digest": EVIL}, "geoelle:scenes": {EVIL: [EVIL]},
    }  # fmt: skip
    difficulty = make_difficulty(**hostile)
    difficulty["difficulty"].attrs["units"] = EVIL
    delta = make_delta(
        difficulty,
        **{"geoelle:reference": {"kind": EVIL, "window_days": EVIL, "excluded_dates": [EVIL]}, "geoelle:p_kind": EVIL,
           "geoelle:method": EVIL},
    )  # fmt: skip
    alerts = make_alerts(delta, difficulty, 5)
    for column in ("chip_id", "state", "p_kind", "reference_kind", "direction"):
        alerts[column] = EVIL
    alerts["before_item_ids"] = [[EVIL, "x"]] * 5
    alerts["after_item_ids"] = [np.array([EVIL])] * 5
    out = tmp_path / "map.html"
    webmap.map(difficulty, delta=delta, alerts=alerts, out=out, cache_dir=fake_assets)
    text = out.read_text()
    assert "<img src=x" not in text
    # Neither run as a Jinja template (49), nor left for one.
    assert "{{ 7" not in text
    assert "alert(1)&gt;49" not in text
    assert "&#123;&#123; 7*7 &#125;&#125;" in text
    assert "img" not in Loads(text).tags
    assert text.lower().count("<script") == text.lower().count("</script>")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "unsafe-inline" not in policy.group(1).split("script-src")[1]


def test_links_where_leaflet_cannot_be_had(
    difficulty: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", cut)
    out = tmp_path / "map.html"
    summary = webmap.map(difficulty, out=out, cache_dir=tmp_path / "none", allow_npm=False)
    assert not summary.self_contained
    assert [note.split(",")[0] for note in summary.notes] == [
        f"Links {name} from the network"
        for name in (
            "leaflet.js",
            "leaflet.css",
            "leaflet.groupedlayercontrol.min.js",
            "leaflet.groupedlayercontrol.min.css",
        )
    ]
    assert all("no network" in note and "npm was not allowed" in note for note in summary.notes)
    text = out.read_text()
    loads = Loads(text).loads
    assert len(loads) == 4
    assert (
        text.index("leaflet@1.9.3/dist/leaflet.js")
        < text.index("groupedlayercontrol.min.js")
        < text.index("geoelleView")
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "https://cdn.jsdelivr.net" in policy.group(1)


def test_what_nobody_may_overlook_is_said(fake_assets: Path, tmp_path: Path) -> None:
    encoder = {**attributes()["geoelle:encoder"], "loss_kind": "proxy"}
    ds = make_difficulty(**{
        "geoelle:simulated": True, "geoelle:probe_origin": "shipped", "geoelle:encoder": encoder,
        "geoelle:probe": {"origin": "shipped", "trained_on": "EuroSAT"},
    })  # fmt: skip
    webmap.map(ds, out=tmp_path / "map.html", cache_dir=fake_assets)
    text = (tmp_path / "map.html").read_text()
    assert "<title>SIMULATED: Difficulty of Boadella reservoir</title>" in text
    assert text.count("SIMULATED") >= 3
    assert "LOSS: PROXY" in text
    assert "proxy: not the encoder" in text
    assert "COLD START" in text
    assert "The probe shipped with compact-rgb, trained on EuroSAT. Levels may be off, and on land unlike that" in text
    assert "Contains modified Copernicus Sentinel data [2020-2022]" in text


def test_few_blocks_and_coarse_imagery_are_said(fake_assets: Path, tmp_path: Path) -> None:
    few = {"geoelle:probe_origin": "local", "geoelle:probe": {"origin": "local", "n_blocks": 4}}
    webmap.map(make_difficulty(**few, **{"geoelle:native_gsd_m": 20.0}), out=tmp_path / "a.html", cache_dir=fake_assets)
    text = (tmp_path / "a.html").read_text()
    assert "fitted on 4 independent blocks, fewer than 30" in text
    assert "Imagery of 20 m was resampled to the 10 m that the encoder is fed" in text
    enough = {"geoelle:probe_origin": "local", "geoelle:probe": {"origin": "local", "n_blocks": 31}}
    webmap.map(
        make_difficulty(**enough, **{"geoelle:native_gsd_m": 10}), out=tmp_path / "b.html", cache_dir=fake_assets
    )
    text = (tmp_path / "b.html").read_text()
    assert "Few blocks" not in text
    assert "Resampled" not in text


def test_an_own_loss_and_probe_raise_no_flag(difficulty: xr.Dataset, fake_assets: Path, tmp_path: Path) -> None:
    webmap.map(difficulty, out=tmp_path / "map.html", cache_dir=fake_assets, title="Mine")
    text = (tmp_path / "map.html").read_text()
    assert "<title>Mine</title>" in text
    assert 'class="geoelle-badge"' not in text
    assert 'class="geoelle-warn"' not in text
    assert "41 independent blocks" in text


def test_a_date_without_data_is_left_out_and_named(difficulty: xr.Dataset, fake_assets: Path, tmp_path: Path) -> None:
    difficulty["difficulty"][1] = np.nan
    difficulty["difficulty"][0, 0, 0] = np.inf
    summary = webmap.map(difficulty, out=tmp_path / "map.html", cache_dir=fake_assets)
    assert summary.n_dates == 3
    assert summary.notes == ("Left out, for want of any difficulty: 2020-01-28.",)


def test_a_store_with_the_least_attributes_is_drawn(difficulty: xr.Dataset, fake_assets: Path, tmp_path: Path) -> None:
    for name in ("geoelle:aoi", "geoelle:scenes", "geoelle:attribution", "geoelle:probe", "geoelle:simulated"):
        del difficulty.attrs[name]
    difficulty.attrs["geoelle:encoder"] = {}
    difficulty.attrs["geoelle:scenes"] = {DAYS[0]: []}
    webmap.map(difficulty, out=tmp_path / "map.html", cache_dir=fake_assets)
    assert "Difficulty map" in (tmp_path / "map.html").read_text()


def test_basemap_is_the_users_choice(difficulty: xr.Dataset, fake_assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.html"
    summary = webmap.map(difficulty, out=out, cache_dir=fake_assets, basemap="OpenStreetMap")
    assert not summary.self_contained
    assert "basemap OpenStreetMap" in summary.notes[0]
    assert "img-src data: https:" in out.read_text()
    with pytest.raises(MapError, match="No basemap is called 'Nowhere'"):
        webmap.map(difficulty, out=out, cache_dir=fake_assets, basemap="Nowhere")


def test_bad_input_leaves_the_old_map(difficulty: xr.Dataset, fake_assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.html"
    webmap.map(difficulty, out=out, cache_dir=fake_assets)
    before = out.read_bytes()
    difficulty["difficulty"][:] = np.nan
    with pytest.raises(MapError, match="no finite difficulty on any date"):
        webmap.map(difficulty, out=out, cache_dir=fake_assets)
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["map.html"]


def test_parts_of_different_runs_are_refused(
    difficulty: xr.Dataset, delta: xr.Dataset, alerts: gpd.GeoDataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "map.html"

    def refused(match: str, **parts: object) -> None:
        with pytest.raises(MapError, match=match):
            webmap.map(difficulty, out=out, cache_dir=tmp_path, allow_npm=False, **parts)  # type: ignore[arg-type]
        assert not out.exists()

    refused("different grids: coordinate 'y' has 36 values", delta=delta.isel(y=slice(5, None)))
    refused("different grids: coordinate 'x'", delta=delta.assign_coords(x=delta["x"] + 10))
    other = delta.assign_coords(spatial_ref=((), np.int64(0), {"crs_wkt": "another"}))
    refused("different CRSs", delta=other)
    refused("Expected EPSG:4326", alerts=alerts.to_crs(32631))
    refused("Alerts are dated 1999-01-01", alerts=alerts.assign(date="1999-01-01"))
    refused("Alert 30 has no polygon", alerts=alerts.set_geometry(alerts.geometry.boundary))
    refused("lacks|found columns", alerts=alerts.drop(columns="z"))
    refused("'delta'", delta=difficulty)
    refused("max_alerts is -1", max_alerts=-1)


def test_unusable_stores_and_places_are_refused(difficulty: xr.Dataset, fake_assets: Path, tmp_path: Path) -> None:
    with pytest.raises(MapError, match="is a folder"):
        webmap.map(difficulty, out=tmp_path, cache_dir=fake_assets)
    (tmp_path / "file").write_text("")
    with pytest.raises(MapError, match="cannot be written"):
        webmap.map(difficulty, out=tmp_path / "file" / "map.html", cache_dir=fake_assets)
    broken = difficulty.assign_attrs({"geoelle:grid": {"epsg": 32631}})
    with pytest.raises(MapError, match="stride_m"):
        webmap.map(broken, out=tmp_path / "map.html", cache_dir=fake_assets)
    broken = difficulty.assign_attrs({"geoelle:aoi": {"features": [{"geometry": {"type": "Nonsense"}}]}})
    with pytest.raises(MapError, match="not a GeoJSON FeatureCollection"):
        webmap.map(broken, out=tmp_path / "map.html", cache_dir=fake_assets)
    doubled = difficulty.assign_coords(time=difficulty["time"].values[[0, 0, 1, 2]])
    with pytest.raises(MapError, match="fall on one day"):
        webmap.map(doubled, out=tmp_path / "map.html", cache_dir=fake_assets)


def test_importing_brings_no_folium() -> None:
    program = "import sys, geoelle.webmap; sys.exit(any(m in sys.modules for m in ('folium', 'rasterio', 'geopandas')))"
    root = Path(webmap.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_what_lies_outside_the_support_does_not_set_the_scale(
    difficulty: xr.Dataset, fake_assets: Path, tmp_path: Path
) -> None:
    """A hazy date predicted at a hundred times the level must not leave one colour for the others."""

    def top(ds: xr.Dataset) -> float:
        webmap.map(ds, out=tmp_path / "map.html", cache_dir=fake_assets)
        found = re.search(r"<span>≥ ([0-9.e+]+)</span>", (tmp_path / "map.html").read_text())
        assert found is not None
        return float(found.group(1))

    usual = top(difficulty)
    difficulty["difficulty"][0] += 100.0
    assert top(difficulty) > 50
    difficulty["support"][0] = 0
    assert top(difficulty) < 1.1 * usual
    assert "inside the probe" in (tmp_path / "map.html").read_text()
    difficulty["support"][:] = 0  # nothing inside: then everything counts
    assert top(difficulty) > 50


def test_a_date_whose_alerts_rank_too_low_does_not_look_quiet(
    difficulty: xr.Dataset, delta: xr.Dataset, alerts: gpd.GeoDataFrame, fake_assets: Path, tmp_path: Path
) -> None:
    alerts.loc[20:, "date"] = DAYS[1]
    webmap.map(difficulty, delta=delta, alerts=alerts, out=tmp_path / "map.html", cache_dir=fake_assets, max_alerts=15)
    text = (tmp_path / "map.html").read_text()
    for label in (r"2020-01-28 \u00b7 0 of 10 alerts", r"2022-03-08 \u00b7 15 of 20 alerts", "Alerts (15 of 30)"):
        assert label in text


def test_how_clouds_were_masked_is_said(fake_assets: Path, tmp_path: Path) -> None:
    masks = {"2020-01-13": "scl", "2020-01-28": "heuristic", "2020-03-03": "heuristic and none", "2022-03-08": "none"}
    webmap.map(make_difficulty(**{"geoelle:masks": masks}), out=tmp_path / "a.html", cache_dir=fake_assets)
    text = (tmp_path / "a.html").read_text()
    assert "Clouds masked heuristically.</strong> On 2 of 4 dates" in text
    assert "Clouds not masked.</strong> On 2 of 4 dates" in text
    for quiet in ({"2020-01-13": "scl"}, {"2020-01-13": "not needed"}, {}):
        webmap.map(make_difficulty(**{"geoelle:masks": quiet}), out=tmp_path / "b.html", cache_dir=fake_assets)
        text = (tmp_path / "b.html").read_text()
        assert "heuristically" not in text
        assert "not masked" not in text


def test_what_the_encoder_was_not_trained_on_is_said(fake_assets: Path, tmp_path: Path) -> None:
    notes = ["Read at 10 m; the encoder was trained at 30 m.", "<b>& bold claims"]
    webmap.map(make_difficulty(**{"geoelle:encoder_notes": notes}), out=tmp_path / "a.html", cache_dir=fake_assets)
    text = (tmp_path / "a.html").read_text()
    assert "Unlike the encoder's training.</strong> Read at 10 m; the encoder was trained at 30 m. &lt;b&gt;" in text
    webmap.map(make_difficulty(**{"geoelle:encoder_notes": 7}), out=tmp_path / "b.html", cache_dir=fake_assets)
    assert "Unlike the encoder" not in (tmp_path / "b.html").read_text()
