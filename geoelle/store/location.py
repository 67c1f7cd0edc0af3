"""Where a store, table or probe lies: a local path, or the URL of an object store (s3://, gs://, az://).

Credentials, endpoint and region of an object store come from the environment, as obstore reads it
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_SAS_KEY`, …). A URL
with credentials in it is refused: addresses are logged, and stored beside results.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import obstore
import obstore.store
import zarr.storage
from obstore.exceptions import BaseError

from geoelle.errors import GeoelleError, NotFoundError, StoreError
from geoelle.store.atomic import replacing

type StorePath = str | Path | Location

_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
# Path("s3://bucket/x") is "s3:/bucket/x": one slash or two, it is the same place.
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])(.*)$", re.DOTALL)
_ENVIRONMENT = ("AWS_", "GOOGLE_", "AZURE_")
_QUERY = re.compile(r"(\w+://)[^/\s@]*@|\?[^\s\"'<>,;)]*")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Location:
    """A place, local or in an object store. Made by `Location.of`; holds no connection, so workers can be sent it."""

    address: str
    """Local path as given, or the URL without a slash at its end."""

    @staticmethod
    def of(place: StorePath) -> Location:
        """The location that a path or URL names.

        Raises:
            StoreError: If the URL is of no object store, names no bucket, or carries credentials.
        """
        if isinstance(place, Location):
            return place
        text = str(place)
        match = _URL.match(text)
        if match is None:
            if text.lower().startswith("file:///"):
                return Location(str(Path(text[len("file://") :])))
            if "://" in text:
                raise StoreError(f"{_plain(text)} names no bucket. Expected for example s3://bucket/folder.")
            return Location(str(Path(text)))
        scheme, rest = match[1].lower(), match[2].rstrip("/")
        if scheme not in _SCHEMES:
            raise StoreError(
                f"{_plain(text)} is no place to keep a store. Expected a local path, or a URL that starts with "
                "s3://, gs:// or az://."
            )
        if "?" in rest or "#" in rest or "@" in rest.partition("/")[0]:
            raise StoreError(
                f"The address {scheme}://… carries credentials or a query. Give them by the environment, "
                "for example AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the address without them."
            )
        if ".." in rest.split("/"):
            raise StoreError(f"{scheme}://{rest} steps out of its folder with '..'. Give the address itself.")
        return Location(f"{scheme}://{rest}")

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store."""
        return "://" in self.address

    @property
    def path(self) -> Path:
        """The local path.

        Raises:
            StoreError: If it lies in an object store.
        """
        if self.is_remote:
            raise StoreError(f"{self} lies in an object store, and only a local path will do here. Give one.")
        return Path(self.address)

    @property
    def name(self) -> str:
        """The last part of its address."""
        return self.address.rpartition("/")[2] if self.is_remote else Path(self.address).name

    def __str__(self) -> str:
        return self.address

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.address}/{name}" if self.is_remote else str(self.path / name))

    def with_name(self, name: str) -> Location:
        """The place of this name beside it."""
        if not self.is_remote:
            return Location(str(self.path.absolute().with_name(name) if not self.name else self.path.with_name(name)))
        scheme, _, rest = self.address.partition("://")
        folder = rest.rpartition("/")[0]
        if not folder:
            raise StoreError(f"{self} is a whole bucket. Expected a folder in it, for example {self}/run.")
        return Location(f"{scheme}://{folder}/{name}")

    def absolute(self) -> Location:
        """The same place for a process with another working folder, as a worker of a cluster may have."""
        return self if self.is_remote else Location(str(self.path.absolute()))

    def with_suffix(self, suffix: str) -> Location:
        """The place beside it whose name ends in `suffix`, with the dot, instead."""
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def exists(self) -> bool:
        """Whether a file, a folder, or an object of that name or below it is there."""
        if not self.is_remote:
            return self.path.exists()
        with reporting(self, "read"):
            return self.is_file() or self.is_folder()

    def is_file(self) -> bool:
        """Whether a file or an object of that very name is there."""
        if not self.is_remote:
            return self.path.is_file()
        with reporting(self, "read"):
            try:
                obstore.head(*self.remote())
            except FileNotFoundError:
                return False
            return True

    def is_folder(self) -> bool:
        """Whether it is a folder, or objects lie below it."""
        if not self.is_remote:
            return self.path.is_dir()
        with reporting(self, "read"):
            return any(batch for batch in obstore.list(_bucket(self.address, _environment()), chunk_size=1))

    def files(self) -> dict[str, int]:
        """Every file below it, by its path from here, with its size in bytes."""
        with reporting(self, "read"):
            if self.is_remote:
                found = obstore.list(_bucket(self.address, _environment()))
                return {meta["path"]: int(meta["size"]) for batch in found for meta in batch}
            root = self.path
            return {p.relative_to(root).as_posix(): p.stat().st_size for p in root.rglob("*") if p.is_file()}

    def read_bytes(self) -> bytes:
        """What a file or object holds.

        Raises:
            NotFoundError: If there is none.
            StoreError: If it cannot be read.
        """
        with reporting(self, "read"):
            try:
                return bytes(obstore.get(*self.remote()).bytes()) if self.is_remote else self.path.read_bytes()
            except FileNotFoundError:
                raise NotFoundError(f"There is no file {self}.") from None

    def write_bytes(self, data: bytes) -> None:
        """Write a file or object, whole or not at all.

        Raises:
            StoreError: If it cannot be written.
        """
        with reporting(self, "written"):
            if self.is_remote:
                obstore.put(*self.remote(), data)
                return
            with replacing(self.path) as partial:
                partial.write_bytes(data)

    def append(self, text: str) -> None:
        """Add to a text file. An object is written anew for that, so the caller holds the store's lock.

        Raises:
            StoreError: If it cannot be written.
        """
        if self.is_remote:
            before = self.read_bytes() if self.is_file() else b""
            self.write_bytes(before + text.encode())
            return
        with reporting(self, "written"), self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def delete(self, *, keep: str = "") -> None:
        """Delete the file, or all below it but what is named `keep`; nothing where nothing is there.

        Raises:
            StoreError: If it cannot be deleted.
        """
        with reporting(self, "written"):
            if self.is_remote:
                store = _bucket(self.address, _environment())
                for batch in obstore.list(store):
                    doomed = [meta["path"] for meta in batch if meta["path"] != keep]
                    if doomed:
                        obstore.delete(store, doomed)
                if not keep and self.is_file():
                    obstore.delete(*self.remote())
            elif self.path.is_dir():
                for left in self.path.iterdir():
                    if left.name != keep:
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
                if not keep:
                    self.path.rmdir()
            else:
                self.path.unlink(missing_ok=True)

    def zarr_store(self, *, read_only: bool = False) -> zarr.storage.LocalStore | zarr.storage.ObjectStore[Any]:
        """What Zarr reads and writes through."""
        if self.is_remote:
            return zarr.storage.ObjectStore(_bucket(self.address, _environment()), read_only=read_only)
        return zarr.storage.LocalStore(self.path, read_only=read_only)

    def remote(self) -> tuple[Any, str]:
        """The obstore store of its folder, and its name there."""
        folder, _, name = self.address.rpartition("/")
        if folder.endswith("/") or not name:
            raise StoreError(f"{self} is a whole bucket. Expected a folder in it, for example {self}/run.")
        return _bucket(folder, _environment()), name


