"""Evaluation: reliability, folds, partial r on made-up numbers; the whole pretraining on a tiny run."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from geoelle.encoders.cards import read_card
from geoelle.encoders.compact_cards import BAND_SETS
from geoelle.encoders.compact_model import CompactConfig
from geoelle.errors import ConfigError, SchemaError, WeightsError
from geoelle.probe.measures import partial_r, reliability
from geoelle.training import (
    PretrainOptions,
    StockPaths,
    evaluate,
    load_exported,
    multispectral_table,
    pretrain,
    table,
)
from geoelle.training.evaluation import (
    TARGETS,
    class_folds,
    figure,
    out_of_fold,
    random_folds,
)
from geoelle.training.rivals import RIVALS, curved, rival_features
from geoelle.training.stock import HeldOut

pytestmark = pytest.mark.models

TINY = CompactConfig(width=24, depth=1, n_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)


def test_reliability_is_spearman_browns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20_000, 1))
    loss = truth + rng.normal(size=(20_000, 8)) * 2  # one mask: 1 / (1 + 4); eight: 8 / (8 + 4)
    assert reliability(loss) == pytest.approx(8 / 12, abs=0.01)
    assert reliability(np.repeat(truth, 8, axis=1)) == pytest.approx(1)


@pytest.mark.parametrize("folds", [random_folds, class_folds])
def test_folds_cover_everything_once(folds: object) -> None:
    label = np.repeat(np.arange(10), 7)
    seen = np.zeros(70, dtype=int)
    for train, test in folds(label):  # type: ignore[operator]
        assert not set(train) & set(test)
        assert len(train) + len(test) == 70
        seen[test] += 1
    assert (seen == 1).all()


def test_class_folds_hold_classes_out() -> None:
    label = np.repeat(np.arange(10), 7)
    for train, test in class_folds(label):
        assert not set(label[train]) & set(label[test])
        assert len(set(label[test])) == 2


def test_one_class_cannot_be_held_out() -> None:
    with pytest.raises(SchemaError, match="1 class"):
        list(class_folds(np.zeros(9, dtype=np.int64)))


def test_partial_r_ignores_what_the_controls_hold() -> None:
    rng = np.random.default_rng(0)
    control = rng.normal(size=(5000, 2))
    both = control.sum(axis=1)
    new = rng.normal(size=5000)
    noise = rng.normal(size=(2, 5000))
    assert partial_r(both + noise[0], both + noise[1], control) == pytest.approx(0, abs=0.05)
    assert partial_r(both + new + 0.01 * noise[0], both + new, control) > 0.99


def test_out_of_fold_predictions_find_a_line_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    features, label = rng.normal(size=(500, 3)), np.arange(500) % 10
    for holdout in ("random", "classes"):
        line = out_of_fold(features, features @ np.array([1.0, 2.0, 3.0]), label, holdout)
        assert np.corrcoef(line, features @ np.array([1.0, 2.0, 3.0]))[0, 1] > 0.999
        noise = rng.normal(size=500)
        assert abs(np.corrcoef(out_of_fold(features, noise, label, holdout), noise)[0, 1]) < 0.2


def test_rivals_order_chips_as_their_names_say() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((64, 64, 3), 100, np.uint8)
    rough = rng.integers(0, 200, (64, 64, 3)).astype(np.uint8)
    features = rival_features(np.stack([flat, rough]))
    assert features.shape == (2, len(RIVALS))
    assert features[0, 0] == 100
    assert (features[1, 1:] > features[0, 1:]).all()
    assert np.isfinite(curved(features)).all()


OPTIONS = {"held_out_chips": 5, "held_out_scenes": 5, "shape": TINY}


def test_pretraining_writes_an_encoder_that_is_evaluated_the_same_again(
    paths: StockPaths, held: HeldOut, tmp_path: Path
) -> None:
    options = PretrainOptions(paths, tmp_path, steps=5, held_out_per_class=5, compare_with=tmp_path, **OPTIONS)
    pretrain(replace(options, compare_with=None))
    outcome = pretrain(options)
    assert outcome.card == read_card(tmp_path / "card.json")
    figures = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))["figures"]
    assert figures["held_out"] == 15
    assert len(figures["held_out_scenes"]) == 5
    assert figures["images"] == {"EuroSAT RGB": 45, "scenes": 3, "EuroSAT MS": 7, "Antwerp": 2}
    assert figures["other"] == {key: value for key, value in figures.items() if key != "other"}
    assert figures["pooling"] == outcome.card.pooling
    trained = load_exported(tmp_path)
    again = evaluate(trained, held.rgb)
    for target in TARGETS:
        one = {"holdout": "classes", "predictor": "probe (mean)", "field": "r", "target": target}
        assert figure(again, **one) == pytest.approx(figure(outcome.reports, **one), abs=1e-6)
    assert "| probe (mean) |" in table(again)
    rows = figures["multispectral"]
    assert {(row["encoder"], row["gsd_m"], row["chip_size_px"]) for row in rows} == set(
        itertools.product(BAND_SETS, (10.0, 20.0), (64, 32))
    )
    assert rows[-1]["scores"].keys() >= {"brightness", "rivals together", "probe (mean)"}
    assert multispectral_table(rows).count("\n") == 2 + len(rows) - 1


def test_length_given_twice_or_nothing_is_refused(paths: StockPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="twice"):
        pretrain(PretrainOptions(paths, tmp_path, steps=5, epochs=1))
    with pytest.raises(ConfigError, match="0 steps"):
        pretrain(PretrainOptions(paths, tmp_path, steps=0, held_out_per_class=5, **OPTIONS))


def test_length_in_minutes_is_settled_once(paths: StockPaths, tmp_path: Path) -> None:
    options = PretrainOptions(paths, tmp_path, minutes=0.01, held_out_per_class=5, **OPTIONS)
    first = pretrain(options)
    steps: list[int] = []
    again = pretrain(replace(options, resume=True), on_step=lambda report: steps.append(report.step))
    assert steps == []
    assert again.card.weights_sha256 == first.card.weights_sha256


def test_exported_weights_that_were_changed_are_refused(paths: StockPaths, tmp_path: Path) -> None:
    pretrain(PretrainOptions(paths, tmp_path, steps=1, held_out_per_class=5, **OPTIONS))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="sha256"):
        load_exported(tmp_path)
