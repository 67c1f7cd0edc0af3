"""How fast the probe is fitted and scores, beside scikit-learn in the same run. Times are printed, never asserted.

Run with `pytest -m bench -s tests/benchmarks/test_probe_speed.py`.
"""

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.probe import (
    Probe,
    ProbeMeta,
    RidgeStatistics,
    atoms_from_folds,
    cross_validate,
    fit_probe,
    fit_ridge,
    merge_all,
)

pytestmark = pytest.mark.bench

N, D, FOLDS = 40_000, 768, 5
ALPHAS = np.geomspace(0.1, 1e4, 6)
META = ProbeMeta(
    target="loss", unit="1", loss_kind="own", encoder="random", encoder_card_digest="", weights_sha256="",
    bands=("red",), chip_size_px=64, chip_size_m=640.0, gsd_m=10.0, mask_ratio=0.75, n_masks=8, holdout="random",
    fold_digest="", origin="local", trained_on="simulated",
)  # fmt: skip


def best_of(times: int, call: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls: what is left is the work itself."""
    seconds = []
    for _ in range(times):
        gc.collect()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated embeddings with a falling spectrum, as encoders give them, and a loss linear in them with noise."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(D, D)) * np.geomspace(1, 1e-2, D)[:, None]
    x = (rng.standard_normal((N, D), dtype=np.float32) @ mixing.astype(np.float32) + 0.5).astype(np.float32)
    signal = x @ rng.normal(size=D)
    y = 10 + signal / signal.std() + 0.3 * rng.normal(size=N)
    return x, y, rng.integers(0, FOLDS, N)


def test_fit(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, fold = pairs
    steps = {
        "statistics of 5 folds": best_of(3, lambda: atoms_from_folds(x, y, fold)),
        "nested cross-validation": 0.0,
        "final coefficients": 0.0,
    }
    atoms = atoms_from_folds(x, y, fold)
    steps["nested cross-validation"] = best_of(3, lambda: cross_validate(atoms, ALPHAS))
    steps["final coefficients"] = best_of(3, lambda: fit_ridge(merge_all(atoms.values()), ALPHAS))

    def everything() -> None:
        parts = atoms_from_folds(x, y, fold)
        cross_validate(parts, ALPHAS)
        fit_ridge(merge_all(parts.values()), ALPHAS)

    ours = best_of(3, everything)
    keys = [str(i) for i in range(N)]
    labels = {"blocks": fold, "scenes": fold, "folds": fold, "meta": META, "alphas": ALPHAS, "min_blocks": 1}
    whole = best_of(1, lambda: fit_probe(x, y, keys, **labels))
    theirs = best_of(1, lambda: RidgeCV(alphas=ALPHAS).fit(x, y))
    print(f"\nFit, {N} x {D} float32, {FOLDS} folds x {len(ALPHAS)} alphas, alpha nested")
    for name, seconds in steps.items():
        print(f"  {name:28s} {seconds:7.2f} s")
    print(f"  {'together':28s} {ours:7.2f} s   {ours / theirs:.3f} of one RidgeCV (target 0.333)")
    print(f"  {'fit_probe, support and all':28s} {whole:7.2f} s   {whole / theirs:.3f} of one RidgeCV")
    print(f"  {'one RidgeCV':28s} {theirs:7.2f} s")


def test_coefficients(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, fold = pairs
    wide = x.astype(np.float64)
    atoms = atoms_from_folds(x, y, fold)
    path, cv = fit_ridge(merge_all(atoms.values()), ALPHAS), cross_validate(atoms, ALPHAS)
    worst = {}
    for name, rows, weights in (("all rows", fold >= 0, path.weights), ("without fold 2", fold != 2, cv.weights[2])):
        for i in (0, 3, 5):
            pipeline = make_pipeline(StandardScaler(), Ridge(alpha=ALPHAS[i])).fit(wide[rows], y[rows])
            theirs = pipeline[-1].coef_ / pipeline[0].scale_
            worst[name, i] = np.linalg.norm(weights[i] - theirs) / np.linalg.norm(theirs)
            np.testing.assert_allclose(weights[i], theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())
    print(f"\nCoefficients, largest relative difference to scikit-learn: {max(worst.values()):.1e} (target 1e-6)")


def test_scoring(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, fold = pairs
    probe: Probe = fit_probe(
        x, y, [str(i) for i in range(N)], blocks=fold, scenes=fold, folds=fold, meta=META, alphas=ALPHAS, min_blocks=1
    )
    pipeline = make_pipeline(StandardScaler(), Ridge(alpha=probe.alpha)).fit(x, y)
    off = np.abs(probe.predict(x) - pipeline.predict(x.astype(np.float64))).max() / probe.residual_sd
    read = best_of(10, lambda: x.max())
    mean = best_of(10, lambda: probe.predict(x))
    theirs = best_of(5, lambda: pipeline.predict(x))
    error = best_of(2, lambda: probe.predict_with_error(x))
    one = best_of(5, lambda: [probe.predict(row) for row in x[:1000]]) / 1000
    print(f"\nScoring, {N} x {D} float32, per chip")
    print(f"  {'reading once (max)':28s} {read / N * 1e6:9.3f} us")
    print(f"  {'difficulty':28s} {mean / N * 1e6:9.3f} us   {mean / read:.2f} of reading")
    print(f"  {'scaler + ridge pipeline':28s} {theirs / N * 1e6:9.3f} us   {theirs / mean:.1f} x ours (target 10)")
    print(f"  {'difficulty, error, support':28s} {error / N * 1e6:9.3f} us")
    print(f"  {'one chip alone':28s} {one * 1e6:9.3f} us")
    print(f"  largest difference to the pipeline: {off:.1e} residual standard deviations")
    assert off < 1e-3


def test_float64_copy_is_never_whole(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    import tracemalloc

    x, y, _ = pairs
    tracemalloc.start()
    RidgeStatistics.from_arrays(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"\nStatistics of {x.nbytes / 1e6:.0f} MB of float32 took {peak / 1e6:.0f} MB on top")
    assert peak < x.nbytes
