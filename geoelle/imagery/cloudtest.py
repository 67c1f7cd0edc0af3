"""A spectral test for cloud, haze, snow and water, for reflectance that comes without a quality layer. A heuristic.

Three tests, each of one tile's pixels alone; a pixel is cloud where any of them holds.

* Thick cloud, per pixel: bright, white, hazy and brighter in the near infrared than in the short-wave infrared, and not
  snow. Haze is the haze-optimised transform HOT = blue - 0.5 red - 0.08 (Zhang, Guindon and Cihlar 2002, with the
  coefficients of Fmask's haze test); whiteness and the ratio that spares rock and sand are Fmask's (Zhu and Woodcock
  2012), with thresholds for surface reflectance. Snow is NDSI > 0.4 with dark short-wave infrared (Hall, Riggs and
  Salomonson 1995).
* Thin cloud, per pixel: a lower HOT with less brightness. Where Sentinel-2 L2A has its band of water vapour at 945 nm,
  that decides: its correction takes the vapour over the ground, of which a cloud has less above it, so that over cloud
  the band is brighter than its neighbour at 865 nm (the same absorption that Hollstein et al. 2016 use).
* Veil, per block of about 256 x 256 pixels, all or nothing: dark objects (Chavez 1988) that are dark in no band. The
  first percentiles of all visible and short-wave infrared bands are above 0.05 and nearly alike. A block without dark
  ground has floors that differ between bands, is undecided and stays as it is.

Thresholds were chosen on the Boadella series of ../shared/data, with the spectra of its world-wide chips in view;
Antwerp was kept out. `docs/masks.md` says how they do on each. What the test does not do: it finds no shadow, which may
pass for water; it is made for surface reflectance (at the top of the atmosphere roofs and fields pass for cloud); white
sand, salt and roofs may be thin cloud to it; without a short-wave infrared band snow is cloud; pixels that still carry
the +1000 offset look veiled; haze thinner than 0.05, or over a block without dark ground, is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from geoelle.imagery.masks import SkyMasks
from geoelle.sensors import Sensor

type Reflectance = Mapping[str, NDArray[np.float32]]

NEEDED = ("blue", "green", "red", "nir")
"""Without these the test cannot be made."""
HELPFUL = ("swir16", "swir22")
"""Tell cloud from snow, rock and dark ground."""
WATER_VAPOUR = ("nir08", "nir09")
"""865 and 945 nm, of use only where both are corrected as in Sentinel-2 L2A."""
_CORRECTED_WATER_VAPOUR = ("sentinel-2-l2a",)

_THICK_HOT, _THICK_MIN_VISIBLE, _THICK_WHITENESS = 0.0, 0.15, 0.5
_THIN_HOT, _THIN_MIN_VISIBLE, _THIN_WHITENESS = -0.025, 0.07, 0.35
_VAPOUR_HOT, _VAPOUR_MIN_VISIBLE, _VAPOUR_RATIO, _VAPOUR_GAP = -0.035, 0.05, 1.15, 0.04
_NO_VAPOUR_RATIO = 1.05
_ROCK_NIR_TO_SWIR = 0.9
_SNOW_NDSI, _SNOW_MIN_NIR, _SNOW_MIN_GREEN, _SNOW_MAX_SWIR, _SNOW_BLUE_TO_RED = 0.4, 0.11, 0.1, 0.2, 0.7
_WATER_MAX_SWIR = 0.1
_VEIL_BLOCK_PX = 256
_VEIL_PERCENTILE = 1.0
_VEIL_FLOOR, _VEIL_SPREAD = 0.05, 1.6
_VEIL_FLOOR_VISIBLE, _VEIL_SPREAD_VISIBLE = 0.06, 1.5  # of visible bands alone, where dark ground is less dark
_VEIL_VAPOUR_RATIO = 1.1
_TINY = np.float32(1e-3)


def bands_for_test(sensor: Sensor, there: Sequence[str]) -> tuple[str, ...]:
    """Bands that the test reads of a scene that has the bands `there`; none where it cannot be made."""
    if sensor.units != "reflectance" or not set(NEEDED) <= set(there):
        return ()
    vapour = WATER_VAPOUR if sensor.name in _CORRECTED_WATER_VAPOUR and set(WATER_VAPOUR) <= set(there) else ()
    return (*NEEDED, *(name for name in HELPFUL if name in there), *vapour)


def spectral_masks(bands: Reflectance) -> SkyMasks:
    """Cloud, snow and water by the tests of this module.

    Args:
        bands: By geoelle's names, (y, x) surface reflectance (1 = all light reflected), NaN where missing; at least
            `NEEDED`. `WATER_VAPOUR` only where both bands are corrected for the vapour over the ground.
    """
    observed = np.isfinite(bands["blue"])
    for values in bands.values():
        observed &= np.isfinite(values)
    snow = _snow(bands)
    cloud = (_bright_or_hazy(bands) & ~snow) | _veil(bands, observed)
    cloud &= observed
    ground = observed & ~cloud
    return SkyMasks(observed, cloud, np.zeros_like(cloud), snow & ground, _water(bands) & ground & ~snow)


def _bright_or_hazy(bands: Reflectance) -> NDArray[np.bool_]:
    """The two tests per pixel, snow not spared yet."""
    blue, green, red, nir = (bands[name] for name in NEEDED)
    hot = blue - np.float32(0.5) * red - np.float32(0.08)
    darkest = np.minimum(np.minimum(blue, green), red)
    mean = (blue + green + red) / np.float32(3)
    whiteness = (np.abs(blue - mean) + np.abs(green - mean) + np.abs(red - mean)) / np.maximum(mean, _TINY)
    thick = (hot > _THICK_HOT) & (darkest > _THICK_MIN_VISIBLE) & (whiteness < _THICK_WHITENESS)
    thin = (hot > _THIN_HOT) & (darkest > _THIN_MIN_VISIBLE) & (whiteness < _THIN_WHITENESS)
    if "swir16" in bands:
        no_rock = nir > np.float32(_ROCK_NIR_TO_SWIR) * bands["swir16"]
        thick &= no_rock
        thin &= no_rock
    if "nir09" in bands:
        near, vapour = bands["nir08"], bands["nir09"]
        thin &= vapour > np.float32(_NO_VAPOUR_RATIO) * near
        # Not over water, which is dark in both: there the coarser band holds the shore's light.
        thin |= (
            (hot > _VAPOUR_HOT)
            & (darkest > _VAPOUR_MIN_VISIBLE)
            & (nir > green)
            & (vapour > np.float32(_VAPOUR_RATIO) * near)
            & (vapour - near > _VAPOUR_GAP)
        )
    return np.asarray(thick | thin)


def _snow(bands: Reflectance) -> NDArray[np.bool_]:
    """NDSI = (green - swir16) / (green + swir16) of bright, not brown ground; none found without that band."""
    green = bands["green"]
    if "swir16" not in bands:
        return np.zeros(green.shape, dtype=np.bool_)
    swir = bands["swir16"]
    bright = (bands["nir"] > _SNOW_MIN_NIR) & (green > _SNOW_MIN_GREEN) & (swir < _SNOW_MAX_SWIR)
    bright &= bands["blue"] > np.float32(_SNOW_BLUE_TO_RED) * bands["red"]  # flood water is bright, too, and brown
    return np.asarray(bright & (_difference(green, swir) > _SNOW_NDSI))


def _water(bands: Reflectance) -> NDArray[np.bool_]:
    """MNDWI > 0 (Xu 2006) with dark short-wave infrared, or NDWI > 0 (McFeeters 1996) where that band is missing."""
    if "swir16" in bands:
        wet = _difference(bands["green"], bands["swir16"]) > 0
        return np.asarray(wet & (bands["swir16"] < _WATER_MAX_SWIR))
    return np.asarray(_difference(bands["green"], bands["nir"]) > 0)


def _difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalised difference (a - b) / (a + b)."""
    return np.asarray((a - b) / np.maximum(a + b, _TINY))


