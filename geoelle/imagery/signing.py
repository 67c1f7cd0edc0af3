"""Signing addresses at the moment they are read. Tokens live under an hour, so nothing signed is ever kept or shown.

Tokens are Planetary Computer's, by the settings and in the cache of the planetary-computer package. Its own request for
one has no time-out and retries for minutes; here it is one request, and the read that needed it decides on a retry.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from fnmatch import fnmatch
from urllib.parse import ParseResult, parse_qs, urlparse

import requests

EXTRA_HOSTS = "GEOELLE_PC_HOSTS"
"""Environment variable: more hosts that take Planetary Computer's tokens, as patterns separated by commas."""
_FRESH_S = 60.0
"""A token with less to live is asked for anew, so that it outlasts the read."""
_TIMEOUT_S = (10.0, 30.0)


@dataclass(frozen=True, slots=True)
class SigningRule:
    """Whose addresses are signed."""

    provider: str
    """Name of the provider, as in `ItemRecord.provider`."""
    hosts: tuple[str, ...]
    """Patterns of hosts whose files need a token."""
    public: tuple[str, ...] = ()
    """Hosts among them that need none."""


PLANETARY_COMPUTER = SigningRule(
    "planetary-computer", ("*.blob.core.windows.net",), ("ai4edatasetspublicassets.blob.core.windows.net",)
)
_asking = threading.Lock()


class SigningError(Exception):
    """No token was given."""

    def __init__(self, reason: str, *, status: int | None = None, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


def needs_signature(href: str, provider: str | None = None, rule: SigningRule = PLANETARY_COMPUTER) -> bool:
    """Whether an address is of a host that asks for a token, and does not carry one already.

    An item of another known provider is not signed: its files may lie on such a host and be public.
    """
    parts = urlparse(href)
    if parts.scheme not in ("http", "https") or provider not in (None, rule.provider):
        return False
    host = parts.netloc.rpartition("@")[2].lower()
    extra = tuple(h.strip().lower() for h in os.environ.get(EXTRA_HOSTS, "").split(",") if h.strip())
    if host in rule.public or not any(fnmatch(host, pattern) for pattern in (*rule.hosts, *extra)):
        return False
    return not set(parse_qs(parts.query)) & {"st", "se", "sp"}


def sign(href: str, provider: str | None = None) -> str:
    """The address with a token where it needs one; any other comes back as it is.

    Args:
        href: Unsigned address.
        provider: Whose item it is of; None: decided by the host alone.

    Raises:
        SigningError: If the signing endpoint gives no token.
    """
    if not needs_signature(href, provider):
        return href
    return f"{href}{'&' if '?' in href else '?'}{_token(_endpoint(urlparse(href)))}"


def forget(signed: str) -> None:
    """Drop the token that a signed address carries, unless a newer one has taken its place."""
    from planetary_computer.sas import TOKEN_CACHE

    with _asking:
        for endpoint, token in list(TOKEN_CACHE.items()):
            if token.token in signed:
                del TOKEN_CACHE[endpoint]


def _endpoint(parts: ParseResult) -> str:
    from planetary_computer.settings import Settings
    from planetary_computer.utils import parse_blob_url

    try:
        account, container = parse_blob_url(parts)
    except ValueError:
        raise SigningError("its address names no storage container, so it cannot be signed") from None
    return f"{Settings.get().sas_url}/{account}/{container}"


def _token(endpoint: str) -> str:
    """The token for a container: one thread asks, the others wait and share it."""
    from planetary_computer.sas import TOKEN_CACHE

    with _asking:
        token = TOKEN_CACHE.get(endpoint)
        if token is None or token.ttl() < _FRESH_S:
            token = TOKEN_CACHE[endpoint] = _ask(endpoint)
        return str(token.token)


def _ask(endpoint: str) -> object:
    from planetary_computer.sas import SASToken
    from planetary_computer.settings import Settings

    key = Settings.get().subscription_key
    try:
        answer = requests.get(endpoint, headers={"Ocp-Apim-Subscription-Key": key} if key else {}, timeout=_TIMEOUT_S)
    except requests.RequestException as error:
        raise SigningError(f"the signing endpoint does not answer ({type(error).__name__})") from None
    if answer.status_code != requests.codes.ok:
        raise SigningError(
            f"the signing endpoint answered HTTP {answer.status_code}",
            status=answer.status_code,
            retry_after=answer.headers.get("Retry-After"),
        )
    try:
        return SASToken(**answer.json())
    except (ValueError, TypeError):  # neither JSON, nor what it should be: pydantic's errors are ValueErrors
        raise SigningError("the signing endpoint answered something that is no token") from None
