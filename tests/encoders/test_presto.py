"""Presto with its real weights: upstream's numbers again, masks, values that are not known, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoelle.encoders import Encoder, get_card, list_encoders, load_encoder
from geoelle.encoders.inputs import check_masks
from geoelle.encoders.presto import (
    BANDS,
    N_CLASSES,
    fixed_series_masks,
    n_tokens,
    random_combinations,
    scaled_series,
    srtm_token,
    stand_in,
)
from geoelle.errors import EncoderError, EncoderInputError, WeightsError
from geoelle.records import ChipBatch

torch = pytest.importorskip("torch")
presto_files = pytest.importorskip("presto_files")
presto_model = pytest.importorskip("geoelle.encoders.presto_model")

pytestmark = [pytest.mark.models, pytest.mark.shared]

N = 16


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    return shared_data / "weights" / "presto" / "default_model.pt"


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Any:
    return load_encoder("presto:dynamic-world", weights=weights)


@pytest.fixture(scope="module")
def known(shared_data: Path) -> dict[str, Any]:
    data: dict[str, Any] = presto_files.fixture(shared_data)["data"]
    return data


@pytest.fixture(scope="module")
def series(shared_data: Path, encoder: Any, known: dict[str, Any]) -> ChipBatch:
    """The fixture's series, raw, from the file that they are from, their months counted as the fixture counts them.

    The file's steps of 30 days fall twice into one month in a few series; the fixture tells the first month alone.
    """
    path = shared_data / "pixel-series" / "algae_blooms_presto.npz"
    batch: ChipBatch = presto_files.pipeline().read_series(path, encoder).select(slice(N))
    first = batch.time[:, :1].astype("datetime64[M]")
    np.testing.assert_array_equal(first[:, 0].astype(int) % 12, known["month"])
    return replace(batch, time=(first + np.arange(12)).astype("datetime64[ns]"))


def error(found: np.ndarray, wanted: Any) -> float:
    """Largest difference, relative to the largest value."""
    wanted = np.asarray(wanted)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def with_values(batch: ChipBatch, band: str, change: Callable[[np.ndarray], np.ndarray | float]) -> ChipBatch:
    pixels = batch.pixels.copy()
    at = batch.bands.index(band)
    pixels[:, :, at] = change(pixels[:, :, at])
    return replace(batch, pixels=pixels)


def test_upstream_numbers_come_out_again(encoder: Any, series: ChipBatch, known: dict[str, Any]) -> None:
    assert isinstance(encoder, Encoder)
    scaled = scaled_series(encoder.card, series)[..., 0, 0]
    assert error(scaled[:, :, :17], known["x"]) < 1e-6
    np.testing.assert_array_equal(scaled[:, :, 17], known["dynamic_world"])
    assert error(encoder.embed(series), known["emb"]) < 1e-5
    masks = presto_files.token_masks(known["mask"], known["dw_mask"])
    loss = encoder.pretraining_loss(series, masks[:, None])[:, 0]
    np.testing.assert_allclose(loss, known["loss_eo_mse"], rtol=1e-5)
    np.testing.assert_array_equal(encoder.patch_losses(series, masks[:, None])[:, 0, 0, 0], loss)


def test_upstream_predictions_come_out_again(encoder: Any, known: dict[str, Any]) -> None:
    given = presto_model._Series(
        known["x"],
        known["dynamic_world"],
        known["latlon"],
        (known["month"][:, None] + torch.arange(12)) % 12,
        torch.zeros(N, n_tokens(12), dtype=torch.bool),
    )
    masks = presto_files.token_masks(known["mask"], known["dw_mask"])
    with torch.inference_mode():
        predicted = encoder.network.predict(given, torch.from_numpy(masks))
    assert error(predicted.numpy(), known["eo_pred"]) < 1e-5


def test_what_is_fed_matters(encoder: Any, series: ChipBatch, known: dict[str, Any]) -> None:
    """Controls: each of these mistakes moves the embedding far beyond rounding."""
    half_a_year = np.timedelta64(182, "D")
    red, green = (series.bands.index(band) for band in ("red", "green"))
    swapped = series.pixels.copy()
    swapped[:, :, [red, green]] = swapped[:, :, [green, red]]
    mistakes = {
        "month": replace(series, time=series.time + half_a_year),
        "band order": replace(series, pixels=swapped),
        "latitude first": replace(series, lonlat=series.lonlat[:, ::-1] * [1, 0.5]),  # in full it is refused
        "temperature from 273.15 K": with_values(series, "temperature_2m", lambda v: v - 1),
    }
    for mistake, batch in mistakes.items():
        assert error(encoder.embed(batch), known["emb"]) > 3e-4, mistake
    with pytest.raises(EncoderInputError, match="Give longitude first"):
        encoder.embed(replace(series, lonlat=series.lonlat[:, ::-1].copy()))
    with torch.inference_mode():
        tokens, _, _ = encoder.network.encoder(
            known["x"], known["dynamic_world"], known["latlon"], month=known["month"]
        )
    assert error(tokens.mean(dim=1).numpy(), known["emb"]) > 0.1  # torchgeo's tokens are normed before their mean


def test_ndvi_is_computed_and_not_read(shared_data: Path, encoder: Any, series: ChipBatch) -> None:
    """The file's own last column is no NDVI of B8 and B4, and upstream does not use it either."""
    with np.load(shared_data / "pixel-series" / "algae_blooms_presto.npz") as file:
        stored = file["s1_s2_era5_srtm"][:N, :, 17]
    ndvi = scaled_series(encoder.card, series)[:, :, 16, 0, 0]
    red, nir = (series.pixels[:, :, series.bands.index(band), 0, 0] for band in ("red", "nir"))
    np.testing.assert_allclose(ndvi, (nir - red) / (nir + red), rtol=1e-5, atol=1e-7)
    assert np.abs(ndvi - stored).max() > 0.05
    black = with_values(with_values(series, "red", lambda v: 0 * v), "nir", lambda v: 0 * v)
    np.testing.assert_array_equal(scaled_series(encoder.card, black)[:, :, 16], 0)


