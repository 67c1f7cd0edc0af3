"""Encoders that several tests share, opened once, and batches of any size and content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geoelle.encoders.compact import CompactEncoder
from geoelle.records import ChipBatch

MakeBatch = Callable[..., ChipBatch]


def _make_batch(
    n: int, size: int = 64, *, seed: int = 0, bands: tuple[str, ...] = ("red", "green", "blue"), **changes: Any
) -> ChipBatch:
    """A batch that fits `compact-rgb`, or the compact encoder for other bands: smooth fields plus noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 0.25, (n, 1, len(bands), size // 8, size // 8))
    pixels = np.kron(coarse, np.ones((8, 8))) + rng.normal(0, 0.03, (n, 1, len(bands), size, size))
    batch = ChipBatch(
        sensor="sentinel-2-l2a",
        units="reflectance",
        bands=bands,
        pixels=pixels.astype(np.float32),
        valid=np.ones((n, 1, size, size), dtype=bool),
        time=np.full((n, 1), np.datetime64("2020-06-01", "ns")),
        lonlat=np.zeros((n, 2)),
        gsd_m=10.0,
        chip_id=np.array([f"chip-{seed}-{i}" for i in range(n)]),
    )
    return replace(batch, **changes)


@pytest.fixture(scope="session")
def make_batch() -> MakeBatch:
    return _make_batch


@pytest.fixture(scope="session")
def compact() -> CompactEncoder:
    return CompactEncoder()


@pytest.fixture(scope="session")
def compact_torch() -> CompactEncoder:
    return CompactEncoder(runtime="torch")
