"""The probes shipped with the compact encoder: fitted on chips that it never saw, for places not calibrated yet.

EuroSAT is top-of-atmosphere reflectance over Europe; users bring surface reflectance from anywhere. So the pairs are
held-out EuroSAT chips and a handful of held-out surface-reflectance scenes from around the world. Beyond red, green
and blue that is little: `trained_on` says how little.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geoelle.encoders import Encoder
from geoelle.encoders.cards import CARD_FILE, read_card_file
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.compact_cards import BAND_SETS, GSDS_M, probe_name
from geoelle.holdout import fold_digest
from geoelle.probe import Probe, ProbeMeta, fit_probe
from geoelle.store.probes import write_probe
from geoelle.training.cuts import HeldChips, cut, join
from geoelle.training.data import RgbChips
from geoelle.training.sources import RGB, rgb_source
from geoelle.training.stock import HeldOut

N_MASKS = 8
_CLASSES_PER_FOLD = 2
_HOLDOUT = "classes and scenes"

STRIDE_SHARE = {(64, 10): 0.5, (32, 10): 1.0, (64, 20): 0.25, (32, 20): 0.5}
"""Step between chips of a scene over their edge, by chip and pixel size: the larger a chip on the ground, the more
they overlap, so that there are more of them than features."""

MAX_STORED = 2000

MIN_R = 0.5
"""A probe that does worse on scenes that it was not fitted on is no cold start: a user is told to calibrate."""


def eurosat_chips(held_out: RgbChips, size_px: int, gsd_m: int) -> HeldChips:
    """Held-out EuroSAT RGB chips, two classes to a fold."""
    chips = cut(rgb_source(held_out), RGB, size_px, gsd_m)
    label = np.repeat(held_out.label, len(chips) // len(held_out))
    group = np.array([held_out.classes[i] for i in label], dtype=np.str_)
    return HeldChips(chips.batch, group, (label // _CLASSES_PER_FOLD).astype(np.int64))


def scene_chips(held: HeldOut, bands: tuple[str, ...], size_px: int, gsd_m: int) -> HeldChips:
    """Chips of the held-out scenes, whole scenes to a fold."""
    stride = max(1, int(size_px * STRIDE_SHARE[size_px, gsd_m]))
    return cut(held.scenes, bands, size_px, gsd_m, stride)


def cold_start_chips(held: HeldOut, bands: tuple[str, ...], size_px: int, gsd_m: int) -> tuple[HeldChips, str]:
    """What a shipped probe is fitted on, and that in a phrase."""
    scenes = scene_chips(held, bands, size_px, gsd_m)
    overlapping = " overlapping" if STRIDE_SHARE[size_px, gsd_m] < 1 else ""
    world = f"{len(scenes)}{overlapping} chips of {len(held.scenes)} scenes world-wide (surface reflectance)"
    if size_px * gsd_m // 10 > held.chips.images.shape[-1]:
        return scenes, f"{world}, unseen by the encoder"
    if bands == RGB:
        europe, title = eurosat_chips(held.rgb, size_px, gsd_m), "EuroSAT RGB"
    else:
        europe, title = cut(held.chips, bands, size_px, gsd_m), "EuroSAT MS"
    first = f"{len(europe)} chips of {title} (Europe, top of atmosphere)"
    return join([europe, scenes]), f"{first} and {world}, unseen by the encoder"


def fit_cold_start(encoder: Encoder, chips: HeldChips, trained_on: str) -> Probe:
    """A probe from an encoder's own loss on chips it never saw, scored with whole classes and scenes held out.

    It is fitted to the root of the loss: straight fits go below zero on chips unlike the training data, and there
    difficulty would be cut off at 0.
    """
    batch, size = chips.batch, chips.batch.pixels.shape[-1]
    losses = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, N_MASKS, size))
    keys = [str(chip) for chip in batch.chip_id]
    meta = ProbeMeta.for_encoder(
        encoder.card,
        chip_size_px=size,
        gsd_m=batch.gsd_m,
        n_masks=N_MASKS,
        holdout=_HOLDOUT,
        fold_digest=fold_digest(keys, chips.fold, {"scheme": _HOLDOUT}),
        origin="shipped",
        trained_on=trained_on,
    )
    return fit_probe(
        encoder.embed(batch),
        losses.mean(axis=1, dtype=np.float64),
        keys,
        blocks=chips.group,
        scenes=chips.group,
        folds=chips.fold,
        meta=meta,
        transform="sqrt",
        min_blocks=1,
        max_stored=MAX_STORED,
    )


def ship_cold_start(folder: Path, held: HeldOut, min_r: float = MIN_R) -> Iterator[tuple[str, Probe, bool]]:
    """Fit a probe per named set of bands, pixel and chip size; write those that are worth it and list them on the card.

    Args:
        folder: The encoder's folder, with its card.
        held: Imagery that it never saw.
        min_r: Lowest r, with whole classes and scenes held out, of a probe that is written.

    Yields:
        Name, probe and whether it was written.
    """
    content = read_card_file(folder / CARD_FILE)
    names = []
    for encoder_name, bands in BAND_SETS.items():
        for gsd_m in GSDS_M:
            encoder = CompactEncoder(folder, bands=bands, gsd_m=gsd_m)
            for size in encoder.card.chip_sizes_px:
                chips, trained_on = cold_start_chips(held, bands, size, int(gsd_m))
                probe = fit_cold_start(encoder, chips, trained_on)
                name = probe_name(encoder_name, size, gsd_m)
                worth = (probe.meta.scores["r"] or 0.0) >= min_r
                if worth:
                    names.append(name)
                    write_probe(folder / name, *probe.to_arrays())
                yield name, probe, worth
    content["card"]["shipped_probes"] = names
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")
