"""Digital numbers of one scene on one geobox: copied where a file's grid is the tile's, else warped by odc-stac."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import odc.stac
import pystac
import rasterio
import rasterio.warp
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.roi import roi_shape, w_
from odc.geo.warp import resampling_s2rio
from odc.loader._rio import RioDriver, RioReader

from geoelle.errors import ImageryError, SchemaError
from geoelle.imagery.access import DEFAULT_POLICY, Access, AccessPolicy, UnreadableError, is_remote
from geoelle.imagery.direct import Canvas, nodata_of, overlap_of
from geoelle.imagery.redaction import without_signature
from geoelle.records import ItemRecord
from geoelle.sensors import Sensor

_BBOX_MARGIN_DEG = 0.01
"""An item's bbox is believed to be right within a kilometre."""


def read_bands(
    items: Sequence[ItemRecord],
    geobox: GeoBox,
    names: Sequence[str],
    sensor: Sensor,
    *,
    policy: AccessPolicy = DEFAULT_POLICY,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Digital numbers (name, y, x) float32, NaN outside and where nodata.

    Interpolated bilinearly where grids differ and copied where they agree; the quality layer is never interpolated.
    Where items overlap, the earlier one's valid pixels win. Addresses are signed as they are read, a remote file is
    read again as `policy` says, and what is read in which way depends on the files and the geobox alone.

    Args:
        items: One scene's.
        geobox: Where to.
        names: geoelle's names of bands and quality layer, in the order wanted.
        sensor: What the items are of.
        policy: How hard to try where files are remote.
        out: An array (name, y, x) float32 to fill and return, so that none is made.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature.
    """
    bands = {name: _odc_band(items[0], name) for name in names}
    for item in items:
        if {name: _odc_band(item, name) for name in names} != bands:
            raise ImageryError(
                f"Items {items[0].id} and {item.id} of one day keep their bands in assets of different names. "
                "They cannot be read as one scene; leave one out with --exclude."
            )
    pixels = np.empty((len(names), *geobox.shape), dtype=np.float32) if out is None else out
    if pixels.shape != (len(names), *geobox.shape) or pixels.dtype != np.float32:
        raise SchemaError(
            f"The array to read into is {pixels.dtype} of shape {pixels.shape}. Expected float32 of shape "
            f"{(len(names), *geobox.shape)}."
        )
    pixels.fill(np.nan)
    here = sorted((item for item in items if _reaches(item, geobox)), key=lambda item: (item.time, item.id))
    if not here:
        return pixels
    access = Access(policy)
    try:
        elsewhere = _copy_aligned(here, geobox, names, sensor, access, pixels)
        if elsewhere:
            warped = _warp(here, geobox, elsewhere, sensor, access)
            for name in elsewhere:
                pixels[names.index(name)] = warped[name]
        return pixels
    except UnreadableError as error:
        failure = _named(here, names, error)
    raise failure


def read_asset[Result](
    item: ItemRecord, name: str, work: Callable[[Any], Result], *, policy: AccessPolicy = DEFAULT_POLICY
) -> Result:
    """Open the file of one band and work on it, signed and with retries as everywhere.

    Args:
        item: Whose band.
        name: geoelle's name of the band.
        work: Is given the open rasterio dataset; called once more after a failure.
        policy: How hard to try.

    Raises:
        ImageryError: If it cannot be read; names item, asset and address without its signature.
    """
    try:
        return Access(policy).read(item.assets[name].href, work, provider=item.provider)
    except UnreadableError as error:
        failure = _named([item], [name], error)
    raise failure  # outside of the handler: what is behind it has been said


def _reaches(item: ItemRecord, geobox: GeoBox) -> bool:
    """Whether an item's bbox comes near a tile: the rest is not opened. Longitudes are on a circle."""
    tile_west, tile_south, tile_east, tile_north = _lonlat_bounds(geobox)
    west, south, east, north = item.bbox
    if south - _BBOX_MARGIN_DEG > tile_north or north + _BBOX_MARGIN_DEG < tile_south:
        return False
    margin = _BBOX_MARGIN_DEG / max(0.01, math.cos(math.radians(max(abs(tile_south), abs(tile_north)))))
    width = east - west if east >= west else east - west + 360
    return (tile_west - west + margin) % 360 <= width + 2 * margin or (west - tile_west) % 360 <= tile_east - tile_west


def _lonlat_bounds(geobox: GeoBox) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees; east lies beyond 180 where a tile crosses the antimeridian."""
    outline = geobox.extent.to_crs("epsg:4326", resolution=geobox.extent.length / 64, check_and_fix=False)
    lon, lat = np.array(outline.exterior.coords).T
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
    return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())


def _nodata(item: ItemRecord, name: str, sensor: Sensor) -> float | None:
    """What says "no data" in a band whose file does not say: the item; else the sensor, for its own collections.

    Copies of a sensor's pixels elsewhere may hold its number as a value, such as reflectance clamped to 0. Of the
    quality layer it is the number that its classes have for it: where items overlap, one's "no data" must not win over
    what another one saw.
    """
    declared = item.assets[name].nodata
    if declared is not None:
        return declared
    quality = sensor.quality
    if quality is not None and name == quality.name:
        return float(quality.nodata)
    return sensor.nodata if not sensor.collections or item.collection in sensor.collections else None


def _copy_aligned(
    items: Sequence[ItemRecord],
    geobox: GeoBox,
    names: Sequence[str],
    sensor: Sensor,
    access: Access,
    pixels: NDArray[np.float32],
) -> list[str]:
    """Copy what lies on the tile's own grid into `pixels`; the names of the bands that do not."""
    by_asset: dict[str, list[str]] = {}
    for name in names:
        by_asset.setdefault(items[0].assets[name].key, []).append(name)
    elsewhere: set[str] = set()

    def copy(together: Sequence[str]) -> None:
        first = items[0].assets
        planes = [pixels[names.index(name)] for name in together]
        canvas = Canvas(planes, [first[name].band_index for name in together])
        for item in items:
            if not _copy_item(item, canvas, geobox, together, sensor, access):
                elsewhere.update(together)
                return
            if len(items) > 1 and canvas.full():
                return

    remote = any(is_remote(item.assets[name].href) for item in items for name in names)
    access.each([lambda t=together: copy(t) for together in by_asset.values()], remote=remote)  # type: ignore[misc]
    return [name for name in names if name in elsewhere]


def _copy_item(
    item: ItemRecord, canvas: Canvas, geobox: GeoBox, names: Sequence[str], sensor: Sensor, access: Access
) -> bool:
    """Copy one item's bands of one file; False where its grid is another."""
    canvas.begin()

    def work(source: Any) -> bool:
        nodata = [nodata_of(source, item.assets[name].band_index, _nodata(item, name, sensor)) for name in names]
        overlap = overlap_of(source, geobox)
        if overlap.aligned and not overlap.empty:
            canvas.copy(source, overlap, nodata)
        return overlap.aligned or overlap.empty

    return access.read(item.assets[names[0]].href, work, provider=item.provider)


def _warp(
    items: Sequence[ItemRecord], geobox: GeoBox, names: Sequence[str], sensor: Sensor, access: Access
) -> Mapping[str, NDArray[np.float32]]:
    """The bands (y, x) by name, in one odc-stac load."""
    bands = {name: _odc_band(items[0], name) for name in names}
    quality = sensor.quality.name if sensor.quality is not None else None
    remote = any(is_remote(item.assets[name].href) for item in items for name in names)
    driver = _ExactDriver()
    driver.access = access
    driver.sources = {
        (item.assets[name].href, item.assets[name].band_index): (item.provider, _nodata(item, name, sensor))
        for item in items
        for name in names
    }
    try:
        ds = odc.stac.load(
            [_pystac_item(item, names, geobox) for item in items],
            bands=list(bands.values()),
            geobox=geobox,
            groupby=_as_one,
            dtype="float32",
            nodata=float("nan"),
            resampling={band: "nearest" if name == quality else "bilinear" for name, band in bands.items()},
            driver=driver,
            fail_on_error=True,
            pool=access.policy.max_reads if remote and not access.has_session else None,
        )
    except UnreadableError:
        raise
    except Exception as error:  # odc raises many kinds; the job must name its item for each
        reason = without_signature(" ".join(str(error).split())).rstrip(".") or type(error).__name__
    else:
        return {name: np.asarray(ds[band].values[0], dtype=np.float32) for name, band in bands.items()}
    raise UnreadableError("", reason)


def _as_one(item: pystac.Item, parsed: Any, index: int) -> int:
    """All items of a scene belong together, whatever their clocks say."""
    return 0


def _odc_band(item: ItemRecord, name: str) -> str:
    asset = item.assets[name]
    return asset.key if asset.n_bands == 1 else f"{asset.key}.{asset.band_index}"


def _pystac_item(item: ItemRecord, names: Sequence[str], geobox: GeoBox) -> pystac.Item:
    """The item with only the assets to be read, and the tile as its footprint: the files say where they lie."""
    assets: Any = item.raw["assets"]
    n_bands = {item.assets[name].key: item.assets[name].n_bands for name in names}
    # Of a file with several bands odc-stac believes there is one, unless the raster extension lists them.
    kept = {key: {"href": assets[key]["href"], "raster:bands": [{}] * n} for key, n in sorted(n_bands.items())}
    west, south, east, north = _lonlat_bounds(geobox)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    footprint = {"type": "Polygon", "coordinates": [ring]}
    return pystac.Item.from_dict({**item.raw, "assets": kept, "geometry": footprint})


def _named(items: Sequence[ItemRecord], names: Sequence[str], error: UnreadableError) -> ImageryError:
    """The error that names item, asset and address."""
    guilty = [
        f"item {item.id}, asset {item.assets[name].key} at {error.address}"
        for item in items
        for name in names
        if error.address and without_signature(item.assets[name].href) == error.address
    ]
    where = guilty[0] if guilty else "item " + ", ".join(item.id for item in items)
    return ImageryError(f"Cannot read {where}: {error.reason}. Run again to take it up once the file is whole.")


class _ExactReader(RioReader):  # type: ignore[misc]
    """odc's reader with what makes a chip's pixels its own, whatever tile it is read in.

    It warps exactly, where GDAL's default moves pixels by up to an eighth, differently in every tile. And it takes an
    item's declared nodata for the file's own where the file declares none.
    """

    driver: _ExactDriver

    def read(self, cfg: Any, dst_geobox: GeoBox, **options: Any) -> Any:
        address, band = self._src.uri, self._src.band
        provider, declared = self.driver.sources[address, band]

        def work(source: Any) -> tuple[Any, NDArray[np.float32]]:
            return self._read(source, cfg, dst_geobox, nodata_of(source, band, declared))

        return self.driver.access.read(address, work, provider=provider)

    def _read(self, source: Any, cfg: Any, dst_geobox: GeoBox, nodata: float | None) -> tuple[Any, NDArray[np.float32]]:
        band = self._src.band
        overlap = overlap_of(source, dst_geobox)
        pixels = np.full(roi_shape(overlap.tile), np.nan, dtype=np.float32)
        if overlap.empty:
            return overlap.tile, pixels
        if overlap.aligned:
            source.read(band, out=pixels, window=w_[overlap.source])
            if nodata is not None:
                pixels[pixels == np.float32(nodata)] = np.nan
        else:
            rasterio.warp.reproject(
                rasterio.band(source, band),
                pixels,
                src_nodata=nodata,
                dst_crs=str(dst_geobox.crs),
                dst_transform=dst_geobox[overlap.tile].transform,
                dst_nodata=np.nan,
                resampling=resampling_s2rio(cfg.resampling),
                tolerance=0,
            )
        return overlap.tile, pixels


class _ExactDriver(RioDriver):  # type: ignore[misc]
    """Hands out exact readers."""

    access: Access
    sources: Mapping[tuple[str, int], tuple[str | None, float | None]]
    """Provider and declared nodata, by address and band."""

    def open(self, src: Any, ctx: Any) -> _ExactReader:
        reader = _ExactReader(src, ctx)
        reader.driver = self
        return reader
