"""Reprocessed products replace older ones of the same overpass and tile; split granules lose no ground."""

from __future__ import annotations

from typing import Any

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from stac_servers import stac_item

from geoelle.catalog.dedupe import better, latest
from geoelle.catalog.footprints import footprint_of
from geoelle.catalog.parsing import parse_item
from geoelle.records import ItemRecord
from geoelle.sensors import get_sensor

S2 = get_sensor("sentinel-2-l2a")
TILE = (4.0, 51.0, 5.0, 52.0)
WEST, EAST = (4.0, 51.0, 4.6, 52.0), (4.5, 51.0, 5.0, 52.0)
DATATAKE = "GS2A_20220604T103621_036289_N04.00"


def product(
    item_id: str,
    baseline: str | None = "04.00",
    made: str | None = None,
    box: tuple[float, float, float, float] = TILE,
    **changes: Any,
) -> ItemRecord:
    properties = {
        "s2:processing_baseline": baseline, "s2:generation_time": made, "s2:mgrs_tile": "31UFS",
        "s2:datatake_id": DATATAKE, "platform": "Sentinel-2A",
    } | changes  # fmt: skip
    when = properties.pop("when", "2022-06-04T10:36:21Z")
    collection = properties.pop("collection", "s2")
    said = {k: v for k, v in properties.items() if v is not None}
    found = parse_item(stac_item(item_id, when, box, collection=collection, **said), S2)
    assert found is not None
    return found


def kept(*items: ItemRecord) -> list[str]:
    """Ids kept; the same in any order."""
    answers = {tuple(i.id for i in latest(order)[0]) for order in (items, items[::-1])}
    assert len(answers) == 1
    stays, goes = latest(items)
    assert len(stays) + len(goes) == len(items)
    return sorted(answers.pop())


def test_the_newest_baseline_is_kept() -> None:
    # The datatake's id ends in the baseline, and baselines are numbers: 05.10 is newer than 05.09 and 4.00.
    old = product("a", "04.00")
    new = product("b", "05.09", **{"s2:datatake_id": DATATAKE[:-5] + "05.09"})
    newest = product("c", "05.10", **{"s2:datatake_id": DATATAKE[:-5] + "05.10"})
    assert kept(newest, old, new) == ["c"]
    assert [i.id for i in latest([old, new, newest])[1]] == ["a", "b"]


def test_then_the_newest_product_then_the_last_id() -> None:
    first, second = product("z", made="2022-06-04T20:00:00Z"), product("a", made="2022-06-05T20:00:00Z")
    assert kept(first, second) == ["a"]
    assert kept(product("S2A_31UFS_0"), product("S2A_31UFS_1")) == ["S2A_31UFS_1"]


def test_a_product_that_says_no_baseline_is_the_oldest() -> None:
    assert kept(product("z", None), product("a", "02.14")) == ["a"]


@pytest.mark.parametrize(
    "change",
    [
        {"s2:mgrs_tile": "31UET"}, {"platform": "Sentinel-2B"},
        {"s2:datatake_id": "GS2A_20220607T104631_036332_N04.00"}, {"s2:mgrs_tile": None},
    ],
)  # fmt: skip
def test_another_tile_platform_or_overpass_is_no_duplicate(change: dict[str, Any]) -> None:
    assert kept(product("a"), product("b", "05.10", **change)) == ["a", "b"]


def test_two_collections_of_one_mission_give_one_item() -> None:
    assert kept(product("a"), product("b", "05.00", collection="sentinel-2-c1-l2a")) == ["b"]


def test_without_a_datatake_the_second_counts() -> None:
    bare = {"s2:datatake_id": None}
    assert kept(product("a", **bare), product("b", "05.00", when="2022-06-04T10:36:21.400Z", **bare)) == ["b"]
    assert kept(product("a", **bare), product("b", when="2022-06-04T10:36:22Z", **bare)) == ["a", "b"]