def _veil(bands: Reflectance, observed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks under a veil."""
    veiled = np.zeros(observed.shape, dtype=np.bool_)
    for block in _blocks(observed.shape):
        veiled[block] = _is_veiled({name: values[block] for name, values in bands.items()}, observed[block])
    return veiled


def _is_veiled(bands: Reflectance, observed: NDArray[np.bool_]) -> bool:
    if not observed.any():
        return False
    seen = {name: values if observed.all() else values[observed] for name, values in bands.items()}
    names = [name for name in ("blue", "green", "red", *HELPFUL) if name in seen]
    floors = [float(np.percentile(seen[name], _VEIL_PERCENTILE)) for name in names]
    full = len(names) > 3
    floor, spread = (_VEIL_FLOOR, _VEIL_SPREAD) if full else (_VEIL_FLOOR_VISIBLE, _VEIL_SPREAD_VISIBLE)
    if min(floors) <= floor or max(floors) >= spread * min(floors):
        return False
    if "nir09" not in seen:
        return True
    ratio = np.median(seen["nir09"] / np.maximum(seen["nir08"], np.float32(0.02)))
    return bool(ratio > _VEIL_VAPOUR_RATIO)


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Nearly equal blocks of about `_VEIL_BLOCK_PX`, counted from the tile's corner."""
    edges = [np.linspace(0, n, max(1, round(n / _VEIL_BLOCK_PX)) + 1).round().astype(int).tolist() for n in shape]
    for top, bottom in zip(edges[0][:-1], edges[0][1:], strict=True):
        for left, right in zip(edges[1][:-1], edges[1][1:], strict=True):
            yield slice(top, bottom), slice(left, right)
