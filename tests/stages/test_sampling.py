"""Which chips a calibration looks at."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from geoelle import schema
from geoelle.errors import ConfigError, ProbeError
from geoelle.grid import ChipGrid, GridExtent
from geoelle.holdout import assign_blocks
from geoelle.sampling import Candidates, draw_sample, find_candidates
from geoelle.store.layout import grid_attrs

DAYS = ("2021-01-10", "2021-04-10", "2021-07-10", "2021-12-10")
EXTENT = GridExtent(ChipGrid(32631, 320.0, 160.0), 8, range(4180, 4182), range(464, 467))


def embedded(seed: int = 0) -> xr.Dataset:
    """As much of an embedding store as sampling reads, with a few chips that were not embedded."""
    rng = np.random.default_rng(seed)
    shape = (len(DAYS), *EXTENT.shape)
    status = np.where(rng.random(shape) < 0.8, schema.DONE, rng.integers(0, 6, shape)).astype(np.uint8)
    contrast = np.where(status == schema.DONE, rng.gamma(2.0, 0.02, shape), np.nan).astype(np.float32)
    return xr.Dataset(
        {"status": (("time", "y", "x"), status), "contrast": (("time", "y", "x"), contrast)},
        {"time": np.array(DAYS, dtype="datetime64[ns]"), "y": EXTENT.y, "x": EXTENT.x},
        {"geoelle:grid": grid_attrs(EXTENT)},
    )


def made_up(strata: list[int]) -> Candidates:
    n = len(strata)
    nothing = np.zeros(n, dtype=np.intp)
    keys = [f"chip {i}" for i in range(n)]
    return Candidates(nothing, nothing, nothing, keys, nothing.astype(np.int64), np.array(strata, dtype=np.int64))


def shuffled(candidates: Candidates, seed: int) -> Candidates:
    order = np.random.default_rng(seed).permutation(len(candidates.key))
    fields = {f.name: getattr(candidates, f.name) for f in dataclasses.fields(Candidates)}
    return Candidates(**{k: [v[i] for i in order] if k == "key" else v[order] for k, v in fields.items()})


def test_candidates_are_embedded_chips_with_their_place() -> None:
    ds = embedded()
    found = find_candidates(ds, (), (), 1000.0)
    done = ds["status"].values == schema.DONE
    assert len(found.key) == len(set(found.key))
    rows, columns = EXTENT.rows[found.row], EXTENT.columns[found.column]
    corners = [assign_blocks(c, 1000.0) for c in EXTENT.grid.corners_lonlat(rows, columns)]
    assert all((corner == found.block).all() for corner in corners), "a chip straddles a border"
    assert 0.2 * done.sum() < len(found.key) < done.sum()
    assert done[found.time, found.row, found.column].all()
    for i in (0, len(found.key) // 2, -1):
        chip, day = found.key[i].split()
        grid, row, column = ChipGrid.parse_chip_id(chip)
        assert day == DAYS[found.time[i]]
        assert (row, column) == (EXTENT.rows[found.row[i]], EXTENT.columns[found.column[i]])
        lonlat = grid.lonlat(np.array([row]), np.array([column]))
        assert found.block[i] == assign_blocks(lonlat, 1000.0)[0]


def test_strata_are_block_season_and_texture() -> None:
    ds = embedded()
    found = find_candidates(ds, (), (), 1000.0)
    contrast = ds["contrast"].values[found.time, found.row, found.column]
    for stratum in np.unique(found.stratum):
        here = found.stratum == stratum
        assert len(set(found.block[here])) == 1
        # December and January are one season; April and July are others.
        assert {(0, 3): "winter"}.get(tuple(np.unique(found.time[here])), len(set(found.time[here]))) in ("winter", 1)
    assert any(set(found.time[found.stratum == s]) == {0, 3} for s in np.unique(found.stratum))
    tercile = np.searchsorted(np.quantile(contrast, [1 / 3, 2 / 3]), contrast)
    assert all(len(set(tercile[found.stratum == s])) == 1 for s in np.unique(found.stratum))


def test_quiet_and_excluded_dates() -> None:
    ds = embedded()
    assert set(find_candidates(ds, [("2021-04-10", "2021-07-10")], (), 1000.0).time) == {1, 2}
    assert set(find_candidates(ds, [("2021-04-01", "2021-04-30"), ("2021-12-10", "2021-12-10")], (), 1e3).time) == {
        1,
        3,
    }
    assert set(find_candidates(ds, (), ["2021-01-10"], 1000.0).time) == {1, 2, 3}
    assert set(find_candidates(ds, [("2021-01-01", "2021-05-01")], ["2021-01-10"], 1000.0).time) == {1}


def test_no_quiet_date_is_said() -> None:
    with pytest.raises(ProbeError, match="None of the 4 dates is quiet"):
        find_candidates(embedded(), [("2020-01-01", "2020-12-31")], (), 1000.0)
    with pytest.raises(ConfigError, match="ends before it starts"):
        find_candidates(embedded(), [("2021-12-31", "2021-01-01")], (), 1000.0)


def test_nothing_embedded_is_said() -> None:
    ds = embedded()
    ds["status"][:] = schema.SKIPPED_CLOUD
    with pytest.raises(ProbeError, match="embedded chips"):
        find_candidates(ds, (), (), 1000.0)


@pytest.mark.parametrize("day", ["soon", "2021-13-01", "9999-12-31", "0001-01-01"])
def test_a_date_that_is_none(day: str) -> None:
    with pytest.raises(ConfigError, match=day):
        find_candidates(embedded(), [("2021-01-01", day)], (), 1000.0)


@given(strata=st.lists(st.integers(0, 6), min_size=1, max_size=60), n=st.integers(1, 70))
def test_strata_are_covered_evenly(strata: list[int], n: int) -> None:
    candidates = made_up(strata)
    chosen = draw_sample(candidates, n)
    assert len(chosen) == len(set(chosen)) == min(n, len(strata))
    assert (np.diff(chosen) > 0).all()
    sizes = np.bincount(candidates.stratum, minlength=7)
    drawn = np.bincount(candidates.stratum[chosen], minlength=7)
    left = drawn < sizes
    # No stratum gives more than one above a stratum that still had chips to give.
    if left.any():
        assert drawn.max() <= drawn[left].min() + 1


@given(strata=st.lists(st.integers(0, 4), min_size=1, max_size=40), n=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_draw_depends_on_content_not_order(strata: list[int], n: int, seed: int) -> None:
    candidates = made_up(strata)
    other = shuffled(candidates, seed)
    assert {candidates.key[i] for i in draw_sample(candidates, n)} == {other.key[i] for i in draw_sample(other, n)}


def test_a_larger_draw_holds_the_smaller() -> None:
    found = find_candidates(embedded(), (), (), 1000.0)
    assert set(draw_sample(found, 40)) <= set(draw_sample(found, 200))
    np.testing.assert_array_equal(draw_sample(found, 40), draw_sample(find_candidates(embedded(), (), (), 1000.0), 40))
