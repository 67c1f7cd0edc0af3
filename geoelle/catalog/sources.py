"""Where items come from: a STAC API, a static catalog, or a stac-geoparquet file, by URL or path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from pystac_client import Client
from pystac_client.exceptions import APIError

from geoelle.catalog.asking import NOTHING_ASKED, Question, simpler
from geoelle.catalog.geoparquet import ParquetSource, is_parquet
from geoelle.catalog.providers import Provider, ServerFilter, list_providers
from geoelle.catalog.transport import PatientIO, Speaking, absolute, is_url, resolved
from geoelle.errors import CatalogError

PAGE_ITEMS = 100
"""Items asked for at once; more make some providers' gateways give up."""
_BARREN_PAGES = 3
_REFUSALS = (400, 413, 422, 501)
_ONE_DAY = np.timedelta64(1, "D")


class Source(Protocol):
    """Yields items as STAC JSON with absolute hrefs."""

    remote: bool
    """Whether its items come from elsewhere, and so may not name files of this machine."""
    server_filters: ServerFilter | None
    """The extension in which it can be asked for properties."""
    asked: tuple[str, ...]
    """The filters that the last question left to it."""

    def items(self, question: Question) -> Iterator[dict[str, Any]]:
        """Items that answer a question."""


def open_source(address: str, provider: Provider | None, io: PatientIO) -> Source:
    """The source behind a URL or a path.

    Raises:
        CatalogError: If there is none, or it is of no kind that is known.
        UnansweredError: If its server does not answer.
    """
    remote = is_url(address)
    if not remote:
        path = Path(address)
        path = path / "catalog.json" if path.is_dir() else path
        if not path.is_file():
            raise CatalogError(
                f"There is no catalog at {path}. Give a STAC API's URL, a catalog.json, a stac-geoparquet file or "
                f"a provider: {', '.join(list_providers())}."
            )
        address = path.resolve().as_posix()
    with Speaking(address):
        if is_parquet(address):
            return ParquetSource(address, io)
        root = _read_json(address, io, remote)
        if root.get("conformsTo"):
            return ApiSource(address, provider, io)
        if root.get("type") not in ("Catalog", "Collection"):
            raise CatalogError(
                f"{address} is JSON but no STAC catalog: its type is {str(root.get('type'))[:40]!r}. "
                "Give a STAC API's URL, a catalog.json or a stac-geoparquet file."
            )
        return StaticSource(address, root, io)


class ApiSource:
    """A STAC API's item search."""

    remote = True

    def __init__(self, address: str, provider: Provider | None, io: PatientIO) -> None:
        self.address = address
        self.asked: tuple[str, ...] = ()
        self._client = Client.open(address, stac_io=io)
        if not self._client.conforms_to("ITEM_SEARCH"):
            raise CatalogError(
                f"{address} is a STAC API without item search. Give one that conforms to item-search, or its "
                "items as a stac-geoparquet file."
            )
        self.server_filters = self._server_filters(provider)

    def _server_filters(self, provider: Provider | None) -> ServerFilter | None:
        kinds: tuple[ServerFilter, ...] = ("filter", "query")  # the first can say more
        known = kinds if provider is None else provider.server_filters
        return next((kind for kind in kinds if kind in known and self._client.conforms_to(kind.upper())), None)

    def items(self, question: Question) -> Iterator[dict[str, Any]]:
        """Items of every page of every window; without the property filters if the server refuses these."""
        always = ("area",) * (question.aoi is not None) + ("dates",) * bool(question.windows)
        self.asked = (*always, *question.asked.names)
        seen: set[tuple[str, str]] = set()
        with Speaking(self.address):
            for window in question.windows or (None,):
                before = len(seen)
                try:
                    yield from self._window(question, window, seen)
                except APIError as error:
                    if error.status_code not in _REFUSALS or not question.asked.names or len(seen) > before:
                        raise
                    question, self.asked = replace(question, asked=NOTHING_ASKED), always  # conforms on paper only
                    yield from self._window(question, window, seen)

    def _window(
        self, question: Question, window: tuple[np.datetime64, np.datetime64] | None, seen: set[tuple[str, str]]
    ) -> Iterator[dict[str, Any]]:
        search = self._client.search(
            intersects=None if question.aoi is None else shapely.geometry.mapping(simpler(question.aoi)),
            collections=list(question.collections) or None,
            datetime=None if window is None else _interval(window),
            query=question.asked.query,
            filter=question.asked.filter,
            filter_lang="cql2-json" if question.asked.filter else None,
            max_items=question.limit,
            limit=min(PAGE_ITEMS, question.limit or PAGE_ITEMS),
        )
        barren = 0
        for page in search.pages_as_dicts():
            before = len(seen)
            for item in page.get("features") or ():
                if not isinstance(item, dict):
                    raise CatalogError(f"{self.address} answers a search with something that is no item.")
                seen.add((str(item.get("collection")), str(item.get("id"))))
                yield absolute(item, self.address)
            barren = barren + 1 if len(seen) == before else 0
            if barren >= _BARREN_PAGES:
                raise CatalogError(
                    f"{self.address} gives the same items page after page, so the search would never end. "
                    "Ask the provider, or search for a shorter time."
                )


