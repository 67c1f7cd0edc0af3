"""Calibration, difficulty, delta and alerts of areas in several zones, also across the antimeridian."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
import zarr
from zoned_stores import across, cut_in_two, write_difficulties

import geoelle
from geoelle.change import rank_alerts
from geoelle.change.scoring import p_values, reference_from, z_score
from geoelle.errors import ConfigError, HistoryTooShortError, NotFoundError, SchemaError, StoreError
from geoelle.schema import check_delta
from geoelle.store.layout import extent_of
from geoelle.store.zones import open_area, open_zones, zones_of

if TYPE_CHECKING:
    from conftest import Chain

ALL_DAYS = ("2020-01-05", "2020-02-05", "2020-03-05", "2020-04-05", "2020-05-05", "2020-06-05", "2020-07-05")
# The two zones are not seen on the same days.
DAYS = {"32601": ALL_DAYS, "32660": (*ALL_DAYS[:3], "2020-04-20", *ALL_DAYS[4:])}


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# ---- calibration and difficulty: one area, kept flat and cut in two


@dataclass(frozen=True)
class Both:
    flat: Path
    cut: Path
    items: Path
    flat_pairs: gpd.GeoDataFrame
    cut_pairs: gpd.GeoDataFrame
    folder: Path


@pytest.fixture(scope="module")
def both(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The same embeddings in one store and in two groups, and what calibrating on each gives."""
    folder = tmp_path_factory.mktemp("both")
    flat, cut = folder / "flat.zarr", folder / "cut.zarr"
    geoelle.embed(chain.items, aoi=chain.scenes.aoi, out=flat, chip_size_m=320, stride_m=160, tile_chips=4)
    cut_in_two(flat, cut)
    options = {"items": chain.items, "n": 50, "masks": 2, "block_size_m": 640, "allow_few": True}
    pairs = [geoelle.calibrate(path, out=folder / path.stem / "probe", **options) for path in (flat, cut)]
    return Both(flat, cut, chain.items, *pairs, folder)


def test_calibration_pools_the_zones(both: Both) -> None:
    """Cut in two, the same chips are drawn, with the same loss and embedding."""
    flat, cut = (p.sort_values(["chip_id", "scene"], ignore_index=True) for p in (both.flat_pairs, both.cut_pairs))
    assert len(flat) == 50
    for name in ("chip_id", "scene", "block", "loss", "loss_sd", "n_masks", "time"):
        assert list(flat[name]) == list(cut[name]), name
    np.testing.assert_array_equal(np.stack(flat["embedding"]), np.stack(cut["embedding"]))
    assert flat.geometry.equals(cut.geometry)
    found, expected = cut.attrs["geoelle:calibration"], flat.attrs["geoelle:calibration"]
    assert found["n_candidates"] == expected["n_candidates"]
    assert found["scores"]["r"] == pytest.approx(expected["scores"]["r"], abs=1e-6)
    halves = {name: extent_of(ds.attrs) for name, ds in open_zones(both.cut, "embeddings").items()}
    columns = [int(c.rsplit("_c", 1)[1]) for c in cut["chip_id"]]
    for extent in halves.values():
        assert sum(c in set(extent.columns.tolist()) for c in columns) > 5, "a zone without a pair"


def test_calibrating_again_does_nothing(both: Both) -> None:
    before = bytes_of(both.folder / "cut")
    geoelle.calibrate(
        both.cut, items=both.items, out=both.folder / "cut" / "probe", n=50, masks=2, block_size_m=640, allow_few=True
    )
    assert bytes_of(both.folder / "cut") == before


