"""The embedding stage: every chip of an area on every date, through a frozen encoder, into one Zarr store.

An area across UTM zones becomes one group per zone. Jobs are planned one at a time (`geoelle.jobs`), so memory does
not grow with the area.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from shapely.geometry.base import BaseGeometry

from geoelle.antimeridian import turned
from geoelle.aoi import AOILike, aoi_geometry, read_aoi
from geoelle.catalog import group_scenes, read_items, records_from_frame
from geoelle.catalog.footprints import footprint_of
from geoelle.chips import MAX_INVALID_FRACTION
from geoelle.choosing import choose_card, settle
from geoelle.describing import attribution, encoder_attrs, encoder_notes, native_gsd_m, provenance_of
from geoelle.encoders import get_card
from geoelle.encoders.options import EncoderOptions
from geoelle.errors import ConfigError, EncoderInputError, NoItemsError
from geoelle.grid import ZoneChips, zone_chips
from geoelle.imagery import CloudMask, mask_source
from geoelle.jobs import (
    ChipOptions,
    EmbedJob,
    JobPlanner,
    day_label,
    encode,
    jobs_per_day,
    read,
    refuse_mixed_states,
    work,
)
from geoelle.provenance import digest, software
from geoelle.radiometry import radiometry_of
from geoelle.records import EmbedSummary, EncoderCard, ItemRecord, JobResult, Scene
from geoelle.running import Progress, Steps, cluster, encoder_threads, no_progress, run_jobs
from geoelle.schema import EMBEDDING_DTYPES, ENCODER_ATTRS, check_items
from geoelle.sensors import Sensor, get_sensor
from geoelle.store.attributes import check_attributes
from geoelle.store.embeddings import prepare, stored_digests
from geoelle.store.layout import grid_attrs, is_stored, open_group, run_log
from geoelle.store.location import Location
from geoelle.store.locking import Hold, store_lock
from geoelle.store.zones import create_zones, open_area, zone_paths

type ItemsLike = str | Path | gpd.GeoDataFrame
_FAILURES_TOLD = 100
NOT_NEEDED = "not needed"
"""What `geoelle:masks` says of radar, which sees through clouds."""
_ZONE_MARGIN_DEG = 0.1
CLOUD_MASKS: tuple[CloudMask, ...] = get_args(CloudMask)


def embed(
    items: ItemsLike,
    *,
    out: str | Path,
    aoi: AOILike | None = None,
    encoder: str = "compact-rgb",
    weights: str | Path | None = None,
    accept_license: bool = False,
    device: str = "auto",
    precision: str = "float32",
    pooling: str | None = None,
    layer: int | None = None,
    chip_size_m: float = 640,
    stride_m: float = 320,
    tile_chips: int = 16,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
    max_cloud_fraction: float | None = None,
    min_contrast: float | None = None,
    cloud_mask: CloudMask = "auto",
    dtype: str = "float32",
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset | xr.DataTree:
    """Embed every chip of an area on every date. What is there already, unchanged, is not done again.

    Args:
        items: File written by `search`, or the GeoDataFrame that it returned.
        out: Folder or object-store URL of the Zarr store; made, continued, or added to.
        aoi: The area; by default all that the items cover.
        encoder: Name as in `list_encoders`. Where its default is for another sensor than the items', its variant for
            theirs is taken.
        weights: File or folder of its checkpoint; None: where geoelle keeps it, downloaded on first use.
        accept_license: Whether you accept the licence of non-commercial weights.
        device: `auto` is the GPU where a worker has one, else its CPU.
        precision: Of the encoder's products: `float32`, `bf16` or `fp16`.
        pooling: How tokens become one embedding, one of the card's `poolings`; None: the card's choice.
        layer: Index of a transformer block whose output is taken; None: the encoder's own output.
        chip_size_m: Edge of a chip, metres.
        stride_m: Distance between chips, metres.
        tile_chips: Edge of a job's tile, chips.
        max_invalid_fraction: Chips with a larger share of pixels that do not see the ground are skipped.
        max_cloud_fraction: Chips with a larger share of cloud and its shadow are skipped; None: as above only.
        min_contrast: Chips with a smaller standard deviation (mean over bands, units of the pixels) are skipped as
            flat, for example open ocean; None: none are.
        cloud_mask: `auto` takes the source's quality layer, else the heuristic test where its bands are there, else
            none; or one of `quality`, `heuristic`, `omnicloudmask`, `none`.
        dtype: `float32`, `float16` or `int8` (with a scale per chip), in which embeddings are stored.
        workers: Processes of the local Dask cluster.
        scheduler: Address of a Dask scheduler to use instead; its workers must see items and store under the
            same paths. Workers that declare the resource `GPU` encode, the others read.
        progress: Told how many jobs are done.

    Returns:
        The store, opened lazily: `embedding` (time, y, x, feature) and what became of each chip. Its
        `attrs["geoelle:summary"]` is an `EmbedSummary` as a dict. A DataTree, one child per zone, where the area
        lies in several UTM zones.

    Raises:
        EncoderInputError: If the encoder does not take such chips, such a sensor, or such an option.
        WeightsError: If its weights are not there or damaged, or their licence is not accepted.
        ConfigError: If an option is out of its range.
        GridError: If the area reaches beyond UTM.
        ImageryError: If the items mix radiometric states, or their pixels contradict what they declare.
        StoreError: If the store was made with another grid, encoder or config, or for another area, or if another
            run is writing it.
        NoItemsError: If the items miss the area.
    """
    options = ChipOptions(max_invalid_fraction, max_cloud_fraction, min_contrast, cloud_mask)
    _check_options(options, dtype)
    get_card(encoder)  # a slip in the name is told before anything is read
    records = load_records(items)
    area_frame = read_aoi(aoi) if aoi is not None else _covered(records)
    area = aoi_geometry(area_frame)
    card = choose_card(encoder, records)
    sensor = get_sensor(card.sensor)
    check_items(records)
    _check_chip_size(card, float(chip_size_m))
    zones = zone_chips(area, float(chip_size_m), float(stride_m), tile_chips)
    for zone in zones:
        zone.extent.stride_px(card.gsd_m)
    near = [r for r in records if footprint_of(r).intersects(area)]
    if not near:
        raise NoItemsError("None of the items touches the AOI. Search again with this AOI.")
    for record in near:
        mask_source([record], sensor, cloud_mask)  # what a mask lacks is said before anything is written
    for scene in group_scenes(near):
        refuse_mixed_states(scene, zones, card)
    asked = EncoderOptions(None if weights is None else str(weights), accept_license, device, precision, pooling, layer)
    store, threads = Location.of(out), encoder_threads(workers)
    shared = workers == 1 and scheduler is None
    card, opening = settle(card, asked, known=_known_encoder(store), threads=threads, shared=shared)
    run = _Run(store, near, area_frame, card, opening, sensor, options, dtype, threads)
    with store_lock(run.store, "embed") as hold:
        run = replace(run, radiometry=radiometry_of(near, sensor, _known_radiometry(run.store)))
        planners = _prepare(run, zones, hold)
        summary = _do(run, planners, workers, scheduler, progress)
        _log(run.store, summary)
    opened = open_area(run.store, "embeddings")
    opened.attrs["geoelle:summary"] = asdict(summary)
    return opened


def load_records(items: ItemsLike) -> list[ItemRecord]:
    """Item records from whatever names them."""
    return records_from_frame(items) if isinstance(items, gpd.GeoDataFrame) else read_items(items)[0]


@dataclass(frozen=True, slots=True)
class _Run:
    """What is to be embedded, how, and where to."""

    store: Location
    records: Sequence[ItemRecord]
    area: gpd.GeoDataFrame
    card: EncoderCard
    opening: EncoderOptions
    sensor: Sensor
    options: ChipOptions
    dtype: str
    threads: int
    radiometry: Mapping[str, Any] = field(default_factory=dict)
    """By item id: what it declares about the offset of baseline 04.00, and what its pixels say."""

    @property
    def config(self) -> dict[str, Any]:
        """What, with grid and encoder, decides every byte of a job."""
        run_on = {"device": self.opening.device, "precision": self.opening.precision}
        decides = bool(self.card.checkpoint) or run_on != {"device": "auto", "precision": "float32"}
        return {
            "sensor": self.sensor.name, "gsd_m": self.card.gsd_m, "dtype": self.dtype, **asdict(self.options),
            **(run_on if decides else {}),
        }  # fmt: skip


def _prepare(run: _Run, zones: Sequence[ZoneChips], hold: Hold) -> list[JobPlanner]:
    """Make or take up the store of every zone, and plan its jobs."""
    scenes = group_scenes(run.records)
    area = aoi_geometry(run.area)
    if len(zones) == 1:
        return [_prepare_zone(run, zones[0], run.store, scenes, hold)]
    reached = [(zone, _in_zone(scenes, zone, area)) for zone in zones]
    with_imagery = [zone.name for zone, here in reached if here]
    paths = create_zones(run.store, "embeddings", with_imagery, {"geoelle:aoi": json.loads(run.area.to_json())})
    return [_prepare_zone(run, zone, paths[zone.name], here, hold) for zone, here in reached if here]


def _prepare_zone(run: _Run, zone: ZoneChips, place: Location, scenes: Sequence[Scene], hold: Hold) -> JobPlanner:
    known: dict[str, Any] = _said(place) if is_stored(place) else {}
    attrs = _attrs(run, zone, scenes, known)
    index = prepare(
        place, zone.extent, [s.day for s in scenes], n_features=run.card.n_features, units=run.card.units,
        attrs=attrs, dtype=run.dtype,
    )  # fmt: skip
    identity = {name: attrs[f"geoelle:{name}"] for name in ("config", "encoder", "grid")}
    return JobPlanner(
        place, hold, zone, scenes, index, identity, run.sensor, run.card, run.opening, run.threads, run.options,
        stored_digests(place),
    )  # fmt: skip


def _in_zone(scenes: Sequence[Scene], zone: ZoneChips, area: BaseGeometry) -> list[Scene]:
    """The scenes with the items that reach a zone's part of the area."""
    west = -180 + 6 * (zone.extent.grid.epsg % 100 - 1)
    south, north = (0, 90) if zone.extent.grid.epsg < 32700 else (-90, 0)
    near = area.intersection(shapely.box(west, south, west + 6, north)).buffer(_ZONE_MARGIN_DEG)
    part = shapely.union_all([turned(near, turns) for turns in (-1, 0, 1)])  # what reaches beyond 180 is there too
    reached = (replace(s, items=tuple(i for i in s.items if footprint_of(i).intersects(part))) for s in scenes)
    return [scene for scene in reached if scene.items]


