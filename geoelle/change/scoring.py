"""Numbers behind Delta-ELLE: reference, spread, z, p and state. NumPy in, NumPy out; time runs along axis 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoelle import schema

ReferenceKind = Literal["median", "surrounding"]
Floats = NDArray[np.float64]

MIN_LOOKS_FOR_P = 4
_MAD_TO_SD = 1.4826  # of a normal distribution: 1 / Phi^-1(3/4)
_PRIOR_LOOKS = 4.0
_NEIGHBOURHOOD = 5


@dataclass(frozen=True, slots=True)
class Reference:
    """What is normal at each place, for one look. Arrays are (y, x)."""

    value: Floats
    """Median of the reference looks; NaN where there are fewer than asked for."""
    spread: Floats
    """Robust standard deviation of a look about normal, moderated towards the neighbours."""
    n: NDArray[np.uint16]


def reference_looks(
    days: NDArray[np.datetime64], target: int, allowed: NDArray[np.bool_], kind: ReferenceKind, window_days: int
) -> NDArray[np.bool_]:
    """Which looks may say what is normal for look `target`.

    Args:
        days: (time,), datetime64[ns].
        target: Index of the look to be judged.
        allowed: (time,): looks that may be references at all.
        kind: `median` takes earlier looks, `surrounding` looks before and after, `window_days` to each side left out.
        window_days: For `surrounding`.
    """
    return looks_about(days, days[target], allowed, kind, window_days)


def looks_about(
    days: NDArray[np.datetime64], day: np.datetime64, allowed: NDArray[np.bool_], kind: ReferenceKind, window_days: int
) -> NDArray[np.bool_]:
    """As `reference_looks`, for a look on `day`, which need not be among `days`: another zone may have seen it."""
    if kind == "median":
        return np.asarray(allowed & (days < day), dtype=np.bool_)
    gap = np.abs(days - day)
    return np.asarray(allowed & (gap > np.timedelta64(window_days, "D")), dtype=np.bool_)


def reference_from(difficulty: Floats, looks: NDArray[np.bool_], min_looks: int) -> Reference:
    """Median and moderated robust spread of the reference looks at each place.

    The spread is 1.4826 × the median absolute deviation. With few looks that is itself uncertain, and where a place was
    quiet by chance it would make an alert of any flicker. So its square is averaged with a prior worth four looks, half
    the mean over the surrounding places and half that over the whole scene: the moderated variance of Smyth (2004),
    "Linear models and empirical Bayes methods", with a fixed number of prior looks.

    Args:
        difficulty: (time, y, x); NaN where there was no look.
        looks: (time,): the reference looks.
        min_looks: Places with fewer get NaN.
    """
    stack = difficulty[looks]
    n = np.isfinite(stack).sum(axis=0).astype(np.uint16)
    enough = n >= min_looks
    value = np.full(n.shape, np.nan)
    variance = np.full(n.shape, np.nan)
    if enough.any():
        here = stack[:, enough]
        value[enough] = np.nanmedian(here, axis=0)
        deviation = np.nanmedian(np.abs(here - value[enough]), axis=0) * _MAD_TO_SD
        variance[enough] = deviation**2
    scene = float(variance[enough].mean()) if enough.any() else np.nan
    prior = (_local_mean(variance) + scene) / 2
    freedom = np.maximum(n.astype(np.float64) - 1, 0)
    moderated = (freedom * variance + _PRIOR_LOOKS * prior) / (freedom + _PRIOR_LOOKS)
    return Reference(value, np.sqrt(moderated), n)


def _local_mean(values: Floats) -> Floats:
    """Mean over a 5 × 5 neighbourhood of what is not NaN."""
    there = np.isfinite(values)
    total, weight = np.where(there, values, 0.0), there.astype(np.float64)
    # Not uniform_filter: its running sums carry rounding into places where all is 0, and z would explode there.
    for axis in (0, 1):
        total = ndimage.correlate1d(total, np.ones(_NEIGHBOURHOOD), axis, mode="constant")
        weight = ndimage.correlate1d(weight, np.ones(_NEIGHBOURHOOD), axis, mode="constant")
    return np.where(there, total / np.where(weight > 0, weight, 1.0), np.nan)


def z_score(difficulty: Floats, reference: Reference) -> Floats:
    """Delta over its standard deviation where nothing changed, (y, x).

    A new look and the median of n looks both vary: var = spread² · (1 + π / 2n), the second term being that of the
    median of a normal sample. Where the spread is 0 there is no scale, and z is NaN.
    """
    n = np.maximum(reference.n.astype(np.float64), 1)
    scale = reference.spread * np.sqrt(1 + np.pi / (2 * n))
    return (difficulty - reference.value) / np.where(scale > 0, scale, np.nan)


def p_values(z: Floats, null: Floats, reference_n: NDArray[np.uint16]) -> Floats:
    """Two-sided p of z among the z of quiet looks, never below 1 / (n_null + 1).

    Args:
        z: (y, x).
        null: z of quiet looks at all places, any shape; NaN is left out.
        reference_n: (y, x): looks behind each reference.

    Returns:
        (y, x); NaN where fewer than four looks stand behind the reference, or there is no null.
    """
    pool = np.sort(np.abs(null[np.isfinite(null)]))
    p = np.full(z.shape, np.nan)
    there = np.isfinite(z) & (reference_n >= MIN_LOOKS_FOR_P)
    if pool.size and there.any():
        exceeding = pool.size - np.searchsorted(pool, np.abs(z[there]), side="left")
        p[there] = (1 + exceeding) / (pool.size + 1)
    return p


def states(z: Floats, alert_z: float) -> NDArray[np.uint8]:
    """What each look says of its place, given the looks before it.

    The first look past the threshold is `first`, the next in the same direction `provisional`, every one after that
    `confirmed`; the first quiet look ends it.

    Args:
        z: (time, y, x), times ascending; NaN where the place was not judged.
        alert_z: Threshold of |z|.

    Returns:
        (time, y, x), values of `schema.STATE_MEANINGS`.
    """
    out = np.full(z.shape, schema.NO_LOOK, dtype=np.uint8)
    run = np.zeros(z.shape[1:], dtype=np.int64)  # looks in a row past the threshold, signed
    ladder = np.array([schema.QUIET, schema.FIRST, schema.PROVISIONAL, schema.CONFIRMED], dtype=np.uint8)
    for t in range(len(z)):
        judged = np.isfinite(z[t])
        sign = np.where(np.abs(np.nan_to_num(z[t])) >= alert_z, np.sign(np.nan_to_num(z[t])), 0).astype(np.int64)
        longer = np.where(np.sign(run) == sign, run + sign, sign)
        state = np.where((sign == 0) & (run != 0), schema.ENDED, ladder[np.minimum(np.abs(longer), 3)])
        out[t][judged] = state[judged]
        run[judged] = longer[judged]
    return out
