"""Filters of a search: each counted, the sum always right, the same answer from any order of the catalog."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import rustac
import shapely
import stac_geoparquet.arrow
from hypothesis import given, settings
from hypothesis import strategies as st
from stac_servers import stac_item

from geoelle.catalog import Filters, find_items, read_items, records_from_frame
from geoelle.catalog.asking import ask, simpler, windows_of
from geoelle.catalog.coverage import covered_fractions
from geoelle.catalog.filters import FilterCounts, Sieve
from geoelle.days import as_day
from geoelle.errors import CatalogError, ConfigError, GeoelleError, NoItemsError
from geoelle.searching import search
from geoelle.sensors import get_sensor, sensor_definition, sensor_from_definition

S2 = get_sensor("sentinel-2-l2a")
AREA = (4.2, 51.2, 4.4, 51.4)


def catalog_of(folder: Path, items: list[dict[str, Any]]) -> Path:
    """A static catalog."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, item in enumerate(items):
        (folder / f"{n}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{n}.json"} for n in range(len(items))]
    root = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "d", "links": links}
    (folder / "catalog.json").write_text(json.dumps(root))
    return folder


def find(catalog: Path | str, **changes: Any) -> gpd.GeoDataFrame:
    options: dict[str, Any] = {"start": "2022-01-01", "end": "2023-12-31", **changes}
    return search(options.pop("aoi", AREA), catalog=catalog, **options)


def filters(**changes: Any) -> Filters:
    options: dict[str, Any] = {"start": as_day("2022-01-01"), "end": as_day("2023-12-31"), **changes}
    return Filters(aoi=shapely.box(*AREA), **options)


def sifted(raws: list[dict[str, Any]], wanted: Filters) -> tuple[list[str], FilterCounts]:
    sieve = Sieve(wanted, S2, (), None, remote=True)
    for raw in raws:
        sieve.take(raw)
    return [i.id for i in sieve.result()], sieve.counts


MIXED = [
    stac_item("june", "2022-06-04T10:36:21Z", **{"sat:relative_orbit": 8, "platform": "Sentinel-2A"}),
    stac_item("july", "2022-07-04T10:36:21Z", **{"sat:relative_orbit": 51, "platform": "sentinel-2b"}),
    stac_item("next-june", "2023-06-04T10:36:21Z", **{"sat:relative_orbit": 8, "platform": "sentinel-2b"}),
    stac_item("bare", "2022-06-20T10:36:21Z"),
]


def test_months_orbits_and_platforms_are_counted_apart(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, MIXED)
    frame = find(catalog, months=(6,))
    assert list(frame["id"]) == ["june", "bare", "next-june"]
    assert "1 outside the months" in frame.attrs["geoelle:filters"]
    frame = find(catalog, relative_orbits=(8,))
    assert list(frame["id"]) == ["june", "next-june"]
    assert "1 without a relative orbit, 1 of another relative orbit" in frame.attrs["geoelle:filters"]
    frame = find(catalog, platforms=("SENTINEL-2B",))
    assert list(frame["id"]) == ["july", "next-june"]
    assert "1 without a platform, 1 of another platform" in frame.attrs["geoelle:filters"]
    with pytest.raises(NoItemsError, match=r"months 1, relative orbit 8 or 9.*4 outside the months"):
        find(catalog, months=(1,), relative_orbits=(8, 9))


def test_numbers_may_be_numpys_and_a_bbox_a_list(tmp_path: Path) -> None:
    item = stac_item("a", "2022-06-04T10:36:21Z", AREA, **{"sat:relative_orbit": 8})
    frame = find(
        catalog_of(tmp_path / "c", [item]), aoi=list(AREA), months=np.array([6]), relative_orbits=np.array([8]),
        out=tmp_path / "i.parquet",
    )  # fmt: skip
    assert list(frame["id"]) == ["a"]
    assert read_items(tmp_path / "i.parquet")[1]["months"] == [6]


