"""The events are where the truth says, from the day it says, and do what their kind does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import geopandas
import numpy as np
import pytest
import rasterio

from geoelle.simulate import Simulation, SimulationConfig, make_scenes
from geoelle.simulate.happenings import place_events
from geoelle.simulate.landscape import grow
from geoelle.simulate.plane import lay_out

BEFORE, FIRST, LAST = range(3)


def band(simulation: Simulation, look: int, key: str) -> np.ndarray:
    with rasterio.open(simulation.asset_path(simulation.item_ids[look], key)) as source:
        return source.read(1).astype(float)


def mask_of(simulation: Simulation, kind: str) -> np.ndarray:
    event = next(e for e in simulation.events if e.kind == kind)
    (path,) = event.masks
    with rasterio.open(path) as source:
        mask = source.read(1)
    assert set(np.unique(mask)) == {0, 1}
    return mask == 1


def ndvi(simulation: Simulation, look: int) -> np.ndarray:
    red, nir = band(simulation, look, "B04"), band(simulation, look, "B08")
    return (nir - red) / (nir + red)


def test_list_of_events_is_complete(eventful: tuple[Simulation, SimulationConfig]) -> None:
    simulation, _ = eventful
    listed = json.loads(simulation.truth.read_text())
    assert listed["simulated"] is True
    assert [e["kind"] for e in listed["events"]] == [e.kind for e in simulation.events] == ["burn", "flood", "clearing"]
    for event, record in zip(simulation.events, listed["events"], strict=True):
        assert event.looks_after == ("2022-08-23", "2022-10-02")
        assert len(record["remaining"]) == 2
        assert event.outline.is_file()
        assert event.area_km2 > 0.02


def test_outline_and_mask_are_one_place(eventful: tuple[Simulation, SimulationConfig]) -> None:
    simulation, _ = eventful
    for event in simulation.events:
        outline = geopandas.read_file(event.outline).to_crs(32631)
        mask = mask_of(simulation, event.kind)
        assert outline.area.sum() / 1e6 == pytest.approx(event.area_km2, rel=0.25)
        assert mask.sum() * 1e-4 == pytest.approx(event.area_km2, rel=0.05)
        with rasterio.open(event.masks[0]) as source:
            row, column = np.argwhere(mask).mean(axis=0)
            x, y = source.xy(row, column)
        centre = outline.union_all().centroid
        assert np.hypot(centre.x - x, centre.y - y) < 60


def test_burn_takes_the_green_and_gives_some_back(eventful: tuple[Simulation, SimulationConfig]) -> None:
    simulation, _ = eventful
    mask, rest = mask_of(simulation, "burn"), ~np.any([mask_of(simulation, e.kind) for e in simulation.events], axis=0)
    drop = ndvi(simulation, FIRST) - ndvi(simulation, BEFORE)
    assert np.median(drop[mask]) < -0.2
    assert abs(np.median(drop[rest])) < 0.1
    assert band(simulation, FIRST, "B08")[mask].mean() < 0.7 * band(simulation, BEFORE, "B08")[mask].mean()


def test_flood_is_water_that_falls(eventful: tuple[Simulation, SimulationConfig]) -> None:
    simulation, _ = eventful
    mask = mask_of(simulation, "flood")
    water = [(band(simulation, look, "SCL")[mask] == 6).mean() for look in (BEFORE, FIRST, LAST)]
    assert water[BEFORE] < 0.05
    assert water[FIRST] > 0.9
    assert water[BEFORE] < water[LAST] < 0.6
    assert band(simulation, FIRST, "B08")[mask].mean() < 0.5 * band(simulation, BEFORE, "B08")[mask].mean()


def test_clearing_stays_bright(eventful: tuple[Simulation, SimulationConfig]) -> None:
    simulation, _ = eventful
    mask = mask_of(simulation, "clearing")
    for look in (FIRST, LAST):
        assert band(simulation, look, "B04")[mask].mean() > 1.5 * band(simulation, BEFORE, "B04")[mask].mean()


def test_outside_the_masks_an_event_changes_little(
    eventful: tuple[Simulation, SimulationConfig], tmp_path_factory: pytest.TempPathFactory
) -> None:
    simulation, config = eventful
    quiet = make_scenes(tmp_path_factory.mktemp("quiet") / "sim", config=replace(config, events=()))
    assert quiet.events == ()
    any_mask = np.any([mask_of(simulation, e.kind) for e in simulation.events], axis=0)
    assert np.array_equal(band(simulation, BEFORE, "B04"), band(quiet, BEFORE, "B04"))
    changed = np.abs(band(simulation, FIRST, "B08") - band(quiet, FIRST, "B08")) > 300
    assert changed[any_mask].mean() > 0.6
    assert changed[~any_mask].mean() < 0.08


@pytest.mark.parametrize("seed", range(6))
def test_default_events_find_a_place_anywhere(seed: int) -> None:
    config = SimulationConfig(seed=seed, width_px=220, height_px=180)
    plane, _ = lay_out(config)
    events = place_events(config, plane, grow(config, plane))
    assert len(events) == 3
    for k, event in enumerate(events):
        looks = [day for day in config.days if day >= event.day]
        assert 2 <= len(looks) <= 3
        assert event.remaining(date(2020, 1, 1)) == 0.0
        assert all(not (event.mask & other.mask).any() for other in events[k + 1 :])
