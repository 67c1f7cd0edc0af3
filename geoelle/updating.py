"""What a cron job calls: look for new, late and reprocessed items since the last run, and do only their jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from shapely.errors import ShapelyError
from shapely.geometry import shape

from geoelle.catalog import read_items, records_from_frame, write_items
from geoelle.catalog.dedupe import latest, overpass
from geoelle.catalog.scenes import solar_day
from geoelle.days import as_day
from geoelle.embedding import embed
from geoelle.errors import CatalogError, NoItemsError, NotFoundError, SchemaError, StoreError
from geoelle.jobs import item_identity
from geoelle.records import EmbedSummary, ItemRecord
from geoelle.running import Progress, no_progress
from geoelle.searching import search
from geoelle.store.layout import is_stored, open_store
from geoelle.store.zones import zone_paths

_SEARCHED = (
    "collections", "sensor", "bands", "max_cloud_percent", "months", "relative_orbits", "platforms",
    "min_aoi_coverage_fraction", "exclude", "fallback",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UpdateSummary:
    """What an update found, and what it did about it."""

    new: tuple[str, ...]
    """Ids of items of days after all that the store held."""
    late: tuple[str, ...]
    """Ids of items of earlier days that were not there before."""
    reprocessed: tuple[str, ...]
    """Ids of items that changed, or that took the place of an older processing."""
    embedding: EmbedSummary

    @property
    def nothing_new(self) -> bool:
        """Whether the catalog has nothing that the store lacks, and nothing was left to do."""
        return not (self.new or self.late or self.reprocessed or self.embedding.n_done or self.embedding.n_failed)


def update(
    store: str | Path,
    *,
    items: str | Path,
    end: date | str | None = None,
    catalog: str | Path | None = None,
    weights: str | Path | None = None,
    accept_license: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = no_progress,
) -> UpdateSummary:
    """Search again as the items were searched, up to a later day, and embed what that brings into the same store.

    Everything else is as the store was made: area, grid, encoder, filters. Items that the catalog no longer has stay,
    unless a newer processing took their place. A second call with nothing new writes nothing to the store.

    Args:
        store: Made by `embed`.
        items: The file written by `search` that it was made from; replaced by the longer list.
        end: Last day to look for; by default today, UTC.
        catalog: Where to look instead of where the items were found.
        weights: File or folder of the encoder's checkpoint, the same as before; None: where geoelle keeps it.
        accept_license: Whether you accept the licence of non-commercial weights.
        workers: Processes of the local Dask cluster.
        scheduler: Address of a Dask scheduler to use instead.
        progress: Told how many jobs are done.

    Raises:
        NotFoundError: If there is no store or no items file.
        CatalogError: If the catalog does not answer, or has nothing at all any more; then nothing is changed.
        StoreError, WeightsError: As `embed` does.
    """
    attrs = _made_of(store)
    known, query = read_items(items)
    _check_query(query, items)
    before = str(query.get("end", query["start"]))
    today = str(datetime.now(UTC).date())
    last = max(today, before) if end is None else str(np.datetime_as_string(as_day(end), "D"))
    found = _search_again(query, catalog, last)
    merged, superseded = latest([*_not_found_again(known, found), *found])
    summary = _compare(known, merged, superseded)
    # Before the jobs: should these not come to an end, the next call finds them due.
    write_items(merged, items, {**query, "end": max(last, before)})
    run: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "progress": progress}
    embedding = _embed(store, items, attrs, {"weights": weights, "accept_license": accept_license, **run})
    return UpdateSummary(*summary, EmbedSummary(**embedding.attrs["geoelle:summary"]))


def _made_of(store: str | Path) -> dict[str, Any]:
    """Attributes of a zone that is there: a run that was killed may have named others and not made them."""
    made = [place for place in zone_paths(store).values() if is_stored(place)]
    if not made:
        raise NotFoundError(f"No zone of {store} was made yet. Run `geoelle embed` again.")
    attrs = dict(open_store(made[0], "embeddings").attrs)
    if "cloud_mask" not in attrs.get("geoelle:config", {}):
        raise StoreError(f"{store} was made by an older geoelle, which did not record its options. Make it again.")
    return attrs


def _check_query(query: Any, items: str | Path) -> None:
    asked = query if isinstance(query, Mapping) else {}
    kinds = {"aoi": Mapping, "catalog": str, "start": str}
    lacking = [name for name, kind in kinds.items() if not isinstance(asked.get(name), kind)]
    if lacking:
        raise CatalogError(
            f"{items} does not say what was searched for (no {', '.join(lacking)}). Make it with `geoelle search`."
        )


def _search_again(query: Mapping[str, Any], catalog: str | Path | None, end: str) -> list[ItemRecord]:
    try:
        aoi = shape(query["aoi"])
    except (ShapelyError, LookupError, TypeError, ValueError, AttributeError):
        raise CatalogError("The items file holds an AOI that is no geometry. Make it with `geoelle search`.") from None
    where = query["catalog"] if catalog is None else catalog
    options = {name: query[name] for name in _SEARCHED if query.get(name) is not None}
    try:
        frame = search(aoi, catalog=where, start=query["start"], end=end, **options)
    except NoItemsError as error:
        raise CatalogError(f"{error} The store holds items from there, so nothing was changed.") from None
    return records_from_frame(frame)


def _not_found_again(known: Sequence[ItemRecord], found: Sequence[ItemRecord]) -> list[ItemRecord]:
    there = {(item.collection, item.id) for item in found}
    return [item for item in known if (item.collection, item.id) not in there]


def _compare(
    known: Sequence[ItemRecord], merged: Sequence[ItemRecord], superseded: Sequence[ItemRecord]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Ids of new, late and reprocessed items."""
    before = {(i.collection, i.id): item_identity(i) for i in known}
    replaced = {overpass(i) for i in superseded if (i.collection, i.id) in before}
    last_day = max((solar_day(item) for item in known), default=np.datetime64(0, "ns"))
    new, late, reprocessed = [], [], []
    for item in merged:
        was = before.get((item.collection, item.id))
        if was is not None:
            if was != item_identity(item):
                reprocessed.append(item.id)
        elif overpass(item) in replaced:
            reprocessed.append(item.id)
        elif solar_day(item) > last_day:
            new.append(item.id)
        else:
            late.append(item.id)
    return tuple(new), tuple(late), tuple(reprocessed)


def _embed(store: str | Path, items: str | Path, attrs: dict[str, Any], run: dict[str, Any]) -> Any:
    try:
        area = gpd.GeoDataFrame.from_features(attrs["geoelle:aoi"]["features"], crs=4326)
        grid, config, encoder = (dict(attrs[f"geoelle:{name}"]) for name in ("grid", "config", "encoder"))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SchemaError(f"{store} does not say what it was made of ({type(error).__name__}: {error}).") from None
    options = ("max_invalid_fraction", "max_cloud_fraction", "min_contrast", "cloud_mask", "dtype")
    try:
        lattice = {name: grid[name] for name in ("chip_size_m", "stride_m", "tile_chips")}
        chosen = {name: config[name] for name in options}
        chosen |= {name: config[name] for name in ("device", "precision") if name in config}
        chosen |= {name: encoder[name] for name in ("pooling", "layer") if name in encoder}
        name = str(encoder["name"])
    except KeyError as error:
        raise StoreError(f"{store} does not say its {error.args[0]}. Make the store again.") from None
    return embed(items, out=store, aoi=area, encoder=name, **lattice, **chosen, **run)
