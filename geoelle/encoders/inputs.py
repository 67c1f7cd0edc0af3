"""Checks between a batch and an encoder's card: what the encoder wants, what was found, what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.masks import n_hidden
from geoelle.encoders.registry import list_encoders, split_name, variants_of
from geoelle.errors import EncoderError, EncoderInputError
from geoelle.records import ChipBatch, EncoderCard

LINEAR, DECIBEL = "linear", "dB"
"""Units of radar backscatter: power, and 10 log10 of it."""

GSD_TOLERANCE = 0.02
"""Relative difference in pixel size that is taken for rounding."""

BRIGHTEST_MEAN_REFLECTANCE = 2.0
"""No chip's mean is above this; a higher one means that digital numbers were never scaled."""

DARKEST_MEAN_REFLECTANCE = -0.5
"""No chip's mean is below this: offsets make small negative numbers, decibels make large ones."""

EIGHT_BIT = {"naip": "8-bit"}
"""Sensors whose digital numbers are those of 8-bit files."""

_DARKEST_SCALED = 0.02
"""Mean of an all but black picture that was divided by 255; fill of zeros and ones has less."""

BRIGHTEST_DECIBEL = 60.0
"""A tenth of a million times the power that came in; no backscatter is so bright."""


def _fail(card: EncoderCard, wants: str, found: str, advice: str) -> EncoderInputError:
    return EncoderInputError(f"{card.name} expects {wants} but the batch has {found}. {advice}")


def _ways(card: EncoderCard) -> list[EncoderCard]:
    """Every listed way to feed the card's encoder; of a card that is not registered, itself."""
    try:
        ways = variants_of(split_name(card.name)[0])
    except EncoderError:
        return [card]
    return ways if any(way.sensor == card.sensor for way in ways) else [card, *ways]


def _sensor_advice(card: EncoderCard, sensor: str) -> str:
    """What could feed the encoder, and what the sensor at hand could feed."""
    mine = [way.name for way in _ways(card) if way.sensor == sensor]
    if mine:
        return f"Open it as {' or '.join(mine)}, which takes {sensor!r}."
    first: dict[str, str] = {}
    for way in _ways(card):
        first.setdefault(way.sensor, way.name)
    feeds = [f"{name!r} ({way})" for name, way in first.items()]
    others = [other.name for other in list_encoders(sensor)]
    takers = f"for {sensor!r} pick {' or '.join(others)}" if others else f"no encoder takes {sensor!r} as it is"
    return f"It can be fed from {' or '.join(feeds)}; {takers} (list_encoders(sensor={sensor!r}))."


def _band_advice(card: EncoderCard, batch: ChipBatch) -> str:
    missing = [band for band in card.bands if band not in batch.bands]
    if not missing:
        return "Read exactly these bands, in this order."
    fits = [way.name for way in list_encoders(batch.sensor) if way.bands == batch.bands]
    others = f", or pick {' or '.join(fits)}, which takes the batch's" if fits else ""
    return f"Read the missing bands {missing} too (`geoelle search --band {' --band '.join(missing)}`){others}."


def _check_meaning(card: EncoderCard, batch: ChipBatch) -> None:
    """Sensor, units, bands and pixel size: what the numbers are."""
    if batch.sensor != card.sensor:
        raise _fail(card, f"sensor {card.sensor!r}", f"{batch.sensor!r}", _sensor_advice(card, batch.sensor))
    if batch.units != card.units:
        advice = f"Convert the pixels to {card.units}."
        if (batch.units, card.units) == (LINEAR, DECIBEL):
            advice = "Make them decibels, 10 log10(power): resample_batch(batch, card, convert_units=True)."
        raise _fail(card, f"units {card.units!r}", f"{batch.units!r}", advice)
    if batch.bands != card.bands:
        raise _fail(card, f"bands {card.bands}", f"{batch.bands}", _band_advice(card, batch))
    if not abs(batch.gsd_m / card.gsd_m - 1) <= GSD_TOLERANCE:
        raise _fail(
            card,
            f"pixels of {card.gsd_m:g} m",
            f"pixels of {batch.gsd_m:g} m",
            f"Read the imagery at {card.gsd_m:g} m, or use resample_batch(batch, card).",
        )


def _size_advice(card: EncoderCard) -> str:
    sizes = " or ".join(f"{size * card.gsd_m:g}" for size in card.chip_sizes_px)
    return f"Set chip_size_m to {sizes}, or cut the chips with resample_batch(batch, card, chip_size_px=...)."


