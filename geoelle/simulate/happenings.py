"""Known events: where they are, when, what they do to the ground, and how it recovers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoelle.errors import ConfigError
from geoelle.simulate.landscape import Landscape
from geoelle.simulate.noise import Field, coarse_power_law, generator
from geoelle.simulate.plane import Plane
from geoelle.simulate.settings import EventKind, EventSpec, SimulationConfig
from geoelle.simulate.surfaces import FOREST, Kind, spectrum

_RADIUS_M: dict[EventKind, tuple[float, float]] = {
    "burn": (1_100.0, 0.15),
    "flood": (1_500.0, 0.22),
    "clearing": (650.0, 0.12),
}
"""Default radius, and the largest share of the area's shorter side that it may take."""
_LEAD_DAYS: dict[EventKind, int] = {"burn": 9, "flood": 3, "clearing": 12}
"""How long before the first look an event happens, where no date is given."""
_LOOKS_AFTER: dict[EventKind, int] = {"burn": 3, "flood": 3, "clearing": 2}


@dataclass(frozen=True, slots=True)
class Happening:
    """One event, placed: its severity on the plane's lattice."""

    id: str
    kind: EventKind
    day: date
    severity: Field
    """0 to 1; for a flood the depth relative to the deepest."""
    mask: NDArray[np.bool_]
    """What the truth calls affected."""
    stained: NDArray[np.bool_]
    """Standing water that a flood turns muddy: visible, but no event of its own."""
    window: tuple[slice, slice]
    """Rows and columns beyond which the event does nothing."""

    def remaining(self, day: date) -> float:
        """How much of the first day's effect is left on `day`; 0 before the event."""
        age = (day - self.day).days
        if age < 0:
            return 0.0
        if self.kind == "burn":  # regrowth hides a third within half a year, and never quite half
            return 0.5 + 0.5 * math.exp(-age / 200.0)
        if self.kind == "flood":
            return math.exp(-max(0, age - 5) / 24.0)
        return math.exp(-age / 2_500.0)


def place_events(config: SimulationConfig, plane: Plane, land: Landscape) -> tuple[Happening, ...]:
    """Put every event of the config where the landscape suits it, apart from the others.

    Raises:
        ConfigError: If there is no place for one.
    """
    taken = np.zeros(plane.shape, dtype=bool)
    placed: list[Happening] = []
    for number, spec in enumerate(config.events):
        happening = _place(config, plane, land, spec, number, taken)
        if not happening.mask.any():
            raise ConfigError(
                f"The {spec.kind} finds no ground to act on; give it another offset_m or radius_m, or a larger area."
            )
        taken |= ndimage.binary_dilation(happening.mask, iterations=8)
        placed.append(happening)
    return tuple(placed)


def strike(
    images: list[Field], classes: NDArray[np.uint8], happenings: tuple[Happening, ...], day: date,
    bands: tuple[str, ...], rough: Field,
) -> None:  # fmt: skip
    """Apply every event that has happened by `day` to the bands' reflectance and the ground's classes, in place."""
    for event in happenings:
        left = event.remaining(day)
        if left == 0.0:
            continue
        window = event.window
        severity, grain = event.severity[window], rough[window]
        if event.kind == "flood":
            # The water line falls: the deepest places stay wet longest, mud is left behind.
            wet = (severity > 1.0 - left) & (severity > 0)
            age = (day - event.day).days
            muddy = np.where(severity > 0, np.float32(0.75 * math.exp(-age / 70.0)), np.float32(0.0))
            turbid = np.where(event.stained[window], np.float32(0.9 * left), wet.astype(np.float32))
            steps = [("mud", np.where(wet, np.float32(0), muddy), 0.6), ("muddy", turbid, 0.05)]
            classes[window][(severity > 0) & ~wet] = 5
            classes[window][wet] = 6
        else:
            material = "char" if event.kind == "burn" else "felled"
            share = np.clip(severity * np.float32(0.95 * left), 0, 1).astype(np.float32)
            steps = [(material, share, 0.9 if event.kind == "burn" else 1.2)]
            classes[window][share > 0.45] = 5
        for material, share, graininess in steps:
            target = spectrum(material, bands)
            for k, image in enumerate(images):
                painted = target[k] * (1.0 + np.float32(graininess) * grain)
                image[window] += (painted - image[window]) * share


def _event_day(config: SimulationConfig, spec: EventSpec) -> date:
    if spec.date is not None:
        return date.fromisoformat(spec.date)
    looks = config.days
    first = looks[max(len(looks) - _LOOKS_AFTER[spec.kind], min(1, len(looks) - 1))]
    return first - timedelta(days=_LEAD_DAYS[spec.kind])


