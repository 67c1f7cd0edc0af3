"""SatMAE: what it is fed, and how it is loaded. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.inputs import usable
from geoelle.encoders.registry import Variant
from geoelle.errors import EncoderError
from geoelle.records import ChipBatch, EncoderCard

if TYPE_CHECKING:
    from geoelle.encoders.satmae_model import SatMaeConfig
    from geoelle.encoders.torch_encoder import TorchEncoder

_BANDS = (
    ("blue", 0.493, 1184.382, 650.284),
    ("green", 0.560, 1120.771, 712.125),
    ("red", 0.665, 1136.260, 965.231),
    ("rededge1", 0.704, 1263.739, 948.982),
    ("rededge2", 0.740, 1645.403, 1108.067),
    ("rededge3", 0.783, 1846.870, 1258.364),
    ("nir", 0.833, 1762.595, 1233.149),
    ("nir08", 0.865, 1972.624, 1364.387),
    ("swir16", 1.614, 1732.164, 1310.370),
    ("swir22", 2.202, 1247.919, 1087.602),
)
"""Name, wavelength, mean and standard deviation of the numbers of fMoW-Sentinel, which are top of atmosphere (L1C)."""
_RGB = (
    ("red", 0.65, 0.4182, 0.2877),
    ("green", 0.56, 0.4215, 0.2754),
    ("blue", 0.48, 0.3991, 0.2764),
)
"""The same of fMoW's RGB images, as shares of 255."""


@dataclass(frozen=True, slots=True)
class SatMaeModel:
    """One published model."""

    filename: str
    record: str
    """On Zenodo."""
    n_parameters: int
    """Values of encoder and decoder in the file, fixed position codes included."""
    n_features: int
    depth: int
    heads: int
    rgb: bool = False


MODELS = {
    "satmae-vitb": SatMaeModel("pretrain-vit-base-e199.pth", "7338613", 111_624_448, 768, 12, 12),
    "satmae-vitl": SatMaeModel("pretrain-vit-large-e199.pth", "7338613", 329_212_928, 1024, 24, 16),
    "satmae-rgb-vitl": SatMaeModel("fmow_pretrain.pth", "7369797", 329_541_888, 1024, 24, 16, rgb=True),
}
"""The published models, by geoelle's names; each is its checkpoint's name too."""


def satmae_card(name: str, variant: Variant) -> EncoderCard:
    """The card of the model `name`, read at its own pixel size or, off its domain, at another.

    Raises:
        EncoderError: If it cannot be fed so.
    """
    card = _rgb_card(name) if MODELS[name].rgb else _group_card(name)
    if variant.what not in ("", card.sensor):
        raise EncoderError(
            f"There is no {variant.name(name)}: {variant.what!r} is not a sensor that it can be fed. Expected "
            f"{card.sensor}. Use that, or another encoder from list_encoders()."
        )
    gsd_m = card.gsd_m if variant.gsd_m is None else variant.gsd_m
    if gsd_m <= 0:
        raise EncoderError(f"{variant.name(name)} has pixels of {gsd_m:g} m. Expected more than 0. Name a pixel size.")
    made_for = f"it is made for {card.gsd_m:g} m" if card.trained_gsd_m else "pixel sizes of pretraining are not known"
    off = f"Off its domain: read at {gsd_m:g} m; {made_for}."
    differs = card.differs if gsd_m == card.gsd_m else (off, *card.differs)
    return replace(card, name=variant.name(name), gsd_m=gsd_m, differs=differs)


def _group_card(name: str) -> EncoderCard:
    model = MODELS[name]
    return EncoderCard(
        name=name,
        sensor="sentinel-2-l2a",
        bands=tuple(band for band, *_ in _BANDS),
        wavelength_um=tuple(wavelength for _, wavelength, *_ in _BANDS),
        units="reflectance",
        scale=10_000.0,
        clip=None,
        mean=tuple(mean for _, _, mean, _ in _BANDS),
        std=tuple(std for *_, std in _BANDS),
        gsd_m=10.0,
        chip_sizes_px=(96,),
        patch_px=8,
        n_features=model.n_features,
        pooling="mean",
        n_steps=(1,),
        needs_time=False,
        needs_lonlat=False,
        mask_ratio=0.75,
        loss_definition=(
            "Mean squared error of the hidden group tokens' reconstruction, over the group's bands and pixels; a band "
            "goes from 0 at its mean less two standard deviations to 1 at its mean and two, in steps of 1/255. As in "
            "upstream's code, the outputs for B05, B06, B07 and B08 are compared with B06, B07, B08 and B05."
        ),
        loss_kind="own",
        licence="CC BY-NC 4.0 (code; the record of the weights is taken to be under it too)",
        source=f"Zenodo record {model.record} (Cong et al. 2022, SatMAE), trained on fMoW-Sentinel.",
        weights=model.filename,
        weights_sha256="",
        not_good_for="Commercial use, which its licence forbids. Chips of any size but 96 px; dates and seasons.",
        training=(
            "Masked autoencoder on fMoW-Sentinel: 96 px chips of ten Sentinel-2 L1C bands in three groups, three "
            "quarters of the tokens hidden whatever their group."
        ),
        n_parameters=model.n_parameters,
        n_layers=model.depth,
        tokens_per_patch=3,
        checkpoint=name,
        non_commercial=True,
        trained_gsd_m=(10.0,),
        differs=(
            "It was trained on top-of-atmosphere reflectance (L1C) and is fed surface reflectance (L2A), with the "
            "statistics of pretraining: blue is darker than it was there, most of all in hazy scenes.",
            "Upstream resizes images of every size to 109 px (bicubic) to evaluate and takes the middle 96 px, so "
            "their pixels are 10 m in name only; geoelle feeds 96 px of true 10 m, and of larger chips resample_batch "
            "takes the middle 96 px.",
            "Missing pixels are set to the band's mean; pretraining had no rule for them.",
        ),
    )


