"""Chips cut from images of a source, at either pixel size, with the folds in which they are held out together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geoelle.provenance import content_order
from geoelle.records import ChipBatch
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.training.sources import HOLDOUT_SALT, Source

N_FOLDS = 5
_NATIVE_GSD_M = 10


@dataclass(frozen=True, slots=True)
class HeldChips:
    """Chips to fit or evaluate on, with the group that is held out together."""

    batch: ChipBatch
    group: NDArray[np.str_]
    """(chip,): EuroSAT class, chip or scene."""
    fold: NDArray[np.int64]
    """(chip,), of whole groups."""

    def __len__(self) -> int:
        return len(self.batch)


def pooled(images: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of squares of `factor` pixels; what is left at the edges is dropped."""
    if factor == 1:
        return images
    n, bands, height, width = images.shape
    rows, columns = height // factor, width // factor
    parts = images[..., : rows * factor, : columns * factor].reshape(n, bands, rows, factor, columns, factor)
    return np.ascontiguousarray(parts.mean(axis=(3, 5), dtype=np.float64), dtype=np.float32)


def batch_of(
    pixels: NDArray[np.float32], bands: tuple[str, ...], gsd_m: float, ids: list[str], sensor: str | None = None
) -> ChipBatch:
    """Reflectance (chip, band, y, x) as a batch without gaps, dates and places."""
    n, _, height, width = pixels.shape
    return ChipBatch(
        sensor=sensor or SENTINEL_2_L2A.name,
        units=SENTINEL_2_L2A.units,
        bands=bands,
        pixels=np.ascontiguousarray(pixels[:, None], dtype=np.float32),
        valid=np.ones((n, 1, height, width), dtype=np.bool_),
        time=np.full((n, 1), np.datetime64("NaT", "ns"), dtype="datetime64[ns]"),
        lonlat=np.full((n, 2), np.nan),
        gsd_m=float(gsd_m),
        chip_id=np.array(ids, dtype=np.str_),
    )


def cut(source: Source, bands: tuple[str, ...], size_px: int, gsd_m: int, stride_px: int | None = None) -> HeldChips:
    """Chips of every image, each image a group of its own, groups spread over the folds by their names' hashes.

    Args:
        source: Images at 10 m.
        bands: Which of its bands, in order.
        size_px: Edge of a chip.
        gsd_m: 10, or 20 for means of four pixels.
        stride_px: Step between chips; None lays them side by side.
    """
    stride = stride_px or size_px
    images = pooled(source.images[:, [source.bands.index(band) for band in bands]], gsd_m // _NATIVE_GSD_M)
    starts = range(0, images.shape[-1] - size_px + 1, stride)
    corners = [(y, x) for y in starts for x in starts]
    pixels = np.stack([images[:, :, y : y + size_px, x : x + size_px] for y, x in corners], axis=1)
    order = content_order(source.keys, salt=HOLDOUT_SALT)
    fold = np.empty(len(source), dtype=np.int64)
    fold[order] = np.arange(len(source)) % N_FOLDS
    several = len(corners) > 1
    ids = [f"{key}/{part}" if several else key for key in source.keys for part in range(len(corners))]
    return HeldChips(
        batch_of(pixels.reshape(-1, *pixels.shape[2:]), bands, gsd_m, ids),
        np.repeat(np.array(source.keys, dtype=np.str_), len(corners)),
        np.repeat(fold, len(corners)),
    )


def join(parts: list[HeldChips]) -> HeldChips:
    """Chips of one kind, one after the other."""
    batch = join_batches([part.batch for part in parts])
    return HeldChips(batch, np.concatenate([p.group for p in parts]), np.concatenate([p.fold for p in parts]))


def join_batches(batches: list[ChipBatch]) -> ChipBatch:
    """Batches of one kind, one after the other."""
    return replace(
        batches[0],
        pixels=np.concatenate([b.pixels for b in batches]),
        valid=np.concatenate([b.valid for b in batches]),
        time=np.concatenate([b.time for b in batches]),
        lonlat=np.concatenate([b.lonlat for b in batches]),
        chip_id=np.concatenate([b.chip_id for b in batches]),
    )
