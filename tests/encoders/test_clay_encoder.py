"""Clay as geoelle feeds it: cards, batches, real Sentinel-1 and Sentinel-2 chips, its checkpoint's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from clay_upstream import CHECKPOINT, Upstream, difference, make_batch
from rasterio.warp import transform

from geoelle.encoders import Encoder, check_batch, checkpoints, get_card, list_encoders, load_encoder, split_name
from geoelle.encoders.clay import SENSORS, load_clay
from geoelle.encoders.clay_model import ClayNetwork
from geoelle.encoders.inputs import normalised
from geoelle.encoders.opening import open_encoder
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.errors import EncoderError, EncoderInputError, WeightsError
from geoelle.imagery.radiometry import to_units
from geoelle.records import ChipBatch, EncoderCard
from geoelle.sensors import get_sensor

pytestmark = [pytest.mark.models, pytest.mark.shared]
NAMES = ("clay-v1.5", *(f"clay-v1.5:{sensor}" for sensor in SENSORS[1:]))


@pytest.fixture(scope="module")
def upstream(shared_data: Path) -> Upstream:
    return Upstream(shared_data.parent / "encoders" / "clay")


@pytest.fixture(scope="module")
def small(upstream: Upstream) -> TorchEncoder:
    return TorchEncoder(upstream.card(), upstream.network, device="cpu")


def random_encoder(upstream: Upstream, name: str, **options: Any) -> TorchEncoder:
    """Of the small size, with random weights."""
    card = upstream.card(name)
    return open_encoder(card, lambda _: ClayNetwork(upstream.config), random_seed=3, device="cpu", **options)


# --- cards ---------------------------------------------------------------------------------------------------------


def test_every_way_to_feed_it_is_listed() -> None:
    assert "clay-v1.5" in [card.name for card in list_encoders()]
    for name, sensor in zip(NAMES, SENSORS, strict=True):
        assert name in [card.name for card in list_encoders(sensor=sensor)]


@pytest.mark.parametrize("name", NAMES)
def test_cards_are_of_sensors_that_we_read(name: str) -> None:
    card, sensor = get_card(name), get_sensor(get_card(name).sensor)
    there = {spec.name: spec for spec in sensor.bands}
    assert set(card.bands) <= set(there)
    assert len(card.bands) == len(card.mean) == len(card.std) == len(card.wavelength_um)
    assert card.units == {"linear": "dB"}.get(sensor.units, sensor.units)
    for band, wavelength in zip(card.bands, card.wavelength_um, strict=True):
        if there[band].frequency_ghz is None:
            assert abs(there[band].wavelength_um - wavelength) < 0.02
    assert card.loss_kind == "own-partial"
    assert "teacher" in card.loss_definition
    assert "1 - cosine" in card.loss_definition
    assert card.differs
    assert not card.validated
    assert card.gsd_m in card.trained_gsd_m


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("clay-v1.5", "blue green red rededge1 rededge2 rededge3 nir nir08 swir16 swir22"),
        ("clay-v1.5:landsat-c2-l2", "red green blue nir08 swir16 swir22"),
        ("clay-v1.5:naip", "red green blue nir"),
        ("clay-v1.5:sentinel-1-rtc", "vv vh"),
    ],
)
def test_band_order_is_the_platforms(name: str, bands: str) -> None:
    assert get_card(name).bands == tuple(bands.split())


@pytest.mark.parametrize(
    ("name", "band", "number", "expected"),
    [
        ("clay-v1.5", "blue", 1105, 0),
        ("clay-v1.5", "swir22", 1835 - 1379, -1),
        ("clay-v1.5:landsat-c2-l2", "red", 13705 + 9578, 1),
        ("clay-v1.5:landsat-c2-l2", "blue", 12474, 0),
        ("clay-v1.5:naip", "nir", 139.04 + 2 * 49.86, 2),
        ("clay-v1.5:sentinel-1-rtc", "vv", 10**-1.2113, 0),
        ("clay-v1.5:sentinel-1-rtc", "vh", 10 ** ((-18.673 - 8.017) / 10), -1),
    ],
)
def test_archive_numbers_are_normalised_as_in_training(name: str, band: str, number: float, expected: float) -> None:
    """Digital numbers as the archives hold them, through our sensors' scaling and units, to the network's input."""
    card = get_card(name)
    sensor = get_sensor(card.sensor)
    pixels = np.full((len(card.bands), 64, 64), number, dtype=np.float32)
    physical = to_units(pixels * np.float32(sensor.scale) + np.float32(sensor.offset), sensor, card.units)
    batch = make_batch(card, physical[None, None])
    found = normalised(card, batch)[0, 0, card.bands.index(band)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_pixel_sizes_are_free_and_said() -> None:
    card = get_card("clay-v1.5@20m")
    assert (card.name, card.gsd_m, card.trained_gsd_m) == ("clay-v1.5@20m", 20.0, (10.0,))
    assert card.differs[0] == "Read at 20 m, which Clay is told; pretraining saw sentinel-2-l2a at 10 m."
    assert get_card("clay-v1.5:naip@0.6m").gsd_m == 0.6
    with pytest.raises(EncoderError, match="more than 0"):
        get_card("clay-v1.5@0m")


@pytest.mark.parametrize("what", ["hls-s30", "hls-l30", "sentinel-2-l1c", "red,green,blue"])
def test_what_it_was_not_trained_on_is_refused(what: str) -> None:
    with pytest.raises(EncoderError, match=rf"clay-v1\.5:{what}: Clay v1\.5 was not trained on .*sentinel-1-rtc"):
        get_card(f"clay-v1.5:{what}")
    with pytest.raises(EncoderError, match="not trained on"):
        load_encoder(f"clay-v1.5:{what}", random_seed=0)


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("clay-v1.5", {"bands": ("red", "green", "blue", "nir")}, r"expects bands .*missing bands \['rededge1'"),
        ("clay-v1.5", {"units": "dn"}, "units 'reflectance' but the batch has 'dn'. Convert the pixels"),
        ("clay-v1.5", {"gsd_m": 20.0}, "pixels of 10 m but the batch has pixels of 20 m. Read the imagery at 10 m"),
        ("clay-v1.5", {"sensor": "hls-s30"}, r"sensor 'sentinel-2-l2a' .*list_encoders\(sensor='hls-s30'\)"),
        ("clay-v1.5", {"pixels": np.full((1, 1, 10, 64, 64), 1500, np.float32)}, "look like digital numbers"),
        ("clay-v1.5:sentinel-1-rtc", {"units": "linear"}, "units 'dB' but the batch has 'linear'. Make them decibels"),
        ("clay-v1.5:sentinel-1-rtc", {"bands": ("vh", "vv")}, r"bands \('vv', 'vh'\).*in this order"),
        ("clay-v1.5:naip", {"bands": ("blue", "green", "red", "nir")}, "in this order"),
        ("clay-v1.5:landsat-c2-l2", {"pixels": np.zeros((1, 1, 6, 60, 60), np.float32)}, "256 x 256 or .* 60 x 60"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, changes: dict[str, Any], match: str) -> None:
    card = get_card(name)
    fitting = make_batch(card, np.full((1, 1, len(card.bands), 64, 64), card.mean[0]))
    check_batch(card, fitting)
    with pytest.raises(EncoderInputError, match=match):
        check_batch(card, replace(fitting, **changes))


# --- batches -------------------------------------------------------------------------------------------------------


def test_a_batch_gives_what_upstream_gives(small: TorchEncoder, upstream: Upstream) -> None:
    """From reflectance, UTC and degrees to upstream's numbers."""
    assert isinstance(small, Encoder)
    batch, data = upstream.batch(), upstream.data
    masks = upstream.hidden[:, None].numpy()
    assert difference(small.embed(batch), data["emb_cls"]) < 1e-5
    assert difference(small.embed(batch, pooling="mean"), data["emb_mean_patch"]) < 1e-5
    assert difference(small.embed_tokens(batch).mean(axis=(1, 2)), data["emb_mean_patch"]) < 1e-5
    assert difference(small.pretraining_loss(batch, masks)[:, 0], data["loss_l1"]) < 1e-5


