"""DOFA version 1: cards, what geoelle feeds it, and how it is opened.

Pretraining saw SatlasPretrain's 8-bit images, so `prepare` makes such images of our pixels first. What SatlasPretrain's
authors say of theirs (allenai/satlas, Normalization.md): Sentinel-2 is level 1C, the true-colour image as ESA gives it
for red, green and blue, the other bands' numbers divided by 32 and cut at 255; Sentinel-1 is the 16-bit amplitude of
ground-range products cut at 255; NAIP is 8-bit as it comes. That DOFA was fed exactly these is inferred from its
statistics and code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.inputs import usable
from geoelle.encoders.registry import CardOf, Variant
from geoelle.errors import EncoderError
from geoelle.records import ChipBatch, EncoderCard

if TYPE_CHECKING:
    from torch import Tensor

    from geoelle.encoders.dofa_model import DofaConfig
    from geoelle.encoders.network import Network
    from geoelle.encoders.torch_encoder import TorchEncoder

TRUE_COLOUR_WHITE = 3558
"""Number (reflectance x 10000) from which ESA's level-1C true-colour image is white."""
STEP = 32
"""Numbers of a Sentinel-2 band per step of SatlasPretrain's 8-bit image."""
AMPLITUDE = 536.0
"""Ground-range amplitude per square root of gamma nought: 474 (beta nought of IW products) / sqrt(tan 38 degrees)."""

_OWN_LOSS = (
    "Mean over the hidden patches (75 % of all) of the mean squared error between decoded and true pixels, each "
    "patch's target standardised by its own mean and standard deviation; no unit. DOFA's pretraining added the cosine "
    "distance between its features and those of a teacher network; that term is left out."
)
_NO_LOSS = "These weights hold an encoder without its decoder, so DOFA's own loss cannot be computed."
_FROM = "Xiong et al. 2024, arXiv:2403.15356; weights CC BY 4.0,"
_TORCHGEO = f"{_FROM} torchgeo/dofa on Hugging Face, revision b8db318b64a90b9e085ec04ba8851233c5893666."
_NO_NORM = "These weights lack the final norm: tokens are given as they are before it."
_MISSING = (
    "Missing pixels are set to the mean of pretraining's 8-bit numbers, band by band; what stood for them in "
    "pretraining is not established."
)
_ALL_POOLINGS = ("upstream", "cls", "mean")


@dataclass(frozen=True, slots=True)
class _Feed:
    """How one sensor's pixels reach DOFA."""

    bands: tuple[str, ...]
    wavelength_um: tuple[float, ...]
    units: str
    scale: float
    clip: tuple[float, float] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gsd_m: float
    differs: tuple[str, ...]


_RGB_UM = (0.665, 0.56, 0.49)
FEEDS: Mapping[str, _Feed] = {
    "sentinel-2-l2a": _Feed(
        bands=("red", "green", "blue", "rededge1", "rededge2", "rededge3", "nir", "swir16", "swir22"),
        wavelength_um=(*_RGB_UM, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19),
        units="reflectance",
        scale=10000 / STEP,
        clip=(0.0, 0.816),
        mean=(114.110, 114.818, 126.640, 84.335, 97.848, 103.945, 101.436, 72.328, 56.665),
        std=(77.844, 69.968, 67.425, 64.570, 61.725, 61.342, 60.297, 47.885, 42.559),
        gsd_m=10.0,
        differs=(
            "Pretraining saw level 1C (top of the atmosphere); geoelle feeds level 2A (surface), which is darker in "
            "blue and green.",
            "Red, green and blue are not scaled as the card's scale says but as ESA's level-1C true-colour image: "
            "white from a reflectance of 0.3558 on (inferred, not stated by DOFA's authors).",
        ),
    ),
    "sentinel-1-rtc": _Feed(
        bands=("vv", "vh"),
        wavelength_um=(3.75, 3.75),
        units="linear",
        scale=1.0,
        clip=None,
        mean=(166.363, 88.455),
        std=(64.831, 43.074),
        gsd_m=10.0,
        differs=(
            "Pretraining saw uncalibrated ground-range amplitude cut at 255; geoelle makes it of terrain-corrected "
            "gamma nought as 536 x sqrt(power), for an incidence of 38 degrees (inferred; card's scale unused).",
            "Upstream's sources contradict each other on the order of VV and VH; the brighter statistics go to VV, as "
            "physics has it. Both bands have one wavelength and so the same generated weights: their order changes no "
            "embedding, the pairing with statistics would.",
            "The wavelength is the placeholder of pretraining, 3.75; upstream's examples give 5.405. Neither is the "
            "radar's 5.5 cm.",
        ),
    ),
    "naip": _Feed(
        bands=("red", "green", "blue"),
        wavelength_um=_RGB_UM,
        units="dn",
        scale=1.0,
        clip=(0.0, 255.0),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        gsd_m=1.0,
        differs=("Mean and standard deviation are ImageNet's, as in pretraining.",),
    ),
}


