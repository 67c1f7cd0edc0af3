"""Sufficient statistics merge exactly, and score coefficients without the chips."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoelle.errors import ProbeError
from geoelle.probe import RidgeStatistics, held_out_metrics, held_out_moments, merge_all, merge_moments

FIELDS = ("n", "mean_x", "mean_y", "scatter_xx", "scatter_xy", "scatter_yy")


def assert_same(a: RidgeStatistics, b: RidgeStatistics, size: float = 1.0) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9 * size**2, err_msg=name)


def direct(x: np.ndarray, y: np.ndarray) -> RidgeStatistics:
    x, y = x.astype(float), y.astype(float)
    zx, zy = x - x.mean(0), y - y.mean()
    return RidgeStatistics(len(y), x.mean(0), y.mean(), zx.T @ zx, zx.T @ zy, zy @ zy)


def pairs(n: int = 200, d: int = 5, seed: int = 0, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (n, d)).astype(dtype)
    return x, x @ np.arange(1, d + 1) + rng.normal(size=n)


@pytest.mark.parametrize("n", [1, 2, 4095, 4096, 4097, 9000])
def test_from_arrays_is_the_definition_across_chunks(n: int) -> None:
    x, y = pairs(n, 3, dtype=np.float32)
    assert_same(RidgeStatistics.from_arrays(x, y), direct(x, y), size=100)


def test_far_mean_does_not_cancel() -> None:
    x, y = pairs(5000, 3)
    near, far = RidgeStatistics.from_arrays(x, y), RidgeStatistics.from_arrays(x + 1e6, y - 1e6)
    np.testing.assert_allclose(near.scatter_xx, far.scatter_xx, rtol=1e-7)
    np.testing.assert_allclose(near.scatter_xy, far.scatter_xy, rtol=1e-7)


matrices = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 30), st.just(4)), elements=st.floats(-100, 100, allow_subnormal=False)
)


@settings(deadline=None)
@given(matrices, st.lists(st.integers(0, 30), max_size=4), st.randoms(use_true_random=False))
def test_any_cut_in_any_order_merges_to_the_whole(rows: np.ndarray, cuts: list[int], random) -> None:
    x, y = rows[:, :3], rows[:, 3]
    edges = sorted({0, len(y), *(c for c in cuts if c < len(y))})
    parts = [RidgeStatistics.from_arrays(x[a:b], y[a:b]) for a, b in pairwise(edges)]
    random.shuffle(parts)
    whole = direct(x, y)
    assert_same(merge_all(parts), whole, size=100)
    folded = parts[0]
    for part in parts[1:]:
        folded = folded + part
    assert_same(folded, whole, size=100)


@settings(deadline=None)
@given(matrices)
def test_duplicated_rows_double_the_scatter(rows: np.ndarray) -> None:
    once = RidgeStatistics.from_arrays(rows[:, :3], rows[:, 3])
    twice = RidgeStatistics.from_arrays(np.repeat(rows[:, :3], 2, 0), np.repeat(rows[:, 3], 2))
    np.testing.assert_allclose(twice.scatter_xx, 2 * once.scatter_xx, atol=1e-6)
    assert_same(once + once, twice, size=100)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e5 / 3])
def test_constant_feature_has_scale_one_however_merged(value: float) -> None:
    x, y = pairs(9000, 3)
    x[:, 1] = value
    stats = merge_all(RidgeStatistics.from_arrays(x[i : i + 777], y[i : i + 777]) for i in range(0, 9000, 777))
    assert stats.scale[1] == 1.0
    np.testing.assert_allclose(stats.scale[[0, 2]], x.std(0)[[0, 2]])


def test_metrics_are_those_of_the_predictions() -> None:
    x, y = pairs()
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3))
    found = held_out_metrics(RidgeStatistics.from_arrays(x, y), w, b)
    for i in np.ndindex(2, 3):
        p = x @ w[i] + b[i]
        np.testing.assert_allclose(found.r[i], np.corrcoef(p, y)[0, 1])
        np.testing.assert_allclose(found.r2[i], 1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum())
        np.testing.assert_allclose(found.rmse[i], np.sqrt(((y - p) ** 2).mean()))
        np.testing.assert_allclose(found.slope[i], np.polyfit(p, y, 1)[0])


def test_moments_of_folds_merge_to_those_of_all_predictions() -> None:
    x, y = pairs()
    coefficients = [(np.arange(5.0) + i, float(i)) for i in range(4)]
    fold = np.arange(200) % 4
    parts = [
        held_out_moments(RidgeStatistics.from_arrays(x[fold == i], y[fold == i]), w, b)
        for i, (w, b) in enumerate(coefficients)
    ]
    p = np.array([x[i] @ coefficients[fold[i]][0] + coefficients[fold[i]][1] for i in range(200)])
    found = merge_moments(parts).metrics()
    np.testing.assert_allclose(found.r, np.corrcoef(p, y)[0, 1])
    np.testing.assert_allclose(found.rmse, np.sqrt(((y - p) ** 2).mean()))


@pytest.mark.parametrize("constant", ["target", "prediction", "single row"])
def test_undefined_metrics_are_nan_without_a_warning(constant: str) -> None:
    x, y = pairs(1 if constant == "single row" else 999)
    w = np.zeros(5)
    if constant == "target":
        y, w = np.full(999, 0.1), np.ones(5)
    found = held_out_metrics(RidgeStatistics.from_arrays(x, y), w, 0.3)
    assert np.isnan(found.r)
    assert np.isfinite(found.rmse)


def test_a_constant_embedding_predicts_without_variation() -> None:
    x = np.full((999, 5), 0.1) * np.arange(1, 6)
    found = held_out_metrics(RidgeStatistics.from_arrays(x, pairs(999)[1]), np.arange(5.0) - 2.2, 0.0)
    assert np.isnan(found.r)
    assert np.isnan(found.slope)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_refused_with_a_count(bad: float) -> None:
    x, y = pairs(6000)
    x[[5, 5000], [1, 2]] = bad
    x[5, 2] = -bad
    with pytest.raises(ProbeError, match="2 of 6000 embeddings and 0 targets"):
        RidgeStatistics.from_arrays(x, y)
    with pytest.raises(ProbeError, match="0 of 1 embeddings and 1 targets"):
        RidgeStatistics.from_arrays([[1.0]], [bad])


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, y = pairs(10)
    for a, b in ((x, y[:9]), (x[0], y), (x[:0], y[:0])):
        with pytest.raises(ProbeError, match="do not make pairs"):
            RidgeStatistics.from_arrays(a, b)
    with pytest.raises(ProbeError, match="do not mix"):
        RidgeStatistics.from_arrays(x, y) + RidgeStatistics.from_arrays(x[:, :2], y)
    with pytest.raises(ProbeError, match="no features"):
        merge_all([])
