"""The whole chain: `run` from a config, `demo` from data that it simulates itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import geopandas as gpd

from geoelle.aoi import list_places, read_aoi
from geoelle.calibration import Calibration, calibrate
from geoelle.catalog.providers import list_providers
from geoelle.change import delta
from geoelle.config import CalibrateConfig, DeltaConfig, MapConfig, RunConfig, SearchConfig, load_config
from geoelle.embedding import embed
from geoelle.encoders import get_card
from geoelle.errors import AlreadyExistsError, ConfigError, HistoryTooShortError
from geoelle.mapping import difficulty
from geoelle.records import EmbedSummary
from geoelle.running import Progress, no_progress
from geoelle.searching import search
from geoelle.simulate import Simulation, make_scenes
from geoelle.store import open_area
from geoelle.store.location import Location
from geoelle.store.tables import read_table
from geoelle.webmap import MapSummary, map

StageReporter = Callable[[str], Progress]
"""Given a stage's name, what to tell of its progress."""


def _silent(stage: str) -> Progress:
    return no_progress


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run found, did, and left where."""

    folder: Path
    items: str
    """What the search kept and removed, in words."""
    embedding: EmbedSummary
    calibration: Calibration
    n_alerts: int
    map: MapSummary


def run(
    config: str | Path | RunConfig,
    *,
    base: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    report: StageReporter = _silent,
) -> RunSummary:
    """Search, embed, calibrate, map difficulty, compare, and draw, from one config. Unchanged stages are not redone.

    Args:
        config: A YAML file, or the configuration.
        base: What its relative paths are relative to; by default the file's folder.
        workers: Processes of the local Dask cluster.
        scheduler: Address of a Dask scheduler to use instead.
        report: Told of each stage, and how far it is.

    Returns:
        What was done. The folder holds items.parquet, embeddings.zarr, pairs.parquet, probe/ (where one could be
        fitted), difficulty.zarr, delta.zarr, alerts.parquet, alerts.geojson and map.html.

    Raises:
        ConfigError: If `out` lies in an object store.
        GeoelleError: As the stages do. A history too short for delta is raised after the map of difficulty is drawn.
    """
    home = Path(base) if base is not None else Path.cwd() if isinstance(config, RunConfig) else Path(config).parent
    c = config if isinstance(config, RunConfig) else load_config(config)
    folder = _folder(c, home)
    if folder.exists() and not folder.is_dir():
        raise AlreadyExistsError(f"{folder} is a file. Give another `out`, the folder of the outputs.")
    get_card(c.embed.encoder)  # a slip in the name is told before catalogs are asked
    area = _aoi(c, home)
    report("search")
    found = search(
        area if area is not None else _everywhere(),
        catalog=_catalog(c.search.catalog, home),
        collections=c.search.collections,
        start=c.search.start,
        end=c.search.end,
        sensor=_relative(c.search.sensor, home) if c.search.sensor.endswith((".yaml", ".yml")) else c.search.sensor,
        bands=c.search.bands,
        max_cloud_percent=c.search.max_cloud_percent,
        months=c.search.months,
        relative_orbits=c.search.relative_orbits,
        platforms=c.search.platforms,
        min_aoi_coverage_fraction=c.search.min_aoi_coverage_fraction,
        exclude=c.search.exclude,
        fallback=None if c.search.fallback is None else _catalog(c.search.fallback, home),
        out=folder / "items.parquet",
    )
    embeddings, items = folder / "embeddings.zarr", folder / "items.parquet"
    cluster: dict[str, Any] = {"workers": workers, "scheduler": scheduler}
    chosen = c.embed.model_dump() | {"weights": None if c.embed.weights is None else _relative(c.embed.weights, home)}
    ds = embed(items, aoi=area, out=embeddings, **chosen, **cluster, progress=report("embed"))
    opening = {name: chosen[name] for name in ("weights", "accept_license", "device", "precision")}
    calibration = _calibrate(c.calibrate, folder, opening | cluster, report("calibrate"))
    difficulty(
        embeddings,
        out=folder / "difficulty.zarr",
        probe=folder / "probe" if calibration.fitted else None,
        progress=report("difficulty"),
    )
    report("delta")
    too_short = _delta(c.delta, folder)
    report("map")
    drawn = _map(c.map, folder, with_delta=too_short is None)
    if too_short is not None:
        raise HistoryTooShortError(f"{too_short} The map of difficulty is in {drawn.path}.")
    return RunSummary(
        folder=folder,
        items=found.attrs["geoelle:filters"],
        embedding=EmbedSummary(**ds.attrs["geoelle:summary"]),
        calibration=calibration,
        n_alerts=drawn.n_alerts,
        map=drawn,
    )


def _folder(c: RunConfig, home: Path) -> Path:
    if c.out is None:
        return Path("runs") / c.name
    place = Location.of(c.out)
    if place.is_remote:
        raise ConfigError(
            f"`out` is {place}. A run keeps its items and its map in one local folder with its stores: give that, or "
            "call the verbs one by one, with the stores in the bucket."
        )
    return Path(_relative(str(place), home))


def _calibrate(c: CalibrateConfig, folder: Path, options: dict[str, Any], progress: Progress) -> Calibration:
    pairs = calibrate(
        folder / "embeddings.zarr",
        items=folder / "items.parquet",
        out=folder / "probe",
        **c.model_dump(),
        **options,
        progress=progress,
    )
    stored = pairs.attrs["geoelle:calibration"]
    return Calibration(**{f.name: stored[f.name] for f in fields(Calibration)})


def _delta(c: DeltaConfig, folder: Path) -> HistoryTooShortError | None:
    """Write delta and alerts; or say why there can be none."""
    try:
        delta(
            folder / "difficulty.zarr",
            out=folder / "delta.zarr",
            alerts=folder / "alerts.parquet",
            **c.model_dump(),
        )
    except HistoryTooShortError as error:
        return error
    return None


def _map(c: MapConfig, folder: Path, *, with_delta: bool) -> MapSummary:
    return map(
        open_area(folder / "difficulty.zarr", "difficulty", load=True),
        delta=open_area(folder / "delta.zarr", "delta", load=True) if with_delta else None,
        alerts=read_table(folder / "alerts.parquet") if with_delta else None,
        out=folder / "map.html",
        title=c.title,
        max_alerts=c.max_alerts,
    )


def _aoi(c: RunConfig, home: Path) -> gpd.GeoDataFrame | None:
    if c.aoi is None:
        return None
    if isinstance(c.aoi, str) and c.aoi in list_places() and not (home / c.aoi).exists():
        return read_aoi(c.aoi)
    return read_aoi(_relative(c.aoi, home) if isinstance(c.aoi, str) else c.aoi)


def _everywhere() -> tuple[float, float, float, float]:
    return (-180.0, -90.0, 180.0, 90.0)


def _catalog(address: str, home: Path) -> str:
    """A provider's name or a URL as it is; a path as seen from `home`."""
    return address if address in list_providers() else _relative(address, home)


