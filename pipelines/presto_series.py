"""Presto with its real weights over real series: embeddings, its own loss, a probe, and what the probe is worth.

python pipelines/presto_series.py --data ../shared/data --out presto_out

Prints a table and writes `report.json` and the probe into `probe`. Every figure is out of fold; the baselines are
scored on the same folds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders import load_encoder
from geoelle.encoders.presto import scaled_series
from geoelle.encoders.presto_model import PrestoEncoder
from geoelle.errors import GeoelleError, SchemaError
from geoelle.holdout import assign_blocks, block_keys, fold_digest, folds_from_blocks, random_folds
from geoelle.probe import Probe, ProbeMeta, atoms_from_folds, cross_validate, fit_probe, out_of_fold
from geoelle.probe.measures import correlation, partial_r, reliability
from geoelle.records import ChipBatch
from geoelle.store.probes import write_probe

type Doubles = NDArray[np.float64]

N_FOLDS = 5
BLOCK_M = 100_000.0
SERIES_FILE = Path("pixel-series", "algae_blooms_presto.npz")
WEIGHTS_FILE = Path("weights", "presto", "default_model.pt")
# Columns of the file; B9 (10) is not for Presto, and NDVI (17) is not that of B8 and B4: the encoder computes its own.
_COLUMNS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16)
_NOMINAL_YEAR = 2019
"""The file tells months without years, and Presto looks at the month alone."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Series with what Presto makes of them."""

    batch: ChipBatch
    statistics: Doubles
    """(series, 34): mean and standard deviation over the year of the 17 scaled bands."""
    embedding: NDArray[np.float32]
    loss: Doubles
    """(series, mask)."""


@dataclass(frozen=True, slots=True)
class Score:
    """One predictor, on one target, under one holdout, out of fold."""

    holdout: str
    target: str
    predictor: str
    r: float
    r_of_ceiling: float
    partial_r: float | None
    """Correlation of prediction and target once the curved statistics are out of both; None for the baselines."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured."""

    encoder: str
    n_series: int
    n_places: int
    n_masks: int
    n_blocks: int
    mean_loss: float
    reliability: dict[str, float]
    """By target: of the mean over all masks (Spearman-Brown from halves of them)."""
    ceiling: dict[str, float]
    r_with_log_loss: dict[str, float]
    """Plain correlations, nothing fitted, that tell which trivial thing the loss goes with."""
    scores: tuple[Score, ...]
    probe_scores: Mapping[str, float | None]
    """Of the probe written, held out by block, in units of the loss."""


def read_series(path: Path, encoder: PrestoEncoder) -> ChipBatch:
    """The file's series as `presto:dynamic-world` or `presto` takes them.

    Raises:
        SchemaError: If it does not hold what it should.
    """
    wanted = {"s1_s2_era5_srtm", "dynamic_world", "latlon", "month", "uid"}
    with np.load(path, allow_pickle=False) as file:
        if not wanted <= set(file):
            raise SchemaError(f"{path} holds {sorted(file)}. Expected {sorted(wanted)}. Give Presto's algae blooms.")
        values, classes, months = file["s1_s2_era5_srtm"][..., _COLUMNS], file["dynamic_world"], file["month"]
        latlon, uid = file["latlon"], file["uid"]
    if "dynamic_world" in encoder.card.bands:
        values = np.concatenate([values, classes[..., None]], axis=2)
    # Steps of 30 days: now and then two lie in one month, or a month has none.
    since = months[:, :1] + np.concatenate([np.zeros((len(months), 1), int), np.diff(months) % 12], axis=1).cumsum(1)
    start = np.datetime64(f"{_NOMINAL_YEAR}-01", "M")
    return ChipBatch(
        sensor=encoder.card.sensor,
        units=encoder.card.units,
        bands=encoder.card.bands,
        pixels=values[..., None, None].astype(np.float32),
        valid=np.ones((*months.shape, 1, 1), dtype=bool),
        time=(start + since).astype("datetime64[ns]"),
        lonlat=latlon[:, ::-1].copy(),
        gsd_m=encoder.card.gsd_m,
        chip_id=uid.astype(np.str_),
    )


