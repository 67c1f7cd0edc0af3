"""SatCLIP: upstream's numbers, the published names and shapes, the fixed places, and what goes wrong easily."""

from __future__ import annotations

import importlib.util
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from satclip_chips import ORDER, real_batch
from torch import Tensor

from geoelle.encoders import get_card, load_encoder, variants_of
from geoelle.encoders import satclip_places as places_module
from geoelle.encoders.checkpoints import Checkpoint
from geoelle.encoders.network import Inputs
from geoelle.encoders.opening import open_encoder
from geoelle.encoders.satclip import NAMES, prepare, same_twice
from geoelle.encoders.satclip_adapter_model import SatclipEncoder
from geoelle.encoders.satclip_model import (
    Bank,
    SatclipConfig,
    SatclipNetwork,
    batch_losses,
    cosines,
    distances_km,
)
from geoelle.encoders.satclip_places import N_PLACES, NEARER_KM, PLACES_FILE, PLACES_SHA256, read_places
from geoelle.errors import EncoderError, EncoderInputError, WeightsError
from geoelle.provenance import file_sha256
from geoelle.records import ChipBatch, EncoderCard

pytestmark = pytest.mark.models
TOLERANCE = 1e-5
SMALL_VIT = SatclipConfig(chip_size_px=32, patch_px=8, width=24, depth=2, n_heads=2, n_features=12, place_width=16)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def inputs(pixels: Tensor, lonlat: Tensor) -> Inputs:
    return Inputs(pixels[:, None], torch.full((len(pixels), 1, 4), torch.nan), lonlat, torch.ones(12), 10.0)


def config_of(c: dict[str, Any]) -> SatclipConfig:
    """A fixture's configuration, all of it."""
    assert (c["le_type"], c["pe_type"]) == ("sphericalharmonics", "siren")
    return SatclipConfig(
        tower="clip-vit",
        chip_size_px=c["image_resolution"],
        patch_px=c["vision_patch_size"],
        n_bands=c["in_channels"],
        width=c["vision_width"],
        depth=c["vision_layers"],
        n_heads=c["vision_width"] // 64,
        n_features=c["embed_dim"],
        degrees=c["legendre_polys"],
        place_width=c["capacity"],
        place_depth=c["num_hidden_layers"],
    )


def load_fixture(folder: Path, name: str) -> tuple[SatclipNetwork, dict[str, Tensor]]:
    found = torch.load(folder / name, weights_only=True)
    network = SatclipNetwork(config_of(found["config"]))
    network.load_state_dict(found["state_dict"], strict=True)
    return network.eval(), found["data"]


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data.parent / "encoders" / "satclip"


@pytest.fixture(scope="module")
def golden(folder: Path) -> tuple[SatclipNetwork, dict[str, Tensor]]:
    return load_fixture(folder, "shrunk_clipvit_L10.pt")


@torch.inference_mode()
def test_both_towers_and_losses_are_upstreams(golden: tuple[SatclipNetwork, dict[str, Tensor]]) -> None:
    network, data = golden
    assert relative(network.location.posenc(data["lonlat"]), data["posenc"]) < 1e-12
    place = network.location(data["lonlat"])
    assert place.dtype == torch.float64
    assert relative(place, data["emb_location"]) < 1e-12
    image = network.pool(network.encode(inputs(data["x"], data["lonlat"])), "projected")
    assert relative(image, data["emb_image"]) < TOLERANCE
    assert relative(image, data["emb_image_prelogits"]) < TOLERANCE
    logits = network.logits(image, network.locate(data["lonlat"]))
    assert relative(logits, data["logits_per_image"]) < TOLERANCE
    assert relative(batch_losses(logits), data["loss_infonce_per_sample"]) < TOLERANCE
    cosine = cosines(image, place).diagonal()
    assert relative(cosine, data["cosine"]) < TOLERANCE
    assert relative(1 - cosine, data["one_minus_cos"]) < TOLERANCE
    assert torch.equal(network.logit_scale, data["logit_scale_log"])


