"""SatMAE: upstream's numbers to 1e-5, its official sizes, its 96 px and 8 bits, and that nothing else will do."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from mae_cases import (
    TOLERANCE,
    batch_for,
    distance,
    fixture_of,
    inputs_of,
    key_list,
    masked_loss,
    n_values,
    real_batch,
    shapes,
)

from geoelle.encoders import check_batch, get_card, list_encoders, load_encoder
from geoelle.encoders.mae_model import standardised
from geoelle.encoders.network import Inputs
from geoelle.encoders.satmae import MODELS, quantised, satmae_config
from geoelle.encoders.satmae_model import SatMaeConfig, SatMaeGroupNetwork, SatMaeRgbNetwork, patches_of
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.errors import EncoderError, EncoderInputError
from geoelle.records import ChipBatch, EncoderCard

pytestmark = [pytest.mark.shared, pytest.mark.models]

GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
KEYS = {"satmae-vitb": "vitb_group", "satmae-vitl": "vitl_group", "satmae-rgb-vitl": "vitl_rgb"}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def shrunk(**changes: Any) -> SatMaeConfig:
    sizes = {"image_px": 32, "group_features": 16, "decoder_group_features": 16, "decoder_features": 48}
    heads = {"decoder_depth": 2, "decoder_heads": 4}
    return SatMaeConfig(n_features=64, depth=2, heads=4, **(sizes | heads | changes))


def golden(shared_data: Path, **changes: Any) -> tuple[SatMaeGroupNetwork, Inputs, dict[str, Any]]:
    """The fixture as a network, its inputs and upstream's numbers."""
    content = fixture_of(shared_data, "satmae/shrunk_group.pt")
    network = SatMaeGroupNetwork(shrunk(**changes)).eval()
    network.load_state_dict(content["state_dict"])
    return network, inputs_of(content["data"]["x"][:, None]), content["data"]


def small_encoder() -> TorchEncoder:
    """SatMAE's way of feeding, with a small network of random weights behind it."""
    card = replace(get_card("satmae-vitb"), n_features=64, n_layers=2, n_parameters=0)
    torch.manual_seed(0)
    return TorchEncoder(card, SatMaeGroupNetwork(shrunk(image_px=96)), prepare=quantised, device="cpu")


def by_hand(card: EncoderCard, batch: ChipBatch) -> torch.Tensor:
    """The 8-bit step written another way: thresholds are counted, nothing is cast."""
    pixels = np.empty(batch.pixels.shape, dtype=np.float32)
    for i, (mean, std) in enumerate(zip(card.mean, card.std, strict=True)):
        thresholds = mean - 2 * std + np.arange(1, 256) * 4 * std / 255
        levels = np.searchsorted(thresholds, batch.pixels[:, :, i].astype(np.float64) * 10_000, side="right")
        pixels[:, :, i] = np.where(batch.valid, levels, 127) / 255
    return torch.from_numpy(pixels)


def test_upstreams_numbers_are_reproduced(shared_data: Path) -> None:
    network, inputs, data = golden(shared_data)
    encoded = network.encode(inputs)
    assert distance(encoded.cls, data["emb_cls"]) < TOLERANCE
    assert distance(network.pool(encoded, "mean"), data["emb_mean_tokens"]) < TOLERANCE
    assert torch.equal(network.pool(encoded, "cls"), encoded.cls)
    hidden = network.hidden_by(data["noise"], 0.75)
    assert torch.equal(hidden.float(), data["mask"].flatten(1))
    latent, _ = network.latent(network.embedded(inputs)[~hidden].reshape(len(hidden), -1, 64))
    assert distance(latent[:, 0], data["latent_cls_masked"]) < TOLERANCE
    assert distance(network.predicted(latent, hidden), data["pred"]) < TOLERANCE
    assert distance(masked_loss(network, inputs, hidden), data["loss_mse"]) < TOLERANCE


def test_computed_positions_are_those_of_the_file(shared_data: Path) -> None:
    state = fixture_of(shared_data, "satmae/shrunk_group.pt")["state_dict"]
    own = SatMaeGroupNetwork(shrunk()).state_dict()
    for name in ("pos_embed", "channel_embed", "decoder_pos_embed", "decoder_channel_embed"):
        assert torch.allclose(own[name], state[name], atol=1e-6)


