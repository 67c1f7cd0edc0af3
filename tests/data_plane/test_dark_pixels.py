"""The check of the +1000 offset on pixels: what is known to carry it, what is known not to, and what cannot be told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from sky_scenes import a_sensor, an_item

from geoelle.catalog import records_from_frame
from geoelle.errors import ImageryError
from geoelle.imagery.darkpixels import DarkPixels, check_radiometry, dark_pixels, judge_floors
from geoelle.records import ItemRecord
from geoelle.searching import search
from geoelle.sensors import SENTINEL_2_L2A

RNG = np.random.default_rng(5)
BANDS = ("coastal", "blue", "green", "red", "nir08", "nir09", "swir16", "swir22")
CARRY = {"57755", "766272", "75123"}
"""Chips that the kit says carry the offset."""
CARRY_TOO = {"8845", "445"}
"""Chips of which the kit does not say it: their water lies at 950 to 1250 in every band, short-wave infrared too."""
S2 = replace(a_sensor(*BANDS, name="of-the-user"), offset_rule="sentinel-2-l2a")


def chips(shared_data: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    names = {spec.aliases[0]: spec.name for spec in SENTINEL_2_L2A.bands}
    found = {}
    for chip in json.loads((shared_data / "chips" / "ms_index.json").read_text())["chips"]:
        with rasterio.open(shared_data / "chips" / chip["file"]) as f:
            numbers = f.read().astype(np.float32)
        name = Path(chip["file"]).stem.split("_", 1)[1]
        found[name] = {names[key]: band for key, band in zip(chip["bands"], numbers, strict=True)}
    return found


@pytest.mark.shared
def test_the_chips_that_carry_it_are_found_and_no_other(shared_data: Path) -> None:
    verdicts = {name: judge_floors(bands).offset_in_pixels for name, bands in chips(shared_data).items()}
    assert len(verdicts) == 17
    assert {name for name, verdict in verdicts.items() if verdict is True} == CARRY | CARRY_TOO
    assert {name for name, verdict in verdicts.items() if verdict is None} == set()


@pytest.mark.shared
def test_a_simulated_offset_is_found_or_left_open_but_never_denied(shared_data: Path) -> None:
    free = {n: b for n, b in chips(shared_data).items() if n not in CARRY | CARRY_TOO}
    verdicts = [judge_floors({k: v + 1000 for k, v in bands.items()}).offset_in_pixels for bands in free.values()]
    assert False not in verdicts
    assert verdicts.count(True) >= 9, "of 12; a desert, a bright savanna and a cloudy chip tell nothing"


@pytest.mark.shared
def test_no_date_of_boadella_is_taken_for_one_that_carries_it(shared_data: Path) -> None:
    frame = search(
        (2.80, 42.335, 2.83, 42.36), catalog=shared_data / "stac", collections=["boadella-s2-l2a"],
        start="2020-01-01", end="2022-12-31",
    )  # fmt: skip
    items = records_from_frame(frame)
    evidence = {item.id: dark_pixels(item, SENTINEL_2_L2A) for item in items}
    assert len(evidence) == 12
    assert all(found.n_pixels > 100_000 for found in evidence.values())
    undecided = {id_[-10:] for id_, found in evidence.items() if found.offset_in_pixels is None}
    assert undecided == {"2020-01-18"}, "overcast"
    assert not any(found.offset_in_pixels for found in evidence.values())
    record = check_radiometry(items, evidence)
    assert json.loads(json.dumps(record)) == record
    assert set(record) == set(evidence)


def scene(low: dict[str, float], high: float, shape: tuple[int, int] = (60, 60)) -> dict[str, NDArray[np.float32]]:
    """Numbers from `low` of each band up to `high` above it."""
    return {b: (low[b] + high * RNG.random(shape)).astype(np.float32) for b in BANDS}


def everywhere(value: float) -> dict[str, float]:
    return dict.fromkeys(BANDS, value)


@pytest.mark.parametrize(
    ("what", "numbers", "expected"),
    [
        ("dark ground", scene(everywhere(30), 3000), False),
        ("dark ground with the offset", scene(everywhere(1030), 3000), True),
        ("sea", scene(everywhere(20), 60), False),
        ("sea with the offset", scene(everywhere(1000), 60), True),
        ("overcast", scene(everywhere(2500) | {"nir09": 6000}, 5000), None),
        ("haze over all of it", scene(everywhere(950) | {"nir09": 1600}, 2000), None),
        ("snow", scene(everywhere(5000) | {"swir16": 400, "swir22": 300}, 500), False),
        ("snow with the offset", scene(everywhere(6000) | {"swir16": 1400, "swir22": 1300}, 500), None),
        ("bright sand", scene(everywhere(2000) | {"coastal": 1000, "blue": 1200, "swir16": 5000}, 900), None),
        ("nothing", scene(everywhere(0), 0), None),
        ("nothing, told by NaN", scene(everywhere(np.nan), 0), None),
        ("too few", scene(everywhere(30), 3000, (20, 20)), None),
    ],
)  # fmt: skip
def test_verdicts(what: str, numbers: dict[str, NDArray[np.float32]], expected: bool | None) -> None:
    assert judge_floors(numbers).offset_in_pixels is expected, what


def test_visible_bands_alone_never_say_yes() -> None:
    numbers = scene(everywhere(1030), 3000)
    assert judge_floors({b: numbers[b] for b in ("blue", "green", "red")}).offset_in_pixels is None
    numbers = scene(everywhere(30), 3000)
    assert judge_floors({b: numbers[b] for b in ("blue", "green", "red")}).offset_in_pixels is False


def test_what_overviews_mix_at_the_edge_of_the_data_is_not_dark_ground() -> None:
    numbers = scene(everywhere(1030), 3000)
    for values in numbers.values():
        values[:, :20] = 0
        values[:, 20] = 400  # mixed with the nothing beside it
    assert judge_floors(numbers).offset_in_pixels is True


def an_s2_item(folder: Path, item_id: str, low: float, **fields: Any) -> ItemRecord:
    numbers = {b: v.astype(np.uint16) for b, v in scene(everywhere(low), 3000).items()}
    return an_item(folder, S2, numbers, item_id=item_id, nodata=0, **fields)


def looked_at(*items: ItemRecord) -> dict[str, DarkPixels]:
    return {item.id: dark_pixels(item, S2) for item in items}


def test_pixels_that_agree_pass(tmp_path: Path) -> None:
    old = an_s2_item(tmp_path, "old", 30, processing_baseline="03.01")
    new = an_s2_item(tmp_path, "new", 1030, processing_baseline="05.09", offset_applied=False, offset=-0.1)
    gone = an_s2_item(tmp_path, "gone", 30, processing_baseline="05.09", offset_applied=True)
    record = check_radiometry([old, new, gone], looked_at(old, new, gone))
    assert [(r["subtracted"], r["pixels"]["offset_in_pixels"]) for r in record.values()] == [
        (False, False), (True, True), (False, False),
    ]  # fmt: skip
    assert record["new"]["processing_baseline"] == "05.09"
    assert record["gone"]["offset_applied"] is True


def test_an_offset_that_no_one_declares_is_refused_with_its_items(tmp_path: Path) -> None:
    bad = [an_s2_item(tmp_path, f"bad{n}", 1030, processing_baseline="05.09", offset_applied=True) for n in (1, 2)]
    good = an_s2_item(tmp_path, "good", 30, processing_baseline="05.09", offset_applied=True)
    with pytest.raises(ImageryError) as error:
        check_radiometry([*bad, good], looked_at(*bad, good))
    message = str(error.value)
    for part in ("bad1, bad2 still carry", "baseline 05.09, offset applied already", "Others", "good", "--exclude"):
        assert part in message
    with pytest.raises(ImageryError) as alone:
        check_radiometry(bad, looked_at(*bad))
    assert "Others" not in str(alone.value)


def test_an_offset_that_would_be_subtracted_twice_is_refused(tmp_path: Path) -> None:
    item = an_s2_item(tmp_path, "twice", 30, processing_baseline="05.09", offset_applied=False, offset=-0.1)
    with pytest.raises(ImageryError, match=r"twice \(baseline 05\.09, offset not applied\) has 1000 subtracted"):
        check_radiometry([item], looked_at(item))


def test_what_cannot_be_told_is_not_refused(tmp_path: Path) -> None:
    item = an_s2_item(tmp_path, "clouds", 2500, offset=-0.1)
    assert check_radiometry([item], looked_at(item))["clouds"]["pixels"]["offset_in_pixels"] is None
    free = replace(item, assets={k: replace(a, offset=0.0) for k, a in item.assets.items()})
    assert check_radiometry([free], looked_at(free))["clouds"]["subtracted"] is False
    assert check_radiometry([free], {}) == {}


def test_other_sensors_have_no_offset_to_look_for(tmp_path: Path) -> None:
    assert dark_pixels(an_s2_item(tmp_path, "x", 1030), a_sensor(*BANDS, name="hls-s30")).offset_in_pixels is None


def test_a_large_item_is_read_thinned_and_a_broken_one_is_named(tmp_path: Path) -> None:
    numbers = {b: np.tile(v, (20, 10)).astype(np.uint16) for b, v in scene(everywhere(1030), 3000).items()}
    item = an_item(tmp_path, S2, numbers, item_id="large", nodata=0)
    found = dark_pixels(item, S2)
    assert found.offset_in_pixels is True
    assert found.n_pixels == 512 * 256
    path = Path(item.assets["swir22"].href)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ImageryError, match=r"item large, asset swir22 at .*large_swir22\.tif"):
        dark_pixels(item, S2)
