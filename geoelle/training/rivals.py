"""Trivial predictors of a chip's loss: what any claim about an embedding has to be measured beside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoelle.texture import TEXTURE_NAMES as RIVALS
from geoelle.texture import texture_features

__all__ = ("RIVALS", "curved", "rival_features")


def rival_features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`geoelle.texture.texture_features` of 8-bit chips (chip, y, x, band): (chip, 4)."""
    return texture_features(pixels.transpose(0, 3, 1, 2).astype(np.float32), 0.0, 255.0)


def curved(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """A harder control: the rivals, their logarithms, and all squares and products of those.

    Loss of plain targets is a squared quantity and contrast is not; a straight line through the rivals would leave
    to the embedding what is only curvature.
    """
    both = np.concatenate([features, np.log1p(np.maximum(features, 0.0))], axis=1)
    both = (both - both.mean(axis=0)) / np.where(both.std(axis=0) > 0, both.std(axis=0), 1.0)
    i, j = np.triu_indices(both.shape[1])
    return np.concatenate([both, both[:, i] * both[:, j]], axis=1)