def _relative(path: str, home: Path) -> str:
    """A URL as it is; a path as seen from `home`."""
    return path if urlsplit(path).scheme in ("http", "https") else (home / path).as_posix()


def demo(
    out: str | Path = "demo", *, workers: int = 1, report: StageReporter = _silent
) -> tuple[RunSummary, Simulation]:
    """Simulate scenes with a burn, a flood and a clearing, and run the whole chain on them, with no network.

    Args:
        out: Local folder for scenes and results.
        workers: Processes of the local Dask cluster.
        report: Told of each stage, and how far it is.

    Raises:
        AlreadyExistsError: If the folder holds something else than a demo.
    """
    folder = Location.of(out).path
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "scenes").is_dir())):
        raise AlreadyExistsError(f"{folder} holds something else than a demo. Give another --out.")
    progress = report("simulate")
    simulation = make_scenes(folder / "scenes", progress=lambda done, total, day: progress(done, total), overwrite=True)
    summary = run(demo_config(simulation, folder), base=".", workers=workers, report=report)
    return summary, simulation


def demo_config(simulation: Simulation, folder: Path) -> RunConfig:
    """The config of the demo: calibrated on the quiet dates before the first event."""
    days = [date.fromisoformat(str(d)) for d in simulation.dates]
    onset = min(date.fromisoformat(str(event.date)) for event in simulation.events)
    before = [d for d in days if d < onset]
    return RunConfig(
        name="demo",
        aoi=simulation.aoi.resolve().as_posix(),
        out=folder.as_posix(),
        search=SearchConfig(
            catalog=simulation.catalog.resolve().as_posix(),
            collections=(simulation.collection,),
            start=days[0],
            end=days[-1],
        ),
        calibrate=CalibrateConfig(quiet=((before[0], before[-1]),), n=1000),
        delta=DeltaConfig(reference="median", reference_dates=((before[0], before[-1]),), dates=((onset, days[-1]),)),
        map=MapConfig(title="geoelle demo (simulated)"),
    )
