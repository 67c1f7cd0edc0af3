"""Square blocks of EPSG:6933 metres, counted from the projection's origin: the independent units.

The projection (EASE-Grid 2.0, equal area) is one and the same for the whole Earth, so a block keeps its area
and its name wherever it lies and whatever else is sampled. Away from 30° latitude a block is stretched on the
ground.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoelle.errors import GridError

# Row and column share one int64: the column takes the low 32 bits, shifted to be positive.
_COLUMN_BITS = 32
_COLUMN_SHIFT = 1 << 31
_MIN_BLOCK_M = 1.0
_MAX_BLOCK_M = 2.0e7


@cache
def _to_6933() -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(4326, 6933, always_xy=True)


def check_lonlat(lonlat: ArrayLike) -> NDArray[np.float64]:
    """Positions as a float64 array of shape (n, 2).

    Raises:
        GridError: If the shape is another or a position is not on Earth.
    """
    points = np.asarray(lonlat, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise GridError(f"Positions have shape {points.shape}. Expected (n, 2): longitude and latitude of each chip.")
    bad = ~((np.abs(points[:, 0]) <= 180) & (np.abs(points[:, 1]) <= 90))
    if bad.any():
        first = points[bad][0]
        raise GridError(
            f"{int(bad.sum())} of {len(points)} positions are not on Earth, the first is longitude "
            f"{first[0]:g}, latitude {first[1]:g}. Expected -180 to 180 and -90 to 90 degrees; check their "
            "order and leave out NaN."
        )
    return points


def assign_blocks(lonlat: ArrayLike, block_size_m: float) -> NDArray[np.int64]:
    """The block of each chip, on a lattice that does not depend on the chips.

    Args:
        lonlat: Chip centres of shape (n, 2), degrees, longitude first.
        block_size_m: Edge of a block, EPSG:6933 metres, from 1 to 20 million.

    Returns:
        Block ids of shape (n,): row · 2³² + column + 2³¹, rows counted northwards and columns eastwards from
        the projection's origin (longitude 0 on the equator). Ids of different block sizes do not compare; see
        `block_keys`.

    Raises:
        GridError: If a position is not on Earth or the size is out of range.
    """
    if not _MIN_BLOCK_M <= block_size_m <= _MAX_BLOCK_M:
        raise GridError(
            f"The block size is {block_size_m:g} m. Expected {_MIN_BLOCK_M:g} to {_MAX_BLOCK_M:g} m; a "
            "usual one is 10000 m, or the range over which the loss is correlated."
        )
    points = check_lonlat(lonlat)
    x, y = _to_6933().transform(points[:, 0], points[:, 1])
    column = np.floor(np.asarray(x) / block_size_m).astype(np.int64)
    row = np.floor(np.asarray(y) / block_size_m).astype(np.int64)
    return np.asarray((row << _COLUMN_BITS) + column + _COLUMN_SHIFT, dtype=np.int64)


def block_keys(blocks: ArrayLike, block_size_m: float) -> NDArray[np.str_]:
    """Names of blocks that carry their size, e.g. `b10000_r487_c28`: as pairs store them.

    Args:
        blocks: Ids of `assign_blocks`, shape (n,).
        block_size_m: The size they were assigned with.
    """
    ids, inverse = np.unique(np.asarray(blocks, dtype=np.int64), return_inverse=True)
    names = [
        f"b{block_size_m:.15g}_r{block >> _COLUMN_BITS}_c{(block & 0xFFFFFFFF) - _COLUMN_SHIFT}"
        for block in ids.tolist()
    ]
    return np.array(names, dtype=np.str_)[inverse.reshape(-1)]


def suggest_block_size(lonlat: ArrayLike, n_blocks: int) -> float | None:
    """A round block size at which the chips lie in at least `n_blocks` blocks, the largest such.

    Sizes tried are 1, 2 and 5 times powers of ten, from 1,000 km down to 100 m.

    Returns:
        Edge in metres, or None where not even 100 m gives that many.

    Raises:
        GridError: If a position is not on Earth.
    """
    points = check_lonlat(lonlat)
    sizes = sorted((m * 10.0**e for e in range(2, 7) for m in (1, 2, 5) if m * 10.0**e <= 1e6), reverse=True)
    for size in sizes:
        if np.unique(assign_blocks(points, size)).size >= n_blocks:
            return size
    return None