@torch.inference_mode()
def test_textbook_harmonics_are_told_apart(folder: Path) -> None:
    """The negative control: the same weights behind textbook harmonics are another model."""
    network, data = load_fixture(folder, "shrunk_clipvit_L10_closedform.pt")
    found = network.location.posenc(data["lonlat"])
    assert relative(found, data["posenc"]) > 0.5
    place = network.location(data["lonlat"])
    assert relative(place, data["emb_location"]) > 0.5
    image = network.pool(network.encode(inputs(data["x"], data["lonlat"])), "projected")
    assert relative(image, data["emb_image"]) < TOLERANCE
    logits = network.logits(image, place)
    assert relative(logits, data["logits_per_image"]) > 0.1
    assert relative(batch_losses(logits), data["loss_infonce_per_sample"]) > 0.1
    # What the two differ by: pi at order 0, (-1)^order elsewhere.
    orders = torch.tensor([m for degree in range(10) for m in range(-degree, degree + 1)])
    factor = torch.where(orders == 0, torch.pi, (-1.0) ** orders).double()
    assert relative(found, data["posenc"] * factor) < 1e-7


@torch.inference_mode()
def test_longitude_comes_first_and_in_float64(golden: tuple[SatclipNetwork, dict[str, Tensor]]) -> None:
    network, data = golden
    swapped = data["lonlat"].flip(1)
    assert relative(network.location(swapped), data["emb_location"]) > 0.1
    rough = network.location(data["lonlat"].float())  # only the places are rounded here, by a metre
    assert 1e-9 < relative(rough, data["emb_location"]) < 1e-2
    assert {t.dtype for name, t in network.state_dict().items() if "nnet" in name} == {torch.float64}
    assert network.locate(data["lonlat"]).dtype == torch.float32


@torch.inference_mode()
def test_the_zero_band_matters_and_stands_at_ten(golden: tuple[SatclipNetwork, dict[str, Tensor]]) -> None:
    card = get_card("satclip-vit16-l10")
    batch = batch_for(card, 2)
    found = prepare(card, batch)
    assert found.shape[2] == 13
    assert not found[:, :, 10].any()
    np.testing.assert_array_equal(np.delete(found, 10, axis=2), batch.pixels)
    assert " ".join(ORDER[b] for b in card.bands) == "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
    network, data = golden
    with_zero = data["x"].clone()
    with_zero[:, 10] = 0
    at_the_end = torch.cat([with_zero[:, :10], with_zero[:, 11:], with_zero[:, 10:11]], dim=1)
    embeddings = [network.pool(network.encode(inputs(x, data["lonlat"])), "projected") for x in (with_zero, at_the_end)]
    assert relative(embeddings[1], embeddings[0]) > 0.01
    with pytest.raises(RuntimeError, match="13 channels"):
        network.encode(inputs(data["x"][:, :12], data["lonlat"]))


@pytest.mark.parametrize("degrees", [10, 40])
@pytest.mark.parametrize("tower", ["vit16", "resnet18", "resnet50"])
def test_names_and_shapes_are_the_published_ones(tower: str, degrees: int, folder: Path) -> None:
    published = json.loads((folder / f"{tower}_l{degrees}.keys.json").read_text())
    vit = tower == "vit16"
    with torch.device("meta"):
        network = SatclipNetwork(
            SatclipConfig(degrees=degrees) if vit else SatclipConfig(tower, 256, 32, degrees=degrees)  # type: ignore[arg-type]
        )
    state = network.state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == published["keys"]
    assert sum(tensor.numel() for tensor in state.values()) == published["n_values"]
    card = get_card(f"satclip-{tower}-l{degrees}")
    assert sum(p.numel() for p in network.parameters()) == card.n_parameters
    assert network.token_shape(1, card.chip_sizes_px[0]) == ((1, 14, 14) if vit else (1, 8, 8))


