"""Prithvi-EO 1.0 and 2.0: what they are fed from each sensor, how they are loaded. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.inputs import normalised
from geoelle.encoders.registry import Variant
from geoelle.errors import EncoderError
from geoelle.records import ChipBatch, EncoderCard

if TYPE_CHECKING:
    from geoelle.encoders.prithvi_model import PrithviConfig
    from geoelle.encoders.torch_encoder import TorchEncoder

GSD_M = 30.0
"""Of HLS, which all of them were trained on."""
MISSING = 0.0001
"""What stands for a missing pixel after normalisation, as in pretraining."""
BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
"""The fourth is the narrow near infrared: Sentinel-2's B8A and not B08, Landsat's B5."""


@dataclass(frozen=True, slots=True)
class PrithviModel:
    """One published model."""

    filename: str
    repo: str
    n_parameters: int
    """Values of encoder and decoder in the file, fixed position codes included."""
    n_features: int
    depth: int
    heads: int
    n_steps: int
    """Dates in pretraining."""
    accepts_steps: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per band, of reflectance x 10,000."""
    training: str
    coordinates: bool = False
    """Whether it is told time and place."""


_V1_MEAN = (775.2290, 1080.9928, 1228.5855, 2497.2023, 2204.2139, 1610.8324)
_V1_STD = (1281.5261, 1270.0298, 1399.4803, 1368.3446, 1291.6764, 1154.5057)
_V2_MEAN = (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0)
_V2_STD = (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)
_TRAINING = (
    "Masked autoencoder on HLS surface reflectance at 30 m, 224 px chips of {dates} dates, three quarters of the "
    "patches hidden.{more}"
)
_V2 = partial(
    PrithviModel,
    n_steps=4,
    accepts_steps=(1, 2, 3, 4),
    mean=_V2_MEAN,
    std=_V2_STD,
    training=_TRAINING.format(dates="four", more=""),
)
_V2_TL = partial(
    _V2,
    coordinates=True,
    training=_TRAINING.format(dates="four", more=" It was told year, day of year and place, and at times not."),
)
MODELS = {
    "prithvi-eo-1.0-100m": PrithviModel(
        "Prithvi_EO_V1_100M.pt",
        "Prithvi-EO-1.0-100M",
        113_393_408,
        n_features=768,
        depth=12,
        heads=12,
        n_steps=3,
        accepts_steps=(1, 3),
        mean=_V1_MEAN,
        std=_V1_STD,
        training=_TRAINING.format(dates="three", more=" Of the contiguous United States."),
    ),
    "prithvi-eo-2.0-300m": _V2(
        "Prithvi_EO_V2_300M.pt", "Prithvi-EO-2.0-300M", 331_625_472, n_features=1024, depth=24, heads=16
    ),
    "prithvi-eo-2.0-300m-tl": _V2_TL(
        "Prithvi_EO_V2_300M_TL.pt", "Prithvi-EO-2.0-300M-TL", 331_625_476, n_features=1024, depth=24, heads=16
    ),
    "prithvi-eo-2.0-tiny-tl": _V2_TL(
        "Prithvi_EO_V2_tiny_TL.pt", "Prithvi-EO-2.0-tiny-TL", 32_294_084, n_features=192, depth=12, heads=3
    ),
}
"""The published models, by geoelle's names; each is its checkpoint's name too."""

_WAVELENGTHS_UM = {
    "hls-s30": (0.4966, 0.560, 0.6645, 0.8648, 1.6137, 2.20),
    "hls-l30": (0.48, 0.56, 0.65, 0.86, 1.6, 2.2),
    "sentinel-2-l2a": (0.493, 0.560, 0.665, 0.865, 1.614, 2.202),
    "landsat-c2-l2": (0.48, 0.56, 0.65, 0.86, 1.6, 2.2),
}
SENSORS = tuple(_WAVELENGTHS_UM)
"""Sensors that they can be fed, the default first."""
_DIFFERS_BY_SENSOR = {
    "hls-s30": (),
    "hls-l30": (),
    "sentinel-2-l2a": (
        "Sentinel-2 L2A is not HLS: its atmosphere was corrected by Sen2Cor, it is not normalised to nadir view, and "
        "its bands are not adjusted to Landsat's.",
    ),
    "landsat-c2-l2": (
        "Landsat Collection 2 is not HLS: its reflectance is not normalised to nadir view.",
        "Landsat 4 to 7 have other bands, a few hundredths of a micrometre away; HLS holds Landsat 8 and 9 alone.",
    ),
}
_LON_LAT = (
    "Its place is told as (longitude, latitude), as upstream's inference does; upstream's documentation of that "
    "argument says latitude first."
)
_V1_EPS = (
    "Its layer norms have eps 1e-5, as in upstream's present code; whether version 1 was trained with 1e-6 is not "
    "established."
)


