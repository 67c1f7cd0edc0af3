"""The fixed places that SatCLIP's loss tells a chip's own place from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import WeightsError
from geoelle.provenance import file_sha256

PLACES_VERSION = "1"
PLACES_FILE = Path(__file__).parent / "weights" / "satclip-places-v1.csv"
PLACES_SHA256 = "0a2d316c18b6c2ea52c02c9da6b0615738af15881c6af71f386cdfd28efe651d"
"""Of the file. Losses against other places are other losses, so the file never changes: a new one is a new version."""
N_PLACES = 4096
NEARER_KM = 50.0
"""Places nearer to a chip than this are not told from its own."""


def read_places() -> NDArray[np.float64]:
    """The places, (place, 2): degrees, longitude first. Made by pipelines/make_satclip_places.py.

    Raises:
        WeightsError: If the file is missing or another one.
    """
    if not PLACES_FILE.is_file():
        raise WeightsError(f"There is no file {PLACES_FILE}. Expected SatCLIP's places. Install geoelle again.")
    found = file_sha256(PLACES_FILE)
    if found != PLACES_SHA256:
        raise WeightsError(
            f"{PLACES_FILE} has the sha256 {found[:12]}, expected {PLACES_SHA256[:12]}. Install geoelle again."
        )
    return np.loadtxt(PLACES_FILE, delimiter=",", skiprows=1, dtype=np.float64)
