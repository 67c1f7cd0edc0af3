"""Jobs of the embedding stage: one tile on one date, planned one after another, done on any worker.

A job is a pure function of its inputs. It reads, cuts, embeds and writes its own chunks, and marks them done last.
On a cluster with GPU workers it is two steps: what reads runs on the others, what encodes and writes on those.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geoelle import schema
from geoelle.catalog.footprints import footprint_of
from geoelle.chips import TileChips, cut_chips
from geoelle.encoders import Encoder, load_encoder
from geoelle.encoders.options import DEFAULT_OPTIONS, EncoderOptions
from geoelle.encoders.registry import open_by_factory
from geoelle.errors import GeoelleError, StoreError, WeightsError
from geoelle.grid import GridExtent, Tile, ZoneChips
from geoelle.imagery import CloudMask, TileMemory, read_tile, scaling, without_signature
from geoelle.provenance import digest
from geoelle.records import EncoderCard, ItemRecord, JobResult, Scene
from geoelle.sensors import Sensor
from geoelle.store.embeddings import status_of, write_job
from geoelle.store.location import Location
from geoelle.store.locking import Hold

ENCODING = threading.Lock()
"""One encoder at a time in a process; reading goes on beside it."""
_MEMORY = TileMemory()
_FOOTPRINT_MARGIN_DEG = 0.02
"""Catalogs draw footprints coarsely; an item this near to a tile may still reach it."""


@dataclass(frozen=True, slots=True)
class ChipOptions:
    """Which pixels and chips an encoder gets to see. Part of a store's identity."""

    max_invalid_fraction: float
    max_cloud_fraction: float | None = None
    min_contrast: float | None = None
    cloud_mask: CloudMask = "auto"


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Everything a worker needs."""

    store: Location
    hold: Hold
    """The run's lock of the store: a job that outlives its run writes nothing."""
    scene: Scene
    """With only the items that reach the tile; none where a job done earlier is to be undone."""
    extent: GridExtent
    tile: Tile
    tile_index: tuple[int, int]
    time_index: int
    wanted: NDArray[np.bool_]
    sensor: Sensor
    card: EncoderCard
    """As the coordinator found the encoder once its weights were known."""
    opening: EncoderOptions
    threads: int
    options: ChipOptions
    digest: str

    @property
    def name(self) -> str:
        """`<day> tile <row>,<column>`, with the zone's EPSG code."""
        return f"{day_label(self.scene)} tile {self.tile.name} of EPSG:{self.extent.grid.epsg}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the pixels of a job could not be had."""

    reason: str


@dataclass(frozen=True)
class JobPlanner:
    """Makes the jobs of one zone, one at a time: memory does not grow with their number."""

    store: Location
    hold: Hold
    zone: ZoneChips
    scenes: Sequence[Scene]
    time_index: Mapping[np.datetime64, int]
    identity: Mapping[str, Any]
    """What all jobs of the store have in common: grid, encoder, config."""
    sensor: Sensor
    card: EncoderCard
    opening: EncoderOptions
    threads: int
    options: ChipOptions
    stored: NDArray[np.uint8] = field(repr=False)
    """(time, tile_y, tile_x, 32): digests of the jobs done."""

    def due(self) -> Iterator[EmbedJob]:
        """Jobs that are not done, or were made of something else; dates in order, tiles from the north-west."""
        return (job for job in self._jobs() if self._is_due(job))

    def count(self) -> tuple[int, int, int]:
        """How many jobs items and area ask for, how many are due, and how many of those asked for are done already.

        Jobs that undo what items gave which are there no more are due without being asked for.
        """
        n_jobs = n_due = n_kept = 0
        for job in self._jobs():
            is_due, is_asked = self._is_due(job), bool(job.scene.items)
            n_jobs += is_asked
            n_due += is_due
            n_kept += is_asked and not is_due
        return n_jobs, n_due, n_kept

    def _is_due(self, job: EmbedJob) -> bool:
        there: bytes = self.stored[job.time_index, *job.tile_index].tobytes()
        return not job.scene.items or there.hex() != job.digest

    def _failed(self, time_index: int) -> NDArray[np.bool_]:
        """Chips that failed on a date, (y, x); all, where that cannot be read, so that it is written anew."""
        try:
            return np.asarray(status_of(self.store, time_index) == schema.FAILED)
        except StoreError:
            return np.ones(self.zone.wanted.shape, dtype=np.bool_)

    def _jobs(self) -> Iterator[EmbedJob]:
        common = digest(dict(self.identity))
        store = self.store.absolute()
        tiles = [(tile, *_of_tile(self.zone, tile), self._outline(tile)) for tile in self.zone.wanted_tiles()]
        for scene in self.scenes:
            reach = reaching(scene)
            t = self.time_index[scene.day]
            failed: NDArray[np.bool_] | None = None
            for tile, index, mask, outline in tiles:
                items = reach(outline)
                if not items and not self.stored[t, *index].any():
                    failed = self._failed(t) if failed is None else failed
                    if not failed[tile.y, tile.x].any():
                        continue  # no imagery, and none before: there is nothing to do
                made_of = digest({
                    "common": common, "items": [item_identity(i) for i in items], "tile": tile.name,
                    "wanted": np.packbits(mask).tobytes().hex(),
                }) if items else bytes(32).hex()  # fmt: skip
                part = replace(scene, items=items)
                yield EmbedJob(
                    store, self.hold, part, self.zone.extent, tile, index, t, mask, self.sensor, self.card,
                    self.opening, self.threads, self.options, made_of,
                )  # fmt: skip

    def _outline(self, tile: Tile) -> BaseGeometry:
        return self.zone.extent.tile_footprint(tile, self.card.gsd_m)


