"""DOFA: upstream's numbers, the published names and shapes, and what goes wrong easily."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from satclip_chips import real_batch
from torch import Tensor
from torch.nn import functional as F
from torchgeo.models import DOFA

from geoelle.encoders import get_card, load_encoder, variants_of
from geoelle.encoders.checkpoints import Checkpoint
from geoelle.encoders.dofa import CARDS, FEEDS, adapt, open_dofa, prepare, to_8_bit
from geoelle.encoders.dofa_model import BASE, LARGE, DofaConfig, DofaNetwork
from geoelle.encoders.network import Inputs
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.errors import EncoderError, EncoderInputError, WeightsError
from geoelle.records import ChipBatch, EncoderCard

pytestmark = pytest.mark.models
SMALL = DofaConfig(chip_size_px=64, width=48, depth=2, n_heads=4, decoder_width=32, decoder_depth=2, decoder_heads=4)
TOLERANCE = 1e-5


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def inputs(pixels: Tensor, waves: Tensor) -> Inputs:
    n = len(pixels)
    return Inputs(pixels[:, None], torch.full((n, 1, 4), torch.nan), torch.full((n, 2), torch.nan), waves, 10.0)


@pytest.fixture(scope="module")
def fixture(shared_data: Path) -> dict[str, Any]:
    path = shared_data.parent / "encoders" / "dofa" / "shrunk_s2_9band.pt"
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


@pytest.fixture(scope="module")
def network(fixture: dict[str, Any]) -> DofaNetwork:
    """The shrunken network, its config read from the fixture."""
    c = fixture["config"]
    config = DofaConfig(
        chip_size_px=c["img_size"],
        width=c["embed_dim"],
        depth=c["depth"],
        n_heads=c["num_heads"],
        decoder_width=c["decoder_embed_dim"],
        decoder_depth=c["decoder_depth"],
        decoder_heads=c["decoder_num_heads"],
    )
    assert config == SMALL
    network = DofaNetwork(config)
    for name in ("pos_embed", "decoder_pos_embed"):  # fixed, so they are right before any file is loaded
        assert torch.equal(network.state_dict()[name], fixture["state_dict"][name])
    network.load_state_dict(fixture["state_dict"], strict=True)
    return network.eval()


@pytest.fixture(scope="module")
def data(fixture: dict[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = fixture["data"]
    return found


@torch.inference_mode()
def test_embeddings_are_upstreams(network: DofaNetwork, data: dict[str, Tensor]) -> None:
    encoded = network.encode(inputs(data["x"], data["waves"]))
    assert relative(network.pool(encoded, "cls"), data["emb_cls"]) < TOLERANCE
    assert relative(network.pool(encoded, "mean"), data["emb_mean_patch_normed"]) < TOLERANCE
    assert relative(network.pool(encoded, "upstream"), data["emb_torchgeo_globalpool_fcnorm_default"]) < TOLERANCE


@torch.inference_mode()
def test_masked_pass_and_loss_are_upstreams(network: DofaNetwork, data: dict[str, Tensor]) -> None:
    batch = inputs(data["x"], data["waves"])
    hidden = network.hidden_by(data["noise"], 0.75)
    assert torch.equal(hidden, data["mask"].bool())
    latent, predicted = network.predictions(batch, hidden)
    assert relative(latent, data["latent_cls_masked"]) < TOLERANCE
    assert relative(predicted, data["pred"]) < TOLERANCE
    errors = network.patch_errors(batch, hidden[:, None])[:, 0]
    assert relative((errors * hidden).sum(1) / hidden.sum(1), data["loss_mse_normpix"]) < TOLERANCE
    assert relative(network.teacher_features(batch), data["zs"]) < TOLERANCE


@torch.inference_mode()
def test_other_readings_of_the_facts_do_not_give_upstreams_numbers(
    network: DofaNetwork, data: dict[str, Tensor]
) -> None:
    hidden = data["mask"].bool()
    for waves in (data["waves"] * 1000, data["waves"] / 1000, data["waves"].flip(0)):
        encoded = network.encode(inputs(data["x"], waves))
        assert relative(network.pool(encoded, "cls"), data["emb_cls"]) > 0.01
    errors = network.patch_errors(inputs(data["x"].transpose(2, 3), data["waves"]), hidden[:, None])[:, 0]
    assert relative((errors * hidden).sum(1) / hidden.sum(1), data["loss_mse_normpix"]) > 1e-3
    inverted = network.hidden_by(-data["noise"], 0.75)
    assert not torch.equal(inverted, hidden)


@torch.inference_mode()
def test_weights_in_the_old_layout_would_give_other_embeddings(network: DofaNetwork, data: dict[str, Tensor]) -> None:
    """The layout of before August 2024: same names and shapes, the generated weights cut up feature first."""
    embedding = network.patch_embed
    _, waves = embedding(data["x"], data["waves"])
    weights, bias = embedding.weight_generator(waves)

    def cls(kernels: Tensor) -> Tensor:
        tokens = F.conv2d(data["x"], kernels * 0.01, bias.flatten() * 0.01, stride=16, padding=1)
        x, _ = network._blocks(tokens.flatten(2).transpose(1, 2) + network.pos_embed[:, 1:])
        return network.norm(x)[:, 0]

    assert relative(cls(weights.view(9, 16, 16, 48).permute(3, 0, 1, 2)), data["emb_cls"]) < TOLERANCE
    assert relative(cls(weights.view(48, 9, 16, 16)), data["emb_cls"]) > 0.1


@pytest.mark.parametrize(("name", "config"), [("base", BASE), ("large", LARGE)])
def test_names_and_shapes_are_the_published_ones(name: str, config: DofaConfig, shared_data: Path) -> None:
    published = json.loads((shared_data.parent / f"encoders/dofa/official_{name}_full.keys.json").read_text())
    with torch.device("meta"):
        network = DofaNetwork(config)
    state = network.state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == published["keys"]
    assert sum(tensor.numel() for tensor in state.values()) == published["n_values"]


def test_parameters_on_the_cards_are_counted() -> None:
    with torch.device("meta"):
        full, base, large = (
            DofaNetwork(config)
            for config in (BASE, replace(BASE, norm=False, decoder=False), replace(LARGE, norm=False, decoder=False))
        )
    for name, network, config in (
        ("dofa-base-full", full, BASE),
        ("dofa-base", base, BASE),
        ("dofa-large", large, LARGE),
    ):
        card = get_card(name)
        assert sum(p.numel() for p in network.parameters()) == card.n_parameters
        assert (config.width, config.depth, config.mask_ratio) == (card.n_features, card.n_layers, card.mask_ratio)


@torch.inference_mode()
def test_the_encoder_is_torchgeos(network: DofaNetwork, data: dict[str, Tensor]) -> None:
    waves = data["waves"].tolist()
    encoded = network.encode(inputs(data["x"], data["waves"]), layers=(1, 0))
    for pooled, pooling in ((True, "upstream"), (False, "cls")):
        theirs = DOFA(64, 16, embed_dim=48, depth=2, num_heads=4, num_classes=0, global_pool=pooled).eval()
        missing, _ = theirs.load_state_dict(network.state_dict(), strict=False)
        assert set(missing) <= {"fc_norm.weight", "fc_norm.bias"}
        assert relative(network.pool(encoded, pooling), theirs.forward_features(data["x"], waves)) < 1e-6
    assert torch.equal(network.norm(encoded.layers[0])[:, 1:], encoded.tokens)
    assert encoded.layers[1].shape == encoded.layers[0].shape == (4, 17, 48)


@torch.inference_mode()
def test_many_masks_are_one_by_one(network: DofaNetwork, data: dict[str, Tensor]) -> None:
    batch = inputs(data["x"], data["waves"])
    torch.manual_seed(0)
    hidden = torch.stack([network.hidden_by(torch.rand(4, 16), 0.75) for _ in range(3)], dim=1)
    together = network.patch_errors(batch, hidden)
    for k in range(3):
        assert torch.equal(together[:, k : k + 1], network.patch_errors(batch, hidden[:, k : k + 1]))


@torch.inference_mode()
def test_every_band_needs_its_wavelength(network: DofaNetwork, data: dict[str, Tensor]) -> None:
    with pytest.raises(EncoderInputError, match="8 wavelengths for 9 bands"):
        network.encode(inputs(data["x"], data["waves"][:8]))
    for card in variants_of("dofa-base"):
        assert len(card.wavelength_um) == len(card.bands) == len(card.mean) == len(card.std)


def small_card(name: str = "dofa-base-full") -> EncoderCard:
    return replace(get_card(name), chip_sizes_px=(64,), n_features=48, n_layers=2)


def batch_for(card: EncoderCard, n: int = 3, *, low: float = 0.0, high: float = 0.4) -> ChipBatch:
    rng = np.random.default_rng(4)
    size = card.chip_sizes_px[0]
    return ChipBatch(
        sensor=card.sensor,
        units=card.units,
        bands=card.bands,
        pixels=rng.uniform(low, high, (n, 1, len(card.bands), size, size)).astype(np.float32),
        valid=np.ones((n, 1, size, size), dtype=bool),
        time=np.full((n, 1), np.datetime64("2021-06-01", "ns")),
        lonlat=np.zeros((n, 2)),
        gsd_m=card.gsd_m,
        chip_id=np.array([f"c{i}" for i in range(n)]),
    )


def test_reflectance_becomes_satlas_8_bit_images() -> None:
    card = small_card()
    batch = batch_for(card)
    levels = np.array([-0.01, 0.0, 0.0032, 0.1, 0.32, 0.3558, 0.5, 0.816, 1.2], dtype=np.float32)
    batch.pixels[0, 0, :, 0, :9] = levels
    found = to_8_bit(batch)
    np.testing.assert_array_equal(found, np.rint(found))
    bands = dict(zip(card.bands, found[0, 0, :, 0, :9], strict=True))
    for band in ("red", "green", "blue"):  # white from ESA's 3558 on
        np.testing.assert_array_equal(bands[band], [0, 0, 2, 72, 229, 255, 255, 255, 255])
    for band in ("rededge1", "nir", "swir22"):  # number // 32
        np.testing.assert_array_equal(bands[band], [0, 0, 1, 31, 100, 111, 156, 255, 255])


def test_statistics_of_8_bit_images_on_other_numbers_are_far_off() -> None:
    """The trap: reflectance x 10000, or plain reflectance, under statistics of 0 to 255."""
    card = small_card()
    batch = batch_for(card, low=0.02, high=0.35)
    mean, std = (np.array(v)[:, None, None] for v in (card.mean, card.std))
    assert np.abs(prepare(card, batch)).max() < 4
    assert ((batch.pixels * 10000 - mean) / std).mean() > 15
    contrast = [x.std(axis=(0, 1, 3, 4)) for x in ((batch.pixels - mean) / std, prepare(card, batch))]
    assert contrast[0].max() < 0.01 < 0.3 < contrast[1].min()


def test_invalid_pixels_take_the_mean() -> None:
    card = small_card()
    batch = batch_for(card)
    batch.valid[0, 0, :8] = False
    batch.pixels[1, 0, 2, 5, 5] = np.nan
    found = prepare(card, batch)
    assert np.isfinite(found).all()
    assert not found[0, 0, :, :8].any()
    assert not found[1, 0, :, 5, 5].any()
    assert found[0, 0, :, 8:].any()


def test_radar_power_becomes_amplitude_that_fits_the_statistics(shared_data: Path) -> None:
    card = get_card("dofa-base:sentinel-1-rtc")
    assert card.bands == ("vv", "vh")
    assert card.wavelength_um == (3.75, 3.75)
    chips = []
    for path in sorted((shared_data / "chips" / "s1").glob("*.tif")):
        with rasterio.open(path) as file:
            assert file.descriptions == ("vv", "vh")
            chips.append(10 ** (file.read() / 10))
    batch = replace(batch_for(card, len(chips)), pixels=np.stack(chips)[:, None].astype(np.float32))
    found = prepare(card, batch)
    assert np.abs(found.mean(axis=(0, 1, 3, 4))).max() < 0.7
    swapped = np.abs((to_8_bit(batch)[0, 0].mean(axis=(1, 2)) - card.mean[::-1]) / card.std[::-1])
    assert swapped.max() > 1, "the pairing of statistics decides"


@torch.inference_mode()
def test_order_of_radar_bands_has_no_effect(network: DofaNetwork, data: dict[str, Tensor]) -> None:
    """Both polarisations have one placeholder wavelength, so one set of generated weights."""
    waves = torch.tensor(FEEDS["sentinel-1-rtc"].wavelength_um)
    as_fed = network.encode(inputs(data["x"][:, :2], waves)).tokens
    assert relative(network.encode(inputs(data["x"][:, :2].flip(1), waves)).tokens, as_fed) < TOLERANCE
    real = torch.tensor([5.405, 5.405])
    assert relative(network.encode(inputs(data["x"][:, :2], real)).tokens, as_fed) > 1e-3


def test_naip_is_taken_as_it_is() -> None:
    card = replace(get_card("dofa-base:naip"), chip_sizes_px=(64,))
    batch = batch_for(card, low=0, high=255)
    np.testing.assert_array_equal(to_8_bit(batch), batch.pixels)
    assert card.gsd_m == 1


def test_pixel_size_is_free_and_told() -> None:
    assert get_card("dofa-base").gsd_m == 10
    card = get_card("dofa-large:naip@0.6m")
    assert (card.gsd_m, card.name, card.trained_gsd_m) == (0.6, "dofa-large:naip@0.6m", (1.0,))
    assert "0.6 m" in card.differs[-1]
    with pytest.raises(EncoderError, match=r"dofa-base is fed one of sentinel-2-l2a, sentinel-1-rtc, naip"):
        get_card("dofa-base:landsat-c2-l2")


def test_the_adapter_gives_what_the_network_gives(network: DofaNetwork) -> None:
    card = small_card()
    encoder = TorchEncoder(card, network, prepare=prepare, device="cpu", batch=2)
    batch = batch_for(card)
    masks = encoder.fixed_masks(batch.chip_id, 3, 64)
    pixels = torch.from_numpy(prepare(card, batch))[:, 0]
    with torch.inference_mode():
        given = inputs(pixels, torch.tensor(card.wavelength_um))
        encoded = network.encode(given, layers=(0,))
        for pooling in card.poolings:
            expected = network.pool(encoded, pooling).numpy()
            np.testing.assert_allclose(encoder.embed(batch, pooling=pooling), expected, rtol=0, atol=1e-5)
        hidden = torch.from_numpy(masks)
        errors = network.patch_errors(given, hidden)
        losses = ((errors * hidden).sum(2) / hidden.sum(2)).numpy()
    np.testing.assert_array_equal(encoder.embed(batch), encoder.embed(batch, pooling="upstream"))
    np.testing.assert_allclose(encoder.pretraining_loss(batch, masks), losses, rtol=1e-5)
    per_patch = encoder.patch_losses(batch, masks)
    assert per_patch.shape == (3, 3, 4, 4)
    np.testing.assert_array_equal(np.isfinite(per_patch), masks.reshape(3, 3, 4, 4))
    tokens = encoded.tokens.reshape(3, 4, 4, 48).numpy()
    np.testing.assert_allclose(encoder.embed_tokens(batch), tokens, rtol=0, atol=1e-5)
    raw = encoded.layers[0][:, 1:].mean(1).numpy()
    np.testing.assert_allclose(encoder.embed(batch, layer=0), raw, rtol=0, atol=1e-5)


def test_low_precision_stays_near(network: DofaNetwork) -> None:
    exact = TorchEncoder(small_card(), network, prepare=prepare, device="cpu")
    rough = TorchEncoder(small_card(), network, prepare=prepare, device="cpu", precision="bf16")
    batch = batch_for(exact.card)
    masks = exact.fixed_masks(batch.chip_id, 2, 64)
    assert not np.array_equal(rough.embed(batch), exact.embed(batch))
    np.testing.assert_allclose(rough.embed(batch), exact.embed(batch), atol=0.1)
    np.testing.assert_allclose(rough.pretraining_loss(batch, masks), exact.pretraining_loss(batch, masks), rtol=0.02)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes tensors as a file and lets it be the checkpoint of any card."""
    checkpoint = Checkpoint("dofa", "", "weights.pth", None, "", None, None, "CC BY 4.0", False, inside="model")
    monkeypatch.setattr("geoelle.encoders.opening.get_checkpoint", lambda _: checkpoint)

    def save(tensors: Mapping[str, Tensor]) -> Path:
        torch.save({"model": dict(tensors), "epoch": 120}, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def test_the_full_file_has_the_loss(saved: Any, fixture: dict[str, Any]) -> None:
    encoder = open_dofa(small_card(), SMALL, weights=saved(fixture["state_dict"]), device="cpu")
    assert encoder.card.loss_kind == "own"
    assert len(encoder.card.weights_sha256) == 64
    assert encoder.card.n_parameters == sum(t.numel() for t in fixture["state_dict"].values())
    batch = batch_for(encoder.card)
    assert np.isfinite(encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 2, 64))).all()


