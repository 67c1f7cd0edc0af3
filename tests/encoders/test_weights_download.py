"""Weights by name from servers on loopback: the hub's protocol, and plain files; interrupted, throttled and wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer

from geoelle.encoders import checkpoints as names
from geoelle.encoders.checkpoint_table import Checkpoint
from geoelle.encoders.checkpoints import fetch_weights, get_checkpoint, register_checkpoint, unregister_checkpoint
from geoelle.encoders.download import download
from geoelle.encoders.patience import Patience
from geoelle.encoders.weights_cache import RECORD_FILE
from geoelle.errors import WeightsError

pytest.importorskip("huggingface_hub.file_download")  # reads the environment once, before a test here changes it

OLD, NEW = "1" * 40, "2" * 40
HASTY = Patience(connect_s=2, read_s=2, tries=3, backoff_s=0.01, longest_wait_s=0.2)
DATA = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
ON_HUB = Checkpoint("tiny", "owner/model", "v1/tiny.ckpt", OLD, "", len(DATA), SHA256, "MIT", False)
UNPINNED = replace(ON_HUB, revision=None, n_bytes=None, sha256=None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of this test's own, and none of this machine's settings."""
    for name in ("GEOELLE_WEIGHTS", "GEOELLE_ACCEPT_LICENSE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEOELLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("owner/model", OLD, "v1/tiny.ckpt", DATA)
        server.plain["/records/7/files/tiny.pth"] = DATA
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def on_zenodo(hub: HubServer, **changes: object) -> Checkpoint:
    url = f"{hub.url}/records/7/files/tiny.pth?download=1"
    return replace(UNPINNED, repo="", filename="tiny.pth", url=url, **changes)  # type: ignore[arg-type]


def record_of(path: Path) -> dict[str, object]:
    return dict(json.loads((path.parent / RECORD_FILE).read_text()))


def test_download_pinned_to_a_commit(hub: HubServer, own_cache: Path) -> None:
    hub.add("owner/model", NEW, "v1/tiny.ckpt", b"another version")
    told: list[tuple[int, int]] = []
    found = fetch_weights(ON_HUB, progress=lambda done, total: told.append((done, total)))
    assert found.path == own_cache / "tiny" / "tiny.ckpt"
    assert found.path.read_bytes() == DATA
    assert found.sha256 == SHA256
    assert told[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert sorted(p.name for p in found.path.parent.iterdir()) == [".lock", "tiny.ckpt", RECORD_FILE]
    assert record_of(found.path)["revision"] == OLD
    assert "SECRET" not in json.dumps(record_of(found.path))


def test_what_is_here_asks_no_network(hub: HubServer, own_cache: Path) -> None:
    first = fetch_weights(ON_HUB)
    n = len(hub.asked)
    assert fetch_weights(ON_HUB) == first
    assert len(hub.asked) == n


def test_first_download_is_recorded_and_a_later_one_that_differs_is_refused(hub: HubServer) -> None:
    found = fetch_weights(UNPINNED)
    assert record_of(found.path) | {"mtime_ns": 0} == {
        "checkpoint": "tiny", "file": "tiny.ckpt", "sha256": SHA256, "n_bytes": len(DATA), "mtime_ns": 0,
        "source": "owner/model/v1/tiny.ckpt", "revision": OLD,
    }  # fmt: skip
    # main moves on; the file is lost: it comes again from the recorded commit
    hub.add("owner/model", NEW, "v1/tiny.ckpt", DATA[::-1])
    found.path.unlink()
    assert fetch_weights(UNPINNED).path.read_bytes() == DATA
    # history was rewritten
    hub.commits["owner/model"][OLD]["v1/tiny.ckpt"] = DATA[::-1]
    found.path.unlink()
    with pytest.raises(WeightsError, match=f"first download of tiny had {SHA256[:16]}"):
        fetch_weights(UNPINNED)
    assert not list(found.path.parent.glob("tiny*"))
    # and a file put there by hand
    found.path.write_bytes(DATA[::-1])
    with pytest.raises(WeightsError, match="first download"):
        fetch_weights(UNPINNED)


def test_interrupted_download_goes_on_within_a_call_and_across_calls(hub: HubServer, own_cache: Path) -> None:
    hub.cut_after = [1_000_000, 500_000]
    assert download(ON_HUB, patience=HASTY).read_bytes() == DATA
    assert [b.sent for b in hub.bodies] == [1_000_000, 500_000, 1_500_000]
    assert [b.headers.get("Range") for b in hub.bodies] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert all("If-Range" in b.headers for b in hub.bodies[1:])
    (own_cache / "tiny" / "tiny.ckpt").unlink()
    hub.asked.clear()
    hub.cut_after = [1_200_000, 0, 0, 0]
    with pytest.raises(WeightsError, match=r"cut short after 1,200,000 of 3,000,000 bytes.*takes up"):
        download(ON_HUB, patience=HASTY)
    assert (own_cache / "tiny" / "tiny.ckpt.part").stat().st_size == 1_200_000
    assert not (own_cache / "tiny" / "tiny.ckpt").exists()
    hub.asked.clear()
    hub.cut_after = []
    assert download(ON_HUB, patience=HASTY).read_bytes() == DATA
    assert [b.sent for b in hub.bodies] == [1_800_000]


def test_a_killed_process_leaves_what_the_next_one_takes_up(hub: HubServer, own_cache: Path) -> None:
    code = (
        "import os, signal\n"
        "from test_weights_download import ON_HUB\n"
        "from geoelle.encoders.download import download\n"
        "def told(done, total):\n"
        "    if done > 1_000_000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "download(ON_HUB, progress=told)\n"
    )
    folder = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder.parents[1]), str(folder)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    have = (own_cache / "tiny" / "tiny.ckpt.part").stat().st_size
    assert 0 < have < len(DATA)
    hub.asked.clear()
    assert download(ON_HUB, patience=HASTY).read_bytes() == DATA
    assert [b.sent for b in hub.bodies] == [len(DATA) - have]


def test_main_that_moves_during_an_unpinned_download_does_not_mix(hub: HubServer) -> None:
    hub.cut_after = [1_000_000, 0, 0, 0]
    with pytest.raises(WeightsError, match="cut short"):
        download(UNPINNED, patience=HASTY)
    hub.cut_after = []
    hub.add("owner/model", NEW, "v1/tiny.ckpt", DATA[::-1])
    path = download(UNPINNED, patience=HASTY)
    assert path.read_bytes() == DATA
    assert record_of(path)["revision"] == OLD


@pytest.mark.parametrize("tags", [True, False])
def test_file_that_changed_under_a_plain_address_begins_anew(hub: HubServer, tags: bool) -> None:
    hub.tags = tags
    hub.cut_after = [1_000_000, 0, 0, 0]
    with pytest.raises(WeightsError, match="cut short"):
        download(on_zenodo(hub), patience=HASTY)
    hub.cut_after = []
    changed = hub.plain["/records/7/files/tiny.pth"] = DATA[::-1] + b"longer"
    assert download(on_zenodo(hub), patience=HASTY).read_bytes() == changed


def test_server_without_ranges_sends_all_again(hub: HubServer) -> None:
    hub.ranges = False
    hub.cut_after = [1_000_000]
    path = download(on_zenodo(hub), patience=HASTY)
    assert path.read_bytes() == DATA
    assert [b.sent for b in hub.bodies] == [1_000_000, len(DATA)]
    assert "SECRET" not in json.dumps(record_of(path))
    assert "?" not in str(record_of(path)["source"])


def test_throttling_is_waited_out(hub: HubServer) -> None:
    hub.refuse = [(429, {"Retry-After": "0"}), (503, {})]
    assert download(ON_HUB, patience=HASTY).read_bytes() == DATA
    assert [a.status for a in hub.asked][:2] == [429, 503]
    hub.refuse = [(429, {})] * 50
    with pytest.raises(WeightsError, match=r"HTTP 429, 3 tries in a row"):
        download(replace(on_zenodo(hub), name="other"), patience=HASTY)


def test_retry_after_is_waited_for_but_not_for_ever(hub: HubServer) -> None:
    hub.refuse = [(429, {"Retry-After": "1"}), (429, {"Retry-After": "9999"})]
    began = time.monotonic()
    download(on_zenodo(hub), patience=replace(HASTY, longest_wait_s=1.2))
    assert 2.2 <= time.monotonic() - began < 20


def test_wrong_content_never_gets_the_name(hub: HubServer, own_cache: Path) -> None:
    hub.instead = DATA[::-1]
    for checkpoint, words in (
        (ON_HUB, f"weights tiny have {SHA256[:16]}"),
        (replace(UNPINNED, name="unpinned"), "arrived damaged"),
        (replace(ON_HUB, name="by-prefix", sha256="00000000", n_bytes=None), "have 00000000"),
    ):
        with pytest.raises(WeightsError, match=words):
            download(checkpoint, patience=HASTY)
        assert [p.name for p in (own_cache / checkpoint.name).iterdir()] == [".lock"]
    hub.instead = None
    assert download(replace(ON_HUB, sha256=SHA256[:8]), patience=HASTY).read_bytes() == DATA


def test_size_other_than_published_is_refused_before_a_byte_comes(hub: HubServer) -> None:
    with pytest.raises(WeightsError, match=r"offers owner/model/v1/tiny.ckpt with 3,000,000 bytes"):
        download(replace(ON_HUB, n_bytes=17), patience=HASTY)
    assert not hub.bodies


def test_no_room_is_said_before_a_byte_is_written(hub: HubServer, own_cache: Path) -> None:
    hub.claimed = 10**16
    with pytest.raises(WeightsError, match=r"needs 10,000,000,000 MB more in .* GEOELLE_CACHE"):
        download(on_zenodo(hub), patience=HASTY)
    assert not (own_cache / "tiny" / "tiny.pth.part").exists()


def test_disk_that_fills_up_is_one_sentence_and_the_rest_comes_later(hub: HubServer, own_cache: Path) -> None:
    before, ours = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
    try:
        with pytest.raises(WeightsError, match=f"cannot be written: {os.strerror(errno.EFBIG)}"):
            download(ON_HUB, patience=HASTY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ours)
    have = (own_cache / "tiny" / "tiny.ckpt.part").stat().st_size
    assert 0 < have <= 1_500_000
    hub.asked.clear()
    assert download(ON_HUB, patience=HASTY).read_bytes() == DATA
    assert [b.sent for b in hub.bodies] == [len(DATA) - have]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repo": "owner/nowhere"}, "hub has no owner/nowhere.*repository is gone"),
        ({"revision": "3" * 40}, f"no owner/model/v1/tiny.ckpt at {'3' * 40}: its revision"),
        ({"filename": "v2/tiny.ckpt"}, "no owner/model/v2/tiny.ckpt.*its file is gone"),
        ({"repo": "owner/closed"}, "gated.*hf auth login"),
    ],
)
def test_what_the_hub_does_not_give(hub: HubServer, changes: dict[str, str], words: str) -> None:
    hub.add("owner/closed", OLD, "v1/tiny.ckpt", DATA)
    hub.gated.add("owner/closed")
    with pytest.raises(WeightsError, match=words) as caught:
        download(replace(ON_HUB, **changes), patience=HASTY)  # type: ignore[arg-type]
    assert "`weights`" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("status", "words"), [(404, "file is gone"), (403, "lets nobody in"), (401, "a login")])