def _attrs(run: _Run, zone: ZoneChips, scenes: Sequence[Scene], known: Mapping[str, Any]) -> dict[str, Any]:
    """Identity and provenance of a zone's store; what it says already of earlier runs' scenes stays."""
    item_ids = {**known.get("geoelle:scenes", {}), **{day_label(s): list(s.item_ids) for s in scenes}}
    said = {**known.get("geoelle:items", {}), **{i.id: provenance_of(i, run.sensor) for s in scenes for i in s.items}}
    checked = {**known.get("geoelle:radiometry", {}), **run.radiometry}
    masks = {**known.get("geoelle:masks", {}), **{day_label(s): _masks_of(s, run) for s in scenes}}
    used = {id_ for ids in item_ids.values() for id_ in ids}
    simulated = bool(known.get("geoelle:simulated")) or any(_is_simulated(i) for s in scenes for i in s.items)
    notes = encoder_notes(run.card)
    return {
        "geoelle:kind": "embeddings",
        "geoelle:grid": grid_attrs(zone.extent),
        "geoelle:encoder": encoder_attrs(run.card, zone.extent, run.opening),
        **({"geoelle:encoder_notes": notes} if notes else {}),
        "geoelle:config": run.config,
        "geoelle:config_digest": digest(run.config),
        # A job writes its whole tile, so a run for fewer chips of it would lose the others.
        "geoelle:area": {"chips": int(zone.wanted.sum()), "digest": digest(np.packbits(zone.wanted).tobytes().hex())},
        "geoelle:aoi": json.loads(run.area.to_json()),
        "geoelle:scenes": dict(sorted(item_ids.items())),
        "geoelle:jobs": {**known.get("geoelle:jobs", {}), **jobs_per_day(zone, scenes, run.card.gsd_m)},
        "geoelle:items": {id_: said[id_] for id_ in sorted(used & said.keys())},
        "geoelle:masks": dict(sorted(masks.items())),
        "geoelle:radiometry": {id_: checked[id_] for id_ in sorted(used & checked.keys())},
        "geoelle:simulated": simulated,
        "geoelle:native_gsd_m": native_gsd_m(scenes, run.card, known.get("geoelle:native_gsd_m")),
        "geoelle:attribution": attribution(run.sensor, item_ids, simulated=simulated),
        "geoelle:software": software(),
    }


