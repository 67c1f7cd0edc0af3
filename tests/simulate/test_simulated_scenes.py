"""What a simulation writes, read back by the tools that users have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox

from geoelle.errors import AlreadyExistsError
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.simulate import Simulation, SimulationConfig, make_scenes


def loads_with_odc(test: Callable[..., None]) -> Callable[..., None]:
    """odc-geo still calls what affine 3.1 and shapely 2.2 are about to retire; nothing here can change that."""
    for message in (
        "ignore:Use `@` matmul:PendingDeprecationWarning",
        "ignore:The 'shapely.ops.transform:DeprecationWarning",
    ):
        test = pytest.mark.filterwarnings(message)(test)
    return test


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read(1)


def epsg(item: pystac.Item) -> int:
    # As written: pystac turns proj:epsg into proj:code while it reads.
    return int(json.loads(Path(item.self_href).read_text())["properties"]["proj:epsg"])


def utm_grid(simulation: Simulation, code: int) -> GeoBox:
    """A 10 m grid over the area."""
    bounds = geopandas.read_file(simulation.aoi).to_crs(code).total_bounds
    return GeoBox.from_bbox(BoundingBox(*bounds, crs=f"EPSG:{code}"), resolution=10)


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_catalog_opens_and_every_link_leads_somewhere(two_zones: Simulation) -> None:
    catalog = pystac.Catalog.from_file(str(two_zones.catalog))
    (collection,) = catalog.get_children()
    assert collection.id == two_zones.collection == "simulated-s2-l2a"
    items = list(catalog.get_items(recursive=True))
    assert sorted(item.id for item in items) == sorted(two_zones.item_ids)
    west, south, east, north = collection.extent.spatial.bboxes[0]
    for item in items:
        assert item.collection_id == collection.id
        assert west <= item.bbox[0] < item.bbox[2] <= east
        assert south <= item.bbox[1] < item.bbox[3] <= north
        assert set(item.assets) == {"B02", "B03", "B04", "B08", "SCL"}
        assert item.datetime is not None
        assert item.datetime.hour == 10
        for asset in item.assets.values():
            assert not asset.href.startswith("/")
            assert Path(asset.get_absolute_href()).is_file()
    assert {epsg(item) for item in items} == {32631, 32632}


def test_everything_says_that_it_is_simulated(two_zones: Simulation) -> None:
    for path in two_zones.root.rglob("*.tif"):
        with rasterio.open(path) as source:
            assert source.tags()["SIMULATED"].startswith("SIMULATED")
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    for path in two_zones.root.rglob("*.json"):
        assert "simulated" in path.read_text().lower()
    catalog = pystac.Catalog.from_file(str(two_zones.catalog))
    assert "SIMULATED" in catalog.title
    for item in catalog.get_items(recursive=True):
        assert item.properties["geoelle:simulated"] is True
        assert item.id.startswith("SIM_")


def test_item_says_what_the_pixels_are(two_zones: Simulation) -> None:
    for item in pystac.Catalog.from_file(str(two_zones.catalog)).get_items(recursive=True):
        with rasterio.open(two_zones.asset_path(item.id, "B04")) as source:
            assert source.dtypes == ("uint16",)
            assert source.nodata == item.assets["B04"].extra_fields["raster:bands"][0]["nodata"] == 0
            assert list(source.shape) == item.properties["proj:shape"]
            assert list(source.transform)[:6] == item.properties["proj:transform"][:6]
            assert source.crs.to_epsg() == epsg(item)
            red = source.read(1)
        scl = read(two_zones.asset_path(item.id, "SCL"))
        assert np.array_equal(red == 0, scl == 0)
        assert set(np.unique(scl)) <= {0, 3, 4, 5, 6, 7, 8, 9, 10}
        seen = scl[scl > 0]
        cloud = 100.0 * np.isin(seen, (8, 9, 10)).mean()
        assert item.properties["eo:cloud_cover"] == pytest.approx(cloud, abs=1e-3)
        assert item.properties["s2:nodata_pixel_percentage"] == pytest.approx(100 * (scl == 0).mean(), abs=1e-3)
        clear = red[np.isin(scl, (4, 5, 6))] * 1e-4
        assert np.quantile(clear, 0.95) < 0.3


def test_swath_edge_leaves_nodata(two_zones: Simulation) -> None:
    by_date: dict[str, list[float]] = {}
    for item in pystac.Catalog.from_file(str(two_zones.catalog)).get_items(recursive=True):
        by_date.setdefault(str(item.datetime), []).append(item.properties["s2:nodata_pixel_percentage"])
    assert len(by_date) == 5
    assert all(max(shares) > 0 for shares in by_date.values())
    assert all(min(shares) < 100 for shares in by_date.values())


@loads_with_odc
def test_granules_agree_where_they_overlap(tmp_path: Path) -> None:
    config = SimulationConfig.small(
        width_px=260, height_px=200, centre_lon=6.0, layout="two-zones", dates=("2022-06-04",), cloud_share=0.3,
        overlap_m=500.0,
    )  # fmt: skip
    simulation = make_scenes(tmp_path / "sim", config=config)
    items = list(pystac.Catalog.from_file(str(simulation.catalog)).get_items(recursive=True))
    assert len(items) == 2
    grid = utm_grid(simulation, 32632)
    kwargs = {"geobox": grid, "groupby": "id"}
    bands = odc.stac.load(items, bands=["B04", "B08"], resampling="bilinear", **kwargs)
    scl = odc.stac.load(items, bands=["SCL"], resampling="nearest", **kwargs)["SCL"].values
    both = (scl > 0).all(axis=0)
    assert 0.1 < both.mean() < 0.6
    assert (scl > 0).any(axis=0).mean() > 0.9
    for name, limit in (("B04", 0.97), ("B08", 0.97)):
        one, other = (bands[name].values[k][both].astype(float) for k in (0, 1))
        assert np.corrcoef(one, other)[0, 1] > limit
        assert abs(np.median(one - other)) < 10
    assert (scl[0][both] == scl[1][both]).mean() > 0.85


@loads_with_odc
def test_solar_day_mosaic_has_no_hole(two_zones: Simulation) -> None:
    items = list(pystac.Catalog.from_file(str(two_zones.catalog)).get_items(recursive=True))
    grid = utm_grid(two_zones, 32631)
    data = odc.stac.load(items, bands=["B04", "SCL"], geobox=grid, groupby="solar_day")
    assert data.sizes["time"] == 5
    # The swath edge hides a part of each date; together the dates see the whole area but its tilted corners.
    assert ((data.SCL > 0).any("time")).mean() > 0.93


def test_area_is_one_valid_polygon_over_both_zones(two_zones: Simulation) -> None:
    area = geopandas.read_file(two_zones.aoi)
    assert len(area) == 1
    assert area.crs.to_epsg() == 4326
    assert {"aoi_id", "name"} <= set(area.columns)
    assert area.geometry.is_valid.all()
    assert area.total_bounds[0] < 6.0 < area.total_bounds[2]


def test_same_config_same_bytes(small: Simulation, tmp_path: Path) -> None:
    again = make_scenes(tmp_path / "again", config=SimulationConfig.small())
    assert hashes(again.root) == hashes(small.root)
    other = make_scenes(tmp_path / "other", config=SimulationConfig.small(seed=5))
    assert other.digest != small.digest
    item = small.item_ids[0]
    assert not np.array_equal(read(small.asset_path(item, "B04")), read(other.asset_path(item, "B04")))


def test_a_date_does_not_depend_on_the_dates_around_it(small: Simulation, tmp_path: Path) -> None:
    alone = make_scenes(tmp_path / "alone", config=SimulationConfig.small(dates=("2022-06-04",)))
    (item,) = alone.item_ids
    assert np.array_equal(read(alone.asset_path(item, "B08")), read(small.asset_path(item, "B08")))


def test_second_call_does_nothing(small: Simulation) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.root.rglob("*")}
    calls: list[int] = []
    again = make_scenes(small.root, config=SimulationConfig.small(), progress=lambda done, of, what: calls.append(done))
    assert not again.made
    assert small.made
    assert (again.item_ids, again.events, again.dates) == (small.item_ids, small.events, small.dates)
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in small.root.rglob("*")} == before


def test_half_written_folder_is_redone(small: Simulation, tmp_path: Path) -> None:
    out = tmp_path / "sim"

    def die(done: int, of: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(out, config=SimulationConfig.small(), progress=die)
    assert not (out / "catalog.json").exists()
    assert make_scenes(out, config=SimulationConfig.small()).made
    assert hashes(out) == hashes(small.root)


def test_other_content_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(AlreadyExistsError, match="no simulation"):
        make_scenes(out, config=SimulationConfig.small(), overwrite=True)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    with pytest.raises(AlreadyExistsError, match="is a file"):
        make_scenes(out / "thesis.txt", config=SimulationConfig.small())


def test_another_config_needs_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "sim"
    one_date = SimulationConfig.small(dates=("2022-06-04",), collection="old")
    make_scenes(out, config=one_date)
    before = hashes(out)
    with pytest.raises(AlreadyExistsError, match="another config"):
        make_scenes(out, config=SimulationConfig.small(dates=("2022-07-14",)))
    assert hashes(out) == before
    made = make_scenes(out, config=SimulationConfig.small(dates=("2022-07-14",)), overwrite=True)
    assert made.made
    assert made.dates == ("2022-07-14",)
    assert not (out / "old").exists()


def test_without_scl_and_without_declared_nodata(tmp_path: Path) -> None:
    config = SimulationConfig.small(scl=False, nodata=None, edge_share=1.0, dates=("2022-06-04",))
    simulation = make_scenes(tmp_path / "sim", config=config)
    (item,) = pystac.Catalog.from_file(str(simulation.catalog)).get_items(recursive=True)
    assert "SCL" not in item.assets
    assert "eo:cloud_cover" not in item.properties
    assert "nodata" not in item.assets["B04"].extra_fields["raster:bands"][0]
    with rasterio.open(simulation.asset_path(item.id, "B04")) as source:
        assert source.nodata is None
        assert (source.read(1) == 0).any()


def test_nodata_may_be_65535(tmp_path: Path) -> None:
    config = SimulationConfig.small(nodata=65535, edge_share=1.0, dates=("2022-06-04",))
    simulation = make_scenes(tmp_path / "sim", config=config)
    red = read(simulation.asset_path(simulation.item_ids[0], "B04"))
    scl = read(simulation.asset_path(simulation.item_ids[0], "SCL"))
    assert np.array_equal(red == 65535, scl == 0)
    assert (scl == 0).any()


def test_lonlat_grid_has_pixels_that_are_not_square(tmp_path: Path) -> None:
    simulation = make_scenes(tmp_path / "sim", config=SimulationConfig.small(layout="lonlat"))
    with rasterio.open(simulation.asset_path(simulation.item_ids[0], "B04")) as source:
        assert source.crs.to_epsg() == 4326
        assert source.res[0] > 1.3 * source.res[1]
        assert (source.read(1) > 0).all()


def test_offset_is_in_the_pixels_and_declared(small: Simulation, tmp_path: Path) -> None:
    simulation = make_scenes(tmp_path / "sim", config=SimulationConfig.small(offset_dn=1000))
    item = pystac.Item.from_file(str(next(simulation.root.glob("*/*/*.json"))))
    assert item.assets["B04"].extra_fields["raster:bands"][0]["offset"] == pytest.approx(-0.1)
    assert item.properties["s2:processing_baseline"] >= "04.00"
    with_offset = read(simulation.asset_path(item.id, "B04")).astype(int)
    assert np.array_equal(with_offset - 1000, read(small.asset_path(item.id, "B04")))


def test_all_twelve_bands_at_another_gsd_and_in_the_south(tmp_path: Path) -> None:
    bands = tuple(band.name for band in SENTINEL_2_L2A.bands)
    config = SimulationConfig.small(
        bands=bands, gsd_m=20.0, centre_lat=-33.0, width_px=40, height_px=70, dates=("2022-06-04",)
    )
    simulation = make_scenes(tmp_path / "sim", config=config)
    (item,) = pystac.Catalog.from_file(str(simulation.catalog)).get_items(recursive=True)
    assert len(item.assets) == 13
    assert epsg(item) == 32731
    assert item.properties["gsd"] == 20.0


def test_overcast_dates_are_what_was_asked_for(tmp_path: Path) -> None:
    config = SimulationConfig.small(cloud_share=(0.0, 0.5, 1.0))
    simulation = make_scenes(tmp_path / "sim", config=config)
    items = sorted(
        pystac.Catalog.from_file(str(simulation.catalog)).get_items(recursive=True), key=lambda item: item.datetime
    )
    cover = [item.properties["eo:cloud_cover"] for item in items]
    assert cover[0] == 0.0
    assert cover[1] == pytest.approx(50.0, abs=15.0)
    assert cover[2] > 95.0
    white = [read(simulation.asset_path(item.id, "B02")).mean() for item in items]
    assert white[0] < white[1] < white[2]


def test_shadows_are_dark_and_marked(tmp_path: Path) -> None:
    config = SimulationConfig.small(width_px=300, height_px=300, cloud_share=0.2, dates=("2022-06-04",))
    clear = make_scenes(
        tmp_path / "clear", config=SimulationConfig.small(width_px=300, height_px=300, dates=("2022-06-04",))
    )
    cloudy = make_scenes(tmp_path / "cloudy", config=config)
    (item,) = cloudy.item_ids
    shadow = read(cloudy.asset_path(item, "SCL")) == 3
    assert shadow.mean() > 0.02
    ratio = read(cloudy.asset_path(item, "B08"))[shadow] / read(clear.asset_path(item, "B08"))[shadow]
    assert np.median(ratio) < 0.75


def test_default_config_is_the_demo() -> None:
    config = SimulationConfig()
    assert 12 <= len(config.days) <= 16
    assert config.width_m * config.height_m >= 32 * 2_000.0**2
    assert {event.kind for event in config.events} == {"burn", "flood", "clearing"}


def test_json_is_plain(two_zones: Simulation) -> None:
    for path in two_zones.root.rglob("*.json"):
        json.loads(path.read_text())
    assert not list(two_zones.root.rglob("*.part"))
    assert not (two_zones.root / "simulation.unfinished").exists()
