"""What the ground is made of and how it changes with the season: spectra and phenology per kind of surface.

Reflectances are typical values for Sentinel-2's bands, rounded; they are to look right, not to be retrieved from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from geoelle.sensors import SENTINEL_2_L2A
from geoelle.simulate.noise import generator, uniform

BAND_NAMES = tuple(band.name for band in SENTINEL_2_L2A.bands)


class Kind(IntEnum):
    """Kinds of surface. A unit (a parcel, a stand, a house plot) is of one kind."""

    WATER = 0
    CONIFER = 1
    BROADLEAF = 2
    CEREAL = 3
    MAIZE = 4
    RAPESEED = 5
    GRASS = 6
    FALLOW = 7
    ORCHARD = 8
    ROOF_RED = 9
    ROOF_GREY = 10
    STREET = 11
    GARDEN = 12
    HALL = 13
    GRAVEL = 14
    TRACK = 15
    HEDGE = 16


FOREST = (Kind.CONIFER, Kind.BROADLEAF)

# One value per band of `BAND_NAMES`: coastal, blue, green, red, red edge 1-3, nir, nir08, nir09, swir16, swir22.
_SPECTRA: dict[str, tuple[float, ...]] = {
    "water": (0.032, 0.034, 0.036, 0.024, 0.022, 0.016, 0.015, 0.013, 0.012, 0.012, 0.008, 0.006),
    "soil": (0.050, 0.066, 0.095, 0.130, 0.148, 0.165, 0.178, 0.195, 0.205, 0.215, 0.275, 0.235),
    "litter": (0.024, 0.030, 0.044, 0.052, 0.074, 0.100, 0.112, 0.122, 0.130, 0.135, 0.150, 0.095),
    "crop": (0.018, 0.024, 0.060, 0.030, 0.095, 0.290, 0.370, 0.400, 0.415, 0.415, 0.175, 0.080),
    "flower": (0.030, 0.038, 0.125, 0.110, 0.170, 0.310, 0.370, 0.400, 0.410, 0.410, 0.190, 0.095),
    "straw": (0.060, 0.082, 0.125, 0.170, 0.200, 0.225, 0.245, 0.265, 0.280, 0.290, 0.330, 0.245),
    "grass": (0.020, 0.028, 0.066, 0.042, 0.110, 0.260, 0.310, 0.335, 0.350, 0.350, 0.210, 0.110),
    "conifer": (0.012, 0.015, 0.028, 0.018, 0.044, 0.130, 0.165, 0.180, 0.190, 0.190, 0.080, 0.035),
    "leaf": (0.014, 0.018, 0.044, 0.022, 0.075, 0.240, 0.310, 0.335, 0.350, 0.350, 0.145, 0.060),
    "tile": (0.060, 0.078, 0.105, 0.170, 0.185, 0.200, 0.210, 0.225, 0.235, 0.240, 0.270, 0.255),
    "slate": (0.085, 0.100, 0.112, 0.120, 0.125, 0.130, 0.135, 0.142, 0.145, 0.150, 0.165, 0.160),
    "asphalt": (0.068, 0.080, 0.092, 0.100, 0.106, 0.112, 0.118, 0.124, 0.128, 0.132, 0.150, 0.145),
    "metal": (0.190, 0.215, 0.235, 0.245, 0.250, 0.255, 0.260, 0.265, 0.265, 0.265, 0.260, 0.240),
    "gravel": (0.105, 0.130, 0.160, 0.185, 0.195, 0.205, 0.212, 0.225, 0.230, 0.235, 0.280, 0.270),
    "char": (0.034, 0.040, 0.047, 0.060, 0.067, 0.074, 0.080, 0.088, 0.094, 0.100, 0.175, 0.190),
    "muddy": (0.052, 0.064, 0.094, 0.104, 0.098, 0.062, 0.058, 0.050, 0.042, 0.040, 0.020, 0.015),
    "mud": (0.044, 0.056, 0.080, 0.102, 0.110, 0.118, 0.124, 0.132, 0.138, 0.140, 0.130, 0.095),
    "felled": (0.048, 0.062, 0.090, 0.118, 0.140, 0.160, 0.178, 0.195, 0.205, 0.210, 0.290, 0.220),
}


@dataclass(frozen=True, slots=True)
class _Season:
    """Ground, what grows on it and what remains: shares follow logistic rises and falls over the days of a year."""

    ground: str
    leaf: str = "crop"
    base: float = 0.0
    """Green share outside the season."""
    peak: float = 0.0
    """What the season adds."""
    rise: tuple[float, float] = (100.0, 10.0)
    """Day of half rise, and steepness in days."""
    fall: tuple[float, float] = (280.0, 10.0)
    dry: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Share of straw, and the days between which it stands."""
    rotates: bool = False
    """Whether another crop may follow next year."""


