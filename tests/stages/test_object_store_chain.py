"""The whole chain on stores in an object store: a real S3 server on loopback, beside the same chain on a disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import xarray as xr
from s3_server import new_bucket, s3_server
from small_stores import contents
from typer.testing import CliRunner
from zoned_stores import cut_in_two

import geoelle
from geoelle.cli.app import app
from geoelle.config import RunConfig
from geoelle.errors import ConfigError, GeoelleError, StoreError
from geoelle.store.layout import is_stored, making
from geoelle.store.location import Location, StorePath
from geoelle.store.locking import lock_place
from geoelle.store.tables import read_table
from geoelle.store.zones import open_zones

if TYPE_CHECKING:
    from conftest import Chain

GRID: dict[str, Any] = {"chip_size_m": 320, "stride_m": 160}
CALIBRATION: dict[str, Any] = {"n": 120, "block_size_m": 640.0, "exclude_dates": ["2021-05-10"], "allow_few": True}
DELTA: dict[str, Any] = {"min_looks": 2, "alert_z": 1.5}
SECRET = "testing-secret"
REQUESTS_PER_JOB = 16
"""Fifteen, and room for a renewed lease on a slow machine."""
ASKED_FOR_AN_ARRAY = 12
"""Times that one array is asked for in a run, of 12 or 24 jobs: a few, and each worker thread may once."""
"""9 parts written; digest and status cleared; the lease looked at twice, the store once; its digest read at the start
of the run."""


@dataclass(frozen=True)
class Server:
    """A bucket, and what was asked of its server."""

    bucket: str
    log: Path

    def requests(self) -> list[str]:
        """Every request so far, method and address."""
        return self.log.read_text().splitlines()


@dataclass(frozen=True)
class Made:
    """The outputs of the chain, in one folder or bucket."""

    place: Location
    pairs: gpd.GeoDataFrame

    def url(self, name: str) -> str:
        return str(self.place / name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("requests") / "requests.txt"
    log.touch()
    with s3_server(log) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield Server(new_bucket(), log)


def rest_of_chain(place: Location, embeddings: StorePath, items: Path) -> Made:
    pairs = geoelle.calibrate(embeddings, items=items, out=place / "probe", **CALIBRATION)
    geoelle.difficulty(embeddings, out=place / "difficulty.zarr", probe=place / "probe")
    geoelle.delta(place / "difficulty.zarr", out=place / "delta.zarr", alerts=place / "alerts.parquet", **DELTA)
    return Made(place, pairs)


@pytest.fixture(scope="module")
def remote(server: Server, chain: Chain) -> Made:
    place = Location.of(f"{server.bucket}/runs/first")
    geoelle.embed(chain.items, aoi=chain.scenes.aoi, out=str(place / "embeddings.zarr"), **GRID)
    return rest_of_chain(place, place / "embeddings.zarr", chain.items)


@pytest.fixture(scope="module")
def local(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return rest_of_chain(Location.of(tmp_path_factory.mktemp("local")), chain.embeddings, chain.items)


def test_every_stage_gives_what_it_gives_on_a_disk(chain: Chain, remote: Made, local: Made) -> None:
    assert contents(remote.url("embeddings.zarr")) == contents(chain.embeddings)
    for name in ("difficulty.zarr", "delta.zarr", "probe"):
        assert contents(remote.url(name)) == contents(local.url(name)), name
    assert remote.pairs.equals(local.pairs)
    assert remote.pairs.attrs == local.pairs.attrs
    assert read_table(remote.url("pairs.parquet")).equals(read_table(local.url("pairs.parquet")))
    alerts = read_table(remote.url("alerts.parquet"))
    assert len(alerts)
    assert alerts.equals(read_table(local.url("alerts.parquet")))
    drawn, expected = ((made.place / "alerts.geojson").read_bytes() for made in (remote, local))
    assert drawn == expected
    assert not [name for name in (remote.place).files() if name.endswith(".lock")]


def test_a_second_time_writes_nothing(chain: Chain, remote: Made, server: Server) -> None:
    before = len(server.requests())
    ds = geoelle.embed(chain.items, aoi=chain.scenes.aoi, out=remote.url("embeddings.zarr"), **GRID)
    summary = ds.attrs["geoelle:summary"]
    assert (summary["n_done"], summary["n_unchanged"]) == (0, summary["n_jobs"])
    again = geoelle.calibrate(remote.url("embeddings.zarr"), items=chain.items, out=remote.url("probe"), **CALIBRATION)
    assert again.equals(read_table(remote.url("pairs.parquet")))
    geoelle.difficulty(
        remote.url("embeddings.zarr"), out=remote.url("difficulty.zarr"), probe=remote.url("probe")
    )  # fmt: skip
    geoelle.delta(remote.url("difficulty.zarr"), out=remote.url("delta.zarr"), **DELTA)
    asked = [line.split(" ")[:2] for line in server.requests()[before:]]
    written = Counter(address.rpartition("/")[2] for method, address in asked if method not in ("GET", "HEAD"))
    bucket = server.bucket.rpartition("/")[2]
    assert written == {".embeddings.zarr.lock": 1, "embeddings.log.jsonl": 1, f"{bucket}?delete": 1}, (
        "the lease, the log"
    )


def test_what_is_there_is_said_and_whole(remote: Made) -> None:
    for name, kind in (("embeddings", "embeddings"), ("difficulty", "difficulty"), ("delta", "delta")):
        report = geoelle.inspect(remote.url(f"{name}.zarr"), verify=True)
        assert (report.kind, report.is_whole) == (kind, True)


def test_exports_are_local_and_name_the_store_by_its_url(remote: Made, local: Made, tmp_path: Path) -> None:
    kinds = ("difficulty", "delta", "embeddings")
    made = geoelle.export([f"{remote.place}/{kind}.zarr" for kind in kinds[:2]], out=tmp_path / "r")
    again = geoelle.export([local.url(f"{kind}.zarr") for kind in kinds[:2]], out=tmp_path / "l")
    assert (made.n_items, made.n_empty, len(made.files)) == (again.n_items, again.n_empty, len(again.files))
    for mine, other in zip(made.files, again.files, strict=True):
        with rasterio.open(mine) as a, rasterio.open(other) as b:
            np.testing.assert_array_equal(a.read(), b.read())
    rows = geoelle.export(
        [Location.of(remote.url("embeddings.zarr")), remote.url("difficulty.zarr")], out=tmp_path / "t",
        formats=["geoparquet"],
    )  # fmt: skip
    assert rows.n_rows
    for path in (tmp_path / "r").glob("*/*/*.json"):
        assets = json.loads(path.read_text())["assets"]
        assert assets["zarr"]["href"] == remote.url(f"{path.parent.parent.name}.zarr")
        assert all(asset["href"].startswith("./") for key, asset in assets.items() if key != "zarr")
    assert made.n_items == len(list((tmp_path / "r").glob("*/*/*.json"))) > 0


# --- the command line


def cli(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.stdout.split())


def test_the_command_line_does_it_too(
    chain: Chain, remote: Made, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"{server.bucket}/cli"
    said = cli("embed", chain.items, "--aoi", chain.scenes.aoi, "--out", f"{url}/e.zarr", "--chip-size-m", "320",
               "--stride-m", "160")  # fmt: skip
    assert said.endswith(f"In {url}/e.zarr.")
    said = cli("calibrate", f"{url}/e.zarr", "--items", chain.items, "--out", f"{url}/probe", "--n", "120",
               "--block-size-m", "640", "--exclude-date", "2021-05-10", "--allow-few")  # fmt: skip
    assert f"In {url}/probe." in said
    said = cli("difficulty", f"{url}/e.zarr", "--probe", f"{url}/probe", "--out", f"{url}/d.zarr")
    assert said.endswith(f"In {url}/d.zarr.")
    said = cli("delta", f"{url}/d.zarr", "--out", f"{url}/x.zarr", "--alerts", f"{url}/a.parquet", "--min-looks", "2",
               "--alert-z", "1.5")  # fmt: skip
    assert said.endswith(f"In {url}/x.zarr, {url}/a.parquet and {url}/a.geojson.")
    cli("map", f"{url}/d.zarr", "--delta", f"{url}/x.zarr", "--alerts", f"{url}/a.parquet", "--out", "map.html")
    cli("export", f"{url}/d.zarr", "--out", "exports")
    assert "difficulty" in cli("inspect", f"{url}/d.zarr", "--verify")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exports", "map.html"]
    for mine, first in (("e", "embeddings"), ("d", "difficulty"), ("x", "delta")):
        assert contents(f"{url}/{mine}.zarr") == contents(remote.url(f"{first}.zarr"))


# --- runs that stop, and runs at once


EMBED = """
import sys, geoelle
items, aoi, out = sys.argv[1:]
geoelle.embed(items, aoi=aoi, out=out, chip_size_m=320, stride_m=160, tile_chips=6)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def two_dates(chain: Chain, **options: Any) -> gpd.GeoDataFrame:
    return geoelle.search(
        chain.scenes.aoi, catalog=chain.scenes.catalog, collections=[chain.scenes.collection], start="2021-01-01",
        **{"end": "2021-04-30", **options},
    )  # fmt: skip


