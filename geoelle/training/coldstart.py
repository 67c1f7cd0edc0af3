"""The probes shipped with the compact encoder: fitted on EuroSAT chips that it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders import Encoder
from geoelle.holdout import fold_digest
from geoelle.probe import Probe, ProbeMeta, fit_probe
from geoelle.records import ChipBatch
from geoelle.store.probes import write_probe
from geoelle.training.data import FULL_SCALE_REFLECTANCE, RgbChips

N_MASKS = 8
_CLASSES_PER_FOLD = 2


def eurosat_batch(chips: RgbChips, chip_size_px: int) -> tuple[ChipBatch, NDArray[np.int64]]:
    """EuroSAT chips cut to `chip_size_px`, as a batch in reflectance, and the class of each."""
    n, height, width, bands = chips.pixels.shape
    rows, columns = height // chip_size_px, width // chip_size_px
    cut = chips.pixels[:, : rows * chip_size_px, : columns * chip_size_px]
    cut = cut.reshape(n, rows, chip_size_px, columns, chip_size_px, bands).transpose(0, 1, 3, 5, 2, 4)
    pixels = cut.reshape(-1, 1, bands, chip_size_px, chip_size_px).astype(np.float32) * (FULL_SCALE_REFLECTANCE / 255)
    names = [f"{name}/{part}" if rows * columns > 1 else str(name) for name in chips.name for part in range(rows * columns)]
    batch = ChipBatch(
        sensor="sentinel-2-l2a",
        units="reflectance",
        bands=("red", "green", "blue"),
        pixels=pixels,
        valid=np.ones((len(pixels), 1, chip_size_px, chip_size_px), dtype=np.bool_),
        time=np.full((len(pixels), 1), np.datetime64("NaT"), dtype="datetime64[ns]"),
        lonlat=np.full((len(pixels), 2), np.nan),
        gsd_m=10.0,
        chip_id=np.array(names, dtype=np.str_),
    )
    return batch, np.repeat(chips.label, rows * columns)


def fit_cold_start(encoder: Encoder, held_out: RgbChips, chip_size_px: int) -> Probe:
    """A probe from an encoder's own loss on chips it never saw, its scores with whole classes held out."""
    batch, label = eurosat_batch(held_out, chip_size_px)
    masks = encoder.fixed_masks(batch.chip_id, N_MASKS, chip_size_px)
    losses = encoder.pretraining_loss(batch, masks)
    folds = label // _CLASSES_PER_FOLD
    keys = [str(chip) for chip in batch.chip_id]
    meta = ProbeMeta.for_encoder(
        encoder.card,
        chip_size_px=chip_size_px,
        gsd_m=batch.gsd_m,
        n_masks=N_MASKS,
        holdout="classes",
        fold_digest=fold_digest(keys, folds, {"scheme": "classes", "classes_per_fold": _CLASSES_PER_FOLD}),
        origin="shipped",
        trained_on=f"{len(held_out)} EuroSAT chips (Europe, 2015-2017, top of atmosphere) unseen by the encoder",
    )
    return fit_probe(
        encoder.embed(batch),
        losses.mean(axis=1, dtype=np.float64),
        keys,
        blocks=np.array([held_out.classes[i] for i in label]),
        scenes=np.array([held_out.classes[i] for i in label]),
        folds=folds,
        meta=meta,
        min_blocks=1,
    )


def ship_cold_start(encoder: Encoder, held_out: RgbChips, folder: Path) -> dict[int, Probe]:
    """Fit and write one probe per chip size of the encoder's card, as `<folder>/probe-<size>px`."""
    probes = {size: fit_cold_start(encoder, held_out, size) for size in encoder.card.chip_sizes_px}
    for size, probe in probes.items():
        write_probe(folder / f"probe-{size}px", *probe.to_arrays())
    return probes
