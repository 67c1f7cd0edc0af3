"""The compact encoder's bands: any subset through one set of weights, names of the registry, 8 bits, shipped probes."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from geoelle.encoders import Encoder, get_card, list_encoders, load_encoder, variants_of
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.compact_cards import BAND_SETS, WEIGHTS_FOLDER
from geoelle.encoders.shipped import shipped_probe_folder
from geoelle.errors import EncoderError, EncoderInputError, ProbeError, WeightsError
from geoelle.probe import Probe
from geoelle.records import ChipBatch
from geoelle.store.probes import read_probe

MakeBatch = Callable[..., ChipBatch]

CASES = [
    (("red", "green", "blue"), 32, 20.0),
    (("blue", "green", "red", "nir", "swir22"), 64, 20.0),
    (BAND_SETS["compact-s2"], 64, 10.0),
    (BAND_SETS["compact-s2"], 32, 20.0),
    (("nir08",), 32, 10.0),
    (("swir16", "blue"), 64, 10.0),
]


@pytest.mark.models
@pytest.mark.parametrize(("bands", "size", "gsd_m"), CASES)
def test_runtimes_agree_for_any_bands(bands: tuple[str, ...], size: int, gsd_m: float, make_batch: MakeBatch) -> None:
    onnx, torch = (CompactEncoder(bands=bands, gsd_m=gsd_m, runtime=name) for name in ("onnx", "torch"))  # type: ignore[arg-type]
    batch = make_batch(3, size, bands=bands, gsd_m=gsd_m)
    masks = onnx.fixed_masks(batch.chip_id, 2, size)
    np.testing.assert_allclose(onnx.embed_tokens(batch), torch.embed_tokens(batch), atol=1e-5)
    np.testing.assert_allclose(onnx.patch_losses(batch, masks), torch.patch_losses(batch, masks), rtol=1e-5, atol=1e-5)
    for pooling in ("cls", "mean"):
        np.testing.assert_allclose(onnx.embed(batch, pooling=pooling), torch.embed(batch, pooling=pooling), atol=1e-5)
    for layer in (0, 5):
        # Before the last norm some features are in the hundreds: 1e-5 of the largest.
        for one, other in (
            (onnx.embed(batch, layer=layer), torch.embed(batch, layer=layer)),
            (onnx.embed_tokens(batch, layer=layer), torch.embed_tokens(batch, layer=layer)),
        ):
            assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()


def test_pooling_and_layers_are_those_of_the_tokens(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(2)
    layers = [compact.embed_tokens(batch, layer=layer) for layer in range(compact.card.n_layers)]
    for layer, tokens in enumerate(layers):
        assert tokens.shape == (2, 8, 8, 192)
        mean = tokens.mean(axis=(1, 2))
        found = compact.embed(batch, pooling="mean", layer=layer)
        np.testing.assert_allclose(found, mean, atol=1e-5 * np.abs(mean).max())
    assert all(np.abs(a - b).max() > 0.01 for a, b in itertools.pairwise([*layers, compact.embed_tokens(batch)]))
    assert np.abs(compact.embed(batch, pooling="cls") - compact.embed(batch, pooling="mean")).max() > 0.01
    np.testing.assert_array_equal(compact.embed(batch), compact.embed(batch, pooling=compact.card.pooling))


def test_the_order_of_bands_changes_nothing_but_rounding(make_batch: MakeBatch) -> None:
    bands = BAND_SETS["compact-s2"]
    batch = make_batch(2, 32, bands=bands)
    turned = replace(batch, bands=bands[::-1], pixels=np.ascontiguousarray(batch.pixels[:, :, ::-1]))
    one, other = CompactEncoder(bands=bands), CompactEncoder(bands=bands[::-1])
    masks = one.fixed_masks(batch.chip_id, 2, 32)
    np.testing.assert_allclose(other.embed(turned), one.embed(batch), atol=2e-5)
    np.testing.assert_allclose(
        other.pretraining_loss(turned, masks), one.pretraining_loss(batch, masks), rtol=1e-4, atol=1e-5
    )


def test_bands_and_pixel_size_reach_the_network(make_batch: MakeBatch) -> None:
    batch = make_batch(1, 32, bands=("red",))
    red = CompactEncoder(bands=("red",)).embed(batch)
    green = CompactEncoder(bands=("green",)).embed(replace(batch, bands=("green",)))
    coarse = CompactEncoder(bands=("red",), gsd_m=20.0).embed(replace(batch, gsd_m=20.0))
    assert np.abs(red - green).max() > 0.01
    assert np.abs(red - coarse).max() > 0.01


def test_a_missing_band_and_another_pixel_size_are_refused(make_batch: MakeBatch) -> None:
    encoder = load_encoder("compact-burn@20m")
    with pytest.raises(EncoderInputError, match="compact-burn@20m expects bands"):
        encoder.embed(make_batch(1, gsd_m=20.0))
    with pytest.raises(EncoderInputError, match="pixels of 20 m"):
        encoder.embed(make_batch(1, bands=encoder.card.bands))


@pytest.mark.parametrize(
    "name",
    ["compact", "compact-s2@20m", "compact-rgbn@20m", "compact:nir", "compact:swir22,red@20m", "compact-burn:int8@20m"],
)
def test_names_give_cards_and_encoders(name: str, make_batch: MakeBatch) -> None:
    card = get_card(name)
    assert card.name == name
    assert len(card.bands) == len(card.mean) == len(card.std) == len(card.wavelength_um)
    encoder = load_encoder(name, threads=1)
    assert isinstance(encoder, Encoder)
    assert encoder.card == card
    batch = make_batch(1, 32, bands=card.bands, gsd_m=card.gsd_m)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.card == card
    np.testing.assert_array_equal(again.embed(batch), encoder.embed(batch))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("compact:", "names no encoder"),
        ("compact:coastal", "with the bands coastal"),
        ("compact:red,red", "each once"),
        ("compact@30m", "10 or 20 m"),
        ("compact-rgb:nir", "Use compact:nir"),
    ],
)
def test_names_that_there_are_not_are_answered(name: str, said: str) -> None:
    with pytest.raises(EncoderError, match=said):
        get_card(name)


def test_registry_lists_the_sets() -> None:
    assert {*BAND_SETS, "compact"} <= {card.name for card in list_encoders()}
    assert [card.name for card in variants_of("compact-rgb")] == ["compact-rgb", "compact-rgb@20m", "compact-rgb:int8"]
    assert get_card("compact-rgb").mean != get_card("compact-burn").mean[:3]
    assert get_card("compact:blue").mean == get_card("compact-burn").mean[:1]


def test_weights_of_8_bits_embed_nearly_alike(make_batch: MakeBatch) -> None:
    for bands, size in ((BAND_SETS["compact-rgb"], 64), (BAND_SETS["compact-s2"], 32)):
        exact, small = CompactEncoder(bands=bands), CompactEncoder(bands=bands, int8=True)
        assert small.card.weights_sha256 != exact.card.weights_sha256
        assert small.card.name.endswith(":int8")
        batch = make_batch(6, size, bands=bands)
        a, b = exact.embed(batch), small.embed(batch)
        assert not np.array_equal(a, b)
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99
        np.testing.assert_array_equal(small.embed(batch.select(np.array([4])))[0], b[4])
        masks = exact.fixed_masks(batch.chip_id, 1, size)
        np.testing.assert_array_equal(small.pretraining_loss(batch, masks), exact.pretraining_loss(batch, masks))


def test_8_bits_need_onnx_and_their_file(tmp_path: object) -> None:
    with pytest.raises(EncoderInputError, match="needs 'onnx'"):
        CompactEncoder(int8=True, runtime="torch")


def test_card_without_8_bits_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("card")
    content = json.loads((WEIGHTS_FOLDER / "card.json").read_text(encoding="utf-8"))
    del content["int8"]
    (folder / "card.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(WeightsError, match="weights of 8 bits"):
        CompactEncoder(folder, int8=True)


@pytest.mark.parametrize("name", list(BAND_SETS))
def test_sets_have_their_shipped_probes(name: str) -> None:
    for gsd, size in itertools.product(("", "@20m"), (64, 32)):
        probe = Probe.from_arrays(*read_probe(shipped_probe_folder(name + gsd, size)))
        probe.check_fits(get_card(name + gsd), chip_size_px=size)
        assert probe.meta.origin == "shipped"
        assert "unseen by the encoder" in probe.meta.trained_on
        assert probe.meta.unit == "variances of the patch"
        assert probe.meta.scores["r"] > 0.8


def test_the_default_pixel_size_may_be_said() -> None:
    assert get_card("compact-rgb@10m") == get_card("compact-rgb")
    assert shipped_probe_folder("compact-rgb@10m", 64) == shipped_probe_folder("compact-rgb", 64)
    assert load_encoder("compact-rgb@10m", threads=1).card.name == "compact-rgb"


@pytest.mark.parametrize("name", ["compact:nir", "compact-rgb:int8", "compact-rgb:int8@10m"])
def test_no_probe_where_none_fits(name: str) -> None:
    with pytest.raises(ProbeError, match="shipped: none"):
        shipped_probe_folder(name, 64)
