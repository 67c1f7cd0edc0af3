"""Figures about probes, on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from geoelle.probe.measures import correlation, delta_fidelity, partial_r, reliability


def test_fidelity_knows_change_from_place() -> None:
    rng = np.random.default_rng(0)
    place = np.repeat([f"p{i}" for i in range(200)], 5)
    level = np.repeat(rng.normal(size=200) * 10, 5)
    change = rng.normal(size=1000)
    assert delta_fidelity(level + change, level + change, place) == pytest.approx(1)
    only_level = delta_fidelity(level + 0.1 * rng.normal(size=1000), level + change, place)
    assert only_level == pytest.approx(0, abs=0.1)
    assert correlation(level + 0.1 * rng.normal(size=1000), level + change) > 0.98
    shuffled = rng.permutation(1000)
    again = delta_fidelity((level + 2 * change)[shuffled], (level + change)[shuffled], place[shuffled])
    assert again == pytest.approx(1)


def test_fidelity_needs_a_place_seen_twice() -> None:
    assert np.isnan(delta_fidelity([1.0, 2, 3], [1.0, 2, 3], ["a", "b", "c"]))
    once = delta_fidelity([1.0, 2, 3, 9], [1.0, 2, 3, -9], ["a", "a", "a", "b"])
    assert once == pytest.approx(1)


def test_undefined_is_nan_and_not_a_warning() -> None:
    assert np.isnan(correlation([1.0], [2.0]))
    assert np.isnan(correlation([1.0, 1], [1.0, 2]))
    assert np.isnan(reliability(np.ones((5, 1))))
    assert np.isnan(reliability(np.ones((5, 4))))
    assert np.isnan(partial_r([1.0, 2, 3], [1.0, 2, 3], np.ones((3, 2))))
    rows = np.arange(20.0)
    assert np.isnan(partial_r(rows, rows * 2, rows[:, None])), "nothing is left once the control is out"
