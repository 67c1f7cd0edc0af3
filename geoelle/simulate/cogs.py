"""Writing one band as a cloud-optimised GeoTIFF, labelled as simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine

from geoelle.simulate.plane import Granule

LABEL = "SIMULATED data made by geoelle.simulate: not an observation of any place"
"""Stands in every file that the simulator writes."""

_OVERVIEWS_FROM_PX = 2048
"""Below this a whole band is read in a moment, and overviews would be a third of the bytes."""


def write_cog(
    path: Path, pixels: NDArray[np.uint16] | NDArray[np.uint8], granule: Granule, *,
    nodata: int | None, description: str, tags: dict[str, str], categorical: bool = False,
) -> None:  # fmt: skip
    """Write `pixels` (y, x) on the granule's grid as a COG, with overviews where it is large.

    Args:
        path: The file; its folder must exist.
        pixels: uint16 or uint8.
        granule: CRS, affine and shape.
        nodata: Declared nodata, or None to declare none.
        description: Name of the band.
        tags: File tags beside the `SIMULATED` label.
        categorical: Overviews take the nearest class instead of an average.
    """
    profile: dict[str, Any] = {
        "driver": "COG",
        "dtype": pixels.dtype.name,
        "count": 1,
        "width": granule.width,
        "height": granule.height,
        "crs": f"EPSG:{granule.epsg}",
        "transform": Affine(*granule.transform),
        "compress": "DEFLATE",
        "predictor": "STANDARD" if not categorical else "NO",
        "level": 6,  # 8 takes three times as long for two percent
        "blocksize": 256,
        "overviews": "AUTO" if max(granule.width, granule.height) > _OVERVIEWS_FROM_PX else "NONE",
        "overview_resampling": "NEAREST" if categorical else "AVERAGE",
    }
    if nodata is not None:
        profile["nodata"] = nodata
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels, 1)
        target.set_band_description(1, description)
        target.update_tags(SIMULATED=LABEL, **tags)
