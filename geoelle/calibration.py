"""The calibration stage: chips of quiet dates, their own loss, and the probe that reads it off the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from geoelle.choosing import find_weights
from geoelle.days import DateRanges
from geoelle.describing import card_of_store, encoder_attrs
from geoelle.embedding import ItemsLike, load_records
from geoelle.encoders import get_card
from geoelle.encoders.options import EncoderOptions
from geoelle.errors import ConfigError, ProbeError, StoreError
from geoelle.grid import GridExtent
from geoelle.holdout import fold_digest, folds_from_blocks
from geoelle.jobs import cached_encoder
from geoelle.mapping import check_probe_fits, load_probe, one_encoder
from geoelle.pairing import loss_jobs, measure_loss, to_pairs
from geoelle.probe import MIN_BLOCKS, Probe, ProbeMeta, fit_probe, held_out_difficulty
from geoelle.probe.measures import correlation, delta_fidelity, partial_r, reliability
from geoelle.provenance import digest
from geoelle.records import EncoderCard
from geoelle.running import Progress, cluster, encoder_threads, no_progress, run_jobs
from geoelle.sampling import Looks, draw_sample, find_candidates
from geoelle.schema import LOSS_UNITS, check_pairs
from geoelle.store.embeddings import stored_digests
from geoelle.store.layout import extent_of
from geoelle.store.location import Location, StorePath
from geoelle.store.probes import check_probe_place, write_probe
from geoelle.store.tables import check_table_place, read_table, write_table
from geoelle.store.zones import open_zones, zone_paths
from geoelle.texture import TEXTURE_NAMES

DEFAULT_N = 5000
DEFAULT_MASKS = 8
DEFAULT_BLOCK_SIZE_M = 2000.0
"""Where chips are no larger than half of it; see `default_block_size_m`."""
_N_FOLDS = 5
_MIN_FOLDS = 3
_CHIPS_PER_BLOCK = 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration found; kept in the `attrs` of the pairs as a dict."""

    n_candidates: int
    """Chips on quiet dates that could have been sampled."""
    n_pairs: int
    n_blocks: int
    """Independent spatial blocks among the pairs."""
    n_scenes: int
    block_size_m: float
    quiet_declared: bool
    """Whether the user named quiet dates; if not, all dates were used, events among them."""
    fitted: bool
    """Whether a local probe was fitted."""
    origin: str
    """`local`, or `shipped` where the cold start has to do."""
    why: str
    """Why no probe was fitted, and what would help; empty where one was."""
    loss_kind: str
    """What was measured: `own`, `own-partial` or `proxy`."""
    n_without_loss: int
    """Chips sampled whose loss is undefined, as none of what a mask hides is wholly valid; left out."""
    reliability: float
    """Split-half correlation of the mask-averaged loss, stepped up to K masks (Spearman-Brown); NaN with one mask."""
    ceiling: float
    """Square root of the reliability: no probe's r can pass it. NaN where that is not known."""
    why_no_ceiling: str
    """Why reliability and ceiling are not known; empty where they are."""
    scores: dict[str, float | None]
    """Local probe: held out by block. Shipped probe: on these pairs, which it never saw."""
    partial_r: float
    """Correlation of loss and difficulty (held out like the scores) beyond brightness, contrast, gradient, JPEG."""
    level_ratio: float
    """Mean difficulty, held out like the scores, over mean loss: 1 is no bias."""
    delta_fidelity: float
    """Correlation over places seen on several dates of predicted and true departure from the place's own mean."""
    probe_digest: str
    """Of the local probe; empty where none was fitted."""
    made_of: str
    """Digest of everything the pairs and the probe come from: chips, options, encoder."""


