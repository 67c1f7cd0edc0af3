"""Filters over items, each counted: what was seen is always what was kept plus what each filter removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from geoelle.catalog.coverage import covered_fractions
from geoelle.catalog.dedupe import better, latest
from geoelle.catalog.footprints import footprint
from geoelle.catalog.parsing import parse_item
from geoelle.catalog.providers import Provider
from geoelle.catalog.scenes import solar_day
from geoelle.errors import ConfigError
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

_NAMED = 3
_COVERED = 1e-9
"""Rounding of areas may not cost a scene that covers all."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which items a search wants. Days are solar days, both ends included."""

    aoi: BaseGeometry
    """In EPSG:4326; cut at 180 where it crosses the antimeridian."""
    start: np.datetime64
    end: np.datetime64
    bands: tuple[str, ...] = ()
    """Names of bands; items that lack one are left out."""
    max_cloud_percent: float | None = None
    """Items that declare more are left out; items that declare none are kept."""
    months: tuple[int, ...] = ()
    """Months of year, 1 to 12; empty means all."""
    relative_orbits: tuple[int, ...] = ()
    """Empty means all; otherwise items that do not say theirs are left out."""
    platforms: tuple[str, ...] = ()
    """As `sentinel-2a`, in upper or lower case, with - or _; as for orbits."""
    min_aoi_coverage_fraction: float = 0.0
    """Solar days whose items together cover less of the AOI are left out."""
    exclude: tuple[str, ...] = ()
    """Item ids."""

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ConfigError(f"The search ends ({self.end}) before it starts ({self.start}). Give the earlier first.")
        if self.max_cloud_percent is not None and not math.isfinite(self.max_cloud_percent):
            raise ConfigError(f"max_cloud_percent is {self.max_cloud_percent}. Expected a number from 0 to 100.")
        if any(not isinstance(m, int) or isinstance(m, bool) or not 1 <= m <= 12 for m in self.months):
            raise ConfigError(f"months is {list(self.months)}. Expected numbers from 1 (January) to 12.")
        if any(not isinstance(o, int) or isinstance(o, bool) for o in self.relative_orbits):
            raise ConfigError(f"relative_orbits is {list(self.relative_orbits)}. Expected whole numbers.")
        if not 0 <= self.min_aoi_coverage_fraction <= 1:
            raise ConfigError(
                f"min_aoi_coverage_fraction is {self.min_aoi_coverage_fraction}. Expected a share from 0 to 1."
            )

    def in_words(self) -> str:
        """What is asked for, beside the area."""
        said = [f"{np.datetime_as_string(self.start, 'D')} to {np.datetime_as_string(self.end, 'D')}"]
        if self.bands:
            said.append(f"bands {', '.join(self.bands)}")
        if self.months:
            said.append(f"months {', '.join(map(str, sorted(self.months)))}")
        if self.max_cloud_percent is not None:
            said.append(f"cloud at most {self.max_cloud_percent:g} %")
        if self.relative_orbits:
            said.append(f"relative orbit {' or '.join(map(str, self.relative_orbits))}")
        if self.platforms:
            said.append(f"platform {' or '.join(self.platforms)}")
        if self.min_aoi_coverage_fraction:
            said.append(f"at least {self.min_aoi_coverage_fraction:.0%} of the AOI covered")
        return ", ".join(said)


_REASONS = {
    "other_collection": "another collection",
    "excluded": "excluded by name",
    "outside_aoi": "outside the AOI",
    "without_bands": "without the sensor's bands",
    "without_asked_bands": "without a band asked for",
    "outside_dates": "outside the dates",
    "outside_months": "outside the months",
    "too_cloudy": "over the cloud limit",
    "without_relative_orbit": "without a relative orbit",
    "other_relative_orbit": "of another relative orbit",
    "without_platform": "without a platform",
    "other_platform": "of another platform",
    "duplicates": "given twice",
    "superseded": "superseded by newer products",
    "too_little_covered": "of days that cover too little of the AOI",
}


