"""Figures that say what a probe is worth: how noisy its target is, and what it knows beyond texture."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MOST_HALVINGS = 35  # all of 8 draws; of more draws, the first so many in a fixed order


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's r of two vectors of shape (n,); NaN where one does not vary or n is under 2."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def reliability(losses: ArrayLike) -> float:
    """Reliability of the mean over masks of `losses` (chip, mask).

    Mean correlation over the ways to halve the masks, stepped up to all of them (Spearman 1910, Brown 1910):
    2r / (1 + r). Its square root is the ceiling that no predictor's r can be expected to pass. NaN where there are
    fewer than two masks or nothing varies.
    """
    values = np.asarray(losses, dtype=np.float64)
    k = values.shape[1] // 2 * 2
    if k < 2:
        return float("nan")
    # The first draw stays in the first half, so that each halving comes once.
    rest = itertools.islice(itertools.combinations(range(1, k), k // 2 - 1), _MOST_HALVINGS)
    rs = []
    for others in rest:
        first = np.zeros(k, dtype=bool)
        first[[0, *others]] = True
        rs.append(correlation(values[:, :k][:, first].mean(axis=1), values[:, :k][:, ~first].mean(axis=1)))
    r = float(np.mean(rs))
    return 2 * r / (1 + r) if r > -1 else float("nan")


def partial_r(predicted: ArrayLike, target: ArrayLike, beyond: NDArray[np.float64]) -> float:
    """Correlation of predicted and target, each (n,), once what is linear in `beyond` (n, control) is out of both.

    NaN where that leaves nothing, or there are too few rows for the controls.
    """
    both = np.stack([np.asarray(predicted, np.float64), np.asarray(target, np.float64)], axis=1)
    spread = beyond.std(axis=0)
    controls = np.column_stack([np.ones(len(both)), (beyond - beyond.mean(axis=0)) / np.where(spread > 0, spread, 1)])
    if len(both) <= controls.shape[1] + 1:
        return float("nan")
    left = both - controls @ np.linalg.lstsq(controls, both, rcond=None)[0]
    tiny = 1e-12 * np.maximum(both.std(axis=0), 1e-300)
    return float("nan") if (left.std(axis=0) <= tiny).any() else correlation(left[:, 0], left[:, 1])


def delta_fidelity(predicted: ArrayLike, target: ArrayLike, place: ArrayLike) -> float:
    """How well predicted changes at a place follow the true ones: what Delta-ELLE stands on.

    Both are taken as departures from the place's own mean over its dates; a probe that only knew which places are hard
    would score 0. Places seen once say nothing and are left out.

    Args:
        predicted: Difficulty, (n,).
        target: Loss, (n,).
        place: Id of the place of each row, (n,).

    Returns:
        Correlation of the departures; NaN where no place was seen twice, or nothing changed.
    """
    _, index, counts = np.unique(np.asarray(place), return_inverse=True, return_counts=True)
    departures = [
        values - (np.bincount(index, values) / counts)[index]
        for values in (np.asarray(predicted, np.float64), np.asarray(target, np.float64))
    ]
    again = counts[index] > 1
    return correlation(departures[0][again], departures[1][again])
