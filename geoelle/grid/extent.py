"""The part of a grid that a run covers, in whole tiles.

A raster on the grid has one cell per chip, of one stride by one stride around the chip's centre, north first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from geoelle.antimeridian import split_at_antimeridian
from geoelle.errors import GridError
from geoelle.grid.cells import cells_touching
from geoelle.grid.lattice import ChipGrid, to_grid_crs, to_lonlat

# Vertices along each edge of a tile's footprint: its edges bend in degrees.
_FOOTPRINT_PARTS = 8


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
        return cells_touching(to_grid_crs(aoi_lonlat, self.grid.epsg), self.x, self.y, self.grid.stride_m)

    def grown(self, tiles: int) -> GridExtent:
        """The same and so many tiles more on each side."""
        rows, columns = self.tile_rows, self.tile_columns
        return replace(
            self,
            tile_rows=range(rows.start - tiles, rows.stop + tiles),
            tile_columns=range(columns.start - tiles, columns.stop + tiles),
        )

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

    def tile_footprint(self, tile: Tile, gsd_m: float | None = None) -> BaseGeometry:
        """The ground that the chips of a tile see, in EPSG:4326, cut at the antimeridian where it goes across.

        Args:
            tile: Which tile.
            gsd_m: Edge of a pixel, metres: the footprint gets a margin of one, which resampling looks at. None: no
                margin.
        """
        margin = gsd_m or 0.0
        west, south = (i * self.tile_chips * self.grid.stride_m for i in (tile.column, tile.row))
        edge = (self.tile_chips - 1) * self.grid.stride_m + self.grid.chip_size_m
        box = shapely.box(west - margin, south - margin, west + edge + margin, south + edge + margin)
        outline = shapely.segmentize(box, edge / _FOOTPRINT_PARTS)
        lonlat = shapely.transform(outline, lambda xy: to_lonlat(xy[:, 0], xy[:, 1], self.grid.epsg))
        return split_at_antimeridian(lonlat, f"Tile {tile.name}")

    def chip_size_px(self, gsd_m: float) -> int:
        """Edge of a chip, pixels."""
        return _whole_pixels("chip_size_m", self.grid.chip_size_m, gsd_m)

    def stride_px(self, gsd_m: float) -> int:
        """Stride, pixels."""
        return _whole_pixels("stride_m", self.grid.stride_m, gsd_m)


def _whole_pixels(name: str, length_m: float, gsd_m: float) -> int:
    pixels = round(length_m / gsd_m)
    if pixels < 1 or abs(pixels * gsd_m - length_m) > 1e-6 * length_m:
        raise GridError(
            f"{name} is {length_m:g} m, which is {length_m / gsd_m:g} pixels of {gsd_m:g} m. "
            f"Expected a whole number of pixels: {max(1, pixels) * gsd_m:g} m, for example."
        )
    return pixels
