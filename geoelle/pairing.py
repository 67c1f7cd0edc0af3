"""Pairs of embedding and own loss: which tiles to read again, the loss of their chips, and the table of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoelle.catalog import group_scenes
from geoelle.encoders.options import EncoderOptions
from geoelle.errors import ImageryError
from geoelle.grid import GridExtent, Tile, ZoneChips
from geoelle.holdout import assign_blocks, block_keys
from geoelle.imagery import CloudMask
from geoelle.jobs import ENCODING, ChipOptions, encoder_of, reaching, read_chips
from geoelle.records import EncoderCard, ItemRecord, Scene
from geoelle.sampling import Candidates, Looks
from geoelle.sensors import get_sensor
from geoelle.store.layout import extent_of
from geoelle.store.quantised import read_embedding
from geoelle.texture import TEXTURE_NAMES, texture_features


@dataclass(frozen=True, slots=True)
class LossJob:
    """The sampled chips of one tile on one date, whose loss is wanted."""

    scene: Scene
    extent: GridExtent
    tile: Tile
    wanted: NDArray[np.bool_]
    look: int
    """As `Looks` counts them."""
    card: EncoderCard
    """As the store's encoder was opened."""
    opening: EncoderOptions
    threads: int
    masks: int
    cloud_mask: CloudMask


@dataclass(frozen=True, slots=True)
class LossResult:
    """What one job measured; arrays run along its chips."""

    look: int
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    chip_id: NDArray[np.str_]
    lonlat: NDArray[np.float64]
    losses: NDArray[np.float32]
    """(chip, mask)"""
    texture: NDArray[np.float64]
    item_ids: tuple[str, ...]


def loss_jobs(
    looks: Looks,
    records: Sequence[ItemRecord],
    candidates: Candidates,
    chosen: NDArray[np.intp],
    card: EncoderCard,
    opening: EncoderOptions,
    threads: int,
    masks: int,
) -> list[LossJob]:
    """One job per tile and date that holds sampled chips.

    Args:
        looks: The embedding stores, by zone.
        records: Their items.
        candidates: Chips that could be sampled.
        chosen: Indices of those that were.
        card: Of the encoder, as it was opened.
        opening: How it is opened.
        threads: Its threads in each worker.
        masks: Mask draws per chip.

    Raises:
        ImageryError: If the items are not those that the stores were made from.
    """
    scenes = {zone: _scenes(ds, records) for zone, ds in looks.zones.items()}
    jobs: list[LossJob] = []
    for look in np.unique(candidates.time[chosen]).tolist():
        zone, t = looks.at(look)
        ds = looks.zones[zone]
        scene = _scene_of(ds, t, scenes[zone])
        extent = extent_of(ds.attrs)
        mine = chosen[candidates.time[chosen] == look]
        wanted = np.zeros(extent.shape, dtype=np.bool_)
        wanted[candidates.row[mine], candidates.column[mine]] = True
        jobs += [
            LossJob(
                scene,
                extent,
                tile,
                wanted[tile.y, tile.x],
                look,
                card,
                opening,
                threads,
                masks,
                ds.attrs["geoelle:config"]["cloud_mask"],
            )
            for tile in ZoneChips(extent, wanted).wanted_tiles()
        ]
    return jobs


def _scenes(ds: xr.Dataset, records: Sequence[ItemRecord]) -> dict[np.datetime64, Scene]:
    known = {item for items in ds.attrs["geoelle:scenes"].values() for item in items}
    return {scene.day: scene for scene in group_scenes(r for r in records if r.id in known)}


def _scene_of(ds: xr.Dataset, t: int, scenes: Mapping[np.datetime64, Scene]) -> Scene:
    day = ds["time"].values[t]
    label = str(np.datetime_as_string(day, "D"))
    there = list(scenes[day].item_ids) if day in scenes else []
    made_of = list(ds.attrs["geoelle:scenes"].get(label, []))
    if there != made_of:
        raise ImageryError(
            f"The items hold {', '.join(there) or 'nothing'} of {label}, where the store was made from "
            f"{', '.join(made_of)}. Give the items that the store was made from."
        )
    return scenes[day]


