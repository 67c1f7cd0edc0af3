"""Presto end to end: real weights, real series, its own loss, a probe, its baselines, and an export of another kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoelle.encoders import load_encoder
from geoelle.encoders.presto import scaled_series
from geoelle.probe import Probe
from geoelle.store.probes import read_probe

pytest.importorskip("torch")
presto_files = pytest.importorskip("presto_files")

pytestmark = [pytest.mark.models, pytest.mark.shared]


def score(report: Any, holdout: str, predictor: str, target: str = "log loss") -> Any:
    (found,) = (s for s in report.scores if (s.holdout, s.target, s.predictor) == (holdout, target, predictor))
    return found


def test_chain_on_a_part_of_the_series(shared_data: Path, tmp_path: Path) -> None:
    pipeline = presto_files.pipeline()
    report = pipeline.run(shared_data, tmp_path, name="presto:dynamic-world", masks=4, n=300)
    assert report.n_series == 300
    assert report.n_places < 150  # many series of one place: why random folds flatter
    assert 0.8 < report.ceiling["loss"] < 1
    assert 0.85 < report.ceiling["log loss"] < 1
    for holdout in ("random", "places", "longitude", "blocks"):
        assert 0.75 < score(report, holdout, "embedding").r < report.ceiling["log loss"]
        assert score(report, holdout, "L2 norm").r < 0.5  # the length of the embedding is no difficulty
        assert score(report, holdout, "34 statistics").r > 0.75  # and plain statistics are hard to beat
    assert score(report, "random", "embedding").r > score(report, "longitude", "embedding").r
    assert score(report, "random", "embedding").partial_r > 0.1
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(kept["scores"]) == len(report.scores)
    probe = Probe.from_arrays(*read_probe(tmp_path / "probe"))
    assert probe.meta.loss_kind == "own-partial"
    assert probe.meta.transform == "log"
    encoder = load_encoder("presto:dynamic-world", weights=shared_data / pipeline.WEIGHTS_FILE)
    probe.check_fits(encoder.card, chip_size_px=1)
    new = pipeline.read_series(shared_data / pipeline.SERIES_FILE, encoder).select(slice(300, 400))
    scores = probe.predict_with_error(encoder.embed(new))
    loss = encoder.pretraining_loss(new, encoder.fixed_masks(new.chip_id, 4, 1)).mean(axis=1)
    assert np.corrcoef(scores.difficulty, loss)[0, 1] > 0.6  # series that the probe never saw
    assert 0.5 < scores.difficulty.mean() / loss.mean() < 2


@pytest.mark.long
@pytest.mark.parametrize("name", ["presto:dynamic-world", "presto"])
def test_chain_on_all_series(name: str, shared_data: Path, tmp_path: Path) -> None:
    """The figures of docs/presto.md."""
    report = presto_files.pipeline().run(shared_data, tmp_path, name=name, masks=16, n=None)
    assert (report.n_series, report.n_places) == (1122, 255)
    assert score(report, "random", "embedding").r == pytest.approx(0.927, abs=0.01)
    assert score(report, "longitude", "embedding").r == pytest.approx(0.889, abs=0.01)
    assert score(report, "random", "34 statistics").r == pytest.approx(0.911, abs=0.01)
    assert report.ceiling["loss"] == pytest.approx(0.957, abs=0.01)


def test_an_earth_engine_export(shared_data: Path) -> None:
    """Raw values of a field in Honduras, two years: scaled to what pretraining saw, and predicted far better than by
    a network that is given the bands in another order."""
    encoder: Any = load_encoder("presto", weights=shared_data / "weights" / "presto" / "default_model.pt", batch=64)
    path = shared_data / "pixel-series" / "honduras_2017-2018_s1_s2_era5_srtm.tif"
    batch = presto_files.honduras(path, encoder)
    assert len(batch) == 2 * 17 * 17
    no_slope = np.isnan(batch.pixels[:, :, batch.bands.index("slope")]).all(axis=(1, 2, 3))
    assert 0 < no_slope.sum() < len(batch)  # the export has none along its edges: terrain's token is left out there
    scaled = scaled_series(encoder.card, batch)[..., 0, 0]
    low, high = (-1, 0, 0.3, 0, 0), (1.5, 1, 0.9, 1, 1)
    for group, lowest, highest in zip(((0, 1), range(2, 12), (12,), (13,), (14, 15)), low, high, strict=True):
        values = scaled[:, :, list(group)]
        assert np.nanmin(values) >= lowest
        assert np.nanmax(values) <= highest
    assert np.nanmin(scaled[:, :, 16]) >= -1
    assert np.nanmax(scaled[:, :, 16]) > 0.5  # green at some time of the year
    assert np.isfinite(encoder.embed(batch)).all()
    few = batch.select(np.arange(0, len(batch), 7))
    masks = encoder.fixed_masks(few.chip_id, 2, 1)
    loss = encoder.pretraining_loss(few, masks)
    assert np.isfinite(loss).all()
    assert 0.002 < loss.mean() < 0.012
    order = [0, 1, *range(11, 1, -1), *range(12, 16)]
    assert encoder.pretraining_loss(replace(few, pixels=few.pixels[:, :, order]), masks).mean() > 3 * loss.mean()
