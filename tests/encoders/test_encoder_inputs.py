"""Every check of a batch against a card: refused, with what is wanted, what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_encoders import REGISTERED, plain_card

from geoelle.encoders import Variant, check_batch, get_card, register, unregister
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.inputs import check_masks
from geoelle.errors import EncoderInputError
from geoelle.records import ChipBatch

MakeBatch = Callable[..., ChipBatch]

CARD = get_card("compact-rgb")


@pytest.fixture
def registered_plain() -> Iterator[None]:
    register("plain", **REGISTERED["plain"])
    yield
    unregister("plain")


def test_fitting_batches_pass(make_batch: MakeBatch) -> None:
    for size in CARD.chip_sizes_px:
        check_batch(CARD, make_batch(2, size))
    check_batch(CARD, make_batch(0))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sensor": "landsat-c2-l2"}, r"sensor 'sentinel-2-l2a' but the batch has 'landsat-c2-l2'.*list_encoders"),
        ({"units": "dn"}, "units 'reflectance' but the batch has 'dn'. Convert"),
        ({"bands": ("blue", "green", "red")}, r"bands \('red', 'green', 'blue'\).*in this order"),
        ({"bands": ("red", "green", "nir")}, r"missing bands \['blue'\].*--band blue"),
        ({"gsd_m": 20.0}, "pixels of 10 m but the batch has pixels of 20 m"),
        ({"pixels": np.zeros((2, 3, 64, 64), np.float32)}, "axes"),
        ({"pixels": np.zeros((2, 1, 3, 64, 64), np.float64)}, "float32"),
        ({"pixels": np.zeros((2, 1, 4, 64, 64), np.float32)}, "band axis of 3"),
        ({"pixels": np.zeros((2, 1, 3, 48, 48), np.float32)}, "64 x 64 or 32 x 32 px but the batch has 48 x 48"),
        ({"pixels": np.zeros((2, 1, 3, 64, 32), np.float32)}, "64 x 32"),
        ({"pixels": np.zeros((2, 2, 3, 64, 64), np.float32)}, r"1 date\(s\) per chip but the batch has 2"),
        ({"valid": np.ones((2, 1, 32, 32), bool)}, "valid of shape"),
        ({"valid": np.ones((2, 1, 64, 64), np.uint8)}, "valid as bool"),
        ({"time": np.full((3, 1), np.datetime64("2020", "ns"))}, "time of shape"),
        ({"lonlat": np.zeros((2, 3))}, "lonlat of shape"),
        ({"chip_id": np.array(["a"])}, "chip_id of shape"),
        ({"pixels": np.full((2, 1, 3, 64, 64), 1500, np.float32)}, "look like digital numbers"),
    ],
)
def test_unfitting_batch_is_refused(
    changes: dict[str, Any], match: str, compact: CompactEncoder, make_batch: MakeBatch
) -> None:
    batch = make_batch(2, **changes)
    with pytest.raises(EncoderInputError, match=match):
        check_batch(CARD, batch)
    with pytest.raises(EncoderInputError, match="compact-rgb expects"):
        compact.embed(batch)


def test_missing_time_and_place_are_refused_where_needed(make_batch: MakeBatch) -> None:
    no_time = make_batch(1, time=np.full((1, 1), np.datetime64("NaT", "ns")))
    nowhere = make_batch(1, lonlat=np.full((1, 2), np.nan))
    check_batch(CARD, no_time)
    check_batch(CARD, nowhere)
    with pytest.raises(EncoderInputError, match="NaT"):
        check_batch(replace(CARD, needs_time=True), no_time)
    with pytest.raises(EncoderInputError, match="position"):
        check_batch(replace(CARD, needs_lonlat=True), nowhere)


def test_unfitting_masks_are_refused(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(2)
    masks = compact.fixed_masks(batch.chip_id, 2, 64)
    check_masks(CARD, batch, masks)
    for wrong, match in (
        (masks[:1], "shape"),
        (masks[..., :16], "shape"),
        (masks.astype(np.float32), "float32"),
        (~masks, "48 of 64 tokens hidden.*hide 16"),
    ):
        with pytest.raises(EncoderInputError, match=match):
            compact.pretraining_loss(batch, wrong)


def test_masks_of_another_chip_size_are_refused(compact: CompactEncoder) -> None:
    with pytest.raises(EncoderInputError, match="64 or 32 px"):
        compact.fixed_masks(np.array(["a"]), 1, 16)


@pytest.mark.parametrize(("options", "match"), [({"threads": 0}, "threads"), ({"runtime": "jax"}, "runtime 'jax'")])
def test_senseless_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(EncoderInputError, match=match):
        CompactEncoder(**options)


def other_batch(sensor: str, pixels: float | np.ndarray, **changes: Any) -> ChipBatch:
    """A batch that fits `plain:SENSOR` but for what is changed."""
    card = plain_card(Variant("" if sensor == CARD.sensor else sensor))
    filled = np.broadcast_to(np.asarray(pixels, np.float32), (2, 1, len(card.bands), 32, 32)).copy()
    batch = ChipBatch(
        sensor=sensor, units=card.units, bands=card.bands, pixels=filled, valid=np.ones((2, 1, 32, 32), bool),
        time=np.full((2, 1), np.datetime64("2020-06-01", "ns")), lonlat=np.zeros((2, 2)), gsd_m=card.gsd_m,
        chip_id=np.array(["a", "b"]),
    )  # fmt: skip
    return replace(batch, **changes)


@pytest.mark.parametrize(
    ("sensor", "good", "bad", "match"),
    [
        ("sentinel-2-l2a", 0.1, 1500.0, "look like digital numbers"),
        ("sentinel-2-l2a", -0.05, -12.0, "look like decibels"),
        ("hls-s30", 0.3, 3000.0, "look like digital numbers"),
        ("sentinel-1-rtc", -12.0, 0.1, r"dB.*nothing below 0.1.*look like linear power"),
        ("sentinel-1-rtc", -0.1, 200.0, "look like linear power"),
        ("naip", 110.0, 0.43, "divided by 255"),
        ("naip", 0.0, 3000.0, "8-bit numbers, 0 to 255 but the batch has numbers from 3000"),
        ("naip", 255.0, -1.0, "from -1"),
    ],
)
def test_pixels_at_another_level_than_their_units_are_refused(sensor: str, good: float, bad: float, match: str) -> None:
    card = plain_card(Variant("" if sensor == CARD.sensor else sensor))
    check_batch(card, other_batch(sensor, good))
    with pytest.raises(EncoderInputError, match=match):
        check_batch(card, other_batch(sensor, bad))
    gaps = other_batch(sensor, bad, valid=np.zeros((2, 1, 32, 32), bool))
    check_batch(card, gaps)  # what no one sees is at no level


def test_fill_of_zeros_and_ones_is_a_picture() -> None:
    pixels = np.zeros((2, 1, 4, 32, 32), np.float32)
    pixels[..., ::16, ::16] = 1
    check_batch(plain_card(Variant("naip")), other_batch("naip", pixels))


def test_linear_power_in_decibels_is_refused() -> None:
    card = plain_card(Variant("sentinel-1-rtc"), units="linear", mean=(0.1, 0.1), std=(0.1, 0.1))
    check_batch(card, other_batch("sentinel-1-rtc", 0.1, units="linear"))
    check_batch(card, other_batch("sentinel-1-rtc", -0.001, units="linear"))
    with pytest.raises(EncoderInputError, match="These look like dB"):
        check_batch(card, other_batch("sentinel-1-rtc", -12.0, units="linear"))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.floats(-25, -2), spread=st.floats(0.5, 6))
def test_backscatter_passes_as_decibels_and_its_power_never_does(seed: int, level: float, spread: float) -> None:
    decibels = np.random.default_rng(seed).normal(level, spread, (2, 1, 2, 32, 32)).astype(np.float32)
    card = plain_card(Variant("sentinel-1-rtc"))
    check_batch(card, other_batch("sentinel-1-rtc", decibels))
    with pytest.raises(EncoderInputError, match="linear power"):
        check_batch(card, other_batch("sentinel-1-rtc", 10 ** (decibels / 10)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), bright=st.floats(0.02, 0.9))
def test_reflectance_passes_and_its_digital_numbers_never_do(seed: int, bright: float) -> None:
    pixels = np.random.default_rng(seed).gamma(2, bright / 2, (2, 1, 3, 32, 32)).astype(np.float32)
    card = plain_card(Variant())
    check_batch(card, other_batch("sentinel-2-l2a", pixels))
    with pytest.raises(EncoderInputError, match="digital numbers"):
        check_batch(card, other_batch("sentinel-2-l2a", pixels * 10_000))


MISFITS: dict[str, dict[str, Any]] = {
    "sensor": {"sensor": "modis"},
    "units": {"units": "reflectance"},
    "order": {"bands": ("blue", "green", "red", "nir")},
    "band": {"bands": ("red", "green", "blue", "swir16")},
    "gsd": {"gsd_m": 1.03},
    "size": {"pixels": np.full((2, 1, 4, 48, 48), 90, np.float32), "valid": np.ones((2, 1, 48, 48), bool)},
    "dates": {"pixels": np.full((2, 2, 4, 32, 32), 90, np.float32)},
    "time": {"time": np.full((2, 1), np.datetime64("NaT", "ns"))},
    "place": {"lonlat": np.full((2, 2), np.nan)},
    "level": {"pixels": np.full((2, 1, 4, 32, 32), 0.5, np.float32)},
}


@settings(max_examples=80, deadline=None)
@given(wrong=st.sets(st.sampled_from(sorted(MISFITS)), max_size=3))
def test_a_batch_passes_if_and_only_if_all_of_it_fits(wrong: set[str]) -> None:
    card = plain_card(Variant("naip"), "unregistered")
    batch = other_batch("naip", 90.0)
    for name in sorted(wrong):
        batch = replace(batch, **MISFITS[name])
    if not wrong:
        check_batch(card, batch)
        return
    with pytest.raises(EncoderInputError, match=r"unregistered:naip expects .* but the batch has "):
        check_batch(card, batch)


def test_a_batch_of_another_sensor_is_told_how_it_could_be_fed(registered_plain: None, make_batch: MakeBatch) -> None:
    radar = other_batch("sentinel-1-rtc", -12.0)
    with pytest.raises(EncoderInputError, match=r"Open it as plain:sentinel-1-rtc, which takes 'sentinel-1-rtc'"):
        check_batch(plain_card(Variant()), radar)
    with pytest.raises(
        EncoderInputError, match=r"fed from 'sentinel-2-l2a' \(compact-rgb\); for 'sentinel-1-rtc' pick"
    ):
        check_batch(CARD, radar)
    with pytest.raises(EncoderInputError, match="no encoder takes 'modis' as it is"):
        check_batch(CARD, make_batch(1, sensor="modis"))
    with pytest.raises(EncoderInputError, match=r"10 log10\(power\): resample_batch"):
        check_batch(plain_card(Variant("sentinel-1-rtc")), replace(radar, units="linear"))
    with pytest.raises(EncoderInputError, match=r"chip_size_m to 640 or 320.*resample_batch"):
        check_batch(CARD, make_batch(1, 48))


def test_latitude_before_longitude_is_told(make_batch: MakeBatch) -> None:
    swapped = make_batch(1, lonlat=np.array([[51.0, 151.0]]))
    with pytest.raises(EncoderInputError, match="Give longitude first"):
        check_batch(replace(CARD, needs_lonlat=True), swapped)
