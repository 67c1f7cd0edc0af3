"""Clay v1.5: a masked autoencoder for any bands, pixel size and square chip. Imports torch: import it lazily.

Written from the published configuration and key list of Clay-foundation/model (Apache-2.0). What differs from other
masked autoencoders: weights of first and last layer made of wavelengths (`clay_wavelength_model`), attention without
biases, positions that know the pixel size, time and place in the last 8 channels of the positions, the smallest noise
hidden, L1. Upstream's `ClayMAE.forward` drops bands at random even in evaluation; nothing here does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.encoders.clay_wavelength_model import PatchEmbedding, PixelHead
from geoelle.encoders.network import Encoded, Inputs, Network

CODE_DIM = 8
"""Channels of a position that tell time (4) and place (4)."""
WEEKS, HOURS = 52.0, 24.0
_WEEK, _HOUR = 2, 3
_BASE = 10000.0


@dataclass(frozen=True, slots=True)
class ClayConfig:
    """Shape of the network; the defaults are the published v1.5."""

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    dim_head: int = 64
    mlp_ratio: int = 4
    decoder_dim: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 4
    decoder_dim_head: int = 64
    decoder_mlp_ratio: int = 4
    patch_px: int = 8


class Attention(nn.Module):  # type: ignore[misc]
    """Multi-head self-attention with its norm inside and no bias."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (chip, token, dim) to the same shape."""
        n, tokens, _ = x.shape
        q, k, v = self.to_qkv(self.norm(x)).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(y.transpose(1, 2).reshape(n, tokens, -1))


class FeedForward(nn.Module):  # type: ignore[misc]
    """Norm, up, GELU, down."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (chip, token, dim) to the same shape."""
        return self.net(x)


class Transformer(nn.Module):  # type: ignore[misc]
    """Blocks and a final norm."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head), FeedForward(dim, mlp_ratio * dim)]) for _ in range(depth)
        )

    def forward(self, x: Tensor, wanted: Sequence[int] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens (chip, token, dim) after the final norm, and the raw outputs of the blocks `wanted`, in its order."""
        kept: dict[int, Tensor] = {}
        for i, (attention, feed_forward) in enumerate(self.layers):
            x = x + attention(x)
            x = x + feed_forward(x)
            if i in wanted:
                kept[i] = x
        return self.norm(x), tuple(kept[i] for i in wanted)


