"""The direct read: where a file's grid is the tile's own, its pixels are copied, with nothing in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.converters import rio_geobox
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from odc.geo.roi import roi_is_empty, roi_shape

from geoelle.imagery.access import NotAnImageError

SAME_GRID_PX = 0.01
"""Grids that differ by less are one grid, and pixels are copied."""
_STRIP_PX = 4_000_000
"""Pixels read at once: many enough for few requests, and no second copy of a whole tile in memory."""
_EXACT = ("uint8", "int8", "uint16", "int16", "float32")
"""Types whose numbers are the same in float32, so that they can be compared before they become it."""

type Roi = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Where a file and a tile meet."""

    source: Roi
    tile: Roi
    aligned: bool
    """Whether the file's pixels are the tile's."""

    @property
    def empty(self) -> bool:
        """Whether they do not meet."""
        return bool(roi_is_empty(self.tile) or roi_is_empty(self.source))


def overlap_of(source: Any, geobox: GeoBox) -> Overlap:
    """Where an open file and a tile meet, by the file's own grid and never by what the item says."""
    found = compute_reproject_roi(rio_geobox(source), geobox, ttol=SAME_GRID_PX)
    return Overlap(found.roi_src, found.roi_dst, bool(found.paste_ok and found.read_shrink == 1))


def nodata_of(source: Any, band: int, declared: float | None) -> float | None:
    """A band's nodata: the file's own, else what the item declares.

    Raises:
        NotAnImageError: If the file has no such band.
    """
    if band > source.count:
        raise NotAnImageError(f"it has {source.count} bands, and band {band} was asked for")
    own = source.nodatavals[band - 1]
    return declared if own is None else float(own)


class Canvas:
    """The pixels of one file's bands on a tile, filled by one item after another: the earlier one's valid ones win.

    A read that breaks off is taken up at the strip where it stopped.
    """

    def __init__(self, planes: Sequence[NDArray[np.float32]], bands: Sequence[int]) -> None:
        """`planes` (y, x) are NaN wherever nothing has been read yet; one for each of `bands`, counted from 1."""
        self.planes = planes
        self.bands = list(bands)
        self.untouched = True
        self._row = 0

    def begin(self) -> None:
        """Turn to the next item."""
        self._row = 0

    def full(self) -> bool:
        """Whether later items have nothing to add."""
        return not self.untouched and not any(np.isnan(plane).any() for plane in self.planes)

    def copy(self, source: Any, overlap: Overlap, nodata: Sequence[float | None]) -> None:
        """Copy from an open file whose grid is the tile's."""
        _, width = roi_shape(overlap.tile)
        dtype = source.dtypes[self.bands[0] - 1]
        # Others become float32 in GDAL, which knows how to clamp them.
        buffer_type = dtype if dtype in _EXACT and len(set(source.dtypes)) == 1 else "float32"
        for start, stop in _strips(overlap.source[0], source.block_shapes[0][0], width * len(self.bands)):
            if start < self._row:
                continue
            rows = slice(overlap.source[0].start + start, overlap.source[0].start + stop)
            window = ((rows.start, rows.stop), (overlap.source[1].start, overlap.source[1].stop))
            strip = source.read(self.bands, window=window, out_dtype=buffer_type)
            at = (slice(overlap.tile[0].start + start, overlap.tile[0].start + stop), overlap.tile[1])
            for plane, pixels, missing in zip(self.planes, strip, nodata, strict=True):
                _put(plane[at], pixels, missing, over=self.untouched)
            self._row = stop
        self.untouched = False


def _strips(rows: slice, block_px: int, width: int) -> list[tuple[int, int]]:
    """Rows to read at once, counted from the first: whole blocks of the file, so that none is decoded twice."""
    step = block_px * max(1, _STRIP_PX // max(1, width * block_px))
    edges = [rows.start, *range(rows.start // block_px * block_px + step, rows.stop, step), rows.stop]
    return [(low - rows.start, high - rows.start) for low, high in pairwise(edges)]


def _put(plane: NDArray[np.float32], pixels: NDArray[Any], nodata: float | None, *, over: bool) -> None:
    """Put pixels where there are none yet; those that are nodata stay missing."""
    missing = _is_nodata(pixels, nodata)
    if over:
        np.copyto(plane, pixels)
        if missing is not None:
            np.copyto(plane, np.nan, where=missing)
        return
    wanted = np.isnan(plane)
    if missing is not None:
        wanted &= ~missing
    np.copyto(plane, pixels, where=wanted)


def _is_nodata(pixels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Where pixels are nodata; None where none can be."""
    if nodata is None or np.isnan(nodata):
        return None
    if pixels.dtype == np.float32:
        return np.asarray(pixels == np.float32(nodata))
    info = np.iinfo(pixels.dtype)
    if not (info.min <= nodata <= info.max and float(nodata).is_integer()):
        return None
    return np.asarray(pixels == pixels.dtype.type(int(nodata)))
