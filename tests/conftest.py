"""Fixtures that all tests share: where the real data lies, and small simulated runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geoelle.simulate import Simulation, SimulationConfig, make_scenes

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real imagery beside the clone; skips with a reason on a laptop, never in CI."""
    if not SHARED.is_dir():
        message = "../shared/data, the real imagery, does not lie beside the clone"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return SHARED


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Six cloudless simulated dates over about 2 × 2 km, one granule."""
    dates = tuple(f"2021-0{month}-10" for month in range(3, 9))
    config = SimulationConfig.small(width_px=224, height_px=192, dates=dates)
    return make_scenes(tmp_path_factory.mktemp("scenes") / "small", config=config)
