"""AOIs from GeoPackage and by name, across the antimeridian, with heights, round a pole."""

from __future__ import annotations

import json
import sqlite3
import tomllib
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoelle.antimeridian import split_at_antimeridian
from geoelle.aoi import aoi_geometry, list_places, read_aoi
from geoelle.errors import AOIError
from geoelle.schema import check_aoi

WEST_HALF, EAST_HALF = shapely.box(178, -18, 180, -16), shapely.box(-180, -18, -179, -16)
FIJI = shapely.union_all([WEST_HALF, EAST_HALF])


# ---- across the antimeridian


@pytest.mark.parametrize(
    "ring",
    [
        [(178, -18), (181, -18), (181, -16), (178, -16)],  # beyond 180
        [(-182, -18), (-179, -18), (-179, -16), (-182, -16)],  # beyond -180
        [(178, -18), (-179, -18), (-179, -16), (178, -16)],  # a jump
        [(178, -18), (180, -18), (-180, -18), (-179, -18), (-179, -16), (-180, -16), (180, -16), (178, -16)],
    ],
)
def test_however_it_is_written(ring: list[tuple[float, float]]) -> None:
    for polygon in (shapely.Polygon(ring), shapely.Polygon(ring[::-1]), shapely.Polygon(ring[1:] + ring[:1])):
        found = aoi_geometry(read_aoi(polygon))
        assert found.is_valid
        assert found.symmetric_difference(FIJI).area < 1e-9


def test_a_bounding_box_with_west_beyond_east() -> None:
    for bbox in ((178, -18, -179, -16), (178, -18, 181, -16), (-182, -18, -179, -16)):
        assert aoi_geometry(read_aoi(bbox)).symmetric_difference(FIJI).area < 1e-9
    wide = aoi_geometry(read_aoi((-20, -10, 330, 10)))
    assert wide.area == pytest.approx(350 * 20)
    assert read_aoi((-180, -60, 180, 60)).geometry[0].area == 360 * 120


@pytest.mark.parametrize(
    "bbox",
    [(2.9, 42.3, 2.8, 42.4), (0, 0, 0, 1), (0, 0, 1, 0), (float("nan"), 0, 1, 1), (-170, 0, 200, 1), (170, 0, 169, 1)],
)
def test_a_box_that_is_none(bbox: tuple[float, float, float, float]) -> None:
    with pytest.raises(AOIError, match="empty, or reaches too far"):
        read_aoi(bbox)
    with pytest.raises(AOIError, match="not in longitude and latitude"):
        read_aoi((431_000, 5_360_000, 432_000, 5_361_000))
    for wrong in ((1, 2, 3), ("a", 0, 1, 1)):
        with pytest.raises(AOIError, match="not four numbers"):
            read_aoi(wrong)  # type: ignore[arg-type]


def test_a_hole_stays_a_hole() -> None:
    """Also one that is written on the other side of 180 than its shell."""
    shell = [(178, -20), (-178, -20), (-178, -10), (178, -10)]
    for hole in ([(179, -16), (-179, -16), (-179, -14), (179, -14)], [(-179.5, -16), (-179, -16), (-179, -14)]):
        found = aoi_geometry(read_aoi(shapely.Polygon(shell, [hole])))
        unwrapped = [(x % 360, y) for x, y in hole]
        assert found.area == pytest.approx(4 * 10 - shapely.Polygon(unwrapped).area)
        assert not found.contains(shapely.Point(-179.1, -15.7))


def test_parts_of_a_multipolygon_each_by_the_rule() -> None:
    jump = shapely.Polygon([(178, -18), (-179, -18), (-179, -16), (178, -16)])
    found = aoi_geometry(read_aoi(shapely.MultiPolygon([jump, shapely.box(10, 10, 11, 11)])))
    assert found.symmetric_difference(shapely.union_all([FIJI, shapely.box(10, 10, 11, 11)])).area < 1e-9


