"""Search: a STAC API through pystac-client, or a static catalog by walking it, with the same filters applied here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pystac
import shapely
from pystac.stac_io import DefaultStacIO
from pystac_client import Client
from pystac_client.stac_api_io import StacApiIO
from shapely.geometry.base import BaseGeometry
from urllib3 import Retry

from geoelle.catalog.parsing import parse_item
from geoelle.catalog.scenes import solar_day
from geoelle.errors import CatalogError, ConfigError, GeoelleError, NoItemsError
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

_TIMEOUT_S = (5.0, 30.0)  # to connect, to answer
_RETRIES = 3
_BACKOFF_S = 0.3
_DIAGNOSIS_LIMIT = 200


@dataclass(slots=True)
class FilterCounts:
    """How many items a search saw, and how many each filter removed, in the order in which they are applied."""

    seen: int = 0
    other_collection: int = 0
    excluded: int = 0
    outside_aoi: int = 0
    without_bands: int = 0
    outside_dates: int = 0
    too_cloudy: int = 0
    duplicates: int = 0
    kept: int = 0
    collections_seen: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """What was removed, in words."""
        removed = {
            "another collection": self.other_collection,
            "excluded by name": self.excluded,
            "outside the AOI": self.outside_aoi,
            "without the sensor's bands": self.without_bands,
            "outside the dates": self.outside_dates,
            "over the cloud limit": self.too_cloudy,
            "given twice": self.duplicates,
        }
        said = ", ".join(f"{count} {why}" for why, count in removed.items() if count)
        return f"{self.seen} seen, {self.kept} kept" + (f" ({said})" if said else "")

    def as_dict(self) -> dict[str, Any]:
        """For the query stored beside the items."""
        return asdict(self)


def find_items(
    aoi: BaseGeometry,
    *,
    catalog: str | Path,
    sensor: Sensor,
    collections: Sequence[str],
    start: np.datetime64,
    end: np.datetime64,
    max_cloud_percent: float | None = None,
    exclude: Sequence[str] = (),
) -> tuple[list[ItemRecord], FilterCounts]:
    """Items that touch an AOI within dates, both ends included.

    Args:
        aoi: In EPSG:4326.
        catalog: URL of a STAC API or of a static catalog, or the path of a static catalog.
        sensor: Whose bands the items must hold.
        collections: Collection ids; empty means all that the catalog has.
        start: First day.
        end: Last day.
        max_cloud_percent: Items that declare more cloud are left out; items that declare none are kept.
        exclude: Item ids to leave out.

    Returns:
        Items in order of time and id, and what each filter removed.

    Raises:
        CatalogError: If the catalog does not answer, or not with STAC.
        NoItemsError: If nothing passes; the message says which filter removed how many.
        ConfigError: If the dates are in the wrong order.
    """
    if end < start:
        raise ConfigError(f"The search ends ({end}) before it starts ({start}). Give the earlier date first.")
    counts = FilterCounts()
    source = _Source(catalog)
    raws = source.items(aoi, collections, start, end)
    items = _filter(raws, counts, aoi, sensor, collections, start, end, max_cloud_percent, exclude, source.is_url)
    counts.kept = len(items)
    if not items and source.is_api and counts.seen == 0:
        # The server dropped everything, so ask again with less, to be able to say why.
        raws = source.items(None, collections, None, None, limit=_DIAGNOSIS_LIMIT)
        _filter(raws, counts, aoi, sensor, collections, start, end, max_cloud_percent, exclude, source.is_url)
    if not items:
        raise NoItemsError(_nothing(catalog, counts, collections, start, end, max_cloud_percent))
    return items, counts


def _filter(
    raws: Iterable[dict[str, Any]],
    counts: FilterCounts,
    aoi: BaseGeometry,
    sensor: Sensor,
    collections: Sequence[str],
    start: np.datetime64,
    end: np.datetime64,
    max_cloud_percent: float | None,
    exclude: Sequence[str],
    remote: bool,
) -> list[ItemRecord]:
    found: dict[tuple[str, str], ItemRecord] = {}
    seen_collections: set[str] = set()
    for raw in raws:
        counts.seen += 1
        seen_collections.add(str(raw.get("collection")))
        if collections and raw.get("collection") not in collections:
            counts.other_collection += 1
        elif str(raw.get("id")) in exclude:  # before anything that a broken item could trip up
            counts.excluded += 1
        elif not _touches(raw, aoi):
            counts.outside_aoi += 1
        else:
            item = parse_item(raw, sensor, remote=remote)
            if item is None:
                counts.without_bands += 1
            elif not start <= solar_day(item) <= end:
                counts.outside_dates += 1
            elif max_cloud_percent is not None and (item.cloud_percent or 0) > max_cloud_percent:
                counts.too_cloudy += 1
            elif (item.collection, item.id) in found:
                counts.duplicates += 1
            else:
                found[item.collection, item.id] = item
    counts.collections_seen = sorted(seen_collections)
    return sorted(found.values(), key=lambda i: (i.time, i.id))


def _touches(raw: dict[str, Any], aoi: BaseGeometry) -> bool:
    geometry = raw.get("geometry")
    try:
        footprint = shapely.geometry.shape(geometry) if geometry else shapely.box(*raw["bbox"][:4])
        return bool(footprint.intersects(aoi) and not footprint.touches(aoi))
    except (shapely.errors.ShapelyError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise CatalogError(
            f"Item {str(raw.get('id'))[:80]} has a geometry that cannot be read. "
            "Ask the provider, or leave it out with --exclude."
        ) from None


def _nothing(
    catalog: str | Path,
    counts: FilterCounts,
    collections: Sequence[str],
    start: np.datetime64,
    end: np.datetime64,
    max_cloud_percent: float | None,
) -> str:
    asked = f"{np.datetime_as_string(start, 'D')} to {np.datetime_as_string(end, 'D')}"
    if max_cloud_percent is not None:
        asked += f", cloud at most {max_cloud_percent:g} %"
    if collections:
        asked += f", collections {', '.join(collections)}"
    if counts.seen == 0:
        return f"No items: {catalog} has none at all for {asked}. Check the collection id and the catalog."
    remedy = "Widen the filter that removed them"
    if counts.other_collection == counts.seen:
        remedy = f"The catalog's collections are {', '.join(counts.collections_seen)}"
    elif counts.outside_aoi == counts.seen - counts.other_collection - counts.excluded:
        remedy = "The AOI lies outside the data; check that its coordinates are longitude, latitude"
    return f"No items in {catalog} for {asked}: {counts.sentence()}. {remedy}."


def _network_io() -> StacApiIO:
    # A server that is busy is asked again; one that hangs only once more, since each time costs the whole time-out.
    retries = Retry(
        total=_RETRIES, read=1, backoff_factor=_BACKOFF_S, status_forcelist=(429, 502, 503, 504),
        allowed_methods=("GET", "POST"), raise_on_status=False,
    )  # fmt: skip
    return StacApiIO(timeout=_TIMEOUT_S, max_retries=retries)


class _TimedIO(DefaultStacIO):  # type: ignore[misc]
    """Files from disk as pystac reads them; what comes over the network with a time-out and retries."""

    def __init__(self, network: StacApiIO, *, remote: bool) -> None:
        super().__init__()
        self._network = network
        self._remote = remote

    def read_text_from_href(self, href: str) -> str:
        if _is_url(href):
            return str(self._network.read_text(href))
        if self._remote:
            raise CatalogError(f"The catalog links to {href[:80]!r}, a file of this machine. Ask the provider.")
        return str(super().read_text_from_href(href))


def _is_url(address: str) -> bool:
    return urlsplit(address).scheme in ("http", "https")


class _Source:
    """A catalog, by URL or path, that yields items as STAC JSON with absolute hrefs."""

    def __init__(self, catalog: str | Path) -> None:
        self.address = str(catalog)
        self.is_url = _is_url(self.address)
        self._client = self._open()

    @property
    def is_api(self) -> bool:
        return isinstance(self._client, Client) and bool(self._client.conforms_to("ITEM_SEARCH"))

    def _open(self) -> pystac.Catalog:
        if not self.is_url:
            path = Path(self.address)
            path = path / "catalog.json" if path.is_dir() else path
            if not path.is_file():
                raise CatalogError(f"There is no catalog at {path}. Give a STAC API's URL or a catalog.json.")
            self.address = path.resolve().as_posix()
        with self._speaking():
            io = _network_io()
            root = io.read_json(self.address)
            if root.get("conformsTo"):
                return Client.open(self.address, timeout=_TIMEOUT_S, stac_io=io)
            if root.get("type") not in ("Catalog", "Collection"):
                raise CatalogError(
                    f"{self.address} is JSON but no STAC catalog: its type is {root.get('type')!r}. "
                    "Give a STAC API's URL or a catalog.json."
                )
            return pystac.Catalog.from_file(self.address, stac_io=_TimedIO(io, remote=self.is_url))

    def items(
        self,
        aoi: BaseGeometry | None,
        collections: Sequence[str],
        start: np.datetime64 | None,
        end: np.datetime64 | None,
        limit: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        with self._speaking():
            if self.is_api:
                yield from self._search(aoi, collections, start, end, limit)
            else:
                for item in self._client.get_items(recursive=True):
                    yield item.make_asset_hrefs_absolute().to_dict(include_self_link=False, transform_hrefs=False)

    def _search(
        self,
        aoi: BaseGeometry | None,
        collections: Sequence[str],
        start: np.datetime64 | None,
        end: np.datetime64 | None,
        limit: int | None,
    ) -> Iterator[dict[str, Any]]:
        assert isinstance(self._client, Client)  # noqa: S101  for the type checker; is_api says so
        window = None
        if start is not None and end is not None:
            # A day more at both ends, because solar days are not UTC days; filtered again here.
            one_day = np.timedelta64(1, "D")
            window = "/".join(
                f"{np.datetime_as_string(day, 'D')}T{clock}Z"
                for day, clock in ((start - one_day, "00:00:00"), (end + one_day, "23:59:59"))
            )
        search = self._client.search(
            intersects=None if aoi is None else shapely.geometry.mapping(aoi),
            collections=list(collections) or None,
            datetime=window,
            max_items=limit,
        )
        for item in search.items_as_dicts():
            base = next((link["href"] for link in item.get("links", []) if link.get("rel") == "self"), self.address)
            for asset in item.get("assets", {}).values():
                if isinstance(asset, dict) and isinstance(asset.get("href"), str):
                    asset["href"] = pystac.utils.make_absolute_href(asset["href"], base)
            yield item

    def _speaking(self) -> _Translated:
        return _Translated(self.address)


class _Translated:
    """Turns what pystac and its transport raise into one sentence that names the catalog."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, json.JSONDecodeError):
            raise CatalogError(
                f"{self.address} did not answer with JSON. Is it a STAC API or a catalog.json?"
            ) from None
        if isinstance(error, Exception) and not isinstance(error, GeoelleError):  # pystac raises bare ones too
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise CatalogError(
                f"The catalog {self.address} does not answer as a STAC catalog should: {said}. "
                "Check the address and the network, and try again."
            ) from None
