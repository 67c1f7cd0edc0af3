"""Making a simulation: landscape once, then day by day, granule by granule, into a folder."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import AlreadyExistsError
from geoelle.provenance import digest
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.simulate.cogs import LABEL, write_cog
from geoelle.simulate.happenings import Happening, place_events, strike
from geoelle.simulate.landscape import Landscape, grow
from geoelle.simulate.noise import Field, generator
from geoelle.simulate.plane import Granule, Plane, area_ring, lay_out, nearest_index, resample, sample_positions
from geoelle.simulate.settings import SimulationConfig, check_config
from geoelle.simulate.sky import DayPlan, Sky, classify, draw_sky, look_through, plan_days
from geoelle.simulate.stac import ATTRIBUTION, Pass, catalog_json, collection_json, item_id, item_json, overpass
from geoelle.simulate.surfaces import BAND_NAMES, Kind, look_on, sun_position
from geoelle.simulate.truth import write_truth

Progress = Callable[[int, int, str], None]
"""Called with (dates done, dates in all, what was done)."""

_VERSION = 1
"""Raised when the same config gives other pixels than before, so that old folders are not taken for new ones."""
_MARKER = "simulation.json"
_UNFINISHED = "simulation.unfinished"
_DN_STEP = 16
"""Digital numbers are multiples of this: about what the sensor's noise moves them by, and half the bytes."""
_DN_STEP_INFRARED = 32
"""From the near infrared on, where the ground is several times brighter."""
_FIRST_BRIGHT_BAND = BAND_NAMES.index("rededge2")
_THREADS = 2
"""Dates in work at once. The pixels do not depend on it."""


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """One known event of a simulation."""

    id: str
    kind: str
    date: str
    area_km2: float
    looks_after: tuple[str, ...]
    """Dates of the simulation that see it."""
    outline: Path
    """GeoJSON, EPSG:4326."""
    masks: tuple[Path, ...]
    """Truth masks, one per granule that it touches: 1 affected, 0 not."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What lies in the folder."""

    root: Path
    catalog: Path
    collection: str
    aoi: Path
    """One GeoJSON feature, EPSG:4326."""
    truth: Path
    """`events.json`."""
    dates: tuple[str, ...]
    item_ids: tuple[str, ...]
    events: tuple[SimulatedEvent, ...]
    digest: str
    """Of the config and the simulator's version."""
    made: bool
    """False where the folder held this simulation already."""


def make_scenes(
    out: Path, *, config: SimulationConfig | None = None, progress: Progress | None = None, overwrite: bool = False
) -> Simulation:
    """Simulate Sentinel-2-like scenes into `out`: COGs, a static STAC catalog, the area and the events' truth.

    The same config gives the same pixels and the same JSON. Asked again for the same config and folder it does
    nothing; a folder that was left half written is redone.

    Args:
        out: Folder to make or to fill.
        config: What to simulate; None: the demo's default.
        progress: Called after each date with how many are done, how many there are, and which.
        overwrite: Replace another finished simulation that lies in `out`.

    Raises:
        ConfigError: If the config cannot be simulated.
        AlreadyExistsError: If `out` holds something else; it is left as it was.
    """
    config = config if config is not None else SimulationConfig()
    check_config(config)
    out = Path(out)
    stamp = digest({"version": _VERSION, "config": config})
    if _standing(out) == stamp:
        return _simulation(out, json.loads((out / _MARKER).read_text()), made=False)
    plane, granules = lay_out(config)  # before anything on disk is touched: it may refuse the config
    land = grow(config, plane)
    events = place_events(config, plane, land)
    _clear(out, overwrite)

    (out / "truth").mkdir(parents=True, exist_ok=True)
    _write_json(out / _UNFINISHED, {"simulated": True, "digest": stamp, "collection": config.collection})
    positions = tuple(sample_positions(plane, granule) for granule in granules)
    studio = _Studio(config, plane, granules, positions, land, events, out / config.collection)
    items: list[dict[str, Any]] = []
    plans = plan_days(config)
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, made in enumerate(pool.map(studio.shoot, config.days, plans), start=1):
            items.extend(made)
            if progress is not None:
                progress(done, len(plans), config.days[done - 1].isoformat())

    records = write_truth(out / "truth", config, plane, granules, positions, events)
    for record in records:
        _write_json(out / "truth" / f"{record['id']}.geojson", record.pop("geojson"))
    _write_json(out / "truth" / "events.json", {"simulated": True, "description": LABEL, "events": records})
    _write_json(out / "aoi.geojson", _area_json(config, plane))
    _write_json(out / config.collection / "collection.json", collection_json(config, items))
    _write_json(out / "catalog.json", catalog_json(config))
    summary = {
        "simulated": True,
        "description": LABEL,
        "digest": stamp,
        "seed": config.seed,
        "collection": config.collection,
        "dates": [day.isoformat() for day in config.days],
        "items": [item["id"] for item in items],
        "events": records,
    }
    _write_json(out / _MARKER, summary)
    (out / _UNFINISHED).unlink()
    return _simulation(out, summary, made=True)


