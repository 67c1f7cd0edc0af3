"""The chip grid: where chips lie, what they are called, and which tiles they are worked on in.

A grid is (projected CRS, chip size, stride), counted from the CRS origin: chip (row, column) has its lower left
corner at (column x stride, row x stride). Rows count northwards. So a chip's id depends on nothing but the grid.

A raster on the grid has one cell per chip, of one stride by one stride around the chip's centre, north first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from geoelle.errors import GridError

_CHIP_ID = re.compile(r"^(\d+)_([\d.]+)_([\d.]+)_r(-?\d+)_c(-?\d+)$")
# A straight line in degrees is not straight in metres; AOI edges get a vertex at least this often.
_MAX_SEGMENT_DEG = 0.01


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG code of the WGS 84 / UTM zone of a place (regular zones: without Norway's and Svalbard's exceptions).

    Raises:
        GridError: If the place is not on Earth or beyond UTM's 84 degrees.
    """
    if not (-180 <= lon <= 180 and -84 <= lat <= 84):
        raise GridError(
            f"Longitude {lon:g}, latitude {lat:g} has no UTM zone. Expected -180 to 180 and -84 to 84 degrees; "
            "check that coordinates are in the order longitude, latitude."
        )
    zone = min(int((lon + 180) // 6) + 1, 60)
    return (32600 if lat >= 0 else 32700) + zone


@dataclass(frozen=True, slots=True)
class ChipGrid:
    """A chip lattice. Another chip size or stride is another grid, with other chip ids."""

    epsg: int
    """Projected CRS, metres."""
    chip_size_m: float
    stride_m: float

    def __post_init__(self) -> None:
        for name in ("chip_size_m", "stride_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise GridError(f"{name} is {value}. Expected a positive number of metres.")
        if self.stride_m > self.chip_size_m:
            raise GridError(
                f"stride_m is {self.stride_m:g}, larger than chip_size_m {self.chip_size_m:g}: ground between "
                "chips would never be seen. Use a stride of at most the chip size."
            )
        if not CRS.from_epsg(self.epsg).is_projected:
            raise GridError(
                f"EPSG:{self.epsg} is not a projected CRS. A chip grid is in metres; take the UTM zone of the place."
            )

    def chip_id(self, row: int, column: int) -> str:
        """`<epsg>_<chip_size_m>_<stride_m>_r<row>_c<column>`."""
        return f"{self.epsg}_{self.chip_size_m:g}_{self.stride_m:g}_r{row}_c{column}"

    def chip_ids(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.str_]:
        """Ids of the chips at (rows[i], columns[i])."""
        return np.array([self.chip_id(int(r), int(c)) for r, c in zip(rows, columns, strict=True)], dtype=np.str_)

    @staticmethod
    def parse_chip_id(chip_id: str) -> tuple[ChipGrid, int, int]:
        """The grid, row and column that a chip id names.

        Raises:
            GridError: If it is no chip id.
        """
        match = _CHIP_ID.match(chip_id)
        if match is None:
            raise GridError(f"{chip_id!r} is no chip id. Expected EPSG_SIZE_STRIDE_rROW_cCOLUMN.")
        epsg, size, stride, row, column = match.groups()
        return ChipGrid(int(epsg), float(size), float(stride)), int(row), int(column)

    def centre(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eastings and northings of chip centres, metres, each shaped like its argument."""
        half = self.chip_size_m / 2
        return np.asarray(columns * self.stride_m + half), np.asarray(rows * self.stride_m + half)

    def lonlat(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Longitude and latitude of chip centres, degrees, of shape (chip, 2)."""
        return self._to_lonlat(*self.centre(rows, columns))

    def corners_lonlat(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Longitude and latitude of chip corners, degrees, of shape (corner, chip, 2)."""
        x, y = self.centre(rows, columns)
        half = self.chip_size_m / 2
        return np.stack([self._to_lonlat(x + i * half, y + j * half) for i in (-1, 1) for j in (-1, 1)])

    def _to_lonlat(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = Transformer.from_crs(self.epsg, 4326, always_xy=True).transform(x, y)
        return np.stack([np.asarray(lon, float), np.asarray(lat, float)], axis=-1)


@dataclass(frozen=True, slots=True)
class Tile:
    """A block of chips that one job handles: the half-open ranges of its lattice rows and columns."""

    row: int
    """Tile row: lattice row // tile_chips, counted northwards."""
    column: int
    y: slice
    """Rows of the run's arrays that it fills (north first)."""
    x: slice
    """Columns of the run's arrays that it fills."""

    @property
    def name(self) -> str:
        """`<row>,<column>`."""
        return f"{self.row},{self.column}"


@dataclass(frozen=True)
class GridExtent:
    """The part of a grid that a run covers: whole tiles, and which of their chips the AOI asks for."""

    grid: ChipGrid
    tile_chips: int
    """Edge of a tile, chips."""
    tile_rows: range
    tile_columns: range

    @staticmethod
    def covering(grid: ChipGrid, aoi_lonlat: BaseGeometry, tile_chips: int) -> GridExtent:
        """The smallest block of whole tiles whose cells cover an AOI given in EPSG:4326.

        Raises:
            GridError: If tile_chips is not positive.
        """
        if tile_chips < 1:
            raise GridError(f"tile_chips is {tile_chips}. Expected at least 1.")
        west, south, east, north = to_grid_crs(aoi_lonlat, grid.epsg).bounds
        # A cell reaches half a stride around its chip's centre, which lies half a chip from the chip's corner.
        margin = (grid.chip_size_m - grid.stride_m) / 2

        def tiles(low: float, high: float) -> range:
            first = math.floor((low - margin) / grid.stride_m)
            last = math.ceil((high - margin) / grid.stride_m) - 1
            return range(first // tile_chips, max(last, first) // tile_chips + 1)

        return GridExtent(grid, tile_chips, tiles(south, north), tiles(west, east))

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Lattice rows along the y axis, north first."""
        n = self.tile_chips
        return np.arange(self.tile_rows.start * n, self.tile_rows.stop * n, dtype=np.int64)[::-1]

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """Lattice columns along the x axis, west first."""
        n = self.tile_chips
        return np.arange(self.tile_columns.start * n, self.tile_columns.stop * n, dtype=np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x), chips."""
        return len(self.rows), len(self.columns)

    @property
    def y(self) -> NDArray[np.float64]:
        """Northings of chip centres, descending, metres."""
        return np.asarray(self.rows * self.grid.stride_m + self.grid.chip_size_m / 2, dtype=np.float64)

    @property
    def x(self) -> NDArray[np.float64]:
        """Eastings of chip centres, ascending, metres."""
        return np.asarray(self.columns * self.grid.stride_m + self.grid.chip_size_m / 2, dtype=np.float64)

    @property
    def transform(self) -> Affine:
        """Affine of the raster whose cells are the chips' stride-wide surroundings."""
        s = self.grid.stride_m
        return Affine(s, 0.0, float(self.x[0]) - s / 2, 0.0, -s, float(self.y[0]) + s / 2)

    @property
    def geobox(self) -> GeoBox:
        """The raster of chips, one cell each."""
        return GeoBox(self.shape, self.transform, f"EPSG:{self.grid.epsg}")

    def tiles(self) -> Iterator[Tile]:
        """Tiles from north to south and west to east."""
        n = self.tile_chips
        for i, row in enumerate(reversed(self.tile_rows)):
            for j, column in enumerate(self.tile_columns):
                yield Tile(row, column, slice(i * n, (i + 1) * n), slice(j * n, (j + 1) * n))

    def aoi_mask(self, aoi_lonlat: BaseGeometry) -> NDArray[np.bool_]:
        """Chips whose cell touches the AOI's interior, of shape (y, x)."""
        area = to_grid_crs(aoi_lonlat, self.grid.epsg)
        half = self.grid.stride_m / 2
        x, y = np.meshgrid(self.x, self.y)
        cells = shapely.box(x - half, y - half, x + half, y + half)
        shapely.prepare(area)
        return np.asarray(shapely.intersects(area, cells) & ~shapely.touches(area, cells), dtype=np.bool_)

    def tile_geobox(self, tile: Tile, gsd_m: float) -> GeoBox:
        """Pixels of every chip of a tile, at `gsd_m` metres a pixel.

        Raises:
            GridError: If chip size or stride is no whole number of pixels.
        """
        size, stride = self.chip_size_px(gsd_m), self.stride_px(gsd_m)
        n = (self.tile_chips - 1) * stride + size
        west = tile.column * self.tile_chips * self.grid.stride_m
        north = tile.row * self.tile_chips * self.grid.stride_m + n * gsd_m
        return GeoBox((n, n), Affine(gsd_m, 0.0, west, 0.0, -gsd_m, north), f"EPSG:{self.grid.epsg}")

    def tile_footprint(self, tile: Tile, gsd_m: float) -> BaseGeometry:
        """Outline of a tile's pixels in EPSG:4326."""
        return self.tile_geobox(tile, gsd_m).footprint(4326).geom

    def chip_size_px(self, gsd_m: float) -> int:
        """Edge of a chip, pixels."""
        return _whole_pixels("chip_size_m", self.grid.chip_size_m, gsd_m)

    def stride_px(self, gsd_m: float) -> int:
        """Stride, pixels."""
        return _whole_pixels("stride_m", self.grid.stride_m, gsd_m)


@dataclass(frozen=True, eq=False)
class ZoneChips:
    """The chips of an area that one UTM zone holds: a chip belongs to the zone of its centre."""

    extent: GridExtent
    wanted: NDArray[np.bool_]
    """(y, x) over the extent: chips that the area asks for and that belong to this zone."""

    @property
    def name(self) -> str:
        """EPSG code, the name of the zone's group in a store of several."""
        return str(self.extent.grid.epsg)


def zone_chips(area_lonlat: BaseGeometry, chip_size_m: float, stride_m: float, tile_chips: int) -> list[ZoneChips]:
    """An area's chips, zone by zone from west to east; every chip of the area exactly once.

    Args:
        area_lonlat: In EPSG:4326, longitudes within -180 to 180.
        chip_size_m: Edge of a chip, metres.
        stride_m: Distance between chips, metres.
        tile_chips: Edge of a tile, chips.

    Raises:
        GridError: If the area reaches beyond UTM, or a number makes no sense.
    """
    centre = area_lonlat.centroid
    grid = ChipGrid(utm_epsg(centre.x, centre.y), float(chip_size_m), float(stride_m))
    extent = GridExtent.covering(grid, area_lonlat, tile_chips)
    return [ZoneChips(extent, extent.aoi_mask(area_lonlat))]


def _whole_pixels(name: str, length_m: float, gsd_m: float) -> int:
    pixels = round(length_m / gsd_m)
    if pixels < 1 or abs(pixels * gsd_m - length_m) > 1e-6 * length_m:
        raise GridError(
            f"{name} is {length_m:g} m, which is {length_m / gsd_m:g} pixels of {gsd_m:g} m. "
            "Expected a whole number of pixels."
        )
    return pixels


def to_grid_crs(geometry_lonlat: BaseGeometry, epsg: int) -> BaseGeometry:
    """A geometry in EPSG:4326 carried to a projected CRS, its edges densified so that they bend as they should."""
    project = Transformer.from_crs(4326, epsg, always_xy=True).transform
    dense = shapely.segmentize(geometry_lonlat, _MAX_SEGMENT_DEG)
    return shapely.transform(dense, lambda xy: np.stack(project(xy[:, 0], xy[:, 1]), axis=-1))