def test_what_needs_no_cut_is_left_as_it_is() -> None:
    coast = shapely.Point(2.8, 42.3).buffer(0.3, quad_segs=100)
    for geometry in (coast, shapely.box(-180, -10, -170, 10), FIJI, shapely.box(-180, -90, 180, 90)):
        assert split_at_antimeridian(geometry) is geometry
    # Antarctica as maps have it: along the coast, down the antimeridian and along the pole.
    lon = np.linspace(-180, 180, 73)
    south = shapely.Polygon([*zip(lon, -70 + 3 * np.sin(lon), strict=True), (180, -90), (-180, -90)])
    assert split_at_antimeridian(south) is south


def test_round_a_pole_and_round_the_earth_are_refused() -> None:
    lon = np.arange(0, 360, 10)
    cap = shapely.Polygon([((x + 180) % 360 - 180, 70) for x in lon])
    with pytest.raises(AOIError, match="'AOI' goes round a pole"):
        read_aoi(cap)
    with pytest.raises(AOIError, match="more than once round the Earth"):
        read_aoi(shapely.Polygon([(x, y) for y in (0, 1) for x in (range(-200, 201, 100), range(200, -201, -100))[y]]))
    bowtie = shapely.Polygon([(178, 0), (-178, 1), (-178, 0), (178, 1)])
    with pytest.raises(AOIError, match="not a valid polygon"):
        read_aoi(bowtie)


@settings(max_examples=80, deadline=None)
@given(
    lon=st.floats(-180, 180), lat=st.floats(-70, 70), radius=st.floats(0.001, 40), corners=st.integers(1, 8),
    turn=st.sampled_from(["jump", "beyond", "below"]),
)  # fmt: skip
def test_any_circle_anywhere(lon: float, lat: float, radius: float, corners: int, turn: str) -> None:
    """Written with jumps or beyond 180, it comes back valid, of the same area, and the same ground."""
    plain = shapely.Point(lon, np.clip(lat, -89 + radius, 89 - radius)).buffer(radius, quad_segs=corners)

    def written(xy: np.ndarray) -> np.ndarray:
        x = xy[:, 0]
        moved = {"jump": (x + 180) % 360 - 180, "beyond": x + 360 * (x.min() < 0), "below": x - 360 * (x.max() > 0)}
        return np.stack([moved[turn] if np.abs(moved[turn]).max() <= 360 else x, xy[:, 1]], axis=1)

    found = split_at_antimeridian(shapely.transform(plain, written))
    frame = read_aoi(found)
    check_aoi(frame)
    assert found.area == pytest.approx(plain.area, rel=1e-6)
    back = shapely.union_all(
        [shapely.transform(found, lambda xy, k=k: xy + np.array([360 * k, 0])) for k in (-1, 0, 1)]
    )
    assert back.buffer(1e-6).covers(plain)


def test_heights_are_dropped(tmp_path: Path) -> None:
    ring = [[2.8, 42.3, 100], [2.9, 42.3, 100], [2.9, 42.4, 100], [2.8, 42.3, 100]]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    assert not shapely.has_z(read_aoi(tmp_path / "a.geojson").geometry.to_numpy()).any()


def test_a_frame_in_metres_across_the_antimeridian() -> None:
    """UTM zone 60 goes on beyond 180; in degrees its corners jump. Long edges bend."""
    box = shapely.box(600_000, 8_000_000, 900_000, 8_200_000)
    found = read_aoi(gpd.GeoDataFrame({"name": ["Vanua Levu"]}, geometry=[box], crs=32760))
    assert list(found["name"]) == ["Vanua Levu"]
    assert found.geometry[0].geom_type == "MultiPolygon"
    assert found.to_crs(32760).area.sum() == pytest.approx(box.area, rel=1e-4)


# ---- GeoPackage


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "areas.gpkg"
    box = shapely.box(2.8, 42.3, 2.9, 42.4)
    gpd.GeoDataFrame({"name": ["p"]}, geometry=[shapely.Point(2, 42)], crs=4326).to_file(path, layer="points")
    two = gpd.GeoDataFrame({"name": ["a", "b"], "n": [1, 2]}, geometry=[box, shapely.box(3, 42, 3.1, 42.1)], crs=4326)
    two.to_crs(32631).to_file(path, layer="metres")
    gpd.GeoDataFrame({"aoi_id": ["x"]}, geometry=[shapely.force_3d(box, 5)], crs=4326).to_file(path, layer="degrees")
    return path