def jobs_per_day(zone: ZoneChips, scenes: Sequence[Scene], gsd_m: float) -> dict[str, int]:
    """How many jobs each date asks for: tiles with a chip that is wanted, and an item that reaches it."""
    outlines = [zone.extent.tile_footprint(tile, gsd_m) for tile in zone.wanted_tiles()]
    found = {}
    for scene in scenes:
        reach = reaching(scene)
        found[day_label(scene)] = sum(1 for outline in outlines if reach(outline))
    return found


def refuse_mixed_states(scene: Scene, zones: Sequence[ZoneChips], card: EncoderCard) -> None:
    """Refuse a day whose items scale their numbers differently where two of them reach one tile.

    Raises:
        ImageryError: With the items of both states.
    """
    states = {tuple((item.assets[band].scale, item.assets[band].offset) for band in card.bands) for item in scene.items}
    if len(states) < 2:
        return
    reach = reaching(scene)
    for zone in zones:
        for tile in zone.wanted_tiles():
            together = reach(zone.extent.tile_footprint(tile, card.gsd_m))
            if together:
                scaling(together, card.bands)


def _of_tile(zone: ZoneChips, tile: Tile) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """A tile's (row, column) among the zone's tiles, and which of its chips are wanted."""
    n = zone.extent.tile_chips
    return (tile.y.start // n, tile.x.start // n), zone.wanted[tile.y, tile.x]


def reaching(scene: Scene) -> Callable[[BaseGeometry], tuple[ItemRecord, ...]]:
    """Given an outline in EPSG:4326: the scene's items whose footprint comes near it, in the scene's order."""
    tree = shapely.STRtree([footprint_of(item) for item in scene.items])

    def near(outline: BaseGeometry) -> tuple[ItemRecord, ...]:
        found = tree.query(outline, predicate="dwithin", distance=_FOOTPRINT_MARGIN_DEG)
        return tuple(scene.items[i] for i in sorted(found))

    return near


def item_identity(item: ItemRecord) -> list[Any]:
    """What makes a reprocessed item another item, though its id be the same."""
    processed = None if item.processed is None else str(item.processed)
    scaling = sorted({(a.scale, a.offset) for a in item.assets.values()})
    return [item.id, item.processing_baseline, processed, item.offset_applied, scaling]


def read_chips(
    scene: Scene,
    extent: GridExtent,
    tile: Tile,
    wanted: NDArray[np.bool_],
    card: EncoderCard,
    options: ChipOptions,
    sensor: Sensor,
) -> TileChips:
    """Chips of one tile on one date, as the encoder of `card` takes them."""
    pixels = read_tile(
        scene, extent.tile_geobox(tile, card.gsd_m), card.bands, sensor=sensor, cloud_mask=options.cloud_mask,
        units=card.units, memory=_MEMORY,
    )  # fmt: skip
    return cut_chips(
        pixels, scene, extent, tile, wanted, bands=card.bands, units=card.units, gsd_m=card.gsd_m,
        max_invalid_fraction=options.max_invalid_fraction, max_cloud_fraction=options.max_cloud_fraction,
        min_contrast=options.min_contrast,
    )  # fmt: skip


@lru_cache(maxsize=2)
def cached_encoder(name: str, threads: int, opening: EncoderOptions = DEFAULT_OPTIONS) -> Encoder:
    """The encoder of this process."""
    if opening.factory:
        return open_by_factory(opening.factory, name, threads=threads, **opening.opening())
    return load_encoder(name, threads=threads, **opening.opening())


def encoder_of(card: EncoderCard, threads: int, opening: EncoderOptions) -> Encoder:
    """The encoder of this process, if it is the one that the coordinator means.

    Raises:
        WeightsError: If the weights on this machine are others.
    """
    encoder = cached_encoder(card.name, threads, opening)
    if encoder.card.weights_sha256 != card.weights_sha256:
        raise WeightsError(
            f"This worker's weights of {card.name} have sha256 {encoder.card.weights_sha256[:12]}. Expected "
            f"{card.weights_sha256[:12]}, as where the run was started; give all machines the same file."
        )
    return encoder


def work(job: EmbedJob) -> JobResult:
    """Do one job. What goes wrong with it is its result, so that the other jobs go on."""
    return encode(read(job), job)


def read(job: EmbedJob) -> TileChips | Failure | None:
    """The first step: pixels to chips; None where no item reaches the tile any more."""
    if not job.scene.items:
        return None
    try:
        return read_chips(job.scene, job.extent, job.tile, job.wanted, job.card, job.options, job.sensor)
    except Exception as error:  # whatever a file or its transport does; the job is named and taken up again
        return _failure(error)


def encode(chips: TileChips | Failure | None, job: EmbedJob) -> JobResult:
    """The second step: chips to embeddings, written with the digest of what they were made of."""
    try:
        if chips is None:
            _write(job, {"status": np.full(job.wanted.shape, schema.NOT_DONE, dtype=np.uint8)}, None)
            return JobResult(job.name, "done")
        if not isinstance(chips, Failure):
            try:
                data = _embedded(job, chips)
            except Exception as error:  # an encoder that fails on a batch
                chips = _failure(error)
            else:
                _write(job, data, job.digest)
                return _result(job, data["status"])
        status = np.where(job.wanted, schema.FAILED, schema.OUTSIDE_AOI).astype(np.uint8)
        _write(job, {"status": status}, None)
        return JobResult(job.name, "failed", error=chips.reason)
    except (GeoelleError, OSError) as error:  # the disk is full, or the folder gone
        return JobResult(job.name, "failed", error=_failure(error).reason)


def _write(job: EmbedJob, data: Mapping[str, NDArray[Any]], job_digest: str | None) -> None:
    write_job(job.store, job.time_index, job.tile_index, job.tile, data, job_digest, job.hold)


def _embedded(job: EmbedJob, chips: TileChips) -> dict[str, NDArray[Any]]:
    status = chips.status.copy()
    embedding = np.full((*status.shape, job.card.n_features), np.nan, dtype=np.float32)
    if len(chips.batch):
        with ENCODING:
            encoder = encoder_of(job.card, job.threads, job.opening)
            embedding[chips.index] = encoder.embed(chips.batch, **job.opening.reading())
        status[chips.index] = schema.DONE
    return {"embedding": embedding, **chips.fractions, "contrast": chips.contrast, "status": status}


def _result(job: EmbedJob, status: NDArray[Any]) -> JobResult:
    n = np.bincount(status.ravel(), minlength=7)
    return JobResult(
        job.name, "done", int(n[schema.DONE]), int(n[schema.SKIPPED_INVALID]), int(n[schema.SKIPPED_CLOUD]),
        int(n[schema.SKIPPED_FLAT]),
    )  # fmt: skip


def _failure(error: Exception) -> Failure:
    return Failure(f"{type(error).__name__}: {without_signature(str(error))}")


def day_label(scene: Scene) -> str:
    """The scene's date, `2020-01-28`."""
    return str(np.datetime_as_string(scene.day, "D"))
