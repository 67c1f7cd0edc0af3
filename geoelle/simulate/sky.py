"""What stands between the ground and the sensor on one day: cloud and its shadow, cirrus, haze, the swath's edge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoelle.simulate.noise import Field, coarse_power_law, enlarge, generator, power_law
from geoelle.simulate.plane import Plane
from geoelle.simulate.settings import SimulationConfig
from geoelle.simulate.surfaces import BAND_NAMES

_STEP = 4
"""Clouds are drawn on every fourth pixel."""
_PATH = (0.34, 0.31, 0.26, 0.23, 0.22, 0.21, 0.20, 0.19, 0.18, 0.17, 0.12, 0.09)
"""Reflectance of a fully hazy sky, per band of `BAND_NAMES`: bluish."""
_SHADE_KEPT = (0.62, 0.56, 0.48, 0.43, 0.41, 0.39, 0.37, 0.36, 0.35, 0.35, 0.32, 0.30)
"""Light left in a full cloud shadow: skylight, so more of the blue."""


@dataclass(frozen=True, slots=True)
class DayPlan:
    """What kind of sky a day gets."""

    cloud_share: float
    veil: str
    """`cirrus`, `haze` or nothing."""
    edge: bool


@dataclass(frozen=True, slots=True)
class Sky:
    """Layers on the plane's lattice; None where the day has none of it."""

    cloud: Field | None
    """Opacity, 0 to 1."""
    shadow: Field | None
    veil: Field | None
    """Opacity of cirrus or haze."""
    is_cirrus: bool
    valid: NDArray[np.bool_] | None
    """Inside the swath."""


def plan_days(config: SimulationConfig) -> tuple[DayPlan, ...]:
    """Deal clouds, veils and swath edges out over the dates.

    Shares are dealt from fixed quantiles in a drawn order, so the mean comes out as asked for with few dates too.
    """
    n = len(config.days)
    rng = generator(config.seed, "days")
    if isinstance(config.cloud_share, tuple):
        shares = [float(s) for s in config.cloud_share]
    else:
        # Cubed: most days are nearly clear, a few are mostly cloud. The mean of q ** 3 is a quarter.
        quantiles = (rng.permutation(n) + 0.5) / n
        shares = [min(0.97, 4.0 * config.cloud_share * float(q) ** 3) for q in quantiles]
        shares = [s if s > 0.01 else 0.0 for s in shares]
    veiled = {
        int(k): ("cirrus", "haze")[i % 2] for i, k in enumerate(rng.permutation(n)[: round(config.haze_share * n)])
    }
    edged = {int(k) for k in rng.permutation(n)[: round(config.edge_share * n)]}
    return tuple(DayPlan(share, veiled.get(k, ""), k in edged) for k, share in enumerate(shares))


def draw_sky(config: SimulationConfig, plane: Plane, plan: DayPlan, day: str, sun: tuple[float, float]) -> Sky:
    """The sky of one day; `sun` is elevation and azimuth in degrees."""
    cloud = shadow = veil = None
    if plan.cloud_share > 0:
        cloud, shadow = _clouds(config.seed, plane, plan.cloud_share, day, sun)
    if plan.veil == "cirrus":
        rng = generator(config.seed, "cirrus", day)
        streaks = coarse_power_law(plane.shape, rng, beta=2.9, step=_STEP, stretch=(1.0, 0.28))
        veil = np.clip(0.14 * (streaks - 0.1), 0.0, 0.42).astype(np.float32)
    elif plan.veil == "haze":
        rng = generator(config.seed, "haze", day)
        level = rng.uniform(0.09, 0.17)
        veil = np.clip(level + 0.035 * coarse_power_law(plane.shape, rng, beta=3.6, step=_STEP), 0.01, 0.4)
        veil = veil.astype(np.float32)
    valid = _swath(config, plane, day) if plan.edge else None
    return Sky(cloud, shadow, veil, plan.veil == "cirrus", valid)


def look_through(image: Field, band: str, sky: Sky) -> Field:
    """The reflectance of `band` as seen through `sky`."""
    k = BAND_NAMES.index(band)
    if sky.shadow is not None:
        image = image * (1.0 - np.float32(1.0 - _SHADE_KEPT[k]) * sky.shadow)
    if sky.veil is not None:
        path = np.float32(_PATH[k] if not sky.is_cirrus else 0.30)
        image = image + (path - image) * sky.veil
    if sky.cloud is not None:
        image = image + (np.float32(0.40) + np.float32(0.24) * sky.cloud - image) * sky.cloud
    return image


def classify(ground: NDArray[np.uint8], sky: Sky) -> NDArray[np.uint8]:
    """Sen2Cor-like scene classification: what the sky hides of `ground`'s classes."""
    scl = ground.copy()
    if sky.shadow is not None:
        scl[sky.shadow > 0.30] = 3
    if sky.veil is not None and sky.is_cirrus:
        scl[sky.veil > 0.10] = 10
    if sky.cloud is not None:
        scl[sky.cloud > 0.12] = 7
        scl[sky.cloud > 0.20] = 8
        scl[sky.cloud > 0.55] = 9
    return scl


def _clouds(seed: int, plane: Plane, share: float, day: str, sun: tuple[float, float]) -> tuple[Field, Field]:
    rng = generator(seed, "cloud", day)
    small = (max(8, -(-plane.shape[0] // _STEP) + 1), max(8, -(-plane.shape[1] // _STEP) + 1))
    # Full overcast is smoother and wider than scattered cumulus.
    field = power_law(small, rng, beta=2.5 + 0.7 * share, outer_px=90.0 + 250.0 * share)
    field = field + 0.10 * power_law(small, rng, beta=1.5)
    level = float(np.quantile(field, 1.0 - share))
    opacity = np.clip(1.0 - np.exp(-((field - level) / 0.34 + 0.22)), 0.0, 0.97).astype(np.float32)

    elevation, azimuth = math.radians(max(sun[0], 12.0)), math.radians(sun[1])
    length_px = rng.uniform(500.0, 1_300.0) / math.tan(elevation) / (plane.gsd_m * _STEP)
    # A cloud at p darkens p + length away from the sun; rows grow southwards.
    away = (length_px * math.cos(azimuth), -length_px * math.sin(azimuth))
    shadow = ndimage.shift(opacity, away, order=1, mode="nearest", output=np.float32)
    shadow = np.clip(1.15 * ndimage.gaussian_filter(shadow, 0.8), 0.0, 1.0).astype(np.float32)
    return enlarge(opacity, plane.shape, _STEP), enlarge(shadow, plane.shape, _STEP)


def _swath(config: SimulationConfig, plane: Plane, day: str) -> NDArray[np.bool_]:
    """A half plane: the swath's edge runs as the orbit does, about 13 degrees off north."""
    rng = generator(config.seed, "swath", day)
    tilt = math.radians(13.0)
    across = plane.x[None, :] * math.cos(tilt) + plane.y[:, None] * math.sin(tilt)
    # Never past the middle, so that every date keeps pixels, also in an area a few chips wide.
    at = rng.uniform(0.08, 0.30) * config.width_m
    return np.asarray(across < at if rng.random() < 0.5 else across > -at)
