"""One item for one piece of ground in one overpass: reprocessed granules replace older ones, split granules stay.

Two items are of one overpass and tile if they agree in (platform, datatake, tile). Of these the newest processing
baseline is kept, then the newest product, then the last id; an older one stays only where it shows ground that the
newer ones do not, as the two halves of a split granule do (ANCHORS E3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import shapely

from geoelle.catalog.footprints import footprint_of
from geoelle.provenance import canonical_json
from geoelle.records import ItemRecord

GROUND_OF_ITS_OWN = 0.05
"""Share of its area that an older item must show alone to be kept; footprints of one granule differ by less."""

type Rank = tuple[tuple[int, ...], int, str, str]

_BASELINE_OF_DATATAKE = re.compile(r"_N\d\d\.\d\d$")
_UNTILED_PRODUCT = re.compile(
    # Of Sentinel-1 a slice of a datatake, without what tells its processings apart; of Landsat path, row and date.
    r"^(S1[A-D]_[A-Z0-9]{2}_[A-Z0-9]{4}_[A-Z0-9]{4}_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6})(?=_|$)"
    r"|^(L[COTEM]0\d_L\d[A-Z]{2}_\d{6}_\d{8})(?=_)"
)
"""Names of products that lie on no tiles of MGRS; level 2 of Landsat is one product, whatever its category."""
_UNPROCESSED = np.iinfo(np.int64).min


def rank(item: ItemRecord) -> Rank:
    """Order of products of one overpass, the best last: baseline, time of processing, id, collection."""
    numbers = re.findall(r"\d+", item.processing_baseline or "")
    processed = (
        _UNPROCESSED if item.processed is None else int(item.processed.astype("datetime64[ns]").astype(np.int64))
    )
    return tuple(map(int, numbers)), processed, item.id, item.collection


def better(a: ItemRecord, b: ItemRecord) -> ItemRecord:
    """The better of two products, whichever comes first; of equal ones that differ in content, always the same."""
    if rank(a) != rank(b):
        return max(a, b, key=rank)
    return max(a, b, key=lambda item: canonical_json(_finite(item.raw)))


def overpass(item: ItemRecord) -> tuple[str, ...] | None:
    """What all products of one overpass over one tile share; None where the item does not say its tile.

    Sentinel-1 and Landsat have no such tiles: there it is the slice, or path, row and date, in the product's name.
    """
    platform = (item.platform or "").casefold()
    if item.mgrs_tile is None:
        product = _UNTILED_PRODUCT.match(item.id)
        return (platform, product.group()) if product else None
    if item.datatake is not None and item.time_kind == "instant":
        # The id of a Sentinel-2 datatake ends with the baseline that it was processed with.
        return platform, _BASELINE_OF_DATATAKE.sub("", item.datatake), item.mgrs_tile
    moments = [str(t.astype("datetime64[s]")) for t in (item.time, item.time_end) if t is not None]
    return platform, *moments, item.mgrs_tile


def latest(items: Iterable[ItemRecord]) -> tuple[list[ItemRecord], list[ItemRecord]]:
    """Items without those that a newer product of the same overpass and tile replaces.

    Args:
        items: In any order, each (collection, id) once.

    Returns:
        Those kept, by time and id, and those superseded, by id.
    """
    groups: dict[tuple[str, ...], list[ItemRecord]] = {}
    kept: list[ItemRecord] = []
    superseded: list[ItemRecord] = []
    for item in items:
        key = overpass(item)
        if key is None:
            kept.append(item)
        else:
            groups.setdefault(key, []).append(item)
    for group in groups.values():
        stays, goes = _newest_of(group)
        kept += stays
        superseded += goes
    return sorted(kept, key=lambda i: (i.time, i.id, i.collection)), sorted(
        superseded, key=lambda i: (i.id, i.collection)
    )


def _newest_of(group: Sequence[ItemRecord]) -> tuple[list[ItemRecord], list[ItemRecord]]:
    if len(group) == 1:
        return list(group), []
    stays: list[ItemRecord] = []
    goes: list[ItemRecord] = []
    shown = shapely.Polygon()
    for item in sorted(group, key=rank, reverse=True):
        ground = footprint_of(item)
        alone = shapely.difference(ground, shown)
        if not stays or shapely.area(alone) > GROUND_OF_ITS_OWN * shapely.area(ground):
            stays.append(item)
            shown = shapely.union(shown, ground)
        else:
            goes.append(item)
    return stays, goes


def _finite(value: object) -> object:
    """Content as text for comparison: JSON has no NaN."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return repr(value) if isinstance(value, float) else value
