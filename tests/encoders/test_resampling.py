"""Batches brought to an encoder's pixel size, chip size and units, on request and saying what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_encoders import PlainEncoder, plain_card

from geoelle.encoders import Resampling, Variant, check_batch, get_card, resample_batch
from geoelle.errors import EncoderInputError
from geoelle.records import ChipBatch
from geoelle.schema import check_chip_batch

MakeBatch = Callable[..., ChipBatch]
CARD = plain_card(Variant())
RADAR = plain_card(Variant("sentinel-1-rtc"))


def radar(pixels: np.ndarray, units: str = "linear", gsd_m: float = 10.0) -> ChipBatch:
    """Chips of both polarisations, both as `pixels` (chip, y, x)."""
    n, side, _ = pixels.shape
    return ChipBatch(
        sensor="sentinel-1-rtc", units=units, bands=("vv", "vh"),
        pixels=np.stack([pixels, pixels], axis=1)[:, None].astype(np.float32),
        valid=np.ones((n, 1, side, side), dtype=bool), time=np.full((n, 1), np.datetime64("2022-06-04", "ns")),
        lonlat=np.zeros((n, 2)), gsd_m=gsd_m, chip_id=np.array([f"c{i}" for i in range(n)]),
    )  # fmt: skip


def test_where_nothing_is_to_be_done_nothing_is(make_batch: MakeBatch) -> None:
    batch = make_batch(2, 32)
    same, done = resample_batch(batch, CARD)
    assert same is batch
    assert done == Resampling("none", 10.0, 10.0, 32, 32, "reflectance", "reflectance")


def test_chips_are_cut_about_their_middle(make_batch: MakeBatch) -> None:
    batch = make_batch(2, 64)
    cut, done = resample_batch(batch, CARD, 32)
    np.testing.assert_array_equal(cut.pixels, batch.pixels[..., 16:48, 16:48])
    assert done.method == "cut"
    assert done.sentence() == "Chips cut: 64 px of 10 m to 32 px of 10 m."
    check_chip_batch(cut)
    check_batch(CARD, cut)


def test_coarser_pixels_are_means_of_their_area(make_batch: MakeBatch) -> None:
    batch = make_batch(2, 64)
    card = plain_card(Variant(gsd_m=20.0))
    coarse, done = resample_batch(batch, card)
    assert (done.method, done.to_px, coarse.gsd_m) == ("mean", 32, 20.0)
    expected = batch.pixels.reshape(2, 1, 3, 32, 2, 32, 2).mean(axis=(4, 6))
    np.testing.assert_allclose(coarse.pixels, expected, rtol=1e-5)
    check_batch(card, coarse)
    assert np.isfinite(PlainEncoder(card).embed(coarse)).all()


def test_a_third_of_a_pixel_counts_as_a_third() -> None:
    """Four pixels of 10 m make two of 15 m about the same middle: each has one and a half."""
    card = replace(CARD, gsd_m=15.0, chip_sizes_px=(2,), patch_px=1, units="reflectance")
    row = np.array([1.0, 2.0, 4.0, 8.0])
    batch = replace(radar(np.tile(row, (1, 4, 1)), "reflectance"), sensor=CARD.sensor)
    made, _ = resample_batch(batch, card)
    expected = [(0.5 * 1 + 1 * 2) / 1.5, (1 * 4 + 0.5 * 8) / 1.5]
    np.testing.assert_allclose(made.pixels[0, 0, 0], np.tile(expected, (2, 1)), rtol=1e-6)


def test_finer_pixels_lie_on_the_line_between_the_old(make_batch: MakeBatch) -> None:
    card = plain_card(Variant(gsd_m=5.0))
    ramp = np.tile(np.arange(32.0), (1, 32, 1)) / 100
    batch = replace(radar(ramp, "reflectance"), sensor=CARD.sensor)
    fine, done = resample_batch(batch, card, 64)
    assert done.method == "bilinear"
    expected = np.clip((np.arange(64) + 0.5) / 2 - 0.5, 0, 31) / 100
    np.testing.assert_allclose(fine.pixels[0, 0, 1, 17], expected, atol=1e-6)


def test_a_pixel_is_valid_where_half_of_it_is(make_batch: MakeBatch) -> None:
    batch = make_batch(1, 64)
    valid = batch.valid.copy()
    valid[0, 0, :2, 0] = False  # half of the first new pixel
    valid[0, 0, 0, 2:4] = False
    valid[0, 0, 1, 2] = False  # three quarters of the second
    pixels = np.where(valid[:, :, None], batch.pixels, np.nan).astype(np.float32)
    card = plain_card(Variant(gsd_m=20.0))
    coarse, _ = resample_batch(replace(batch, valid=valid, pixels=pixels), card)
    assert coarse.valid[0, 0, 0, :3].tolist() == [True, False, True]
    np.testing.assert_allclose(coarse.pixels[0, 0, :, 0, 0], batch.pixels[0, 0, :, :2, 1].mean(axis=1), rtol=1e-5)
    assert np.isnan(coarse.pixels[0, 0, :, 0, 1]).all()


def test_power_becomes_decibels_only_if_asked_and_is_averaged_as_power() -> None:
    power = np.tile([[0.01, 1.0], [1.0, 0.01]], (32, 32))[None]
    batch = radar(power)
    with pytest.raises(EncoderInputError, match="convert_units=True"):
        resample_batch(batch, RADAR, 32)
    made, done = resample_batch(batch, RADAR, 32, convert_units=True)
    assert made.units == "dB"
    assert sorted(set(np.round(made.pixels.ravel(), 4).tolist())) == [-20.0, 0.0]
    assert done.sentence() == "Chips cut: 64 px of 10 m to 32 px of 10 m, linear made dB."
    check_batch(RADAR, made)
    card = plain_card(Variant("sentinel-1-rtc", 20.0))
    expected = 10 * np.log10(0.505)
    for units, pixels in (("linear", power), ("dB", 10 * np.log10(power))):
        coarse, done = resample_batch(radar(pixels, units), card, convert_units=True)
        np.testing.assert_allclose(coarse.pixels, expected, rtol=1e-5)
        assert (done.method, done.from_units, done.to_units) == ("mean", units, "dB")


def test_no_power_has_no_decibels() -> None:
    power = np.full((1, 32, 32), 0.1)
    power[0, 3, 4], power[0, 5, 6] = 0, -0.001
    made, _ = resample_batch(radar(power), RADAR, convert_units=True)
    assert made.valid.sum() == 32 * 32 - 2
    assert np.isnan(made.pixels[0, 0, :, 3, 4]).all()


@pytest.mark.parametrize(
    ("size", "card", "asked", "match"),
    [
        (32, plain_card(Variant(gsd_m=30.0)), None, r"320 m wide.*needs 960 m \(32 px of 30 m\)"),
        (32, CARD, 64, "needs 640 m"),
        (64, CARD, 48, "takes 32 or 64 px"),
        (64, plain_card(Variant("naip")), None, "takes dn and the batch is in reflectance. Only linear"),
    ],
)
def test_what_cannot_be_is_refused(
    size: int, card: object, asked: int | None, match: str, make_batch: MakeBatch
) -> None:
    with pytest.raises(EncoderInputError, match=match):
        resample_batch(make_batch(1, size), card, asked)  # type: ignore[arg-type]


def test_oblong_chips_are_refused(make_batch: MakeBatch) -> None:
    batch = make_batch(1, 64)
    with pytest.raises(EncoderInputError, match="Expected squares"):
        resample_batch(replace(batch, pixels=batch.pixels[..., :32]), CARD)


@settings(max_examples=25, deadline=None)
@given(
    gsd_m=st.floats(2.0, 40.0), target=st.floats(2.0, 40.0), side=st.integers(8, 40), value=st.floats(0.01, 0.9),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_what_is_uniform_stays_so_and_nothing_leaves_its_range(
    gsd_m: float, target: float, side: int, value: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 1, (2, side, side))
    pixels[1] = value
    batch = replace(radar(pixels, "reflectance", gsd_m), sensor=CARD.sensor)
    batch = replace(batch, valid=rng.random(batch.valid.shape) > 0.2)
    card = replace(CARD, gsd_m=target, chip_sizes_px=(4,), patch_px=2)
    if 4 * target > side * gsd_m:
        with pytest.raises(EncoderInputError, match="cut larger chips"):
            resample_batch(batch, card)
        return
    made, done = resample_batch(batch, card)
    check_chip_batch(made)
    assert made.pixels.shape[-2:] == (4, 4)
    seen = np.broadcast_to(made.valid[:, :, None], made.pixels.shape)
    assert done.method in ("cut", "none") or (np.isfinite(made.pixels).all(axis=2) == made.valid).all()
    np.testing.assert_allclose(made.pixels[1][seen[1]], value, rtol=1e-5)
    first = made.pixels[0][seen[0]]
    assert ((first >= pixels[0].min() - 1e-6) & (first <= pixels[0].max() + 1e-6)).all()


def test_the_shipped_encoder_takes_what_was_resampled(make_batch: MakeBatch) -> None:
    card = get_card("compact-rgb")
    fine = replace(make_batch(1, 64), gsd_m=5.0)
    made, done = resample_batch(fine, card)
    assert (done.method, done.to_px) == ("mean", 32)
    check_batch(card, made)