def measure(encoder: PrestoEncoder, batch: ChipBatch, n_masks: int) -> Measured:
    """Embed series and take their own losses."""
    series = scaled_series(encoder.card, batch)[:, :, :17, 0, 0].astype(np.float64)
    masks = encoder.fixed_masks(batch.chip_id, n_masks, 1)
    return Measured(
        batch=batch,
        statistics=np.concatenate([series.mean(axis=1), series.std(axis=1)], axis=1),
        embedding=encoder.embed(batch),
        loss=encoder.pretraining_loss(batch, masks).astype(np.float64),
    )


def holdouts(batch: ChipBatch) -> dict[str, NDArray[np.int64]]:
    """Folds of each series by name of the holdout."""
    places, place = np.unique(batch.lonlat, axis=0, return_inverse=True)
    # Strips of about as many places each, from west to east; a place lies in one.
    longitude = places[:, 0]
    edges = np.quantile(longitude, np.linspace(0, 1, N_FOLDS + 1)[1:-1])
    strip = np.searchsorted(edges, longitude, side="right")
    return {
        "random": random_folds(batch.chip_id, N_FOLDS),
        "places": folds_from_blocks(place.reshape(-1), N_FOLDS),
        "longitude": strip[place.reshape(-1)].astype(np.int64),
        "blocks": folds_from_blocks(_blocks(batch), N_FOLDS),
    }


def _blocks(batch: ChipBatch) -> NDArray[np.str_]:
    return block_keys(assign_blocks(batch.lonlat, BLOCK_M), BLOCK_M)


def evaluate(measured: Measured) -> tuple[tuple[Score, ...], dict[str, float]]:
    """Scores of the embedding and its baselines under every holdout, and the reliability of each target."""
    loss = measured.loss.mean(axis=1)
    statistics, norm = measured.statistics, np.linalg.norm(measured.embedding, axis=1)[:, None].astype(np.float64)
    # A log loss is no straight line in a spread: what a bent baseline can do is no merit of the embedding.
    spread = statistics[:, 17:]
    curved = np.concatenate([statistics, statistics**2, np.log(spread[:, spread.max(axis=0) > 0] + 1e-4)], axis=1)
    predictors: dict[str, Doubles] = {
        "embedding": measured.embedding.astype(np.float64),
        "34 statistics": statistics,
        "statistics, curved": curved,
        "embedding and curved": np.concatenate([measured.embedding, curved], axis=1),
        "L2 norm": norm,
        "brightness": statistics[:, 2:5].mean(axis=1, keepdims=True),
    }
    targets = {"log loss": np.log(loss), "loss": loss}
    # To first order the log of a mean over masks is the mean of these, which `reliability` can halve.
    noisy = {"log loss": np.log(loss)[:, None] + measured.loss / loss[:, None] - 1, "loss": measured.loss}
    reliable = {name: reliability(values) for name, values in noisy.items()}
    scores = []
    for holdout, folds in holdouts(measured.batch).items():
        for name, target in targets.items():
            for title, features in predictors.items():
                predicted = out_of_fold(features, folds, cross_validate(atoms_from_folds(features, target, folds)))
                r = correlation(predicted, target)
                beyond = partial_r(predicted, target, curved) if title.startswith("embedding") else None
                scores.append(Score(holdout, name, title, r, r / np.sqrt(reliable[name]), beyond))
    return tuple(scores), reliable


def fit(encoder: PrestoEncoder, measured: Measured) -> Probe:
    """The probe to keep: fitted to the log of the loss, its scores held out by blocks of 100 km."""
    batch, blocks = measured.batch, _blocks(measured.batch)
    folds = folds_from_blocks(blocks, N_FOLDS)
    scheme = {"scheme": "block", "block_size_m": BLOCK_M, "n_folds": N_FOLDS}
    meta = ProbeMeta.for_encoder(
        encoder.card,
        chip_size_px=1,
        gsd_m=batch.gsd_m,
        n_masks=measured.loss.shape[1],
        holdout="block",
        fold_digest=fold_digest(batch.chip_id, folds, scheme),
        origin="local",
        trained_on=f"{len(batch)} yearly series of inland waters in the USA",
        unit="squared scaled units",
    )
    return fit_probe(
        measured.embedding,
        measured.loss.mean(axis=1),
        batch.chip_id,
        blocks=blocks,
        scenes=batch.time[:, 0].astype("datetime64[M]").astype(str),
        folds=folds,
        meta=meta,
        transform="log",
        min_blocks=1,
    )


