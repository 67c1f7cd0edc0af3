"""Where things are: one local metric plane for the landscape, and the granules' grids laid over it.

The landscape is made once, in a transverse Mercator plane about the centre, and sampled into each granule's own
grid. So granules in two UTM zones show the same ground, as two granules of one Sentinel-2 acquisition do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from scipy import ndimage

from geoelle.errors import ConfigError
from geoelle.simulate.noise import Field
from geoelle.simulate.settings import SimulationConfig

_KNOT_PX = 32
"""Map projections are computed at every 32nd pixel and interpolated: wrong by less than a millimetre at 10 m."""
_MARGIN_PX = 4
"""The landscape reaches this far beyond the granules, for the sampling kernel."""
_COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_BANDS = "CDEFGHJKLMNPQRSTUVWX"


@dataclass(frozen=True, slots=True)
class Granule:
    """The grid of one item: CRS, affine and shape."""

    epsg: int
    mgrs_tile: str
    left: float
    top: float
    step_x: float
    step_y: float
    width: int
    height: int

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients a to f, y descending."""
        return (self.step_x, 0.0, self.left, 0.0, -self.step_y, self.top)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in the granule's CRS."""
        return (self.left, self.top - self.height * self.step_y, self.left + self.width * self.step_x, self.top)


@dataclass(frozen=True, slots=True)
class Plane:
    """The landscape's lattice: pixel centres at `x0 + j * gsd`, `y0 - i * gsd` in the local plane."""

    crs: str
    x0: float
    y0: float
    gsd_m: float
    shape: tuple[int, int]

    @property
    def x(self) -> Field:
        """Metres east of the centre, per column."""
        return (self.x0 + np.arange(self.shape[1]) * self.gsd_m).astype(np.float32)

    @property
    def y(self) -> Field:
        """Metres north of the centre, per row."""
        return (self.y0 - np.arange(self.shape[0]) * self.gsd_m).astype(np.float32)

    def to(self, epsg: int) -> Any:
        """Transformer from the plane to `epsg`, x first."""
        return Transformer.from_crs(self.crs, f"EPSG:{epsg}", always_xy=True)


def lay_out(config: SimulationConfig) -> tuple[Plane, tuple[Granule, ...]]:
    """The granules that cover the area, and the landscape lattice that covers the granules.

    Raises:
        ConfigError: If two zones are asked for and the area does not straddle their boundary.
    """
    lon, lat = config.centre_lon, config.centre_lat
    crs = f"+proj=tmerc +lat_0={lat!r} +lon_0={lon!r} +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs"
    half_w, half_h = config.width_m / 2, config.height_m / 2
    if config.layout == "lonlat":
        granules: tuple[Granule, ...] = (_lonlat_granule(config, crs, half_w, half_h),)
    elif config.layout == "single":
        granules = (_utm_granule(config, crs, _zone(lon), -half_w, half_w, half_h),)
    else:
        edge_lon = 6.0 * round(lon / 6.0)
        to_plane = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        edge = [to_plane.transform(edge_lon, lat + dy / 111_000.0)[0] for dy in (-half_h, 0.0, half_h)]
        if not (abs(edge_lon) < 180 and -half_w < min(edge) and max(edge) < half_w):
            raise ConfigError(
                f"An area {config.width_m:.0f} m wide about longitude {lon} does not straddle two UTM zones; "
                f"move it towards longitude {edge_lon:.0f} or choose layout single."
            )
        # The last metres of the area may be narrower than the overlap: a granule never leaves the area's width.
        west = _utm_granule(
            config, crs, _zone(edge_lon - 3), -half_w, min(half_w, max(edge) + config.overlap_m), half_h
        )
        east = _utm_granule(
            config, crs, _zone(edge_lon + 3), max(-half_w, min(edge) - config.overlap_m), half_w, half_h
        )
        granules = (west, east)
    return _lattice(crs, config.gsd_m, granules), granules


def area_ring(config: SimulationConfig, plane: Plane) -> list[list[float]]:
    """The area of interest as a closed ring of longitudes and latitudes, counter-clockwise."""
    half_w, half_h = config.width_m / 2, config.height_m / 2
    corners = [(-half_w, -half_h), (half_w, -half_h), (half_w, half_h), (-half_w, half_h), (-half_w, -half_h)]
    lons, lats = plane.to(4326).transform(*np.array(corners).T)
    return [[round(float(a), 7), round(float(b), 7)] for a, b in zip(lons, lats, strict=True)]


def footprint(granule: Granule) -> list[list[float]]:
    """The granule's outline as a closed ring of longitudes and latitudes."""
    left, bottom, right, top = granule.bounds
    to_lonlat = Transformer.from_crs(f"EPSG:{granule.epsg}", "EPSG:4326", always_xy=True)
    lons, lats = to_lonlat.transform([left, right, right, left, left], [bottom, bottom, top, top, bottom])
    return [[round(float(a), 7), round(float(b), 7)] for a, b in zip(lons, lats, strict=True)]