@dataclass(frozen=True, slots=True)
class _Studio:
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
        gain, veil = 1.0 + 0.012 * rng.standard_normal(), 0.006 * blueness * rng.standard_normal()
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
        _write_json(folder / f"{name}.json", item)
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


def _area_json(config: SimulationConfig, plane: Plane) -> dict[str, Any]:
    return {
        "type": "Feature",
        "properties": {
            "aoi_id": "simulated",
            "name": "Simulated area (geoelle)",
            "geoelle:simulated": True,
            "description": f"{LABEL}. {ATTRIBUTION}",
        },
        "geometry": {"type": "Polygon", "coordinates": [area_ring(config, plane)]},
    }


def _standing(out: Path) -> str | None:
    """Digest of the finished simulation in `out`, if there is one."""
    try:
        return str(json.loads((out / _MARKER).read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clear(out: Path, overwrite: bool) -> None:
    """Make room in `out`, removing nothing that another simulation did not write."""
    if out.exists() and not out.is_dir():
        raise AlreadyExistsError(f"{out} is a file; name a folder for the simulation.")
    if not out.exists() or not any(out.iterdir()):
        return
    finished, unfinished = out / _MARKER, out / _UNFINISHED
    if not finished.exists() and not unfinished.exists():
        raise AlreadyExistsError(f"{out} holds something that is no simulation; name an empty or a new folder.")
    if finished.exists() and not unfinished.exists() and not overwrite:
        raise AlreadyExistsError(
            f"{out} holds a simulation of another config or version; name another folder, or ask to overwrite it."
        )
    collections = set()
    for marker in (finished, unfinished):
        try:
            collections.add(str(json.loads(marker.read_text())["collection"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if finished.exists():
        # First of all: killed while clearing, the folder must not pass for a finished one.
        os.replace(finished, unfinished)
    for name in sorted(collections):
        shutil.rmtree(out / Path(name).name, ignore_errors=True)
    shutil.rmtree(out / "truth", ignore_errors=True)
    for name in ("catalog.json", "aoi.geojson"):
        (out / name).unlink(missing_ok=True)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def _simulation(out: Path, summary: dict[str, Any], *, made: bool) -> Simulation:
    truth = out / "truth"
    events = tuple(
        SimulatedEvent(
            id=e["id"],
            kind=e["kind"],
            date=e["date"],
            area_km2=float(e["area_km2"]),
            looks_after=tuple(e["looks_after"]),
            outline=truth / Path(e["outline"]).name,
            masks=tuple(truth / Path(mask["href"]).name for mask in e["masks"]),
        )
        for e in summary["events"]
    )
    return Simulation(
        root=out,
        catalog=out / "catalog.json",
        collection=str(summary["collection"]),
        aoi=out / "aoi.geojson",
        truth=truth / "events.json",
        dates=tuple(summary["dates"]),
        item_ids=tuple(summary["items"]),
        events=events,
        digest=str(summary["digest"]),
        made=made,
    )
