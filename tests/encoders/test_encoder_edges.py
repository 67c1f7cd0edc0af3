"""Edges that no published size has, but a batch may: odd numbers of tokens, far longitudes, layers without a norm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from mae_cases import batch_for

from geoelle.encoders import check_batch, get_card
from geoelle.encoders.clay_model import ClayConfig, ClayNetwork
from geoelle.encoders.dofa import prepare
from geoelle.encoders.dofa_model import DofaConfig, DofaNetwork
from geoelle.encoders.network import Network
from geoelle.encoders.prithvi import prepared
from geoelle.encoders.prithvi_model import PrithviConfig, PrithviNetwork
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.errors import EncoderError, EncoderInputError

pytestmark = pytest.mark.models


def small(name: str, network: Network, size: int, width: int) -> TorchEncoder:
    card = replace(get_card(name), chip_sizes_px=(size,), n_features=width, n_layers=2, n_parameters=0)
    return TorchEncoder(card, network, prepare=prepared if name.startswith("prithvi") else prepare, device="cpu")


def prithvi(name: str = "prithvi-eo-2.0-300m") -> TorchEncoder:
    torch.manual_seed(0)
    config = PrithviConfig(
        48, 2, 3, n_steps=4, coordinates=name.endswith("tl"), image_px=48, decoder_features=32, decoder_depth=1,
        decoder_heads=2,
    )  # fmt: skip
    return small(name, PrithviNetwork(config), 48, 48)


def dofa(*, norm: bool) -> TorchEncoder:
    torch.manual_seed(0)
    config = DofaConfig(chip_size_px=32, width=48, depth=2, n_heads=3, norm=norm, decoder=False)
    return small("dofa-base", DofaNetwork(config), 32, 48)


def test_drawn_masks_round_as_the_networks_pretraining_did() -> None:
    """Of 9 tokens, 2 stay visible: int(9 x 0.25) are kept, which is not the same as int(9 x 0.75) hidden."""
    encoder = prithvi()
    batch = batch_for(encoder.card)
    masks = encoder.fixed_masks(batch.chip_id, 3, 48)
    assert masks.sum(axis=2).tolist() == [[7] * 3] * 2
    noise = torch.rand(2, 9, generator=torch.Generator().manual_seed(0))
    upstream = encoder.network.hidden_by(noise, 0.75)[:, None].numpy()
    assert np.isfinite(encoder.pretraining_loss(batch, upstream)).all()
    with pytest.raises(EncoderInputError, match="7 of 9 tokens hidden"):
        encoder.pretraining_loss(batch, np.arange(9)[None, None].repeat(2, axis=0) < 6)


def test_clay_rounds_the_hidden_ones_down() -> None:
    config = ClayConfig(
        dim=32, depth=1, heads=2, dim_head=8, decoder_dim=32, decoder_depth=1, decoder_heads=2, decoder_dim_head=8
    )
    card = replace(get_card("clay-v1.5"), chip_sizes_px=(24,), n_features=32, n_layers=1)
    encoder = TorchEncoder(card, ClayNetwork(config), device="cpu")
    batch = batch_for(replace(card, scale=1.0))
    assert encoder.fixed_masks(batch.chip_id, 1, 24).sum() == 2 * 6
    assert encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 1, 24)).shape == (2, 1)


@pytest.mark.parametrize("norm", [True, False])
def test_dofas_layers_are_patches_alone(norm: bool) -> None:
    """torchgeo's file has no final norm and so gives no class token: not among a layer's tokens either."""
    encoder = dofa(norm=norm)
    card = replace(encoder.card, scale=encoder.card.scale * 4)
    batch = batch_for(card)
    tokens = encoder.embed_tokens(batch, layer=1)
    assert tokens.shape == (2, 2, 2, 48)
    with torch.inference_mode():
        pixels = torch.from_numpy(prepare(encoder.card, batch))
        network = encoder.network
        assert isinstance(network, DofaNetwork)
        waves = torch.tensor(encoder.card.wavelength_um)
        x = network.patch_embed(pixels[:, 0], waves)[0] + network.pos_embed[:, 1:]
        x = torch.cat([(network.cls_token + network.pos_embed[:, :1]).expand(2, -1, -1), x], dim=1)
        for block in network.blocks:
            x = block(x)
    np.testing.assert_allclose(tokens.reshape(2, 4, 48), x[:, 1:], atol=1e-5)
    np.testing.assert_allclose(encoder.embed(batch, layer=1), x[:, 1:].mean(dim=1), atol=1e-5)


def test_longitudes_beyond_half_a_turn_are_the_same_places() -> None:
    encoder = prithvi("prithvi-eo-2.0-300m-tl")
    batch = batch_for(encoder.card)
    here = replace(batch, lonlat=np.array([[-170.0, 10.0], [179.0, -10.0]]))
    round_ = replace(batch, lonlat=np.array([[190.0, 10.0], [-181.0, -10.0]]))
    np.testing.assert_array_equal(encoder.embed(here), encoder.embed(round_))
    assert np.abs(encoder.embed(here) - encoder.embed(batch)).max() > 1e-4


def test_latitude_in_the_place_of_longitude_is_refused_where_place_is_optional_too() -> None:
    card = get_card("clay-v1.5")
    batch = batch_for(replace(card, chip_sizes_px=(64,)))
    check_batch(card, replace(batch, lonlat=np.full((2, 2), np.nan)))
    with pytest.raises(EncoderInputError, match=r"longitude, latitude .*latitudes from 50 to 120.*longitude first"):
        check_batch(card, replace(batch, lonlat=np.array([[50.0, 120.0], [np.nan, 50.0]])))


def test_times_that_are_no_times_are_refused() -> None:
    card = get_card("clay-v1.5")
    batch = batch_for(replace(card, chip_sizes_px=(64,)))
    with pytest.raises(EncoderInputError, match="time as datetime64 but the batch has time as int64"):
        check_batch(card, replace(batch, time=batch.time.astype(np.int64)))


@pytest.mark.parametrize(
    "name", ["dofa-base", "dofa-base-full", "dofa-large", "satclip-vit16-l10", "satclip-resnet50-l40"]
)
def test_pixels_have_a_size(name: str) -> None:
    with pytest.raises(EncoderError, match=r"0 m\. Expected more than 0"):
        get_card(f"{name}@0m")


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("make", [prithvi, lambda: dofa(norm=True)])
def test_no_chip_and_one_chip(make: object, count: int) -> None:
    encoder: TorchEncoder = make()  # type: ignore[operator]
    size = encoder.card.chip_sizes_px[0]
    batch = batch_for(encoder.card, n=2).select(slice(0, count))
    for pooling in encoder.card.poolings:
        for layer in (None, 0):
            assert encoder.embed(batch, pooling=pooling, layer=layer).shape == (count, 48)
    assert encoder.embed_tokens(batch).shape == (count, size // 16, size // 16, 48)
    masks = encoder.fixed_masks(batch.chip_id, 2, size)
    if encoder.card.loss_kind == "own":
        assert encoder.pretraining_loss(batch, masks).shape == (count, 2)
        assert encoder.patch_losses(batch, masks).shape == (count, 2, size // 16, size // 16)
