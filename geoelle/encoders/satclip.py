"""SatCLIP: cards, what geoelle feeds it, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.inputs import normalised
from geoelle.encoders.registry import Variant
from geoelle.encoders.satclip_places import N_PLACES, NEARER_KM, PLACES_SHA256, PLACES_VERSION
from geoelle.errors import EncoderError, WeightsError
from geoelle.records import ChipBatch, EncoderCard, LossKind

if TYPE_CHECKING:
    from torch import Tensor

    from geoelle.encoders.network import Network
    from geoelle.encoders.satclip_model import Tower
    from geoelle.encoders.torch_encoder import TorchEncoder

SENSOR = "sentinel-2-l2a"
COSINE = "cosine"
CIRRUS = 10
"""Index at which the band that level 2A lacks, B10, stands among the network's 13: geoelle puts zeros there."""
BANDS = (
    ("coastal", 0.443),
    ("blue", 0.493),
    ("green", 0.560),
    ("red", 0.665),
    ("rededge1", 0.704),
    ("rededge2", 0.740),
    ("rededge3", 0.783),
    ("nir", 0.833),
    ("nir08", 0.865),
    ("nir09", 0.945),
    ("swir16", 1.614),
    ("swir22", 2.202),
)

_TOWERS: Mapping[str, tuple[str, Tower, int, int, int]] = {
    "vit16": ("ViT16", "vit", 224, 16, 12),
    "resnet18": ("ResNet18", "resnet18", 256, 32, 0),
    "resnet50": ("ResNet50", "resnet50", 256, 32, 0),
}
"""Published name, tower, chip size, pixels per token, blocks."""
_PARAMETERS = {
    "satclip-vit16-l10": 23_192_961,
    "satclip-vit16-l40": 23_960_961,
    "satclip-resnet18-l10": 11_784_897,
    "satclip-resnet18-l40": 12_552_897,
    "satclip-resnet50-l10": 24_509_633,
    "satclip-resnet50-l40": 25_277_633,
}
NAMES = tuple(_PARAMETERS)

_INFONCE = (
    f"InfoNCE from image to place, in nats: minus the log of the probability of the chip's own place among it and "
    f"geoelle's places version {PLACES_VERSION} ({N_PLACES} on land, sha256 {PLACES_SHA256[:12]}; those nearer than "
    f"{NEARER_KM:g} km left out), by exp(logit_scale) x cosine. Pretraining's loss had the direction from place to "
    "image as well, and told apart the 512 pairs of a random batch."
)
_ONE_MINUS_COSINE = (
    "1 - cosine of image and own place; no unit. Not SatCLIP's loss, which compares with other places: a proxy. "
    "Inside a small area it is nearly a linear function of the embedding, whatever the weights: a high r says little."
)
_UNSTABLE = (
    "Its location tower was trained on harmonics whose published code is numerically wrong at 40 degrees (by up to "
    "0.6), which geoelle does not reproduce; the image tower is exact. Take an L10 model for a loss."
)


def satclip_card(name: str, variant: Variant) -> EncoderCard:
    """The card of one of `NAMES`, by default with the loss against fixed places, `:cosine` with the proxy.

    Raises:
        EncoderError: If there is no such variant.
    """
    _, tower, degrees = name.split("-")
    published, _, chip_size_px, patch_px, n_layers = _TOWERS[tower]
    known = degrees == "l10"
    if variant.what not in ("", SENSOR, *((COSINE,) if known else ())):
        also = f" or {name}:{COSINE}" if known else ""
        raise EncoderError(f"There is no {variant.name(name)}. Expected {name}{also}, fed {SENSOR}. Use one.")
    gsd_m = 10.0 if variant.gsd_m is None else variant.gsd_m
    if gsd_m <= 0:
        raise EncoderError(f"{variant.name(name)} has pixels of {gsd_m:g} m. Expected more than 0. Name a pixel size.")
    loss_kind, definition = _loss(known=known, cosine=variant.what == COSINE)
    return EncoderCard(
        name=variant.name(name),
        sensor=SENSOR,
        bands=tuple(band for band, _ in BANDS),
        wavelength_um=tuple(um for _, um in BANDS),
        units="reflectance",
        scale=1.0,
        clip=None,
        mean=(0.0,) * len(BANDS),
        std=(1.0,) * len(BANDS),
        gsd_m=gsd_m,
        chip_sizes_px=(chip_size_px,),
        patch_px=patch_px,
        n_features=256,
        pooling="projected",
        n_steps=(1,),
        needs_time=False,
        needs_lonlat=known,
        mask_ratio=0.0,
        loss_definition=definition,
        loss_kind=loss_kind,
        licence="MIT",
        source=f"Weights: microsoft/SatCLIP-{published}-{degrees.upper()} on Hugging Face, MIT "
        "(Klemmer et al. 2025, doi:10.1609/aaai.v39i4.32457).",
        weights=f"{name}.ckpt",
        weights_sha256="",
        not_good_for="Small differences inside a scene: the image tower was trained for other ends and frozen, and "
        "only its last linear layer learnt, namely to say where on Earth an image was taken.",
        training="S2-100K: 100,000 Sentinel-2 chips over land, 2021-2023, with their places. Image tower: "
        "MoCo on SSL4EO-S12, frozen but for its last layer; location tower: spherical harmonics of "
        f"{degrees[1:]} degrees and a SIREN of two layers.",
        n_parameters=_PARAMETERS[name],
        n_layers=n_layers,
        poolings=("projected", "backbone", "mean"),
        checkpoint=name,
        trained_gsd_m=(10.0,),
        differs=_differs(gsd_m),
    )


