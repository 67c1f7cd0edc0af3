"""Areas across zones: every chip once, in the zone of its centre, whatever the area and wherever it lies."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from geoelle.antimeridian import split_at_antimeridian
from geoelle.errors import GridError
from geoelle.grid import ChipGrid, GridExtent, Tile, ZoneChips, to_grid_crs, utm_epsg, zone_chips

SIZE, STRIDE, TILE = 640.0, 320.0, 4


def around(lon: float, lat: float, width: float, height: float) -> BaseGeometry:
    """A box in degrees about a place, cut at 180."""
    return split_at_antimeridian(shapely.box(lon - width / 2, lat - height / 2, lon + width / 2, lat + height / 2))


# Within a zone, on the border of two, on the equator, where four zones meet, and at the antimeridian.
places = st.tuples(
    st.sampled_from([-180.0, -177.0, -6.0, 0.0, 6.0, 2.9, 177.3, 180.0]),
    st.sampled_from([-71.3, -33.0, 0.0, 1.0, 42.0, 68.0]),
)
offsets = st.tuples(st.floats(-0.03, 0.03), st.floats(-0.03, 0.03))
sizes = st.tuples(st.floats(1e-6, 0.05), st.floats(1e-6, 0.05))


def box_at(place: tuple[float, float], offset: tuple[float, float], size: tuple[float, float]) -> BaseGeometry:
    return around(place[0] + offset[0], place[1] + offset[1], *size)


areas = st.one_of(
    st.builds(box_at, places, offsets, sizes),
    st.builds(
        lambda place, parts: shapely.union_all([box_at(place, *part) for part in parts]),
        places, st.lists(st.tuples(offsets, sizes), min_size=2, max_size=3),
    ),
)  # fmt: skip


def ids_of(zones: Sequence[ZoneChips]) -> list[str]:
    found: list[str] = []
    for zone in zones:
        rows, columns = np.nonzero(zone.wanted)
        found += list(zone.extent.grid.chip_ids(zone.extent.rows[rows], zone.extent.columns[columns]))
    return found


def lattice(area: BaseGeometry, size: float, stride: float) -> dict[str, tuple[BaseGeometry, BaseGeometry]]:
    """Every chip near an area, of every zone, by brute force: its cell and its footprint, in degrees about the area."""
    found = {}
    for part in shapely.get_parts(area):
        west, south, east, north = part.bounds
        lons, lats = np.meshgrid(np.linspace(west - 0.01, east + 0.01, 40), np.linspace(south - 0.01, north + 0.01, 40))
        epsgs = {utm_epsg((x + 180) % 360 - 180, y) for x, y in zip(lons.ravel(), lats.ravel(), strict=True)}
        for epsg in epsgs:
            grid = ChipGrid(epsg, size, stride)
            x0, y0, x1, y1 = to_grid_crs(part, epsg).bounds
            rows = np.arange(int((y0 - size) // stride) - 2, int(y1 // stride) + 3)
            columns = np.arange(int((x0 - size) // stride) - 2, int(x1 // stride) + 3)
            c, r = (a.ravel() for a in np.meshgrid(columns, rows))
            x, y = grid.centre(r, c)
            lon, _ = Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
            lon = (np.asarray(lon) + 180) % 360 - 180
            mine = ((lon + 180) // 6 + 1 == epsg % 100) & ((y >= 0) if epsg < 32700 else (y < 1e7))
            for i in np.flatnonzero(mine):
                found[grid.chip_id(int(r[i]), int(c[i]))] = (epsg, x[i], y[i])
    return found


def square(epsg: int, x: float, y: float, edge: float) -> BaseGeometry:
    return shapely.box(x - edge / 2, y - edge / 2, x + edge / 2, y + edge / 2)


def beside(area: BaseGeometry, epsg: int) -> BaseGeometry:
    """An area in a zone's metres, its parts from both sides of 180 put together."""
    middle = 6 * (epsg % 100) - 183
    parts = [
        shapely.transform(p, lambda xy, p=p: xy + np.array([360.0 * round((middle - p.centroid.x) / 360), 0.0]))
        for p in shapely.get_parts(area)
    ]
    near = [p for p in parts if abs(p.centroid.x - middle) < 10]
    return shapely.union_all([to_grid_crs(p, epsg) for p in near])