def batch_for(card: EncoderCard, n: int = 3) -> ChipBatch:
    rng = np.random.default_rng(4)
    size = card.chip_sizes_px[0]
    return ChipBatch(
        sensor=card.sensor,
        units=card.units,
        bands=card.bands,
        pixels=rng.uniform(0, 0.4, (n, 1, len(card.bands), size, size)).astype(np.float32),
        valid=np.ones((n, 1, size, size), dtype=bool),
        time=np.full((n, 1), np.datetime64("2021-06-01", "ns")),
        lonlat=np.column_stack([rng.uniform(-180, 180, n), rng.uniform(-56, 80, n)]),
        gsd_m=card.gsd_m,
        chip_id=np.array([f"c{i}" for i in range(n)]),
    )


def small_encoder(name: str = "satclip-vit16-l10", config: SatclipConfig = SMALL_VIT, **options: Any) -> SatclipEncoder:
    torch.manual_seed(0)
    card = replace(
        get_card(name),
        chip_sizes_px=(config.chip_size_px,),
        patch_px=config.patch_px,
        n_features=config.n_features,
        n_layers=config.depth if config.tower == "vit" else 0,
    )
    return SatclipEncoder(card, SatclipNetwork(config), prepare=prepare, device="cpu", batch=2, **options)


@torch.inference_mode()
def test_the_adapter_gives_what_the_network_gives() -> None:
    encoder = small_encoder()
    network = encoder.network
    batch = batch_for(encoder.card)
    given = inputs(torch.from_numpy(prepare(encoder.card, batch))[:, 0], torch.from_numpy(batch.lonlat))
    encoded = network.encode(given, layers=(1, 0))
    timm = network.visual.forward(given.pixels[:, 0])
    np.testing.assert_allclose(encoder.embed(batch), timm, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(batch, pooling="backbone"), encoded.cls, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(batch, pooling="mean"), encoded.tokens.mean(1), atol=1e-5)
    np.testing.assert_allclose(encoder.embed_tokens(batch), encoded.tokens.reshape(3, 4, 4, 24), atol=1e-5)
    assert torch.equal(network.visual.norm(encoded.layers[0])[:, 1:], encoded.tokens)
    np.testing.assert_allclose(encoder.embed(batch, layer=0), encoded.layers[1][:, 0], atol=1e-5)
    np.testing.assert_allclose(
        encoder.embed(batch, layer=0, pooling="mean"), encoded.layers[1][:, 1:].mean(1), atol=1e-5
    )
    none = batch.select(slice(0, 0))
    assert encoder.embed(none).shape == (0, 12)
    assert encoder.embed(none, pooling="backbone").shape == (0, 24)
    assert encoder.embed_tokens(none).shape == (0, 4, 4, 24)
    with pytest.raises(EncoderInputError, match="projects its last block alone"):
        encoder.embed(batch, layer=0, pooling="projected")
    with pytest.raises(EncoderInputError, match="no pooling 'cls'"):
        encoder.embed(batch, pooling="cls")
    with pytest.raises(EncoderInputError, match="no layer 2"):
        encoder.embed_tokens(batch, layer=2)


@torch.inference_mode()
def test_a_resnet_gives_cells_and_no_layers() -> None:
    config = SatclipConfig("resnet18", 64, 32, n_features=12, place_width=16)
    encoder = small_encoder("satclip-resnet18-l10", config)
    batch = batch_for(encoder.card)
    timm = encoder.network.visual.forward(torch.from_numpy(prepare(encoder.card, batch))[:, 0])
    np.testing.assert_allclose(encoder.embed(batch), timm, atol=1e-4)
    cells = encoder.embed_tokens(batch)
    assert cells.shape == (3, 2, 2, 512)
    np.testing.assert_allclose(cells.mean(axis=(1, 2)), encoder.embed(batch, pooling="backbone"), atol=1e-5)
    for call in (encoder.embed, encoder.embed_tokens):
        with pytest.raises(EncoderInputError, match="no transformer blocks"):
            call(batch, layer=0)


