"""The compact encoder on EuroSAT chips that it never saw: the table of `docs/compact-card.md`, from its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.models, pytest.mark.shared]


def test_probe_beside_its_rivals(shared_data: Path) -> None:
    from geoelle.encoders.compact import WEIGHTS_FOLDER
    from geoelle.training import evaluate, load_exported, read_eurosat, split_holdout, table
    from geoelle.training.evaluation import added, figure

    _, held_out = split_holdout(read_eurosat(shared_data / "chips" / "eurosat_rgb_jpeg.npz"), 200)
    reports = evaluate(load_exported(WEIGHTS_FOLDER), held_out)
    print(table(reports))
    print(f"partial r beyond the four rivals, classes held out, mean over sizes: {added(reports):.3f}")
    # Not a time and not a record: the probe has to know more than texture does, or the encoder is not worth shipping.
    for holdout in ("random", "classes"):
        probe = figure(reports, holdout=holdout, predictor="probe (mean)", field="r")
        assert probe > figure(reports, holdout=holdout, predictor="rivals together", field="r")