@pytest.mark.parametrize("norm", [True, False], ids=["upstream's e100 file", "torchgeo's file"])
def test_a_file_without_decoder_has_no_loss(norm: bool, saved: Any, fixture: dict[str, Any]) -> None:
    """Upstream's holds norm, projector and mask token as well, torchgeo's nothing but what it needs."""
    rest = ("decoder_",) if norm else ("decoder_", "norm.", "projector.", "mask_token")
    tensors = {name: t for name, t in fixture["state_dict"].items() if not name.startswith(rest)}
    encoder = open_dofa(small_card(), SMALL, weights=saved(tensors), device="cpu")
    card = encoder.card
    assert card.loss_kind == "unavailable"
    assert card.poolings == (("upstream", "cls", "mean") if norm else ("upstream",))
    batch = batch_for(card)
    masks = encoder.fixed_masks(batch.chip_id, 1, 64)
    full = open_dofa(small_card(), SMALL, weights=saved(fixture["state_dict"]), device="cpu")
    np.testing.assert_array_equal(encoder.embed(batch), full.embed(batch))
    for loss in (encoder.pretraining_loss, encoder.patch_losses):
        with pytest.raises(EncoderError, match="has no loss: These weights hold an encoder without its decoder"):
            loss(batch, masks)
    if not norm:
        with pytest.raises(EncoderInputError, match="no pooling 'cls'"):
            encoder.embed(batch, pooling="cls")
    with pytest.raises(EncoderError, match="no decoder"):
        encoder.network.patch_errors(inputs(torch.zeros(1, 9, 64, 64), torch.ones(9)), torch.zeros(1, 1, 16).bool())


