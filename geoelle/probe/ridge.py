"""Ridge regression from sufficient statistics: one decomposition serves all penalties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from geoelle.errors import ProbeError, TooFewBlocksError
from geoelle.probe.statistics import (
    Metrics,
    Moments,
    RidgeStatistics,
    held_out_moments,
    merge_all,
    merge_moments,
)
from geoelle.probe.threads import map_cores

DEFAULT_ALPHAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""Penalties tried: once decomposed, another one costs next to nothing."""

MIN_FOLDS = 3
"""With fewer, nothing is left to choose a penalty on inside the training folds."""

FoldKey = int | str


@dataclass(frozen=True, eq=False, slots=True)
class RidgePath:
    """Ridge coefficients for several penalties on one training set, in units of the embedding."""

    alphas: NDArray[np.float64]
    """(alpha,)."""
    weights: NDArray[np.float64]
    """(alpha, feature), with the scaler folded in."""
    intercept: NDArray[np.float64]
    """(alpha,)."""
    centre: NDArray[np.float64]
    """(feature,): mean of the training set."""
    scale: NDArray[np.float64]
    """(feature,): population standard deviation of the training set, 1 for a constant feature."""


class _Decomposition:
    """The standardised scatter of a training set as V diag(λ) Vᵀ."""

    def __init__(self, stats: RidgeStatistics) -> None:
        self.stats = stats
        self.scale = stats.scale
        scaled = stats.scatter_xx / self.scale
        scaled /= self.scale[:, None]
        self.values, self.vectors = scipy.linalg.eigh(scaled, driver="evd", overwrite_a=True, check_finite=False)
        # A scatter has no negative eigenvalue; below zero is rounding, which would spoil small penalties.
        np.maximum(self.values, 0.0, out=self.values)

    def path(self, alphas: NDArray[np.float64]) -> RidgePath:
        projected = (self.stats.scatter_xy / self.scale) @ self.vectors
        coefficients = (projected / (self.values + alphas[:, None])) @ self.vectors.T
        weights = coefficients / self.scale
        intercept = self.stats.mean_y - weights @ self.stats.mean_x
        return RidgePath(alphas, weights, intercept, self.stats.mean_x, self.scale)

    def mean_leverage(self, test: RidgeStatistics, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of zᵀ(Z'Z + alpha I)⁻¹z over the chips that `test` sums up, shape (alpha,)."""
        vectors = self.vectors / self.scale[:, None]
        spread = ((test.scatter_xx @ vectors) * vectors).sum(axis=0) / test.n
        shift = ((test.mean_x - self.stats.mean_x) @ vectors) ** 2
        return np.asarray(((spread + shift) / (self.values + alphas[:, None])).sum(axis=1))


def check_alphas(alphas: ArrayLike) -> NDArray[np.float64]:
    """Penalties as a float64 array of shape (alpha,).

    Raises:
        ProbeError: If there are none, or one is not positive and finite.
    """
    array = np.asarray(alphas, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not (np.isfinite(array) & (array > 0)).all():
        raise ProbeError(f"Penalties are {array.tolist()}. Expected one or more positive finite numbers.")
    return array


def fit_ridge(stats: RidgeStatistics, alphas: ArrayLike = DEFAULT_ALPHAS) -> RidgePath:
    """Ridge on standardised features, for every penalty from one eigendecomposition.

    Minimises ‖y - b - Zw‖² + alpha ‖w‖² with Z the features centred and divided by their population standard
    deviation, both of the training set: what scikit-learn's `StandardScaler` + `Ridge(alpha)` fits.

    Args:
        stats: Statistics of the training set.
        alphas: Penalties of shape (alpha,), positive.

    Raises:
        ProbeError: If a penalty is not positive and finite.
    """
    penalties = check_alphas(alphas)
    return map_cores(lambda training: _Decomposition(training).path(penalties), [stats])[0]


@dataclass(frozen=True, eq=False, slots=True)
class CrossValidation:
    """Every fold held out once, for every penalty."""

    folds: tuple[FoldKey, ...]
    """Sorted; the order of the fold axis below."""
    alphas: NDArray[np.float64]
    """(alpha,)."""
    weights: NDArray[np.float64]
    """(fold, alpha, feature): coefficients fitted without the fold."""
    intercept: NDArray[np.float64]
    """(fold, alpha)."""
    moments: tuple[Moments, ...]
    """Per fold, of its held-out chips, over alphas."""
    leverage: NDArray[np.float64]
    """(fold, alpha): mean leverage of the held-out chips under the training set."""
    n_train: NDArray[np.int64]
    """(fold,)."""
    chosen: NDArray[np.intp]
    """(fold,): index of the penalty chosen without looking at the fold, by cross-validation among
    the others."""
    best: int
    """Index of the penalty with the lowest held-out squared error over all folds."""

    @property
    def alpha(self) -> float:
        """The penalty for the final fit."""
        return float(self.alphas[self.best])

    def fold_metrics(self) -> tuple[Metrics, ...]:
        """Per fold, over alphas."""
        return tuple(m.metrics() for m in self.moments)

    def nested_fold_metrics(self) -> tuple[Metrics, ...]:
        """Per fold, with the penalty chosen inside its training folds."""
        return tuple(m.at(int(i)).metrics() for m, i in zip(self.moments, self.chosen, strict=True))

    def nested_metrics(self) -> Metrics:
        """To report: of all held-out predictions, each fold's penalty chosen inside its training folds."""
        return merge_moments([m.at(int(i)) for m, i in zip(self.moments, self.chosen, strict=True)]).metrics()

    def residual_variance(self) -> float:
        """Noise variance about the probe, from held-out errors, in squared units of the target.

        A held-out error has variance σ²(1 + 1/n + leverage) where σ² is the noise; dividing by the mean of
        that bracket over the held-out chips keeps the uncertainty of the coefficients from being counted
        twice in a predictive standard error that adds it again.
        """
        rows = range(len(self.folds))
        error = sum(float(self.moments[f].squared_error[self.chosen[f]]) for f in rows)
        expected = sum(
            self.moments[f].n * (1 + 1 / int(self.n_train[f]) + float(self.leverage[f, self.chosen[f]])) for f in rows
        )
        return error / expected


def _best(errors: NDArray[np.float64], alphas: NDArray[np.float64]) -> int:
    """Index of the least error; of equal ones the largest penalty."""
    tied = np.flatnonzero(errors <= errors.min())
    return int(tied[np.argmax(alphas[tied])])


def cross_validate(atoms: Mapping[FoldKey, RidgeStatistics], alphas: ArrayLike = DEFAULT_ALPHAS) -> CrossValidation:
    """Hold out every fold once, for every penalty, from the folds' statistics alone.

    A fold's training set is the sum of the other atoms. The penalty of a reported score is nested: for a
    held-out fold it is the one with the lowest squared error when the remaining folds are held out in turn.
    Leaving out folds f and g serves both choices, so k folds take k(k - 1)/2 + k eigendecompositions.

    Args:
        atoms: Statistics per fold; at least three folds. Their order does not matter.
        alphas: Penalties of shape (alpha,), positive.

    Raises:
        TooFewBlocksError: If there are fewer than three folds.
        ProbeError: If a penalty is not positive and finite, or atoms differ in width.
    """
    penalties = check_alphas(alphas)
    folds = tuple(sorted(atoms, key=lambda key: (isinstance(key, str), key)))
    k = len(folds)
    if k < MIN_FOLDS:
        raise TooFewBlocksError(
            f"Found {k} folds with chips in them; a penalty is chosen inside the training folds, which "
            f"takes at least {MIN_FOLDS}. Use more blocks, or folds drawn at random."
        )

    def pair_errors(pair: tuple[int, int]) -> NDArray[np.float64]:
        """Squared errors on each of two folds when both are left out, shape (2, alpha)."""
        path = _Decomposition(merge_all(atoms[folds[i]] for i in range(k) if i not in pair)).path(penalties)
        return np.array([held_out_moments(atoms[folds[i]], path.weights, path.intercept).squared_error for i in pair])

    def held_out(f: int) -> tuple[int, RidgePath, Moments, NDArray[np.float64]]:
        train = merge_all(atoms[folds[i]] for i in range(k) if i != f)
        decomposition = _Decomposition(train)
        path = decomposition.path(penalties)
        moments = held_out_moments(atoms[folds[f]], path.weights, path.intercept)
        return train.n, path, moments, decomposition.mean_leverage(atoms[folds[f]], penalties)

    pairs = list(combinations(range(k), 2))
    errors = map_cores(pair_errors, pairs)
    n_train, paths, moments, leverage = zip(*map_cores(held_out, range(k)), strict=True)

    inner = np.zeros((k, penalties.size))
    for (f, g), (error_f, error_g) in zip(pairs, errors, strict=True):
        inner[f] += error_g
        inner[g] += error_f
    return CrossValidation(
        folds=folds,
        alphas=penalties,
        weights=np.array([path.weights for path in paths]),
        intercept=np.array([path.intercept for path in paths]),
        moments=moments,
        leverage=np.array(leverage),
        n_train=np.array(n_train, dtype=np.int64),
        chosen=np.array([_best(row, penalties) for row in inner], dtype=np.intp),
        best=_best(np.sum([m.squared_error for m in moments], axis=0), penalties),
    )


def atoms_from_folds(x: ArrayLike, y: ArrayLike, fold: ArrayLike) -> dict[FoldKey, RidgeStatistics]:
    """Statistics per fold of rows held in memory.

    Args:
        x: Features of shape (n, feature).
        y: Targets of shape (n,).
        fold: Fold of each row, shape (n,), integers.

    Raises:
        ProbeError: If shapes do not fit or a value is not finite.
    """
    x, y, fold = np.asarray(x), np.asarray(y), np.asarray(fold)
    if fold.shape != x.shape[:1]:
        raise ProbeError(f"Found folds of shape {fold.shape} for {x.shape[0]} rows. Expected one fold per row.")
    keys: list[FoldKey] = np.unique(fold).tolist()
    return dict(
        zip(keys, map_cores(lambda f: RidgeStatistics.from_arrays(x[fold == f], y[fold == f]), keys), strict=True)
    )


def out_of_fold(x: ArrayLike, fold: ArrayLike, cv: CrossValidation) -> NDArray[np.float64]:
    """Prediction of every row by the coefficients fitted without its fold, with their nested penalty.

    Args:
        x: Features of shape (n, feature).
        fold: Fold of each row, shape (n,), as in `cv.folds`.
        cv: The cross-validation.

    Returns:
        Predictions of shape (n,), in the units that were fitted.
    """
    x, fold = np.asarray(x), np.asarray(fold)
    predicted = np.full(x.shape[0], np.nan)
    for i, key in enumerate(cv.folds):
        rows = np.flatnonzero(fold == key)
        for part in np.array_split(rows, max(1, rows.size // 4096)):
            predicted[part] = x[part].astype(np.float64) @ cv.weights[i, cv.chosen[i]]
        predicted[rows] += cv.intercept[i, cv.chosen[i]]
    return predicted
