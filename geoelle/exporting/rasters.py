"""Cloud optimised GeoTIFF of one date: values as float32 bands, classes as a palette, in files of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
from numpy.typing import NDArray
from rasterio.windows import Window

from geoelle import schema
from geoelle.errors import StoreError
from geoelle.grid import GridExtent
from geoelle.store.atomic import replacing
from geoelle.store.layout import read_values

_BLOCK_PX = 256


@dataclass(frozen=True, slots=True)
class RasterSpec:
    """One COG: which variables of a store become its bands."""

    key: str
    """Asset key in the STAC item, and the file's name."""
    variables: tuple[str, ...]
    dtype: str
    nodata: float
    overviews: str
    """How GDAL makes smaller copies: `average` for values, `mode` for classes."""
    colours: Mapping[int, tuple[int, int, int, int]] | None = None
    """Red, green, blue, alpha of each class."""


_GREY, _CLEAR = (200, 200, 200, 255), (0, 0, 0, 0)
RASTERS: Mapping[str, tuple[RasterSpec, ...]] = {
    "embeddings": (),
    "difficulty": (
        RasterSpec("difficulty", ("difficulty", "difficulty_se"), "float32", float("nan"), "average"),
        RasterSpec(
            "support", ("support",), "uint8", schema.SUPPORT_NO_DATA, "mode",
            {schema.SUPPORT_OUTSIDE: (202, 0, 32, 255), schema.SUPPORT_INSIDE: _GREY, schema.SUPPORT_NO_DATA: _CLEAR},
        ),
    ),
    "delta": (
        RasterSpec("delta", ("delta", "z", "p", "reference_n"), "float32", float("nan"), "average"),
        RasterSpec(
            "state", ("state",), "uint8", schema.NO_LOOK, "mode",
            {
                schema.NO_LOOK: _CLEAR, schema.QUIET: _GREY, schema.FIRST: (254, 217, 118, 255),
                schema.PROVISIONAL: (253, 141, 60, 255), schema.CONFIRMED: (189, 0, 38, 255),
                schema.ENDED: (107, 174, 214, 255),
            },
        ),
    ),
}  # fmt: skip
"""The COGs of each kind of store. `reference_n` is 0, not NaN, where nothing was there to compare with."""


def write_cog(
    target: Path, ds: xr.Dataset, time_index: int, extent: GridExtent, spec: RasterSpec, tags: Mapping[str, str]
) -> bool:
    """Write one date of a store as COG, in place of the file that is there.

    Rows of tiles pass through memory one after the other, whatever the size of the raster.

    Args:
        target: File to write.
        ds: Flat store, opened.
        time_index: Position on its time axis.
        extent: Its grid.
        spec: Which bands.
        tags: Provenance, as GDAL metadata of the file.

    Returns:
        Whether the date holds anything; where it does not, no file is left.

    Raises:
        StoreError: If a chunk of the store is damaged, or GDAL cannot write.
    """
    plain = target.with_name(f".{target.name}.plain.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not _write_plain(plain, ds, time_index, extent, spec, tags):
            target.unlink(missing_ok=True)  # a date that has become empty must not keep yesterday's file
            return False
        with replacing(target) as partial:
            rasterio.shutil.copy(
                plain, partial, driver="COG", compress="DEFLATE", predictor="YES", blocksize=_BLOCK_PX,
                overview_resampling=spec.overviews, bigtiff="IF_SAFER", num_threads=1,
            )  # fmt: skip
    except rasterio.errors.RasterioError as error:
        raise StoreError(f"{target} could not be written as COG ({error}). Check the disk.") from None
    finally:
        plain.unlink(missing_ok=True)
    return True


def _write_plain(
    path: Path, ds: xr.Dataset, time_index: int, extent: GridExtent, spec: RasterSpec, tags: Mapping[str, str]
) -> bool:
    height, width = extent.shape
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": height, "width": width, "count": len(spec.variables), "dtype": spec.dtype,
        "crs": f"EPSG:{extent.grid.epsg}", "transform": extent.transform, "nodata": spec.nodata,
        "bigtiff": "IF_SAFER",
    }  # fmt: skip
    holds_anything = False
    with rasterio.open(path, "w", **profile) as raster:
        raster.update_tags(AREA_OR_POINT="Area", **tags)
        for band, name in enumerate(spec.variables, start=1):
            _describe(raster, band, name, ds[name])
        if spec.colours is not None:
            raster.write_colormap(1, dict(spec.colours))
        for start in range(0, height, extent.tile_chips):
            rows = slice(start, min(start + extent.tile_chips, height))
            window = Window(0, rows.start, width, rows.stop - rows.start)
            for band, name in enumerate(spec.variables, start=1):
                values = read_values(ds[name].isel(time=time_index, y=rows))
                raster.write(values.astype(spec.dtype), band, window=window)
                holds_anything |= band == 1 and _any_data(values, spec.nodata)
    return holds_anything


def _describe(raster: Any, band: int, name: str, array: xr.DataArray) -> None:
    raster.set_band_description(band, name)
    unit = str(array.attrs.get("units", ""))
    raster.set_band_unit(band, unit)
    kept = ("long_name", "flag_values", "flag_meanings")
    said = {key: array.attrs[key] for key in kept if key in array.attrs}
    raster.update_tags(band, **{k: " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in said.items()})


def _any_data(values: NDArray[Any], nodata: float) -> bool:
    return bool((np.isfinite(values) if np.isnan(nodata) else values != nodata).any())


def band_facts(ds: xr.Dataset, spec: RasterSpec) -> Sequence[dict[str, Any]]:
    """The `bands` of a COG as STAC 1.1 describes them."""
    facts = []
    for name in spec.variables:
        fact: dict[str, Any] = {"name": name, "data_type": spec.dtype}
        fact["nodata"] = "nan" if np.isnan(spec.nodata) else spec.nodata
        if text := str(ds[name].attrs.get("long_name", "")):
            fact["description"] = text
        if unit := str(ds[name].attrs.get("units", "")):
            fact["unit"] = unit
        facts.append(fact)
    return facts
