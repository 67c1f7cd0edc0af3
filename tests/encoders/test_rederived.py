"""Other sizes than the fixtures': each network against a slow second writing of it, where no number of tokens is even.

All have 9 patches, or a multiple of 9: a quarter of them is no whole number, so the rounding of the mask shows too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from mae_cases import TOLERANCE, masked_loss
from naive_models import clay, dofa, jittered, prithvi, satmae

from geoelle.encoders.clay_model import ClayConfig, ClayNetwork
from geoelle.encoders.dofa_model import DofaConfig, DofaNetwork
from geoelle.encoders.network import Inputs, Network
from geoelle.encoders.prithvi_model import PrithviConfig, PrithviNetwork
from geoelle.encoders.satmae_model import SatMaeConfig, SatMaeGroupNetwork

pytestmark = pytest.mark.models
WHEN = np.array([[2019.0, 45.0, 7.0, 10.6], [2021.0, 300.0, 43.0, 3.0]])
LONLAT = np.array([-71.25, 42.5])


def agree(network: Network, inputs: Inputs, noise: torch.Tensor, expected: Any) -> None:
    cls, mean, loss = expected
    with torch.inference_mode():
        encoded = network.encode(inputs)
        hidden = network.hidden_by(noise, 0.75)
        found = masked_loss(network, inputs, hidden)
    assert encoded.cls is not None
    for ours, naive in ((encoded.cls[0], cls), (network.pool(encoded, "mean")[0], mean)):
        assert np.abs(ours.numpy() - naive).max() < TOLERANCE * np.abs(naive).max()
    assert abs(float(found[0]) / loss - 1) < TOLERANCE


def drawn(n_tokens: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(1, *shape, generator=generator), torch.rand(1, n_tokens, generator=generator)


def inputs_of(pixels: torch.Tensor, waves_um: tuple[float, ...], gsd_m: float = 10.0) -> Inputs:
    steps = pixels.shape[1]
    return Inputs(pixels, torch.tensor(WHEN[None, :steps]), torch.tensor(LONLAT[None]), torch.tensor(waves_um), gsd_m)


@pytest.mark.parametrize(("steps", "told"), [(1, False), (2, True), (2, False)])
def test_prithvi(steps: int, told: bool) -> None:
    config = PrithviConfig(
        48, 3, 3, n_steps=2, coordinates=told, image_px=24, patch_px=8, decoder_features=32, decoder_depth=1,
        decoder_heads=2, n_bands=4,
    )  # fmt: skip
    network = PrithviNetwork(config).eval()
    state = jittered(network, 1)
    pixels, noise = drawn(9 * steps, steps, 4, 24, 24)
    sizes = {"heads": (3, 2), "depths": (3, 1), "widths": (48, 32)}
    naive = prithvi(
        state, pixels[0].double().numpy(), noise[0].numpy(), WHEN[:steps, :2], LONLAT, patch=8, told=told, **sizes
    )
    agree(network, inputs_of(pixels, (0.5,) * 4), noise, naive)


def test_satmae() -> None:
    groups = ((0, 3), (1,), (4, 2))
    config = SatMaeConfig(
        48, 3, 3, groups=groups, n_bands=5, image_px=12, patch_px=4, group_features=16, decoder_group_features=8,
        decoder_features=32, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip
    network = SatMaeGroupNetwork(config).eval()
    state = jittered(network, 2)
    pixels, noise = drawn(27, 1, 5, 12, 12)
    sizes = {"heads": (3, 2), "depths": (3, 1), "widths": (48, 32), "group_widths": (16, 8)}
    naive = satmae(state, pixels[0, 0].double().numpy(), noise[0].numpy(), groups=groups, patch=4, **sizes)
    agree(network, inputs_of(pixels, (0.5,) * 5), noise, naive)


@pytest.mark.parametrize("gsd_m", [10.0, 0.6])
def test_clay(gsd_m: float) -> None:
    config = ClayConfig(
        dim=48, depth=3, heads=3, dim_head=8, mlp_ratio=3, decoder_dim=40, decoder_depth=2, decoder_heads=2,
        decoder_dim_head=12, decoder_mlp_ratio=2, patch_px=4,
    )  # fmt: skip
    network = ClayNetwork(config).eval()
    state = jittered(network, 3)
    waves_um = (0.665, 0.56, 3.5)
    pixels, noise = drawn(9, 1, 3, 12, 12)
    lon, lat = np.radians(LONLAT)
    week, hour = 2 * np.pi * 7 / 52, 2 * np.pi * 10 / 24
    codes = np.array([f(angle) for angle in (week, hour, lat, lon) for f in (np.sin, np.cos)])
    sizes = {"heads": (3, 2), "depths": (3, 2), "widths": (48, 40)}
    waves = np.array(waves_um, dtype=np.float32).astype(np.float64)
    naive = clay(state, pixels[0, 0].double().numpy(), noise[0].numpy(), waves, gsd_m, codes, patch=4, **sizes)
    agree(network, inputs_of(pixels, waves_um, gsd_m), noise, naive)


@pytest.mark.parametrize("waves_um", [(0.665, 0.56, 0.49), (3.75, 3.75), (0.49, 0.56, 0.665, 0.83, 2.19)])
def test_dofa(waves_um: tuple[float, ...]) -> None:
    config = DofaConfig(
        chip_size_px=48, width=48, depth=3, n_heads=3, decoder_width=32, decoder_depth=1, decoder_heads=2
    )
    network = DofaNetwork(config).eval()
    state = jittered(network, 4)
    pixels, noise = drawn(9, 1, len(waves_um), 48, 48)
    sizes = {"heads": (3, 2), "depths": (3, 1), "widths": (48, 32)}
    waves = np.array(waves_um, dtype=np.float32).astype(np.float64)
    naive = dofa(state, pixels[0, 0].double().numpy(), noise[0].numpy(), waves, patch=16, **sizes)
    agree(network, inputs_of(pixels, waves_um), noise, naive)
