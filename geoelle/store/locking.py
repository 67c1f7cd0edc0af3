"""One run at a time on a store. Readers take no lock.

On a disk: a lock of the kernel on `.NAME.lock` beside the store, which ends with the process, however it dies.
In an object store: a lease, an object of that name that is made only where none is, renewed every 30 s, and void after
120 s without. Machines that share a store keep time to within a minute of each other.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError as ObjectExistsError
from obstore.exceptions import BaseError, PreconditionError

from geoelle.errors import StoreError
from geoelle.store.location import Location, StorePath, failure, reporting

LEASE_S = 120.0
RENEW_S = 30.0
RENEWAL = "geoelle-lease"
"""Name of the thread that renews one."""
_held = threading.local()


@dataclass(frozen=True, slots=True)
class Hold:
    """A lock that is held."""

    place: Location
    """The store."""
    token: str
    """Of this run alone, for `check_hold` in its workers."""


@contextmanager
def store_lock(path: StorePath, what: str) -> Iterator[Hold]:
    """Hold a store for writing, so that a second run is refused. A thread that holds it already goes on.

    Args:
        path: The store, there or not.
        what: What is being done to it, for the message that another run gets.

    Raises:
        StoreError: If another run holds it, or nothing can be written there.
    """
    place = Location.of(path).absolute()
    mine: dict[str, Hold] = _held.__dict__.setdefault("places", {})
    if place.address in mine:
        yield mine[place.address]
        return
    hold = Hold(place, uuid.uuid4().hex)
    with _lease(hold, what) if place.is_remote else _file_lock(hold, what):
        mine[place.address] = hold
        try:
            yield hold
        finally:
            del mine[place.address]


def check_hold(hold: Hold) -> None:
    """Refuse to go on where the run that sent this work no longer holds its store.

    A worker can outlive its run: this keeps what it does last from mixing with what the next run does.

    Raises:
        StoreError: If the lock is gone, or another run's.
    """
    if _read(lock_place(hold.place)).get("token") != hold.token:
        raise StoreError(f"{hold.place} is no longer held by the run that this job is of. The job is given up.")


def lock_place(place: Location) -> Location:
    """Where the lock of a store lies: beside it."""
    return place.with_name(f".{place.name}.lock")


def _said(hold: Hold, what: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "what": what,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "since": now.isoformat(timespec="seconds"),
        "until": now.timestamp() + LEASE_S,
        "token": hold.token,
    }


def _read(lock: Location) -> dict[str, Any]:
    try:
        found = json.loads(lock.read_bytes())
    except (StoreError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(place: Location, found: dict[str, Any], more: str = "") -> StoreError:
    by = f"process {found.get('pid', '?')} on {found.get('host', '?')} since {found.get('since', '?')}"
    return StoreError(
        f"{place} is being written by {by} ({found.get('what', 'unknown')}). Wait until that run has ended, or give "
        f"another --out.{more}"
    )


def _machine() -> str:
    """Names this machine since its last start, and the pid namespace: within it, a process id means one process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


# --- on a disk


@contextmanager
def _file_lock(hold: Hold, what: str) -> Iterator[None]:
    lock = lock_place(hold.place).path
    with reporting(hold.place, "written"):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked_file(lock, hold.place)
    try:
        with reporting(hold.place, "written"):
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(_said(hold, what)).encode())
        yield
    finally:
        if sys.platform != "win32":
            lock.unlink(missing_ok=True)  # while it is held: whoever waits on this file looks whether it is still there
        os.close(handle)


def _locked_file(lock: Path, place: Location) -> int:
    """The lock's file, open and locked, and still the one of that name."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _try_lock(handle):
                raise _refusal(place, _read(Location.of(lock)))
            if sys.platform == "win32" or _is_same(handle, lock):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the run before ended between our open and our lock, and took its file away


def _is_same(handle: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), lock.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, 1 << 20, os.SEEK_SET)  # beyond the text, which others may read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


# --- in an object store


@contextmanager
def _lease(hold: Hold, what: str) -> Iterator[None]:
    lock = lock_place(hold.place)
    content = _said(hold, what)
    tag = _take(lock, content, hold.place)
    ended = threading.Event()
    lost: list[str] = []
    renewal = threading.Thread(target=_renew, args=(lock, content, tag, ended, lost), daemon=True, name=RENEWAL)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        if not lost:
            with suppress(StoreError):  # it ends by itself
                lock.delete()
    if lost:
        raise StoreError(
            f"The hold on {hold.place} was lost while it was being written ({lost[0]}), so another run may have "
            "written to it too. Run again: what is not whole is done again."
        )


def _take(lock: Location, content: dict[str, Any], place: Location) -> str:
    """Make the lease, or take over one that is void; its tag."""
    data = json.dumps(content).encode()
    store, name = lock.remote()
    with reporting(place, "written"):
        try:
            return str(obstore.put(store, name, data, mode="create")["e_tag"])
        except ObjectExistsError:
            pass
        try:
            answer = obstore.get(store, name)
            tag, found = str(answer.meta["e_tag"]), json.loads(bytes(answer.bytes()))
            left = float(found["until"]) - datetime.now(UTC).timestamp()
        except FileNotFoundError:  # ended between our two requests
            raise _refusal(place, {}) from None
        except (ValueError, TypeError, LookupError):
            raise StoreError(f"{lock} is no lease of geoelle's. Delete it if no run is writing {place}.") from None
        if left > 0 and not _is_dead(found):
            raise _refusal(place, found, f" If it was killed, its hold ends in {left:.0f} s.")
        try:
            return str(obstore.put(store, name, data, mode={"e_tag": tag})["e_tag"])
        except PreconditionError:
            raise _refusal(place, _read(lock)) from None


def _is_dead(found: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and does not any more."""
    machine, pid = _machine(), found.get("pid")
    if not machine or found.get("machine") != machine or not isinstance(pid, int):
        return False
    return pid != os.getpid() and not Path(f"/proc/{pid}").exists()


def _renew(lock: Location, content: dict[str, Any], tag: str, ended: threading.Event, lost: list[str]) -> None:
    store, name = lock.remote()
    until = float(content["until"])
    while not ended.wait(RENEW_S):
        now = datetime.now(UTC).timestamp()
        data = json.dumps({**content, "until": now + LEASE_S}).encode()
        try:
            tag = str(obstore.put(store, name, data, mode={"e_tag": tag})["e_tag"])
            until = now + LEASE_S
        except (PreconditionError, FileNotFoundError):
            lost.append("another run took it over")
            return
        except (BaseError, OSError) as error:
            if now > until:  # tried again until then: a network that is away for a moment loses nothing
                lost.append(failure(lock, error))
                return


__all__ = ("Hold", "check_hold", "lock_place", "store_lock")