def test_a_batch_gives_what_the_network_gives(small: TorchEncoder, upstream: Upstream) -> None:
    batch = upstream.batch()
    masks = small.fixed_masks(batch.chip_id, 3, 64)
    assert masks.sum(axis=2).tolist() == [[48] * 3] * 4
    with torch.inference_mode():
        errors = upstream.network.patch_errors(upstream.inputs, torch.from_numpy(masks)).numpy()
        layer = upstream.network.encode(upstream.inputs, (0,)).layers[0].numpy()
    losses = small.patch_losses(batch, masks)
    assert losses.shape == (4, 3, 8, 8)
    assert difference(np.nan_to_num(losses).reshape(masks.shape), errors * masks) < 1e-5
    np.testing.assert_array_equal(np.isfinite(losses).reshape(masks.shape), masks)
    assert difference(small.embed(batch, layer=0), layer[:, 0]) < 1e-5
    assert difference(small.embed_tokens(batch, layer=0).reshape(4, 64, 72), layer[:, 1:]) < 1e-5


def test_tokens_run_north_to_south_and_west_to_east(small: TorchEncoder, upstream: Upstream) -> None:
    batch = upstream.batch().select(slice(0, 1))
    changed = batch.pixels.copy()
    changed[0, 0, :, 8:16, 40:48] += 0.1  # patch row 1, patch column 5
    masks = np.zeros((1, 1, 64), dtype=bool)
    masks[0, 0, :48] = True
    before, after = (small.patch_losses(one, masks) for one in (batch, replace(batch, pixels=changed)))
    assert [tuple(at) for at in np.argwhere(np.nan_to_num(before) != np.nan_to_num(after))] == [(0, 0, 1, 5)]


