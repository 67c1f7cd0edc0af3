"""Encoders: frozen networks behind one protocol, and the registry that lists them.

Importing this package imports neither torch nor onnxruntime.
"""

from functools import partial

from geoelle.encoders.clay import NAME as CLAY
from geoelle.encoders.clay import SENSORS as CLAY_SENSORS
from geoelle.encoders.clay import clay_card
from geoelle.encoders.compact_cards import register_compact
from geoelle.encoders.dofa import CARDS as DOFA_CARDS
from geoelle.encoders.dofa import FEEDS as DOFA_FEEDS
from geoelle.encoders.inputs import check_batch
from geoelle.encoders.masks import fixed_masks
from geoelle.encoders.presto import presto_card
from geoelle.encoders.prithvi import SENSORS as PRITHVI_SENSORS
from geoelle.encoders.prithvi import prithvi_card
from geoelle.encoders.protocol import Encoder
from geoelle.encoders.registry import (
    Variant,
    get_card,
    list_encoders,
    load_encoder,
    register,
    split_name,
    unregister,
    variants_of,
)
from geoelle.encoders.resampling import Resampling, resample_batch
from geoelle.encoders.satclip import NAMES as SATCLIP_NAMES
from geoelle.encoders.satclip import satclip_card
from geoelle.encoders.satmae import satmae_card

__all__ = [
    "Encoder",
    "Resampling",
    "Variant",
    "check_batch",
    "fixed_masks",
    "get_card",
    "list_encoders",
    "load_encoder",
    "register",
    "resample_batch",
    "split_name",
    "unregister",
    "variants_of",
]

register_compact()
register(CLAY, card=clay_card, factory="geoelle.encoders.clay:load_clay", variants=CLAY_SENSORS[1:])
for _name, _card in DOFA_CARDS.items():
    register(
        _name,
        card=_card,
        factory=f"geoelle.encoders.dofa:load_{_name.replace('-', '_')}",
        variants=tuple(DOFA_FEEDS)[1:],
    )
for _name in SATCLIP_NAMES:
    register(
        _name,
        card=partial(satclip_card, _name),
        factory=f"geoelle.encoders.satclip:load_{_name.removeprefix('satclip-').replace('-', '_')}",
        variants=("cosine",) if _name.endswith("-l10") else (),
    )

for _name, _loader in (
    ("prithvi-eo-1.0-100m", "load_1_0_100m"),
    ("prithvi-eo-2.0-300m", "load_2_0_300m"),
    ("prithvi-eo-2.0-300m-tl", "load_2_0_300m_tl"),
    ("prithvi-eo-2.0-tiny-tl", "load_2_0_tiny_tl"),
):
    _factory = f"geoelle.encoders.prithvi:{_loader}"
    register(_name, card=partial(prithvi_card, _name), factory=_factory, variants=PRITHVI_SENSORS[1:])

for _name, _loader in (
    ("satmae-vitb", "load_vitb"),
    ("satmae-vitl", "load_vitl"),
    ("satmae-rgb-vitl", "load_rgb_vitl"),
):
    register(_name, card=partial(satmae_card, _name), factory=f"geoelle.encoders.satmae:{_loader}")
register("presto", card=presto_card, factory="geoelle.encoders.presto:load_presto", variants=("dynamic-world",))
