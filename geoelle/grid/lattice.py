"""The chip lattice: where chips lie and what they are called.

A grid is (projected CRS, chip size, stride), counted from the CRS origin: chip (row, column) has its lower left
corner at (column x stride, row x stride). Rows count northwards. So a chip's id depends on nothing but the grid.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
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
        """Longitude (-180 up to, not including, 180) and latitude of chip centres, degrees, of shape (chip, 2)."""
        return to_lonlat(*self.centre(rows, columns), self.epsg)

    def corners_lonlat(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Longitude and latitude of chip corners, degrees, of shape (corner, chip, 2)."""
        x, y = self.centre(rows, columns)
        half = self.chip_size_m / 2
        return np.stack([to_lonlat(x + i * half, y + j * half, self.epsg) for i in (-1, 1) for j in (-1, 1)])


def to_grid_crs(geometry_lonlat: BaseGeometry, epsg: int) -> BaseGeometry:
    """A geometry in EPSG:4326 carried to a projected CRS, its edges densified so that they bend as they should."""
    project = _transformer(4326, epsg).transform
    dense = shapely.segmentize(geometry_lonlat, _MAX_SEGMENT_DEG)
    return shapely.transform(dense, lambda xy: np.stack(project(xy[:, 0], xy[:, 1]), axis=-1))


def to_lonlat(x: NDArray[np.float64], y: NDArray[np.float64], epsg: int) -> NDArray[np.float64]:
    """Longitude (-180 up to, not including, 180) and latitude of projected coordinates, degrees, shape (…, 2)."""
    lon, lat = _transformer(epsg, 4326).transform(x, y)
    lon = np.asarray(lon, float)
    return np.stack([np.where(lon >= 180, lon - 360, lon), np.asarray(lat, float)], axis=-1)


@lru_cache(maxsize=256)
def _transformer(source: int, target: int) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)
