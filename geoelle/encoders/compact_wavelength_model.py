"""Weights from wavelengths and positions from metres: how the compact encoder takes any bands at any pixel size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PERIODS_UM = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
"""Periods of the sines and cosines of a wavelength: from all of the solar spectrum to the step between two bands."""


def wavelength_features(wavelengths: Tensor) -> Tensor:
    """Sines and cosines of wavelengths (band,) in micrometres: (band, 2 x periods)."""
    phase = wavelengths[:, None] * torch.tensor([2 * math.pi / period for period in PERIODS_UM])[None].to(wavelengths)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def sin_cos_positions(rows: int, columns: int, width: int, step: Tensor) -> Tensor:
    """2-D sine-cosine positions of shape (rows x columns, width), row by row from the north-west corner.

    Args:
        rows: Patches from north to south.
        columns: Patches from west to east.
        width: Features.
        step: (), distance between neighbouring patches; 1 gives those of He et al. 2022.
    """
    omega = (1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))).float().to(step)

    def along(n: int) -> Tensor:
        angle = torch.arange(n, dtype=torch.float32).to(step)[:, None] * step * omega[None]
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    south = along(rows)[:, None].expand(rows, columns, width // 2)
    east = along(columns)[None].expand(rows, columns, width // 2)
    return torch.cat([south, east], dim=2).reshape(rows * columns, width)


class BandWeights(nn.Module):  # type: ignore[misc]
    """A matrix per band, mixed from learned bases: W(wavelength) = sum over r of c_r(wavelength) B_r."""

    def __init__(self, n_bases: int, mixer_width: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.mixer = nn.Linear(2 * len(PERIODS_UM), mixer_width)
        self.mixture = nn.Linear(mixer_width, n_bases)
        # With mixtures of order 1, the mean of a few bands through W has about the spread of a band.
        self.bases = nn.Parameter(torch.randn(n_bases, shape[0] * shape[1]) * (2 / (sum(shape) * n_bases)) ** 0.5)

    def hidden(self, wavelengths: Tensor) -> Tensor:
        """What the network knows of wavelengths (band,): (band, mixer width)."""
        return F.gelu(self.mixer(wavelength_features(wavelengths)))

    def forward(self, wavelengths: Tensor) -> Tensor:
        """Weights for wavelengths (band,) in micrometres: (band, *shape)."""
        mixed = self.mixture(self.hidden(wavelengths)) @ self.bases
        return mixed.reshape(wavelengths.shape[0], *self.shape)