def _masks_of(scene: Scene, run: _Run) -> str:
    return " and ".join(sorted({_mask_of(item, run) for item in scene.items}))


def _mask_of(item: ItemRecord, run: _Run) -> str:
    if all(band.frequency_ghz is not None for band in run.sensor.bands):
        return NOT_NEEDED
    return mask_source([item], run.sensor, run.options.cloud_mask)


def _known_radiometry(store: Location) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for said in _said_of_zones(store):
        found |= said.get("geoelle:radiometry", {})
    return found


def _known_encoder(store: Location) -> dict[str, Any] | None:
    """What a store that is there says of its encoder, if it says what it has to."""
    said = (found.get("geoelle:encoder", {}) for found in _said_of_zones(store))
    return next((dict(encoder) for encoder in said if set(ENCODER_ATTRS) <= set(encoder)), None)


def _said_of_zones(store: Location) -> list[dict[str, Any]]:
    if not is_stored(store):
        return []
    return [_said(place) for place in zone_paths(store).values() if is_stored(place)]


def _said(place: Location) -> dict[str, Any]:
    """Attributes of a store that is there; of another kind of store, none."""
    attrs: dict[str, Any] = dict(open_group(place).attrs)
    if attrs.get("geoelle:kind") != "embeddings":
        return {}  # for `prepare` to refuse
    check_attributes(attrs, place)
    return attrs


