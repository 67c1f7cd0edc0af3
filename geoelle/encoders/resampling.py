"""A batch brought to an encoder's pixel size, chip size and units: on request only, and saying what was done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.inputs import DECIBEL, GSD_TOLERANCE, LINEAR
from geoelle.errors import EncoderInputError
from geoelle.records import ChipBatch, EncoderCard

type _Doubles = NDArray[np.float64]
_LEAST_SEEN = 0.5
"""Share of a new pixel's weight that valid pixels must have for it to be valid."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """What `resample_batch` did."""

    method: Literal["none", "cut", "mean", "bilinear"]
    """`cut`: pixels left out around the middle, the others as they were. `mean`: of the area. `bilinear`: between."""
    from_gsd_m: float
    to_gsd_m: float
    from_px: int
    to_px: int
    from_units: str
    to_units: str

    def sentence(self) -> str:
        """For a log or a label."""
        done = {"none": "Chips as they were", "cut": "Chips cut", "mean": "Pixels averaged", "bilinear": "Pixels "
                "interpolated"}[self.method]  # fmt: skip
        units = "" if self.from_units == self.to_units else f", {self.from_units} made {self.to_units}"
        return f"{done}: {self.from_px} px of {self.from_gsd_m:g} m to {self.to_px} px of {self.to_gsd_m:g} m{units}."


def resample_batch(
    batch: ChipBatch, card: EncoderCard, chip_size_px: int | None = None, *, convert_units: bool = False
) -> tuple[ChipBatch, Resampling]:
    """Bring chips to the pixel size and chip size of a card, about the same centres.

    Coarser pixels are means over their area, finer ones bilinear between the centres of the old; where the size stays,
    the middle is cut out. Decibels are averaged as power. A pixel is valid where at least half of its weight is. What
    is left over at the edges is cut off, by half a pixel more on one side where sizes are odd and even. Nothing is
    made up: a chip that is too small is refused. Where there is nothing to do, the batch comes back as it is.

    Args:
        batch: Chips of any pixel size, of the card's sensor or another; that is for the encoder to check.
        card: Whose `gsd_m`, `chip_sizes_px` and `units`.
        chip_size_px: One of the card's; None: the largest that the chips have ground for.
        convert_units: Make `linear` power `dB` where the card takes that; else other units are refused.

    Returns:
        The new batch, and what was done. The new batch's pixels are (chip, step, band, chip_size_px, chip_size_px).

    Raises:
        EncoderInputError: If the chips are too small or not square, the card takes none of this size, or the units are
            others and are not to be converted, or cannot be.
    """
    height, width = batch.pixels.shape[-2:]
    if height != width:
        raise EncoderInputError(f"The chips are {height} x {width} px. Expected squares; cut them first.")
    _check_units(batch, card, convert_units)
    size = _target_size(batch, card, chip_size_px)
    same = abs(batch.gsd_m / card.gsd_m - 1) <= GSD_TOLERANCE
    done = Resampling(
        "none" if same and size == width else "cut" if same else "mean" if card.gsd_m > batch.gsd_m else "bilinear",
        batch.gsd_m, batch.gsd_m if same else card.gsd_m, width, size, batch.units, card.units,
    )  # fmt: skip
    if done.method == "cut":
        start = (width - size) // 2
        middle = slice(start, start + size)
        batch = replace(batch, pixels=batch.pixels[..., middle, middle], valid=batch.valid[..., middle, middle])
    elif done.method != "none":
        batch = _on_new_pixels(batch, done)
    return (batch if batch.units == card.units else _in_decibels(batch)), done


def _check_units(batch: ChipBatch, card: EncoderCard, convert: bool) -> None:
    if batch.units == card.units or (convert and (batch.units, card.units) == (LINEAR, DECIBEL)):
        return
    advice = f"Only {LINEAR} power can be made {DECIBEL}; read the pixels in {card.units}."
    if (batch.units, card.units) == (LINEAR, DECIBEL):
        advice = "Ask for that with convert_units=True."
    raise EncoderInputError(f"{card.name} takes {card.units} and the batch is in {batch.units}. {advice}")


