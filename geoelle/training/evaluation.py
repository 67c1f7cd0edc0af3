"""How well the compact encoder's embedding tells its loss, on chips that training never saw.

Every figure is out of fold: scaler and alpha are chosen inside the training folds. Two schemes: random folds, and
folds that hold whole classes out. EuroSAT RGB has no coordinates, so neither is a geographic holdout; the numbers
say what the encoder is worth and not how a probe travels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.encoders.masks import fixed_masks
from geoelle.errors import SchemaError
from geoelle.probe.measures import correlation, partial_r, reliability
from geoelle.training.batches import normalise, wavelengths_of
from geoelle.training.data import RgbChips, to_reflectance
from geoelle.training.loop import TrainedModel
from geoelle.training.rivals import RIVALS, curved, rival_features
from geoelle.training.sources import RGB

Doubles = NDArray[np.float64]

POOLINGS = ("cls", "mean")
N_MASKS = 8
N_FOLDS = 5
FOLD_SEED = 0
ALPHAS = np.logspace(-2, 5, 15)
EVALUATION_BATCH = 250


@dataclass(frozen=True, slots=True)
class Measured:
    """Embeddings and losses of chips at one size."""

    chip_size_px: int
    pixels: NDArray[np.uint8]
    """(chip, y, x, band)."""
    label: NDArray[np.int64]
    embeddings: dict[str, Doubles]
    """By pooling, (chip, feature)."""
    loss: Doubles
    """(chip, mask)."""


@dataclass(frozen=True, slots=True)
class Score:
    """One predictor under one holdout, out of fold."""

    chip_size_px: int
    target: str
    """A key of `TARGETS`: `loss`, `root loss` or `log loss`; every figure is on that scale."""
    holdout: str
    """`random` or `classes`."""
    predictor: str
    r: float
    r_of_ceiling: float
    """r over the highest r that the noise of the masks allows."""
    rmse: float
    partial_r: float | None = None
    """Correlation with the loss of what is left of both once the four rivals are regressed out; None for rivals."""
    partial_r_curved: float | None = None
    """The same beyond the rivals, their logarithms, squares and products."""


@dataclass(frozen=True, slots=True)
class SizeReport:
    """Evaluation at one chip size."""

    chip_size_px: int
    n_chips: int
    n_masks: int
    mean_loss: float
    sd_loss: float
    """Of the chips' mean losses."""
    reliability: float
    """Split-half correlation of the chips' losses, stepped up to all masks (Spearman-Brown)."""
    ceilings: dict[str, float]
    """By target, the square root of its reliability: no predictor's r can be expected above it."""
    scores: tuple[Score, ...]


