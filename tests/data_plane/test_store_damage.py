"""Damaged files, full and read-only disks, and two runs on one store: an error that says so, never wrong numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from small_stores import (
    DAYS,
    EXTENT,
    JOBS,
    TILES,
    contents,
    difficulty_dates,
    do,
    file_of,
    job_data,
    make,
    make_difficulty,
    make_whole,
    tile_index,
)  # fmt: skip

import geoelle
from geoelle import schema
from geoelle.errors import GeoelleError, StoreError
from geoelle.store import open_store
from geoelle.store.embeddings import JOB_DIGEST, stored_digests, write_job
from geoelle.store.layout import read_values
from geoelle.store.location import Location
from geoelle.store.locking import check_hold, lock_place, store_lock
from geoelle.store.quantised import read_embedding
from geoelle.store.tables import write_geojson

HERE = str(Path(__file__).parent)
LITTLE = """
import resource, sys
sys.path.insert(0, {here!r})
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
from geoelle.errors import StoreError
from small_stores import *
"""


def little(limit: int, code: str, *arguments: str) -> list[str]:
    """What a process prints that may write no file larger than `limit`: as a disk that is full, without a mount."""
    script = LITTLE.format(here=HERE, limit=limit) + code
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- damage


@pytest.mark.parametrize("harm", ["a bit", "cut", "emptied"])
@pytest.mark.parametrize("array", ["embedding", "status", "contrast", JOB_DIGEST])
def test_a_damaged_chunk_is_an_error_and_is_named(tmp_path: Path, array: str, harm: str) -> None:
    path = tmp_path / "e.zarr"
    make_whole(path)
    assert geoelle.inspect(path, verify=True).is_whole
    file = file_of(path / array / "c", "*")
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for where in rng.choice(len(whole), 4, replace=False):
        flipped = bytearray(whole)
        flipped[where] ^= 1 << int(rng.integers(8))
        file.write_bytes({"a bit": bytes(flipped), "cut": whole[:where], "emptied": b""}[harm])
        with pytest.raises(StoreError, match="damaged"):
            stored_digests(path) if array == JOB_DIGEST else read_values(open_store(path)[array])
    report = geoelle.inspect(path, verify=True)
    assert [(c.array, path / c.file) for c in report.zones[0].damaged or ()] == [(array, file)]
    assert not report.is_whole
    assert report.tables()["Damaged chunks"][1][0][2] == file.relative_to(path).as_posix()


@pytest.mark.parametrize("dtype", schema.EMBEDDING_DTYPES)
def test_a_chunk_that_is_gone_is_named(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "e.zarr"
    make_whole(path, dtype)
    for name in ("embedding/c/1/0/1/0", "status/c/2/0/0"):
        (path / name).unlink()
    damaged = geoelle.inspect(path, verify=True).zones[0].damaged or ()
    assert [(c.file, c.error) for c in damaged] == [
        ("embedding/c/1/0/1/0", "the file is missing"), ("status/c/2/0/0", "the file is missing"),
    ]  # fmt: skip


def test_gdal_reads_the_checksummed_difficulty_and_refuses_damage(tmp_path: Path) -> None:
    path = tmp_path / "d.zarr"
    make_difficulty(path)
    codecs = json.loads((path / "difficulty" / "zarr.json").read_text())["codecs"]
    assert codecs[-1] == {"name": "zstd", "configuration": {"level": 3, "checksum": True}}
    with rasterio.open(f'ZARR:"{path}":/difficulty') as f:
        assert f.crs.to_epsg() == 32631
        assert f.transform.almost_equals(EXTENT.transform, 1e-6)
        np.testing.assert_array_equal(f.read(2), difficulty_dates()[1]["difficulty"])
    file = file_of(path / "difficulty" / "c", "*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="Variable difficulty cannot be read"):
        read_values(open_store(path)["difficulty"])
    with rasterio.open(f'ZARR:"{path}":/difficulty') as f, pytest.raises(rasterio.errors.RasterioIOError):
        f.read(1)
    report = geoelle.inspect(path, verify=True)
    assert [path / c.file for c in report.zones[0].damaged or ()] == [file]


# --- a disk that is full, or read-only


def test_a_job_on_a_full_disk_fails_alone_and_is_done_once_there_is_space(tmp_path: Path) -> None:
    path, whole = tmp_path / "e.zarr", tmp_path / "whole.zarr"
    make_whole(whole)
    index = make(path)
    do(path, index, 0, 0)
    write_job(path, index[DAYS[1]], tile_index(1), TILES[1], job_data(0, 0), "ab" * 32)  # to be done anew
    said = little(
        300,
        "index = {d: i for i, d in enumerate(DAYS)}\n"
        "for job in JOBS[1:]:\n"
        "    try:\n        do(sys.argv[1], index, *job)\n        print('done')\n"
        "    except StoreError as error:\n        print(error)\n",
        str(path),
    )
    assert len(said) == len(JOBS) - 1
    for line in said:
        assert line.startswith(f"{path} cannot be written: File too large (")
        assert "MB free). Free some space and run again: what is done is kept." in line
    assert not [p for p in path.rglob("*") if p.name.endswith(".partial")]
    done = stored_digests(path).any(axis=-1)
    assert int(done.sum()) == 1
    ds = open_store(path, "embeddings")
    assert int((ds["status"].values == schema.DONE).sum()) == 15
    assert int(np.isfinite(read_embedding(ds)).all(axis=-1).sum()) == 15
    report = geoelle.inspect(path, verify=True)
    assert report.jobs == {"done": 1, "failed": 0, "missing": len(JOBS) - 1}
    assert report.zones[0].damaged == ()
    index = make(path)
    for job in JOBS[1:]:
        do(path, index, *job)
    assert contents(path) == contents(whole)


def test_a_store_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "d.zarr"
    make_difficulty(path, "old")
    before = contents(path)
    said = little(
        700,
        "try:\n    make_difficulty(sys.argv[1], 'new')\nexcept StoreError as error:\n    print(error)\n"
        "try:\n    make(sys.argv[2])\nexcept StoreError as error:\n    print(error)\n",
        str(path), str(tmp_path / "e.zarr"),
    )  # fmt: skip
    assert [("File too large" in line, "cannot be written" in line) for line in said] == [(True, True)] * 2
    assert contents(path) == before
    assert sorted(os.listdir(tmp_path)) == [path.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 1 MB; where mounting is not allowed, the tests above say the same with a limit on files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no rights to mount a file system: {mounted.stderr.decode().strip()}")
    yield disk  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_up(filler: Path) -> None:
    with filler.open("wb", buffering=0) as f, suppress(OSError):
        while True:
            f.write(b"x" * 4096)


def test_a_disk_that_is_really_full_and_then_read_only(small_disk: Path, tmp_path: Path) -> None:
    path, whole = small_disk / "e.zarr", tmp_path / "whole.zarr"
    make_whole(whole)
    index = make(path)
    do(path, index, 0, 0)
    filler = small_disk / "filler"
    fill_up(filler)
    with pytest.raises(StoreError, match=r"No space left on device \(0.0 MB of 1.0 MB free\)"):
        do(path, index, 0, 1)
    with pytest.raises(StoreError, match="No space left"), store_lock(path, "embed"):
        pass
    assert int(stored_digests(path).any(axis=-1).sum()) == 1
    filler.unlink()
    for job in JOBS[1:]:
        do(path, index, *job)
    assert contents(path) == contents(whole)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for ask in (lambda: do(path, index, 0, 0), lambda: store_lock(path, "embed").__enter__()):
        with pytest.raises(StoreError, match=r"Read-only file system. Give a place that can be written"):
            ask()
    assert contents(path) == contents(whole)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    """A file where a folder has to be: refused for root too, and on any file system."""
    (tmp_path / "file").write_bytes(b"precious")
    path = tmp_path / "file" / "e.zarr"
    with (
        pytest.raises(StoreError, match=r"cannot be written: (Not a directory|File exists)"),
        store_lock(path, "embed"),
    ):
        raise AssertionError
    with pytest.raises(GeoelleError):
        make_difficulty(path)
    with pytest.raises(StoreError, match="cannot be written"):
        write_geojson(gpd.GeoDataFrame(geometry=[]), path)
    assert (tmp_path / "file").read_bytes() == b"precious"


# --- two runs on one store

HOLDER = """
import signal, sys, time
from geoelle.store.locking import store_lock
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell may have it ignored
with store_lock(sys.argv[1], "embed"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    command = [sys.executable, "-c", HOLDER, str(path)]
    for ending in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            said = rf"is being written by process {first.pid} on \S+ since 20\S+ \(embed\). Wait until"
            for ask in (lambda: store_lock(path, "embed").__enter__(), lambda: make_difficulty(path)):
                with pytest.raises(StoreError, match=said):
                    ask()
            assert not path.exists()
            first.send_signal(ending)
            first.wait(timeout=20)
        with store_lock(path, "embed") as hold:
            check_hold(hold)
        assert os.listdir(tmp_path) == []


def test_a_thread_holds_a_lock_again_but_another_thread_does_not(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "e.zarr"

    def other() -> str:
        try:
            with store_lock(path, "update"):
                return "held"
        except StoreError as error:
            return str(error)

    with ThreadPoolExecutor(1) as pool:
        with store_lock(path, "embed") as one, store_lock(str(path), "embed") as two:
            assert one == two
            assert f"process {os.getpid()}" in pool.submit(other).result()
        assert pool.submit(other).result() == "held"


def test_a_job_of_a_run_that_lost_its_store_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    with store_lock(path, "embed") as hold:
        index = make(path)
        do(path, index, 0, 0, hold=hold)
    before = contents(path)
    with store_lock(path, "embed"), pytest.raises(StoreError, match="no longer held by the run that this job is of"):
        do(path, index, 0, 1, hold=hold)
    assert contents(path) == before
    assert not lock_place(Location.of(path)).exists()
