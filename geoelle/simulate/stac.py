"""The static STAC catalog around the pixels: shaped like a Sentinel-2 L2A one, labelled as simulated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from geoelle.sensors import SENTINEL_2_L2A
from geoelle.simulate.cogs import LABEL
from geoelle.simulate.plane import Granule, footprint
from geoelle.simulate.settings import SimulationConfig

Json = dict[str, Any]

TITLE = "SIMULATED Sentinel-2-like scenes (geoelle)"
ATTRIBUTION = "Simulated by geoelle; holds no Copernicus data."
_EXTENSIONS = (
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
    "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
)
_ORBITS = (8, 51, 94, 137, 37)
"""A place is seen from at most a few orbits; which one follows from the day within the five-day cycle."""
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True, slots=True)
class Pass:
    """The overpass of one day."""

    day: date
    moment: datetime
    """UTC, tz-naive."""
    platform: str
    relative_orbit: int
    sun_elevation: float
    sun_azimuth: float

    @property
    def stamp(self) -> str:
        """The moment as STAC writes it."""
        return self.moment.isoformat() + "Z"


def overpass(day: date) -> tuple[datetime, str, int]:
    """Moment, platform and relative orbit: the same days of the cycle, the same orbit, a few minutes apart."""
    slot = day.toordinal() % 5
    moment = datetime(day.year, day.month, day.day, 10, 36, 21) + timedelta(minutes=2 * slot)
    return moment, "sentinel-2" + "ab"[day.toordinal() // 5 % 2], _ORBITS[slot]


def item_id(day: date, granule: Granule, platform: str) -> str:
    """Name of the item: `SIM` first, so that nobody takes it for a product."""
    return f"SIM_S{platform[-2:].upper()}_MSIL2A_{day:%Y%m%d}_{granule.mgrs_tile}"


def item_json(config: SimulationConfig, granule: Granule, flight: Pass, shares: dict[str, float]) -> Json:
    """One item; `shares` are percent of the granule: `cloud`, `shadow`, `nodata`, `vegetation`, `water`."""
    name = item_id(flight.day, granule, flight.platform)
    ring = footprint(granule)
    left, bottom, right, top = granule.bounds
    properties: Json = {
        "title": f"SIMULATED scene {name}",
        "description": LABEL,
        "datetime": flight.stamp,
        "geoelle:simulated": True,
        "geoelle:seed": config.seed,
        "platform": flight.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": config.gsd_m,
        "proj:epsg": granule.epsg,
        "proj:shape": [granule.height, granule.width],
        "proj:transform": [*granule.transform, 0.0, 0.0, 1.0],
        "proj:bbox": [left, bottom, right, top],
        "grid:code": f"MGRS-{granule.mgrs_tile}",
        "s2:mgrs_tile": granule.mgrs_tile,
        # Before 04.00 no offset was added to the digital numbers: the pixels must be what the baseline says.
        "s2:processing_baseline": "05.09" if config.offset_dn else "03.01",
        "s2:product_type": "S2MSI2A",
        "s2:nodata_pixel_percentage": round(shares["nodata"], 4),
        "sat:relative_orbit": flight.relative_orbit,
        "sat:orbit_state": "descending",
        "view:sun_elevation": round(flight.sun_elevation, 3),
        "view:sun_azimuth": round(flight.sun_azimuth, 3),
    }
    if config.scl:
        properties["eo:cloud_cover"] = round(shares["cloud"], 4)
        properties["s2:cloud_shadow_percentage"] = round(shares["shadow"], 4)
        properties["s2:vegetation_percentage"] = round(shares["vegetation"], 4)
        properties["s2:water_percentage"] = round(shares["water"], 4)
    lons, lats = [p[0] for p in ring], [p[1] for p in ring]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [min(lons), min(lats), max(lons), max(lats)],
        "properties": properties,
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json", "title": TITLE},
            {"rel": "collection", "href": "../collection.json", "type": "application/json", "title": TITLE},
            {"rel": "parent", "href": "../collection.json", "type": "application/json", "title": TITLE},
        ],
        "assets": _assets(config, name),
        "collection": config.collection,
    }


def collection_json(config: SimulationConfig, items: list[Json]) -> Json:
    """The collection over the items, in their order."""
    boxes = [item["bbox"] for item in items]
    moments = sorted(item["properties"]["datetime"] for item in items)
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": config.collection,
        "title": TITLE,
        "description": (
            f"{LABEL}. {len(config.days)} dates, seed {config.seed}. Sentinel-2-L2A-like: reflectance is "
            f"(digital number - {config.offset_dn}) x 1e-4."
        ),
        "license": "Apache-2.0",
        "keywords": ["simulated", "geoelle", "sentinel-2-like"],
        "providers": [{"name": "geoelle", "roles": ["producer"], "description": ATTRIBUTION}],
        "extent": {
            "spatial": {
                "bbox": [
                    [
                        min(b[0] for b in boxes), min(b[1] for b in boxes),
                        max(b[2] for b in boxes), max(b[3] for b in boxes),
                    ]
                ]
            },
            "temporal": {"interval": [[moments[0], moments[-1]]]},
        },
        "summaries": {
            "gsd": [config.gsd_m],
            "constellation": ["sentinel-2"],
            "geoelle:simulated": [True],
            "eo:bands": [_eo_band(band) for band in config.bands],
        },
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json", "title": TITLE},
            {"rel": "parent", "href": "../catalog.json", "type": "application/json", "title": TITLE},
            *(
                {"rel": "item", "href": f"./{item['id']}/{item['id']}.json", "type": "application/geo+json"}
                for item in items
            ),
        ],
    }  # fmt: skip


def catalog_json(config: SimulationConfig) -> Json:
    """The root."""
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "geoelle-simulation",
        "title": TITLE,
        "description": f"{LABEL}. {ATTRIBUTION}",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json", "title": TITLE},
            {
                "rel": "child",
                "href": f"./{config.collection}/collection.json",
                "type": "application/json",
                "title": TITLE,
            },
        ],
    }


def _eo_band(name: str) -> Json:
    spec = SENTINEL_2_L2A.band(name)
    # geoelle's names follow the common names; the extension knows one name for all three red edge bands.
    common = "rededge" if name.startswith("rededge") else name
    return {"name": spec.aliases[0], "common_name": common, "center_wavelength": spec.wavelength_um}


def _assets(config: SimulationConfig, name: str) -> Json:
    assets: Json = {}
    for band in config.bands:
        key = SENTINEL_2_L2A.band(band).aliases[0]
        raster: Json = {"data_type": "uint16"}
        if config.nodata is not None:
            raster["nodata"] = config.nodata
        raster |= {"scale": 1e-4, "offset": -config.offset_dn * 1e-4 if config.offset_dn else 0}
        raster["spatial_resolution"] = config.gsd_m
        assets[key] = {
            "href": f"./{name}_{key}.tif",
            "type": _COG,
            "title": f"{key} simulated surface reflectance",
            "eo:bands": [_eo_band(band)],
            "raster:bands": [raster],
            "roles": ["data", "reflectance"],
        }
    if config.scl:
        classes: Json = {"data_type": "uint8"}
        if config.nodata is not None:
            classes["nodata"] = 0
        classes["spatial_resolution"] = config.gsd_m
        assets["SCL"] = {
            "href": f"./{name}_SCL.tif",
            "type": _COG,
            "title": "SCL simulated scene classification, Sen2Cor's codes",
            "raster:bands": [classes],
            "roles": ["data"],
        }
    return assets
