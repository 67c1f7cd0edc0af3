"""What coarser number formats do to embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import EncoderInputError


@dataclass(frozen=True, slots=True)
class RoundingEffect:
    """How embeddings in one precision differ from those of the same chips in float32."""

    relative_median: float
    """Of |other - exact| / |exact| over the chips."""
    relative_max: float
    cosine_min: float
    """Least cosine between the two embeddings of a chip."""


def rounding_effect(exact: NDArray[np.float32], other: NDArray[np.float32]) -> RoundingEffect:
    """Compare embeddings, for example of `load_encoder(name)` and `load_encoder(name, precision="bf16")`.

    Args:
        exact: (chip, feature), in float32. Rows of NaN, chips without a valid pixel, are left out.
        other: (chip, feature), of the same chips.

    Returns:
        How far they are apart.

    Raises:
        EncoderInputError: If the shapes differ, or no chip is left.
    """
    if exact.shape != other.shape or exact.ndim != 2:
        raise EncoderInputError(
            f"Embeddings of shapes {exact.shape} and {other.shape} cannot be compared. Expected the same chips twice."
        )
    known = np.isfinite(exact).all(axis=1)
    a, b = exact[known].astype(np.float64), other[known].astype(np.float64)
    if not len(a):
        raise EncoderInputError("There is no embedding to compare. Expected chips with valid pixels.")
    length = np.linalg.norm(a, axis=1)
    relative = np.linalg.norm(b - a, axis=1) / length
    cosine = (a * b).sum(axis=1) / (length * np.linalg.norm(b, axis=1))
    return RoundingEffect(float(np.median(relative)), float(relative.max()), float(cosine.min()))