@settings(max_examples=40, deadline=None)
@given(area=areas, size=st.sampled_from([640.0, 320.0, 960.0]))
def test_each_chip_of_an_area_once_and_none_missing(area: BaseGeometry, size: float) -> None:
    zones = zone_chips(area, size, STRIDE, TILE)
    ids = ids_of(zones)
    assert len(ids) == len(set(ids)) >= 1
    every = lattice(area, size, STRIDE)
    assert set(ids) <= set(every), "a chip outside its zone"
    near = {epsg: beside(area, epsg) for epsg in {epsg for epsg, _, _ in every.values()}}
    for chip, (epsg, x, y) in every.items():
        cell = square(epsg, x, y, STRIDE)
        if shapely.area(shapely.intersection(near[epsg], cell)) > 1e-3:
            assert chip in ids, "a chip whose cell holds some of the area is missing"
        elif chip in ids:  # otherwise it stands in for a cell next to it, whose own chip is of another zone
            assert shapely.distance(near[epsg], cell) <= STRIDE * 1.5


@settings(max_examples=40, deadline=None)
@given(area=areas, stride=st.sampled_from([320.0, 160.0, 640.0]))
def test_footprints_cover_the_area(area: BaseGeometry, stride: float) -> None:
    """Wholly with strides up to half a chip; else all but strips along zone borders, narrower than documented."""
    zones = zone_chips(area, SIZE, stride, TILE)
    for part in shapely.get_parts(area):
        epsg = utm_epsg(part.centroid.x, part.centroid.y)
        ground = to_grid_crs(part, epsg)
        chips = []
        for zone in zones:
            rows, columns = np.nonzero(zone.wanted)
            grid = zone.extent.grid
            x, y = grid.centre(zone.extent.rows[rows], zone.extent.columns[columns])
            squares = shapely.segmentize(shapely.box(x - 320, y - 320, x + 320, y + 320), 80)
            if grid.epsg != epsg:
                move = Transformer.from_crs(grid.epsg, epsg, always_xy=True).transform
                squares = shapely.transform(squares, lambda xy, move=move: np.stack(move(xy[:, 0], xy[:, 1]), axis=-1))
            chips += list(squares[np.isfinite(shapely.bounds(squares)).all(axis=1)])
        left = ground.difference(shapely.union_all(chips).buffer(0.01))
        gap = max(stride - SIZE / 2, 0.0)
        assert left.buffer(-gap * 1.05 / 2 - 0.01).is_empty


@settings(max_examples=40, deadline=None)
@given(place=places, parts=st.lists(st.tuples(offsets, sizes), min_size=2, max_size=2))
def test_ids_are_stable_under_any_other_area(
    place: tuple[float, float], parts: list[tuple[tuple[float, float], tuple[float, float]]]
) -> None:
    """More area, in any order and over more zones, adds chips and changes none."""
    one, other = (box_at(place, *part) for part in parts)
    alone = {}
    for area in (one, shapely.union_all([one, other]), shapely.union_all([other, one])):
        placed = {}
        for zone in zone_chips(area, SIZE, STRIDE, TILE):
            rows, columns = np.nonzero(zone.wanted)
            names = zone.extent.grid.chip_ids(zone.extent.rows[rows], zone.extent.columns[columns])
            where = zip(zone.extent.x[columns], zone.extent.y[rows], strict=True)
            placed |= dict(zip(names, where, strict=True))
        alone = alone or placed
        assert {chip: placed.get(chip) for chip in alone} == alone


