"""The cold start where nothing was calibrated: the chips a run would take, and figures of probes on them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("torch")

import geoelle
from geoelle.config import CalibrateConfig, EmbedConfig, RunConfig, SearchConfig
from geoelle.encoders.cards import read_card_file
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.compact_model import CompactConfig
from geoelle.errors import ConfigError, ProbeError, SchemaError
from geoelle.records import ChipBatch
from geoelle.simulate import Simulation
from geoelle.store.probes import write_probe
from geoelle.training.batches import Stock
from geoelle.training.blends import blends_table, network_figures, write_blend
from geoelle.training.coldcheck import agreement, cold_start_figures, dates_held_out, quiet_chips
from geoelle.training.coldstart import fit_cold_start, scene_chips
from geoelle.training.cuts import batch_of
from geoelle.training.export import export_compact
from geoelle.training.loop import TrainedModel, TrainingConfig, train
from geoelle.training.stock import HeldOut

pytestmark = pytest.mark.models

TINY = CompactConfig(width=24, depth=1, n_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
BLOCK_M = 1000.0
RGB = ("red", "green", "blue")


@pytest.fixture(scope="module")
def trained(stock: Stock) -> TrainedModel:
    return train(stock, TINY, TrainingConfig(steps=2, batch=4))


def _chips(n_places: int, n_dates: int) -> ChipBatch:
    rng = np.random.default_rng(0)
    n = n_places * n_dates
    pixels = rng.uniform(0, 0.3, (n, 3, 32, 32)) * rng.uniform(0.2, 1, (n, 1, 1, 1))
    batch = batch_of(pixels.astype(np.float32), RGB, 10.0, [f"place {i % n_places}" for i in range(n)])
    days = np.datetime64("2021-06-01", "ns") + np.arange(n) // n_places * np.timedelta64(1, "D")
    return replace(batch, time=days[:, None])


@pytest.fixture
def config(scenes: Simulation) -> RunConfig:
    """Three dates of the simulation, one of them left out."""
    return RunConfig(
        name="quiet",
        search=SearchConfig(
            catalog=scenes.catalog.as_posix(), collections=(scenes.collection,), start="2021-03-01", end="2021-06-30"
        ),
        embed=EmbedConfig(chip_size_m=320, stride_m=160, tile_chips=8),
        calibrate=CalibrateConfig(
            quiet=(("2021-03-01", "2021-05-31"),), exclude_dates=("2021-04-10",), n=20, block_size_m=BLOCK_M
        ),
    )


def test_chips_of_quiet_dates_are_drawn_by_content(scenes: Simulation, config: RunConfig) -> None:
    found = quiet_chips(config, scenes.aoi, scenes.catalog)
    assert found.pixels.shape == (20, 1, 3, 32, 32)
    assert found.bands == RGB
    assert set(found.time[:, 0].astype("datetime64[D]").astype(str)) == {"2021-03-10", "2021-05-10"}
    looks = set(zip(found.chip_id, found.time[:, 0], strict=True))
    assert len(looks) == 20
    fewer = quiet_chips(
        config.model_copy(update={"calibrate": config.calibrate.model_copy(update={"n": 10})}),
        scenes.aoi,
        scenes.catalog,
    )
    assert set(zip(fewer.chip_id, fewer.time[:, 0], strict=True)) < looks


@pytest.mark.long
def test_chips_are_those_that_a_run_calibrates_on(scenes: Simulation, config: RunConfig, tmp_path: Path) -> None:
    found = quiet_chips(config, scenes.aoi, scenes.catalog)
    items = geoelle.search(scenes.aoi, catalog=scenes.catalog, start="2021-03-01", end="2021-06-30")
    store = tmp_path / "embeddings.zarr"
    geoelle.embed(items, aoi=scenes.aoi, out=store, **config.embed.model_dump())
    options = config.calibrate.model_dump() | {"masks": 2}
    pairs = geoelle.calibrate(store, items=items, out=tmp_path / "probe", **options)
    assert set(zip(found.chip_id, found.time[:, 0].astype("datetime64[D]").astype(str), strict=True)) == set(
        zip(pairs["chip_id"], pairs["scene"], strict=True)
    )


def test_figures_of_a_shipped_probe(trained: TrainedModel, held: HeldOut, tmp_path: Path) -> None:
    export_compact(trained, tmp_path, name="compact", pooling="mean", training="A test.", figures={})
    chips = _chips(12, 3)
    with pytest.raises(ProbeError, match="ship_cold_start"):
        cold_start_figures(tmp_path, chips)
    probe = fit_cold_start(CompactEncoder(tmp_path, threads=1), scene_chips(held, RGB, 32, 10), "A test.")
    write_probe(tmp_path / "probe-rgb-32px-10m", *probe.to_arrays())
    content = read_card_file(tmp_path / "card.json")
    content["card"]["shipped_probes"] = ["probe-rgb-32px-10m"]
    (tmp_path / "card.json").write_text(json.dumps(content), encoding="utf-8")
    # A chip without a single valid pixel has no loss.
    chips.valid[0], chips.pixels[0] = False, np.nan
    found = cold_start_figures(tmp_path, chips, 2)
    assert (found["n_chips"], found["n_places"], found["n_dates"], found["n_masks"]) == (35, 12, 3, 2)
    for which in ("shipped", "local"):
        assert found[which].keys() == {"r", "partial_r", "delta_fidelity", "level"}
        assert np.isfinite(found[which]["level"])
    assert found == cold_start_figures(tmp_path, chips, 2)


def test_agreement_by_hand() -> None:
    chips = _chips(6, 2)
    loss = np.arange(12, dtype=float) + 1
    found = agreement(2 * loss, loss, chips, (0.0, 1.0))
    assert (found["r"], found["delta_fidelity"], found["level"]) == (1, 1, 2)
    assert agreement(np.ones(12), loss, chips, (0.0, 1.0))["r"] is None


def test_no_date_predicts_itself() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    days = np.datetime64("2021-06-01") + np.arange(300) % 3
    loss = (5 + x @ [0.5, 1]) ** 2
    np.testing.assert_allclose(dates_held_out(x, loss, days), loss, rtol=0.02)
    shifted = np.where(days == days[0], loss + 100, loss)
    assert np.abs(dates_held_out(x, shifted, days)[::3] - loss[::3]).max() < 2
    with pytest.raises(SchemaError, match=r"1 date\(s\)"):
        dates_held_out(x, loss, np.full(300, days[0]))


def test_a_network_between_two_is_measured(trained: TrainedModel, held: HeldOut) -> None:
    chips = _chips(12, 3)
    chips.valid[0, 0, 0, 0] = False
    figures = network_figures(trained, held, chips)
    rows = [{"share": share} | figures for share in (0.0, 1.0)]
    assert rows[0]["cold_start"]["n_chips"] == 35
    assert rows[0]["rgb"].keys() == {"64", "32"}
    assert rows[0]["sets"].keys() == {"compact-rgbn", "compact-burn", "compact-s2"}
    lines = blends_table(rows).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 0", "| 1"]
    for value in itertools.chain(*(row["rgb"]["32"].values() for row in rows)):
        assert f"{value:.3f}" in lines[2] or value == rows[0]["rgb"]["32"]["mean_loss"]


def test_a_blend_is_exported_with_what_made_it(
    trained: TrainedModel, stock: Stock, held: HeldOut, tmp_path: Path
) -> None:
    for name, steps in (("first", 1), ("last", 3)):
        network = train(stock, TINY, TrainingConfig(steps=steps, batch=4))
        export_compact(network, tmp_path / name, name="compact", pooling="mean", training=f"As {name}.", figures={})
    first, last, out = (tmp_path / name for name in ("first", "last", "out"))
    card = write_blend(first, last, 0.25, stock, held, out)
    begun, ended, found = (load_file(folder / "model.safetensors") for folder in (first, last, out))
    for name, value in found.items():
        np.testing.assert_allclose(value, 0.75 * begun[name] + 0.25 * ended[name], rtol=1e-5, atol=1e-7)
    assert card.training.startswith("Weights are 0.75 x those of ")
    assert card.training.endswith("As last.")
    assert read_card_file(out / "card.json")["figures"]["other"] == {}
    with pytest.raises(ConfigError, match="share is 0"):
        write_blend(first, last, 0, stock, held, out)