def test_wrong_eps_groups_or_end_of_the_noise_do_not_reproduce_them(shared_data: Path) -> None:
    network, inputs, data = golden(shared_data)
    assert distance(masked_loss(network, inputs, network.hidden_by(-data["noise"], 0.75)), data["loss_mse"]) > 1e-3
    for change in ({"norm_eps": 1e-5}, {"groups": ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9))}):
        wrong, _, _ = golden(shared_data, **change)
        assert distance(wrong.encode(inputs).cls, data["emb_cls"]) > 10 * TOLERANCE, change


def test_loss_compares_bands_as_pretraining_did(shared_data: Path) -> None:
    """Each output with its own band, pixels in another order, or standardised targets: each is another loss."""
    _, inputs, data = golden(shared_data)
    target = patches_of(inputs.pixels[:, 0], 8)

    def loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        of_band = (predicted - target).square().mean(dim=-1)
        errors = torch.stack([of_band[:, list(group)].mean(dim=1) for group in GROUPS], dim=1)
        return (errors * data["mask"]).sum(dim=(1, 2)) / data["mask"].sum(dim=(1, 2))

    assert distance(loss(data["pred"], target), data["loss_mse"]) < TOLERANCE
    matched = torch.empty_like(data["pred"])
    matched[:, [band for group in GROUPS for band in group]] = data["pred"]
    transposed = target.unflatten(-1, (8, 8)).transpose(-1, -2).flatten(-2)
    for predicted, other in ((matched, target), (data["pred"], transposed), (data["pred"], standardised(target))):
        assert distance(loss(predicted, other), data["loss_mse"]) > 1e-3


def test_file_layout_is_refused_by_default_and_holds_the_network(shared_data: Path) -> None:
    path = shared_data.parent / "encoders" / "satmae" / "shrunk_group_ckpt_layout.pth"
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(path, weights_only=True)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, weights_only=True)
    assert {"model", "args"} <= set(content)
    network = SatMaeGroupNetwork(shrunk())
    network.load_state_dict(content["model"], strict=True)


@pytest.mark.parametrize("name", list(MODELS))
def test_official_sizes_have_the_published_names_and_shapes(name: str, shared_data: Path) -> None:
    config = satmae_config(name)
    with torch.device("meta"):
        state = (SatMaeGroupNetwork(config) if config.groups else SatMaeRgbNetwork(config)).state_dict()
    assert shapes(state) == key_list(shared_data, f"satmae/official_{KEYS[name]}.keys.json")
    assert get_card(name).n_parameters == n_values(state)
    assert get_card(name).n_layers == config.depth


def test_adapter_is_the_network_on_hand_made_inputs() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card)
    valid = batch.valid.copy()
    valid[1, 0, :8, :16] = False
    batch = replace(batch, valid=valid)
    inputs = inputs_of(by_hand(encoder.card, batch))
    network = encoder.network
    encoded = network.encode(inputs)
    assert encoder.card.pooling == "mean"
    assert distance(torch.from_numpy(encoder.embed(batch)), encoded.tokens.mean(dim=1)) < TOLERANCE
    assert distance(torch.from_numpy(encoder.embed(batch, pooling="cls")), encoded.cls) < TOLERANCE
    tokens = torch.from_numpy(encoder.embed_tokens(batch))
    assert distance(tokens, encoded.tokens.reshape(2, 3, 12, 12, 64).mean(1)) < TOLERANCE

    assert network.token_shape(1, 96) == (3, 12, 12)
    masks = encoder.fixed_masks(batch.chip_id, 2, 96)
    assert masks.shape == (2, 2, 432)
    assert (masks.sum(axis=2) == 324).all()
    by_group = masks.reshape(4, 3, 144)
    assert (by_group[:, 0] != by_group[:, 1]).any()  # groups are hidden apart
    errors = network.patch_errors(inputs, torch.from_numpy(masks)).numpy()
    missing = np.zeros((2, 1, 3, 12, 12), dtype=bool)
    missing[1, 0, :, 0, :2] = True
    counted = masks & ~missing.reshape(2, 1, -1)
    expected = (errors * counted).sum(axis=2) / counted.sum(axis=2)
    np.testing.assert_allclose(encoder.pretraining_loss(batch, masks), expected, rtol=TOLERANCE)
    shape = (2, 2, 3, 12, 12)
    n_counted = counted.reshape(shape).sum(axis=2)
    total = (errors * counted).reshape(shape).sum(axis=2)
    per_patch = np.divide(total, n_counted, out=np.full(total.shape, np.nan, np.float32), where=n_counted > 0)
    np.testing.assert_allclose(encoder.patch_losses(batch, masks), per_patch, rtol=TOLERANCE)