def report_on(encoder: PrestoEncoder, batch: ChipBatch, n_masks: int) -> tuple[Report, Probe]:
    """Measure, evaluate and fit."""
    measured = measure(encoder, batch, n_masks)
    scores, reliable = evaluate(measured)
    probe = fit(encoder, measured)
    loss = measured.loss.mean(axis=1)
    plain: dict[str, NDArray[np.floating]] = {
        "L2 norm of the embedding": np.linalg.norm(measured.embedding, axis=1),
        "brightness (mean of blue, green, red)": measured.statistics[:, 2:5].mean(axis=1),
        "spread of the ten optical bands over the year": measured.statistics[:, 19:29].mean(axis=1),
    }
    report = Report(
        encoder=encoder.card.name,
        n_series=len(batch),
        n_places=len(np.unique(batch.lonlat, axis=0)),
        n_masks=n_masks,
        n_blocks=len(np.unique(_blocks(batch))),
        mean_loss=float(loss.mean()),
        reliability=reliable,
        ceiling={name: float(np.sqrt(value)) for name, value in reliable.items()},
        r_with_log_loss={name: correlation(values, np.log(loss)) for name, values in plain.items()},
        scores=scores,
        probe_scores=probe.meta.scores,
    )
    return report, probe


def table(report: Report) -> str:
    """The scores as Markdown."""
    names = list(dict.fromkeys(score.holdout for score in report.scores))
    lines = [
        f"{report.encoder}: {report.n_series} series of {report.n_places} places, {report.n_masks} masks, mean loss "
        f"{report.mean_loss:.4f}",
        "ceiling " + ", ".join(f"{value:.3f} ({name})" for name, value in report.ceiling.items()),
        "",
        "| target | predictor | " + " | ".join(f"{name}: r, beyond curved" for name in names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    by_row: dict[tuple[str, str], list[str]] = {}
    for score in report.scores:
        beyond = "" if score.partial_r is None else f", {score.partial_r:.2f}"
        by_row.setdefault((score.target, score.predictor), []).append(f"{score.r:.3f}{beyond}")
    lines += [
        f"| {target} | {predictor} | " + " | ".join(cells) + " |" for (target, predictor), cells in by_row.items()
    ]
    lines += ["", *(f"r of log loss and {name}: {r:.2f}" for name, r in report.r_with_log_loss.items())]
    return "\n".join(lines)


def run(data: Path, out: Path, *, name: str, masks: int, n: int | None) -> Report:
    """The whole chain; writes `report.json` and `probe` into `out`.

    Args:
        data: Folder with `pixel-series` and `weights`.
        out: Folder to write.
        name: `presto:dynamic-world` or `presto`.
        masks: Masks per series.
        n: Take the first so many series; None takes all.
    """
    encoder = load_encoder(name, weights=data / WEIGHTS_FILE, batch=64)
    assert isinstance(encoder, PrestoEncoder)  # noqa: S101 - so are both names
    batch = read_series(data / SERIES_FILE, encoder)
    report, probe = report_on(encoder, batch if n is None else batch.select(slice(n)), masks)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(report), indent=1)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    write_probe(out / "probe", *probe.to_arrays())
    return report


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {SERIES_FILE} and {WEIGHTS_FILE}")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.json and probe/")
    parser.add_argument("--encoder", default="presto:dynamic-world", help="or presto, which is given no land cover")
    parser.add_argument("--masks", type=int, default=16)
    parser.add_argument("--n", type=int, help="take the first so many series")
    arguments = parser.parse_args()
    try:
        report = run(arguments.data, arguments.out, name=arguments.encoder, masks=arguments.masks, n=arguments.n)
    except GeoelleError as error:
        raise SystemExit(str(error)) from None
    print(table(report))


if __name__ == "__main__":
    _main()
