"""The compact masked autoencoder in torch: what is trained, and what the ONNX graphs are exported from.

Torch is imported when this module is, so nothing that has to start quickly may import it at module level.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoelle.encoders.compact_wavelength_model import BandWeights, sin_cos_positions

NORM_PIX_EPS = 1e-6
"""Added to a patch's variance before its target is divided by the standard deviation."""


@dataclass(frozen=True, slots=True)
class CompactConfig:
    """Shape of the network and definition of its loss."""

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
    norm_pix: bool = True
    """Whether each patch's target is standardised by its own mean and standard deviation over all bands present."""
    n_bases: int = 16
    """Filters that the weights of a band are mixed from."""
    mixer_width: int = 64
    """Hidden units of the network from wavelength to mixture."""
    gsd_m: float = 10.0
    """Pixel size at which patches lie one unit of position apart."""

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


def patchify(pixels: Tensor, patch_px: int) -> Tensor:
    """Cut pixels (chip, band, y, x) into patches (chip, token, band, value), tokens row by row from the north-west."""
    n, bands, height, width = pixels.shape
    rows, columns = height // patch_px, width // patch_px
    patches = pixels.reshape(n, bands, rows, patch_px, columns, patch_px)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, bands, patch_px * patch_px)


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
    """Masked autoencoder (He et al. 2022) over normalised pixels of any bands, with one set of weights.

    The weights from and to a band's pixels are generated from its wavelength, as in DOFA (Xiong et al. 2024); a token
    is the mean of what its bands give, so that it does not matter how many there are and in which order.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embed = BandWeights(c.n_bases, c.mixer_width, (c.patch_px**2, c.width))
        self.embed_bias = nn.Linear(c.mixer_width, c.width)
        self.cls = nn.Parameter(torch.zeros(1, 1, c.width))
        self.blocks = nn.ModuleList(Block(c.width, c.n_heads, c.mlp_ratio) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        self.to_decoder = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_width))
        self.decoder = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.mlp_ratio) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_width)
        # The last row is the bias of the pixels.
        self.to_pixels = BandWeights(c.n_bases, c.mixer_width, (c.decoder_width + 1, c.patch_px**2))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def _tokens(self, patches: Tensor, wavelengths: Tensor) -> Tensor:
        """Patches (chip, token, band, value) to tokens (chip, token, width), without their positions."""
        weights = self.embed(wavelengths) / wavelengths.shape[0]
        bias = self.embed_bias(self.embed.hidden(wavelengths).mean(dim=0))
        return patches.flatten(2) @ weights.flatten(0, 1) + bias

    def _encode(self, tokens: Tensor) -> list[Tensor]:
        """The output of every block, with the class token first, and last of all the normalised one."""
        x = torch.cat([self.cls.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return [*outputs, self.norm(x)]

    def _positions(self, pixels: Tensor, width: int, gsd_m: Tensor) -> Tensor:
        rows, columns = (edge // self.config.patch_px for edge in pixels.shape[2:])
        return sin_cos_positions(rows, columns, width, gsd_m / self.config.gsd_m)

    def layers(self, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor) -> list[Tensor]:
        """Encode whole chips, nothing hidden.

        Args:
            pixels: (chip, band, y, x), normalised.
            wavelengths: (band,), in micrometres.
            gsd_m: (), pixel size in metres.

        Returns:
            Every block's output and, last, the normalised one: (chip, 1 + token, width), the class token first.
        """
        patches = patchify(pixels, self.config.patch_px)
        tokens = self._tokens(patches, wavelengths)
        return self._encode(tokens + self._positions(pixels, tokens.shape[2], gsd_m))

    def features(self, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor) -> tuple[Tensor, Tensor]:
        """The class token (chip, width) and the patch tokens (chip, token, width) of whole chips; see `layers`."""
        x = self.layers(pixels, wavelengths, gsd_m)[-1]
        return x[:, 0], x[:, 1:]

    def target(self, patches: Tensor) -> Tensor:
        """What the decoder has to predict, in the shape of `patches` (chip, token, band, value)."""
        if not self.config.norm_pix:
            return patches
        mean = patches.mean(dim=(2, 3), keepdim=True)
        variance = ((patches - mean) ** 2).mean(dim=(2, 3), keepdim=True)
        return (patches - mean) / (variance + NORM_PIX_EPS).sqrt()

    def predict(self, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor, visible: Tensor) -> Tensor:
        """Reconstruct every patch from the visible patches alone.

        Args:
            pixels: (chip, band, y, x), normalised.
            wavelengths: (band,), in micrometres.
            gsd_m: (), pixel size in metres.
            visible: (chip, n_visible) int64, ascending indices of the tokens that the encoder sees.

        Returns:
            (chip, token, band, value), in the units of `target`.
        """
        c = self.config
        patches = patchify(pixels, c.patch_px)
        n, n_tokens = patches.shape[:2]
        seen = visible[:, :, None]
        # Only what is seen is embedded, so nothing of a hidden patch can reach the encoder.
        flat = patches.flatten(2)
        shown = torch.gather(flat, 1, seen.expand(-1, -1, flat.shape[2]))
        shown = shown.reshape(n, visible.shape[1], patches.shape[2], patches.shape[3])
        where = self._positions(pixels, c.width, gsd_m)[visible]
        small = self.to_decoder(self._encode(self._tokens(shown, wavelengths) + where)[-1])
        full = self.mask_token.expand(n, n_tokens, -1)
        full = torch.scatter(full, 1, seen.expand(-1, -1, full.shape[2]), small[:, 1:])
        x = torch.cat([small[:, :1], full + self._positions(pixels, c.decoder_width, gsd_m)], dim=1)
        for block in self.decoder:
            x = block(x)
        weights = self.to_pixels(wavelengths)  # (band, decoder width + 1, value)
        x = self.decoder_norm(x[:, 1:])
        decode = weights[:, :-1].permute(1, 0, 2).flatten(1)
        return (x @ decode + weights[:, -1].flatten()).reshape(n, n_tokens, -1, c.patch_px**2)

    def patch_errors(self, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor, visible: Tensor) -> Tensor:
        """Mean squared error of every patch's reconstruction from the visible patches alone; arguments of `predict`.

        Returns:
            (chip, token). The pretraining loss is the mean over the tokens that were not visible.
        """
        predicted = self.predict(pixels, wavelengths, gsd_m, visible)
        return ((predicted - self.target(patchify(pixels, self.config.patch_px))) ** 2).mean(dim=(2, 3))


def hidden_mean(errors: Tensor, visible: Tensor) -> Tensor:
    """The pretraining loss per chip: mean of `errors` (chip, token) over the tokens that are not `visible`."""
    seen = torch.zeros_like(errors, dtype=torch.bool).scatter(1, visible, True)
    n_hidden = errors.shape[1] - visible.shape[1]
    return errors.masked_fill(seen, 0.0).sum(dim=1) / n_hidden