def test_many_masks_are_as_one_by_one() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card, n=3)
    masks = encoder.fixed_masks(batch.chip_id, 3, 96)
    together = encoder.pretraining_loss(batch, masks)
    for k in range(3):
        np.testing.assert_allclose(
            encoder.pretraining_loss(batch, masks[:, k : k + 1])[:, 0], together[:, k], rtol=1e-6
        )
    alone = encoder.pretraining_loss(batch.select(slice(1, 2)), masks[1:2])
    np.testing.assert_allclose(alone, together[1:2], rtol=TOLERANCE)
    assert len(np.unique(together)) == 9


def test_half_precision_stays_close() -> None:
    encoder = small_encoder()
    half = TorchEncoder(encoder.card, encoder.network, prepare=quantised, device="cpu", precision="bf16")
    batch = batch_for(encoder.card)
    masks = encoder.fixed_masks(batch.chip_id, 2, 96)
    found, exact = torch.from_numpy(half.embed(batch)), torch.from_numpy(encoder.embed(batch))
    assert 0 < distance(found, exact) < 0.03
    np.testing.assert_allclose(half.pretraining_loss(batch, masks), encoder.pretraining_loss(batch, masks), rtol=3e-3)


def test_layers_are_the_blocks_outputs() -> None:
    encoder = small_encoder()
    network, batch = encoder.network, batch_for(encoder.card)
    tokens = network.embedded(inputs_of(by_hand(encoder.card, batch)))
    tokens = torch.cat([network.cls_token.expand(2, -1, -1), tokens], dim=1)
    for layer, block in enumerate(network.blocks):
        tokens = block(tokens)
        assert distance(torch.from_numpy(encoder.embed(batch, layer=layer)), tokens[:, 1:].mean(dim=1)) < TOLERANCE
        assert distance(torch.from_numpy(encoder.embed(batch, pooling="cls", layer=layer)), tokens[:, 0]) < TOLERANCE
    with pytest.raises(EncoderInputError, match="no layer 2"):
        encoder.embed(batch, layer=2)


def test_eight_bits_are_cut_off_and_truncated() -> None:
    card = get_card("satmae-vitb")
    mean, std = np.array(card.mean), np.array(card.std)
    batch = batch_for(card, n=1)
    pixels = batch.pixels.copy()
    for x, level in enumerate((-10.0, 0.5, 127.9, 128.1, 254.9, 300.0)):
        pixels[0, 0, :, 0, x] = (mean - 2 * std + 4 * std * level / 255) / 10_000
    pixels[0, 0, 3, 0, 6] = np.nan
    found = quantised(card, replace(batch, pixels=pixels))[0, 0, :, 0, :7] * 255
    np.testing.assert_allclose(found, np.tile([0, 0, 127, 128, 254, 255, 127], (10, 1)), rtol=1e-6)


def test_skipping_the_eight_bits_is_another_embedding() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card)
    eight = torch.from_numpy(encoder.embed(batch))
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (encoder.card.mean, encoder.card.std))
    smooth = np.clip((batch.pixels * 10_000 - mean + 2 * std) / (4 * std), 0, 1)
    levels = by_hand(encoder.card, batch).numpy()
    assert 0.9 / 255 < np.abs(levels - smooth).max() < 1.1 / 255
    without = encoder.network.encode(inputs_of(torch.from_numpy(smooth))).tokens.mean(dim=1)
    assert distance(without, eight) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("size", "changes", "match"),
    [
        (224, {}, "chips of 96 x 96 px but the batch has 224 x 224 px"),
        (96, {"bands": ("blue", "green", "red", "nir")}, "rededge1"),
        (96, {"sensor": "hls-s30"}, "sensor 'sentinel-2-l2a'"),
        (96, {"gsd_m": 30.0}, "pixels of 10 m but the batch has pixels of 30 m"),
    ],
)
def test_unfitting_batches_are_refused(size: int, changes: dict[str, Any], match: str) -> None:
    card = get_card("satmae-vitl")
    check_batch(card, batch_for(card))
    with pytest.raises(EncoderInputError, match=match):
        check_batch(card, replace(batch_for(replace(card, chip_sizes_px=(size,))), **changes))


