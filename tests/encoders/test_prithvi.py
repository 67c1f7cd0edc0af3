"""Prithvi: upstream's numbers to 1e-5, its official sizes, what it is fed, and that nothing else will do."""

from __future__ import annotations

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
from geoelle.encoders.network import Inputs
from geoelle.encoders.prithvi import BANDS, MODELS, SENSORS, prepared, prithvi_config
from geoelle.encoders.prithvi_model import PrithviConfig, PrithviNetwork, patches_of, position_code, published_names
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.errors import EncoderError, EncoderInputError
from geoelle.sensors import get_sensor

pytestmark = [pytest.mark.shared, pytest.mark.models]

GOLDEN = ("shrunk_T1", "shrunk_TL_T4")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def shrunk(n_steps: int, **changes: Any) -> PrithviConfig:
    sizes = {"image_px": 64, "decoder_features": 48, "decoder_depth": 2, "decoder_heads": 4} | changes
    return PrithviConfig(n_features=64, depth=2, heads=4, n_steps=n_steps, **sizes)


def golden(shared_data: Path, name: str, **changes: Any) -> tuple[PrithviNetwork, Inputs, dict[str, Any]]:
    """A fixture as a network, its inputs and upstream's numbers."""
    content = fixture_of(shared_data, f"prithvi/{name}.pt")
    data = content["data"]
    told = "temporal_coords" in data
    config = shrunk(content["config"]["num_frames"], coordinates=told, **changes)
    network = PrithviNetwork(config).eval()
    network.load_state_dict(published_names(content["state_dict"], config))
    inputs = inputs_of(data["x"].transpose(1, 2), data.get("temporal_coords"), data.get("location_coords_lon_lat"))
    return network, inputs, data


def small_encoder(name: str = "prithvi-eo-2.0-300m", *, seed: int = 0, n_steps: int = 4) -> TorchEncoder:
    """A model's way of feeding, with a small network of random weights behind it."""
    card = replace(get_card(name), n_features=64, n_layers=2, n_parameters=0)
    torch.manual_seed(seed)
    config = shrunk(n_steps, image_px=224, coordinates=card.needs_time)
    return TorchEncoder(card, PrithviNetwork(config), prepare=prepared, device="cpu")


@pytest.mark.parametrize("name", GOLDEN)
def test_upstreams_numbers_are_reproduced(name: str, shared_data: Path) -> None:
    network, inputs, data = golden(shared_data, name)
    encoded = network.encode(inputs)
    assert distance(encoded.cls, data["emb_cls"]) < TOLERANCE
    assert distance(network.pool(encoded, "mean"), data["emb_mean_patch"]) < TOLERANCE
    assert torch.equal(network.pool(encoded, "cls"), encoded.cls)
    hidden = network.hidden_by(data["noise"], 0.75)
    assert torch.equal(hidden.float(), data["mask"])
    latent, _ = network.encoder(network.encoder.embedded(inputs)[~hidden].reshape(len(hidden), -1, 64))
    assert distance(latent[:, 0], data["latent_cls_masked"]) < TOLERANCE
    assert distance(network.decoder(latent, hidden, inputs), data["pred"]) < TOLERANCE
    assert distance(masked_loss(network, inputs, hidden), data["loss_mse"]) < TOLERANCE


@pytest.mark.parametrize("name", GOLDEN)
def test_standardised_target_is_the_option_and_not_the_loss(name: str, shared_data: Path) -> None:
    network, inputs, data = golden(shared_data, name, norm_pix=True)
    loss = masked_loss(network, inputs, network.hidden_by(data["noise"], 0.75))
    assert distance(loss, data["loss_mse_if_norm_pix"]) < TOLERANCE
    assert distance(loss, data["loss_mse"]) > 1e-3


@pytest.mark.parametrize("name", GOLDEN)
def test_other_norm_eps_does_not_reproduce_them(name: str, shared_data: Path) -> None:
    network, inputs, data = golden(shared_data, name, norm_eps=1e-6)
    assert distance(network.encode(inputs).cls, data["emb_cls"]) > 10 * TOLERANCE


@pytest.mark.parametrize("name", GOLDEN)
def test_other_end_of_the_noise_or_order_of_pixels_does_not_reproduce_them(name: str, shared_data: Path) -> None:
    network, inputs, data = golden(shared_data, name)
    hidden = network.hidden_by(data["noise"], 0.75)
    other_end = network.hidden_by(-data["noise"], 0.75)
    assert distance(masked_loss(network, inputs, other_end), data["loss_mse"]) > 1e-3
    bands_first = patches_of(inputs.pixels, 16).unflatten(-1, (256, 6)).transpose(-1, -2).flatten(-2)
    errors = (data["pred"] - bands_first).square().mean(dim=-1)
    assert distance((errors * hidden).sum(dim=1) / hidden.sum(dim=1), data["loss_mse"]) > 1e-3