def test_the_first_layer_of_polygons(package: Path) -> None:
    found = read_aoi(package)
    assert list(found["name"]) == ["a", "b"]
    assert found.crs.to_epsg() == 4326
    assert aoi_geometry(found).area == pytest.approx(0.02, rel=1e-3)


def test_a_layer_by_name(package: Path) -> None:
    found = read_aoi(f"{package}|layername=degrees")
    assert list(found["aoi_id"]) == ["x"]
    assert found.geometry[0].area == pytest.approx(0.01)
    assert not found.geometry[0].has_z
    with pytest.raises(AOIError, match=r"no layer 'none'. It has points, metres, degrees"):
        read_aoi(f"{package}|layername=none")
    with pytest.raises(AOIError, match="is a Point"):
        read_aoi(f"{package}|layername=points")


def test_a_package_without_polygons_or_crs(tmp_path: Path) -> None:
    path = tmp_path / "points.gpkg"
    gpd.GeoDataFrame(geometry=[shapely.Point(2, 42)], crs=4326).to_file(path, layer="points")
    with pytest.raises(AOIError, match=r"no layer of polygons: points \(Point\)"):
        read_aoi(path)
    table = tmp_path / "table.gpkg"
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(table, layer="t")
    with sqlite3.connect(table) as db:
        db.execute("UPDATE gpkg_geometry_columns SET srs_id = -1")
        db.execute("UPDATE gpkg_contents SET srs_id = -1")
    with pytest.raises(AOIError, match="cannot be carried from its CRS"):
        read_aoi(table)


def test_a_damaged_package(package: Path, tmp_path: Path) -> None:
    """Whatever byte is wrong: the area, or one sentence."""
    whole = package.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.gpkg"
    n_refused = 0
    for i in range(40):
        data = bytearray(whole[: len(whole) // 2] if i % 4 == 0 else whole)
        for at in rng.integers(100, len(data), 300):
            data[at] = int(rng.integers(0, 256))
        path.write_bytes(bytes(data))
        try:
            read_aoi(path)
        except AOIError:
            n_refused += 1
    assert n_refused > 5


def test_other_formats_and_addresses_are_refused(package: Path, tmp_path: Path) -> None:
    """GDAL would open all of these, some over the network."""
    vrt = tmp_path / "area.vrt"
    vrt.write_text(f'<OGRVRTDataSource><OGRVRTLayer name="metres"><SrcDataSource>{package}</SrcDataSource>'
                   "</OGRVRTLayer></OGRVRTDataSource>")  # fmt: skip
    sqlite = tmp_path / "area.gpkg"
    with sqlite3.connect(sqlite) as db:
        db.execute("CREATE TABLE t (a)")
    shapefile = tmp_path / "area.shp"
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(shapefile)
    for path in (vrt, sqlite, shapefile):
        with pytest.raises(AOIError, match=f"{path.name} is not GeoJSON .*, nor a GeoPackage"):
            read_aoi(path)
    for address in ("https://user:secret@example.org/a.geojson?sig=abc", "/vsicurl/http://127.0.0.1/a.gpkg"):
        with pytest.raises(AOIError, match="from a local file") as said:
            read_aoi(address)
        assert "secret" not in str(said.value)
        assert "sig=" not in str(said.value)


# ---- places


def test_places_by_name() -> None:
    assert "boadella" in list_places()
    for place in list_places():
        check_aoi(read_aoi(place))
    assert list(read_aoi("boadella")["aoi_id"]) == ["boadella"]


def test_an_unknown_place_says_which_are_near() -> None:
    with pytest.raises(AOIError, match=r"no AOI file Boadela, and no place of that name.*such as boadella"):
        read_aoi("Boadela")


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("boadella").write_text(json.dumps(shapely.geometry.mapping(shapely.box(0, 0, 1, 1))))
    assert read_aoi("boadella").geometry[0].area == 1
    Path("boadella").unlink()
    assert read_aoi("boadella").geometry[0].area < 0.01


def test_the_places_go_into_the_wheel(repo_root: Path) -> None:
    """Where an installed geoelle looks for them: beside its modules."""
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"aoi": "geoelle/places"}
    assert sorted(p.stem for p in (repo_root / "aoi").glob("*.geojson")) == list_places()
