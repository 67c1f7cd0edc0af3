"""Pixels of one scene on one tile, in physical units, with what is valid and what is cloud. One odc-stac load each.

The only place where digital numbers become reflectance, and where addresses are signed: at the moment they are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import odc.stac
import pystac
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.loader._rio import RioDriver, RioReader

from geoelle.errors import ImageryError
from geoelle.records import ItemRecord, Scene
from geoelle.schema import check_items
from geoelle.sensors import get_sensor

_PLANETARY_COMPUTER_HOST = ".blob.core.windows.net"


@dataclass(frozen=True, slots=True)
class TilePixels:
    """What one load gives."""

    pixels: NDArray[np.float32]
    """(band, y, x), in the sensor's units; NaN where not valid."""
    valid: NDArray[np.bool_]
    """(y, x): observed in every band, and not cloud where the source has a quality layer."""
    cloud: NDArray[np.bool_]
    """(y, x): observed, but cloud, cirrus or cloud shadow by the source's quality layer."""


def read_tile(scene: Scene, geobox: GeoBox, bands: Sequence[str]) -> TilePixels:
    """Read one scene on a geobox.

    Reflectance is interpolated bilinearly where grids differ and copied where they agree; the quality layer is
    never interpolated. Where items overlap, the earlier one's valid pixels win.

    Args:
        scene: Whose items to read; those that miss the geobox cost nothing.
        geobox: Where to.
        bands: geoelle's band names, in the order wanted.

    Raises:
        ImageryError: If an asset cannot be read; names item, asset and address without its signature. Also if
            items of one scene need different scaling.
        SchemaError: If an item lacks a band.
    """
    items = scene.items
    check_items(items, bands)
    quality = get_sensor(items[0].sensor).quality
    has_quality = quality is not None and all(quality.name in item.assets for item in items)
    names = [*bands, *([quality.name] if quality and has_quality else [])]
    stack = _load(items, geobox, names)
    digital, classes = stack[: len(bands)], stack[len(bands) :]
    scale, offset = _scaling(items, bands)
    physical = digital * scale[:, None, None] + offset[:, None, None]
    observed = np.isfinite(physical).all(axis=0)
    cloud = np.zeros_like(observed)
    if quality and has_quality:
        observed &= np.isfinite(classes[0]) & ~np.isin(classes[0], quality.invalid_classes)
        cloud = observed & np.isin(classes[0], quality.cloud_classes)
    valid = observed & ~cloud
    physical[:, ~valid] = np.nan
    return TilePixels(physical, valid, cloud)


def _load(items: Sequence[ItemRecord], geobox: GeoBox, names: Sequence[str]) -> NDArray[np.float32]:
    """Digital numbers (name, y, x) float32, NaN outside and where nodata."""
    quality = get_sensor(items[0].sensor).quality
    bands = {name: _odc_band(items[0], name) for name in names}
    is_quality = {name: quality is not None and name == quality.name for name in names}
    try:
        ds = odc.stac.load(
            [_pystac_item(item, names) for item in items],
            bands=[bands[name] for name in names],
            geobox=geobox,
            groupby=_as_one,
            dtype="float32",
            nodata=float("nan"),
            resampling={bands[name]: "nearest" if is_quality[name] else "bilinear" for name in names},
            patch_url=_sign,
            driver=_DeclaredNodataDriver(),
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


def _pystac_item(item: ItemRecord, names: Sequence[str]) -> pystac.Item:
    """The item with only the assets to be read."""
    assets: Any = item.raw["assets"]
    keys = {item.assets[name].key for name in names}
    return pystac.Item.from_dict({**item.raw, "assets": {key: assets[key] for key in sorted(keys)}})


def _scaling(items: Sequence[ItemRecord], bands: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    states = {tuple((i.assets[b].scale, i.assets[b].offset) for b in bands): i.id for i in items}
    if len(states) > 1:
        (_, first), (_, second) = list(states.items())[:2]
        raise ImageryError(
            f"Items {first} and {second} of one day scale their numbers differently (offset of baseline 04.00). "
            "Mixed, they would show change where there is none; leave one out with --exclude."
        )
    ((pairs, _),) = states.items()
    array = np.asarray(pairs, dtype=np.float32)
    return array[:, 0], array[:, 1]


def _sign(href: str) -> str:
    """Sign what needs it. Tokens last under an hour, so this happens inside the read and is stored nowhere."""
    if _PLANETARY_COMPUTER_HOST not in href:
        return href
    import planetary_computer

    return str(planetary_computer.sign(href))


def without_signature(text: str) -> str:
    """A message without the query strings of addresses, which may hold tokens."""
    return re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]+", r"\1", text)


def _refuse(items: Sequence[ItemRecord], names: Sequence[str], error: Exception) -> NoReturn:
    said = without_signature(" ".join(str(error).split())) or type(error).__name__
    cause = error.__cause__ or error.__context__
    if cause is not None and str(cause) and str(cause) not in said:
        said += f" ({without_signature(' '.join(str(cause).split()))})"
    guilty = [
        f"item {item.id}, asset {item.assets[name].key}"
        for item in items
        for name in names
        if item.assets[name].href.rsplit("/", 1)[-1] in said
    ]
    where = guilty[0] if guilty else "item " + ", ".join(item.id for item in items)
    raise ImageryError(f"Cannot read {where}: {said}. Run again to take it up once the file is whole.") from error


class _DeclaredNodataReader(RioReader):  # type: ignore[misc]
    """Takes an item's declared nodata for the file's own where the file declares none."""

    def read(self, cfg: Any, dst_geobox: GeoBox, **options: Any) -> Any:
        declared = None if self._src.meta is None else self._src.meta.nodata
        return super().read(replace(cfg, src_nodata_fallback=declared), dst_geobox, **options)


class _DeclaredNodataDriver(RioDriver):  # type: ignore[misc]
    def open(self, src: Any, ctx: Any) -> _DeclaredNodataReader:
        return _DeclaredNodataReader(src, ctx)