def measure_loss(job: LossJob) -> LossResult:
    """Own loss and texture of the chips wanted of one tile on one date."""
    try:
        return _measured(job)
    except ImageryError as error:
        said = str(error)
    # Raised anew: with what GDAL raised behind it, Dask could not carry it and would send a bare Exception.
    raise ImageryError(said)


def _measured(job: LossJob) -> LossResult:
    card = job.card
    # The store already says that these chips are good enough, so nothing is skipped here.
    outline = job.extent.tile_footprint(job.tile, card.gsd_m)
    scene = replace(job.scene, items=reaching(job.scene)(outline))
    options = ChipOptions(max_invalid_fraction=1.0, cloud_mask=job.cloud_mask)
    chips = read_chips(scene, job.extent, job.tile, job.wanted, card, options, get_sensor(scene.items[0].sensor))
    batch = chips.batch
    rows, columns = chips.index
    with ENCODING:
        encoder = encoder_of(card, job.threads, job.opening)
        masks = encoder.fixed_masks(batch.chip_id, job.masks, job.extent.chip_size_px(card.gsd_m))
        losses = encoder.pretraining_loss(batch, masks)
    return LossResult(
        job.look,
        rows + job.tile.y.start,
        columns + job.tile.x.start,
        batch.chip_id,
        batch.lonlat,
        losses,
        texture_features(batch.pixels[:, 0], *_shown_range(card)),
        job.scene.item_ids,
    )


def _shown_range(card: EncoderCard) -> tuple[float, float]:
    """Darkest and brightest of the 8-bit images that texture is measured on, in the pixels' units; all chips alike."""
    if card.clip is not None:
        return card.clip
    mean, spread = np.array(card.mean) / card.scale, 2 * np.array(card.std) / card.scale
    return float((mean - spread).min()), float((mean + spread).max())


def to_pairs(
    looks: Looks, results: Sequence[LossResult], block_size_m: float
) -> tuple[gpd.GeoDataFrame, NDArray[np.float32]]:
    """The results as the table of pairs, in an order that depends on content alone, and the losses (chip, mask).

    Args:
        looks: The embedding stores, whose embeddings the pairs take.
        results: Of every job.
        block_size_m: Edge of a spatial block, EPSG:6933 metres.
    """
    ordered = sorted(results, key=lambda r: (r.look, str(r.chip_id[0])))
    look = np.concatenate([np.full(len(r.rows), r.look) for r in ordered])
    rows, columns = (np.concatenate([getattr(r, name) for r in ordered]) for name in ("rows", "columns"))
    losses = np.concatenate([r.losses for r in ordered])
    lonlat = np.concatenate([r.lonlat for r in ordered])
    texture = np.concatenate([r.texture for r in ordered])
    n_features = next(iter(looks.zones.values())).sizes["feature"]
    embedding = np.empty((len(look), n_features), dtype=np.float32)
    days = np.empty(len(look), dtype="datetime64[ns]")
    for number in np.unique(look).tolist():
        here = look == number
        zone, t = looks.at(number)
        ds = looks.zones[zone]
        embedding[here] = read_embedding(ds, t)[rows[here], columns[here]]
        days[here] = ds["time"].values[t]
    frame = gpd.GeoDataFrame(
        {
            "chip_id": np.concatenate([r.chip_id for r in ordered]).astype(object),
            "time": days,
            "item_ids": [list(r.item_ids) for r in ordered for _ in r.rows],
            "embedding": list(embedding),
            "loss": losses.mean(axis=1, dtype=np.float64),
            "loss_sd": _spread(losses),
            "n_masks": np.full(len(look), losses.shape[1], dtype=np.int32),
            **{name: texture[:, i] for i, name in enumerate(TEXTURE_NAMES)},
            "block": block_keys(assign_blocks(lonlat, block_size_m), block_size_m).astype(object),
            "scene": np.datetime_as_string(days, "D").astype(object),
        },
        geometry=gpd.points_from_xy(lonlat[:, 0], lonlat[:, 1]),
        crs=4326,
    )
    return frame, losses


def _spread(losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standard deviation over the masks of (chip, mask); NaN of a loss that draws none, for which there is one."""
    if losses.shape[1] < 2:
        return np.full(len(losses), np.nan)
    return np.asarray(losses.std(axis=1, dtype=np.float64, ddof=1))
