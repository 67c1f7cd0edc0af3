"""Providers: who serves an address, what each item of theirs says, and that a frozen item says the same again."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import stac_examples as examples
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoelle.catalog import items_frame, read_items, records_from_frame, write_items
from geoelle.catalog.parsing import parse_item
from geoelle.catalog.providers import DEFAULT_PROPERTIES, Provider, get_provider, list_providers, load_provider
from geoelle.errors import CatalogError, ConfigError
from geoelle.records import ItemRecord
from geoelle.sensors import AssetPlace, get_sensor, sensor_from_definition

PC = "https://planetarycomputer.microsoft.com/api/stac/v1"
ES = "https://earth-search.aws.element84.com/v1"

CASES: dict[str, tuple[Callable[[], dict[str, Any]], str, str | None]] = {
    "pc-s2": (examples.pc_sentinel_2, "sentinel-2-l2a", "planetary-computer"),
    "es-s2": (examples.earth_search_sentinel_2, "sentinel-2-l2a", "earth-search"),
    "es-c1": (examples.earth_search_collection_1, "sentinel-2-l2a", "earth-search"),
    "pc-landsat": (examples.pc_landsat, "landsat-c2-l2", "planetary-computer"),
    "pc-hls-s30": (lambda: examples.pc_hls("S30"), "hls-s30", "planetary-computer"),
    "pc-hls-l30": (lambda: examples.pc_hls("L30"), "hls-l30", "planetary-computer"),
    "lpdaac-hls-s30": (lambda: examples.lpdaac_hls("S30"), "hls-s30", None),
    "lpdaac-hls-l30": (lambda: examples.lpdaac_hls("L30"), "hls-l30", None),
    "pc-naip": (examples.pc_naip, "naip", "planetary-computer"),
    "pc-naip-undeclared": (lambda: examples.pc_naip(declared=False), "naip", "planetary-computer"),
    "pc-s1": (examples.pc_sentinel_1, "sentinel-1-rtc", "planetary-computer"),
    "cdse-s2": (examples.cdse_sentinel_2, "sentinel-2-l2a", None),
}


def record_of(case: str, **changes: Any) -> ItemRecord:
    make, sensor, provider = CASES[case]
    raw = make()
    raw["properties"] |= changes
    known = get_provider(provider) if provider else None
    record = parse_item(raw, get_sensor(sensor), provider=known, remote=True)
    assert record is not None
    return record


# --- who serves an address


def test_the_two_that_are_known() -> None:
    assert list_providers() == ["earth-search", "planetary-computer"]
    for name in list_providers():
        provider = get_provider(name)
        assert provider is not None
        assert provider.fallback in list_providers()
        assert provider.fallback != name
        assert pickle.loads(pickle.dumps(provider)) == provider
        assert {provider: 1}[provider] == 1
        assert set(provider.properties) == set(DEFAULT_PROPERTIES)
    planetary, earth = get_provider(PC), get_provider(ES)
    assert planetary is not None
    assert earth is not None
    assert (planetary.signing, earth.signing) == ("planetary-computer", None)
    assert planetary.server_filters == ("query", "filter")
    assert planetary.collections["hls-l30"] == ("hls2-l30",)
    assert earth.collections["sentinel-2-l2a"] == ("sentinel-2-l2a", "sentinel-2-c1-l2a")
    assert "sentinel-1-rtc" not in earth.collections
    assert earth.collections_of(get_sensor("hls-s30")) == ()
    assert planetary.collections_of(get_sensor("naip")) == ("naip",)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("planetary-computer", "planetary-computer"), ("earth-search", "earth-search"), (PC, "planetary-computer"),
        (PC + "/", "planetary-computer"), (PC + "/collections/naip", "planetary-computer"),
        ("https://PlanetaryComputer.microsoft.com:443/api/stac/v1", "planetary-computer"),
        ("https://planetarycomputer.microsoft.com./api/stac/v1?x=1", "planetary-computer"), (ES, "earth-search"),
        ("https://earth-search.aws.element84.com/v1/search", "earth-search"),
        # look-alikes
        ("https://planetarycomputer.microsoft.com.example.org/api/stac/v1", None),
        ("https://example.org/planetarycomputer.microsoft.com/api/stac/v1", None),
        ("https://planetarycomputer.microsoft.com@example.org/api/stac/v1", None),
        ("https://user:word@planetarycomputer.microsoft.com/api/stac/v1", None),
        ("https://xplanetarycomputer.microsoft.com/api/stac/v1", None),
        ("http://planetarycomputer.microsoft.com/api/stac/v1", None),
        ("https://planetarycomputer.microsoft.com:8443/api/stac/v1", None),
        ("https://planetarycomputer.microsoft.com/api/stac/v12", None),
        ("https://planetarycomputer.microsoft.com/api/stac", None),
        ("https://planetarycomputer.microsoft.com/api/stac/v1/../../evil", None),
        ("ftp://planetarycomputer.microsoft.com/api/stac/v1", None),
        ("https://earth-search.aws.element84.com/v0", None), ("https://[::1", None), ("https://h:99999/", None),
        ("", None), ("Planetary-Computer", None), ("catalog.json", None), ("/data/items.parquet", None),
        ("https://example.org/catalog.yaml", None),
    ],
)  # fmt: skip
def test_an_address_is_known_by_scheme_host_and_path(address: str, name: str | None) -> None:
    provider = get_provider(address)
    assert (provider.name if provider else None) == name


# --- what items of each provider say


GOLDEN: dict[str, dict[str, Any]] = {
    "pc-s2": {
        "provider": "planetary-computer", "platform": "sentinel-2b", "datatake": "S2B_20230629T212529",
        "mgrs_tile": "06VVN", "processing_baseline": "05.09", "relative_orbit": 43, "epsg": 32606,
        "offset_applied": False, "processed": "2023-06-30T00:15:31.830", "cloud_percent": 0.314306,
    },
    "es-s2": {
        "provider": "earth-search", "platform": "sentinel-2a", "datatake": "S2A_20230701T103631",
        "mgrs_tile": "31UFU", "processing_baseline": "05.09", "relative_orbit": 8, "epsg": 32631,
        "offset_applied": True, "processed": "2023-07-01T20:00:58", "cloud_percent": 98.9,
    },
    "es-c1": {
        "provider": "earth-search", "platform": "sentinel-2b", "datatake": "S2B_20200914T231559",
        "mgrs_tile": "01VCG", "processing_baseline": "05.00", "relative_orbit": 87, "epsg": 32601,
        "offset_applied": False, "processed": "2023-03-15T22:46:58", "bbox": (179.2, 59.964124, -178.61551, 60.426376),
    },
    "pc-landsat": {
        "provider": "planetary-computer", "platform": "landsat-8", "datatake": None, "mgrs_tile": None,
        "processing_baseline": None, "relative_orbit": 47, "epsg": 32610, "offset_applied": None,
        "processed": "2022-05-06T17:24:15.409187", "cloud_percent": 1.55,
    },
    "pc-hls-s30": {
        "provider": "planetary-computer", "platform": "sentinel-2a", "datatake": "2023152T105621",
        "mgrs_tile": "31UFS", "processing_baseline": "2.0", "relative_orbit": None, "epsg": 32631,
        "offset_applied": None, "processed": None, "cloud_percent": 12,
    },
    "pc-hls-l30": {"platform": "landsat-8", "mgrs_tile": "31UFS", "offset_applied": None},
    "lpdaac-hls-s30": {
        "provider": None, "platform": None, "datatake": "2023152T105621", "mgrs_tile": "31UFS", "epsg": None,
        "offset_applied": None, "cloud_percent": 12, "time_kind": "instant",
    },
    "lpdaac-hls-l30": {"provider": None, "mgrs_tile": "31UFS"},
    "pc-naip": {"platform": None, "epsg": 26911, "cloud_percent": None, "processed": None, "mgrs_tile": None},
    "pc-naip-undeclared": {"epsg": 26911, "offset_applied": None},
    "pc-s1": {
        "platform": "sentinel-1a", "datatake": "302867", "relative_orbit": 59, "epsg": 32631, "offset_applied": None,
        "cloud_percent": None, "time_kind": "instant",
    },
    "cdse-s2": {
        "provider": None, "platform": "sentinel-2c", "datatake": "S2C_20250330T100051", "mgrs_tile": "33UWP",
        "processing_baseline": "05.11", "relative_orbit": 122, "epsg": 32633, "offset_applied": False,
        "processed": "2025-03-30T14:59:14",
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_item_of_each_provider(case: str) -> None:
    record = record_of(case)
    for field, expected in GOLDEN[case].items():
        found = getattr(record, field)
        wanted = np.datetime64(expected, "ns") if field == "processed" and expected else expected
        assert found == wanted, field


SCALED: dict[str, tuple[float, float, float | None, float]] = {
    # scale, offset, nodata, metres of the red (of radar: vv) band
    "pc-s2": (1e-4, -0.1, None, 10), "es-s2": (1e-4, 0, 0, 10), "es-c1": (1e-4, -0.1, 0, 10),
    "pc-landsat": (2.75e-5, -0.2, 0, 30), "pc-naip": (1, 0, None, 0.6), "pc-naip-undeclared": (1, 0, None, 0.6),
    "pc-s1": (1, 0, -32768, 10), "cdse-s2": (1e-4, -0.1, 0, 10),
}  # fmt: skip


@pytest.mark.parametrize("case", SCALED)
def test_how_numbers_become_units(case: str) -> None:
    assets = record_of(case).assets
    band = assets.get("red") or assets["vv"]
    assert (band.scale, band.offset, band.nodata, band.gsd_m) == pytest.approx(SCALED[case], nan_ok=True)


@pytest.mark.parametrize("case", [c for c in CASES if "hls" in c])
def test_hls_declares_nothing_and_is_scaled_all_the_same(case: str) -> None:
    red = record_of(case).assets["red"]
    assert (red.scale, red.offset, red.nodata) == (1e-4, 0, None)


def keys(case: str) -> dict[str, str]:
    return {band: asset.key for band, asset in record_of(case).assets.items()}


def test_bands_are_found_under_each_providers_keys() -> None:
    numbers = {common: number for common, (number, _) in examples.S2_BANDS.items()}
    assert keys("pc-s2") == numbers | {"scl": "SCL"}
    assert keys("es-s2") == keys("es-c1") == {band: band for band in numbers} | {"scl": "scl"}
    assert keys("pc-landsat") == {b: b for b in ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")} | {
        "qa_pixel": "qa_pixel"
    }
    assert keys("pc-hls-l30") == keys("lpdaac-hls-l30") == {
        "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "nir08": "B05", "swir16": "B06",
        "swir22": "B07", "fmask": "Fmask",
    }  # fmt: skip
    s30 = {band: number for band, number in numbers.items() if band != "nir09"} | {"fmask": "Fmask"}
    assert keys("pc-hls-s30") == keys("lpdaac-hls-s30") == s30
    assert keys("pc-s1") == {"vv": "vv", "vh": "vh"}


def test_a_band_at_several_resolutions_is_read_at_the_finest() -> None:
    found = keys("cdse-s2")
    assert {b: found[b] for b in ("blue", "rededge1", "nir09", "scl")} == {
        "blue": "B02_10m", "rededge1": "B05_20m", "nir09": "B09_60m", "scl": "SCL_20m",
    }  # fmt: skip


@pytest.mark.parametrize("case", ["pc-naip", "pc-naip-undeclared"])
def test_four_bands_of_one_file(case: str) -> None:
    record = record_of(case)
    assert {b: (a.key, a.band_index, a.n_bands) for b, a in record.assets.items()} == {
        "red": ("image", 1, 4), "green": ("image", 2, 4), "blue": ("image", 3, 4), "nir": ("image", 4, 4),
    }  # fmt: skip
    kept: Any = record.raw["assets"]
    assert len(kept["image"]["eo:bands"]) == 4, "the loader must know that there are four"


def test_a_file_in_another_order_says_so_itself() -> None:
    raw = examples.pc_naip()
    raw["assets"]["image"]["eo:bands"] = [{"name": n} for n in ("NIR", "Red", "Green")]
    record = parse_item(raw, get_sensor("naip"), provider=get_provider("planetary-computer"))
    assert record is not None
    # Blue is not among the three, and the place that it has elsewhere, band 3, is Green here.
    assert {b: a.band_index for b, a in record.assets.items()} == {"nir": 1, "red": 2, "green": 3}


@pytest.mark.parametrize("make", [examples.pc_sentinel_2, examples.earth_search_sentinel_2])
def test_a_picture_is_never_taken_for_reflectance(make: Callable[[], dict[str, Any]]) -> None:
    raw = make()
    for lost in ("red", "green", "blue", "B02", "B03", "B04"):
        raw["assets"].pop(lost, None)
    record = parse_item(raw, get_sensor("sentinel-2-l2a"))
    assert record is not None
    assert not {"red", "green", "blue"} & set(record.assets), "neither true-colour picture nor JPEG 2000 original"


@pytest.mark.parametrize(
    ("case", "sensor"),
    [("pc-hls-l30", "hls-s30"), ("pc-hls-s30", "hls-l30"), ("pc-hls-s30", "sentinel-2-l2a"), ("pc-s2", "hls-s30"),
     ("lpdaac-hls-l30", "hls-s30"), ("pc-landsat", "sentinel-2-l2a"), ("es-s2", "landsat-c2-l2")],
)  # fmt: skip
def test_a_collection_of_another_sensor_holds_none_of_its_bands(case: str, sensor: str) -> None:
    make, _, provider = CASES[case]
    for known in (None, get_provider(provider) if provider else None):
        assert parse_item(make(), get_sensor(sensor), provider=known) is None


# --- the offset of baseline 04.00


@pytest.mark.parametrize(
    ("baseline", "applied", "declared", "state", "offset"),
    [
        # As documented, and as found in Earth Search issues 9, 66 and 71 and Planetary Computer issue 349.
        ("05.09", True, 0.0, True, 0), ("05.09", True, -0.1, True, 0), ("05.09", False, -0.1, False, -0.1),
        ("05.09", False, None, False, -0.1), ("05.09", None, -0.1, False, -0.1), ("05.09", False, 0.0, True, 0),
        ("05.09", None, 0.0, True, 0), ("04.00", True, None, True, 0), ("03.01", False, 0.0, None, 0),
        ("03.01", False, None, None, 0), ("02.14", True, 0.0, None, 0), ("03.01", None, -0.1, None, 0),
    ],
)  # fmt: skip
def test_flag_baseline_and_declaration_decide_together(
    baseline: str, applied: bool | None, declared: float | None, state: bool | None, offset: float
) -> None:
    raw = examples.earth_search_sentinel_2(baseline, applied=applied, offset=declared)
    for when in ("2019-07-01T10:46:30Z", "2024-07-01T10:46:30Z"):
        raw["properties"]["datetime"] = when
        record = parse_item(raw, get_sensor("sentinel-2-l2a"), provider=get_provider("earth-search"))
        assert record is not None
        assert record.offset_applied is state
        assert {(a.scale, a.offset) for b, a in record.assets.items() if b != "scl"} == {(1e-4, offset)}
        assert (record.assets["scl"].scale, record.assets["scl"].offset) == (1, 0)


@pytest.mark.parametrize(
    ("baseline", "state", "offset"), [("05.09", False, -0.1), ("04.00", False, -0.1), ("03.00", None, 0)]
)
def test_the_planetary_computer_never_takes_it_out(baseline: str, state: bool | None, offset: float) -> None:
    raw = examples.pc_sentinel_2(baseline)
    for said in ("s2:processing_baseline", None):
        if said is None:  # the product's name says it too
            del raw["properties"]["s2:processing_baseline"]
        record = parse_item(raw, get_sensor("sentinel-2-l2a"), provider=get_provider(PC))
        assert record is not None
        assert (record.processing_baseline, record.offset_applied) == (baseline, state)
        assert record.assets["red"].offset == offset


@pytest.mark.parametrize(("applied", "offset"), [(False, -0.1), (None, -0.1), (True, 0)])
def test_collection_1_before_2022_follows_its_baseline(applied: bool | None, offset: float) -> None:
    raw = examples.earth_search_collection_1(applied=applied)
    record = parse_item(raw, get_sensor("sentinel-2-l2a"), provider=get_provider(ES))
    assert record is not None
    assert record.time < np.datetime64("2022-01-25")
    assert record.assets["red"].offset == offset


@pytest.mark.parametrize("case", ["pc-landsat", "pc-hls-s30", "pc-s1", "pc-naip"])
def test_other_sensors_have_no_such_offset(case: str) -> None:
    plain = record_of(case)
    flagged = record_of(case, **{"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True})
    assert flagged.offset_applied is None
    assert flagged.assets == plain.assets


def test_the_same_overpass_is_known_across_providers_and_processings() -> None:
    first = record_of("es-s2")
    again = record_of("es-s2", **{"s2:datatake_id": "GS2A_20230701T103631_041904_N05.11"})
    by_name = record_of("es-s2", **{"s2:datatake_id": None})
    assert first.datatake == again.datatake == by_name.datatake == "S2A_20230701T103631"
    assert record_of("pc-s1").datatake == record_of("pc-s1", **{"s1:datatake_id": None}).datatake


@pytest.mark.parametrize("written", ["05.09", "N0509", "0509", "N05.09"])
def test_a_baseline_however_written(written: str) -> None:
    assert record_of("pc-s2", **{"s2:processing_baseline": written}).processing_baseline == "05.09"
    old = record_of("pc-s2", **{"s2:processing_baseline": written.replace("5", "3")})
    assert (old.processing_baseline, old.offset_applied, old.assets["red"].offset) == ("03.09", None, 0)


def test_landsat_says_cloud_over_land_where_that_is_all() -> None:
    assert record_of("pc-landsat", **{"eo:cloud_cover": None}).cloud_percent == 1.9


def test_a_tile_is_read_from_its_parts_or_the_products_name() -> None:
    assert record_of("es-s2", **{"grid:code": None}).mgrs_tile == "31UFU"
    assert record_of("es-s2", **{"grid:code": None, "mgrs:utm_zone": None}).mgrs_tile == "31UFU"
    assert record_of("es-s2", **{"grid:code": "MGRS-1UFU"}).mgrs_tile == "01UFU"


# --- frozen


@pytest.mark.parametrize("case", CASES)
def test_a_frozen_item_is_the_same_record(case: str) -> None:
    record = record_of(case)
    raw = json.loads(json.dumps(record.raw))
    pystac.Item.from_dict(copy.deepcopy(raw))
    again = parse_item(raw, get_sensor(record.sensor))
    assert again == record
    assert again is not None
    assert again.raw == record.raw


def test_all_come_back_from_one_file(tmp_path: Path) -> None:
    records = [record_of(case) for case in CASES if "undeclared" not in case and "lpdaac" not in case]
    path = write_items(records, tmp_path / "items.parquet", {})
    found, _ = read_items(path)
    assert {(r.collection, r.id): r for r in found} == {(r.collection, r.id): r for r in records}
    assert {r.id: r for r in records_from_frame(items_frame(records))} == {r.id: r for r in records}


def test_an_item_over_the_network_does_not_say_who_serves_it() -> None:
    raw = examples.lpdaac_hls("S30")
    raw["properties"]["geoelle:provider"] = "planetary-computer"
    over_the_network = parse_item(raw, get_sensor("hls-s30"), remote=True)
    assert over_the_network is not None
    assert over_the_network.provider is None
    assert "geoelle:provider" not in json.dumps(over_the_network.raw)


# --- a user's own


OWN: dict[str, Any] = {
    "name": "mine", "url": "https://stac.example.org/api/", "fallback": "earth-search", "server_filters": ["filter"],
    "collections": {"sentinel-2-l2a": ["s2"]},
    "properties": {"cloud_percent": ["my:clouds"], "mgrs_tile": ["my:tile"], "processed": [],
                   "datatake": ["my:pass"], "offset_applied": ["my:harmonised"], "processing_baseline": ["my:pb"],
                   "relative_orbit": ["my:orbit"]},
    "assets": {"sentinel-2-l2a": {"red": {"asset": "stack", "band": 2}, "blue": {"asset": "stack", "band": 1},
                                  "scl": "classes"}},
}  # fmt: skip


def own_provider(folder: Path, **changes: Any) -> Path:
    path = folder / "provider.yaml"
    path.write_text(yaml.safe_dump({**OWN, **changes}))
    return path


def test_a_file_defines_a_provider(tmp_path: Path) -> None:
    provider = get_provider(own_provider(tmp_path))
    assert provider is not None
    assert (provider.name, provider.url, provider.fallback) == ("mine", "https://stac.example.org/api", "earth-search")
    assert provider.server_filters == ("filter",)
    s2 = get_sensor("sentinel-2-l2a")
    assert provider.collections_of(s2) == ("s2",)
    assert provider.place(s2, "red") == AssetPlace("stack", 2)
    assert provider.place(s2, "nir") is None
    assert provider.property_names("cloud_percent") == ("my:clouds",)
    assert provider.property_names("platform") == ("platform",), "what is left out is looked up where others write it"
    assert provider.serves("https://stac.example.org/api/search")
    assert pickle.loads(pickle.dumps(provider)) == provider


def own_item() -> dict[str, Any]:
    raw = examples.pc_sentinel_2()
    raw |= {"id": "granule-1", "collection": "s2"}
    raw["assets"] = {"stack": {"href": "https://stac.example.org/stack.tif"},
                     "classes": {"href": "https://stac.example.org/c.tif", "eo:bands": [{"name": "what"}]}}  # fmt: skip
    raw["properties"] = {
        "datetime": "2023-06-29T21:25:29Z", "my:clouds": 7, "eo:cloud_cover": 99, "my:tile": "06VVN", "my:pass": "7",
        "my:harmonised": True, "my:pb": "05.09", "my:orbit": 43, "s2:generation_time": "2023-06-30T00:15:31Z",
        "sat:relative_orbit": 1, "platform": "Sentinel-2B",
    }  # fmt: skip
    return raw


def test_its_items_are_read_in_its_words_and_frozen_in_everybodys(tmp_path: Path) -> None:
    provider = get_provider(own_provider(tmp_path))
    record = parse_item(own_item(), get_sensor("sentinel-2-l2a"), provider=provider, remote=True)
    assert record is not None
    assert (record.cloud_percent, record.mgrs_tile, record.datatake, record.relative_orbit) == (7, "06VVN", "7", 43)
    assert (record.processing_baseline, record.offset_applied, record.provider) == ("05.09", True, "mine")
    assert record.processed is None
    assert {b: (a.key, a.band_index, a.n_bands) for b, a in record.assets.items()} == {
        "blue": ("stack", 1, 2), "red": ("stack", 2, 2), "scl": ("classes", 1, 1),
    }  # fmt: skip
    assert parse_item(json.loads(json.dumps(record.raw)), get_sensor("sentinel-2-l2a")) == record
    found, _ = read_items(write_items([record], tmp_path / "items.parquet", {}))
    assert found == [record]


def test_a_users_sensor_at_a_users_provider() -> None:
    definition = {
        "name": "mini", "units": "dn", "attribution": "Me",
        "bands": [{"name": "pan", "wavelength_um": 0.6, "gsd_m": 1, "aliases": ["P"]}],
        "providers": {"mine": {"collections": ["s2"], "assets": {"pan": {"asset": "stack", "band": 2}}}},
    }  # fmt: skip
    provider = Provider("mine", "https://stac.example.org")
    record = parse_item(own_item(), sensor_from_definition(definition), provider=provider)
    assert record is not None
    assert (record.assets["pan"].band_index, record.assets["pan"].scale, record.offset_applied) == (2, 1, None)


REFUSED = {
    "no url": ({"url": None}, "url"),
    "no address": ({"url": "stac.example.org"}, "url: .*http"),
    "a password": ({"url": "https://me:secret@stac.example.org"}, "url"),
    "a query": ({"url": "https://stac.example.org/?token=secret"}, "url"),
    "an unknown key": ({"token": "secret"}, "token: Extra inputs"),
    "an unknown word": ({"properties": {"haze": ["x"]}}, "properties"),
    "an unknown signature": ({"signing": "mine"}, "signing"),
    "an unknown filter": ({"server_filters": ["sql"]}, "server_filters"),
    "a known name": ({"name": "earth-search"}, "name of its own"),
    "no name": ({"name": None}, "name of its own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_one_sentence(tmp_path: Path, case: str) -> None:
    changes, said = REFUSED[case]
    path = own_provider(tmp_path, **changes)
    with pytest.raises(ConfigError, match=said) as refusal:
        get_provider(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "5", "x" * 200_000])
def test_what_is_no_definition_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        load_provider(path)
    with pytest.raises(ConfigError, match="There is no provider file"):
        get_provider(tmp_path / "nothing.yaml")


# --- hostile


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["/vsicurl/x", "https://example.org/x.tif", "2022-06-04T00:00:00Z", "nan", "EPSG:4326",
                       "MGRS-31UFS", "GS2A_20230701T103631_041904_N05.09", 10**400, -(10**30), "05.09"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip
PROPERTIES = sorted({name for names in DEFAULT_PROPERTIES.values() for name in names} | {
    "datetime", "s2:product_uri", "mgrs:utm_zone", "mgrs:latitude_band", "proj:epsg", "geoelle:provider", "gsd",
})  # fmt: skip
FIELDS = ["href", "eo:bands", "bands", "raster:bands", "roles", "nodata", "raster:scale", "raster:offset", "gsd"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    case=st.sampled_from(sorted(CASES)),
    properties=st.dictionaries(st.sampled_from(PROPERTIES), json_values, max_size=5),
    assets=st.dictionaries(st.sampled_from(["B04", "red", "image", "vv", "Fmask", "x"]), json_values, max_size=2),
    within=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3),
    data=st.data(),
)
def test_whatever_an_item_says_it_is_a_record_nothing_or_a_sentence(
    case: str, properties: Any, assets: Any, within: Any, data: st.DataObject
) -> None:
    make, sensor, provider = CASES[case]
    raw = make()
    raw["properties"] |= properties
    raw["assets"] |= assets
    key = data.draw(st.sampled_from(sorted(raw["assets"])))
    if isinstance(raw["assets"][key], dict):
        raw["assets"][key] |= within
    remote = data.draw(st.booleans())
    known = get_provider(provider) if provider else None
    try:
        record = parse_item(raw, get_sensor(sensor), provider=known, remote=remote)
    except CatalogError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017  any sentence will do
        return
    if record is not None:
        frozen = json.loads(json.dumps(record.raw))
        pystac.Item.from_dict(copy.deepcopy(frozen))
        assert parse_item(frozen, get_sensor(sensor)) == record


@settings(max_examples=200, deadline=None)
@given(json_values, json_values)
def test_garbage_is_refused_in_a_sentence(properties: Any, assets: Any) -> None:
    raw = {"id": "x", "bbox": [0, 0, 1, 1], "properties": properties, "assets": assets}
    for sensor in ("sentinel-2-l2a", "naip"):
        try:
            assert parse_item(raw, get_sensor(sensor), remote=True) is None
        except CatalogError as refusal:
            assert "\n" not in str(refusal)  # noqa: PT017  any sentence will do