def time_place_codes(when: Tensor, lonlat: Tensor) -> Tensor:
    """What Clay is told of time and place, (chip, 8): sin, cos of week and hour, then of latitude and longitude.

    The angles are 2 pi week / 52, 2 pi hour / 24 (whole hours, as upstream's), and the coordinates in radians. What is
    unknown is 0 in all four channels, as in a fifth of the training.

    Args:
        when: (chip, step, 4) as in `Inputs`; the first date is taken.
        lonlat: (chip, 2), degrees.
    """
    moment = when[:, 0].double()
    angles = torch.stack(
        [
            moment[:, _WEEK] * (2 * math.pi / WEEKS),
            moment[:, _HOUR].floor() * (2 * math.pi / HOURS),
            torch.deg2rad(lonlat[:, 1].double()),
            torch.deg2rad(lonlat[:, 0].double()),
        ],
        dim=1,
    )
    codes = torch.stack([angles.sin(), angles.cos()], dim=2).reshape(-1, 2, CODE_DIM // 2)
    known = codes.isfinite().all(dim=2, keepdim=True)
    return torch.where(known, codes, 0.0).reshape(-1, CODE_DIM).float()


def ground_positions(side: int, dim: int, gsd_m: float, device: torch.device) -> Tensor:
    """Positions of side² patches that know the pixel size, (token, dim): sin, cos of x, then of y, times omega.

    omega_i = gsd x 10000^(-2 (i / (d/4 - 1)) / d), i < d/4; row by row from the north-west corner.
    """
    quarter = dim // 4
    steps = torch.arange(quarter, dtype=torch.float64, device=device) / (quarter - 1)
    omega = gsd_m * _BASE ** (-2.0 * steps / dim)
    angle = torch.arange(side, dtype=torch.float64, device=device)[:, None] * omega
    one = torch.cat([angle.sin(), angle.cos()], dim=1)
    x = one[None].expand(side, side, -1)
    y = one[:, None].expand(side, side, -1)
    return torch.cat([x, y], dim=2).reshape(side * side, dim).float()


def positions(inputs: Inputs, side: int, dim: int) -> Tensor:
    """Positions with time and place in their last channels, (chip, token, dim)."""
    ground = ground_positions(side, dim - CODE_DIM, inputs.gsd_m, inputs.pixels.device)
    codes = time_place_codes(inputs.when, inputs.lonlat)
    n, tokens = len(codes), len(ground)
    return torch.cat([ground[None].expand(n, -1, -1), codes[:, None].expand(-1, tokens, -1)], dim=2)


class ClayEncoder(nn.Module):  # type: ignore[misc]
    """Pixels to tokens."""

    def __init__(self, config: ClayConfig) -> None:
        super().__init__()
        self.config = c = config
        self.cls_token = nn.Parameter(torch.randn(1, 1, c.dim) * 0.02)
        self.patch_embedding = PatchEmbedding(c.dim, c.patch_px)
        self.transformer = Transformer(c.dim, c.depth, c.heads, c.dim_head, c.mlp_ratio)

    def tokens(self, inputs: Inputs) -> Tensor:
        """Patch tokens at their positions, (chip, token, dim)."""
        pixels = inputs.pixels[:, 0]
        patches = self.patch_embedding(pixels, inputs.wavelength_um)
        return patches + positions(inputs, pixels.shape[-1] // self.config.patch_px, self.config.dim)

    def forward(self, tokens: Tensor, wanted: Sequence[int] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `Transformer`, the class token, which has no position, in front of (chip, token, dim)."""
        found: tuple[Tensor, tuple[Tensor, ...]] = self.transformer(
            torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1), wanted
        )
        return found


class ClayDecoder(nn.Module):  # type: ignore[misc]
    """Tokens of the visible patches to the pixels of all."""

    def __init__(self, config: ClayConfig) -> None:
        super().__init__()
        c = config
        self.dim = c.decoder_dim
        self.enc_to_dec = nn.Linear(c.dim, c.decoder_dim)
        self.mask_patch = nn.Parameter(torch.randn(c.decoder_dim) * 0.02)
        self.transformer = Transformer(
            c.decoder_dim, c.decoder_depth, c.decoder_heads, c.decoder_dim_head, c.decoder_mlp_ratio
        )
        self.embed_to_pixels = PixelHead(c.decoder_dim, c.patch_px)

    def forward(self, encoded: Tensor, visible: Tensor, where: Tensor, wavelength_um: Tensor) -> Tensor:
        """Pixels of every patch.

        Args:
            encoded: (chip, 1 + visible token, encoder's dim), the class token first.
            visible: (chip, visible token), index of each.
            where: (chip, token, dim), positions of all.
            wavelength_um: (band,).

        Returns:
            (chip, token, (band, y, x)).
        """
        small = self.enc_to_dec(encoded)
        index = visible[:, :, None].expand(-1, -1, self.dim)
        full = self.mask_patch.to(small.dtype).expand(*where.shape).scatter(1, index, small[:, 1:])
        out, _ = self.transformer(torch.cat([small[:, :1].to(where.dtype), full + where], dim=1))
        pixels: Tensor = self.embed_to_pixels(out[:, 1:], wavelength_um)
        return pixels


class ClayNetwork(Network):
    """Encoder and decoder."""

    def __init__(self, config: ClayConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ClayEncoder(config)
        self.decoder = ClayDecoder(config)

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """See `Network.token_shape`."""
        side = chip_size_px // self.config.patch_px
        return n_steps, side, side

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        """See `Network.encode`."""
        x, kept = self.encoder(self.encoder.tokens(inputs), layers)
        return Encoded(x[:, 0], x[:, 1:], kept)

    def target(self, pixels: Tensor) -> Tensor:
        """What the decoder has to predict of pixels (chip, band, y, x): (chip, token, (band, y, x)), every band."""
        n, bands, height, width = pixels.shape
        p = self.config.patch_px
        cut = pixels.reshape(n, bands, height // p, p, width // p, p)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, (height // p) * (width // p), bands * p * p)

    def reconstruct(self, inputs: Inputs, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the network makes of chips with patches hidden.

        Args:
            inputs: The chips.
            hidden: (chip, mask, token) bool; True is hidden. Every mask hides as many.

        Returns:
            Class tokens (chip, mask, feature) and predicted pixels (chip, mask, token, (band, y, x)).
        """
        n, k, n_tokens = hidden.shape
        tokens = self.encoder.tokens(inputs)
        visible = (~hidden).nonzero()[:, 2].reshape(n, k, -1, 1)
        seen = tokens[:, None].expand(-1, k, -1, -1).gather(2, visible.expand(-1, -1, -1, tokens.shape[2]))
        encoded, _ = self.encoder(seen.flatten(0, 1))
        side = inputs.pixels.shape[-1] // self.config.patch_px
        where = positions(inputs, side, self.config.decoder_dim).repeat_interleave(k, dim=0)
        pixels = self.decoder(encoded, visible.reshape(n * k, -1), where, inputs.wavelength_um)
        return encoded[:, 0].reshape(n, k, -1), pixels.reshape(n, k, n_tokens, -1)

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """Mean absolute error of each patch over bands and pixels, in the unit of the pixels; see `Network`."""
        _, predicted = self.reconstruct(inputs, hidden)
        return (predicted.float() - self.target(inputs.pixels[:, 0])[:, None]).abs().mean(dim=3)

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        """Clay hides the SMALLEST noise; He et al.'s masked autoencoder, and most others, hide the largest."""
        first = noise.argsort(dim=1)[:, : int(mask_ratio * noise.shape[1])]
        return torch.zeros_like(noise, dtype=torch.bool).scatter(1, first, True)
