"""Is an embedding inside what the probe was trained on: distance to the nearest stored training embedding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import ProbeError

_CHUNK_ROWS = 2048


def nearest_distance(
    z: NDArray[np.float32],
    stored: NDArray[np.float32],
    *,
    groups: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> NDArray[np.float32]:
    """Euclidean distance from each row of `z` to the nearest row of `stored`, one matrix product per chunk.

    The product only finds which row is nearest; its distance is then taken exactly, as |z|² + |s|² - 2zs
    cancels for near copies.

    Args:
        z: Of shape (n, feature).
        stored: Of shape (m, feature).
        groups: Group of each row of `z` and of `stored`; rows of the same group are not neighbours.

    Returns:
        Distances of shape (n,); NaN for rows with NaN, inf where every stored row is of the same group.
    """
    distance = np.empty(len(z), dtype=np.float32)
    norms = np.einsum("ij,ij->i", stored, stored)
    for start in range(0, len(z), _CHUNK_ROWS):
        rows = z[start : start + _CHUNK_ROWS]
        # Without |z|²: it is the same for all candidates of a row. In place: this array is the largest here.
        rank = rows @ stored.T
        rank *= -2.0
        rank += norms
        if groups is not None:
            rank[groups[0][start : start + _CHUNK_ROWS, None] == groups[1]] = np.inf
        nearest = rank.argmin(axis=1)
        away = rows - stored[nearest]
        found = np.sqrt(np.einsum("ij,ij->i", away, away))
        if groups is not None:
            found[np.isinf(rank[np.arange(len(rows)), nearest])] = np.inf
        distance[start : start + _CHUNK_ROWS] = found
    return distance


def distance_threshold(stored: NDArray[np.float32], fold: NDArray[np.int64]) -> float:
    """Distance beyond which an embedding is unlike the training data.

    Meyer and Pebesma (2021), "Predicting into unknown space?": the largest distance from a training embedding
    to the nearest one of another fold, outliers left aside, i.e. not above the upper quartile plus 1.5
    interquartile ranges. Unlike theirs, features are not weighted by importance, and distances are not
    divided by their mean.

    Args:
        stored: Standardised training embeddings of shape (m, feature).
        fold: Fold of each, shape (m,).

    Raises:
        ProbeError: If all are of one fold.
    """
    distance = nearest_distance(stored, stored, groups=(fold, fold))
    distance = distance[np.isfinite(distance)].astype(np.float64)
    if distance.size == 0:
        raise ProbeError(
            f"All {len(stored)} stored training embeddings are of one fold. Expected at least two folds, "
            "for the threshold of support is a distance between folds. Use folds of comparable size."
        )
    lower, upper = np.quantile(distance, (0.25, 0.75))
    return float(distance[distance <= upper + 1.5 * (upper - lower)].max())
