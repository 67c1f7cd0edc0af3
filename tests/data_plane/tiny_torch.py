"""A masked autoencoder of a few hundred numbers, with a checkpoint of its own: for tests of what opens checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from plain_encoders import plain_card
from torch import Tensor, nn

from geoelle.encoders import Variant
from geoelle.encoders.checkpoints import Checkpoint
from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.encoders.opening import open_encoder
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.records import EncoderCard

PATCH, WIDTH = 8, 8
CHECKPOINT = Checkpoint("tiny", "", "tiny.pt", None, "", None, None, "CC-BY-NC-4.0", True)
"""Under a licence that has to be accepted."""


class TinyNetwork(Network):
    """Patches as vectors, and a decoder that guesses hidden patches from the mean of the visible ones."""

    def __init__(self, *, with_decoder: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, 3 * PATCH**2) if with_decoder else None

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        return n_steps, chip_size_px // PATCH, chip_size_px // PATCH

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        tokens = self._tokens(inputs)
        cls = self.cls * tokens.mean(dim=1)
        raw = torch.cat([cls[:, None], tokens], dim=1) * 2
        return Encoded(cls, tokens, tuple(raw for _ in layers))

    def pool(self, encoded: Encoded, pooling: str) -> Tensor:
        if pooling == "wide" and encoded.cls is not None:
            return torch.cat([encoded.cls, encoded.tokens.mean(dim=1)], dim=1)
        return super().pool(encoded, pooling)

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        assert self.head is not None
        tokens = self._tokens(inputs)
        visible = (~hidden).to(tokens.dtype)
        mean = torch.einsum("nkt,ntf->nkf", visible, tokens) / visible.sum(dim=2, keepdim=True)
        pixels = inputs.pixels[:, 0]
        n, bands, side, _ = pixels.shape
        cut = pixels.reshape(n, bands, side // PATCH, PATCH, side // PATCH, PATCH).permute(0, 2, 4, 3, 5, 1)
        target = cut.reshape(n, 1, -1, bands * PATCH**2)
        return ((self.head(mean)[:, :, None] - target) ** 2).mean(dim=-1)

    def _tokens(self, inputs: Inputs) -> Tensor:
        return self.patch(inputs.pixels[:, 0]).flatten(2).transpose(1, 2)

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        return noise.argsort(dim=1).argsort(dim=1) < int(noise.shape[1] * mask_ratio)


def tiny_card(variant: Variant) -> EncoderCard:
    return plain_card(
        variant, "tiny", n_features=WIDTH, pooling="cls", poolings=("cls", "mean", "wide"), checkpoint="tiny",
        n_layers=2, weights_sha256="", differs=("It was trained on nothing.",),
    )  # fmt: skip


def load_tiny(variant: Variant, **options: Any) -> TorchEncoder:
    return open_encoder(tiny_card(variant), _build, adapt=_adapt, **options)


def _build(tensors: Mapping[str, Tensor] | None) -> Network:
    return TinyNetwork(with_decoder=tensors is None or "head.weight" in tensors)


def _adapt(card: EncoderCard, tensors: Mapping[str, Tensor]) -> EncoderCard:
    if "head.weight" in tensors:
        return card
    return replace(card, loss_kind="unavailable", loss_definition="None: the file has no decoder.")


def write_weights(path: Path, seed: int, *, with_decoder: bool = True) -> Path:
    """A checkpoint, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(TinyNetwork(with_decoder=with_decoder).state_dict(), path)
    return path
