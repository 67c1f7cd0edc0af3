"""A vision transformer of timm's as an encoder of geoelle: DOFA-base's size and bands, for timing before all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import timm
from torch import Tensor

from geoelle.encoders import Variant, get_card
from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.encoders.opening import open_encoder
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.records import EncoderCard

BANDS = ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "swir16", "swir22")
WAVELENGTH_UM = (0.493, 0.56, 0.665, 0.704, 0.74, 0.783, 0.833, 1.614, 2.202)


class TimmNetwork(Network):
    """An encoder only."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.vit = timm.create_model(name, in_chans=len(BANDS), num_classes=0)

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        return n_steps, chip_size_px // 16, chip_size_px // 16

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        found = self.vit.forward_features(inputs.pixels[:, 0])
        return Encoded(found[:, 0], found[:, 1:])

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        raise NotImplementedError("it has no decoder")

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        raise NotImplementedError("it has no decoder")


def card(variant: Variant) -> EncoderCard:
    """Of `timm-vit:base`, or of another size in place of base."""
    return replace(
        get_card("compact-rgb"), name=variant.name("timm-vit"), bands=BANDS, wavelength_um=WAVELENGTH_UM, clip=None,
        mean=(0.1,) * 9, std=(0.1,) * 9, chip_sizes_px=(224,), n_features=768, loss_kind="unavailable",
        checkpoint="none", patch_px=16, shipped_probes=(),
    )  # fmt: skip


def load(variant: Variant, **options: Any) -> TorchEncoder:
    """What the registry calls."""

    def build(tensors: Mapping[str, Tensor] | None) -> Network:
        return TimmNetwork(f"vit_{variant.what or 'base'}_patch16_224")

    return open_encoder(card(variant), build, **options)
