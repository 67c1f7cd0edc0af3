"""The ground that does not change from look to look: what lies where, how rough it is, how it slopes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from geoelle.simulate.noise import Field, coarse_power_law, generator, mix, power_law, uniform
from geoelle.simulate.plane import Plane
from geoelle.simulate.settings import SimulationConfig
from geoelle.simulate.surfaces import Kind, Units

_FOREST_SHARE = 0.32
_DISTRICT_M = 1_500.0
_ARABLE = (
    Kind.CEREAL, Kind.CEREAL, Kind.CEREAL, Kind.MAIZE, Kind.MAIZE, Kind.RAPESEED,
    Kind.GRASS, Kind.GRASS, Kind.GRASS, Kind.FALLOW, Kind.ORCHARD,
)  # fmt: skip

# Relative brightness texture per kind: standard deviation of rough (nearly white), medium and smooth noise.
_TEXTURE: dict[Kind, tuple[float, float, float]] = {
    Kind.WATER: (0.010, 0.010, 0.040),
    Kind.CONIFER: (0.150, 0.060, 0.040),
    Kind.BROADLEAF: (0.110, 0.070, 0.040),
    Kind.CEREAL: (0.016, 0.025, 0.040),
    Kind.MAIZE: (0.018, 0.020, 0.030),
    Kind.RAPESEED: (0.022, 0.030, 0.040),
    Kind.GRASS: (0.025, 0.050, 0.050),
    Kind.FALLOW: (0.030, 0.080, 0.060),
    Kind.ORCHARD: (0.080, 0.030, 0.030),
    Kind.ROOF_RED: (0.080, 0.0, 0.0),
    Kind.ROOF_GREY: (0.080, 0.0, 0.0),
    Kind.STREET: (0.050, 0.0, 0.020),
    Kind.GARDEN: (0.100, 0.050, 0.0),
    Kind.HALL: (0.050, 0.0, 0.0),
    Kind.GRAVEL: (0.060, 0.110, 0.060),
    Kind.TRACK: (0.060, 0.0, 0.0),
    Kind.HEDGE: (0.100, 0.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Landscape:
    """Layers on the plane's lattice, (y, x)."""

    unit: NDArray[np.int32]
    """Index into `units`."""
    units: Units
    rough: Field
    """Relative brightness texture."""
    patchy: Field
    """Texture of the green share, about -0.3 to 0.3."""
    slope_x: Field
    """Rise to the east, metres per metre."""
    slope_y: Field
    """Rise to the north."""
    stage: Field
    """Height above the river, metres: what a flood reaches first."""

    def kind(self) -> NDArray[np.int16]:
        """Kind of every pixel."""
        return np.asarray(self.units.kind[self.unit], dtype=np.int16)