@torch.inference_mode()
def test_loss_is_the_places_softmax_worked_by_hand() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card)
    masks = encoder.fixed_masks(batch.chip_id, 8, 32)
    assert masks.shape == (3, 1, 16)
    assert not masks.any()
    found = encoder.pretraining_loss(batch, masks)
    assert found.shape == (3, 1)
    network = encoder.network
    image = encoder.embed(batch).astype(np.float64)
    bank = network.locate(torch.from_numpy(read_places())).double().numpy()
    own = network.locate(torch.from_numpy(batch.lonlat)).double().numpy()
    scale = float(network.logit_scale.exp())
    for i in range(3):
        candidates = np.vstack([own[i], bank[km_between(batch.lonlat[i], read_places()) >= NEARER_KM]])
        cosine = candidates @ image[i] / np.linalg.norm(candidates, axis=1) / np.linalg.norm(image[i])
        odds = np.exp(scale * cosine)
        assert found[i, 0] == pytest.approx(-np.log(odds[0] / odds.sum()), rel=1e-4)


def km_between(place: Any, places: Any) -> Any:
    """Haversine distances, another formula than the code's."""
    lon, lat = np.radians(place)
    lons, lats = np.radians(places).T
    h = np.sin((lats - lat) / 2) ** 2 + np.cos(lat) * np.cos(lats) * np.sin((lons - lon) / 2) ** 2
    return 2 * 6371.0 * np.arcsin(np.sqrt(h))


@torch.inference_mode()
def test_near_places_are_left_out(golden: tuple[SatclipNetwork, dict[str, Tensor]]) -> None:
    network, data = golden
    image = network.pool(network.encode(inputs(data["x"], data["lonlat"])), "projected")[:1]
    here = data["lonlat"][:1]
    near, far = here + torch.tensor([[0.0, 0.3]]), here + torch.tensor([[0.0, 0.6]])
    assert float(distances_km(here, near)) == pytest.approx(33.4, abs=0.1)

    def loss(places: Tensor) -> float:
        return float(network.place_losses(image, here, Bank(places, network.locate(places)), NEARER_KM)[0])

    assert loss(near) == pytest.approx(0, abs=1e-6), "nothing is left but the chip's own place"
    assert loss(far) > 0.1
    assert loss(torch.cat([near, far])) == pytest.approx(loss(far), rel=1e-6)


@torch.inference_mode()
def test_loss_depends_on_no_other_chip() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card, 5)
    masks = encoder.fixed_masks(batch.chip_id, 1, 32)
    together = encoder.pretraining_loss(batch, masks)
    for i in range(5):
        one = batch.select(slice(i, i + 1))
        np.testing.assert_allclose(encoder.pretraining_loss(one, masks[:1]), together[i : i + 1], rtol=1e-5)
    empty = replace(batch, valid=np.zeros_like(batch.valid))
    assert np.isnan(encoder.pretraining_loss(empty, masks)).all()
    assert encoder.pretraining_loss(batch.select(slice(0, 0)), masks[:0]).shape == (0, 1)


@torch.inference_mode()
def test_the_cosine_is_a_proxy_and_says_so() -> None:
    encoder = small_encoder("satclip-vit16-l10:cosine")
    card = encoder.card
    assert (card.loss_kind, card.name) == ("proxy", "satclip-vit16-l10:cosine")
    assert "proxy" in card.loss_definition
    batch = batch_for(card)
    own = encoder.network.locate(torch.from_numpy(batch.lonlat))
    expected = 1 - torch.nn.functional.cosine_similarity(torch.from_numpy(encoder.embed(batch)), own)
    found = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 1, 32))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4)


