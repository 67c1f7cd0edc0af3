"""What a server can be asked to filter, in the words of its extension; every filter is applied again here.

A server may only be asked for what loses no item that would be kept here. An item may lack a property and still be kept
(without a cloud figure) or tell it otherwise (its orbit, in the product's name). CQL2 can say so; the `query` extension
cannot, and so is used only with providers known to give the property always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoelle.catalog.providers import DEFAULT_PROPERTIES, Provider, ServerFilter, Word
from geoelle.sensors import Sensor

type Cql2 = dict[str, Any]

type Windows = tuple[tuple[np.datetime64, np.datetime64], ...]
"""First and last days, datetime64[ns]."""

_MOST_VERTICES = 500
_ONE_DAY, _ONE_MONTH = np.timedelta64(1, "D"), np.timedelta64(1, "M")


@dataclass(frozen=True, slots=True)
class Asked:
    """Filters in a server's words."""

    query: dict[str, Any] | None = None
    filter: Cql2 | None = None
    names: tuple[str, ...] = ()
    """Of the filters that are in it: `cloud`, `relative orbit`, `platform`."""


NOTHING_ASKED = Asked()


@dataclass(frozen=True, slots=True)
class Question:
    """What a source is asked for. It may answer with more, never with less."""

    aoi: BaseGeometry | None = None
    collections: tuple[str, ...] = ()
    windows: Windows | None = None
    asked: Asked = NOTHING_ASKED
    limit: int | None = None


def ask(
    kind: ServerFilter | None,
    provider: Provider | None,
    sensor: Sensor,
    *,
    max_cloud_percent: float | None,
    relative_orbits: Sequence[int],
    platforms: Sequence[str],
) -> Asked:
    """The filters that a server can apply, in CQL2 or `query`.

    Args:
        kind: The extension that the server has.
        provider: Whose property names to use; STAC's own for None.
        sensor: Whose items are asked for.
        max_cloud_percent: As in `Filters`.
        relative_orbits: As in `Filters`.
        platforms: As in `Filters`.
    """
    orbits, spellings = sorted(relative_orbits), _spellings(platforms)
    wanted: dict[str, tuple[Word, Any]] = {}
    if max_cloud_percent is not None and sensor.quality is not None:
        wanted["cloud"] = ("cloud_percent", max_cloud_percent)
    if orbits:
        wanted["relative orbit"] = ("relative_orbit", orbits)
    if spellings:
        wanted["platform"] = ("platform", spellings)
    words = {name: (_names(provider, word, sensor), value) for name, (word, value) in wanted.items()}
    words = {name: (properties, value) for name, (properties, value) in words.items() if properties}
    if not words or kind is None or (kind == "query" and provider is None):
        return NOTHING_ASKED
    if kind == "query":
        query = {
            properties[0]: {"in" if isinstance(value, list) else "lte": value} for properties, value in words.values()
        }
        return Asked(query=query, names=tuple(words))
    args = [
        _any_of(properties, value) if isinstance(value, list) else _at_most(properties, value)
        for properties, value in words.values()
    ]
    return Asked(filter=args[0] if len(args) == 1 else {"op": "and", "args": args}, names=tuple(words))


def windows_of(start: np.datetime64, end: np.datetime64, months: Sequence[int]) -> Windows:
    """The stretches of days from `start` to `end` that lie in the months of year given; all, if none is."""
    if not months:
        return ((start, end),)
    wanted = set(months)
    found: list[tuple[np.datetime64, np.datetime64]] = []
    month = start.astype("datetime64[M]")
    while month <= end.astype("datetime64[M]"):
        if int(month.astype(int)) % 12 + 1 in wanted:
            first = max(np.datetime64(month, "ns"), start)
            last = min(np.datetime64(month + _ONE_MONTH, "ns") - _ONE_DAY, end)
            if found and found[-1][1] + _ONE_DAY == first:
                found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
        month = month + _ONE_MONTH
    return tuple(found)


def simpler(aoi: BaseGeometry) -> BaseGeometry:
    """An area that holds the AOI and has few enough vertices for a server; what is asked too much is dropped here."""
    if shapely.get_num_coordinates(aoi) <= _MOST_VERTICES:
        return aoi
    world = shapely.box(-180, -90, 180, 90)
    tolerance = 1e-3
    while True:
        coarse = shapely.simplify(aoi, tolerance).buffer(2 * tolerance, quad_segs=1, join_style="mitre")
        coarse = shapely.intersection(coarse, world)
        if shapely.get_num_coordinates(coarse) <= _MOST_VERTICES:
            return coarse if coarse.covers(aoi) else shapely.box(*aoi.bounds)
        tolerance *= 4


def _names(provider: Provider | None, word: Word, sensor: Sensor) -> tuple[str, ...]:
    names = DEFAULT_PROPERTIES[word] if provider is None else provider.property_names(word)
    if sensor.name.startswith("sentinel-"):  # Landsat's words come in a list for all of a provider's collections
        names = tuple(name for name in names if not name.startswith("landsat:"))
    return tuple(names)


def _at_most(names: Sequence[str], limit: float) -> Cql2:
    """At most the limit, or not said; the first of the properties that an item has is the one that counts."""
    name, *more = names
    missing: Cql2 = {"op": "isNull", "args": [{"property": name}]}
    otherwise = {"op": "and", "args": [missing, _at_most(more, limit)]} if more else missing
    return {"op": "or", "args": [{"op": "<=", "args": [{"property": name}, limit]}, otherwise]}


def _any_of(names: Sequence[str], values: Sequence[int | str]) -> Cql2:
    """One of the values, or not said. "=" and "or" are in basic CQL2; "in" is not."""
    missing = [{"op": "isNull", "args": [{"property": name}]} for name in names]
    unsaid = missing[0] if len(missing) == 1 else {"op": "and", "args": missing}
    equal = [{"op": "=", "args": [{"property": name}, value]} for name in names for value in values]
    return {"op": "or", "args": [*equal, unsaid]}


def _spellings(platforms: Sequence[str]) -> list[str]:
    """As providers write one platform: Sentinel-2A, sentinel-2a, SENTINEL-2A; LANDSAT_8 where it has an underscore."""
    joined = {
        q for p in platforms for q in (p, p.replace("_", "-"), *((p.replace("-", "_"),) * ("landsat" in p.lower())))
    }
    return sorted({spelt for p in joined for spelt in (p, p.lower(), p.upper(), p.title())})
