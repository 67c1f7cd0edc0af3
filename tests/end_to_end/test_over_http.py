"""The whole path over real servers on loopback: STAC APIs, COGs by ranges, signatures that expire, faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_servers import FileServer, SigningServer
from served_scenes import COLLECTION, chunks, geoelle, served_items, times
from stac_servers import free_port, rustac, stac_fastapi

from geoelle import schema
from geoelle.catalog import read_items
from geoelle.embedding import embed
from geoelle.imagery.signing import EXTRA_HOSTS
from geoelle.searching import search
from geoelle.simulate import Simulation, SimulationConfig, make_scenes
from geoelle.store import open_store

DATES = ("2021-06-10", "2021-07-10", "2021-08-10")
OPTIONS = ("--chip-size-m", "320", "--stride-m", "320", "--tile-chips", "3", "--quiet")
SECRETS = ("TOPSECRET", "sig=", "se=")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    config = SimulationConfig.small(width_px=160, height_px=128, dates=DATES)
    return make_scenes(tmp_path_factory.mktemp("served") / "scenes", config=config)


@pytest.fixture(scope="module")
def local(served: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store made from local files. Not to be written to."""
    path = tmp_path_factory.mktemp("local") / "e.zarr"
    frame = search(served.aoi, catalog=served.catalog, start=DATES[0], end=DATES[-1])
    embed(frame, out=path, aoi=served.aoi, chip_size_m=320, stride_m=320, tile_chips=3)
    return path


@pytest.fixture
def files(served: Simulation) -> Iterator[FileServer]:
    with FileServer(served.root / served.collection, hang_s=2.0) as server:
        yield server