@pytest.mark.parametrize("asked", ["landsat-8", "LANDSAT_8", "Landsat-8"])
@pytest.mark.parametrize("written", ["landsat-8", "LANDSAT_8"])
def test_a_platform_is_the_same_with_dash_and_underscore(tmp_path: Path, asked: str, written: str) -> None:
    item = stac_item("a", "2022-06-04T10:36:21Z", AREA, platform=written)
    assert list(find(catalog_of(tmp_path / "c", [item]), platforms=[asked])["id"]) == ["a"]
    question = ask("filter", None, S2, max_cloud_percent=None, relative_orbits=(), platforms=(asked,))
    assert f'"{written}"' in json.dumps(question.filter), "the server is asked for it, too"


def test_months_are_those_of_the_solar_day(tmp_path: Path) -> None:
    east = stac_item("east", "2022-05-31T23:30:00Z", (150.0, -30.0, 151.0, -29.0))
    catalog = catalog_of(tmp_path, [east])
    assert list(find(catalog, aoi=(150.2, -29.8, 150.4, -29.6), months=(6,))["id"]) == ["east"]


def test_the_share_of_the_aoi_is_that_of_a_whole_day(tmp_path: Path) -> None:
    west, east = (4.0, 51.0, 4.3, 52.0), (4.3, 51.0, 5.0, 52.0)
    items = [
        stac_item("both-1", "2022-06-04T10:36:21Z", west), stac_item("both-2", "2022-06-04T10:36:40Z", east),
        stac_item("half", "2022-06-09T10:36:21Z", west), stac_item("whole", "2022-06-14T10:36:21Z"),
    ]  # fmt: skip
    catalog = catalog_of(tmp_path, items)
    frame = find(catalog, min_aoi_coverage_fraction=1.0)
    assert list(frame["id"]) == ["both-1", "both-2", "whole"]
    assert "1 of days that cover too little of the AOI" in frame.attrs["geoelle:filters"]
    assert len(find(catalog, min_aoi_coverage_fraction=0.49)) == 4
    shares = covered_fractions(records_from_frame(find(catalog)), shapely.box(*AREA))
    assert list(shares.values()) == pytest.approx([1, 0.5, 1])


def test_shares_are_of_ground_not_of_degrees() -> None:
    # Between the equator and 60° N on a sphere, half of the ground lies south of asin(sin(60°) / 2).
    middle = float(np.degrees(np.arcsin(np.sin(np.radians(60)) / 2)))
    frame = Filters(aoi=shapely.box(0, 0, 1, 60), start=as_day("2022-01-01"), end=as_day("2022-12-31"))
    sieve = Sieve(frame, S2, (), None, remote=True)
    sieve.take(stac_item("south", box=(-1.0, -1.0, 2.0, middle)))
    assert list(covered_fractions(sieve.result(), frame.aoi).values()) == pytest.approx([0.5], abs=1e-4)


def test_an_aoi_across_the_antimeridian_finds_items_on_both_sides() -> None:
    aoi = shapely.union(shapely.box(179.5, -17, 180, -16), shapely.box(-180, -17, -179.5, -16))
    wanted = Filters(aoi=aoi, start=as_day("2022-06-01"), end=as_day("2022-06-30"), min_aoi_coverage_fraction=0.999)
    wrong_way = {"type": "Polygon", "coordinates": [[[179, -18], [-179, -18], [-179, -15], [179, -15], [179, -18]]]}
    across = stac_item("across", "2022-06-03T22:30:00.5Z") | {"geometry": wrong_way, "bbox": [179, -18, -179, -15]}
    beyond = stac_item("beyond", "2022-06-08T22:30:00.5Z", (179.0, -18.0, 181.0, -15.0))
    west = stac_item("west", "2022-06-13T22:30:00.5Z", (178.0, -18.0, 180.0, -15.0))
    away = stac_item("away", "2022-06-18T22:30:00.5Z", (-1.0, -18.0, 1.0, -15.0))
    kept, counts = sifted([across, beyond, west, away], wanted)
    assert kept == ["across", "beyond"]
    assert (counts.outside_aoi, counts.too_little_covered) == (1, 1)
    greenwich = Filters(aoi=shapely.box(-1, -17, 1, -16), start=wanted.start, end=wanted.end)
    assert sifted([across, beyond, west, away], greenwich)[0] == ["away"]


