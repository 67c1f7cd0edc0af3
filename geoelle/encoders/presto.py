"""Presto: a pixel's year of radar, optical, weather and terrain as twelve monthly steps, and its card.

Tseng et al. 2023, "Lightweight, Pre-trained Transformers for Remote Sensing Timeseries" (arXiv 2304.14065). A chip is
one pixel, a step is a month. Values go in as the data's providers give them (dB, digital numbers, kelvin, metres) and
are scaled here; NDVI is computed here, so nobody can give a wrong one. NaN is a value that is not known: Presto leaves
its token out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.registry import Variant
from geoelle.errors import EncoderError, EncoderInputError
from geoelle.provenance import seed_from
from geoelle.records import ChipBatch, EncoderCard

if TYPE_CHECKING:
    from geoelle.encoders.presto_model import PrestoEncoder

SENSOR = "presto-series"
N_STEPS = 12
MASK_RATIO = 0.75
DYNAMIC_WORLD = "dynamic-world"
"""The variant that is given a land cover class a month."""
N_CLASSES = 9
"""Dynamic World classes, 0 to 8; 9 stands for a class that is not known."""


class _Band(NamedTuple):
    """A band and how it becomes what pretraining saw: (value - shift) / divisor."""

    name: str
    wavelength_um: float
    """0 where there is none."""
    shift: float
    divisor: float


_SENTINEL_1_UM = 55_465.8
BANDS: tuple[_Band, ...] = (
    _Band("vv", _SENTINEL_1_UM, -25, 25),
    _Band("vh", _SENTINEL_1_UM, -25, 25),
    _Band("blue", 0.493, 0, 1e4),
    _Band("green", 0.56, 0, 1e4),
    _Band("red", 0.665, 0, 1e4),
    _Band("rededge1", 0.704, 0, 1e4),
    _Band("rededge2", 0.74, 0, 1e4),
    _Band("rededge3", 0.783, 0, 1e4),
    _Band("nir", 0.842, 0, 1e4),
    _Band("nir08", 0.865, 0, 1e4),
    _Band("swir16", 1.61, 0, 1e4),
    _Band("swir22", 2.19, 0, 1e4),
    _Band("temperature_2m", 0, 272.15, 35),  # 272.15 and not 273.15: so it was in pretraining
    _Band("total_precipitation", 0, 0, 0.03),
    _Band("elevation", 0, 0, 2000),
    _Band("slope", 0, 0, 50),
)
"""What a series holds. To the network NDVI follows as the 17th band, and the Dynamic World class as the 18th."""
_CLASS_BAND = _Band("dynamic_world", 0, 0, 1)
_UNKNOWN = np.finfo(np.float32).max
RED, NIR, STATIC = 4, 8, slice(14, 16)
_OPTICAL, _RADAR, _TEMPERATURE, _RAIN = slice(2, 12), slice(0, 2), 12, 13

GROUPS: dict[str, tuple[int, ...]] = {
    "S1": (0, 1),
    "S2_RGB": (2, 3, 4),
    "S2_Red_Edge": (5, 6, 7),
    "S2_NIR_10m": (8,),
    "S2_NIR_20m": (9,),
    "S2_SWIR": (10, 11),
    "ERA5": (12, 13),
    "SRTM": (14, 15),
    "NDVI": (16,),
}
"""Bands that share a token, in the network's order. Dynamic World comes after them."""
_SRTM = list(GROUPS).index("SRTM")


def n_tokens(n_steps: int) -> int:
    """Tokens of a series: one for each group and step, Dynamic World among the groups, but a single one for terrain."""
    return len(GROUPS) * n_steps + 1


def srtm_token(n_steps: int) -> int:
    """Index of terrain's token: the tokens of a group run over the steps, group after group."""
    return _SRTM * n_steps