@contextmanager
def reporting(place: Location, doing: str) -> Iterator[None]:
    """Failures of disk and network inside the block become a StoreError that says what failed and what to do.

    Args:
        place: What is being worked on.
        doing: `written` or `read`.
    """
    try:
        yield
    except GeoelleError:
        raise
    except (OSError, BaseError) as error:
        raise StoreError(f"{place} cannot be {doing}: {failure(place, error)}") from None


def failure(place: Location, error: Exception) -> str:
    """What went wrong in a sentence or two: the system's own words, the free space, and what to do."""
    if isinstance(error, BaseError) or place.is_remote:
        return f"{said(error)}. Check the address, and the credentials and endpoint in the environment."
    number = error.errno if isinstance(error, OSError) else None
    words = os.strerror(number) if number else str(error) or type(error).__name__
    if number in _FULL:
        return f"{words} ({free_space(place.path)}). Free some space and run again: what is done is kept."
    if number in _REFUSED:
        return f"{words}. Give a place that can be written, or change its rights."
    return f"{words}. Run again once that is mended."


def said(error: Exception) -> str:
    """What an error says, in one line, without credentials and without a server's whole answer."""
    return _plain(str(error)).partition("\n")[0].partition(": <?xml")[0].rstrip(" .") or type(error).__name__


def free_space(path: Path) -> str:
    """Free space of the disk that `path` is, or would be, on."""
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        usage = shutil.disk_usage(there)
    except OSError:
        return "free space unknown"
    return f"{usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.1f} MB free"


def _plain(text: str) -> str:
    """Without user names, passwords and queries of the URLs in it."""
    return _QUERY.sub(lambda m: m[1] or "", text)


def _environment() -> tuple[tuple[str, str], ...]:
    """What a connection depends on, so that another environment gets another one."""
    return tuple(sorted((k, v) for k, v in os.environ.items() if k.upper().startswith(_ENVIRONMENT)))


@lru_cache(maxsize=32)
def _bucket(address: str, _environment: tuple[tuple[str, str], ...]) -> Any:
    """One connection pool per folder and process."""
    try:
        return obstore.store.from_url(address)
    except (BaseError, ValueError, OSError) as error:
        raise StoreError(f"{address} cannot be reached: {failure(Location(address), error)}") from None