def test_without_a_tile_nothing_is_taken_for_a_duplicate() -> None:
    bare = {"s2:mgrs_tile": None}
    assert kept(product("a", **bare), product("b", "05.10", **bare)) == ["a", "b"]


S1_SLICE = "S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (f"{S1_SLICE}_1A2B_rtc", f"{S1_SLICE}_9C0D_rtc"),
        ("LC08_L2SP_047027_20201204_20201210_02_RT", "LC08_L2SP_047027_20201204_20210313_02_T1"),
    ],
)
def test_reprocessed_products_without_a_tile_are_known_by_their_names(older: str, newer: str) -> None:
    bare = {"s2:mgrs_tile": None, "s2:datatake_id": None, "s2:processing_baseline": None}
    old, new = (
        product(older, None, "2021-08-10T00:00:00Z", **bare),
        product(newer, None, "2021-09-01T00:00:00Z", **bare),
    )
    other = product(newer.replace("T174018", "T174043").replace("047027", "047028"), **bare)
    assert kept(old, new, other) == sorted([new.id, other.id])


def test_the_halves_of_a_split_granule_stay() -> None:
    west, east = product("west", box=WEST), product("east", box=EAST, when="2022-06-04T10:36:40Z")
    assert kept(west, east) == ["east", "west"]


def test_a_reprocessed_split_granule_replaces_each_half() -> None:
    halves = [product("west", box=WEST), product("east", box=EAST)]
    again = [product("west2", "05.10", box=WEST), product("east2", "05.10", box=EAST)]
    assert kept(*halves, *again) == ["east2", "west2"]
    assert kept(*halves, product("whole", "05.10")) == ["whole"]


def test_a_reprocessed_half_leaves_the_other_half() -> None:
    assert kept(product("whole"), product("west", "05.10", box=WEST)) == ["west", "whole"]


def test_of_one_id_the_better_is_kept_whichever_comes_first() -> None:
    a, b = product("x", **{"eo:cloud_cover": 1.0}), product("x", **{"eo:cloud_cover": 2.0})
    assert better(a, b) is better(b, a)
    new = product("x", "05.10")
    assert better(a, new) is new
    assert better(new, a) is new


products = st.builds(
    product,
    st.text("abcdef", min_size=1, max_size=3),
    st.sampled_from([None, "02.14", "04.00", "05.09", "05.10", "nonsense"]),
    st.sampled_from([None, "2022-06-04T20:00:00Z", "2023-01-01T00:00:00Z"]),
    st.sampled_from([TILE, WEST, EAST, (4.01, 51.0, 5.0, 52.0), (4.5, 51.5, 5.5, 52.5)]),
    **{
        "s2:mgrs_tile": st.sampled_from([None, "31UFS", "31UET"]),
        "s2:datatake_id": st.sampled_from([None, DATATAKE, DATATAKE[:-5] + "05.10"]),
        "platform": st.sampled_from([None, "sentinel-2a", "Sentinel-2A"]),
    },  # type: ignore[arg-type]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(products, max_size=8, unique_by=lambda i: i.id), st.randoms())
def test_any_items_in_any_order(items: list[ItemRecord], random: Any) -> None:
    stays, goes = latest(items)
    shuffled = list(items)
    random.shuffle(shuffled)
    again, gone = latest(shuffled)
    assert ([i.id for i in again], [i.id for i in gone]) == ([i.id for i in stays], [i.id for i in goes])
    assert sorted(i.id for i in stays + goes) == sorted(i.id for i in items)
    assert latest(stays)[0] == stays, "what is kept stays kept"
    # No ground is lost but for slivers: each dropped item's ground is shown by what is kept.
    shown = shapely.union_all([footprint_of(i) for i in stays]) if stays else shapely.Polygon()
    for item in goes:
        ground = footprint_of(item)
        assert ground.difference(shown).area <= 0.05 * ground.area + 1e-9
