"""Stores in an object store: a real S3 server on loopback, every kind of store, and writes that stop half-way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from s3_server import new_bucket, s3_server
from small_stores import (
    DAYS,
    EXTENT,
    JOBS,
    TILES,
    attrs,
    contents,
    difficulty_dates,
    do,
    job_data,
    make,
    make_difficulty,
    make_whole,
)  # fmt: skip

import geoelle
from geoelle.errors import AlreadyExistsError, NotFoundError, StoreError
from geoelle.store import locking, open_store
from geoelle.store.embeddings import stored_digests
from geoelle.store.layout import Variable, is_stored, read_values, write_store
from geoelle.store.location import Location
from geoelle.store.locking import check_hold, lock_place, store_lock
from geoelle.store.probes import check_probe_place, read_probe, write_probe
from geoelle.store.quantised import read_embedding
from geoelle.store.tables import check_table_place, read_table, write_geojson, write_table
from geoelle.store.zones import create_zones, zone_paths


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return new_bucket()


def test_an_embedding_store_is_made_added_to_and_holds_the_same_bytes(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/runs/e.zarr"
    assert not is_stored(url)
    with pytest.raises(NotFoundError, match="There is no store"):
        open_store(url)
    with store_lock(url, "embed") as hold:
        index = make(url, DAYS[:1])
        for job in JOBS:
            if job[0] == 0:
                do(url, index, *job, hold=hold)
        index = make(url, DAYS)
        assert index == {day: k for k, day in enumerate(DAYS)}
        for job in JOBS:
            if job[0] > 0:
                do(url, index, *job, hold=hold)
    local = tmp_path / "e.zarr"
    make_whole(local)
    assert contents(url) == contents(local)
    np.testing.assert_array_equal(stored_digests(url), stored_digests(local))
    ds = open_store(url, "embeddings")
    for day, n in JOBS:
        found = read_embedding(ds, day)[TILES[n].y, TILES[n].x]
        np.testing.assert_array_equal(found, job_data(day, n)["embedding"])
    assert Location.of(f"{bucket}/runs").files().keys() == {f"e.zarr/{name}" for name in contents(local)}


def test_a_difficulty_store_is_written_and_replaced(bucket: str) -> None:
    url = f"{bucket}/d.zarr"
    (Location.of(url) / "old" / "c" / "9").write_bytes(b"of an earlier store")
    make_difficulty(url, "first")
    make_difficulty(url, "second")
    ds = open_store(url, "difficulty", load=True)
    assert ds.attrs["geoelle:made_of"] == "second"
    np.testing.assert_array_equal(ds["difficulty"].values[1], difficulty_dates()[1]["difficulty"])
    assert not any(name.startswith("old") for name in contents(url))
    report = geoelle.inspect(url, verify=True)
    assert (report.kind, report.is_whole) == ("difficulty", True)


WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from small_stores import EXTENT, DAYS, attrs, difficulty_dates
from geoelle.store.layout import Variable, write_store
def dates():
    for n, date in enumerate(difficulty_dates()):
        if n == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield date
nan = float("nan")
write_store(sys.argv[1], EXTENT, DAYS, [Variable(n, "float32", nan, {}, {}) for n in ("difficulty", "difficulty_se")],
            dates(), {**attrs(), "geoelle:kind": "difficulty", "geoelle:made_of": "half"})
"""


def test_a_write_that_is_killed_is_never_taken_for_whole(bucket: str) -> None:
    url = f"{bucket}/d.zarr"
    make_difficulty(url, "whole")
    before = contents(url)
    command = [sys.executable, "-W", "ignore", "-c", WRITER, url, str(Path(__file__).parent)]
    done = subprocess.run(command, env={**os.environ}, timeout=60, check=False)
    assert done.returncode == -9
    assert not is_stored(url)
    with pytest.raises(StoreError, match="is not whole"):
        open_store(url)
    with pytest.raises(StoreError, match="is not whole"):
        geoelle.inspect(url)
    make_difficulty(url, "whole")  # at once: the dead run's lease was this machine's
    assert contents(url) == before


