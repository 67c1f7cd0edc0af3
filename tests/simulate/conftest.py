"""Simulations shared by the tests: made once, read by many."""

from __future__ import annotations

import pytest

from geoelle.simulate import EventSpec, Simulation, SimulationConfig, make_scenes


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """One UTM granule, three clear dates, no events."""
    return make_scenes(tmp_path_factory.mktemp("small") / "sim", config=SimulationConfig.small())


@pytest.fixture(scope="session")
def two_zones(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Two granules across 6 degrees east, with cloud, a swath edge on every date and the three events."""
    config = SimulationConfig(
        seed=3,
        width_px=260,
        height_px=200,
        dates=("2022-04-20", "2022-07-14", "2022-08-23", "2022-09-12", "2022-10-02"),
        cloud_share=(0.0, 0.3, 0.0, 0.0, 0.6),
        haze_share=0.4,
        edge_share=1.0,
        overlap_m=500.0,
    )
    return make_scenes(tmp_path_factory.mktemp("zones") / "sim", config=config)


@pytest.fixture(scope="session")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Simulation, SimulationConfig]:
    """One granule under a clear sky with a look before and looks after each of the three events."""
    config = SimulationConfig.small(
        width_px=300,
        height_px=260,
        dates=("2022-08-13", "2022-08-23", "2022-10-02"),
        events=(
            EventSpec("burn", date="2022-08-15", radius_m=350.0),
            EventSpec("flood", date="2022-08-21", radius_m=500.0),
            EventSpec("clearing", date="2022-08-20", radius_m=300.0),
        ),
    )
    return make_scenes(tmp_path_factory.mktemp("events") / "sim", config=config), config
