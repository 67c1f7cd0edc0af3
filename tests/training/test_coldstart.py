"""Shipped probes: one per named set of bands, pixel size and chip size, from chips that training never saw."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from geoelle.encoders.cards import read_card
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.compact_cards import BAND_SETS
from geoelle.encoders.compact_model import CompactConfig
from geoelle.probe import Probe
from geoelle.store.probes import read_probe
from geoelle.training.batches import Stock
from geoelle.training.coldstart import cold_start_chips, ship_cold_start
from geoelle.training.export import export_compact
from geoelle.training.loop import TrainingConfig, train
from geoelle.training.onboard import int8_effect
from geoelle.training.stock import HeldOut

pytestmark = pytest.mark.models

TINY = CompactConfig(width=24, depth=1, n_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)


@pytest.fixture(scope="module")
def folder(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("encoder")
    trained = train(stock, TINY, TrainingConfig(steps=2, batch=4))
    export_compact(trained, found, name="compact", pooling="mean", training="A test.", figures={})
    return found


def test_a_probe_for_every_set_and_size(folder: Path, held: HeldOut) -> None:
    few = replace(held, rgb=held.rgb.select(np.arange(0, len(held.rgb), 2)))
    found = list(ship_cold_start(folder, few, min_r=-1.0))
    probes = {name: probe for name, probe, shipped in found if shipped}
    expected = {
        f"probe-{name.removeprefix('compact-')}-{size}px-{gsd}m"
        for name, gsd, size in itertools.product(BAND_SETS, (10, 20), (64, 32))
    }
    assert set(probes) == set(read_card(folder / "card.json").shipped_probes) == expected
    stored = Probe.from_arrays(*read_probe(folder / "probe-burn-32px-20m"))
    encoder = CompactEncoder(folder, bands=BAND_SETS["compact-burn"], gsd_m=20.0)
    assert encoder.card.shipped_probes == ("probe-burn-64px-20m", "probe-burn-32px-20m")
    stored.check_fits(encoder.card, chip_size_px=32)
    assert stored.meta.unit == "variances of the patch"
    assert stored.meta.holdout == "classes and scenes"
    assert "5 chips of EuroSAT MS" in stored.meta.trained_on
    assert "of 5 scenes" in stored.meta.trained_on


def test_a_probe_without_skill_is_not_shipped(stock: Stock, held: HeldOut, folder: Path, tmp_path: Path) -> None:
    for name in ("card.json", "model.safetensors", "embed.onnx", "loss.onnx", "embed.int8.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    few = replace(held, rgb=held.rgb.select(np.arange(0, len(held.rgb), 2)))
    assert not any(shipped for _, _, shipped in ship_cold_start(tmp_path, few, min_r=1.1))
    assert read_card(tmp_path / "card.json").shipped_probes == ()
    assert not list(tmp_path.glob("probe-*"))


def test_large_chips_come_from_scenes_alone(held: HeldOut) -> None:
    chips, said = cold_start_chips(held, BAND_SETS["compact-rgb"], 64, 20)
    assert set(chips.group) == set(held.scenes.keys)
    assert "EuroSAT" not in said
    chips, said = cold_start_chips(held, BAND_SETS["compact-rgb"], 32, 20)
    assert set(held.rgb.classes) < set(chips.group)
    assert "15 chips of EuroSAT RGB" in said


def test_what_8_bits_cost_is_measured(folder: Path, held: HeldOut) -> None:
    found = int8_effect(folder, held, "compact-burn", 32)
    assert found["n_chips"] == 5 * 16 + 5 * 4
    assert 0.9 < found["min_cosine"] < 1
    assert found["r_float32_probe_on_int8"] == pytest.approx(found["r_float32"], abs=0.2)
    assert found["bytes_int8"] > 0
    assert min(found["cpu_ms_float32"], found["cpu_ms_int8"]) > 0
