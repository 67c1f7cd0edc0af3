"""The stock: bands by name, the offset taken out, nothing on both sides of the hold-out, steps by the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from geoelle.errors import NotFoundError, SchemaError  # noqa: E402
from geoelle.training.batches import SET_OF, Plan, Stock, draw_batch, plan_step  # noqa: E402
from geoelle.training.cuts import cut, join, pooled  # noqa: E402
from geoelle.training.sources import (  # noqa: E402
    BANDS,
    OFFSET_SCENES,
    Source,
    read_clear_dates,
    read_ms_chips,
    read_scenes,
    split_source,
)
from geoelle.training.stock import HeldOut, StockPaths, read_stock  # noqa: E402

pytestmark = pytest.mark.models


def test_ms_bands_are_found_by_name(paths: StockPaths) -> None:
    chips = read_ms_chips(paths.ms)
    with np.load(paths.ms) as packed:
        raw, listed = packed["image"], packed["bands"].tolist()
    for band, number in (("nir08", "B8A"), ("swir16", "B11"), ("blue", "B02")):
        np.testing.assert_allclose(
            chips.images[:, BANDS.index(band)], raw[:, listed.index(number)] * 1e-4, rtol=1e-6, err_msg=band
        )


def test_missing_bands_and_files_are_named(paths: StockPaths, tmp_path: Path) -> None:
    with np.load(paths.ms) as packed:
        np.savez(tmp_path / "few.npz", image=packed["image"][:, :3], bands=packed["bands"][:3], name=packed["name"])
    with pytest.raises(SchemaError, match="B8A"):
        read_ms_chips(tmp_path / "few.npz")
    with pytest.raises(NotFoundError, match=r"none\.npz"):
        read_ms_chips(tmp_path / "none.npz")
    with pytest.raises(NotFoundError, match="ms_index"):
        read_scenes(tmp_path / "ms")
    with pytest.raises(NotFoundError, match="clear"):
        read_clear_dates(tmp_path)


def test_offset_is_taken_out_and_share_alike_scenes_stay_out(paths: StockPaths) -> None:
    scenes = read_scenes(paths.scenes)
    assert scenes.keys == tuple(f"satclip_{i}" for i in range(8))
    lows = scenes.images.min(axis=(1, 2, 3))
    assert lows[3] < 0.05  # would be above 0.1
    assert (lows < 0.05).all()


def test_only_clear_dates_are_read(paths: StockPaths) -> None:
    series = read_clear_dates(paths.series)
    assert series.keys == ("day_1/first", "day_1/last")
    assert series.bands == ("blue", "green", "red", "nir")
    assert series.images.shape == (2, 4, 44, 44)


def test_no_place_lies_on_both_sides(stock: Stock, held: HeldOut) -> None:
    for training, kept in ((stock.multispectral[1], held.chips), (stock.multispectral[0], held.scenes)):
        assert not set(training.keys) & set(kept.keys)
        assert len(kept) == 5
    trained_rgb = set(stock.rgb.keys)
    assert not {Path(key).stem for key in held.chips.keys} & trained_rgb
    held_rgb = {Path(str(name)).stem for name in held.rgb.name}
    assert not {Path(key).stem for key in stock.multispectral[1].keys} & held_rgb


def test_places_that_must_be_held_out_are(stock: Stock) -> None:
    source = Source("four", ("blue",), np.zeros((4, 1, 2, 2), np.float32), ("a.tif", "b.tif", "c.tif", "d.tif"))
    training, kept = split_source(source, 2, first={"c", "d"}, never={"b"})
    assert set(kept.keys) == {"c.tif", "d.tif"}
    training, kept = split_source(source, 3, never={"b"})
    assert training.keys == ("b.tif",)
    with pytest.raises(SchemaError, match="four has 4 images"):
        split_source(source, 4)


def test_figures_are_those_of_the_chips(stock: Stock) -> None:
    chips = stock.multispectral[1]
    for band, source in (("blue", stock.rgb), ("red", stock.rgb), ("nir08", chips), ("swir22", chips)):
        values = source.images[:, source.bands.index(band)].astype(np.float64)
        assert stock.mean[BANDS.index(band)] == pytest.approx(values.mean(), abs=1e-5)
        assert stock.std[BANDS.index(band)] == pytest.approx(values.std(), abs=1e-5)
    assert stock.counts == {"EuroSAT RGB": 45, "scenes": 3, "EuroSAT MS": 7, "Antwerp": 2}


def test_plans_cover_sets_sizes_and_pixel_sizes_and_depend_on_the_seed() -> None:
    plans = [plan_step(0, step, multispectral=True) for step in range(2000)]
    assert plans == [plan_step(0, step, multispectral=True) for step in range(2000)]
    assert plans != [plan_step(1, step, multispectral=True) for step in range(2000)]
    assert 0.45 < np.mean([plan.multispectral for plan in plans]) < 0.55
    mixed = [plan for plan in plans if plan.multispectral]
    assert {(plan.size_px, plan.gsd_m) for plan in mixed} == {(64, 10), (32, 10), (64, 20), (32, 20)}
    for title, bands in SET_OF.items():
        assert 0.1 < np.mean([plan.bands == bands for plan in mixed]) < 0.3, title
    assert {len(plan.bands) for plan in mixed} == set(range(1, 11))
    assert not any(plan_step(0, step, multispectral=False).multispectral for step in range(50))


@pytest.mark.parametrize(
    ("plan", "n"),
    [
        (Plan(False, SET_OF["rgb"], 64, 10), 6),
        (Plan(False, SET_OF["rgb"], 32, 20), 12),
        (Plan(True, SET_OF["s2"], 64, 20), 6),
        (Plan(True, ("nir",), 32, 10), 12),
    ],
)
def test_batches_are_of_one_shape_and_repeatable(stock: Stock, plan: Plan, n: int) -> None:
    batch = draw_batch(stock, plan, 0, 5, 6)
    assert batch.shape == (n, len(plan.bands), plan.size_px, plan.size_px)
    assert torch.isfinite(batch).all()
    assert torch.equal(batch, draw_batch(stock, plan, 0, 5, 6))
    assert not torch.equal(batch, draw_batch(stock, plan, 0, 6, 6))


def test_twenty_metres_are_means_of_four_pixels() -> None:
    images = np.arange(2 * 1 * 6 * 4, dtype=np.float32).reshape(2, 1, 6, 4)
    found = pooled(images, 2)
    assert found.shape == (2, 1, 3, 2)
    assert found[0, 0, 0, 0] == images[0, 0, :2, :2].mean()


def test_cut_chips_keep_image_and_fold_together(held: HeldOut) -> None:
    chips = cut(held.scenes, ("nir", "blue"), 32, 10, 16)
    assert len(chips) == 5 * 49
    assert chips.batch.gsd_m == 10
    for group in np.unique(chips.group):
        assert len(np.unique(chips.fold[chips.group == group])) == 1
    scene = held.scenes.images[0][[BANDS.index("nir"), BANDS.index("blue")]]
    np.testing.assert_array_equal(chips.batch.pixels[1, 0], scene[:, :32, 16:48])
    both = join([chips, cut(held.chips, ("nir", "blue"), 32, 10)])
    assert len(both) == 5 * 49 + 5 * 4
    assert len(set(both.batch.chip_id)) == len(both)


@pytest.mark.shared
def test_real_stock(shared_data: Path) -> None:
    stock, held = read_stock(StockPaths.under(shared_data))
    assert stock.counts == {"EuroSAT RGB": 3300, "scenes": 10, "EuroSAT MS": 50, "Antwerp": 4}
    assert (len(held.rgb), len(held.chips), len(held.scenes)) == (2000, 20, 5)
    every = read_scenes(StockPaths.under(shared_data).scenes)
    swir = every.images[[every.keys.index(key) for key in OFFSET_SCENES], BANDS.index("swir22")]
    # Water and shadow reflect nothing at 2.2 µm; with the offset still in, no pixel would lie below 0.1.
    assert (np.quantile(swir, 0.001, axis=(1, 2)) < 0.1).all()
    vegetation = stock.multispectral[1].images.mean(axis=(0, 2, 3))
    assert vegetation[BANDS.index("nir08")] > 1.5 * vegetation[BANDS.index("red")]
