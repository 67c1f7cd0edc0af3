"""The shipped probe where nothing was calibrated: chips of a run's quiet dates, their own loss, and what it says of it.

The chips are those that `geoelle run` with the same config would calibrate on, but of any weights, and without a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoelle.aoi import AOILike, aoi_geometry, read_aoi
from geoelle.calibration import default_block_size_m
from geoelle.catalog import group_scenes
from geoelle.config import EmbedConfig, RunConfig
from geoelle.days import select_days
from geoelle.embedding import load_records
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.registry import get_card
from geoelle.errors import ProbeError, SchemaError
from geoelle.grid import ZoneChips, zone_chips
from geoelle.jobs import ChipOptions, reaching, read_chips
from geoelle.probe import Probe
from geoelle.probe.measures import correlation, delta_fidelity, partial_r
from geoelle.records import ChipBatch, Scene
from geoelle.sampling import draw_sample, find_candidates
from geoelle.schema import DONE, OUTSIDE_AOI
from geoelle.searching import search
from geoelle.sensors import get_sensor
from geoelle.store.layout import grid_attrs
from geoelle.store.probes import read_probe
from geoelle.texture import texture_features
from geoelle.training.coldstart import N_MASKS
from geoelle.training.cuts import join_batches
from geoelle.training.evaluation import Doubles
from geoelle.training.multispectral import defined
from geoelle.training.onboard import swapped


def quiet_chips(config: RunConfig, aoi: AOILike, catalog: str | Path) -> ChipBatch:
    """The chips that `geoelle run` would calibrate on: quiet dates, sampled by content.

    Args:
        config: What to search, cut and sample. Bands and pixel size are those of its encoder, which is not opened.
        aoi: The area, within one UTM zone.
        catalog: Where the imagery lies.

    Raises:
        SchemaError: If the area lies in several zones.
        GeoelleError: As search, embed and calibrate do.
    """
    area, sampled = read_aoi(aoi), config.calibrate
    asked = config.search
    found = search(area, catalog=catalog, collections=asked.collections, start=asked.start, end=asked.end)
    scenes = group_scenes(load_records(found))
    usable = select_days(np.array([scene.day for scene in scenes]), sampled.quiet, sampled.exclude_dates)
    scenes = [scene for scene, quiet in zip(scenes, usable, strict=True) if quiet]
    zones = zone_chips(aoi_geometry(area), config.embed.chip_size_m, config.embed.stride_m, config.embed.tile_chips)
    if len(zones) != 1:
        raise SchemaError(f"The area lies in {len(zones)} UTM zones. Expected one. Give a smaller area.")
    ds, chips = _read(scenes, zones[0], config.embed)
    block_size_m = sampled.block_size_m or default_block_size_m(config.embed.chip_size_m)
    candidates = find_candidates(ds, (), (), block_size_m)
    drawn = draw_sample(candidates, sampled.n)
    number = ds["number"].to_numpy()
    return chips.select(number[candidates.time[drawn], candidates.row[drawn], candidates.column[drawn]])


def _read(scenes: Sequence[Scene], zone: ZoneChips, options: EmbedConfig) -> tuple[xr.Dataset, ChipBatch]:
    """Every chip worth embedding, and a store's rasters (time, y, x) of them with each chip's number."""
    card, extent = get_card(options.encoder), zone.extent
    rules = ChipOptions(
        options.max_invalid_fraction, options.max_cloud_fraction, options.min_contrast, options.cloud_mask
    )
    shape = (len(scenes), *extent.shape)
    status = np.full(shape, OUTSIDE_AOI, dtype=np.uint8)
    contrast, number = np.full(shape, np.nan, dtype=np.float32), np.full(shape, -1)
    batches: list[ChipBatch] = []
    n = 0
    for t, scene in enumerate(scenes):
        near, sensor = reaching(scene), get_sensor(scene.items[0].sensor)
        for tile in zone.wanted_tiles():
            part = replace(scene, items=near(extent.tile_footprint(tile, card.gsd_m)))
            if not part.items:
                continue
            chips = read_chips(part, extent, tile, zone.wanted[tile.y, tile.x], card, rules, sensor)
            here = (t, chips.index[0] + tile.y.start, chips.index[1] + tile.x.start)
            status[here], number[here] = DONE, np.arange(n, n + len(chips.batch))
            contrast[t, tile.y, tile.x] = chips.contrast
            batches.append(chips.batch)
            n += len(chips.batch)
    rasters = {"status": status, "contrast": contrast, "number": number}
    ds = xr.Dataset(
        {name: (("time", "y", "x"), values) for name, values in rasters.items()},
        coords={"time": np.array([scene.day for scene in scenes], dtype="datetime64[ns]")},
        attrs={"geoelle:grid": grid_attrs(extent)},
    )
    return ds, join_batches(batches)


def agreement(predicted: Doubles, loss: Doubles, batch: ChipBatch, shown: tuple[float, float]) -> dict[str, Any]:
    """What `geoelle calibrate` reports of a probe, as plain values; None where a figure is not defined.

    Args:
        predicted: Difficulty, (chip,).
        loss: (chip,).
        batch: The chips; those of one id are one place on several dates.
        shown: Darkest and brightest of the 8-bit images whose texture is beside it.
    """
    texture = texture_features(batch.pixels[:, 0], *shown)
    return {
        "r": defined(correlation(predicted, loss)),
        "partial_r": defined(partial_r(predicted, loss, texture)),
        "delta_fidelity": defined(delta_fidelity(predicted, loss, batch.chip_id)),
        "level": defined(float(predicted.mean() / loss.mean())),
    }


def dates_held_out(embedding: Doubles, loss: Doubles, time: NDArray[np.datetime64]) -> Doubles:
    """Difficulty of each chip by a local probe that was fitted on the other dates, to the root of the loss; (chip,).

    Raises:
        SchemaError: If there is but one date.
    """
    days, fold = np.unique(time.astype("datetime64[D]"), return_inverse=True)
    if len(days) < 2:
        raise SchemaError(f"The chips are of {len(days)} date(s). Expected at least 2 to hold one out. Add dates.")
    return np.asarray(np.maximum(swapped(embedding, embedding, np.sqrt(loss), fold.astype(np.int64)), 0.0) ** 2)


def shipped_probe(folder: Path, encoder: CompactEncoder, chip_size_px: int) -> Probe:
    """The probe that lies beside an encoder's weights for its bands, pixel size and chips of this size.

    Raises:
        ProbeError: If none does, or it is of other weights.
    """
    name = next((name for name in encoder.card.shipped_probes if f"-{chip_size_px}px-" in name), None)
    if name is None:
        raise ProbeError(
            f"No probe of {encoder.card.name} with chips of {chip_size_px} px lies in {folder}. Expected one. Run "
            "pipelines/ship_cold_start.py first."
        )
    probe = Probe.from_arrays(*read_probe(folder / name))
    probe.check_fits(encoder.card, chip_size_px=chip_size_px)
    return probe


def cold_start_figures(folder: Path, batch: ChipBatch, n_masks: int = N_MASKS) -> dict[str, Any]:
    """How the shipped probe of a folder does on chips it never saw, and a local one beside it, plain values.

    Raises:
        ProbeError: If the folder holds no probe for such chips.
        EncoderError: If the encoder does not take them.
    """
    encoder = CompactEncoder(folder, bands=batch.bands, gsd_m=batch.gsd_m, threads=1)
    size = batch.pixels.shape[-1]
    probe = shipped_probe(folder, encoder, size)
    losses = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, n_masks, size))
    known = np.isfinite(losses).all(axis=1)
    batch, loss = batch.select(known), losses[known].mean(axis=1, dtype=np.float64)
    embedding = encoder.embed(batch)
    local = dates_held_out(embedding.astype(np.float64), loss, batch.time[:, 0])
    shown = encoder.card.clip or (0.0, 1.0)
    return {
        "n_chips": len(batch),
        "n_places": len(np.unique(batch.chip_id)),
        "n_dates": len(np.unique(batch.time[:, 0])),
        "n_masks": n_masks,
        "mean_loss": round(float(loss.mean()), 4),
        "shipped": agreement(probe.predict(embedding).astype(np.float64), loss, batch, shown),
        "local": agreement(local, loss, batch, shown),
    }
