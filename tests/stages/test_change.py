"""Delta-ELLE: reference, spread, z, p, state, alerts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import geoelle
from geoelle import schema
from geoelle.change import rank_alerts
from geoelle.change.scoring import Reference, _local_mean, p_values, reference_from, reference_looks, states, z_score
from geoelle.errors import AlreadyExistsError, ConfigError, HistoryTooShortError, SchemaError, StoreError
from geoelle.grid import ChipGrid, GridExtent
from geoelle.simulate import EventSpec, SimulationConfig, make_scenes
from geoelle.store.layout import Variable, grid_attrs, write_store

NAN = float("nan")
EXTENT = GridExtent(ChipGrid(32631, 320.0, 160.0), 6, range(5580, 5581), range(619, 621))
SHAPE = EXTENT.shape
DAYS = ("2020-01-05", "2020-02-05", "2020-03-05", "2020-04-05", "2020-05-05", "2020-06-05", "2020-07-05", "2020-07-25")


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def as_days(days: Sequence[str]) -> np.ndarray:
    return np.array(days, dtype="datetime64[ns]")


def write_difficulty(path: Path, values: np.ndarray, days: Sequence[str] = DAYS) -> Path:
    """A difficulty store of made-up values."""
    values = values.astype(np.float32)
    variables = [
        Variable("difficulty", "float32", NAN, {}, {"units": "squared standard deviations"}),
        Variable("difficulty_se", "float32", NAN, {}, {}),
        Variable("support", "uint8", 255, {}, {}),
    ]
    attrs = {
        "geoelle:kind": "difficulty",
        "geoelle:grid": grid_attrs(EXTENT),
        "geoelle:encoder": {"name": "compact-rgb"},
        "geoelle:probe_digest": "ab",
        "geoelle:probe_origin": "local",
        "geoelle:scenes": {day: [f"item-{day}-b", f"item-{day}-a"] for day in days},
        "geoelle:made_of": hashlib.sha256(values.tobytes()).hexdigest(),
    }
    per_date = (
        {"difficulty": v, "difficulty_se": v * 0 + 1, "support": np.where(np.isfinite(v), 1, 255).astype(np.uint8)}
        for v in values
    )
    write_store(path, EXTENT, list(as_days(days)), variables, per_date, attrs)
    return path


def quiet(seed: int = 0, n: int = len(DAYS)) -> np.ndarray:
    """Noise of 0.05 about a level of its own at each place, (time, y, x)."""
    rng = np.random.default_rng(seed)
    return 0.5 + 0.2 * rng.random(SHAPE) + 0.05 * rng.standard_normal((n, *SHAPE))


# ---- which looks say what is normal


def test_median_takes_earlier_looks() -> None:
    days, allowed = as_days(DAYS), np.ones(len(DAYS), dtype=bool)
    assert list(np.flatnonzero(reference_looks(days, 3, allowed, "median", 30))) == [0, 1, 2]
    assert not reference_looks(days, 0, allowed, "median", 30).any()


def test_surrounding_leaves_out_a_window_with_its_ends() -> None:
    days, allowed = as_days(DAYS), np.ones(len(DAYS), dtype=bool)
    # 5 June to 5 July is 30 days, 5 July to 25 July is 20.
    assert list(np.flatnonzero(reference_looks(days, 6, allowed, "surrounding", 30))) == [0, 1, 2, 3, 4]
    assert list(np.flatnonzero(reference_looks(days, 6, allowed, "surrounding", 29))) == [0, 1, 2, 3, 4, 5]
    assert list(np.flatnonzero(reference_looks(days, 6, allowed, "surrounding", 0))) == [0, 1, 2, 3, 4, 5, 7]
    assert list(np.flatnonzero(reference_looks(days, 0, allowed, "surrounding", 31))) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kind", ["median", "surrounding"])
def test_what_is_not_allowed_is_no_reference(kind: Any) -> None:
    allowed = np.array([True, False] * 4)
    for t in range(len(DAYS)):
        assert not reference_looks(as_days(DAYS), t, allowed, kind, 10)[~allowed].any()


# ---- numbers by hand


def test_median_and_mad_by_hand() -> None:
    """One place: median of 1, 2, 4, 9 is 3; deviations 2, 1, 1, 6, their median 1.5."""
    looks = np.array([1.0, 2, 4, 9]).reshape(4, 1, 1)
    found = reference_from(looks, np.ones(4, dtype=bool), 4)
    assert found.value[0, 0] == 3
    assert found.n[0, 0] == 4
    # No neighbour and no other place: the prior is the place's own, so moderation changes nothing.
    assert found.spread[0, 0] == pytest.approx(1.4826 * 1.5)


def test_moderation_by_hand() -> None:
    """Two neighbours with MADs 1 and 3: prior is their mean variance, worth four looks against n - 1."""
    a, b = [-2.0, -1, 0, 1, 2], [-6.0, -3, 0, 3, 6]
    looks = np.array([a, b]).T.reshape(5, 1, 2)
    found = reference_from(looks, np.ones(5, dtype=bool), 4)
    own = np.array([1.0, 9.0]) * 1.4826**2
    expected = np.sqrt((4 * own + 4 * own.mean()) / 8)
    np.testing.assert_allclose(found.spread[0], expected)


def test_the_prior_is_half_neighbourhood_half_scene() -> None:
    """One place of 49 varies: those within two cells take a share of it, and all take half the scene's mean."""
    looks = np.zeros((5, 7, 7))
    looks[:, 3, 3] = [-2, -1, 0, 1, 2]
    variance = reference_from(looks, np.ones(5, dtype=bool), 4).spread ** 2
    own, scene = 1.4826**2, 1.4826**2 / 49
    np.testing.assert_allclose(variance[0, 0], 4 * scene / 2 / 8)
    np.testing.assert_allclose(variance[1, 1], 4 * (own / 16 + scene) / 2 / 8)
    np.testing.assert_allclose(variance[3, 3], (4 * own + 4 * (own / 25 + scene) / 2) / 8)


