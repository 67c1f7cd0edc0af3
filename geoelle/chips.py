"""Cutting a tile's pixels into the chips of the grid, and saying which of them an encoder should see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from geoelle import schema
from geoelle.grid import GridExtent, Tile
from geoelle.imagery import TilePixels
from geoelle.records import ChipBatch, Scene

MAX_INVALID_FRACTION = 0.1
"""Chips with more invalid pixels are skipped (the ELLE article's filter)."""


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
    """
    size, stride = extent.chip_size_px(gsd_m), extent.stride_px(gsd_m)

    def share(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        return np.asarray(_windows(mask, size, stride).mean(axis=(-2, -1), dtype=np.float32))

    fractions = {name: share(getattr(tile_pixels, name.removesuffix("_fraction"))) for name in schema.FRACTIONS}
    valid_fraction = fractions["valid_fraction"]
    observed_fraction = share(tile_pixels.valid | tile_pixels.cloud | tile_pixels.shadow)
    status = np.full(valid_fraction.shape, schema.NOT_DONE, dtype=np.uint8)
    # A chip is charged to the clouds only if it would have passed without them.
    status[valid_fraction < 1 - max_invalid_fraction] = schema.SKIPPED_CLOUD
    status[observed_fraction < 1 - max_invalid_fraction] = schema.SKIPPED_INVALID
    status[~wanted] = schema.OUTSIDE_AOI
    rows, columns = np.nonzero(status == schema.NOT_DONE)
    pixels = np.ascontiguousarray(_windows(tile_pixels.pixels, size, stride)[:, rows, columns].swapaxes(0, 1))
    contrast = np.full(valid_fraction.shape, np.nan, dtype=np.float32)
    if len(rows):
        contrast[rows, columns] = np.nanstd(pixels, axis=(-2, -1), dtype=np.float64).mean(axis=1)
    lattice_rows, lattice_columns = extent.rows[tile.y][rows], extent.columns[tile.x][columns]
    batch = ChipBatch(
        sensor=scene.items[0].sensor,
        units=units,
        bands=tuple(bands),
        pixels=pixels[:, None],
        valid=np.ascontiguousarray(_windows(tile_pixels.valid, size, stride)[rows, columns])[:, None],
        time=np.full((len(rows), 1), scene.time, dtype="datetime64[ns]"),
        lonlat=extent.grid.lonlat(lattice_rows, lattice_columns),
        gsd_m=gsd_m,
        chip_id=extent.grid.chip_ids(lattice_rows, lattice_columns),
    )
    schema.check_chip_batch(batch)
    return TileChips(batch, (rows, columns), fractions, contrast, status)


def _windows(array: NDArray[Any], size: int, stride: int) -> NDArray[Any]:
    """(…, y, x) to (…, chip_y, chip_x, y, x), a view."""
    view = sliding_window_view(array, (size, size), axis=(-2, -1))
    return view[..., ::stride, ::stride, :, :]