def test_a_write_that_fails_is_never_taken_for_whole(bucket: str) -> None:
    url = f"{bucket}/d.zarr"

    def failing() -> Iterator[dict[str, Any]]:
        yield difficulty_dates()[0]
        raise RuntimeError("the disk is on fire")

    variables = [Variable(n, "float32", float("nan"), {}, {}) for n in ("difficulty", "difficulty_se")]
    with pytest.raises(RuntimeError, match="on fire"):
        write_store(url, EXTENT, DAYS, variables, failing(), {**attrs(), "geoelle:kind": "difficulty"})
    assert not is_stored(url)
    assert not lock_place(Location.of(url)).exists()


def test_what_is_no_store_is_left_alone(bucket: str) -> None:
    (Location.of(bucket) / "x" / "notes.txt").write_bytes(b"precious")
    assert is_stored(f"{bucket}/x")
    with pytest.raises(StoreError, match="is not a Zarr v3 store"):
        open_store(f"{bucket}/x")
    with pytest.raises(StoreError, match="is not a Zarr v3 store"):
        make(f"{bucket}/x")
    assert contents(f"{bucket}/x") == {"notes.txt": b"precious"}


def test_zones_lie_in_a_group(bucket: str) -> None:
    paths = create_zones(f"{bucket}/z.zarr", "embeddings", ["32631", "32632"], {"geoelle:software": {}})
    make_whole(paths["32631"])
    assert [str(p) for p in zone_paths(f"{bucket}/z.zarr").values()] == [
        f"{bucket}/z.zarr/32631", f"{bucket}/z.zarr/32632",
    ]  # fmt: skip
    report = geoelle.inspect(f"{bucket}/z.zarr")
    assert [zone.zone for zone in report.zones] == ["32631", "32632"]
    assert report.jobs == {"done": len(JOBS), "failed": 0, "missing": 0}
    assert "There is no store" in report.zones[1].trouble[0]
    assert not report.is_whole


def test_tables_and_probes_come_back(bucket: str) -> None:
    frame = gpd.GeoDataFrame({"a": [1.5, np.nan]}, geometry=[shapely.Point(0, 1), shapely.Point(1, 1)], crs=4326)
    write_table(frame, f"{bucket}/t/pairs.parquet")
    assert read_table(f"{bucket}/t/pairs.parquet").equals(frame)
    write_geojson(frame, f"{bucket}/t/a.geojson")
    assert json.loads(Location.of(f"{bucket}/t/a.geojson").read_bytes())["features"][1]["properties"] == {"a": None}
    with pytest.raises(AlreadyExistsError, match="is a folder"):
        check_table_place(f"{bucket}/t")
    with pytest.raises(NotFoundError, match="no table"):
        read_table(f"{bucket}/t/other.parquet")
    for k in (1, 2):
        write_probe(f"{bucket}/probe", {"w": np.arange(k, dtype=np.float64)}, {"k": k})
    arrays, meta = read_probe(f"{bucket}/probe")
    assert (meta, arrays["w"].tolist()) == ({"k": 2}, [0.0, 1.0])
    with pytest.raises(AlreadyExistsError, match="something else than a probe"):
        check_probe_place(f"{bucket}/t")
    with pytest.raises(NotFoundError, match="no probe"):
        read_probe(f"{bucket}/t")


# --- two runs at once