def sample_positions(plane: Plane, granule: Granule) -> Field:
    """(2, height, width): row and column of the landscape lattice under each of the granule's pixel centres."""
    rows = np.arange(0, granule.height + _KNOT_PX, _KNOT_PX)
    columns = np.arange(0, granule.width + _KNOT_PX, _KNOT_PX)
    at_x = granule.left + (columns + 0.5) * granule.step_x
    at_y = granule.top - (rows + 0.5) * granule.step_y
    to_plane = Transformer.from_crs(f"EPSG:{granule.epsg}", plane.crs, always_xy=True)
    x, y = to_plane.transform(*np.meshgrid(at_x, at_y))
    knots = np.stack([(plane.y0 - y) / plane.gsd_m, (x - plane.x0) / plane.gsd_m])
    return np.stack([_interpolate(k, granule.height, granule.width) for k in knots])


def resample(field: Field, positions: Field) -> Field:
    """`field` at `positions`, seen through a cubic B-spline.

    The kernel is smoothing on purpose: it stands for the sensor's point spread and blurs by the same amount
    wherever a sample falls between pixels, so sharpness shows no moire that an encoder would take for texture.
    """
    out = ndimage.map_coordinates(field, positions, order=3, prefilter=False, mode="nearest", output=np.float32)
    return np.asarray(out, dtype=np.float32)


def nearest_index(positions: Field, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Flat index of the lattice pixel nearest to each position, for masks and classes."""
    row = np.clip(np.rint(positions[0]), 0, shape[0] - 1).astype(np.intp)
    column = np.clip(np.rint(positions[1]), 0, shape[1] - 1).astype(np.intp)
    return np.asarray(row * shape[1] + column, dtype=np.intp)


def _interpolate(knots: NDArray[np.float64], height: int, width: int) -> Field:
    # Rows, then columns: bilinear in float64, since float32 would lose the hundredth of a pixel.
    at_row = np.arange(height) / _KNOT_PX
    at_column = np.arange(width) / _KNOT_PX
    i, j = at_row.astype(int), at_column.astype(int)
    wi, wj = (at_row - i)[:, None], (at_column - j)[None, :]
    by_row = knots[i] * (1 - wi) + knots[np.minimum(i + 1, knots.shape[0] - 1)] * wi
    full = by_row[:, j] * (1 - wj) + by_row[:, np.minimum(j + 1, knots.shape[1] - 1)] * wj
    return np.asarray(full, dtype=np.float32)


def _lattice(crs: str, gsd_m: float, granules: tuple[Granule, ...]) -> Plane:
    low_x, low_y, high_x, high_y = math.inf, math.inf, -math.inf, -math.inf
    for granule in granules:
        to_plane = Transformer.from_crs(f"EPSG:{granule.epsg}", crs, always_xy=True)
        box = to_plane.transform_bounds(*granule.bounds)
        low_x, low_y = min(low_x, box[0]), min(low_y, box[1])
        high_x, high_y = max(high_x, box[2]), max(high_y, box[3])
    x0 = math.floor(low_x / gsd_m - _MARGIN_PX) * gsd_m
    y0 = math.ceil(high_y / gsd_m + _MARGIN_PX) * gsd_m
    nx = math.ceil((high_x - x0) / gsd_m) + _MARGIN_PX
    ny = math.ceil((y0 - low_y) / gsd_m) + _MARGIN_PX
    return Plane(crs, x0, y0, gsd_m, (ny, nx))


def _zone(lon: float) -> int:
    return int((lon + 180.0) // 6.0) % 60 + 1


def _utm_granule(config: SimulationConfig, crs: str, zone: int, west: float, east: float, half_h: float) -> Granule:
    north = config.centre_lat >= 0
    epsg = (32600 if north else 32700) + zone
    box = Transformer.from_crs(crs, f"EPSG:{epsg}", always_xy=True).transform_bounds(west, -half_h, east, half_h)
    gsd = config.gsd_m
    left, bottom = math.floor(box[0] / gsd), math.floor(box[1] / gsd)
    right, top = math.ceil(box[2] / gsd), math.ceil(box[3] / gsd)
    tile = _mgrs_tile(zone, config.centre_lat, (left + right) / 2 * gsd, (bottom + top) / 2 * gsd)
    return Granule(epsg, tile, left * gsd, top * gsd, gsd, gsd, right - left, top - bottom)


def _lonlat_granule(config: SimulationConfig, crs: str, half_w: float, half_h: float) -> Granule:
    box = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform_bounds(-half_w, -half_h, half_w, half_h)
    step_y = round(config.gsd_m / 111_132.0, 10)
    step_x = round(config.gsd_m / (111_320.0 * math.cos(math.radians(config.centre_lat))), 10)
    utm = _utm_granule(config, crs, _zone(config.centre_lon), -half_w, half_w, half_h)
    width, height = math.ceil((box[2] - box[0]) / step_x), math.ceil((box[3] - box[1]) / step_y)
    return Granule(4326, utm.mgrs_tile, round(box[0], 9), round(box[3], 9), step_x, step_y, width, height)


def _mgrs_tile(zone: int, lat: float, easting: float, northing: float) -> str:
    # The 100 km square: column letters repeat every three zones, row letters start at A or F by the zone's parity.
    column = _COLUMNS[(zone - 1) % 3][max(0, min(7, int(easting // 100_000) - 1))]
    row = _ROWS[(int(northing // 100_000) + (5 if zone % 2 == 0 else 0)) % 20]
    return f"{zone:02d}{_BANDS[max(0, min(19, int((lat + 80) // 8)))]}{column}{row}"
