"""Downloads of weights that go on where they broke off, and leave nothing half-written under the final name.

huggingface_hub says where a file is, at which commit and with which checksum. Its bytes are fetched here: from version
1 on that package deletes what an interrupted download brought (huggingface/huggingface_hub#4196, #4228), which for
Clay's 5 GB is a bad answer. Zenodo's and GitHub's files come the same way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from geoelle.encoders.checkpoint_table import Checkpoint
from geoelle.encoders.hub import Remote, hub_remote, plain_remote
from geoelle.encoders.patience import BUSY, PATIENCE, BrokenOffError, Patience, persist, retry_after_s
from geoelle.encoders.weights_cache import check_sha256, folder_of, keep_record, read_record
from geoelle.errors import WeightsError
from geoelle.provenance import file_sha256

_PIECE_BYTES = 1 << 20
_WORTH_BYTES = 1 << 16
"""A try that brought less got no further: a server may not keep us for ever, a byte at a time."""


def download(
    checkpoint: Checkpoint,
    folder: Path | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    patience: Patience = PATIENCE,
) -> Path:
    """Download a checkpoint, or what is missing of it, check it, and record it.

    Args:
        checkpoint: Which.
        folder: Where it goes; None: the checkpoint's own in geoelle's cache.
        progress: Told the bytes that are there and those that there will be, 0 where that is not known.
        patience: With a server.

    Raises:
        WeightsError: If it cannot be had, is not the file expected, or finds no room.
    """
    folder = folder_of(checkpoint) if folder is None else folder
    target = folder / Path(checkpoint.filename).name
    with _saying_what_fails(target):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if not target.is_file():  # else another process was quicker
                _Download(checkpoint, target, progress, patience).run()
    return target


@dataclass
class _Download:
    checkpoint: Checkpoint
    target: Path
    progress: Callable[[int, int], None] | None
    patience: Patience
    part: Path = field(init=False)
    note: Path = field(init=False)
    """What the part is a part of: commit and the server's tag."""
    start: int = 0
    """Bytes that were there when the current try began."""

    def __post_init__(self) -> None:
        self.part = self.target.with_name(self.target.name + ".part")
        self.note = self.target.with_name(self.target.name + ".part.json")

    def run(self) -> None:
        record = read_record(self.target.parent, self.checkpoint)
        known = record.revision if record is not None else self._noted().get("revision")
        remote = self._locate(self.checkpoint.revision or known)
        self._check_size(remote.n_bytes)
        if self._noted().get("revision") != remote.revision:
            self._forget()
        persist(lambda: self._fetch(remote), self._got_further, remote.label, self.patience)
        found = file_sha256(self.part)
        try:
            check_sha256(found, self.checkpoint, record, f"The download of {remote.label}")
            if remote.sha256 not in (None, found):
                raise WeightsError(f"{remote.label} arrived damaged. Expected what the hub states. Download it again.")
        except WeightsError:
            self._forget()
            raise
        self.part.replace(self.target)
        keep_record(self.target, self.checkpoint, found, source=remote.label, revision=remote.revision)
        self.note.unlink(missing_ok=True)

    def _locate(self, revision: str | None) -> Remote:
        if not self.checkpoint.repo:
            return plain_remote(self.checkpoint)
        ask = lambda: hub_remote(self.checkpoint, revision)  # noqa: E731
        return persist(ask, lambda: False, self.checkpoint.source, self.patience)

    def _check_size(self, n_bytes: int | None) -> None:
        expected = self.checkpoint.n_bytes
        if expected is not None and n_bytes not in (None, expected):
            raise WeightsError(
                f"The server offers {self.checkpoint.source} with {n_bytes:,} bytes. The weights "
                f"{self.checkpoint.name} have {expected:,}. It is another file: name the right one with `weights`."
            )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _got_further(self) -> bool:
        return self._size() - self.start >= _WORTH_BYTES

    def _noted(self) -> dict[str, Any]:
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _forget(self) -> None:
        """Begin anew."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _fetch(self, remote: Remote) -> None:
        """One try: fetch what is missing."""
        self.start = self._size()
        if self.start and self.start == self._noted().get("total"):
            return
        headers = {**remote.headers, "Accept-Encoding": "identity"}
        if self.start:
            headers["Range"] = f"bytes={self.start}-"
            if tag := self._noted().get("tag"):
                headers["If-Range"] = tag
        waits = (self.patience.connect_s, self.patience.read_s)
        try:
            with requests.get(remote.url, headers=headers, timeout=waits, stream=True) as response:
                self._take(response, remote)
        except requests.Timeout:
            raise BrokenOffError("no answer in time") from None
        except requests.RequestException as error:
            raise BrokenOffError(f"no connection, or one that broke ({type(error).__name__})") from None

    def _take(self, response: requests.Response, remote: Remote) -> None:
        _check_answer(response, remote, self.checkpoint)
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            self._forget()
            raise BrokenOffError("what was there does not fit what the server has now")
        begin, total = _extent(response)
        if begin != self.start or (self.start and total != self._noted().get("total")):
            self._forget()
            if begin:
                raise BrokenOffError("the server sends another part than the one asked for")
            self.start = 0
        self._check_size(total)
        self._check_room(total)
        self._take_note(response, remote, total)
        why = self._copy(response, total)
        if why or (total is not None and self._size() != total):
            raise BrokenOffError(
                f"{why or 'cut short'} after {self._size():,} of {f'{total:,}' if total else 'unknown'} bytes"
            )

    def _copy(self, response: requests.Response, total: int | None) -> str:
        """Append what comes; why it stopped coming, empty where it came to its end."""
        with self.part.open("ab") as stream:
            try:
                # What has come is taken at once, so that a broken connection loses nothing.
                while piece := response.raw.read1(_PIECE_BYTES):
                    stream.write(piece)
                    if self.progress is not None:
                        self.progress(stream.tell(), total or 0)
            except ReadTimeoutError:
                return "no more in time"
            except HTTPError:
                return "cut short"
        return ""

    def _take_note(self, response: requests.Response, remote: Remote, total: int | None) -> None:
        tag = response.headers.get("ETag", "")
        tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        self.note.write_text(json.dumps({"revision": remote.revision, "tag": tag, "total": total}), encoding="utf-8")

    def _check_room(self, total: int | None) -> None:
        missing = (total or 0) - self._size()
        free = shutil.disk_usage(self.target.parent).free
        if missing > free:
            raise WeightsError(
                f"{self.checkpoint.name} needs {missing / 1e6:,.0f} MB more in {self.target.parent}, where "
                f"{free / 1e6:,.0f} MB are free. Make room, or name another folder with GEOELLE_CACHE."
            )


def _check_answer(response: requests.Response, remote: Remote, checkpoint: Checkpoint) -> None:
    status = response.status_code
    if remote.url.startswith("https:") and not response.url.startswith("https:"):
        raise WeightsError(f"{remote.label} was redirected to an address without TLS. Download it elsewhere.")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsError(f"{remote.label} comes packed, though that was not asked for. Download it elsewhere.")
    if status in BUSY:
        raise BrokenOffError(f"HTTP {status}", wait_s=retry_after_s(response.headers.get("Retry-After", "")))
    if status not in (200, 206, 416):
        why = {401: "it asks for a login", 403: "it lets nobody in", 404: "the file is gone", 410: "the file is gone"}
        raise WeightsError(
            f"{remote.label} answers HTTP {status}: {why.get(status, 'it refuses')}. Download {checkpoint.name} "
            "elsewhere, and name the file with `weights`."
        )


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Where the answer begins in the file, and the length of the file."""
    if response.status_code == requests.codes.partial_content:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        begin = span.partition("-")[0]
        return int(begin) if begin.isdecimal() else -1, int(total) if total.isdecimal() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process at a time downloads a file; the others wait, and find it."""
    try:
        from filelock import FileLock
    except ImportError as error:
        raise WeightsError(f"Downloads need filelock ({error}). Install geoelle[models].") from None
    with FileLock(target.with_name(".lock")):
        yield


@contextmanager
def _saying_what_fails(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a full disk, a folder without permission
        raise WeightsError(
            f"{target} cannot be written: {error.strerror or error}. Make room there, or name another folder with "
            "GEOELLE_CACHE; the same command takes up where this one stopped."
        ) from error
