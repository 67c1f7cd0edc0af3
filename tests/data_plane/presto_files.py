"""Presto's real files beside the clone, for tests of several folders."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import rasterio
import torch

from geoelle.encoders.presto import GROUPS
from geoelle.encoders.presto_model import PrestoEncoder
from geoelle.records import ChipBatch

ROOT = Path(__file__).parent.parent.parent


def pipeline() -> ModuleType:
    """pipelines/presto_series.py as a module."""
    spec = importlib.util.spec_from_file_location("presto_series", ROOT / "pipelines" / "presto_series.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def fixture(shared_data: Path) -> dict[str, Any]:
    """Inputs and outputs of upstream's own code on 16 real series."""
    path = shared_data.parent / "encoders" / "presto" / "real_algae_blooms.pt"
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def token_masks(values: torch.Tensor, classes: torch.Tensor) -> np.ndarray:
    """Masks over values (series, 12, 17) and Dynamic World (series, 12) as one over tokens, (series, token)."""
    parts = [values[:, : 1 if name == "SRTM" else None, bands[0]] for name, bands in GROUPS.items()]
    return np.asarray(torch.cat([*parts, classes], dim=1))


def honduras(path: Path, encoder: PrestoEncoder) -> ChipBatch:
    """An Earth Engine export of 24 months as two series of 12 for each pixel, raw values, year after year."""
    with rasterio.open(path) as file:
        raw, transform = file.read(), file.transform
    monthly = raw[:-2].reshape(24, 17, -1)
    kept = [0, 1, *range(3, 11), 13, 14, 15, 16]  # without B1, B9 (11) and B10 (12)
    static = np.broadcast_to(raw[-2:].reshape(1, 2, -1), (24, 2, monthly.shape[2]))
    series = np.concatenate([monthly[:, kept], static], axis=1)  # (month, band, pixel)
    pixels = np.concatenate([series[:12], series[12:]], axis=2).transpose(2, 0, 1)
    rows, columns = np.divmod(np.arange(raw.shape[1] * raw.shape[2]), raw.shape[2])
    x, y = transform * (columns + 0.5, rows + 0.5)
    months = np.arange("2017-01", "2019-01", dtype="datetime64[M]").astype("datetime64[ns]")
    n = len(rows)
    return ChipBatch(
        sensor=encoder.card.sensor,
        units=encoder.card.units,
        bands=encoder.card.bands,
        pixels=pixels[..., None, None].astype(np.float32),
        valid=np.ones((2 * n, 12, 1, 1), dtype=bool),
        time=np.repeat(months.reshape(2, 12), n, axis=0),
        lonlat=np.tile(np.stack([x, y], axis=1), (2, 1)),
        gsd_m=10.0,
        chip_id=np.array([f"{year} {i}" for year in (2017, 2018) for i in range(n)]),
    )
