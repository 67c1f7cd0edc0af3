"""The direct read is the file's own pixels, and bit for bit what odc-stac gives, whatever the files look like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scene_files import EPSG, LEFT, TOP, item_of, smooth_noise, tile_box, write_geotiff

from geoelle.errors import ImageryError, SchemaError
from geoelle.imagery import direct, reading
from geoelle.imagery.access import Access
from geoelle.imagery.reading import read_bands
from geoelle.records import ItemRecord
from geoelle.sensors import SENTINEL_2_L2A

KEYS = {"red": "B04", "green": "B03", "nir": "B08", "scl": "SCL"}
RNG = np.random.default_rng


@dataclass
class Case:
    """A random scene and what reading it must give."""

    items: list[ItemRecord]
    names: list[str]
    geobox: GeoBox
    expected: NDArray[np.float32]


def a_case(seed: int, folder: Path) -> Case:
    """One to three items of random types, sizes, offsets and kinds of nodata, on one grid with the tile."""
    rng = RNG(seed)
    dtype = np.dtype(str(rng.choice(["uint8", "uint16", "int16", "float32", "int32", "float64"])))
    kind = str(rng.choice(["file", "item", "both", "none"]))
    missing = float(rng.choice([0, -32768] if dtype == np.int16 else [0, 255] if dtype == np.uint8 else [0, 65535]))
    if dtype.kind == "f" and rng.random() < 0.5:
        missing = np.nan if kind == "file" else -9999.0
    names = [str(n) for n in rng.permutation(["red", "green", "nir"])[: rng.integers(1, 4)]]
    together = bool(rng.random() < 0.4)
    rows, columns = (int(n) for n in rng.integers(20, 200, 2))
    expected = np.full((len(names), rows, columns), np.nan, np.float32)
    items = []
    for n in range(int(rng.integers(1, 4))):
        high, wide = (int(n) for n in rng.integers(30, 250, 2))
        down, right = (int(n) for n in rng.integers(-100, 150, 2))  # of the item's corner from the tile's
        pixels = rng.integers(0, 120, (len(names), high, wide)).astype(dtype)
        pixels[rng.random(pixels.shape) < 0.3] = missing
        place: dict[str, Any] = {"left": LEFT + 10 * right, "top": TOP - 10 * down}
        how = {"nodata": missing if kind in ("file", "both") else None, "block_px": int(rng.choice([16, 64])), **place}
        declared = [{"nodata": missing}] if kind in ("item", "both") else []
        assets: dict[str, dict[str, Any]] = {}
        if together:
            path = folder / f"{seed}_{n}.tif"
            write_geotiff(path, pixels, interleave=str(rng.choice(["pixel", "band"])), **how)
            assets["all"] = {"href": path.as_posix(), "eo:bands": [{"name": KEYS[name]} for name in names],
                             **({"raster:bands": declared * len(names)} if declared else {})}  # fmt: skip
        else:
            for name, band in zip(names, pixels, strict=True):
                path = folder / f"{seed}_{n}_{name}.tif"
                write_geotiff(path, band, **how)
                assets[KEYS[name]] = {"href": path.as_posix(), **({"raster:bands": declared} if declared else {})}
        items.append(item_of(f"item-{n}", assets, size_px=(high, wide), **place))
        ys, xs = slice(max(0, down), max(0, min(rows, down + high))), slice(max(0, right), max(0, min(columns, right + wide)))  # noqa: E501  # fmt: skip
        seen = pixels[:, ys.start - down : ys.stop - down, xs.start - right : xs.stop - right].astype(np.float32)
        if seen.size and ys.stop > ys.start and xs.stop > xs.start:
            if kind != "none":
                seen[seen == np.float32(missing)] = np.nan
            there = expected[:, ys, xs]
            there[...] = np.where(np.isnan(there), seen, there)
    shuffled = [items[i] for i in rng.permutation(len(items))]
    return Case(shuffled, names, tile_box(rows, columns), expected)


@pytest.mark.parametrize("seed", range(60))
def test_a_direct_read_is_the_files_pixels_and_odc_stacs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    if seed % 2:  # in several strips
        monkeypatch.setattr(direct, "_STRIP_PX", 3000)
    case = a_case(seed, tmp_path)
    by_odc = reading._warp(
        sorted(case.items, key=lambda i: i.id), case.geobox, case.names, SENTINEL_2_L2A, Access()
    )  # its reader decides file by file, so here it pastes

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("grids agree, so nothing needs odc-stac")

    monkeypatch.setattr(odc.stac, "load", never)
    got = read_bands(case.items, case.geobox, case.names, SENTINEL_2_L2A)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, case.expected)
    np.testing.assert_array_equal(got, np.stack([by_odc[name] for name in case.names]))


def test_most_of_these_cases_are_worth_something(tmp_path: Path) -> None:
    seen = [np.isfinite(a_case(seed, tmp_path).expected).mean() for seed in range(60)]
    assert sum(0 < share < 1 for share in seen) > 40


@pytest.mark.parametrize("seed", range(8))
def test_a_direct_read_is_what_plain_odc_stac_loads(tmp_path: Path, seed: int) -> None:
    """Without geoelle's reader: files that declare their nodata, at random whole offsets."""
    rng = RNG(seed)
    down, right = (int(n) for n in rng.integers(-60, 60, 2))
    place: dict[str, Any] = {"left": LEFT + 10 * right, "top": TOP - 10 * down}
    pixels = smooth_noise(rng, 192)
    pixels[rng.random(pixels.shape) < 0.1] = 0
    write_geotiff(tmp_path / "B04.tif", pixels, nodata=0, **place)
    item = item_of("item", {"B04": {"href": (tmp_path / "B04.tif").as_posix()}}, size_px=pixels.shape, **place)
    geobox = tile_box(150, 170)
    plain = odc.stac.load(
        [pystac.Item.from_dict(dict(item.raw))], bands=["B04"], geobox=geobox, dtype="float32", nodata=float("nan")
    )
    np.testing.assert_array_equal(read_bands([item], geobox, ["red"], SENTINEL_2_L2A)[0], plain["B04"].values[0])