def test_reprocessed_items_are_named(tmp_path: Path) -> None:
    said = {"s2:mgrs_tile": "31UFS", "platform": "Sentinel-2A"}
    old = stac_item("old", **said, **{"s2:datatake_id": "GS2A_20220604T103621_036289_N04.00",
                                      "s2:processing_baseline": "04.00"})  # fmt: skip
    new = stac_item("new", **said, **{"s2:datatake_id": "GS2A_20220604T103621_036289_N05.10",
                                      "s2:processing_baseline": "05.10"})  # fmt: skip
    for n, order in enumerate(([old, new], [new, old])):
        frame = find(catalog_of(tmp_path / str(n), order))
        assert list(frame["id"]) == ["new"]
        assert "1 superseded by newer products); superseded: old" in frame.attrs["geoelle:filters"]
    assert list(find(tmp_path / "0", exclude=["new"])["id"]) == ["old"], "a name left out brings the older one back"


@pytest.mark.parametrize(
    "wrong", [{"months": (0,)}, {"months": (13,)}, {"months": (1.5,)}, {"min_aoi_coverage_fraction": 1.1},
              {"min_aoi_coverage_fraction": float("nan")}, {"relative_orbits": ("8",)}, {"end": "2021-12-31"},
              {"max_cloud_percent": float("nan")}, {"platforms": "sentinel-2a"}, {"collections": "s2"}],
)  # fmt: skip
def test_filters_that_make_no_sense_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        find(catalog_of(tmp_path, MIXED), **wrong)
    assert "\n" not in str(refusal.value)