def presto_card(variant: Variant) -> EncoderCard:
    """The card of `presto` or `presto:dynamic-world`.

    Raises:
        EncoderError: If there is no such variant.
    """
    if variant.what not in ("", DYNAMIC_WORLD) or variant.gsd_m not in (None, 10.0):
        raise EncoderError(
            f"There is no {variant.name('presto')}. Expected presto or presto:{DYNAMIC_WORLD}, at 10 m: it takes no "
            "other pixels."
        )
    bands = (*BANDS, _CLASS_BAND) if variant.what else BANDS
    card = EncoderCard(
        name=variant.name("presto"),
        sensor=SENSOR,
        bands=tuple(band.name for band in bands),
        wavelength_um=tuple(float(band.wavelength_um) for band in bands),
        units="dB, DN (reflectance x 10000), K, m, m, degrees",
        scale=1.0,
        clip=None,
        mean=tuple(float(band.shift) for band in bands),
        std=tuple(float(band.divisor) for band in bands),
        gsd_m=10.0,
        chip_sizes_px=(1,),
        patch_px=1,
        n_features=128,
        pooling="mean",
        n_steps=(N_STEPS,),
        needs_time=True,
        needs_lonlat=True,
        mask_ratio=MASK_RATIO,
        loss_definition=(
            "Mean squared error over the hidden values of Sentinel-1, Sentinel-2, ERA5, terrain (once) and NDVI, in "
            "Presto's scaled units (1 = 25 dB, reflectance 1, 35 K, 30 mm, 2000 m, 50 degrees), under masks of the "
            "strategy random_combinations. Left out: the cross-entropy of hidden Dynamic World classes, and the three "
            "other mask strategies of pretraining."
        ),
        loss_kind="own-partial",
        licence="MIT",
        source=(
            "Weights: nasaharvest/presto, data/default_model.pt (Tseng et al. 2023, arXiv 2304.14065). Trained on "
            "modified Copernicus Sentinel data [2020, 2021], ERA5 (Copernicus Climate Change Service), SRTM (NASA) and "
            "Dynamic World (Google and World Resources Institute)."
        ),
        weights="default_model.pt",
        weights_sha256="559c9d76f525bdf2dd3774da8b1e7f1510769b73baacac12e9e4d8d5c67fbe65",
        not_good_for=(
            "Anything but monthly series of single pixels that hold radar, optical, weather and terrain: `embed` "
            "cannot make these from STAC yet. It sees no texture and no neighbours."
        ),
        training="Masked autoencoding of 21.5 million pixel series of 2020 and 2021 from all over the world.",
        n_parameters=822_682,
        n_layers=2,
        tokens_per_patch=len(GROUPS),
        poolings=("mean",),
        checkpoint="presto",
        trained_gsd_m=(10.0,),
        differs=("Sentinel-2 was level 1C (top of atmosphere) in pretraining; series of level 2A differ from that.",),
        validated=True,
    )
    if variant.what:
        return card
    no_classes = "Pretraining had a Dynamic World class each month, and without them Presto leaves out their tokens."
    return replace(card, differs=(*card.differs, no_classes))


def load_presto(variant: Variant | None = None, **options: Any) -> PrestoEncoder:
    """Presto with its published weights.

    Args:
        variant: Whether Dynamic World classes are given; None: they are not.
        options: `weights`, `random_seed` and the other options of `opening.open_encoder`.

    Raises:
        EncoderError: If there is no such variant.
        WeightsError: If the weights are not there, or not Presto's.
    """
    from geoelle.encoders.opening import open_encoder
    from geoelle.encoders.presto_model import PrestoConfig, PrestoEncoder, PrestoNetwork

    card = presto_card(variant or Variant())
    found = open_encoder(
        card, lambda _: PrestoNetwork(PrestoConfig()), prepare=scaled_series, kind=PrestoEncoder, **options
    )
    assert isinstance(found, PrestoEncoder)  # noqa: S101 - `kind` says so
    return found


def scaled_series(card: EncoderCard, batch: ChipBatch) -> NDArray[np.float32]:
    """A batch as pretraining had it: scaled values, NDVI, Dynamic World classes; NaN where a value is not known.

    The month of a step comes from `time`, so steps have to be in order of time. Terrain does not change: a pixel's is
    that of its first step that has it, whether `valid` or not.

    Args:
        card: Of Presto.
        batch: That fits it.

    Returns:
        (chip, step, 18, 1, 1).

    Raises:
        EncoderInputError: If values are not in the card's units, classes are not 0 to 9, or steps are out of order.
    """
    values = _known_values(batch)
    _check_series(card, values, batch.time)
    red, nir = values[:, :, RED], values[:, :, NIR]
    total = red + nir
    # Black pixels have an NDVI of 0, as they had in pretraining.
    ndvi = np.divide(nir - red, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)
    classes = values[:, :, len(BANDS)] if len(card.bands) > len(BANDS) else np.full_like(ndvi, np.nan)
    scaled = (values[:, :, : len(BANDS)] - card.mean[: len(BANDS)]) / card.std[: len(BANDS)]
    known = np.where(classes == N_CLASSES, np.nan, classes)
    whole = np.concatenate([scaled, ndvi[:, :, None], known[:, :, None]], axis=2)
    return whole[..., None, None].astype(np.float32)


def stand_in(batch: ChipBatch) -> ChipBatch:
    """The same series to whoever takes a pixel for lost where one of its bands is not known.

    What is not known is a huge number in place of NaN, and all months of a series are valid unless nothing of it is
    known at all. `scaled_series` gives the same for both.
    """
    values = _known_values(batch)
    anything = np.isfinite(values).any(axis=(1, 2))
    pixels = np.nan_to_num(values, nan=float(_UNKNOWN)).astype(np.float32)
    valid = np.broadcast_to(anything[:, None, None, None], batch.valid.shape).copy()
    return replace(batch, pixels=pixels[..., None, None], valid=valid)