def test_what_there_is_not_is_refused() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card)
    masks = encoder.fixed_masks(batch.chip_id, 1, 32)
    with pytest.raises(EncoderError, match="none per patch"):
        encoder.patch_losses(batch, masks)
    with pytest.raises(EncoderError, match="none per patch"):
        encoder.network.patch_errors(
            inputs(torch.zeros(1, 13, 32, 32), torch.zeros(1, 2)), torch.zeros(1, 1, 16).bool()
        )
    with pytest.raises(EncoderInputError, match="0 of 16 tokens hidden"):
        encoder.pretraining_loss(batch, ~masks)
    with pytest.raises(EncoderInputError, match="2 masks per chip"):
        encoder.pretraining_loss(batch, np.repeat(masks, 2, axis=1))
    with pytest.raises(EncoderInputError, match="position"):
        encoder.pretraining_loss(replace(batch, lonlat=np.full((3, 2), np.nan)), masks)
    with pytest.raises(EncoderInputError, match="64 px were asked for"):
        encoder.fixed_masks(batch.chip_id, 1, 64)


def test_low_precision_leaves_the_places_alone() -> None:
    exact, rough = small_encoder(), small_encoder(precision="bf16")
    batch = batch_for(exact.card)
    masks = exact.fixed_masks(batch.chip_id, 1, 32)
    assert not np.array_equal(rough.embed(batch), exact.embed(batch))
    np.testing.assert_allclose(rough.pretraining_loss(batch, masks), exact.pretraining_loss(batch, masks), rtol=0.02)
    assert rough.network.nnet.last_layer.weight.dtype == torch.float64


def test_it_pickles_without_the_places() -> None:
    encoder = small_encoder()
    batch = batch_for(encoder.card)
    masks = encoder.fixed_masks(batch.chip_id, 1, 32)
    expected = encoder.pretraining_loss(batch, masks)
    assert encoder._bank is not None
    other = pickle.loads(pickle.dumps(encoder))
    assert other._bank is None
    np.testing.assert_array_equal(other.pretraining_loss(batch, masks), expected)


def test_forty_degrees_embed_and_have_no_loss() -> None:
    encoder = small_encoder("satclip-vit16-l40", replace(SMALL_VIT, degrees=40))
    assert encoder.card.loss_kind == "unavailable"
    batch = replace(batch_for(encoder.card), lonlat=np.full((3, 2), np.nan))
    assert np.isfinite(encoder.embed(batch)).all()
    with pytest.raises(EncoderError, match="Take an L10 model"):
        encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 1, 32))
    with pytest.raises(EncoderError, match="There is no satclip-vit16-l40:cosine"):
        get_card("satclip-vit16-l40:cosine")


def test_cards_say_how_they_are_fed() -> None:
    for name in NAMES:
        for card in variants_of(name):
            assert card.chip_sizes_px == ((224,) if "vit" in name else (256,))
            assert card.loss_kind == (
                "unavailable" if "l40" in name else "proxy" if "cosine" in card.name else "own-partial"
            )
            assert card.needs_lonlat == (card.loss_kind != "unavailable")
            assert card.mask_ratio == 0
            assert card.checkpoint == name
            assert not card.validated
    card = get_card("satclip-vit16-l10")
    assert PLACES_SHA256[:12] in card.loss_definition
    assert "50 km" in card.loss_definition
    assert "place to image" in card.loss_definition
    assert any("20 m" in sentence for sentence in get_card("satclip-vit16-l10@20m").differs)
    with pytest.raises(EncoderError, match="There is no satclip-vit16-l10:naip"):
        get_card("satclip-vit16-l10:naip")


