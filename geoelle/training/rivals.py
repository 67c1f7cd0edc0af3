"""Trivial predictors of a chip's loss: what any claim about an embedding has to be measured beside."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 90

RIVALS = ("brightness", "contrast", "gradient", "jpeg_size")
"""Columns of `rival_features`, in order."""


def jpeg_sizes(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Bytes of each chip (chip, y, x, band) as JPEG, all compressed alike."""
    sizes = np.empty(len(pixels))
    for i, chip in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(chip).save(buffer, format="JPEG", quality=JPEG_QUALITY)
        sizes[i] = buffer.tell()
    return sizes


def rival_features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Brightness, contrast, gradient energy and JPEG size of each chip.

    Args:
        pixels: (chip, y, x, band), 8 bit.

    Returns:
        (chip, 4): mean of all values; mean over bands of the standard deviation; mean squared difference of
        neighbouring pixels, summed over both directions; bytes as JPEG.
    """
    values = pixels.astype(np.float64)
    across = (np.diff(values, axis=2) ** 2).mean(axis=(1, 2, 3))
    down = (np.diff(values, axis=1) ** 2).mean(axis=(1, 2, 3))
    return np.stack(
        [
            values.mean(axis=(1, 2, 3)),
            values.std(axis=(1, 2)).mean(axis=1),
            across + down,
            jpeg_sizes(pixels),
        ],
        axis=1,
    )


def curved(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """A harder control: the rivals, their logarithms, and all squares and products of those.

    Loss of plain targets is a squared quantity and contrast is not; a straight line through the rivals would leave
    to the embedding what is only curvature.
    """
    both = np.concatenate([features, np.log1p(np.maximum(features, 0.0))], axis=1)
    both = (both - both.mean(axis=0)) / np.where(both.std(axis=0) > 0, both.std(axis=0), 1.0)
    i, j = np.triu_indices(both.shape[1])
    return np.concatenate([both, both[:, i] * both[:, j]], axis=1)