def calibrate(
    embeddings: StorePath,
    *,
    items: ItemsLike,
    out: StorePath,
    pairs_out: StorePath | None = None,
    quiet: DateRanges = (),
    exclude_dates: Sequence[date | str] = (),
    n: int = DEFAULT_N,
    masks: int = DEFAULT_MASKS,
    block_size_m: float | None = None,
    allow_few: bool = False,
    weights: str | Path | None = None,
    accept_license: bool = False,
    device: str = "auto",
    precision: str = "float32",
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress = no_progress,
) -> gpd.GeoDataFrame:
    """Sample chips of quiet dates, measure their own loss, and fit the probe that predicts it.

    Chips are drawn evenly over strata of block, season and texture, in an order that depends on content alone; those of
    several zones together, as blocks know no zones.
    With fewer than 30 independent blocks no probe is fitted unless `allow_few`: the pairs are still written, and
    say how the shipped probe does on them.

    Args:
        embeddings: Store made by `embed`, a path or the URL of an object store.
        items: The items it was made from.
        out: Folder or URL for the probe.
        pairs_out: GeoParquet file or URL for the pairs; by default `pairs.parquet` beside the probe.
        quiet: First and last day of ranges without events; empty takes all dates.
        exclude_dates: Dates to leave out.
        n: Chips to sample; all where there are fewer.
        masks: Mask draws per chip (K). An encoder whose loss draws no mask has one loss per chip, whatever K is.
        block_size_m: Edge of a spatial block, EPSG:6933 metres; None: 2000, or four chips where these are
            larger than 1 km.
        allow_few: Fit with fewer than 30 blocks.
        weights: File or folder of the encoder's checkpoint, the same that made the embeddings; None: where geoelle
            keeps it.
        accept_license: Whether you accept the licence of non-commercial weights.
        device: `auto` is the GPU where a worker has one, else its CPU.
        precision: Of the encoder's products: `float32`, `bf16` or `fp16`.
        workers: Processes of the local Dask cluster.
        scheduler: Address of a Dask scheduler to use instead.
        progress: Told how many tiles are done.

    Returns:
        The pairs; `attrs["geoelle:calibration"]` is a `Calibration` as a dict.

    Raises:
        ProbeError: If the encoder has no loss of its own, or the chips cannot be fitted.
        TooFewBlocksError: If few blocks are allowed but there are not even three.
        ImageryError: If chips that were embedded can no longer be read.
        ConfigError: If a number makes no sense.
        WeightsError: If the encoder's weights are not there, or their licence is not accepted.
        StoreError: If the store was made by another version of the encoder, or something is in the way.
    """
    zones = open_zones(embeddings, "embeddings")
    encoder = one_encoder(zones)
    draws_masks = float(encoder["mask_ratio"]) > 0
    chip_size_m = max(extent_of(ds.attrs).grid.chip_size_m for ds in zones.values())
    block_size_m = default_block_size_m(chip_size_m) if block_size_m is None else block_size_m
    if n < 1 or masks < 1 + draws_masks or not 0 < block_size_m < np.inf:
        raise ConfigError(
            f"n is {n}, masks {masks}, block_size_m {block_size_m}. Expected at least 1, at least {1 + draws_masks}, "
            "and above 0."
        )
    if block_size_m < _CHIPS_PER_BLOCK * chip_size_m:
        raise ConfigError(
            f"block_size_m is {block_size_m:g} with chips of {chip_size_m:g} m. Expected at least "
            f"{_CHIPS_PER_BLOCK * chip_size_m:g}: blocks of fewer than {_CHIPS_PER_BLOCK} chips are not independent. "
            "Set it (--block-size-m)."
        )
    asked = EncoderOptions(None if weights is None else str(weights), accept_license, device, precision)
    card, opening = _same_encoder(embeddings, encoder, extent_of(next(iter(zones.values())).attrs), asked, workers)
    masks = masks if draws_masks else 1
    if encoder["loss_kind"] == "unavailable":
        raise ProbeError(
            f"Nothing can be calibrated with {encoder['name']}, which has no loss. {encoder['loss_definition']}"
        )
    pairs_path = Location.of(pairs_out) if pairs_out is not None else Location.of(out).with_name("pairs.parquet")
    check_probe_place(out)
    check_table_place(pairs_path)
    options = {
        "quiet": [[str(a), str(b)] for a, b in quiet],
        "exclude_dates": [str(d) for d in exclude_dates],
        "n": n,
        "masks": masks,
        "block_size_m": block_size_m,
        "allow_few": allow_few,
        **{name: value for name, value in opening.opening().items() if name in ("device", "precision")},
    }
    made_of = digest({"jobs": _digest_of_jobs(embeddings), **options, "encoder": encoder})
    there = _unchanged(pairs_path, Location.of(out), made_of)
    if there is not None:
        return there
    candidates = find_candidates(zones, quiet, exclude_dates, block_size_m)
    chosen = draw_sample(candidates, n)
    looks = Looks(zones)
    jobs = loss_jobs(looks, load_records(items), candidates, chosen, card, opening, encoder_threads(workers), masks)
    with cluster(workers, scheduler) as client:
        results = list(run_jobs(client, measure_loss, jobs, label="calibrate", progress=progress))
    pairs, losses = _with_loss(*to_pairs(looks, results, block_size_m))
    probe, held_out, why = _fit(pairs, encoder, masks, block_size_m, allow_few)
    if held_out is None:
        shipped = load_probe(None, encoder)
        check_probe_fits(shipped, encoder)
        held_out = shipped.predict(np.stack(pairs["embedding"].to_numpy())).astype(np.float64)
    found = _describe(pairs, losses, probe, held_out, why)
    found = replace(
        found,
        n_candidates=len(candidates.time),
        n_without_loss=len(chosen) - len(pairs),
        block_size_m=block_size_m,
        made_of=made_of,
        quiet_declared=bool(quiet),
        loss_kind=card.loss_kind,
    )
    pairs.attrs["geoelle:calibration"] = {f: getattr(found, f) for f in Calibration.__slots__}
    pairs.attrs["geoelle:encoder"] = dict(encoder)
    check_pairs(pairs)
    if probe is not None:
        write_probe(out, *probe.to_arrays())
    write_table(pairs, pairs_path)
    return pairs


