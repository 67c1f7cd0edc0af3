"""How complex a chip looks: the trivial predictors that an embedding has to be measured beside."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEXTURE_NAMES = ("brightness", "contrast", "gradient", "jpeg_size")
"""Columns of `texture_features`, in order."""

JPEG_QUALITY = 90


def texture_features(pixels: NDArray[np.float32], low: float, high: float) -> NDArray[np.float64]:
    """Brightness, contrast, gradient energy and JPEG size of each chip.

    Args:
        pixels: (chip, band, y, x); NaN counts as the chip's mean.
        low: Value that becomes 0 of the 8-bit image that is compressed.
        high: Value that becomes 255.

    Returns:
        (chip, 4): mean; standard deviation, mean over bands; mean squared difference of neighbours, summed over
        both directions; bytes as JPEG (of the RGB image for three bands, else summed over bands).
    """
    if len(pixels) == 0:
        return np.empty((0, len(TEXTURE_NAMES)))
    values = pixels.astype(np.float64)
    means = np.nanmean(values, axis=(2, 3), keepdims=True)
    values = np.where(np.isfinite(values), values, means)
    across = (np.diff(values, axis=3) ** 2).mean(axis=(1, 2, 3))
    down = (np.diff(values, axis=2) ** 2).mean(axis=(1, 2, 3))
    eight_bit = np.clip(np.rint((values - low) / (high - low) * 255), 0, 255).astype(np.uint8)
    sizes = np.array([_jpeg_bytes(chip) for chip in eight_bit], dtype=np.float64)
    return np.stack([values.mean(axis=(1, 2, 3)), values.std(axis=(2, 3)).mean(axis=1), across + down, sizes], axis=1)


def _jpeg_bytes(chip: NDArray[np.uint8]) -> int:
    images = [np.moveaxis(chip, 0, -1)] if len(chip) == 3 else list(chip)
    total = 0
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="JPEG", quality=JPEG_QUALITY)
        total += buffer.tell()
    return total
