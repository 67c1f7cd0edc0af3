"""Probes that come with an encoder: the cold start, for a place where nothing was calibrated yet."""

from __future__ import annotations

from pathlib import Path

from geoelle.encoders.registry import get_card
from geoelle.errors import ProbeError

_WEIGHTS = Path(__file__).parent / "weights"


def shipped_probe_folder(encoder: str, chip_size_px: int) -> Path:
    """Where the probe shipped for an encoder and chip size lies.

    Raises:
        UnknownEncoderError: If there is no such encoder.
        ProbeError: If none is shipped for chips of this size.
    """
    card = get_card(encoder)
    name = f"probe-{chip_size_px}px"
    if name not in card.shipped_probes:
        shipped = ", ".join(card.shipped_probes) or "none"
        raise ProbeError(
            f"No probe is shipped for {encoder} with chips of {chip_size_px} px (shipped: {shipped}). "
            "Calibrate one with `geoelle calibrate`."
        )
    return _WEIGHTS / encoder / name