def test_difficulty_has_the_same_zones(both: Both, tmp_path: Path) -> None:
    probe = both.folder / "flat" / "probe"
    told: list[tuple[int, int]] = []
    flat = geoelle.difficulty(both.flat, out=tmp_path / "flat.zarr", probe=probe)
    cut = geoelle.difficulty(
        both.cut, out=tmp_path / "cut.zarr", probe=probe, progress=lambda done, total: told.append((done, total))
    )
    assert isinstance(flat, xr.Dataset)
    assert isinstance(cut, xr.DataTree)
    assert list(cut.children) == ["32631", "32632"]
    assert told[-1] == (12, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    for name in ("difficulty", "difficulty_se", "support"):
        joined = np.concatenate([ds[name].values for ds in zones_of(cut).values()], axis=2)
        np.testing.assert_allclose(joined, flat[name].values, rtol=1e-6)
    before = bytes_of(tmp_path / "cut.zarr")
    geoelle.difficulty(both.cut, out=tmp_path / "cut.zarr", probe=probe)
    assert bytes_of(tmp_path / "cut.zarr") == before


def test_a_store_in_the_way_is_left(both: Both, tmp_path: Path) -> None:
    probe = both.folder / "flat" / "probe"
    geoelle.difficulty(both.flat, out=tmp_path / "flat.zarr", probe=probe)
    geoelle.difficulty(both.cut, out=tmp_path / "cut.zarr", probe=probe)
    before = bytes_of(tmp_path)
    with pytest.raises(StoreError, match="with zones None"):
        geoelle.difficulty(both.cut, out=tmp_path / "flat.zarr", probe=probe)
    with pytest.raises(StoreError, match=r"in the way.*several zones: 32631, 32632"):
        geoelle.difficulty(both.flat, out=tmp_path / "cut.zarr", probe=probe)
    assert bytes_of(tmp_path) == before


def test_zones_of_different_encoders_are_refused(both: Both, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(both.cut, tmp_path / "e.zarr")
    root = zarr.open_group(tmp_path / "e.zarr" / "32632", mode="r+")
    root.attrs["geoelle:encoder"] = {**root.attrs["geoelle:encoder"], "card_digest": "0" * 64}  # type: ignore[dict-item]
    with pytest.raises(StoreError, match="different encoders"):
        geoelle.difficulty(tmp_path / "e.zarr", out=tmp_path / "d.zarr")
    with pytest.raises(StoreError, match="different encoders"):
        geoelle.calibrate(tmp_path / "e.zarr", items=both.items, out=tmp_path / "probe")


# ---- delta and alerts across the antimeridian


def made_up() -> dict[str, np.ndarray]:
    """Noise about a level of its own at each place; late jumps in both zones, the largest in zone 60."""
    rng = np.random.default_rng(3)
    values = {}
    for zone in across():
        level = 0.5 + 0.2 * rng.random(zone.extent.shape)
        noise = 0.05 * rng.standard_normal((7, *zone.extent.shape))
        values[zone.name] = np.where(zone.wanted, level + noise, np.nan)
    for name, jump in (("32601", 2.0), ("32660", 5.0)):
        wanted = next(z.wanted for z in across() if z.name == name)
        row, column = np.argwhere(wanted)[len(np.argwhere(wanted)) // 2]
        values[name][6, row, column] += jump
    return values


@dataclass(frozen=True)
class Judged:
    values: dict[str, np.ndarray]
    difficulty: Path
    delta: Path
    alerts: gpd.GeoDataFrame


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("judged")
    values = made_up()
    difficulty = write_difficulties(folder / "difficulty.zarr", values, DAYS)
    geoelle.delta(difficulty, out=folder / "delta.zarr", alerts=folder / "alerts.parquet", alert_z=5)
    return Judged(values, difficulty, folder / "delta.zarr", gpd.read_parquet(folder / "alerts.parquet"))


def test_each_zone_is_judged_by_itself_and_p_by_all(judged: Judged) -> None:
    tree = open_area(judged.delta, "delta")
    assert isinstance(tree, xr.DataTree)
    zones = zones_of(tree)
    assert list(zones) == ["32601", "32660"]
    z, null = {}, []
    for name, ds in zones.items():
        check_delta(ds)
        values = judged.values[name].astype(np.float32).astype(np.float64)
        references = [reference_from(values, np.arange(7) < t, 4) for t in range(7)]
        z[name] = np.stack([z_score(values[t], references[t]) for t in range(7)])
        np.testing.assert_allclose(ds["z"][6], z[name][6], rtol=1e-5)
        null.append(z[name][:6].ravel())
    pooled = np.concatenate(null)
    for name, ds in zones.items():
        expected = p_values(z[name][6], pooled, np.full(z[name][6].shape, 6, dtype=np.uint16))
        np.testing.assert_allclose(ds["p"][6], expected, rtol=1e-6)
        floor = ds.attrs["geoelle:p_floor"]["2020-07-05"]
        assert floor == pytest.approx(1 / (np.isfinite(pooled).sum() + 1))


def test_a_look_that_one_zone_lacks_counts_in_the_others_null(judged: Judged) -> None:
    """20 April was seen in zone 60 alone: it is no reference of 5 April, and one of 5 May, in zone 1 as well."""
    zones = zones_of(open_area(judged.delta))
    floors = zones["32601"].attrs["geoelle:p_floor"]
    places = {name: int(z.wanted.sum()) for name, z in ((z.name, z) for z in across())}
    # Only looks with four references have a z: from the fifth on in zone 1, and in zone 60.
    assert floors["2020-05-05"] == 1
    assert floors["2020-06-05"] == pytest.approx(1 / (places["32601"] + places["32660"] + 1))


def test_alerts_of_all_zones_are_ranked_together(judged: Judged) -> None:
    alerts = judged.alerts
    assert list(alerts["rank"]) == list(range(1, len(alerts) + 1))
    assert (np.diff(np.abs(alerts["z"])) <= 0).all()
    assert alerts["chip_id"].iloc[0].startswith("32660_")
    assert alerts["chip_id"].iloc[1].startswith("32601_")
    assert alerts.crs.to_epsg() == 4326
    west, _, east, _ = alerts.total_bounds
    assert west >= -180
    assert east <= 180
    assert alerts["after_item_ids"].iloc[0].tolist() == ["32660-2020-07-05"]
    assert alerts["before_item_ids"].iloc[0].tolist() == ["32660-2020-06-05"]
    assert alerts["reference_n"].dtype == np.int32


def test_a_cell_across_the_antimeridian_is_cut(judged: Judged) -> None:
    """At a low threshold there are alerts everywhere, on the border too."""
    levels = open_zones(judged.difficulty, "difficulty", load=True)
    zones = {name: ds.copy(deep=True) for name, ds in open_zones(judged.delta, "delta", load=True).items()}
    for ds in zones.values():
        ds["state"].values[6] = np.where(np.isfinite(ds["z"].values[6]), 2, 0)
    alerts = rank_alerts(zones, levels)
    assert len(alerts) == sum(int(z.wanted.sum()) for z in across()) + len(
        judged.alerts[judged.alerts.date < "2020-07"]
    )
    assert "MultiPolygon" in set(alerts.geom_type)
    bounds = alerts.bounds
    plain = alerts.geom_type == "Polygon"
    assert (bounds.maxx - bounds.minx)[plain].max() < 0.01
    assert alerts.geometry.is_valid.all()


def test_delta_again_does_nothing_and_one_changed_zone_changes_all(judged: Judged, tmp_path: Path) -> None:
    before = bytes_of(judged.delta)
    geoelle.delta(judged.difficulty, out=judged.delta, alert_z=5)
    assert bytes_of(judged.delta) == before
    values = made_up()
    values["32601"][2] += 0.001
    other = write_difficulties(tmp_path / "difficulty.zarr", values, DAYS)
    ds = zones_of(geoelle.delta(other, out=tmp_path / "delta.zarr", alert_z=5))
    old = zones_of(open_area(judged.delta))
    assert ds["32660"].attrs["geoelle:made_of"] != old["32660"].attrs["geoelle:made_of"]
    np.testing.assert_array_equal(ds["32660"]["z"], old["32660"]["z"])


def test_a_zone_without_history_is_left_out_and_all_without_is_refused(judged: Judged, tmp_path: Path) -> None:
    values = made_up()
    values["32601"][:3] = np.nan
    short = write_difficulties(tmp_path / "difficulty.zarr", values, DAYS)
    zones = zones_of(geoelle.delta(short, out=tmp_path / "delta.zarr"))
    assert not np.isfinite(zones["32601"]["z"]).any()
    assert np.isfinite(zones["32660"]["z"]).any()
    with pytest.raises(HistoryTooShortError, match="too short"):
        geoelle.delta(short, out=tmp_path / "other.zarr", min_looks=7)
    with pytest.raises(ConfigError, match="None of the 8 looks"):
        geoelle.delta(short, out=tmp_path / "other.zarr", dates=[("2019-01-01", "2019-12-31")])
    assert not (tmp_path / "other.zarr").exists()


def test_other_zones_do_not_belong_together(judged: Judged) -> None:
    levels, deltas = open_zones(judged.difficulty), open_zones(judged.delta)
    with pytest.raises(SchemaError, match="Compute delta from this"):
        rank_alerts({"32660": deltas["32660"]}, levels)


# ---- opening


def test_one_store_of_several_is_asked_for_by_name(judged: Judged) -> None:
    with pytest.raises(StoreError, match="several zones: 32601, 32660"):
        geoelle.open_store(judged.difficulty)
    assert geoelle.open_store(judged.difficulty / "32660", "difficulty").sizes["time"] == 7


@pytest.mark.parametrize("zones", ["32601", [], ["../../secret"], [32601], ["32601", "32601"], ["٣"]])
def test_a_hostile_list_of_zones(judged: Judged, tmp_path: Path, zones: object) -> None:
    root = zarr.create_group(tmp_path / "d.zarr", zarr_format=3)
    root.attrs.update({"geoelle:kind": "difficulty", "geoelle:zones": zones})
    with pytest.raises(StoreError, match="Expected EPSG codes"):
        open_zones(tmp_path / "d.zarr")


def test_a_zone_that_was_never_made(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "d.zarr", zarr_format=3)
    root.attrs.update({"geoelle:kind": "difficulty", "geoelle:zones": ["32601"]})
    with pytest.raises(NotFoundError, match="32601"):
        open_zones(tmp_path / "d.zarr")
