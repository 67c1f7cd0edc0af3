"""A map of several zones: one switch per date for all of them, one scale, and no seam at the antimeridian."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from PIL import Image
from pyproj import CRS, Transformer
from webmap_stores import DAYS, SHAPE, STRIDE_M, make_alerts, make_delta, make_difficulty

from geoelle import webmap
from geoelle.errors import MapError
from geoelle.webmap.layers import dated_zones, draw_layers, middle_of
from geoelle.webmap.vectors import alert_features, aoi_outline, bounds_of

NORTH = 5_660_000.0
# About 51 degrees north the antimeridian lies near 710 km in zone 60 and near 290 km in zone 1.
WEST = {"32601": 290_000.0, "32660": 710_000.0 - STRIDE_M * SHAPE[1] + 500.0}


def moved(ds: xr.Dataset, zone: str) -> xr.Dataset:
    """A store of another zone with the same values."""
    wkt = CRS.from_epsg(int(zone)).to_wkt()
    y = NORTH - STRIDE_M * (0.5 + np.arange(SHAPE[0]))
    x = WEST[zone] + STRIDE_M * (0.5 + np.arange(SHAPE[1]))
    there = ds.assign_coords(y=y, x=x, spatial_ref=((), np.int64(0), {"crs_wkt": wkt, "spatial_ref": wkt}))
    there.attrs |= {
        "geoelle:grid": {**ds.attrs["geoelle:grid"], "epsg": int(zone)},
        "geoelle:aoi": {
            "type": "FeatureCollection",
            "features": [{
                "type": "Feature", "properties": {"name": "Amchitka"},
                "geometry": shapely.geometry.mapping(
                    shapely.union_all([shapely.box(179.9, 51, 180, 51.05), shapely.box(-180, 51, -179.9, 51.05)])
                ),
            }],
        },
    }  # fmt: skip
    return there


@pytest.fixture
def zones(difficulty: xr.Dataset) -> dict[str, xr.Dataset]:
    return {zone: moved(difficulty.copy(deep=True), zone) for zone in WEST}


@pytest.fixture
def deltas(zones: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    return {zone: moved(make_delta(ds), zone) for zone, ds in zones.items()}


def overlays(page: str) -> list[tuple[float, float, float, float]]:
    """West, south, east, north of every image."""
    found = re.findall(r"L\.imageOverlay\(\s*\"data:[^\"]+\",\s*(\[\[.*?\]\])", page, re.DOTALL)
    return [(w, s, e, n) for (s, w), (n, e) in map(json.loads, found)]


def test_both_sides_of_the_antimeridian_in_one_map(
    zones: dict[str, xr.Dataset], deltas: dict[str, xr.Dataset], fake_assets: Path, tmp_path: Path
) -> None:
    summary = webmap.map(zones, delta=deltas, out=tmp_path / "map.html", cache_dir=fake_assets)
    assert (summary.n_dates, summary.n_delta_dates) == (4, 4)
    page = (tmp_path / "map.html").read_text()
    images = overlays(page)
    assert len(images) == 2 * (4 + 4 + 4)  # of both zones: difficulty, its hatch, delta
    assert len(set(images)) == 2
    assert all(179 < w < e < 181 for w, _, e, _ in images)
    (left, right) = sorted(set(images))
    assert left[2] > 180 > right[0] - 0.01
    assert "EPSG:32601, EPSG:32660" in page
    # One choice of the layer control per date and kind, as with one zone.
    assert page.count('kind:"difficulty"') == page.count('kind:"delta"') == 4
    view = json.loads(re.search(r"bounds:(\[\[.*?\]\])", page).group(1))  # type: ignore[union-attr]
    assert view == [[51, 179.9], [51.05, 180.1]]


def test_a_tree_is_as_good_as_a_mapping(zones: dict[str, xr.Dataset], fake_assets: Path, tmp_path: Path) -> None:
    webmap.map(zones, out=tmp_path / "a.html", cache_dir=fake_assets)
    webmap.map(xr.DataTree.from_dict(zones), out=tmp_path / "b.html", cache_dir=fake_assets)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_every_cell_centre_shows_its_own_value(zones: dict[str, xr.Dataset]) -> None:
    """On a map about 180 degrees as on any other."""
    levels = dated_zones(zones, "difficulty")
    assert middle_of(zones, levels) == 180
    drawn = draw_layers(zones, levels, None, 180.0)
    colours = drawn.difficulty_scale.rgb()
    mercator = Transformer.from_crs(4326, 3857, always_xy=True).transform
    for overlay, (zone, ds) in zip(drawn.rasters[0].overlays, zones.items(), strict=True):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay.png.split(",", 1)[1]))).convert("RGBA"))
        (south, west), (north, east) = overlay.bounds
        _, y0 = mercator(0, south)
        _, y1 = mercator(0, north)
        to_lonlat = Transformer.from_crs(int(zone), 4326, always_xy=True).transform
        expected = colours[drawn.difficulty_scale.index(ds["difficulty"].values[0])]
        for row in range(0, SHAPE[0], 5):
            for column in range(0, SHAPE[1], 5):
                lon, lat = to_lonlat(float(ds["x"][column]), float(ds["y"][row]))
                _, y = mercator(0, lat)
                at = (
                    int((y1 - y) / (y1 - y0) * image.shape[0]),
                    int((lon % 360 - west) / (east - west) * image.shape[1]),
                )
                assert (image[at][:3] == expected[row, column]).all()


def test_dates_and_scale_are_those_of_all_zones(
    zones: dict[str, xr.Dataset], fake_assets: Path, tmp_path: Path
) -> None:
    """A date that one zone lacks shows the other; a value of either can end the scale."""
    zones["32601"] = zones["32601"].isel(time=[0, 1, 2])
    zones["32660"] = zones["32660"].isel(time=[0, 2, 3]).copy(deep=True)
    zones["32660"]["difficulty"][0] += 10
    levels = dated_zones(zones, "difficulty")
    assert levels.dates == DAYS
    drawn = draw_layers(zones, levels, None, 180.0)
    assert [len(layer.overlays) for layer in drawn.rasters] == [2, 1, 2, 1]
    assert drawn.difficulty_scale.low < 1 < 10 < drawn.difficulty_scale.high
    zones["32601"]["difficulty"][1] = np.nan
    summary = webmap.map(zones, out=tmp_path / "map.html", cache_dir=fake_assets)
    assert summary.n_dates == 3
    assert summary.notes == (f"Left out, for want of any difficulty: {DAYS[1]}.",)


def test_a_zone_without_data_is_no_hindrance(zones: dict[str, xr.Dataset], fake_assets: Path, tmp_path: Path) -> None:
    zones["32660"]["difficulty"][:] = np.nan
    webmap.map(zones, out=tmp_path / "map.html", cache_dir=fake_assets)
    assert len(set(overlays((tmp_path / "map.html").read_text()))) == 1


def test_neighbours_elsewhere_need_no_turning(difficulty: xr.Dataset) -> None:
    levels = dated_zones({"": difficulty}, "difficulty")
    assert middle_of({"": difficulty}, levels) == 0


def test_alerts_and_outline_lie_on_the_images(zones: dict[str, xr.Dataset], deltas: dict[str, xr.Dataset]) -> None:
    alerts: gpd.GeoDataFrame = make_alerts(deltas["32601"], zones["32601"], 2)
    alerts["geometry"] = [
        shapely.box(-179.99, 51, -179.98, 51.01),
        shapely.union_all([shapely.box(179.99, 51, 180, 51.01), shapely.box(-180, 51, -179.99, 51.01)]),
    ]
    features = [f for fs in alert_features(alerts, None, 10, middle_deg=180.0).values() for f in fs]
    shapes = {f["id"]: shapely.geometry.shape(f["geometry"]) for f in features}
    assert shapes[1].bounds == pytest.approx((180.01, 51, 180.02, 51.01))
    assert shapes[2].geom_type == "Polygon"
    assert shapes[2].bounds == pytest.approx((179.99, 51, 180.01, 51.01))
    assert bounds_of(aoi_outline(zones["32601"].attrs, 180.0)) == ((51, 179.9), (51.05, 180.1))
    assert bounds_of(aoi_outline(zones["32601"].attrs)) == ((51, -180), (51.05, 180))


def test_zones_that_do_not_match_are_refused(
    zones: dict[str, xr.Dataset], deltas: dict[str, xr.Dataset], fake_assets: Path, tmp_path: Path
) -> None:
    with pytest.raises(MapError, match="has the zones 32601, 32660, delta 32660"):
        webmap.map(zones, delta={"32660": deltas["32660"]}, out=tmp_path / "map.html", cache_dir=fake_assets)
    with pytest.raises(MapError, match="different grids"):
        webmap.map(
            zones, delta={"32660": deltas["32601"], "32601": deltas["32660"]}, out=tmp_path / "m.html",
            cache_dir=fake_assets,
        )  # fmt: skip
    assert make_difficulty().sizes["time"] == 4
    assert list(tmp_path.glob("*.html")) == []