def test_wrong_order_of_bands_is_refused_and_would_be_another_embedding() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card)
    order = [0, 1, 2, 3, 4, 5, 7, 6, 8, 9]  # B8A before B08
    bands = tuple(batch.bands[i] for i in order)
    with pytest.raises(EncoderInputError, match="in this order"):
        encoder.embed(replace(batch, bands=bands, pixels=batch.pixels[:, :, order]))
    swapped = encoder.embed(replace(batch, pixels=batch.pixels[:, :, order]))
    assert distance(torch.from_numpy(swapped), torch.from_numpy(encoder.embed(batch))) > 1e-3


def test_cards_say_what_is_fed_and_under_which_licence() -> None:
    for name in MODELS:
        card = get_card(name)
        assert card.non_commercial
        assert "CC BY-NC" in card.licence
        assert not card.validated
        assert get_card(f"{name}:{card.sensor}").sensor == card.sensor
        with pytest.raises(EncoderError, match=f"Expected {card.sensor}"):
            get_card(f"{name}:landsat-c2-l2")
    group = get_card("satmae-vitb")
    assert (group.tokens_per_patch, group.chip_sizes_px, group.patch_px, group.loss_kind) == (3, (96,), 8, "own")
    assert "top-of-atmosphere" in group.differs[0]
    assert "L2A" in group.differs[0]
    assert get_card("satmae-vitb@20m").differs[0] == "Off its domain: read at 20 m; it is made for 10 m."
    with pytest.raises(EncoderError, match="more than 0"):
        get_card("satmae-vitb@0m")
    assert {"satmae-vitb", "satmae-vitl"} <= {card.name for card in list_encoders(sensor="sentinel-2-l2a")}


def test_rgb_model_embeds_and_has_no_loss() -> None:
    card = replace(get_card("satmae-rgb-vitl"), n_features=64, n_layers=2, n_parameters=0)
    torch.manual_seed(0)
    network = SatMaeRgbNetwork(shrunk(groups=(), n_bands=3, image_px=224, patch_px=16))
    encoder = TorchEncoder(card, network, device="cpu")
    batch = batch_for(card)
    batch = replace(batch, pixels=batch.pixels.clip(0, 255))
    pixels = batch.pixels / 255 - torch.tensor(card.mean)[:, None, None].numpy()
    inputs = inputs_of(torch.from_numpy(pixels / torch.tensor(card.std)[:, None, None].numpy()))
    assert distance(torch.from_numpy(encoder.embed(batch)), network.encode(inputs).tokens.mean(dim=1)) < TOLERANCE
    assert encoder.embed_tokens(batch).shape == (2, 14, 14, 64)
    masks = encoder.fixed_masks(batch.chip_id, 1, 224)
    with pytest.raises(EncoderError, match="no loss"):
        encoder.pretraining_loss(batch, masks)
    with pytest.raises(EncoderError, match="no loss"):
        network.patch_errors(inputs, torch.from_numpy(masks))


def test_a_real_chip_goes_through(shared_data: Path) -> None:
    encoder = small_encoder()
    batch = real_batch(shared_data, encoder.card)
    assert np.isfinite(encoder.embed(batch)).all()
    loss = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 4, 96))
    assert np.isfinite(loss).all()
    assert len(np.unique(loss)) == 4


@pytest.mark.long
@pytest.mark.parametrize("name", ["satmae-vitb", "satmae-vitl"])
def test_official_sizes_run(name: str, shared_data: Path) -> None:
    encoder = load_encoder(name, random_seed=0, device="cpu")
    batch = real_batch(shared_data, encoder.card)
    assert encoder.embed(batch).shape == (1, encoder.card.n_features)
    assert encoder.embed_tokens(batch).shape == (1, 12, 12, encoder.card.n_features)
    masks = encoder.fixed_masks(batch.chip_id, 2, 96)
    assert np.isfinite(encoder.pretraining_loss(batch, masks)).all()