def _loss(*, known: bool, cosine: bool) -> tuple[LossKind, str]:
    if not known:
        return "unavailable", _UNSTABLE
    return ("proxy", _ONE_MINUS_COSINE) if cosine else ("own-partial", _INFONCE)


def _differs(gsd_m: float) -> tuple[str, ...]:
    differs: tuple[str, ...] = (
        "The frozen image tower was pretrained on level 1C, SatCLIP itself on level 2A, where B10 is missing and is "
        "all zeros; geoelle feeds level 2A with those zeros.",
        "Three of 15 example chips of upstream's repository look as if they still carried the +1000 of baseline "
        "04.00, so pretraining probably saw both; geoelle takes it out.",
        "Missing pixels are set to a reflectance of 0, as there is no mean to take; what stood for them in pretraining "
        "is not established.",
    )
    if gsd_m != 10.0:
        differs += (f"Read at {gsd_m:g} m; pretraining had 10 m, and the network is not told the pixel size.",)
    return differs


def prepare(card: EncoderCard, batch: ChipBatch) -> NDArray[np.float32]:
    """Reflectance with the zero band that stands for B10, (chip, step, 13, y, x); 0 where it is not usable."""
    return np.insert(normalised(card, batch), CIRRUS, np.float32(0), axis=2)


def load_satclip(name: str, variant: Variant, **options: Any) -> TorchEncoder:
    """Open one of `NAMES`."""
    from geoelle.encoders.opening import open_encoder
    from geoelle.encoders.satclip_adapter_model import SatclipEncoder
    from geoelle.encoders.satclip_model import SatclipConfig, SatclipNetwork

    card = satclip_card(name, variant)
    _, tower, degrees = name.split("-")
    _, kind, chip_size_px, patch_px, _ = _TOWERS[tower]
    config = SatclipConfig(kind, chip_size_px, patch_px, degrees=int(degrees[1:]))

    def build(tensors: Mapping[str, Tensor] | None) -> Network:
        return SatclipNetwork(config)

    return open_encoder(card, build, prepare=prepare, kind=SatclipEncoder, convert=same_twice, **options)


def same_twice(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are, once it is known that the location tower's two copies agree.

    Raises:
        WeightsError: If they do not: then one of them was never trained.
    """
    import torch

    for name, tensor in tensors.items():
        copy = tensors.get(f"location.{name}")
        if name.startswith("nnet.") and copy is not None and not torch.equal(tensor, copy):
            raise WeightsError(
                f"SatCLIP's weights hold {name} and location.{name}, and they differ. Expected one tensor twice. "
                "Use the published file."
            )
    return tensors


load_vit16_l10 = partial(load_satclip, "satclip-vit16-l10")
load_vit16_l40 = partial(load_satclip, "satclip-vit16-l40")
load_resnet18_l10 = partial(load_satclip, "satclip-resnet18-l10")
load_resnet18_l40 = partial(load_satclip, "satclip-resnet18-l40")
load_resnet50_l10 = partial(load_satclip, "satclip-resnet50-l10")
load_resnet50_l40 = partial(load_satclip, "satclip-resnet50-l40")
