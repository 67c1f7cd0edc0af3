"""Opening one file, local or remote: GDAL's settings, the bound on connections, and retries with back-off.

Every read goes through `Access.read`, on whatever thread or worker, so nothing depends on what was set up there.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from typing import Any

import rasterio
import rasterio.cache
import rasterio.env
import tenacity
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from geoelle.errors import ConfigError
from geoelle.imagery.redaction import RedactingFilter, without_signature
from geoelle.imagery.signing import SigningError, forget, sign
from geoelle.provenance import seed_from

_FINAL = frozenset({400, 401, 404, 405, 410, 414, 416, 451})
"""HTTP answers that another try will not change."""
_STATUS = re.compile(r"HTTP response code: (\d{3})")
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_IMAGES = ("GTiff", "JP2OpenJPEG", "HFA", "JPEG", "PNG")
"""GDAL's drivers whose files hold their pixels. A VRT, a WMS description and others name any file or address."""
_EXTENSIONS = (".tif", ".tiff", ".jp2")
_ASK_S = 5.0
_REQUESTS_OF_A_FAILURE = 8
"""GDAL asks up to so often for what does not come before a read fails, its own retry included."""

for _name in ("rasterio", "rasterio._base", "rasterio._env", "rasterio._err", "rasterio._filepath", "rasterio._io",
              "rasterio._warp", "rasterio.env"):  # fmt: skip
    # GDAL names addresses as it opened them. A filter of a parent does not see its children's records.
    logging.getLogger(_name).addFilter(RedactingFilter())


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """How hard to try, and how many connections to hold. All of it concerns remote files only."""

    max_attempts: int = 6
    """Tries to read an asset, the first included."""
    total_s: float = 300.0
    """No try begins later than this after the first, and each is cut so that it ends soon after."""
    backoff_s: float = 0.5
    """Wait after the first failure; doubles with each, and varies by up to half with address and try."""
    max_backoff_s: float = 30.0
    request_timeout_s: float = 120.0
    """Longest that one request may take."""
    stall_s: float = 20.0
    """A transfer that moves less than 100 bytes a second for so long is cut."""
    gdal_retries: int = 1
    """Retries of GDAL's own within a try, of the one request that failed."""
    max_connections: int = 16
    """Connections in use at once in a process, whatever its threads: reads that would need more wait."""
    connections_per_read: int = 2
    """Ranges of one file that GDAL may fetch side by side (HTTP/1.1; over HTTP/2 they share one)."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            low = 0 if name in ("gdal_retries", "backoff_s", "max_backoff_s") else 1e-3
            if not (math.isfinite(value) and value >= low):
                raise ConfigError(f"AccessPolicy.{name} is {value}. Expected a {'positive ' if low else ''}number.")
        if self.connections_per_read > self.max_connections:
            raise ConfigError(
                f"AccessPolicy.connections_per_read is {self.connections_per_read}, more than max_connections "
                f"{self.max_connections}. Raise the one or lower the other."
            )

    @property
    def max_reads(self) -> int:
        """Remote files read at once in a process."""
        return self.max_connections // self.connections_per_read


DEFAULT_POLICY = AccessPolicy()


class UnreadableError(Exception):
    """What went wrong with one file, in words and without its signature."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = without_signature(address)
        self.reason = without_signature(reason)


class NotAnImageError(ValueError):
    """A file holds something else than what is expected of it. No other try will change that."""


