"""DOFA version 1 in torch: torchgeo's encoder, and the decoder that torchgeo leaves out.

A masked autoencoder whose patch embedding and last layer are made from the wavelengths of the bands by a small
transformer, so that one set of weights takes any bands. Source: Xiong et al. 2024, arXiv:2403.15356.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torchgeo.models import DOFA
from torchgeo.models.dofa import TransformerWeightGenerator

from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.errors import EncoderError, EncoderInputError

NORM_PIX_EPS = 1e-6
"""Added to a patch's variance before its target is divided by the standard deviation."""
HYPER_WIDTH = 128
"""Width of the code of a wavelength."""
HYPER_SCALE = 0.01
"""What the made weights are multiplied by."""
_norm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True, slots=True)
class DofaConfig:
    """Shape of the network, and which of its parts a checkpoint holds."""

    chip_size_px: int = 224
    patch_px: int = 16
    width: int = 768
    depth: int = 12
    n_heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    norm: bool = True
    """Whether there is a final norm; torchgeo's file lacks it: then there is no class token, and tokens are raw."""
    decoder: bool = True
    """Whether there is a decoder, with its mask token and the projector of the teacher's term."""

    @property
    def side(self) -> int:
        """Patches along an edge."""
        return self.chip_size_px // self.patch_px


BASE = DofaConfig()
LARGE = DofaConfig(width=1024, depth=24, n_heads=16)


@dataclass(frozen=True, slots=True)
class DofaEncoded(Encoded):
    """With what upstream's own pooling starts from."""

    raw: Tensor | None = None
    """Patch tokens before the final norm, (chip, token, feature)."""


