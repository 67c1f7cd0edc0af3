"""Searching catalogs: every filter counted, hostile items refused, and what was found frozen without loss."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
import stac_geoparquet.arrow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoelle.catalog import group_scenes, items_frame, read_items, records_from_frame, write_items
from geoelle.catalog.parsing import parse_item
from geoelle.catalog.scenes import solar_day
from geoelle.errors import CatalogError, ConfigError, GeoelleError, NoItemsError, NotFoundError, SchemaError
from geoelle.searching import search
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.simulate import Simulation, SimulationConfig, make_scenes

BOADELLA = (2.80, 42.335, 2.83, 42.36)
ANTWERP = (4.261, 51.309, 4.267, 51.313)
HURST = (-118.49, 34.32, -118.47, 34.34)


def an_item(item_id: str = "S2_A", **properties: Any) -> dict[str, Any]:
    """A small Sentinel-2 item as a catalog gives it."""
    assets = {
        key: {"href": f"https://example.org/{item_id}/{key}.tif", "type": "image/tiff"}
        for key in ("B02", "B03", "B04", "SCL")
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": item_id,
        "collection": "sentinel-2-l2a",
        "geometry": shapely.geometry.mapping(shapely.box(4.0, 51.0, 5.0, 52.0)),
        "bbox": [4.0, 51.0, 5.0, 52.0],
        "properties": {"datetime": "2022-06-04T10:36:21Z", **properties},
        "links": [],
        "assets": assets,
    }


def parse(raw: Any, *, remote: bool = False) -> Any:
    return parse_item(raw, SENTINEL_2_L2A, remote=remote)


def write_catalog(folder: Path, items: list[dict[str, Any]], *, linked: list[str] | None = None) -> Path:
    """A static catalog of `items`; `linked` names the files linked, by default one for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, item in enumerate(items):
        (folder / f"{n}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{name}"} for name in (linked or [f"{n}.json" for n in range(len(items))])]
    path = folder / "catalog.json"
    path.write_text(
        json.dumps({"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "d", "links": links})
    )
    return path


def find(catalog: Path | str, **changes: Any) -> gpd.GeoDataFrame:
    options: dict[str, Any] = {"collections": ["sentinel-2-l2a"], "start": "2022-06-01", "end": "2022-06-30", **changes}
    aoi = options.pop("aoi", (4.2, 51.2, 4.3, 51.3))
    return search(aoi, catalog=catalog, **options)


# --- what lies on disk


@pytest.mark.shared
def test_boadella_is_found_date_by_date(shared_data: Path) -> None:
    frame = search(
        BOADELLA, catalog=shared_data / "stac", collections=["boadella-s2-l2a"], start="2020-01-01", end="2020-01-31"
    )
    assert list(frame["id"]) == [f"boadella_2020-01-{day}" for day in (13, 18, 23, 28)]
    assert frame["epsg"].eq(4326).all()
    assert frame["cloud_percent"].isna().all()
    assert "8 outside the dates" in frame.attrs["geoelle:filters"]
    record = records_from_frame(frame)[0]
    assert record.assets["red"].scale == pytest.approx(1e-4)
    assert Path(record.assets["red"].href).is_file(), "hrefs are absolute"
    assert record.offset_applied is None


@pytest.mark.shared
def test_antwerp_by_cloud(shared_data: Path) -> None:
    frame = search(
        ANTWERP, catalog=shared_data / "stac" / "catalog.json", collections=["antwerp-s2-l2a-scl"],
        start="2023-10-01", end="2023-12-31", max_cloud_percent=50,
    )  # fmt: skip
    assert (frame["cloud_percent"] <= 50).all()
    assert 0 < len(frame) < 19
    assert f"{19 - len(frame)} over the cloud limit" in frame.attrs["geoelle:filters"]
    assert "scl" in records_from_frame(frame)[0].assets


@pytest.mark.shared
def test_fires_are_composites_with_one_asset_of_several_bands(shared_data: Path) -> None:
    frame = search(
        HURST, catalog=shared_data / "stac", collections=["calfire-s2-before-after-shared"],
        start="2024-01-01", end="2025-12-31",
    )  # fmt: skip
    assert set(frame["time_kind"]) == {"interval"}
    post = next(r for r in records_from_frame(frame) if r.id == "hurst_20250107_post")
    assert (post.time, post.time_end) == (np.datetime64("2025-01-07", "ns"), np.datetime64("2025-03-08", "ns"))
    assert [(b, a.key, a.band_index, a.n_bands) for b, a in post.assets.items()] == [
        ("blue", "image", 1, 5), ("green", "image", 2, 5), ("red", "image", 3, 5), ("nir", "image", 4, 5),
        ("swir22", "image", 5, 5),
    ]  # fmt: skip
    assert "perimeter" not in json.loads(frame["stac"].iloc[0])["assets"], "labels never reach an encoder"


def test_a_simulated_catalog_is_found(scenes: Simulation) -> None:
    frame = search(
        scenes.aoi, catalog=scenes.catalog, collections=[scenes.collection], start="2021-01-01", end="2021-12-31"
    )
    assert tuple(frame["id"]) == scenes.item_ids
    assert set(frame["processing_baseline"]) == {"03.01"}
    assert all(json.loads(raw)["properties"]["geoelle:simulated"] for raw in frame["stac"])


@pytest.mark.parametrize("as_path", [True, False])
def test_a_folder_or_a_file_names_a_catalog(scenes: Simulation, as_path: bool) -> None:
    where = scenes.catalog.parent if as_path else str(scenes.catalog)
    assert len(search(scenes.aoi, catalog=where, collections=[], start="2021-01-01", end="2021-12-31")) == 6


def test_both_ends_are_included(scenes: Simulation) -> None:
    frame = search(scenes.aoi, catalog=scenes.catalog, collections=[], start="2021-04-10", end="2021-05-10")
    assert [str(t)[:10] for t in frame["time"]] == ["2021-04-10", "2021-05-10"]


# --- filters


def test_every_filter_is_counted_and_named(tmp_path: Path) -> None:
    far = an_item("far") | {
        "geometry": shapely.geometry.mapping(shapely.box(10, 10, 11, 11)), "bbox": [10, 10, 11, 11],
    }  # fmt: skip
    bandless = an_item("bandless") | {"assets": {"thumbnail": {"href": "https://example.org/t.jpg"}}}
    items = [
        an_item("other") | {"collection": "landsat"},
        an_item("named"),
        far,
        bandless,
        an_item("late", datetime="2023-01-01T10:00:00Z"),
        an_item("cloudy", **{"eo:cloud_cover": 80}),
    ]
    catalog = write_catalog(tmp_path / "c", items)
    with pytest.raises(NoItemsError) as refusal:
        find(catalog, max_cloud_percent=50, exclude=["named"])
    message = str(refusal.value)
    assert "6 seen, 0 kept" in message
    for said in (
        "1 another collection", "1 excluded by name", "1 outside the AOI", "1 without the sensor's bands",
        "1 outside the dates", "1 over the cloud limit",
    ):  # fmt: skip
        assert said in message
    assert "\n" not in message


def test_items_without_a_cloud_figure_are_kept(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path, [an_item("a"), an_item("b", **{"eo:cloud_cover": "unknown"})])
    frame = find(catalog, max_cloud_percent=0)
    assert list(frame["id"]) == ["a", "b"]
    assert frame["cloud_percent"].isna().all()
    assert parse(an_item(**{"eo:cloud_cover": math.nan})).cloud_percent is None


def test_the_same_item_twice_is_one_item(tmp_path: Path) -> None:
    frame = find(write_catalog(tmp_path, [an_item("a"), an_item("a")]))
    assert list(frame["id"]) == ["a"]
    assert "1 given twice" in frame.attrs["geoelle:filters"]


def test_an_aoi_outside_of_everything_says_so(scenes: Simulation) -> None:
    with pytest.raises(NoItemsError, match="lies outside the data"):
        search((10, 10, 10.1, 10.1), catalog=scenes.catalog, collections=[], start="2021-01-01", end="2021-12-31")


def test_an_unknown_collection_names_those_there_are(scenes: Simulation) -> None:
    with pytest.raises(NoItemsError, match=scenes.collection):
        search(scenes.aoi, catalog=scenes.catalog, collections=["sentinel"], start="2021-01-01", end="2021-12-31")


def test_dates_in_the_wrong_order_are_refused(scenes: Simulation) -> None:
    with pytest.raises(ConfigError, match="before it starts"):
        search(scenes.aoi, catalog=scenes.catalog, collections=[], start="2021-12-31", end="2021-01-01")


@pytest.mark.parametrize("date", ["2021-13-01", "yesterday", "", "NaT", "20 June"])
def test_what_is_no_date_is_refused(scenes: Simulation, date: str) -> None:
    with pytest.raises(ConfigError, match="is no date"):
        search(scenes.aoi, catalog=scenes.catalog, collections=[], start=date, end="2021-12-31")


# --- hostile items


def without(raw: dict[str, Any], *path: str) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    place = changed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return changed


def with_href(href: Any) -> dict[str, Any]:
    raw = an_item()
    raw["assets"]["B04"]["href"] = href
    return raw


@pytest.mark.parametrize("path", [("id",), ("bbox",), ("properties",), ("assets",), ("properties", "datetime")])
def test_what_stac_demands_must_be_there(path: tuple[str, ...]) -> None:
    with pytest.raises(CatalogError) as refusal:
        parse(without(an_item(), *path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("item_id", [None, "", [], {"a": 1}, True])
def test_an_id_is_text(item_id: Any) -> None:
    with pytest.raises(CatalogError, match="without id"):
        parse(an_item() | {"id": item_id})


@pytest.mark.parametrize(
    "href",
    [
        "/vsicurl/http://169.254.169.254/x.tif", "/vsizip//etc/x.zip", "<VRTDataset rasterXSize='1'/>",
        " <VRTDataset/>", "https://example.org/<VRTDataset/>", "vrt:///etc/passwd", "NETCDF:/etc/passwd:x",
        "GTIFF_DIR:1:/x.tif", "http://[::1", "zip+https://example.org/x.zip", "https://", "https:///x.tif",
        "https://example.org/\n<x", 5, ["a"], {"a": 1}, True, "HTTP_SUBDATASET:x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("remote", [True, False])
def test_what_is_no_plain_address_is_refused(href: Any, remote: bool) -> None:
    with pytest.raises(CatalogError, match="no plain address"):
        parse(with_href(href), remote=remote)


@pytest.mark.parametrize("href", ["file:///etc/passwd", "/etc/passwd", "etc/passwd", "C:\\x.tif", "../x.tif"])
def test_a_remote_catalog_names_no_files_of_this_machine(href: str) -> None:
    with pytest.raises(CatalogError, match="no plain address"):
        parse(with_href(href), remote=True)
    assert parse(with_href(href)) is not None


@pytest.mark.parametrize(
    "bbox",
    [None, [], [1, 2, 3], ["a"] * 4, [math.nan] * 4, [0, 0, math.inf, 1], [0, 91, 1, 92], [0, 5, 1, 4], [1e300] * 4,
     {"a": 1}, "0,0,1,1", [10**400, 0, 0, 0]],
)  # fmt: skip
def test_a_bbox_that_is_none_is_refused(bbox: Any) -> None:
    with pytest.raises(CatalogError, match="no usable bbox"):
        parse(an_item() | {"bbox": bbox})


def test_a_bbox_with_heights_is_read() -> None:
    assert parse(an_item() | {"bbox": [4, 51, 0, 5, 52, 100]}).bbox == (4, 51, 5, 52)


@pytest.mark.parametrize(
    "datetime", [None, "", "soon", 20220604, ["2022-06-04"], "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z"]
)
def test_a_time_that_is_none_is_refused(datetime: Any) -> None:
    with pytest.raises(CatalogError, match="datetime"):
        parse(an_item(datetime=datetime))


def test_an_interval_needs_both_ends_in_order() -> None:
    interval = {"datetime": None, "start_datetime": "2022-06-01T00:00:00Z", "end_datetime": "2022-06-30T00:00:00Z"}
    assert parse(an_item(**interval)).time_kind == "interval"
    for changed in ({"end_datetime": None}, {"end_datetime": "2022-05-01T00:00:00Z"}, {"start_datetime": None}):
        with pytest.raises(CatalogError, match="datetime"):
            parse(an_item(**interval | changed))


def test_wrong_types_of_what_is_optional_are_taken_as_not_said() -> None:
    nonsense: Any = {"a": [1, {"b": None}]}
    keys = (
        "eo:cloud_cover", "proj:epsg", "proj:code", "s2:mgrs_tile", "sat:relative_orbit", "platform",
        "s2:processing_baseline", "earthsearch:boa_offset_applied", "proj:shape", "proj:transform",
    )  # fmt: skip
    record = parse(an_item(**dict.fromkeys(keys, nonsense)))
    for name in ("cloud_percent", "epsg", "mgrs_tile", "relative_orbit", "platform", "processing_baseline"):
        assert getattr(record, name) is None, name
    assert record.raw["properties"] == {"datetime": "2022-06-04T10:36:21Z"}


def test_a_broken_item_can_be_left_out_by_name(tmp_path: Path) -> None:
    broken = an_item("broken") | {"geometry": {"type": "Polygon", "coordinates": [["x"]]}}
    catalog = write_catalog(tmp_path, [an_item("whole"), broken])
    with pytest.raises(CatalogError, match="Item broken has a geometry that cannot be read"):
        find(catalog)
    assert list(find(catalog, exclude=["broken"])["id"]) == ["whole"]


def test_labels_and_thumbnails_alone_make_no_item() -> None:
    assert parse(an_item() | {"assets": {"SCL": {"href": "https://example.org/scl.tif"}}}) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", '"x"', "null", '{"type": "FeatureCollection"}', "[" * 100_000, '{"type": "Catalog"}',
     "<html></html>", "\x00"],
)  # fmt: skip
def test_a_file_that_is_no_catalog_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(text)
    with pytest.raises(CatalogError) as refusal:
        find(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_catalog_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="There is no catalog at"):
        find(tmp_path / "nothing.json")
    with pytest.raises(CatalogError, match=r"missing\.json"):
        find(write_catalog(tmp_path, [an_item()], linked=["missing.json"]))


def test_an_item_nested_without_end_is_one_sentence(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path, [an_item()])
    (tmp_path / "0.json").write_text(
        json.dumps(an_item()).replace('"B02"', '"x": ' + "[" * 50_000 + "]" * 50_000 + ', "B02"')
    )
    with pytest.raises(CatalogError):
        find(catalog)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["/vsicurl/x", "2022-06-04", "nan", "EPSG:4326", "MGRS-31UFS", 10**400, -(10**30)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [p for k, v in value.items() for p in places(v, (*path, k))]
    if isinstance(value, list):
        return found + [p for k, v in enumerate(value) for p in places(v, (*path, k))]
    return found


FULL = an_item(
    **{
        "eo:cloud_cover": 4.5, "proj:epsg": 32631, "proj:code": "EPSG:32631", "s2:mgrs_tile": "31UFS",
        "s2:processing_baseline": "04.00", "sat:relative_orbit": 51, "platform": "sentinel-2a",
        "earthsearch:boa_offset_applied": False, "start_datetime": "2022-06-01T00:00:00Z",
        "end_datetime": "2022-06-02T00:00:00Z", "proj:transform": [10.0, 0.0, 0.0, 0.0, -10.0, 0.0],
    }
)  # fmt: skip
FULL["assets"]["B04"] |= {"raster:bands": [{"nodata": 0, "scale": 1e-4, "offset": -0.1}], "eo:bands": [{"name": "B04"}]}
FULL["geometry"] = json.loads(json.dumps(FULL["geometry"]))
PLACES = places(FULL)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_change_to_an_item_gives_a_record_nothing_or_a_sentence(data: st.DataObject) -> None:
    raw = copy.deepcopy(FULL)
    for path in data.draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        place: Any = raw
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = data.draw(json_values)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took this place away
    try:
        record = parse(raw, remote=True)
    except GeoelleError:
        return
    if record is not None:
        json.dumps(record.raw, allow_nan=True)
        solar_day(record)
        pystac.Item.from_dict(record.raw)


# --- the offset of baseline 04.00


def scaling(
    baseline: str | None, flag: bool | None, declared: dict[str, float] | None, when: str
) -> tuple[float, float]:
    raw = an_item(datetime=when)
    if baseline is not None:
        raw["properties"]["s2:processing_baseline"] = baseline
    if flag is not None:
        raw["properties"]["earthsearch:boa_offset_applied"] = flag
    if declared is not None:
        for asset in raw["assets"].values():
            asset["raster:bands"] = [declared]
    red = parse(raw).assets["red"]
    return red.scale, red.offset


DECLARED = {"scale": 1e-4, "offset": -0.1}


@pytest.mark.parametrize("when", ["2018-01-01T10:00:00Z", "2024-01-01T10:00:00Z"])
@pytest.mark.parametrize(
    ("baseline", "flag", "declared", "offset"),
    [
        ("04.00", None, None, -0.1), ("05.09", None, None, -0.1), ("03.01", None, None, 0), (None, None, None, 0),
        ("05.09", True, DECLARED, 0), ("05.09", True, None, 0), ("05.09", False, DECLARED, -0.1),
        ("05.09", False, None, -0.1), ("05.09", None, DECLARED, -0.1), ("03.01", False, None, 0),
        ("03.01", None, {"scale": 1e-4, "offset": 0}, 0), ("05.09", None, {"scale": 1e-4, "offset": 0}, 0),
        ("nonsense", None, None, 0), ("03.01", False, DECLARED, 0), ("03.01", True, None, 0),
        ("05.09", False, {"scale": 1e-4, "offset": 0}, 0), (None, None, DECLARED, -0.1), (None, False, None, -0.1),
        (None, True, DECLARED, 0), ("05.00", None, {"scale": 1e-4}, -0.1), ("4.00", None, None, -0.1),
    ],
)  # fmt: skip
def test_the_offset_follows_what_is_declared_and_never_the_date(
    when: str, baseline: str | None, flag: bool | None, declared: dict[str, float] | None, offset: float
) -> None:
    assert scaling(baseline, flag, declared, when) == pytest.approx((1e-4, offset))


def test_the_quality_layer_is_never_scaled() -> None:
    scl = parse(an_item(**{"s2:processing_baseline": "05.09"})).assets["scl"]
    assert (scl.scale, scl.offset) == (1, 0)


# --- solar days


def record_at(lon: float, when: str, item_id: str = "x", **changes: Any) -> Any:
    raw = an_item(item_id, datetime=when) | {"bbox": [lon - 0.5, 0, lon + 0.5, 1], "geometry": None}
    raw["properties"] |= changes
    return parse(raw)


@pytest.mark.parametrize(
    ("lon", "when", "day"),
    [
        (0, "2022-06-04T10:00:00Z", "2022-06-04"), (178, "2022-06-04T00:00:00Z", "2022-06-04"),
        (178, "2022-06-03T22:30:00Z", "2022-06-04"), (-178, "2022-06-04T22:30:00Z", "2022-06-04"),
        (-178, "2022-06-05T01:30:00Z", "2022-06-04"), (150, "2022-06-04T00:15:00Z", "2022-06-04"),
        (150, "2022-06-03T23:45:00Z", "2022-06-04"), (-170, "2022-06-04T00:00:00Z", "2022-06-04"),
    ],
)  # fmt: skip
def test_the_solar_day(lon: float, when: str, day: str) -> None:
    assert solar_day(record_at(lon, when)) == np.datetime64(day, "ns")


def test_the_solar_day_of_a_granule_across_the_antimeridian() -> None:
    raw = an_item(datetime="2022-06-03T22:30:00Z") | {"bbox": [179, 0, -179.9, 1]}
    assert solar_day(parse(raw)) == np.datetime64("2022-06-04", "ns")


def test_two_granules_of_one_day_are_one_scene_in_an_order_of_their_own() -> None:
    items = [
        record_at(4, "2022-06-04T10:36:40Z", "b"), record_at(4, "2022-06-04T10:36:21Z", "c"),
        record_at(4, "2022-06-09T10:36:21Z", "d"), record_at(4, "2022-06-04T10:36:21Z", "a"),
    ]  # fmt: skip
    for order in (items, items[::-1]):
        first, second = group_scenes(order)
        assert [i.id for i in first.items] == ["a", "c", "b"]
        assert first.item_ids == ("a", "b", "c")
        assert first.time == np.datetime64("2022-06-04T10:36:21", "ns")
        assert second.item_ids == ("d",)


def test_composites_are_dated_by_their_start() -> None:
    interval = {"start_datetime": "2022-06-04T23:00:00Z", "end_datetime": "2022-08-01T00:00:00Z"}
    (scene,) = group_scenes([record_at(170, "", **interval, datetime=None)])
    assert (scene.day, scene.time_kind) == (np.datetime64("2022-06-04", "ns"), "interval")


# --- frozen


def mixed_records() -> list[Any]:
    """Items as different providers word them, in one table."""
    second = an_item("S2_B", **{"proj:code": "EPSG:32631", "gsd": "10", "platform": 5, "proj:shape": [10, 10]})
    del second["assets"]["SCL"]
    second["assets"]["B04"]["raster:bands"] = [{"nodata": "nan", "scale": 1e-4, "offset": 0, "statistics": {"a": []}}]
    second["assets"]["B02"] |= {"eo:bands": [{"description": "no name"}], "roles": "data"}
    third = an_item("S2_C", **{"proj:epsg": "32631", "gsd": 10, "eo:cloud_cover": 3}) | {"geometry": None}
    third["bbox"] = [4, 51, 0, 5, 52, 9]
    third["assets"]["B04"]["raster:bands"] = [{"nodata": 0}]
    composite = an_item(
        "S2_D", datetime=None, start_datetime="2022-06-01T00:00:00Z", end_datetime="2022-07-01T00:00:00.5+02:00"
    )
    return [parse(raw) for raw in (composite, an_item("S2_A"), second, third)]


def test_items_and_query_come_back_from_disk(tmp_path: Path) -> None:
    query = {"aoi": {"type": "Polygon"}, "filters": {"seen": 4}, "exclude": ["ü"]}
    records = mixed_records()
    path = write_items(records, tmp_path / "sub" / "items.parquet", query)
    found, asked = read_items(path)
    assert asked == query
    assert {r.id: r for r in found} == {r.id: r for r in records}
    assert found == sorted(found, key=lambda r: (r.time, r.id))
    assert [p.name for p in path.parent.iterdir()] == ["items.parquet"], "no partial file is left"


def test_the_table_for_people_gives_the_records_back() -> None:
    records = mixed_records()
    frame = items_frame(records)
    assert {r.id: r for r in records_from_frame(frame)} == {r.id: r for r in records}
    with pytest.raises(SchemaError, match=r"pass what geoelle\.search returned"):
        records_from_frame(frame.drop(columns="stac"))


def test_the_file_is_stac_geoparquet(scenes: Simulation, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    search(scenes.aoi, catalog=scenes.catalog, collections=[], start="2021-01-01", end="2021-12-31", out=path)
    frame = gpd.read_parquet(path)
    assert frame.crs.to_epsg() == 4326
    assert list(frame["id"]) == list(scenes.item_ids)
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"geo"])["primary_column"] == "geometry"
    assert b"stac-geoparquet" in metadata
    for raw in stac_geoparquet.arrow.stac_table_to_items(pq.read_table(path)):
        item = pystac.Item.from_dict(raw)
        assert {"B02", "B03", "B04", "SCL"} <= set(item.assets)
        assert item.properties["geoelle:sensor"] == "sentinel-2-l2a"
    query = json.loads(metadata[b"geoelle:query"])
    assert query["filters"]["kept"] == 6
    assert query["start"] == "2021-01-01"


def test_signed_addresses_are_never_stored(tmp_path: Path) -> None:
    signed = parse(with_href("https://a.blob.core.windows.net/B04.tif?sig=secret&se=2022"), remote=True)
    path = tmp_path / "items.parquet"
    path.write_bytes(b"old")
    with pytest.raises(SchemaError, match="a signed href") as refusal:
        write_items([signed], path, {})
    assert "secret" not in str(refusal.value)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_items_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(content)
    with pytest.raises(CatalogError, match="is not an items file"):
        read_items(path)


def test_another_parquet_file_is_no_items_file(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(0, 0)], crs=4326).to_parquet(path)
    with pytest.raises(CatalogError, match="is not an items file"):
        read_items(path)
    with pytest.raises(NotFoundError, match="geoelle search"):
        read_items(tmp_path / "nothing.parquet")


def test_two_zones_are_found_as_one_scene(tmp_path: Path) -> None:
    config = SimulationConfig.small(layout="two-zones", centre_lon=6.0, dates=("2022-06-04",), bands=("red",))
    made = make_scenes(tmp_path / "s", config=config)
    frame = search(made.aoi, catalog=made.catalog, collections=[], start="2022-01-01", end="2022-12-31")
    assert set(frame["epsg"]) == {32631, 32632}
    assert len(group_scenes(records_from_frame(frame))) == 1