@settings(max_examples=30, deadline=None)
@given(area=areas, tile=st.integers(1, 9))
def test_tiles_do_not_matter_and_wanted_tiles_are_those_with_chips(area: BaseGeometry, tile: int) -> None:
    zones = zone_chips(area, SIZE, STRIDE, tile)
    assert sorted(ids_of(zones)) == sorted(ids_of(zone_chips(area, SIZE, STRIDE, TILE)))
    for zone in zones:
        assert zone.wanted.any()
        assert zone.wanted.shape == zone.extent.shape
        by_hand = [t for t in zone.extent.tiles() if zone.wanted[t.y, t.x].any()]
        assert list(zone.wanted_tiles()) == by_hand


@settings(max_examples=40, deadline=None)
@given(area=st.builds(box_at, places, offsets, sizes))
def test_centres_are_in_their_zone(area: BaseGeometry) -> None:
    for zone in zone_chips(area, SIZE, STRIDE, TILE):
        rows, columns = np.nonzero(zone.wanted)
        lonlat = zone.extent.grid.lonlat(zone.extent.rows[rows], zone.extent.columns[columns])
        assert ((lonlat[:, 0] >= -180) & (lonlat[:, 0] < 180)).all()
        assert all(utm_epsg(lon, lat + 1e-12) % 100 == zone.extent.grid.epsg % 100 for lon, lat in lonlat)


def test_one_zone_is_as_it_always_was() -> None:
    """An area within a zone: the smallest block of whole tiles, and the cells that touch it."""
    area = shapely.box(2.79, 42.33, 2.84, 42.36)
    (zone,) = zone_chips(area, 640, 320, 16)
    extent = GridExtent.covering(ChipGrid(32631, 640, 320), area, 16)
    assert zone.extent == extent
    assert zone.name == "32631"
    np.testing.assert_array_equal(zone.wanted, extent.aoi_mask(area))


def test_zones_are_named_from_west_to_east() -> None:
    names = [z.name for z in zone_chips(shapely.box(-13, -1, 7, 1), 6400, 6400, 4)]
    assert names == [f"32{side}{z}" for z in (28, 29, 30, 31, 32) for side in (6, 7)]
    across = split_at_antimeridian(shapely.box(179.9, 51, 180.1, 51.1))
    assert [z.name for z in zone_chips(across, 640, 320, 4)] == ["32601", "32660"]


def test_the_equator_is_northern() -> None:
    """A chip whose centre lies on the equator is the northern zone's, and only its."""
    north, south = zone_chips(shapely.box(2.9, -0.01, 2.92, 0.01), 640, 320, 4)
    assert (north.name, south.name) == ("32631", "32731")
    rows, _ = np.nonzero(north.wanted)
    assert north.extent.y[rows].min() == 0
    rows, _ = np.nonzero(south.wanted)
    assert south.extent.y[rows].max() == 10_000_000 - 320


def test_a_point_in_a_gap_between_zones_still_gets_a_chip() -> None:
    """Cells of both zones have their centres on the other side: the next chips are taken."""
    rng = np.random.default_rng(0)
    stood_in = 0
    for lat in rng.uniform(-80, 80, 40):
        area = around(6.0 + rng.uniform(-0.004, 0.004), float(lat), 1e-6, 1e-6)
        zones = zone_chips(area, 640, 640, 4)
        ids = ids_of(zones)
        assert ids
        stood_in += len(ids) > 1
    assert stood_in > 0


@pytest.mark.parametrize(
    "area", [shapely.box(10, 83, 11, 85), shapely.box(10, -85, 11, -83), shapely.box(170, 0, 190, 1)]
)
def test_beyond_utm_is_refused(area: BaseGeometry) -> None:
    with pytest.raises(GridError, match="beyond UTM"):
        zone_chips(area, 640, 320, 16)


def test_nonsense_is_refused() -> None:
    area = shapely.box(2.79, 42.33, 2.84, 42.36)
    with pytest.raises(GridError, match="tile_chips is 0"):
        zone_chips(area, 640, 320, 0)
    with pytest.raises(GridError, match="stride_m is -5"):
        zone_chips(area, 640, -5, 16)


