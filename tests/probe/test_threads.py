"""Working on all cores changes neither bits nor anyone else's threads."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from geoelle.probe import atoms_from_folds, cross_validate, threads


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_number_of_cores_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, fold = rng.normal(size=(600, 150)).astype(np.float32), rng.integers(0, 4, 600)
    y = x[:, :9].sum(1) + rng.normal(size=600)
    results = []
    for n in (1, 4):
        monkeypatch.setattr(threads, "_n_threads", lambda n=n: n)
        results.append(cross_validate(atoms_from_folds(x, y, fold)))
    np.testing.assert_array_equal(results[0].weights, results[1].weights)
    np.testing.assert_array_equal(results[0].leverage, results[1].leverage)
    np.testing.assert_array_equal(results[0].chosen, results[1].chosen)


def test_order_is_kept_and_blas_gets_its_threads_back_even_after_an_error() -> None:
    before = blas_threads()
    assert threads.map_cores(lambda i: (i, set(blas_threads())), range(20)) == [(i, {1}) for i in range(20)]
    assert blas_threads() == before
    with pytest.raises(ZeroDivisionError):
        threads.map_cores(lambda i: 1 / i, [1, 0])
    assert blas_threads() == before