def test_rounding_does_not_make_a_scale_where_there_is_none() -> None:
    """Where no place varies there is no scale; a trace of rounding would make z explode."""
    looks = np.full((6, 40, 40), 0.1 + 0.2)
    reference = reference_from(looks, np.ones(6, dtype=bool), 4)
    assert (reference.spread == 0).all()
    assert np.isnan(z_score(np.full((40, 40), 1e-9), reference)).all()


def test_rounding_does_not_reach_quiet_places() -> None:
    """Running sums would carry a trace of a large variance along its row and column."""
    variance = np.zeros((40, 40))
    variance[5, :3] = [1e-3, 1e9, 0.7]
    far = np.ones((40, 40), dtype=bool)
    far[3:8, :5] = False
    assert (_local_mean(variance)[far] == 0).all()


def test_too_few_looks_and_clouds() -> None:
    looks = np.array([[1.0, 1], [2, NAN], [3, 2], [5, 7]]).reshape(4, 1, 2)
    found = reference_from(looks, np.ones(4, dtype=bool), 4)
    assert found.n.tolist() == [[4, 3]]
    assert np.isnan(found.value[0, 1])
    assert np.isnan(found.spread[0, 1])
    assert np.isfinite(found.spread[0, 0])
    none = reference_from(looks, np.zeros(4, dtype=bool), 2)
    assert np.isnan(none.value).all()
    assert (none.n == 0).all()


def test_z_by_hand() -> None:
    reference = Reference(np.array([[0.5, 0.5]]), np.array([[0.1, 0.0]]), np.array([[4, 4]], dtype=np.uint16))
    z = z_score(np.array([[0.8, 0.8]]), reference)
    assert z[0, 0] == pytest.approx(0.3 / (0.1 * np.sqrt(1 + np.pi / 8)))
    assert np.isnan(z[0, 1])


