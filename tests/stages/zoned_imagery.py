"""Simulated imagery on both sides of a border of UTM zones, each granule in its own zone's CRS, and its catalog."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import Transformer
from scene_files import smooth_noise, write_geotiff

from geoelle.provenance import seed_from

OVERLAP_M = 400.0
"""How far a granule reaches beyond its zone."""
BANDS = {"B02": "blue", "B03": "green", "B04": "red"}


@dataclass(frozen=True)
class Side:
    """What lies to one side of the border."""

    epsg: int
    tile: str
    """MGRS tile of its granule."""
    is_west: bool


ANTIMERIDIAN = (Side(32660, "60UYB", True), Side(32601, "01UBS", False))
SIX_EAST = (Side(32631, "31UGQ", True), Side(32632, "32ULV", False))


@dataclass
class Border:
    """A static catalog of granules along a border, and the area about it."""

    folder: Path
    lon: float
    lat: float
    sides: tuple[Side, Side]
    side_px: int = 160

    @property
    def catalog(self) -> Path:
        return self.folder / "catalog.json"

    @property
    def area(self) -> tuple[float, float, float, float]:
        """West, south, east, north; west beyond east across the antimeridian."""
        return _wrapped(self.lon - 0.014), self.lat, _wrapped(self.lon + 0.014), self.lat + 0.009

    def half(self, *, west: bool) -> tuple[float, float, float, float]:
        """The part of the area in one zone."""
        w, s, e, n = self.area
        return (w, s, self.lon, n) if west else (_wrapped(self.lon + 1e-9), s, e, n)

    def write(self, side: Side, day: str, **properties: Any) -> dict[str, Any]:
        """One granule of one day: its files, and its item."""
        item_id = f"SIM_{day}_{side.tile}"
        folder = self.folder / item_id
        folder.mkdir(parents=True)
        x, y = Transformer.from_crs(4326, side.epsg, always_xy=True).transform(self.lon, self.lat)
        width = self.side_px * 10.0
        left = round((x - width + OVERLAP_M if side.is_west else x - OVERLAP_M) / 10) * 10.0
        top = round((y + width - 250) / 10) * 10.0
        assets: dict[str, Any] = {}
        for key in BANDS:
            rng = np.random.default_rng(seed_from(item_id, key) % 2**32)
            pixels = smooth_noise(rng, self.side_px, low=200, high=3000)
            write_geotiff(folder / f"{key}.tif", pixels, nodata=0, left=left, top=top, epsg=side.epsg)
            assets[key] = {"href": f"./{key}.tif"}
        classes = np.full((self.side_px, self.side_px), 4, np.uint8)
        write_geotiff(folder / "SCL.tif", classes, left=left, top=top, epsg=side.epsg)
        assets["SCL"] = {"href": "./SCL.tif"}
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": item_id, "collection": "c", "links": [],
            **footprint(left, top, width, side.epsg), "assets": assets,
            "properties": {
                "datetime": f"{day}T00:30:00Z" if self.lon == 180 else f"{day}T10:30:00Z", "proj:epsg": side.epsg,
                "platform": "sentinel-2a", "grid:code": f"MGRS-{side.tile}", "s2:processing_baseline": "03.01",
                "geoelle:simulated": True, "gsd": 10, **properties,
            },
        }  # fmt: skip
        (folder / "item.json").write_text(json.dumps(item))
        return item

    def list_items(self, items: Sequence[dict[str, Any]]) -> Path:
        """The catalog over some of the items."""
        links = [{"rel": "item", "href": f"./{item['id']}/item.json"} for item in items]
        catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "border", "description": "d", "links": links}
        self.catalog.write_text(json.dumps(catalog))
        return self.catalog


def footprint(left: float, top: float, width: float, epsg: int) -> dict[str, Any]:
    """Geometry and bbox of a square; cut at 180 as RFC 7946 has it."""
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True).transform
    xs, ys = [left, left + width, left + width, left, left], [top - width, top - width, top, top, top - width]
    lon, lat = (np.asarray(v) for v in to_lonlat(xs, ys))
    if lon.max() - lon.min() < 180:
        bbox = [lon.min(), lat.min(), lon.max(), lat.max()]
        return {"geometry": _mapping(shapely.Polygon(np.column_stack([lon, lat]))), "bbox": [float(v) for v in bbox]}
    ring = shapely.Polygon(np.column_stack([np.where(lon < 0, lon + 360, lon), lat]))
    west = shapely.intersection(ring, shapely.box(0, -90, 180, 90))
    east = shapely.intersection(ring, shapely.box(180, -90, 360, 90))
    east = shapely.transform(east, lambda xy: xy - np.array([360.0, 0.0]))
    bbox = [float(west.bounds[0]), float(lat.min()), float(east.bounds[2]), float(lat.max())]
    return {"geometry": _mapping(shapely.MultiPolygon([west, east])), "bbox": bbox}


def _mapping(geometry: Any) -> dict[str, Any]:
    return dict(json.loads(json.dumps(shapely.geometry.mapping(geometry))))


def _wrapped(lon: float) -> float:
    return lon - 360 if lon > 180 else lon