def centre_crops(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle `size` x `size` of chips (chip, y, x, band)."""
    top = (pixels.shape[1] - size) // 2
    left = (pixels.shape[2] - size) // 2
    return pixels[:, top : top + size, left : left + size]


def measure(trained: TrainedModel, chips: RgbChips, chip_size_px: int, n_masks: int = N_MASKS) -> Measured:
    """Embed chips and take their own losses, at the centre crop of the size asked for."""
    cropped = centre_crops(chips.pixels, chip_size_px)
    keys = [str(name) for name in chips.name]
    embeddings, losses = embed_and_lose(trained, to_reflectance(cropped), RGB, 10.0, keys, n_masks)
    return Measured(chip_size_px, cropped, chips.label, embeddings, losses)


def embed_and_lose(
    trained: TrainedModel,
    reflectance: NDArray[np.float32],
    bands: tuple[str, ...],
    gsd_m: float,
    keys: list[str],
    n_masks: int = N_MASKS,
) -> tuple[dict[str, Doubles], Doubles]:
    """Embeddings by pooling (chip, feature) and losses (chip, mask) of reflectance (chip, band, y, x)."""
    model, config = trained.model, trained.model.config
    pixels = normalise(torch.from_numpy(reflectance), bands, trained.mean, trained.std)
    where = (wavelengths_of(bands), torch.tensor(float(gsd_m)))
    masks = fixed_masks(np.array(keys), n_masks, config.n_tokens(pixels.shape[-1]), config.mask_ratio)
    pooled: dict[str, list[NDArray[np.float32]]] = {pooling: [] for pooling in POOLINGS}
    losses = np.empty((len(keys), n_masks))
    with torch.inference_mode():
        for start in range(0, len(keys), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            cls, tokens = model.features(pixels[part], *where)
            pooled["cls"].append(cls.numpy())
            pooled["mean"].append(tokens.mean(dim=1).numpy())
            for k in range(n_masks):
                hidden = masks[part, k]
                visible = np.nonzero(~hidden)[1].reshape(len(hidden), -1)
                errors = model.patch_errors(pixels[part], *where, torch.from_numpy(visible)).numpy()
                losses[part, k] = np.mean(errors, axis=1, where=hidden)
    return {pooling: np.concatenate(parts).astype(np.float64) for pooling, parts in pooled.items()}, losses


TARGETS: dict[str, Callable[[Doubles], Doubles]] = {
    "loss": lambda loss: loss,
    "root loss": np.sqrt,
    "log loss": np.log,
}
"""Scales of the loss that a probe may predict. The first is the one that variants are compared on."""


def ceiling_of(loss: Doubles, target: str) -> float:
    """Highest r that the noise of the masks allows for a target, from `loss` (chip, mask)."""
    return float(np.sqrt(max(reliability(TARGETS[target](loss)), 0.0)))


def random_folds(label: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Training and test rows of each random fold."""
    yield from KFold(N_FOLDS, shuffle=True, random_state=FOLD_SEED).split(label)


def class_folds(label: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Training and test rows with whole classes held out: neighbours in the list of classes go together.

    Raises:
        SchemaError: If there is but one class.
    """
    classes = np.unique(label)
    if len(classes) < 2:
        raise SchemaError(f"The chips are of {len(classes)} class(es). Expected at least 2 to hold one out. Add chips.")
    for group in np.array_split(classes, min(N_FOLDS, len(classes))):
        held = np.isin(label, group)
        yield np.flatnonzero(~held), np.flatnonzero(held)


HOLDOUTS: dict[str, Callable[[NDArray[np.int64]], Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]]] = {
    "random": random_folds,
    "classes": class_folds,
}


def out_of_fold(features: Doubles, target: Doubles, label: NDArray[np.int64], holdout: str) -> Doubles:
    """Ridge predictions for every chip from folds without it.

    Args:
        features: (chip, feature).
        target: (chip,) or (chip, target); every target gets its own alpha, inside the training folds.
        label: (chip,), classes.
        holdout: A key of `HOLDOUTS`.

    Returns:
        Predictions in the shape of `target`.
    """
    predicted = np.empty(target.shape)
    for train, test in HOLDOUTS[holdout](label):
        ridge = RidgeCV(ALPHAS, alpha_per_target=target.ndim == 2)
        probe = make_pipeline(StandardScaler(), ridge).fit(features[train], target[train])
        predicted[test] = probe.predict(features[test])
    return predicted


def evaluate_measured(measured: Measured) -> SizeReport:
    """Score every predictor on measured chips."""
    loss = measured.loss.mean(axis=1)
    known = rival_features(measured.pixels)
    bent = curved(known)
    plain: dict[str, Doubles] = {name: known[:, [i]] for i, name in enumerate(RIVALS)}
    plain["rivals together"] = known
    plain["rivals, curved"] = bent
    probes: dict[str, Doubles] = {}
    for pooling, embedding in measured.embeddings.items():
        plain[f"L2 norm ({pooling})"] = np.linalg.norm(embedding, axis=1, keepdims=True)
        probes[f"probe ({pooling})"] = embedding
        probes[f"probe ({pooling}) and curved rivals"] = np.concatenate([embedding, bent], axis=1)
    targets = np.stack([scale(loss) for scale in TARGETS.values()], axis=1)
    ceilings = {title: ceiling_of(measured.loss, title) for title in TARGETS}
    scores = []
    for holdout, (name, features) in itertools.product(HOLDOUTS, (plain | probes).items()):
        predictions = out_of_fold(features, targets, measured.label, holdout)
        for t, title in enumerate(TARGETS):
            predicted, target = predictions[:, t], targets[:, t]
            r = correlation(predicted, target)
            scores.append(
                Score(
                    chip_size_px=measured.chip_size_px,
                    target=title,
                    holdout=holdout,
                    predictor=name,
                    r=r,
                    r_of_ceiling=r / ceilings[title],
                    rmse=float(np.sqrt(np.mean((predicted - target) ** 2))),
                    partial_r=partial_r(predicted, target, known) if name in probes else None,
                    partial_r_curved=partial_r(predicted, target, bent) if name in probes else None,
                )
            )
    return SizeReport(
        chip_size_px=measured.chip_size_px,
        n_chips=len(loss),
        n_masks=measured.loss.shape[1],
        mean_loss=float(loss.mean()),
        sd_loss=float(loss.std()),
        reliability=reliability(measured.loss),
        ceilings=ceilings,
        scores=tuple(scores),
    )


def evaluate(trained: TrainedModel, held_out: RgbChips, n_masks: int = N_MASKS) -> tuple[SizeReport, ...]:
    """Evaluate a network on held-out chips, at every chip size that it takes."""
    return tuple(
        evaluate_measured(measure(trained, held_out, size, n_masks)) for size in trained.model.config.chip_sizes_px
    )


def figure(reports: tuple[SizeReport, ...], *, holdout: str, predictor: str, field: str, target: str = "loss") -> float:
    """Mean over chip sizes of one column of the scores."""
    rows = [
        score
        for report in reports
        for score in report.scores
        if (score.holdout, score.predictor, score.target) == (holdout, predictor, target)
    ]
    return float(np.mean([getattr(row, field) for row in rows]))


def best_pooling(reports: tuple[SizeReport, ...]) -> str:
    """The pooling whose probe has the higher r with whole classes held out, over the chip sizes."""
    return max(
        POOLINGS, key=lambda pooling: figure(reports, holdout="classes", predictor=f"probe ({pooling})", field="r")
    )


def added(reports: tuple[SizeReport, ...]) -> float:
    """What the probe adds beyond the rivals, the figure that variants are chosen by.

    Partial r beyond the four rivals with whole classes held out, mean over chip sizes, at the better pooling.
    """
    return figure(reports, holdout="classes", predictor=f"probe ({best_pooling(reports)})", field="partial_r")