def test_place_is_longitude_then_latitude(shared_data: Path) -> None:
    network, inputs, data = golden(shared_data, "shrunk_TL_T4")
    swapped = replace(inputs, lonlat=inputs.lonlat.flip(-1))
    assert distance(network.encode(swapped).cls, data["emb_cls"]) > 1e-3
    no_date = replace(inputs, when=inputs.when * 0 + 1)
    assert distance(network.encode(no_date).cls, data["emb_cls"]) > 1e-3


def test_flat_layout_of_version_1_is_loaded_but_for_its_positions(shared_data: Path) -> None:
    flat = fixture_of(shared_data, "prithvi/shrunk_T3_v1_flat_layout.pt")
    config = shrunk(3)
    network = PrithviNetwork(config)
    spoilt = flat | {"pos_embed": flat["pos_embed"] + 1, "decoder_pos_embed": flat["decoder_pos_embed"][:, :17]}
    network.load_state_dict(published_names(spoilt, config))
    state = network.state_dict()
    assert len(state) == len(flat)
    for name, tensor in flat.items():
        half = "decoder." if name.startswith("decoder") or name == "mask_token" else "encoder."
        assert torch.allclose(state[half + name], tensor, atol=1e-6), name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("prithvi-eo-1.0-100m", "v1_100m_T3"),
        ("prithvi-eo-2.0-300m", "v2_300m_T4"),
        ("prithvi-eo-2.0-300m-tl", "v2_300m_tl_T4"),
        ("prithvi-eo-2.0-tiny-tl", None),
    ],
)
def test_official_sizes_have_the_published_names_and_shapes(name: str, keys: str | None, shared_data: Path) -> None:
    with torch.device("meta"):
        state = PrithviNetwork(prithvi_config(name)).state_dict()
    if keys is not None:
        assert shapes(state) == key_list(shared_data, f"prithvi/{keys}.keys.json")
    assert get_card(name).n_parameters == n_values(state)
    assert get_card(name).n_layers == prithvi_config(name).depth


def test_positions_are_of_as_many_dates_as_there_are(shared_data: Path) -> None:
    """A network of four dates fed one is the network of one date."""
    content = fixture_of(shared_data, "prithvi/shrunk_T1.pt")
    config = shrunk(4)
    network = PrithviNetwork(config).eval()
    network.load_state_dict(published_names(content["state_dict"], config))
    data = content["data"]
    inputs = inputs_of(data["x"].transpose(1, 2))
    assert distance(network.encode(inputs).cls, data["emb_cls"]) < TOLERANCE
    hidden = network.hidden_by(data["noise"], 0.75)
    assert distance(masked_loss(network, inputs, hidden), data["loss_mse"]) < TOLERANCE
    assert torch.allclose(position_code(64, 1, 4), content["state_dict"]["encoder.pos_embed"], atol=1e-6)


@pytest.mark.parametrize(("name", "steps"), [("prithvi-eo-1.0-100m", 3), ("prithvi-eo-2.0-300m-tl", 3)])
def test_adapter_is_the_network_on_hand_made_inputs(name: str, steps: int) -> None:
    encoder = small_encoder(name)
    card, batch = encoder.card, batch_for(encoder.card, steps=steps)
    valid = batch.valid.copy()
    valid[1, 2, :16, :32] = False
    batch = replace(batch, valid=valid)
    pixels = torch.empty(2, steps, 6, 224, 224)
    for i, (mean, std) in enumerate(zip(card.mean, card.std, strict=True)):
        pixels[:, :, i] = (torch.from_numpy(batch.pixels[:, :, i]) * 10_000 - mean) / std
    pixels[1, 2, :, :16, :32] = 0.0001
    when = torch.tensor([[[2020, 153], [2020, 193], [2020, 233]], [[2020, 273], [2020, 313], [2020, 353]]])
    inputs = inputs_of(pixels, when, torch.tensor([[-120.0, 50.0], [140.0, -30.0]]))
    network = encoder.network
    encoded = network.encode(inputs)
    assert distance(torch.from_numpy(encoder.embed(batch)), encoded.cls) < TOLERANCE
    assert distance(torch.from_numpy(encoder.embed(batch, pooling="mean")), encoded.tokens.mean(1)) < TOLERANCE
    tokens = torch.from_numpy(encoder.embed_tokens(batch))
    assert distance(tokens, encoded.tokens.reshape(2, steps, 14, 14, 64).mean(1)) < TOLERANCE

    masks = encoder.fixed_masks(batch.chip_id, 2, 224, n_steps=steps)
    assert masks.shape == (2, 2, steps * 196)
    errors = network.patch_errors(inputs, torch.from_numpy(masks)).numpy()
    missing = np.zeros((2, 1, steps, 14, 14), dtype=bool)
    missing[1, 0, 2, 0, :2] = True
    counted = masks & ~missing.reshape(2, 1, -1)
    expected = (errors * counted).sum(axis=2) / counted.sum(axis=2)
    np.testing.assert_allclose(encoder.pretraining_loss(batch, masks), expected, rtol=TOLERANCE)
    patches = encoder.patch_losses(batch, masks)
    by_date = counted.reshape(2, 2, steps, 14, 14)
    assert patches.shape == (2, 2, 14, 14)
    np.testing.assert_array_equal(np.isnan(patches), ~by_date.any(axis=2))


