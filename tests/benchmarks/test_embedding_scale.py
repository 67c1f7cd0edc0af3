"""The embedding stage at scale: beside its encoder alone, its memory, what a chip costs, two workers beside one.

Files are simulated, encoders partly: a stand-in waits in `time.sleep`, as a process waits for a GPU that leaves the
processor free. Figures are printed, never asserted. The 100,000 chips are marked `long`.

Run with `pytest -m bench -s tests/benchmarks/test_embedding_scale.py`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import embed_alone
import pytest

from geoelle.catalog import group_scenes, records_from_frame
from geoelle.encoders import get_card, load_encoder
from geoelle.grid import zone_chips
from geoelle.jobs import ChipOptions, read_chips
from geoelle.sensors import SENTINEL_2_L2A

pytestmark = [pytest.mark.bench, pytest.mark.models]
SIDE_256, SIDE_64 = 32, 64
"""Chips along an edge: 1,024 of 256 px, 4,096 of 64 px."""


def cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


@pytest.mark.parametrize(("encoder", "ms"), [(embed_alone.WAITS_20_MS, 20), (embed_alone.WAITS_40_MS, 40)])
def test_beside_an_encoder_that_waits(tmp_path: Path, encoder: str, ms: int) -> None:
    """From an empty folder to a finished store, cluster and planning included, over ms a chip and nothing else."""
    embed_alone.register_stand_ins()
    rows, columns = SIDE_256, SIDE_256 * 20 // ms
    embed_alone.write_files(tmp_path, rows * 256, columns * 256)
    cpu = cpu_s()
    n, n_jobs, seconds = embed_alone.embed(tmp_path, rows, columns, encoder, 256, tile_chips=8)
    cpu = cpu_s() - cpu
    print(
        f"\n{n} chips of 256 px, 4 bands, heuristic cloud test, {n_jobs} jobs; simulated encoder of {ms} ms a chip: "
        f"{n / seconds:.1f} chips/s beside {1000 / ms:.0f} of the encoder alone, ratio {n * ms / 1000 / seconds:.3f}; "
        f"cpu {1000 * cpu / n:.1f} ms a chip; {load()}"
    )


def test_beside_the_compact_encoder(tmp_path: Path) -> None:
    """The encoder alone runs over the same chips, read before, with as many threads as in the run."""
    card, edge = get_card("compact-rgb"), SIDE_64 * 64
    embed_alone.write_files(tmp_path, edge, edge)
    n, n_jobs, seconds = embed_alone.embed(tmp_path, SIDE_64, SIDE_64, "compact-rgb", 64)
    scene = group_scenes(records_from_frame(embed_alone.items_of(tmp_path, edge, edge)))[0]
    (zone,) = zone_chips(embed_alone.outline(edge, edge, 10.0), 640.0, 640.0, 16)
    encoder, alone, read, n_alone = load_encoder("compact-rgb", threads=os.cpu_count() or 1), 0.0, 0.0, 0
    for tile in list(zone.wanted_tiles())[:4]:
        start = time.perf_counter()
        wanted = zone.wanted[tile.y, tile.x]
        chips = read_chips(scene, zone.extent, tile, wanted, card, ChipOptions(0.1), SENTINEL_2_L2A)
        read += time.perf_counter() - start
        start = time.perf_counter()
        encoder.embed(chips.batch)
        alone += time.perf_counter() - start
        n_alone += len(chips.batch)
    print(
        f"\n{n} chips of 64 px, {n_jobs} jobs, compact-rgb: {n / seconds:.0f} chips/s beside {n_alone / alone:.0f} of "
        f"the encoder alone on all cores, ratio {(alone / n_alone) / (seconds / n):.2f}; "
        f"reading {1000 * read / n_alone:.2f} ms a chip on one thread; {load()}"
    )


def test_two_workers_beside_one(tmp_path: Path) -> None:
    """Two processes of four reader threads and one encoder thread each, beside one process of two encoder threads."""
    edge = SIDE_64 * 64
    embed_alone.write_files(tmp_path, edge, edge)
    took = {}
    for workers in (1, 2):
        store = tmp_path / "e.zarr"
        store.rename(tmp_path / "before.zarr") if store.exists() else None
        n, _, took[workers] = embed_alone.embed(tmp_path, SIDE_64, SIDE_64, "compact-rgb", 64, workers=workers)
    print(
        f"\n{n} chips of 64 px, compact-rgb: one worker {n / took[1]:.0f} chips/s, two {n / took[2]:.0f}, "
        f"ratio {took[1] / took[2]:.2f}, starting the processes included; {load()}"
    )


def told(folder: Path, rows: int, columns: int) -> dict[str, Any]:
    """What embedding so many chips of 32 px takes in a process of its own."""
    command = [sys.executable, embed_alone.__file__, str(folder), str(rows), str(columns)]
    for step in ("--files", "--embed"):
        done = subprocess.run([*command, step], check=False, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(found: list[dict[str, Any]]) -> None:
    print(f"\n{'chips':>8} {'jobs':>6} {'peak MB':>8} {'of first':>8} {'chips/job':>10} {'objects/job':>12} "
          f"{'data bytes/chip':>16} {'zarr.json bytes':>16} {'chips/s':>8}; {load()}")  # fmt: skip
    for one in found:
        n, jobs = one["n_chips"], one["n_jobs"]
        print(f"{n:>8} {jobs:>6} {one['peak_mb']:>8.0f} {one['peak_mb'] / found[0]['peak_mb']:>8.3f} {n / jobs:>10.1f} "
              f"{one['n_objects'] / jobs:>12.2f} {one['data_bytes'] / n:>16.2f} {one['metadata_bytes']:>16} "
              f"{n / one['seconds']:>8.0f}")  # fmt: skip


SIZES = ((32, 32), (80, 128), (320, 320))
"""About 1,000, 10,000 and 100,000 chips, in whole tiles."""


@pytest.mark.parametrize("sizes", [SIZES[:2], pytest.param(SIZES, marks=pytest.mark.long)], ids=["10,000", "100,000"])
def test_memory_jobs_and_bytes(tmp_path: Path, sizes: tuple[tuple[int, int], ...]) -> None:
    """A stand-in of eight features that takes no time; so bytes a chip are few, and what is seen is geoelle's own."""
    table([told(tmp_path / f"{rows}x{columns}", rows, columns) for rows, columns in sizes])
