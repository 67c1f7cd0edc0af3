"""Digital numbers of one scene on one geobox. The only place that signs addresses and opens files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import odc.stac
import pystac
import rasterio
import rasterio.warp
from numpy.typing import NDArray
from odc.geo.converters import rio_geobox
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from odc.geo.roi import roi_is_empty, roi_shape, w_
from odc.geo.warp import resampling_s2rio
from odc.loader._rio import RioDriver, RioReader

from geoelle.errors import ImageryError
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

_SAME_GRID_PX = 0.01
"""Grids that differ by less are one grid, and pixels are copied."""
_PLANETARY_COMPUTER_HOST = ".blob.core.windows.net"


def read_bands(
    items: Sequence[ItemRecord], geobox: GeoBox, names: Sequence[str], sensor: Sensor
) -> NDArray[np.float32]:
    """Digital numbers (name, y, x) float32, NaN outside and where nodata.

    Interpolated bilinearly where grids differ and copied where they agree; the quality layer is never interpolated.
    Where items overlap, the earlier one's valid pixels win.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature.
    """
    quality = sensor.quality
    bands = {name: _odc_band(items[0], name) for name in names}
    for item in items:
        if {name: _odc_band(item, name) for name in names} != bands:
            raise ImageryError(
                f"Items {items[0].id} and {item.id} of one day keep their bands in assets of different names. "
                "They cannot be read as one scene; leave one out with --exclude."
            )
    is_quality = {name: quality is not None and name == quality.name for name in names}
    try:
        ds = odc.stac.load(
            [_pystac_item(item, names, sensor) for item in items],
            bands=[bands[name] for name in names],
            geobox=geobox,
            groupby=_as_one,
            dtype="float32",
            nodata=float("nan"),
            resampling={bands[name]: "nearest" if is_quality[name] else "bilinear" for name in names},
            patch_url=_sign,
            driver=_ExactDriver(),
            fail_on_error=True,
        )
    except Exception as error:  # GDAL, the transport and odc raise many kinds; the job must name its item for each
        _refuse(items, names, error)
    if ds.sizes.get("time", 0) == 0:
        return np.full((len(names), *geobox.shape), np.nan, dtype=np.float32)
    return np.stack([ds[bands[name]].values[0] for name in names]).astype(np.float32, copy=False)


def _as_one(item: pystac.Item, parsed: Any, index: int) -> int:
    """All items of a scene belong together, whatever their clocks say."""
    return 0


def _odc_band(item: ItemRecord, name: str) -> str:
    asset = item.assets[name]
    return asset.key if asset.n_bands == 1 else f"{asset.key}.{asset.band_index}"


def _pystac_item(item: ItemRecord, names: Sequence[str], sensor: Sensor) -> pystac.Item:
    """The item with only the assets to be read."""
    assets: Any = item.raw["assets"]
    kept = {key: assets[key] for key in sorted({item.assets[name].key for name in names})}
    quality = sensor.quality
    if quality is not None and quality.name in names and item.assets[quality.name].nodata is None:
        # Where items overlap, one's "no data" must not win over what another one saw.
        key = item.assets[quality.name].key
        kept[key] = {**kept[key], "raster:bands": [{"nodata": quality.nodata}]}
    return pystac.Item.from_dict({**item.raw, "assets": kept})


def _sign(href: str) -> str:
    """Sign what needs it. Tokens last under an hour, so this happens inside the read and is stored nowhere."""
    if _PLANETARY_COMPUTER_HOST not in href:
        return href
    import planetary_computer

    return str(planetary_computer.sign(href))


def without_signature(text: str) -> str:
    """A message without the query strings and passwords of addresses, which may hold tokens.

    Transports also name an address without its host (`url: /B04.tif?sig=...`), so any query is taken out.
    """
    text = re.sub(r"(?<=[^\s'\"])\?[^\s'\"?=]+=[^\s'\"]*", "", text)
    return re.sub(r"(?<=://)[^/@\s'\"]+@", "", text)


def _refuse(items: Sequence[ItemRecord], names: Sequence[str], error: Exception) -> NoReturn:
    reason = error.reason if isinstance(error, _UnreadableError) else error
    cause = reason.__cause__ or reason.__context__
    said = _sentence(reason) or type(reason).__name__
    if cause is not None and _sentence(cause) not in said:
        said += f" ({_sentence(cause)})"
    where = "item " + ", ".join(item.id for item in items)
    if isinstance(error, _UnreadableError):
        address = without_signature(error.address)
        file = address.rsplit("/", 1)[-1]
        guilty = (
            f"item {item.id}, asset {item.assets[name].key}"
            for item in items
            for name in names
            if without_signature(item.assets[name].href).endswith(file)
        )
        where = f"{next(guilty, where)} at {address}"
    raise ImageryError(f"Cannot read {where}: {said}. Run again to take it up once the file is whole.") from error


def _sentence(error: BaseException) -> str:
    return without_signature(" ".join(str(error).split())).rstrip(".")


class _UnreadableError(Exception):
    """What went wrong with one file, for the message that names it."""

    def __init__(self, address: str, reason: Exception) -> None:
        super().__init__(address)
        self.address = address
        self.reason = reason


class _ExactReader(RioReader):  # type: ignore[misc]
    """odc's reader with what makes a chip's pixels its own, whatever tile it is read in.

    It warps exactly, where GDAL's default moves pixels by up to an eighth, differently in every tile. And it takes an
    item's declared nodata for the file's own where the file declares none.
    """

    def read(self, cfg: Any, dst_geobox: GeoBox, **options: Any) -> Any:
        try:
            with rasterio.open(self._src.uri, sharing=False) as source:
                return self._read(source, cfg, dst_geobox)
        except Exception as error:  # GDAL and the transport raise many kinds
            raise _UnreadableError(self._src.uri, error) from error

    def _read(self, source: Any, cfg: Any, dst_geobox: GeoBox) -> tuple[Any, NDArray[np.float32]]:
        band, meta = self._src.band, self._src.meta
        if source.driver == "VRT":  # may name any file that this process can read
            raise ValueError("it is a GDAL VRT, which points elsewhere, where an image is expected")
        if band > source.count:
            raise ValueError(f"it has {source.count} bands, and band {band} was asked for")
        overlap = compute_reproject_roi(rio_geobox(source), dst_geobox, ttol=_SAME_GRID_PX)
        pixels = np.full(roi_shape(overlap.roi_dst), np.nan, dtype=np.float32)
        if roi_is_empty(overlap.roi_dst) or roi_is_empty(overlap.roi_src):
            return overlap.roi_dst, pixels
        nodata = source.nodatavals[band - 1]
        if nodata is None and meta is not None:
            nodata = meta.nodata
        if overlap.paste_ok and overlap.read_shrink == 1:
            source.read(band, out=pixels, window=w_[overlap.roi_src])
            if nodata is not None:
                pixels[pixels == np.float32(nodata)] = np.nan
        else:
            rasterio.warp.reproject(
                rasterio.band(source, band),
                pixels,
                src_nodata=nodata,
                dst_crs=str(dst_geobox.crs),
                dst_transform=dst_geobox[overlap.roi_dst].transform,
                dst_nodata=np.nan,
                resampling=resampling_s2rio(cfg.resampling),
                tolerance=0,
            )
        return overlap.roi_dst, pixels


class _ExactDriver(RioDriver):  # type: ignore[misc]
    def open(self, src: Any, ctx: Any) -> _ExactReader:
        return _ExactReader(src, ctx)


def read_overview(
    item: ItemRecord, names: Sequence[str], sensor: Sensor, max_px: int = 512
) -> dict[str, NDArray[np.float32]]:
    """Digital numbers of a whole item, thinned to at most `max_px` a side, by name; NaN where nodata.

    All bands come in the shape of the first one, thinned. Overviews are used where a file has them.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature.
    """
    shape: tuple[int, int] | None = None
    read: dict[str, NDArray[np.float32]] = {}
    for name in names:
        asset = item.assets[name]
        try:
            with rasterio.open(_sign(asset.href), sharing=False) as source:
                shape = shape or _thinned(source.shape, max_px)
                read[name] = _read_thinned(source, asset.band_index, shape, asset.nodata)
        except Exception as error:  # GDAL and the transport raise many kinds
            _refuse([item], [name], _UnreadableError(asset.href, error))
    return read


def _thinned(shape: tuple[int, int], max_px: int) -> tuple[int, int]:
    """A shape brought down to at most `max_px` a side."""
    factor = max(1.0, max(shape) / max_px)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


def _read_thinned(source: Any, band: int, shape: tuple[int, int], declared: float | None) -> NDArray[np.float32]:
    if source.driver == "VRT":  # may name any file that this process can read
        raise ValueError("it is a GDAL VRT, which points elsewhere, where an image is expected")
    if band > source.count:
        raise ValueError(f"it has {source.count} bands, and band {band} was asked for")
    pixels = source.read(band, out_shape=shape).astype(np.float32)
    nodata = source.nodatavals[band - 1]
    if nodata is None:
        nodata = declared
    if nodata is not None:
        pixels[pixels == np.float32(nodata)] = np.nan
    return np.asarray(pixels)
