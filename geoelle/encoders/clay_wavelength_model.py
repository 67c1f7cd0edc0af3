"""Clay's wavelength hyper-network: first and last layer are made of the bands' wavelengths, so any bands fit.

The idea is DOFA's (Xiong et al. 2024, arXiv:2403.15356). Imports torch: import it lazily.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAVE_DIM = 128
"""Length of a wavelength's code, and of every token in the hyper-network."""
N_LATENT = 128
"""Learned tokens that attend together with those of the bands."""
_HEADS = 4
_FEED_FORWARD = 2048
_WEIGHT_SCALE = 0.02
"""The weights generated (not the bias) are multiplied by this."""
_BASE = 10000.0


def wavelength_code(wavelength_um: Tensor) -> Tensor:
    """Sine-cosine code of wavelengths, (band, `WAVE_DIM`): sin and cos of wavelength x 10000^(-i/(d/2 - 1)), i < d/2.

    Args:
        wavelength_um: (band,), MICROmetres as they are; DOFA's code is of the same number times 1000, this is not.
    """
    half = WAVE_DIM // 2
    steps = torch.arange(half, dtype=torch.float64, device=wavelength_um.device) / (half - 1)
    angle = wavelength_um.double()[:, None] * _BASE**-steps
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


class WaveBlock(nn.Module):  # type: ignore[misc]
    """Two linear layers beside a skip connection, over a wavelength's code."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.Linear(WAVE_DIM, WAVE_DIM)
        self.l2 = nn.Linear(WAVE_DIM, WAVE_DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Map (band, `WAVE_DIM`) to the same shape."""
        return x + F.gelu(self.l2(F.gelu(self.l1(x))))


class WeightGenerator(nn.Module):  # type: ignore[misc]
    """From the bands' codes to one row of weights for each, and one bias for all."""

    def __init__(self, values_per_band: int, n_bias: int | None) -> None:
        super().__init__()
        self.weight_tokens = nn.Parameter(torch.randn(N_LATENT, WAVE_DIM) * 0.02)
        # The decoder's generator has the token and lets the others attend to it, though it makes no bias of it.
        self.bias_token = nn.Parameter(torch.randn(1, WAVE_DIM) * 0.02)
        layer = nn.TransformerEncoderLayer(
            WAVE_DIM, _HEADS, _FEED_FORWARD, dropout=0.0, activation="gelu", norm_first=False, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.fc_weight = nn.Linear(WAVE_DIM, values_per_band)
        self.fc_bias = nn.Linear(WAVE_DIM, n_bias) if n_bias is not None else None

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights (band, value), scaled, and bias (value,) or None, of codes (band, `WAVE_DIM`)."""
        out = self.encoder(torch.cat([self.weight_tokens, waves, self.bias_token])[None])[0]
        weights = self.fc_weight(out[N_LATENT:-1] + waves) * _WEIGHT_SCALE
        return weights, self.fc_bias(out[-1]) if self.fc_bias is not None else None


class WavelengthLayer(nn.Module):  # type: ignore[misc]
    """A layer whose weights are generated."""

    def __init__(self, values_per_band: int, n_bias: int | None) -> None:
        super().__init__()
        self.weight_generator = WeightGenerator(values_per_band, n_bias)
        self.fclayer = WaveBlock()

    def generated(self, wavelength_um: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights and bias for these bands, always in float32: small work, and its error would be in every token."""
        with torch.autocast(wavelength_um.device.type, enabled=False):
            found: tuple[Tensor, Tensor | None] = self.weight_generator(self.fclayer(wavelength_code(wavelength_um)))
        return found


class PatchEmbedding(WavelengthLayer):
    """Pixels to patch tokens."""

    def __init__(self, dim: int, patch_px: int) -> None:
        super().__init__(dim * patch_px**2, dim)
        self.dim, self.patch_px = dim, patch_px

    def forward(self, pixels: Tensor, wavelength_um: Tensor) -> Tensor:
        """Map (chip, band, y, x) to (chip, token, dim), row by row; a band's row of weights runs (dim, y, x)."""
        weights, bias = self.generated(wavelength_um)
        kernel = weights.reshape(-1, self.dim, self.patch_px, self.patch_px).transpose(0, 1)
        return F.conv2d(pixels, kernel, bias, stride=self.patch_px).flatten(2).transpose(1, 2)


class PixelHead(WavelengthLayer):
    """Tokens to the pixels of their patches."""

    def __init__(self, dim: int, patch_px: int) -> None:
        super().__init__(dim * patch_px**2, None)
        self.dim, self.patch_px = dim, patch_px

    def forward(self, tokens: Tensor, wavelength_um: Tensor) -> Tensor:
        """Map (chip, token, dim) to (chip, token, (band, y, x)); a band's row of weights runs (y, x, dim)."""
        weights, _ = self.generated(wavelength_um)
        return F.linear(tokens, weights.reshape(-1, self.dim))
