"""Files and items for the tests of reading: small GeoTIFFs on a UTM grid, and the items that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoelle.catalog.parsing import parse_item
from geoelle.records import ItemRecord
from geoelle.sensors import SENTINEL_2_L2A

EPSG = 32631
LEFT, TOP = 500_000.0, 5_700_000.0


def write_geotiff(
    path: Path, pixels: NDArray[Any], *, nodata: float | None = None, left: float = LEFT, top: float = TOP,
    epsg: int = EPSG, step: float = 10.0, block_px: int = 64, **more: Any,
) -> None:  # fmt: skip
    """Write (band, y, x) or (y, x), tiled and deflated."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2],
        "dtype": pixels.dtype, "crs": f"EPSG:{epsg}", "transform": Affine(step, 0, left, 0, -step, top),
        "nodata": nodata, "tiled": True, "blockxsize": block_px, "blockysize": block_px, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **(profile | more)) as target:
        target.write(pixels)


def item_of(
    item_id: str,
    assets: dict[str, dict[str, Any]],
    *,
    size_px: tuple[int, int],
    left: float = LEFT,
    top: float = TOP,
    epsg: int = EPSG,
    step: float = 10.0,
    properties: dict[str, Any] | None = None,
) -> ItemRecord:
    """The item of files that cover `size_px` (rows, columns) from their upper left corner."""
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True).transform
    right, bottom = left + size_px[1] * step, top - size_px[0] * step
    lon, lat = to_lonlat([left, right, left, right], [bottom, bottom, top, top])
    box = (min(lon), min(lat), max(lon), max(lat))
    record = parse_item(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": item_id, "collection": "c",
            "geometry": shapely.geometry.mapping(shapely.box(*box)), "bbox": list(box), "links": [],
            "properties": {"datetime": "2022-06-04T10:36:21Z", "proj:epsg": epsg, **(properties or {})},
            "assets": assets,
        },
        SENTINEL_2_L2A,
    )  # fmt: skip
    assert record is not None
    return record


def tile_box(
    rows: int, columns: int, *, left: float = LEFT, top: float = TOP, epsg: int = EPSG, step: float = 10.0
) -> GeoBox:
    return GeoBox((rows, columns), Affine(step, 0, left, 0, -step, top), f"EPSG:{epsg}")


def smooth_noise(rng: np.random.Generator, size_px: int, *, low: int = 200, high: int = 4000) -> NDArray[np.uint16]:
    """Pixels that compress as imagery does: structure at several scales, and noise in the last bits."""
    field = np.zeros((size_px, size_px), np.float32)
    for step in (64, 16, 4):
        coarse = rng.standard_normal((size_px // step + 1, size_px // step + 1), dtype=np.float32)
        field += np.kron(coarse, np.ones((step, step), np.float32))[:size_px, :size_px] * step
    field = (field - field.min()) / (field.max() - field.min())
    noise = rng.normal(0, 12, field.shape)
    return np.clip(low + field * (high - low) + noise, 1, 65534).astype(np.uint16)