@pytest.mark.parametrize("shift_px", [0.0, 0.009, -0.009])
def test_a_grid_that_is_off_by_rounding_is_copied_without_a_shift(tmp_path: Path, shift_px: float) -> None:
    pixels = smooth_noise(RNG(1), 128)
    place = {"left": LEFT + 10 * shift_px, "top": TOP - 10 * shift_px}
    write_geotiff(tmp_path / "B04.tif", pixels, **place)
    item = item_of("item", {"B04": {"href": (tmp_path / "B04.tif").as_posix()}}, size_px=(128, 128))
    for corner in (0, 17):
        got = read_bands(
            [item], tile_box(64, 64, left=LEFT + 10 * corner, top=TOP - 10 * corner), ["red"], SENTINEL_2_L2A
        )[0]
        with rasterio.open(tmp_path / "B04.tif") as f:
            direct = f.read(1, window=((corner, corner + 64), (corner, corner + 64)))
        np.testing.assert_array_equal(got, direct)


@pytest.mark.parametrize("what", ["half a pixel", "coarser", "south up", "another zone"])
def test_another_grid_is_warped_and_by_odc_stac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    pixels = smooth_noise(RNG(2), 128)
    how: dict[str, Any] = {"half a pixel": {"left": LEFT + 5}, "coarser": {"step": 20.0}}.get(what, {})
    if what == "another zone":
        x, y = Transformer.from_crs(EPSG, EPSG + 1, always_xy=True).transform(LEFT + 320, TOP - 320)
        how = {"epsg": EPSG + 1, "left": round(x, -1) - 640, "top": round(y, -1) + 640}
    path = tmp_path / "B04.tif"
    write_geotiff(path, pixels, **how)
    if what == "south up":
        write_geotiff(path, pixels[::-1], transform=Affine(10, 0, LEFT, 0, 10, TOP - 1280))
    item = item_of("item", {"B04": {"href": path.as_posix()}}, size_px=(128, 128), **how)
    calls: list[int] = []
    load = odc.stac.load
    monkeypatch.setattr(odc.stac, "load", lambda *args, **kwargs: calls.append(1) or load(*args, **kwargs))
    got = read_bands([item], tile_box(96, 96), ["red"], SENTINEL_2_L2A)[0]
    assert calls == [1]
    if what != "another zone":
        assert np.isfinite(got[2:-2, 2:-2]).all()
    if what == "south up":
        np.testing.assert_array_equal(got, pixels[:96, :96])
    if what == "half a pixel":
        between = (pixels[:96, :94].astype(float) + pixels[:96, 1:95]) / 2
        np.testing.assert_allclose(got[:, 1:95], between, atol=1)


