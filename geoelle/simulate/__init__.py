"""Simulated Sentinel-2-like scenes with a static STAC catalog and known events: the demo's data and the tests'."""

from geoelle.simulate.production import SimulatedEvent, Simulation, make_scenes
from geoelle.simulate.settings import EventSpec, SimulationConfig

__all__ = ["EventSpec", "SimulatedEvent", "Simulation", "SimulationConfig", "make_scenes"]
