"""What ridge needs to know about data, in a form that adds up.

Counts, means and centred scatters merge exactly, so chips can come in any order and from any number of
workers, and memory does not grow with their number. How a given set of coefficients does on an atom of chips
follows from that atom's statistics alone, with no second look at the chips.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoelle.errors import ProbeError

# Rows converted to float64 at a time: large enough for BLAS to run at full speed, 25 MB at 768 features.
_CHUNK_ROWS = 4096


@dataclass(frozen=True, eq=False, slots=True)
class RidgeStatistics:
    """Sufficient statistics of n pairs (x, y); scatters are centred sums of products, in float64."""

    n: int
    """Number of pairs, at least 1."""
    mean_x: NDArray[np.float64]
    """(feature,)."""
    mean_y: float
    scatter_xx: NDArray[np.float64]
    """(feature, feature): the sum of (x - mean_x)(x - mean_x)ᵀ."""
    scatter_xy: NDArray[np.float64]
    """(feature,): the sum of (x - mean_x)(y - mean_y)."""
    scatter_yy: float
    """The sum of (y - mean_y)²."""

    def __post_init__(self) -> None:
        d = self.mean_x.shape[0] if self.mean_x.ndim == 1 else -1
        if self.n < 1 or self.scatter_xx.shape != (d, d) or self.scatter_xy.shape != (d,):
            raise ProbeError(
                f"Ridge statistics have n = {self.n} and shapes {self.mean_x.shape}, "
                f"{self.scatter_xx.shape}, {self.scatter_xy.shape}. Expected n of at least 1 and (d,), (d, "
                "d), (d,). Make them with from_arrays."
            )

    @property
    def n_features(self) -> int:
        """Length of an embedding."""
        return int(self.mean_x.shape[0])

    @property
    def scale(self) -> NDArray[np.float64]:
        """Population standard deviation of each feature, shape (feature,); 1 where a feature is constant.

        Constant means: no more variance than rounding of the mean explains, the rule of scikit-learn's
        StandardScaler (`_is_constant_feature`), so that both scale the same features.
        """
        variance = self.scatter_xx.diagonal() / self.n
        eps = np.finfo(np.float64).eps
        noise = self.n * eps * variance + (self.n * self.mean_x * eps) ** 2
        return np.where(variance <= noise, 1.0, np.sqrt(np.maximum(variance, 0.0)))

    @classmethod
    def from_arrays(cls, x: ArrayLike, y: ArrayLike) -> RidgeStatistics:
        """Statistics of rows held in memory, in one pass.

        Rows are centred chunk by chunk in float64, and chunks merged, so a float32 array is never copied
        whole and nothing cancels however far the mean lies from zero.

        Args:
            x: Features of shape (n, feature), float32 or float64.
            y: Targets of shape (n,).

        Raises:
            ProbeError: If shapes do not fit, there are no rows, or a value is not finite.
        """
        x, y = np.asarray(x), np.asarray(y, dtype=np.float64)
        if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
            raise ProbeError(
                f"Features of shape {x.shape} and targets of shape {y.shape} do not make pairs. Expected "
                "(n, feature) and (n,) with at least one of each."
            )
        n, d = x.shape
        scatter = np.zeros((d + 1, d + 1))
        means, counts = [], []
        # The target rides along as a last column: one symmetric product per chunk gives xx, xy and yy.
        chunk = np.empty((min(n, _CHUNK_ROWS), d + 1))
        for start in range(0, n, _CHUNK_ROWS):
            rows = slice(start, min(start + _CHUNK_ROWS, n))
            z = chunk[: rows.stop - start]
            z[:, :d], z[:, d] = x[rows], y[rows]
            with np.errstate(invalid="ignore"):  # inf - inf; reported just below
                mean = z.mean(axis=0)
            if not np.isfinite(mean).all():
                raise not_finite_error(x, y)
            z -= mean
            scatter += z.T @ z
            means.append(mean)
            counts.append(len(z))
        return _merge(counts, np.array(means), scatter)

    def __add__(self, other: RidgeStatistics) -> RidgeStatistics:
        """Statistics of both sets of pairs together."""
        return merge_all((self, other))


def merge_all(parts: Iterable[RidgeStatistics]) -> RidgeStatistics:
    """Statistics of all pairs of all parts, as if they had come in one piece (to float64 rounding).

    Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", for any number of parts.

    Raises:
        ProbeError: If there are no parts or they differ in their number of features.
    """
    parts = tuple(parts)
    widths = sorted({part.n_features for part in parts})
    if len(widths) != 1:
        raise ProbeError(
            f"Found statistics of {widths or 'no'} features to merge. Expected one or more parts of equal "
            "width; embeddings of different encoders do not mix."
        )
    d = widths[0]
    scatter = np.zeros((d + 1, d + 1))
    for part in parts:
        scatter[:d, :d] += part.scatter_xx
        scatter[:d, d] += part.scatter_xy
        scatter[d, d] += part.scatter_yy
    scatter[d, :d] = scatter[:d, d]
    means = np.array([np.append(part.mean_x, part.mean_y) for part in parts])
    return _merge([part.n for part in parts], means, scatter)


def _merge(counts: Sequence[int], means: NDArray[np.float64], scatter: NDArray[np.float64]) -> RidgeStatistics:
    """Statistics from the parts' counts, means (part, feature + 1) and summed scatters, target last."""
    n = sum(counts)
    weight = np.array(counts, dtype=np.float64)
    # Relative to the first part, so that equal means stay equal to the last bit.
    mean = means[0] + weight @ (means - means[0]) / n
    away = (means - mean) * np.sqrt(weight)[:, None]
    scatter = scatter + away.T @ away
    return RidgeStatistics(
        n=n,
        mean_x=mean[:-1].copy(),
        mean_y=float(mean[-1]),
        scatter_xx=np.ascontiguousarray(scatter[:-1, :-1]),
        scatter_xy=scatter[:-1, -1].copy(),
        scatter_yy=float(scatter[-1, -1]),
    )


