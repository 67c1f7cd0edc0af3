"""What the tests of Prithvi and SatMAE share: fixtures, key lists, batches, real chips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import Tensor

from geoelle.encoders.network import Inputs, Network
from geoelle.records import ChipBatch, EncoderCard

TOLERANCE = 1e-5
"""Relative; what equal formulas agree to in float32."""
_FILE_BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16", "swir22")


def fixture_of(shared_data: Path, path: str) -> Any:
    """A fixture under ../shared/encoders, opened without executing anything."""
    return torch.load(shared_data.parent / "encoders" / path, weights_only=True)


def key_list(shared_data: Path, path: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official size."""
    content = json.loads((shared_data.parent / "encoders" / path).read_text(encoding="utf-8"))
    return {name: tuple(shape) for name, shape in content["keys"].items()}


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def n_values(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value expected."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def inputs_of(pixels: Tensor, when: Tensor | None = None, lonlat: Tensor | None = None) -> Inputs:
    """Inputs from normalised pixels (chip, step, band, y, x), years and days of year (chip, step, 2), and places."""
    n, steps, bands = pixels.shape[:3]
    moments = torch.full((n, steps, 4), torch.nan, dtype=torch.float64)
    if when is not None:
        moments[..., :2] = when
    places = torch.full((n, 2), torch.nan) if lonlat is None else lonlat
    return Inputs(pixels, moments, places.double(), torch.ones(bands), 30.0)


def masked_loss(network: Network, inputs: Inputs, hidden: Tensor) -> Tensor:
    """(chip,): the mean over the hidden tokens of each chip; `hidden` is (chip, token)."""
    errors = network.patch_errors(inputs, hidden[:, None])[:, 0]
    return (errors * hidden).sum(dim=1) / hidden.sum(dim=1)


def batch_for(card: EncoderCard, n: int = 2, *, steps: int = 1, seed: int = 0) -> ChipBatch:
    """A batch of noise about the card's mean, every chip with a place and every date with a day of its own."""
    rng, size = np.random.default_rng(seed), card.chip_sizes_px[0]
    mean, std = (np.array(values)[:, None, None] / card.scale for values in (card.mean, card.std))
    pixels = mean + std * rng.normal(0, 0.7, (n, steps, len(card.bands), size, size))
    days = np.arange(n * steps).reshape(n, steps) * np.timedelta64(40, "D")
    return ChipBatch(
        sensor=card.sensor,
        units=card.units,
        bands=card.bands,
        pixels=pixels.astype(np.float32),
        valid=np.ones((n, steps, size, size), dtype=bool),
        time=(np.datetime64("2020-06-01T10:30", "ns") + days).astype("datetime64[ns]"),
        lonlat=np.stack([np.linspace(-120, 140, n), np.linspace(50, -30, n)], axis=1),
        gsd_m=card.gsd_m,
        chip_id=np.array([f"chip-{i}" for i in range(n)]),
    )


def real_batch(shared_data: Path, card: EncoderCard) -> ChipBatch:
    """The middle of a real Sentinel-2 L2A chip of 256 px, as a batch that fits the card."""
    path, size = shared_data / "chips" / "ms" / "satclip_33188.tif", card.chip_sizes_px[0]
    with rasterio.open(path) as file:
        order = ("coastal", *_FILE_BANDS)
        numbers = file.read([order.index(band) + 1 for band in card.bands])
    start = (numbers.shape[-1] - size) // 2
    part = numbers[:, start : start + size, start : start + size]
    return ChipBatch(
        sensor="sentinel-2-l2a",
        units="reflectance",
        bands=card.bands,
        pixels=(part * np.float32(1e-4))[None, None],
        valid=(part > 0).all(axis=0)[None, None],
        time=np.full((1, 1), np.datetime64("2022-06-01", "ns")),
        lonlat=np.array([[-111.55, 36.68]]),
        gsd_m=10.0,
        chip_id=np.array(["satclip_33188"]),
    )
