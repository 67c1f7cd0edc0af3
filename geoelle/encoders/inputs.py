"""Checks between a batch and an encoder's card: what the encoder wants, what was found, what to do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.masks import n_hidden
from geoelle.errors import EncoderInputError
from geoelle.records import ChipBatch, EncoderCard

GSD_TOLERANCE = 0.02
"""Relative difference in pixel size that is taken for rounding."""

BRIGHTEST_MEAN_REFLECTANCE = 2.0
"""No chip's mean is above this; a higher one means that digital numbers were never scaled."""


def _fail(card: EncoderCard, wants: str, found: str, advice: str) -> EncoderInputError:
    return EncoderInputError(f"{card.name} expects {wants} but the batch has {found}. {advice}")


def _check_meaning(card: EncoderCard, batch: ChipBatch) -> None:
    """Sensor, units, bands and pixel size: what the numbers are."""
    if batch.sensor != card.sensor:
        raise _fail(
            card,
            f"sensor {card.sensor!r}",
            f"{batch.sensor!r}",
            f"Pick an encoder from list_encoders(sensor={batch.sensor!r}), or read another sensor.",
        )
    if batch.units != card.units:
        raise _fail(card, f"units {card.units!r}", f"{batch.units!r}", f"Convert the pixels to {card.units}.")
    if batch.bands != card.bands:
        missing = [band for band in card.bands if band not in batch.bands]
        advice = (
            f"Add the missing bands {missing} to search.bands, or pick an encoder from "
            f"list_encoders(sensor={batch.sensor!r})."
            if missing
            else "Read exactly these bands, in this order."
        )
        raise _fail(card, f"bands {card.bands}", f"{batch.bands}", advice)
    if abs(batch.gsd_m / card.gsd_m - 1) > GSD_TOLERANCE:
        raise _fail(
            card,
            f"pixels of {card.gsd_m:g} m",
            f"pixels of {batch.gsd_m:g} m",
            f"Read the imagery at {card.gsd_m:g} m.",
        )


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
        raise _fail(card, f"chips of {sizes} px", f"{height} x {width} px", "Set chips.size_px to one of these.")
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
    if batch.valid.dtype != np.bool_:
        raise _fail(card, "valid as bool", f"valid as {batch.valid.dtype}", "Cast it to bool.")


def _check_values(card: EncoderCard, batch: ChipBatch) -> None:
    if len(batch) == 0:
        return
    if card.needs_time and bool(np.isnat(batch.time).any()):
        raise _fail(card, "a time for every chip and date", "NaT among them", "Give every date its time.")
    if card.needs_lonlat and not bool(np.isfinite(batch.lonlat).all()):
        raise _fail(card, "a position for every chip", "NaN among them", "Give every chip its longitude and latitude.")
    if card.units == "reflectance":
        bright = _mean_level(batch)
        if bright > BRIGHTEST_MEAN_REFLECTANCE:
            raise _fail(
                card,
                "reflectance (1 = all light reflected)",
                f"a mean of {bright:.4g}",
                "These look like digital numbers: apply the item's scale and offset.",
            )


def _mean_level(batch: ChipBatch) -> float:
    """Mean of a sixteenth of the pixels, which tells reflectance from digital numbers in a sixteenth of the time."""
    for pixels, valid in (
        (batch.pixels[..., ::4, ::4], batch.valid[..., ::4, ::4]),
        (batch.pixels, batch.valid),
    ):
        found = pixels[
            np.broadcast_to(valid[:, :, None], pixels.shape) & np.isfinite(pixels).all(axis=2, keepdims=True)
        ]
        if found.size:
            return float(found.mean())
    return 0.0


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


def check_masks(card: EncoderCard, batch: ChipBatch, masks: NDArray[np.bool_], n_tokens: int | None = None) -> None:
    """Refuse masks that would make the loss another one than that of pretraining.

    Args:
        card: Whose mask ratio.
        batch: The chips.
        masks: (chip, mask, token).
        n_tokens: Tokens of a chip; None: one for each patch.

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
    hidden = n_hidden(n_tokens, card.mask_ratio)
    counts = np.unique(masks.sum(axis=2))
    if masks.size and (len(counts) != 1 or counts[0] != hidden):
        raise _fail(
            card,
            f"{hidden} of {n_tokens} tokens hidden by each mask, as in pretraining",
            f"masks that hide {', '.join(str(c) for c in counts)}",
            "Draw them with fixed_masks.",
        )
