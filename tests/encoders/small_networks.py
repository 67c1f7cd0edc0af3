"""A small masked autoencoder of timm's blocks, with dates and groups of bands, and encoders made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from geoelle.encoders import Variant, get_card
from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.encoders.opening import open_encoder
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.records import ChipBatch, EncoderCard

DIM, PATCH, SIZE, DEPTH = 32, 8, 32, 3


class SmallNetwork(Network):
    """Patches of each date and group of bands as tokens, in the order (step, group, y, x)."""

    def __init__(self, groups: Sequence[Sequence[int]] = ((0, 1, 2),), *, class_token: bool = True, seed: int = 0):
        super().__init__()
        self.groups = [list(group) for group in groups]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeds = nn.ModuleList(nn.Conv2d(len(g), DIM, PATCH, PATCH) for g in self.groups)
            self.blocks = nn.ModuleList(Block(DIM, 4, qkv_bias=True) for _ in range(DEPTH))
            self.norm = nn.LayerNorm(DIM)
            self.cls_token = nn.Parameter(torch.randn(1, 1, DIM)) if class_token else None
            self.mask_token = nn.Parameter(torch.randn(DIM))
            self.decoder = Block(DIM, 4, qkv_bias=True)
            self.heads = nn.ModuleList(nn.Linear(DIM, len(g) * PATCH**2) for g in self.groups)
            self.place = nn.Parameter(torch.randn(64 * len(self.groups), DIM))
        self.calls: list[tuple[int, int]] = []
        """(chips, masks) of every call; masks are 0 where it encodes."""

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        return n_steps * len(self.groups), chip_size_px // PATCH, chip_size_px // PATCH

    def _tokens(self, inputs: Inputs) -> Tensor:
        n = len(inputs.pixels)
        flat = inputs.pixels.flatten(0, 1)
        parts = [embed(flat[:, g]).flatten(2).mT for embed, g in zip(self.embeds, self.groups, strict=True)]
        tokens = torch.stack(parts, dim=1).reshape(n, -1, DIM)
        # Day of year and place shift all tokens, so that an input that went to the wrong chip shows.
        shift = inputs.when[:, :, 1].nan_to_num().mean(dim=1) / 366 + inputs.lonlat.nan_to_num().sum(dim=1) / 180
        return tokens + self.place[: tokens.shape[1]] + shift[:, None, None].to(tokens.dtype) * inputs.gsd_m / 10

    def _blocks(self, tokens: Tensor, layers: Sequence[int] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        found = []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            if i in layers:
                found.append(tokens)
        return self.norm(tokens), tuple(found)

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        self.calls.append((len(inputs.pixels), 0))
        tokens, found = self._blocks(self._tokens(inputs), layers)
        if self.cls_token is None:
            return Encoded(None, tokens, found)
        return Encoded(tokens[:, 0], tokens[:, 1:], found)

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        n, k, n_tokens = hidden.shape
        self.calls.append((n, k))
        start = 0 if self.cls_token is None else 1
        tokens = self._tokens(inputs).repeat_interleave(k, dim=0)
        seen = ~hidden.flatten(0, 1)
        visible, _ = self._blocks(tokens[seen].reshape(n * k, -1, DIM))
        whole = self.mask_token.to(visible.dtype).expand(n * k, n_tokens, DIM).clone()
        whole[seen] = visible[:, start:].flatten(0, 1)
        decoded = self.decoder(whole + self.place[:n_tokens]).reshape(n * k, -1, len(self.groups), 16, DIM)
        errors = []
        pixels = inputs.pixels.repeat_interleave(k, dim=0)
        for i, (head, group) in enumerate(zip(self.heads, self.groups, strict=True)):
            parts = pixels[:, :, group].unfold(3, PATCH, PATCH).unfold(4, PATCH, PATCH)
            target = parts.permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(2, 3)
            errors.append((head(decoded[:, :, i]) - target).square().mean(dim=-1))
        return torch.stack(errors, dim=2).reshape(n, k, n_tokens)

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        rank = noise.argsort(dim=1).argsort(dim=1)
        return rank >= noise.shape[1] - int(mask_ratio * noise.shape[1])


def small_card(network: SmallNetwork | None = None, **changes: Any) -> EncoderCard:
    """A card that fits a `SmallNetwork` and the batches of `small_batch`."""
    network = network or SmallNetwork()
    card = replace(
        get_card("compact-rgb"),
        name="small",
        n_features=DIM,
        pooling="mean",
        chip_sizes_px=(SIZE,),
        n_layers=DEPTH,
        n_steps=(1, 2),
        tokens_per_patch=len(network.groups),
        poolings=("cls", "mean") if network.cls_token is not None else ("mean",),
        mask_ratio=0.75,
    )
    return replace(card, **changes)


def small_encoder(network: SmallNetwork | None = None, card: EncoderCard | None = None, **options: Any) -> TorchEncoder:
    """A `TorchEncoder` on the CPU over a small network."""
    network = network or SmallNetwork()
    return TorchEncoder(card or small_card(network), network, **{"device": "cpu", "threads": 1, **options})


def small_batch(n: int, *, steps: int = 1, seed: int = 0, **changes: Any) -> ChipBatch:
    """Chips of noise, each at a place and time of its own."""
    rng = np.random.default_rng(seed)
    time = np.datetime64("2020-01-05", "ns") + rng.integers(0, 360, (n, steps)) * np.timedelta64(1, "D")
    batch = ChipBatch(
        sensor="sentinel-2-l2a",
        units="reflectance",
        bands=("red", "green", "blue"),
        pixels=rng.uniform(0, 0.3, (n, steps, 3, SIZE, SIZE)).astype(np.float32),
        valid=np.ones((n, steps, SIZE, SIZE), dtype=bool),
        time=time,
        lonlat=rng.uniform(-90, 90, (n, 2)),
        gsd_m=10.0,
        chip_id=np.array([f"chip-{seed}-{i}" for i in range(n)]),
    )
    return replace(batch, **changes)


def load_small(variant: Variant, **options: Any) -> TorchEncoder:
    """What the registry calls for the encoder `small` with the checkpoint `small`."""
    card = small_card(checkpoint="small")
    return open_encoder(card, lambda _: SmallNetwork(), **{"device": "cpu", "threads": 1, **options})
