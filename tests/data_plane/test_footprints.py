"""Footprints: valid, within the world, and the same ground however a provider writes what crosses the antimeridian."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from stac_servers import stac_item

from geoelle.catalog.footprints import footprint, footprint_of, middle_longitude
from geoelle.catalog.parsing import parse_item
from geoelle.catalog.scenes import group_scenes, solar_day
from geoelle.errors import CatalogError
from geoelle.sensors import get_sensor

S2 = get_sensor("sentinel-2-l2a")
FIJI = shapely.union(shapely.box(179, -17, 180, -16), shapely.box(-180, -17, -179, -16))


def ring(*lons: float, south: float = -17, north: float = -16) -> dict[str, Any]:
    west, east = lons
    return {
        "type": "Polygon",
        "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
    }


def item(geometry: Any, bbox: list[float], when: str = "2022-06-03T22:30:00Z", item_id: str = "x") -> dict[str, Any]:
    return stac_item(item_id, when) | {"geometry": copy.deepcopy(geometry), "bbox": bbox}


SPELLINGS = {
    "cut at 180": item(shapely.geometry.mapping(FIJI), [179, -17, -179, -16]),
    "cut, with a bbox round the world": item(shapely.geometry.mapping(FIJI), [-180, -17, 180, -16]),
    "beyond 180": item(ring(179, 181), [179, -17, 181, -16]),
    "beyond -180": item(ring(-181, -179), [-181, -17, -179, -16]),
    "the wrong way round": item(ring(179, -179), [179, -17, -179, -16]),
    "the wrong way round, and so the bbox": item(ring(179, -179), [-179, -17, 179, -16]),
    "the wrong way round, bbox round the world": item(ring(-179, 179), [-180, -17, 180, -16]),
    "a bbox alone": item(None, [179, -17, -179, -16]),
    "a bbox alone with heights": item(None, [179, -17, 0, -179, -16, 9]),
    "a bbox alone beyond 180": item(None, [179, -17, 181, -16]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_antimeridian_is_the_same_ground(spelling: str) -> None:
    ground = footprint(SPELLINGS[spelling])
    assert ground.is_valid
    assert shapely.symmetric_difference(ground, FIJI).area == pytest.approx(0, abs=1e-9)
    assert not ground.intersects(shapely.box(-1, -17, 1, -16)), "not at Greenwich"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_solar_day_of_every_spelling(spelling: str) -> None:
    record = parse_item(SPELLINGS[spelling], S2)
    assert record is not None
    assert abs(abs(middle_longitude(record)) - 180) < 1e-6
    assert solar_day(record) == np.datetime64("2022-06-03", "ns")
    assert shapely.symmetric_difference(footprint_of(record), FIJI).area == pytest.approx(0, abs=1e-9)


def test_granules_on_both_sides_of_180_are_one_scene_at_local_noon() -> None:
    # 22:30 UTC is half past ten of the next day just west of 180, and of the same day just east of it.
    records = [
        parse_item(item(ring(177, 178), [177, -17, 178, -16], "2022-06-03T22:30:00.5Z", "a"), S2),
        parse_item(item(ring(178, 179.5), [178, -17, 179.5, -16], "2022-06-03T22:30:20.5Z", "b"), S2),
        parse_item(item(ring(-179, -178), [-179, -17, -178, -16], "2022-06-03T22:30:20.5Z", "c"), S2),
    ]
    scenes = group_scenes([r for r in records if r is not None])
    assert [(str(s.day)[:10], s.item_ids) for s in scenes] == [("2022-06-03", ("c",)), ("2022-06-04", ("a", "b"))]


def test_strips_of_one_pass_around_midnight_utc_are_one_scene() -> None:
    records = [
        parse_item(item(ring(160, 161), [160, -17, 161, -16], when, when), S2)
        for when in ("2022-06-03T23:59:50.1Z", "2022-06-04T00:00:10.1Z", "2022-06-04T00:00:25.1Z")
    ]
    (scene,) = group_scenes([r for r in records if r is not None])
    assert str(scene.day)[:10] == "2022-06-04"
    assert len(scene.items) == 3


def test_a_ring_round_the_pole_holds_the_pole() -> None:
    ground = footprint(
        item(
            {"type": "Polygon", "coordinates": [[[0, 80], [90, 80], [180, 80], [-90, 80], [0, 80]]]},
            [-180, 80, 180, 90],
        )
    )
    assert ground.is_valid
    assert ground.covers(shapely.Point(45, 89))
    assert ground.covers(shapely.Point(-135, 85))
    assert not ground.intersects(shapely.box(-180, 0, 180, 79))


@pytest.mark.parametrize(
    "coordinates",
    [
        [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]],
        [[-180, -90], [0, -90], [180, -90], [180, 90], [0, 90], [-180, 90], [-180, -90]],
        [[-180, -60], [180, -60], [180, 60], [-180, 60], [-180, -60]],
        [[-179.75, -89.75], [179.75, -89.75], [179.75, 89.75], [-179.75, 89.75], [-179.75, -89.75]],
    ],
)
def test_a_global_product_stays_global(coordinates: list[list[float]]) -> None:
    ground = footprint(item({"type": "Polygon", "coordinates": [coordinates]}, [-180, -90, 180, 90]))
    assert ground.covers(shapely.box(-170, -50, 170, 50))


def test_a_hole_crosses_with_its_shell() -> None:
    shell = [[178, 0], [-178, 0], [-178, 4], [178, 4], [178, 0]]
    hole = [[-179.5, 1], [-179, 1], [-179, 2], [-179.5, 2], [-179.5, 1]]
    ground = footprint(item({"type": "Polygon", "coordinates": [shell, hole]}, [178, 0, -178, 4]))
    assert ground.area == pytest.approx(4 * 4 - 0.5)
    assert not ground.intersects(shapely.Point(-179.25, 1.5))


def test_a_bow_tie_is_mended() -> None:
    ground = footprint(
        item({"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}, [0, 0, 2, 2])
    )
    assert ground.is_valid
    assert ground.area == pytest.approx(2)


@pytest.mark.parametrize(
    "geometry",
    [
        "x", 5, {"type": "Polygon"}, {"type": "Polygon", "coordinates": [["x"]]},
        {"type": "Polygon", "coordinates": []},
        {"type": "Nonsense", "coordinates": [0, 0]}, ring(float("nan"), 5), ring(float("inf"), 5),
        {"type": "Polygon", "coordinates": [[[5e5, 57e5], [6e5, 57e5], [6e5, 58e5], [5e5, 57e5]]]},
        {"type": "Polygon", "coordinates": [[[10**400, 0], [1, 1], [2, 0], [10**400, 0]]]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_ground_on_earth_is_one_sentence(geometry: Any) -> None:
    with pytest.raises(CatalogError, match="Item x has a geometry that cannot be read") as refusal:
        footprint(item(geometry, [0, 0, 1, 1]))
    assert "\n" not in str(refusal.value)


@settings(deadline=None)
@given(
    west=st.floats(-180, 179.9), width=st.floats(0.01, 20), south=st.floats(-80, 70), height=st.floats(0.01, 9),
    spelling=st.sampled_from(["plain", "wrapped", "bbox"]),
)  # fmt: skip
def test_any_box_keeps_its_area_wherever_it_lies(
    west: float, width: float, south: float, height: float, spelling: str
) -> None:
    east, north = west + width, south + height
    wrapped = east - 360 if east > 180 else east
    geometry = {"plain": ring(west, east, south=south, north=north),
                "wrapped": ring(west, wrapped, south=south, north=north), "bbox": None}[spelling]  # fmt: skip
    ground = footprint(item(geometry, [west, south, wrapped, north]))
    assert ground.is_valid
    low_x, low_y, high_x, high_y = ground.bounds
    assert -180 <= low_x <= high_x <= 180
    assert -90 <= low_y <= high_y <= 90
    assert ground.area == pytest.approx(width * height, rel=1e-6, abs=1e-9)