class StaticSource:
    """A static catalog, walked from its root; nothing of it is kept."""

    server_filters: ServerFilter | None = None

    def __init__(self, address: str, root: Mapping[str, Any], io: PatientIO) -> None:
        self.address = address
        self.remote = is_url(address)
        self.asked: tuple[str, ...] = ()
        self._root = root
        self._io = io

    def items(self, question: Question) -> Iterator[dict[str, Any]]:
        """All items, whatever is asked: a static catalog answers no questions."""
        with Speaking(self.address):
            found = self._walk()
            for _ in range(question.limit) if question.limit is not None else iter(int, 1):
                item = next(found, None)
                if item is None:
                    return
                yield item

    def _walk(self) -> Iterator[dict[str, Any]]:
        seen = {self.address}
        waiting = self._links(self._root, self.address)
        while waiting:
            href = waiting.pop()
            if href in seen:  # links may run in a circle
                continue
            seen.add(href)
            node = self._read(href)
            if node.get("type") == "Feature":
                yield absolute(node, href)
            elif node.get("type") in ("Catalog", "Collection"):
                waiting += self._links(node, href)
            else:
                raise CatalogError(
                    f"{href} is linked from the catalog {self.address} but is neither a catalog nor an item. "
                    "Ask the provider."
                )

    def _read(self, href: str) -> dict[str, Any]:
        if self.remote and not is_url(href):
            raise CatalogError(f"The catalog links to {href[:80]!r}, a file of this machine. Ask the provider.")
        try:
            return _read_json(href, self._io, is_url(href))
        except (OSError, UnicodeDecodeError) as error:
            raise CatalogError(
                f"The catalog {self.address} links to {href[:200]}, which cannot be read ({type(error).__name__}). "
                "Ask the provider."
            ) from None

    def _links(self, node: Mapping[str, Any], base: str) -> list[str]:
        links = node.get("links")
        return [
            resolved(link["href"], base)
            for link in (links if isinstance(links, list) else ())
            if isinstance(link, dict) and link.get("rel") in ("child", "item") and isinstance(link.get("href"), str)
        ]


def _interval(window: tuple[np.datetime64, np.datetime64]) -> str:
    # A day more at both ends, because solar days are not UTC days; filtered again here.
    first, last = window[0] - _ONE_DAY, window[1] + _ONE_DAY
    return f"{np.datetime_as_string(first, 'D')}T00:00:00Z/{np.datetime_as_string(last, 'D')}T23:59:59Z"


def _read_json(address: str, io: PatientIO, remote: bool) -> dict[str, Any]:
    text = io.request(address) if remote else Path(address).read_text(encoding="utf-8")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise CatalogError(f"{address} is JSON but no STAC: it holds {type(found).__name__}, no object.")
    return found
