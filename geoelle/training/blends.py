"""Networks between the weights that training began with and those it ended with: what each knows of which imagery.

Quick figures to choose the share by: half of the held-out RGB chips, few masks, plain ridge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.encoders.cards import CARD_FILE, read_card, read_card_file
from geoelle.encoders.compact_cards import BAND_SETS
from geoelle.errors import ConfigError
from geoelle.probe.measures import correlation
from geoelle.records import ChipBatch, EncoderCard
from geoelle.training.batches import Stock
from geoelle.training.coldcheck import agreement, dates_held_out
from geoelle.training.coldstart import scene_chips
from geoelle.training.evaluation import (
    ALPHAS,
    HOLDOUTS,
    Doubles,
    Measured,
    embed_and_lose,
    evaluate,
    measure,
    out_of_fold,
)
from geoelle.training.loop import TrainedModel
from geoelle.training.multispectral import defined, evaluate_set, held_chips
from geoelle.training.pretraining import finish, load_exported
from geoelle.training.sources import CLIP, RGB
from geoelle.training.starting import blended, read_start, started
from geoelle.training.stock import HeldOut

POOLING = "mean"
N_MASKS = 4
EVERY = 2
"""Of so many held-out RGB chips one is evaluated."""
SIZE_PX = 32
GSD_M = 10
OTHER_SETS = tuple(name for name in BAND_SETS if name != "compact-rgb")


def blend_figures(
    first: Path, last: Path, shares: Sequence[float], stock: Stock, held: HeldOut, quiet: ChipBatch, *, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Figures of networks between two, plain values.

    Args:
        first: Folder of the first version, which training began with.
        last: Folder of a training without a blend.
        shares: Of the last in each network, 0 to 1.
        stock: What it was trained on; its normalisation is taken from `last`.
        held: Imagery that training never saw.
        quiet: Chips of `coldcheck.quiet_chips`, in red, green and blue at 10 m.
        seed: Of the training.

    Raises:
        WeightsError: If weights are missing or damaged.
    """
    ended = load_exported(last)
    normalised = replace(stock, mean=ended.mean, std=ended.std)
    begun = started(ended.model.config, seed, read_start(first), normalised)
    for share in shares:
        network = replace(ended, model=blended(begun, ended.model, share))
        yield {"share": share} | network_figures(network, held, quiet)


def write_blend(
    first: Path, last: Path, share: float, stock: Stock, held: HeldOut, out: Path, *, seed: int = 0
) -> EncoderCard:
    """Export a network between two, evaluated, with the figures of `first` beside its own on the card.

    Args:
        first: As of `blend_figures`, likewise the others.
        last: A training.
        share: Of the last, more than 0 and at most 1.
        stock: What it was trained on.
        held: Imagery that training never saw.
        out: Folder to write to.
        seed: Of the first training.

    Raises:
        ConfigError: If the share is out of range.
        WeightsError: If weights are missing or damaged.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"The share is {share:g}. Expected more than 0 and at most 1.")
    ended, card = load_exported(last), read_card(last / CARD_FILE)
    begin = read_start(first)
    begun = started(ended.model.config, seed, begin, replace(stock, mean=ended.mean, std=ended.std))
    trained = replace(ended, model=blended(begun, ended.model, share), counts=stock.counts)
    training = (
        f"Weights are {1 - share:g} x those of {begin.sha256[:12]} + {share:g} x those of "
        f"{card.weights_sha256[:12]}, parameter by parameter. The latter: {card.training}"
    )
    trainings = read_card_file(last / CARD_FILE)["figures"].get("trainings", ())
    out.mkdir(parents=True, exist_ok=True)
    return finish(trained, held, evaluate(trained, held.rgb), out, compare_with=first, told=(training, trainings))


def network_figures(trained: TrainedModel, held: HeldOut, quiet: ChipBatch) -> dict[str, Any]:
    """r on RGB chips at each size and holdout, the cold start on quiet chips, r of the other sets of bands."""
    half = held.rgb.select(np.arange(0, len(held.rgb), EVERY))
    measured = {size: measure(trained, half, size, N_MASKS) for size in trained.model.config.chip_sizes_px}
    return {
        "rgb": {str(size): _of_sizes(one) for size, one in measured.items()},
        "cold_start": cold_start(trained, measured[SIZE_PX], held, quiet),
        "sets": {
            name: evaluate_set(trained, name, held_chips(held, BAND_SETS[name], SIZE_PX, GSD_M))["scores"][
                f"probe ({POOLING})"
            ]
            for name in OTHER_SETS
        },
    }


def _of_sizes(measured: Measured) -> dict[str, Any]:
    loss = measured.loss.mean(axis=1)
    scores = {
        holdout: defined(correlation(out_of_fold(measured.embeddings[POOLING], loss, measured.label, holdout), loss))
        for holdout in HOLDOUTS
    }
    return scores | {"mean_loss": defined(float(loss.mean()))}


def cold_start(trained: TrainedModel, rgb: Measured, held: HeldOut, quiet: ChipBatch) -> dict[str, Any]:
    """How a probe of held-out RGB chips and scenes does on quiet chips that are wholly valid, and a local one."""
    quiet = quiet.select(quiet.valid.all(axis=(1, 2, 3)))
    scenes = scene_chips(held, RGB, SIZE_PX, GSD_M).batch
    there, known = _embedded(trained, scenes)
    here, loss = _embedded(trained, quiet)
    x = np.concatenate([rgb.embeddings[POOLING], there])
    y = np.sqrt(np.concatenate([rgb.loss.mean(axis=1), known]))
    probe = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(x, y)
    cold = np.maximum(probe.predict(here), 0.0) ** 2
    return {
        "n_chips": len(quiet),
        "shipped": agreement(cold, loss, quiet, CLIP),
        "local": agreement(dates_held_out(here, loss, quiet.time[:, 0]), loss, quiet, CLIP),
    }


def _embedded(trained: TrainedModel, batch: ChipBatch) -> tuple[Doubles, Doubles]:
    """Embeddings (chip, feature) and own losses (chip,)."""
    keys = [str(key) for key in batch.chip_id]
    found, losses = embed_and_lose(trained, batch.pixels[:, 0], batch.bands, batch.gsd_m, keys, N_MASKS)
    return found[POOLING], losses.mean(axis=1)


def blends_table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    sizes = list(rows[0]["rgb"])
    titles = [f"RGB {size} px r random / classes" for size in sizes]
    titles += ["cold start r / partial r / fidelity / level", "local r / fidelity"]
    titles += [f"{name.removeprefix('compact-')} r" for name in OTHER_SETS]
    lines = [f"| share of the training | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for row in rows:
        cold, local = (row["cold_start"][which] for which in ("shipped", "local"))
        cells = [_join(row["rgb"][size][holdout] for holdout in HOLDOUTS) for size in sizes]
        cells.append(_join(cold[field] for field in ("r", "partial_r", "delta_fidelity", "level")))
        cells.append(_join(local[field] for field in ("r", "delta_fidelity")))
        cells += [_join([row["sets"][name]["r"]]) for name in OTHER_SETS]
        lines.append(f"| {row['share']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _join(values: Any) -> str:
    return " / ".join("–" if value is None else f"{value:.3f}" for value in values)
