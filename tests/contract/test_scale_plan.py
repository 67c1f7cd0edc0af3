"""The paper plan: its page says what its script computes, and its formulas hold on cases worked by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from geoelle.encoders import get_card

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """pipelines/plan_scale.py as a module."""
    spec = importlib.util.spec_from_file_location("plan_scale", ROOT / "pipelines" / "plan_scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan_scale"] = module  # its dataclasses look for their module by name
    spec.loader.exec_module(module)
    yield module
    del sys.modules["plan_scale"]


def test_the_page_says_what_the_script_computes(script: ModuleType) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert script.with_tables(page, script.read_measured()) == page, (
        "run: python pipelines/plan_scale.py --doc docs/scale.md"
    )
    other = dataclasses.replace(script.read_measured(), bytes_written_per_chip=1e6)
    assert script.with_tables(page, other) != page
    for encoder in script.ENCODERS:
        assert f"| {encoder.name} |" in page
    with pytest.raises(ValueError, match="limits"):
        script.with_tables(page.replace("<!-- limits -->", ""), other)


def test_the_assumptions_on_the_page_are_the_scripts(script: ModuleType) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for said in (
        f"| {script.GRANULE_OVERLAP} |", f"| {script.COMPRESSION} |", f"{script.GPU_PEAK_FLOPS / 1e12:g} Tflop/s",
        f"{script.GPU_UTILISATION:.0%}".replace("%", " %"), f"GPU {script.USD_GPU_HOUR:.2f} USD",
        f"core {script.USD_CORE_HOUR} USD", f"storage {script.USD_GB_MONTH} USD",
        f"GETs {script.USD_MILLION_GETS:.2f} USD", f"{script.LAND_KM2 / 1e6:g} million km²", f"{script.CORES:,} cores",
    ):  # fmt: skip
        assert said in page, said


def test_operations_of_a_vit_base(script: ModuleType) -> None:
    """ViT-B/16 at 224 px is known for 17.5 G multiply-adds, its patch embedding included."""
    (base,) = [e for e in script.ENCODERS if e.name == "DOFA base"]
    assert script.vit_flops(base) / 2 == pytest.approx(17.4e9, rel=0.01)


def test_a_plan_by_hand(script: ModuleType) -> None:
    encoder = script.EncoderPlan("by hand", 100, 10, 1, 1, 0, 2, 10, 1, 8)
    measured = script.Measured("", 10, 1, 4, 0.01, 5.0, 40.0, 0.01, 2.0, 0, 1, 0)
    found = script.plan(encoder, measured, land_km2=100)
    assert found.chips == 100
    # 100 x 100 pixels at 10 m, 50 x 50 at 20 m of two bytes, 50 x 50 of one byte; 1.3 times, 1.5 times smaller.
    assert found.read_bytes == pytest.approx(100 * (20_000 + 5_000 + 2_500) * 1.3 / 1.5)
    assert found.written_bytes == 100 * 40 * 2
    # 200 times the pixels and bands of what was measured; the GPU encodes.
    assert found.core_hours == pytest.approx(100 * 0.01 * 200 / 3600)
    assert found.gflops_per_chip == pytest.approx((24 * 2 * 100 + 4 * 4 * 10) / 1e9)
    assert (found.jobs, found.objects) == (1, 2)
    on_cpu = script.plan(dataclasses.replace(encoder, tokens=0), measured, land_km2=100)
    assert on_cpu.gpu_hours == 0
    assert on_cpu.core_hours == pytest.approx(found.core_hours + 100 * 5 / 3600)
    assert on_cpu.usd > on_cpu.core_hours * script.USD_CORE_HOUR


def test_the_compact_encoder_is_the_one_of_the_package(script: ModuleType) -> None:
    card, measured = get_card("compact-rgb"), script.read_measured()
    planned = script.ENCODERS[0]
    assert planned.name == card.name
    assert planned.chip_px == measured.chip_px
    assert planned.chip_px in card.chip_sizes_px
    assert (planned.features, planned.bands_10m, planned.gsd_m) == (card.n_features, len(card.bands), card.gsd_m)
    assert measured.jobs_per_chip == 1 / script.TILE_CHIPS**2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "–"), (1.0, "1.0"), (42.4, "42"), (0.0421, "0.042"), (999, "1000"), (1250, "1.2 k"), (3.3e8, "330 M")],
)
def test_figures_have_two_digits(script: ModuleType, value: float, text: str) -> None:
    assert script.figure(value) == text