def test_p_by_hand() -> None:
    null = np.array([0.1, -0.5, 1.0, -2.0, NAN])
    z = np.array([[0.0, 0.5, -1.5, 9.0, NAN, 9.0]])
    n = np.array([[4, 4, 4, 4, 4, 3]], dtype=np.uint16)
    p = p_values(z, null, n)
    np.testing.assert_allclose(p[0, :4], [1.0, 4 / 5, 2 / 5, 1 / 5])
    assert np.isnan(p[0, 4:]).all()
    assert np.isnan(p_values(z, np.array([NAN]), n)).all()


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        ("....", "qqqq"),
        ("+...", "feqq"),
        ("++++", "fpcc"),
        ("+-+-", "ffff"),
        ("--..-", "fpeqf"),
        ("++-.", "fpfe"),
        (" +  +", "nfnnp"),
        ("+ .+", "fnef"),
        ("    ", "nnnn"),
        ("+++.+", "fpcef"),
    ],
)
def test_states_table(z: str, expected: str) -> None:
    """A look without data neither ends nor lengthens a run."""
    values = {"+": 3.0, "-": -7.0, ".": 2.9, " ": NAN}
    names = dict(zip("nqfpce", range(6), strict=True))
    found = states(np.array([values[c] for c in z]).reshape(-1, 1, 1), 3.0)
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == [names[c] for c in expected]


# ---- properties


levels = hnp.arrays(np.float64, (6, 3, 4), elements=st.floats(0, 4, width=32))


@settings(deadline=None)
@given(values=levels, shift=st.floats(-8, 8, width=32))
def test_a_shift_of_everything_changes_nothing(values: np.ndarray, shift: float) -> None:
    looks = np.array([True] * 5 + [False])
    plain, moved = reference_from(values, looks, 4), reference_from(values + shift, looks, 4)
    np.testing.assert_allclose(moved.value, plain.value + shift, atol=1e-12)
    np.testing.assert_allclose(moved.spread, plain.spread, atol=1e-7)


@settings(deadline=None)
@given(values=levels, factor=st.sampled_from([0.25, 2.0, 64.0]))
def test_z_has_no_unit(values: np.ndarray, factor: float) -> None:
    looks = np.array([True] * 5 + [False])
    z = z_score(values[5], reference_from(values, looks, 4))
    scaled = z_score(values[5] * factor, reference_from(values * factor, looks, 4))
    np.testing.assert_allclose(scaled, z, rtol=1e-9)


@settings(deadline=None)
@given(values=levels, seed=st.integers(0, 999))
def test_the_order_of_reference_looks_does_not_matter(values: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(6)
    everything = np.ones(6, dtype=bool)
    plain, other = reference_from(values, everything, 4), reference_from(values[order], everything, 4)
    np.testing.assert_array_equal(other.value, plain.value)
    np.testing.assert_allclose(other.spread, plain.spread, rtol=1e-12)


@settings(deadline=None)
@given(values=levels)
def test_mirrored_places_give_mirrored_numbers(values: np.ndarray) -> None:
    """The neighbourhood has no direction."""
    looks = np.array([True] * 5 + [False])
    plain, mirrored = reference_from(values, looks, 4), reference_from(values[:, ::-1, ::-1], looks, 4)
    np.testing.assert_array_equal(mirrored.value, plain.value[::-1, ::-1])
    np.testing.assert_allclose(mirrored.spread, plain.spread[::-1, ::-1], rtol=1e-12, atol=1e-15)


@settings(deadline=None)
@given(
    values=hnp.arrays(np.float64, (6, 2, 3), elements=st.one_of(st.just(NAN), st.floats(0, 4, width=32))),
    where=st.integers(0, 6),
)
def test_a_look_without_data_changes_nothing(values: np.ndarray, where: int) -> None:
    more = np.insert(values, where, NAN, axis=0)
    plain, other = reference_from(values, np.ones(6, bool), 3), reference_from(more, np.ones(7, bool), 3)
    np.testing.assert_array_equal(other.n, plain.n)
    np.testing.assert_array_equal(other.value, plain.value)
    np.testing.assert_array_equal(other.spread, plain.spread)
    z = values - 2
    np.testing.assert_array_equal(np.delete(states(np.insert(z, where, NAN, axis=0), 1.0), where, 0), states(z, 1.0))


@given(
    z=hnp.arrays(np.float64, (2, 3), elements=st.floats(-50, 50)),
    null=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-50, 50)),
)
def test_p_is_bounded_monotone_and_knows_no_direction(z: np.ndarray, null: np.ndarray) -> None:
    n = np.full(z.shape, 4, dtype=np.uint16)
    p = p_values(z, null, n)
    assert ((p >= 1 / (null.size + 1)) & (p <= 1)).all()
    np.testing.assert_array_equal(p, p_values(-z, null, n))
    np.testing.assert_array_equal(p, p_values(z, null[::-1], n))
    order = np.argsort(np.abs(z), axis=None)
    assert (np.diff(p.ravel()[order]) <= 0).all()