raw_items = st.builds(
    lambda n, day, cloud, orbit, platform, lon, baseline, tile: stac_item(
        f"i{n}", f"2022-{day:02}-04T10:36:21Z", (lon, 51.0, lon + 0.5, 52.0),
        **{k: v for k, v in {
            "eo:cloud_cover": cloud, "sat:relative_orbit": orbit, "platform": platform,
            "s2:processing_baseline": baseline, "s2:mgrs_tile": tile}.items() if v is not None},
    ),
    st.integers(0, 12), st.integers(1, 12), st.sampled_from([None, 5.0, 50.0, 95.0]), st.sampled_from([None, 8, 51]),
    st.sampled_from([None, "sentinel-2a", "Sentinel-2B"]), st.sampled_from([3.9, 4.0, 4.3, 9.0]),
    st.sampled_from([None, "04.00", "05.10"]), st.sampled_from([None, "31UFS"]),
)  # fmt: skip
any_filters = st.builds(
    filters,
    max_cloud_percent=st.sampled_from([None, 0, 50]),
    months=st.sampled_from([(), (6,), (1, 2, 3, 12)]),
    relative_orbits=st.sampled_from([(), (8,), (8, 51)]),
    platforms=st.sampled_from([(), ("sentinel-2a",), ("SENTINEL-2B",)]),
    min_aoi_coverage_fraction=st.sampled_from([0.0, 0.5, 1.0]),
    exclude=st.sampled_from([(), ("i1", "i2")]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(raw_items, max_size=12), any_filters, st.randoms())
def test_seen_is_always_kept_plus_removed(items: list[dict[str, Any]], wanted: Filters, random: Any) -> None:
    kept, counts = sifted(items, wanted)
    assert counts.seen == len(items) == counts.kept + counts.removed
    assert counts.kept == len(kept)
    assert len(counts.superseded_ids) == counts.superseded
    shuffled = list(items)
    random.shuffle(shuffled)
    again, counted = sifted(shuffled, wanted)
    assert again == kept
    assert counted == counts


def days_from(start: np.datetime64, end: np.datetime64) -> Any:
    return np.arange(start.astype("datetime64[D]"), end.astype("datetime64[D]") + np.timedelta64(1, "D"))


@settings(deadline=None)
@given(st.integers(0, 1500), st.integers(0, 1500), st.sets(st.integers(1, 12)))
def test_windows_hold_exactly_the_days_of_the_months(first: int, length: int, months: set[int]) -> None:
    start = np.datetime64("2019-01-01", "ns") + np.timedelta64(first, "D")
    end = start + np.timedelta64(length, "D")
    days = days_from(start, end)
    wanted = {str(d) for d in days if not months or int(str(d)[5:7]) in months}
    windows = windows_of(start, end, tuple(months))
    found = [str(d) for a, b in windows for d in days_from(a, b)]
    assert set(found) == wanted
    assert len(found) == len(wanted), "no day twice"


def test_an_area_of_many_corners_is_asked_for_with_few() -> None:
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    radius = 1 + 0.2 * np.sin(40 * angle)
    star = shapely.Polygon(np.stack([4 + radius * np.cos(angle), 51 + radius * np.sin(angle)], axis=1))
    asked = simpler(star)
    assert shapely.get_num_coordinates(asked) <= 500
    assert asked.covers(star)
    assert asked.area < 1.5 * star.area


# --- stac-geoparquet as a catalog


def parquet_of(path: Path, items: list[dict[str, Any]], writer: str) -> Path:
    if writer == "stac-geoparquet":
        table = stac_geoparquet.arrow.parse_stac_items_to_arrow(items).read_all()
        stac_geoparquet.arrow.to_parquet(table, path)
    else:

        async def write() -> None:
            await rustac.write(str(path), {"type": "FeatureCollection", "features": items})

        asyncio.run(write())
    return path


@pytest.mark.parametrize("writer", ["stac-geoparquet", "rustac"])
def test_anybodys_stac_geoparquet_is_a_catalog(tmp_path: Path, writer: str) -> None:
    items = [*MIXED, stac_item("far", box=(40.0, 51.0, 41.0, 52.0)), stac_item("late", "2024-06-04T10:36:21Z")]
    path = parquet_of(tmp_path / "items.parquet", items, writer)
    frame = find(path, relative_orbits=(8,))
    assert list(frame["id"]) == ["june", "next-june"]
    assert "4 seen, 2 kept" in frame.attrs["geoelle:filters"], "what lies elsewhere is not even parsed"
    assert "already filtered by the endpoint: area, dates" in frame.attrs["geoelle:filters"]
    record = records_from_frame(frame)[0]
    assert record.assets["red"].href == "http://127.0.0.1:9/june/B04.tif"
    with pytest.raises(NoItemsError, match="6 outside the AOI"):
        find(path, aoi=(10, 10, 11, 11))


def test_our_own_items_file_is_a_catalog(tmp_path: Path) -> None:
    find(catalog_of(tmp_path / "c", MIXED), out=tmp_path / "all.parquet")
    find(tmp_path / "all.parquet", months=(7,), out=tmp_path / "july.parquet")
    (july,), query = read_items(tmp_path / "july.parquet")
    assert july.id == "july"
    assert query["months"] == [7]
    assert july == next(r for r in read_items(tmp_path / "all.parquet")[0] if r.id == "july")


def test_only_row_groups_that_can_answer_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [
        stac_item(f"i{n:04}", f"2022-{1 + n // 100:02}-04T10:36:21Z", (float(n % 10), 51.0, n % 10 + 1.0, 52.0))
        for n in range(600)
    ]
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow(items).read_all()
    stac_geoparquet.arrow.to_parquet(table, tmp_path / "whole.parquet")
    pq.write_table(pq.read_table(tmp_path / "whole.parquet"), tmp_path / "i.parquet", row_group_size=100)
    read: list[list[int]] = []
    whole = pq.ParquetFile.iter_batches

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(kwargs["row_groups"])
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    frame = find(tmp_path / "i.parquet", start="2022-03-01", end="2022-03-31")
    assert read == [[2]]
    assert len(frame) == 10
    assert "10 seen, 10 kept" in frame.attrs["geoelle:filters"]


def test_a_file_loses_no_item_across_the_antimeridian(tmp_path: Path) -> None:
    across = stac_item("across") | {
        "geometry": shapely.geometry.mapping(
            shapely.union(shapely.box(179, -17, 180, -16), shapely.box(-180, -17, -179, -16))
        ),
        "bbox": [179.0, -17.0, -179.0, -16.0],
    }
    beyond = stac_item("beyond", box=(179.0, -17.0, 181.0, -16.0))
    path = parquet_of(tmp_path / "i.parquet", [across, beyond, stac_item("far")], "stac-geoparquet")
    for aoi in ((179.2, -16.8, 179.4, -16.6), (-179.4, -16.8, -179.2, -16.6)):
        assert sorted(find(path, aoi=aoi)["id"]) == ["across", "beyond"]
    with pytest.raises(NoItemsError):
        find(path, aoi=(-1, -16.8, 1, -16.6))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"items\.parquet is not Parquet") as refusal:
        find(path)
    assert "\n" not in str(refusal.value)


