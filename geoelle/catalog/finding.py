"""Search: ask an endpoint, filter what it gives, turn to the next where it does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geoelle.catalog import transport
from geoelle.catalog.asking import NOTHING_ASKED, Question, ask, windows_of
from geoelle.catalog.filters import FilterCounts, Filters, Sieve
from geoelle.catalog.providers import Provider, get_provider
from geoelle.catalog.sources import Source, open_source
from geoelle.catalog.transport import Patience, PatientIO, UnansweredError, is_url, unsigned
from geoelle.errors import CatalogError, ConfigError, NoItemsError
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

_DIAGNOSIS_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and for what."""

    name: str
    """As an error or a count calls it."""
    address: str
    provider: Provider | None
    collections: tuple[str, ...]


def find_items(
    filters: Filters,
    *,
    catalog: str | Path,
    sensor: Sensor,
    collections: Sequence[str] = (),
    fallback: str | Path | None = None,
    patience: Patience | None = None,
) -> tuple[list[ItemRecord], FilterCounts]:
    """Items that pass the filters.

    The filters that look at one item come first, then duplicates and reprocessed products, then the share of the AOI
    covered: so the answer does not depend on what the server can filter, nor on the order of its items.

    Args:
        filters: Which items.
        catalog: Name of a provider or its YAML file, URL of a STAC API, or URL or path of a static catalog or a
            stac-geoparquet file.
        sensor: Whose bands the items must hold.
        collections: Collection ids; empty means the provider's for the sensor, or all that an unknown catalog has.
        fallback: As `catalog`: asked if that does not answer; by default the provider's own, if it names one.
        patience: Time-outs and retries.

    Returns:
        Items by time and id, and what each filter removed.

    Raises:
        CatalogError: If the catalog does not answer, or not with STAC.
        NoItemsError: If nothing passes; the message says which filter removed how many.
        ConfigError: If a provider has no collection of the sensor.
    """
    first = _endpoint(catalog, sensor, tuple(collections))
    endpoints = [first, *_fallbacks(first, fallback, sensor)]
    unanswered: dict[str, str] = {}
    for endpoint in endpoints:
        try:
            items, counts = _find_at(endpoint, filters, sensor, patience or transport.PATIENCE)
        except UnansweredError as error:
            if len(endpoints) == 1:
                raise
            unanswered[endpoint.name] = error.why
            continue
        counts.unanswered = unanswered
        if not items:
            raise NoItemsError(_nothing(endpoint, counts, filters))
        return items, counts
    said = "; ".join(f"{name}: {why}" for name, why in unanswered.items())
    raise CatalogError(f"No endpoint answers ({said}). Check the addresses and the network, and try again later.")


def _endpoint(catalog: str | Path, sensor: Sensor, collections: tuple[str, ...]) -> Endpoint:
    provider = get_provider(catalog)
    if provider is None:
        return Endpoint(unsigned(str(catalog)), str(catalog), None, collections)
    known = provider.collections_of(sensor)
    if not collections and not known:
        raise ConfigError(
            f"{provider.name} has no {sensor.name}; it has {', '.join(sorted(provider.collections)) or 'no sensor'}. "
            "Name its collections, or another catalog."
        )
    address = str(catalog) if is_url(catalog) else provider.url  # a file at a provider's is asked for itself
    return Endpoint(provider.name, address, provider, collections or known)


def _fallbacks(first: Endpoint, fallback: str | Path | None, sensor: Sensor) -> list[Endpoint]:
    address = fallback if fallback is not None else first.provider.fallback if first.provider is not None else None
    if address is None:
        return []
    second = get_provider(address)
    of_sensor = () if first.provider is None else first.provider.collections_of(sensor)
    # The second endpoint has names of its own for the same collection.
    if second is not None and second.collections_of(sensor) and set(first.collections) <= set(of_sensor):
        return [_endpoint(address, sensor, ())]
    return [_endpoint(address, sensor, first.collections)]


def _find_at(
    endpoint: Endpoint, filters: Filters, sensor: Sensor, patience: Patience
) -> tuple[list[ItemRecord], FilterCounts]:
    source = open_source(endpoint.address, endpoint.provider, PatientIO(patience, endpoint.address))
    asked = ask(
        source.server_filters,
        endpoint.provider,
        sensor,
        max_cloud_percent=filters.max_cloud_percent,
        relative_orbits=filters.relative_orbits,
        platforms=filters.platforms,
    )
    windows = windows_of(filters.start, filters.end, filters.months)
    question = Question(filters.aoi, endpoint.collections, windows, asked)
    items, counts = _sift(source, question, endpoint, filters, sensor)
    if not items and (asked.names or (counts.seen == 0 and counts.asked_of_server)):
        counts = _diagnosed(source, question, endpoint, filters, sensor, counts)
        if counts.kept:  # the server's filters drop what ours would keep
            return _sift(source, replace(question, asked=NOTHING_ASKED), endpoint, filters, sensor)
    return items, counts


def _sift(
    source: Source, question: Question, endpoint: Endpoint, filters: Filters, sensor: Sensor
) -> tuple[list[ItemRecord], FilterCounts]:
    sieve = Sieve(filters, sensor, endpoint.collections, endpoint.provider, remote=source.remote)
    for raw in source.items(question):
        sieve.take(raw)
    items = sieve.result()
    sieve.counts.asked_of_server = list(source.asked)
    sieve.counts.endpoint = endpoint.name
    return items, sieve.counts


def _diagnosed(
    source: Source, question: Question, endpoint: Endpoint, filters: Filters, sensor: Sensor, counts: FilterCounts
) -> FilterCounts:
    """The source dropped everything, so it is asked for less and less, to be able to say which filter did it."""
    question = replace(question, asked=NOTHING_ASKED, limit=_DIAGNOSIS_LIMIT)
    for less in (question, replace(question, windows=None), replace(question, windows=None, aoi=None)):
        try:
            _, found = _sift(source, less, endpoint, filters, sensor)
        except UnansweredError:  # it has answered, with nothing; that stands
            return counts
        if found.seen > counts.seen:
            return found
    return counts


def _nothing(endpoint: Endpoint, counts: FilterCounts, filters: Filters) -> str:
    asked = filters.in_words()
    if endpoint.collections:
        asked += f", collections {', '.join(endpoint.collections)}"
    if counts.seen == 0:
        return f"No items: {endpoint.name} has none at all for {asked}. Check the collection id and the catalog."
    remedy = "Widen the filter that removed them"
    if counts.other_collection == counts.seen:
        remedy = f"The catalog's collections are {', '.join(counts.collections_seen)}"
    elif 0 < counts.outside_aoi == counts.seen - counts.other_collection - counts.excluded:
        remedy = "The AOI lies outside the data; check that its coordinates are longitude, latitude"
    return f"No items in {endpoint.name} for {asked}: {counts.sentence()}. {remedy}."
