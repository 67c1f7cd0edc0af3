"""Pixels: warped to where the cells are, coloured by value, transparent without data."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyproj import Transformer
from webmap_stores import SHAPE, STRIDE_M

from geoelle.errors import MapError
from geoelle.webmap.overlays import MercatorWarp, coloured_png, hatched_png
from geoelle.webmap.palettes import DIVERGING, ColourScale, diverging_scale, sequential_scale


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGBA"))


def at(warp: MercatorWarp, image: np.ndarray, lon: float, lat: float) -> np.ndarray:
    """The pixel that Leaflet shows at a place: images are stretched evenly in Mercator metres."""
    to_mercator = Transformer.from_crs(4326, 3857, always_xy=True).transform
    (south, west), (north, east) = warp.bounds
    (x0, y0), (x1, y1), (x, y) = to_mercator(west, south), to_mercator(east, north), to_mercator(lon, lat)
    row, column = (y1 - y) / (y1 - y0) * image.shape[0], (x - x0) / (x1 - x0) * image.shape[1]
    return image[int(row), int(column)]


def test_every_cell_centre_shows_its_own_value(difficulty: xr.Dataset) -> None:
    values = np.arange(SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    warp = MercatorWarp.covering(difficulty, np.ones(SHAPE, bool), STRIDE_M)
    scale = ColourScale(0.0, float(values.max()), DIVERGING)
    image = pixels(coloured_png(warp, values, scale))
    to_lonlat = Transformer.from_crs(32631, 4326, always_xy=True).transform
    colours = scale.rgb()[scale.index(values)]
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            lon, lat = to_lonlat(float(difficulty["x"][column]), float(difficulty["y"][row]))
            assert (at(warp, image, lon, lat)[:3] == colours[row, column]).all()


def test_no_data_is_transparent_and_empty_margins_are_cut(difficulty: xr.Dataset) -> None:
    values = np.full(SHAPE, np.nan, np.float32)
    values[10:20, 5:9] = 0.5
    values[12, 6] = np.nan
    warp = MercatorWarp.covering(difficulty, np.isfinite(values), STRIDE_M)
    assert (warp.rows, warp.columns) == (slice(10, 20), slice(5, 9))
    image = pixels(coloured_png(warp, values, ColourScale(0, 1, DIVERGING)))
    to_lonlat = Transformer.from_crs(32631, 4326, always_xy=True).transform
    lon, lat = to_lonlat(float(difficulty["x"][6]), float(difficulty["y"][12]))
    assert at(warp, image, lon, lat)[3] == 0
    lon, lat = to_lonlat(float(difficulty["x"][7]), float(difficulty["y"][12]))
    assert at(warp, image, lon, lat)[3] == 255


def test_one_cell_is_enough(difficulty: xr.Dataset) -> None:
    shown = np.zeros(SHAPE, bool)
    shown[3, 4] = True
    warp = MercatorWarp.covering(difficulty, shown, STRIDE_M)
    assert (warp.index == 0).mean() > 0.9


def test_hatch_lies_on_the_mask_alone(difficulty: xr.Dataset) -> None:
    mask = np.zeros(SHAPE, bool)
    warp = MercatorWarp.covering(difficulty, np.ones(SHAPE, bool), STRIDE_M)
    assert hatched_png(warp, mask) is None
    mask[4:8, 4:8] = True
    url = hatched_png(warp, mask)
    assert url is not None
    dark = pixels(url)[..., 3] > 0
    where = warp.warp(mask.astype(np.uint8), 0).astype(bool)
    assert not dark[~where].any()
    assert 0.05 < dark[where].mean() < 0.5


def test_the_180th_meridian_is_refused(difficulty: xr.Dataset) -> None:
    from pyproj import CRS

    east = difficulty.assign_coords(x=np.linspace(800_000, 850_000, SHAPE[1]), y=np.linspace(20_000, 8_000, SHAPE[0]))
    wkt = CRS.from_epsg(32660).to_wkt()
    east = east.assign_coords(spatial_ref=((), np.int64(0), {"crs_wkt": wkt}))
    with pytest.raises(MapError, match="180th meridian"):
        MercatorWarp.covering(east, np.ones(SHAPE, bool), 1000.0)


def test_a_store_without_crs_is_refused(difficulty: xr.Dataset) -> None:
    bare = difficulty.assign_coords(spatial_ref=((), np.int64(0), {}))
    with pytest.raises(MapError, match="no CRS"):
        MercatorWarp.covering(bare, np.ones(SHAPE, bool), STRIDE_M)


floats = st.lists(st.floats(width=32, min_value=-(2.0**60), max_value=2.0**60), min_size=1, max_size=50)


@given(floats)
def test_scales_hold_for_any_values(numbers: list[float]) -> None:
    values = np.array([*numbers, np.nan], dtype=np.float32)
    for scale in (sequential_scale(values), diverging_scale(values)):
        assert scale.high > scale.low
        index = scale.index(values)
        assert index[-1] == 0
        assert (index[:-1] >= 1).all()
        order = np.argsort(values[:-1])
        assert (np.diff(index[:-1][order].astype(int)) >= 0).all()


def test_delta_is_centred_at_zero() -> None:
    scale = diverging_scale(np.array([-0.1, 0.0, 0.7, np.nan]))
    assert scale.low == -scale.high
    assert math.isclose(float(scale.index(np.array([0.0]))[0]), 128, abs_tol=1)
    assert diverging_scale(np.zeros(5)).high == 1.0
    assert diverging_scale(np.array([0.0] * 99 + [2.0])).high == 2.0


def test_one_odd_chip_does_not_flatten_the_map() -> None:
    values = np.concatenate([np.linspace(0, 1, 1000), [1e6]])
    assert sequential_scale(values).high < 1.1
