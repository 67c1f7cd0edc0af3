"""Cutting chips: slices of the tile, each once, and an account of why one is left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geoelle import schema
from geoelle.chips import SEA_CONTRAST, TileChips, cut_chips
from geoelle.grid import ChipGrid, GridExtent, Tile
from geoelle.imagery import TilePixels
from geoelle.records import ItemRecord, Scene

GRID = ChipGrid(32631, 80, 40)
SIZE, STRIDE, N = 8, 4, 4
EXTENT = GridExtent(GRID, N, range(142_500 // N, 142_508 // N), range(12_500 // N, 12_508 // N))
TIME = np.datetime64("2022-06-04T10:36:21", "ns")
RNG = np.random.default_rng(3)


def a_scene() -> Scene:
    item = ItemRecord(
        "i", "c", "sentinel-2-l2a", TIME, "instant", None, (2, 50, 4, 52), None, None, None, None, None, None, None
    )
    return Scene(TIME.astype("datetime64[D]").astype("datetime64[ns]"), TIME, "instant", (item,))


def tile_pixels(extent: GridExtent = EXTENT, bands: int = 2, gsd_m: float = 10) -> TilePixels:
    shape = extent.tile_geobox(next(extent.tiles()), gsd_m).shape
    pixels = RNG.random((bands, *shape)).astype(np.float32)
    return masked(pixels, np.ones(tuple(shape), bool), np.zeros(tuple(shape), bool))


def masked(pixels: NDArray[np.float32], valid: NDArray[np.bool_], cloud: NDArray[np.bool_]) -> TilePixels:
    return TilePixels(pixels, valid, cloud, *(np.zeros_like(valid) for _ in range(3)), "scl")


def cut(pixels: TilePixels, tile: Tile, wanted: Any = None, extent: GridExtent = EXTENT, **options: Any) -> TileChips:
    n = extent.tile_chips
    wanted = np.ones((n, n), bool) if wanted is None else wanted
    bands = ("red", "green")[: len(pixels.pixels)]
    return cut_chips(pixels, a_scene(), extent, tile, wanted, bands=bands, units="reflectance", gsd_m=10, **options)


def spoil(pixels: TilePixels, window: tuple[slice, slice], *, cloud: bool) -> None:
    pixels.valid[window] = False
    pixels.cloud[window] = cloud
    pixels.pixels[:, window[0], window[1]] = np.nan


def test_chips_are_slices_of_the_tile() -> None:
    pixels = tile_pixels()
    chips = cut(pixels, next(EXTENT.tiles()))
    assert len(chips.batch) == N * N
    for k, (i, j) in enumerate(zip(*chips.index, strict=True)):
        window = np.s_[:, i * STRIDE : i * STRIDE + SIZE, j * STRIDE : j * STRIDE + SIZE]
        np.testing.assert_array_equal(chips.batch.pixels[k, 0], pixels.pixels[window])
        assert chips.contrast[i, j] == pytest.approx(
            pixels.pixels[window].astype(float).std(axis=(1, 2)).mean(), rel=1e-6
        )
    assert chips.batch.pixels.flags.c_contiguous
    assert (chips.status == schema.NOT_DONE).all()


def test_a_chip_is_where_its_id_says() -> None:
    """Pixels that hold their own coordinates come out in the chip of those coordinates."""
    for tile in EXTENT.tiles():
        geobox = EXTENT.tile_geobox(tile, 10)
        rows, columns = np.indices(tuple(geobox.shape)) + 0.5
        a = geobox.transform
        coordinates = np.stack([a.c + a.a * columns, a.f + a.e * rows]).astype(np.float32)
        valid = np.ones(tuple(geobox.shape), bool)
        chips = cut(masked(coordinates, valid, ~valid), tile)
        middle = chips.batch.pixels[:, 0].mean(axis=(-2, -1))
        for k, chip_id in enumerate(chips.batch.chip_id):
            grid, row, column = ChipGrid.parse_chip_id(str(chip_id))
            assert grid == GRID
            x, y = GRID.centre(np.array([row]), np.array([column]))
            assert middle[k] == pytest.approx((x[0], y[0]), abs=1)
            i, j = chips.index[0][k], chips.index[1][k]
            assert (EXTENT.y[tile.y][i], EXTENT.x[tile.x][j]) == (y[0], x[0])
            np.testing.assert_allclose(
                chips.batch.lonlat[k], GRID.lonlat(np.array([row]), np.array([column]))[0], atol=1e-9
            )


def test_the_time_is_the_scenes() -> None:
    batch = cut(tile_pixels(), next(EXTENT.tiles())).batch
    assert batch.time.dtype == "datetime64[ns]"
    assert (batch.time == TIME).all()
    assert (batch.sensor, batch.units, batch.bands, batch.gsd_m) == (
        "sentinel-2-l2a", "reflectance", ("red", "green"), 10,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cloudy", "nothing", "status"),
    [(0, 0, 0), (6, 0, 0), (0, 6, 0), (7, 0, schema.SKIPPED_CLOUD), (0, 7, schema.SKIPPED_INVALID),
     (4, 3, schema.SKIPPED_CLOUD), (3, 7, schema.SKIPPED_INVALID), (64, 0, schema.SKIPPED_CLOUD),
     (0, 64, schema.SKIPPED_INVALID), (57, 7, schema.SKIPPED_INVALID), (58, 6, schema.SKIPPED_CLOUD)],
)  # fmt: skip
def test_who_is_to_blame_for_a_chip_that_is_skipped(cloudy: int, nothing: int, status: int) -> None:
    """Of 64 pixels, at most 6 may be missing; the clouds are blamed only where it would have passed without them."""
    extent = GridExtent(ChipGrid(32631, 80, 80), 1, range(71_250, 71_251), range(6_250, 6_251))
    pixels = tile_pixels(extent)
    order = [np.unravel_index(k, (8, 8)) for k in RNG.permutation(64)]
    for k, (r, c) in enumerate(order[: cloudy + nothing]):
        spoil(pixels, np.s_[r : r + 1, c : c + 1], cloud=k < cloudy)
    chips = cut(pixels, next(extent.tiles()), extent=extent)
    assert chips.status[0, 0] == status
    assert chips.fractions["valid_fraction"][0, 0] == pytest.approx(1 - (cloudy + nothing) / 64)
    assert chips.fractions["cloud_fraction"][0, 0] == pytest.approx(cloudy / 64)
    assert len(chips.batch) == (status == schema.NOT_DONE)
    assert np.isfinite(chips.contrast[0, 0]) == (status == schema.NOT_DONE)
    assert chips.batch.valid.sum() == (64 - cloudy - nothing if len(chips.batch) else 0)


@pytest.mark.parametrize("n_bad", range(0, 65, 7))
def test_with_no_tolerance_clouds_are_still_told_from_gaps(n_bad: int) -> None:
    extent = GridExtent(ChipGrid(32631, 80, 80), 1, range(71_250, 71_251), range(6_250, 6_251))
    pixels = tile_pixels(extent)
    for k in range(n_bad):
        r, c = divmod(k, 8)
        spoil(pixels, np.s_[r : r + 1, c : c + 1], cloud=True)
    expected = schema.SKIPPED_CLOUD if n_bad else schema.NOT_DONE
    assert cut(pixels, next(extent.tiles()), extent=extent, max_invalid_fraction=0.0).status[0, 0] == expected


def test_what_the_aoi_does_not_ask_for_is_left_out_whatever_its_pixels() -> None:
    pixels = tile_pixels()
    spoil(pixels, np.s_[:8, :8], cloud=True)
    wanted = np.zeros((N, N), bool)
    wanted[0, 0] = wanted[3, 1] = True
    chips = cut(pixels, next(EXTENT.tiles()), wanted)
    assert chips.status[0, 0] == schema.SKIPPED_CLOUD
    assert (chips.status == schema.OUTSIDE_AOI).sum() == N * N - 2
    assert list(zip(*chips.index, strict=True)) == [(3, 1)]
    assert np.isfinite(chips.fractions["valid_fraction"]).all()


def test_a_tile_without_a_chip_to_embed_gives_an_empty_batch() -> None:
    pixels = tile_pixels()
    spoil(pixels, np.s_[:, :], cloud=False)
    chips = cut(pixels, next(EXTENT.tiles()))
    assert len(chips.batch) == 0
    assert chips.batch.pixels.shape == (0, 1, 2, SIZE, SIZE)
    assert (chips.status == schema.SKIPPED_INVALID).all()
    assert np.isnan(chips.contrast).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.floats(2.9, 3.1), st.floats(-0.1, 0.1),
    st.floats(0.001, 0.02), st.floats(0.001, 0.02),
)  # fmt: skip
def test_every_chip_of_an_aoi_comes_exactly_once(
    parts: int, stride_px: int, tile_chips: int, lon: float, lat: float, width: float, height: float
) -> None:
    grid = ChipGrid(32631, stride_px * parts * 40.0, stride_px * 40.0)
    area = shapely.box(lon, lat, lon + width, lat + height)
    extent = GridExtent.covering(grid, area, tile_chips)
    mask = extent.aoi_mask(area)
    rows, columns = np.nonzero(mask)
    expected = Counter(grid.chip_ids(extent.rows[rows], extent.columns[columns]).tolist())
    found: Counter[str] = Counter()
    for tile in extent.tiles():
        shape = tuple(extent.tile_geobox(tile, 40).shape)
        pixels = masked(np.zeros((1, *shape), np.float32), np.ones(shape, bool), np.zeros(shape, bool))
        chips = cut_chips(
            pixels, a_scene(), extent, tile, mask[tile.y, tile.x], bands=("red",), units="reflectance", gsd_m=40
        )
        found.update(chips.batch.chip_id.tolist())
    assert found == expected
    assert set(found.values()) <= {1}
    assert expected


# --- what is counted, and the filters


def brute_share(mask: NDArray[np.bool_], size: int, stride: int) -> NDArray[np.float32]:
    n = [(side - size) // stride + 1 for side in mask.shape]
    return np.array(
        [[mask[i * stride : i * stride + size, j * stride : j * stride + size].mean(dtype=np.float32)
          for j in range(n[1])] for i in range(n[0])], np.float32,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_shares_add_up_and_are_counted_exactly(size: int, stride: int, n_chips: int, seed: int, clouds: float) -> None:
    stride = min(size, stride)
    extent = GridExtent(ChipGrid(32631, size * 10, stride * 10), n_chips, range(100, 101), range(100, 101))
    tile = next(extent.tiles())
    shape = tuple(extent.tile_geobox(tile, 10).shape)
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, shape, p=[(1 - clouds) / 2, (1 - clouds) / 2, clouds / 2, clouds / 2])
    extras = [(rng.random(shape) < 0.3) & (kinds == 0) for _ in range(2)]
    pixels = np.where(kinds == 0, rng.random((2, *shape)), np.nan).astype(np.float32)
    tile_pixels = TilePixels(pixels, kinds == 0, kinds == 2, kinds == 3, *extras, "scl")
    chips = cut(tile_pixels, tile, extent=extent, max_invalid_fraction=1.0)
    unobserved = brute_share(kinds == 1, size, stride)
    for name in schema.FRACTIONS:
        expected = brute_share(getattr(tile_pixels, name.removesuffix("_fraction")), size, stride)
        np.testing.assert_array_equal(chips.fractions[name], expected)
        assert chips.fractions[name].dtype == np.float32
        assert ((chips.fractions[name] >= 0) & (chips.fractions[name] <= 1)).all()
    parts = [chips.fractions[f"{name}_fraction"] for name in ("valid", "cloud", "shadow")]
    np.testing.assert_allclose(sum(parts) + unobserved, 1, atol=1e-6)
    assert (chips.fractions["snow_fraction"] <= chips.fractions["valid_fraction"]).all()
    with np.errstate(invalid="ignore"):
        for k, (i, j) in enumerate(zip(*chips.index, strict=True)):
            if chips.batch.valid[k].any():
                seen = chips.batch.pixels[k, 0][:, chips.batch.valid[k, 0]].astype(np.float64)
                assert chips.contrast[i, j] == pytest.approx(seen.std(axis=1).mean(), rel=1e-5, abs=1e-7)
            else:
                assert np.isnan(chips.contrast[i, j])


@pytest.mark.parametrize("size", [255, 256, 257, 300])
def test_shares_of_large_chips_are_exact(size: int) -> None:
    """256 rows of true overflow a byte."""
    extent = GridExtent(ChipGrid(32631, size * 10, size * 10), 2, range(10, 11), range(10, 11))
    shape = (2 * size, 2 * size)
    valid = np.ones(shape, bool)
    valid[0, 0] = valid[-1, -5:] = False
    chips = cut(masked(np.ones((1, *shape), np.float32), valid, ~valid), next(extent.tiles()), extent=extent)
    missing = (1 - chips.fractions["valid_fraction"].astype(float)) * size * size
    np.testing.assert_allclose(missing, [[1, 0], [0, 5]], atol=0.01)
    np.testing.assert_array_equal(chips.contrast, 0)


def test_the_contrast_of_a_bright_chip_loses_no_digits() -> None:
    extent = GridExtent(ChipGrid(32631, 2560, 2560), 1, range(10, 11), range(10, 11))
    noise = RNG.normal(0, 1e-3, (1, 256, 256))
    for level in (0.0, 0.5, 1.5):
        pixels = (level + noise).astype(np.float32)
        chips = cut(masked(pixels, np.ones((256, 256), bool), np.zeros((256, 256), bool)), next(extent.tiles()),
                    extent=extent)  # fmt: skip
        assert chips.contrast[0, 0] == pytest.approx(pixels.astype(np.float64).std(), rel=1e-5)


def test_a_chips_contrast_does_not_depend_on_its_neighbours() -> None:
    pixels = tile_pixels()
    spoil(pixels, np.s_[3:4, 3:4], cloud=True)
    together = cut(pixels, next(EXTENT.tiles())).contrast
    for i, j in np.ndindex(N, N):
        wanted = np.zeros((N, N), bool)
        wanted[i, j] = True
        assert cut(pixels, next(EXTENT.tiles()), wanted).contrast[i, j] == together[i, j]


@pytest.mark.parametrize(("limit", "status"), [(None, 0), (0.1, 0), (4 / 64, 0), (0.05, schema.SKIPPED_CLOUD)])
def test_a_limit_for_clouds_of_their_own(limit: float | None, status: int) -> None:
    extent = GridExtent(ChipGrid(32631, 80, 80), 1, range(71_250, 71_251), range(6_250, 6_251))
    pixels = tile_pixels(extent)
    spoil(pixels, np.s_[0:1, 0:2], cloud=True)
    spoil(pixels, np.s_[1:2, 0:2], cloud=False)
    pixels.shadow[1, 0:2] = True
    chips = cut(pixels, next(extent.tiles()), extent=extent, max_cloud_fraction=limit)
    assert chips.status[0, 0] == status
    assert len(chips.batch) == (status == schema.NOT_DONE)


def test_flat_chips_are_left_out_only_if_asked() -> None:
    pixels = tile_pixels()
    pixels.pixels[:, :SIZE, :SIZE] = 0.02 + 1e-4 * RNG.random((2, SIZE, SIZE))
    assert len(cut(pixels, next(EXTENT.tiles())).batch) == N * N
    chips = cut(pixels, next(EXTENT.tiles()), min_contrast=SEA_CONTRAST)
    assert chips.status[0, 0] == schema.SKIPPED_FLAT
    assert 0 < chips.contrast[0, 0] < SEA_CONTRAST
    assert len(chips.batch) == N * N - 1
    assert (0, 0) not in set(zip(*chips.index, strict=True))
    for k, (i, j) in enumerate(zip(*chips.index, strict=True)):
        window = np.s_[:, i * STRIDE : i * STRIDE + SIZE, j * STRIDE : j * STRIDE + SIZE]
        np.testing.assert_array_equal(chips.batch.pixels[k, 0], pixels.pixels[window])