def test_many_masks_are_as_one_by_one() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card, n=3)
    masks = encoder.fixed_masks(batch.chip_id, 3, 224)
    together = encoder.pretraining_loss(batch, masks)
    for k in range(3):
        np.testing.assert_allclose(
            encoder.pretraining_loss(batch, masks[:, k : k + 1])[:, 0], together[:, k], rtol=1e-6
        )
    alone = encoder.pretraining_loss(batch.select(slice(1, 2)), masks[1:2])
    np.testing.assert_allclose(alone, together[1:2], rtol=TOLERANCE)
    assert len(np.unique(together)) == 9


def test_half_precision_stays_close() -> None:
    encoder = small_encoder("prithvi-eo-2.0-tiny-tl")
    half = TorchEncoder(encoder.card, encoder.network, prepare=prepared, device="cpu", precision="bf16")
    batch = batch_for(encoder.card)
    masks = encoder.fixed_masks(batch.chip_id, 2, 224)
    found, exact = torch.from_numpy(half.embed(batch)), torch.from_numpy(encoder.embed(batch))
    assert 0 < distance(found, exact) < 0.03
    np.testing.assert_allclose(half.pretraining_loss(batch, masks), encoder.pretraining_loss(batch, masks), rtol=3e-3)


def test_layers_are_the_blocks_outputs() -> None:
    encoder = small_encoder()
    network, batch = encoder.network, batch_for(encoder.card)
    inputs = inputs_of(torch.from_numpy(prepared(encoder.card, batch)))
    tokens = network.encoder.embedded(inputs)
    tokens = torch.cat([network.encoder.cls_token.expand(2, -1, -1), tokens], dim=1)
    for layer, block in enumerate(network.encoder.blocks):
        tokens = block(tokens)
        assert distance(torch.from_numpy(encoder.embed(batch, layer=layer)), tokens[:, 0]) < TOLERANCE
        found = torch.from_numpy(encoder.embed(batch, pooling="mean", layer=layer))
        assert distance(found, tokens[:, 1:].mean(dim=1)) < TOLERANCE
    assert distance(torch.from_numpy(encoder.embed(batch)), network.encoder.norm(tokens)[:, 0]) < TOLERANCE
    both = network.encode(inputs, (1, 0)).layers
    assert torch.equal(both[0], network.encode(inputs, (1,)).layers[0])
    assert torch.equal(both[1], network.encode(inputs, (0,)).layers[0])
    with pytest.raises(EncoderInputError, match="no layer 2"):
        encoder.embed(batch, layer=2)


def test_broad_infrared_is_refused_in_place_of_the_narrow_one() -> None:
    card = get_card("prithvi-eo-2.0-300m")
    batch = batch_for(card)
    check_batch(card, batch)
    for bands in (("blue", "green", "red", "nir", "swir16", "swir22"), ("B02", "B03", "B04", "B08", "B11", "B12")):
        with pytest.raises(EncoderInputError, match="nir08"):
            check_batch(card, replace(batch, bands=bands))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sensor": "sentinel-2-l2a"}, "sensor 'hls-s30' but the batch has 'sentinel-2-l2a'"),
        ({"gsd_m": 10.0}, "pixels of 30 m but the batch has pixels of 10 m"),
        ({"bands": BANDS[::-1]}, "in this order"),
        ({"pixels": np.full((2, 1, 6, 224, 224), 1500, np.float32)}, "digital numbers"),
    ],
)
def test_unfitting_batches_are_refused(changes: dict[str, Any], match: str) -> None:
    card = get_card("prithvi-eo-1.0-100m")
    with pytest.raises(EncoderInputError, match=match):
        check_batch(card, replace(batch_for(card), **changes))