class _FailedTryError(Exception):
    """One try that failed."""

    def __init__(self, reason: str, *, again: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.again = again
        self.retry_after_s = retry_after_s


class Access:
    """How one load reaches its files: the policy, and what the caller's GDAL environment says.

    GDAL's settings belong to a thread. They are taken down where this is made, and set wherever a file is read.
    """

    def __init__(self, policy: AccessPolicy = DEFAULT_POLICY) -> None:
        self.policy = policy
        here = rasterio.env.getenv() if rasterio.env.hasenv() else {}
        self.has_session = any(key in here for key in _SECRETS)
        self._given = {key: value for key, value in here.items() if key not in _SECRETS}
        for key in _remote_settings(policy, 0):
            value = rasterio.env.get_gdal_config(key, normalize=False)
            if value is not None:
                self._given[key] = value

    def read[Result](self, address: str, work: Callable[[Any], Result], *, provider: str | None = None) -> Result:
        """Open a file and work on it; a remote one again and again as the policy says.

        Args:
            address: Unsigned address, or a path.
            work: Is given the open rasterio dataset. Called once more after a failure.
            provider: Whose item it is of; None where that is not known.

        Raises:
            UnreadableError: If it cannot be read, with the reason.
        """
        try:
            if is_remote(address):
                return self._persist(address, work, provider)
            with self._environment(address, 0), _opened(address) as source:
                return work(source)
        except _FailedTryError as failure:
            reason = str(failure)
        except Exception as error:  # GDAL and the transport raise many kinds
            reason = _words(error)
        # Outside of the handler, so that no traceback leads to an address with its token.
        raise UnreadableError(address, reason)

    def each(self, tasks: Sequence[Callable[[], object]], *, remote: bool) -> None:
        """Run tasks that read; side by side where each waits for a server. The first in order to fail raises."""
        n_threads = min(len(tasks), self.policy.max_reads)
        if not remote or n_threads < 2 or self.has_session:  # a session belongs to the caller's thread
            for task in tasks:
                task()
            return
        with ThreadPoolExecutor(n_threads, thread_name_prefix="geoelle-read") as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _persist[Result](self, address: str, work: Callable[[Any], Result], provider: str | None) -> Result:
        policy, start = self.policy, time.monotonic()

        def wait(state: tenacity.RetryCallState) -> float:
            return _backoff_s(policy, address, state)

        def stop(state: tenacity.RetryCallState) -> bool:
            late = time.monotonic() - start + wait(state) >= policy.total_s
            return late or state.attempt_number >= policy.max_attempts

        tries = tenacity.Retrying(wait=wait, stop=stop, retry=tenacity.retry_if_exception(_worth_another), reraise=True)
        try:
            return tries(lambda: self._try(address, work, provider, policy.total_s - (time.monotonic() - start)))
        except _FailedTryError as failure:
            n = tries.statistics["attempt_number"]
            reason = f"{failure} (after {n} {'try' if n == 1 else 'tries'} in {time.monotonic() - start:.0f} s)"
        raise _FailedTryError(reason, again=False)

    def _try[Result](
        self, address: str, work: Callable[[Any], Result], provider: str | None, remaining_s: float
    ) -> Result:
        signed = address
        with _gate(self.policy.max_reads):
            try:
                signed = sign(address, provider)
                with self._environment(address, remaining_s), _opened(signed) as source:
                    return work(source)
            except SigningError as error:
                again = error.status not in (*_FINAL, 403)
                failure = _FailedTryError(str(error), again=again, retry_after_s=_seconds(error.retry_after))
            except NotAnImageError as error:
                failure = _FailedTryError(_words(error), again=False)
            except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
                failure = _diagnosis(error, signed, is_signed=signed != address)
            # A failure stays in GDAL's cache, and so does half a response.
            rasterio.cache.invalidate(signed)
        raise failure

    @contextmanager
    def _environment(self, address: str, remaining_s: float) -> Iterator[None]:
        settings = dict(self._given)
        if is_remote(address):
            ours = _remote_settings(self.policy, remaining_s)
            if not address.partition("?")[0].lower().endswith(_EXTENSIONS):
                del ours["CPL_VSIL_CURL_ALLOWED_EXTENSIONS"]
            settings = ours | settings
        with rasterio.Env(**settings):
            yield


def is_remote(address: str) -> bool:
    """Whether an address is not a path on this machine."""
    return "://" in address and not address.lower().startswith("file:")


def _remote_settings(policy: AccessPolicy, remaining_s: float) -> dict[str, str]:
    """GDAL's settings for cloud-optimised GeoTIFF, as titiler's performance guide has them, and for failing in time."""
    stall_s = max(1, math.ceil(min(policy.stall_s, remaining_s / _REQUESTS_OF_A_FAILURE)))
    return {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_HTTP_MULTIPLEX": "YES",
        "GDAL_HTTP_VERSION": "2TLS",  # plain 2 asks servers without TLS for an upgrade that some choke on
        "GDAL_HTTP_MAX_TOTAL_CONNECTIONS": str(policy.connections_per_read),
        "GDAL_HTTP_MAX_RETRY": str(policy.gdal_retries),
        "GDAL_HTTP_RETRY_DELAY": str(policy.backoff_s),
        "GDAL_HTTP_TIMEOUT": str(max(1, math.ceil(min(policy.request_timeout_s, remaining_s)))),
        "GDAL_HTTP_CONNECTTIMEOUT": str(stall_s),
        "GDAL_HTTP_LOW_SPEED_TIME": str(stall_s),
        "GDAL_HTTP_LOW_SPEED_LIMIT": "100",
        "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ",".join(_EXTENSIONS),
        "VSI_CACHE": "TRUE",
        "VSI_CACHE_SIZE": "5000000",
    }


@lru_cache
def _gate(max_reads: int) -> threading.BoundedSemaphore:
    """One for the process, whichever thread asks."""
    return threading.BoundedSemaphore(max_reads)


@contextmanager
def _opened(address: str) -> Iterator[Any]:
    with rasterio.open(address, sharing=False) as source:
        if source.driver not in _IMAGES:
            raise NotAnImageError(f"GDAL takes it for {source.driver}, where one of {', '.join(_IMAGES)} is expected")
        yield source


def _worth_another(error: BaseException) -> bool:
    return isinstance(error, _FailedTryError) and error.again


def _backoff_s(policy: AccessPolicy, address: str, state: tenacity.RetryCallState) -> float:
    """Seconds to the next try. What varies it is drawn from the address, so that a run can be repeated."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after_s if isinstance(error, _FailedTryError) else 0.0
    share = seed_from(address, state.attempt_number) / 2**64
    doubled: float = policy.backoff_s * 2 ** (state.attempt_number - 1)
    return max(asked, min(policy.max_backoff_s, doubled) * (0.5 + share / 2))


def _diagnosis(error: Exception, signed: str, *, is_signed: bool) -> _FailedTryError:
    """Why a remote read failed, and whether another try may end better.

    In the middle of a read GDAL does not tell the server's answer, so the server is asked once more for one byte.
    """
    reason, retry_after_s = _words(error), 0.0
    told = [int(number) for number in _STATUS.findall(reason)]
    status = told[0] if told else None
    if signed.startswith(("http://", "https://")) and (status is None or status in (429, 503)):
        asked, retry_after_s = _ask(signed)
        status = asked if status is None else status
    if status is not None and f"{status}" not in reason:
        reason = f"HTTP response code: {status}"
    if status == 403 and is_signed:
        forget(signed)
    return _FailedTryError(reason, again=status not in _FINAL, retry_after_s=retry_after_s)


def _ask(signed: str) -> tuple[int | None, float]:
    """The server's answer where it is a failure that GDAL would meet too, and the seconds it asks to wait.

    Through urllib, which logs no addresses.
    """
    request = urllib.request.Request(signed, headers={"Range": "bytes=0-0"})  # noqa: S310  # http(s), says the caller
    try:
        with urllib.request.urlopen(request, timeout=_ASK_S):  # noqa: S310
            return None, 0.0
    except urllib.error.HTTPError as answer:
        with answer:
            telling = answer.code in (403, 404, 410, 429) or answer.code >= 500
            return (answer.code if telling else None), _seconds(answer.headers.get("Retry-After"))
    except (OSError, HTTPException):
        return None, 0.0


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header in seconds; one that gives a date, as no known provider does, counts for nothing."""
    return float(retry_after) if retry_after is not None and retry_after.strip().isdigit() else 0.0


def _words(error: BaseException) -> str:
    """An error and the one it came of in words."""
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    cause = error.__cause__ or error.__context__
    first = " ".join(str(cause).split()).rstrip(".") if cause is not None else ""
    return without_signature(said if first in said else f"{said} ({first})")
