"""The probes shipped with the compact encoder: fitted on chips that it never saw, for places not calibrated yet.

EuroSAT is top-of-atmosphere reflectance over Europe; users bring surface reflectance from anywhere. So the pairs are
the held-out EuroSAT chips and a handful of surface-reflectance scenes from around the world.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from geoelle.encoders import Encoder
from geoelle.encoders.cards import CARD_FILE, read_card_file
from geoelle.errors import NotFoundError
from geoelle.holdout import fold_digest
from geoelle.probe import Probe, ProbeMeta, fit_probe
from geoelle.records import ChipBatch
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.store.probes import write_probe
from geoelle.training.data import FULL_SCALE_REFLECTANCE, RgbChips

N_MASKS = 8
_CLASSES_PER_FOLD = 2
_BANDS = ("red", "green", "blue")
_BASELINE_OFFSET_DN = 1000


@dataclass(frozen=True, slots=True)
class ColdStartChips:
    """Chips to fit on, with the group that is held out together."""

    batch: ChipBatch
    group: NDArray[np.str_]
    """(chip,): EuroSAT class, or scene."""
    fold: NDArray[np.int64]


def cut_rgb(images: NDArray[np.float32], names: list[str], chip_size_px: int) -> ChipBatch:
    """Reflectance images (image, band, y, x) cut into chips side by side; what is left at the edges is dropped."""
    n, bands, height, width = images.shape
    rows, columns = height // chip_size_px, width // chip_size_px
    cut = images[..., : rows * chip_size_px, : columns * chip_size_px]
    cut = cut.reshape(n, bands, rows, chip_size_px, columns, chip_size_px).transpose(0, 2, 4, 1, 3, 5)
    pixels = np.ascontiguousarray(cut.reshape(-1, 1, bands, chip_size_px, chip_size_px), dtype=np.float32)
    several = rows * columns > 1
    ids = [f"{name}/{part}" if several else name for name in names for part in range(rows * columns)]
    return ChipBatch(
        sensor=SENTINEL_2_L2A.name,
        units=SENTINEL_2_L2A.units,
        bands=_BANDS,
        pixels=pixels,
        valid=np.ones((len(pixels), 1, chip_size_px, chip_size_px), dtype=np.bool_),
        time=np.full((len(pixels), 1), np.datetime64("NaT"), dtype="datetime64[ns]"),
        lonlat=np.full((len(pixels), 2), np.nan),
        gsd_m=10.0,
        chip_id=np.array(ids, dtype=np.str_),
    )


def eurosat_chips(held_out: RgbChips, chip_size_px: int) -> ColdStartChips:
    """Held-out EuroSAT chips, two classes to a fold."""
    images = held_out.pixels.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(FULL_SCALE_REFLECTANCE / 255)
    batch = cut_rgb(images, [str(name) for name in held_out.name], chip_size_px)
    label = np.repeat(held_out.label, len(batch) // len(held_out))
    group = np.array([held_out.classes[i] for i in label], dtype=np.str_)
    return ColdStartChips(batch, group, (label // _CLASSES_PER_FOLD).astype(np.int64))


def surface_chips(folder: Path, chip_size_px: int, n_folds: int) -> ColdStartChips:
    """Surface-reflectance scenes `satclip_*` of a folder with `ms_index.json` beside it, whole scenes to a fold.

    Scenes that the index marks as carrying the offset of processing baseline 04.00 are freed of it.

    Raises:
        NotFoundError: If the index is not there.
    """
    index = folder.parent / "ms_index.json"
    if not index.is_file():
        raise NotFoundError(f"There is no {index}. Expected it beside the folder of scenes.")
    entries = [e for e in json.loads(index.read_text())["chips"] if Path(e["file"]).name.startswith("satclip_")]
    batches, groups, folds = [], [], []
    for number, entry in enumerate(sorted(entries, key=lambda e: str(e["file"]))):
        order = [entry["bands"].index(SENTINEL_2_L2A.band(name).aliases[0]) + 1 for name in _BANDS]
        with rasterio.open(index.parent / entry["file"]) as source:
            digital = source.read(order).astype(np.float32)
        if entry["likely_boa_offset_1000"]:
            digital = np.maximum(digital - _BASELINE_OFFSET_DN, 0)
        batch = cut_rgb(digital[None] * np.float32(SENTINEL_2_L2A.scale), [Path(entry["file"]).stem], chip_size_px)
        batches.append(batch)
        groups.append(np.full(len(batch), Path(entry["file"]).stem))
        folds.append(np.full(len(batch), number % n_folds, dtype=np.int64))
    return ColdStartChips(join(batches), np.concatenate(groups), np.concatenate(folds))


def join(batches: list[ChipBatch]) -> ChipBatch:
    """Batches of one kind, one after the other."""
    return replace(
        batches[0],
        pixels=np.concatenate([b.pixels for b in batches]),
        valid=np.concatenate([b.valid for b in batches]),
        time=np.concatenate([b.time for b in batches]),
        lonlat=np.concatenate([b.lonlat for b in batches]),
        chip_id=np.concatenate([b.chip_id for b in batches]),
    )


def fit_cold_start(encoder: Encoder, parts: list[ColdStartChips], chip_size_px: int, trained_on: str) -> Probe:
    """A probe from an encoder's own loss on chips it never saw, scored with whole classes and scenes held out.

    It is fitted to the root of the loss: straight fits go below zero on chips unlike the training data, and there
    difficulty would be cut off at 0.
    """
    batch = join([part.batch for part in parts])
    group, folds = np.concatenate([p.group for p in parts]), np.concatenate([p.fold for p in parts])
    losses = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, N_MASKS, chip_size_px))
    keys = [str(chip) for chip in batch.chip_id]
    meta = ProbeMeta.for_encoder(
        encoder.card,
        chip_size_px=chip_size_px,
        gsd_m=batch.gsd_m,
        n_masks=N_MASKS,
        holdout="classes and scenes",
        fold_digest=fold_digest(keys, folds, {"scheme": "classes and scenes"}),
        origin="shipped",
        trained_on=trained_on,
    )
    return fit_probe(
        encoder.embed(batch),
        losses.mean(axis=1, dtype=np.float64),
        keys,
        blocks=group,
        scenes=group,
        folds=folds,
        meta=meta,
        transform="sqrt",
        min_blocks=1,
    )


def ship_cold_start(encoder: Encoder, held_out: RgbChips, scenes: Path, folder: Path) -> dict[int, Probe]:
    """Fit and write one probe per chip size of the encoder's card, as `<folder>/probe-<size>px`, and list them there.

    Args:
        encoder: Whose loss.
        held_out: EuroSAT chips that it never saw.
        scenes: Folder of surface-reflectance scenes that it never saw either.
        folder: The encoder's folder, with its card.
    """
    probes = {}
    for size in encoder.card.chip_sizes_px:
        europe = eurosat_chips(held_out, size)
        world = surface_chips(scenes, size, int(europe.fold.max()) + 1)
        trained_on = (
            f"{len(europe.batch)} chips of EuroSAT (Europe, top of atmosphere) and {len(world.batch)} of "
            f"{len(set(world.group))} scenes world-wide (surface reflectance), unseen by the encoder"
        )
        probes[size] = fit_cold_start(encoder, [europe, world], size, trained_on)
        write_probe(folder / f"probe-{size}px", *probes[size].to_arrays())
    content = read_card_file(folder / CARD_FILE)
    content["card"]["shipped_probes"] = [f"probe-{size}px" for size in probes]
    (folder / CARD_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return probes