class PixelHead(nn.Module):  # type: ignore[misc]
    """Makes the decoder's last layer from the wavelengths.

    The bias that the generator makes as well is not used: it has the decoder's width and not a patch's. Its rows run
    band by band, while the targets run pixel by pixel; pretraining compared the two number by number, so this does too.
    """

    def __init__(self, patch_px: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight_generator = TransformerWeightGenerator(HYPER_WIDTH, patch_px**2 * width, width)

    def forward(self, waves: Tensor) -> Tensor:
        """Weights (band x patch x patch, width) from encoded wavelengths (band, 128)."""
        weights, _ = self.weight_generator(waves)
        return weights.reshape(-1, self.width) * HYPER_SCALE


class DofaNetwork(Network):
    """DOFA's masked autoencoder; names and shapes of its state dict are the published ones.

    Weights of before August 2024 have the same names and shapes, but the generated weights of a patch were cut up in
    another order (feature first instead of last). Nothing in a file tells the two apart; this is the current order.
    """

    def __init__(self, config: DofaConfig = BASE) -> None:
        super().__init__()
        c = self.config = config
        encoder = DOFA(
            img_size=c.chip_size_px,
            patch_size=c.patch_px,
            embed_dim=c.width,
            depth=c.depth,
            num_heads=c.n_heads,
            num_classes=0,
            global_pool=not c.norm,
        )
        # torchgeo's parts under this module, so that the names are those of the published file.
        self.patch_embed, self.blocks = encoder.patch_embed, encoder.blocks
        self.cls_token, self.pos_embed = encoder.cls_token, encoder.pos_embed
        self.norm = encoder.norm if c.norm else None
        with torch.no_grad():
            self.pos_embed.copy_(_positions(c.side, c.width))
            nn.init.normal_(self.cls_token, std=0.02)
        if c.decoder:
            self._add_decoder(c)

    def _add_decoder(self, c: DofaConfig) -> None:
        self.projector = nn.Linear(c.width, c.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, c.decoder_width).normal_(std=0.02))
        self.decoder_pos_embed = nn.Parameter(_positions(c.side, c.decoder_width), requires_grad=False)
        self.decoder_embed = nn.Linear(c.width, c.decoder_width)
        self.decoder_blocks = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, 4.0, qkv_bias=True, norm_layer=_norm)
            for _ in range(c.decoder_depth)
        )
        self.decoder_norm = _norm(c.decoder_width)
        self.decoder_pred = PixelHead(c.patch_px, c.decoder_width)

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """One token per patch."""
        side = chip_size_px // self.config.patch_px
        return n_steps, side, side

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        """Encode whole chips."""
        patches, _ = self._patches(inputs)
        x, kept = self._blocks(patches, layers)
        tokens = self._normed(x)
        if self.norm is None:  # a class token that was never normed is not given, of no layer either
            return DofaEncoded(None, tokens[:, 1:], tuple(layer[:, 1:] for layer in kept), x[:, 1:])
        return DofaEncoded(tokens[:, 0], tokens[:, 1:], kept, x[:, 1:])

    def pool(self, encoded: Encoded, pooling: str) -> Tensor:
        """`upstream`: mean of the patch tokens before the final norm, then a norm of its own.

        That last norm (`fc_norm`) is in no published file, so it is as initialised: weight 1, bias 0. A layer's output
        is averaged as it is.
        """
        if pooling != "upstream":
            return super().pool(encoded, pooling)
        raw = encoded.raw if isinstance(encoded, DofaEncoded) else None
        if raw is None:
            return encoded.tokens.mean(dim=1)
        return F.layer_norm(raw.mean(dim=1), (self.config.width,), eps=1e-6)

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """Mean squared error of each patch's pixels, the target standardised by the patch's own mean and sd."""
        patches, waves = self._patches(inputs)
        target = self.targets(inputs.pixels[:, 0])
        head = self._head(waves)
        errors = [
            (self._decode(self._visible(patches, mask), mask, head) - target).square().mean(dim=2)
            for mask in hidden.unbind(dim=1)
        ]
        return torch.stack(errors, dim=1)

    def predictions(self, inputs: Inputs, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Class token of the masked pass (chip, feature), and decoded pixels (chip, token, value).

        Args:
            inputs: The chips.
            hidden: (chip, token) bool.
        """
        patches, waves = self._patches(inputs)
        head, latent = self._head(waves), self._visible(patches, hidden)
        return latent[:, 0], self._decode(latent, hidden, head)

    def teacher_features(self, inputs: Inputs) -> Tensor:
        """What pretraining compared with the teacher's features, (chip, feature): from the last block but one."""
        _, kept = self._blocks(self._patches(inputs)[0], (self.config.depth - 2,))
        projected: Tensor = self.projector(kept[0].mean(dim=1))
        return projected

    def targets(self, pixels: Tensor) -> Tensor:
        """Patches (chip, token, value), pixel by pixel with the band running fastest, standardised each (unbiased)."""
        p, side = self.config.patch_px, self.config.side
        cut = pixels.unflatten(3, (side, p)).unflatten(2, (side, p))  # chip, band, row, y, column, x
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        variance = patches.var(dim=2, keepdim=True)
        return (patches - patches.mean(dim=2, keepdim=True)) / (variance + NORM_PIX_EPS).sqrt()

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        """The int(L (1 - ratio)) smallest values stay visible."""
        kept = noise.argsort(dim=1)[:, : int(noise.shape[1] * (1 - mask_ratio))]
        return torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)

    def _patches(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Embedded patches with positions (chip, token, feature), and the encoded wavelengths (band, 128)."""
        pixels = inputs.pixels[:, 0]
        if len(inputs.wavelength_um) != pixels.shape[1]:
            raise EncoderInputError(
                f"DOFA was given {len(inputs.wavelength_um)} wavelengths for {pixels.shape[1]} bands. "
                "Expected as many. Name one for each band."
            )
        tokens, waves = self.patch_embed(pixels, inputs.wavelength_um.to(pixels.dtype))
        return tokens + self.pos_embed[:, 1:], waves

    def _blocks(self, patches: Tensor, layers: Sequence[int] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Class token and patches through every block; with the outputs of `layers`."""
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        x = torch.cat([first, patches], dim=1)
        outputs: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in layers:
                outputs[i] = x
        return x, tuple(outputs[i] for i in layers)

    def _head(self, waves: Tensor) -> Tensor:
        """The decoder's last layer for these bands, (band x patch x patch, decoder's feature)."""
        if not self.config.decoder or self.norm is None:
            raise EncoderError("These DOFA weights hold no decoder, so there is no loss. Use those of dofa-base-full.")
        head: Tensor = self.decoder_pred(waves)
        return head

    def _visible(self, patches: Tensor, hidden: Tensor) -> Tensor:
        """What a mask leaves, encoded, after the final norm: (chip, 1 + visible, feature)."""
        seen = patches[~hidden].reshape(len(patches), -1, patches.shape[2])
        return self._normed(self._blocks(seen)[0])

    def _normed(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def _decode(self, latent: Tensor, hidden: Tensor, head: Tensor) -> Tensor:
        """Pixels of every patch (chip, token, value) from the class token and the visible patches."""
        x = self.decoder_embed(latent)
        tokens = self.mask_token.to(x.dtype).expand(*hidden.shape, -1).clone()
        tokens[~hidden] = x[:, 1:].flatten(0, 1)
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return F.linear(self.decoder_norm(x)[:, 1:], head)


def _positions(side: int, width: int) -> Tensor:
    """Fixed sine-cosine positions, (1, 1 + side^2, width): zero for the class token, then row by row; x before y."""
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * omega
    code = torch.cat([angle.sin(), angle.cos()], dim=1)
    columns = code[None].expand(side, side, -1)
    rows = code[:, None].expand(side, side, -1)
    patches = torch.cat([columns, rows], dim=2).flatten(0, 1)
    return F.pad(patches, (0, 0, 1, 0))[None].float()