def test_a_killed_run_is_resumed_and_a_second_one_refused(chain: Chain, server: Server, tmp_path: Path) -> None:
    url, items = f"{server.bucket}/killed/embeddings.zarr", tmp_path / "items.parquet"
    two_dates(chain, out=items)

    def embed(out: StorePath) -> dict[str, Any]:
        ds = geoelle.embed(items, aoi=chain.scenes.aoi, out=str(out), tile_chips=6, **GRID)
        return dict(ds.attrs["geoelle:summary"])

    command = [sys.executable, "-W", "ignore", "-c", EMBED, str(items), str(chain.scenes.aoi), url]
    with subprocess.Popen(command, env={**os.environ}) as run:
        try:
            wait_for(lambda: len((Location.of(url) / "job_digest" / "c").files()) >= 2)
            with pytest.raises(StoreError, match=f"is being written by process {run.pid} on "):
                embed(url)
        finally:
            run.send_signal(signal.SIGKILL)
    assert lock_place(Location.of(url)).is_file(), "it had no time to end its lease"
    summary = embed(url)  # at once: the lease is of a process of this machine that is no more
    assert summary["n_unchanged"] >= 2
    assert summary["n_done"] >= 1
    assert embed(tmp_path / "embeddings.zarr")["n_done"] == summary["n_jobs"]
    assert contents(url) == contents(tmp_path / "embeddings.zarr")


