"""Clay v1.5: what it is fed from each sensor, and how it is loaded. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geoelle.encoders.registry import Variant
from geoelle.errors import EncoderError
from geoelle.records import EncoderCard

if TYPE_CHECKING:
    from geoelle.encoders.torch_encoder import TorchEncoder

NAME = "clay-v1.5"
DEFAULT = "sentinel-2-l2a"
N_PARAMETERS = 327_343_104
"""Of encoder and decoder; the teacher (304 million) and the projection to it are left out."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One sensor as pretraining had it: figures of upstream's `configs/metadata.yaml`, in its band order."""

    bands: tuple[tuple[str, float, float, float], ...]
    """Name, mean and standard deviation in the numbers that pretraining saw, wavelength in micrometres."""
    gsd_m: float
    units: str
    """That geoelle reads this sensor in."""
    scale: float = 1.0
    """From the numbers that pretraining saw to `units`: number x scale + offset."""
    offset: float = 0.0
    differs: tuple[str, ...] = ()
    not_good_for: str = ""


_PLATFORMS = {
    "sentinel-2-l2a": Platform(
        bands=(
            ("blue", 1105, 1809, 0.493),
            ("green", 1355, 1757, 0.56),
            ("red", 1552, 1888, 0.665),
            ("rededge1", 1887, 1870, 0.704),
            ("rededge2", 2422, 1732, 0.74),
            ("rededge3", 2630, 1697, 0.783),
            ("nir", 2743, 1742, 0.842),
            ("nir08", 2785, 1648, 0.865),
            ("swir16", 2388, 1470, 1.61),
            ("swir22", 1835, 1379, 2.19),
        ),
        gsd_m=10.0,
        units="reflectance",
        scale=0.0001,
        differs=(
            "geoelle takes off the offset of 1000 that Sentinel-2 numbers carry from baseline 04.00 on; whether "
            "Clay's training data still had it is not established.",
        ),
    ),
    "landsat-c2-l2": Platform(
        bands=(
            ("red", 13705, 9578, 0.65),
            ("green", 13310, 9408, 0.56),
            ("blue", 12474, 10144, 0.48),
            ("nir08", 17801, 8277, 0.86),
            ("swir16", 14615, 5300, 1.6),
            ("swir22", 12701, 4522, 2.2),
        ),
        gsd_m=30.0,
        units="reflectance",
        scale=0.0000275,
        offset=-0.2,
        not_good_for="Landsat 4 to 7, whose bands lie a few hundredths of a micrometre from those it is told. ",
    ),
    "naip": Platform(
        bands=(
            ("red", 110.16, 47.23, 0.65),
            ("green", 115.41, 39.82, 0.56),
            ("blue", 98.15, 35.43, 0.48),
            ("nir", 139.04, 49.86, 0.842),
        ),
        gsd_m=1.0,
        units="dn",
        not_good_for="Comparing years or states, whose uncalibrated cameras differ. ",
    ),
    "sentinel-1-rtc": Platform(
        bands=(("vv", -12.113, 8.314, 3.5), ("vh", -18.673, 8.017, 4.0)),
        gsd_m=10.0,
        units="dB",
        differs=(
            "Power of zero or less was taken for 1e-10 (-100 dB) in training; geoelle takes it for missing.",
            "The wavelengths 3.5 and 4.0 are placeholders that tell the polarisations apart, as in training; they are "
            "not the radar's (5.5 cm).",
        ),
        not_good_for="The polarisations hh and hv. ",
    ),
}
SENSORS = tuple(_PLATFORMS)
"""Sensors that it can be fed, the default first."""
_DIFFERS = (
    "Pretraining saw chips of 256 px; other sizes are taken because positions are computed and not learned.",
    "Clay is told the hour of day: an item whose hour is not known is mostly dated 00:00, and it is told just that.",
    "Missing pixels are set to the band's mean; pretraining had no rule for them.",
)


def clay_card(variant: Variant) -> EncoderCard:
    """The card of Clay v1.5 fed from the sensor `variant.what` at any pixel size.

    Raises:
        EncoderError: If pretraining had no such sensor.
    """
    sensor = variant.what or DEFAULT
    if sensor not in _PLATFORMS:
        raise EncoderError(
            f"There is no {variant.name(NAME)}: Clay v1.5 was not trained on {sensor!r}. Expected one of "
            f"{', '.join(SENSORS)}. Use one of these sensors, or another encoder from list_encoders()."
        )
    platform = _PLATFORMS[sensor]
    gsd_m = platform.gsd_m if variant.gsd_m is None else variant.gsd_m
    if gsd_m <= 0:
        raise EncoderError(f"{variant.name(NAME)} has pixels of {gsd_m:g} m. Expected more than 0. Name a pixel size.")
    differs = platform.differs + _DIFFERS
    if gsd_m != platform.gsd_m:
        differs = (
            f"Read at {gsd_m:g} m, which Clay is told; pretraining saw {sensor} at {platform.gsd_m:g} m.",
            *differs,
        )
    return EncoderCard(
        name=variant.name(NAME),
        sensor=sensor,
        bands=tuple(band for band, *_ in platform.bands),
        wavelength_um=tuple(wavelength for *_, wavelength in platform.bands),
        units=platform.units,
        scale=1.0,
        clip=None,
        mean=tuple(mean * platform.scale + platform.offset for _, mean, _, _ in platform.bands),
        std=tuple(std * platform.scale for _, _, std, _ in platform.bands),
        gsd_m=gsd_m,
        chip_sizes_px=(256, 224, 128, 96, 64),
        patch_px=8,
        n_features=1024,
        pooling="cls",
        n_steps=(1,),
        needs_time=False,
        needs_lonlat=False,
        mask_ratio=0.75,
        loss_definition=(
            "Mean absolute error of the hidden patches' reconstruction, over bands and pixels, in standard deviations "
            "of each band in pretraining. It is nine tenths of the training loss; the other tenth, 1 - cosine to the "
            "class token of a DINOv2 teacher, is left out."
        ),
        loss_kind="own-partial",
        licence="Apache-2.0 (code and weights)",
        source="made-with-clay/Clay on the Hugging Face hub; code: github.com/Clay-foundation/model (Apache-2.0).",
        weights="clay-v1.5.ckpt",
        weights_sha256="",
        not_good_for=platform.not_good_for + "Haste: about 6 s per 256 px chip on two CPU cores; use a GPU.",
        training=(
            "Masked autoencoder on 256 px chips of Sentinel-2 L2A, Landsat C2 L1 and L2, NAIP, LINZ aerial imagery, "
            "Sentinel-1 RTC and MODIS, three quarters of the patches hidden and bands dropped at random (here they "
            "never are); pixels with L1, the class token towards DINOv2 ViT-L/14's."
        ),
        n_parameters=N_PARAMETERS,
        n_layers=24,
        checkpoint=NAME,
        trained_gsd_m=(platform.gsd_m,),
        differs=differs,
    )


def load_clay(variant: Variant, **options: Any) -> TorchEncoder:
    """What the registry calls; options as of `opening.open_encoder`.

    Raises:
        EncoderError: If there is no such variant.
        WeightsError: If the weights are missing, damaged or others than expected.
    """
    from geoelle.encoders.clay_model import ClayConfig, ClayNetwork
    from geoelle.encoders.opening import open_encoder

    return open_encoder(clay_card(variant), lambda _: ClayNetwork(ClayConfig()), **options)