def _place(
    config: SimulationConfig, plane: Plane, land: Landscape, spec: EventSpec, number: int, taken: NDArray[np.bool_]
) -> Happening:
    extent = min(config.width_m, config.height_m)
    default, share = _RADIUS_M[spec.kind]
    radius = spec.radius_m if spec.radius_m is not None else max(min(default, share * extent), 3 * plane.gsd_m)
    kind = land.kind()
    suits = {
        "burn": np.isin(kind, FOREST),
        "flood": (kind == Kind.WATER),
        "clearing": np.isin(kind, FOREST),
    }[spec.kind]
    roofs = np.isin(kind, (Kind.ROOF_RED, Kind.ROOF_GREY, Kind.HALL))
    if spec.offset_m is not None:
        centre = spec.offset_m
    else:
        low = None
        if spec.kind == "flood":  # farmland on the valley floor beside the river: the streets stay dry
            fields = (kind >= Kind.CEREAL) & (kind <= Kind.ORCHARD)
            low = fields & (land.stage < np.quantile(land.stage[::4, ::4], 0.3))
        centre = _best_place(config, plane, suits, taken, radius, low)
    x, y = plane.x[None, :] - np.float32(centre[0]), plane.y[:, None] - np.float32(centre[1])
    rng = generator(config.seed, "event", number, spec.kind)
    stained = np.zeros(plane.shape, dtype=bool)
    solid = ~np.isin(kind, (Kind.WATER, Kind.STREET, Kind.ROOF_RED, Kind.ROOF_GREY, Kind.HALL)) & ~taken
    if spec.kind == "flood":
        severity = _flooded(x, y, radius, land.stage, (kind != Kind.WATER) & ~roofs & ~taken)
        stained = (kind == Kind.WATER) & (np.hypot(x, y) < 1.25 * radius)
    elif spec.kind == "burn":
        severity = _burnt(x, y, radius, plane, rng, solid)
    else:
        severity = _felled(x, y, radius, rng, suits & ~taken, solid)
    threshold = 0.0 if spec.kind == "flood" else 0.3
    day = _event_day(config, spec)
    name = f"{spec.kind}-{number + 1}"
    return Happening(name, spec.kind, day, severity, severity > threshold, stained, _window(severity > 0, stained))


def _window(touched: NDArray[np.bool_], stained: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.nonzero(touched | stained)
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


def _best_place(
    config: SimulationConfig,
    plane: Plane,
    suits: NDArray[np.bool_],
    taken: NDArray[np.bool_],
    radius: float,
    low: NDArray[np.bool_] | None,
) -> tuple[float, float]:
    """The centre whose surroundings suit best and are free, away from the area's rim.

    With `low`, that is what is sought, and what `suits` counts against: low ground, not the middle of a lake.
    """
    size = max(3, 2 * round(radius / plane.gsd_m))
    worth = suits.astype(np.float32) if low is None else low.astype(np.float32) - np.float32(0.3) * suits
    worth = np.where(taken, np.float32(-2.0), worth)
    score = ndimage.uniform_filter(worth, size, mode="constant", cval=-0.5)
    inside_x = np.abs(plane.x)[None, :] < max(config.width_m / 2 - 1.1 * radius, 0.15 * config.width_m)
    inside_y = np.abs(plane.y)[:, None] < max(config.height_m / 2 - 1.1 * radius, 0.15 * config.height_m)
    score = np.where(inside_x & inside_y & ~taken, score, np.float32(-9.0))
    row, column = np.unravel_index(int(np.argmax(score)), plane.shape)
    return float(plane.x[column]), float(plane.y[row])


def _burnt(
    x: Field, y: Field, radius: float, plane: Plane, rng: np.random.Generator, solid: NDArray[np.bool_]
) -> Field:
    # A front driven by wind: longer one way, ragged, with islands that it jumped over.
    turn, step = rng.uniform(0, math.pi), max(1, min(4, min(plane.shape) // 32))
    along = (x * math.cos(turn) + y * math.sin(turn)) / (1.25 * radius)
    across = (y * math.cos(turn) - x * math.sin(turn)) / (0.75 * radius)
    ragged = coarse_power_law(plane.shape, rng, beta=2.2, step=step)
    severity = np.clip(2.6 * (1.0 - np.hypot(along, across)) + 0.42 * ragged, 0.0, 1.0)
    return np.where(solid, severity, 0.0).astype(np.float32) * (np.hypot(along, across) < 1.15)


def _flooded(x: Field, y: Field, radius: float, stage: Field, dry: NDArray[np.bool_]) -> Field:
    r = np.hypot(x, y) / np.float32(radius)
    reach = stage + np.float32(12.0) * np.clip(r - 0.6, 0.0, None)
    near = (r < 1.3) & dry
    if not near.any():
        return np.zeros(stage.shape, dtype=np.float32)
    level = max(float(np.quantile(reach[near], 0.42)), 1e-3)
    depth = np.where(near, np.clip((level - reach) / level, 0.0, 1.0), 0.0)
    wet = ndimage.binary_opening(depth > 0, iterations=1) if min(stage.shape) > 64 else depth > 0
    return np.where(wet, np.maximum(depth, 0.01), 0.0).astype(np.float32)


def _felled(
    x: Field, y: Field, radius: float, rng: np.random.Generator, wood: NDArray[np.bool_], solid: NDArray[np.bool_]
) -> Field:
    turn = rng.uniform(0, math.pi)
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    cut = np.zeros(u.shape, dtype=bool)
    for k in range(4):
        at_u, at_v = (0.0, 0.0) if k == 0 else rng.uniform(-0.6, 0.6, 2) * radius
        half_u, half_v = rng.uniform(0.28, 0.60) * radius, rng.uniform(0.22, 0.45) * radius
        cut |= (np.abs(u - at_u) < half_u) & (np.abs(v - at_v) < half_v)
    # In an area too small to hold a wood, other ground is cleared instead.
    ground = wood if (wood & cut).sum() > 0.2 * cut.sum() else solid
    return (cut & ground).astype(np.float32)
