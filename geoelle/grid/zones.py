"""An area's chips, UTM zone by UTM zone: every chip once, in the zone of its centre.

Northern and southern zones are two grids (326xx and 327xx): a chip whose centre lies on the equator or north of it is
of the northern one. Where the cell that ground lies in has its centre beyond the zone's border, the chips next to it
that do belong to the zone are taken instead. So with a stride of at most half the chip size every piece of the area is
in some chip. With a larger stride, strips along a zone border may lie between the chips of both zones; they are
narrower than stride_m - chip_size_m / 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from geoelle.antimeridian import polygons_of, turned
from geoelle.errors import GridError
from geoelle.grid.cells import touching
from geoelle.grid.extent import GridExtent, Tile
from geoelle.grid.lattice import ChipGrid, to_grid_crs, to_lonlat

_N_ZONES, _ZONE_DEG, _LIMIT_DEG = 60, 6.0, 84.0
_SOUTHERN_EQUATOR_M = 10_000_000.0
"""Northing of the equator in the southern zones."""
_METRES_PER_DEG = 110_500.0
"""At least so long is a degree of latitude, and one of longitude on the equator."""
_BLOCK = 64


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

    def wanted_tiles(self) -> Iterator[Tile]:
        """The tiles that hold a wanted chip, from north to south and west to east."""
        extent, n = self.extent, self.extent.tile_chips
        for i, j in zip(*np.nonzero(_tiles_with(self.wanted, n)), strict=True):
            row, column = extent.tile_rows[-1 - int(i)], extent.tile_columns[int(j)]
            yield Tile(row, column, slice(i * n, (i + 1) * n), slice(j * n, (j + 1) * n))


def zone_chips(area_lonlat: BaseGeometry, chip_size_m: float, stride_m: float, tile_chips: int) -> list[ZoneChips]:
    """An area's chips, zone by zone from west to east and north before south; every chip of the area exactly once.

    Those are the chips whose cell, of one stride around the chip's centre, holds some of the area; at a zone's border
    also those next to a cell whose centre lies in another zone. Every area gets a chip. An area within one zone gets
    whole tiles that cover it; of several zones each gets the tiles that hold its chips, and zones without are left out.

    Args:
        area_lonlat: Polygons in EPSG:4326, longitudes within -180 to 180.
        chip_size_m: Edge of a chip, metres.
        stride_m: Distance between chips, metres.
        tile_chips: Edge of a tile, chips.

    Raises:
        GridError: If the area reaches beyond UTM, or a number makes no sense.
    """
    west, south, east, north = area_lonlat.bounds
    if not (west >= -180 and east <= 180 and south >= -_LIMIT_DEG and north <= _LIMIT_DEG):
        raise GridError(
            f"The area reaches from ({west:g}, {south:g}) to ({east:g}, {north:g}), beyond UTM. Expected longitudes of "
            f"-180 to 180 and latitudes of -{_LIMIT_DEG:g} to {_LIMIT_DEG:g} degrees; cut the area there."
        )
    size, stride = float(chip_size_m), float(stride_m)
    ChipGrid(32601, size, stride)  # refuses lengths that make no sense
    lat_reach = 1.5 * stride / _METRES_PER_DEG  # how far from a chip's centre its cell may hold some of the area
    lon_reach = lat_reach / math.cos(math.radians(min(max(abs(south), abs(north)) + lat_reach, _LIMIT_DEG + 1)))
    found = []
    for zone in range(1, _N_ZONES + 1):
        left = _ZONE_DEG * zone - 186
        for first, bottom, top in ((32600, 0.0, 90.0), (32700, -90.0, 0.0)):
            window = (left - lon_reach, bottom - lat_reach, left + _ZONE_DEG + lon_reach, top + lat_reach)
            near = _within(area_lonlat, window)
            if near is None:
                continue
            grid = ChipGrid(first + zone, size, stride)
            chips = _of_zone(near, (left, bottom, left + _ZONE_DEG, top), grid, tile_chips)
            if chips is not None:
                found.append(chips)
    if not found:
        raise GridError("The area is too thin to touch a chip. Give an area of at least a few metres.")
    return found


def _within(area: BaseGeometry, window: tuple[float, float, float, float]) -> BaseGeometry | None:
    """What of an area lies in a window of longitudes and latitudes, whose longitudes may go beyond 180."""
    parts = shapely.get_parts(area)
    bounds = shapely.bounds(parts)
    pieces, turns = [], set()
    for turn in (-1, 0, 1):
        w, s, e, n = window[0] - 360 * turn, window[1], window[2] - 360 * turn, window[3]
        reaches = (bounds[:, 0] < e) & (bounds[:, 2] > w) & (bounds[:, 1] < n) & (bounds[:, 3] > s)
        inside = (bounds[:, 0] >= w) & (bounds[:, 2] <= e) & (bounds[:, 1] >= s) & (bounds[:, 3] <= n)
        if turn == 0 and inside.all():
            return area
        cut = [polygons_of(p) for p in shapely.intersection(parts[reaches & ~inside], shapely.box(w, s, e, n))]
        for piece in (*parts[inside], *(q for p in cut for q in shapely.get_parts(p))):
            pieces.append(turned(piece, turn))
            turns.add(turn)
    if not pieces:
        return None
    # Parts from either side of 180 become one where they meet.
    return shapely.union_all(pieces) if len(turns) > 1 else shapely.MultiPolygon(pieces)


def _of_zone(
    near: BaseGeometry, zone: tuple[float, float, float, float], grid: ChipGrid, tile_chips: int
) -> ZoneChips | None:
    extent = GridExtent.covering(grid, near, tile_chips)
    touched = extent.aoi_mask(near)
    own = _own(extent, zone[0])
    foreign = touched & ~own
    if not foreign.any():
        return ZoneChips(extent, touched)
    rows, columns = np.nonzero(foreign)
    ground = _within(near, zone)
    given_up = np.zeros(0, dtype=np.bool_)
    if ground is not None:
        given_up = touching(to_grid_crs(ground, grid.epsg), extent.x[columns], extent.y[rows], grid.stride_m)
    if given_up.any():
        extent = extent.grown(1)
        orphans = np.zeros(extent.shape, dtype=np.bool_)
        orphans[rows[given_up] + tile_chips, columns[given_up] + tile_chips] = True
        touched = np.pad(touched, tile_chips) | ndimage.binary_dilation(orphans, np.ones((3, 3), dtype=np.bool_))
        own = _own(extent, zone[0])
    return _trimmed(extent, touched & own)


def _own(extent: GridExtent, left: float) -> NDArray[np.bool_]:
    """Chips whose centre lies in the extent's own zone, which begins at longitude `left`, (y, x)."""
    x, y = extent.x, extent.y
    north = extent.grid.epsg < 32700
    hemisphere = y >= 0 if north else y < _SOUTHERN_EQUATOR_M
    own = np.zeros(extent.shape, dtype=np.bool_)

    def inside(columns: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        lon = to_lonlat(x[columns], y[rows], extent.grid.epsg)[..., 0]
        return np.asarray((lon - left) % 360 < _ZONE_DEG)

    for top in range(0, len(y), _BLOCK):
        rows = np.arange(top, min(top + _BLOCK, len(y)))
        starts = np.arange(0, len(x), _BLOCK)
        ends = np.minimum(starts + _BLOCK, len(x)) - 1
        # A zone is convex on its grid, so a block with its corners in it lies in it whole.
        whole = np.logical_and.reduce([inside(c, np.full(len(c), r)) for c in (starts, ends) for r in rows[[0, -1]]])
        for start, end, is_whole in zip(starts, ends, whole, strict=True):
            columns = np.arange(start, end + 1)
            c, r = np.meshgrid(columns, rows)
            own[top : rows[-1] + 1, start : end + 1] = True if is_whole else inside(c, r)
    return own & hemisphere[:, None]


def _tiles_with(wanted: NDArray[np.bool_], tile_chips: int) -> NDArray[np.bool_]:
    """Tiles with a wanted chip, (tile_y, tile_x), north first."""
    height, width = wanted.shape
    tiles = wanted.reshape(height // tile_chips, tile_chips, width // tile_chips, tile_chips)
    return np.asarray(tiles.any(axis=(1, 3)), dtype=np.bool_)


def _trimmed(extent: GridExtent, wanted: NDArray[np.bool_]) -> ZoneChips | None:
    """Without the outer tiles that hold no wanted chip; None where no tile does."""
    n = extent.tile_chips
    tiles = _tiles_with(wanted, n)
    if not tiles.any():
        return None
    i, j = (np.flatnonzero(tiles.any(axis=axis)) for axis in (1, 0))
    rows, columns = extent.tile_rows, extent.tile_columns
    part = GridExtent(
        extent.grid,
        n,
        range(rows.stop - 1 - int(i[-1]), rows.stop - int(i[0])),
        range(columns.start + int(j[0]), columns.start + int(j[-1]) + 1),
    )
    return ZoneChips(part, np.ascontiguousarray(wanted[i[0] * n : (i[-1] + 1) * n, j[0] * n : (j[-1] + 1) * n]))