def test_weights_fit_by_name_and_shape(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network = presto_model.PrestoNetwork(presto_model.PrestoConfig())
    assert len(state) == 102
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert sum(p.numel() for p in network.parameters()) == get_card("presto").n_parameters
    first = next(iter(state))
    damaged = {
        "missing": {k: v for k, v in state.items() if k != first},
        "unexpected": {**state, "encoder.more": torch.zeros(1)},
        "misshapen": {**state, first: torch.zeros(3, 3)},
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.pt"
        torch.save(content, path)
        with pytest.raises(WeightsError):
            load_encoder("presto", weights=path)
    random = load_encoder("presto", random_seed=0)
    assert random.card.weights_sha256 == "random-0"
    assert not random.card.validated


def test_card_and_variants(encoder: Any) -> None:
    assert "presto" in {card.name for card in list_encoders()}
    plain, classes = get_card("presto"), get_card("presto:dynamic-world")
    assert classes.bands == (*plain.bands, "dynamic_world") == encoder.card.bands
    assert len(plain.bands) == len(BANDS) == len(plain.mean) == len(plain.std) == len(plain.wavelength_um) == 16
    assert plain.loss_kind == "own-partial"
    assert "Dynamic World" in plain.loss_definition
    assert "STAC" in plain.not_good_for
    assert encoder.card.weights_sha256 == plain.weights_sha256
    for name in ("presto:naip", "presto@20m"):
        with pytest.raises(EncoderError, match="presto:dynamic-world"):
            get_card(name)


def test_masks_are_those_of_random_combinations(encoder: Any, series: ChipBatch, known: dict[str, Any]) -> None:
    tokens, terrain = n_tokens(12), srtm_token(12)
    ids = np.array([f"series {i}" for i in range(300)])
    masks = encoder.fixed_masks(ids, 4, 1, n_steps=12)
    assert masks.shape == (300, 4, tokens)
    assert (masks.sum(axis=2) == 81).all()  # of 109, as in the fixture's masks
    assert set(presto_files.token_masks(known["mask"], known["dw_mask"]).sum(axis=1)) == {81}
    assert abs(masks[:, :, terrain].mean() - 0.75) < 0.05  # 0.75 of 1,200 draws, sd 0.0125
    others = np.delete(masks, terrain, axis=2).mean(axis=(0, 1))
    assert np.abs(others - 80.25 / 108).max() < 0.06
    np.testing.assert_array_equal(fixed_series_masks(ids[[7]], 2), masks[[7], :2])  # neither on others nor on k
    np.testing.assert_array_equal(np.flatnonzero(~fixed_series_masks(["a"], 1)[0, 0])[:6], [0, 2, 4, 10, 11, 13])
    check_masks(encoder.card, series, masks[:N], tokens)
    with pytest.raises(EncoderInputError, match="81 of 109"):
        encoder.pretraining_loss(series, np.ones((N, 1, tokens), dtype=bool))
    with pytest.raises(EncoderInputError, match="12 months of 1 px"):
        encoder.fixed_masks(ids, 1, 8, n_steps=12)
    with pytest.raises(EncoderInputError, match="at least 1"):
        encoder.fixed_masks(ids, 0, 1)


def test_noise_from_outside_makes_the_same_mask(encoder: Any) -> None:
    noise = np.random.default_rng(0).random((5, n_tokens(12)))
    masks = random_combinations(noise, 0.75)
    np.testing.assert_array_equal(encoder.network.hidden_by(torch.from_numpy(noise), 0.75).numpy(), masks)
    terrain = srtm_token(12)
    np.testing.assert_array_equal(masks[:, terrain], noise[:, terrain] < 0.75)
    for row, mask in zip(noise, masks, strict=True):
        rest, hidden = np.delete(row, terrain), np.delete(mask, terrain)
        assert rest[hidden].max() < rest[~hidden].min()


def test_a_value_that_is_not_known_leaves_its_token_out(encoder: Any, series: ChipBatch, known: dict[str, Any]) -> None:
    """As upstream does it: the group's token of that month is masked."""
    pixels = series.pixels.copy()
    pixels[:, 3, series.bands.index("vh")] = np.nan
    found = encoder.embed(replace(series, pixels=pixels))
    mask = torch.zeros(N, 12, 17)
    mask[:, 3, :2] = 1
    raw: list[Any] = []
    handle = encoder.network.encoder.blocks[-1].register_forward_hook(lambda _m, _i, output: raw.append(output))
    with torch.inference_mode():
        encoder.network.encoder(known["x"], known["dynamic_world"], known["latlon"], mask=mask, month=known["month"])
        wanted = encoder.network.encoder.norm(raw[0].mean(dim=1)).numpy()
    handle.remove()
    assert error(found, wanted) < 1e-5
    assert error(found, known["emb"]) > 1e-3


def test_months_without_data_and_terrain(encoder: Any, series: ChipBatch) -> None:
    whole = encoder.embed(series)
    valid = series.valid.copy()
    valid[:, 0] = False
    gap = encoder.embed(replace(series, valid=valid))
    assert np.isfinite(gap).all()
    assert error(gap, whole) > 1e-3
    nothing = np.where(valid[:, :, None], series.pixels, np.float32(np.nan))
    nothing[:, 0, 14:16] = series.pixels[:, 0, 14:16]
    np.testing.assert_array_equal(encoder.embed(replace(series, pixels=nothing)), gap)  # terrain is kept
    late = series.pixels.copy()
    late[:, :5, 14:16] = np.nan
    np.testing.assert_array_equal(encoder.embed(replace(series, pixels=late)), whole)  # and found where it is
    for batch in (replace(series, valid=valid), replace(series, pixels=late)):
        np.testing.assert_array_equal(scaled_series(encoder.card, stand_in(batch)), scaled_series(encoder.card, batch))
    valid[2] = False
    empty = encoder.embed(replace(series, valid=valid))
    assert np.isnan(empty[2]).all()
    assert np.isfinite(np.delete(empty, 2, axis=0)).all()
    masks = encoder.fixed_masks(series.chip_id, 2, 1)
    losses = encoder.pretraining_loss(replace(series, valid=valid), masks)
    assert np.isnan(losses[2]).all()
    assert np.isfinite(np.delete(losses, 2, axis=0)).all()


def test_series_do_not_see_each_other(weights: Path, encoder: Any, series: ChipBatch) -> None:
    pixels = series.pixels.copy()
    pixels[5, 2, 0], pixels[6, :, 2:5], pixels[9, 1:4, 7] = np.nan, np.nan, np.nan
    mixed = replace(series, pixels=pixels)
    masks = encoder.fixed_masks(series.chip_id, 3, 1)
    together, losses = encoder.embed(mixed), encoder.pretraining_loss(mixed, masks)
    other = load_encoder("presto:dynamic-world", weights=weights, batch=3)
    order = np.array([9, 0, 6, 5])
    np.testing.assert_allclose(other.embed(mixed.select(order)), together[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.pretraining_loss(mixed.select(order), masks[order]), losses[order], rtol=1e-5)
    nobody = mixed.select(np.array([], dtype=np.intp))
    assert encoder.embed(nobody).shape == (0, 128)
    assert encoder.pretraining_loss(nobody, masks[:0]).shape == (0, 3)


def test_loss_counts_hidden_values_that_are_known(encoder: Any, series: ChipBatch, known: dict[str, Any]) -> None:
    """Against a plain loop over the values of the fixture's masks, with radar gone from half of the months."""
    pixels = series.pixels.copy()
    pixels[:, ::2, :2] = np.nan
    batch = replace(series, pixels=pixels)
    masks = presto_files.token_masks(known["mask"], known["dw_mask"])
    away, dw_away = known["mask"].clone(), known["dw_mask"]
    away[:, ::2, :2] = True
    classes = torch.where(dw_away, N_CLASSES, known["dynamic_world"])
    values = known["x"].clone()
    values[:, ::2, :2] = 0
    with torch.inference_mode():
        for i in range(4):
            row = slice(i, i + 1)
            tokens, kept, removed = encoder.network.encoder(
                values[row], classes[row], known["latlon"][row], mask=away[row].float(), month=known["month"][row]
            )
            predicted, _ = encoder.network.decoder(tokens, kept, removed, known["month"][row])
            squares = [
                float((predicted[0, t, b] - known["x"][i, t, b]) ** 2)
                for t in range(12)
                for b in range(17)
                if known["mask"][i, t, b] and not (b < 2 and t % 2 == 0) and not (b in (14, 15) and t > 0)
            ]
            found = encoder.pretraining_loss(batch.select(row), masks[row, None])[0, 0]
            assert found == pytest.approx(np.mean(squares), rel=1e-4)


def test_layers_and_tokens(encoder: Any, series: ChipBatch) -> None:
    last = torch.from_numpy(encoder.embed(series, layer=1))
    with torch.inference_mode():
        np.testing.assert_allclose(encoder.network.encoder.norm(last).numpy(), encoder.embed(series), atol=1e-5)
    assert error(encoder.embed(series, layer=0), last.numpy()) > 0.1
    np.testing.assert_array_equal(encoder.embed_tokens(series)[:, 0, 0], encoder.embed(series))
    with pytest.raises(EncoderInputError, match="no layer 2"):
        encoder.embed(series, layer=2)
    with pytest.raises(EncoderInputError, match="pooling"):
        encoder.embed(series, pooling="cls")


def test_without_land_cover(weights: Path, encoder: Any, series: ChipBatch) -> None:
    """Not to be given classes is the same as to be given unknown ones, and another thing than to be given them."""
    plain = load_encoder("presto", weights=weights)
    bare = replace(series, bands=plain.card.bands, pixels=series.pixels[:, :, :16])
    found = plain.embed(bare)
    for unknown in (N_CLASSES, np.nan):
        nobody_knows = with_values(series, "dynamic_world", lambda v, u=unknown: 0 * v + u)
        np.testing.assert_array_equal(encoder.embed(nobody_knows), found)
    assert error(found, encoder.embed(series)) > 1e-2


def test_months_of_all_days(encoder: Any) -> None:
    from geoelle.encoders.moments import moments

    days = np.arange("2019-01-01", "2021-01-01", dtype="datetime64[D]").astype("datetime64[ns]")[:, None]
    found = presto_model._month(torch.from_numpy(moments(days)))[:, 0].numpy()
    np.testing.assert_array_equal(found, days[:, 0].astype("datetime64[M]").astype(int) % 12)


@pytest.mark.parametrize(
    ("band", "change", "says"),
    [
        ("red", None, "digital numbers"),
        ("vv", lambda v: 10 ** (v / 10), "dB"),
        ("temperature_2m", lambda v: v - 273.15, "kelvin"),
        ("total_precipitation", lambda v: v * 1000 + 6, "metres"),
        ("dynamic_world", lambda v: v + 0.5, "whole numbers"),
        ("dynamic_world", lambda v: v + 10, "whole numbers"),
    ],
)
def test_values_in_other_units_are_refused(band: str, change: Any, says: str, encoder: Any, series: ChipBatch) -> None:
    if change is None:  # all optical bands as reflectance
        pixels = series.pixels.copy()
        pixels[:, :, 2:12] *= 1e-4
        wrong = replace(series, pixels=pixels)
    elif band == "vv":
        wrong = with_values(with_values(series, "vv", change), "vh", change)
    else:
        wrong = with_values(series, band, change)
    with pytest.raises(EncoderInputError, match=says):
        encoder.embed(wrong)


def test_series_that_do_not_fit_are_refused(encoder: Any, series: ChipBatch) -> None:
    wrong = {
        "sensor": replace(series, sensor="sentinel-2-l2a"),
        "units": replace(series, units="reflectance"),
        "bands": replace(series, bands=series.bands[::-1]),
        "12 date": replace(series, pixels=series.pixels[:, :11], valid=series.valid[:, :11], time=series.time[:, :11]),
        "order of time": replace(series, time=series.time[:, ::-1]),
        "position": replace(series, lonlat=series.lonlat * np.nan),
        "a time": replace(series, time=np.full(series.time.shape, np.datetime64("NaT", "ns"))),
    }
    for says, batch in wrong.items():
        with pytest.raises(EncoderInputError, match=says):
            encoder.embed(batch)
