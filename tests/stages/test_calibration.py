"""Pairs and the local probe."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pytest
import zarr

import geoelle
from geoelle import calibration
from geoelle.catalog import group_scenes
from geoelle.config import CalibrateConfig
from geoelle.embedding import load_records
from geoelle.encoders import get_card, load_encoder
from geoelle.errors import AlreadyExistsError, ConfigError, ImageryError, ProbeError, StoreError, TooFewBlocksError
from geoelle.grid import ChipGrid
from geoelle.holdout import assign_blocks, block_keys
from geoelle.jobs import ChipOptions, read_chips
from geoelle.mapping import load_probe
from geoelle.probe import held_out_difficulty
from geoelle.probe.measures import correlation, partial_r, reliability
from geoelle.schema import check_pairs
from geoelle.sensors import get_sensor
from geoelle.store.layout import extent_of
from geoelle.texture import TEXTURE_NAMES, texture_features

if TYPE_CHECKING:
    from conftest import Calibrated, Chain

N, MASKS, BLOCK_M = 120, 8, 640


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_pairs_keep_their_contract(calibrated: Calibrated) -> None:
    pairs = calibrated.pairs
    check_pairs(pairs)
    assert len(pairs) == N
    assert not pairs.duplicated(["chip_id", "scene"]).any()
    assert "2021-05-10" not in set(pairs["scene"])
    assert (pairs["n_masks"] == MASKS).all()
    assert str(pairs["time"].dtype) == "datetime64[ns]"
    assert (pairs["time"].dt.strftime("%Y-%m-%d") == pairs["scene"]).all()
    assert pairs.crs.to_epsg() == 4326


def test_pairs_are_geoparquet(calibrated: Calibrated) -> None:
    back = gpd.read_parquet(calibrated.pairs_path)
    check_pairs(back)
    assert back.attrs["geoelle:calibration"] == calibrated.pairs.attrs["geoelle:calibration"]
    np.testing.assert_array_equal(np.stack(back["embedding"]), np.stack(calibrated.pairs["embedding"]))
    assert back.geometry.equals(calibrated.pairs.geometry)


def test_pairs_are_at_their_place_and_in_their_block(calibrated: Calibrated) -> None:
    pairs = calibrated.pairs
    parsed = [ChipGrid.parse_chip_id(chip) for chip in pairs["chip_id"]]
    rows, columns = (np.array([p[i] for p in parsed]) for i in (1, 2))
    lonlat = parsed[0][0].lonlat(rows, columns)
    np.testing.assert_allclose(np.stack([pairs.geometry.x, pairs.geometry.y], axis=1), lonlat, atol=1e-9)
    assert list(pairs["block"]) == list(block_keys(assign_blocks(lonlat, BLOCK_M), BLOCK_M))


def test_embedding_is_the_stores(chain: Chain, calibrated: Calibrated) -> None:
    ds = geoelle.open_store(chain.embeddings)
    extent = extent_of(ds.attrs)
    for _, pair in calibrated.pairs.iloc[::17].iterrows():
        _, row, column = ChipGrid.parse_chip_id(pair["chip_id"])
        stored = (
            ds["embedding"]
            .sel(time=pair["time"])
            .values[list(extent.rows).index(row), list(extent.columns).index(column)]
        )
        np.testing.assert_array_equal(pair["embedding"], stored)


def test_loss_and_texture_by_hand(chain: Chain, calibrated: Calibrated) -> None:
    """The encoder's own loss over the chip's fixed masks, from the pixels of its date and place."""
    pairs = calibrated.pairs
    ds = geoelle.open_store(chain.embeddings)
    extent, card, encoder = extent_of(ds.attrs), get_card("compact-rgb"), load_encoder("compact-rgb")
    day = pairs["scene"].iloc[0]
    mine = pairs[pairs["scene"] == day].set_index("chip_id")
    scene = next(s for s in group_scenes(load_records(chain.items)) if str(s.day)[:10] == day)
    assert all(tuple(ids) == scene.item_ids for ids in mine["item_ids"])
    checked = 0
    for tile in extent.tiles():
        batch = read_chips(
            scene, extent, tile, np.ones((16, 16), dtype=bool), card, ChipOptions(0.1), get_sensor(card.sensor)
        ).batch
        here = np.flatnonzero(np.isin(batch.chip_id, mine.index))
        batch = batch.select(here)
        if not len(here):
            continue
        losses = encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, MASKS, 32)).astype(np.float64)
        found = mine.loc[list(batch.chip_id)]
        np.testing.assert_allclose(found["loss"], losses.mean(axis=1), rtol=1e-5)
        np.testing.assert_allclose(found["loss_sd"], losses.std(axis=1, ddof=1), rtol=1e-4)
        texture = texture_features(batch.pixels[:, 0], *card.clip)
        np.testing.assert_allclose(found[list(TEXTURE_NAMES)], texture, rtol=1e-6)
        np.testing.assert_allclose(found["brightness"], np.nanmean(batch.pixels, axis=(1, 2, 3, 4)), rtol=1e-5)
        checked += len(here)
    assert checked == len(mine) > 5


def test_the_probe_is_there_and_says_where_from(chain: Chain, calibrated: Calibrated) -> None:
    assert sorted(p.name for p in calibrated.probe.iterdir()) == ["probe.json", "probe.safetensors"]
    encoder = geoelle.open_store(chain.embeddings).attrs["geoelle:encoder"]
    probe = load_probe(calibrated.probe, encoder)
    meta = probe.meta
    assert (meta.origin, meta.encoder, meta.chip_size_px, meta.n_masks) == ("local", "compact-rgb", 32, MASKS)
    assert (meta.n_train, meta.n_scenes, meta.n_folds) == (N, 5, 5)
    assert meta.n_blocks == calibrated.pairs["block"].nunique() >= 3
    assert "2021-03-10" in meta.trained_on


def test_the_summary_counts_and_holds_out(chain: Chain, calibrated: Calibrated) -> None:
    found = calibrated.pairs.attrs["geoelle:calibration"]
    assert found["fitted"]
    assert (found["origin"], found["why"], found["n_pairs"]) == ("local", "", N)
    assert found["n_blocks"] == calibrated.pairs["block"].nunique()
    assert found["n_scenes"] == 5
    assert found["block_size_m"] == BLOCK_M
    ds = geoelle.open_store(chain.embeddings)
    assert N <= found["n_candidates"] < int((ds["status"].values == 1).sum()) * 5 // 6  # without those across borders
    assert 0 < found["reliability"] <= 1
    assert found["ceiling"] == pytest.approx(found["reliability"] ** 0.5)
    json.dumps(found, allow_nan=False)


def test_partial_r_is_held_out_like_the_scores(chain: Chain, calibrated: Calibrated) -> None:
    """Taken from the fit itself it would flatter: the probe has seen these very pairs."""
    pairs, found = calibrated.pairs, calibrated.pairs.attrs["geoelle:calibration"]
    probe = load_probe(calibrated.probe, geoelle.open_store(chain.embeddings).attrs["geoelle:encoder"])
    x, loss = np.stack(pairs["embedding"]), pairs["loss"].to_numpy()
    texture = pairs[list(TEXTURE_NAMES)].to_numpy()
    assert found["partial_r"] < partial_r(probe.predict(x), loss, texture)
    blocks = pairs["block"].to_numpy(dtype=str)
    folds = calibration.folds_from_blocks(blocks, 5, lonlat=np.stack([pairs.geometry.x, pairs.geometry.y], axis=1))
    held_out = held_out_difficulty(probe, x, loss, folds)
    assert correlation(held_out, loss) == pytest.approx(found["scores"]["r"], abs=1e-6)
    assert found["partial_r"] == pytest.approx(partial_r(held_out, loss, texture))


def test_an_unchanged_rerun_does_nothing(chain: Chain, calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bytes_of(calibrated.probe.parent)

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("an unchanged calibration was done again")

    monkeypatch.setattr(calibration, "run_jobs", never)
    again = geoelle.calibrate(
        chain.embeddings, items=chain.items, out=calibrated.probe, n=N, block_size_m=BLOCK_M,
        exclude_dates=["2021-05-10"], allow_few=True,
    )  # fmt: skip
    assert bytes_of(calibrated.probe.parent) == before
    assert again.attrs == calibrated.pairs.attrs
    with pytest.raises(AssertionError, match="done again"):
        geoelle.calibrate(chain.embeddings, items=chain.items, out=calibrated.probe, n=N + 1, block_size_m=BLOCK_M)


def test_the_same_again_gives_the_same_bytes_and_a_lost_probe_comes_back(
    chain: Chain, calibrated: Calibrated, tmp_path: Path
) -> None:
    shutil.copy(calibrated.pairs_path, tmp_path / "pairs.parquet")
    options: dict[str, Any] = {"items": chain.items, "n": N, "block_size_m": BLOCK_M, "exclude_dates": ["2021-05-10"]}
    options["allow_few"] = True
    geoelle.calibrate(chain.embeddings, out=tmp_path / "probe", **options)
    assert bytes_of(tmp_path / "probe") == bytes_of(calibrated.probe)
    back = gpd.read_parquet(tmp_path / "pairs.parquet")
    np.testing.assert_array_equal(back["loss"], calibrated.pairs["loss"])


def test_few_blocks_give_pairs_and_the_reason_but_no_probe(chain: Chain, tmp_path: Path) -> None:
    options: dict[str, Any] = {"items": chain.items, "out": tmp_path / "probe", "n": 40, "block_size_m": 1000}
    pairs = geoelle.calibrate(chain.embeddings, **options)
    found = pairs.attrs["geoelle:calibration"]
    assert (found["fitted"], found["origin"], found["probe_digest"]) == (False, "shipped", "")
    assert not (tmp_path / "probe").exists()
    assert (tmp_path / "pairs.parquet").is_file()
    n_blocks = pairs["block"].nunique()
    assert found["n_blocks"] == n_blocks < 30
    assert f"{n_blocks} independent blocks of 1000 m" in found["why"]
    assert "--allow-few" in found["why"]
    allowed = geoelle.calibrate(chain.embeddings, **options, allow_few=True)
    assert allowed.attrs["geoelle:calibration"]["fitted"]
    assert (tmp_path / "probe" / "probe.json").is_file()


@pytest.mark.parametrize(("chip_size_m", "expected"), [(320, 2000), (1000, 2000), (1280, 5120), (6720, 26880)])
def test_blocks_hold_four_large_chips_where_nobody_says_how_large(chip_size_m: float, expected: float) -> None:
    assert calibration.default_block_size_m(chip_size_m) == expected
    assert CalibrateConfig().block_size_m is None


def test_chips_of_more_than_a_kilometre_need_no_option(chain: Chain, tmp_path: Path) -> None:
    store = tmp_path / "embeddings.zarr"
    geoelle.embed(
        chain.items, aoi=chain.scenes.aoi, out=store, encoder="compact-rgb@20m", chip_size_m=1280, stride_m=160
    )
    pairs = geoelle.calibrate(store, items=chain.items, out=tmp_path / "probe", n=10, masks=2)
    assert pairs.attrs["geoelle:calibration"]["block_size_m"] == 5120
    assert pairs["block"].str.startswith("b5120_").all()
    with pytest.raises(ConfigError, match="block_size_m is 2000 with chips of 1280 m"):  # asked for, so not mended
        geoelle.calibrate(store, items=chain.items, out=tmp_path / "probe", n=10, masks=2, block_size_m=2000)


def test_not_even_three_blocks(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(TooFewBlocksError):
        geoelle.calibrate(
            chain.embeddings, items=chain.items, out=tmp_path / "probe", n=20, block_size_m=100_000, allow_few=True
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"masks": 1}, *({"block_size_m": size} for size in (float("nan"), -1, 500))]
)
def test_numbers_that_make_no_sense(chain: Chain, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        geoelle.calibrate(chain.embeddings, items=chain.items, out=tmp_path / "probe", **options)


def test_nothing_else_is_lost_to_a_probe_or_pairs(chain: Chain, tmp_path: Path) -> None:
    """Both replace what is there, so a slip of the path must not cost a folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for slip in ({"out": tmp_path / "mine"}, {"out": tmp_path / "probe", "pairs_out": tmp_path / "mine"}):
        with pytest.raises(AlreadyExistsError, match="mine"):
            geoelle.calibrate(chain.embeddings, items=chain.items, n=20, **slip)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_items_that_the_store_was_not_made_from(chain: Chain, tmp_path: Path) -> None:
    """Other items would pair an embedding with the loss of other pixels."""
    records = geoelle.search(
        chain.scenes.aoi, catalog=chain.scenes.catalog, collections=[chain.scenes.collection], start="2021-01-01",
        end="2021-12-31",
    )  # fmt: skip
    with pytest.raises(ImageryError, match="nothing of 2021-03-10"):
        geoelle.calibrate(chain.embeddings, items=records.iloc[1:], out=tmp_path / "probe", n=60, block_size_m=BLOCK_M)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_changed_since(chain: Chain, tmp_path: Path) -> None:
    store = tmp_path / "embeddings.zarr"
    shutil.copytree(chain.embeddings, store)
    root = zarr.open_group(store, mode="r+")
    encoder = dict(root.attrs["geoelle:encoder"])
    root.attrs["geoelle:encoder"] = {**encoder, "weights_sha256": "0" * 64}
    with pytest.raises(StoreError, match="another version of compact-rgb"):
        geoelle.calibrate(store, items=chain.items, out=tmp_path / "probe")
    root.attrs["geoelle:encoder"] = {**encoder, "loss_kind": "unavailable"}
    with pytest.raises(ProbeError, match="no loss"):
        geoelle.calibrate(store, items=chain.items, out=tmp_path / "probe")


