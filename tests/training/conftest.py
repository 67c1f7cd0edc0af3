"""A small data set in the packed format, with texture of three kinds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 chips of 64 px in 3 classes as an .npz of JPEGs."""
    rng = np.random.default_rng(0)
    parts, label = [], []
    for i in range(60):
        coarse = rng.uniform(40, 200, (2 ** (1 + i % 3), 2 ** (1 + i % 3), 3))
        chip = np.kron(coarse, np.ones((64 // coarse.shape[0], 64 // coarse.shape[0], 1)))
        chip = np.clip(chip + rng.normal(0, 5 + i % 7, chip.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(chip).save(buffer, format="JPEG")
        parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
        label.append(i % 3)
    path = tmp_path_factory.mktemp("data") / "chips.npz"
    np.savez(
        path,
        jpeg=np.concatenate(parts),
        offsets=np.concatenate([[0], np.cumsum([len(part) for part in parts])]),
        label=np.array(label, np.uint8),
        name=np.array([f"Class{k}_{i}.jpg" for i, k in enumerate(label)]),
        classes=np.array(["Class0", "Class1", "Class2"]),
    )
    return path
