"""Making a simulation: landscape once, then day by day, granule by granule, into a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoelle.errors import AlreadyExistsError
from geoelle.provenance import digest
from geoelle.simulate.cogs import LABEL
from geoelle.simulate.happenings import place_events
from geoelle.simulate.landscape import grow
from geoelle.simulate.plane import Plane, area_ring, lay_out, sample_positions
from geoelle.simulate.settings import SimulationConfig, check_config
from geoelle.simulate.sky import plan_days
from geoelle.simulate.stac import ATTRIBUTION, catalog_json, collection_json
from geoelle.simulate.studio import Studio, write_json
from geoelle.simulate.truth import write_truth

Progress = Callable[[int, int, str], None]
"""Called with (dates done, dates in all, what was done)."""

_VERSION = 1
"""Raised when the same config gives other pixels than before, so that old folders are not taken for new ones."""
_MARKER = "simulation.json"
_UNFINISHED = "simulation.unfinished"
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

    def asset_path(self, item_id: str, key: str) -> Path:
        """File of one asset, e.g. `B04` or `SCL`, of one item."""
        return self.root / self.collection / item_id / f"{item_id}_{key}.tif"


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
    write_json(out / _UNFINISHED, {"simulated": True, "digest": stamp, "collection": config.collection})
    positions = tuple(sample_positions(plane, granule) for granule in granules)
    studio = Studio(config, plane, granules, positions, land, events, out / config.collection)
    items: list[dict[str, Any]] = []
    plans = plan_days(config)
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, made in enumerate(pool.map(studio.shoot, config.days, plans), start=1):
            items.extend(made)
            if progress is not None:
                progress(done, len(plans), config.days[done - 1].isoformat())

    records = write_truth(out / "truth", config, plane, granules, positions, events)
    for record in records:
        write_json(out / "truth" / f"{record['id']}.geojson", record.pop("geojson"))
    write_json(out / "truth" / "events.json", {"simulated": True, "description": LABEL, "events": records})
    write_json(out / "aoi.geojson", _area_json(config, plane))
    write_json(out / config.collection / "collection.json", collection_json(config, items))
    write_json(out / "catalog.json", catalog_json(config))
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
    write_json(out / _MARKER, summary)
    (out / _UNFINISHED).unlink()
    return _simulation(out, summary, made=True)


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
