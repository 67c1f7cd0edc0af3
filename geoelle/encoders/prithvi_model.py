"""Prithvi-EO 1.0 and 2.0: a masked autoencoder of several dates, encoder and decoder.

Sources: Jakubik et al. 2023 (arXiv:2310.18660) and Szwarcman et al. 2024 (arXiv:2412.02732). Imports torch: import it
lazily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoelle.encoders.mae_model import (
    hidden_by_noise,
    refilled,
    sine_code,
    standardised,
    through_blocks,
    transformer_blocks,
    visible_of,
    with_class,
)
from geoelle.encoders.network import Encoded, Inputs, Network


@dataclass(frozen=True, slots=True)
class PrithviConfig:
    """Sizes; the defaults are those that all published models share."""

    n_features: int
    depth: int
    heads: int
    n_steps: int
    """Dates of pretraining, the most that the network takes: they set the size of the position codes in the file."""
    coordinates: bool = False
    """Whether it is told time and place (the models whose names end in TL)."""
    image_px: int = 224
    patch_px: int = 16
    n_bands: int = 6
    decoder_features: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    norm_pix: bool = False
    """Whether the target of each patch is standardised; no published model has it."""


def position_code(n_features: int, n_steps: int, side: int) -> Tensor:
    """The fixed code of every token: of its column, row (6/16 of the features each) and date (4/16), one after another.

    Returns:
        (1, 1 + step x row x column, n_features) float32; the class token's is 0.
    """
    of_space, of_time = n_features // 16 * 6, n_features // 16 * 4
    steps, places = torch.arange(n_steps, dtype=torch.float64), torch.arange(side, dtype=torch.float64)
    step, row, column = (axis.flatten() for axis in torch.meshgrid(steps, places, places, indexing="ij"))
    code = torch.cat([sine_code(column, of_space), sine_code(row, of_space), sine_code(step, of_time)], dim=-1)
    return torch.cat([torch.zeros(1, n_features, dtype=torch.float64), code])[None].float()


class _Scale(nn.Module):  # type: ignore[misc]
    """The learned factor of a code of time or place."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.1))

    def forward(self, values: Tensor, n_features: int) -> Tensor:
        """The code of two numbers, half the features each: (..., 2) to (..., n_features)."""
        # In float32, as pretraining had it.
        return self.scale * sine_code(values.float(), n_features // 2).flatten(-2)


class _PatchEmbedding(nn.Module):  # type: ignore[misc]
    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        kernel = (1, config.patch_px, config.patch_px)
        self.proj = nn.Conv3d(config.n_bands, config.n_features, kernel, stride=kernel)

    def forward(self, pixels: Tensor) -> Tensor:
        """(chip, step, band, y, x) to (chip, step x patch_y x patch_x, feature)."""
        # The kernel spans one date, so this is a convolution in two dimensions, which runs faster.
        weight = self.proj.weight[:, :, 0]
        patches = functional.conv2d(pixels.flatten(0, 1), weight, self.proj.bias, stride=weight.shape[-1])
        tokens = patches.flatten(2).transpose(1, 2)
        return tokens.reshape(len(pixels), -1, weight.shape[0])


class PrithviEncoder(nn.Module):  # type: ignore[misc]
    """From pixels to tokens."""

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self._config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.n_features))
        self.register_buffer("pos_embed", position_code(config.n_features, config.n_steps, _side(config)))
        self.patch_embed = _PatchEmbedding(config)
        if config.coordinates:
            self.temporal_embed_enc, self.location_embed_enc = _Scale(), _Scale()
        self.blocks = transformer_blocks(
            config.n_features, config.depth, config.heads, config.mlp_ratio, config.norm_eps
        )
        self.norm = nn.LayerNorm(config.n_features, eps=config.norm_eps)
        nn.init.normal_(self.cls_token, std=0.02)

    def embedded(self, inputs: Inputs) -> Tensor:
        """Patches with their positions, dates and place: (chip, token, feature), no class token."""
        tokens = self.patch_embed(inputs.pixels) + _code_for(self.pos_embed, inputs, self._config)[:, 1:]
        if self._config.coordinates:
            tokens = _told(tokens, inputs, self.temporal_embed_enc, self.location_embed_enc)
        return tokens

    def forward(self, tokens: Tensor, layers: Sequence[int] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All or some embedded tokens through the blocks: after the final norm with the class token first; `layers`."""
        last, kept = through_blocks(self.blocks, with_class(self.cls_token + self.pos_embed[:, :1], tokens), layers)
        return self.norm(last), kept


class PrithviDecoder(nn.Module):  # type: ignore[misc]
    """From visible tokens to the pixels of all patches."""

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self._config = config
        width = config.decoder_features
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("decoder_pos_embed", position_code(width, config.n_steps, _side(config)))
        self.decoder_embed = nn.Linear(config.n_features, width)
        if config.coordinates:
            self.temporal_embed_dec, self.location_embed_dec = _Scale(), _Scale()
        self.decoder_blocks = transformer_blocks(
            width, config.decoder_depth, config.decoder_heads, config.mlp_ratio, config.norm_eps
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.decoder_pred = nn.Linear(width, config.patch_px**2 * config.n_bands)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latent: Tensor, hidden: Tensor, inputs: Inputs) -> Tensor:
        """The predicted pixels of every patch.

        Args:
            latent: (chip, 1 class token + visible, feature) from the encoder.
            hidden: (chip, token) bool.
            inputs: For dates and place only.

        Returns:
            (chip, token, pixel), as `patches_of` orders them.
        """
        embedded = self.decoder_embed(latent)
        code = _code_for(self.decoder_pos_embed, inputs, self._config)
        tokens = refilled(embedded[:, 1:], hidden, self.mask_token) + code[:, 1:]
        if self._config.coordinates:
            tokens = _told(tokens, inputs, self.temporal_embed_dec, self.location_embed_dec)
        last, _ = through_blocks(self.decoder_blocks, torch.cat([embedded[:, :1] + code[:, :1], tokens], dim=1))
        return self.decoder_pred(self.decoder_norm(last))[:, 1:]


class PrithviNetwork(Network):
    """Encoder and decoder; tokens run (step, patch_y, patch_x)."""

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PrithviEncoder(config)
        self.decoder = PrithviDecoder(config)

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """See `Network.token_shape`."""
        side = chip_size_px // self.config.patch_px
        return n_steps, side, side

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        """See `Network.encode`."""
        last, kept = self.encoder(self.encoder.embedded(inputs), layers)
        return Encoded(last[:, 0], last[:, 1:], kept)

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """Mean squared error of each patch over its pixels and bands. See `Network.patch_errors`."""
        tokens, target = self.encoder.embedded(inputs), self.target(inputs)
        errors = []
        for mask in hidden.unbind(dim=1):
            latent, _ = self.encoder(visible_of(tokens, mask))
            errors.append((self.decoder(latent, mask, inputs) - target).square().mean(dim=-1))
        return torch.stack(errors, dim=1)

    def target(self, inputs: Inputs) -> Tensor:
        """What the decoder ought to predict: (chip, token, pixel)."""
        patches = patches_of(inputs.pixels, self.config.patch_px)
        return standardised(patches) if self.config.norm_pix else patches

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        """See `Network.hidden_by`: the largest noise is hidden."""
        return hidden_by_noise(noise, mask_ratio)


def patches_of(pixels: Tensor, patch_px: int) -> Tensor:
    """(chip, step, band, y, x) to (chip, step x patch_y x patch_x, y x x x band of a patch): bands run fastest."""
    n, steps, bands, height, width = pixels.shape
    rows, columns = height // patch_px, width // patch_px
    folded = pixels.reshape(n, steps, bands, rows, patch_px, columns, patch_px)
    return folded.permute(0, 1, 3, 5, 4, 6, 2).reshape(n, steps * rows * columns, patch_px**2 * bands)


def published_names(tensors: Mapping[str, Tensor], config: PrithviConfig) -> dict[str, Tensor]:
    """A checkpoint's tensors under this network's names, with its own position codes.

    Version 1's file has no prefixes `encoder.` and `decoder.`. Position codes are fixed and the file's are of as many
    dates as whoever saved it had, so they are computed and never loaded.
    """
    flat = not any(name.startswith("encoder.") for name in tensors)
    named = {(_half(name) + name if flat else name): tensor for name, tensor in tensors.items()}
    side = _side(config)
    named["encoder.pos_embed"] = position_code(config.n_features, config.n_steps, side)
    named["decoder.decoder_pos_embed"] = position_code(config.decoder_features, config.n_steps, side)
    return named


def _half(name: str) -> str:
    return "decoder." if name.startswith(("decoder_", "mask_token")) else "encoder."


def _side(config: PrithviConfig) -> int:
    return config.image_px // config.patch_px


def _code_for(code: Tensor, inputs: Inputs, config: PrithviConfig) -> Tensor:
    """The position code of as many dates as there are: the first ones, since that of a date is its number's alone."""
    return code[:, : 1 + inputs.pixels.shape[1] * _side(config) ** 2]


def _told(tokens: Tensor, inputs: Inputs, time: _Scale, place: _Scale) -> Tensor:
    """Tokens told the year and day of year of their date, and longitude and latitude, in this order."""
    n_steps, width = inputs.when.shape[1], tokens.shape[-1]
    when = time(inputs.when[..., :2], width).repeat_interleave(tokens.shape[1] // n_steps, dim=1)
    return tokens + when + place(inputs.lonlat, width)[:, None]
