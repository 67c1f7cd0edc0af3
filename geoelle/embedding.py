"""The embedding stage: every chip of an area on every date, through a frozen encoder, into one Zarr store.

A job is one tile on one date. It is a pure function of its inputs, writes its own chunks, and marks them done last.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geoelle import schema
from geoelle.aoi import AOILike, aoi_geometry, read_aoi
from geoelle.catalog import group_scenes, read_items, records_from_frame
from geoelle.chips import MAX_INVALID_FRACTION, TileChips, cut_chips
from geoelle.encoders import Encoder, get_card, load_encoder
from geoelle.errors import ConfigError, EncoderInputError, GridError, NoItemsError
from geoelle.grid import ChipGrid, GridExtent, Tile, utm_epsg
from geoelle.imagery import read_tile, without_signature
from geoelle.provenance import digest, software
from geoelle.records import EmbedSummary, EncoderCard, ItemRecord, JobResult, Scene
from geoelle.running import Progress, cluster, encoder_threads, no_progress, run_jobs
from geoelle.schema import check_items
from geoelle.sensors import get_sensor
from geoelle.store import open_store
from geoelle.store.embeddings import prepare, stored_digests, write_job
from geoelle.store.layout import grid_attrs, open_group

type ItemsLike = str | Path | gpd.GeoDataFrame
_WIDEST_AREA_DEG = 9.0
ENCODING = threading.Lock()
"""One encoder at a time in a process; reading goes on beside it."""


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Everything a worker needs."""

    store: Path
    scene: Scene
    extent: GridExtent
    tile: Tile
    tile_index: tuple[int, int]
    time_index: int
    wanted: NDArray[np.bool_]
    encoder: str
    threads: int
    max_invalid_fraction: float
    digest: str

    @property
    def name(self) -> str:
        """`<day> tile <row>,<column>`."""
        return f"{_day(self.scene)} tile {self.tile.name}"


