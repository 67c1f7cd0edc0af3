"""Ridge from statistics against scikit-learn, and cross-validation against explicit refits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.errors import ProbeError, TooFewBlocksError
from geoelle.probe import RidgeStatistics, atoms_from_folds, cross_validate, fit_ridge, merge_all, out_of_fold

ALPHAS = np.array([0.01, 1.0, 30.0, 1e3, 1e5])


def pairs(n: int = 400, d: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different size, some signal, some noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(1e-3, 1e3, d) + rng.normal(size=d) * 10
    z = (x - x.mean(0)) / x.std(0)
    return x, z @ rng.normal(size=d) + 5 + rng.normal(size=n)


def reference(x: np.ndarray, y: np.ndarray, alpha: float) -> Pipeline:
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x, y)


def folded(pipeline: Pipeline) -> tuple[np.ndarray, float]:
    scaler, ridge = pipeline.named_steps["standardscaler"], pipeline.named_steps["ridge"]
    weights = ridge.coef_ / scaler.scale_
    return weights, float(ridge.intercept_ - scaler.mean_ @ weights)


@pytest.mark.parametrize("shape", [(400, 20), (5000, 8), (15, 40), (3, 2)])
def test_coefficients_equal_scikit_learns(shape: tuple[int, int]) -> None:
    x, y = pairs(*shape)
    path = fit_ridge(RidgeStatistics.from_arrays(x, y), ALPHAS)
    for i, alpha in enumerate(ALPHAS):
        weights, intercept = folded(reference(x, y, alpha))
        np.testing.assert_allclose(path.weights[i] * x.std(0), weights * x.std(0), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(path.intercept[i], intercept, rtol=1e-6, atol=1e-9)


def test_constant_feature_gets_no_weight_and_changes_nothing() -> None:
    x, y = pairs()
    wide = np.column_stack((x[:, :3], np.full(len(y), 0.1), x[:, 3:]))
    path = fit_ridge(RidgeStatistics.from_arrays(wide, y), ALPHAS)
    np.testing.assert_allclose(path.weights[:, 3], 0.0, atol=1e-10)
    np.testing.assert_allclose(
        np.delete(path.weights, 3, 1), fit_ridge(RidgeStatistics.from_arrays(x, y), ALPHAS).weights, rtol=1e-7
    )


def test_float32_input_is_fitted_in_float64() -> None:
    x, y = pairs(5000)
    x32 = x.astype(np.float32)
    path = fit_ridge(RidgeStatistics.from_arrays(x32, y), [1.0])
    weights, _ = folded(reference(x32.astype(np.float64), y, 1.0))
    np.testing.assert_allclose(path.weights[0], weights, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_cross_validation_equals_explicit_refits(seed: int) -> None:
    x, y = pairs(300, 12, seed)
    fold = np.random.default_rng(seed).integers(0, 4, 300)
    cv = cross_validate(atoms_from_folds(x, y, fold), ALPHAS)
    error = np.zeros((4, len(ALPHAS)))
    for f, metrics in enumerate(cv.fold_metrics()):
        train, test = fold != f, fold == f
        assert metrics.n == test.sum()
        assert cv.n_train[f] == train.sum()
        for i, alpha in enumerate(ALPHAS):
            pipeline = reference(x[train], y[train], alpha)
            weights, _ = folded(pipeline)
            np.testing.assert_allclose(cv.weights[f, i], weights, rtol=1e-6)
            p = pipeline.predict(x[test])
            np.testing.assert_allclose(metrics.r[i], np.corrcoef(p, y[test])[0, 1], rtol=1e-8)
            np.testing.assert_allclose(metrics.rmse[i], np.sqrt(((p - y[test]) ** 2).mean()), rtol=1e-8)
            error[f, i] = ((p - y[test]) ** 2).sum()
            z = (x[test] - x[train].mean(0)) / x[train].std(0)
            zt = (x[train] - x[train].mean(0)) / x[train].std(0)
            inverse = np.linalg.inv(zt.T @ zt + alpha * np.eye(12))
            np.testing.assert_allclose(cv.leverage[f, i], np.einsum("ij,jk,ik->i", z, inverse, z).mean(), rtol=1e-6)
    assert cv.best == error.sum(0).argmin()

    for f in range(4):  # the penalty of a reported score never saw the fold
        inner = np.zeros(len(ALPHAS))
        for g in {0, 1, 2, 3} - {f}:
            train = (fold != f) & (fold != g)
            for i, alpha in enumerate(ALPHAS):
                inner[i] += ((reference(x[train], y[train], alpha).predict(x[fold == g]) - y[fold == g]) ** 2).sum()
        assert cv.chosen[f] == inner.argmin()

    p = out_of_fold(x, fold, cv)
    np.testing.assert_allclose(cv.nested_metrics().r, np.corrcoef(p, y)[0, 1], rtol=1e-8)
    np.testing.assert_allclose(cv.nested_metrics().rmse, np.sqrt(((p - y) ** 2).mean()), rtol=1e-8)
    np.testing.assert_allclose(
        [m.rmse for m in cv.nested_fold_metrics()],
        [np.sqrt(((p - y)[fold == f] ** 2).mean()) for f in range(4)],
        rtol=1e-8,
    )


def test_penalty_of_a_held_out_fold_does_not_see_it() -> None:
    x, y = pairs(300, 12)
    fold = np.arange(300) % 5
    before = cross_validate(atoms_from_folds(x, y, fold), ALPHAS)
    spoiled = np.where(fold == 2, np.random.default_rng(0).normal(0, 1e4, 300), y)
    after = cross_validate(atoms_from_folds(x, spoiled, fold), ALPHAS)
    assert before.chosen[2] == after.chosen[2]
    np.testing.assert_array_equal(before.weights[2], after.weights[2])


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(5)), st.integers(0, 99))
def test_order_of_atoms_and_rows_does_not_matter(order: list[int], seed: int) -> None:
    x, y = pairs(100, 6, seed)
    fold = np.arange(100) % 5
    shuffle = np.random.default_rng(seed).permutation(100)
    one = cross_validate(atoms_from_folds(x, y, fold), ALPHAS)
    atoms = atoms_from_folds(x[shuffle], y[shuffle], fold[shuffle])
    other = cross_validate({f: atoms[f] for f in order}, ALPHAS)
    assert one.folds == other.folds
    np.testing.assert_array_equal(one.chosen, other.chosen)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(2, 4))
def test_repeating_all_rows_is_dividing_the_penalty(n: int, d: int, times: int) -> None:
    x, y = pairs(n + 1, d)
    once = fit_ridge(RidgeStatistics.from_arrays(x, y), ALPHAS)
    many = fit_ridge(merge_all([RidgeStatistics.from_arrays(x, y)] * times), ALPHAS * times)
    np.testing.assert_allclose(once.weights * once.scale, many.weights * once.scale, rtol=1e-6, atol=1e-10)


def test_string_folds_and_unequal_atoms() -> None:
    x, y = pairs(50, 60)
    atoms = {
        "b": RidgeStatistics.from_arrays(x[:1], y[:1]),
        "a": RidgeStatistics.from_arrays(x[1:3], y[1:3]),
        "c": RidgeStatistics.from_arrays(x[3:], y[3:]),
    }
    cv = cross_validate(atoms, ALPHAS)
    assert cv.folds == ("a", "b", "c")
    assert np.isfinite(cv.weights).all()
    assert np.isnan(cv.fold_metrics()[1].r).all()
    assert np.isfinite(cv.residual_variance())


@pytest.mark.parametrize("alphas", [[], [0.0], [-1.0], [np.nan], [np.inf], 1.0])
def test_useless_penalties_are_refused(alphas: object) -> None:
    with pytest.raises(ProbeError, match="positive"):
        fit_ridge(RidgeStatistics.from_arrays(*pairs(20, 2)), alphas)


def test_two_folds_are_too_few() -> None:
    x, y = pairs(20, 2)
    with pytest.raises(TooFewBlocksError, match="Found 2 folds"):
        cross_validate(atoms_from_folds(x, y, np.arange(20) % 2))
    with pytest.raises(ProbeError, match="one fold per row"):
        atoms_from_folds(x, y, np.arange(19))
