"""Blocks hang on the Earth, not on the chips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from geoelle.errors import GridError
from geoelle.holdout import assign_blocks, block_keys, suggest_block_size

POINTS = np.array([[2.9, 42.3], [-70.0, -33.0], [179.9, 64.0], [-179.9, -77.0], [0.0, 0.0]])


def test_blocks_are_squares_of_6933_metres_from_the_origin() -> None:
    x, y = Transformer.from_crs(4326, 6933, always_xy=True).transform(*POINTS.T)
    expected = [f"b25000_r{int(np.floor(b / 25000))}_c{int(np.floor(a / 25000))}" for a, b in zip(x, y, strict=True)]
    assert block_keys(assign_blocks(POINTS, 25000), 25000).tolist() == expected
    assert expected[-1] == "b25000_r0_c0"


def test_neighbouring_blocks_differ_across_the_origin() -> None:
    around = [[1e-3, 1e-3], [-1e-3, 1e-3], [1e-3, -1e-3], [-1e-3, -1e-3]]
    assert block_keys(assign_blocks(around, 1e4), 1e4).tolist() == [
        "b10000_r0_c0", "b10000_r0_c-1", "b10000_r-1_c0", "b10000_r-1_c-1"
    ]  # fmt: skip


lonlats = st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=1, max_size=20)


@given(lonlats, lonlats, st.sampled_from([1.0, 500.0, 1e4, 1e6]))
def test_a_block_does_not_depend_on_other_chips(some: list, others: list, size: float) -> None:
    alone = block_keys(assign_blocks(some, size), size)
    together = block_keys(assign_blocks([*others, *some], size), size)
    np.testing.assert_array_equal(alone, together[len(others) :])
    np.testing.assert_array_equal(assign_blocks(some, size)[::-1], assign_blocks(some[::-1], size))


def test_ids_of_the_whole_earth_are_distinct() -> None:
    lon, lat = np.meshgrid(np.linspace(-180, 180, 181), np.linspace(-90, 90, 91))
    points = np.column_stack((lon.ravel(), lat.ravel()))
    ids = assign_blocks(points, 1.0)
    assert np.unique(ids).size == np.unique(block_keys(ids, 1.0)).size


def test_blocks_have_equal_area() -> None:
    inverse = Transformer.from_crs(6933, 4326, always_xy=True)
    areas = []
    for row in (0, 300, 600):
        ring = np.array([(0, 0), (1e4, 0), (1e4, 1e4), (0, 1e4)]) + np.array([0, row * 1e4])
        areas.append(abs(Geod(ellps="WGS84").polygon_area_perimeter(*inverse.transform(*ring.T))[0]))
    np.testing.assert_allclose(areas, 1e8, rtol=1e-2)


def test_suggested_size_gives_enough_blocks_and_the_next_does_not() -> None:
    points = np.random.default_rng(0).uniform((2, 42), (3, 43), (500, 2))
    size = suggest_block_size(points, 30)
    assert size == 20000
    assert np.unique(assign_blocks(points, size)).size >= 30
    assert np.unique(assign_blocks(points, 50000)).size < 30
    assert suggest_block_size(POINTS[:1], 2) is None


@pytest.mark.parametrize("bad", [[[181.0, 0.0]], [[0.0, 91.0]], [[np.nan, 0.0]], [[0.0, np.inf]]])
def test_positions_off_the_earth_are_refused(bad: list) -> None:
    with pytest.raises(GridError, match="1 of 2 positions are not on Earth"):
        assign_blocks([[0.0, 0.0], *bad], 1e4)


def test_useless_shapes_and_sizes_are_refused() -> None:
    with pytest.raises(GridError, match=r"Expected \(n, 2\)"):
        assign_blocks(POINTS.T, 1e4)
    for size in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(GridError, match="block size"):
            assign_blocks(POINTS, size)