def test_bands_of_both_kinds_are_read_in_one_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentinel-2 as it is: bands of 10 m are copied, those of 20 m are warped, in one odc-stac load."""
    pixels, classes = smooth_noise(RNG(3), 128), RNG(3).integers(0, 12, (64, 64)).astype(np.uint8)
    write_geotiff(tmp_path / "B04.tif", pixels)
    write_geotiff(tmp_path / "B11.tif", smooth_noise(RNG(4), 64), step=20)
    write_geotiff(tmp_path / "SCL.tif", classes, step=20)
    assets = {key: {"href": (tmp_path / f"{key}.tif").as_posix()} for key in ("B04", "B11", "SCL")}
    item = item_of("item", assets, size_px=(128, 128))
    asked: list[list[str]] = []
    load = odc.stac.load

    def watched(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["bands"])
        return load(*args, **kwargs)

    monkeypatch.setattr(odc.stac, "load", watched)
    got = read_bands([item], tile_box(128, 128), ["swir16", "red", "scl"], SENTINEL_2_L2A)
    assert asked == [["B11", "SCL"]]
    np.testing.assert_array_equal(got[1], pixels)
    expected = np.kron(classes, np.ones((2, 2), np.float32)).astype(np.float32)
    expected[expected == 0] = np.nan
    np.testing.assert_array_equal(got[2], expected)


def test_an_item_that_adds_nothing_is_not_opened(tmp_path: Path) -> None:
    pixels = smooth_noise(RNG(5), 128)
    write_geotiff(tmp_path / "a.tif", pixels)
    first = item_of("a", {"B04": {"href": (tmp_path / "a.tif").as_posix()}}, size_px=(128, 128))
    gone = item_of("b", {"B04": {"href": (tmp_path / "gone.tif").as_posix()}}, size_px=(128, 128))
    np.testing.assert_array_equal(read_bands([gone, first], tile_box(128, 128), ["red"], SENTINEL_2_L2A)[0], pixels)
    with pytest.raises(ImageryError, match=r"item b, asset B04.*gone\.tif"):
        read_bands([gone, first], tile_box(128, 129), ["red"], SENTINEL_2_L2A)


@pytest.mark.parametrize(
    "bbox", [(179.9, 66.0, -179.9, 66.5), (179.9, 66.0, 180.1, 66.5), (-180.1, 66.0, -179.9, 66.5)]
)
@pytest.mark.parametrize("epsg", [32601, 32660])
def test_items_across_the_antimeridian_are_found(tmp_path: Path, bbox: tuple[float, ...], epsg: int) -> None:
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(180.0, 66.3)
    place = {"left": round(x, -1) - 640, "top": round(y, -1) + 640, "epsg": epsg}
    pixels = smooth_noise(RNG(6), 128)
    write_geotiff(tmp_path / "B04.tif", pixels, **place)
    item = item_of("item", {"B04": {"href": (tmp_path / "B04.tif").as_posix()}}, size_px=(128, 128))
    item = replace(item, bbox=bbox)  # type: ignore[arg-type]
    aligned = tile_box(128, 128, **place)
    np.testing.assert_array_equal(read_bands([item], aligned, ["red"], SENTINEL_2_L2A)[0], pixels)
    shifted = tile_box(100, 100, left=place["left"] + 103, top=place["top"] - 103, epsg=epsg)
    assert np.isfinite(read_bands([item], shifted, ["red"], SENTINEL_2_L2A)).all()
    elsewhere = replace(item, bbox=(170.0, 66.0, 171.0, 66.5))
    assert np.isnan(read_bands([elsewhere], aligned, ["red"], SENTINEL_2_L2A)).all()


@pytest.mark.parametrize(("rows", "block", "width"), [(slice(0, 100), 16, 10**6), (slice(7, 9), 512, 10), (slice(100, 5000), 512, 4096), (slice(3, 70), 1, 5)])  # noqa: E501  # fmt: skip
def test_strips_cover_every_row_once_and_end_on_blocks(rows: slice, block: int, width: int) -> None:
    strips = direct._strips(rows, block, width)
    assert strips[0][0] == 0
    assert strips[-1][1] == rows.stop - rows.start
    assert all(stop == start for (_, stop), (start, _) in pairwise(strips))
    assert all((rows.start + stop) % block == 0 for _, stop in strips[:-1])


def test_an_array_that_is_there_is_filled_and_holds_nothing_of_before(tmp_path: Path) -> None:
    case, other = a_case(1, tmp_path), a_case(2, tmp_path)
    names = ["red"]
    assert "red" in case.names
    assert "red" in other.names
    geobox = tile_box(90, 110)
    out = np.full((1, *geobox.shape), 7.0, np.float32)
    for c in (case, other, case):
        got = read_bands(c.items, geobox, names, SENTINEL_2_L2A, out=out)
        assert got is out
        np.testing.assert_array_equal(out, read_bands(c.items, geobox, names, SENTINEL_2_L2A))
    with pytest.raises(SchemaError, match=r"float64 of shape \(1, 90, 110\). Expected float32"):
        read_bands(case.items, geobox, names, SENTINEL_2_L2A, out=out.astype(float))  # type: ignore[arg-type]