def test_numbers_of_dates_are_those_of_the_version() -> None:
    first, second = get_card("prithvi-eo-1.0-100m"), get_card("prithvi-eo-2.0-300m")
    check_batch(first, batch_for(first, steps=3))
    check_batch(second, batch_for(second, steps=2))
    with pytest.raises(EncoderInputError, match=r"1 or 3 date\(s\)"):
        check_batch(first, batch_for(first, steps=2))
    with pytest.raises(EncoderInputError, match=r"1 or 2 or 3 or 4 date\(s\)"):
        check_batch(second, batch_for(second, steps=5))


def test_time_and_place_are_asked_for_where_the_model_is_told_them() -> None:
    told, untold = get_card("prithvi-eo-2.0-tiny-tl"), get_card("prithvi-eo-2.0-300m")
    batch = batch_for(told)
    no_time = replace(batch, time=np.full((2, 1), np.datetime64("NaT", "ns")))
    nowhere = replace(batch, lonlat=np.full((2, 2), np.nan))
    for unfit, match in ((no_time, "NaT"), (nowhere, "position")):
        check_batch(untold, unfit)
        with pytest.raises(EncoderInputError, match=match):
            check_batch(told, unfit)


def test_cards_say_what_is_fed_and_where_it_differs() -> None:
    for name in MODELS:
        for sensor in SENSORS:
            card = get_card(f"{name}:{sensor}")
            by_name = {band.name: band.wavelength_um for band in get_sensor(sensor).bands}
            assert card.wavelength_um == tuple(by_name[band] for band in card.bands)
            assert (card.gsd_m, card.loss_kind, card.validated) == (30.0, "own", False)
            assert card.sensor == sensor
        assert get_card(name).sensor == "hls-s30"
        assert "is not HLS" in " ".join(get_card(f"{name}:landsat-c2-l2").differs)
        assert "is not HLS" in " ".join(get_card(f"{name}:sentinel-2-l2a").differs)
        off = get_card(f"{name}:sentinel-2-l2a@10m")
        assert off.gsd_m == 10
        assert off.trained_gsd_m == (30.0,)
        assert off.differs[0] == "Off its domain: read at 10 m; pretraining saw 30 m only."
        assert "Off its domain" not in " ".join(get_card(f"{name}@30m").differs)
    listed = {card.name for card in list_encoders(sensor="sentinel-2-l2a")}
    assert {f"{name}:sentinel-2-l2a" for name in MODELS} <= listed
    for wrong, match in (("prithvi-eo-2.0-300m:naip", "hls-s30, hls-l30"), ("prithvi-eo-2.0-300m@0m", "more than 0")):
        with pytest.raises(EncoderError, match=match):
            get_card(wrong)


def test_a_real_chip_goes_through_the_smallest_official_size(shared_data: Path) -> None:
    encoder = load_encoder("prithvi-eo-2.0-tiny-tl:sentinel-2-l2a@10m", random_seed=0, device="cpu")
    assert encoder.card.weights_sha256 == "random-0"
    batch = real_batch(shared_data, encoder.card)
    assert encoder.embed(batch).shape == (1, 192)
    masks = encoder.fixed_masks(batch.chip_id, 2, 224)
    loss = encoder.pretraining_loss(batch, masks)
    assert np.isfinite(loss).all()
    assert loss[0, 0] != loss[0, 1]


@pytest.mark.long
@pytest.mark.parametrize("name", list(MODELS))
def test_official_sizes_run(name: str, shared_data: Path) -> None:
    encoder = load_encoder(f"{name}:sentinel-2-l2a@10m", random_seed=0, device="cpu")
    one = real_batch(shared_data, encoder.card)
    for steps in (1, max(encoder.card.n_steps)):
        days = np.arange(steps) * np.timedelta64(16, "D")
        batch = replace(
            one,
            pixels=np.repeat(one.pixels, steps, axis=1),
            valid=np.repeat(one.valid, steps, axis=1),
            time=(one.time + days).astype("datetime64[ns]"),
        )
        assert encoder.embed(batch).shape == (1, encoder.card.n_features)
        assert encoder.embed_tokens(batch).shape == (1, 14, 14, encoder.card.n_features)
        masks = encoder.fixed_masks(batch.chip_id, 2, 224, n_steps=steps)
        assert np.isfinite(encoder.pretraining_loss(batch, masks)).all()