def grow(config: SimulationConfig, plane: Plane) -> Landscape:
    """The landscape that follows from the config's seed."""
    seed, shape, gsd = config.seed, plane.shape, plane.gsd_m
    x = np.broadcast_to(plane.x[None, :], shape)
    y = np.broadcast_to(plane.y[:, None], shape)
    extent = min(config.width_m, config.height_m)
    step = max(1, min(8, min(shape) // 24))

    to_river, bank = _river(config, plane, extent, step)
    height = 70.0 * coarse_power_law(shape, generator(seed, "hills"), beta=3.4, step=step)
    height += 7.0 * coarse_power_law(shape, generator(seed, "knolls"), beta=2.6, step=max(1, step // 2))
    valley = np.exp(-((to_river / min(1_400.0, 0.16 * extent)) ** 2))
    # Interpolated noise has kinks between its knots, which a low sun would show as lines across the fields.
    height = ndimage.gaussian_filter(height, 1.2 * step)
    low = float(np.percentile(height, 12))
    height = (height - low) * (1.0 - 0.96 * valley)
    stage = np.asarray(np.abs(height) + 0.006 * np.abs(to_river), dtype=np.float32)

    density, in_town = _towns(config, plane, x, y, to_river, extent, step)
    wood = coarse_power_law(shape, generator(seed, "wood"), beta=2.3, step=max(1, step // 4))
    wood += 0.6 * height / max(float(height.std()), 1e-6) - 1.3 * valley
    forest = (wood > np.quantile(wood[::4, ::4], 1.0 - _FOREST_SHARE)) & ~in_town
    lake = _lake(config, plane, x, y, extent, step) & ~in_town
    water = (np.abs(to_river) < bank) | lake
    pits = _gravel_pits(config, x, y, extent, wood) & ~water & ~in_town

    lattice = _parcels(seed, plane, x, y, step)
    kind, key = lattice.kind, lattice.key
    needles = coarse_power_law(shape, generator(seed, "needles"), beta=2.0, step=step) + 0.3 * wood > 0.45
    kind = np.where(forest, np.where(needles, Kind.CONIFER, Kind.BROADLEAF), kind).astype(np.int16)
    key = np.where(forest, mix(seed, 21, lattice.stand) ^ needles.astype(np.uint64), key)
    kind, key = _settle(seed, x, y, in_town, density, kind, key)
    road = _roads(config, x, y, extent, shape, step, gsd)
    for mask, which, salt in ((pits, Kind.GRAVEL, 31), (road, Kind.STREET, 32), (water, Kind.WATER, 33)):
        kind[mask] = which
        key[mask] = mix(seed, salt)

    _, first, unit = np.unique(key.ravel(), return_index=True, return_inverse=True)
    units = Units(kind.ravel()[first], key.ravel()[first])
    unit_of: NDArray[np.int32] = np.asarray(unit.reshape(shape), dtype=np.int32)
    slope_y, slope_x = np.gradient(height, gsd)
    rough, patchy = _textures(seed, shape, units.kind[unit_of], lattice.across, gsd)
    return Landscape(
        unit=unit_of,
        units=units,
        rough=rough,
        patchy=patchy,
        slope_x=np.asarray(slope_x, dtype=np.float32),
        slope_y=np.asarray(-slope_y, dtype=np.float32),
        stage=stage,
    )


@dataclass(frozen=True, slots=True)
class _Parcels:
    kind: NDArray[np.int16]
    key: NDArray[np.uint64]
    stand: NDArray[np.int64]
    """Larger cells of the same lattice: forest stands."""
    across: Field
    """Metres across the rows a parcel is worked in."""


def _parcels(seed: int, plane: Plane, x: Field, y: Field, step: int) -> _Parcels:
    """Farmland: districts of one orientation each, cut into strips, cut into parcels."""
    rng = generator(seed, "districts")
    span_x, span_y = float(np.ptp(plane.x)), float(np.ptp(plane.y))
    pitch = min(_DISTRICT_M, 0.45 * min(span_x, span_y))
    n = max(4, round(span_x * span_y / pitch**2))
    seeds = np.column_stack(
        [rng.uniform(plane.x.min(), plane.x.max(), n), rng.uniform(plane.y.min(), plane.y.max(), n)]
    )
    warp = [0.12 * pitch * coarse_power_law(plane.shape, generator(seed, "warp", k), beta=2.8, step=step) for k in "xy"]
    points = np.stack([x + warp[0], y + warp[1]], axis=-1).reshape(-1, 2)
    district = cKDTree(seeds).query(points, workers=2)[1].reshape(plane.shape).astype(np.int64)

    angle = rng.uniform(0.0, math.pi, n)
    width, length = rng.uniform(70.0, 210.0, n), rng.uniform(190.0, 520.0, n)
    cos, sin = np.cos(angle).astype(np.float32)[district], np.sin(angle).astype(np.float32)[district]
    across, along = x * cos + y * sin, y * cos - x * sin
    strip_place = along / length.astype(np.float32)[district]
    strip = np.floor(strip_place).astype(np.int64)
    cell_width = (width[district] * (0.55 + uniform(seed, 22, district, strip))).astype(np.float32)
    cell_place = across / cell_width
    cell = np.floor(cell_place).astype(np.int64)
    key = mix(seed, 23, district, strip, cell)
    kind = np.array(_ARABLE, dtype=np.int16)[(uniform(seed, 24, key.view(np.int64)) * len(_ARABLE)).astype(int)]

    # Field roads between some strips, hedges between some parcels: a pixel wide.
    half = 0.6 * plane.gsd_m
    at_strip = (strip_place - strip) * length.astype(np.float32)[district] < 2 * half
    at_cell = (cell_place - cell) * cell_width < 2 * half
    track = at_strip & (uniform(seed, 25, district, strip) < 0.45)
    hedge = at_cell & (uniform(seed, 26, key.view(np.int64)) < 0.16) & ~track
    kind = np.where(track, Kind.TRACK, np.where(hedge, Kind.HEDGE, kind)).astype(np.int16)
    key = np.where(track, mix(seed, 27, district), np.where(hedge, mix(seed, 28, district), key))
    stand = mix(district, np.floor(across / 420.0).astype(np.int64), np.floor(along / 360.0).astype(np.int64))
    return _Parcels(kind, key, stand.view(np.int64), across.astype(np.float32))


def _river(config: SimulationConfig, plane: Plane, extent: float, step: int) -> tuple[Field, Field]:
    """Signed metres to the river's middle, and its half width."""
    rng = generator(config.seed, "river")
    angle = rng.uniform(0.5, 1.1) * rng.choice([-1.0, 1.0])
    x, y = plane.x[None, :], plane.y[:, None]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    bends = np.zeros_like(along)
    for wave, share in ((1.1, 0.050), (0.37, 0.026), (0.13, 0.010)):
        bends = bends + share * extent * np.sin(2 * math.pi * along / (wave * extent) + rng.uniform(0, 2 * math.pi))
    wander = coarse_power_law(plane.shape, generator(config.seed, "meander"), beta=3.6, step=step)
    # The distance below divides by a gradient, which would jump at every knot of the interpolation.
    wander = ndimage.gaussian_filter(wander, 1.2 * step)
    offset = across - bends - rng.uniform(-0.06, 0.06) * extent + 0.018 * extent * wander
    # Dividing by the gradient turns the implicit curve into a distance, so that bends keep their width.
    gy, gx = np.gradient(offset.astype(np.float32), plane.gsd_m)
    distance = offset / np.maximum(np.hypot(gx, gy), 0.3)
    half = max(min(55.0, 0.02 * extent), 0.8 * plane.gsd_m)
    width = half * (1.0 + 0.25 * coarse_power_law(plane.shape, generator(config.seed, "banks"), beta=3.0, step=step))
    return distance.astype(np.float32), np.maximum(width, 0.6 * plane.gsd_m).astype(np.float32)


def _lake(config: SimulationConfig, plane: Plane, x: Field, y: Field, extent: float, step: int) -> NDArray[np.bool_]:
    rng = generator(config.seed, "lake")
    turn, radius = rng.uniform(0, 2 * math.pi), min(650.0, 0.07 * extent)
    cx, cy = 0.3 * config.width_m * math.cos(turn), 0.3 * config.height_m * math.sin(turn)
    shore = coarse_power_law(plane.shape, generator(config.seed, "shore"), beta=2.8, step=max(1, step // 2))
    return np.asarray(np.hypot(x - cx, 1.5 * (y - cy)) < radius * (1.0 + 0.35 * shore))


def _gravel_pits(config: SimulationConfig, x: Field, y: Field, extent: float, ragged: Field) -> NDArray[np.bool_]:
    rng = generator(config.seed, "pits")
    pits = np.zeros(x.shape, dtype=bool)
    for _ in range(3):
        cx, cy = rng.uniform(-0.45, 0.45) * config.width_m, rng.uniform(-0.45, 0.45) * config.height_m
        radius = rng.uniform(0.5, 1.0) * min(330.0, 0.05 * extent)
        pits |= np.hypot(x - cx, 1.4 * (y - cy)) < radius * (1.0 + 0.25 * ragged)
    return pits


def _towns(
    config: SimulationConfig, plane: Plane, x: Field, y: Field, to_river: Field, extent: float, step: int
) -> tuple[Field, NDArray[np.bool_]]:
    """How built up each place is, and whether it is built up at all."""
    rng = generator(config.seed, "towns")
    n = 1 + round(config.width_m * config.height_m / 13e6)
    ragged = coarse_power_law(plane.shape, generator(config.seed, "suburbs"), beta=2.4, step=max(1, step // 2))
    density = np.full(plane.shape, -9.0, dtype=np.float32)
    for k in range(n):
        radius = min(1_350.0, 0.13 * extent) if k == 0 else rng.uniform(0.16, 0.42) * min(1_350.0, 0.13 * extent)
        cx, cy = rng.uniform(-0.42, 0.42) * config.width_m, rng.uniform(-0.42, 0.42) * config.height_m
        density = np.maximum(density, (1.0 - np.hypot(x - cx, y - cy) / np.float32(radius)).astype(np.float32))
    density = density + np.float32(0.22) * ragged
    return density, np.asarray((density > 0.12) & (np.abs(to_river) > 2.5 * plane.gsd_m))


def _settle(
    seed: int,
    x: Field,
    y: Field,
    in_town: NDArray[np.bool_],
    density: Field,
    kind: NDArray[np.int16],
    key: NDArray[np.uint64],
) -> tuple[NDArray[np.int16], NDArray[np.uint64]]:
    """Streets in a lattice, plots between them: houses, gardens, now and then a hall."""
    tx, ty = x[in_town], y[in_town]
    angle = generator(seed, "streets").uniform(0.1, 1.4)
    u, v = tx * math.cos(angle) + ty * math.sin(angle), ty * math.cos(angle) - tx * math.sin(angle)
    v = v + 14.0 * np.sin(u / 170.0)
    street = (np.mod(u, 130.0) < 12.0) | (np.mod(v, 84.0) < 11.0)
    plot = mix(seed, 41, np.floor(u / 26.0).astype(np.int64), np.floor(v / 21.0).astype(np.int64)).view(np.int64)
    block = mix(seed, 42, np.floor(u / 130.0).astype(np.int64), np.floor(v / 84.0).astype(np.int64)).view(np.int64)
    draw, estate = uniform(seed, 43, plot), uniform(seed, 44, block)
    built = 0.32 + 0.45 * np.clip(density[in_town], 0.0, 1.0)
    house = np.where(uniform(seed, 45, plot) < 0.62, Kind.ROOF_RED, Kind.ROOF_GREY)
    what = np.where(draw < built, house, Kind.GARDEN)
    what = np.where(estate < 0.07, Kind.GRASS, what)
    hall = (estate > 0.965) & (uniform(seed, 46, plot) < 0.6)
    what = np.where(hall, Kind.HALL, what)
    which = np.where((estate < 0.07) | hall, block, plot)
    kind[in_town] = np.where(street, Kind.STREET, what)
    key[in_town] = np.where(street, mix(seed, 47), mix(seed, 48, which, hall.astype(np.int64)))
    return kind, key


def _roads(
    config: SimulationConfig, x: Field, y: Field, extent: float, shape: tuple[int, int], step: int, gsd: float
) -> NDArray[np.bool_]:
    """A motorway and country roads, gently curved from one side of the area to the other."""
    rng = generator(config.seed, "roads")
    road = np.zeros(shape, dtype=bool)
    # Bends of a kilometre and more only: finer noise would make mountain roads of a motorway.
    bend = coarse_power_law(shape, generator(config.seed, "bends"), beta=4.6, step=12 * step)
    for k in range(1 + max(1, round(extent / 3_500.0))):
        angle, shift = rng.uniform(0, math.pi), rng.uniform(-0.35, 0.35) * extent
        curve = np.float32(rng.uniform(-0.035, 0.035) * extent) * bend
        distance = np.abs(x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle)) - shift + curve)
        road |= distance < (1.1 if k == 0 else 0.55) * max(gsd, 10.0)
    return road


def _textures(
    seed: int, shape: tuple[int, int], kind: NDArray[np.int16], across: Field, gsd: float
) -> tuple[Field, Field]:
    amounts = np.zeros((len(Kind), 3), dtype=np.float32)
    for which, values in _TEXTURE.items():
        amounts[which] = values
    rough = np.zeros(shape, dtype=np.float32)
    fields = (
        power_law(shape, generator(seed, "rough"), beta=0.7),
        power_law(shape, generator(seed, "medium"), beta=1.7, outer_px=60.0),
        power_law(shape, generator(seed, "smooth"), beta=2.6, outer_px=120.0),
    )
    for k, field in enumerate(fields):
        rough += amounts[:, k][kind] * field
    rows = np.zeros(len(Kind), dtype=np.float32)
    rows[[Kind.CEREAL, Kind.RAPESEED, Kind.MAIZE, Kind.ORCHARD]] = 0.012, 0.012, 0.02, 0.07
    rough += rows[kind] * np.sin(np.float32(2 * math.pi / (3.4 * gsd)) * across)
    green = np.where(kind >= Kind.CEREAL, np.float32(0.07), np.float32(0.035))
    green = np.where(kind == Kind.WATER, np.float32(0.0), green)
    patchy = green * (0.8 * fields[2] + 0.4 * fields[1])
    return np.clip(rough, -0.6, 0.9), np.asarray(ndimage.gaussian_filter(patchy, 0.5), dtype=np.float32)
