"""What one step trains on: chips of one set of bands, one size and one pixel size, augmented."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from geoelle.encoders.compact_cards import BAND_SETS
from geoelle.provenance import seed_from
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.training.augment import ZOOM, random_crops, random_radiometry
from geoelle.training.sources import BANDS, CLIP, RGB, Source

RGB_SHARE = 0.5
"""Share of the steps that train on EuroSAT RGB alone; the others mix the multispectral sources."""

RGB_SHAPES = (((64, 10), 0.45), ((32, 10), 0.45), ((32, 20), 0.1))
"""Chip size in px and pixel size in metres, with their shares. A chip of 64 px at 10 m has but 32 at 20 m."""
MS_SHAPES = (((64, 10), 0.35), ((32, 10), 0.3), ((64, 20), 0.15), ((32, 20), 0.2))

SET_OF = {name.removeprefix("compact-"): bands for name, bands in BAND_SETS.items()}

SET_SHARES = (("rgb", 0.15), ("rgbn", 0.15), ("burn", 0.2), ("s2", 0.2), ("any", 0.3))
"""Shares of the sets in the multispectral steps; `any` is a random number of random bands."""

SOURCE_SHARES = {"scenes": 0.7, "EuroSAT MS": 0.25, "Antwerp": 0.05}
"""Shares of the chips of a multispectral step, among the sources that have its bands and are large enough."""


@dataclass(frozen=True, slots=True)
class Stock:
    """All that a network is trained on, with the normalisation of its pixels."""

    rgb: Source
    multispectral: tuple[Source, ...]
    mean: tuple[float, ...]
    """Per band of `BANDS`, reflectance."""
    std: tuple[float, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Images per source."""
        return {source.name: len(source) for source in (self.rgb, *self.multispectral)}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a step trains on: drawn from seed and step alone."""

    multispectral: bool
    bands: tuple[str, ...]
    size_px: int
    gsd_m: int


def _pick[T](options: tuple[tuple[T, float], ...], u: float) -> T:
    """The option in whose share of 0 … 1 the number lies."""
    for value, share in options:
        if u < share:
            return value
        u -= share
    return options[-1][0]


def plan_step(seed: int, step: int, *, multispectral: bool) -> Plan:
    """Source, bands, chip and pixel size of a step. Without `multispectral` sources every step is RGB."""
    draw = np.random.default_rng(seed_from(seed, "plan", step))
    if not multispectral or draw.random() < RGB_SHARE:
        size, gsd = _pick(RGB_SHAPES, draw.random())
        return Plan(False, RGB, size, gsd)
    size, gsd = _pick(MS_SHAPES, draw.random())
    title = _pick(SET_SHARES, draw.random())
    if title == "any":
        chosen = draw.permutation(len(BANDS))[: draw.integers(1, len(BANDS) + 1)]
        return Plan(True, tuple(BANDS[i] for i in chosen), size, gsd)
    return Plan(True, SET_OF[title], size, gsd)


def wavelengths_of(bands: tuple[str, ...]) -> Tensor:
    """Wavelengths of bands in micrometres, (band,)."""
    return torch.tensor([SENTINEL_2_L2A.band(band).wavelength_um for band in bands], dtype=torch.float32)


def normalise(
    pixels: Tensor, bands: tuple[str, ...], stock_mean: tuple[float, ...], stock_std: tuple[float, ...]
) -> Tensor:
    """Reflectance (chip, band, y, x), clipped and standardised per band."""
    order = [BANDS.index(band) for band in bands]
    mean, std = (torch.tensor(values)[order].reshape(1, -1, 1, 1).to(pixels) for values in (stock_mean, stock_std))
    return (pixels.clamp(*CLIP) - mean) / std


def _windows(source: Source, index: np.ndarray, bands: tuple[str, ...], edge: int, draw: np.random.Generator) -> Tensor:
    """A square of each image wide enough to draw a zoomed crop of `edge` px from, or the whole image."""
    order = [source.bands.index(band) for band in bands]
    side = min(source.images.shape[-1], math.ceil(edge * ZOOM[1]))
    slack = source.images.shape[-1] - side
    corners = draw.integers(0, slack + 1, (len(index), 2))
    parts = [
        source.images[i][order, y : y + side, x : x + side] for i, (y, x) in zip(index, corners.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(parts))


def _epoch_index(seed: int, start: int, count: int, n: int) -> np.ndarray:
    """Consecutive pieces of one shuffle per epoch, running on across epochs."""
    positions = np.arange(start, start + count)
    index = np.empty(count, dtype=np.int64)
    for epoch in np.unique(positions // n):
        order = np.random.default_rng(seed_from(seed, "epoch", int(epoch))).permutation(n)
        here = positions // n == epoch
        index[here] = order[positions[here] % n]
    return index


def draw_batch(stock: Stock, plan: Plan, seed: int, step: int, n: int) -> Tensor:
    """Normalised, augmented chips (chip, band, y, x) of a step.

    Args:
        stock: Where from.
        plan: What of.
        seed: Of the training.
        step: Number of the step.
        n: Chips at the largest size; at half the size there are twice as many.
    """
    draw = np.random.default_rng(seed_from(seed, "chips", step))
    generator = torch.Generator().manual_seed(seed_from(seed, "augment", step) % 2**63)
    times = max(1, 64 // plan.size_px)
    factor = plan.gsd_m // 10
    edge = plan.size_px * factor
    if not plan.multispectral:
        index = _epoch_index(seed, step * n, n, len(stock.rgb)).repeat(times)
        parts = [(stock.rgb, index)]
    else:
        fit = [s for s in stock.multispectral if set(plan.bands) <= set(s.bands) and s.images.shape[-1] >= edge]
        shares = np.array([SOURCE_SHARES[source.name] for source in fit])
        counts = draw.multinomial(n * times, shares / shares.sum())
        parts = [(s, draw.integers(0, len(s), c)) for s, c in zip(fit, counts, strict=True) if c]
    crops = [random_crops(_windows(s, i, plan.bands, edge, draw), edge, generator) for s, i in parts]
    pixels = torch.cat(crops)
    if factor > 1:
        pixels = F.avg_pool2d(pixels, factor)
    pixels = random_radiometry(pixels, wavelengths_of(plan.bands), generator)
    return normalise(pixels, plan.bands, stock.mean, stock.std)