def _known_values(batch: ChipBatch) -> NDArray[np.float64]:
    """(chip, step, band): NaN where not known or not valid; terrain at every step."""
    values = batch.pixels[:, :, :, 0, 0].astype(np.float64)
    values[~np.isfinite(values) | (values == float(_UNKNOWN))] = np.nan
    terrain = _first_known(values[:, :, STATIC])
    values[~batch.valid[:, :, 0, 0]] = np.nan
    # A series of which no month is valid is one of which nothing is known.
    values[:, :, STATIC] = np.where(batch.valid.any(axis=(1, 2, 3))[:, None, None], terrain[:, None], np.nan)
    return values


def _first_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first of each band's values along the steps that is known, (chip, band), of (chip, step, band)."""
    first = np.isfinite(values).argmax(axis=1)
    return np.take_along_axis(values, first[:, None], axis=1)[:, 0]


def _check_series(card: EncoderCard, values: NDArray[np.float64], time: NDArray[np.datetime64]) -> None:
    if (np.diff(time, axis=1) < np.timedelta64(0, "ns")).any():
        raise EncoderInputError(f"{card.name} expects months in order of time. Sort the steps of each series.")
    with np.errstate(invalid="ignore"):  # NaN is above and below nothing
        optical, radar = values[:, :, _OPTICAL], values[:, :, _RADAR]
        wrong = {
            "Sentinel-2 as digital numbers, reflectance x 10000": (optical > 0).any((1, 2))
            & ~(optical > 2).any((1, 2)),
            "Sentinel-1 in dB, below 0 in most months": (radar > 0).any((1, 2)) & ~(radar <= 0).any((1, 2)),
            "temperature_2m in kelvin": (np.abs(values[:, :, _TEMPERATURE] - 260) > 90).any(1),
            "total_precipitation in metres": (np.abs(values[:, :, _RAIN]) > 5).any(1),
        }
        if values.shape[2] > len(BANDS):
            classes = values[:, :, len(BANDS)]
            wrong["dynamic_world as whole numbers from 0 to 8, or 9 or NaN where it is not known"] = (
                (classes < 0) | (classes > N_CLASSES) | (classes % 1 > 0)
            ).any(1)
    for wanted, chips in wrong.items():
        if chips.any():
            raise EncoderInputError(
                f"{card.name} expects {wanted}, but {int(chips.sum())} of {len(values)} series are not like that, the "
                f"first at index {int(chips.argmax())}. Convert them."
            )


def random_combinations(noise: NDArray[np.floating[Any]], mask_ratio: float) -> NDArray[np.bool_]:
    """The mask that Presto's strategy of this name makes of noise.

    Terrain's token is hidden where its noise is below the ratio; of all others so many of the least noise that
    int(mask_ratio x tokens) are hidden in all.

    Args:
        noise: (..., token), uniform in [0, 1).
        mask_ratio: Share of tokens to hide.

    Returns:
        Of the shape of `noise`; True is hidden.
    """
    tokens = noise.shape[-1]
    terrain = srtm_token((tokens - 1) // len(GROUPS))
    of_terrain = noise[..., terrain] < mask_ratio
    others = np.array(noise, dtype=np.float64)
    others[..., terrain] = np.inf
    rank = others.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
    hidden: NDArray[np.bool_] = rank < (int(mask_ratio * tokens) - of_terrain)[..., None]
    hidden[..., terrain] = of_terrain
    return hidden


def fixed_series_masks(chip_ids: NDArray[np.str_] | Sequence[str], k: int, n_steps: int = N_STEPS) -> NDArray[np.bool_]:
    """The first `k` masks of each series, (chip, mask, token); each of a series' id, the draw's number and the tokens.

    Raises:
        EncoderInputError: If `k` is not positive.
    """
    if k < 1:
        raise EncoderInputError(
            f"{k} masks per series were asked for. Expected at least 1. Use k = 8 unless in a hurry."
        )
    tokens = n_tokens(n_steps)
    noise = np.empty((len(chip_ids), k, tokens))
    for c, chip_id in enumerate(chip_ids):
        for i in range(k):
            # As in `masks.fixed_masks`: the raw stream is what NumPy promises for ever.
            raw = np.random.Philox(key=seed_from("mask", chip_id, i, tokens)).random_raw(tokens)
            noise[c, i] = raw.astype(np.float64) * 2.0**-64
    return random_combinations(noise, MASK_RATIO)
