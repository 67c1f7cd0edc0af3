"""One date at a time: what the ground looks like, what the sensor makes of it, what is written down."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.sensors import SENTINEL_2_L2A
from geoelle.simulate.cogs import write_cog
from geoelle.simulate.happenings import Happening, strike
from geoelle.simulate.landscape import Landscape
from geoelle.simulate.noise import Field, generator
from geoelle.simulate.plane import Granule, Plane, nearest_index, resample
from geoelle.simulate.settings import SimulationConfig
from geoelle.simulate.sky import DayPlan, Sky, classify, draw_sky, look_through
from geoelle.simulate.stac import Pass, item_id, item_json, overpass
from geoelle.simulate.surfaces import BAND_NAMES, Kind, look_on, sun_position

_DN_STEP = 16
"""Digital numbers are multiples of this: about what the sensor's noise moves them by, and half the bytes."""
_DN_STEP_INFRARED = 32
"""From the near infrared on, where the ground is several times brighter."""
_FIRST_BRIGHT_BAND = BAND_NAMES.index("rededge2")


@dataclass(frozen=True, slots=True)
class Studio:
    """Everything that all dates share. Dates are independent of each other, so threads may take any."""

    config: SimulationConfig
    plane: Plane
    granules: tuple[Granule, ...]
    positions: tuple[Field, ...]
    land: Landscape
    events: tuple[Happening, ...]
    folder: Path

    def shoot(self, day: date, plan: DayPlan) -> list[dict[str, Any]]:
        """Write one date's items and return them; a granule wholly outside the swath gives none."""
        config = self.config
        moment, platform, orbit = overpass(day)
        hour = moment.hour + moment.minute / 60
        sun = sun_position(day, config.centre_lon, config.centre_lat, hour)
        flight = Pass(day, moment, platform, orbit, *sun)
        sky = draw_sky(config, self.plane, plan, day.isoformat(), sun)
        images, ground = self._ground(day, sun)
        scl = classify(ground, sky)
        images = [self._sense(image, band, sky, day) for band, image in zip(config.bands, images, strict=True)]
        items = []
        for granule, at in zip(self.granules, self.positions, strict=True):
            nearest = nearest_index(at, self.plane.shape)
            outside = None if sky.valid is None else ~sky.valid.ravel()[nearest]
            if outside is not None and outside.all():
                continue
            items.append(self._write_item(granule, at, nearest, outside, flight, images, scl))
        return items

    def _ground(self, day: date, sun: tuple[float, float]) -> tuple[list[Field], NDArray[np.uint8]]:
        """Reflectance of the ground per band, and its classes, events included."""
        config, land = self.config, self.land
        look = look_on(land.units, day, config.bands, config.seed)
        elevation, azimuth = math.radians(sun[0]), math.radians(sun[1])
        # Rough surfaces cast more shadow under a low sun.
        grain = land.rough * np.float32(0.85 + 0.6 * (1.0 - math.sin(elevation)))
        images = []
        for k, band in enumerate(config.bands):
            image = look.mean[:, k][land.unit] + look.greener[:, k][land.unit] * land.patchy
            image *= 1.0 + np.float32(1.0 if BAND_NAMES.index(band) < 4 else 0.8) * grain
            images.append(image)
        unit_class = np.where(look.green > 0.33, 4, 5)
        unit_class = np.where(land.units.kind == Kind.WATER, 6, unit_class).astype(np.uint8)
        classes = unit_class[land.unit]
        strike(images, classes, self.events, day, config.bands, grain)

        slope = -(land.slope_x * np.float32(math.sin(azimuth)) + land.slope_y * np.float32(math.cos(azimuth)))
        steep = np.sqrt(1.0 + land.slope_x**2 + land.slope_y**2)
        lit = (np.float32(math.sin(elevation)) + np.float32(math.cos(elevation)) * slope) / steep
        # The constant is skylight and what the surface reflection product has already corrected for.
        shade = np.clip((lit + 0.5) / np.float32(math.sin(elevation) + 0.5), 0.4, 1.5).astype(np.float32)
        return [image * shade for image in images], classes

    def _sense(self, image: Field, band: str, sky: Sky, day: date) -> Field:
        """What the sensor makes of the ground: sky, what the correction for it got wrong, noise."""
        rng = generator(self.config.seed, "sensor", day.isoformat(), band)
        blueness = 1.0 / (1.0 + BAND_NAMES.index(band))
        gain, veil = 1.0 + 0.012 * rng.standard_normal(), 0.004 * blueness * rng.standard_normal()
        image = look_through(image * np.float32(gain) + np.float32(veil), band, sky)
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        return np.asarray(image + noise * (0.0009 + 0.006 * image), dtype=np.float32)

    def _write_item(
        self, granule: Granule, at: Field, nearest: NDArray[np.intp], outside: NDArray[np.bool_] | None,
        flight: Pass, images: list[Field], scl: NDArray[np.uint8],
    ) -> dict[str, Any]:  # fmt: skip
        config = self.config
        name = item_id(flight.day, granule, flight.platform)
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        tags = {"TIFFTAG_DATETIME": flight.moment.strftime("%Y:%m:%d %H:%M:%S"), "SEED": str(config.seed)}
        for band, image in zip(config.bands, images, strict=True):
            key = SENTINEL_2_L2A.band(band).aliases[0]
            step = _DN_STEP if BAND_NAMES.index(band) < _FIRST_BRIGHT_BAND else _DN_STEP_INFRARED
            pixels = _digitise(resample(image, at), step, config.offset_dn)
            if outside is not None:
                pixels[outside] = config.nodata or 0
            write_cog(
                folder / f"{name}_{key}.tif", pixels, granule, nodata=config.nodata,
                description=f"{key} {band}", tags=tags,
            )  # fmt: skip
        classes = scl.ravel()[nearest]
        if outside is not None:
            classes[outside] = 0
        if config.scl:
            nodata = None if config.nodata is None else 0
            write_cog(
                folder / f"{name}_SCL.tif", classes, granule, nodata=nodata,
                description="SCL scene classification", tags=tags, categorical=True,
            )  # fmt: skip
        item = item_json(config, granule, flight, _shares(classes))
        write_json(folder / f"{name}.json", item)
        return item


def _digitise(reflectance: Field, step: int, offset_dn: int) -> NDArray[np.uint16]:
    # Never 0 and never 65535: a dark or a bright pixel must not turn into nodata.
    steps = np.rint(reflectance * np.float32(1e4 / step))
    return (np.clip(steps, 1, 20_000 // step) * step + offset_dn).astype(np.uint16)


def _shares(classes: NDArray[np.uint8]) -> dict[str, float]:
    counts = np.bincount(classes.ravel(), minlength=12).astype(float)
    seen = max(counts[1:].sum(), 1.0)
    return {
        "nodata": 100.0 * float(counts[0] / classes.size),
        "cloud": 100.0 * float(counts[[8, 9, 10]].sum() / seen),
        "shadow": 100.0 * float(counts[3] / seen),
        "vegetation": 100.0 * float(counts[4] / seen),
        "water": 100.0 * float(counts[6] / seen),
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON in one step, so that no reader meets half a file."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