def test_half_precision_is_near(small: TorchEncoder, upstream: Upstream) -> None:
    """Autocast reaches every product, and the sums in between stay in float32."""
    half = TorchEncoder(upstream.card(), upstream.network, device="cpu", precision="bf16")
    batch = upstream.batch()
    masks = small.fixed_masks(batch.chip_id, 2, 64)
    assert 0 < difference(half.embed(batch), small.embed(batch)) < 0.02
    assert 0 < difference(half.pretraining_loss(batch, masks), small.pretraining_loss(batch, masks)) < 0.02


def test_no_chip_gives_no_row(small: TorchEncoder, upstream: Upstream) -> None:
    batch = upstream.batch().select(slice(0, 0))
    assert small.embed(batch).shape == (0, 72)
    assert small.embed_tokens(batch).shape == (0, 8, 8, 72)
    assert small.pretraining_loss(batch, np.zeros((0, 2, 64), dtype=bool)).shape == (0, 2)


def test_the_network_is_told_the_pixel_size(small: TorchEncoder, upstream: Upstream) -> None:
    batch = upstream.batch()
    coarse = TorchEncoder(upstream.card("clay-v1.5@20m"), upstream.network, device="cpu")
    assert difference(coarse.embed(replace(batch, gsd_m=20.0)), small.embed(batch)) > 1e-3


# --- real chips ----------------------------------------------------------------------------------------------------


def read_chip(path: Path, card: EncoderCard, scale: float = 1.0, size_px: int = 224) -> ChipBatch:
    """The north-west corner of a real chip, in the card's bands and units."""
    aliases = {alias: spec.name for spec in get_sensor(card.sensor).bands for alias in spec.aliases}
    with rasterio.open(path) as file:
        names = [aliases.get(name, name) for name in file.descriptions]
        pixels = file.read([names.index(band) + 1 for band in card.bands]).astype(np.float32) * np.float32(scale)
        x, y = file.transform @ (size_px / 2, size_px / 2)
        (lon,), (lat,) = transform(file.crs, "EPSG:4326", [x], [y])
    return make_batch(card, pixels[None, None, :, :size_px, :size_px], lonlat=np.array([[lon, lat]]))


def check_finite(encoder: TorchEncoder, batch: ChipBatch, k: int = 2) -> None:
    """Every output of a real chip has its shape and is finite."""
    side = batch.pixels.shape[-1] // 8
    masks = encoder.fixed_masks(batch.chip_id, k, batch.pixels.shape[-1])
    assert encoder.embed(batch).shape == (len(batch), encoder.card.n_features)
    assert np.isfinite(encoder.embed(batch)).all()
    loss = encoder.pretraining_loss(batch, masks)
    assert loss.shape == (len(batch), k)
    assert ((loss > 0.05) & (loss < 20)).all()
    patches = encoder.patch_losses(batch, masks)
    assert patches.shape == (len(batch), k, side, side)
    np.testing.assert_array_equal(np.isfinite(patches).reshape(masks.shape), masks)


def test_real_sentinel_1_chips_go_through(upstream: Upstream, shared_data: Path) -> None:
    encoder = random_encoder(upstream, "clay-v1.5:sentinel-1-rtc")
    paths = sorted((shared_data / "chips" / "s1").glob("*.tif"))
    chips = [read_chip(path, encoder.card) for path in paths]
    assert len(chips) == 2
    embeddings = []
    for chip in chips:
        assert np.abs(normalised(encoder.card, chip)).mean() < 1  # the figures on the card fit real chips in dB
        check_finite(encoder, chip)
        embeddings.append(encoder.embed(chip)[0])
    assert difference(embeddings[0], embeddings[1]) > 1e-2
    assert not encoder.card.validated
    assert encoder.card.weights_sha256 == "random-3"