def _check_shapes(card: EncoderCard, batch: ChipBatch) -> None:
    """Axes, and arrays that belong together."""
    pixels = batch.pixels
    if pixels.ndim != 5 or pixels.dtype != np.float32:
        raise _fail(
            card,
            "float32 pixels with the axes (chip, step, band, y, x)",
            f"{pixels.dtype} pixels of shape {pixels.shape}",
            "Build the batch with geoelle.chips.",
        )
    n, steps, bands, height, width = pixels.shape
    if bands != len(batch.bands):
        raise _fail(
            card, f"a band axis of {len(batch.bands)}", f"one of {bands}", "Name exactly the bands that are there."
        )
    if height != width or height not in card.chip_sizes_px:
        sizes = " or ".join(f"{size} x {size}" for size in card.chip_sizes_px)
        raise _fail(card, f"chips of {sizes} px", f"{height} x {width} px", _size_advice(card))
    if steps not in card.n_steps:
        wanted = " or ".join(str(count) for count in card.n_steps)
        raise _fail(card, f"{wanted} date(s) per chip", f"{steps}", "Give it that many dates.")
    for title, array, shape in (
        ("valid", batch.valid, (n, steps, height, width)),
        ("time", batch.time, (n, steps)),
        ("lonlat", batch.lonlat, (n, 2)),
        ("chip_id", batch.chip_id, (n,)),
    ):
        if array.shape != shape:
            raise _fail(
                card, f"{title} of shape {shape}", f"{title} of shape {array.shape}", "Build it with geoelle.chips."
            )
    if batch.time.dtype.kind != "M":
        raise _fail(card, "time as datetime64", f"time as {batch.time.dtype}", "Give UTC times as datetime64[ns].")
    if batch.valid.dtype != np.bool_:
        raise _fail(card, "valid as bool", f"valid as {batch.valid.dtype}", "Cast it to bool.")


def _check_values(card: EncoderCard, batch: ChipBatch) -> None:
    """Time and place where they are needed, and whether the pixels are at the level of the units that they say."""
    if len(batch) == 0:
        return
    if card.needs_time and bool(np.isnat(batch.time).any()):
        raise _fail(card, "a time for every chip and date", "NaT among them", "Give every date its time.")
    _check_places(card, batch.lonlat)
    kind = EIGHT_BIT.get(card.sensor, card.units)
    if kind not in _LEVELS:
        return
    # A sixteenth of the pixels tells reflectance from digital numbers in a sixteenth of the time.
    thinned = (
        batch
        if kind != "reflectance"
        else replace(batch, pixels=batch.pixels[..., ::4, ::4], valid=batch.valid[..., ::4, ::4])
    )
    looked_at = thinned if usable(thinned).any() else batch
    seen = usable(looked_at)[:, :, None]
    if not seen.any():
        return
    wrong = _LEVELS[kind](looked_at.pixels, seen, float(np.mean(looked_at.pixels, where=seen)))
    if wrong is not None:
        wants, found, advice = wrong
        raise _fail(card, wants, found, advice)


def _check_places(card: EncoderCard, lonlat: NDArray[np.float64]) -> None:
    if card.needs_lonlat and not bool(np.isfinite(lonlat).all()):
        raise _fail(card, "a position for every chip", "NaN among them", "Give every chip its longitude and latitude.")
    lon, lat = lonlat[:, 0], lonlat[:, 1]
    if bool((np.abs(lat) > 90).any()) or bool((np.abs(lon) > 360).any()):
        raise _fail(
            card,
            "positions as longitude, latitude in degrees",
            f"latitudes from {np.nanmin(lat):g} to {np.nanmax(lat):g}",
            "Give longitude first, in EPSG:4326.",
        )


type _Wrong = tuple[str, str, str] | None
"""What was wanted, what was found, what to do; None where nothing is wrong."""


def _reflectance(pixels: NDArray[np.float32], seen: NDArray[np.bool_], mean: float) -> _Wrong:
    wants, found = "reflectance (1 = all light reflected)", f"a mean of {mean:.4g}"
    if mean > BRIGHTEST_MEAN_REFLECTANCE:
        return wants, found, "These look like digital numbers: apply the item's scale and offset."
    if mean < DARKEST_MEAN_REFLECTANCE:
        return wants, found, "These look like decibels or unscaled numbers: apply the item's scale and offset."
    return None


def _decibel(pixels: NDArray[np.float32], seen: NDArray[np.bool_], mean: float) -> _Wrong:
    least = float(np.min(pixels, where=seen, initial=np.inf))
    wants, found = "backscatter in dB", f"a mean of {mean:.4g} and nothing below {least:.4g}"
    if least >= 0:
        return wants, found, "These look like linear power: convert them, 10 log10(power)."
    if mean > BRIGHTEST_DECIBEL:
        return wants, found, "These look like digital numbers: calibrate them, and take 10 log10 of the power."
    return None


