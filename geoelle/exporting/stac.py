"""The STAC catalog of the outputs: self-contained, one collection per kind of store, one item per date and zone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pystac
from pystac.errors import STACError, STACTypeError
from shapely.geometry import mapping

from geoelle.errors import AlreadyExistsError, StoreError
from geoelle.exporting.footprints import bounds_of, centre_longitude, extent_footprint
from geoelle.exporting.lineage import Lineage
from geoelle.grid import GridExtent
from geoelle.schema import LOSS_NAMES
from geoelle.store.atomic import replacing
from geoelle.store.location import Location

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET_TYPE = "application/vnd.apache.parquet"
ZARR_TYPE = "application/vnd+zarr"
_CATALOG_ID = "geoelle"
_TITLES = {
    "embeddings": "Embeddings of image chips by a frozen encoder",
    "difficulty": "Difficulty: predicted loss of each chip",
    "delta": "Delta-ELLE: difficulty against what is normal at each place",
}
_COPERNICUS_TERMS = "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice"


@dataclass(frozen=True, slots=True)
class AssetFacts:
    """One file, or the store, of an item."""

    key: str
    place: Location
    media_type: str
    roles: tuple[str, ...]
    title: str
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OutputDate:
    """One date of one zone of one store, exported."""

    kind: str
    day: str
    extent: GridExtent
    lineage: Lineage
    assets: tuple[AssetFacts, ...]

    @property
    def item_id(self) -> str:
        """`<kind>-<epsg>-<date>`."""
        return item_id(self.kind, self.extent, self.day)


def item_id(kind: str, extent: GridExtent, day: str) -> str:
    """Id of an item, and the name of its folder."""
    return f"{kind}-{extent.grid.epsg}-{day}"


def item_path(out: Path, kind: str, name: str) -> Path:
    """Where an item's JSON lies; its files lie beside it."""
    return out / kind / name / f"{name}.json"


def check_catalog_place(out: Path) -> None:
    """Refuse a folder that holds somebody else's catalog.

    Raises:
        AlreadyExistsError: If there is one.
    """
    path = out / "catalog.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("id") if path.exists() else _CATALOG_ID
    except (OSError, ValueError, AttributeError):
        found = None
    if found != _CATALOG_ID:
        raise AlreadyExistsError(f"{path} is not a catalog that geoelle wrote. Give another --out.")


def check_item_place(path: Path, grid: Mapping[str, Any]) -> None:
    """Refuse to replace an item that was exported from a store on another grid.

    Raises:
        AlreadyExistsError: If one is there.
        StoreError: If what is there is no STAC item.
    """
    if not path.is_file():
        return
    found = _read_item(path).properties.get("geoelle:grid")
    if found != dict(grid):
        raise AlreadyExistsError(f"{path} was exported from a store of another area or grid. Give another --out.")


