"""Encoders: frozen networks behind one protocol, and the registry that lists them.

Importing this package imports neither torch nor onnxruntime.
"""

from functools import partial

from geoelle.encoders.clay import NAME as CLAY
from geoelle.encoders.clay import SENSORS as CLAY_SENSORS
from geoelle.encoders.clay import clay_card
from geoelle.encoders.compact import compact_rgb_card
from geoelle.encoders.inputs import check_batch
from geoelle.encoders.masks import fixed_masks
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
from geoelle.encoders.satmae import satmae_card

__all__ = [
    "Encoder",
    "Variant",
    "check_batch",
    "fixed_masks",
    "get_card",
    "list_encoders",
    "load_encoder",
    "register",
    "split_name",
    "unregister",
    "variants_of",
]

register("compact-rgb", card=compact_rgb_card, factory="geoelle.encoders.compact:load_compact_rgb")
register(CLAY, card=clay_card, factory="geoelle.encoders.clay:load_clay", variants=CLAY_SENSORS[1:])

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