def default_block_size_m(chip_size_m: float) -> float:
    """Edge of the spatial blocks where none is asked for, metres: 2000, or four chips where two would not fit in that.

    Four, because a chip of one UTM metre is up to 2.5 wide in the metres of blocks at 70 degrees of latitude, and only
    chips that lie wholly in a block are sampled.
    """
    if _CHIPS_PER_BLOCK * chip_size_m <= DEFAULT_BLOCK_SIZE_M:
        return DEFAULT_BLOCK_SIZE_M
    return 2 * _CHIPS_PER_BLOCK * chip_size_m


def _digest_of_jobs(embeddings: StorePath) -> str:
    """Digest of every job of every zone; a store of one zone keeps the digest it always had."""
    by_zone = {zone: digest(stored_digests(path).tobytes().hex()) for zone, path in zone_paths(embeddings).items()}
    return by_zone[""] if "" in by_zone else digest(by_zone)


def _unchanged(pairs_path: Location, probe: Location, made_of: str) -> gpd.GeoDataFrame | None:
    """The pairs that are there, if they and the probe were made of the same."""
    if not pairs_path.is_file():
        return None
    try:
        pairs = read_table(pairs_path)
    except StoreError as error:
        raise StoreError(
            f"{pairs_path} is in the way: {error} Give another file for the pairs, or delete it."
        ) from None
    found = pairs.attrs.get("geoelle:calibration", {})
    if set(found) != set(Calibration.__slots__) or found["made_of"] != made_of:
        return None
    try:
        there = not found["fitted"] or load_probe(probe, {}).digest == found["probe_digest"]
    except (StoreError, ProbeError):
        there = False
    return pairs if there else None


def _same_encoder(
    embeddings: StorePath, stored: Mapping[str, Any], extent: GridExtent, options: EncoderOptions, workers: int
) -> tuple[EncoderCard, EncoderOptions]:
    """The encoder of a store, and how workers open it: the loss has to be of the very network that embedded.

    Raises:
        StoreError: If its weights, or how it is fed, are others now.
    """
    card = card_of_store(stored)
    sha256, opening = find_weights(get_card(card.name), options)
    if not sha256:
        sha256 = cached_encoder(card.name, encoder_threads(workers), opening).card.weights_sha256
    now = encoder_attrs(replace(card, weights_sha256=sha256), extent)
    differing = [name for name in ("weights_sha256", "card_digest") if stored.get(name) != now[name]]
    if differing:
        raise StoreError(
            f"{embeddings} was made by another version of {card.name}: {differing[0]} {stored.get(differing[0])}, "
            f"now {now[differing[0]]}. Embed again into another store."
        )
    return card, opening


def _with_loss(pairs: gpd.GeoDataFrame, losses: NDArray[np.float32]) -> tuple[gpd.GeoDataFrame, NDArray[np.float32]]:
    """The pairs with a loss under every mask."""
    known = np.isfinite(losses).all(axis=1)
    if not known.any():
        raise ProbeError(
            f"None of the {len(pairs)} chips has a loss: each has invalid pixels in all that some mask hides. Sample "
            "clearer dates, or embed with a smaller max_invalid_fraction."
        )
    return pairs[known].reset_index(drop=True), losses[known]