def test_a_job_needs_few_requests(chain: Chain, server: Server) -> None:
    """Beside what a run needs once. What it knows of the store's arrays it does not ask for again."""
    jobs, asked = [], []
    for name, end in (("one", "2021-03-31"), ("two", "2021-04-30")):
        items = two_dates(chain, end=end)
        before = len(server.requests())
        ds = geoelle.embed(
            items, aoi=chain.scenes.aoi, out=f"{server.bucket}/{name}/e.zarr", tile_chips=6, **GRID
        )  # fmt: skip
        jobs.append(ds.attrs["geoelle:summary"]["n_done"])
        requests = Counter(line.partition("?")[0].partition(" HTTP")[0] for line in server.requests()[before:])
        arrays = {line: n for line, n in requests.items() if line.startswith("GET ") and line.endswith("/zarr.json")}
        arrays = {line: n for line, n in arrays.items() if not line.endswith("/e.zarr/zarr.json")}
        assert max(arrays.values()) <= ASKED_FOR_AN_ARRAY, arrays
        asked.append(requests.total() - sum(arrays.values()))  # how many of these depends on which thread is first
    assert jobs[1] == 2 * jobs[0]
    assert asked[1] - asked[0] <= REQUESTS_PER_JOB * (jobs[1] - jobs[0])


def stop_half_way(url: str, kind: str) -> None:
    """What a killed run leaves."""
    with making(url, kind) as place:  # and no attributes come
        (place / kind / "c" / "0").write_bytes(b"half")
    assert not is_stored(url)


def test_what_was_left_unfinished_is_not_in_the_way(remote: Made, server: Server) -> None:
    url = f"{server.bucket}/unfinished"
    for kind in ("difficulty", "delta"):
        stop_half_way(f"{url}/{kind}.zarr", kind)
    with pytest.raises(StoreError, match="is not whole"):
        geoelle.delta(f"{url}/difficulty.zarr", out=f"{url}/delta.zarr", **DELTA)
    geoelle.difficulty(remote.url("embeddings.zarr"), out=f"{url}/difficulty.zarr", probe=remote.url("probe"))
    geoelle.delta(f"{url}/difficulty.zarr", out=f"{url}/delta.zarr", **DELTA)
    for kind in ("difficulty", "delta"):
        assert contents(f"{url}/{kind}.zarr") == contents(remote.url(f"{kind}.zarr"))