def embed(
    items: ItemsLike,
    *,
    out: str | Path,
    aoi: AOILike | None = None,
    encoder: str = "compact-rgb",
    chip_size_m: float = 640,
    stride_m: float = 320,
    tile_chips: int = 16,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Embed every chip of an area on every date. What is there already, unchanged, is not done again.

    Args:
        items: File written by `search`, or the GeoDataFrame that it returned.
        out: Folder of the Zarr store; made, continued, or added to.
        aoi: The area; by default all that the items cover.
        encoder: Name as in `list_encoders`.
        chip_size_m: Edge of a chip, metres.
        stride_m: Distance between chips, metres.
        tile_chips: Edge of a job's tile, chips.
        max_invalid_fraction: Chips with a larger share of pixels that do not see the ground are skipped.
        workers: Processes of the local Dask cluster.
        scheduler: Address of a Dask scheduler to use instead; its workers must see items and store under the
            same paths.
        progress: Told how many jobs are done.

    Returns:
        The store, opened lazily: `embedding` (time, y, x, feature) and what became of each chip. Its
        `attrs["geoelle:summary"]` is an `EmbedSummary` as a dict.

    Raises:
        EncoderInputError: If the encoder does not take such chips.
        ConfigError: If an option is out of its range.
        GridError: If the area reaches far beyond one UTM zone.
        StoreError: If the store was made with another grid, encoder or config, or for another area.
        NoItemsError: If the items miss the area.
    """
    records = load_records(items)
    area_frame = read_aoi(aoi) if aoi is not None else _covered(items)
    area = aoi_geometry(area_frame)
    card = get_card(encoder)
    check_items(records, card.bands)
    _check_zone(area)
    grid = ChipGrid(utm_epsg(area.centroid.x, area.centroid.y), float(chip_size_m), float(stride_m))
    extent = GridExtent.covering(grid, area, tile_chips)
    wanted = extent.aoi_mask(area)
    _check_chip_size(card, extent)
    _check_max_invalid(max_invalid_fraction)
    scenes = group_scenes(r for r in records if _near(r, area))
    if not scenes:
        raise NoItemsError("None of the items touches the AOI. Search again with this AOI.")
    store = Path(out)
    known: dict[str, Any] = dict(open_group(store).attrs) if store.exists() else {}
    item_ids = {**known.get("geoelle:scenes", {}), **{_day(s): list(s.item_ids) for s in scenes}}
    simulated = bool(known.get("geoelle:simulated")) or any(_is_simulated(i) for s in scenes for i in s.items)
    config = {"sensor": card.sensor, "gsd_m": card.gsd_m, "max_invalid_fraction": max_invalid_fraction}
    attrs = {
        "geoelle:kind": "embeddings",
        "geoelle:grid": grid_attrs(extent),
        "geoelle:encoder": encoder_attrs(card, extent),
        "geoelle:config": config,
        # A job writes its whole tile, so a run for fewer chips of it would lose the others.
        "geoelle:area": {"chips": int(wanted.sum()), "digest": digest(np.packbits(wanted).tobytes().hex())},
        "geoelle:aoi": json.loads(area_frame.to_json()),
        "geoelle:scenes": dict(sorted(item_ids.items())),
        "geoelle:simulated": simulated,
        "geoelle:native_gsd_m": _native_gsd(scenes, card, known.get("geoelle:native_gsd_m")),
        "geoelle:attribution": attribution(card.sensor, item_ids, simulated=simulated),
        "geoelle:software": software(),
    }
    index = prepare(
        store, extent, [s.day for s in scenes], n_features=card.n_features,
        units=card.units, attrs=attrs,
    )  # fmt: skip
    jobs = _plan(store, scenes, extent, wanted, index, encoder, encoder_threads(workers), config, card)
    todo = _not_done(store, jobs)
    results = list(_run(todo, workers, scheduler, progress)) if todo else []
    summary = _summarise(store, len(jobs), results)
    _log(store, summary)
    ds = open_store(store, "embeddings")
    ds.attrs["geoelle:summary"] = asdict(summary)
    return ds


def load_records(items: ItemsLike) -> list[ItemRecord]:
    """Item records from whatever names them."""
    return records_from_frame(items) if isinstance(items, gpd.GeoDataFrame) else read_items(items)[0]


def encoder_attrs(card: EncoderCard, extent: GridExtent) -> dict[str, Any]:
    """What a store says about its encoder: enough to refuse another one's probe."""
    decisive = ("name", "sensor", "bands", "units", "scale", "clip", "mean", "std", "patch_px", "pooling")
    return {
        "name": card.name,
        "card_digest": digest({name: getattr(card, name) for name in decisive}),
        "weights_sha256": card.weights_sha256,
        "bands": list(card.bands),
        "chip_size_px": extent.chip_size_px(card.gsd_m),
        "gsd_m": card.gsd_m,
        "n_features": card.n_features,
        "mask_ratio": card.mask_ratio,
        "loss_kind": card.loss_kind,
        "loss_definition": card.loss_definition,
    }


def attribution(sensor: str, days: Iterable[str], *, simulated: bool) -> str:
    """The text that the sensor's data asks for, with the years used."""
    if simulated:
        return "Simulated data: no satellite saw this"
    years = sorted({day[:4] for day in days})
    span = years[0] if years[0] == years[-1] else f"{years[0]}-{years[-1]}"
    return f"{get_sensor(sensor).attribution} [{span}]"


def read_chips(
    scene: Scene, extent: GridExtent, tile: Tile, wanted: NDArray[np.bool_], card: EncoderCard, max_invalid: float
) -> TileChips:
    """Chips of one tile on one date, as the encoder of `card` takes them."""
    pixels = read_tile(scene, extent.tile_geobox(tile, card.gsd_m), card.bands)
    return cut_chips(
        pixels, scene, extent, tile, wanted,
        bands=card.bands, units=card.units, gsd_m=card.gsd_m, max_invalid_fraction=max_invalid,
    )  # fmt: skip


@lru_cache(maxsize=2)
def cached_encoder(name: str, threads: int) -> Encoder:
    """The encoder of this process."""
    return load_encoder(name, threads=threads)


def work(job: EmbedJob) -> JobResult:
    """Do one job. What goes wrong with its pixels is its result, so that the other jobs go on."""
    try:
        card = get_card(job.encoder)
        chips = read_chips(job.scene, job.extent, job.tile, job.wanted, card, job.max_invalid_fraction)
        with ENCODING:
            encoder = cached_encoder(job.encoder, job.threads)
            features = encoder.embed(chips.batch) if len(chips.batch) else None
    except Exception as error:  # whatever a file or its transport does; the job is named and taken up again
        status = np.where(job.wanted, schema.FAILED, schema.OUTSIDE_AOI).astype(np.uint8)
        write_job(job.store, job.time_index, job.tile_index, job.tile, {"status": status}, None)
        return JobResult(job.name, "failed", error=f"{type(error).__name__}: {without_signature(str(error))}")
    status = chips.status.copy()
    embedding = np.full((*status.shape, card.n_features), np.nan, dtype=np.float32)
    if features is not None:
        embedding[chips.index] = features
        status[chips.index] = schema.DONE
    data = {
        "embedding": embedding,
        **chips.fractions,
        "contrast": chips.contrast,
        "status": status,
    }
    write_job(job.store, job.time_index, job.tile_index, job.tile, data, job.digest)
    counts = np.bincount(status.ravel(), minlength=7)
    return JobResult(
        job.name, "done", int(counts[schema.DONE]), int(counts[schema.SKIPPED_INVALID]),
        int(counts[schema.SKIPPED_CLOUD]),
    )  # fmt: skip


def _plan(
    store: Path,
    scenes: Sequence[Scene],
    extent: GridExtent,
    wanted: NDArray[np.bool_],
    index: Mapping[np.datetime64, int],
    encoder: str,
    threads: int,
    config: Mapping[str, Any],
    card: EncoderCard,
) -> list[EmbedJob]:
    jobs = []
    identity = {"config": dict(config), "encoder": encoder_attrs(card, extent), "grid": grid_attrs(extent)}
    for scene in scenes:
        made_of = [(i.id, i.processing_baseline) for i in sorted(scene.items, key=lambda i: i.id)]
        for n, tile in enumerate(extent.tiles()):
            mask = wanted[tile.y, tile.x]
            if not mask.any():
                continue
            job_digest = digest(
                {**identity, "items": made_of, "tile": tile.name, "wanted": np.packbits(mask).tobytes().hex()}
            )
            where = divmod(n, len(extent.tile_columns))
            jobs.append(
                EmbedJob(
                    store, scene, extent, tile, where, index[scene.day], mask, encoder, threads,
                    float(config["max_invalid_fraction"]), job_digest,
                )
            )  # fmt: skip
    return jobs


def _not_done(store: Path, jobs: Sequence[EmbedJob]) -> list[EmbedJob]:
    stored = stored_digests(store)
    return [j for j in jobs if stored[j.time_index, *j.tile_index].tobytes().hex() != j.digest]


def _run(jobs: Sequence[EmbedJob], workers: int, scheduler: str | None, progress: Progress) -> list[JobResult]:
    with cluster(workers, scheduler) as client:
        return list(run_jobs(client, work, jobs, label="embed", progress=progress))


def _summarise(store: Path, n_jobs: int, results: Sequence[JobResult]) -> EmbedSummary:
    failed = [r for r in results if r.outcome == "failed"]
    return EmbedSummary(
        store=store.as_posix(),
        n_jobs=n_jobs,
        n_unchanged=n_jobs - len(results),
        n_done=len(results) - len(failed),
        n_failed=len(failed),
        n_embedded=sum(r.n_embedded for r in results),
        n_skipped_invalid=sum(r.n_skipped_invalid for r in results),
        n_skipped_cloud=sum(r.n_skipped_cloud for r in results),
        failures=tuple(f"{r.job}: {r.error}" for r in sorted(failed, key=lambda r: r.job)),
    )


def _log(store: Path, summary: EmbedSummary) -> None:
    """Beside the store, never in it: a log differs from run to run and the store must not."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(summary)}
    with store.with_suffix(".log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def _day(scene: Scene) -> str:
    return str(np.datetime_as_string(scene.day, "D"))


def _check_max_invalid(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise ConfigError(f"max_invalid_fraction is {fraction}. Expected from 0 to less than 1.")


def _covered(items: ItemsLike) -> gpd.GeoDataFrame:
    frame = items if isinstance(items, gpd.GeoDataFrame) else None
    if frame is None:
        from geoelle.catalog import items_frame

        frame = items_frame(load_records(items))
    return read_aoi(frame.geometry.union_all())


def _near(record: ItemRecord, area: BaseGeometry) -> bool:
    west, south, east, north = area.bounds
    return bool(
        record.bbox[0] <= east and record.bbox[2] >= west and record.bbox[1] <= north and record.bbox[3] >= south
    )


def _check_zone(area: BaseGeometry) -> None:
    west, _, east, _ = area.bounds
    if east - west > _WIDEST_AREA_DEG:
        raise GridError(
            f"The area reaches from longitude {west:g} to {east:g}. A run has one UTM zone, of 6 degrees, and at most "
            f"{_WIDEST_AREA_DEG:g} degrees keep shapes and sizes usable; split the area."
        )


def _native_gsd(scenes: Sequence[Scene], card: EncoderCard, known: float | None) -> float | None:
    """Coarsest pixel, in metres, that an item declares for a band the encoder sees; None where none says."""
    declared = [item.assets[band].gsd_m for scene in scenes for item in scene.items for band in card.bands]
    return max((gsd for gsd in (*declared, known) if gsd is not None), default=None)


def _check_chip_size(card: EncoderCard, extent: GridExtent) -> None:
    size = extent.chip_size_px(card.gsd_m)
    if size not in card.chip_sizes_px:
        takes = " or ".join(f"{px * card.gsd_m:g} m ({px} px)" for px in card.chip_sizes_px)
        raise EncoderInputError(
            f"Chips of {extent.grid.chip_size_m:g} m are {size} px at {card.gsd_m:g} m. {card.name} takes {takes}; "
            "set chip_size_m to one of these."
        )
    extent.stride_px(card.gsd_m)


def _is_simulated(record: ItemRecord) -> bool:
    properties: Any = record.raw.get("properties", {})
    return bool(properties.get("geoelle:simulated"))
