"""Cutting a tile's pixels into the chips of the grid, and saying which of them an encoder should see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoelle import schema
from geoelle.grid import GridExtent, Tile
from geoelle.imagery import TilePixels
from geoelle.records import ChipBatch, Scene

MAX_INVALID_FRACTION = 0.1
"""Chips with more invalid pixels are skipped (the ELLE article's filter)."""
_AT_ONCE = 1 << 18
"""Numbers worked on at once while cutting: what fits into a processor's cache."""
SEA_CONTRAST = 0.002
"""A `min_contrast` for Sentinel-2 reflectance that leaves out open sea and keeps land; `docs/masks.md` has figures."""


@dataclass(frozen=True, slots=True)
class TileChips:
    """The chips of one tile on one date. Rasters are (y, x) over the tile, north first."""

    batch: ChipBatch
    """The chips worth embedding, in raster order."""
    index: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Where in the tile's raster each of them lies: rows, columns."""
    fractions: dict[str, NDArray[np.float32]]
    """By name, as in `schema.FRACTIONS`: shares of a chip's pixels."""
    contrast: NDArray[np.float32]
    """Standard deviation over a chip's valid pixels, mean over bands, in the sensor's units; NaN without pixels."""
    status: NDArray[np.uint8]
    """`schema.NOT_DONE` where the chip is in the batch and waits for the encoder; else why it is not."""


def cut_chips(
    tile_pixels: TilePixels,
    scene: Scene,
    extent: GridExtent,
    tile: Tile,
    wanted: NDArray[np.bool_],
    *,
    bands: Sequence[str],
    units: str,
    gsd_m: float,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
    max_cloud_fraction: float | None = None,
    min_contrast: float | None = None,
) -> TileChips:
    """Cut the chips of a tile.

    Args:
        tile_pixels: Pixels of `extent.tile_geobox(tile, gsd_m)`.
        scene: Where they come from.
        extent: The run's part of the grid.
        tile: Which tile.
        wanted: (y, x) over the tile: chips that the AOI asks for.
        bands: Names of the bands of `tile_pixels`.
        units: Their units.
        gsd_m: Edge of a pixel, metres.
        max_invalid_fraction: Chips with a larger share of pixels that do not see the ground are skipped.
        max_cloud_fraction: Chips with a larger share of cloud and its shadow are skipped too; None: no such limit.
        min_contrast: Chips of less contrast, in `units`, are skipped as flat, such as open sea; None: none is. Of
            `SEA_CONTRAST` see there.
    """
    size, stride = extent.chip_size_px(gsd_m), extent.stride_px(gsd_m)
    fractions, status = _account(tile_pixels, size, stride, max_invalid_fraction, max_cloud_fraction)
    status[~wanted] = schema.OUTSIDE_AOI
    contrast = np.full(status.shape, np.nan, dtype=np.float32)
    rows, columns = np.nonzero(status == schema.NOT_DONE)
    pixels = np.empty((len(rows), 1, len(bands), size, size), dtype=np.float32)
    valid = np.empty((len(rows), 1, size, size), dtype=np.bool_)
    at_once = max(1, _AT_ONCE // max(1, len(bands) * size * size))
    room = np.empty((min(at_once, len(rows)), size, size), dtype=np.float32)
    for start in range(0, len(rows), at_once):
        few = slice(start, min(start + at_once, len(rows)))
        for k in range(few.start, few.stop):
            top, left = int(rows[k]) * stride, int(columns[k]) * stride
            pixels[k, 0] = tile_pixels.pixels[:, top : top + size, left : left + size]
            valid[k, 0] = tile_pixels.valid[top : top + size, left : left + size]
        contrast[rows[few], columns[few]] = _contrast(pixels[few, 0], valid[few, 0], room)
    if min_contrast is not None:
        flat = contrast[rows, columns] < min_contrast
        status[rows[flat], columns[flat]] = schema.SKIPPED_FLAT
        if flat.any():
            rows, columns, pixels, valid = rows[~flat], columns[~flat], pixels[~flat], valid[~flat]
    lattice_rows, lattice_columns = extent.rows[tile.y][rows], extent.columns[tile.x][columns]
    batch = ChipBatch(
        sensor=scene.items[0].sensor,
        units=units,
        bands=tuple(bands),
        pixels=pixels,
        valid=valid,
        time=np.full((len(rows), 1), scene.time, dtype="datetime64[ns]"),
        lonlat=extent.grid.lonlat(lattice_rows, lattice_columns),
        gsd_m=gsd_m,
        chip_id=extent.grid.chip_ids(lattice_rows, lattice_columns),
    )
    schema.check_chip_batch(batch)
    return TileChips(batch, (rows, columns), fractions, contrast, status)


def _account(
    tile_pixels: TilePixels, size: int, stride: int, max_invalid_fraction: float, max_cloud_fraction: float | None
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.uint8]]:
    """Shares of every chip's pixels, and who is to blame where a chip is not worth embedding."""
    names = [name.removesuffix("_fraction") for name in schema.FRACTIONS]
    counts = {name: _counts(getattr(tile_pixels, name), size, stride) for name in names}
    n_pixels = np.float32(size * size)
    fractions = {f"{name}_fraction": counts[name].astype(np.float32) / n_pixels for name in names}
    hidden = (counts["cloud"] + counts["shadow"]).astype(np.float32) / n_pixels
    observed = (counts["valid"] + counts["cloud"] + counts["shadow"]).astype(np.float32) / n_pixels
    status = np.full(observed.shape, schema.NOT_DONE, dtype=np.uint8)
    # A chip is charged to the clouds only if it would have passed without them.
    status[fractions["valid_fraction"] < 1 - max_invalid_fraction] = schema.SKIPPED_CLOUD
    if max_cloud_fraction is not None:
        status[hidden > max_cloud_fraction] = schema.SKIPPED_CLOUD
    status[observed < 1 - max_invalid_fraction] = schema.SKIPPED_INVALID
    return fractions, status


def _counts(mask: NDArray[np.bool_], size: int, stride: int) -> NDArray[np.int64]:
    """Pixels of each chip where a mask over the tile holds, (chip_y, chip_x): exact, in one pass over the mask.

    Chips share blocks of gcd(size, stride) pixels, so that each pixel is looked at once whatever the overlap.
    """
    n_rows, n_columns = ((n - size) // stride + 1 for n in mask.shape)
    if not mask.any():  # most scenes have no snow, and many no cloud
        return np.zeros((n_rows, n_columns), dtype=np.int64)
    block = math.gcd(size, stride)
    sums = _sum_blocks(_sum_blocks(mask.view(np.uint8), block).T, block).T
    edges = np.zeros((sums.shape[0] + 1, sums.shape[1] + 1), dtype=np.int64)
    edges[1:, 1:] = sums.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    top, left = np.arange(n_rows) * (stride // block), np.arange(n_columns) * (stride // block)
    bottom, right = top + size // block, left + size // block
    return np.asarray(
        edges[np.ix_(bottom, right)]
        - edges[np.ix_(top, right)]
        - edges[np.ix_(bottom, left)]
        + edges[np.ix_(top, left)]
    )


def _sum_blocks(numbers: NDArray[np.integer], block: int) -> NDArray[np.int64]:
    """Sums over each `block` rows; of uint8 no larger than 1 by adding bytes, which processors do many at a time."""
    n_blocks, width = len(numbers) // block, numbers.shape[1]
    if numbers.dtype == np.uint8:
        step = max(d for d in range(1, min(block, 255) + 1) if block % d == 0)
        numbers = numbers.reshape(-1, step, width).sum(axis=1, dtype=np.uint8)
    return np.asarray(numbers.reshape(n_blocks, -1, width).sum(axis=1, dtype=np.int64))


def _contrast(chips: NDArray[np.float32], valid: NDArray[np.bool_], room: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standard deviation over the valid pixels of chips (chip, band, y, x), mean over bands, of shape (chip,).

    Rows are summed in float32 and the sums of rows in float64, and squares are of differences from the mean, so that
    neither size nor brightness of a chip costs digits. The order is the same whatever other chips there are.

    Args:
        chips: Pixels.
        valid: (chip, y, x).
        room: (at least as many chips, y, x), to work in: a page of new memory costs more than the work done on it.
    """
    whole = bool(valid.all())
    n = np.count_nonzero(valid, axis=(-2, -1)).astype(np.float64)
    n[n == 0] = np.nan
    ones = np.ones(chips.shape[-1], dtype=np.float32)
    total, work = np.zeros(len(chips)), room[: len(chips)]
    for b in range(chips.shape[1]):
        values = chips[:, b]
        if not whole:
            work.fill(0)
            np.copyto(work, values, where=valid)
            values = work
        mean = np.vecdot(values, ones).sum(axis=-1, dtype=np.float64) / n
        np.subtract(values, mean.astype(np.float32)[:, None, None], out=work)
        if not whole:
            work *= valid
        total += np.sqrt(np.vecdot(work, work).sum(axis=-1, dtype=np.float64) / n)
    return np.asarray(total / chips.shape[1])