def test_a_second_run_is_refused_while_the_first_holds_the_store(bucket: str) -> None:
    url = f"{bucket}/e.zarr"
    with store_lock(url, "embed") as hold:
        check_hold(hold)
        code = "import sys; from geoelle.store.locking import store_lock\nwith store_lock(sys.argv[1], 'embed'): pass"
        done = subprocess.run(
            [sys.executable, "-c", code, url], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 1
        assert f"is being written by process {os.getpid()} on " in done.stderr
        assert "its hold ends in 1" in done.stderr
        with store_lock(url, "embed") as again:
            assert again == hold
    with pytest.raises(StoreError, match="no longer held"):
        check_hold(hold)
    assert not lock_place(Location.of(url)).exists()


def test_a_lease_that_was_not_renewed_is_taken_over_once(bucket: str) -> None:
    url = Location.of(f"{bucket}/e.zarr")
    dead = {"pid": 1, "host": "gone", "since": "2020-01-01", "until": 1577836800.0, "token": "a", "what": "embed"}
    lock_place(url).write_bytes(json.dumps(dead).encode())
    with store_lock(url, "embed"):
        assert json.loads(lock_place(url).read_bytes())["pid"] == os.getpid()
    alive = dead | {"until": 4102444800.0}
    lock_place(url).write_bytes(json.dumps(alive).encode())
    with pytest.raises(StoreError, match="process 1 on gone since 2020-01-01"), store_lock(url, "embed"):
        pass
    lock_place(url).write_bytes(b"notes")
    with pytest.raises(StoreError, match="is no lease of geoelle's"), store_lock(url, "embed"):
        pass


def test_a_lease_is_renewed_and_its_loss_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "RENEW_S", 0.05)
    url = Location.of(f"{bucket}/e.zarr")

    def until() -> float:
        return float(json.loads(lock_place(url).read_bytes())["until"])

    with store_lock(url, "embed"):
        first = until()
        wait_for(lambda: until() > first)
    with pytest.raises(StoreError, match=r"was lost while it was being written .another run took it over"):
        lose(url)
    assert lock_place(url).exists(), "it is the other run's"


def lose(url: Location) -> None:
    with store_lock(url, "embed") as hold:
        lock_place(url).write_bytes(json.dumps({"token": "another"}).encode())
        wait_for(lambda: all(thread.name != locking.RENEWAL for thread in threading.enumerate()))
        with pytest.raises(StoreError, match="no longer held"):
            check_hold(hold)


def wait_for(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


# --- places that cannot be used


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://us3r:hunter2@host/x?sig=abc", "is no place to keep a store"),
        ("s3://us3r:hunter2@bucket/x", "carries credentials"),
        ("s3://bucket/x?X-Amz-Signature=hunter2", "carries credentials or a query"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket/../other", "steps out"),
    ],
)
def test_addresses_that_are_refused(address: str, said: str) -> None:
    for ask in (open_store, geoelle.inspect, make):
        with pytest.raises(StoreError, match=said) as error:
            ask(address)
        assert not [word for word in ("hunter2", "us3r", "sig=") if word in str(error.value)]


def test_a_bucket_that_is_not_there_or_does_not_answer_is_one_sentence(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="cannot be written"), store_lock("s3://no-such-bucket/e.zarr", "embed"):
        pass
    with pytest.raises(StoreError, match="is a whole bucket"):
        make(bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="credentials and endpoint") as error:
        open_store(f"{bucket}/e.zarr")
    assert "testing" not in str(error.value)
    assert "\n" not in str(error.value)


def test_lines_are_added_to_a_log(bucket: str, tmp_path: Path) -> None:
    for log in (Location.of(f"{bucket}/r/e.log.jsonl"), Location.of(tmp_path / "e.log.jsonl")):
        for line in ("a\n", "b\n"):
            log.append(line)
        assert log.read_bytes() == b"a\nb\n"


def test_a_damaged_object_is_an_error(bucket: str) -> None:
    url = Location.of(f"{bucket}/e.zarr")
    make_whole(url)
    name = "embedding/c/0/0/0/0"
    whole = (url / name).read_bytes()
    (url / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="Variable embedding cannot be read"):
        read_values(open_store(url)["embedding"])
    assert [c.file for c in geoelle.inspect(url, verify=True).zones[0].damaged or ()] == [name]


def test_a_path_that_python_made_of_a_url_is_the_same_place() -> None:
    assert Location.of(Path("s3://bucket/a/b")) == Location.of("s3://bucket/a/b/")
    assert Location.of("s3://bucket/a") / "b" == Location.of("s3://bucket/a/b")
    assert Location.of("a/b").with_name("c").path == Path("a/c")
    with pytest.raises(StoreError, match="lies in an object store"):
        os.fspath(Location.of("s3://bucket/a"))