_SEASONS: dict[Kind, _Season] = {
    Kind.WATER: _Season("water"),
    Kind.CONIFER: _Season("litter", "conifer", 0.86, 0.06, (120, 20), (290, 20)),
    Kind.BROADLEAF: _Season("litter", "leaf", 0.10, 0.82, (116, 6), (296, 9)),
    Kind.CEREAL: _Season("soil", "crop", 0.16, 0.74, (88, 13), (176, 7), (0.75, 172, 212), True),
    Kind.MAIZE: _Season("soil", "crop", 0.03, 0.88, (176, 9), (262, 9), (0.45, 262, 292), True),
    Kind.RAPESEED: _Season("soil", "crop", 0.24, 0.66, (76, 13), (176, 8), (0.60, 176, 214), True),
    Kind.GRASS: _Season("soil", "grass", 0.50, 0.40, (98, 13), (292, 18)),
    Kind.FALLOW: _Season("soil", "grass", 0.10, 0.30, (120, 20), (240, 25), (0.25, 200, 300), True),
    Kind.ORCHARD: _Season("soil", "leaf", 0.18, 0.42, (118, 9), (290, 12)),
    Kind.ROOF_RED: _Season("tile"),
    Kind.ROOF_GREY: _Season("slate"),
    Kind.STREET: _Season("asphalt", "leaf", 0.06, 0.06, (116, 8), (296, 9)),
    Kind.GARDEN: _Season("soil", "leaf", 0.34, 0.42, (108, 10), (296, 12)),
    Kind.HALL: _Season("metal"),
    Kind.GRAVEL: _Season("gravel", "grass", 0.02, 0.05, (110, 15), (280, 15)),
    Kind.TRACK: _Season("gravel", "grass", 0.30, 0.20, (105, 12), (290, 15)),
    Kind.HEDGE: _Season("litter", "leaf", 0.25, 0.65, (114, 8), (296, 9)),
}

_CROPS = (Kind.CEREAL, Kind.MAIZE, Kind.CEREAL, Kind.RAPESEED, Kind.CEREAL, Kind.MAIZE, Kind.FALLOW)
_ROTATION_SHARE = 0.35
"""Share of arable parcels that grow something else the next year: the honest nuisance of any change map."""


@dataclass(frozen=True, slots=True)
class Units:
    """What is known per unit: arrays of one length."""

    kind: NDArray[np.int16]
    key: NDArray[np.uint64]
    """Hash that identifies the unit; every per-unit draw follows from it."""


@dataclass(frozen=True, slots=True)
class UnitLook:
    """How each unit looks on one day."""

    mean: NDArray[np.float32]
    """(unit, band) reflectance."""
    green: NDArray[np.float32]
    """(unit,) share covered by green leaves."""
    greener: NDArray[np.float32]
    """(unit, band) what one more share of green would change."""


def spectrum(material: str, bands: tuple[str, ...]) -> NDArray[np.float32]:
    """Reflectance of a material in `bands`."""
    values = _SPECTRA[material]
    return np.array([values[BAND_NAMES.index(band)] for band in bands], dtype=np.float32)


