"""docs/compact-card.md says what its script makes of the card, the shipped probes and the measured events."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")

from geoelle.encoders.cards import CARD_FILE, read_card_file
from geoelle.encoders.compact_cards import WEIGHTS_FOLDER
from geoelle.errors import NotFoundError, SchemaError

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """pipelines/compact_card_page.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "pipelines"))
        yield importlib.import_module("compact_card_page")


@pytest.fixture
def content() -> dict[str, Any]:
    return read_card_file(WEIGHTS_FOLDER / CARD_FILE)


@pytest.fixture
def events(script: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(script.EVENTS.read_text(encoding="utf-8"))
    return found


def test_the_page_says_what_the_script_makes(script: ModuleType) -> None:
    page = (ROOT / "docs" / "compact-card.md").read_text(encoding="utf-8")
    assert script.made() == page, "run: python pipelines/compact_card_page.py"


def test_every_place_of_the_page_is_filled(script: ModuleType, content: dict[str, Any], events: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "compact-card.md").read_text(encoding="utf-8")
    parts = script.blocks(content, WEIGHTS_FOLDER, events)
    assert sorted(script.markers(page)) == sorted(parts)
    assert page.count(script.END) == len(parts)


def test_other_figures_make_another_page(script: ModuleType, content: dict[str, Any], events: dict[str, Any]) -> None:
    before = script.blocks(content, WEIGHTS_FOLDER, events)
    other = copy.deepcopy(content)
    score = next(s for s in other["figures"]["reports"][0]["scores"] if s["predictor"] == "probe (mean)")
    score["r"] = 0.123
    other["card"]["mean"][0] = 0.5
    other["card"]["shipped_probes"] = other["card"]["shipped_probes"][1:]
    other["figures"]["int8"][0]["r_int8"] = 0.4567
    other["figures"]["multispectral"][0]["scores"]["brightness"]["r"] = None
    changed = copy.deepcopy(events)
    changed["boadella"]["shipped"]["level"] = 2.0
    changed["fires"]["mean"]["ap"]["dNBR"] = 0.5
    after = script.blocks(other, WEIGHTS_FOLDER, changed)
    assert {name for name in before if before[name] != after[name]} == set(before)
    assert "| 0.123 |" in after["versions"]
    assert "r -0.8" in after["versions"].replace("−", "-")
    assert "|  |  |  |  | no |" in after["probes"]
    assert "| 0.4567 |" in after["int8"]


def test_figures_of_other_weights_are_refused(
    script: ModuleType, content: dict[str, Any], events: dict[str, Any]
) -> None:
    with pytest.raises(SchemaError, match=r"compact_events\.py"):
        script.blocks(content, WEIGHTS_FOLDER, events | {"weights_sha256": "0" * 64})
    figures = content["figures"]
    for key, step in (("other", "--compare-with"), ("int8", r"compact_int8\.py")):
        without = content | {"figures": {name: value for name, value in figures.items() if name != key}}
        with pytest.raises(SchemaError, match=step):
            script.blocks(without, WEIGHTS_FOLDER, events)


def test_a_page_without_a_marker_is_refused(script: ModuleType) -> None:
    text = f"a\n{script.marker('x')}\nold\n{script.END}\nb\n"
    assert script.page(text, {"x": "new"}) == text.replace("old", "new")
    with pytest.raises(NotFoundError, match="'y'"):
        script.page(text, {"y": "new"})
