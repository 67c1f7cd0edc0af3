"""EuroSAT RGB chips for pretraining: reading, the hold-out by content hash, normalisation figures."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoelle.errors import NotFoundError, SchemaError
from geoelle.provenance import content_order

FULL_SCALE_REFLECTANCE = 0.275
"""EuroSAT RGB stretches digital numbers 0 … 2750 to 0 … 255, and 10,000 of them are a reflectance of 1."""

HOLDOUT_SALT = "eurosat-holdout-1"
"""Names the hold-out: change it only together with the shipped weights, or trained chips become test chips."""

KEYS = ("jpeg", "offsets", "label", "name", "classes")


@dataclass(frozen=True, slots=True)
class RgbChips:
    """8-bit RGB chips with their class."""

    pixels: NDArray[np.uint8]
    """(chip, y, x, band), bands red, green, blue."""
    label: NDArray[np.int64]
    """(chip,), index into `classes`."""
    name: NDArray[np.str_]
    """(chip,), the file's name in EuroSAT."""
    jpeg_bytes: NDArray[np.int64]
    """(chip,), size of the data set's own JPEG file."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    def select(self, index: NDArray[np.intp]) -> RgbChips:
        """The chips that `index` picks, in its order."""
        return RgbChips(self.pixels[index], self.label[index], self.name[index], self.jpeg_bytes[index], self.classes)


def read_eurosat(path: str | Path) -> RgbChips:
    """Read and decode packed EuroSAT RGB JPEGs.

    Args:
        path: An .npz with `jpeg` (bytes, concatenated), `offsets` (n + 1), `label`, `name`, `classes`.

    Raises:
        NotFoundError: If there is no such file.
        SchemaError: If an array is missing, or the chips differ in size.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}. Point --data at eurosat_rgb_jpeg.npz.")
    with np.load(path, allow_pickle=False) as packed:
        missing = [key for key in KEYS if key not in packed]
        if missing:
            raise SchemaError(
                f"{path} lacks the arrays {missing}. Expected {list(KEYS)}. Use the packed EuroSAT RGB file."
            )
        jpeg, offsets = packed["jpeg"], packed["offsets"].astype(np.int64)
        label, name = packed["label"].astype(np.int64), packed["name"]
        classes = tuple(str(c) for c in packed["classes"])
    images = []
    for start, stop in itertools.pairwise(offsets):
        with Image.open(io.BytesIO(jpeg[start:stop].tobytes())) as image:
            images.append(np.asarray(image.convert("RGB")))
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise SchemaError(f"{path} holds chips of shapes {sorted(shapes)}. Expected one shape for all of them.")
    return RgbChips(np.stack(images), label, name, np.diff(offsets), classes)


def split_holdout(chips: RgbChips, per_class: int) -> tuple[RgbChips, RgbChips]:
    """Split into training and held-out chips, the latter `per_class` of each class, chosen by the name's hash.

    The choice depends on names alone: not on order, seed or how many chips of other classes there are.

    Raises:
        SchemaError: If a class has no more than `per_class` chips.
    """
    held: list[int] = []
    for k, title in enumerate(chips.classes):
        members = np.flatnonzero(chips.label == k)
        if len(members) <= per_class:
            raise SchemaError(
                f"Class {title} has {len(members)} chips. More than {per_class} are needed to hold that many out. "
                "Hold out fewer per class."
            )
        order = content_order([str(chips.name[i]) for i in members], salt=HOLDOUT_SALT)
        held.extend(int(members[i]) for i in order[:per_class])
    is_held = np.zeros(len(chips), dtype=bool)
    is_held[held] = True
    return chips.select(np.flatnonzero(~is_held)), chips.select(np.flatnonzero(is_held))


def to_reflectance(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Undo the 8-bit stretch: (chip, y, x, band) to top-of-atmosphere reflectance (chip, band, y, x)."""
    return np.ascontiguousarray(
        pixels.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(FULL_SCALE_REFLECTANCE / 255)
    )


def band_statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per band of 8-bit pixels (chip, y, x, band) scaled to 0 … 1."""
    counts = np.stack([np.bincount(pixels[..., b].ravel(), minlength=256) for b in range(pixels.shape[3])])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    return tuple(float(round(m, 6)) for m in mean), tuple(float(round(v, 6)) for v in np.sqrt(variance))
