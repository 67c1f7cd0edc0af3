"""How well probes of every named set of bands do on scenes and chips that training never saw.

Whole scenes are held out, so this is a geographic holdout; but there are five of them, and fewer independent pairs
than rows. The figures say whether a set of bands works, not by how much it beats another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geoelle.encoders.compact_cards import BAND_SETS, GSDS_M
from geoelle.probe.measures import correlation, partial_r
from geoelle.texture import texture_features
from geoelle.training.coldstart import scene_chips
from geoelle.training.cuts import HeldChips, cut, join
from geoelle.training.evaluation import POOLINGS, Doubles, ceiling_of, embed_and_lose, out_of_fold
from geoelle.training.loop import TrainedModel
from geoelle.training.rivals import RIVALS
from geoelle.training.stock import HeldOut

BRIGHT = 0.5
"""Reflectance that becomes 255 of the 8-bit images whose JPEG size is a rival."""


def held_chips(held: HeldOut, bands: tuple[str, ...], size_px: int, gsd_m: int) -> HeldChips:
    """Chips of the held-out scenes and, where they are large enough, EuroSAT MS chips."""
    scenes = scene_chips(held, bands, size_px, gsd_m)
    if size_px * gsd_m // 10 > held.chips.images.shape[-1]:
        return scenes
    return join([scenes, cut(held.chips, bands, size_px, gsd_m)])


def evaluate_set(trained: TrainedModel, name: str, chips: HeldChips) -> dict[str, Any]:
    """Scores of one set of bands at one size: r of rivals and probes with whole scenes held out, plain values."""
    batch = chips.batch
    pixels = batch.pixels[:, 0]
    keys = [str(key) for key in batch.chip_id]
    embeddings, losses = embed_and_lose(trained, pixels, batch.bands, batch.gsd_m, keys)
    loss = losses.mean(axis=1)
    known = texture_features(pixels, 0.0, BRIGHT)
    predictors: dict[str, Doubles] = {rival: known[:, [i]] for i, rival in enumerate(RIVALS)}
    predictors["rivals together"] = known
    predictors |= {f"probe ({pooling})": embeddings[pooling] for pooling in POOLINGS}
    scores: dict[str, dict[str, float | None]] = {}
    for title, features in predictors.items():
        # Predicted as its root, where a line fits better and nothing falls below zero; scored as the loss.
        predicted = np.maximum(out_of_fold(features, np.sqrt(loss), chips.fold, "classes"), 0.0) ** 2
        scores[title] = {"r": defined(correlation(predicted, loss))}
        if title.startswith("probe"):
            scores[title]["partial_r"] = defined(partial_r(predicted, loss, known))
    return {
        "encoder": name,
        "chip_size_px": int(pixels.shape[-1]),
        "gsd_m": batch.gsd_m,
        "n_chips": len(chips),
        "n_groups": len(np.unique(chips.group)),
        "mean_loss": round(float(loss.mean()), 4),
        "sd_loss": round(float(loss.std()), 4),
        "ceiling": defined(ceiling_of(losses, "loss")),
        "scores": scores,
    }


def defined(value: float) -> float | None:
    """Rounded; None where it is not defined, as for a handful of chips."""
    return round(value, 4) if math.isfinite(value) else None


def evaluate_multispectral(trained: TrainedModel, held: HeldOut) -> list[dict[str, Any]]:
    """`evaluate_set` for every named set of bands, pixel size and chip size."""
    return [
        evaluate_set(trained, name, held_chips(held, bands, size, int(gsd_m)))
        for name, bands in BAND_SETS.items()
        for gsd_m in GSDS_M
        for size in trained.model.config.chip_sizes_px
    ]


def multispectral_table(rows: list[dict[str, Any]]) -> str:
    """The scores as Markdown."""
    titles = ("brightness", "contrast", "gradient", "jpeg_size", "rivals together", "probe (cls)", "probe (mean)")
    lines = [
        f"| encoder | gsd | chip | n | groups | loss | {' | '.join(titles)} | partial r (mean) |",
        "|---" * (7 + len(titles)) + "|",
    ]
    for row in rows:
        found = [row["scores"][title]["r"] for title in titles] + [row["scores"]["probe (mean)"]["partial_r"]]
        cells = ["" if value is None else f"{value:.3f}" for value in found]
        lines.append(
            f"| {row['encoder']} | {row['gsd_m']:g} m | {row['chip_size_px']} px | {row['n_chips']} | "
            f"{row['n_groups']} | {row['mean_loss']:.3f} ± {row['sd_loss']:.3f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)