shapes = st.builds(
    lambda x, y, r, k, dx: shapely.Point(x, y).buffer(r, k).difference(shapely.Point(x + dx, y).buffer(r / 2)),
    st.floats(1.0, 5.0), st.floats(-60.0, 60.0), st.floats(0.001, 0.25), st.integers(1, 6), st.floats(-0.2, 0.2),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([80.0, 640.0, 2560.0]))
def test_the_quick_mask_is_the_plain_one(area: BaseGeometry, stride: float) -> None:
    extent = GridExtent.covering(ChipGrid(32631, 2560, stride), area, 4)
    projected = to_grid_crs(area, 32631)
    half = stride / 2
    x, y = np.meshgrid(extent.x, extent.y)
    if x.size > 200_000:
        return
    cells = shapely.box(x - half, y - half, x + half, y + half)
    shapely.prepare(projected)
    plain = shapely.intersects(projected, cells) & ~shapely.touches(projected, cells)
    np.testing.assert_array_equal(extent.aoi_mask(area), plain)


def test_cells_that_only_touch_are_left_out() -> None:
    """An area of exactly four cells in the grid's own metres: its neighbours share an edge and nothing else."""
    from geoelle.grid.cells import cells_touching

    x, y = np.arange(8) * 320.0, np.arange(6)[::-1] * 320.0
    area = shapely.box(x[2] - 160, y[3] - 160, x[3] + 160, y[2] + 160)
    mask = cells_touching(area, x, y, 320.0)
    assert np.argwhere(mask).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_a_country_is_quick() -> None:
    """Ten million cells and an outline of fifty thousand corners."""
    angle = np.linspace(0, 2 * np.pi, 50_001)[:-1]
    radius = 2.4 + 0.2 * np.sin(37 * angle) + 0.01 * np.sin(4001 * angle)
    area = shapely.Polygon(np.stack([3.0 + radius * np.cos(angle) * 1.2, 40 + 5 * radius * np.sin(angle)], axis=1))
    started = time.perf_counter()
    zones = zone_chips(area, 640, 320, 16)
    assert sum(z.wanted.size for z in zones) > 10_000_000
    assert time.perf_counter() - started < 60
    inside = sum(int(z.wanted.sum()) for z in zones) * 320**2 / 1e6
    expected = sum(to_grid_crs(area.intersection(shapely.box(6 * k, -80, 6 * k + 6, 80)), 32631 + k).area
                   for k in (-1, 0, 1)) / 1e6  # fmt: skip
    assert inside == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("lon", "lat", "epsg"), [(2.9, 42.0, 32631), (179.99, 51.0, 32660), (-179.99, -71, 32701)])
def test_footprint_of_a_tile(lon: float, lat: float, epsg: int) -> None:
    """All that its chips see; what a job asks its items for."""
    (zone,) = [z for z in zone_chips(around(lon, lat, 0.2, 0.05), SIZE, STRIDE, TILE) if z.name == str(epsg)]
    crossed = 0
    for tile in zone.extent.tiles():
        footprint = zone.extent.tile_footprint(tile)
        assert footprint.is_valid
        assert footprint.bounds[0] >= -180
        assert footprint.bounds[2] <= 180
        crossed += footprint.geom_type == "MultiPolygon"
        box = zone.extent.tile_geobox(tile, 10.0).boundingbox
        ground = beside(footprint, epsg)
        assert ground.symmetric_difference(shapely.box(*box.bbox)).area < 1e-4 * ground.area
        wider = beside(zone.extent.tile_footprint(tile, 10.0), epsg)
        assert wider.bounds == pytest.approx((box.left - 10, box.bottom - 10, box.right + 10, box.top + 10), abs=0.5)
    assert (crossed > 0) == (abs(lon) > 179)


def test_a_tile_by_hand() -> None:
    extent = GridExtent(ChipGrid(32631, SIZE, STRIDE), TILE, range(3_600, 3_602), range(390, 393))
    wanted = np.zeros(extent.shape, dtype=bool)
    wanted[5, 9] = True
    assert list(ZoneChips(extent, wanted).wanted_tiles()) == [Tile(3_600, 392, slice(4, 8), slice(8, 12))]