def _target_size(batch: ChipBatch, card: EncoderCard, asked: int | None) -> int:
    if asked is not None and asked not in card.chip_sizes_px:
        sizes = " or ".join(str(size) for size in card.chip_sizes_px)
        raise EncoderInputError(f"Chips of {asked} px were asked for. {card.name} takes {sizes} px; use one of these.")
    ground_m = batch.pixels.shape[-1] * batch.gsd_m
    wanted = card.chip_sizes_px if asked is None else (asked,)
    fitting = [size for size in wanted if size * card.gsd_m <= ground_m * (1 + GSD_TOLERANCE)]
    if not fitting or not batch.gsd_m > 0:
        least = min(wanted)
        raise EncoderInputError(
            f"The chips are {ground_m:g} m wide ({batch.pixels.shape[-1]} px of {batch.gsd_m:g} m). {card.name} needs "
            f"{least * card.gsd_m:g} m ({least} px of {card.gsd_m:g} m); cut larger chips, or pick its variant for "
            "finer pixels."
        )
    return max(fitting)


def _on_new_pixels(batch: ChipBatch, done: Resampling) -> ChipBatch:
    ratio = done.to_gsd_m / done.from_gsd_m
    make = _area_weights if done.method == "mean" else _bilinear_weights
    weights = make(done.from_px, done.to_px, ratio)
    seen = batch.valid[:, :, None] & np.isfinite(batch.pixels)
    values = np.where(seen, batch.pixels, 0).astype(np.float64)
    if batch.units == DECIBEL:
        values = np.where(seen, 10.0 ** (values / 10), 0)
    share = _apply(weights, seen.astype(np.float64))
    valid = share >= _LEAST_SEEN
    mean = np.divide(_apply(weights, values), share, out=np.full(share.shape, np.nan), where=valid)
    if batch.units == DECIBEL:
        mean = 10 * np.log10(mean)
    return replace(batch, pixels=mean.astype(np.float32), valid=valid.all(axis=2), gsd_m=done.to_gsd_m)


def _apply(weights: _Doubles, values: _Doubles) -> _Doubles:
    """Weights (new, old) along both of the last axes."""
    return np.asarray(np.einsum("iy,...yx,jx->...ij", weights, values, weights, optimize=True))


def _area_weights(n_old: int, n_new: int, ratio: float) -> _Doubles:
    """(new, old): the share of each new pixel that lies in each old one, the two rows about the same middle."""
    old = np.arange(n_old + 1) - n_old / 2
    new = (np.arange(n_new + 1) - n_new / 2) * ratio
    low, high = np.maximum(old[None, :-1], new[:-1, None]), np.minimum(old[None, 1:], new[1:, None])
    return np.asarray(np.maximum(high - low, 0) / ratio)


def _bilinear_weights(n_old: int, n_new: int, ratio: float) -> _Doubles:
    """(new, old): between the two old centres about each new one; beyond the outermost centre, that pixel's value."""
    centres = (np.arange(n_new) + 0.5 - n_new / 2) * ratio + n_old / 2 - 0.5
    centres = np.clip(centres, 0, n_old - 1)
    first = np.minimum(centres.astype(np.intp), max(n_old - 2, 0))
    weights = np.zeros((n_new, n_old))
    rows = np.arange(n_new)
    weights[rows, first] += 1 - (centres - first)
    weights[rows, np.minimum(first + 1, n_old - 1)] += centres - first
    return weights


def _in_decibels(batch: ChipBatch) -> ChipBatch:
    """10 log10 of power; where it is zero or less, NaN and not valid."""
    positive = batch.pixels > 0
    pixels = np.full(batch.pixels.shape, np.nan, dtype=np.float32)
    np.log10(batch.pixels, out=pixels, where=positive)
    pixels *= 10
    return replace(batch, units=DECIBEL, pixels=pixels, valid=batch.valid & positive.all(axis=2))