def find(served: Simulation, catalog: str, folder: Path, **environment: str) -> str:
    done = geoelle(
        "search", "--aoi", served.aoi, "--catalog", catalog, "--collection", COLLECTION, "--start", DATES[0], "--end",
        DATES[-1], "--out", folder / "items.parquet", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def quickly(served: Simulation, files: FileServer, folder: Path) -> None:
    """The items file without a process for it."""
    with stac_fastapi(served_items(served, files)) as memory:
        search(
            served.aoi, catalog=memory.address, collections=[COLLECTION], start=DATES[0], end=DATES[-1],
            out=folder / "items.parquet",
        )  # fmt: skip


def take(served: Simulation, folder: Path, **environment: str) -> tuple[int, str]:
    """`geoelle embed` of what was found: exit code, and all that it said."""
    done = geoelle(
        "embed", folder / "items.parquet", "--aoi", served.aoi, "--out", folder / "e.zarr", *OPTIONS, **environment
    )
    return done.returncode, done.stdout + done.stderr


def everything(folder: Path) -> str:
    """All that lies in the folder as text: store, items, log."""
    return "\n".join(p.read_bytes().decode("latin-1") for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("server", ["rustac", "stac-fastapi"])
def test_a_store_over_http_is_that_of_local_files(
    server: str, served: Simulation, local: Path, files: FileServer, tmp_path: Path
) -> None:
    items = served_items(served, files)
    (tmp_path / "served").mkdir()
    if server == "rustac":
        with rustac(items, tmp_path / "served") as address:
            said = find(served, address, tmp_path)
    else:
        with stac_fastapi(items) as memory:
            said = find(served, memory.address, tmp_path)
    assert "3 seen, 3 kept" in said
    code, said = take(served, tmp_path)
    assert (code, "chips in" in said) == (0, True), said
    assert chunks(tmp_path / "e.zarr") == chunks(local)
    ds = open_store(tmp_path / "e.zarr", "embeddings")
    assert (ds["status"].values == schema.DONE).sum() > 30
    assert {s.status for s in files.served} <= {200, 206}
    before = times(tmp_path / "e.zarr")
    n_asked = len(files.served)
    code, said = take(served, tmp_path)
    assert (code, "nothing to do" in said) == (0, True)
    assert times(tmp_path / "e.zarr") == before
    assert len(files.served) == n_asked, "an unchanged rerun read imagery"


# --- signatures


def signed(token: SigningServer, files: FileServer) -> dict[str, str]:
    return {"PC_SDK_SAS_URL": token.url, EXTRA_HOSTS: files.host}


def test_signed_files_are_read_and_no_token_is_left_anywhere(served: Simulation, local: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        FileServer(served.root / served.collection, signed=True) as files,
        SigningServer(lifetime_s=2.0) as token,
        stac_fastapi(served_items(served, files)) as memory,
    ):
        environment = signed(token, files)
        said = find(served, memory.address, out, **environment)
        token.useless_next = 2
        code, more = take(served, out, **environment)
        assert code == 0, more
        assert len(token.asked) > 5, "tokens that live two seconds were taken for good"
        assert 403 in files.statuses(), "the useless token was never tried"
    assert chunks(out / "e.zarr") == chunks(local)
    for text in (said, more, everything(out)):
        assert not any(secret in text for secret in SECRETS)


def test_a_signed_file_that_is_gone_is_named_without_its_token(served: Simulation, tmp_path: Path) -> None:
    with FileServer(served.root / served.collection, signed=True) as files, SigningServer() as token:
        quickly(served, files, tmp_path)
        files.switch("404", path=f"{served.item_ids[1]}_B04.tif")
        code, said = take(served, tmp_path, **signed(token, files))
    assert code == 1
    assert "Traceback" not in said
    assert f"{served.item_ids[1]}_B04.tif" in said
    for text in (said, everything(tmp_path)):
        assert not any(secret in text for secret in SECRETS)


# --- faults


@pytest.mark.parametrize(("fault", "times_"), [("429", 1), ("500", 4), ("cut", 2), ("hang", 1)])
def test_faults_in_the_middle_are_ridden_out(
    fault: Any, times_: int, served: Simulation, local: Path, files: FileServer, tmp_path: Path
) -> None:
    quickly(served, files, tmp_path)
    files.switch(fault, path=f"{served.item_ids[1]}_B03.tif", times=times_, after=1)
    code, said = take(served, tmp_path)
    assert files.switches[0].times == 0, "the fault never struck"
    assert code == 0, said
    assert "Traceback" not in said
    assert chunks(tmp_path / "e.zarr") == chunks(local)


@pytest.mark.parametrize("fault", ["404", *(pytest.param(f, marks=pytest.mark.long) for f in ("429", "500", "cut"))])
def test_a_file_that_stays_away_fails_its_jobs_alone(
    fault: Any, served: Simulation, local: Path, files: FileServer, tmp_path: Path
) -> None:
    quickly(served, files, tmp_path)
    item, name = served.item_ids[1], f"{served.item_ids[1]}_B03.tif"
    files.switch(fault, path=name)
    code, said = take(served, tmp_path)
    assert code == 1
    assert "Traceback" not in said
    for word in (item, "B03", files.address(f"{item}/{name}"), "jobs failed; the same command takes them up again"):
        assert word in said, said
    status = open_store(tmp_path / "e.zarr")["status"].values
    assert [(s == schema.FAILED).any() for s in status] == [False, True, False]
    inspected = geoelle("inspect", tmp_path / "e.zarr")
    assert inspected.returncode == 0, inspected.stderr
    assert files.address(f"{item}/{name}") in inspected.stdout, "cut where nobody looks at a terminal"
    files.mend()
    n_before = len(files.served)
    code, said = take(served, tmp_path)
    assert code == 0, said
    others = [s.path for s in files.served[n_before:] if item not in s.path]
    assert not others, "jobs that were done were read again"
    assert chunks(tmp_path / "e.zarr") == chunks(local)
    log = [json.loads(line) for line in (tmp_path / "e.log.jsonl").read_text().splitlines()]
    assert [entry["n_failed"] > 0 for entry in log] == [True, False]


def test_a_catalog_that_goes_away_leaves_the_items_as_they_were(
    served: Simulation, files: FileServer, tmp_path: Path
) -> None:
    quickly(served, files, tmp_path)
    address = f"http://127.0.0.1:{free_port()}"
    before = (tmp_path / "items.parquet").read_bytes()
    done = geoelle(
        "search", "--aoi", served.aoi, "--catalog", address, "--collection", COLLECTION, "--start", DATES[0], "--end",
        DATES[-1], "--out", tmp_path / "items.parquet",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert address.removeprefix("http://") in done.stderr
    assert (tmp_path / "items.parquet").read_bytes() == before
    assert len(read_items(tmp_path / "items.parquet")[0]) == len(DATES)


# --- interrupted


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_an_interrupted_run_says_so_and_nothing_else(
    workers: int, served: Simulation, local: Path, files: FileServer, tmp_path: Path
) -> None:
    """Ctrl-C reaches every process of the terminal's group."""
    quickly(served, files, tmp_path)
    files.slow_s = 1.0
    files.switch("slow", after=9)
    command = [
        sys.executable, "-m", "geoelle", "embed", str(tmp_path / "items.parquet"), "--aoi", str(served.aoi), "--out",
        str(tmp_path / "e.zarr"), "--workers", str(workers), *OPTIONS,
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell without job control has SIGINT ignored in what it starts in the background, these tests among it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:  # fmt: skip
        try:
            for _ in range(600):
                if len(files.served) > 15 or run.poll() is not None:
                    break
                time.sleep(0.1)
            os.killpg(run.pid, signal.SIGINT)
            said, noise = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130
    assert noise.strip() == "Interrupted. The same command takes up where this one stopped."
    assert said == ""
    files.mend()
    code, said = take(served, tmp_path)
    assert code == 0, said
    assert chunks(tmp_path / "e.zarr") == chunks(local)
