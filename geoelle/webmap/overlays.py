"""Rasters as images that a web map can lay over the ground: warped to Web Mercator, coloured, as PNG data URLs."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoelle.errors import MapError
from geoelle.webmap.palettes import ColourScale

_WEB_MERCATOR = 3857
_MERCATOR_HALF_M = 20037508.342789244
# An image gets several pixels per cell, because nearest neighbour at one pixel per cell drops and doubles cells …
_MAX_PX_PER_CELL = 32
# … but no more than keep it about this large: 24 dates still make a file of a few megabytes.
_IMAGE_EDGE_PX = 1024

Bounds = tuple[tuple[float, float], tuple[float, float]]
"""((south, west), (north, east)) in degrees, as Leaflet wants it."""


@dataclass(frozen=True)
class MercatorWarp:
    """From cells of a store to pixels of an image: worked out once, used for every layer."""

    rows: slice
    """Rows of the store's arrays that have anything to show."""
    columns: slice
    index: NDArray[np.int32]
    """(row, column) of the image: flat index into those cells, or -1."""
    px_per_cell: int
    bounds: Bounds

    @staticmethod
    def covering(ds: xr.Dataset, shown: NDArray[np.bool_], stride_m: float, *, middle_deg: float = 0.0) -> MercatorWarp:
        """The warp for the part of `ds` around the cells where `shown` (y, x) is true.

        Args:
            ds: A store of one zone.
            shown: Cells that have anything to show.
            stride_m: Edge of a cell.
            middle_deg: Longitude in the middle of the map: 0, or 180 for an area across the antimeridian. Longitudes of
                the bounds lie within 180 degrees of it.

        Raises:
            MapError: If the store has no CRS or its area wraps around the map's edge.
        """
        from affine import Affine
        from rasterio.enums import Resampling
        from rasterio.transform import array_bounds, from_bounds
        from rasterio.warp import reproject, transform_bounds

        rows, columns = _extent(shown.any(axis=1)), _extent(shown.any(axis=0))
        y, x = np.asarray(ds["y"].values, float)[rows], np.asarray(ds["x"].values, float)[columns]
        source = Affine(stride_m, 0, x[0] - stride_m / 2, 0, -stride_m, y[0] + stride_m / 2)
        crs = crs_of(ds)
        shape = (len(y), len(x))
        limits = array_bounds(*shape, source)
        target = _web_mercator(middle_deg)
        west, south, east, north = transform_bounds(crs, target, *limits, densify_pts=21)
        if not all(map(math.isfinite, (west, south, east, north))) or east - west > _MERCATOR_HALF_M:
            raise MapError(
                "The area wraps around the 180th meridian or reaches a pole, where a web map has an edge. "
                "Draw one map for either side."
            )
        k = max(1, min(_MAX_PX_PER_CELL, _IMAGE_EDGE_PX // max(shape)))
        height, width = (max(1, math.ceil(n * k * 1.05)) for n in shape)
        index = np.full((height, width), -1, dtype=np.int32)
        reproject(
            np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape),
            index,
            src_transform=source,
            src_crs=crs,
            src_nodata=-1,
            dst_transform=from_bounds(west, south, east, north, width, height),
            dst_crs=target,
            dst_nodata=-1,
            resampling=Resampling.nearest,
        )
        # Mercator's longitudes are even: those of another middle are as many degrees further on.
        lon_lat = np.add(
            transform_bounds(_WEB_MERCATOR, 4326, west, south, east, north), (middle_deg, 0.0, middle_deg, 0.0)
        )
        bounds = ((_round(lon_lat[1]), _round(lon_lat[0])), (_round(lon_lat[3]), _round(lon_lat[2])))
        return MercatorWarp(rows, columns, index, k, bounds)

    def warp(self, values: NDArray[np.uint8], fill: int) -> NDArray[np.uint8]:
        """Values (y, x) of the store's whole array at the image's pixels; `fill` outside."""
        flat = values[self.rows, self.columns].ravel()
        return np.where(self.index >= 0, flat[self.index], np.uint8(fill))


def _web_mercator(middle_deg: float) -> Any:
    from rasterio.crs import CRS

    return (
        CRS.from_epsg(_WEB_MERCATOR)
        if middle_deg == 0
        else CRS.from_string(f"+proj=webmerc +lon_0={middle_deg:g} +datum=WGS84 +units=m +no_defs")
    )


def _round(degrees: float) -> float:
    return round(float(degrees), 7)  # a centimetre


def _extent(used: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(used)
    return slice(int(where[0]), int(where[-1]) + 1)


def crs_of(ds: xr.Dataset) -> str:
    """The store's CRS as WKT.

    Raises:
        MapError: If it says none.
    """
    attrs = ds["spatial_ref"].attrs if "spatial_ref" in ds.coords else {}
    wkt = attrs.get("crs_wkt") or attrs.get("spatial_ref")
    if not wkt:
        raise MapError("The store says no CRS in 'spatial_ref'. Expected CF's crs_wkt; make the store again.")
    return str(wkt)


def coloured_png(warp: MercatorWarp, values: NDArray[np.floating], scale: ColourScale) -> str:
    """Values (y, x) as a PNG data URL, transparent where there is no data."""
    return _png(warp.warp(scale.index(values), 0), scale.rgb(), (0,))


def hatched_png(warp: MercatorWarp, mask: NDArray[np.bool_]) -> str | None:
    """Diagonal dark lines where `mask` (y, x) holds, as a PNG data URL; None where it holds nowhere."""
    if not mask[warp.rows, warp.columns].any():
        return None
    inside = warp.warp(mask.astype(np.uint8), 0)
    rows, columns = np.arange(inside.shape[0])[:, np.newaxis], np.arange(inside.shape[1])
    period = max(4, warp.px_per_cell)
    lines = (rows + columns) % period < max(1, period // 5)
    return _png(inside * lines.astype(np.uint8), np.array([[0, 0, 0], [20, 20, 20]], dtype=np.uint8), (0, 190))


def _png(index: NDArray[np.uint8], rgb: NDArray[np.uint8], alpha: tuple[int, ...]) -> str:
    from PIL import Image

    image = Image.fromarray(index)
    image.putpalette(rgb.tobytes())
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True, transparency=bytes(alpha))
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