def _linear(pixels: NDArray[np.float32], seen: NDArray[np.bool_], mean: float) -> _Wrong:
    if mean > -1:  # noise taken off leaves some pixels below 0
        return None
    return "backscatter as linear power", f"a mean of {mean:.4g}", "These look like dB: give 10 ** (dB / 10)."


def _eight_bit(pixels: NDArray[np.float32], seen: NDArray[np.bool_], mean: float) -> _Wrong:
    least = float(np.min(pixels, where=seen, initial=np.inf))
    most = float(np.max(pixels, where=seen, initial=-np.inf))
    wants, found = "8-bit numbers, 0 to 255", f"numbers from {least:.4g} to {most:.4g}"
    if least < 0 or most > 255:
        return wants, found, "Give the numbers of the 8-bit files as they are, not scaled nor of more bits."
    if most <= 1 and mean > _DARKEST_SCALED:
        return wants, found, "These look like numbers that were divided by 255: give those of the files as they are."
    return None


_LEVELS: Mapping[str, Callable[[NDArray[np.float32], NDArray[np.bool_], float], _Wrong]] = {
    "reflectance": _reflectance,
    DECIBEL: _decibel,
    LINEAR: _linear,
    "8-bit": _eight_bit,
}
"""By units, what is wrong with the level of pixels (chip, step, band, y, x), of which `seen` and their mean count."""


def usable(batch: ChipBatch) -> NDArray[np.bool_]:
    """Pixels that are marked valid and finite in every band, (chip, step, y, x)."""
    return batch.valid & np.isfinite(batch.pixels).all(axis=2)


def check_batch(card: EncoderCard, batch: ChipBatch) -> None:
    """Refuse a batch that the encoder was not made for.

    Raises:
        EncoderInputError: If sensor, units, bands or their order, pixel size, chip size, number of dates, array
            shapes or the level of the values do not fit the card.
    """
    _check_meaning(card, batch)
    _check_shapes(card, batch)
    _check_values(card, batch)


def normalised(card: EncoderCard, batch: ChipBatch, *, missing: float = 0.0) -> NDArray[np.float32]:
    """Pixels clipped, scaled and standardised as the card says.

    Args:
        card: Whose clip, scale, mean and std.
        batch: That fits it.
        missing: What stands where they are not usable; 0 is the card's mean.

    Returns:
        (chip, step, band, y, x).
    """
    scale, mean, std = (np.array(values, dtype=np.float32) for values in (card.scale, card.mean, card.std))
    # In place: a new array for every step took several times as long.
    found = batch.pixels * scale if card.clip is None else np.clip(batch.pixels, *card.clip) * scale
    found -= mean[:, None, None]
    found /= std[:, None, None]
    np.copyto(found, np.float32(missing), where=~usable(batch)[:, :, None])
    return found


def check_masks(
    card: EncoderCard,
    batch: ChipBatch,
    masks: NDArray[np.bool_],
    n_tokens: int | None = None,
    *,
    hidden: int | None = None,
) -> None:
    """Refuse masks that would make the loss another one than that of pretraining.

    Args:
        card: Whose mask ratio.
        batch: The chips.
        masks: (chip, mask, token).
        n_tokens: Tokens of a chip; None: one for each patch.
        hidden: Tokens that each mask has to hide; None: int(mask ratio x tokens).

    Raises:
        EncoderInputError: If `masks` is not bool (chip, mask, token) for this batch, or a mask does not hide the
            card's share of the tokens.
    """
    n_tokens = (batch.pixels.shape[-1] // card.patch_px) ** 2 if n_tokens is None else n_tokens
    if masks.dtype != np.bool_ or masks.ndim != 3 or masks.shape[::2] != (len(batch), n_tokens):
        raise _fail(
            card,
            f"masks as bool of shape ({len(batch)}, mask, {n_tokens})",
            f"{masks.dtype} masks of shape {masks.shape}",
            "Draw them with fixed_masks for the same chips and chip size.",
        )
    hidden = n_hidden(n_tokens, card.mask_ratio) if hidden is None else hidden
    counts = np.unique(masks.sum(axis=2))
    if masks.size and (len(counts) != 1 or counts[0] != hidden):
        raise _fail(
            card,
            f"{hidden} of {n_tokens} tokens hidden by each mask, as in pretraining",
            f"masks that hide {', '.join(str(c) for c in counts)}",
            "Draw them with fixed_masks.",
        )
