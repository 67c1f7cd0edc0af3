"""The compact masked autoencoder in torch: what is trained, and what the ONNX graphs are exported from.

Torch is imported when this module is, so nothing that has to start quickly may import it at module level.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_PIX_EPS = 1e-6
"""Added to a patch's variance before its target is divided by the standard deviation."""


@dataclass(frozen=True, slots=True)
class CompactConfig:
    """Shape of the network and definition of its loss."""

    n_bands: int = 3
    patch_px: int = 8
    chip_sizes_px: tuple[int, ...] = (64, 32)
    width: int = 192
    depth: int = 6
    n_heads: int = 6
    decoder_width: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 4
    mlp_ratio: int = 4
    mask_ratio: float = 0.75
    norm_pix: bool = False
    """Whether each patch's target is standardised by that patch's own mean and standard deviation."""

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: bands x pixels."""
        return self.n_bands * self.patch_px**2

    def n_tokens(self, chip_size_px: int) -> int:
        """Patch tokens of a chip with this edge."""
        return (chip_size_px // self.patch_px) ** 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"chip_sizes_px": list(self.chip_sizes_px)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CompactConfig:
        """The inverse of `as_dict`."""
        return cls(**(values | {"chip_sizes_px": tuple(values["chip_sizes_px"])}))


def sin_cos_positions(side: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine positions of shape (side², width), row by row from the north-west corner."""
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * omega[None]
    one = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = one[:, None].expand(side, side, width // 2)
    columns = one[None].expand(side, side, width // 2)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width).float()


def patchify(pixels: Tensor, patch_px: int) -> Tensor:
    """Cut pixels (chip, band, y, x) into patches (chip, token, value), tokens row by row from the north-west."""
    n, bands, height, width = pixels.shape
    rows, columns = height // patch_px, width // patch_px
    patches = pixels.reshape(n, bands, rows, patch_px, columns, patch_px)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, patch_px * patch_px * bands)


class Attention(nn.Module):  # type: ignore[misc]
    """Multi-head self-attention."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (chip, token, width) to the same shape."""
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.out(y.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):  # type: ignore[misc]
    """Pre-norm transformer block."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (chip, token, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CompactMAE(nn.Module):  # type: ignore[misc]
    """Masked autoencoder (He et al. 2022) over normalised pixels, for several chip sizes with one set of weights."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embed = nn.Linear(c.patch_values, c.width)
        self.cls = nn.Parameter(torch.zeros(1, 1, c.width))
        self.blocks = nn.ModuleList(Block(c.width, c.n_heads, c.mlp_ratio) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        self.to_decoder = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_width))
        self.decoder = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.mlp_ratio) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_width)
        self.to_pixels = nn.Linear(c.decoder_width, c.patch_values)
        for size in c.chip_sizes_px:
            side = size // c.patch_px
            # Buffers, so that they lie in the weights file and the graphs refer to them like to any weight.
            self.register_buffer(f"positions_{side * side}", sin_cos_positions(side, c.width)[None])
            self.register_buffer(f"decoder_positions_{side * side}", sin_cos_positions(side, c.decoder_width)[None])
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def _tokens(self, pixels: Tensor) -> Tensor:
        patches = patchify(pixels, self.config.patch_px)
        positions: Tensor = getattr(self, f"positions_{patches.shape[1]}")
        return self.embed(patches) + positions

    def _encode(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole chips, nothing hidden.

        Args:
            pixels: (chip, band, y, x), normalised.

        Returns:
            The class token (chip, width) and the patch tokens (chip, token, width).
        """
        x = self._encode(self._tokens(pixels))
        return x[:, 0], x[:, 1:]

    def target(self, pixels: Tensor) -> Tensor:
        """What the decoder has to predict, (chip, token, value)."""
        target = patchify(pixels, self.config.patch_px)
        if self.config.norm_pix:
            mean = target.mean(dim=2, keepdim=True)
            variance = ((target - mean) ** 2).mean(dim=2, keepdim=True)
            target = (target - mean) / (variance + NORM_PIX_EPS).sqrt()
        return target

    def patch_errors(self, pixels: Tensor, visible: Tensor) -> Tensor:
        """Mean squared error of every patch's reconstruction from the visible patches alone.

        Args:
            pixels: (chip, band, y, x), normalised.
            visible: (chip, n_visible) int64, ascending indices of the tokens that the encoder sees.

        Returns:
            (chip, token). The pretraining loss is the mean over the tokens that were not visible.
        """
        tokens = self._tokens(pixels)
        seen = visible[:, :, None]
        encoded = self._encode(torch.gather(tokens, 1, seen.expand(-1, -1, tokens.shape[2])))
        small = self.to_decoder(encoded).to(tokens.dtype)
        full = self.mask_token.to(small.dtype).expand(tokens.shape[0], tokens.shape[1], -1)
        full = torch.scatter(full, 1, seen.expand(-1, -1, full.shape[2]), small[:, 1:])
        positions: Tensor = getattr(self, f"decoder_positions_{tokens.shape[1]}")
        x = torch.cat([small[:, :1], full + positions], dim=1)
        for block in self.decoder:
            x = block(x)
        predicted = self.to_pixels(self.decoder_norm(x[:, 1:]))
        return ((predicted - self.target(pixels)) ** 2).mean(dim=2)


def hidden_mean(errors: Tensor, visible: Tensor) -> Tensor:
    """The pretraining loss per chip: mean of `errors` (chip, token) over the tokens that are not `visible`."""
    seen = torch.zeros_like(errors, dtype=torch.bool).scatter(1, visible, True)
    n_hidden = errors.shape[1] - visible.shape[1]
    return errors.masked_fill(seen, 0.0).sum(dim=1) / n_hidden