def prithvi_card(name: str, variant: Variant) -> EncoderCard:
    """The card of the model `name` fed from the sensor `variant.what`, read at 30 m or, off its domain, otherwise.

    Raises:
        EncoderError: If it cannot be fed so.
    """
    model, sensor = MODELS[name], variant.what or SENSORS[0]
    if sensor not in _WAVELENGTHS_UM:
        raise EncoderError(
            f"There is no {variant.name(name)}: {sensor!r} is not a sensor that it can be fed. Expected one of "
            f"{', '.join(SENSORS)}. Use one of these, or another encoder from list_encoders()."
        )
    gsd_m = GSD_M if variant.gsd_m is None else variant.gsd_m
    if gsd_m <= 0:
        raise EncoderError(f"{variant.name(name)} has pixels of {gsd_m:g} m. Expected more than 0. Name a pixel size.")
    return EncoderCard(
        name=variant.name(name),
        sensor=sensor,
        bands=BANDS,
        wavelength_um=_WAVELENGTHS_UM[sensor],
        units="reflectance",
        scale=10_000.0,
        clip=None,
        mean=model.mean,
        std=model.std,
        gsd_m=gsd_m,
        chip_sizes_px=(224,),
        patch_px=16,
        n_features=model.n_features,
        pooling="cls",
        n_steps=model.accepts_steps,
        needs_time=model.coordinates,
        needs_lonlat=model.coordinates,
        mask_ratio=0.75,
        loss_definition=(
            "Mean squared error of the hidden patches' reconstruction, over dates, bands and pixels, in squared "
            "standard deviations of each band in pretraining."
        ),
        loss_kind="own",
        licence="Apache-2.0 (code and weights)",
        source=f"ibm-nasa-geospatial/{model.repo} on the Hugging Face hub (Apache-2.0), trained on NASA's HLS v2.0.",
        weights=model.filename,
        weights_sha256="",
        not_good_for=(
            "Small places: a chip is 224 px of 30 m, 6.7 km, and a patch 480 m. Bands other than its six; Sentinel-2's "
            "B08 is not its near infrared (B8A)."
        ),
        training=model.training,
        n_parameters=model.n_parameters,
        n_layers=model.depth,
        checkpoint=name,
        trained_gsd_m=(GSD_M,),
        differs=_differs(model, sensor, gsd_m),
    )


def _differs(model: PrithviModel, sensor: str, gsd_m: float) -> tuple[str, ...]:
    return (
        *((f"Off its domain: read at {gsd_m:g} m; pretraining saw 30 m only.",) if gsd_m != GSD_M else ()),
        *_DIFFERS_BY_SENSOR[sensor],
        *((_LON_LAT,) if model.coordinates else ()),
        *((_V1_EPS,) if model.n_steps == 3 else ()),
        f"Pretraining saw {model.n_steps} dates of each chip; fewer are taken for the first of them.",
    )


def prepared(card: EncoderCard, batch: ChipBatch) -> NDArray[np.float32]:
    """Standardised pixels as `inputs.normalised` gives them, but 0.0001 where they are missing, as in pretraining."""
    return normalised(card, batch, missing=MISSING)


def prithvi_config(name: str) -> PrithviConfig:
    """The sizes of the model `name`."""
    from geoelle.encoders.prithvi_model import PrithviConfig

    model = MODELS[name]
    return PrithviConfig(model.n_features, model.depth, model.heads, model.n_steps, model.coordinates)


def load_prithvi(name: str, *, variant: Variant, **options: Any) -> TorchEncoder:
    """The model `name`; options as of `opening.open_encoder`.

    Raises:
        EncoderError: If there is no such variant.
        WeightsError: If the weights are missing, damaged or others than expected.
    """
    from geoelle.encoders.opening import open_encoder
    from geoelle.encoders.prithvi_model import PrithviNetwork, published_names

    config = prithvi_config(name)
    return open_encoder(
        prithvi_card(name, variant),
        lambda _: PrithviNetwork(config),
        prepare=prepared,
        convert=lambda tensors: published_names(tensors, config),
        **options,
    )


load_1_0_100m = partial(load_prithvi, "prithvi-eo-1.0-100m")
load_2_0_300m = partial(load_prithvi, "prithvi-eo-2.0-300m")
load_2_0_300m_tl = partial(load_prithvi, "prithvi-eo-2.0-300m-tl")
load_2_0_tiny_tl = partial(load_prithvi, "prithvi-eo-2.0-tiny-tl")