def _rgb_card(name: str) -> EncoderCard:
    return replace(
        _group_card(name),
        sensor="naip",
        bands=tuple(band for band, *_ in _RGB),
        wavelength_um=tuple(wavelength for _, wavelength, *_ in _RGB),
        units="dn",
        scale=1 / 255,
        mean=tuple(mean for _, _, mean, _ in _RGB),
        std=tuple(std for *_, std in _RGB),
        gsd_m=1.0,
        chip_sizes_px=(224,),
        patch_px=16,
        loss_definition=(
            "None: whether the published model's targets were standardised per patch is not established, and a wrong "
            "guess would be another loss."
        ),
        loss_kind="unavailable",
        source=f"Zenodo record {MODELS[name].record} (Cong et al. 2022, SatMAE), trained on fMoW's RGB images.",
        not_good_for="Commercial use, which its licence forbids. Difficulty: it has no loss here. Sizes but 224 px.",
        training="Masked autoencoder on 224 px crops of fMoW's 8-bit RGB satellite images, three quarters hidden.",
        tokens_per_patch=1,
        trained_gsd_m=(),
        differs=(
            "It was trained on satellite images of many pixel sizes, which are not known, and is fed aerial ones.",
            "Missing pixels are set to the band's mean; pretraining had no rule for them.",
        ),
    )


def quantised(card: EncoderCard, batch: ChipBatch) -> NDArray[np.float32]:
    """Pixels as pretraining had them: cut off at two standard deviations, in 8 bits, then 0 to 1.

    The 8 bits are truncated and not rounded, as the cast of the training data was. A missing pixel takes the mean.

    Args:
        card: Whose scale, mean and standard deviation.
        batch: That fits it.

    Returns:
        (chip, step, band, y, x).
    """
    mean, std = np.array(card.mean)[:, None, None], np.array(card.std)[:, None, None]
    # In float64: what is truncated must not hang on the last bit.
    levels = batch.pixels * (card.scale * 255 / (4 * std))
    levels += (2 * std - mean) * 255 / (4 * std)
    np.copyto(levels, 127.5, where=~usable(batch)[:, :, None])
    np.clip(levels, 0, 255, out=levels)
    shares: NDArray[np.float32] = levels.astype(np.uint8).astype(np.float32)
    shares /= 255
    return shares


def satmae_config(name: str) -> SatMaeConfig:
    """The sizes of the model `name`."""
    from geoelle.encoders.satmae_model import SatMaeConfig

    model = MODELS[name]
    config = SatMaeConfig(model.n_features, model.depth, model.heads)
    return replace(config, groups=(), n_bands=3, image_px=224, patch_px=16) if model.rgb else config


def load_satmae(name: str, *, variant: Variant, **options: Any) -> TorchEncoder:
    """The model `name`; options as of `opening.open_encoder`.

    Raises:
        EncoderError: If there is no such variant.
        WeightsError: If the weights are missing, damaged, others than expected, or their licence is not accepted.
    """
    from geoelle.encoders.inputs import normalised
    from geoelle.encoders.opening import open_encoder
    from geoelle.encoders.satmae_model import SatMaeGroupNetwork, SatMaeRgbNetwork

    config, rgb = satmae_config(name), MODELS[name].rgb
    return open_encoder(
        satmae_card(name, variant),
        lambda _: SatMaeRgbNetwork(config) if rgb else SatMaeGroupNetwork(config),
        prepare=normalised if rgb else quantised,
        **options,
    )


load_vitb = partial(load_satmae, "satmae-vitb")
load_vitl = partial(load_satmae, "satmae-vitl")
load_rgb_vitl = partial(load_satmae, "satmae-rgb-vitl")