def test_places_are_those_of_version_1_and_the_script_makes_them(repo_root: Path) -> None:
    assert file_sha256(PLACES_FILE) == PLACES_SHA256
    spec = importlib.util.spec_from_file_location("satclip_place_maker", repo_root / "pipelines/make_satclip_places.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.as_text(maker.places()).encode() == PLACES_FILE.read_bytes()


def test_places_are_even_and_on_land() -> None:
    places = read_places()
    assert places.shape == (N_PLACES, 2)
    assert -56 < places[:, 1].min() < -50
    assert 80 < places[:, 1].max() < 83
    assert np.abs(places[:, 0]).max() <= 180
    apart = distances_km(torch.from_numpy(places), torch.from_numpy(places)).fill_diagonal_(torch.inf)
    assert 100 < float(apart.min()) < 200
    for name, lon, lat, n in (("Sahara", 10, 23, 25), ("mid-Pacific", -150, 0, 0), ("Antarctica", 0, -80, 0)):
        near = int((km_between((lon, lat), places) < 500).sum())
        assert (near >= n > 0) or near == n == 0, name


def test_other_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places_module, "PLACES_FILE", tmp_path / "places.csv")
    with pytest.raises(WeightsError, match="no file"):
        read_places()
    (tmp_path / "places.csv").write_text(PLACES_FILE.read_text().replace("-39.2197", "-39.2198"))
    with pytest.raises(WeightsError, match="has the sha256"):
        read_places()


@pytest.fixture
def as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(
        "satclip", "", "x.ckpt", None, "", None, None, "MIT", False, inside="state_dict", strip=("model.",)
    )
    monkeypatch.setattr("geoelle.encoders.opening.get_checkpoint", lambda _: checkpoint)


def strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What reading a checkpoint does with its `strip`, where it has not been done."""
    return same_twice({name.removeprefix("model."): tensor for name, tensor in tensors.items()})


@pytest.mark.usefixtures("as_published")
@torch.inference_mode()
def test_a_lightning_file_opens(folder: Path, golden: tuple[SatclipNetwork, dict[str, Tensor]]) -> None:
    path = folder / "shrunk_lightning_layout.ckpt"
    config = config_of(torch.load(path, weights_only=True)["hyper_parameters"])
    card = replace(get_card("satclip-vit16-l10"), chip_sizes_px=(64,), n_features=16)
    encoder = open_encoder(
        card,
        lambda _: SatclipNetwork(config),
        weights=path,
        prepare=prepare,
        kind=SatclipEncoder,
        convert=strip,
        device="cpu",
    )
    assert len(encoder.card.weights_sha256) == 64
    network, data = golden
    place = encoder.network.location(data["lonlat"])
    assert relative(place, data["emb_location"]) < 1e-12
    for name, tensor in network.state_dict().items():
        assert torch.equal(encoder.network.state_dict()[name], tensor)


def test_two_copies_that_differ_are_refused() -> None:
    tensors = dict(SatclipNetwork(SMALL_VIT).state_dict())
    assert same_twice(tensors) == tensors
    tensors["location.nnet.layers.0.bias"] = tensors["location.nnet.layers.0.bias"] + 1
    with pytest.raises(WeightsError, match=r"nnet\.layers\.0\.bias and location\.nnet\.layers\.0\.bias"):
        same_twice(tensors)


def test_real_chips_through_the_official_size(shared_data: Path) -> None:
    encoder = load_encoder("satclip-vit16-l10", random_seed=0, device="cpu")
    batch = real_batch(shared_data, encoder.card)
    embedding = encoder.embed(batch)
    assert embedding.shape == (4, 256)
    assert embedding.std(axis=0).min() > 0
    losses = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 8, 224))
    # Untrained towers guess: log(4097) = 8.3, give or take a cosine that logit_scale = 14 enlarges.
    assert ((losses > 4) & (losses < 14)).all()
    assert encoder.card.weights_sha256 == "random-0"
    assert not encoder.card.validated


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if "vit" not in name])
def test_real_chips_through_the_official_resnets(name: str, shared_data: Path) -> None:
    encoder = load_encoder(name, random_seed=0, device="cpu")
    batch = real_batch(shared_data, encoder.card, 2)
    assert encoder.embed(batch).shape == (2, 256)
    assert encoder.embed_tokens(batch).shape[:3] == (2, 8, 8)
    masks = encoder.fixed_masks(batch.chip_id, 1, 256)
    if "l40" in name:
        with pytest.raises(EncoderError, match="has no loss"):
            encoder.pretraining_loss(batch, masks)
    else:
        assert np.isfinite(encoder.pretraining_loss(batch, masks)).all()
