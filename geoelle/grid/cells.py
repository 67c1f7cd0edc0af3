"""Which cells of a raster touch an area: exact, and quick for the area of a country."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

_BLOCKS = (512, 64, 8)
"""Edges, in cells, of the blocks that are looked at before their cells are."""
_AT_ONCE = 65_536
"""Boxes that exist at a time: about 30 MB."""
# A cell this much smaller (metres) that still meets the area certainly has some of it inside, and no need of the
# slow question whether it only touches.
_INSIDE_M = 1e-6


def cells_touching(
    area: BaseGeometry, x: NDArray[np.float64], y: NDArray[np.float64], stride_m: float
) -> NDArray[np.bool_]:
    """Cells that hold some of an area's interior, of shape (y, x).

    Blocks of cells that lie wholly inside or outside are decided at once, so the work grows with the area's outline
    and the memory with the mask alone.

    Args:
        area: In the CRS of x and y.
        x: Centres of the columns, evenly spaced, ascending.
        y: Centres of the rows, evenly spaced, descending.
        stride_m: Edge of a cell.
    """
    shapely.prepare(area)
    mask = np.zeros((len(y), len(x)), dtype=np.bool_)
    edge = _BLOCKS[0]
    rows, columns = (a.ravel() for a in np.mgrid[0 : len(y) : edge, 0 : len(x) : edge])
    for size, smaller in zip(_BLOCKS, (*_BLOCKS[1:], 1), strict=True):
        rows, columns = _undecided(mask, area, x, y, stride_m, rows, columns, size)
        rows, columns = _split(rows, columns, size, smaller, mask.shape)
    mask[rows, columns] |= touching(area, x[columns], y[rows], stride_m)
    return mask


def touching(area: BaseGeometry, x: NDArray[np.float64], y: NDArray[np.float64], stride_m: float) -> NDArray[np.bool_]:
    """Of the cells around the places (x[i], y[i]), those that hold some of the area's interior, of shape (n,)."""
    shapely.prepare(area)
    touched = np.zeros(len(x), dtype=np.bool_)
    for part in _batches(len(x)):
        touched[part] = _touched(area, x[part], y[part], stride_m / 2)
    return touched


def _undecided(
    mask: NDArray[np.bool_], area: BaseGeometry, x: NDArray[np.float64], y: NDArray[np.float64], stride_m: float,
    rows: NDArray[np.intp], columns: NDArray[np.intp], size: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:  # fmt: skip
    """Marks the blocks inside the area; returns the first cells of those that its outline passes."""
    half, left = stride_m / 2, []
    for part in _batches(len(rows)):
        r, c = rows[part], columns[part]
        last_row, last_column = np.minimum(r + size, len(y)) - 1, np.minimum(c + size, len(x)) - 1
        boxes = shapely.box(x[c] - half, y[last_row] - half, x[last_column] + half, y[r] + half)
        met = shapely.intersects(area, boxes)
        inside = np.zeros(len(r), dtype=np.bool_)
        inside[met] = shapely.contains_properly(area, boxes[met])
        for i in np.flatnonzero(inside):
            mask[r[i] : r[i] + size, c[i] : c[i] + size] = True
        left.append(np.flatnonzero(met & ~inside) + part.start)
    index = np.concatenate(left) if left else np.zeros(0, dtype=np.intp)
    return rows[index], columns[index]


def _split(
    rows: NDArray[np.intp], columns: NDArray[np.intp], size: int, smaller: int, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    down, right = (a.ravel() for a in np.mgrid[0:size:smaller, 0:size:smaller])
    r, c = (rows[:, None] + down).ravel(), (columns[:, None] + right).ravel()
    there = (r < shape[0]) & (c < shape[1])
    return r[there], c[there]


def _touched(area: BaseGeometry, x: NDArray[np.float64], y: NDArray[np.float64], half: float) -> NDArray[np.bool_]:
    cells = shapely.box(x - half, y - half, x + half, y + half)
    touched = np.asarray(shapely.intersects(area, cells), dtype=np.bool_)
    inner = half - _INSIDE_M
    i = np.flatnonzero(touched)
    sure = shapely.intersects(area, shapely.box(x[i] - inner, y[i] - inner, x[i] + inner, y[i] + inner))
    doubtful = i[~sure]
    touched[doubtful] = ~shapely.touches(area, cells[doubtful])
    return touched


def _batches(n: int) -> Iterator[slice]:
    for start in range(0, n, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, n))
