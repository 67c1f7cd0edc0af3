"""SatCLIP in torch: timm's image towers, torchgeo's location tower, and the loss between the two.

Images and the places they show are trained to the same embedding. Source: Klemmer et al. 2025,
doi:10.1609/aaai.v39i4.32457. The published harmonics are not the textbook's: the term of order 0 is pi times the
orthonormal one, the others carry (-1)^order. torchgeo's have both, computed by a recursion that is stable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torchgeo.models.satclip import SirenNet, SphericalHarmonics

from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.errors import EncoderError

EARTH_RADIUS_KM = 6371.0


type Tower = Literal["vit", "resnet18", "resnet50", "clip-vit"]


@dataclass(frozen=True, slots=True)
class SatclipConfig:
    """Shape of both towers."""

    tower: Tower = "vit"
    """`clip-vit` is the transformer of OpenAI's CLIP, which upstream's code has but no published checkpoint."""
    chip_size_px: int = 224
    patch_px: int = 16
    """Of a transformer; of a ResNet the pixels per cell of its last feature map."""
    n_bands: int = 13
    width: int = 384
    """Of a transformer; ResNets have their own."""
    depth: int = 12
    n_heads: int = 6
    n_features: int = 256
    """Of the embedding that images and places share."""
    degrees: int = 10
    """Degrees of spherical harmonics, 0 to `degrees` - 1."""
    place_width: int = 512
    place_depth: int = 2


class ClipVit(nn.Module):  # type: ignore[misc]
    """CLIP's vision transformer: no bias in the patches, a norm before the blocks, x sigmoid(1.702 x)."""

    def __init__(self, config: SatclipConfig) -> None:
        super().__init__()
        c = config
        self.num_features = c.width
        self.conv1 = nn.Conv2d(c.n_bands, c.width, c.patch_px, c.patch_px, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(c.width) * c.width**-0.5)
        n_tokens = (c.chip_size_px // c.patch_px) ** 2 + 1
        self.positional_embedding = nn.Parameter(torch.randn(n_tokens, c.width) * c.width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(_ClipBlock(c.width, c.n_heads) for _ in range(c.depth))
        self.proj = nn.Parameter(torch.randn(c.width, c.n_features) * c.width**-0.5)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> Encoded:
        """Class token and patch tokens after the final norm."""
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        outputs: dict[int, Tensor] = {}
        for i, block in enumerate(self.transformer.resblocks):
            x = block(x)
            if i in layers:
                outputs[i] = x
        x = self.ln_post(x)
        return Encoded(x[:, 0], x[:, 1:], tuple(outputs[i] for i in layers))

    def project(self, features: Tensor) -> Tensor:
        """Into the shared embedding."""
        return features @ self.proj


class _ClipBlock(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(y * torch.sigmoid(1.702 * y))


class Vit(VisionTransformer):  # type: ignore[misc]
    """timm's vision transformer, whose classifier is SatCLIP's projection."""

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> Encoded:
        """Class token and patch tokens after the final norm."""
        if not layers:
            x = self.forward_features(pixels)
            return Encoded(x[:, 0], x[:, 1:])
        x, kept = self.forward_intermediates(pixels, list(layers), return_prefix_tokens=True, output_fmt="NLC")
        found = dict(zip(sorted(set(layers)), (torch.cat([first, rest], 1) for rest, first in kept), strict=True))
        return Encoded(x[:, 0], x[:, 1:], tuple(found[i] for i in layers))

    def project(self, features: Tensor) -> Tensor:
        """Into the shared embedding."""
        projected: Tensor = self.head(features)
        return projected


class ResNet(timm.models.ResNet):  # type: ignore[misc]
    """timm's ResNet, whose classifier is SatCLIP's projection. It has no class token and no blocks to ask for."""

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> Encoded:
        """The cells of the last feature map as tokens; their mean is what the ResNet gives."""
        return Encoded(None, self.forward_features(pixels).flatten(2).transpose(1, 2))

    def project(self, features: Tensor) -> Tensor:
        """Into the shared embedding."""
        projected: Tensor = self.fc(features)
        return projected


class LocationTower(nn.Module):  # type: ignore[misc]
    """Spherical harmonics and a SIREN, in float64 as published."""

    def __init__(self, degrees: int, siren: nn.Module) -> None:
        super().__init__()
        self.posenc = SphericalHarmonics(degrees)
        self.nnet = siren

    def forward(self, lonlat: Tensor) -> Tensor:
        """Embed places (place, 2), degrees, longitude first: (place, feature) float64."""
        placed: Tensor = self.nnet(self.posenc(lonlat.double()))
        return placed


class SatclipNetwork(Network):
    """Both towers; names and shapes of the state dict are the published ones (which hold the SIREN twice)."""

    def __init__(self, config: SatclipConfig) -> None:
        super().__init__()
        c = self.config = config
        self.visual = _image_tower(c)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.nnet = SirenNet(c.degrees**2, c.place_width, c.n_features, c.place_depth).double()
        self.location = LocationTower(c.degrees, self.nnet)

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """One token per patch, or cell of the ResNet's last feature map."""
        side = chip_size_px // self.config.patch_px
        return n_steps, side, side

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        """Encode whole chips with the image tower."""
        encoded: Encoded = self.visual.encode(inputs.pixels[:, 0], layers)
        return encoded

    def pool(self, encoded: Encoded, pooling: str) -> Tensor:
        """`backbone`: class token, or mean of a ResNet's cells. `projected`: that, in the space of the places."""
        features = super().pool(encoded, "cls" if pooling != "mean" else "mean")
        if pooling != "projected":
            return features
        projected: Tensor = self.visual.project(features)
        return projected

    def locate(self, lonlat: Tensor) -> Tensor:
        """Embeddings of places, (place, feature) float32, from degrees (place, 2) float64, longitude first."""
        placed: Tensor = self.location(lonlat)
        return placed.float()

    def logits(self, image: Tensor, places: Tensor) -> Tensor:
        """exp(logit_scale) x cosine of image and place embeddings, (chip, place), in float32."""
        return self.logit_scale.float().exp() * cosines(image, places)

    def place_losses(self, image: Tensor, own_lonlat: Tensor, bank: Bank, nearer_km: float) -> Tensor:
        """How badly each image finds its own place among its own and those of a bank, (chip,), in nats.

        Args:
            image: Image embeddings, (chip, feature).
            own_lonlat: Degrees, (chip, 2).
            bank: The other places.
            nearer_km: Places of the bank nearer to the chip than this are left out.
        """
        own = self.logit_scale.float().exp() * F.cosine_similarity(image.float(), self.locate(own_lonlat), dim=1)
        others = self.logits(image, bank.embedding)
        apart = distances_km(own_lonlat, bank.lonlat)
        others = others.masked_fill(apart < nearer_km, -torch.inf)
        return torch.cat([own[:, None], others], dim=1).logsumexp(dim=1) - own

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """SatCLIP hides nothing.

        Raises:
            EncoderError: Always.
        """
        raise EncoderError("SatCLIP's loss is of a whole chip. It has none per patch. Use pretraining_loss.")

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        """No token is hidden."""
        return torch.zeros_like(noise, dtype=torch.bool)


@dataclass(frozen=True, slots=True)
class Bank:
    """Fixed places that an image's own place is told from."""

    lonlat: Tensor
    """(place, 2) float64, degrees."""
    embedding: Tensor
    """(place, feature) float32."""


def cosines(image: Tensor, places: Tensor) -> Tensor:
    """Cosine of every image embedding and every place embedding, (chip, place)."""
    return F.normalize(image.float(), dim=1) @ F.normalize(places.float(), dim=1).T


def batch_losses(logits: Tensor) -> Tensor:
    """SatCLIP's training loss per chip of a batch, (chip,): mean of image-to-place and place-to-image cross-entropy.

    Args:
        logits: (chip, place), the place of chip i at i.
    """
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")) / 2


def distances_km(first: Tensor, second: Tensor) -> Tensor:
    """Great-circle distances of every pair of places in degrees, (first, second), on a sphere."""
    cosine = _unit(first.double()) @ _unit(second.double()).T
    return EARTH_RADIUS_KM * cosine.clamp(-1, 1).arccos()


def _unit(lonlat: Tensor) -> Tensor:
    lon, lat = torch.deg2rad(lonlat).unbind(dim=1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=1)


def _image_tower(c: SatclipConfig) -> nn.Module:
    if c.tower == "clip-vit":
        return ClipVit(c)
    if c.tower == "vit":
        return Vit(
            img_size=c.chip_size_px,
            patch_size=c.patch_px,
            in_chans=c.n_bands,
            num_classes=c.n_features,
            embed_dim=c.width,
            depth=c.depth,
            num_heads=c.n_heads,
        )
    block, depths = (
        (timm.models.resnet.BasicBlock, (2, 2, 2, 2))
        if c.tower == "resnet18"
        else (timm.models.resnet.Bottleneck, (3, 4, 6, 3))
    )
    return ResNet(block, depths, num_classes=c.n_features, in_chans=c.n_bands)
