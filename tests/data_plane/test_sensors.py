"""Sensors as data: those that come along, a user's own, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoelle.errors import GeoelleError, SensorError
from geoelle.imagery.masks import has_any
from geoelle.sensors import (
    ALL_BITS,
    SENTINEL_2_L2A,
    BandSpec,
    QualitySpec,
    Sensor,
    get_sensor,
    list_sensors,
    load_sensor,
    register_sensor,
    sensor_definition,
    sensor_from_definition,
    sensors_of_collection,
)

BUILT_IN = ("hls-l30", "hls-s30", "landsat-c2-l2", "naip", "sentinel-1-rtc", "sentinel-2-l2a")

OWN: dict[str, Any] = {
    "name": "planet-sr", "units": "reflectance", "scale": 0.0001, "nodata": 0, "attribution": "Planet Labs",
    "collections": ["psscene"],
    "bands": [
        {"name": "blue", "aliases": ["b1"], "wavelength_um": 0.49, "gsd_m": 3},
        {"name": "red", "wavelength_um": 0.665, "gsd_m": 3},
    ],
    "quality": {"name": "udm", "encoding": "bits", "nodata": 1, "invalid": {"bits": [0], "values": [255]},
                "cloud": {"bits": [1], "fields": [[768, 512]]}},
    "providers": {"my-stac": {"collections": ["ps"], "assets": {"red": {"asset": "analytic", "band": 3}}}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _forget_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoelle.sensors.registry._registered", {})


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(OWN), **changes}


def write(folder: Path, document: Any) -> Path:
    path = folder / "sensor.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


# --- those that come along


def test_they_are_listed() -> None:
    assert tuple(list_sensors()) == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_is_whole_and_comes_back(name: str) -> None:
    sensor = get_sensor(name)
    assert sensor.name == name
    assert get_sensor(name) is sensor, "a file is read once"
    assert sensor.collections
    assert sensor.attribution
    assert all(0.3 < b.wavelength_um < 3 for b in sensor.bands if b.frequency_ghz is None)
    assert all(a.wavelength_um <= b.wavelength_um for a, b in pairwise(sensor.bands)), "bands in order of wavelength"
    assert all(b.gsd_m > 0 for b in sensor.bands)
    assert pickle.loads(pickle.dumps(sensor)) == sensor
    assert len({sensor, get_sensor(name)}) == 1, "hashable"
    definition = json.loads(json.dumps(sensor_definition(sensor), sort_keys=True, allow_nan=False))
    assert sensor_from_definition(definition) == sensor
    for source in sensor.sources:
        assert set(source.collections) <= set(sensor.collections)
        for band, place in source.assets:
            assert source.place(band) == place


def test_sentinel_2_is_what_it_was() -> None:
    assert [b.name for b in SENTINEL_2_L2A.bands] == [
        "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16",
        "swir22",
    ]  # fmt: skip
    assert [b.aliases[0] for b in SENTINEL_2_L2A.bands] == [
        "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12",
    ]  # fmt: skip
    assert (SENTINEL_2_L2A.scale, SENTINEL_2_L2A.units) == (1e-4, "reflectance")
    assert SENTINEL_2_L2A.band("B8A").wavelength_um == 0.865
    assert SENTINEL_2_L2A.offset_rule == "sentinel-2-l2a"
    assert [get_sensor(n).offset_rule for n in BUILT_IN if n != "sentinel-2-l2a"] == [None] * 5


def test_units_and_scaling() -> None:
    said = {n: (s.units, s.scale, s.offset, s.nodata) for n in BUILT_IN for s in (get_sensor(n),)}
    assert said == {
        "hls-l30": ("reflectance", 1e-4, 0, -9999), "hls-s30": ("reflectance", 1e-4, 0, -9999),
        "landsat-c2-l2": ("reflectance", 2.75e-5, -0.2, 0), "naip": ("dn", 1, 0, None),
        "sentinel-1-rtc": ("linear", 1, 0, -32768), "sentinel-2-l2a": ("reflectance", 1e-4, 0, 0),
    }  # fmt: skip


def test_the_two_parts_of_hls_number_their_bands_differently() -> None:
    s30, l30 = get_sensor("hls-s30"), get_sensor("hls-l30")
    assert {b.name: b.aliases[0] for b in l30.bands} == {
        "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "nir08": "B05", "swir16": "B06", "swir22": "B07",
    }  # fmt: skip
    assert (s30.band("nir08").aliases[0], s30.band("swir16").aliases[0]) == ("B8A", "B11")
    for not_reflectance in ("B09", "B10", "B11"):
        with pytest.raises(SensorError, match="hls-l30 has no band"):
            l30.band(not_reflectance)


def test_radar_says_its_carrier() -> None:
    vv = get_sensor("sentinel-1-rtc").band("vv")
    assert vv.frequency_ghz == 5.405
    assert vv.wavelength_um == pytest.approx(55_466, abs=1), "5.5 cm"


QUALITY = [
    # sensor, number, meanings that it has
    ("sentinel-2-l2a", 0, {"invalid"}), ("sentinel-2-l2a", 1, {"invalid"}), ("sentinel-2-l2a", 4, set()),
    ("sentinel-2-l2a", 3, {"shadow"}), ("sentinel-2-l2a", 6, {"water"}), ("sentinel-2-l2a", 8, {"cloud"}),
    ("sentinel-2-l2a", 9, {"cloud"}), ("sentinel-2-l2a", 10, {"cloud"}), ("sentinel-2-l2a", 11, {"snow"}),
    # USGS's own examples of QA_PIXEL of Landsat 8: fill, clear, water, cloud, cloud shadow, cirrus, snow.
    ("landsat-c2-l2", 1, {"invalid"}), ("landsat-c2-l2", 21824, set()), ("landsat-c2-l2", 21952, {"water"}),
    ("landsat-c2-l2", 22280, {"cloud"}), ("landsat-c2-l2", 23888, {"shadow"}), ("landsat-c2-l2", 54596, {"cloud"}),
    ("landsat-c2-l2", 30048, {"snow"}),
    ("hls-s30", 0, set()), ("hls-s30", 64, set()), ("hls-s30", 0b10, {"cloud"}), ("hls-s30", 0b100, {"cloud"}),
    ("hls-l30", 0b1000, {"shadow"}), ("hls-l30", 0b10000, {"snow"}), ("hls-l30", 0b11100000, {"water"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "number", "meanings"), QUALITY)
def test_what_a_number_of_a_quality_layer_means(name: str, number: int, meanings: set[str]) -> None:
    quality = get_sensor(name).quality
    assert quality is not None
    numbers = np.array([number])
    found = {m for m in ("invalid", "cloud", "shadow", "snow", "water") if has_any(numbers, getattr(quality, m))[0]}
    assert found == meanings


@pytest.mark.parametrize("name", ["sentinel-2-l2a", "landsat-c2-l2", "hls-s30", "hls-l30"])
def test_no_data_is_invalid(name: str) -> None:
    quality = get_sensor(name).quality
    assert quality is not None
    assert has_any(np.array([quality.nodata]), quality.invalid)[0]


def test_collections_name_their_sensor() -> None:
    assert sensors_of_collection("hls2-l30") == ("hls-l30",)
    assert sensors_of_collection("sentinel-2-c1-l2a") == ("sentinel-2-l2a",)
    assert sensors_of_collection("sentinel-1-grd") == (), "not terrain corrected"
    assert sensors_of_collection("mine") == ()


def test_sensors_are_read_when_first_asked_for() -> None:
    code = "import geoelle.sensors, sys; print('pydantic' in sys.modules, 'yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


# --- a user's own


def test_a_file_defines_a_sensor(tmp_path: Path) -> None:
    sensor = get_sensor(write(tmp_path, OWN))
    assert sensor.bands == (BandSpec("blue", ("b1",), 0.49, 3), BandSpec("red", ("red",), 0.665, 3))
    assert sensor.collections == ("ps", "psscene")
    assert sensor.quality == QualitySpec(
        "udm", ("udm",), 1, invalid=((1, 1), (ALL_BITS, 255)), cloud=((2, 2), (768, 512))
    )
    source = sensor.source("my-stac")
    assert source is not None
    place = source.place("red")
    assert place is not None
    assert (place.key, place.band_index) == ("analytic", 3)
    assert source.place("blue") is None
    assert sensor.source("earth-search") is None
    assert get_sensor("planet-sr") is sensor, "known by its name from now on"
    assert "planet-sr" in list_sensors()
    assert sensor_from_definition(json.loads(json.dumps(sensor_definition(sensor)))) == sensor


def test_the_same_again_is_fine_and_another_of_that_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, OWN)
    first = get_sensor(str(path))
    assert get_sensor(path) is first
    with pytest.raises(SensorError, match=r"'planet-sr' already, with another definition\. Give yours a name"):
        register_sensor(sensor_from_definition(changed(scale=1)))
    with pytest.raises(SensorError, match="'naip' already"):
        get_sensor(write(tmp_path, changed(name="naip")))
    assert register_sensor(SENTINEL_2_L2A) is SENTINEL_2_L2A


def test_loading_alone_registers_nothing(tmp_path: Path) -> None:
    load_sensor(write(tmp_path, OWN))
    with pytest.raises(SensorError, match="no sensor 'planet-sr'"):
        get_sensor("planet-sr")


def test_a_sensor_made_in_code_comes_back_too() -> None:
    odd = QualitySpec("q", ("q",), 0, invalid=((ALL_BITS, 7), (1, 1)), cloud=((6, 2),))
    sensor = Sensor("mine", ("c",), "dn", 2.0, (BandSpec("a", ("a",), 1.0, 5),), odd, "Me")
    assert sensor_from_definition(json.loads(json.dumps(sensor_definition(sensor)))) == sensor


REFUSED = {
    "no name": ({"name": None}, "name"),
    "a path for a name": ({"name": "../x"}, "name"),
    "no units": ({"units": ""}, "units"),
    "scale 0": ({"scale": 0}, "every pixel the same"),
    "scale of nothing": ({"scale": float("nan")}, "scale"),
    "an unknown key": ({"wavelength": 1}, "wavelength: Extra inputs"),
    "an unknown rule": ({"offset_rule": "by date"}, "offset_rule"),
    "no bands": ({"bands": []}, "bands"),
    "a band twice": ({"bands": [OWN["bands"][0]] * 2}, "named twice"),
    "an alias of two": ({"bands": [{**OWN["bands"][0], "aliases": ["x"]}, {**OWN["bands"][1], "aliases": ["x"]}]},
                        "'x' stands for both blue and red"),
    "no wavelength": ({"bands": [{"name": "a", "gsd_m": 1}]}, "either wavelength_um"),
    "both": ({"bands": [{"name": "a", "gsd_m": 1, "wavelength_um": 1, "frequency_ghz": 5}]}, "either wavelength_um"),
    "wavelength below 0": ({"bands": [{"name": "a", "gsd_m": 1, "wavelength_um": -1}]}, r"bands\.0\.wavelength_um"),
    "no pixel": ({"bands": [{"name": "a", "gsd_m": 0, "wavelength_um": 1}]}, r"bands\.0\.gsd_m"),
    "classes in a bit field": ({"quality": {**OWN["quality"], "cloud": [1]}}, r"cloud must be \{bits"),
    "bits in a classification": ({"quality": {**OWN["quality"], "encoding": "classes"}}, "a list of classes"),
    "bit 16": ({"quality": {**OWN["quality"], "cloud": {"bits": [16]}}}, "quality"),
    "assets of no band": ({"providers": {"p": {"collections": ["c"], "assets": {"pink": "x"}}}}, "'pink'"),
    "band 0": ({"providers": {"p": {"collections": ["c"], "assets": {"red": {"asset": "x", "band": 0}}}}}, "providers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_one_sentence_with_file_and_field(tmp_path: Path, case: str) -> None:
    changes, said = REFUSED[case]
    path = write(tmp_path, changed(**changes))
    with pytest.raises(SensorError, match=said) as refusal:
        load_sensor(path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize("text", ["", "5", "[]", "a: [", "x" * 200_000, "\x00", "!!python/object/apply:os.getcwd []"])
def test_what_is_no_definition_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(SensorError) as refusal:
        load_sensor(write(tmp_path, text))
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SensorError, match="There is no sensor file"):
        get_sensor(tmp_path / "nothing.yaml")


def test_an_unknown_name_names_the_closest() -> None:
    with pytest.raises(SensorError, match="Did you mean sentinel-2-l2a"):
        get_sensor("sentinel2-l2a")
    with pytest.raises(SensorError, match=r"has no band 'pink'\. Its bands are"):
        SENTINEL_2_L2A.band("pink")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from([*OWN, "offset", "x"]), json_values, max_size=3),
    st.dictionaries(
        st.sampled_from(["name", "encoding", "nodata", "cloud", "water", "aliases"]), json_values, max_size=2
    ),
)
def test_any_definition_gives_a_sensor_that_comes_back_or_a_sentence(top: Any, quality: Any) -> None:
    definition = changed(quality={**OWN["quality"], **quality}) | top
    try:
        sensor = sensor_from_definition(definition)
    except GeoelleError:
        return
    assert sensor_from_definition(json.loads(json.dumps(sensor_definition(sensor)))) == sensor
