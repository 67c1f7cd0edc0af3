"""Reading pixels: the same numbers as a direct read, honest about what is missing, and errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoelle.catalog import group_scenes, records_from_frame
from geoelle.catalog.parsing import parse_item
from geoelle.errors import ImageryError, SchemaError
from geoelle.grid import ChipGrid, GridExtent
from geoelle.imagery import read_tile, without_signature
from geoelle.records import ItemRecord, Scene
from geoelle.searching import search
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.simulate import Simulation, SimulationConfig, make_scenes

RGB = ("red", "green", "blue")
EPSG = 32631
LEFT, TOP, SIDE = 500_000.0, 5_700_000.0, 40
RNG = np.random.default_rng(7)


def write_tif(
    path: Path, values: NDArray[Any], *, nodata: float | None = None, left: float = LEFT, top: float = TOP,
    epsg: int = EPSG, step: float = 10.0,
) -> None:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype,
        crs=f"EPSG:{epsg}", transform=Affine(step, 0, left, 0, -step, top), nodata=nodata, tiled=True,
        blockxsize=16, blockysize=16, compress="deflate",
    ) as f:  # fmt: skip
        f.write(values, 1)


def an_item(
    folder: Path,
    bands: dict[str, NDArray[Any]],
    *,
    item_id: str = "item",
    file_nodata: float | None = None,
    declared: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    left: float = LEFT,
    top: float = TOP,
    epsg: int = EPSG,
    step: float = 10.0,
) -> ItemRecord:
    """An item whose files are written here; `bands` by asset key."""
    height, width = next(iter(bands.values())).shape
    assets: dict[str, Any] = {}
    for key, values in bands.items():
        path = folder / f"{item_id}_{key}.tif"
        write_tif(path, values, nodata=file_nodata, left=left, top=top, epsg=epsg, step=step)
        assets[key] = {"href": path.as_posix()} | ({"raster:bands": [declared]} if declared else {})
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True).transform
    x = [left, left + width * step]
    y = [top - height * step, top]
    lon, lat = to_lonlat([x[0], x[1], x[0], x[1]], [y[0], y[0], y[1], y[1]])
    box = (min(lon), min(lat), max(lon), max(lat))
    record = parse_item(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": item_id, "collection": "c",
            "geometry": shapely.geometry.mapping(shapely.box(*box)), "bbox": list(box), "links": [],
            "properties": {"datetime": "2022-06-04T10:36:21Z", "proj:epsg": epsg, **(properties or {})},
            "assets": assets,
        },
        SENTINEL_2_L2A,
    )  # fmt: skip
    assert record is not None
    return record


def scene_of(*items: ItemRecord) -> Scene:
    (scene,) = group_scenes(items)
    return scene


def box(width: int = SIDE, height: int = SIDE, *, left: float = LEFT, top: float = TOP, step: float = 10.0) -> GeoBox:
    return GeoBox((height, width), Affine(step, 0, left, 0, -step, top), f"EPSG:{EPSG}")


def numbers(low: int = 1, high: int = 10_000) -> NDArray[np.uint16]:
    return RNG.integers(low, high, (SIDE, SIDE)).astype(np.uint16)


# --- golden


@pytest.mark.shared
def test_antwerp_is_what_lies_in_the_files(shared_data: Path) -> None:
    frame = search(
        (4.261, 51.309, 4.267, 51.313), catalog=shared_data / "stac", collections=["antwerp-s2-l2a-scl"],
        start="2023-10-01", end="2023-12-31",
    )  # fmt: skip
    n_clear = 0
    for scene in group_scenes(records_from_frame(frame)):
        assets = scene.items[0].assets
        geobox = box(50, 60, left=587880 - 20, top=5685430 + 30)  # reaches out by 2 columns and 3 rows
        tile = read_tile(scene, geobox, RGB)
        inside = (slice(3, 55), slice(2, 48))
        outside = np.ones(geobox.shape, bool)
        outside[inside] = False
        assert not tile.valid[outside].any()
        assert np.isnan(tile.pixels[:, outside]).all()
        with rasterio.open(assets["scl"].href) as f:
            scl = f.read(1)
        clear = np.isin(scl, (2, 4, 5, 6, 7, 11))
        for n, band in enumerate(RGB):
            with rasterio.open(assets[band].href) as f:
                direct = f.read(1)
                clear &= direct != 65535
            got = tile.pixels[n][inside]
            np.testing.assert_allclose(got[tile.valid[inside]], direct[tile.valid[inside]] * 1e-4, atol=1e-6, rtol=0)
        np.testing.assert_array_equal(tile.valid[inside], clear)
        n_clear += int(clear.sum())
    assert n_clear > 1000


def test_a_granule_on_our_grid_is_copied_pixel_by_pixel(scenes: Simulation) -> None:
    frame = search(scenes.aoi, catalog=scenes.catalog, collections=[], start="2021-03-10", end="2021-03-10")
    scene = scene_of(*records_from_frame(frame))
    with rasterio.open(scene.items[0].assets["green"].href) as f:
        direct, transform, epsg = f.read(1), f.transform, f.crs.to_epsg()
    assert epsg == EPSG
    geobox = GeoBox((50, 60), transform @ Affine.translation(17, 11), f"EPSG:{epsg}")
    tile = read_tile(scene, geobox, ("green",))
    assert tile.valid.all()
    np.testing.assert_allclose(tile.pixels[0], direct[11:61, 17:77] * np.float32(1e-4), atol=1e-6, rtol=0)


@pytest.mark.shared
def test_boadella_is_warped_as_gdal_does_it_exactly(shared_data: Path) -> None:
    frame = search(
        (2.80, 42.335, 2.83, 42.36), catalog=shared_data / "stac", collections=["boadella-s2-l2a"],
        start="2020-01-28", end="2020-01-28",
    )  # fmt: skip
    scene = scene_of(*records_from_frame(frame))
    # Reaches over the western edge of the footprint.
    geobox = GeoBox((300, 320), Affine(10, 0, 481_800, 0, -10, 4_690_400), f"EPSG:{EPSG}")
    tile = read_tile(scene, geobox, RGB)
    for n, band in enumerate(RGB):
        with rasterio.open(scene.items[0].assets[band].href) as f:
            expected = np.full(geobox.shape, np.nan, np.float32)
            rasterio.warp.reproject(
                f.read(1).astype(np.float32), expected, src_transform=f.transform, src_crs=f.crs, src_nodata=np.nan,
                dst_transform=geobox.transform, dst_crs=str(geobox.crs), dst_nodata=np.nan,
                resampling=rasterio.warp.Resampling.bilinear, tolerance=0,
            )  # fmt: skip
        assert np.isnan(expected).any()
        np.testing.assert_array_equal(np.isfinite(expected), tile.valid)
        np.testing.assert_allclose(tile.pixels[n], expected * 1e-4, atol=1e-6, rtol=0)
    assert 0 < tile.valid.mean() < 1
    assert np.isnan(tile.pixels[:, ~tile.valid]).all(), "outside is missing, not 0, though no nodata is declared"


@pytest.mark.shared
def test_a_warped_pixel_does_not_depend_on_the_tile_it_is_read_in(shared_data: Path) -> None:
    aoi = (2.80, 42.335, 2.83, 42.36)
    frame = search(
        aoi, catalog=shared_data / "stac", collections=["boadella-s2-l2a"], start="2020-01-28", end="2020-01-28"
    )
    scene = scene_of(*records_from_frame(frame))
    mosaics = []
    for tile_chips in (12, 4):
        extent = GridExtent(ChipGrid(EPSG, 160, 160), tile_chips, range(29304 // tile_chips, 29316 // tile_chips),
                            range(3024 // tile_chips, 3036 // tile_chips))  # fmt: skip
        canvas = np.full((192, 192), np.nan, np.float32)
        for tile in extent.tiles():
            place = (slice(tile.y.start * 16, tile.y.stop * 16), slice(tile.x.start * 16, tile.x.stop * 16))
            canvas[place] = read_tile(scene, extent.tile_geobox(tile, 10), ("red",)).pixels[0]
        mosaics.append(canvas)
    assert np.isfinite(mosaics[0]).mean() > 0.5
    np.testing.assert_array_equal(*mosaics)


def test_a_coarser_band_is_interpolated_onto_the_fine_grid_without_a_shift(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(SIDE) * 100, np.arange(SIDE) * 7).astype(np.uint16) + 1000
    item = an_item(tmp_path, {"B11": ramp}, step=20.0)
    tile = read_tile(scene_of(item), box(20, 20, left=LEFT + 200, top=TOP - 200), ("swir16",))
    # Pixel centres of the fine grid lie a quarter of a coarse pixel off the coarse ones; a plane stays a plane.
    at = (200 + 5 + 10 * np.arange(20)) / 20 - 0.5
    np.testing.assert_allclose(tile.pixels[0], (np.add.outer(at * 100, at * 7) + 1000) * 1e-4, atol=1e-5)


# --- missing


def test_outside_of_a_file_without_nodata_is_missing_and_zero_inside_is_not(tmp_path: Path) -> None:
    values = numbers()
    values[5, 5] = 0
    tile = read_tile(scene_of(an_item(tmp_path, {"B04": values})), box(SIDE + 8, SIDE), ("red",))
    assert tile.valid[:, :SIDE].all()
    assert tile.pixels[0, 5, 5] == 0
    assert not tile.valid[:, SIDE:].any()
    assert np.isnan(tile.pixels[0, :, SIDE:]).all()


def test_a_tile_that_no_item_reaches_is_all_missing(tmp_path: Path) -> None:
    tile = read_tile(scene_of(an_item(tmp_path, {"B04": numbers()})), box(left=LEFT + 50_000), ("red",))
    assert tile.pixels.shape == (1, SIDE, SIDE)
    assert not tile.valid.any()
    assert np.isnan(tile.pixels).all()


@pytest.mark.parametrize("where", ["file", "item", "both", "neither"])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_nodata_is_honoured_wherever_it_is_declared(tmp_path: Path, where: str, shift: float) -> None:
    values = numbers(500, 600)
    values[10:20, 10:20] = 0
    item = an_item(
        tmp_path, {"B04": values}, file_nodata=0 if where in ("file", "both") else None,
        declared={"nodata": 0} if where in ("item", "both") else None,
    )  # fmt: skip
    tile = read_tile(scene_of(item), box(30, 30, left=LEFT + shift, top=TOP - shift), ("red",))
    hole = tile.valid[12:18, 12:18]
    assert hole.all() if where == "neither" else not hole.any()
    if where != "neither":
        seen = tile.pixels[0][tile.valid]
        assert seen.min() > 0.0499, "what is missing does not bleed into its neighbours"


def test_a_nodata_of_one_file_counts_for_all_bands(tmp_path: Path) -> None:
    red, green = numbers(), numbers()
    red[3, 3] = 0
    tile = read_tile(scene_of(an_item(tmp_path, {"B04": red, "B03": green}, file_nodata=0)), box(), ("red", "green"))
    assert not tile.valid[3, 3]
    assert np.isnan(tile.pixels[:, 3, 3]).all()
    assert tile.valid.sum() == SIDE * SIDE - 1


def test_scene_classes_make_the_masks(tmp_path: Path) -> None:
    scl = np.full((SIDE, SIDE), 4, np.uint8)
    scl[0, :12] = np.arange(12)
    tile = read_tile(scene_of(an_item(tmp_path, {"B04": numbers(), "SCL": scl})), box(), ("red",))
    masks = {name: [c for c in range(12) if getattr(tile, name)[0, c]] for name in ("cloud", "shadow", "snow", "water")}
    assert masks == {"cloud": [8, 9, 10], "shadow": [3], "snow": [11], "water": [6]}
    assert [c for c in range(12) if not tile.valid[0, c]] == [0, 1, 3, 8, 9, 10]
    assert tile.mask_source == "scl"
    assert tile.valid[1:].all()
    np.testing.assert_array_equal(np.isfinite(tile.pixels[0]), tile.valid)


def test_scene_classes_are_never_interpolated(tmp_path: Path) -> None:
    scl = np.where(np.indices((SIDE // 2, SIDE // 2)).sum(axis=0) % 2, 4, 11).astype(np.uint8)
    item = an_item(tmp_path, {"SCL": scl, "B04": numbers()[: SIDE // 2, : SIDE // 2]}, step=20.0)
    tile = read_tile(scene_of(item), box(SIDE - 4, SIDE - 4, left=LEFT + 20, top=TOP - 20), ("red",))
    assert tile.valid.all(), "between 4 and 11 lie 8, 9 and 10, which are clouds"


def test_the_classes_move_with_the_pixels_on_a_shifted_grid(tmp_path: Path) -> None:
    scl = np.full((SIDE, SIDE), 4, np.uint8)
    scl[:, 20:] = 9
    item = an_item(tmp_path, {"SCL": scl, "B04": numbers()})
    for shift, first in ((4.0, 20), (6.0, 19)):  # metres: the nearest pixel changes at half of one
        tile = read_tile(scene_of(item), box(30, 30, left=LEFT + shift, top=TOP), ("red",))
        assert int(np.argmax(tile.cloud[5])) == first


# --- mosaics


def test_two_granules_in_adjacent_zones_are_one_picture(tmp_path: Path) -> None:
    config = SimulationConfig.small(
        layout="two-zones", centre_lon=6.0, dates=("2022-06-04",), bands=("red",), scl=False
    )
    made = make_scenes(tmp_path / "s", config=config)
    frame = search(made.aoi, catalog=made.catalog, collections=[], start="2022-01-01", end="2022-12-31")
    west, east = records_from_frame(frame)
    area = shapely.union_all(frame.geometry.to_numpy())
    extent = GridExtent.covering(ChipGrid(EPSG, 160, 160), area, 8)
    together, alone = np.zeros(2), np.zeros(2)
    for tile in extent.tiles():
        geobox = extent.tile_geobox(tile, 10)
        both = read_tile(scene_of(west, east), geobox, ("red",))
        only = [read_tile(scene_of(item), geobox, ("red",)) for item in (west, east)]
        np.testing.assert_array_equal(both.valid, only[0].valid | only[1].valid)
        first = only[0] if scene_of(west, east).items[0].id == west.id else only[1]
        np.testing.assert_array_equal(both.pixels[0][first.valid], first.pixels[0][first.valid])
        overlap = only[0].valid & only[1].valid
        together += both.valid.sum(), overlap.sum()
        alone += only[0].valid.sum(), only[1].valid.sum()
        if overlap.any():  # the same ground, so nearly the same numbers
            assert np.median(np.abs(only[0].pixels[0] - only[1].pixels[0])[overlap]) < 0.01
    assert together[0] == alone.sum() - together[1]
    assert together[1] > 0
    assert (alone > 0).all()


def test_one_items_gap_does_not_hide_what_another_saw(tmp_path: Path) -> None:
    items = []
    for name, gap in (("a", np.s_[:, :20]), ("b", np.s_[:, 30:])):
        red, scl = numbers(500, 600), np.full((SIDE, SIDE), 4, np.uint8)
        red[gap], scl[gap] = 0, 0
        items.append(an_item(tmp_path, {"B04": red, "SCL": scl}, item_id=name))
        items[-1].raw["assets"]["B04"]["raster:bands"] = [{"nodata": 0}]  # type: ignore[index]
        items[-1] = parse_item(items[-1].raw, SENTINEL_2_L2A)
    tile = read_tile(scene_of(*items), box(), ("red",))
    assert tile.valid.all()
    with rasterio.open(tmp_path / "b_B04.tif") as f:
        np.testing.assert_allclose(tile.pixels[0, :, :20], f.read(1)[:, :20] * np.float32(1e-4), atol=1e-6)


def test_items_that_scale_differently_are_not_mixed(tmp_path: Path) -> None:
    old = an_item(tmp_path, {"B04": numbers()}, item_id="old", properties={"s2:processing_baseline": "03.01"})
    new = an_item(tmp_path, {"B04": numbers()}, item_id="new", properties={"s2:processing_baseline": "05.09"})
    with pytest.raises(ImageryError, match=r"(old and new|new and old) of one day scale their numbers differently"):
        read_tile(scene_of(old, new), box(), ("red",))
    low = read_tile(scene_of(new), box(), ("red",))
    assert low.pixels.min() == pytest.approx(-0.1, abs=0.01)


def test_items_that_name_their_assets_differently_are_not_mixed(tmp_path: Path) -> None:
    items = [an_item(tmp_path, {key: numbers()}, item_id=key) for key in ("B04", "red")]
    with pytest.raises(ImageryError, match="assets of different names"):
        read_tile(scene_of(*items), box(), ("red",))


def test_a_scene_is_not_masked_in_part_only(tmp_path: Path) -> None:
    masked = an_item(tmp_path, {"B04": numbers(), "SCL": np.full((SIDE, SIDE), 4, np.uint8)}, item_id="masked")
    bare = an_item(tmp_path, {"B04": numbers()}, item_id="bare")
    with pytest.raises(ImageryError, match="Item bare lacks the quality layer scl that item masked"):
        read_tile(scene_of(masked, bare), box(), ("red",))


@pytest.mark.shared
def test_bands_of_one_file_are_told_apart(shared_data: Path) -> None:
    frame = search(
        (-118.49, 34.32, -118.47, 34.34), catalog=shared_data / "stac", start="2025-01-07", end="2025-01-07",
        collections=["calfire-s2-before-after-shared"],
    )  # fmt: skip
    scene = scene_of(*records_from_frame(frame))
    with rasterio.open(scene.items[0].assets["red"].href) as f:
        direct, transform = f.read([3, 5]).astype(np.float32), f.transform
    geobox = GeoBox(direct.shape[1:], transform, "EPSG:4326")
    tile = read_tile(scene, geobox, ("red", "swir22"))
    np.testing.assert_allclose(tile.pixels[:, tile.valid], (direct * np.float32(1e-4))[:, tile.valid], atol=1e-6)
    assert tile.valid.mean() > 0.9


# --- errors


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    item = an_item(tmp_path, {"B04": numbers(), "B03": numbers()}, item_id="broken")
    path = tmp_path / "broken_B03.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageryError) as error:
        read_tile(scene_of(item), box(), ("red", "green"))
    message = str(error.value)
    assert "item broken" in message
    assert "asset B03" in message
    assert path.as_posix() in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, b"", b"not an image", b"II*\x00" + bytes(50)])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    item = an_item(tmp_path, {"B04": numbers()}, item_id="broken")
    path = tmp_path / "broken_B04.tif"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageryError, match=r"item broken, asset B04.*broken_B04\.tif"):
        read_tile(scene_of(item), box(), ("red",))


def test_a_vrt_under_another_name_is_refused(tmp_path: Path) -> None:
    item = an_item(tmp_path, {"B04": numbers(), "B03": numbers()}, item_id="sly")
    (tmp_path / "sly_B04.tif").write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:{EPSG}</SRS>'
        f"<GeoTransform>{LEFT}, 10, 0, {TOP}, 0, -10</GeoTransform>"
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{tmp_path}/sly_B03.tif</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(ImageryError, match=r"asset B04.*VRT"):
        read_tile(scene_of(item), box(), ("red",))


def test_a_band_that_an_item_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="'green'"):
        read_tile(scene_of(an_item(tmp_path, {"B04": numbers()})), box(), RGB)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cannot open https://a.b/c/B04.tif?sig=se%2Fcret&se=2022 now", "Cannot open https://a.b/c/B04.tif now"),
        ("'/vsicurl/https://a.b/B04.tif?X-Amz-Signature=secret'", "'/vsicurl/https://a.b/B04.tif'"),
        ("Max retries exceeded with url: /c/B04.tif?sig=secret (Caused by x)",
         "Max retries exceeded with url: /c/B04.tif (Caused by x)"),
        ("https://user:secret@a.b/B04.tif", "https://a.b/B04.tif"),
        ("Is it there? Try again=yes", "Is it there? Try again=yes"),
    ],
)  # fmt: skip
def test_messages_hold_no_signature(text: str, expected: str) -> None:
    assert without_signature(text) == expected
