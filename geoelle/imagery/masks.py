"""What a quality layer says of each pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoelle.sensors import QualityTests


def has_any(numbers: NDArray[np.integer], tests: QualityTests) -> NDArray[np.bool_]:
    """Where any of (mask, value) holds: `number & mask == value`."""
    found = np.zeros(numbers.shape, dtype=np.bool_)
    for mask, value in tests:
        found |= (numbers & mask) == value
    return found
