"""A cluster that was there before the run: its workers stand in another folder, and its scheduler can go away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from geoelle.embedding import embed
from geoelle.errors import ClusterError
from geoelle.searching import search
from geoelle.simulate import Simulation
from geoelle.store.embeddings import stored_digests
from geoelle.store.locking import lock_place, store_lock

DASK = "import sys; from dask.__main__ import main; sys.argv[0] = 'dask'; main()"


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and one worker, as processes of their own that were started elsewhere."""
    elsewhere, said = tmp_path / "elsewhere", tmp_path / "scheduler.json"
    elsewhere.mkdir()
    common = ["--scheduler-file", str(said), "--no-dashboard"]
    arguments = (
        ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show", *common],
        ["worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--death-timeout", "30", *common],
    )
    started = [
        subprocess.Popen([sys.executable, "-c", DASK, *a], cwd=elsewhere, stderr=subprocess.DEVNULL) for a in arguments
    ]
    try:
        end = time.monotonic() + 60
        while not said.is_file() or not said.read_bytes().strip():
            assert time.monotonic() < end, "the scheduler did not start"
            time.sleep(0.05)
        yield json.loads(said.read_text())["address"], started[0]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_relative_store_is_the_same_place_for_its_workers_and_a_lost_scheduler_is_said(
    far: tuple[str, subprocess.Popen[bytes]], scenes: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, scheduler = far
    monkeypatch.chdir(tmp_path)
    items = search(scenes.aoi, catalog=scenes.catalog, collections=[], start="2021-01-01", end="2021-12-31")
    n_seen = []

    def progress(done: int, total: int) -> None:
        n_seen.append(total)
        if done == 3:
            scheduler.kill()

    with pytest.raises(ClusterError, match="scheduler was lost"):
        embed(
            items, out="e.zarr", aoi=scenes.aoi, chip_size_m=320, stride_m=320, tile_chips=2, scheduler=address,
            progress=progress,
        )  # fmt: skip
    n_done = int(stored_digests(tmp_path / "e.zarr").any(axis=-1).sum())
    assert 3 <= n_done < n_seen[0]
    with store_lock(tmp_path / "e.zarr", "test") as hold:  # given back
        assert lock_place(hold.place).is_file()
