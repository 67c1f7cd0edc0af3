"""What weights of 8 bits cost: size, CPU time per chip and the r of probes, beside those of 32 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.compact_cards import BAND_SETS
from geoelle.probe.measures import correlation
from geoelle.training.coldstart import N_MASKS, eurosat_chips
from geoelle.training.cuts import HeldChips
from geoelle.training.evaluation import ALPHAS, Doubles
from geoelle.training.multispectral import held_chips
from geoelle.training.stock import HeldOut

N_TIMED = 50
ROUNDS = 5


def cpu_ms(encoder: CompactEncoder, chips: HeldChips) -> float:
    """Median CPU time to embed a chip on one thread, milliseconds."""
    batch = chips.batch.select(np.arange(min(N_TIMED, len(chips))))
    encoder.embed(batch)
    times = []
    for _ in range(ROUNDS):
        start = process_time()
        encoder.embed(batch)
        times.append((process_time() - start) * 1000 / len(batch))
    return float(np.median(times))


def swapped(fitted: Doubles, used: Doubles, loss: Doubles, fold: NDArray[np.int64]) -> Doubles:
    """Out-of-fold predictions of probes fitted on one embedding and applied to another of the same chips."""
    predicted = np.empty(len(loss))
    for one in np.unique(fold):
        test = fold == one
        probe = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(fitted[~test], loss[~test])
        predicted[test] = probe.predict(used[test])
    return predicted


def int8_effect(folder: Path, held: HeldOut, name: str, size_px: int) -> dict[str, Any]:
    """Figures of one set of bands at one chip size at 10 m, plain values.

    r is out of fold, with whole classes or scenes held out: of a probe in 32 bits, of that probe reading embeddings
    of 8 bits, and of one fitted on these.
    """
    bands = BAND_SETS[name]
    chips = eurosat_chips(held.rgb, size_px, 10) if name == "compact-rgb" else held_chips(held, bands, size_px, 10)
    if name == "compact-rgb":
        # One chip of each EuroSAT image.
        first = np.arange(0, len(chips), len(chips) // len(held.rgb))
        chips = replace(chips, batch=chips.batch.select(first), group=chips.group[first], fold=chips.fold[first])
    exact, small = (CompactEncoder(folder, bands=bands, int8=int8, threads=1) for int8 in (False, True))
    masks = exact.fixed_masks(chips.batch.chip_id, N_MASKS, size_px)
    loss = np.sqrt(exact.pretraining_loss(chips.batch, masks).mean(axis=1, dtype=np.float64))
    a, b = (encoder.embed(chips.batch).astype(np.float64) for encoder in (exact, small))
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    predictions = {
        "r_float32": swapped(a, a, loss, chips.fold),
        "r_float32_probe_on_int8": swapped(a, b, loss, chips.fold),
        "r_int8": swapped(b, b, loss, chips.fold),
    }
    return {
        "encoder": name,
        "chip_size_px": size_px,
        "n_chips": len(chips),
        "min_cosine": round(float(cosine.min()), 5),
        **{title: round(correlation(predicted, loss), 4) for title, predicted in predictions.items()},
        "cpu_ms_float32": round(cpu_ms(exact, chips), 2),
        "cpu_ms_int8": round(cpu_ms(small, chips), 2),
        "bytes_float32": (folder / "model.safetensors").stat().st_size + (folder / "embed.onnx").stat().st_size,
        "bytes_int8": (folder / small.card.weights).stat().st_size,
    }