def test_power_that_has_no_decibels_is_missing(upstream: Upstream, shared_data: Path) -> None:
    """As the card says; upstream would set it to -100 dB."""
    encoder = random_encoder(upstream, "clay-v1.5:sentinel-1-rtc")
    assert any("-100 dB" in sentence for sentence in encoder.card.differs)
    chip = read_chip(sorted((shared_data / "chips" / "s1").glob("*.tif"))[0], encoder.card)
    linear = 10 ** (chip.pixels / 10)
    linear[0, 0, 1, :4, :4] = 0
    chip = replace(chip, pixels=np.stack([to_units(linear[0, 0], get_sensor("sentinel-1-rtc"), "dB")])[:, None])
    masks = encoder.fixed_masks(chip.chip_id, 8, 224)
    losses = encoder.patch_losses(chip, masks)
    assert masks[0, :, 0].any()
    assert np.isnan(losses[0, :, 0, 0]).all()
    assert np.isfinite(encoder.embed(chip)).all()


def test_real_sentinel_2_chip_goes_through(upstream: Upstream, shared_data: Path) -> None:
    encoder = random_encoder(upstream, "clay-v1.5")
    chip = read_chip(shared_data / "chips" / "ms" / "satclip_445.tif", encoder.card, 0.0001, size_px=256)
    assert np.abs(normalised(encoder.card, chip)).mean() < 1
    check_finite(encoder, chip)
    check_finite(encoder, read_chip(shared_data / "chips" / "ms" / "satclip_33188.tif", encoder.card, 0.0001, 64))


# --- weights -------------------------------------------------------------------------------------------------------


def write_lightning(folder: Path, state: dict[str, torch.Tensor], **more: Any) -> Path:
    """A file laid out as the published one: everything under `model.`, the teacher too, and the optimizer's moments."""
    folder.mkdir(parents=True, exist_ok=True)
    teacher = {"teacher.cls_token": torch.zeros(1, 1, 8), "teacher.blocks.0.norm1.weight": torch.ones(8)}
    tensors = {f"model.{name}": tensor for name, tensor in (state | teacher | more.pop("tensors", {})).items()}
    content = {"epoch": 7, "state_dict": tensors, "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}]}
    path = folder / "clay-v1.5.ckpt"
    torch.save(content | more, path)
    return path


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoints._CHECKPOINTS, "clay-v1.5", CHECKPOINT)


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("older", [False, True])
def test_the_published_layout_is_opened(older: bool, upstream: Upstream, tmp_path: Path) -> None:
    path = write_lightning(
        tmp_path, upstream.state, tensors={"mrl.layers.0.weight": torch.zeros(2, 2)} if older else {}
    )
    state = checkpoints.read_state(path, CHECKPOINT)
    assert set(state.tensors) == set(upstream.network.state_dict())
    for part in ("teacher.cls_token", "proj.weight", *(["mrl.layers.0.weight"] if older else [])):
        assert any(name.endswith(part) for name in state.dropped)
    for weights in (path, tmp_path):
        encoder = open_encoder(upstream.card(), lambda _: ClayNetwork(upstream.config), weights=weights, device="cpu")
        assert difference(encoder.embed(upstream.batch()), upstream.data["emb_cls"]) < 1e-5
        assert len(encoder.card.weights_sha256) == 64


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_weights_are_opened_strictly(change: str, upstream: Upstream, tmp_path: Path) -> None:
    state = dict(upstream.state)
    if change == "missing":
        del state["decoder.mask_patch"]
    else:
        state["decoder.mask_patch_2"] = torch.zeros(3)
    path = write_lightning(tmp_path, state)
    with pytest.raises(WeightsError, match=r"does not hold this network.*mask_patch"):
        open_encoder(upstream.card(), lambda _: ClayNetwork(upstream.config), weights=path, device="cpu")


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.usefixtures("checkpoint")
def test_the_registry_opens_the_official_size_and_nothing_smaller(upstream: Upstream, tmp_path: Path) -> None:
    """The small fixture is not Clay v1.5, so the registry's own loader refuses it by its shapes."""
    path = write_lightning(tmp_path, upstream.state)
    with torch.device("meta"), pytest.raises(WeightsError, match="does not hold this network"):
        load_clay(split_name("clay-v1.5")[1], weights=path, device="cpu")


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_official_size(name: str, shared_data: Path) -> None:
    encoder = load_encoder(name, random_seed=0, device="cpu")
    assert isinstance(encoder, TorchEncoder)
    card = encoder.card
    assert sum(parameter.numel() for parameter in encoder.network.parameters()) == card.n_parameters
    rng = np.random.default_rng(0)
    shape = (1, 1, len(card.bands), 64, 64)
    mean, std = (np.array(values)[:, None, None] for values in (card.mean, card.std))
    batch = make_batch(card, rng.normal(size=shape) * std * 0.3 + mean, lonlat=np.array([[11.0, 48.0]]))
    check_finite(encoder, batch)
    if card.sensor == "sentinel-1-rtc":
        check_finite(encoder, read_chip(sorted((shared_data / "chips" / "s1").glob("*.tif"))[0], card), k=1)
