"""Asking servers, patiently but not for ever: retries with back-off, a limit on time, errors as one sentence."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from pystac.utils import make_absolute_href
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.exceptions import DecodeError, ProtocolError, ReadTimeoutError

from geoelle.errors import CatalogError, GeoelleError

_BUSY = (408, 429, 500, 502, 503, 504)
_SHUT = (401, 403)
"""To who asks, whatever is asked: a key that ran out, a gateway that blocks. Another endpoint may be open."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a server is asked. All times in seconds."""

    connect_s: float = 5.0
    read_s: float = 30.0
    """Longest silence within an answer."""
    answer_s: float = 120.0
    """Longest time for one whole answer."""
    tries: int = 4
    """For a server that says it is busy, or breaks off."""
    tries_if_silent: int = 2
    """For one that does not answer at all, since each try costs the whole time-out."""
    backoff_s: float = 0.5
    """Wait after the first failed try; doubles with each."""
    longest_wait_s: float = 20.0
    """Whatever the server's `Retry-After` asks for."""
    largest_answer: int = 1 << 28
    """Bytes of one answer."""


PATIENCE = Patience()
"""What a search uses unless told otherwise."""


class UnansweredError(CatalogError):
    """An endpoint that does not answer: no connection, time-outs, busy after every retry, or it lets nobody in."""

    def __init__(self, address: str, why: str) -> None:
        self.address, self.why = unsigned(address), why
        super().__init__(
            f"{self.address} does not answer: {why}. Check the address and the network, try again later, "
            "or name another endpoint with `fallback`."
        )


class _BrokenOff(Exception):
    """One try that failed in a way worth another."""

    def __init__(self, why: str, *, silent: bool = False, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.silent, self.wait_s = silent, wait_s


def is_url(address: object) -> bool:
    """Whether an address is of the web."""
    return urlsplit(str(address)).scheme in ("http", "https")


def unsigned(address: str) -> str:
    """An address without its query, which may hold a signature or a key."""
    return address.partition("?")[0].partition("#")[0] if is_url(address) else address


def absolute(item: dict[str, Any], base: str) -> dict[str, Any]:
    """An item with its assets' relative hrefs resolved: against its own address, else where it was found."""
    links = item.get("links")
    own = next(
        (
            link["href"]
            for link in (links if isinstance(links, list) else ())
            if isinstance(link, dict) and link.get("rel") == "self" and isinstance(link.get("href"), str)
        ),
        None,
    )
    base = own if own is not None and is_url(own) and is_url(base) else base
    assets = item.get("assets")
    for asset in assets.values() if isinstance(assets, dict) else ():
        if isinstance(asset, dict) and isinstance(asset.get("href"), str):
            asset["href"] = resolved(asset["href"], base)
    return item


def resolved(href: str, base: str) -> str:
    """An href as seen from `base`."""
    return str(make_absolute_href(href, base))


class PatientIO(StacApiIO):  # type: ignore[misc]
    """pystac-client's transport with our retries; errors that are an answer stay its `APIError`."""

    def __init__(self, patience: Patience, address: str) -> None:
        super().__init__(max_retries=None)
        self.patience = patience
        self.address = address

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of an answer.

        Raises:
            UnansweredError: If there is none after all tries, or the server lets nobody in.
            APIError: If the server refuses.
        """
        response, body = self.fetch(href, method or "GET", headers, parameters)
        if response.status_code in _SHUT:
            raise UnansweredError(self.address, f"HTTP {response.status_code} {_said(body)}".strip())
        if not 200 <= response.status_code < 300:
            error = APIError(f"HTTP {response.status_code} {response.reason or ''} {_said(body)}".strip())
            error.status_code = response.status_code
            raise error
        return body.decode("utf-8")

    def fetch(
        self,
        href: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> tuple[requests.Response, bytes]:
        """An answer and its body, asked for until there is one.

        Raises:
            UnansweredError: If there is none after all tries.
        """
        tries, wait = 0, self.patience.backoff_s
        while True:
            tries += 1
            try:
                return self._once(href, method.upper(), headers, parameters)
            except _BrokenOff as broken:
                if tries >= (self.patience.tries_if_silent if broken.silent else self.patience.tries):
                    raise UnansweredError(self.address, f"{broken} after {tries} tries") from None
                asked = wait if broken.wait_s is None else max(wait, broken.wait_s)
            time.sleep(min(asked, self.patience.longest_wait_s))
            wait *= 2

    def _once(
        self, href: str, method: str, headers: dict[str, str] | None, parameters: dict[str, Any] | None
    ) -> tuple[requests.Response, bytes]:
        body = {"json": parameters} if method == "POST" else {"params": parameters}
        waits = (self.patience.connect_s, self.patience.read_s)
        try:
            with self.session.request(method, href, headers=headers, timeout=waits, stream=True, **body) as response:
                if response.status_code in _BUSY:
                    raise _BrokenOff(f"HTTP {response.status_code}", wait_s=_retry_after(response))
                return response, self._body(response)
        except (requests.Timeout, ReadTimeoutError):
            raise _BrokenOff("no answer in time", silent=True) from None
        except (ProtocolError, DecodeError):
            raise _BrokenOff("an answer cut short") from None
        except requests.ConnectionError:
            raise _BrokenOff("no connection") from None

    def _body(self, response: requests.Response) -> bytes:
        started, body = time.monotonic(), bytearray()
        # What has come is taken at once: a server that sends a byte now and then would never time out.
        while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
            body += piece
            if len(body) > self.patience.largest_answer:
                raise CatalogError(f"{self.address} sends more than {self.patience.largest_answer} bytes at once.")
            if time.monotonic() - started > self.patience.answer_s:
                raise _BrokenOff("no end of the answer in time", silent=True)
        return bytes(body)


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def _said(body: bytes) -> str:
    """The first words of a refusal, without mark-up."""
    text = body[:2000].decode("utf-8", "replace")
    try:
        said = json.loads(text)
        text = str(said.get("description") or said.get("detail") or text) if isinstance(said, dict) else text
    except (ValueError, RecursionError):
        pass
    return "" if "<" in text else " ".join(text.split())[:200]


class Speaking:
    """Turns what pystac and its transport raise into one sentence that names the catalog."""

    def __init__(self, address: str) -> None:
        self.address = unsigned(address)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        error = _root_cause(error)
        if isinstance(error, GeoelleError):
            raise error from None
        if isinstance(error, json.JSONDecodeError):
            raise CatalogError(
                f"{self.address} did not answer with JSON. Is it a STAC API or a catalog.json?"
            ) from None
        if isinstance(error, Exception):  # pystac raises bare ones too
            said = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            raise CatalogError(
                f"The catalog {self.address} does not answer as a STAC catalog should: {said}. "
                "Check the address and the network, and try again."
            ) from None


def _root_cause(error: BaseException | None) -> BaseException | None:
    """What the transport raised, where pystac wrapped it; else the error itself."""
    inner = error
    while inner is not None:
        if isinstance(inner, GeoelleError | APIError | json.JSONDecodeError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return error