def test_zones_in_a_bucket(chain: Chain, remote: Made, server: Server) -> None:
    url = f"{server.bucket}/zones"
    cut_in_two(chain.embeddings, f"{url}/e.zarr")
    stop_half_way(f"{url}/d.zarr", "difficulty")  # of one zone, where now there are two
    for _ in range(2):
        made = geoelle.difficulty(f"{url}/e.zarr", out=f"{url}/d.zarr", probe=remote.url("probe"))
        assert isinstance(made, xr.DataTree)
    geoelle.delta(f"{url}/d.zarr", out=f"{url}/x.zarr", alerts=f"{url}/a.parquet", **DELTA)
    halves = open_zones(f"{url}/d.zarr", "difficulty", load=True)
    whole = geoelle.open_store(remote.url("difficulty.zarr"), load=True)
    found = np.concatenate([halves[zone]["difficulty"].values for zone in sorted(halves)], axis=2)
    np.testing.assert_array_equal(found, whole["difficulty"].values)
    assert geoelle.inspect(f"{url}/x.zarr", verify=True).is_whole
    assert len(read_table(f"{url}/a.parquet"))


# --- what cannot be


def test_what_has_to_be_local_says_so(
    chain: Chain, remote: Made, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"{server.bucket}/no"
    stored = geoelle.open_store(remote.url("difficulty.zarr"))
    config = RunConfig.model_validate(
        {"name": "x", "out": url, "search": {"catalog": "c.json", "start": "2021-01-01", "end": "2021-01-02"}}
    )
    asked: dict[str, Callable[[], Any]] = {
        "export": lambda: geoelle.export(remote.url("difficulty.zarr"), out=url),
        "map": lambda: geoelle.map(stored, out=f"{url}/map.html"),
        "items": lambda: geoelle.embed(f"{url}/items.parquet", out=f"{url}/e.zarr"),
        "demo": lambda: geoelle.demo(url),
        "search": lambda: geoelle.search(
            chain.scenes.aoi, catalog=chain.scenes.catalog, collections=[chain.scenes.collection],
            start="2021-01-01", end="2021-12-31", out=f"{url}/items.parquet",
        ),
    }  # fmt: skip
    for what, ask in asked.items():
        with pytest.raises(StoreError, match=f"{url}.* lies in an object store") as error:
            ask()
        assert "local path" in str(error.value), what
    with pytest.raises(ConfigError, match=f"`out` is {url}"):
        geoelle.run(config)
    assert not list(tmp_path.iterdir()), "no folder named s3:"
    assert not Location.of(url).exists()


def asks(place: str, chain: Chain) -> list[Callable[[], Any]]:
    """Every stage, on stores at one place."""
    return [
        lambda: geoelle.embed(chain.items, out=f"{place}/e.zarr", **GRID),
        lambda: geoelle.calibrate(f"{place}/e.zarr", items=chain.items, out=f"{place}/probe"),
        lambda: geoelle.calibrate(chain.embeddings, items=chain.items, out=f"{place}/probe"),
        lambda: geoelle.difficulty(f"{place}/e.zarr", out=f"{place}/d.zarr"),
        lambda: geoelle.difficulty(chain.embeddings, out=f"{place}/d.zarr"),
        lambda: geoelle.difficulty(chain.embeddings, out=f"{place}/d.zarr", probe=f"{place}/probe"),
        lambda: geoelle.delta(f"{place}/d.zarr", out=f"{place}/x.zarr"),
        lambda: geoelle.delta(f"{place}/d.zarr", out="x.zarr", alerts=f"{place}/a.parquet"),
        lambda: geoelle.export(f"{place}/d.zarr", out="exports"),
        lambda: geoelle.inspect(f"{place}/d.zarr"),
    ]


@pytest.mark.parametrize("address", ["s3://us3r:hunter2@bucket/x", "s3://bucket/x?X-Amz-Signature=hunter2"])
def test_no_message_carries_credentials_of_an_address(address: str, chain: Chain, server: Server) -> None:
    for ask in asks(address, chain):
        with pytest.raises(GeoelleError, match="carries credentials or a query") as error:
            ask()
        assert not {word for word in ("hunter2", "us3r", "Signature") if word in str(error.value)}
    done = CliRunner().invoke(app, ["difficulty", f"{address}/e.zarr"])
    assert isinstance(done.exception, StoreError)
    assert not {word for word in ("hunter2", "us3r") if word in done.output + str(done.exception)}


def test_no_message_carries_the_key(
    chain: Chain, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ask in asks("s3://there-is-no-such-bucket/x", chain):
        with pytest.raises(GeoelleError, match="there-is-no-such-bucket") as error:
            ask()
        assert SECRET not in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="credentials and endpoint") as error:
        geoelle.delta(f"{server.bucket}/d.zarr", out=f"{server.bucket}/x.zarr")
    assert SECRET not in str(error.value)
    assert not list(tmp_path.iterdir())