def test_texture_by_hand() -> None:
    pixels = np.zeros((2, 1, 4, 4), dtype=np.float32)
    pixels[0, 0, :, 2:] = 1.0
    pixels[1, 0, 0, 0] = np.nan
    brightness, contrast, gradient, size = texture_features(pixels, 0.0, 1.0).T
    np.testing.assert_allclose(brightness, [0.5, 0])
    np.testing.assert_allclose(contrast, [0.5, 0])
    np.testing.assert_allclose(gradient, [1 / 3, 0])
    assert size[0] > size[1] > 0
    assert texture_features(pixels[:0], 0.0, 1.0).shape == (0, 4)


def test_reliability_of_known_noise() -> None:
    """K parallel draws of signal with variance 1 and noise with variance s²: K / (K + s²)."""
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((40_000, 1))
    for sd in (0.5, 2.0):
        draws = signal + sd * rng.standard_normal((40_000, 8))
        assert reliability(draws) == pytest.approx(8 / (8 + sd**2), abs=0.01)
    assert np.isnan(reliability(np.ones((5, 8))))
    assert np.isnan(reliability(signal))


def test_partial_r_of_known_parts() -> None:
    rng = np.random.default_rng(2)
    a, b, noise = rng.standard_normal((3, 50_000))
    loss = 3 * a + b
    assert partial_r(a, loss, a[:, None]) != partial_r(a, loss, a[:, None]) or np.isnan(partial_r(a, loss, a[:, None]))
    assert partial_r(3 * a + b + noise, loss, a[:, None]) == pytest.approx(0.5**0.5, abs=0.01)
    assert partial_r(a + 0.5 * noise, loss, a[:, None]) == pytest.approx(0, abs=0.02)
    assert np.isnan(partial_r(a[:3], loss[:3], a[:3, None]))
