"""The chip grid: every chip once, ids that depend on nothing else, whole tiles."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoelle.errors import GridError
from geoelle.grid import ChipGrid, GridExtent, to_grid_crs, utm_epsg

GRID = ChipGrid(32631, 640, 320)

boxes = st.builds(
    lambda x, y, w, h: shapely.box(x, y, x + w, y + h),
    st.floats(1.0, 5.0), st.floats(-60.0, 60.0), st.floats(0.0005, 0.06), st.floats(0.0005, 0.06),
)  # fmt: skip
grids = st.builds(
    lambda size, parts: ChipGrid(32631, float(size), size / parts), st.sampled_from([320, 640, 960]), st.integers(1, 4)
)


@settings(max_examples=60, deadline=None)
@given(boxes, grids, st.integers(1, 16))
def test_cells_cover_the_aoi_once_in_whole_tiles(aoi: shapely.Polygon, grid: ChipGrid, tile: int) -> None:
    extent = GridExtent.covering(grid, aoi, tile)
    assert extent.shape[0] % tile == 0
    assert extent.shape[1] % tile == 0
    mask = extent.aoi_mask(aoi)
    rows, columns = np.nonzero(mask)
    half = grid.stride_m / 2
    x, y = extent.x[columns], extent.y[rows]
    cells = shapely.union_all(shapely.box(x - half, y - half, x + half, y + half))
    area = to_grid_crs(aoi, grid.epsg)
    assert cells.buffer(1e-3).covers(area)
    assert cells.area == pytest.approx(mask.sum() * grid.stride_m**2, rel=1e-6), "cells overlap"
    ids = grid.chip_ids(extent.rows[rows], extent.columns[columns])
    assert len(set(ids)) == len(ids)
    covered = np.zeros(extent.shape, dtype=int)
    for t in extent.tiles():
        covered[t.y, t.x] += 1
    assert (covered == 1).all()


@settings(max_examples=40, deadline=None)
@given(boxes, boxes)
def test_ids_do_not_depend_on_the_aoi(one: shapely.Polygon, other: shapely.Polygon) -> None:
    """A chip that two areas share has one id and one place."""
    found = []
    for aoi in (one, shapely.union_all([one, other]).envelope if one.distance(other) < 0.2 else one):
        extent = GridExtent.covering(GRID, aoi, 8)
        rows, columns = np.nonzero(extent.aoi_mask(one))
        ids = GRID.chip_ids(extent.rows[rows], extent.columns[columns])
        found.append(dict(zip(ids, zip(extent.x[columns], extent.y[rows], strict=True), strict=True)))
    assert found[0] == found[1]


@given(st.integers(-40000, 40000), st.integers(-40000, 40000))
def test_chip_id_round_trip(row: int, column: int) -> None:
    assert ChipGrid.parse_chip_id(GRID.chip_id(row, column)) == (GRID, row, column)


def test_rows_count_northwards_and_arrays_north_first() -> None:
    extent = GridExtent.covering(GRID, shapely.box(2.8, 42.33, 2.85, 42.36), 4)
    assert (np.diff(extent.y) < 0).all()
    assert (np.diff(extent.rows) == -1).all()
    assert extent.transform.c == extent.x[0] - 160
    assert extent.transform.f == extent.y[0] + 160


def test_tile_pixels_hold_every_chip() -> None:
    extent = GridExtent.covering(GRID, shapely.box(2.8, 42.33, 2.85, 42.36), 4)
    for tile in extent.tiles():
        box = extent.tile_geobox(tile, 10.0).boundingbox
        assert box.left == extent.x[tile.x][0] - 320
        assert box.right == extent.x[tile.x][-1] + 320
        assert box.top == extent.y[tile.y][0] + 320
        assert box.bottom == extent.y[tile.y][-1] - 320


def test_an_aoi_smaller_than_a_chip_gets_a_chip() -> None:
    aoi = shapely.box(2.81, 42.34, 2.8101, 42.3401)
    assert GridExtent.covering(GRID, aoi, 4).aoi_mask(aoi).sum() >= 1


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"), [(2.8, 42.3, 32631), (-118.1, 35.0, 32611), (180, -10, 32760), (-180, 10, 32601)]
)
def test_utm_zone(lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg(lon, lat) == epsg


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ChipGrid(4326, 640, 320), "not a projected CRS"),
        (lambda: ChipGrid(32631, -1, 320), "chip_size_m"),
        (lambda: ChipGrid(32631, 320, 640), "never be seen"),
        (lambda: ChipGrid.parse_chip_id("chip"), "no chip id"),
        (lambda: utm_epsg(200, 0), "no UTM zone"),
        (lambda: GridExtent.covering(GRID, shapely.box(2, 42, 2.1, 42.1), 0), "tile_chips"),
        (lambda: GridExtent.covering(GRID, shapely.box(2, 42, 2.1, 42.1), 4).chip_size_px(7), "whole number"),
    ],
)
def test_nonsense_is_refused(make: object, said: str) -> None:
    with pytest.raises(GridError, match=said):
        make()  # type: ignore[operator]