@dataclass(slots=True)
class FilterCounts:
    """How many items a search saw, and how many each filter removed here, in the order in which they are applied.

    What an endpoint was asked to leave out (`asked_of_server`) was never seen, and is in no count.
    """

    seen: int = 0
    other_collection: int = 0
    excluded: int = 0
    outside_aoi: int = 0
    without_bands: int = 0
    without_asked_bands: int = 0
    outside_dates: int = 0
    outside_months: int = 0
    too_cloudy: int = 0
    without_relative_orbit: int = 0
    other_relative_orbit: int = 0
    without_platform: int = 0
    other_platform: int = 0
    duplicates: int = 0
    superseded: int = 0
    too_little_covered: int = 0
    kept: int = 0
    collections_seen: list[str] = field(default_factory=list)
    superseded_ids: list[str] = field(default_factory=list)
    asked_of_server: list[str] = field(default_factory=list)
    """Filters that the endpoint was asked to apply: area, dates, cloud, relative orbit, platform."""
    endpoint: str = ""
    """The endpoint that answered."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """Endpoints asked before it, and why each did not answer."""

    @property
    def removed(self) -> int:
        """Items that any filter removed."""
        return sum(getattr(self, name) for name in _REASONS)

    def sentence(self) -> str:
        """What was removed, in words."""
        said = [f"{count} {why}" for name, why in _REASONS.items() if (count := getattr(self, name))]
        text = f"{self.seen} seen, {self.kept} kept" + (f" ({', '.join(said)})" if said else "")
        if self.superseded_ids:
            more = len(self.superseded_ids) - _NAMED
            text += f"; superseded: {', '.join(self.superseded_ids[:_NAMED])}" + (f" and {more} more" * (more > 0))
        if self.asked_of_server:
            text += f"; already filtered by the endpoint: {', '.join(self.asked_of_server)}"
        for address, why in self.unanswered.items():
            text += f"; {address} did not answer ({why}), so {self.endpoint} was asked"
        return text

    def as_dict(self) -> dict[str, Any]:
        """For the query stored beside the items."""
        return asdict(self)


class Sieve:
    """Takes a catalog's items one by one and keeps those that pass; it holds no others."""

    def __init__(
        self, filters: Filters, sensor: Sensor, collections: tuple[str, ...], provider: Provider | None, *, remote: bool
    ) -> None:
        self.counts = FilterCounts()
        self._filters = filters
        self._sensor = sensor
        self._collections = frozenset(collections)
        self._provider = provider
        self._remote = remote
        self._months = frozenset(filters.months)
        self._platforms = frozenset(_platform(p) for p in filters.platforms)
        self._exclude = frozenset(filters.exclude)
        self._found: dict[tuple[str, str], ItemRecord] = {}
        self._seen_collections: set[str] = set()
        shapely.prepare(filters.aoi)

    def take(self, raw: Mapping[str, Any]) -> None:
        """Look at one item.

        Raises:
            CatalogError: If it is broken, and no filter before had removed it.
        """
        self.counts.seen += 1
        self._seen_collections.add(str(raw.get("collection")))
        reason = self._reason(raw)
        if reason is None:
            item = parse_item(raw, self._sensor, provider=self._provider, remote=self._remote)
            reason = "without_bands" if item is None else self._reason_of(item)
            if item is not None and reason is None:
                key = (item.collection, item.id)
                if key in self._found:
                    item, reason = better(item, self._found[key]), "duplicates"
                self._found[key] = item
        if reason is not None:
            setattr(self.counts, reason, getattr(self.counts, reason) + 1)

    def result(self) -> list[ItemRecord]:
        """The items that pass, by time and id; `counts` is complete after this."""
        kept, superseded = latest(self._found.values())
        least = self._filters.min_aoi_coverage_fraction
        if least > 0:
            covered = covered_fractions(kept, self._filters.aoi)
            enough = [item for item in kept if covered[solar_day(item)] >= least - _COVERED]
            self.counts.too_little_covered = len(kept) - len(enough)
            kept = enough
        self.counts.superseded = len(superseded)
        self.counts.superseded_ids = [item.id for item in superseded]
        self.counts.collections_seen = sorted(self._seen_collections)
        self.counts.kept = len(kept)
        return kept

    def _reason(self, raw: Mapping[str, Any]) -> str | None:
        """Why an item falls before it is parsed."""
        if self._collections and raw.get("collection") not in self._collections:
            return "other_collection"
        if str(raw.get("id")) in self._exclude:  # before anything that a broken item could trip up
            return "excluded"
        ground, aoi = footprint(raw), self._filters.aoi
        return None if aoi.intersects(ground) and not aoi.touches(ground) else "outside_aoi"

    def _reason_of(self, item: ItemRecord) -> str | None:
        wanted = self._filters
        day = solar_day(item)
        if not item.assets.keys() >= set(wanted.bands):
            return "without_asked_bands"
        if not wanted.start <= day <= wanted.end:
            return "outside_dates"
        if self._months and int(day.astype("datetime64[M]").astype(int)) % 12 + 1 not in self._months:
            return "outside_months"
        if wanted.max_cloud_percent is not None and (item.cloud_percent or 0) > wanted.max_cloud_percent:
            return "too_cloudy"
        if wanted.relative_orbits and item.relative_orbit not in wanted.relative_orbits:
            return "without_relative_orbit" if item.relative_orbit is None else "other_relative_orbit"
        if self._platforms and _platform(item.platform or "") not in self._platforms:
            return "without_platform" if item.platform is None else "other_platform"
        return None


def _platform(name: str) -> str:
    """One spelling of a platform: USGS writes LANDSAT_8, others landsat-8."""
    return name.casefold().replace("_", "-")
