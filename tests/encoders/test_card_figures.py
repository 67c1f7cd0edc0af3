"""The cards' figures against the page of facts, digit by digit: the page is read here, not copied."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from geoelle.encoders import get_card

pytestmark = pytest.mark.shared

NUMBER = r"-?\d*\.?\d+"
LANDSAT_UM = {"red": 0.65, "green": 0.56, "blue": 0.48, "nir08": 0.86, "swir16": 1.6, "swir22": 2.2}


@pytest.fixture(scope="module")
def facts(shared_data: Path) -> str:
    path = shared_data.parent / "ENCODERS.md"
    if not path.is_file():
        pytest.skip("no ../shared/ENCODERS.md")
    return path.read_text(encoding="utf-8")


def section(facts: str, title: str) -> str:
    start = facts.index(f"### {title}")
    return facts[start : facts.index("### ", start + 4)]


def numbers(text: str, before: str, count: int) -> tuple[float, ...]:
    """The list of numbers that follows some words."""
    match = re.search(re.escape(before) + rf"\s*((?:{NUMBER}[,\s]*){{{count}}})", text)
    assert match is not None, before
    return tuple(float(value) for value in re.findall(NUMBER, match[1]))


@pytest.mark.parametrize(
    ("name", "line", "scale", "offset"),
    [
        ("clay-v1.5", "sentinel-2-l2a", 1e-4, 0.0),
        ("clay-v1.5:landsat-c2-l2", "landsat-c2l2-sr", 2.75e-5, -0.2),
        ("clay-v1.5:naip", "naip", 1.0, 0.0),
        ("clay-v1.5:sentinel-1-rtc", "sentinel-1-rtc", 1.0, 0.0),
    ],
)
def test_clay(facts: str, name: str, line: str, scale: float, offset: float) -> None:
    text = section(facts, "2.1").replace("\n     ", " ").replace('"', "")
    row = next(row for row in text.splitlines() if row.strip().startswith(f"- {line}"))
    found = re.findall(rf"\b([a-z]+\d*) ({NUMBER})/({NUMBER})(?:[/ ]({NUMBER}))?(?=[,\s(]|$)", row)
    card = get_card(name)
    assert card.bands == tuple(band for band, *_ in found)
    waves = tuple(float(um) if um else LANDSAT_UM[band] for band, _, _, um in found)
    assert card.wavelength_um == pytest.approx(waves, rel=1e-12)
    assert card.mean == pytest.approx([float(mean) * scale + offset for _, mean, _, _ in found], rel=1e-12)
    assert card.std == pytest.approx([float(std) * scale for _, _, std, _ in found], rel=1e-12)
    gsd = re.search(rf"gsd ({NUMBER})", row)
    assert card.gsd_m == (float(gsd[1]) if gsd is not None else None)
    assert card.scale == 1


@pytest.mark.parametrize("version", ["1.0-100m", "2.0-300m", "2.0-300m-tl", "2.0-tiny-tl"])
@pytest.mark.parametrize("sensor", ["hls-s30", "hls-l30", "sentinel-2-l2a", "landsat-c2-l2"])
def test_prithvi(facts: str, version: str, sensor: str) -> None:
    text = section(facts, "2.2")
    card = get_card(f"prithvi-eo-{version}:{sensor}")
    mean = numbers(text, f"V{version[0]} mean", 6)
    std = numbers(text[text.index(f"V{version[0]} mean") :], "std", 6)
    assert (card.mean, card.std, card.scale) == (mean, std, 10_000.0)
    assert card.bands == ("blue", "green", "red", "nir08", "swir16", "swir22")
    assert card.gsd_m == 30


def test_satmae(facts: str) -> None:
    text = section(facts, "2.3")
    mean, std = numbers(text, "Mean (13):", 13), numbers(text, "std:", 13)
    kept = [i for i in range(13) if i not in (0, 9, 10)]
    for name in ("satmae-vitb", "satmae-vitl"):
        card = get_card(name)
        assert card.mean == tuple(mean[i] for i in kept)
        assert card.std == tuple(std[i] for i in kept)
        assert card.scale == 10_000
        assert card.bands == (
            "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22",
        )  # fmt: skip
    rgb = get_card("satmae-rgb-vitl")
    assert rgb.mean == numbers(text, "RGB model: mean", 3)
    assert rgb.std == numbers(text[text.index("RGB model: mean") :], "std", 3)
    assert rgb.scale == 1 / 255


def test_dofa(facts: str) -> None:
    text = section(facts, "2.4")
    optical, radar, aerial = (get_card(f"dofa-base:{s}") for s in ("sentinel-2-l2a", "sentinel-1-rtc", "naip"))
    assert optical.wavelength_um == numbers(text, "; um", 9)
    assert optical.mean == numbers(text, "; mean", 9)
    assert optical.std == numbers(text, "; std", 9)
    assert optical.bands == (
        "red", "green", "blue", "rededge1", "rededge2", "rededge3", "nir", "swir16", "swir22",
    )  # fmt: skip
    assert radar.mean == numbers(text, "S1: mean", 2)
    assert radar.std == numbers(text[text.index("S1: mean") :], "std", 2)
    assert radar.wavelength_um == numbers(text.replace("[", ""), "um **", 2)
    imagenet = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)]) * 255
    assert np.allclose([aerial.mean, aerial.std], imagenet, rtol=1e-12)
    assert aerial.wavelength_um == optical.wavelength_um[:3]
    for name in ("dofa-base-full", "dofa-large"):
        assert get_card(name).mean == optical.mean
        assert get_card(name).std == optical.std


def test_presto(facts: str) -> None:
    row = next(row for row in facts.splitlines() if row.startswith("- **Presto**"))
    assert "scaling (S1+25)/25, S2/1e4, (T-272.15)/35, p/.03, elev/2000, slope/50" in row
    card = get_card("presto")
    assert card.bands == (
        "vv", "vh", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22",
        "temperature_2m", "total_precipitation", "elevation", "slope",
    )  # fmt: skip
    assert card.mean == (-25, -25, *[0] * 10, 272.15, 0, 0, 0)
    assert card.std == (25, 25, *[1e4] * 10, 35, 0.03, 2000, 50)


def test_satclip(facts: str) -> None:
    assert "B1,B2..B8,B8A,B9,B11,B12 /10000" in section(facts, "2.5")
    card = get_card("satclip-vit16-l10")
    assert card.bands == (
        "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16",
        "swir22",
    )  # fmt: skip
    assert (card.scale, set(card.mean), set(card.std), card.units) == (1, {0}, {1}, "reflectance")