def dofa_base_card(variant: Variant) -> EncoderCard:
    """The card of `dofa-base`: the encoder as torchgeo holds it.

    Raises:
        EncoderError: If there is no such variant.
    """
    return replace(
        _card("dofa-base", variant),
        n_features=768,
        n_layers=12,
        n_parameters=111_310_592,
        loss_definition=f"{_NO_LOSS} dofa-base-full has one.",
        weights="dofa_base_patch16_224-a0275954.pth",
        source=_TORCHGEO,
    )


def dofa_large_card(variant: Variant) -> EncoderCard:
    """The card of `dofa-large`, of which only the encoder was published.

    Raises:
        EncoderError: If there is no such variant.
    """
    return replace(
        _card("dofa-large", variant),
        n_features=1024,
        n_layers=24,
        n_parameters=337_103_360,
        loss_definition=_NO_LOSS,
        weights="dofa_large_patch16_224-0ff904d3.pth",
        source=_TORCHGEO,
    )


def dofa_base_full_card(variant: Variant) -> EncoderCard:
    """The card of `dofa-base-full`: the one published file with a decoder, of a later epoch than `dofa-base`.

    Raises:
        EncoderError: If there is no such variant.
    """
    return replace(
        _card("dofa-base-full", variant),
        n_features=768,
        n_layers=12,
        n_parameters=155_201_792,
        loss_kind="own",
        loss_definition=_OWN_LOSS,
        poolings=_ALL_POOLINGS,
        weights="DOFA_ViT_base_e120_full_weight.pth",
        source=f"{_FROM} earthflow/DOFA on Hugging Face, revision 61ce7f11c78ff1677af3e1882fdedc02e3fbc647, which is "
        "no longer in its main branch. Embeddings are not those of dofa-base, whose weights are of an earlier epoch.",
    )


CARDS: Mapping[str, CardOf] = {
    "dofa-base": dofa_base_card,
    "dofa-base-full": dofa_base_full_card,
    "dofa-large": dofa_large_card,
}


def _card(name: str, variant: Variant) -> EncoderCard:
    sensor = variant.what or "sentinel-2-l2a"
    if sensor not in FEEDS:
        raise EncoderError(f"There is no {variant.name(name)}. {name} is fed one of {', '.join(FEEDS)}. Use one.")
    feed = FEEDS[sensor]
    gsd_m = feed.gsd_m if variant.gsd_m is None else variant.gsd_m
    if gsd_m <= 0:
        raise EncoderError(f"{variant.name(name)} has pixels of {gsd_m:g} m. Expected more than 0. Name a pixel size.")
    differs = (*feed.differs, _MISSING)
    if gsd_m != feed.gsd_m:
        differs += (
            f"Read at {gsd_m:g} m; pretraining had images of {feed.gsd_m:g} m. DOFA is not told the pixel size.",
        )
    return EncoderCard(
        name=variant.name(name),
        sensor=sensor,
        bands=feed.bands,
        wavelength_um=feed.wavelength_um,
        units=feed.units,
        scale=feed.scale,
        clip=feed.clip,
        mean=feed.mean,
        std=feed.std,
        gsd_m=gsd_m,
        chip_sizes_px=(224,),
        patch_px=16,
        n_features=0,
        pooling="upstream",
        n_steps=(1,),
        needs_time=False,
        needs_lonlat=False,
        mask_ratio=0.75,
        loss_definition="",
        loss_kind="unavailable",
        licence="code MIT, weights CC BY 4.0",
        source="",
        weights="",
        weights_sha256="",
        not_good_for="Calibrated reflectance: pretraining's images are 8-bit, and bright surfaces are cut. Weights "
        "published before August 2024 have the same names and shapes but another layout, give wrong embeddings, and "
        "cannot be told apart; use the file named here.",
        training="Masked autoencoder on SatlasPretrain (Sentinel-1, Sentinel-2, NAIP), Gaofen-2 and EnMAP; "
        "random crops of 20 to 100 % of an image's area resized to 224 px, so pixel sizes varied about twofold.",
        poolings=("upstream",),
        checkpoint=name,
        trained_gsd_m=(feed.gsd_m,),
        differs=differs,
    )


