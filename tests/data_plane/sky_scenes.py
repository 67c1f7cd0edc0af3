"""Scenes for the tests of masks and radiometry: small files and the records of them, without a catalog."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoelle.records import AssetRecord, ItemRecord, Scene
from geoelle.sensors import ALL_BITS, BandSpec, QualitySpec, Sensor

EPSG, LEFT, TOP = 32631, 500_000.0, 5_700_000.0
TIME = np.datetime64("2022-06-04T10:36:21", "ns")
DAY = np.datetime64("2022-06-04", "ns")

QA_PIXEL = QualitySpec(
    "qa_pixel", ("QA_PIXEL",), nodata=1, invalid=((1, 1),), cloud=((2, 2), (4, 4), (8, 8)), shadow=((16, 16),),
    snow=((32, 32),), water=((128, 128),),
)  # fmt: skip
"""Landsat Collection 2: 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 shadow, 5 snow, 6 clear, 7 water."""
FMASK = QualitySpec(
    "fmask", ("Fmask",), nodata=255, invalid=((ALL_BITS, 255),), cloud=((1, 1), (2, 2), (4, 4)), shadow=((8, 8),),
    snow=((16, 16),), water=((32, 32),),
)  # fmt: skip
"""HLS v2.0: 0 cirrus, 1 cloud, 2 next to cloud or shadow, 3 shadow, 4 snow or ice, 5 water, 6 and 7 aerosol."""


def a_sensor(
    *bands: str, quality: QualitySpec | None = None, units: str = "reflectance", scale: float = 1e-4, name: str = "toy"
) -> Sensor:
    return Sensor(name, (name,), units, scale, tuple(BandSpec(b, (b,), 0.5, 10) for b in bands), quality, "nobody")


def an_item(
    folder: Path, sensor: Sensor, numbers: Mapping[str, NDArray[Any]], *, item_id: str = "item", offset: float = 0.0,
    nodata: float | None = None, **fields: Any,
) -> ItemRecord:  # fmt: skip
    """An item with one file per name of `numbers`, written here."""
    height, width = next(iter(numbers.values())).shape
    assets, raw = {}, {}
    quality = sensor.quality.name if sensor.quality else None
    for name, values in numbers.items():
        path = folder / f"{item_id}_{name}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=1, dtype=values.dtype, crs=f"EPSG:{EPSG}",
            transform=Affine(10, 0, LEFT, 0, -10, TOP), nodata=None if name == quality else nodata,
        ) as f:  # fmt: skip
            f.write(values, 1)
        scale, shift = (1.0, 0.0) if name == quality else (sensor.scale, offset)
        assets[name] = AssetRecord(name, 1, 1, path.as_posix(), None, scale, shift)
        raw[name] = {"href": path.as_posix()}
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(
        [LEFT, LEFT + width * 10], [TOP - height * 10, TOP]
    )
    bbox = (lon[0], lat[0], lon[1], lat[1])
    ring = [[lon[i], lat[j]] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    known: dict[str, Any] = {"processing_baseline": None, "offset_applied": None} | fields
    stac = {
        "type": "Feature", "stac_version": "1.0.0", "id": item_id, "collection": "c", "links": [], "bbox": list(bbox),
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "assets": raw,
        "properties": {"datetime": "2022-06-04T10:36:21Z", "proj:epsg": EPSG},
    }  # fmt: skip
    return ItemRecord(
        item_id, "c", sensor.name, TIME, "instant", None, bbox, None, EPSG, None, relative_orbit=None, platform=None,
        assets=assets, raw=stac, **known,
    )  # fmt: skip


def a_scene(*items: ItemRecord) -> Scene:
    return Scene(DAY, TIME, "instant", items)


def box(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), Affine(10, 0, LEFT, 0, -10, TOP), f"EPSG:{EPSG}")