def _do(
    run: _Run, planners: Sequence[JobPlanner], workers: int, scheduler: str | None, progress: Progress
) -> EmbedSummary:
    counts = [planner.count() for planner in planners]
    n_jobs, n_due, n_kept = (sum(c[i] for c in counts) for i in range(3))
    sources = {_mask_of(record, run) for record in run.records}
    total = EmbedSummary(str(run.store), n_jobs, n_kept, 0, 0, 0, 0, 0, mask_sources=tuple(sorted(sources)))
    if not n_due:
        return total
    jobs = chain.from_iterable(planner.due() for planner in planners)
    with cluster(workers, scheduler) as client:
        for result in run_jobs(
            client, work, jobs, n_jobs=n_due, label="embed", progress=progress, steps=Steps(read, encode), lost=_lost
        ):
            total = _added(total, result)
    return replace(total, failures=tuple(sorted(total.failures)))


def _lost(job: EmbedJob, why: str) -> JobResult:
    return JobResult(job.name, "failed", error=why)


def _added(total: EmbedSummary, result: JobResult) -> EmbedSummary:
    failed = result.outcome == "failed"
    told = total.failures
    if failed and len(told) < _FAILURES_TOLD:
        told = (*told, f"{result.job}: {result.error}")
    return replace(
        total,
        n_done=total.n_done + (not failed),
        n_failed=total.n_failed + failed,
        n_embedded=total.n_embedded + result.n_embedded,
        n_skipped_invalid=total.n_skipped_invalid + result.n_skipped_invalid,
        n_skipped_cloud=total.n_skipped_cloud + result.n_skipped_cloud,
        n_skipped_flat=total.n_skipped_flat + result.n_skipped_flat,
        failures=told,
    )


def _log(store: Location, summary: EmbedSummary) -> None:
    """Beside the store, never in it: a log differs from run to run and the store must not."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(summary)}
    run_log(store).append(json.dumps(line) + "\n")


def _check_options(options: ChipOptions, dtype: str) -> None:
    if not 0 <= options.max_invalid_fraction < 1:
        raise ConfigError(f"max_invalid_fraction is {options.max_invalid_fraction}. Expected from 0 to less than 1.")
    cloud, contrast = options.max_cloud_fraction, options.min_contrast
    if cloud is not None and not 0 <= cloud <= 1:
        raise ConfigError(f"max_cloud_fraction is {cloud}. Expected from 0 to 1, or none for no limit of its own.")
    if contrast is not None and not 0 <= contrast < np.inf:
        raise ConfigError(f"min_contrast is {contrast}. Expected at least 0, in units of the pixels, or none.")
    if options.cloud_mask not in CLOUD_MASKS:
        raise ConfigError(f"cloud_mask is {options.cloud_mask!r}. Expected one of {', '.join(CLOUD_MASKS)}.")
    if dtype not in EMBEDDING_DTYPES:
        raise ConfigError(f"dtype is {dtype!r}. Expected one of {', '.join(EMBEDDING_DTYPES)}.")


def _covered(records: Sequence[ItemRecord]) -> gpd.GeoDataFrame:
    return read_aoi(shapely.union_all([footprint_of(record) for record in records]))


def _check_chip_size(card: EncoderCard, chip_size_m: float) -> None:
    sizes = [px * card.gsd_m for px in card.chip_sizes_px]
    if any(np.isclose(chip_size_m, size, rtol=1e-6) for size in sizes) or not 0 < chip_size_m < np.inf:
        return  # what is no length at all, the grid refuses
    takes = " or ".join(f"{size:g} m ({px} px)" for size, px in zip(sizes, card.chip_sizes_px, strict=True))
    raise EncoderInputError(
        f"Chips of {chip_size_m:g} m are {chip_size_m / card.gsd_m:g} px of {card.gsd_m:g} m. {card.name} takes "
        f"{takes}; set chip_size_m to one of these."
    )


def _is_simulated(record: ItemRecord) -> bool:
    properties: Any = record.raw.get("properties", {})
    return bool(properties.get("geoelle:simulated"))