def look_on(units: Units, day: date, bands: tuple[str, ...], seed: int) -> UnitLook:
    """The units' reflectance on `day`: season, the year's weather, the parcel's own date and vigour, rotation."""
    key = (units.key >> np.uint64(1)).astype(np.int64)
    weather = generator(seed, "year", day.year)
    year_shift, year_vigour = 5.0 * weather.standard_normal(), 1.0 + 0.04 * weather.standard_normal()
    kind = _kind_in_year(units.kind, key, day.year, seed)
    own = (uniform(seed, 11, key) - 0.5, uniform(seed, 12, key) - 0.5, uniform(seed, 13, key) - 0.5)
    yearly = uniform(seed, 14, day.year, key) - 0.5
    doy = day.timetuple().tm_yday - year_shift - 16.0 * own[0] - 8.0 * yearly

    n = len(kind)
    mean = np.empty((n, len(bands)), dtype=np.float32)
    greener = np.empty_like(mean)
    green = np.empty(n, dtype=np.float32)
    straw = spectrum("straw", bands)
    for which in Kind:
        rows = np.flatnonzero(kind == which)
        if not rows.size:
            continue
        season = _SEASONS[which]
        share = _green_share(season, doy[rows]) * (1.0 + 0.20 * own[1][rows]) * year_vigour
        if which is Kind.GRASS:  # mown, parcel by parcel, once or twice a summer
            since = (doy[rows] - 150.0 - 60.0 * uniform(seed, 15, day.year, key[rows])) / 35.0
            share = share - 0.35 * np.where((since > 0) & (since < 1), 1.0 - since, 0.0)
        share = np.clip(share, 0.0, 0.95)[:, None]
        dry_share = np.clip(season.dry[0] * _window(doy[rows], season.dry[1], season.dry[2], 5.0), 0.0, 1.0)[:, None]
        dry_share = np.minimum(dry_share, 1.0 - share)
        leaf: NDArray[np.floating] = np.broadcast_to(spectrum(season.leaf, bands), (rows.size, len(bands)))
        if which is Kind.RAPESEED:
            bloom = 0.8 * _window(doy[rows], 100.0, 132.0, 3.0)[:, None]
            leaf = leaf * (1 - bloom) + spectrum("flower", bands) * bloom
        tone = 0.22 if which >= Kind.ROOF_RED else 0.36 if which >= Kind.CEREAL else 0.16
        ground = spectrum(season.ground, bands)[None, :] * (1.0 + tone * own[2][rows][:, None])
        mean[rows] = ground * (1 - share - dry_share) + leaf * share + straw * dry_share
        greener[rows] = leaf - ground
        green[rows] = share[:, 0]
    return UnitLook(mean, green, greener)


def sun_position(day: date, lon: float, lat: float, hour_utc: float) -> tuple[float, float]:
    """Elevation and azimuth of the sun in degrees, to about half a degree."""
    turn = 2.0 * math.pi * (day.timetuple().tm_yday - 1 + (hour_utc - 12.0) / 24.0) / 365.25
    declination = (
        0.006918 - 0.399912 * math.cos(turn) + 0.070257 * math.sin(turn)
        - 0.006758 * math.cos(2 * turn) + 0.000907 * math.sin(2 * turn)
    )  # fmt: skip
    minutes = 229.18 * (
        0.000075 + 0.001868 * math.cos(turn) - 0.032077 * math.sin(turn)
        - 0.014615 * math.cos(2 * turn) - 0.040849 * math.sin(2 * turn)
    )  # fmt: skip
    hour_angle = math.radians((hour_utc * 60.0 + minutes + 4.0 * lon) / 4.0 - 180.0)
    phi = math.radians(lat)
    sine = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(hour_angle)
    azimuth = math.atan2(
        -math.cos(declination) * math.sin(hour_angle),
        math.sin(declination) * math.cos(phi) - math.cos(declination) * math.sin(phi) * math.cos(hour_angle),
    )
    return math.degrees(math.asin(sine)), math.degrees(azimuth) % 360.0


def _kind_in_year(kind: NDArray[np.int16], key: NDArray[np.int64], year: int, seed: int) -> NDArray[np.int16]:
    rotating = np.isin(kind, [k for k, season in _SEASONS.items() if season.rotates])
    rotating &= uniform(seed, 16, key) < _ROTATION_SHARE
    draw = (uniform(seed, 17, year, key) * len(_CROPS)).astype(int)
    return np.where(rotating, np.array(_CROPS, dtype=np.int16)[draw], kind)


def _green_share(season: _Season, doy: NDArray[np.float64]) -> NDArray[np.float64]:
    rise = _logistic((doy - season.rise[0]) / season.rise[1])
    fall = _logistic((doy - season.fall[0]) / season.fall[1])
    # A crop that is harvested takes its winter share along with it.
    base = season.base * (1.0 - 0.7 * fall) if season.rotates else season.base
    return np.asarray(base + season.peak * np.clip(rise - fall, 0.0, 1.0))


def _window(doy: NDArray[np.float64], first: float, last: float, days: float) -> NDArray[np.float64]:
    return np.asarray(_logistic((doy - first) / days) * _logistic((last - doy) / days))


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -40.0, 40.0))))
