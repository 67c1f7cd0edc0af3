"""Reading the packed chips, holding some out, cropping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoelle.errors import NotFoundError, SchemaError
from geoelle.training.data import band_statistics, read_eurosat, split_holdout, to_reflectance


def test_chips_are_read(packed: Path) -> None:
    chips = read_eurosat(packed)
    assert chips.pixels.shape == (60, 64, 64, 3)
    assert chips.classes == ("Class0", "Class1", "Class2")
    assert (chips.jpeg_bytes > 100).all()


def test_missing_file_and_arrays_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.npz"):
        read_eurosat(tmp_path / "none.npz")
    np.savez(tmp_path / "half.npz", jpeg=np.zeros(1))
    with pytest.raises(SchemaError, match="offsets"):
        read_eurosat(tmp_path / "half.npz")


def test_hold_out_depends_on_names_alone(packed: Path) -> None:
    chips = read_eurosat(packed)
    training, held = split_holdout(chips, 5)
    assert np.bincount(held.label).tolist() == [5, 5, 5]
    assert len(training) + len(held) == len(chips)
    assert not set(training.name) & set(held.name)
    shuffled = chips.select(np.random.default_rng(1).permutation(len(chips)))
    assert set(split_holdout(shuffled, 5)[1].name) == set(held.name)


def test_holding_out_everything_is_refused(packed: Path) -> None:
    with pytest.raises(SchemaError, match="Class Class0 has 20 chips"):
        split_holdout(read_eurosat(packed), 20)


def test_statistics_and_reflectance(packed: Path) -> None:
    chips = read_eurosat(packed)
    mean, std = band_statistics(chips.pixels)
    scaled = chips.pixels.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(std, scaled.std(axis=0), atol=1e-6)
    full = to_reflectance(np.full((1, 2, 2, 3), 255, np.uint8))
    np.testing.assert_allclose(full, 0.275, rtol=1e-6)


@pytest.mark.shared
def test_eurosat_hold_out_is_stratified(shared_data: Path) -> None:
    training, held = split_holdout(read_eurosat(shared_data / "chips" / "eurosat_rgb_jpeg.npz"), 200)
    assert np.bincount(held.label).tolist() == [200] * 10
    assert len(training) == 3300
