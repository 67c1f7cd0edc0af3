"""A whole item at a glance: its bands thinned to a few hundred pixels, from the overviews where a file has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.imagery.direct import nodata_of
from geoelle.imagery.reading import read_asset
from geoelle.records import ItemRecord


def read_overview(item: ItemRecord, names: Sequence[str], max_px: int = 512) -> dict[str, NDArray[np.float32]]:
    """Digital numbers of a whole item, thinned to at most `max_px` a side, by name; NaN where nodata.

    All bands come in the shape of the first one, thinned.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature.
    """
    shape: tuple[int, int] | None = None
    read: dict[str, NDArray[np.float32]] = {}
    for name in names:
        asset = item.assets[name]

        def work(source: Any, asset: Any = asset, shape: tuple[int, int] | None = shape) -> NDArray[np.float32]:
            # Checks the file too, so it comes before a band is asked for.
            nodata = nodata_of(source, asset.band_index, asset.nodata)
            pixels = source.read(asset.band_index, out_shape=shape or _thinned(source.shape, max_px))
            pixels = pixels.astype(np.float32)
            if nodata is not None:
                pixels[pixels == np.float32(nodata)] = np.nan
            return np.asarray(pixels)

        read[name] = read_asset(item, name, work)
        shape = shape or (read[name].shape[0], read[name].shape[1])
    return read


def _thinned(shape: tuple[int, int], max_px: int) -> tuple[int, int]:
    """A shape brought down to at most `max_px` a side."""
    factor = max(1.0, max(shape) / max_px)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))
