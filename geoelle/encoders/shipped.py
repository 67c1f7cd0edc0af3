"""Probes that come with an encoder: the cold start, for a place where nothing was calibrated yet."""

from __future__ import annotations

from pathlib import Path

from geoelle.encoders.compact_cards import WEIGHTS_FOLDER
from geoelle.encoders.registry import get_card
from geoelle.errors import ProbeError


def shipped_probe_folder(encoder: str, chip_size_px: int) -> Path:
    """Where the probe shipped for an encoder's full name (bands and pixel size are in it) and chip size lies.

    Raises:
        UnknownEncoderError: If there is no such encoder.
        ProbeError: If none is shipped for its bands, pixel size and chips of this size.
    """
    card = get_card(encoder)
    for name in card.shipped_probes:
        if f"-{chip_size_px}px-" in name:
            return WEIGHTS_FOLDER / name
    shipped = ", ".join(card.shipped_probes) or "none"
    raise ProbeError(
        f"No probe is shipped for {encoder} with chips of {chip_size_px} px (shipped: {shipped}). "
        "Calibrate one with `geoelle calibrate`."
    )