def test_what_a_plain_server_does_not_give(hub: HubServer, status: int, words: str) -> None:
    hub.refuse = [(status, {})]
    with pytest.raises(WeightsError, match=rf"records/7/files/tiny.pth answers HTTP {status}: .*{words}"):
        download(on_zenodo(hub), patience=HASTY)


def test_packed_answer_is_refused(hub: HubServer) -> None:
    hub.refuse = [(200, {"Content-Encoding": "gzip"})]
    with pytest.raises(WeightsError, match="comes packed"):
        download(on_zenodo(hub), patience=HASTY)


@pytest.mark.parametrize("where", ["hub", "plain"])
def test_no_network(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", nobody)
        checkpoint = ON_HUB if where == "hub" else replace(ON_HUB, repo="", url=f"{nobody}/a.pth")
        with pytest.raises(WeightsError, match=r"cannot be had: no .* 3 tries in a row. Check the network"):
            download(checkpoint, patience=HASTY)


def test_server_that_falls_silent(hub: HubServer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.pth"
        with pytest.raises(WeightsError, match="no answer in time, 2 tries"):
            download(replace(ON_HUB, repo="", url=url), patience=replace(HASTY, read_s=0.2, tries=2))


def test_answer_that_is_not_the_hubs(hub: HubServer) -> None:
    hub.refuse = [(200, {})]
    with pytest.raises(WeightsError, match=r"names no commit.*HF_ENDPOINT"):
        download(ON_HUB, patience=HASTY)


def test_offline_asks_nobody(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids the network"):
        fetch_weights(ON_HUB)
    assert not hub.asked


def test_two_at_once_download_once(hub: HubServer) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(download(ON_HUB, patience=HASTY))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    assert found[0].read_bytes() == DATA
    assert sum(b.sent for b in hub.bodies) == len(DATA)


def test_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer(plain={f"/cdn/owner/model/{OLD}/v1/tiny.ckpt": DATA}) as cdn:
        location = f"{cdn.url.replace('127.0.0.1', 'localhost')}/cdn/owner/model/{OLD}/v1/tiny.ckpt"
        headers = {"X-Repo-Commit": OLD, "X-Linked-Etag": f'"{SHA256}"', "Location": location}
        hub.refuse = [(302, headers), (302, headers)]
        download(ON_HUB, patience=HASTY)
        assert all(a.headers.get("authorization") or a.headers.get("Authorization") for a in hub.asked)
        assert not [a for a in cdn.asked if "hf_secret" in str(a.headers)]
        assert cdn.bodies


def test_hubs_own_cache_is_used(hub: HubServer, tmp_path: Path) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--owner--model" / "snapshots" / OLD / "v1"
    snapshot.mkdir(parents=True)
    (snapshot / "tiny.ckpt").write_bytes(DATA)
    found = fetch_weights(ON_HUB)
    assert found.path == snapshot / "tiny.ckpt"
    assert not hub.asked


def test_hub_that_answers_with_another_commit(hub: HubServer) -> None:
    hub.refuse = [(200, {"X-Repo-Commit": NEW, "ETag": '"1"'})]
    with pytest.raises(WeightsError, match=f"Asked for .* at {OLD}, the hub answers with {NEW}"):
        download(ON_HUB, patience=HASTY)


def test_bar_on_a_terminal(hub: HubServer, own_cache: Path) -> None:
    code = (
        "import sys\n"
        "from test_weights_download import ON_HUB\n"
        "from geoelle.encoders.checkpoints import register_checkpoint\n"
        "from geoelle.cli import main\n"
        "register_checkpoint(ON_HUB)\n"
        "sys.argv = ['geoelle', 'weights', 'get', 'tiny']\n"
        "main()\n"
    )
    folder = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder.parents[1]), str(folder)]), "TERM": "xterm"}
    ours, theirs = os.openpty()
    seen = bytearray()

    def watch() -> None:
        with contextlib.suppress(OSError):  # the terminal's end
            while piece := os.read(ours, 1 << 12):
                seen.extend(piece)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=60
        )
    finally:
        os.close(theirs)
        watching.join(10)
        os.close(ours)
    bar = seen.decode(errors="replace")
    assert done.returncode == 0, bar
    assert SHA256 in done.stdout.decode()
    assert "download" in bar
    assert "3.0/3.0 MB" in bar


def test_command_downloads_and_says_so(hub: HubServer, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from geoelle.cli.app import app

    register_checkpoint(ON_HUB)
    try:
        assert names.weights_state("tiny") == "to download 3.0 MB"
        done = CliRunner().invoke(app, ["weights", "get", "tiny", "--quiet"])
        assert done.exit_code == 0, done.output
        assert str(own_cache / "tiny" / "tiny.ckpt") in done.stdout
        assert SHA256 in done.stdout
        assert names.weights_state("tiny") == "here"
        listed = CliRunner().invoke(app, ["weights", "list"])
        assert any("tiny " in line and "here" in line for line in listed.stdout.splitlines())
        assert all(len(line) <= 100 for line in listed.stdout.splitlines())
    finally:
        unregister_checkpoint("tiny")
    with pytest.raises(WeightsError, match="no checkpoint 'tiny'"):
        get_checkpoint("tiny")