# ---- the stage


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, gpd.GeoDataFrame, Path]:
    """Quiet for six looks; then three places jump, two of them twice, one look excluded, one place clouded."""
    folder = tmp_path_factory.mktemp("judged")
    values = quiet()
    values[6, 2, 3] += 3
    values[6:, 1, 7] += 2
    values[6:, 4, 9] -= 1.5
    values[3] += 40  # haze: excluded below, so nothing may follow from it
    values[5, 2, 3] = NAN
    difficulty = write_difficulty(folder / "difficulty.zarr", values)
    ds = geoelle.delta(
        difficulty, out=folder / "delta.zarr", alerts=folder / "alerts.parquet", exclude_dates=["2020-04-05"],
        dates=[("2020-06-01", "2020-12-31")], alert_z=5,
    )  # fmt: skip
    return ds, gpd.read_parquet(folder / "alerts.parquet"), folder


def test_delta_by_hand(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    ds, _, folder = judged
    schema.check_delta(ds)
    values = geoelle.open_store(folder / "difficulty.zarr")["difficulty"].values.astype(np.float64)
    clear = [0, 1, 2, 4, 5]
    expected = values[6] - np.nanmedian(values[clear], axis=0)
    np.testing.assert_allclose(ds["delta"][6], expected, atol=1e-6)
    assert ds["reference_n"].values[6, 2, 3] == 4
    assert ds["reference_n"].values[6, 0, 0] == 5
    assert ds["reference_n"].values[7, 0, 0] == 6
    reference = reference_from(values, np.isin(np.arange(8), clear), 4)
    np.testing.assert_allclose(ds["z"][6], z_score(values[6], reference), rtol=1e-5)


def test_only_what_was_asked_for_is_judged(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    ds, _, _ = judged
    assert list(np.flatnonzero((ds["state"].values != schema.NO_LOOK).any(axis=(1, 2)))) == [5, 6, 7]
    for name in ("delta", "z", "p"):
        assert np.isnan(ds[name].values[:5]).all()
        assert np.isnan(ds[name].values[5, 2, 3])
    assert ds.attrs["geoelle:reference"] == {
        "kind": "median", "window_days": None, "reference_dates": [], "excluded_dates": ["2020-04-05"],
        "judged_dates": [["2020-06-01", "2020-12-31"]], "min_looks": 4,
    }  # fmt: skip
    assert ds.attrs["geoelle:p_kind"] == "pooled-quiet-looks"
    assert "MAD" in ds.attrs["geoelle:method"]


def test_states_over_dates(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    state = judged[0]["state"].values
    assert state[5:, 2, 3].tolist() == [schema.NO_LOOK, schema.FIRST, schema.ENDED]
    assert state[5:, 1, 7].tolist() == [schema.QUIET, schema.FIRST, schema.PROVISIONAL]
    assert state[5:, 4, 9].tolist() == [schema.QUIET, schema.FIRST, schema.PROVISIONAL]


def test_p_has_its_floor_and_its_null(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    """The null of 5 July are the z of earlier clear looks: 5 May has too few references, so 5 June alone."""
    p = judged[0]["p"].values
    n_null = SHAPE[0] * SHAPE[1] - 1
    assert p[6, 1, 7] == pytest.approx(1 / (n_null + 1))
    assert np.nanmin(p[6]) == p[6, 1, 7]
    assert np.isnan(p[5]).all()  # no earlier look had references enough, so there is no null


def test_excluded_looks_never_enter(tmp_path: Path) -> None:
    """Whatever an excluded look holds, every number stays."""
    values = quiet()
    results = []
    for i, haze in enumerate((0.0, 40.0, NAN)):
        values[3] = values[3] * 0 + haze
        difficulty = write_difficulty(tmp_path / f"d{i}.zarr", values)
        results.append(
            geoelle.delta(difficulty, out=tmp_path / f"x{i}.zarr", exclude_dates=["2020-04-05"], min_looks=3).load()
        )
    for other in results[1:]:
        for name in ("delta", "z", "p", "state", "reference_n"):
            mine = [t for t in range(8) if t != 3] if name == "reference_n" else slice(None)
            np.testing.assert_array_equal(other[name].values[mine], results[0][name].values[mine])
    assert (results[0]["state"].values[3] == schema.NO_LOOK).all()


def test_reference_dates_bound_the_history(tmp_path: Path) -> None:
    values = quiet()
    difficulty = write_difficulty(tmp_path / "d.zarr", values)
    ds = geoelle.delta(difficulty, out=tmp_path / "x.zarr", reference_dates=[("2020-01-01", "2020-04-30")])
    np.testing.assert_array_equal(ds["reference_n"].values[:, 0, 0], [0, 1, 2, 3, 4, 4, 4, 4])
    expected = values[7] - np.median(values[:4], axis=0)
    np.testing.assert_allclose(ds["delta"][7], expected, atol=1e-6)


def test_surrounding_judges_early_looks(tmp_path: Path) -> None:
    values = quiet()
    difficulty = write_difficulty(tmp_path / "d.zarr", values)
    ds = geoelle.delta(difficulty, out=tmp_path / "x.zarr", reference="surrounding", window_days=45)
    expected = values[0] - np.median(values[2:], axis=0)
    np.testing.assert_allclose(ds["delta"][0], expected, atol=1e-6)
    assert ds.attrs["geoelle:reference"]["window_days"] == 45


def test_references_count_only_where_the_look_sees_the_ground(tmp_path: Path) -> None:
    """Half the places have a history, the other half is all that the last look sees: nothing can be judged."""
    values = quiet()
    half = SHAPE[1] // 2
    values[:-1, :, half:] = NAN
    values[-1, :, :half] = NAN
    store = write_difficulty(tmp_path / "d.zarr", values)
    with pytest.raises(HistoryTooShortError, match="0 earlier clear looks"):
        geoelle.delta(store, out=tmp_path / "x.zarr", dates=[(DAYS[-1], DAYS[-1])])


def test_history_too_short(tmp_path: Path) -> None:
    difficulty = write_difficulty(tmp_path / "d.zarr", quiet())
    with pytest.raises(HistoryTooShortError, match="2020-03-05 has 2 earlier clear looks") as error:
        geoelle.delta(difficulty, out=tmp_path / "x.zarr", dates=[("2020-01-01", "2020-03-31")])
    assert "Expected at least 4" in str(error.value)
    assert "--reference surrounding" in str(error.value)
    with pytest.raises(HistoryTooShortError, match="surrounding clear looks"):
        geoelle.delta(difficulty, out=tmp_path / "x.zarr", reference="surrounding", window_days=500)
    assert not (tmp_path / "x.zarr").exists()
    with pytest.raises(ConfigError, match="left to judge"):
        geoelle.delta(difficulty, out=tmp_path / "x.zarr", dates=[("1999-01-01", "1999-12-31")])


def test_a_single_pair_can_only_be_first(tmp_path: Path) -> None:
    """Two dates allow two references at most, and whatever is past the knob is `first`."""
    values = quiet(n=3)
    values[2] += 5
    difficulty = write_difficulty(tmp_path / "d.zarr", values, DAYS[:3])
    ds = geoelle.delta(difficulty, out=tmp_path / "x.zarr", min_looks=2, alerts=tmp_path / "a.parquet")
    assert (ds["state"].values[2] == schema.FIRST).all()
    assert np.isnan(ds["p"].values).all()
    alerts = gpd.read_parquet(tmp_path / "a.parquet")
    assert set(alerts["state"]) == {"first"}
    assert len(alerts) == SHAPE[0] * SHAPE[1]


def test_a_quiet_series_stays_quiet_and_its_alerts_are_an_empty_table(tmp_path: Path) -> None:
    ds = geoelle.delta(
        write_difficulty(tmp_path / "d.zarr", quiet()),
        out=tmp_path / "x.zarr",
        alerts=tmp_path / "a.parquet",
        alert_z=9,
    )
    assert set(np.unique(ds["state"])) == {schema.NO_LOOK, schema.QUIET}
    alerts = gpd.read_parquet(tmp_path / "a.parquet")
    schema.check_alerts(alerts)
    assert len(alerts) == 0
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


def test_alerts_are_ranked_and_placed(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    ds, alerts, _ = judged
    schema.check_alerts(alerts)
    expected = [(t, *place) for t, place in [(6, (2, 3)), (6, (1, 7)), (7, (1, 7)), (6, (4, 9)), (7, (4, 9))]]
    extent = EXTENT
    seen = set()
    for _, alert in alerts.iterrows():
        t = DAYS.index(alert["date"])
        _, row, column = ChipGrid.parse_chip_id(alert["chip_id"])
        i, j = list(extent.rows).index(row), list(extent.columns).index(column)
        seen.add((t, i, j))
        assert alert["z"] == pytest.approx(float(ds["z"][t, i, j]))
        assert alert["delta"] == pytest.approx(float(ds["delta"][t, i, j]))
        assert alert["difficulty"] - alert["reference"] == pytest.approx(alert["delta"])
        assert alert["direction"] == ("up" if alert["z"] > 0 else "down")
        assert alert["reference_n"] == int(ds["reference_n"][t, i, j])
        assert alert["state"] == schema.STATE_NAMES[int(ds["state"][t, i, j])]
        assert alert["reference_kind"] == "median"
    assert seen == set(expected)
    assert (np.diff(np.abs(alerts["z"])) <= 0).all()
    metres = alerts.to_crs(32631)
    for geometry, chip in zip(metres.geometry, alerts["chip_id"], strict=True):
        grid, row, column = ChipGrid.parse_chip_id(chip)
        x, y = (float(v) for v in grid.centre(np.array(row), np.array(column)))
        assert geometry.centroid.distance(shapely.Point(x, y)) < 0.01
        assert geometry.area == pytest.approx(160**2, rel=1e-4)


def test_before_is_the_last_look_that_saw_the_place(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    """The place at (2, 3) was clouded on 5 June, so what an analyst opens beside it is 5 May."""
    _, alerts, _ = judged
    clouded = alerts[alerts["chip_id"] == EXTENT.grid.chip_id(int(EXTENT.rows[2]), int(EXTENT.columns[3]))].iloc[0]
    assert list(clouded["after_item_ids"]) == ["item-2020-07-05-b", "item-2020-07-05-a"]
    assert list(clouded["before_item_ids"]) == ["item-2020-05-05-b", "item-2020-05-05-a"]
    others = alerts[(alerts["chip_id"] != clouded["chip_id"]) & (alerts["date"] == "2020-07-05")]
    assert len(others) == 2
    assert all(list(ids) == ["item-2020-06-05-b", "item-2020-06-05-a"] for ids in others["before_item_ids"])


def test_geojson_is_the_same_and_valid(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    _, alerts, folder = judged

    def no_nan(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    document = json.loads((folder / "alerts.geojson").read_text(), parse_constant=no_nan)
    assert document["type"] == "FeatureCollection"
    assert len(document["features"]) == len(alerts)
    for feature, (_, alert) in zip(document["features"], alerts.iterrows(), strict=True):
        assert shapely.geometry.shape(feature["geometry"]).equals_exact(alert.geometry, 1e-12)
        assert set(feature["properties"]) == set(schema.ALERT_COLUMNS) - {"geometry"}
        for name, value in feature["properties"].items():
            found = alert[name]
            if isinstance(value, list):
                assert value == list(found)
            elif value is None:
                assert np.isnan(found)
            else:
                assert value == found, name


def test_unchanged_is_left_alone(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    _, _, folder = judged
    before, times = bytes_of(folder), {p: p.stat().st_mtime_ns for p in (folder / "delta.zarr").rglob("*")}
    geoelle.delta(
        folder / "difficulty.zarr", out=folder / "delta.zarr", alerts=folder / "alerts.parquet",
        exclude_dates=["2020-04-05"], dates=[("2020-06-01", "2020-12-31")], alert_z=5,
    )  # fmt: skip
    assert {p: p.stat().st_mtime_ns for p in (folder / "delta.zarr").rglob("*")} == times
    assert bytes_of(folder) == before


def test_gdal_opens_it(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path]) -> None:
    ds, _, folder = judged
    with rasterio.open(f'ZARR:"{folder / "delta.zarr"}":/z') as raster:
        assert raster.crs.to_epsg() == 32631
        np.testing.assert_array_equal(raster.read(7), ds["z"].values[6])


@pytest.mark.parametrize(
    "options",
    [
        {"min_looks": 1}, {"alert_z": 0}, {"alert_z": NAN}, {"alert_z": float("inf")}, {"window_days": -1},
        {"reference": "same-season"}, {"dates": [("soon", "later")]},
    ],
)  # fmt: skip
def test_options_that_make_no_sense(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path], options: dict[str, Any]) -> None:
    _, _, folder = judged
    before = bytes_of(folder)
    with pytest.raises(ConfigError):
        geoelle.delta(folder / "difficulty.zarr", out=folder / "delta.zarr", **options)
    assert bytes_of(folder) == before


def test_places_where_something_else_lies(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path], tmp_path: Path) -> None:
    _, _, folder = judged
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(StoreError, match="in the way"):
        geoelle.delta(folder / "difficulty.zarr", out=tmp_path / "mine")
    with pytest.raises(AlreadyExistsError, match="folder"):
        geoelle.delta(folder / "difficulty.zarr", out=tmp_path / "x.zarr", alerts=tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"\.parquet"):
        geoelle.delta(folder / "difficulty.zarr", out=tmp_path / "x.zarr", alerts=tmp_path / "alerts.geojson")
    assert bytes_of(tmp_path) == {"mine/thesis.txt": hashlib.sha256(b"years").hexdigest()}


def test_alerts_of_another_difficulty(judged: tuple[xr.Dataset, gpd.GeoDataFrame, Path], tmp_path: Path) -> None:
    other = geoelle.open_store(write_difficulty(tmp_path / "d.zarr", quiet(n=7), DAYS[:7]))
    with pytest.raises(SchemaError, match="differ"):
        rank_alerts(judged[0], other)


def test_known_events_stand_out(tmp_path: Path) -> None:
    """A simulated burn and flood, against the same weeks of earlier years: |z| is larger where the truth mask is."""
    years, weeks = (2018, 2019, 2020, 2021), ("07-20", "08-10")
    config = SimulationConfig.small(
        width_px=288, height_px=256, dates=tuple(f"{year}-{week}" for year in years for week in weeks),
        events=(
            EventSpec("burn", date="2021-08-01", offset_m=(-700.0, 500.0), radius_m=450.0),
            EventSpec("flood", date="2021-08-01", radius_m=450.0),
        ),
    )  # fmt: skip
    scenes = make_scenes(tmp_path / "scenes", config=config)
    items = geoelle.search(
        scenes.aoi, catalog=scenes.catalog, collections=[scenes.collection], start="2015-01-01", end="2021-12-31"
    )
    geoelle.embed(items, aoi=scenes.aoi, out=tmp_path / "e.zarr", chip_size_m=320, stride_m=160)
    before = [("2015-01-01", "2021-07-31")]
    geoelle.calibrate(
        tmp_path / "e.zarr",
        items=items,
        out=tmp_path / "probe",
        n=200,
        block_size_m=640,
        quiet=before,
        masks=4,
        allow_few=True,
    )
    geoelle.difficulty(tmp_path / "e.zarr", out=tmp_path / "d.zarr", probe=tmp_path / "probe")
    ds = geoelle.delta(
        tmp_path / "d.zarr", out=tmp_path / "x.zarr", reference_dates=before, dates=[("2021-08-01", "2021-08-31")]
    )
    z = np.abs(ds["z"].values[-1])
    x, y = np.meshgrid(ds["x"].values, ds["y"].values)
    chips = shapely.box(x - 160, y - 160, x + 160, y + 160)
    shares = [
        shapely.area(shapely.intersection(chips, gpd.read_file(event.outline).to_crs(32631).union_all())) / 320**2
        for event in scenes.events
    ]
    outside = z[(sum(shares) == 0) & np.isfinite(z)]
    for share in shares:
        inside = z[(share > 0.4) & np.isfinite(z)]
        assert len(inside) > 8
        assert np.median(inside) > 2 * np.median(outside)
        assert (inside[:, None] > outside).mean() > 0.7
