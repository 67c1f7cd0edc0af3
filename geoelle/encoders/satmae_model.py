"""SatMAE: masked autoencoders of groups of Sentinel-2 bands, and of RGB images.

Source: Cong et al. 2022 (arXiv:2207.08051). Imports torch: import it lazily.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geoelle.encoders.mae_model import (
    hidden_by_noise,
    refilled,
    sine_code,
    through_blocks,
    transformer_blocks,
    visible_of,
    with_class,
)
from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.errors import EncoderError


@dataclass(frozen=True, slots=True)
class SatMaeConfig:
    """Sizes; the defaults are those of the published Sentinel-2 models."""

    n_features: int
    depth: int
    heads: int
    groups: tuple[tuple[int, ...], ...] = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
    """Indices of the bands that share a token; empty: all bands in one, as the RGB model has it."""
    n_bands: int = 10
    image_px: int = 96
    patch_px: int = 8
    group_features: int = 256
    """Features of the code that tell the groups apart; the others tell the place."""
    decoder_group_features: int = 128
    decoder_features: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6


def place_code(n_features: int, side: int) -> Tensor:
    """The fixed code of every patch: of its column, then of its row, half the features each.

    Returns:
        (1, 1 + row x column, n_features) float32; the class token's is 0.
    """
    places = torch.arange(side, dtype=torch.float64)
    row, column = (axis.flatten() for axis in torch.meshgrid(places, places, indexing="ij"))
    code = torch.cat([sine_code(axis, n_features // 2) for axis in (column, row)], dim=-1)
    return torch.cat([torch.zeros(1, n_features, dtype=torch.float64), code])[None].float()


def group_code(n_features: int, n_groups: int) -> Tensor:
    """The fixed code of every group, (1, group, n_features) float32."""
    return sine_code(torch.arange(n_groups, dtype=torch.float64), n_features)[None].float()


class _Embedding(nn.Module):  # type: ignore[misc]
    def __init__(self, n_bands: int, config: SatMaeConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(n_bands, config.n_features, config.patch_px, stride=config.patch_px)

    def forward(self, pixels: Tensor) -> Tensor:
        """(chip, band, y, x) to (chip, patch, feature)."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class _SatMae(Network):
    """What both have: the class token, the blocks, the decoder's but for what predicts pixels."""

    def __init__(self, config: SatMaeConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_features
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.n_features))
        self.blocks = transformer_blocks(
            config.n_features, config.depth, config.heads, config.mlp_ratio, config.norm_eps
        )
        self.norm = nn.LayerNorm(config.n_features, eps=config.norm_eps)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_embed = nn.Linear(config.n_features, width)
        self.decoder_blocks = transformer_blocks(
            width, config.decoder_depth, config.decoder_heads, config.mlp_ratio, config.norm_eps
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    @abstractmethod
    def embedded(self, inputs: Inputs) -> Tensor:
        """Patches with their positions: (chip, token, feature), no class token."""

    def latent(self, tokens: Tensor, layers: Sequence[int] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All or some embedded tokens through the blocks: after the final norm with the class token first; `layers`.

        The class token has no position of its own: its code is 0.
        """
        last, kept = through_blocks(self.blocks, with_class(self.cls_token, tokens), layers)
        return self.norm(last), kept

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        """See `Network.encode`."""
        last, kept = self.latent(self.embedded(inputs), layers)
        return Encoded(last[:, 0], last[:, 1:], kept)

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        """See `Network.hidden_by`: the largest noise is hidden, whatever group it belongs to."""
        return hidden_by_noise(noise, mask_ratio)


class SatMaeGroupNetwork(_SatMae):
    """The Sentinel-2 model: one token for each patch and group of bands; tokens run (group, patch_y, patch_x)."""

    def __init__(self, config: SatMaeConfig) -> None:
        super().__init__(config)
        side, n_groups = config.image_px // config.patch_px, len(config.groups)
        place, decoder_place = (
            config.n_features - config.group_features,
            config.decoder_features - config.decoder_group_features,
        )
        self.register_buffer("pos_embed", place_code(place, side))
        self.register_buffer("channel_embed", group_code(config.group_features, n_groups))
        self.register_buffer("decoder_pos_embed", place_code(decoder_place, side))
        # The last row is the class token's.
        self.register_buffer("decoder_channel_embed", group_code(config.decoder_group_features, n_groups + 1))
        self.patch_embed = nn.ModuleList([_Embedding(len(group), config) for group in config.groups])
        self.decoder_pred = nn.ModuleList(
            [nn.Linear(config.decoder_features, len(group) * config.patch_px**2) for group in config.groups]
        )

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """See `Network.token_shape`."""
        side = chip_size_px // self.config.patch_px
        return n_steps * len(self.config.groups), side, side

    def embedded(self, inputs: Inputs) -> Tensor:
        """See `_SatMae.embedded`."""
        pixels = inputs.pixels[:, 0]
        groups = [
            embed(pixels[:, list(group)]) for embed, group in zip(self.patch_embed, self.config.groups, strict=True)
        ]
        return torch.cat(groups, dim=1) + _code(self.pos_embed[:, 1:], self.channel_embed)

    def predicted(self, latent: Tensor, hidden: Tensor) -> Tensor:
        """The decoder's predictions, its heads' bands one after another: group 0's, group 1's, and so on.

        Args:
            latent: (chip, 1 class token + visible, feature) from the encoder.
            hidden: (chip, token) bool.

        Returns:
            (chip, band, patch, pixel).
        """
        embedded = self.decoder_embed(latent)
        cls_code = _code(self.decoder_pos_embed[:, :1], self.decoder_channel_embed[:, -1:])
        code = _code(self.decoder_pos_embed[:, 1:], self.decoder_channel_embed[:, :-1])
        tokens = refilled(embedded[:, 1:], hidden, self.mask_token) + code
        last, _ = through_blocks(self.decoder_blocks, torch.cat([embedded[:, :1] + cls_code, tokens], dim=1))
        by_group = self.decoder_norm(last)[:, 1:].chunk(len(self.config.groups), dim=1)
        bands = [
            head(tokens).unflatten(-1, (-1, self.config.patch_px**2)).transpose(1, 2)
            for head, tokens in zip(self.decoder_pred, by_group, strict=True)
        ]
        return torch.cat(bands, dim=1)

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """Mean squared error of each group and patch over its bands and pixels. See `Network.patch_errors`.

        Pretraining compares the heads' bands, one after another, with the bands in the order of the input. So the
        fourth output of group 0 learned to be band 3 (B05), which counts as group 1's, and so on. That is the loss
        that the published weights were trained with, so it is done here too.
        """
        tokens, target = self.embedded(inputs), patches_of(inputs.pixels[:, 0], self.config.patch_px)
        errors = []
        for mask in hidden.unbind(dim=1):
            latent, _ = self.latent(visible_of(tokens, mask))
            of_band = (self.predicted(latent, mask) - target).square().mean(dim=-1)
            errors.append(torch.cat([of_band[:, list(group)].mean(dim=1) for group in self.config.groups], dim=1))
        return torch.stack(errors, dim=1)


class SatMaeRgbNetwork(_SatMae):
    """The RGB model. Its decoder is there for its names: what it was trained to predict is not established."""

    def __init__(self, config: SatMaeConfig) -> None:
        super().__init__(config)
        side = config.image_px // config.patch_px
        self.register_buffer("pos_embed", place_code(config.n_features, side))
        self.register_buffer("decoder_pos_embed", place_code(config.decoder_features, side))
        self.patch_embed = _Embedding(config.n_bands, config)
        self.decoder_pred = nn.Linear(config.decoder_features, config.n_bands * config.patch_px**2)

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """See `Network.token_shape`."""
        side = chip_size_px // self.config.patch_px
        return n_steps, side, side

    def embedded(self, inputs: Inputs) -> Tensor:
        """See `_SatMae.embedded`."""
        return self.patch_embed(inputs.pixels[:, 0]) + self.pos_embed[:, 1:]

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """There is none.

        Raises:
            EncoderError: Always.
        """
        raise EncoderError(
            "The RGB model of SatMAE has no loss here: whether its targets were standardised per patch is not "
            "established. Use it to embed only."
        )


def patches_of(pixels: Tensor, patch_px: int) -> Tensor:
    """(chip, band, y, x) to (chip, band, patch_y x patch_x, pixel)."""
    n, bands, height, width = pixels.shape
    rows, columns = height // patch_px, width // patch_px
    folded = pixels.reshape(n, bands, rows, patch_px, columns, patch_px)
    return folded.transpose(3, 4).reshape(n, bands, rows * columns, patch_px**2)


def _code(place: Tensor, group: Tensor) -> Tensor:
    """Place (1, patch, a) and group (1, group, b) side by side for every token: (1, group x patch, a + b)."""
    n_places, n_groups = place.shape[1], group.shape[1]
    return torch.cat([place.repeat(1, n_groups, 1), group.repeat_interleave(n_places, dim=1)], dim=-1)