def _fit(
    pairs: gpd.GeoDataFrame,
    encoder: Mapping[str, Any],
    masks: int,
    block_size_m: float,
    allow_few: bool,
) -> tuple[Probe | None, NDArray[np.float64] | None, str]:
    """The local probe and its held-out difficulty of the pairs, or why there is none."""
    blocks = pairs["block"].to_numpy(dtype=str)
    n_blocks = len(np.unique(blocks))
    lonlat = np.stack([pairs.geometry.x, pairs.geometry.y], axis=1)
    if n_blocks < MIN_BLOCKS and not allow_few:
        why = (
            f"{n_blocks} independent blocks of {block_size_m:g} m, and a local fit asks for {MIN_BLOCKS}: a larger "
            "area would do; --allow-few fits all the same"
        )
        return None, None, why
    n_folds = max(_MIN_FOLDS, min(_N_FOLDS, n_blocks))
    folds = folds_from_blocks(blocks, n_folds, lonlat=lonlat)
    keys = [f"{c} {s}" for c, s in zip(pairs["chip_id"], pairs["scene"], strict=True)]
    scenes = sorted(set(pairs["scene"]))
    card = card_of_store(encoder)
    meta = ProbeMeta.for_encoder(
        card,
        chip_size_px=int(encoder["chip_size_px"]),
        gsd_m=float(encoder["gsd_m"]),
        n_masks=masks,
        holdout="block",
        fold_digest=fold_digest(keys, folds, {"scheme": "block", "block_size_m": block_size_m, "n_folds": n_folds}),
        origin="local",
        trained_on=f"{len(pairs)} chips of this area, {scenes[0]} to {scenes[-1]}",
        unit=LOSS_UNITS.get(card.loss_kind, LOSS_UNITS["proxy"]),
        pooling=encoder.get("pooling"),
        layer=encoder.get("layer"),
    )
    embedding, loss = np.stack(pairs["embedding"].to_numpy()), pairs["loss"].to_numpy()
    probe = fit_probe(
        embedding,
        loss,
        keys,
        blocks=blocks,
        scenes=pairs["scene"].to_numpy(dtype=str),
        folds=folds,
        meta=meta,
        min_blocks=1 if allow_few else MIN_BLOCKS,
    )
    check_probe_fits(probe, encoder)
    return probe, held_out_difficulty(probe, embedding, loss, folds), ""


def _describe(
    pairs: gpd.GeoDataFrame,
    losses: NDArray[np.float32],
    probe: Probe | None,
    predicted: NDArray[np.float64],
    why: str,
) -> Calibration:
    loss = pairs["loss"].to_numpy()
    reliable = reliability(losses)
    texture = pairs[list(TEXTURE_NAMES)].to_numpy()
    scores = dict(probe.meta.scores) if probe is not None else _agreement(predicted, loss)
    return Calibration(
        n_candidates=0,
        n_pairs=len(pairs),
        n_blocks=pairs["block"].nunique(),
        n_scenes=pairs["scene"].nunique(),
        block_size_m=0,
        quiet_declared=False,
        fitted=probe is not None,
        origin="shipped" if probe is None else probe.meta.origin,
        why=why,
        loss_kind="",
        n_without_loss=0,
        reliability=reliable,
        ceiling=float(np.sqrt(max(reliable, 0.0))) if np.isfinite(reliable) else float("nan"),
        why_no_ceiling=_why_no_ceiling(losses, reliable),
        scores=scores,
        partial_r=partial_r(predicted, loss, texture),
        level_ratio=float(predicted.mean() / loss.mean()),
        delta_fidelity=delta_fidelity(predicted, loss, pairs["chip_id"].to_numpy(dtype=str)),
        probe_digest="" if probe is None else probe.digest,
        made_of="",
    )


def _agreement(predicted: NDArray[np.float64], loss: NDArray[np.float64]) -> dict[str, float | None]:
    if np.ptp(predicted) == 0 or np.ptp(loss) == 0:
        return {"r": None, "rmse": float(np.sqrt(np.mean((predicted - loss) ** 2)))}
    return {
        "r": correlation(predicted, loss),
        "spearman": float(stats.spearmanr(predicted, loss).statistic),
        "rmse": float(np.sqrt(np.mean((predicted - loss) ** 2))),
        "slope": float(np.polyfit(predicted, loss, 1)[0]),
    }


def _why_no_ceiling(losses: NDArray[np.float32], reliable: float) -> str:
    if np.isfinite(reliable):
        return ""
    if losses.shape[1] < 2:
        return "the loss draws no mask, so one chip has one loss and its noise cannot be told from it"
    return "the losses of the masks do not vary"