def to_8_bit(batch: ChipBatch) -> NDArray[np.float32]:
    """Pixels as SatlasPretrain's 8-bit images have them, whole numbers 0 to 255.

    Args:
        batch: Of `sentinel-2-l2a` in reflectance, `sentinel-1-rtc` in linear power, or `naip`.

    Returns:
        (chip, step, band, y, x).
    """
    # What is not usable stays as it is and is masked later.
    pixels = np.nan_to_num(batch.pixels, nan=0.0, posinf=0.0, neginf=0.0)
    if batch.sensor == "sentinel-2-l2a":
        number = np.rint(pixels * np.float32(10000))
        steps = np.floor(number / STEP)
        colour = [i for i, band in enumerate(batch.bands) if band in ("red", "green", "blue")]
        steps[:, :, colour] = np.rint(number[:, :, colour] * np.float32(255 / TRUE_COLOUR_WHITE))
    elif batch.sensor == "sentinel-1-rtc":
        steps = np.rint(np.sqrt(np.maximum(pixels, 0)) * np.float32(AMPLITUDE))
    else:
        steps = pixels
    return np.asarray(np.clip(steps, 0, 255), dtype=np.float32)


def prepare(card: EncoderCard, batch: ChipBatch) -> NDArray[np.float32]:
    """8-bit pixels standardised as in pretraining, (chip, step, band, y, x); 0 where they are not usable."""
    mean = np.array(card.mean, dtype=np.float32)[:, None, None]
    std = np.array(card.std, dtype=np.float32)[:, None, None]
    found = (to_8_bit(batch) - mean) / std
    return np.where(usable(batch)[:, :, None], found, np.float32(0)).astype(np.float32)


def load_dofa_base(variant: Variant, **options: Any) -> TorchEncoder:
    """What the registry calls."""
    from geoelle.encoders.dofa_model import BASE

    return open_dofa(dofa_base_card(variant), BASE, **options)


def load_dofa_base_full(variant: Variant, **options: Any) -> TorchEncoder:
    """What the registry calls."""
    from geoelle.encoders.dofa_model import BASE

    return open_dofa(dofa_base_full_card(variant), BASE, **options)


def load_dofa_large(variant: Variant, **options: Any) -> TorchEncoder:
    """What the registry calls."""
    from geoelle.encoders.dofa_model import LARGE

    return open_dofa(dofa_large_card(variant), LARGE, **options)


def open_dofa(card: EncoderCard, config: DofaConfig, **options: Any) -> TorchEncoder:
    """Open weights of this shape, with whatever of norm and decoder they hold; options as `open_encoder`.

    Raises:
        WeightsError: As `open_encoder`.
    """
    from geoelle.encoders.dofa_model import DofaNetwork
    from geoelle.encoders.opening import open_encoder

    def build(tensors: Mapping[str, Tensor] | None) -> Network:
        norm = "cls" in card.poolings if tensors is None else _has_norm(tensors)
        decoder = card.loss_kind == "own" if tensors is None else _has_decoder(tensors)
        return DofaNetwork(replace(config, norm=norm, decoder=decoder))

    return open_encoder(card, build, prepare=prepare, convert=_lean, adapt=adapt, **options)


def _has_norm(tensors: Mapping[str, Any]) -> bool:
    return "norm.weight" in tensors


def _has_decoder(tensors: Mapping[str, Any]) -> bool:
    return any(name.startswith("decoder_") for name in tensors)


def _lean(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what serves the decoder alone, where there is no decoder."""
    if _has_decoder(tensors):
        return tensors
    return {name: t for name, t in tensors.items() if name != "mask_token" and not name.startswith("projector.")}


def adapt(card: EncoderCard, tensors: Mapping[str, Tensor]) -> EncoderCard:
    """The card of a known checkpoint: with a decoder there is the loss, with a final norm the other poolings."""
    decoder, norm = _has_decoder(tensors), _has_norm(tensors)
    if decoder != (card.loss_kind == "own"):
        card = replace(
            card,
            loss_kind="own" if decoder else "unavailable",
            loss_definition=_OWN_LOSS if decoder else _NO_LOSS,
        )
    return replace(
        card,
        poolings=_ALL_POOLINGS if norm else ("upstream",),
        differs=card.differs if norm else (*card.differs, _NO_NORM),
        n_parameters=sum(tensor.numel() for tensor in tensors.values()),
    )
