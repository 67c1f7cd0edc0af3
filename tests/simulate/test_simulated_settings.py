"""A config says what it can do before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from geoelle.errors import ConfigError
from geoelle.simulate import EventSpec, SimulationConfig, make_scenes

BAD = {
    "width_px is 3": {"width_px": 3},
    "height_px is 2.5": {"height_px": 2.5},
    "gsd_m is 0": {"gsd_m": 0.0},
    "latitude 88": {"centre_lat": 88.0},
    "A date cannot be read": {"dates": ("2022-02-30",)},
    "not a single date": {"dates": ()},
    "not ascending": {"dates": ("2022-05-01", "2022-04-01")},
    "one occurs twice": {"dates": ("2022-05-01", "2022-05-01")},
    "cadence_days is 0": {"dates": None, "cadence_days": 0},
    "bands is purple": {"bands": ("purple",)},
    "bands is empty": {"bands": ()},
    "bands is red, red": {"bands": ("red", "red")},
    "layout is 'round'": {"layout": "round"},
    "nodata is 7": {"nodata": 7},
    "offset_dn is -1": {"offset_dn": -1},
    "collection is 'a/b'": {"collection": "a/b"},
    "collection is 'truth'": {"collection": "truth"},
    "cloud_share has 1 entries for 3 dates": {"cloud_share": (0.5,)},
    "cloud_share is 1.5": {"cloud_share": 1.5},
    "edge_share is -1": {"edge_share": -1.0},
    "no event kind 'quake'": {"events": (EventSpec("quake"),)},
    "not YYYY-MM-DD": {"events": (EventSpec("burn", date="soon"),)},
    "after the last look": {"events": (EventSpec("burn", date="2030-01-01"),)},
    "at least two pixels": {"events": (EventSpec("burn", radius_m=3.0),)},
    "outside the area": {"events": (EventSpec("burn", offset_m=(9e9, 0.0)),)},
    "does not straddle two UTM zones": {"layout": "two-zones", "centre_lon": 4.0},
}


@pytest.mark.parametrize("says", BAD)
def test_bad_config_is_one_sentence_and_nothing_on_disk(says: str, tmp_path: Path) -> None:
    out = tmp_path / "sim"
    with pytest.raises(ConfigError) as caught:
        make_scenes(out, config=SimulationConfig.small(**BAD[says]))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_days_from_start_years_and_cadence() -> None:
    config = replace(SimulationConfig(), dates=None, start="2021-01-05", years=1.0, cadence_days=100)
    assert [d.isoformat() for d in config.days] == ["2021-01-05", "2021-04-15", "2021-07-24", "2021-11-01"]


def test_default_sees_every_year_from_one_orbit() -> None:
    assert len({day.toordinal() % 5 for day in SimulationConfig().days}) == 1