def forget_item(path: Path) -> None:
    """Remove the item of a date that holds nothing any more, and its folder unless something else lies there."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def write_catalog(out: Path, dates: Sequence[OutputDate]) -> Path:
    """Write the items of `dates`, and collections and catalog over these and the items that are there already.

    Returns:
        Path of `catalog.json`.

    Raises:
        StoreError: If an item that is there cannot be read.
    """
    root = out.resolve()
    for date in dates:
        item = _item(date, item_path(root, date.kind, date.item_id))
        _write_json(Path(item.self_href), item.to_dict(include_self_link=False, transform_hrefs=False))
    catalog = pystac.Catalog(
        _CATALOG_ID, "Outputs of geoelle: embeddings, difficulty and its change.", title="geoelle",
        catalog_type=pystac.CatalogType.SELF_CONTAINED, href=str(root / "catalog.json"),
    )  # fmt: skip
    documents: dict[Path, dict[str, Any]] = {}
    for kind in _TITLES:
        items = [_read_item(p) for p in sorted((root / kind).glob("*/*.json"))]
        if items:
            collection = _collection(kind, items, root / kind / "collection.json")
            catalog.add_child(collection, set_parent=True)
            documents[Path(collection.self_href)] = _collection_document(collection, items)
        else:
            (root / kind / "collection.json").unlink(missing_ok=True)
    for path, document in documents.items():
        _write_json(path, document)
    _write_json(root / "catalog.json", catalog.to_dict(include_self_link=False))
    return root / "catalog.json"


def _item(date: OutputDate, path: Path) -> pystac.Item:
    footprint = extent_footprint(date.extent)
    height, width = date.extent.shape
    t = date.extent.transform
    start, end = _solar_day(date.day, centre_longitude(date.extent))
    item = pystac.Item(
        date.item_id,
        geometry=json.loads(json.dumps(mapping(footprint))),  # tuples become lists
        bbox=list(bounds_of(footprint)),
        datetime=None,
        start_datetime=start,
        end_datetime=end,
        stac_extensions=[PROJECTION, PROCESSING, *([RASTER] if any("bands" in a.extra for a in date.assets) else [])],
        properties={
            "title": f"{date.kind.capitalize()}, {date.day}, EPSG:{date.extent.grid.epsg}",
            "proj:code": f"EPSG:{date.extent.grid.epsg}",
            "proj:shape": [height, width],
            "proj:transform": [t.a, t.b, t.c, t.d, t.e, t.f],
            "proj:bbox": [t.c, t.f + t.e * height, t.c + t.a * width, t.f],
            **date.lineage.properties,
        },
        collection=date.kind,
    )
    item.set_self_href(str(path))
    for asset in date.assets:
        href = _href(asset.place, path.parent)
        item.add_asset(
            asset.key,
            pystac.Asset(
                href, title=asset.title, media_type=asset.media_type, roles=list(asset.roles),
                extra_fields=dict(asset.extra),
            ),
        )  # fmt: skip
    for rel, target, kind in (
        ("root", "../../catalog.json", pystac.MediaType.JSON),
        ("parent", "../collection.json", pystac.MediaType.JSON),
        ("collection", "../collection.json", pystac.MediaType.JSON),
    ):
        item.add_link(pystac.Link(rel, target, media_type=kind))
    for source in date.lineage.self_hrefs.values():
        item.add_link(pystac.Link("derived_from", source, media_type=pystac.MediaType.GEOJSON))
    return item


def _collection(kind: str, items: Sequence[pystac.Item], path: Path) -> pystac.Collection:
    newest = max(items, key=lambda i: i.id)
    attribution = str(newest.properties.get("geoelle:attribution") or "")
    software = newest.properties.get("processing:software") or {}
    losses = sorted({str(i.properties.get("geoelle:loss_kind") or "unknown") for i in items})
    starts = [i.common_metadata.start_datetime for i in items]
    ends = [i.common_metadata.end_datetime for i in items]
    collection = pystac.Collection(
        kind,
        f"{_TITLES[kind]}. {_said_of_losses(losses)}{attribution}".strip(),
        pystac.Extent(
            pystac.SpatialExtent([_enclosing([list(i.bbox or ()) for i in items])]),
            pystac.TemporalExtent([[min(d for d in starts if d), max(d for d in ends if d)]]),
        ),
        title=_TITLES[kind],
        license="other",
        providers=_providers(attribution, software),
        stac_extensions=[PROCESSING],
        href=str(path),
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )  # fmt: skip
    codes = sorted({str(i.properties.get("proj:code")) for i in items})
    collection.summaries.add("proj:code", codes)
    collection.summaries.add("geoelle:loss_kind", losses)
    if "Copernicus" in attribution:
        collection.add_link(pystac.Link(pystac.RelType.LICENSE, _COPERNICUS_TERMS, media_type="application/pdf"))
    return collection


def _said_of_losses(kinds: Sequence[str]) -> str:
    """A sentence where a loss is not, or not wholly, that of pretraining."""
    said = [LOSS_NAMES[kind] for kind in kinds if kind in ("own-partial", "proxy")]
    return f"Loss: {', '.join(said)}. " if said else ""


def _providers(attribution: str, software: Mapping[str, str]) -> list[pystac.Provider]:
    made_by = pystac.Provider(
        "geoelle", roles=[pystac.ProviderRole.PROCESSOR], extra_fields={"processing:software": dict(software)}
    )
    source = pystac.Provider("Source of the imagery", attribution, [pystac.ProviderRole.LICENSOR])
    return [made_by, source] if attribution else [made_by]


def _collection_document(collection: pystac.Collection, items: Sequence[pystac.Item]) -> dict[str, Any]:
    document: dict[str, Any] = collection.to_dict(include_self_link=False)
    # Written by hand: pystac would resolve every item again for its link.
    for item in items:
        document["links"].append({"rel": "item", "href": f"./{item.id}/{item.id}.json", "type": "application/geo+json"})
    return document


def _solar_day(day: str, lon: float) -> tuple[datetime, datetime]:
    """When a solar day begins and ends at a longitude, UTC, to the second: the sun needs an hour for 15 degrees."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(seconds=round(lon / 15 * 3600))
    return start, start + timedelta(days=1) - timedelta(seconds=1)


def _enclosing(boxes: Sequence[Sequence[float]]) -> list[float]:
    """One box around all; around the Earth as soon as one crosses the antimeridian and others do not."""
    south, north = min(b[1] for b in boxes), max(b[3] for b in boxes)
    crossing = [b[0] > b[2] for b in boxes]
    if any(crossing) and not all(crossing):
        return [-180.0, south, 180.0, north]
    return [min(b[0] for b in boxes), south, max(b[2] for b in boxes), north]


def _read_item(path: Path) -> pystac.Item:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        item = pystac.Item.from_dict(document, preserve_dict=False, migrate=False)
        if item.id != path.stem or not item.bbox or item.common_metadata.start_datetime is None:
            raise ValueError(f"its id is {item.id!r}, its bbox {item.bbox}")
        return item
    except (OSError, ValueError, LookupError, TypeError, AttributeError, STACError, STACTypeError) as error:
        raise StoreError(f"{path} is no STAC item of geoelle ({error}). Delete it, or give another --out.") from None


def _href(place: Location, start: Path) -> str:
    """Relative to the item's folder; of what lies in an object store its URL."""
    if place.is_remote:
        return str(place)
    href = os.path.relpath(place.path.resolve(), start).replace(os.sep, "/")
    return href if href.startswith(".") else f"./{href}"


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
