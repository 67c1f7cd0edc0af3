"""Sensors other than Sentinel-2, from a file to physical units: several bands of one file, scales, bit fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import stac_examples as examples
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoelle.catalog.parsing import parse_item
from geoelle.catalog.providers import get_provider
from geoelle.catalog.scenes import group_scenes
from geoelle.imagery.tile import read_tile
from geoelle.records import ItemRecord, Scene
from geoelle.sensors import get_sensor

SIDE = 32
GRID = GeoBox((SIDE, SIDE), Affine(30, 0, 600_000, 0, -30, 5_700_000), "EPSG:32631")
RNG = np.random.default_rng(3)


def write(path: Path, values: NDArray[Any], nodata: float | None = None) -> str:
    stack = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path, "w", driver="GTiff", height=SIDE, width=SIDE, count=len(stack), dtype=stack.dtype, crs="EPSG:32631",
        transform=GRID.transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(stack)
    return path.as_posix()


def scene(raw: dict[str, Any], sensor: str, hrefs: dict[str, str]) -> Scene:
    """The scene of one item, its assets lying on this machine; those without a file are not there."""
    west, south, east, north = Transformer.from_crs(32631, 4326, always_xy=True).transform_bounds(
        *GRID.boundingbox.bbox
    )
    raw["bbox"], raw["geometry"] = [west, south, east, north], None
    for key in ("proj:shape", "proj:transform"):
        raw["properties"].pop(key, None)
    raw["properties"]["proj:epsg"] = 32631
    raw["assets"] = {key: {**raw["assets"][key], "href": href} for key, href in hrefs.items()}
    for asset in raw["assets"].values():
        for key in ("proj:shape", "proj:transform"):
            asset.pop(key, None)
    record = parse_item(raw, get_sensor(sensor), provider=get_provider("planetary-computer"))
    assert isinstance(record, ItemRecord)
    frozen: Any = record.raw
    again = parse_item(frozen, get_sensor(sensor))
    assert again == record
    return group_scenes([record])[0]


@pytest.mark.parametrize("declared", [True, False])
def test_four_bands_of_one_file_are_four(tmp_path: Path, declared: bool) -> None:
    values = RNG.integers(0, 256, (4, SIDE, SIDE)).astype(np.uint8)
    found = scene(examples.pc_naip(declared=declared), "naip", {"image": write(tmp_path / "naip.tif", values)})
    pixels = read_tile(found, GRID, ("nir", "blue", "red"), sensor=get_sensor("naip"))
    np.testing.assert_array_equal(pixels.pixels, values[[3, 2, 0]].astype(np.float32))
    assert pixels.valid.all(), "0 is a number like any other"


def test_landsat_is_reflectance_and_its_bits_are_masks(tmp_path: Path) -> None:
    numbers = RNG.integers(7273, 43636, (SIDE, SIDE)).astype(np.uint16)
    quality = np.full((SIDE, SIDE), 21824, np.uint16)  # clear
    for row, number in enumerate((1, 22280, 54596, 23888, 30048, 21952)):
        quality[row] = number  # fill, cloud, cirrus, cloud shadow, snow, water
    numbers[0] = 0
    hrefs = {"red": write(tmp_path / "r.tif", numbers, 0), "qa_pixel": write(tmp_path / "q.tif", quality, 1)}
    pixels = read_tile(scene(examples.pc_landsat(), "landsat-c2-l2", hrefs), GRID, ("red",))
    assert pixels.valid.all(axis=1).tolist()[:7] == [False, False, False, False, True, True, True]
    assert (pixels.cloud[1].all(), pixels.cloud[2].all(), pixels.cloud[3:].any()) == (True, True, False)
    assert (pixels.shadow[3].all(), pixels.snow[4].all(), pixels.water[5].all()) == (True, True, True)
    expected = numbers[6:].astype(np.float64) * 2.75e-5 - 0.2
    np.testing.assert_allclose(pixels.pixels[0, 6:], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["S30", "L30"])
def test_hls_is_reflectance_though_nothing_declares_it(tmp_path: Path, part: str) -> None:
    numbers = RNG.integers(-100, 10_000, (SIDE, SIDE)).astype(np.int16)
    numbers[0] = -9999
    quality = np.zeros((SIDE, SIDE), np.uint8)
    quality[0], quality[1], quality[2], quality[3] = 255, 0b10, 0b1000, 0b11000000
    key = {"S30": "B8A", "L30": "B05"}[part]
    hrefs = {key: write(tmp_path / "n.tif", numbers, -9999), "Fmask": write(tmp_path / "f.tif", quality, 255)}
    pixels = read_tile(scene(examples.pc_hls(part), f"hls-{part.lower()}", hrefs), GRID, ("nir08",))
    assert pixels.valid.all(axis=1).tolist()[:4] == [False, False, False, True]
    assert not pixels.cloud[0].any(), "fill has all bits set and is no cloud"
    assert pixels.cloud[1].all()
    assert pixels.shadow[2].all()
    np.testing.assert_allclose(pixels.pixels[0, 3:], numbers[3:] * 1e-4, rtol=1e-5, atol=1e-6)


def test_radar_stays_linear_power(tmp_path: Path) -> None:
    power = RNG.gamma(2.0, 0.05, (SIDE, SIDE)).astype(np.float32)
    power[0] = -32768
    hrefs = {"vv": write(tmp_path / "vv.tif", power, -32768)}
    pixels = read_tile(scene(examples.pc_sentinel_1(), "sentinel-1-rtc", hrefs), GRID, ("vv",))
    assert not pixels.valid[0].any()
    np.testing.assert_array_equal(pixels.pixels[0, 1:], power[1:])


@pytest.mark.parametrize("shift", [0, 7])
@pytest.mark.parametrize(("collection", "is_hole"), [("hls2-s30", True), ("a-copy-of-it", False)])
def test_the_sensors_nodata_counts_where_neither_item_nor_file_says(
    tmp_path: Path, collection: str, is_hole: bool, shift: int
) -> None:
    values = np.full((SIDE, SIDE), 500, np.int16)
    values[10:20, 10:20] = -9999
    files = {key: write(tmp_path / f"{key}.tif", values) for key in ("B04",)}
    raw = examples.pc_hls("S30") | {"collection": collection}
    item = scene(raw, "hls-s30", files).items[0]
    assert item.assets["red"].nodata is None
    box = GeoBox((SIDE, SIDE), GRID.transform * Affine.translation(shift / 30, 0), "EPSG:32631")
    tile = read_tile(group_scenes([item])[0], box, ("red",), cloud_mask="none")
    assert tile.valid[12:18, 12:18].any() != is_hole
    if is_hole:
        np.testing.assert_allclose(tile.pixels[0][tile.valid], 0.05, atol=1e-6)
