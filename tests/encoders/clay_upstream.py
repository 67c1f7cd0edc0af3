"""Numbers of Clay's own code at a small size (../shared/encoders/clay), as networks, inputs and batches."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoelle.encoders import get_card
from geoelle.encoders.checkpoints import Checkpoint
from geoelle.encoders.clay_model import ClayConfig, ClayNetwork
from geoelle.encoders.network import Inputs
from geoelle.records import ChipBatch, EncoderCard

CHECKPOINT = Checkpoint(
    name="clay-v1.5", repo="made-with-clay/Clay", filename="v1.5/clay-v1.5.ckpt", revision=None, url="", n_bytes=None,
    sha256=None, licence="Apache-2.0", non_commercial=False, inside="state_dict", strip=("model.",),
    drop=("teacher.", "mrl.", "proj."),
)  # fmt: skip
NAT = np.datetime64("NaT", "ns")
TIMES = np.array(["2020-01-02T00:20", "2020-02-12T03:59", "2020-03-25T06:00", "NaT"], dtype="datetime64[ns]")
"""ISO weeks 1, 7 and 13 at 0, 3 and 6 h: what the fixture's codes are of."""
LONLAT = np.array([(-120, -40), (-89, -23), (-58, -6), (np.nan, np.nan)], dtype=np.float64)


class Upstream:
    """The fixture and the network with its weights."""

    def __init__(self, folder: Path) -> None:
        content = torch.load(folder / "shrunk_sentinel-2-l2a.pt", weights_only=True)
        self.data: dict[str, Tensor] = content["data"]
        self.state: dict[str, Tensor] = content["state_dict"]
        names = {field.name for field in fields(ClayConfig)}
        self.config = ClayConfig(**{name: value for name, value in content["config"].items() if name in names})
        self.network = ClayNetwork(self.config).eval()
        self.network.load_state_dict(
            {name: tensor for name, tensor in self.state.items() if not name.startswith("proj.")}, strict=True
        )

    @property
    def inputs(self) -> Inputs:
        """The fixture's, with time and place as the network is told them."""
        from geoelle.encoders.moments import moments

        return Inputs(
            self.data["pixels"][:, None],
            torch.from_numpy(moments(TIMES[:, None])),
            torch.from_numpy(LONLAT),
            self.data["waves"],
            float(self.data["gsd"]),
        )

    @property
    def hidden(self) -> Tensor:
        """(chip, token) bool, from the noise that upstream drew."""
        return ClayNetwork.hidden_by(self.data["noise"], 0.75)

    def card(self, full_name: str = "clay-v1.5") -> EncoderCard:
        """Clay's card with the small network's sizes."""
        return replace(get_card(full_name), n_features=self.config.dim, n_layers=self.config.depth)

    def batch(self) -> ChipBatch:
        """The fixture's inputs as geoelle reads them: reflectance, UTC, degrees."""
        card = self.card()
        mean, std = (np.array(values)[:, None, None] for values in (card.mean, card.std))
        pixels = self.data["pixels"].numpy().astype(np.float64) * std + mean
        return make_batch(card, pixels[:, None], time=TIMES[:, None], lonlat=LONLAT)


def make_batch(card: EncoderCard, pixels: Any, **changes: Any) -> ChipBatch:
    """A batch that fits the card, of pixels (chip, step, band, y, x)."""
    pixels = np.asarray(pixels, dtype=np.float32)
    n, steps, _, height, width = pixels.shape
    batch = ChipBatch(
        sensor=card.sensor,
        units=card.units,
        bands=card.bands,
        pixels=pixels,
        valid=np.ones((n, steps, height, width), dtype=bool),
        time=np.full((n, steps), NAT),
        lonlat=np.full((n, 2), np.nan),
        gsd_m=card.gsd_m,
        chip_id=np.array([f"chip-{i}" for i in range(n)]),
    )
    return replace(batch, **changes)


def difference(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest number expected."""
    found, expected = (np.asarray(values, dtype=np.float64) for values in (found, expected))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
