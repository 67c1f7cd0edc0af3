"""From pairs to a probe: penalty, scores and noise from held-out folds, coefficients from everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from geoelle.errors import ProbeError, TooFewBlocksError
from geoelle.probe.meta import ProbeMeta, Transform
from geoelle.probe.probe import Probe
from geoelle.probe.ridge import DEFAULT_ALPHAS, atoms_from_folds, cross_validate, fit_ridge, out_of_fold
from geoelle.probe.statistics import RidgeStatistics, held_out_metrics, merge_all, not_finite_error
from geoelle.probe.support import distance_threshold
from geoelle.provenance import content_order
from geoelle.schema import MIN_INDEPENDENT_BLOCKS

MIN_BLOCKS = MIN_INDEPENDENT_BLOCKS

MAX_STORED = 4000
"""Training embeddings kept for support."""


def fit_probe(
    embedding: ArrayLike,
    loss: ArrayLike,
    keys: Sequence[str] | NDArray[np.str_],
    *,
    blocks: ArrayLike,
    scenes: ArrayLike,
    folds: ArrayLike,
    meta: ProbeMeta,
    alphas: ArrayLike = DEFAULT_ALPHAS,
    transform: Transform = "none",
    nonnegative: bool = True,
    min_blocks: int = MIN_BLOCKS,
    max_stored: int = MAX_STORED,
) -> Probe:
    """Fit the ridge probe of one encoder, band set and chip size.

    Scores, noise and smearing factor come from predictions of held-out folds, each with a penalty chosen
    inside its training folds; the final coefficients come from all pairs, with the penalty that held out
    best. The order of the rows changes nothing but rounding.

    Args:
        embedding: Of shape (n, feature), float32.
        loss: The encoder's own loss of each chip, shape (n,).
        keys: Content key of each pair, e.g. chip id and time: decides which embeddings are stored for
            support.
        blocks: Spatial block of each pair, shape (n,); counted as the independent units.
        scenes: Scene of each pair, shape (n,); counted.
        folds: Fold of each pair, shape (n,), integers; of whole blocks, see `geoelle.holdout`. At least
            three.
        meta: What the probe is for; its lower part is filled here.
        alphas: Penalties to try, of shape (alpha,).
        transform: Fit the loss, its square root or its logarithm. A loss of squared errors has a root that is nearer
            to linear in the embedding.
        nonnegative: Whether the loss cannot be negative; difficulty is then cut off at 0.
        min_blocks: Refuse with fewer independent blocks; 1 allows any number.
        max_stored: Training embeddings kept for support.

    Raises:
        TooFewBlocksError: If there are fewer blocks than `min_blocks` or fewer than three folds.
        ProbeError: If shapes do not fit, values are not finite, the loss does not vary, is not positive
            although its logarithm is asked for, or is negative although it cannot be.
    """
    x, y = np.asarray(embedding), np.asarray(loss, dtype=np.float64)
    fold = np.asarray(folds, dtype=np.int64)
    block, scene = np.asarray(blocks), np.asarray(scenes)
    n = _check_shapes(x, y, keys, fold, block, scene)
    n_blocks = np.unique(block).size
    if n_blocks < min_blocks:
        raise TooFewBlocksError(
            f"The {n} pairs lie in {n_blocks} independent blocks; a local fit asks for {min_blocks}, so use "
            "a larger area, smaller blocks or the shipped probe, or allow few blocks."
        )
    if meta.holdout == "block":
        split = np.unique(np.array([block.astype(str), fold.astype(str)]), axis=1).shape[1] - n_blocks
        if split:
            raise ProbeError(
                f"Chips of one block lie in several folds, {split} times over {n_blocks} blocks. "
                "Expected whole blocks in folds; make the folds with folds_from_blocks."
            )
    # Here as well as per atom, where the count would be that of one fold.
    if not np.isfinite(x).all():
        raise not_finite_error(x, y)
    _check_loss(y, transform, nonnegative)
    target = _fitted_target(y, transform)

    atoms = atoms_from_folds(x, target, fold)
    total = merge_all(atoms.values())
    cv = cross_validate(atoms, alphas)
    final = fit_ridge(total, [cv.alpha])
    predicted = out_of_fold(x, fold, cv)
    smearing = 1.0
    if transform == "log":
        smearing = float(np.exp(target - predicted).mean())
        predicted = np.exp(predicted) * smearing
    elif transform == "sqrt":
        smearing = float(((target - predicted) ** 2).mean())
        predicted = np.maximum(predicted, 0.0) ** 2 + smearing
    elif nonnegative:
        predicted = np.maximum(predicted, 0.0)

    chosen = np.array(content_order(keys, salt="probe-support")[:max_stored], dtype=np.intp)
    stored = x[chosen].astype(np.float32)
    z = ((stored - final.centre) / final.scale).astype(np.float32)
    return Probe(
        weights=final.weights[0],
        intercept=float(final.intercept[0]),
        centre=final.centre,
        scale=final.scale,
        alpha=cv.alpha,
        residual_sd=float(np.sqrt(cv.residual_variance())),
        cholesky=_cholesky(total, cv.alpha),
        stored=stored,
        distance_threshold=distance_threshold(z, fold[chosen]),
        meta=replace(
            meta,
            transform=transform,
            smearing=smearing,
            nonnegative=nonnegative,
            n_train=n,
            n_blocks=n_blocks,
            n_scenes=np.unique(scene).size,
            n_folds=len(cv.folds),
            scores=_scores(predicted, y),
        ),
    )


def held_out_difficulty(
    probe: Probe, embedding: ArrayLike, loss: ArrayLike, folds: ArrayLike, alphas: ArrayLike = DEFAULT_ALPHAS
) -> NDArray[np.float64]:
    """Difficulty of each pair by the coefficients fitted without its fold: what the probe's scores are made from.

    Args:
        probe: What `fit_probe` made of these pairs, for its transform and smearing.
        embedding: As given to `fit_probe`, (n, feature).
        loss: Likewise, (n,).
        folds: Likewise, (n,).
        alphas: Likewise.

    Returns:
        (n,), in the unit of the loss.
    """
    x, fold = np.asarray(embedding), np.asarray(folds, dtype=np.int64)
    target = _fitted_target(np.asarray(loss, dtype=np.float64), probe.meta.transform)
    return probe.to_loss(out_of_fold(x, fold, cross_validate(atoms_from_folds(x, target, fold), alphas)))


def _fitted_target(y: NDArray[np.float64], transform: Transform) -> NDArray[np.float64]:
    return np.asarray(np.log(y) if transform == "log" else np.sqrt(y) if transform == "sqrt" else y)


def _check_shapes(
    x: NDArray[np.generic], y: NDArray[np.float64], keys: Sequence[str] | NDArray[np.str_], *labels: NDArray[np.generic]
) -> int:
    n = len(keys)
    if x.ndim != 2 or any(a.shape != (n,) for a in (y, *labels)) or len(x) != n or n == 0:
        raise ProbeError(
            f"Found embeddings {x.shape}, losses {y.shape}, {n} keys and fold, block and scene labels "
            f"{[a.shape for a in labels]}. Expected (n, feature) embeddings and n of everything else."
        )
    return n


def _check_loss(y: NDArray[np.float64], transform: Transform, nonnegative: bool) -> None:
    if not np.isfinite(y).all():
        raise ProbeError(
            f"{int((~np.isfinite(y)).sum())} of {len(y)} losses are NaN or infinite. Expected finite "
            "numbers; leave out chips without a loss."
        )
    if y.min() == y.max():
        raise ProbeError(
            f"The loss is {y[0]:g} on all {len(y)} chips. Expected losses that differ; sample other chips."
        )
    if transform == "log" and y.min() <= 0:
        raise ProbeError(
            f"{int((y <= 0).sum())} of {len(y)} losses are zero or negative (least {y.min():g}), which have "
            "no logarithm. Expected positive losses; fit with transform='none'."
        )
    if (nonnegative or transform == "sqrt") and y.min() < 0:
        raise ProbeError(
            f"{int((y < 0).sum())} of {len(y)} losses are negative (least {y.min():g}). Expected none, as "
            "the loss is declared nonnegative; correct the losses or fit with nonnegative=False."
        )


def _cholesky(stats: RidgeStatistics, alpha: float) -> NDArray[np.float64]:
    scale = stats.scale
    penalised = stats.scatter_xx / np.outer(scale, scale)
    penalised.flat[:: len(scale) + 1] += alpha
    try:
        return np.asarray(scipy.linalg.cholesky(penalised, lower=True, check_finite=False))
    except scipy.linalg.LinAlgError as error:
        raise ProbeError(
            f"The embeddings' scatter plus the penalty {alpha:g} is not positive definite to float64 "
            "precision. Expected penalties above rounding; leave out the smallest of alphas."
        ) from error


def _scores(predicted: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, float | None]:
    """Held-out scores in units of the loss; None where undefined."""
    from scipy.stats import rankdata  # a quarter of a second to import

    # A prediction is a single feature with coefficient 1, so the same formulas serve.
    metrics = held_out_metrics(RidgeStatistics.from_arrays(predicted[:, None], y), [1.0], 0.0)
    ranks = RidgeStatistics.from_arrays(rankdata(predicted)[:, None], rankdata(y))
    scores = {name: float(getattr(metrics, name)) for name in ("r", "r2", "rmse", "slope")}
    scores["spearman"] = float(held_out_metrics(ranks, [1.0], 0.0).r)
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}
