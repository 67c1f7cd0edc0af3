"""docs/encoders.md says what its script makes of the cards and the measurements, and speaks of every encoder."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from geoelle.describing import trained_at
from geoelle.encoders import check_batch, get_card, list_encoders, variants_of
from geoelle.encoders.precision import RoundingEffect, rounding_effect
from geoelle.errors import EncoderInputError

ROOT = Path(__file__).parents[2]
CARDS = list_encoders()


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """pipelines/encoder_table.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "pipelines"))
        yield importlib.import_module("encoder_table")


@pytest.fixture(scope="module")
def timing(script: ModuleType) -> ModuleType:
    """pipelines/encoder_timing.py as a module."""
    return importlib.import_module("encoder_timing")


@pytest.fixture(scope="module")
def full(script: ModuleType) -> object:
    """Measurements of everything."""
    cpu = script.OnCpu("a quiet core", 2, 8, 12.345, 6.789, 0.97, 1.75, RoundingEffect(0.0021, 0.0042, 0.99987))
    return script.Measured(224, 3, 35.126, cpu, script.OnGpu("Some GPU", 1234.5, 0.4567, 0.991, 64))


def test_the_page_says_what_the_script_makes(script: ModuleType, full: object) -> None:
    page = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    assert script.page(CARDS, script.read_measured()) == page, "run: python pipelines/encoder_table.py"
    assert script.page(CARDS, {card.name: full for card in CARDS}) != page


def test_every_encoder_has_a_row_and_a_section_that_it_links_to(script: ModuleType) -> None:
    page = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    for card in CARDS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| [`{card.name}`](#")]
        assert row.count(" | ") == len(script.COLUMNS) - 1
        assert f"(#{script.anchor(card.name)})" in row
        assert f" {card.loss_kind} |" in row
        assert f"\n## {card.name}\n" in page
        for variant in variants_of(card.name):
            assert f"| `{variant.name}` | {variant.sensor} |" in page
            for sentence in variant.differs:
                assert script.in_cell(sentence) in page


def test_measurements_are_of_encoders_that_there_are(script: ModuleType) -> None:
    assert set(script.read_measured()) <= {card.name for card in CARDS}


def test_a_row_by_hand(script: ModuleType, full: object) -> None:
    card = dataclasses.replace(
        get_card("compact-rgb"), licence="CC BY-NC 4.0", non_commercial=True, n_parameters=111_600_000, n_steps=(1, 4)
    )
    row = script.table_row(card, full)
    assert row.endswith("| CC BY-NC 4.0 (non-commercial) | 112 M | 12 ms | 6.8 ms | 0.97 | 1,200 | 46 % |")
    assert "× 1 or 4 dates" in row
    assert script.table_row(card, None).endswith("| – | – | – | – | – |")


def test_what_is_missing_is_told_with_its_command(script: ModuleType, full: object) -> None:
    card = dataclasses.replace(get_card("compact-rgb"), checkpoint="some-weights")
    told = script.notes([card], {})
    assert f"--measure {card.name}` fills it" in told
    assert f"--measure {card.name} --device cuda` fills it" in told
    assert "fills it" not in script.notes([card], {card.name: full})
    assert "* GPU: Some GPU." in script.notes([card], {card.name: full})


def test_figures_of_a_section(script: ModuleType, full: object) -> None:
    card = dataclasses.replace(get_card("compact-rgb"), checkpoint="some-weights", differs=("Not | as trained.",))
    text = script.section(card, full)
    assert "35.1 GFLOP to embed a chip of 224 px and 3 dates" in text
    assert "1.8 times as fast" in text
    assert "by 0.0021 of their length (median; at most 0.0042), cosine at least 0.99987" in text
    assert "On Some GPU: batches of 64; 0.99 beside a bare loop." in text
    assert "Checkpoint: `some-weights`" in text


def test_pixel_sizes_of_training_are_told_or_said_to_be_unknown(script: ModuleType) -> None:
    page = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    for name, trained in (("satmae-rgb-vitl", "not known"), ("compact-rgb@20m", "10 or 20 m"), ("presto", "10 m")):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert row.split(" | ")[-2] == trained == trained_at(get_card(name))
    assert get_card("satmae-rgb-vitl@2m").differs[0].endswith("pixel sizes of pretraining are not known.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (29.31, "29"), (6170.0, "6,200"), (0.1549, "0.15"), (400.0, "400"), (0.000021, "0.000021")],
)
def test_numbers_have_two_digits(script: ModuleType, value: float | None, text: str) -> None:
    assert script.number(value) == text


def test_measurements_survive_the_file(script: ModuleType, full: object, tmp_path: Path) -> None:
    bare = script.Measured(64, 1, 0.5)
    script.write_measured({"b": full, "a": bare}, tmp_path / "m.json")
    found = script.read_measured(tmp_path / "m.json")
    assert list(found) == ["a", "b"]
    assert found["a"] == bare
    assert found["b"].cpu.bf16 == full.cpu.bf16  # type: ignore[attr-defined]
    assert found["b"].gpu.chips_per_s == pytest.approx(1234.5, rel=1e-3)


@pytest.mark.parametrize("name", [variant.name for card in CARDS for variant in variants_of(card.name)])
def test_noise_to_time_with_fits_the_card(timing: ModuleType, name: str) -> None:
    card = get_card(name)
    batch = timing.random_batch(card, 2)
    check_batch(card, batch)
    assert np.isfinite(batch.pixels).all()


def test_ratio_is_the_median_of_rounds_that_ran_both(timing: ModuleType) -> None:
    assert timing.ratio_of([1.0, 2.0, 4.0], [1.0, 1.9, 12.0]) == 1.0
    calls: list[str] = []
    a, b = timing.seconds_of(lambda: calls.append("a"), lambda: calls.append("b"), rounds=3)
    assert "".join(calls) == "ababab"
    assert len(a) == len(b) == 3


def test_effect_of_rounding_by_hand() -> None:
    exact = np.array([[3, 4], [0, 1], [np.nan, np.nan]], dtype=np.float32)
    other = np.array([[3, 4], [1, 1], [np.nan, np.nan]], dtype=np.float32)
    found = rounding_effect(exact, other)
    assert (found.relative_median, found.relative_max) == (0.5, 1.0)
    assert found.cosine_min == pytest.approx(1 / 2**0.5)
    with pytest.raises(EncoderInputError, match="cannot be compared"):
        rounding_effect(exact, other[:2])
    with pytest.raises(EncoderInputError, match="no embedding"):
        rounding_effect(exact[2:], other[2:])


@pytest.mark.long
def test_the_script_measures(script: ModuleType) -> None:
    found = script.measure("compact-rgb", "cpu", 1, "here", None)
    assert found.cpu.embed_ms > 0
    assert found.cpu.loss_ms > 0
    assert found.cpu.ratio > 0
    # Blocks alone: 6 x (24 n d² + 4 n² d) with 65 tokens of width 192.
    assert 0.9 < found.gflop / (6 * (24 * 65 * 192**2 + 4 * 65**2 * 192) / 1e9) < 1.1
