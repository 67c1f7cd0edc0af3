"""Jobs on clusters: a bounded number in flight, GPU workers that only encode, workers that die."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Scheduler, SpecCluster, Worker, get_worker

from geoelle import embedding, jobs, running
from geoelle.catalog import records_from_frame, write_items
from geoelle.embedding import embed
from geoelle.records import JobResult
from geoelle.searching import search
from geoelle.simulate import Simulation

OPTIONS: dict[str, Any] = {"chip_size_m": 320, "stride_m": 320, "tile_chips": 4}
READ_BY: list[str] = []
ENCODED_BY: list[str] = []


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def items(scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    frame = search(scenes.aoi, catalog=scenes.catalog, collections=[], start="2021-01-01", end="2021-12-31")
    return write_items(records_from_frame(frame), tmp_path_factory.mktemp("items") / "items.parquet", {})


@pytest.fixture(scope="module")
def whole(items: Path, scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "e.zarr"
    embed(items, out=path, aoi=scenes.aoi, **OPTIONS)
    return path


# --- bounded


def _slow_double(number: int) -> int:
    time.sleep(0.002)
    return 2 * number


def test_jobs_are_taken_as_workers_come_free() -> None:
    taken, most_ahead, n_done, n_jobs = 0, 0, 0, 300

    def many() -> Iterator[int]:
        nonlocal taken
        for number in range(n_jobs):
            taken += 1
            yield number

    with running.cluster(1, None) as client:
        results = []
        for result in running.run_jobs(client, _slow_double, many(), n_jobs=n_jobs, label="double"):
            most_ahead = max(most_ahead, taken - n_done)
            n_done += 1
            results.append(result)
    assert sorted(results) == [2 * n for n in range(n_jobs)]
    window = running.READERS_PER_WORKER * 2
    assert window <= most_ahead <= window + 1


# --- GPU workers


def read_and_tell(job: jobs.EmbedJob) -> Any:
    READ_BY.append(str(get_worker().name))
    return jobs.read(job)


def encode_and_tell(chips: Any, job: jobs.EmbedJob) -> JobResult:
    ENCODED_BY.append(str(get_worker().name))
    return jobs.encode(chips, job)


@pytest.fixture
def with_gpu_worker() -> Iterator[str]:
    """A scheduler with a reader and a worker that declares a GPU (there is none; the resource is a word)."""
    address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    here = {"nthreads": 2, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with SpecCluster(
        scheduler={"cls": Scheduler, "options": {"protocol": "tcp://", **address}},
        workers={
            "reader": {"cls": Worker, "options": here},
            "device": {"cls": Worker, "options": {**here, "resources": {"GPU": 1}}},
        },
    ) as cluster:
        yield cluster.scheduler_address


def test_gpu_workers_encode_and_the_others_read(
    items: Path, scenes: Simulation, whole: Path, tmp_path: Path, with_gpu_worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "read", read_and_tell)
    monkeypatch.setattr(embedding, "encode", encode_and_tell)
    READ_BY.clear()
    ENCODED_BY.clear()
    path = tmp_path / "e.zarr"
    embed(items, out=path, aoi=scenes.aoi, scheduler=with_gpu_worker, **OPTIONS)
    # A preference, which Dask may overrule by stealing: were it a rule, a run would hang once its readers died.
    assert READ_BY.count("reader") > 0.7 * len(READ_BY)
    assert set(ENCODED_BY) == {"device"}
    assert tree(path) == tree(whole)


# --- workers that die

CHILD = """
import sys
from geoelle.embedding import embed
if __name__ == "__main__":
    def progress(done, total):
        print(done, flush=True)
    embed(sys.argv[1], out=sys.argv[2], aoi=sys.argv[3], chip_size_m=320, stride_m=320, tile_chips=4, workers=2,
          progress=progress)
"""


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 52))])
def test_a_run_whose_workers_are_killed_ends_with_the_same_bytes(
    items: Path, scenes: Simulation, whole: Path, tmp_path: Path, seed: int
) -> None:
    path, rng = tmp_path / "e.zarr", random.Random(seed)
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    command = [sys.executable, "-W", "ignore", str(script), str(items), str(path), str(scenes.aoi)]
    targets = set(rng.sample(range(0, 20), 3))
    n_killed = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) in targets:
                workers = [p for p in psutil.Process(child.pid).children() if "spawn_main" in " ".join(p.cmdline())]
                if workers:
                    time.sleep(rng.random() * 0.05)
                    rng.choice(sorted(workers, key=lambda p: p.pid)).kill()
                    n_killed += 1
    assert child.returncode == 0
    assert n_killed >= 1
    embed(items, out=path, aoi=scenes.aoi, **OPTIONS)  # takes up what the dead workers may have failed
    assert tree(path) == tree(whole)
