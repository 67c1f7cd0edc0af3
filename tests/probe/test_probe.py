"""The fitted probe: scoring, standard error, support, round trip, refusals."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geoelle.errors import ProbeError, TooFewBlocksError
from geoelle.probe import Probe, ProbeMeta, fit_probe, held_out_difficulty
from geoelle.probe.support import distance_threshold, nearest_distance
from geoelle.records import EncoderCard

CARD = EncoderCard(
    name="tiny", sensor="s", bands=("red", "green"), wavelength_um=(0.66, 0.56), units="reflectance", scale=1.0,
    clip=None, mean=(0.0, 0.0), std=(1.0, 1.0), gsd_m=10.0, chip_sizes_px=(64,), patch_px=8, n_features=16,
    pooling="mean", n_steps=(1,), needs_time=False, needs_lonlat=False, mask_ratio=0.75,
    loss_definition="Mean squared error.", loss_kind="own", licence="", source="", weights="w",
    weights_sha256="ab" * 32, not_good_for="", training="",
)  # fmt: skip
META = ProbeMeta.for_encoder(
    CARD, chip_size_px=64, gsd_m=10, n_masks=8, holdout="block", fold_digest="f", origin="local", trained_on="here"
)
D, NOISE = 16, 0.5
MIXING = np.random.default_rng(99).normal(size=(D, D))
COEFFICIENTS = np.random.default_rng(98).normal(size=D)


def simulate(n: int, seed: int = 0, *, log: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, D))
    x = (z @ MIXING + 3).astype(np.float32)
    y = z @ COEFFICIENTS + NOISE * rng.normal(size=n)
    return x, np.exp(y / 3) if log else y + 20


def fit(n: int = 1000, seed: int = 0, order: np.ndarray | None = None, log: bool = False, **options) -> Probe:
    x, y = simulate(n, seed, log=log)
    block = np.arange(n) % 40
    columns = (x, y, np.array([f"chip{i}" for i in range(n)]), block, np.arange(n) % 7, block % 5)
    if order is not None:
        columns = tuple(c[order] for c in columns)
    x, y, keys, block, scene, fold = columns
    options = {"meta": META, "transform": "log" if log else "none", **options}
    return fit_probe(x, y, keys, blocks=block, scenes=scene, folds=fold, **options)


@pytest.fixture(scope="module")
def probe() -> Probe:
    return fit()


def test_prediction_is_scikit_learns(probe: Probe) -> None:
    x, y = simulate(1000)
    pipeline = make_pipeline(StandardScaler(), Ridge(alpha=probe.alpha)).fit(x.astype(float), y)
    fresh, _ = simulate(500, 1)
    found = probe.predict(fresh)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pipeline.predict(fresh.astype(float)), rtol=1e-5)


def test_difficulty_of_a_chip_does_not_depend_on_the_others(probe: Probe) -> None:
    x, _ = simulate(101)
    together = probe.predict(x)
    np.testing.assert_array_equal(together, [probe.predict(row) for row in x])
    np.testing.assert_array_equal(together[::-1], probe.predict(x[::-1]))


def test_leading_shape_is_kept(probe: Probe) -> None:
    x, _ = simulate(24)
    cube = probe.predict_with_error(x.reshape(2, 3, 4, D))
    flat = probe.predict_with_error(x)
    for a, b in zip(cube, flat, strict=True):
        assert a.shape == (2, 3, 4)
        np.testing.assert_array_equal(a.ravel(), b)
    assert probe.predict(x[0]).shape == ()
    assert probe.predict(x[:0]).shape == (0,)
    assert probe.predict_with_error(x[:0]).support.shape == (0,)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_without_data_stay_without_data(bad: float, log: bool) -> None:
    probe = fit(200, log=log)
    x, _ = simulate(4)
    x[0], x[2, 5] = bad, bad
    found = probe.predict_with_error(x)
    for values in (found.difficulty, found.difficulty_se, found.distance_ratio):
        np.testing.assert_array_equal(np.isnan(values), [True, False, True, False])
    np.testing.assert_array_equal(found.support == 255, [True, False, True, False])
    np.testing.assert_array_equal(probe.predict(x), found.difficulty)


def test_difficulty_is_never_negative_where_the_loss_cannot_be() -> None:
    x, y = simulate(400)
    block = np.arange(400) % 40
    options = {"blocks": block, "scenes": block, "folds": block % 5, "meta": META}
    keys = [str(i) for i in range(400)]
    cut = fit_probe(x, y - y.min(), keys, **options)
    free = fit_probe(x, y - y.min(), keys, nonnegative=False, **options)
    far = (x - 3) * 10 + 3
    assert free.predict(far).min() < 0
    np.testing.assert_array_equal(cut.predict(far), np.maximum(free.predict(far), 0))


def test_root_target_is_never_negative_and_unbiased() -> None:
    x, y = simulate(4000)
    loss = np.maximum(y - 10, 0) ** 2 / 20
    block = np.arange(4000) % 40
    probe = fit_probe(
        x, loss, [str(i) for i in range(4000)], blocks=block, scenes=block, folds=block % 5, meta=META, transform="sqrt"
    )
    found = probe.predict_with_error(x)
    # Smearing adds the variance of the root, which its square falls short of.
    assert probe.meta.smearing == pytest.approx(NOISE**2 / 20, rel=0.05)
    assert found.difficulty.mean() == pytest.approx(loss.mean(), rel=0.01)
    assert found.difficulty.min() >= 0
    inside = np.abs(loss - found.difficulty) < 1.96 * found.difficulty_se
    assert inside.mean() == pytest.approx(0.95, abs=0.02)
    extreme = probe.predict_with_error(x[:1] * 1e12)
    assert np.isfinite(extreme.difficulty).all()
    with pytest.raises(ProbeError, match="negative"):
        fit_probe(
            x, y - 25, [str(i) for i in range(4000)], blocks=block, scenes=block, folds=block % 5, meta=META,
            transform="sqrt", nonnegative=False,
        )  # fmt: skip


def test_log_target_is_positive_and_unbiased() -> None:
    probe = fit(4000, log=True)
    x, y = simulate(20000, 5, log=True)
    found = probe.predict_with_error(x)
    assert (found.difficulty > 0).all()
    # Smearing gives the mean, which exp of the mean logarithm falls short of by exp(-(NOISE / 3)² / 2).
    assert abs(found.difficulty.mean() / y.mean() - 1) < 0.01
    assert probe.meta.smearing == pytest.approx(np.exp((NOISE / 3) ** 2 / 2), rel=0.01)
    relative = found.difficulty_se / found.difficulty
    assert relative.mean() == pytest.approx(np.sqrt(np.expm1((NOISE / 3) ** 2)), rel=0.05)
    extreme = probe.predict_with_error(x[:1] * 1e6)
    assert np.isfinite(extreme.difficulty).all()
    assert np.isfinite(extreme.difficulty_se).all()


@pytest.mark.parametrize("n", [40, 1000])
def test_standard_error_covers(n: int) -> None:
    inside, ratio = [], []
    for seed in range(8):
        probe = fit(n, seed=seed)
        x, y = simulate(2000, 1000 + seed)
        found = probe.predict_with_error(x)
        error = np.abs(y - found.difficulty)
        inside.append((error <= 1.96 * found.difficulty_se).mean())
        ratio.append(probe.residual_sd / NOISE)
    # Without the leverage term n = 40 would cover about 0.87, with it counted twice about 0.98.
    assert abs(np.mean(inside) - 0.95) < 0.03
    assert abs(np.mean(ratio) - 1) < 0.15


def test_standard_error_is_the_formula(probe: Probe) -> None:
    x, _ = simulate(1000)
    z = (x - x.mean(0, dtype=float)) / x.std(0, dtype=float)
    inverse = np.linalg.inv(z.T @ z + probe.alpha * np.eye(D))
    leverage = np.einsum("ij,jk,ik->i", z, inverse, z)
    expected = probe.residual_sd * np.sqrt(1 + 1 / 1000 + leverage)
    np.testing.assert_allclose(probe.predict_with_error(x).difficulty_se, expected, rtol=1e-4)


def test_support(probe: Probe) -> None:
    x, _ = simulate(1000)
    training = probe.predict_with_error(x)
    assert (training.support == 1).all()
    np.testing.assert_allclose(training.distance_ratio, 0, atol=1e-5)
    assert (probe.predict_with_error(simulate(500, 2)[0]).support == 1).mean() > 0.95
    away = probe.predict_with_error(x + 100)
    assert (away.support == 0).all()
    assert (away.distance_ratio > 1).all()
    assert (away.difficulty_se > training.difficulty_se).all()


def test_distances_are_exact_and_leave_out_the_own_group() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 8)).astype(np.float32)
    group = np.arange(300) // 60
    full = pairwise_distances(z.astype(float))
    np.testing.assert_allclose(nearest_distance(z[:50] + np.float32(1e-2), z), 1e-2 * np.sqrt(8), rtol=1e-4)
    full[group[:, None] == group] = np.inf
    nearest = nearest_distance(z, z, groups=(group, group))
    np.testing.assert_allclose(nearest, full.min(1), rtol=1e-4)
    lower, upper = np.quantile(nearest, (0.25, 0.75))
    threshold = distance_threshold(z, group)
    assert threshold == nearest[nearest <= upper + 1.5 * (upper - lower)].max()


def test_an_outlier_does_not_move_the_threshold() -> None:
    z = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    group = np.arange(300) % 5
    spoiled = z.copy()
    spoiled[7] += 1000
    assert distance_threshold(spoiled, group) == pytest.approx(distance_threshold(z, group), rel=0.2)
    with pytest.raises(ProbeError, match="of one fold"):
        distance_threshold(z, np.zeros(300, int))


def test_stored_embeddings_depend_on_content_alone(probe: Probe) -> None:
    few = fit(max_stored=100)
    shuffled = fit(max_stored=100, order=np.random.default_rng(3).permutation(1000))
    assert few.stored.shape == (100, D)
    np.testing.assert_array_equal(few.stored, shuffled.stored)
    np.testing.assert_array_equal(few.stored, probe.stored[:100])
    np.testing.assert_allclose(few.weights, shuffled.weights, rtol=1e-7)
    assert few.meta == dataclasses.replace(shuffled.meta, scores=few.meta.scores)


def test_meta_counts_and_scores(probe: Probe) -> None:
    meta = probe.meta
    assert (meta.n_train, meta.n_blocks, meta.n_scenes, meta.n_folds) == (1000, 40, 7, 5)
    assert set(meta.scores) == {"r", "r2", "rmse", "slope", "spearman"}
    assert meta.scores["rmse"] == pytest.approx(NOISE, rel=0.1)
    assert 0.9 < meta.scores["r"] < 1
    assert meta.encoder == "tiny"
    assert meta.chip_size_m == 640
    in_sample = spearmanr(probe.predict(simulate(1000)[0]), simulate(1000)[1]).statistic
    assert meta.scores["spearman"] == pytest.approx(in_sample, abs=0.01)


@pytest.mark.parametrize("log", [False, True])
def test_round_trip_through_arrays_and_json(log: bool) -> None:
    probe = fit(200, log=log)
    arrays, meta = probe.to_arrays()
    again = Probe.from_arrays({k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta)))
    assert again.meta == probe.meta
    assert again.digest == probe.digest
    x, _ = simulate(50, 3)
    for a, b in zip(probe.predict_with_error(x), again.predict_with_error(x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert fit(201, log=log).digest != probe.digest


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weights", lambda a: a[:-1], "centre has shape"),
        ("weights", lambda a: a[None], "weights is 2-dimensional"),
        ("weights", lambda a: a.astype(int), "int64"),
        ("scale", lambda a: a * 0, "not positive"),
        ("cholesky", lambda a: a * np.nan, "cholesky holds NaN"),
        ("stored", lambda a: a[:0], "stored has shape"),
        ("alpha", lambda a: -a, "negative"),
        ("residual_sd", lambda a: a * np.inf, "residual_sd is inf"),
        ("intercept", lambda a: np.repeat(a, 2), "2 values"),
        ("extra", lambda a: np.zeros(1), "extra"),
    ],
)
def test_damaged_arrays_are_refused(probe: Probe, name: str, change, message: str) -> None:
    arrays, meta = probe.to_arrays()
    arrays[name] = change(arrays.get(name))
    with pytest.raises(ProbeError, match=message):
        Probe.from_arrays(arrays, meta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"surprise": 1}, "surprise"),
        ({"transform": "cube"}, "transform 'cube'"),
        ({"n_train": 0}, "n_train"),
        ({"smearing": 0.0}, "smearing"),
    ],
)
def test_damaged_metadata_is_refused(probe: Probe, change: dict, message: str) -> None:
    arrays, meta = probe.to_arrays()
    with pytest.raises(ProbeError, match=message):
        Probe.from_arrays(arrays, meta | change)
    meta.pop("unit")
    with pytest.raises(ProbeError, match="unit"):
        Probe.from_arrays(arrays, meta)


def test_fits_its_own_encoder_only(probe: Probe) -> None:
    probe.check_fits(CARD, chip_size_px=64)
    reworded = dataclasses.replace(CARD, training="in other words")
    probe.check_fits(reworded, chip_size_px=64, gsd_m=10.0, bands=["red", "green"], weights_sha256="ab" * 32)
    other = dataclasses.replace(CARD, name="other")
    for card, options, message in (
        (other, {}, "encoder other where the probe has tiny"),
        (CARD, {"chip_size_px": 32}, "chip size in px 32 where the probe has 64"),
        (CARD, {"gsd_m": 20.0}, "pixel size in m 20.0 where"),
        (CARD, {"bands": ("green", "red")}, "bands green,red where the probe has red,green"),
        (CARD, {"weights_sha256": "cd" * 32}, "weights sha256 cdcdcdcdcdcd"),
        (dataclasses.replace(CARD, n_features=8), {}, "features 8 where the probe has 16"),
    ):
        with pytest.raises(ProbeError, match=message) as caught:
            probe.check_fits(card, **{"chip_size_px": 64, **options})
        assert str(caught.value).endswith("one that was fitted for them.")
    with pytest.raises(ProbeError, match="takes 16 features"):
        probe.predict(np.zeros((3, 15), np.float32))


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = simulate(100)
    block = np.arange(100) % 40
    good = {"blocks": block, "scenes": block, "folds": block % 5, "meta": META}
    keys = [str(i) for i in range(100)]

    def refuse(message: str, kind: type = ProbeError, x=x, y=y, **change) -> None:
        with pytest.raises(kind, match=message):
            fit_probe(x, y, keys, **{**good, **change})

    refuse("lie in 1 independent blocks.*asks for 30", TooFewBlocksError, blocks=np.zeros(100))
    refuse("Found 2 folds", TooFewBlocksError, folds=block % 2)
    refuse("one block lie in several folds", folds=np.arange(100) % 3)
    refuse("The loss is 7 on all 100 chips", y=np.full(100, 7.0))
    refuse("1 of 100 losses are NaN", y=np.where(np.arange(100) == 3, np.nan, y))
    refuse("1 of 100 embeddings", x=np.where(np.arange(100)[:, None] == 3, np.nan, x))
    refuse("no logarithm", y=y - y.min(), transform="log")
    refuse("negative", y=y - 1000)
    refuse("n of everything else", y=y[:99])


def test_one_block_can_be_fitted_on_request_with_random_folds() -> None:
    x, y = simulate(12)
    probe = fit_probe(
        x, y, [str(i) for i in range(12)], blocks=np.zeros(12), scenes=np.zeros(12), folds=np.arange(12) % 3,
        meta=dataclasses.replace(META, holdout="random"), min_blocks=1,
    )  # fmt: skip
    assert probe.meta.n_blocks == 1
    assert np.isfinite(probe.predict_with_error(x).difficulty_se).all()  # fewer chips than features


def test_duplicated_and_constant_embeddings_are_no_trouble() -> None:
    x, y = simulate(60)
    x = np.repeat(x[:20], 3, axis=0)
    x[:, 4] = 0.1
    block = np.arange(60) % 30
    probe = fit_probe(x, y, [str(i) for i in range(60)], blocks=block, scenes=block, folds=block % 3, meta=META)
    assert (probe.predict_with_error(x).support == 1).all()
    assert probe.scale[4] == 1


@pytest.mark.parametrize("transform", ["none", "sqrt", "log"])
def test_held_out_difficulty_is_what_the_scores_are_made_from(transform: str) -> None:
    x, y = simulate(600)
    fold = np.arange(600) % 40 % 5
    keys = [str(i) for i in range(600)]
    probe = fit_probe(x, y, keys, blocks=np.arange(600) % 40, scenes=fold, folds=fold, meta=META, transform=transform)
    predicted = held_out_difficulty(probe, x, y, fold)
    assert np.corrcoef(predicted, y)[0, 1] == pytest.approx(probe.meta.scores["r"], abs=1e-9)
    assert np.sqrt(np.mean((predicted - y) ** 2)) == pytest.approx(probe.meta.scores["rmse"], rel=1e-9)
    assert np.corrcoef(probe.predict(x), y)[0, 1] > np.corrcoef(predicted, y)[0, 1], "the fit itself flatters"
