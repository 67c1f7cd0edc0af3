"""What must not grow with the area: memory, and what a chip costs in jobs, objects and bytes."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geoelle.running import cluster, run_jobs

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "embed_alone.py"
SIZES = ((32, 32), (80, 128))
"""About 1,000 and 10,000 chips, in whole tiles of 16 x 16."""


@dataclass
class Load:
    """A job of this test's own, to be counted."""

    number: int


def numbered(load: Load) -> int:
    return load.number


def test_jobs_that_are_done_are_let_go() -> None:
    """Dask's logs for debugging would hold the last thousand. A second cluster finds Dask as the first one did."""
    n = 300
    for _ in range(2):
        with cluster(1, None) as client:
            done = sorted(run_jobs(client, numbered, (Load(i) for i in range(n)), n_jobs=n, label="counted"))
            gc.collect()
            alive = sum(type(thing) is Load for thing in gc.get_objects())
        assert done == list(range(n))
        assert alive <= 100


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each size took, every one in a process of its own."""
    found = []
    for rows, columns in SIZES:
        folder = tmp_path_factory.mktemp("alone")
        command = [sys.executable, str(SCRIPT), str(folder), str(rows), str(columns)]
        for step in ("--files", "--embed"):
            done = subprocess.run([*command, step], check=False, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    return found


def test_memory_does_not_grow_with_the_area(told: list[dict[str, Any]]) -> None:
    """Of the whole process; 32 MB are for what a run of four jobs never fills, such as buffers of every thread."""
    small, large = told
    assert large["n_chips"] == 10 * small["n_chips"]
    assert large["peak_mb"] <= 1.1 * small["peak_mb"] + 32


def test_a_chip_costs_the_same_in_a_larger_area(told: list[dict[str, Any]]) -> None:
    small, large = told
    for one in told:
        assert one["n_jobs"] * 256 == one["n_chips"]
    # Coordinates and the time axis are one object each in any store.
    per_job = [(one["n_objects"] - 3) / one["n_jobs"] for one in told]
    assert per_job[0] == pytest.approx(per_job[1], rel=0.01)
    assert large["data_bytes"] / large["n_chips"] == pytest.approx(small["data_bytes"] / small["n_chips"], rel=0.05)
