"""What it costs to keep embeddings as float16 or int8: probe r on the same folds, difficulty, bytes a chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from geoelle.schema import EMBEDDING_DTYPES
from geoelle.store.quantised import from_int8, to_int8

pytestmark = [pytest.mark.bench, pytest.mark.models, pytest.mark.shared]
_CHUNK = 64
"""Chips of a chunk in a store: 8 x 8."""


def stored(embedding: NDArray[np.float32], dtype: str) -> tuple[NDArray[np.float32], int]:
    """Embeddings as they are read back, and bytes that they take, compressed as in a store."""
    codec = Zstd(level=3)

    def size(array: NDArray[Any]) -> int:
        return sum(len(codec.encode(np.ascontiguousarray(array[i : i + _CHUNK]))) for i in range(0, len(array), _CHUNK))

    if dtype == "int8":
        numbers, scale = to_int8(embedding)
        return from_int8(numbers, scale), size(numbers) + size(scale)
    kept = embedding.astype(dtype)
    return kept.astype(np.float32), size(kept)


def test_what_a_smaller_dtype_costs(shared_data: Path) -> None:
    """200 chips of each EuroSAT class that the encoder never saw, its own pooling, its loss over four masks."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from geoelle.encoders.compact import WEIGHTS_FOLDER
    from geoelle.training import load_exported, read_eurosat, split_holdout
    from geoelle.training.evaluation import ALPHAS, HOLDOUTS, measure

    _, held_out = split_holdout(read_eurosat(shared_data / "chips" / "eurosat_rgb_jpeg.npz"), 200)
    trained = load_exported(WEIGHTS_FOLDER)
    print(f"\n{'px':>3} {'holdout':8} {'stored as':9} {'bytes/chip':>10} {'r':>8} {'refitted r':>10} "
          f"{'max |change|':>12} {'of the loss\'s sd':>16}")  # fmt: skip
    for size in (64, 32):
        measured = measure(trained, held_out, size, 4)
        loss = measured.loss.mean(axis=1)
        exact = measured.embeddings["mean"].astype(np.float32)
        for holdout, folds in HOLDOUTS.items():
            reference = np.empty(len(loss))
            for dtype in EMBEDDING_DTYPES:
                kept, n_bytes = stored(exact, dtype)
                predicted, refitted = np.empty(len(loss)), np.empty(len(loss))
                for train, test in folds(measured.label):
                    # As in use: the probe was fitted on float32, the map is made from what is stored.
                    probe = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(exact[train], loss[train])
                    predicted[test] = probe.predict(kept[test])
                    again = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(kept[train], loss[train])
                    refitted[test] = again.predict(kept[test])
                if dtype == "float32":
                    reference = predicted
                r, r_again = (float(np.corrcoef(p, loss)[0, 1]) for p in (predicted, refitted))
                change = float(np.abs(predicted - reference).max())
                print(f"{size:>3} {holdout:8} {dtype:9} {n_bytes / len(loss):>10.0f} {r:>8.5f} {r_again:>10.5f} "
                      f"{change:>12.6f} {change / loss.std():>16.4f}")  # fmt: skip
                # Not a record: a store that is kept smaller must still tell the same story.
                assert abs(r - np.corrcoef(reference, loss)[0, 1]) < 0.01