def not_finite_error(x: NDArray[np.generic], y: NDArray[np.float64]) -> ProbeError:
    """The refusal of pairs with NaN or infinity, with their number."""
    bad_x = int((~np.isfinite(x).all(axis=1)).sum())
    bad_y = int((~np.isfinite(y)).sum())
    return ProbeError(
        f"{bad_x} of {len(y)} embeddings and {bad_y} targets hold NaN or infinity. Expected finite numbers; "
        "leave out chips that were not embedded or have no loss."
    )


@dataclass(frozen=True, eq=False, slots=True)
class Metrics:
    """How predictions agree with targets, in the shape of the coefficient sets scored; NaN if undefined."""

    n: int
    """Pairs scored."""
    r: NDArray[np.float64]
    """Pearson correlation."""
    r2: NDArray[np.float64]
    """1 - squared error / scatter of the target about its own mean; negative where that mean
    predicts better."""
    rmse: NDArray[np.float64]
    """Root mean squared error, in units of the target."""
    slope: NDArray[np.float64]
    """Slope of target on prediction: 1 is calibrated, below 1 the predictions spread too widely."""


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Joint moments of predictions and targets: they merge over folds, and `Metrics` follow from them."""

    n: int
    mean_p: NDArray[np.float64]
    """Mean prediction, of the shape of the coefficient sets scored; so are the other arrays."""
    mean_y: NDArray[np.float64]
    pp: NDArray[np.float64]
    """Centred sum of squares of predictions."""
    py: NDArray[np.float64]
    yy: NDArray[np.float64]

    @property
    def squared_error(self) -> NDArray[np.float64]:
        """Sum of squared errors."""
        spread = np.maximum(self.yy - 2 * self.py + self.pp, 0.0)
        return np.asarray(spread + self.n * (self.mean_p - self.mean_y) ** 2)

    def at(self, index: int) -> Moments:
        """Those of one set of coefficients."""
        return Moments(self.n, *(np.asarray(a[index]) for a in (self.mean_p, self.mean_y, self.pp, self.py, self.yy)))

    def metrics(self) -> Metrics:
        """The metrics that follow."""
        with np.errstate(divide="ignore", invalid="ignore"):
            r = self.py / np.sqrt(self.pp * self.yy)
            r2 = 1.0 - self.squared_error / self.yy
            slope = self.py / self.pp
        return Metrics(
            n=self.n,
            r=np.clip(np.where(np.isfinite(r), r, np.nan), -1.0, 1.0),
            r2=np.where(np.isfinite(r2), r2, np.nan),
            rmse=np.sqrt(self.squared_error / self.n),
            slope=np.where(np.isfinite(slope), slope, np.nan),
        )


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Moments of all predictions together, e.g. of every fold's held-out chips."""
    n = sum(part.n for part in parts)
    mean_p = np.asarray(sum(part.n * part.mean_p for part in parts) / n)
    mean_y = np.asarray(sum(part.n * part.mean_y for part in parts) / n)
    return Moments(
        n,
        mean_p,
        mean_y,
        np.asarray(sum(part.pp + part.n * (part.mean_p - mean_p) ** 2 for part in parts)),
        np.asarray(sum(part.py + part.n * (part.mean_p - mean_p) * (part.mean_y - mean_y) for part in parts)),
        np.asarray(sum(part.yy + part.n * (part.mean_y - mean_y) ** 2 for part in parts)),
    )


def held_out_moments(test: RidgeStatistics, weights: ArrayLike, intercept: ArrayLike) -> Moments:
    """Moments of the predictions x·weights + intercept on the chips that `test` sums up.

    Args:
        test: Statistics of the chips to score.
        weights: Coefficients of shape (…, feature), in units of x.
        intercept: Of shape (…).
    """
    w, b = np.asarray(weights, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    pp = ((w @ test.scatter_xx) * w).sum(axis=-1)
    # What rounding of the means leaves of a constant is no variation: its r must be NaN, not an accident.
    rounding = test.n * (test.n * np.finfo(np.float64).eps) ** 2
    varies = pp > rounding * (np.abs(w) @ np.abs(test.mean_x)) ** 2
    yy = test.scatter_yy if test.scatter_yy > rounding * test.mean_y**2 else 0.0
    return Moments(
        n=test.n,
        mean_p=np.asarray(w @ test.mean_x + b),
        mean_y=np.full(b.shape, test.mean_y),
        pp=np.where(varies, pp, 0.0),
        py=np.where(varies, w @ test.scatter_xy, 0.0),
        yy=np.full(b.shape, yy),
    )


def held_out_metrics(test: RidgeStatistics, weights: ArrayLike, intercept: ArrayLike) -> Metrics:
    """Exact r, R², RMSE and slope on the chips that `test` sums up; arguments as in `held_out_moments`."""
    return held_out_moments(test, weights, intercept).metrics()