def test_a_parquet_of_something_else_is_one_sentence(tmp_path: Path) -> None:
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(4, 51)], crs=4326).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(CatalogError, match="no stac-geoparquet: its columns are a, geometry"):
        find(tmp_path / "x.parquet")


# --- what the items file remembers


def test_the_query_holds_all_that_was_asked_and_no_clock(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path / "c", MIXED)
    for name in ("a.parquet", "b.parquet"):
        find(catalog, months=(6,), platforms=("sentinel-2a",), out=tmp_path / name)
    query = read_items(tmp_path / "a.parquet")[1]
    assert query == read_items(tmp_path / "b.parquet")[1]
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    asked = {
        "months": [6], "platforms": ["sentinel-2a"], "relative_orbits": [], "min_aoi_coverage_fraction": 0.0,
        "fallback": None,
    }  # fmt: skip
    assert {name: query[name] for name in asked} == asked
    assert query["endpoint"] == str(catalog)
    assert query["sensor_definition"] is None
    assert query["filters"]["outside_months"] == 1


def test_a_sensor_of_ones_own_travels_with_the_items(tmp_path: Path) -> None:
    own = sensor_from_definition({**sensor_definition(S2), "name": "my-sensor", "collections": [], "providers": {}})
    frame = search(
        AREA, catalog=catalog_of(tmp_path / "c", MIXED), start="2022-01-01", end="2022-12-31", sensor=own,
        out=tmp_path / "i.parquet",
    )  # fmt: skip
    assert set(frame["sensor"]) == {"my-sensor"}
    records, query = read_items(tmp_path / "i.parquet")
    assert {r.sensor for r in records} == {"my-sensor"}
    assert sensor_from_definition(query["sensor_definition"]) == own


def test_a_catalog_that_runs_in_a_circle_ends(tmp_path: Path) -> None:
    folder = catalog_of(tmp_path, MIXED[:1])
    root = json.loads((folder / "catalog.json").read_text())
    root["links"] += [{"rel": "child", "href": "./catalog.json"}, {"rel": "item", "href": "./0.json"}]
    (folder / "catalog.json").write_text(json.dumps(root))
    frame = find(folder)
    assert frame.attrs["geoelle:filters"] == "1 seen, 1 kept"


@pytest.mark.long
def test_a_country_of_items_is_sifted_in_bounded_time() -> None:
    import time

    raws = [
        stac_item(f"i{n}", f"2022-{1 + n % 12:02}-{1 + n % 28:02}T10:36:21Z", **{"s2:mgrs_tile": "31UFS"})
        for n in range(20_000)
    ]
    started = time.perf_counter()
    _, counts = sifted(raws, filters(max_cloud_percent=50))
    assert counts.seen == 20_000 == counts.kept + counts.removed
    assert time.perf_counter() - started < 120


def test_find_items_is_for_library_use(tmp_path: Path) -> None:
    items, counts = find_items(filters(), catalog=catalog_of(tmp_path, MIXED), sensor=S2)
    assert len(items) == counts.kept == 4
    with pytest.raises(GeoelleError):
        find_items(filters(), catalog=tmp_path / "nothing", sensor=S2)