def test_half_a_decoder_is_refused(saved: Any, fixture: dict[str, Any]) -> None:
    tensors = {name: t for name, t in fixture["state_dict"].items() if not name.startswith("decoder_pred")}
    with pytest.raises(WeightsError, match="does not hold this network"):
        open_dofa(small_card(), SMALL, weights=saved(tensors))


def test_loss_kinds_are_told_before_anything_is_opened(fixture: dict[str, Any]) -> None:
    kinds = {name: get_card(name).loss_kind for name in CARDS}
    assert kinds == {"dofa-base": "unavailable", "dofa-base-full": "own", "dofa-large": "unavailable"}
    assert "teacher" in get_card("dofa-base-full").loss_definition
    assert "dofa-base-full" in get_card("dofa-base").loss_definition
    for name in CARDS:
        for card in variants_of(name):
            assert not card.validated
            assert "August 2024" in card.not_good_for
            assert card.checkpoint == name
            assert adapt(card, fixture["state_dict"]).loss_kind == "own"


def test_real_chips_through_a_small_network(shared_data: Path) -> None:
    card = replace(get_card("dofa-base-full"), n_features=48, n_layers=2)
    encoder = open_dofa(card, replace(SMALL, chip_size_px=224), random_seed=0, device="cpu")
    batch = real_batch(shared_data, card)
    assert encoder.embed(batch).std(axis=0).min() > 0
    losses = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 2, 224))
    assert losses.shape == (4, 2)
    assert ((losses > 0.5) & (losses < 2)).all(), "an untrained decoder explains nothing of standardised patches"
    assert not encoder.card.validated


@pytest.mark.long
@pytest.mark.parametrize("name", list(CARDS))
def test_real_chips_through_the_official_sizes(name: str, shared_data: Path) -> None:
    encoder = load_encoder(name, random_seed=0, device="cpu")
    batch = real_batch(shared_data, encoder.card, 2)
    embedding = encoder.embed(batch)
    assert embedding.shape == (2, encoder.card.n_features)
    assert np.isfinite(embedding).all()
    assert encoder.card.weights_sha256 == "random-0"
    masks = encoder.fixed_masks(batch.chip_id, 1, 224)
    if name != "dofa-base-full":
        with pytest.raises(EncoderError, match="has no loss"):
            encoder.pretraining_loss(batch, masks)
    else:
        assert np.isfinite(encoder.pretraining_loss(batch, masks)).all()
